//! Node: a machine that runs pods (v1).

use crate::selectable;
use crate::subresource::status;
use crate::table::{self, AGE, NAME, column, text, wide};
use keles_api::Object;
use keles_registry::kind::{Column, Info, Kind, Scope, Selectable, Served, Subresource, UnknownSelector};
use serde_json::{Value, json};

pub struct Node;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("Status", "string", "The status of the node", |o, _| text(state_words(o))),
    column("Roles", "string", "The roles of the node", |o, _| text(roles(o))),
    AGE,
    column("Version", "string", "Kubelet Version reported by the node.", |o, _| table::str_cell(o, &["status", "nodeInfo", "kubeletVersion"])),
    wide(
        "Internal-IP",
        "string",
        "List of addresses reachable to the node. Queried from cloud provider, if available. More info: https://kubernetes.io/docs/reference/node/node-status/#addresses Note: This field is declared as mergeable, but the merge key is not sufficiently unique, which can cause data corruption when it is merged. Callers should instead use a full-replacement patch. See https://pr.k8s.io/79391 for an example. Consumers should assume that addresses can change during the lifetime of a Node. However, there are some exceptions where this may not be possible, such as Pods that inherit a Node's address in its own status or consumers of the downward API (status.hostIP).",
        |o, _| text(address(o, "InternalIP")),
    ),
    wide(
        "External-IP",
        "string",
        "List of addresses reachable to the node. Queried from cloud provider, if available. More info: https://kubernetes.io/docs/reference/node/node-status/#addresses Note: This field is declared as mergeable, but the merge key is not sufficiently unique, which can cause data corruption when it is merged. Callers should instead use a full-replacement patch. See https://pr.k8s.io/79391 for an example. Consumers should assume that addresses can change during the lifetime of a Node. However, there are some exceptions where this may not be possible, such as Pods that inherit a Node's address in its own status or consumers of the downward API (status.hostIP).",
        |o, _| text(address(o, "ExternalIP")),
    ),
    wide("OS-Image", "string", "OS Image reported by the node from /etc/os-release (e.g. Debian GNU/Linux 7 (wheezy)).", |o, _| {
        table::str_or(o, &["status", "nodeInfo", "osImage"], "<unknown>")
    }),
    wide("Kernel-Version", "string", "Kernel Version reported by the node from 'uname -r' (e.g. 3.16.0-0.bpo.4-amd64).", |o, _| {
        table::str_or(o, &["status", "nodeInfo", "kernelVersion"], "<unknown>")
    }),
    wide("Container-Runtime", "string", "ContainerRuntime Version reported by the node through runtime remote API (e.g. containerd://1.4.2).", |o, _| {
        table::str_or(o, &["status", "nodeInfo", "containerRuntimeVersion"], "<unknown>")
    }),
];

impl Kind for Node {
    type Object = Object;
    const INFO: Info = Info {
        kind: "Node",
        plural: "nodes",
        singular: "node",
        short_names: &["no"],
        scope: Scope::Cluster,
        served: &[Served { group: "", version: "v1", schema: "io.k8s.api.core.v1.Node" }],
        subresources: &[Subresource { name: "proxy", kind: "NodeProxyOptions", group: "", version: "", verbs: &["create", "delete", "get", "patch", "update"] }, status("Node")],
        selectable: &[Selectable { path: "spec.unschedulable", value: |o| selectable::boolean(o, &["spec", "unschedulable"]) }],
        unknown_selector: UnknownSelector::NotSupported,
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "sample"}}))
    }
}

/// `Ready,SchedulingDisabled`
fn state_words(o: &Object) -> String {
    let mut shown = match table::condition(o, "Ready") {
        None => "Unknown".to_owned(),
        Some(_) if table::condition_true(o, "Ready") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
    };
    if o.at(&["spec", "unschedulable"]).as_bool() == Some(true) {
        shown.push_str(",SchedulingDisabled");
    }
    shown
}

/// Roles are label keys `node-role.kubernetes.io/ROLE`, or the older label `kubernetes.io/role`.
fn roles(o: &Object) -> String {
    let role = |(k, v): (&str, &str)| match k.strip_prefix("node-role.kubernetes.io/") {
        Some(r) if !r.is_empty() => Some(r.to_owned()),
        _ => (k == "kubernetes.io/role" && !v.is_empty()).then(|| v.to_owned()),
    };
    let mut all: Vec<String> = o.labels().filter_map(role).collect();
    all.sort();
    all.dedup();
    if all.is_empty() { "<none>".into() } else { all.join(",") }
}

fn address(o: &Object, kind: &str) -> String {
    let of_kind = |a: &&Value| a.get("type").and_then(Value::as_str) == Some(kind);
    let found = table::list(o.at(&["status", "addresses"])).iter().find(of_kind).and_then(|a| a.get("address")?.as_str());
    found.unwrap_or("<none>").to_owned()
}
