//! The policy a cluster starts with: `policy.txt`, upstream's facts in a form of our own, one line a rule.

use crate::rbac::Rule;
use keles_api::Object;
use serde_json::{Map, Value, json};

const POLICY: &str = include_str!("policy.txt");
const GROUP: &str = "rbac.authorization.k8s.io";

/// Every bootstrap ClusterRole, ClusterRoleBinding, Role and RoleBinding as objects to be created.
pub fn policy() -> Vec<Object> {
    let mut out: Vec<Object> = Vec::new();
    let mut rules: Vec<Rule> = Vec::new();
    let close = |out: &mut Vec<Object>, rules: &mut Vec<Rule>| {
        if let (Some(role), false) = (out.last_mut(), rules.is_empty()) {
            role.root_mut().insert("rules".into(), serde_json::to_value(std::mem::take(rules)).expect("rules always encode"));
        }
    };
    for line in POLICY.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [] => {}
            [first, ..] if first.starts_with('#') => {}
            ["role", name, rest @ ..] => {
                close(&mut out, &mut rules);
                out.push(role(name, rest));
            }
            ["bind", name, role, subjects @ ..] => {
                close(&mut out, &mut rules);
                out.push(binding(name, role, subjects));
            }
            _ => rules.push(rule(&words)),
        }
    }
    close(&mut out, &mut rules);
    out
}

/// The rules of one bootstrap ClusterRole, for authorizers that hold without a binding.
pub fn cluster_role(name: &str) -> Vec<Rule> {
    policy().into_iter().find(|o| o.kind() == "ClusterRole" && o.name() == name).and_then(|o| serde_json::from_value(o.at(&["rules"]).clone()).ok()).unwrap_or_default()
}

fn object(kind: &str, name: &str) -> Object {
    let (kind, namespace, name) = match name.split_once('/') {
        Some((ns, n)) => (kind.to_owned(), Some(ns), n),
        None => (format!("Cluster{kind}"), None, name),
    };
    let mut o = Object::new("rbac.authorization.k8s.io/v1", &kind);
    o.set_meta("name", name);
    o.set_meta("namespace", namespace.unwrap_or_default());
    o.set_meta("labels", json!({"kubernetes.io/bootstrapping": "rbac-defaults"}));
    o.set_meta("annotations", json!({"rbac.authorization.kubernetes.io/autoupdate": "true"}));
    o
}

fn role(name: &str, rest: &[&str]) -> Object {
    let mut o = object("Role", name);
    o.root_mut().insert("rules".into(), Value::Null);
    let label = |l: &str| format!("{GROUP}/{l}");
    for l in rest.iter().filter_map(|w| w.strip_prefix('+')) {
        o.meta_mut()["labels"][label(l)] = "true".into();
    }
    if let Some(at) = rest.iter().position(|w| *w == "aggregate") {
        let labels = Map::from_iter([(label(rest[at + 1]), "true".into())]);
        o.root_mut().insert("aggregationRule".into(), json!({"clusterRoleSelectors": [{"matchLabels": labels}]}));
    }
    o
}

fn binding(name: &str, role: &str, subjects: &[&str]) -> Object {
    let mut o = object("RoleBinding", name);
    let role_kind = if name.contains('/') { "Role" } else { "ClusterRole" };
    o.root_mut().insert("roleRef".into(), json!({"apiGroup": GROUP, "kind": role_kind, "name": role}));
    if !subjects.is_empty() {
        o.root_mut().insert("subjects".into(), subjects.iter().map(|s| subject(s)).collect());
    }
    o
}

fn subject(s: &str) -> Value {
    let (kind, name) = s.split_once(':').expect("policy.txt names a kind before the colon");
    match kind {
        "sa" => {
            let (namespace, name) = name.split_once('/').expect("policy.txt names the account's namespace");
            json!({"kind": "ServiceAccount", "name": name, "namespace": namespace})
        }
        "group" => json!({"apiGroup": GROUP, "kind": "Group", "name": name}),
        _ => json!({"apiGroup": GROUP, "kind": "User", "name": name}),
    }
}

/// `GROUPS : RESOURCES [= NAMES] : VERBS`, or `url : PATHS : VERBS`.
fn rule(words: &[&str]) -> Rule {
    let mut parts = words.split(|w| *w == ":").map(|p| p.to_vec());
    let mut part = || parts.next().expect("policy.txt has three parts a rule");
    let (groups, what, verbs) = (part(), part(), part());
    let texts = |l: &[&str]| l.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
    if groups == ["url"] {
        return Rule { non_resource_urls: texts(&what), verbs: texts(&verbs), ..Rule::default() };
    }
    let mut sides = what.split(|w| *w == "=");
    let resources = texts(sides.next().unwrap_or_default());
    let names = texts(sides.next().unwrap_or_default());
    let groups = groups.iter().map(|g| if *g == "core" { String::new() } else { (*g).to_owned() }).collect();
    Rule { verbs: texts(&verbs), api_groups: groups, resources, resource_names: names, ..Rule::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn the_policy_parses_and_names_are_unique() {
        let all = policy();
        let names: std::collections::BTreeSet<_> = all.iter().map(|o| (o.kind().to_owned(), o.namespace().to_owned(), o.name().to_owned())).collect();
        assert_eq!(names.len(), all.len());
        assert!(all.iter().any(|o| o.kind() == "ClusterRole" && o.name() == "cluster-admin"));
    }

    /// What upstream's default policy has not, because the feature is off there by default.
    const WITH_FEATURES: &[&str] = &["system:controller:storage-version-migrator-controller"];

    /// Compares with upstream's own files where they are at hand.
    #[test]
    fn the_policy_equals_the_reference() {
        let folder = std::path::Path::new("/work/shared/reference/rbac");
        let Ok(files) = std::fs::read_dir(folder) else { return };
        let key = |o: &Value| format!("{} {} {}", o["kind"], o["metadata"]["namespace"], o["metadata"]["name"]);
        let mut theirs = BTreeMap::new();
        for f in files.flatten() {
            let list: Value = serde_yaml_ng::from_slice(&std::fs::read(f.path()).unwrap()).unwrap();
            for o in list["items"].as_array().unwrap() {
                theirs.insert(key(o), o.clone());
            }
        }
        let ours: BTreeMap<_, _> = policy().into_iter().filter(|o| !WITH_FEATURES.contains(&o.name())).map(|o| (key(&o.0), o.0)).collect();
        assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
        for (k, o) in &ours {
            assert_eq!(o, &theirs[k], "{k}");
        }
    }
}
