//! Capabilities: names, the default set of containers, and applying a set to the calling process.
//!
//! Source: capabilities(7); the default set is the one docker, containerd and CRI-O share. Inheritable and ambient stay
//! empty (CVE-2022-24769).

use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use std::io;

/// Names in the order of their numbers.
pub const NAMES: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

const DEFAULT: &[&str] =
    &["CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE"];

/// What installing a seccomp filter without no_new_privs needs.
pub const SYS_ADMIN: Set = Set(1 << 21);

/// A set of capabilities by bit number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Set(pub u64);

impl Set {
    pub fn default_of_containers() -> Self {
        DEFAULT.iter().fold(Set(0), |s, n| s.with(number(n).expect("a known name")))
    }
    pub fn all() -> Self {
        Set((1 << NAMES.len()) - 1)
    }
    /// Those this process may give away; a nested environment may lack some.
    pub fn available() -> io::Result<Self> {
        Ok(Set(rustix::thread::capabilities(None)?.permitted.bits()))
    }
    fn with(self, n: u32) -> Self {
        Set(self.0 | 1 << n)
    }
    fn without(self, n: u32) -> Self {
        Set(self.0 & !(1 << n))
    }
    /// Of names; unknown ones are given back, as runtimes skip what their kernel does not know.
    pub fn of_names(names: &[String]) -> (Self, Vec<String>) {
        let unknown = names.iter().filter(|n| number(n).is_none()).cloned().collect();
        (names.iter().filter_map(|n| number(n)).fold(Set(0), Set::with), unknown)
    }
    pub fn has(self, name: &str) -> bool {
        number(name).is_some_and(|n| self.0 & (1 << n) != 0)
    }
    /// Drops before adds; `ALL` as either changes the base (CRI's rule). Unknown names are an error.
    pub fn changed(self, add: &[String], drop: &[String]) -> Result<Self, String> {
        let is_all = |n: &&String| n.eq_ignore_ascii_case("ALL");
        let mut set = self;
        if add.iter().any(|n| is_all(&n)) {
            set = Set::all();
        }
        if drop.iter().any(|n| is_all(&n)) {
            set = Set(0);
        }
        let known = |n: &String| number(n).ok_or_else(|| format!("unknown capability {n:?}"));
        for n in drop.iter().filter(|n| !is_all(n)) {
            set = set.without(known(n)?);
        }
        for n in add.iter().filter(|n| !is_all(n)) {
            set = set.with(known(n)?);
        }
        Ok(set)
    }
}

/// The number of `NET_ADMIN`, `CAP_NET_ADMIN` or `cap_net_admin`.
pub fn number(name: &str) -> Option<u32> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES.iter().position(|n| *n == bare).map(|n| n as u32)
}

/// Takes everything outside `keep` from the bounding set: no later exec can bring it back.
pub fn limit_bounding(keep: Set) -> io::Result<()> {
    for n in 0..64u32 {
        if keep.0 & (1 << n) == 0 {
            match rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << n)) {
                Ok(()) => {}
                // Past the kernel's last capability.
                Err(rustix::io::Errno::INVAL) => break,
                Err(e) => return Err(e.into()),
            }
        }
    }
    Ok(())
}

/// The five sets of a process, as the OCI runtime specification lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sets {
    pub bounding: Set,
    pub effective: Set,
    pub permitted: Set,
    pub inheritable: Set,
    pub ambient: Set,
}

impl Sets {
    /// The same set to have and to keep; nothing for programs that do not ask (CVE-2022-24769).
    pub fn plain(set: Set) -> Self {
        Sets { bounding: set, effective: set, permitted: set, inheritable: Set(0), ambient: Set(0) }
    }
}

/// Gives the calling process all but the bounding set, for which see [`limit_bounding`]. Ambient ones must be permitted and inheritable.
pub fn apply_sets(sets: &Sets) -> io::Result<()> {
    let bits = |s: Set| CapabilitySet::from_bits_retain(s.0);
    let _ = rustix::thread::clear_ambient_capability_set();
    set_capabilities(None, CapabilitySets { effective: bits(sets.effective), permitted: bits(sets.permitted), inheritable: bits(sets.inheritable) })?;
    for n in (0..64).filter(|n| sets.ambient.0 & (1 << n) != 0) {
        rustix::thread::configure_capability_in_ambient_set(CapabilitySet::from_bits_retain(1 << n), true)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(w: &[&str]) -> Vec<String> {
        w.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn the_default_set_is_the_ecosystems_fourteen() {
        assert_eq!(Set::default_of_containers().0, 0xa804_25fb);
    }

    #[test]
    fn drops_come_before_adds() {
        let base = Set::default_of_containers();
        let only_bind = base.changed(&words(&["NET_BIND_SERVICE"]), &words(&["ALL"])).unwrap();
        assert_eq!(only_bind, Set(1 << 10));
        assert_eq!(base.changed(&words(&["ALL"]), &words(&["CAP_SYS_ADMIN"])).unwrap(), Set::all().without(21));
        assert!(base.changed(&words(&["NO_SUCH"]), &[]).is_err());
    }
}
