//! PodTemplate: a pod to be made (v1).

use crate::core::pod::template;
use crate::field::Field;
use crate::gates;
use crate::table::{self, NAME, column, text};
use keles_api::{Object, Problems};
use keles_registry::gates::GatedAt;
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

    const GATED: &'static [GatedAt] = &[(&["template", "spec"], gates::POD_SPEC)];

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

    fn set_defaults(o: &mut Object) {
        template::set_defaults(&mut o.0);
    }

    fn validate(o: &Object, p: &mut Problems) {
        template::validate(&Field::root(o).get("template"), p);
    }

    fn warnings(new: &Object, _old: Option<&Object>, w: &mut Vec<String>) {
        template::warnings(&Field::root(new).get("template"), w);
    }
}
