//! Devices by their CDI names (Container Device Interface 0.8, cncf-tags/container-device-interface SPEC.md): what vendors' files say a
//! container needs that uses one.
//!
//! Entry point: [`inject`]. The files are read when a name is asked for. Deliberately absent, and refused: hooks and Intel RDT, which our
//! runtime has no place for, and mounts that are no binds.

use crate::api::{ContainerConfig, Device, Mount, Propagation};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Later folders win.
pub const FOLDERS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];
/// A specification beyond this is not read.
const MAX_FILE_BYTES: u64 = 4 << 20;

#[derive(Debug, thiserror::Error)]
pub enum CdiError {
    #[error("unresolvable CDI devices {}", .0.join(", "))]
    Unresolvable(Vec<String>),
    #[error("CDI device {0} is in two files of one folder")]
    Conflict(String),
    #[error("CDI device {device} wants {what}, which this node's runtime does not do")]
    Unsupported { device: String, what: String },
    #[error("CDI device {device}: {entry:?} is no variable NAME=VALUE")]
    Variable { device: String, entry: String },
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    /// `vendor.com/class`.
    kind: String,
    container_edits: Edits,
    devices: Vec<Named>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Named {
    name: String,
    container_edits: Edits,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Edits {
    env: Vec<String>,
    device_nodes: Vec<DeviceNode>,
    mounts: Vec<BindMount>,
    hooks: Vec<serde_json::Value>,
    intel_rdt: Option<serde_json::Value>,
    additional_gids: Vec<i64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DeviceNode {
    path: PathBuf,
    host_path: Option<PathBuf>,
    #[serde(rename = "type")]
    kind: Option<String>,
    file_mode: Option<u32>,
    permissions: Option<String>,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct BindMount {
    host_path: PathBuf,
    container_path: PathBuf,
    options: Vec<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// Adds what the devices need to a container's configuration.
pub fn inject(names: &[String], folders: &[&Path], config: &mut ContainerConfig) -> Result<(), CdiError> {
    if names.is_empty() {
        return Ok(());
    }
    let known = known(folders);
    let missing: Vec<String> = names.iter().filter(|name| !known.contains_key(*name)).cloned().collect();
    if !missing.is_empty() {
        return Err(CdiError::Unresolvable(missing));
    }
    let mut done: Vec<&Path> = Vec::new();
    for name in names {
        let found = &known[name];
        let Some((file, spec, device)) = found else { return Err(CdiError::Conflict(name.clone())) };
        // What a file says for all of its devices, once.
        if !done.contains(&file.as_path()) {
            done.push(file);
            apply(name, &spec.container_edits, config)?;
        }
        apply(name, &spec.devices[*device].container_edits, config)?;
    }
    Ok(())
}

/// By the whole name: its file, the file's content and its place there; `None` where two files of one folder claim it.
type Known = BTreeMap<String, Option<(PathBuf, Spec, usize)>>;

fn known(folders: &[&Path]) -> Known {
    let mut all = Known::new();
    for folder in folders {
        let mut here = Known::new();
        for (file, spec) in specs(folder) {
            for (at, device) in spec.devices.iter().enumerate() {
                let name = format!("{}={}", spec.kind, device.name);
                let entry = if here.contains_key(&name) { None } else { Some((file.clone(), spec.clone(), at)) };
                here.insert(name, entry);
            }
        }
        all.extend(here);
    }
    all
}

fn specs(folder: &Path) -> Vec<(PathBuf, Spec)> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|kind| ["json", "yaml", "yml"].iter().any(|known| kind == *known)));
    files.sort();
    let read = |file: PathBuf| {
        if std::fs::metadata(&file).is_ok_and(|meta| !meta.is_file() || meta.len() > MAX_FILE_BYTES) {
            tracing::warn!(file = %file.display(), "a CDI specification is too large, or no file, and is not read");
            return None;
        }
        // JSON is YAML.
        let spec = std::fs::read_to_string(&file).map_err(|error| error.to_string()).and_then(|text| serde_yaml_ng::from_str(&text).map_err(|error| error.to_string()));
        match spec {
            Ok(spec) => Some((file, spec)),
            Err(error) => {
                tracing::warn!(file = %file.display(), error, "a CDI specification cannot be read");
                None
            }
        }
    };
    files.into_iter().filter_map(read).collect()
}

fn apply(device: &str, edits: &Edits, config: &mut ContainerConfig) -> Result<(), CdiError> {
    let unsupported = |what: &str| Err(CdiError::Unsupported { device: device.into(), what: what.into() });
    if !edits.hooks.is_empty() {
        return unsupported("hooks");
    }
    if edits.intel_rdt.is_some() {
        return unsupported("Intel RDT");
    }
    for entry in &edits.env {
        let (name, value) = entry.split_once('=').ok_or_else(|| CdiError::Variable { device: device.into(), entry: entry.clone() })?;
        config.env.retain(|(known, _)| known != name);
        config.env.push((name.into(), value.into()));
    }
    for node in &edits.device_nodes {
        if node.kind.as_deref() == Some("p") {
            return unsupported("a named pipe");
        }
        config.devices.retain(|known| known.container_path != node.path);
        config.devices.push(Device {
            host_path: node.host_path.clone().unwrap_or_else(|| node.path.clone()),
            container_path: node.path.clone(),
            permissions: node.permissions.clone().unwrap_or_else(|| "rwm".into()),
            mode: node.file_mode,
            uid: node.uid,
            gid: node.gid,
        });
    }
    for mount in &edits.mounts {
        if mount.kind.as_deref().is_some_and(|kind| !["", "bind", "none"].contains(&kind)) {
            return unsupported("a mount that is no bind mount");
        }
        config.mounts.retain(|known| known.target != mount.container_path);
        config.mounts.push(bind(mount));
    }
    config.security.supplemental_groups.extend(edits.additional_gids.iter().filter(|gid| **gid != 0));
    Ok(())
}

fn bind(mount: &BindMount) -> Mount {
    let has = |names: &[&str]| mount.options.iter().any(|option| names.contains(&option.as_str()));
    let propagation = match (has(&["rshared", "shared"]), has(&["rslave", "slave"])) {
        (true, _) => Propagation::Bidirectional,
        (_, true) => Propagation::HostToContainer,
        _ => Propagation::Private,
    };
    Mount { source: mount.host_path.clone(), target: mount.container_path.clone(), read_only: has(&["ro"]), recursive_read_only: has(&["rro"]), propagation }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        files.iter().for_each(|(name, text)| std::fs::write(folder.path().join(name), text).expect("written"));
        folder
    }

    const SPEC: &str = r#"
cdiVersion: 0.6.0
kind: vendor.com/net
containerEdits: {env: [ALL=1], mounts: [{hostPath: /usr/lib/v.so, containerPath: /usr/lib/v.so, options: [ro, nosuid, bind]}]}
devices:
- name: a
  containerEdits:
    env: [WHICH=a]
    deviceNodes: [{path: /dev/net-a, hostPath: /dev/null, permissions: rw, fileMode: 384, uid: 7}]
    additionalGids: [44, 0]
- {name: b, containerEdits: {env: [WHICH=b]}}
"#;

    #[test]
    fn a_device_brings_its_files_edits_once_and_its_own() {
        let folder = folder(&[("v.yaml", SPEC)]);
        let mut config = ContainerConfig { env: vec![("WHICH".into(), "none".into())], ..Default::default() };
        inject(&["vendor.com/net=a".into(), "vendor.com/net=b".into()], &[folder.path()], &mut config).expect("known");
        assert_eq!(config.env, [("ALL".into(), "1".into()), ("WHICH".into(), "b".into())]);
        assert_eq!((config.mounts.len(), config.mounts[0].read_only), (1, true));
        let node = Device { host_path: "/dev/null".into(), container_path: "/dev/net-a".into(), permissions: "rw".into(), mode: Some(0o600), uid: Some(7), gid: None };
        assert_eq!((config.devices, config.security.supplemental_groups), (vec![node], vec![44]));
    }

    #[test]
    fn a_later_folder_wins_and_what_nobody_knows_is_named() {
        let (first, second) =
            (folder(&[("v.yaml", SPEC)]), folder(&[("v.json", r#"{"kind": "vendor.com/net", "devices": [{"name": "b", "containerEdits": {"env": ["WHICH=second"]}}]}"#)]));
        let mut config = ContainerConfig::default();
        let folders = [first.path(), second.path()];
        inject(&["vendor.com/net=b".into()], &folders, &mut config).expect("known");
        assert_eq!(config.env, [("WHICH".into(), "second".into())]);
        let refused = inject(&["vendor.com/net=c".into()], &folders, &mut config).expect_err("unknown");
        assert_eq!(refused.to_string(), "unresolvable CDI devices vendor.com/net=c");
    }

    #[test]
    fn two_files_of_a_folder_that_claim_one_name_and_hooks_are_refused() {
        let both = folder(&[("a.yaml", SPEC), ("b.yaml", SPEC)]);
        assert!(matches!(inject(&["vendor.com/net=a".into()], &[both.path()], &mut ContainerConfig::default()), Err(CdiError::Conflict(_))));
        let hooked = folder(&[("h.json", r#"{"kind": "v.com/h", "devices": [{"name": "x", "containerEdits": {"hooks": [{"hookName": "createContainer", "path": "/x"}]}}]}"#)]);
        let refused = inject(&["v.com/h=x".into()], &[hooked.path()], &mut ContainerConfig::default()).expect_err("no hooks");
        assert_eq!(refused.to_string(), "CDI device v.com/h=x wants hooks, which this node's runtime does not do");
    }
}
