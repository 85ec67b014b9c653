//! Pod: containers that live and die together on one node (v1).
//!
//! The rules stand in one file a topic; [`spec`] is shared with every kind that holds a pod template (through [`template`]).

pub mod affinity;
mod annotations;
mod columns;
mod containers;
mod defaults;
mod env;
pub mod handlers;
mod mounts;
pub mod persistent;
mod pieces;
mod projections;
pub mod resources;
pub mod scheduling;
mod security;
pub mod spec;
mod status;
mod storage;
pub mod template;
mod update;
pub mod volumes;
pub mod warnings;
mod windows;

use crate::field::Field;
use crate::gates;
use crate::selectable;
use crate::subresource::status;
use keles_api::{Object, Problems};
use keles_registry::gates::GatedAt;
use keles_registry::kind::{Column, Info, Kind, MetadataChecks, Request, Selectable, Served, Subresource, UnknownSelector};
use serde_json::{Value, json};

pub struct Pod;

impl Kind for Pod {
    type Object = Object;
    const INFO: Info = Info {
        kind: "Pod",
        plural: "pods",
        singular: "pod",
        short_names: &["po"],
        categories: &["all"],
        served: &[Served { group: "", version: "v1", schema: "io.k8s.api.core.v1.Pod" }],
        subresources: &[
            Subresource { name: "attach", kind: "PodAttachOptions", group: "", version: "", verbs: &["create", "get"] },
            Subresource { name: "binding", kind: "Binding", group: "", version: "", verbs: &["create"] },
            Subresource { name: "ephemeralcontainers", kind: "Pod", group: "", version: "", verbs: &["get", "patch", "update"] },
            Subresource { name: "eviction", kind: "Eviction", group: "policy", version: "v1", verbs: &["create"] },
            Subresource { name: "exec", kind: "PodExecOptions", group: "", version: "", verbs: &["create", "get"] },
            Subresource { name: "log", kind: "Pod", group: "", version: "", verbs: &["get"] },
            Subresource { name: "portforward", kind: "PodPortForwardOptions", group: "", version: "", verbs: &["create", "get"] },
            Subresource { name: "proxy", kind: "PodProxyOptions", group: "", version: "", verbs: &["create", "delete", "get", "patch", "update"] },
            Subresource { name: "resize", kind: "Pod", group: "", version: "", verbs: &["get", "patch", "update"] },
            status("Pod"),
        ],
        selectable: &[
            Selectable { path: "spec.nodeName", value: |o| selectable::text(o, &["spec", "nodeName"]) },
            // Its name in v1beta3.
            Selectable { path: "spec.host", value: |o| selectable::text(o, &["spec", "nodeName"]) },
            Selectable { path: "spec.restartPolicy", value: |o| selectable::text(o, &["spec", "restartPolicy"]) },
            Selectable { path: "spec.schedulerName", value: |o| selectable::text(o, &["spec", "schedulerName"]) },
            Selectable { path: "spec.serviceAccountName", value: |o| selectable::text(o, &["spec", "serviceAccountName"]) },
            Selectable { path: "spec.hostNetwork", value: |o| selectable::boolean(o, &["spec", "hostNetwork"]) },
            Selectable { path: "status.phase", value: |o| selectable::text(o, &["status", "phase"]) },
            Selectable { path: "status.podIP", value: |o| selectable::text(o, &["status", "podIP"]) },
            // Upstream knows the label and gives it no value.
            Selectable { path: "status.podIPs", value: |_| "".into() },
            Selectable { path: "status.nominatedNodeName", value: |o| selectable::text(o, &["status", "nominatedNodeName"]) },
        ],
        generation: true,
        unknown_selector: UnknownSelector::NotSupported,
        metadata_checks: MetadataChecks { update: 4, ..MetadataChecks::USUAL },
        ..Info::BASE
    };

    const GATED: &'static [GatedAt] = &[(&["spec"], gates::POD_SPEC), (&["status"], gates::POD_STATUS)];

    fn columns() -> &'static [Column<Object>] {
        columns::COLUMNS
    }

    fn row_conditions(o: &Object) -> Vec<Value> {
        columns::conditions(o)
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "sample", "namespace": "default"},
            "spec": {"containers": [{"name": "c", "image": "i"}]}
        }))
    }

    fn set_defaults(o: &mut Object) {
        defaults::pod(o);
    }

    fn prepare_create(o: &mut Object, _: &Request) {
        status::begin(o);
    }

    fn prepare_status(new: &mut Object, old: &Object, _: &Request) {
        status::prepare(new, old);
    }

    fn validate(o: &Object, p: &mut Problems) {
        spec::create(o, p);
    }

    const PIECES: &'static [&'static str] = &[pieces::EPHEMERAL, pieces::RESIZE];

    fn take_piece(new: &mut Object, old: &Object, r: &Request) {
        if r.subresource == pieces::RESIZE { pieces::take_resize(new, old) } else { pieces::take_ephemeral(new, old) }
    }

    fn validate_piece(new: &Object, old: &Object, subresource: &str, p: &mut Problems) {
        spec::pod(&Field::root(new), p);
        if subresource == pieces::RESIZE { pieces::check_resize(new, old, p) } else { pieces::check_ephemeral(new, old, p) }
    }

    fn validate_update(new: &Object, old: &Object, p: &mut Problems) {
        update::update(new, old, p);
    }

    fn validate_status(new: &Object, old: &Object, p: &mut Problems) {
        status::update(new, old, p);
    }

    fn warnings(new: &Object, old: Option<&Object>, w: &mut Vec<String>) {
        if old.is_none() {
            crate::apps::workload::name_warning(new, old, "the Pod's hostname", w);
            warnings::pod(&Field::root(new), false, w);
        }
    }

    fn status_warnings(new: &Object, _: &Object, w: &mut Vec<String>) {
        status::warnings(new, w);
    }

    fn grace_seconds(o: &Object, asked: Option<i64>) -> Option<i64> {
        Some(grace_seconds(o, asked))
    }
}

/// A pod that no node runs, or that has ended, goes at once; a negative period means one second.
fn grace_seconds(o: &Object, asked: Option<i64>) -> i64 {
    let wanted = asked.or(o.at(&["spec", "terminationGracePeriodSeconds"]).as_i64()).unwrap_or(0);
    let ended = matches!(o.str_at(&["status", "phase"]), "Succeeded" | "Failed");
    match wanted {
        _ if ended || o.str_at(&["spec", "nodeName"]).is_empty() => 0,
        negative if negative < 0 => 1,
        seconds => seconds,
    }
}

#[cfg(test)]
mod tests;
