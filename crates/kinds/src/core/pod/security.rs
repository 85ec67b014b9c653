//! Security contexts of pods and containers.

use super::volumes::local_descending;
use crate::field::{Field, one_of};
use crate::formats;
use keles_api::Problems;
use std::collections::BTreeSet;

const PROFILE_TYPES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];

pub fn pod(spec: &Field, p: &mut Problems) {
    let sc = spec.get("securityContext");
    if !sc.is_set() {
        return;
    }
    ids(&sc, &["fsGroup", "runAsUser", "runAsGroup"], p);
    for (i, id) in sc.list("supplementalGroups").iter().enumerate() {
        let id = id.as_i64().unwrap_or(0);
        formats::user_id(id).into_iter().for_each(|m| p.invalid(&sc.at("supplementalGroups").index(i), id, m));
    }
    enum_field(&sc, "supplementalGroupsPolicy", &["Merge", "Strict"], p);
    if spec.bool("hostPID") && spec.bool("shareProcessNamespace") {
        p.invalid(&sc.at("shareProcessNamespace"), true, "ShareProcessNamespace and HostPID cannot both be enabled");
    }
    sysctls(&sc, p);
    enum_field(&sc, "fsGroupChangePolicy", &["Always", "OnRootMismatch"], p);
    seccomp(&sc, p);
    app_armor(&sc, p);
    enum_field(&sc, "seLinuxChangePolicy", &["MountOption", "Recursive"], p);
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

fn sysctls(sc: &Field, p: &mut Problems) {
    let mut seen = BTreeSet::new();
    for s in sc.items("sysctls") {
        let name = s.str("name");
        let bad = formats::sysctl_name(name);
        match () {
            _ if name.is_empty() => p.required(&s.at("name"), ""),
            _ if !bad.is_empty() => bad.into_iter().for_each(|m| p.invalid(&s.at("name"), name, m)),
            _ if !seen.insert(name.replace('/', ".")) => p.duplicate(&s.at("name"), name),
            _ => {}
        }
    }
}

fn seccomp(sc: &Field, p: &mut Problems) {
    profile(&sc.get("seccompProfile"), "type is required when seccompProfile is set", "seccomp", p);
}

fn app_armor(sc: &Field, p: &mut Problems) {
    profile(&sc.get("appArmorProfile"), "type is required when appArmorProfile is set", "AppArmor", p);
}

/// A profile by type; only `Localhost` has a name beside.
fn profile(profile: &Field, missing: &str, what: &str, p: &mut Problems) {
    if !profile.is_set() {
        return;
    }
    match profile.str("type") {
        "" => p.required(&profile.at("type"), missing),
        kind => one_of(p, &profile.at("type"), kind, PROFILE_TYPES),
    }
    let at = profile.at("localhostProfile");
    match (profile.str("type") == "Localhost", profile.opt_str("localhostProfile")) {
        (true, None) => p.required(&at, format!("must be set when {what} type is Localhost")),
        (true, Some(path)) if what == "seccomp" => local_descending(p, &at, path),
        (true, Some(path)) if path.trim().is_empty() => p.required(&at, format!("must be set when {what} type is Localhost")),
        (false, Some(_)) => p.invalid(&at, profile.value().clone(), format!("can only be set when {what} type is Localhost")),
        _ => {}
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
    app_armor(sc, p);
}

/// A pod with user ids of its own shares no other namespace with the host.
pub fn host_users(spec: &Field, p: &mut Problems) {
    if spec.opt_bool("hostUsers") != Some(false) {
        return;
    }
    for name in ["hostNetwork", "hostPID", "hostIPC"] {
        if spec.bool(name) {
            p.forbidden(&spec.at(name), "when `hostUsers` is false");
        }
    }
    for c in ["containers", "initContainers"].iter().flat_map(|l| spec.items(l)) {
        for (i, _) in c.list("volumeDevices").iter().enumerate() {
            p.forbidden(&c.at("volumeDevices").index(i), "when `hostUsers` is false");
        }
    }
}
