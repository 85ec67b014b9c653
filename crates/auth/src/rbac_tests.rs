use super::*;
use crate::bootstrap;
use serde_json::json;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Default)]
struct Fixed {
    version: AtomicU64,
    loads: AtomicU64,
    extra: Mutex<Vec<serde_json::Value>>,
}

impl PolicySource for Fixed {
    fn version(&self) -> u64 {
        self.version.load(Ordering::SeqCst)
    }
    fn load(&self) -> PolicyObjects {
        self.loads.fetch_add(1, Ordering::SeqCst);
        let mut p = PolicyObjects::default();
        let extra = self.extra.lock().unwrap().clone();
        for o in bootstrap::policy().into_iter().chain(extra.into_iter().map(Object)) {
            match o.kind() {
                "ClusterRole" => p.cluster_roles.push(o),
                "Role" => p.roles.push(o),
                "ClusterRoleBinding" => p.cluster_role_bindings.push(o),
                _ => p.role_bindings.push(o),
            }
        }
        p
    }
}

fn ask<'a>(user: &'a User, verb: &'a str, group: &'a str, resource: &'a str, namespace: &'a str, name: &'a str) -> Attributes<'a> {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    Attributes { verb, group, resource, subresource, namespace, name, ..Attributes::of(user) }
}

fn path<'a>(user: &'a User, path: &'a str) -> Attributes<'a> {
    Attributes { verb: "get", path, ..Attributes::of(user) }
}

fn bind(kind: &str, name: &str, namespace: &str, role: (&str, &str), subject: serde_json::Value) -> serde_json::Value {
    json!({"kind": kind, "metadata": {"name": name, "namespace": namespace}, "roleRef": {"kind": role.0, "name": role.1}, "subjects": [subject]})
}

#[test]
fn strangers_reach_health_and_version_only() {
    let a = Authorizer::new(Arc::new(Fixed::default()));
    let nobody = crate::anonymous();
    for p in ["/healthz", "/livez", "/readyz", "/version", "/version/"] {
        assert!(a.allows(&path(&nobody, p)).is_some(), "{p}");
    }
    for p in ["/api", "/apis", "/metrics", "/openapi/v3", "/"] {
        assert!(a.allows(&path(&nobody, p)).is_none(), "{p}");
    }
    assert!(a.allows(&ask(&nobody, "list", "", "secrets", "", "")).is_none());
    assert!(a.allows(&path(&crate::user("jane", &[]), "/apis")).is_some(), "whoever is known may discover");
}

#[test]
fn aggregated_roles_hold_without_a_controller() {
    let s = Fixed::default();
    *s.extra.lock().unwrap() = vec![bind("RoleBinding", "b", "shop", ("ClusterRole", "admin"), json!({"kind": "User", "name": "jane"}))];
    let a = Authorizer::new(Arc::new(s));
    let jane = crate::user("jane", &[]);
    assert!(a.allows(&ask(&jane, "create", "rbac.authorization.k8s.io", "roles", "shop", "")).is_some(), "admin's own");
    assert!(a.allows(&ask(&jane, "delete", "apps", "deployments", "shop", "x")).is_some(), "edit's");
    assert!(a.allows(&ask(&jane, "get", "", "pods/log", "shop", "x")).is_some(), "view's");
    assert!(a.allows(&ask(&jane, "delete", "apps", "deployments", "other", "x")).is_none(), "another namespace");
    let why = a.allows(&ask(&jane, "get", "", "pods", "shop", "x")).unwrap().to_string();
    assert_eq!(why, "RBAC: allowed by RoleBinding \"b/shop\" of ClusterRole \"admin\" to User \"jane\"");
}

#[test]
fn the_index_is_built_once_a_version() {
    let s = Arc::new(Fixed::default());
    let a = Authorizer::new(s.clone());
    let bot = crate::service_account("shop", "bot", "u1");
    for _ in 0..10 {
        assert!(a.allows(&ask(&bot, "get", "", "pods", "shop", "x")).is_none());
    }
    assert_eq!(s.loads.load(Ordering::SeqCst), 1);
    *s.extra.lock().unwrap() = vec![bind("ClusterRoleBinding", "b", "", ("ClusterRole", "view"), json!({"kind": "ServiceAccount", "namespace": "shop", "name": "bot"}))];
    s.version.fetch_add(1, Ordering::SeqCst);
    assert!(a.allows(&ask(&bot, "get", "", "pods", "shop", "x")).is_some());
    assert!(a.allows(&ask(&bot, "get", "", "secrets", "shop", "x")).is_none(), "view does not show secrets");
    assert_eq!(s.loads.load(Ordering::SeqCst), 2);
}

#[test]
fn resource_names_and_subresources_are_exact() {
    let r = |resources: &[&str], names: &[&str]| Rule {
        verbs: vec!["get".into()],
        api_groups: vec!["".into()],
        resources: resources.iter().map(|s| (*s).into()).collect(),
        resource_names: names.iter().map(|s| (*s).into()).collect(),
        ..Rule::default()
    };
    let u = crate::user("u", &[]);
    assert!(!r(&["pods"], &[]).allows(&ask(&u, "get", "", "pods/log", "n", "x")), "a resource does not give its subresources");
    assert!(r(&["*/log"], &[]).allows(&ask(&u, "get", "", "pods/log", "n", "x")));
    assert!(r(&["*"], &[]).allows(&ask(&u, "get", "", "pods/log", "n", "x")));
    assert!(r(&["pods"], &["x"]).allows(&ask(&u, "get", "", "pods", "n", "x")));
    assert!(!r(&["pods"], &["x"]).allows(&ask(&u, "get", "", "pods", "n", "y")));
}

#[test]
fn nobody_grants_what_they_do_not_hold() {
    let held = Rule { verbs: vec!["get".into(), "list".into()], api_groups: vec!["".into()], resources: vec!["pods".into(), "*/scale".into()], ..Rule::default() };
    let want = |verb: &str, resource: &str| Rule { verbs: vec![verb.into()], api_groups: vec!["".into()], resources: vec![resource.into()], ..Rule::default() };
    assert!(not_covered(&[&held], &[want("get", "pods"), want("list", "replicationcontrollers/scale")]).is_empty());
    let lacking = not_covered(&[&held], &[want("get", "pods"), want("delete", "pods"), want("get", "*")]);
    assert_eq!(
        lacking.iter().map(Rule::compact).collect::<Vec<_>>(),
        [r#"{APIGroups:[""], Resources:["pods"], Verbs:["delete"]}"#, r#"{APIGroups:[""], Resources:["*"], Verbs:["get"]}"#]
    );
}
