//! The pod's own namespaces, which are the shim's, so that its children are born into them.

use super::container::report_failure;
use crate::api::{NamespaceMode, SandboxConfig, UserRange};
use crate::oci::namespaces::map_ids;
use crate::wire::{Failure, SandboxFile, at};
use keles_linux::mount::{self, Attributes, FsOption};
use keles_linux::netlink::Socket;
use keles_linux::{fdpass, process, rtnl, signal};
use keles_oci::runtime::IdMapping;
use std::io::Write;
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
    /// The shared pid namespace, which the shim's children are born into.
    shared_pids: Option<OwnedFd>,
    /// The pod's user namespace. The shim stays in the host's, whose rights the next container's set-up needs.
    users: Option<OwnedFd>,
}

impl Pod {
    pub fn set_up(file: &SandboxFile) -> Result<Pod, Failure> {
        let config = &file.config;
        let own_pid_namespace = std::fs::File::open("/proc/self/ns/pid").map_err(at("open pid namespace"))?.into();
        let shares_pids = config.pid == NamespaceMode::Pod;
        let (mut pause, mut users) = (None, None);
        if let Some(range) = &config.users {
            let (fd, first) = user_namespace(config, range)?;
            (users, pause) = (Some(fd), first);
        } else {
            process::unshare(namespaces(config)).map_err(at("new namespaces"))?;
            if shares_pids {
                pause = Some(start_pause(process::CLONE_NEWPID, None)?);
            }
        }
        let shared_pids = pause.map(join_shared_pids).transpose()?;
        if let Some(pin) = &file.netns {
            mount::pin_namespace(Path::new("/proc/self/ns/net"), pin).map_err(at("pin network namespace"))?;
            bring_up_loopback().map_err(at("bring up lo"))?;
        }
        if config.network != NamespaceMode::Node && !config.hostname.is_empty() {
            rustix::system::sethostname(config.hostname.as_bytes()).map_err(at("set hostname"))?;
        }
        set_sysctls(config, users.as_ref())?;
        let shm = if config.ipc == NamespaceMode::Node { None } else { Some(shared_memory(config)?) };
        Ok(Pod { shm, pause, own_pid_namespace, shared_pids, users })
    }

    pub fn shm(&self) -> Option<BorrowedFd<'_>> {
        self.shm.as_ref().map(AsFd::as_fd)
    }
    pub fn own_pid_namespace(&self) -> BorrowedFd<'_> {
        self.own_pid_namespace.as_fd()
    }
    pub fn shared_pids(&self) -> Option<BorrowedFd<'_>> {
        self.shared_pids.as_ref().map(AsFd::as_fd)
    }
    pub fn users(&self) -> Option<BorrowedFd<'_>> {
        self.users.as_ref().map(AsFd::as_fd)
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if let Some(pid) = self.pause {
            // Nothing of the pod is left once the shim's socket closes.
            end(pid);
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

/// What a network of its own begins with, as under containerd and Docker: any user may listen on any port and send pings. The range of groups
/// needs ids that the pod has.
fn network_defaults(config: &SandboxConfig) -> Vec<(&str, &str)> {
    let mut defaults = Vec::new();
    if config.network != NamespaceMode::Node {
        defaults.push(("net.ipv4.ip_unprivileged_port_start", "0"));
        if config.users.is_none() {
            defaults.push(("net.ipv4.ping_group_range", "0 2147483647"));
        }
    }
    defaults.retain(|(name, _)| !config.sysctls.contains_key(*name));
    defaults
}

/// In a user namespace its own root sets them, whom those of the IPC namespace belong to.
fn set_sysctls(config: &SandboxConfig, users: Option<&OwnedFd>) -> Result<(), Failure> {
    let asked = config.sysctls.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let all: Vec<(&str, &str)> = network_defaults(config).into_iter().chain(asked).collect();
    let set_all = || all.iter().try_for_each(|(name, value)| set_sysctl(name, value));
    let Some(users) = users.filter(|_| !all.is_empty()) else { return set_all() };
    let (report, theirs) = fdpass::pair().map_err(at("make report socket"))?;
    let child = move || {
        let entered = process::join_namespace(users.as_fd(), process::CLONE_NEWUSER).and_then(|()| process::become_user(0, 0, &[]));
        match entered.map_err(at("enter user namespace")).and_then(|()| set_all()) {
            Ok(()) => 0,
            Err(failure) => report_failure(&theirs, &failure),
        }
    };
    let pid = process::clone_child(0, None, child).map_err(at("make process"))?;
    let told = fdpass::receive_whole(&report).map_err(at("set sysctls"));
    let _ = rustix::process::waitpid(rustix::process::Pid::from_raw(pid), rustix::process::WaitOptions::empty());
    match told?.0.split_first() {
        None => Ok(()),
        Some((_, text)) => Err(serde_json::from_slice(text).unwrap_or_else(|e| Failure::new("set sysctls", e))),
    }
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

fn shared_memory(config: &SandboxConfig) -> Result<OwnedFd, Failure> {
    let quiet = Attributes::MOUNT_ATTR_NOSUID | Attributes::MOUNT_ATTR_NODEV | Attributes::MOUNT_ATTR_NOEXEC;
    let root = config.users.map_or(0, |users| users.first).to_string();
    let options = [("source", "shm"), ("mode", "1777"), ("size", SHM_BYTES), ("uid", &root), ("gid", &root)].map(|(key, value)| FsOption::Text(key, value));
    mount::filesystem("tmpfs", &options, quiet).map_err(at("make shared memory"))
}

/// The pod's user namespace and the other namespaces that belong to it, which the shim enters: with the host's rights it may. A shared pid
/// namespace stays alive with its first process.
fn user_namespace(config: &SandboxConfig, range: &UserRange) -> Result<(OwnedFd, Option<i32>), Failure> {
    let shares_pids = config.pid == NamespaceMode::Pod;
    let others = namespaces(config);
    let kinds = process::CLONE_NEWUSER | others | if shares_pids { process::CLONE_NEWPID } else { 0 };
    let (mapped, mut ids_are_mapped) = std::io::pipe().map_err(at("make pipe"))?;
    let holder = start_pause(kinds, Some(mapped.into()))?;
    let mapping = [IdMapping { container_id: 0, host_id: range.first, size: range.length }];
    let opened = map_ids(holder, &mapping, &mapping).and_then(|()| {
        ids_are_mapped.write_all(b"1").map_err(at("tell the first process"))?;
        enter_all(holder, others)?;
        namespace_of(holder, "user")
    });
    match opened {
        Ok(users) if shares_pids => Ok((users, Some(holder))),
        opened => {
            end(holder);
            opened.map(|users| (users, None))
        }
    }
}

fn namespace_of(pid: i32, kind: &str) -> Result<OwnedFd, Failure> {
    std::fs::File::open(format!("/proc/{pid}/ns/{kind}")).map(OwnedFd::from).map_err(at("open namespace"))
}

fn enter_all(pid: i32, kinds: i32) -> Result<(), Failure> {
    for (kind, flag) in [("net", process::CLONE_NEWNET), ("uts", process::CLONE_NEWUTS), ("ipc", process::CLONE_NEWIPC)] {
        if kinds & flag != 0 {
            process::join_namespace(namespace_of(pid, kind)?.as_fd(), flag).map_err(at("enter namespace"))?;
        }
    }
    Ok(())
}

fn join_shared_pids(pause: i32) -> Result<OwnedFd, Failure> {
    let namespace = namespace_of(pause, "pid")?;
    process::join_namespace(namespace.as_fd(), process::CLONE_NEWPID).map_err(at("join shared pid namespace"))?;
    Ok(namespace)
}

/// Waited for, so that nothing of it is left.
fn end(pid: i32) {
    let _ = signal::kill(pid, signal::SIGKILL);
    let _ = rustix::process::waitpid(rustix::process::Pid::from_raw(pid), rustix::process::WaitOptions::empty());
}

/// The first process of new namespaces `kinds`: the init of a shared pid namespace. It ignores SIGCHLD, so the kernel reaps the orphans it
/// inherits. In a user namespace it becomes root once `mapped` says so.
fn start_pause(kinds: i32, mapped: Option<OwnedFd>) -> Result<i32, Failure> {
    process::clone_child(kinds, None, || {
        signal::reset_for_exec();
        let _ = process::die_with_parent();
        let _ = rustix::thread::set_name(c"pause");
        if let Some(mapped) = mapped {
            let _ = rustix::io::read(&mapped, &mut [0; 1]);
            let _ = process::become_user(0, 0, &[]);
            // The change of identity has taken it back.
            let _ = process::die_with_parent();
        }
        let _ = process::hide_from_tracers();
        signal::reap_children_automatically();
        let _ = process::close_from(0);
        loop {
            signal::pause();
        }
    })
    .map_err(at("start pause process"))
}
