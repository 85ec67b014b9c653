//! Security contexts of pods and containers.

use super::volumes::local_descending;
use super::windows;
use crate::field::{Field, one_of};
use crate::formats;
use keles_api::Problems;
use std::collections::BTreeSet;

const PROFILE_TYPES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];
/// A path of the kernel, without its end.
const LOCALHOST_PROFILE_MAX_BYTES: usize = 4095;

pub fn pod(spec: &Field, p: &mut Problems) {
    let sc = spec.get("securityContext");
    ids(&sc, &["fsGroup", "runAsUser", "runAsGroup"], p);
    for (i, id) in sc.list("supplementalGroups").iter().enumerate() {
        let id = id.as_i64().unwrap_or(0);
        formats::user_id(id).into_iter().for_each(|m| p.invalid(&sc.at("supplementalGroups").index(i), id, m));
    }
    if spec.bool("hostPID") && spec.bool("shareProcessNamespace") {
        p.invalid(&sc.at("shareProcessNamespace"), true, "ShareProcessNamespace and HostPID cannot both be enabled");
    }
    sysctls(spec, &sc, p);
    enum_field(&sc, "fsGroupChangePolicy", &["Always", "OnRootMismatch"], p);
    seccomp(&sc, p);
    windows::options(&sc, p);
    app_armor(&sc, p);
    enum_field(&sc, "supplementalGroupsPolicy", &["Merge", "Strict"], p);
    // The other one needs a feature that is off.
    enum_field(&sc, "seLinuxChangePolicy", &["Recursive"], p);
}

fn enum_field(of: &Field, name: &str, allowed: &[&str], p: &mut Problems) {
    if let Some(value) = of.opt_str(name) {
        one_of(p, &of.at(name), value, allowed);
    }
}

fn ids(of: &Field, names: &[&str], p: &mut Problems) {
    for name in names {
        if let Some(id) = of.opt_int(name) {
            formats::user_id(id).into_iter().for_each(|m| p.invalid(&of.at(name), id, m));
        }
    }
}

fn sysctls(spec: &Field, sc: &Field, p: &mut Problems) {
    let mut seen = BTreeSet::new();
    for s in sc.items("sysctls") {
        let (name, at) = (s.str("name"), s.at("name"));
        let bad = formats::sysctl_name(name);
        match () {
            _ if name.is_empty() => p.required(&at, ""),
            _ if !bad.is_empty() => bad.into_iter().for_each(|m| p.invalid(&at, name, m)),
            _ if seen.contains(name) => p.duplicate(&at, name),
            _ => {}
        }
        let dotted = name.replace('/', ".");
        for (host, namespace) in [("hostNetwork", NETWORK_SYSCTLS), ("hostIPC", IPC_SYSCTLS)] {
            if spec.bool(host) && namespace.iter().any(|n| n.strip_suffix('*').map_or(dotted == *n, |prefix| dotted.starts_with(prefix))) {
                p.invalid(&at, name, format!("may not be specified when '{host}' is true"));
            }
        }
        seen.insert(name);
    }
}

const NETWORK_SYSCTLS: &[&str] = &["net.*"];
/// What the kernel keeps for each IPC namespace.
const IPC_SYSCTLS: &[&str] =
    &["kernel.sem", "kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced", "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "fs.mqueue.*"];

/// A seccomp profile by type; only `Localhost` has a path beside.
fn seccomp(sc: &Field, p: &mut Problems) {
    let profile = sc.get("seccompProfile");
    if !profile.is_set() {
        return;
    }
    match profile.str("type") {
        "" => p.required(&profile.at("type"), "type is required when seccompProfile is set"),
        kind => one_of(p, &profile.at("type"), kind, PROFILE_TYPES),
    }
    let at = profile.at("localhostProfile");
    match (profile.str("type") == "Localhost", profile.opt_str("localhostProfile")) {
        (true, None) => p.required(&at, "must be set when seccomp type is Localhost"),
        (true, Some(path)) => local_descending(p, &at, path),
        (false, Some(_)) => p.invalid(&at, profile.value().clone(), "can only be set when seccomp type is Localhost"),
        (false, None) => {}
    }
}

/// An AppArmor profile by type; only `Localhost` has a name beside.
fn app_armor(sc: &Field, p: &mut Problems) {
    let profile = sc.get("appArmorProfile");
    if !profile.is_set() {
        return;
    }
    let at = profile.at("localhostProfile");
    match (profile.str("type"), profile.opt_str("localhostProfile")) {
        ("", _) => p.required(&profile.at("type"), "type is required when appArmorProfile is set"),
        ("Localhost", None) => p.required(&at, "must be set when AppArmor type is Localhost"),
        ("Localhost", Some(name)) => {
            if name.trim() != name {
                p.invalid(&at, name, "must not be padded with whitespace");
            } else if name.is_empty() {
                p.required(&at, "must be set when AppArmor type is Localhost");
            }
            if name.len() > LOCALHOST_PROFILE_MAX_BYTES {
                p.too_long(&at, LOCALHOST_PROFILE_MAX_BYTES);
            }
        }
        ("RuntimeDefault" | "Unconfined", Some(name)) => p.invalid(&at, name, "can only be set when AppArmor type is Localhost"),
        (kind, _) => one_of(p, &profile.at("type"), kind, PROFILE_TYPES),
    }
}

pub fn container(sc: &Field, host_users: bool, p: &mut Problems) {
    if !sc.is_set() {
        return;
    }
    ids(sc, &["runAsUser", "runAsGroup"], p);
    if let Some(mount) = sc.opt_str("procMount") {
        one_of(p, &sc.at("procMount"), mount, &["Default", "Unmasked"]);
        if mount == "Unmasked" && host_users {
            p.invalid(&sc.at("procMount"), mount, "`hostUsers` must be false to use `Unmasked`");
        }
    }
    seccomp(sc, p);
    if sc.opt_bool("allowPrivilegeEscalation") == Some(false) {
        if sc.bool("privileged") {
            p.invalid(sc.path(), sc.value().clone(), "cannot set `allowPrivilegeEscalation` to false and `privileged` to true");
        }
        if sc.get("capabilities").strings("add").contains(&"CAP_SYS_ADMIN") {
            p.invalid(sc.path(), sc.value().clone(), "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN");
        }
    }
    windows::options(sc, p);
    app_armor(sc, p);
}

/// A pod with user ids of its own shares no other namespace with the host.
pub fn host_users(spec: &Field, p: &mut Problems) {
    if spec.opt_bool("hostUsers") != Some(false) {
        return;
    }
    // Upstream's paths are the Go names.
    for (name, shown) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if spec.bool(name) {
            p.forbidden(&spec.at(shown), "when `hostUsers` is false");
        }
    }
    for c in ["containers", "initContainers", "ephemeralContainers"].iter().flat_map(|l| spec.items(l)) {
        if !c.list("volumeDevices").is_empty() {
            p.forbidden(&c.at("volumeDevices"), "when `hostUsers` is false");
        }
    }
}
