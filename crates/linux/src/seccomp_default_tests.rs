//! Ours against the profiles that the ecosystem ships, call by call and capability by capability, where one is on the machine: Debian's
//! `golang-github-docker-docker-dev` (moby) and `golang-github-containers-common` (podman) have them. Every difference is named here.

use super::*;
use crate::seccomp::tests::answer_of;
use crate::syscalls;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// Facts of one shipped profile that differ from ours for a container with docker's default capabilities.
struct Shipped {
    path: &'static str,
    /// It allows, we refuse.
    more: &'static str,
    /// It refuses, we allow.
    less: &'static str,
    /// The same for a container that has one capability more: (capability, it allows, it refuses), over the two lists above.
    by_capability: &'static [(&'static str, &'static str, &'static str)],
}

const SHIPPED: &[Shipped] = &[
    Shipped {
        path: "/usr/share/gocode/src/github.com/docker/docker/profiles/seccomp/default.json",
        // Debian has version 20.10. Later ones (and containerd) took io_uring and AF_VSOCK out and let in what kernels got since.
        more: "io_uring_enter io_uring_register io_uring_setup socket",
        less: "fchmodat2 mseal name_to_handle_at pkey_alloc pkey_free pkey_mprotect process_vm_readv process_vm_writev",
        by_capability: &[("BPF", "", "bpf"), ("PERFMON", "", "perf_event_open"), ("SYS_NICE", "", "set_mempolicy_home_node")],
    },
    Shipped {
        path: "/usr/share/containers/seccomp.json",
        // Podman runs containers in containers and without root: it lets mounts and namespaces through and leaves them to the kernel's checks.
        more: "clone clone3 fsconfig fsmount fsopen fspick get_mempolicy keyctl mbind mount mount_setattr move_mount open_tree pidfd_getfd pivot_root reboot \
               set_mempolicy setns socket syslog umount2 unshare",
        less: "fchmodat2 futex_waitv mseal vmsplice",
        by_capability: &[("BPF", "", "bpf"), ("PERFMON", "", "perf_event_open"), ("SYS_ADMIN", "", "quotactl_fd"), ("SYS_NICE", "", "set_mempolicy_home_node")],
    },
];

/// The form in which moby and podman write profiles: rules with the containers they are for.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Template {
    default_action: String,
    syscalls: Vec<TemplateRule>,
}

#[derive(Deserialize)]
struct TemplateRule {
    #[serde(flatten)]
    rule: Rule,
    #[serde(default)]
    includes: Filter,
    #[serde(default)]
    excludes: Filter,
}

/// `minKernel` is not read: every kernel we run on is newer than those named.
#[derive(Default, Deserialize)]
struct Filter {
    #[serde(default)]
    caps: Vec<String>,
    #[serde(default)]
    arches: Vec<String>,
}

const GO_ARCH: &str = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };

impl Template {
    fn resolve(&self, capabilities: Set) -> Profile {
        let has = |cap: &String| capabilities.has(cap.trim_start_matches("CAP_"));
        let here = |arches: &[String]| arches.iter().any(|a| a == GO_ARCH);
        let applies = |r: &&TemplateRule| {
            (r.includes.arches.is_empty() || here(&r.includes.arches)) && r.includes.caps.iter().all(has) && !here(&r.excludes.arches) && !r.excludes.caps.iter().any(has)
        };
        Profile { default_action: self.default_action.clone(), syscalls: self.syscalls.iter().filter(applies).map(|r| r.rule.clone()).collect(), ..Profile::default() }
    }
}

/// First arguments that conditions look at: none, AF_VSOCK, a new user namespace, two personalities, everything.
const FIRST_ARGUMENTS: [u64; 6] = [0, libc::AF_VSOCK as u64, libc::CLONE_NEWUSER as u64, 8, 9, u64::MAX];

/// Calls that `a` allows and `b` does not, for at least one of the arguments.
fn only_in(a: &Profile, b: &Profile) -> BTreeSet<&'static str> {
    let (a, b) = (a.compile().expect("compiles"), b.compile().expect("compiles"));
    let allows = |p, name, first| answer_of(p, name, [first, 0, 0, 0, 0, 0]) == libc::SECCOMP_RET_ALLOW;
    syscalls::names().filter(|name| FIRST_ARGUMENTS.iter().any(|first| allows(&a, name, *first) && !allows(&b, name, *first))).collect()
}

#[test]
fn the_ecosystems_profiles_differ_from_ours_only_where_this_says() {
    for shipped in SHIPPED {
        let Ok(text) = std::fs::read(shipped.path) else {
            eprintln!("SKIPPED: no {}", shipped.path);
            continue;
        };
        let template: Template = serde_json::from_slice(&text).expect("a profile");
        let words = |text: &'static str| text.split_whitespace().collect::<BTreeSet<_>>();
        let compare = |set: Set| {
            let (theirs, ours) = (template.resolve(set), profile(set));
            (only_in(&theirs, &ours), only_in(&ours, &theirs))
        };
        let base = Set::default_of_containers();
        let (more, less) = compare(base);
        assert_eq!((&more, &less), (&words(shipped.more), &words(shipped.less)), "{}", shipped.path);
        let mut differ = BTreeMap::new();
        for capability in crate::capabilities::NAMES.iter().copied() {
            let with = base.changed(&[capability.to_owned()], &[]).expect("a capability");
            let (more_with, less_with) = compare(with);
            let new = (more_with.difference(&more).copied().collect::<Vec<_>>().join(" "), less_with.difference(&less).copied().collect::<Vec<_>>().join(" "));
            if new != (String::new(), String::new()) {
                differ.insert(capability, new);
            }
        }
        let known: BTreeMap<_, _> = shipped.by_capability.iter().map(|(c, more, less)| (*c, ((*more).to_owned(), (*less).to_owned()))).collect();
        assert_eq!(differ, known, "{}", shipped.path);
    }
}
