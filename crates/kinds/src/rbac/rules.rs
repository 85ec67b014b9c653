//! What roles and bindings share: policy rules, subjects, the reference to a role.

use crate::field::{Field, default, invalid_each, items_mut, one_of, same};
use keles_api::{Object, Problems, names};

pub const GROUP: &str = "rbac.authorization.k8s.io";

pub fn policy_rules(root: &Field, namespaced: bool, p: &mut Problems) {
    for rule in root.items("rules") {
        if rule.list("verbs").is_empty() {
            p.required(&rule.at("verbs"), "verbs must contain at least one value");
        }
        let urls = rule.get("nonResourceURLs");
        if !rule.list("nonResourceURLs").is_empty() {
            if namespaced {
                p.invalid(urls.path(), urls.value().clone(), "namespaced rules cannot apply to non-resource URLs");
            }
            if ["apiGroups", "resources", "resourceNames"].iter().any(|f| !rule.list(f).is_empty()) {
                p.invalid(urls.path(), urls.value().clone(), "rules cannot apply to both regular resources and non-resource URLs");
            }
            continue;
        }
        if rule.list("apiGroups").is_empty() {
            p.required(&rule.at("apiGroups"), "resource rules must supply at least one api group");
        }
        if rule.list("resources").is_empty() {
            p.required(&rule.at("resources"), "resource rules must supply at least one resource");
        }
    }
}

pub fn default_binding(o: &mut Object) {
    if let Some(role) = o.0.get_mut("roleRef").filter(|r| r.is_object()) {
        default(role, "apiGroup", GROUP);
    }
    for subject in items_mut(&mut o.0, "subjects") {
        if matches!(subject["kind"].as_str(), Some("User" | "Group")) {
            default(subject, "apiGroup", GROUP);
        }
    }
}

/// A binding; `kinds` are the roles it may refer to.
pub fn binding(root: &Field, kinds: &[&str], namespaced: bool, p: &mut Problems) {
    let role = root.get("roleRef");
    one_of(p, &role.at("apiGroup"), role.str("apiGroup"), &[GROUP]);
    one_of(p, &role.at("kind"), role.str("kind"), kinds);
    match role.str("name") {
        "" => p.required(&role.at("name"), ""),
        name => invalid_each(p, &role.at("name"), name, names::path_segment(name, false)),
    }
    for s in root.items("subjects") {
        subject(&s, namespaced, p);
    }
}

fn subject(s: &Field, namespaced: bool, p: &mut Problems) {
    let name = s.str("name");
    if name.is_empty() {
        p.required(&s.at("name"), "");
    }
    match s.str("kind") {
        "ServiceAccount" => {
            if !name.is_empty() {
                invalid_each(p, &s.at("name"), name, names::dns_subdomain(name, false));
            }
            one_of(p, &s.at("apiGroup"), s.str("apiGroup"), &[""]);
            if !namespaced && s.str("namespace").is_empty() {
                p.required(&s.at("namespace"), "");
            }
        }
        "User" | "Group" => one_of(p, &s.at("apiGroup"), s.str("apiGroup"), &[GROUP]),
        other => p.not_supported(&s.at("kind"), other, &["ServiceAccount", "User", "Group"]),
    }
}

/// A binding is about one role for ever: else whoever may change it could make it another's.
pub fn same_role(new: &Field, old: &Field, p: &mut Problems) {
    let role = new.get("roleRef");
    if !same(role.value(), old.get("roleRef").value()) {
        p.invalid(role.path(), role.value().clone(), "cannot change roleRef");
    }
}
