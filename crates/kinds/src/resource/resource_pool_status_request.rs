//! ResourcePoolStatusRequest: a question about resource pools (resource.k8s.io/v1alpha3).

use crate::field::clear_status;
use crate::subresource::status;
use crate::table::{self, AGE, NAME, column};
use keles_api::Object;
use keles_registry::kind::{Column, Info, Kind, Request, Scope, Served};
use serde_json::json;

pub struct ResourcePoolStatusRequest;

const COLUMNS: &[Column<Object>] =
    &[NAME, column("Driver", "string", "driver specifies the DRA driver name to filter pools.", |o, _| table::str_cell(o, &["spec", "driver"])), AGE];

impl Kind for ResourcePoolStatusRequest {
    type Object = Object;
    const INFO: Info = Info {
        kind: "ResourcePoolStatusRequest",
        plural: "resourcepoolstatusrequests",
        singular: "resourcepoolstatusrequest",
        scope: Scope::Cluster,
        served: &[Served { group: "resource.k8s.io", version: "v1alpha3", schema: "io.k8s.api.resource.v1alpha3.ResourcePoolStatusRequest" }],
        subresources: &[status("ResourcePoolStatusRequest")],
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "resource.k8s.io/v1alpha3",
            "kind": "ResourcePoolStatusRequest",
            "metadata": {"name": "sample"},
            "spec": {"driver": "d.example"}
        }))
    }

    fn prepare_create(o: &mut Object, _: &Request) {
        clear_status(o);
    }
}
