//! StatefulSet: pods with names and storage of their own, in order (apps/v1).

use crate::subresource::{SCALE, status};
use crate::table::{self, AGE, NAME, column, text, wide};
use keles_api::Object;
use keles_registry::kind::{Column, Info, Kind, NameRule, Served};
use serde_json::json;

pub struct StatefulSet;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("Ready", "string", "Number of the pod with ready state", |o, _| text(ready(o))),
    AGE,
    wide("Containers", "string", "Names of each container in the template.", |o, _| table::containers(o.at(&["spec", "template", "spec"]))),
    wide("Images", "string", "Images referenced by each container in the template.", |o, _| table::images(o.at(&["spec", "template", "spec"]))),
];

impl Kind for StatefulSet {
    type Object = Object;
    const INFO: Info = Info {
        kind: "StatefulSet",
        plural: "statefulsets",
        singular: "statefulset",
        short_names: &["sts"],
        categories: &["all"],
        served: &[Served { group: "apps", version: "v1", schema: "io.k8s.api.apps.v1.StatefulSet" }],
        subresources: &[SCALE, status("StatefulSet")],
        generation: true,
        name_rule: NameRule::Own,
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": {"name": "sample", "namespace": "default"},
            "spec": {
                "serviceName": "s",
                "selector": {"matchLabels": {"app": "x"}},
                "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
            }
        }))
    }
}

/// `2/3`
fn ready(o: &Object) -> String {
    let count = |path: &[&str]| o.at(path).as_i64().unwrap_or(0);
    format!("{}/{}", count(&["status", "readyReplicas"]), count(&["spec", "replicas"]))
}
