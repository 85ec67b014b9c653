//! The pod's own namespaces, which are the shim's, so that its children are born into them.

use crate::api::{NamespaceMode, SandboxConfig};
use crate::wire::{Failure, SandboxFile, at};
use keles_linux::mount::{self, Attributes, FsOption};
use keles_linux::netlink::Socket;
use keles_linux::{process, rtnl, signal};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

const SHM_BYTES: &str = "67108864";
/// The index of `lo` in every network namespace.
const LOOPBACK_INDEX: u32 = 1;

pub struct Pod {
    /// Shared memory of the pod; absent with the host's IPC namespace.
    shm: Option<OwnedFd>,
    /// The first process of a shared pid namespace; it ends with the shim.
    pause: Option<i32>,
    /// The shim's own pid namespace, to return to after making a child in a container's.
    own_pid_namespace: OwnedFd,
}

impl Pod {
    pub fn set_up(file: &SandboxFile) -> Result<Pod, Failure> {
        let config = &file.config;
        let own_pid_namespace = std::fs::File::open("/proc/self/ns/pid").map_err(at("open pid namespace"))?.into();
        process::unshare(namespaces(config)).map_err(at("new namespaces"))?;
        if let Some(pin) = &file.netns {
            mount::pin_namespace(Path::new("/proc/self/ns/net"), pin).map_err(at("pin network namespace"))?;
            bring_up_loopback().map_err(at("bring up lo"))?;
        }
        if config.network != NamespaceMode::Node && !config.hostname.is_empty() {
            rustix::system::sethostname(config.hostname.as_bytes()).map_err(at("set hostname"))?;
        }
        for (name, value) in &config.sysctls {
            set_sysctl(name, value)?;
        }
        let shm = if config.ipc == NamespaceMode::Node { None } else { Some(shared_memory()?) };
        let pause = if config.pid == NamespaceMode::Pod { Some(start_pause()?) } else { None };
        Ok(Pod { shm, pause, own_pid_namespace })
    }

    pub fn shm(&self) -> Option<BorrowedFd<'_>> {
        self.shm.as_ref().map(AsFd::as_fd)
    }
    pub fn own_pid_namespace(&self) -> BorrowedFd<'_> {
        self.own_pid_namespace.as_fd()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if let Some(pid) = self.pause {
            // Waited for, so that nothing of the pod is left once the shim's socket closes.
            let _ = signal::kill(pid, signal::SIGKILL);
            let _ = rustix::process::waitpid(rustix::process::Pid::from_raw(pid), rustix::process::WaitOptions::empty());
        }
    }
}

fn namespaces(config: &SandboxConfig) -> i32 {
    let mut kinds = 0;
    if config.network != NamespaceMode::Node {
        kinds |= process::CLONE_NEWNET | process::CLONE_NEWUTS;
    }
    if config.ipc != NamespaceMode::Node {
        kinds |= process::CLONE_NEWIPC;
    }
    kinds
}

fn bring_up_loopback() -> Result<(), keles_linux::netlink::NetlinkError> {
    Socket::route()?.transact(vec![rtnl::set_up(LOOPBACK_INDEX)])
}

/// Names with dots or slashes; network and IPC settings concern the namespaces just made.
pub fn set_sysctl(name: &str, value: &str) -> Result<(), Failure> {
    let path = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    if path.split('/').any(|p| p.is_empty() || p == "." || p == "..") {
        return Err(Failure::new("set sysctl", format!("{name}: not a sysctl's name")));
    }
    let file = Path::new("/proc/sys").join(path);
    std::fs::write(&file, value).map_err(|e| Failure::new("set sysctl", format!("{name}={value}: {e}")))
}

fn shared_memory() -> Result<OwnedFd, Failure> {
    let quiet = Attributes::MOUNT_ATTR_NOSUID | Attributes::MOUNT_ATTR_NODEV | Attributes::MOUNT_ATTR_NOEXEC;
    mount::filesystem("tmpfs", &[FsOption::Text("source", "shm"), FsOption::Text("mode", "1777"), FsOption::Text("size", SHM_BYTES)], quiet).map_err(at("make shared memory"))
}

/// The init of a shared pid namespace. It ignores SIGCHLD, so the kernel reaps the orphans it inherits.
fn start_pause() -> Result<i32, Failure> {
    let pid = process::clone_child(process::CLONE_NEWPID, None, || {
        signal::reset_for_exec();
        let _ = process::die_with_parent();
        let _ = process::hide_from_tracers();
        let _ = rustix::thread::set_name(c"pause");
        signal::reap_children_automatically();
        let _ = process::close_from(0);
        loop {
            signal::pause();
        }
    })
    .map_err(at("start pause process"))?;
    let namespace = std::fs::File::open(format!("/proc/{pid}/ns/pid")).map_err(at("open shared pid namespace"))?;
    process::join_namespace(namespace.as_fd(), process::CLONE_NEWPID).map_err(at("join shared pid namespace"))?;
    Ok(pid)
}
