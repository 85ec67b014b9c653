//! ResourceClaimTemplate: a ResourceClaim to be made for a pod (resource.k8s.io/v1, resource.k8s.io/v1beta2, resource.k8s.io/v1beta1).

use crate::field::{Field, immutable};
use crate::labels;
use crate::resource::{claim_spec, v1beta1};
use crate::table::{AGE, NAME};
use keles_api::{Object, Problems};
use keles_registry::kind::{Column, Info, Kind, Served};
use serde_json::json;

pub struct ResourceClaimTemplate;

const COLUMNS: &[Column<Object>] = &[NAME, AGE];

impl Kind for ResourceClaimTemplate {
    type Object = Object;
    const INFO: Info = Info {
        kind: "ResourceClaimTemplate",
        plural: "resourceclaimtemplates",
        singular: "resourceclaimtemplate",
        served: &[
            Served { group: "resource.k8s.io", version: "v1", schema: "io.k8s.api.resource.v1.ResourceClaimTemplate" },
            Served { group: "resource.k8s.io", version: "v1beta2", schema: "io.k8s.api.resource.v1beta2.ResourceClaimTemplate" },
            Served { group: "resource.k8s.io", version: "v1beta1", schema: "io.k8s.api.resource.v1beta1.ResourceClaimTemplate" },
        ],
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaimTemplate",
            "metadata": {"name": "sample", "namespace": "default"},
            "spec": {"spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "c", "allocationMode": "ExactCount", "count": 1}}]}}}
        }))
    }

    fn set_defaults(o: &mut Object) {
        if let Some(spec) = o.at_mut(&["spec", "spec"]) {
            claim_spec::default_requests(spec);
        }
    }

    fn validate(o: &Object, p: &mut Problems) {
        validate_spec(&Field::root(o).get("spec"), false, p);
    }

    fn validate_update(new: &Object, old: &Object, p: &mut Problems) {
        let spec = Field::root(new).get("spec");
        immutable(p, &spec, &Field::root(old).get("spec"));
        validate_spec(&spec, true, p);
    }

    fn convert(o: &mut Object, from: &str, to: &str) {
        v1beta1::convert_requests(o.at_mut(&["spec", "spec"]), from, to);
    }
}

fn validate_spec(spec: &Field, stored: bool, p: &mut Problems) {
    let metadata = spec.get("metadata");
    labels::annotations(p, &metadata.get("annotations"));
    labels::labels(p, &metadata.get("labels"));
    claim_spec::validate(&spec.get("spec"), stored, p);
}
