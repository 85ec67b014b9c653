//! Projected volumes: files of several sources in one folder.

use super::volumes::{default_mode, downward_file, keys_to_paths, local_file, required};
use crate::field::Field;
use crate::labels;
use keles_api::Problems;
use std::collections::BTreeSet;

const TOKEN_EXPIRATION_MIN_SECONDS: i64 = 600;
const TOKEN_EXPIRATION_MAX_SECONDS: i64 = 1 << 32;
const TWO_PROJECTIONS: &str = "may not specify more than 1 volume type per source";

pub(super) fn projected(s: &Field, p: &mut Problems) {
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
