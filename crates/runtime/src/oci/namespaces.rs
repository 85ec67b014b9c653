//! Which namespaces a container gets: new ones, or those of others by path; ids of a user namespace; offsets of a time namespace.

use crate::wire::{Failure, at};
use keles_linux::{process, signal};
use keles_oci::runtime::{IdMapping, Spec};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

/// Name in `config.json`, name in /proc/PID/ns, flag.
const KINDS: &[(&str, &str, i32)] = &[
    ("user", "user", process::CLONE_NEWUSER),
    ("pid", "pid", process::CLONE_NEWPID),
    ("network", "net", process::CLONE_NEWNET),
    ("mount", "mnt", process::CLONE_NEWNS),
    ("ipc", "ipc", process::CLONE_NEWIPC),
    ("uts", "uts", process::CLONE_NEWUTS),
    ("cgroup", "cgroup", process::CLONE_NEWCGROUP),
    ("time", "time", process::CLONE_NEWTIME),
];

pub fn flag(kind: &str) -> Option<i32> {
    KINDS.iter().find(|(k, ..)| *k == kind).map(|(.., flag)| *flag)
}

/// Names of all kinds, for `features`.
pub fn names() -> Vec<&'static str> {
    KINDS.iter().map(|(k, ..)| *k).collect()
}

/// What the container's first process is born into, enters and makes.
#[derive(Default)]
pub struct Namespaces {
    /// Flags of new ones it is born with; not cgroup, which it makes once inside its groups, nor time.
    pub born: i32,
    pub new_cgroup: bool,
    pub new_time: bool,
    /// Entered by the process itself.
    pub entered: Vec<(OwnedFd, i32)>,
    pub user: Option<OwnedFd>,
    /// Concern children, so their parent enters them.
    pub pid: Option<OwnedFd>,
    pub time: Option<OwnedFd>,
    /// A mount namespace that is not the caller's.
    pub mounts: bool,
    pub new_user: bool,
}

pub fn plan(spec: &Spec) -> Result<Namespaces, Failure> {
    let mut n = Namespaces::default();
    for namespace in &spec.linux.namespaces {
        let kind = flag(&namespace.kind).expect("checked with the bundle");
        n.mounts |= kind == process::CLONE_NEWNS;
        let Some(path) = namespace.path.as_ref().filter(|p| !p.as_os_str().is_empty()) else {
            match kind {
                process::CLONE_NEWCGROUP => n.new_cgroup = true,
                process::CLONE_NEWTIME => n.new_time = true,
                flag => n.born |= flag,
            }
            continue;
        };
        let fd: OwnedFd = File::open(path).map_err(|e| Failure::new("open namespace", format!("{} {}: {e}", namespace.kind, path.display())))?.into();
        match kind {
            process::CLONE_NEWUSER => n.user = Some(fd),
            process::CLONE_NEWPID => n.pid = Some(fd),
            process::CLONE_NEWTIME => n.time = Some(fd),
            flag => n.entered.push((fd, flag)),
        }
    }
    n.new_user = n.born & process::CLONE_NEWUSER != 0;
    Ok(n)
}

impl Namespaces {
    /// Whether a process in between must enter namespaces first: new ones are to belong to a user namespace that exists, or those to be
    /// entered belong to the host's while a new user namespace has no rights over them.
    pub fn needs_stage(&self) -> bool {
        self.user.is_some() || (self.new_user && !self.entered.is_empty())
    }

    /// Enters what is given by path. Those that belong to the host are entered before the user namespace, the others after it.
    pub fn enter(&self) -> Result<(), Failure> {
        let mut later = Vec::new();
        for (fd, kind) in &self.entered {
            if process::join_namespace(fd.as_fd(), *kind).is_err() {
                later.push((fd, *kind));
            }
        }
        if let Some(user) = &self.user {
            process::join_namespace(user.as_fd(), process::CLONE_NEWUSER).map_err(at("enter user namespace"))?;
        }
        for (fd, kind) in later {
            let name = KINDS.iter().find(|(.., k)| *k == kind).map_or("", |(n, ..)| n);
            process::join_namespace(fd.as_fd(), kind).map_err(|e| Failure::new("enter namespace", format!("{name}: {e}")))?;
        }
        Ok(())
    }

    /// Makes `child` in the namespaces that concern children, then leaves them again.
    pub fn clone_into<T>(&self, spec: &Spec, clone: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        let own = |kind: &str| File::open(format!("/proc/self/ns/{kind}")).map(OwnedFd::from).map_err(at("open own namespace"));
        let own_pid = self.pid.as_ref().map(|_| own("pid")).transpose()?;
        let own_time = (self.new_time || self.time.is_some()).then(|| own("time")).transpose()?;
        if let Some(fd) = &self.pid {
            process::join_namespace(fd.as_fd(), process::CLONE_NEWPID).map_err(at("enter pid namespace"))?;
        }
        if self.new_time {
            process::unshare(process::CLONE_NEWTIME).map_err(at("new time namespace"))?;
            let lines: String = spec.linux.time_offsets.iter().map(|(clock, o)| format!("{clock} {} {}\n", o.secs, o.nanosecs)).collect();
            if !lines.is_empty() {
                std::fs::write("/proc/self/timens_offsets", lines).map_err(at("set time offsets"))?;
            }
        } else if let Some(fd) = &self.time {
            process::join_namespace(fd.as_fd(), process::CLONE_NEWTIME).map_err(at("enter time namespace"))?;
        }
        let made = clone();
        if let Some(fd) = own_pid {
            process::join_namespace(fd.as_fd(), process::CLONE_NEWPID).map_err(at("leave pid namespace"))?;
        }
        if let Some(fd) = own_time {
            process::join_namespace(fd.as_fd(), process::CLONE_NEWTIME).map_err(at("leave time namespace"))?;
        }
        made
    }
}

/// Writes the ids of a new user namespace whose first process is `pid`.
pub fn map_ids(pid: i32, uids: &[IdMapping], gids: &[IdMapping]) -> Result<(), Failure> {
    for (file, mappings) in [("uid_map", uids), ("gid_map", gids)] {
        let lines: String = mappings.iter().map(|m| format!("{} {} {}\n", m.container_id, m.host_id, m.size)).collect();
        std::fs::write(format!("/proc/{pid}/{file}"), &lines).map_err(|e| Failure::new("map ids", format!("{file} {:?}: {e}", lines.trim())))?;
    }
    Ok(())
}

/// A user namespace that only maps ids, for a mount. Nothing runs in it.
pub fn id_mapping(uids: &[IdMapping], gids: &[IdMapping]) -> Result<OwnedFd, Failure> {
    let pid = process::clone_child(process::CLONE_NEWUSER, None, || {
        let _ = process::die_with_parent();
        loop {
            signal::pause();
        }
    })
    .map_err(at("new user namespace of a mount"))?;
    let opened = map_ids(pid, uids, gids).and_then(|()| File::open(format!("/proc/{pid}/ns/user")).map(OwnedFd::from).map_err(at("open user namespace of a mount")));
    let _ = signal::kill(pid, signal::SIGKILL);
    let _ = rustix::process::waitpid(rustix::process::Pid::from_raw(pid), rustix::process::WaitOptions::empty());
    opened
}

/// Flags of the namespaces in which `pid` is not with us; without pid, which concerns children.
pub fn differing(pid: i32) -> Result<i32, Failure> {
    let mut flags = 0;
    for (_, file, flag) in KINDS.iter().filter(|(.., f)| *f != process::CLONE_NEWPID) {
        let theirs = std::fs::read_link(format!("/proc/{pid}/ns/{file}")).map_err(at("read namespace"))?;
        if std::fs::read_link(format!("/proc/self/ns/{file}")).map_err(at("read namespace"))? != theirs {
            flags |= flag;
        }
    }
    Ok(flags)
}
