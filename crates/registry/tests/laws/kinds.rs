//! Sample kinds that borrow the schemas of built-in ones.

use keles_api::{Object, Path, Problems};
use keles_registry::kind::{Column, Info, Kind, NameRule, Request, STATUS, Selectable, Served, Subresource, UnknownSelector};
use serde_json::{Value, json};
use std::borrow::Cow;

pub struct Namespace;
pub struct Config;
pub struct Pod;
pub struct Deployment;
pub struct Lease;

const STATUS_SUB: Subresource = Subresource { name: STATUS, kind: "", group: "", version: "", verbs: &["get", "patch", "update"] };

const NAME: Column<Object> = Column { name: "Name", kind: "string", format: "name", description: "", priority: 0, cell: |o, _| o.name().into() };

fn columns() -> &'static [Column<Object>] {
    &[NAME]
}

/// Comes and goes at run time.
pub struct Late;

impl Kind for Late {
    type Object = Object;
    const INFO: Info = Info {
        kind: "Late",
        plural: "lates",
        singular: "late",
        served: &[Served { group: "late.example.com", version: "v1", schema: "io.k8s.api.core.v1.ConfigMap" }],
        ..Info::BASE
    };
    fn columns() -> &'static [Column<Object>] {
        columns()
    }
    fn example() -> Object {
        Object(json!({"apiVersion": "late.example.com/v1", "kind": "Late", "metadata": {"name": "sample", "namespace": "default"}}))
    }
}

impl Kind for Namespace {
    type Object = Object;
    const INFO: Info = Info {
        kind: "Namespace",
        plural: "namespaces",
        singular: "namespace",
        scope: keles_registry::Scope::Cluster,
        served: &[Served { group: "", version: "v1", schema: "io.k8s.api.core.v1.Namespace" }],
        subresources: &[STATUS_SUB, Subresource { name: "finalize", ..STATUS_SUB }],
        name_rule: NameRule::DnsLabel,
        ..Info::BASE
    };
    fn columns() -> &'static [Column<Object>] {
        columns()
    }
    fn example() -> Object {
        Object(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "sample"}}))
    }
    fn prepare_create(o: &mut Object, _: &Request) {
        let root = o.root_mut();
        root.insert("status".into(), json!({"phase": "Active"}));
        root.insert("spec".into(), json!({"finalizers": ["kubernetes"]}));
    }
}

impl Kind for Config {
    type Object = Object;
    const INFO: Info = Info {
        kind: "ConfigMap",
        plural: "configmaps",
        singular: "configmap",
        served: &[Served { group: "", version: "v1", schema: "io.k8s.api.core.v1.ConfigMap" }],
        ..Info::BASE
    };
    fn columns() -> &'static [Column<Object>] {
        columns()
    }
    fn example() -> Object {
        Object(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "sample", "namespace": "default"}, "data": {"a": "1"}}))
    }
    fn validate_update(new: &Object, old: &Object, p: &mut Problems) {
        if old.at(&["immutable"]) == true && new.at(&["data"]) != old.at(&["data"]) {
            p.forbidden(&Path::new("data"), "field is immutable when `immutable` is set");
        }
    }
}

fn node_name(o: &Object) -> Cow<'_, str> {
    o.str_at(&["spec", "nodeName"]).into()
}
fn unschedulable(o: &Object) -> Cow<'_, str> {
    o.at(&["spec", "hostNetwork"]).as_bool().unwrap_or(false).to_string().into()
}

impl Kind for Pod {
    type Object = Object;
    const INFO: Info = Info {
        kind: "Pod",
        plural: "pods",
        singular: "pod",
        served: &[Served { group: "", version: "v1", schema: "io.k8s.api.core.v1.Pod" }],
        subresources: &[STATUS_SUB, Subresource { name: "binding", ..STATUS_SUB }, Subresource { name: "eviction", ..STATUS_SUB }],
        selectable: &[Selectable { path: "spec.nodeName", value: node_name }, Selectable { path: "spec.hostNetwork", value: unschedulable }],
        unknown_selector: UnknownSelector::NotSupported,
        generation: true,
        ..Info::BASE
    };
    fn columns() -> &'static [Column<Object>] {
        columns()
    }
    fn example() -> Object {
        Object(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "sample", "namespace": "default"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}))
    }
    fn prepare_create(o: &mut Object, _: &Request) {
        o.root_mut().insert("status".into(), json!({"phase": "Pending"}));
    }
    fn grace_seconds(o: &Object, asked: Option<i64>) -> Option<i64> {
        let unbound = o.str_at(&["spec", "nodeName"]).is_empty();
        Some(if unbound { 0 } else { asked.unwrap_or(30) })
    }
}

impl Kind for Deployment {
    type Object = Object;
    const INFO: Info = Info {
        kind: "Deployment",
        plural: "deployments",
        singular: "deployment",
        served: &[Served { group: "apps", version: "v1", schema: "io.k8s.api.apps.v1.Deployment" }],
        subresources: &[STATUS_SUB, Subresource { name: "scale", ..STATUS_SUB }],
        generation: true,
        ..Info::BASE
    };
    fn columns() -> &'static [Column<Object>] {
        columns()
    }
    fn example() -> Object {
        Object(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "sample", "namespace": "default"}, "spec": {
            "replicas": 2, "selector": {"matchLabels": {"app": "x"}},
            "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}}))
    }
    fn prepare_create(o: &mut Object, _: &Request) {
        o.root_mut().insert("status".into(), Value::Object(Default::default()));
    }
}

impl Kind for Lease {
    type Object = Object;
    const INFO: Info = Info {
        kind: "Lease",
        plural: "leases",
        singular: "lease",
        served: &[Served { group: "coordination.k8s.io", version: "v1", schema: "io.k8s.api.coordination.v1.Lease" }],
        create_on_update: true,
        unconditional_update: false,
        ..Info::BASE
    };
    fn columns() -> &'static [Column<Object>] {
        columns()
    }
    fn example() -> Object {
        Object(json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "sample", "namespace": "default"}, "spec": {"holderIdentity": "me"}}))
    }
}

/// Two groups and versions of one kind, whose message has another name in each.
pub struct Event;

impl Kind for Event {
    type Object = Object;
    const INFO: Info = Info {
        kind: "Event",
        plural: "events",
        singular: "event",
        served: &[Served { group: "", version: "v1", schema: "io.k8s.api.core.v1.Event" }, Served { group: "events.k8s.io", version: "v1", schema: "io.k8s.api.events.v1.Event" }],
        ..Info::BASE
    };
    fn columns() -> &'static [Column<Object>] {
        columns()
    }
    fn example() -> Object {
        Object(json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "sample", "namespace": "default"}, "involvedObject": {}, "message": "m"}))
    }
    fn convert(o: &mut Object, _: &str, to: &str) {
        let (from_names, to_names) = (["message", "involvedObject"], ["note", "regarding"]);
        let pairs = from_names.into_iter().zip(to_names).map(|(a, b)| if to == "v1" { (b, a) } else { (a, b) });
        for (from, to) in pairs {
            if let Some(v) = o.root_mut().remove(from) {
                o.root_mut().insert(to.into(), v);
            }
        }
    }
}

/// The plural of ConfigMap in another group.
pub struct Foreign;

impl Kind for Foreign {
    type Object = Object;
    const INFO: Info = Info {
        kind: "ConfigMap",
        plural: "configmaps",
        singular: "configmap",
        served: &[Served { group: "x.example", version: "v1", schema: "io.k8s.api.core.v1.ConfigMap" }],
        ..Info::BASE
    };
    fn columns() -> &'static [Column<Object>] {
        columns()
    }
    fn example() -> Object {
        Object(json!({"apiVersion": "x.example/v1", "kind": "ConfigMap", "metadata": {"name": "sample", "namespace": "default"}}))
    }
}

/// Speaks for pods when they are to be evicted.
pub struct Budget;

impl Kind for Budget {
    type Object = Object;
    const INFO: Info = Info {
        kind: "PodDisruptionBudget",
        plural: "poddisruptionbudgets",
        singular: "poddisruptionbudget",
        served: &[Served { group: "policy", version: "v1", schema: "io.k8s.api.policy.v1.PodDisruptionBudget" }],
        subresources: &[STATUS_SUB],
        generation: true,
        ..Info::BASE
    };
    fn columns() -> &'static [Column<Object>] {
        columns()
    }
    fn example() -> Object {
        Object(json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "sample", "namespace": "default"}}))
    }
}
