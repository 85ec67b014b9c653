//! Affinity to nodes and to other pods. Node selectors are shared with PersistentVolumes.

use crate::field::{Field, invalid_each};
use crate::labels;
use keles_api::{Problems, names};
use std::collections::BTreeSet;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const NOT_AN_OPERATOR: &str = "not a valid selector operator";

pub fn validate(affinity: &Field, p: &mut Problems) {
    if affinity.has("nodeAffinity") {
        node(&affinity.get("nodeAffinity"), p);
    }
    for name in ["podAffinity", "podAntiAffinity"] {
        if affinity.has(name) {
            pod(&affinity.get(name), p);
        }
    }
}

fn weight(term: &Field, p: &mut Problems) {
    let n = term.int("weight");
    if !(1..=100).contains(&n) {
        p.invalid(&term.at("weight"), n, "must be in the range 1-100");
    }
}

fn node(affinity: &Field, p: &mut Problems) {
    if affinity.has(REQUIRED) {
        node_selector(&affinity.get(REQUIRED), p);
    }
    for term in affinity.items(PREFERRED) {
        weight(&term, p);
        // Of a mere preference bad label values are no problem; a warning tells of them.
        node_selector_term(&term.get("preference"), false, p);
    }
}

pub fn node_selector(selector: &Field, p: &mut Problems) {
    let terms = selector.items("nodeSelectorTerms");
    if terms.is_empty() {
        p.required(&selector.at("nodeSelectorTerms"), "must have at least one node selector term");
    }
    for term in &terms {
        node_selector_term(term, true, p);
    }
}

fn node_selector_term(term: &Field, check_values: bool, p: &mut Problems) {
    for e in term.items("matchExpressions") {
        label_requirement(&e, check_values, p);
    }
    for e in term.items("matchFields") {
        field_requirement(&e, p);
    }
}

fn label_requirement(e: &Field, check_values: bool, p: &mut Problems) {
    let count = e.list("values").len();
    match e.str("operator") {
        "In" | "NotIn" if count == 0 => p.required(&e.at("values"), "must be specified when `operator` is 'In' or 'NotIn'"),
        "Exists" | "DoesNotExist" if count > 0 => p.forbidden(&e.at("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"),
        "Gt" | "Lt" if count != 1 => p.required(&e.at("values"), "must be specified single value when `operator` is 'Lt' or 'Gt'"),
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => p.invalid(&e.at("operator"), other, NOT_AN_OPERATOR),
    }
    labels::key(p, &e.at("key"), e.str("key"));
    for v in e.items("values").iter().filter(|_| check_values) {
        invalid_each(p, v.path(), v.text(), names::label_value(v.text()));
    }
}

/// `metadata.name` is the one field a node can be chosen by.
fn field_requirement(e: &Field, p: &mut Problems) {
    match e.str("operator") {
        "In" | "NotIn" if e.list("values").len() != 1 => p.required(&e.at("values"), "must be only one value when `operator` is 'In' or 'NotIn' for node field selector"),
        "In" | "NotIn" => {}
        other => p.invalid(&e.at("operator"), other, NOT_AN_OPERATOR),
    }
    if e.str("key") != "metadata.name" {
        p.invalid(&e.at("key"), e.str("key"), "not a valid field selector key");
        return;
    }
    for v in e.items("values") {
        invalid_each(p, v.path(), v.text(), names::dns_subdomain(v.text(), false));
    }
}

fn pod(affinity: &Field, p: &mut Problems) {
    for term in affinity.items(REQUIRED) {
        pod_term(&term, p);
    }
    for term in affinity.items(PREFERRED) {
        weight(&term, p);
        pod_term(&term.get("podAffinityTerm"), p);
    }
}

fn pod_term(term: &Field, p: &mut Problems) {
    labels::selector(p, &term.get("labelSelector"));
    labels::selector(p, &term.get("namespaceSelector"));
    for name in term.strings("namespaces") {
        invalid_each(p, &term.at("namespace"), name, names::dns_label(name, false));
    }
    match_label_keys(term, p);
    if term.str("topologyKey").is_empty() {
        p.required(&term.at("topologyKey"), "can not be empty");
    }
    labels::key(p, &term.at("topologyKey"), term.str("topologyKey"));
}

fn match_label_keys(term: &Field, p: &mut Problems) {
    for list in ["matchLabelKeys", "mismatchLabelKeys"] {
        let keys = term.items(list);
        if !keys.is_empty() && !term.has("labelSelector") {
            p.forbidden(&term.at(list), "must not be specified when labelSelector is not set");
            continue;
        }
        for key in &keys {
            labels::key(p, key.path(), key.text());
        }
    }
    keys_of_both(term, p);
    let mismatch = term.strings("mismatchLabelKeys");
    for key in term.items("matchLabelKeys").iter().filter(|k| mismatch.contains(&k.text())) {
        p.invalid(key.path(), key.text(), "exists in both matchLabelKeys and mismatchLabelKeys");
    }
}

/// A key of `matchLabelKeys` has become a requirement of the selector by now; a second one on the same key was given by the client.
pub fn keys_of_both(term: &Field, p: &mut Problems) {
    let (selector, keys) = (term.get("labelSelector"), term.strings("matchLabelKeys"));
    let mut seen: BTreeSet<&str> = selector.map("matchLabels").map(|(k, _)| k).collect();
    for e in selector.items("matchExpressions") {
        if let Some(i) = keys.iter().rposition(|k| *k == e.str("key")).filter(|_| seen.contains(e.str("key"))) {
            p.invalid(&term.path().index(i), e.str("key"), "exists in both matchLabelKeys and labelSelector");
        }
        seen.insert(e.str("key"));
    }
}
