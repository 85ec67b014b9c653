//! The bundle configuration that `oci spec` writes: what every runtime's `spec` command gives as a start.

use crate::runtime::VERSION;
use serde_json::{Value, json};

const DEFAULT_CAPABILITIES: [&str; 3] = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
/// Understood by every runtime in use; ours reads up to [`VERSION`].
const WRITTEN_VERSION: &str = "1.0.2";

/// With `rootless` the caller's own ids are mapped to root and what only root may do is left out.
pub fn default_spec(rootless: Option<(u32, u32)>) -> Value {
    let quiet = ["nosuid", "noexec", "nodev"];
    let pts_options: Vec<&str> = match rootless {
        None => vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        Some(_) => vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
    };
    let sys = match rootless {
        None => json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]}),
        Some(_) => json!({"destination": "/sys", "type": "none", "source": "/sys", "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]}),
    };
    let mut namespaces: Vec<Value> = ["pid", "network", "ipc", "uts", "mount", "cgroup"].iter().map(|t| json!({"type": t})).collect();
    let mut linux = json!({
        "resources": {"devices": [{"allow": false, "access": "rwm"}]},
        "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"],
        "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
    });
    if let Some((uid, gid)) = rootless {
        namespaces.retain(|n| n["type"] != "network");
        namespaces.push(json!({"type": "user"}));
        linux["uidMappings"] = json!([{"containerID": 0, "hostID": uid, "size": 1}]);
        linux["gidMappings"] = json!([{"containerID": 0, "hostID": gid, "size": 1}]);
        linux.as_object_mut().expect("made as an object above").remove("resources");
    }
    linux["namespaces"] = namespaces.into();
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc"}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": pts_options}),
        json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]}),
        json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": quiet}),
        sys,
    ];
    if rootless.is_none() {
        mounts.push(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}));
    }
    json!({
        "ociVersion": WRITTEN_VERSION,
        "process": {
            "terminal": true,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": DEFAULT_CAPABILITIES, "effective": DEFAULT_CAPABILITIES, "permitted": DEFAULT_CAPABILITIES},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "keles",
        "mounts": mounts,
        "linux": linux,
    })
}

/// Whether a bundle's `ociVersion` is one we read: 1.x up to ours, releases and candidates.
pub fn version_is_understood(version: &str) -> bool {
    let number = |v: &str, at: usize| v.split(['.', '-', '+']).nth(at).and_then(|p| p.parse::<u32>().ok());
    number(version, 0) == number(VERSION, 0) && number(version, 1).is_some_and(|minor| Some(minor) <= number(VERSION, 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Spec;

    #[test]
    fn what_is_written_is_read_back() {
        for rootless in [None, Some((1000, 1000))] {
            let spec = Spec::parse(default_spec(rootless).to_string().as_bytes()).expect("our own");
            assert!(version_is_understood(&spec.oci_version));
            assert_eq!(spec.linux.namespaces.iter().any(|n| n.kind == "user"), rootless.is_some());
        }
    }

    #[test]
    fn versions_past_ours_are_not_understood() {
        assert!(["1.0.0", "1.0.2-dev", "1.2.1", "1.3.0"].iter().all(|v| version_is_understood(v)));
        assert!(["2.0.0", "1.4.0", "", "x", "0.9.0"].iter().all(|v| !version_is_understood(v)));
    }
}
