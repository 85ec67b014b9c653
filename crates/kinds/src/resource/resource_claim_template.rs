//! ResourceClaimTemplate: a ResourceClaim to be made for a pod (resource.k8s.io/v1, resource.k8s.io/v1beta2, resource.k8s.io/v1beta1).

use crate::resource::resource_claim::default_requests;
use crate::table::{AGE, NAME};
use keles_api::Object;
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
        if let Some(spec) = o.0.pointer_mut("/spec/spec") {
            default_requests(spec);
        }
    }
}
