//! The priority levels and flow schemas that every cluster begins with (documented with API priority and fairness).
//!
//! `exempt` and `catch-all` are mandatory: their specs are fixed. The rest is suggested: it may be changed once its
//! `apf.kubernetes.io/autoupdate-spec` annotation says so.

use serde_json::{Value, json};

const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";
const API_VERSION: &str = "flowcontrol.apiserver.k8s.io/v1";
pub const EXEMPT: &str = "exempt";
pub const CATCH_ALL: &str = "catch-all";

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name, "annotations": {AUTO_UPDATE: "true"}}, "spec": spec})
}

/// The fixed spec of a mandatory priority level.
pub fn fixed_level(name: &str) -> Option<Value> {
    match name {
        EXEMPT => Some(json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}})),
        CATCH_ALL => Some(json!({"type": "Limited", "limited": {"nominalConcurrencyShares": 5, "lendablePercent": 0, "limitResponse": {"type": "Reject"}}})),
        _ => None,
    }
}

/// The fixed spec of a mandatory flow schema.
pub fn fixed_schema(name: &str) -> Option<Value> {
    match name {
        EXEMPT => Some(spec(EXEMPT, 1, None, groups(&["system:masters"]), everything())),
        CATCH_ALL => Some(spec(CATCH_ALL, 10_000, Some("ByUser"), groups(ANYBODY), everything())),
        _ => None,
    }
}

pub fn levels() -> Vec<Value> {
    let queued = |(name, shares, lendable, queues, hand): (&str, i64, i64, i64, i64)| {
        let queuing = json!({"queues": queues, "handSize": hand, "queueLengthLimit": 50});
        let limited = json!({"nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": {"type": "Queue", "queuing": queuing}});
        object("PriorityLevelConfiguration", name, json!({"type": "Limited", "limited": limited}))
    };
    let fixed = [EXEMPT, CATCH_ALL].into_iter().filter_map(|name| fixed_level(name).map(|s| object("PriorityLevelConfiguration", name, s)));
    let suggested = [
        ("system", 30, 33, 64, 6),
        ("node-high", 40, 25, 64, 6),
        ("leader-election", 10, 0, 16, 4),
        ("workload-high", 40, 50, 128, 6),
        ("workload-low", 100, 90, 128, 6),
        ("global-default", 20, 50, 128, 6),
    ];
    fixed.chain(suggested.into_iter().map(queued)).collect()
}

const ANYBODY: &[&str] = &["system:unauthenticated", "system:authenticated"];
const NODES: &[&str] = &["system:nodes"];
const READ_AND_WRITE: &[&str] = &["get", "create", "update"];
const MANAGER: &str = "system:kube-controller-manager";
const SCHEDULER: &str = "system:kube-scheduler";

/// What a flow schema is about.
#[derive(Default)]
struct About {
    resources: Vec<Value>,
    others: Vec<Value>,
}

pub fn schemas() -> Vec<Value> {
    let by_user = Some("ByUser");
    let leases = || resources(READ_AND_WRITE, &["coordination.k8s.io"], &["leases"], &["*"], false);
    let election = |namespace: &str| About { resources: vec![resources(READ_AND_WRITE, &[""], &["endpoints", "configmaps"], &[namespace], false), leases()], ..About::default() };
    let nodes = About {
        resources: vec![resources(&["*"], &[""], &["nodes", "nodes/status"], &["*"], true), resources(&["*"], &["coordination.k8s.io"], &["leases"], &["*"], false)],
        ..About::default()
    };
    let health = About { others: vec![paths(&["get"], &["/healthz", "/readyz", "/livez"])], ..About::default() };
    let endpoints = About { resources: vec![resources(READ_AND_WRITE, &[""], &["endpoints"], &["*"], false)], ..About::default() };
    let endpoint_controllers = [users(&[MANAGER]), accounts("endpoint-controller"), accounts("endpointslicemirroring-controller")].concat();
    let fixed = [EXEMPT, CATCH_ALL].into_iter().filter_map(|name| fixed_schema(name).map(|s| (name, s)));
    let suggested = [
        ("system-nodes", spec("system", 500, by_user, groups(NODES), everything())),
        ("system-node-high", spec("node-high", 400, by_user, groups(NODES), nodes)),
        ("system-leader-election", spec("leader-election", 100, by_user, [users(&[MANAGER, SCHEDULER]), accounts("*")].concat(), election("kube-system"))),
        ("workload-leader-election", spec("leader-election", 200, by_user, accounts("*"), election("*"))),
        ("endpoint-controller", spec("workload-high", 150, by_user, endpoint_controllers, endpoints)),
        ("kube-controller-manager", spec("workload-high", 800, Some("ByNamespace"), users(&[MANAGER]), everything())),
        ("kube-scheduler", spec("workload-high", 800, Some("ByNamespace"), users(&[SCHEDULER]), everything())),
        ("kube-system-service-accounts", spec("workload-high", 900, Some("ByNamespace"), accounts("*"), everything())),
        ("service-accounts", spec("workload-low", 9000, by_user, groups(&["system:serviceaccounts"]), everything())),
        ("global-default", spec("global-default", 9900, by_user, groups(ANYBODY), everything())),
        ("probes", spec(EXEMPT, 2, None, groups(ANYBODY), health)),
    ];
    fixed.chain(suggested).map(|(name, s)| object("FlowSchema", name, s)).collect()
}

fn spec(level: &str, precedence: i64, distinguished: Option<&str>, subjects: Vec<Value>, about: About) -> Value {
    let mut rule = json!({"subjects": subjects});
    for (name, list) in [("resourceRules", about.resources), ("nonResourceRules", about.others)] {
        if !list.is_empty() {
            rule[name] = list.into();
        }
    }
    let mut s = json!({"priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence, "rules": [rule]});
    if let Some(method) = distinguished {
        s["distinguisherMethod"] = json!({"type": method});
    }
    s
}

fn everything() -> About {
    About { resources: vec![resources(&["*"], &["*"], &["*"], &["*"], true)], others: vec![paths(&["*"], &["*"])] }
}

fn resources(verbs: &[&str], api_groups: &[&str], resources: &[&str], namespaces: &[&str], cluster: bool) -> Value {
    let mut rule = json!({"verbs": verbs, "apiGroups": api_groups, "resources": resources, "namespaces": namespaces});
    if cluster {
        rule["clusterScope"] = true.into();
    }
    rule
}

fn paths(verbs: &[&str], urls: &[&str]) -> Value {
    json!({"verbs": verbs, "nonResourceURLs": urls})
}

fn groups(all: &[&str]) -> Vec<Value> {
    all.iter().map(|name| json!({"kind": "Group", "group": {"name": name}})).collect()
}

fn users(all: &[&str]) -> Vec<Value> {
    all.iter().map(|name| json!({"kind": "User", "user": {"name": name}})).collect()
}

/// A ServiceAccount of kube-system, or all of them.
fn accounts(name: &str) -> Vec<Value> {
    vec![json!({"kind": "ServiceAccount", "serviceAccount": {"name": name, "namespace": "kube-system"}})]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flowcontrol::flow_schema::FlowSchema;
    use crate::flowcontrol::priority_level_configuration::PriorityLevelConfiguration;
    use keles_api::{Object, Problems};
    use keles_registry::kind::Kind;

    #[test]
    fn what_a_cluster_begins_with_keeps_its_own_rules() {
        let check = |all: Vec<Value>, validate: fn(&Object, &mut Problems)| {
            for o in all {
                let mut p = Problems::new();
                validate(&Object(o.clone()), &mut p);
                assert!(p.is_empty(), "{o}: {}", p.aggregate());
            }
        };
        check(levels(), PriorityLevelConfiguration::validate);
        check(schemas(), FlowSchema::validate);
    }
}
