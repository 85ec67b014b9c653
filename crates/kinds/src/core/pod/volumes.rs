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
const QUOBYTE_TENANT_MAX_BYTES: usize = 64;
const INITIATOR_MAX_BYTES: usize = 64;
const LONG_INITIATOR: &str = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";
const TWO_PROJECTIONS: &str = "may not specify more than 1 volume type per source";

type Check = fn(&Field, &mut Problems);

/// Every volume source of a pod, in upstream's order, and its check. A source is checked at its own place, but for those that upstream
/// calls by another name there (see [`place`]).
const SOURCES: &[(&str, Check)] = &[
    ("emptyDir", empty_dir),
    ("hostPath", host_path),
    ("gitRepo", git_repo),
    ("gcePersistentDisk", |s, p| disk(s, "pdName", p)),
    ("awsElasticBlockStore", |s, p| disk(s, "volumeID", p)),
    ("secret", secret),
    ("nfs", nfs),
    ("iscsi", iscsi),
    ("glusterfs", |s, p| required(s, &["endpoints", "path"], p)),
    ("flocker", flocker),
    ("persistentVolumeClaim", |s, p| required(s, &["claimName"], p)),
    ("rbd", |s, p| required_list_and(s, "monitors", &["image"], p)),
    ("cinder", |s, p| required_and_secret(s, "volumeID", &["name"], p)),
    ("cephfs", |s, p| required_list_and(s, "monitors", &[], p)),
    ("quobyte", quobyte),
    ("downwardAPI", downward),
    ("fc", fibre_channel),
    ("flexVolume", flex),
    ("configMap", config_map),
    ("azureFile", |s, p| required(s, &["secretName", "shareName"], p)),
    ("vsphereVolume", |s, p| required(s, &["volumePath"], p)),
    ("photonPersistentDisk", |s, p| required(s, &["pdID"], p)),
    ("portworxVolume", |s, p| required(s, &["volumeID"], p)),
    ("azureDisk", azure_disk),
    ("storageos", |s, p| storage_os(s, &["name"], p)),
    ("projected", projected),
    ("scaleIO", |s, p| required(s, &["gateway", "system", "volumeName"], p)),
    ("csi", csi),
    ("ephemeral", ephemeral),
    ("image", image),
];

/// Where upstream's problems place what is wrong inside a source.
fn place<'a>(owner: &Field<'a>, name: &str) -> Field<'a> {
    let shown = if name == "gcePersistentDisk" { "persistentDisk" } else { name };
    Field::new(owner.get(name).value(), owner.at(shown))
}

/// Upstream's name of a source that is one too many.
fn one_too_many(name: &str) -> &str {
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

/// The source of a PersistentVolume called `name`; it stands among the fields of its spec.
pub fn persistent_source(spec: &Field, name: &str, p: &mut Problems) {
    const POD_ONLY: &[&str] = &["emptyDir", "gitRepo", "secret", "persistentVolumeClaim", "downwardAPI", "configMap", "projected", "ephemeral", "image"];
    let mut found = false;
    let others = SOURCES.iter().map(|(name, check)| (*name, *check)).filter(|(name, _)| !POD_ONLY.contains(name) && !PERSISTENT.iter().any(|(own, _)| own == name));
    for (kind, check) in others.chain(PERSISTENT.iter().copied()).filter(|(kind, _)| spec.has(kind)) {
        if std::mem::replace(&mut found, true) {
            p.forbidden(&spec.at(one_too_many(kind)), TWO_SOURCES);
            continue;
        }
        let s = place(spec, kind);
        check(&s, p);
        let portal = s.str("targetPortal");
        if kind == "iscsi" && s.has("initiatorName") && name.len() + 1 + portal.len() > INITIATOR_MAX_BYTES {
            p.invalid(&s.at("targetportal"), portal, LONG_INITIATOR);
        }
        if kind == "local" && !spec.has("nodeAffinity") {
            p.required(&spec.at("nodeAffinity"), "Local volume requires node affinity");
        }
    }
    if !found {
        p.required(spec.path(), "must specify a volume type");
    }
}

/// Sources that a PersistentVolume alone has, or that say more in it than in a pod.
const PERSISTENT: &[(&str, fn(&Field, &mut Problems))] = &[
    ("azureFile", persistent_azure_file),
    ("local", local),
    ("csi", persistent_csi),
    ("glusterfs", persistent_glusterfs),
    ("iscsi", persistent_iscsi),
    ("cinder", |s, p| required_and_secret(s, "volumeID", &["name", "namespace"], p)),
    ("storageos", |s, p| storage_os(s, &["name", "namespace"], p)),
];

fn persistent_glusterfs(s: &Field, p: &mut Problems) {
    required(s, &["endpoints", "path"], p);
    match s.opt_str("endpointsNamespace") {
        Some("") => p.invalid(&s.at("endpointsNamespace"), "", "if the endpointnamespace is set, it must be a valid namespace name"),
        Some(space) => invalid_each(p, &s.at("endpointsNamespace"), space, names::dns_label(space, false)),
        None => {}
    }
}

fn persistent_iscsi(s: &Field, p: &mut Problems) {
    iscsi_target(s, "must be valid format", p);
    if s.has("secretRef") {
        required(&s.get("secretRef"), &["name"], p);
    }
}

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
    for name in ["controllerPublishSecretRef", "controllerExpandSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef"] {
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

fn git_repo(s: &Field, p: &mut Problems) {
    required(s, &["repository"], p);
    local_descending(p, &s.at("directory"), s.str("directory"));
}

/// A disk by its id, and one of its partitions. Upstream says 1 and takes 0.
fn disk(s: &Field, id: &str, p: &mut Problems) {
    required(s, &[id], p);
    let n = s.int("partition");
    if !(0..=LUN_MAX).contains(&n) {
        p.invalid(&s.at("partition"), n, formats::between(1, LUN_MAX));
    }
}

/// One field, and a reference to a Secret with these fields when there is one.
fn required_and_secret(s: &Field, field: &str, of_secret: &[&str], p: &mut Problems) {
    required(s, &[field], p);
    if s.has("secretRef") {
        required(&s.get("secretRef"), of_secret, p);
    }
}

fn storage_os(s: &Field, of_secret: &[&str], p: &mut Problems) {
    required_and_secret(s, "volumeName", of_secret, p);
    for name in ["volumeName", "volumeNamespace"].iter().filter(|n| !s.str(n).is_empty()) {
        invalid_each(p, &s.at(name), s.str(name), names::dns_label(s.str(name), false));
    }
}

fn quobyte(s: &Field, p: &mut Problems) {
    const PAIRS: &str = "must be a host:port pair or multiple pairs separated by commas";
    let registry = s.str("registry");
    if registry.is_empty() {
        p.required(&s.at("registry"), PAIRS);
    } else if s.str("tenant").len() > QUOBYTE_TENANT_MAX_BYTES {
        p.required(&s.at("tenant"), "must be a UUID and may not exceed a length of 64 characters");
    } else {
        registry.split(',').filter(|pair| !is_host_port(pair)).for_each(|_| p.invalid(&s.at("registry"), registry, PAIRS));
    }
    required(s, &["volume"], p);
}

/// `host:port` as Go splits it: one colon outside of brackets.
fn is_host_port(pair: &str) -> bool {
    match pair.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(Some((_, rest))) => rest.strip_prefix(':').is_some_and(|port| !port.contains(':')),
        Some(None) => false,
        None => pair.split_once(':').is_some_and(|(_, port)| !port.contains(':')),
    }
}

fn flex(s: &Field, p: &mut Problems) {
    required(s, &["driver"], p);
    for (key, _) in s.map("options") {
        let domain = format!(".{}", key.split('/').next().filter(|_| key.contains('/')).unwrap_or(key).to_lowercase());
        if domain.ends_with(".kubernetes.io") || domain.ends_with(".k8s.io") {
            p.invalid(&s.at("options").key(key), key, "kubernetes.io and k8s.io namespaces are reserved");
        }
    }
}

fn azure_disk(s: &Field, p: &mut Problems) {
    required(s, &["diskName", "diskURI"], p);
    if let Some(mode) = s.opt_str("cachingMode") {
        one_of(p, &s.at("cachingMode"), mode, &["None", "ReadOnly", "ReadWrite"]);
    }
    let Some(kind) = s.opt_str("kind") else { return };
    one_of(p, &s.at("kind"), kind, &["Dedicated", "Managed", "Shared"]);
    let uri = s.str("diskURI");
    let (begins, forms) = match kind {
        "Managed" => ("/subscriptions/", "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"),
        _ => ("https://", "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"),
    };
    if !uri.starts_with(begins) {
        p.not_supported(&s.at("diskURI"), uri, &[forms]);
    }
}

fn nfs(s: &Field, p: &mut Problems) {
    required(s, &["server", "path"], p);
    if !s.str("path").starts_with('/') {
        p.invalid(&s.at("path"), s.str("path"), "must be an absolute path");
    }
}

fn iscsi(s: &Field, p: &mut Problems) {
    iscsi_target(s, "must be valid format starting with iqn, eui, or naa", p);
}

/// `other_form` is what is said of a name of none of the three forms.
fn iscsi_target(s: &Field, other_form: &str, p: &mut Problems) {
    required(s, &["targetPortal", "iqn"], p);
    if !s.str("iqn").is_empty() {
        iscsi_name(p, &s.at("iqn"), s.str("iqn"), other_form);
    }
    let lun = s.int("lun");
    if !(0..=LUN_MAX).contains(&lun) {
        p.invalid(&s.at("lun"), lun, formats::between(0, LUN_MAX));
    }
    if (s.bool("chapAuthDiscovery") || s.bool("chapAuthSession")) && !s.has("secretRef") {
        p.required(&s.at("secretRef"), "");
    }
    if let Some(name) = s.opt_str("initiatorName") {
        iscsi_name(p, &s.at("initiatorname"), name, other_form);
    }
}

/// RFC 3720's three forms: `iqn.2001-04.com.example:disk`, `eui.` and `naa.` with hexadecimal digits.
fn iscsi_name(p: &mut Problems, at: &Path, name: &str, other_form: &str) {
    let alnum = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric());
    let good = match name.get(..3) {
        Some("iqn") => is_iqn(name),
        Some("eui") => name.strip_prefix("eui.").is_some_and(|rest| rest.len() == 16 && alnum(rest)),
        Some("naa") => name.strip_prefix("naa.").is_some_and(|rest| rest.len() == 32 && alnum(rest)),
        _ => return p.invalid(at, name, other_form),
    };
    if !good {
        p.invalid(at, name, "must be valid format");
    }
}

/// `iqn.`, year and month, and anything but blanks after another dot.
fn is_iqn(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("iqn.") else { return false };
    let digits = |s: Option<&str>| s.is_some_and(|s| s.bytes().all(|b| b.is_ascii_digit()));
    let dated = digits(rest.get(..4)) && rest.get(4..5) == Some("-") && digits(rest.get(5..7)) && rest.get(7..8) == Some(".");
    let (domain, named) = rest.get(8..).map_or(("", None), |rest| rest.split_once(':').map_or((rest, None), |(domain, name)| (domain, Some(name))));
    let label = |l: &str| !l.is_empty() && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
    dated && label(domain) && domain.contains('.') && named.is_none_or(|n| !n.is_empty() && !n.bytes().any(|b| b.is_ascii_whitespace()))
}

fn fibre_channel(s: &Field, p: &mut Problems) {
    let (targets, ids) = (!s.list("targetWWNs").is_empty(), !s.list("wwids").is_empty());
    match (targets, ids) {
        (false, false) => p.required(&s.at("targetWWNs"), "must specify either targetWWNs or wwids, but not both"),
        (true, true) => p.invalid(&s.at("targetWWNs"), s.get("targetWWNs").value().clone(), "targetWWNs and wwids can not be specified simultaneously"),
        _ => {}
    }
    match s.opt_int("lun") {
        None if targets => p.required(&s.at("lun"), "lun is required if targetWWNs is specified"),
        Some(lun) if targets && !(0..=LUN_MAX).contains(&lun) => p.invalid(&s.at("lun"), lun, formats::between(0, LUN_MAX)),
        _ => {}
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
        let kinds: Vec<&str> = PROJECTIONS.iter().copied().filter(|k| source.has(k)).collect();
        for kind in &kinds {
            projection(kind, &source.get(kind), s, &mut taken, p);
        }
        if kinds.len() > 1 {
            p.forbidden(source.path(), TWO_PROJECTIONS);
        }
    }
}

const PROJECTIONS: &[&str] = &["secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle", "podCertificate"];

fn projection<'a>(kind: &str, one: &Field<'a>, projected: &Field, taken: &mut BTreeSet<&'a str>, p: &mut Problems) {
    let before = one.list("items").iter().filter_map(|i| i["path"].as_str());
    let paths: Vec<&str> = match kind {
        "secret" | "configMap" => {
            required(one, &["name"], p);
            keys_to_paths(one, p);
            before.collect()
        }
        "downwardAPI" => {
            one.items("items").iter().for_each(|item| downward_file(item, one, p));
            before.collect()
        }
        "serviceAccountToken" => return token(one, projected, p),
        "clusterTrustBundle" => {
            trust_bundle(one, p);
            vec![one.str("path")]
        }
        _ => {
            pod_certificate(one, p);
            CERTIFICATE_PATHS.iter().map(|f| one.str(f)).collect()
        }
    };
    for path in paths.into_iter().filter(|path| !path.is_empty()) {
        if !taken.insert(path) {
            // A Secret and a ConfigMap are named, other sources by their path.
            let shown = if matches!(kind, "secret" | "configMap") { one.str("name") } else { path };
            p.invalid(projected.path(), shown, "conflicting duplicate paths");
        }
    }
}

const CERTIFICATE_PATHS: &[&str] = &["credentialBundlePath", "keyPath", "certificateChainPath"];

fn pod_certificate(one: &Field, p: &mut Problems) {
    required(one, &["signerName", "keyType"], p);
    for field in CERTIFICATE_PATHS.iter().filter(|f| !one.str(f).is_empty()) {
        local_file(p, &one.at(field), one.str(field));
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
            p.invalid(&one.at("labelSelector"), one.get("labelSelector").value().clone(), "labelSelector must be unset if name is specified")
        }
        (true, false) if one.str("name").is_empty() => p.required(&one.at("name"), "must be a valid object name"),
        (false, true) => {
            if one.str("signerName").is_empty() {
                p.required(&one.at("signerName"), "must be a valid signer name");
            }
            labels::selector(p, &one.get("labelSelector"));
        }
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
