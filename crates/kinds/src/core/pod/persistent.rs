//! The sources of a PersistentVolume: those of pods that outlive them, and what such a volume says more of them.

use super::storage::{iscsi_target, required_and_secret, storage_os};
use super::volumes::{Check, INITIATOR_MAX_BYTES, LONG_INITIATOR, SOURCES, TWO_SOURCES, no_backsteps, one_too_many, place, required};
use crate::field::{Field, invalid_each};
use keles_api::{Problems, names};

/// The source of a PersistentVolume called `name`; it stands among the fields of its spec.
pub fn source(spec: &Field, name: &str, p: &mut Problems) {
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
const PERSISTENT: &[(&str, Check)] = &[
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
        invalid_each(p, &s.at("name"), s.str("name"), names::dns_subdomain(s.str("name"), false));
    }
    required(s, &["namespace"], p);
    if !s.str("namespace").is_empty() {
        invalid_each(p, &s.at("namespace"), s.str("namespace"), names::dns_label(s.str("namespace"), false));
    }
}
