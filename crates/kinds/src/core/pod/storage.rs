//! Volume sources that name storage of somebody else's: disks, shares, block devices. Most are gone from the kubelet, and checked still.

use super::volumes::{local_descending, required};
use crate::field::{Field, invalid_each, one_of};
use crate::formats;
use keles_api::{Path, Problems, names};

const LUN_MAX: i64 = 255;
const QUOBYTE_TENANT_MAX_BYTES: usize = 64;

pub(super) fn git_repo(s: &Field, p: &mut Problems) {
    required(s, &["repository"], p);
    local_descending(p, &s.at("directory"), s.str("directory"));
}

/// A disk by its id, and one of its partitions. Upstream says 1 and takes 0.
pub(super) fn disk(s: &Field, id: &str, p: &mut Problems) {
    required(s, &[id], p);
    let n = s.int("partition");
    if !(0..=LUN_MAX).contains(&n) {
        p.invalid(&s.at("partition"), n, formats::between(1, LUN_MAX));
    }
}

/// One field, and a reference to a Secret with these fields when there is one.
pub(super) fn required_and_secret(s: &Field, field: &str, of_secret: &[&str], p: &mut Problems) {
    required(s, &[field], p);
    if s.has("secretRef") {
        required(&s.get("secretRef"), of_secret, p);
    }
}

pub(super) fn storage_os(s: &Field, of_secret: &[&str], p: &mut Problems) {
    required_and_secret(s, "volumeName", of_secret, p);
    for name in ["volumeName", "volumeNamespace"].iter().filter(|n| !s.str(n).is_empty()) {
        invalid_each(p, &s.at(name), s.str(name), names::dns_label(s.str(name), false));
    }
}

pub(super) fn quobyte(s: &Field, p: &mut Problems) {
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

pub(super) fn flex(s: &Field, p: &mut Problems) {
    required(s, &["driver"], p);
    for (key, _) in s.map("options") {
        let domain = format!(".{}", key.split('/').next().filter(|_| key.contains('/')).unwrap_or(key).to_lowercase());
        if domain.ends_with(".kubernetes.io") || domain.ends_with(".k8s.io") {
            p.invalid(&s.at("options").key(key), key, "kubernetes.io and k8s.io namespaces are reserved");
        }
    }
}

pub(super) fn azure_disk(s: &Field, p: &mut Problems) {
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

pub(super) fn nfs(s: &Field, p: &mut Problems) {
    required(s, &["server", "path"], p);
    if !s.str("path").starts_with('/') {
        p.invalid(&s.at("path"), s.str("path"), "must be an absolute path");
    }
}

pub(super) fn iscsi(s: &Field, p: &mut Problems) {
    iscsi_target(s, "must be valid format starting with iqn, eui, or naa", p);
}

/// `other_form` is what is said of a name of none of the three forms.
pub(super) fn iscsi_target(s: &Field, other_form: &str, p: &mut Problems) {
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

/// `iqn.`, year and month, a domain, and a name of its own after a colon.
fn is_iqn(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("iqn.") else { return false };
    let digits = |s: Option<&str>| s.is_some_and(|s| s.bytes().all(|b| b.is_ascii_digit()));
    let dated = digits(rest.get(..4)) && rest.get(4..5) == Some("-") && digits(rest.get(5..7)) && rest.get(7..8) == Some(".");
    let (domain, named) = rest.get(8..).map_or(("", None), |rest| rest.split_once(':').map_or((rest, None), |(domain, name)| (domain, Some(name))));
    let label = |l: &str| !l.is_empty() && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
    dated && label(domain) && named.is_some_and(|n| !n.is_empty() && !n.bytes().any(|b| b.is_ascii_whitespace() || b",;*&$|".contains(&b)))
}

pub(super) fn fibre_channel(s: &Field, p: &mut Problems) {
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

pub(super) fn flocker(s: &Field, p: &mut Problems) {
    match (s.str("datasetName"), s.str("datasetUUID")) {
        ("", "") => p.required(s.path(), "one of datasetName and datasetUUID is required"),
        ("", _) | (_, "") => {}
        _ => p.invalid(s.path(), "resource", "datasetName and datasetUUID can not be specified simultaneously"),
    }
    if s.str("datasetName").contains('/') {
        p.invalid(&s.at("datasetName"), s.str("datasetName"), "must not contain '/'");
    }
}
