//! A bundle's folder: `config.json` read, checked, and what we do not do refused by name.

use crate::steps::privileges::Filter;
use crate::wire::{Failure, at};
use keles_linux::seccomp::Profile;
use keles_oci::runtime::{Hook, Process, Spec};
use keles_oci::runtime_default::version_is_understood;
use std::path::{Path, PathBuf};

pub const CONFIG: &str = "config.json";
const MAX_CONFIG_BYTES: u64 = 16 << 20;

pub struct Bundle {
    /// Absolute.
    pub folder: PathBuf,
    pub rootfs: PathBuf,
    pub spec: Spec,
    /// Its seccomp profile, as what the kernel takes.
    pub filter: Option<Filter>,
    /// The file as it was read: later commands go by this, not by what the bundle has become.
    pub text: Vec<u8>,
}

fn refuse(message: impl std::fmt::Display) -> Failure {
    Failure::new("check bundle", message)
}

pub fn load(folder: &Path) -> Result<Bundle, Failure> {
    let failed = |e: std::io::Error| Failure::new("read bundle", format!("{}: {e}", folder.display()));
    let folder = std::fs::canonicalize(folder).map_err(failed)?;
    let text = read_limited(&folder.join(CONFIG))?;
    let (spec, filter) = parse(&text)?;
    let root = &spec.root.as_ref().expect("checked by parse").path;
    let rootfs = std::fs::canonicalize(folder.join(root)).map_err(|e| Failure::new("find root", format!("{}: {e}", folder.join(root).display())))?;
    Ok(Bundle { folder, rootfs, spec, filter, text })
}

pub fn read_limited(path: &Path) -> Result<Vec<u8>, Failure> {
    use std::io::Read;
    let failed = |e: std::io::Error| Failure::new("read", format!("{}: {e}", path.display()));
    let mut text = Vec::new();
    std::fs::File::open(path).map_err(failed)?.take(MAX_CONFIG_BYTES).read_to_end(&mut text).map_err(failed)?;
    Ok(text)
}

/// Reads and checks, the seccomp profile by compiling it.
fn parse(text: &[u8]) -> Result<(Spec, Option<Filter>), Failure> {
    let spec = kept(text)?;
    let filter = seccomp(&spec)?;
    Ok((spec, filter))
}

/// What a container keeps of its bundle; its profile was compiled when it was made, which takes longer than the rest.
pub fn kept(text: &[u8]) -> Result<Spec, Failure> {
    let spec = Spec::parse(text).map_err(|e| refuse(format!("{CONFIG}: {e}")))?;
    check(&spec)?;
    Ok(spec)
}

fn check(spec: &Spec) -> Result<(), Failure> {
    if !version_is_understood(&spec.oci_version) {
        return Err(refuse(format!("ociVersion {:?} is not understood: 1.x up to {} is", spec.oci_version, keles_oci::runtime::VERSION)));
    }
    if spec.root.as_ref().is_none_or(|r| r.path.as_os_str().is_empty()) {
        return Err(refuse("root.path must be given"));
    }
    check_process(spec.process.as_ref().ok_or_else(|| refuse("process must be given"))?)?;
    check_namespaces(spec)?;
    let linux = &spec.linux;
    for (given, field) in [
        (linux.intel_rdt.is_some(), "linux.intelRdt"),
        (linux.memory_policy.is_some(), "linux.memoryPolicy"),
        (!linux.net_devices.is_empty(), "linux.netDevices"),
        (!linux.mount_label.is_empty() && is_selinux_on(), "linux.mountLabel"),
    ] {
        if given {
            return Err(refuse(format!("{field} is not supported")));
        }
    }
    let hooks = &spec.hooks;
    for hook in [&hooks.prestart, &hooks.create_runtime, &hooks.create_container, &hooks.start_container, &hooks.poststart, &hooks.poststop].into_iter().flatten() {
        check_hook(hook)?;
    }
    match spec.mounts.iter().find(|m| m.destination.as_os_str().is_empty()) {
        Some(m) => Err(refuse(format!("a mount of {:?} has no destination", m.source))),
        None => Ok(()),
    }
}

fn check_hook(hook: &Hook) -> Result<(), Failure> {
    if !hook.path.is_absolute() {
        return Err(refuse(format!("hook {}: the path must be absolute", hook.path.display())));
    }
    if hook.timeout.is_some_and(|t| t <= 0) {
        return Err(refuse(format!("hook {}: the timeout must be greater than zero", hook.path.display())));
    }
    Ok(())
}

/// Also for the processes of `exec`.
pub fn check_process(p: &Process) -> Result<(), Failure> {
    if p.args.is_empty() {
        return Err(refuse("process.args must not be empty"));
    }
    if !p.cwd.starts_with('/') {
        return Err(refuse(format!("process.cwd {:?} must be an absolute path", p.cwd)));
    }
    if p.exec_cpu_affinity.is_some() {
        return Err(refuse("process.execCPUAffinity is not supported"));
    }
    if !p.apparmor_profile.is_empty() && p.apparmor_profile != "unconfined" && !is_apparmor_on() {
        return Err(refuse(format!("process.apparmorProfile {:?}: AppArmor is not enabled on this host", p.apparmor_profile)));
    }
    environment(p).map(drop)
}

/// `NAME=value` pairs.
pub fn environment(p: &Process) -> Result<Vec<(String, String)>, Failure> {
    let pair = |e: &String| {
        e.split_once('=').filter(|(n, _)| !n.is_empty()).map(|(n, v)| (n.to_owned(), v.to_owned())).ok_or_else(|| refuse(format!("process.env: invalid variable {e:?}")))
    };
    p.env.iter().map(pair).collect()
}

fn check_namespaces(spec: &Spec) -> Result<(), Failure> {
    let all = &spec.linux.namespaces;
    for (i, n) in all.iter().enumerate() {
        if super::namespaces::flag(&n.kind).is_none() {
            return Err(refuse(format!("namespace {:?} is not known", n.kind)));
        }
        if all[..i].iter().any(|o| o.kind == n.kind) {
            return Err(refuse(format!("namespace {} is listed twice", n.kind)));
        }
    }
    let has = |kind: &str| all.iter().any(|n| n.kind == kind);
    let makes = |kind: &str| all.iter().any(|n| n.kind == kind && n.path.as_ref().is_none_or(|p| p.as_os_str().is_empty()));
    if makes("user") && (spec.linux.uid_mappings.is_empty() || spec.linux.gid_mappings.is_empty()) {
        return Err(refuse("a new user namespace needs uidMappings and gidMappings"));
    }
    for (given, field, kind) in [
        (!spec.hostname.is_empty(), "hostname", "uts"),
        (!spec.domainname.is_empty(), "domainname", "uts"),
        (!spec.linux.time_offsets.is_empty(), "linux.timeOffsets", "time"),
        (!spec.linux.uid_mappings.is_empty(), "linux.uidMappings", "user"),
        (!spec.linux.masked_paths.is_empty(), "linux.maskedPaths", "mount"),
        (!spec.linux.readonly_paths.is_empty(), "linux.readonlyPaths", "mount"),
        (!spec.mounts.is_empty(), "mounts", "mount"),
    ] {
        if given && !has(kind) {
            return Err(refuse(format!("{field} needs a {kind} namespace")));
        }
    }
    spec.linux.sysctl.keys().try_for_each(|name| check_sysctl(name, &has))
}

/// Only what belongs to a namespace of the container's: others would change the host.
fn check_sysctl(name: &str, has: &impl Fn(&str) -> bool) -> Result<(), Failure> {
    let dotted = name.replace('/', ".");
    const IPC: &[&str] = &["kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced"];
    let kind = match dotted.as_str() {
        n if n.starts_with("net.") => "network",
        n if n.starts_with("fs.mqueue.") || IPC.contains(&n) => "ipc",
        "kernel.hostname" | "kernel.domainname" => "uts",
        n if n.starts_with("user.") => "user",
        _ => return Err(refuse(format!("sysctl {name} is not in a separate kernel namespace"))),
    };
    if has(kind) { Ok(()) } else { Err(refuse(format!("sysctl {name} needs a {kind} namespace"))) }
}

/// The profile of the `seccomp` section, as what the kernel takes.
pub fn seccomp(spec: &Spec) -> Result<Option<Filter>, Failure> {
    let Some(section) = &spec.linux.seccomp else { return Ok(None) };
    let profile: Profile = serde_json::from_value(section.clone()).map_err(at("read seccomp profile"))?;
    crate::steps::privileges::compile(&profile).map(Some)
}

pub fn is_apparmor_on() -> bool {
    crate::apparmor::Host::of(Path::new("/")).is_enabled()
}

pub fn is_selinux_on() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(change: impl FnOnce(&mut serde_json::Value)) -> String {
        let mut spec = keles_oci::runtime_default::default_spec(None);
        change(&mut spec);
        parse(spec.to_string().as_bytes()).err().map(|f| f.message).unwrap_or_default()
    }

    #[test]
    fn the_default_bundle_is_fine() {
        assert_eq!(failure(|_| ()), "");
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_name_not_ignored() {
        use serde_json::json;
        assert!(failure(|s| s["linux"]["memoryPolicy"] = json!({"mode": "MPOL_BIND"})).contains("memoryPolicy"));
        assert!(failure(|s| s["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_NOTIFY"})).contains("NOTIFY"));
        assert!(failure(|s| s["linux"]["sysctl"] = json!({"vm.overcommit_memory": "1"})).contains("not in a separate kernel namespace"));
        assert!(failure(|s| s["linux"]["namespaces"] = json!([{"type": "mount"}])).contains("needs a uts namespace"));
        assert!(failure(|s| s["process"]["cwd"] = json!("tmp")).contains("absolute"));
        assert!(failure(|s| s["process"]["env"] = json!(["A"])).contains("invalid variable"));
        assert!(failure(|s| s["hooks"] = json!({"prestart": [{"path": "bin/x"}]})).contains("absolute"));
        assert!(failure(|s| s["ociVersion"] = json!("2.0.0")).contains("ociVersion"));
    }
}
