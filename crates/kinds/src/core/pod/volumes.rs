//! Volumes of a pod and how containers mount them.

use super::{env, projections, storage};
use crate::core::persistent_volume_claim;
use crate::field::{Field, invalid_each, one_of, required_one_of};
use crate::formats::{self, MODE_MESSAGE};
use crate::labels;
use keles_api::quantity::Quantity;
use keles_api::{Path, Problems, names};
use serde_json::Value;
use std::collections::BTreeSet;

const CSI_DRIVER_NAME_MAX_BYTES: usize = 63;
pub(super) const TWO_SOURCES: &str = "may not specify more than 1 volume type";
const HOST_PATH_TYPES: &[&str] = &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
pub(super) const INITIATOR_MAX_BYTES: usize = 64;
pub(super) const LONG_INITIATOR: &str = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";

pub(super) type Check = fn(&Field, &mut Problems);

/// Every volume source of a pod, in upstream's order, and its check. A source is checked at its own place, but for those that upstream
/// calls by another name there (see [`place`]).
pub(super) const SOURCES: &[(&str, Check)] = &[
    ("emptyDir", empty_dir),
    ("hostPath", host_path),
    ("gitRepo", storage::git_repo),
    ("gcePersistentDisk", |s, p| storage::disk(s, "pdName", p)),
    ("awsElasticBlockStore", |s, p| storage::disk(s, "volumeID", p)),
    ("secret", secret),
    ("nfs", storage::nfs),
    ("iscsi", storage::iscsi),
    ("glusterfs", |s, p| required(s, &["endpoints", "path"], p)),
    ("flocker", storage::flocker),
    ("persistentVolumeClaim", |s, p| required(s, &["claimName"], p)),
    ("rbd", |s, p| required_list_and(s, "monitors", &["image"], p)),
    ("cinder", |s, p| storage::required_and_secret(s, "volumeID", &["name"], p)),
    ("cephfs", |s, p| required_list_and(s, "monitors", &[], p)),
    ("quobyte", storage::quobyte),
    ("downwardAPI", downward),
    ("fc", storage::fibre_channel),
    ("flexVolume", storage::flex),
    ("configMap", config_map),
    ("azureFile", |s, p| required(s, &["secretName", "shareName"], p)),
    ("vsphereVolume", |s, p| required(s, &["volumePath"], p)),
    ("photonPersistentDisk", |s, p| required(s, &["pdID"], p)),
    ("portworxVolume", |s, p| required(s, &["volumeID"], p)),
    ("azureDisk", storage::azure_disk),
    ("storageos", |s, p| storage::storage_os(s, &["name"], p)),
    ("projected", projections::projected),
    ("scaleIO", |s, p| required(s, &["gateway", "system", "volumeName"], p)),
    ("csi", csi),
    ("ephemeral", ephemeral),
    ("image", image),
];

/// Where upstream's problems place what is wrong inside a source.
pub(super) fn place<'a>(owner: &Field<'a>, name: &str) -> Field<'a> {
    let shown = if name == "gcePersistentDisk" { "persistentDisk" } else { name };
    Field::new(owner.get(name).value(), owner.at(shown))
}

/// Upstream's name of a source that is one too many.
pub(super) fn one_too_many(name: &str) -> &str {
    match name {
        "cephfs" => "cephFS",
        "downwardAPI" => "downwarAPI",
        other => other,
    }
}

/// Checks all volumes; answers the good ones, which containers may mount.
pub fn validate<'a>(spec: &Field<'a>, pod_name: Option<&str>, p: &mut Problems) -> Vec<Field<'a>> {
    let all = spec.items("volumes");
    let is_pod = pod_name.is_some();
    let pod_name = pod_name.filter(|n| !n.is_empty());
    let made: BTreeSet<String> = match pod_name {
        Some(pod) => all.iter().filter(|v| v.get("ephemeral").has("volumeClaimTemplate")).map(|v| format!("{pod}-{}", v.str("name"))).collect(),
        None => BTreeSet::new(),
    };
    let mut good: Vec<Field> = Vec::new();
    for v in all {
        let mut found = Problems::new();
        source(&v, pod_name, is_pod, &mut found);
        let name = v.str("name");
        match name {
            "" => found.required(&v.at("name"), ""),
            _ => invalid_each(&mut found, &v.at("name"), name, names::dns_label(name, false)),
        }
        if good.iter().any(|g| g.str("name") == name) {
            found.duplicate(&v.at("name"), name);
        }
        let claim = v.get("persistentVolumeClaim");
        let is_good = found.is_empty();
        found.into_vec().into_iter().for_each(|f| p.push(f));
        if made.contains(claim.str("claimName")) {
            p.invalid(&claim.at("claimName"), claim.str("claimName"), "must not reference a PVC that gets created for an ephemeral volume");
        }
        if is_good {
            good.push(v);
        }
    }
    good
}

fn source(v: &Field, pod_name: Option<&str>, is_pod: bool, p: &mut Problems) {
    let mut found = false;
    let volume = v.str("name");
    for (name, check) in SOURCES.iter().filter(|(name, _)| v.has(name)) {
        let s = place(v, name);
        if *name == "iscsi" && s.has("initiatorName") && volume.len() + 1 + s.str("targetPortal").len() > INITIATOR_MAX_BYTES {
            p.invalid(&v.at("name"), volume, LONG_INITIATOR);
        }
        if std::mem::replace(&mut found, true) {
            p.forbidden(&v.at(one_too_many(name)), TWO_SOURCES);
            continue;
        }
        check(&s, p);
        if *name == "image" && is_pod {
            // A template may leave it to whoever makes a pod of it.
            required(&s, &["reference"], p);
        }
        if let ("ephemeral", Some(pod), false) = (*name, pod_name, volume.is_empty()) {
            let claim = format!("{pod}-{volume}");
            for message in names::dns_subdomain(&claim, false) {
                p.invalid(&v.at("name"), volume, format!("PVC name \"{claim}\": {message}"));
            }
        }
    }
    if !found {
        p.required(v.path(), "must specify a volume type");
    }
}

pub(super) fn required(s: &Field, fields: &[&str], p: &mut Problems) {
    for f in fields.iter().filter(|f| s.str(f).is_empty()) {
        p.required(&s.at(f), "");
    }
}

pub(super) fn required_list_and(s: &Field, list: &str, fields: &[&str], p: &mut Problems) {
    if s.list(list).is_empty() {
        p.required(&s.at(list), "");
    }
    required(s, fields, p);
}

fn empty_dir(s: &Field, p: &mut Problems) {
    if Quantity::parse(s.str("sizeLimit")).is_ok_and(|q| q.sign() < 0) {
        p.forbidden(&s.at("sizeLimit"), "SizeLimit field must be a valid resource quantity");
    }
}

fn host_path(s: &Field, p: &mut Problems) {
    if s.str("path").is_empty() {
        p.required(&s.at("path"), "");
        return;
    }
    no_backsteps(p, &s.at("path"), s.str("path"));
    one_of(p, &s.at("type"), s.str("type"), HOST_PATH_TYPES);
}

pub(super) fn default_mode(s: &Field, p: &mut Problems) {
    mode(s, "defaultMode", p);
}

fn mode(s: &Field, field: &str, p: &mut Problems) {
    if let Some(bits) = s.opt_int(field).filter(|bits| !formats::mode(*bits)) {
        p.invalid(&s.at(field), bits, MODE_MESSAGE);
    }
}

fn secret(s: &Field, p: &mut Problems) {
    required(s, &["secretName"], p);
    default_mode(s, p);
    keys_to_paths(s, p);
}

fn config_map(s: &Field, p: &mut Problems) {
    required(s, &["name"], p);
    default_mode(s, p);
    keys_to_paths(s, p);
}

pub(super) fn keys_to_paths(s: &Field, p: &mut Problems) {
    for item in s.items("items") {
        required(&item, &["key"], p);
        match item.str("path") {
            "" => p.required(&item.at("path"), ""),
            path => local_file(p, &item.at("path"), path),
        }
        mode(&item, "mode", p);
    }
}

fn downward(s: &Field, p: &mut Problems) {
    default_mode(s, p);
    for item in s.items("items") {
        downward_file(&item, s, p);
    }
}

/// Problems name the list's owner, not the entry, as upstream has it.
pub(super) fn downward_file(item: &Field, owner: &Field, p: &mut Problems) {
    let place = Field::new(item.value(), owner.path().clone());
    match item.str("path") {
        "" => p.required(&place.at("path"), ""),
        path => local_file(p, &place.at("path"), path),
    }
    match (item.has("fieldRef"), item.has("resourceFieldRef")) {
        (true, both) => {
            env::field_ref(&place.get("fieldRef"), env::VOLUME_FIELDS, p);
            if both {
                p.invalid(place.path(), "resource", "fieldRef and resourceFieldRef can not be specified simultaneously");
            }
        }
        (false, true) => env::resource_ref(&place.get("resourceFieldRef"), true, p),
        (false, false) => p.required(place.path(), "one of fieldRef and resourceFieldRef is required"),
    }
    mode(&place, "mode", p);
}

/// The name of a CSI driver.
pub fn csi_driver(p: &mut Problems, at: &Path, name: &str) {
    if name.is_empty() {
        p.required(at, "");
    }
    if name.len() > CSI_DRIVER_NAME_MAX_BYTES {
        p.too_long(at, CSI_DRIVER_NAME_MAX_BYTES);
    }
    if !name.is_empty() {
        invalid_each(p, at, name, names::dns_subdomain(&name.to_lowercase(), false));
    }
}

fn csi(s: &Field, p: &mut Problems) {
    csi_driver(p, &s.at("driver"), s.str("driver"));
    let secret = s.get("nodePublishSecretRef");
    match secret.str("name") {
        _ if !secret.is_set() => {}
        "" => p.required(&secret.at("name"), ""),
        // Upstream places it beside the reference.
        name => invalid_each(p, &s.at("name"), name, names::dns_subdomain(name, false)),
    }
}

fn ephemeral(s: &Field, p: &mut Problems) {
    if !s.has("volumeClaimTemplate") {
        p.required(&s.at("volumeClaimTemplate"), "");
        return;
    }
    let template = s.get("volumeClaimTemplate");
    let meta = template.get("metadata");
    labels::annotations(p, &meta.get("annotations"));
    labels::labels(p, &meta.get("labels"));
    let set = meta.value().as_object().into_iter().flatten().filter(|(_, v)| !crate::field::same(v, &Value::Null));
    for (name, _) in set.filter(|(name, _)| !["labels", "annotations"].contains(&name.as_str())) {
        p.forbidden(&meta.at(name), "cannot be set");
    }
    persistent_volume_claim::validate_claim_spec(&template.get("spec"), p);
}

fn image(s: &Field, p: &mut Problems) {
    required_one_of(p, &s.at("pullPolicy"), s.str("pullPolicy"), super::containers::PULL_POLICIES);
}

/// No `..` among the parts of a path.
pub(super) fn no_backsteps(p: &mut Problems, at: &Path, path: &str) {
    if has_backsteps(path) {
        p.invalid(at, path, "must not contain '..'");
    }
}

pub(super) fn has_backsteps(path: &str) -> bool {
    path.split('/').any(|part| part == "..")
}

/// A relative path that stays below where it starts.
pub fn local_descending(p: &mut Problems, at: &Path, path: &str) {
    if path.starts_with('/') {
        p.invalid(at, path, "must be a relative path");
    }
    no_backsteps(p, at, path);
}

/// A descending path whose first name is not reserved for the atomic writer.
pub fn local_file(p: &mut Problems, at: &Path, path: &str) {
    local_descending(p, at, path);
    if path.starts_with("..") && !path.starts_with("../") {
        p.invalid(at, path, "must not start with '..'");
    }
}
