//! Environment of containers: variables, whole maps, and references to fields and resources of the pod.

use super::containers;
use crate::field::{Field, invalid_each};
use crate::formats;
use keles_api::{Path, Problems, names};

const ENV_FIELDS: &[&str] =
    &["metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"];
pub const VOLUME_FIELDS: &[&str] = &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
/// Every field the downward API has had a name for; which of them a place takes is another question.
const KNOWN_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
    "spec.host",
];
const RESOURCES: &[&str] = &["limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"];
const CPU_DIVISORS: &[&str] = &["1m", "1"];
const BYTE_DIVISORS: &[&str] = &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

pub fn variables(c: &Field, p: &mut Problems) {
    for e in c.items("env") {
        match e.str("name") {
            "" => p.required(&e.at("name"), ""),
            name => invalid_each(p, &e.at("name"), name, formats::env_name(name)),
        }
        if e.has("valueFrom") {
            value_from(&e.get("valueFrom"), e.str("value"), p);
        }
    }
}

fn value_from(from: &Field, value: &str, p: &mut Problems) {
    if from.has("fieldRef") {
        field_ref(&from.get("fieldRef"), ENV_FIELDS, p);
    }
    if from.has("resourceFieldRef") {
        resource_ref(&from.get("resourceFieldRef"), false, p);
    }
    for name in ["configMapKeyRef", "secretKeyRef"] {
        if from.has(name) {
            key_ref(&from.get(name), p);
        }
    }
    if from.has("fileKeyRef") {
        file_key_ref(&from.get("fileKeyRef"), p);
    }
    let sources = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"].iter().filter(|s| from.has(s)).count();
    match sources {
        0 => p.invalid(from.path(), "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"),
        _ if !value.is_empty() => p.invalid(from.path(), "", "may not be specified when `value` is not empty"),
        1 => {}
        _ => p.invalid(from.path(), "", "may not have more than one field specified at a time"),
    }
}

fn key_ref(r: &Field, p: &mut Problems) {
    invalid_each(p, &r.at("name"), r.str("name"), names::dns_subdomain(r.str("name"), false));
    match r.str("key") {
        "" => p.required(&r.at("key"), ""),
        key => invalid_each(p, &r.at("key"), key, formats::config_key(key)),
    }
}

fn file_key_ref(r: &Field, p: &mut Problems) {
    match r.str("key") {
        "" => p.required(&r.at("key"), ""),
        key => invalid_each(p, &r.at("key"), key, formats::env_name(key)),
    }
    match r.str("volumeName") {
        "" => p.required(&r.at("volumeName"), ""),
        name => invalid_each(p, &r.at("volumeName"), name, names::dns_label(name, false)),
    }
    match r.str("path") {
        "" => p.required(&r.at("path"), ""),
        path => super::volumes::no_backsteps(p, &r.at("path"), path),
    }
}

/// Files of variables lie in volumes of type emptyDir.
pub fn file_volumes(spec: &Field, p: &mut Problems) {
    let volumes = spec.items("volumes");
    for e in containers::all(spec).iter().flat_map(|c| c.items("env")) {
        let r = e.get("valueFrom").get("fileKeyRef");
        if !r.is_set() {
            continue;
        }
        let name = r.str("volumeName");
        // Of several volumes with one name the last counts.
        match volumes.iter().rev().find(|v| v.str("name") == name) {
            None => p.not_found(&r.at("volumeName"), name),
            Some(v) if !v.has("emptyDir") => p.invalid(&r.at("volumeName"), name, "referenced volume must be of type emptyDir"),
            Some(_) => {}
        }
    }
}

pub fn sources(c: &Field, p: &mut Problems) {
    let at = c.at("envFrom");
    for from in c.items("envFrom") {
        let prefix = from.str("prefix");
        if !prefix.is_empty() {
            invalid_each(p, &from.at("prefix"), prefix, formats::env_name(prefix));
        }
        for name in ["configMapRef", "secretRef"].iter().filter(|n| from.has(n)) {
            let r = from.get(name);
            match r.str("name") {
                "" => p.required(&r.at("name"), ""),
                value => invalid_each(p, &r.at("name"), value, names::dns_subdomain(value, true)),
            }
        }
        match (from.has("configMapRef"), from.has("secretRef")) {
            (false, false) => p.invalid(&at, "", "must specify one of: `configMapRef` or `secretRef`"),
            (true, true) => p.invalid(&at, "", "may not have more than one field specified at a time"),
            _ => {}
        }
    }
}

/// A field of the pod, by its path; `metadata.labels['x']` names one entry.
pub fn field_ref(r: &Field, allowed: &[&str], p: &mut Problems) {
    if r.str("apiVersion").is_empty() {
        p.required(&r.at("apiVersion"), "");
        return;
    }
    let path = r.str("fieldPath");
    if path.is_empty() {
        p.required(&r.at("fieldPath"), "");
        return;
    }
    if r.str("apiVersion") != "v1" {
        p.invalid(&r.at("fieldPath"), path, format!("error converting fieldPath: unsupported pod version: {}", r.str("apiVersion")));
        return;
    }
    match subscript(path) {
        Some((map @ ("metadata.annotations" | "metadata.labels"), key)) => {
            let key = if map == "metadata.annotations" { key.to_lowercase() } else { key.to_owned() };
            invalid_each(p, r.path(), &key, names::qualified_name(&key));
        }
        Some(_) => p.invalid(&r.at("fieldPath"), path, format!("error converting fieldPath: field label does not support subscript: {path}")),
        _ if !KNOWN_FIELDS.contains(&path) => p.invalid(&r.at("fieldPath"), path, format!("error converting fieldPath: field label not supported: {path}")),
        _ if !allowed.contains(&path) => p.not_supported(&r.at("fieldPath"), path, allowed),
        _ => {}
    }
}

/// `metadata.labels['x']` as `("metadata.labels", "x")`.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    rest.strip_suffix("']").map(|key| (map, key))
}

/// A resource of a container; in a volume the container must be named.
pub fn resource_ref(r: &Field, in_volume: bool, p: &mut Problems) {
    let resource = r.str("resource");
    let huge = resource.starts_with("limits.hugepages-") || resource.starts_with("requests.hugepages-");
    if in_volume && r.str("containerName").is_empty() {
        p.required(&r.at("containerName"), "");
    } else if resource.is_empty() {
        p.required(&r.at("resource"), "");
    } else if !RESOURCES.contains(&resource) && !huge {
        p.not_supported(&r.at("resource"), resource, RESOURCES);
    }
    divisor(&r.at("divisor"), resource, r.str("divisor"), huge, p);
}

fn divisor(at: &Path, resource: &str, divisor: &str, huge: bool, p: &mut Problems) {
    let (allowed, what) = match resource.split_once('.').map(|r| r.1).unwrap_or("") {
        "cpu" => (CPU_DIVISORS, "cpu"),
        "memory" => (BYTE_DIVISORS, "memory"),
        "ephemeral-storage" => (BYTE_DIVISORS, "local ephemeral storage"),
        _ if huge => (BYTE_DIVISORS, "hugepages"),
        _ => return,
    };
    if !divisor.is_empty() && divisor != "0" && !allowed.contains(&divisor) {
        let listed = allowed.join(if what == "cpu" { " and " } else { ", " });
        p.invalid(at, resource, format!("only divisor's values {listed} are supported with the {what} resource"));
    }
}
