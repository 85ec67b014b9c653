//! PodTemplate: a pod to be made (v1).

use crate::table::{self, NAME, column, text};
use keles_api::Object;
use keles_registry::kind::{Column, Info, Kind, Served};
use serde_json::json;

pub struct PodTemplate;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("Containers", "string", "Names of each container in the template.", |o, _| table::containers(o.at(&["template", "spec"]))),
    column("Images", "string", "Images referenced by each container in the template.", |o, _| table::images(o.at(&["template", "spec"]))),
    column("Pod Labels", "string", "The labels for the pod template.", |o, _| text(table::labels(o.at(&["template", "metadata", "labels"])))),
];

impl Kind for PodTemplate {
    type Object = Object;
    const INFO: Info = Info {
        kind: "PodTemplate",
        plural: "podtemplates",
        singular: "podtemplate",
        served: &[Served { group: "", version: "v1", schema: "io.k8s.api.core.v1.PodTemplate" }],
        generation: true,
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "v1",
            "kind": "PodTemplate",
            "metadata": {"name": "sample", "namespace": "default"},
            "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
        }))
    }
}
