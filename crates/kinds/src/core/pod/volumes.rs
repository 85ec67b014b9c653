//! Volumes of a pod and how containers mount them.

use super::env;
use crate::core::persistent_volume_claim;
use crate::field::{Field, invalid_each, one_of, required_one_of};
use crate::formats::{self, MODE_MESSAGE};
use crate::labels;
use keles_api::quantity::Quantity;
use keles_api::{Path, Problems, names};
use serde_json::Value;
use std::collections::BTreeSet;

const CSI_DRIVER_NAME_MAX_BYTES: usize = 63;
const TOKEN_EXPIRATION_MIN_SECONDS: i64 = 600;
const TOKEN_EXPIRATION_MAX_SECONDS: i64 = 1 << 32;
const TWO_SOURCES: &str = "may not specify more than 1 volume type";
const HOST_PATH_TYPES: &[&str] = &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
const LUN_MAX: i64 = 255;

type Check = fn(&Field, &mut Problems);

/// Every volume source, in upstream's order, and its check.
const SOURCES: &[(&str, Check)] = &[
    ("emptyDir", empty_dir),
    ("hostPath", host_path),
    ("gitRepo", |s, p| required(s, &["repository"], p)),
    ("gcePersistentDisk", gce_disk),
    ("awsElasticBlockStore", aws_disk),
    ("secret", secret),
    ("nfs", nfs),
    ("iscsi", iscsi),
    ("glusterfs", |s, p| required(s, &["endpoints", "path"], p)),
    ("persistentVolumeClaim", |s, p| required(s, &["claimName"], p)),
    ("rbd", |s, p| required_list_and(s, "monitors", &["image"], p)),
    ("cinder", |s, p| required(s, &["volumeID"], p)),
    ("cephfs", |s, p| required_list_and(s, "monitors", &[], p)),
    ("flocker", flocker),
    ("downwardAPI", downward),
    ("fc", fibre_channel),
    ("configMap", config_map),
    ("azureFile", |s, p| required(s, &["secretName", "shareName"], p)),
    ("azureDisk", |s, p| required(s, &["diskName", "diskURI"], p)),
    ("storageos", |_, _| {}),
    ("projected", projected),
    ("quobyte", |s, p| required(s, &["registry", "volume"], p)),
    ("vsphereVolume", |s, p| required(s, &["volumePath"], p)),
    ("portworxVolume", |s, p| required(s, &["volumeID"], p)),
    ("photonPersistentDisk", |s, p| required(s, &["pdID"], p)),
    ("scaleIO", |s, p| required(s, &["gateway", "system", "volumeName"], p)),
    ("csi", csi),
    ("ephemeral", ephemeral),
    ("image", image),
];

/// Checks all volumes; answers the good ones, which containers may mount.
pub fn validate<'a>(spec: &Field<'a>, pod_name: Option<&str>, p: &mut Problems) -> Vec<Field<'a>> {
    let all = spec.items("volumes");
    let pod_name = pod_name.filter(|n| !n.is_empty());
    let made: BTreeSet<String> = match pod_name {
        Some(pod) => all.iter().filter(|v| v.get("ephemeral").has("volumeClaimTemplate")).map(|v| format!("{pod}-{}", v.str("name"))).collect(),
        None => BTreeSet::new(),
    };
    let mut good: Vec<Field> = Vec::new();
    for v in all {
        let mut found = Problems::new();
        source(&v, pod_name, &mut found);
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

/// The source of a PersistentVolume; it stands among the fields of its spec.
pub fn persistent_source(spec: &Field, p: &mut Problems) {
    const POD_ONLY: &[&str] = &["emptyDir", "gitRepo", "secret", "persistentVolumeClaim", "downwardAPI", "configMap", "projected", "ephemeral", "image"];
    let mut found = false;
    let others = SOURCES.iter().map(|(name, check)| (*name, *check)).filter(|(name, _)| !POD_ONLY.contains(name) && !PERSISTENT.iter().any(|(own, _)| own == name));
    for (name, check) in others.chain(PERSISTENT.iter().copied()).filter(|(name, _)| spec.has(name)) {
        let s = spec.get(name);
        if std::mem::replace(&mut found, true) {
            p.forbidden(s.path(), TWO_SOURCES);
            continue;
        }
        check(&s, p);
    }
    if !found {
        p.required(spec.path(), "must specify a volume type");
    }
}

/// Sources that a PersistentVolume alone has, or that say more in it than in a pod.
const PERSISTENT: &[(&str, fn(&Field, &mut Problems))] = &[("azureFile", persistent_azure_file), ("local", local), ("csi", persistent_csi)];

fn persistent_azure_file(s: &Field, p: &mut Problems) {
    required(s, &["secretName", "shareName"], p);
    if s.opt_str("secretNamespace") == Some("") {
        p.required(&s.at("secretNamespace"), "");
    }
}

fn local(s: &Field, p: &mut Problems) {
    if s.str("path").is_empty() {
        return p.required(&s.at("path"), "");
    }
    no_backsteps(p, &s.at("path"), s.str("path"));
}

fn persistent_csi(s: &Field, p: &mut Problems) {
    crate::resource::identifiers::driver(p, &s.at("driver"), s.str("driver"));
    required(s, &["volumeHandle"], p);
    for name in ["controllerPublishSecretRef", "nodeStageSecretRef", "nodePublishSecretRef", "controllerExpandSecretRef", "nodeExpandSecretRef"] {
        if s.has(name) {
            secret_reference(&s.get(name), p);
        }
    }
}

/// Name and namespace of a Secret.
fn secret_reference(s: &Field, p: &mut Problems) {
    required(s, &["name"], p);
    if !s.str("name").is_empty() {
        crate::field::invalid_each(p, &s.at("name"), s.str("name"), names::dns_subdomain(s.str("name"), false));
    }
    required(s, &["namespace"], p);
    if !s.str("namespace").is_empty() {
        crate::field::invalid_each(p, &s.at("namespace"), s.str("namespace"), names::dns_label(s.str("namespace"), false));
    }
}

fn source(v: &Field, pod_name: Option<&str>, p: &mut Problems) {
    let mut found = false;
    for (name, check) in SOURCES.iter().filter(|(name, _)| v.has(name)) {
        let s = v.get(name);
        if std::mem::replace(&mut found, true) {
            p.forbidden(s.path(), TWO_SOURCES);
            continue;
        }
        check(&s, p);
        let volume = v.str("name");
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

fn required(s: &Field, fields: &[&str], p: &mut Problems) {
    for f in fields.iter().filter(|f| s.str(f).is_empty()) {
        p.required(&s.at(f), "");
    }
}

fn required_list_and(s: &Field, list: &str, fields: &[&str], p: &mut Problems) {
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

fn gce_disk(s: &Field, p: &mut Problems) {
    required(s, &["pdName"], p);
    partition(s, p);
}

fn aws_disk(s: &Field, p: &mut Problems) {
    required(s, &["volumeID"], p);
    partition(s, p);
}

fn partition(s: &Field, p: &mut Problems) {
    let n = s.int("partition");
    if !(0..=LUN_MAX).contains(&n) {
        p.invalid(&s.at("partition"), n, formats::between(0, LUN_MAX));
    }
}

fn nfs(s: &Field, p: &mut Problems) {
    required(s, &["server", "path"], p);
    if !s.str("path").starts_with('/') {
        p.invalid(&s.at("path"), s.str("path"), "must be an absolute path");
    }
}

fn iscsi(s: &Field, p: &mut Problems) {
    required(s, &["targetPortal", "iqn"], p);
    let lun = s.int("lun");
    if !(0..=LUN_MAX).contains(&lun) {
        p.invalid(&s.at("lun"), lun, formats::between(0, LUN_MAX));
    }
}

fn fibre_channel(s: &Field, p: &mut Problems) {
    if s.list("targetWWNs").is_empty() && s.list("wwids").is_empty() {
        p.required(&s.at("targetWWNs"), "must specify either targetWWNs or wwids, but not both");
    }
    if !s.list("targetWWNs").is_empty() && !s.has("lun") {
        p.required(&s.at("lun"), "lun is required if targetWWNs is specified");
    }
}

fn flocker(s: &Field, p: &mut Problems) {
    match (s.str("datasetName"), s.str("datasetUUID")) {
        ("", "") => p.required(s.path(), "one of datasetName and datasetUUID is required"),
        ("", _) | (_, "") => {}
        _ => p.invalid(s.path(), "resource", "datasetName and datasetUUID can not be specified simultaneously"),
    }
    if s.str("datasetName").contains('/') {
        p.invalid(&s.at("datasetName"), s.str("datasetName"), "must not contain '/'");
    }
}

fn default_mode(s: &Field, p: &mut Problems) {
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

fn keys_to_paths(s: &Field, p: &mut Problems) {
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
fn downward_file(item: &Field, owner: &Field, p: &mut Problems) {
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

fn projected(s: &Field, p: &mut Problems) {
    default_mode(s, p);
    let mut taken: BTreeSet<&str> = BTreeSet::new();
    for source in s.items("sources") {
        let kinds = ["secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle", "podCertificate"];
        let mut found = false;
        for kind in kinds.iter().filter(|k| source.has(k)) {
            let one = source.get(kind);
            if std::mem::replace(&mut found, true) {
                p.forbidden(one.path(), TWO_SOURCES);
            }
            projection(kind, &one, s, &mut taken, p);
        }
    }
}

fn projection<'a>(kind: &str, one: &Field<'a>, projected: &Field, taken: &mut BTreeSet<&'a str>, p: &mut Problems) {
    match kind {
        "secret" | "configMap" => {
            required(one, &["name"], p);
            keys_to_paths(one, p);
        }
        "downwardAPI" => one.items("items").iter().for_each(|item| downward_file(item, one, p)),
        "serviceAccountToken" => token(one, projected, p),
        "clusterTrustBundle" => trust_bundle(one, p),
        _ => required(one, &["signerName", "keyType"], p),
    }
    let name = if kind == "downwardAPI" || one.str("name").is_empty() { Value::from("") } else { Value::from(one.str("name")) };
    for path in one.list("items").iter().filter_map(|i| i["path"].as_str()).chain(one.opt_str("path")).filter(|path| !path.is_empty()) {
        if !taken.insert(path) {
            p.invalid(projected.path(), name.clone(), "conflicting duplicate paths");
        }
    }
}

fn token(one: &Field, projected: &Field, p: &mut Problems) {
    let seconds = one.int("expirationSeconds");
    if seconds < TOKEN_EXPIRATION_MIN_SECONDS {
        p.invalid(&one.at("expirationSeconds"), seconds, "may not specify a duration less than 10 minutes");
    }
    if seconds > TOKEN_EXPIRATION_MAX_SECONDS {
        p.invalid(&one.at("expirationSeconds"), seconds, "may not specify a duration larger than 2^32 seconds");
    }
    match one.str("path") {
        "" => p.required(&projected.at("path"), ""),
        path => local_file(p, &projected.at("path"), path),
    }
}

fn trust_bundle(one: &Field, p: &mut Problems) {
    match (one.has("name"), one.has("signerName")) {
        (true, true) => p.invalid(one.path(), one.value().clone(), "only one of name and signerName may be used"),
        (false, false) => p.required(one.path(), "either name or signerName must be specified"),
        (true, false) if one.has("labelSelector") => {
            p.invalid(&one.at("labelSelector"), one.get("labelSelector").value().clone(), "labelSelector must not be specified when name is specified")
        }
        (true, false) if one.str("name").is_empty() => p.required(&one.at("name"), "must be a valid object name"),
        (false, true) => labels::selector(p, &one.get("labelSelector")),
        _ => {}
    }
    match one.str("path") {
        "" => p.required(&one.at("path"), ""),
        path => local_file(p, &one.at("path"), path),
    }
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
    if s.has("nodePublishSecretRef") && s.get("nodePublishSecretRef").str("name").is_empty() {
        p.required(&s.get("nodePublishSecretRef").at("name"), "");
    }
}

fn ephemeral(s: &Field, p: &mut Problems) {
    if !s.has("volumeClaimTemplate") {
        p.required(&s.at("volumeClaimTemplate"), "");
        return;
    }
    let template = s.get("volumeClaimTemplate");
    labels::labels(p, &template.get("metadata").get("labels"));
    labels::annotations(p, &template.get("metadata").get("annotations"));
    for name in template.get("metadata").value().as_object().into_iter().flatten().map(|e| e.0.as_str()) {
        if !["labels", "annotations", "creationTimestamp"].contains(&name) {
            p.forbidden(&template.get("metadata").at(name), "cannot be set for an ephemeral volume");
        }
    }
    persistent_volume_claim::validate_claim_spec(&template.get("spec"), p);
}

fn image(s: &Field, p: &mut Problems) {
    required(s, &["reference"], p);
    required_one_of(p, &s.at("pullPolicy"), s.str("pullPolicy"), super::containers::PULL_POLICIES);
}

/// No `..` among the parts of a path.
fn no_backsteps(p: &mut Problems, at: &Path, path: &str) {
    if has_backsteps(path) {
        p.invalid(at, path, "must not contain '..'");
    }
}

fn has_backsteps(path: &str) -> bool {
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
    if path.starts_with("..") && !path.starts_with("../") && path != ".." {
        p.invalid(at, path, "must not start with '..'");
    }
}

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
            p.invalid(&owner.at("subPathExpr"), expr, "subPathExpr and subPath are mutually exclusive");
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
        if !names_seen.insert(name) {
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
        if !paths_seen.insert(path) {
            p.invalid(&d.at("devicePath"), path, "must be unique");
        }
        if has_backsteps(path) {
            p.invalid(&d.at("devicePath"), path, "can not contain backsteps ('..')");
        }
        if c.list("volumeMounts").iter().any(|m| m["mountPath"].as_str() == Some(path)) {
            p.invalid(&d.at("devicePath"), path, "must not already exist as a path in volumeMounts");
        }
        if c.list("volumeMounts").iter().any(|m| m["name"].as_str() == Some(name)) {
            p.invalid(&d.at("name"), name, "must not already exist in volumeMounts");
        }
    }
}
