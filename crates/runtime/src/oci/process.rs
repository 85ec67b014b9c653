//! What a bundle says of a process: identity, limits, scheduling, capabilities; the same for a container's first process and for `exec`.

use super::bundle;
use crate::apparmor::Label;
use crate::steps::privileges::{Filter, Privileges};
use crate::steps::{UMASK, user};
use crate::wire::{Failure, at};
use keles_linux::capabilities::{Set, Sets};
use keles_linux::process::{self, SchedulerAttributes};
use keles_oci::runtime::Process;
use std::fs::File;
use std::io::Write;

/// Prepared while the host's /proc can be seen, taken at the end.
pub struct Identity {
    privileges: Privileges,
    env: Vec<(String, String)>,
    umask: u32,
    /// Label files of the host's /proc, opened before anything could be put over them, and what to write.
    profile: Option<Label>,
    labels: Vec<(File, String)>,
}

impl Identity {
    pub fn prepare(p: &Process, filter: Option<Filter>) -> Result<Self, Failure> {
        set_limits(p)?;
        set_scheduling(p)?;
        let capabilities = capabilities(p)?;
        let user = (p.user.uid, p.user.gid, p.user.additional_gids.clone());
        Ok(Identity {
            privileges: Privileges { capabilities, no_new_privileges: p.no_new_privileges, filter, user },
            env: bundle::environment(p)?,
            umask: p.user.umask.unwrap_or(UMASK),
            profile: profile(p)?,
            labels: labels(p)?,
        })
    }

    /// Becomes it. `last` gets the environment and runs as the new identity, before the seccomp filter.
    pub fn take(&self, last: impl FnOnce(&[(String, String)]) -> Result<(), Failure>) -> Result<(), Failure> {
        let mut env = self.env.clone();
        if !env.iter().any(|(n, v)| n == "HOME" && !v.is_empty()) {
            env.retain(|(n, _)| n != "HOME");
            env.push(("HOME".into(), user::home_of(self.privileges.user.0)));
        }
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(self.umask));
        self.profile.as_ref().map_or(Ok(()), Label::take)?;
        for (file, label) in &self.labels {
            (&*file).write_all(label.as_bytes()).map_err(|e| Failure::new("set security label", format!("{label}: {e}")))?;
        }
        self.privileges.take(|| last(&env))
    }
}

fn profile(p: &Process) -> Result<Option<Label>, Failure> {
    (!p.apparmor_profile.is_empty() && bundle::is_apparmor_on()).then(|| Label::open(&p.apparmor_profile)).transpose()
}

fn labels(p: &Process) -> Result<Vec<(File, String)>, Failure> {
    let open = |path: &str| File::options().write(true).open(path).map_err(at("open label file"));
    let mut all = Vec::new();
    if !p.selinux_label.is_empty() && bundle::is_selinux_on() {
        all.push((open("/proc/thread-self/attr/exec")?, p.selinux_label.clone()));
    }
    Ok(all)
}

/// What this process itself lacks cannot be given, and is told.
fn capabilities(p: &Process) -> Result<Sets, Failure> {
    let available = Set::available().map_err(at("read capabilities"))?;
    let none = Default::default();
    let c = p.capabilities.as_ref().unwrap_or(&none);
    let mut missing = std::collections::BTreeSet::new();
    let mut set = |names: &[String]| {
        let (set, unknown) = Set::of_names(names);
        missing.extend(unknown);
        missing.extend(names.iter().filter(|n| Set::of_names(std::slice::from_ref(*n)).0.0 & !available.0 != 0).cloned());
        Set(set.0 & available.0)
    };
    let sets = Sets { bounding: set(&c.bounding), effective: set(&c.effective), permitted: set(&c.permitted), inheritable: set(&c.inheritable), ambient: set(&c.ambient) };
    if !missing.is_empty() {
        eprintln!("capabilities that this host withholds are left out: {}", missing.into_iter().collect::<Vec<_>>().join(" "));
    }
    // The kernel's rule: ambient ones are permitted and inheritable.
    Ok(Sets { ambient: Set(sets.ambient.0 & sets.permitted.0 & sets.inheritable.0), ..sets })
}

fn set_limits(p: &Process) -> Result<(), Failure> {
    for l in &p.rlimits {
        let given = process::set_limit(&l.kind, l.soft, l.hard).map_err(|e| Failure::new("set resource limit", format!("{}: {e}", l.kind)))?;
        if let Some((soft, hard)) = given {
            eprintln!("{}: {}/{} refused by the kernel, taking {soft}/{hard}: give the runtime CAP_SYS_RESOURCE", l.kind, l.soft, l.hard);
        }
    }
    Ok(())
}

fn set_scheduling(p: &Process) -> Result<(), Failure> {
    if let Some(s) = &p.scheduler {
        process::set_scheduler(&scheduler(s)?).map_err(at("set scheduler"))?;
    }
    if let Some(io) = &p.io_priority {
        let class = match io.class.as_str() {
            "IOPRIO_CLASS_RT" => 1,
            "IOPRIO_CLASS_BE" | "" => 2,
            "IOPRIO_CLASS_IDLE" => 3,
            other => return Err(Failure::new("set I/O priority", format!("class {other:?} is not known"))),
        };
        process::set_io_priority(class, io.priority).map_err(at("set I/O priority"))?;
    }
    Ok(())
}

fn scheduler(s: &keles_oci::runtime::Scheduler) -> Result<SchedulerAttributes, Failure> {
    const POLICIES: &[(&str, u32)] = &[("SCHED_OTHER", 0), ("SCHED_FIFO", 1), ("SCHED_RR", 2), ("SCHED_BATCH", 3), ("SCHED_ISO", 4), ("SCHED_IDLE", 5), ("SCHED_DEADLINE", 6)];
    const FLAGS: &[(&str, u64)] = &[
        ("SCHED_FLAG_RESET_ON_FORK", 0x01),
        ("SCHED_FLAG_RECLAIM", 0x02),
        ("SCHED_FLAG_DL_OVERRUN", 0x04),
        ("SCHED_FLAG_KEEP_POLICY", 0x08),
        ("SCHED_FLAG_KEEP_PARAMS", 0x10),
        ("SCHED_FLAG_UTIL_CLAMP_MIN", 0x20),
        ("SCHED_FLAG_UTIL_CLAMP_MAX", 0x40),
    ];
    let unknown = |word: &String| Failure::new("set scheduler", format!("{word:?} is not known"));
    let policy = POLICIES.iter().find(|(n, _)| *n == s.policy).map(|(_, p)| *p).ok_or_else(|| unknown(&s.policy))?;
    let flags = s.flags.iter().try_fold(0, |all, f| FLAGS.iter().find(|(n, _)| n == f).map(|(_, bit)| all | bit).ok_or_else(|| unknown(f)))?;
    let priority = u32::try_from(s.priority).map_err(at("scheduler priority"))?;
    Ok(SchedulerAttributes { policy, flags, nice: s.nice, priority, runtime: s.runtime, deadline: s.deadline, period: s.period, ..SchedulerAttributes::default() })
}

/// `linux.personality`, before the command.
pub fn set_personality(p: &keles_oci::runtime::Personality) -> Result<(), Failure> {
    let domain = match p.domain.as_str() {
        "LINUX" | "" => 0,
        "LINUX32" => 8,
        other => return Err(Failure::new("set personality", format!("domain {other:?} is not known"))),
    };
    if let Some(flag) = p.flags.first() {
        return Err(Failure::new("set personality", format!("flag {flag:?} is not supported")));
    }
    process::set_personality(domain).map_err(at("set personality"))
}

pub fn set_console_size(p: &Process) {
    if let Some(size) = &p.console_size {
        let _ = crate::shim::set_window_size(std::io::stdin(), size.width, size.height);
    }
}

/// So that a user other than root can open /dev/stdout anew; the null device stays whose it is.
pub fn own_streams(uid: u32) {
    let null = rustix::fs::stat("/dev/null").map(|s| s.st_rdev).unwrap_or(0);
    let own = |fd: std::os::fd::BorrowedFd<'_>| {
        if rustix::fs::fstat(fd).is_ok_and(|s| s.st_uid != uid && s.st_rdev != null) {
            let _ = rustix::fs::fchown(fd, Some(rustix::fs::Uid::from_raw(uid)), None);
        }
    };
    use std::os::fd::AsFd;
    own(std::io::stdin().as_fd());
    own(std::io::stdout().as_fd());
    own(std::io::stderr().as_fd());
}
