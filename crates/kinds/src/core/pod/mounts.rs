//! How containers mount volumes, as folders and as block devices.

use super::volumes::{has_backsteps, local_descending, required};
use crate::field::{Field, one_of};
use keles_api::Problems;
use std::collections::BTreeSet;

pub fn mounts(c: &Field, volumes: &[Field], p: &mut Problems) {
    let (mut seen, owner) = (BTreeSet::new(), c.get("volumeMounts"));
    for m in c.items("volumeMounts") {
        let (name, path) = (m.str("name"), m.str("mountPath"));
        required(&m, &["name"], p);
        if !volumes.iter().any(|v| v.str("name") == name) {
            p.not_found(&m.at("name"), name);
        }
        required(&m, &["mountPath"], p);
        if !seen.insert(path) {
            p.invalid(&m.at("mountPath"), path, "must be unique");
        }
        let devices = c.list("volumeDevices");
        if devices.iter().any(|d| d["name"].as_str() == Some(name)) {
            p.invalid(&m.at("name"), name, "must not already exist in volumeDevices");
        }
        if devices.iter().any(|d| d["devicePath"].as_str() == Some(path)) {
            p.invalid(&m.at("mountPath"), path, "must not already exist as a path in volumeDevices");
        }
        sub_path(&m, &owner, p);
        propagation(&m, &owner, c, p);
        recursive_read_only(&m, &owner, p);
    }
}

/// Problems name the list, not the mount, as upstream has it.
fn sub_path(m: &Field, owner: &Field, p: &mut Problems) {
    let (plain, expr) = (m.str("subPath"), m.str("subPathExpr"));
    if !plain.is_empty() {
        local_descending(p, &owner.at("subPath"), plain);
    }
    if !expr.is_empty() {
        if !plain.is_empty() {
            p.invalid(&m.at("subPathExpr"), expr, "subPathExpr and subPath are mutually exclusive");
        }
        local_descending(p, &owner.at("subPathExpr"), expr);
    }
}

fn propagation(m: &Field, owner: &Field, c: &Field, p: &mut Problems) {
    let Some(mode) = m.opt_str("mountPropagation") else { return };
    one_of(p, &owner.at("mountPropagation"), mode, &["Bidirectional", "HostToContainer", "None"]);
    if mode == "Bidirectional" && !c.get("securityContext").bool("privileged") {
        p.forbidden(&owner.at("mountPropagation"), "Bidirectional mount propagation is available only to privileged containers");
    }
}

fn recursive_read_only(m: &Field, owner: &Field, p: &mut Problems) {
    let Some(mode) = m.opt_str("recursiveReadOnly") else { return };
    let at = owner.at("recursiveReadOnly");
    one_of(p, &at, mode, &["Disabled", "Enabled", "IfPossible"]);
    if mode != "Enabled" && mode != "IfPossible" {
        return;
    }
    if !m.bool("readOnly") {
        p.forbidden(&at, "may only be specified when readOnly is true");
    }
    if !matches!(m.str("mountPropagation"), "" | "None") {
        p.forbidden(&at, "may only be specified when mountPropagation is None or not specified");
    }
}

pub fn devices(c: &Field, volumes: &[Field], p: &mut Problems) {
    let (mut names_seen, mut paths_seen) = (BTreeSet::new(), BTreeSet::new());
    for d in c.items("volumeDevices") {
        let (name, path) = (d.str("name"), d.str("devicePath"));
        required(&d, &["name"], p);
        if names_seen.contains(name) {
            p.invalid(&d.at("name"), name, "must be unique");
        }
        match volumes.iter().find(|v| v.str("name") == name) {
            None => p.not_found(&d.at("name"), name),
            Some(v) if !v.has("persistentVolumeClaim") && !v.has("ephemeral") => {
                p.invalid(&d.at("name"), name, "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode");
            }
            Some(_) => {}
        }
        required(&d, &["devicePath"], p);
        if paths_seen.contains(path) {
            p.invalid(&d.at("devicePath"), path, "must be unique");
        }
        if has_backsteps(path) {
            p.invalid(&d.at("devicePath"), path, "can not contain backsteps ('..')");
        } else {
            paths_seen.insert(path);
        }
        if !name.is_empty() {
            names_seen.insert(name);
        }
        if c.list("volumeMounts").iter().any(|m| m["mountPath"].as_str() == Some(path)) {
            p.invalid(&d.at("devicePath"), path, "must not already exist as a path in volumeMounts");
        }
        if c.list("volumeMounts").iter().any(|m| m["name"].as_str() == Some(name)) {
            p.invalid(&d.at("name"), name, "must not already exist in volumeMounts");
        }
    }
}
