//! IPAddress: one taken cluster address (networking.k8s.io/v1, networking.k8s.io/v1beta1).

use crate::table::{NAME, column, text};
use keles_api::Object;
use keles_registry::kind::{Column, Info, Kind, NameRule, Scope, Served};
use serde_json::json;

pub struct IPAddress;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("ParentRef", "string", "ParentRef references the resource that an IPAddress is attached to. An IPAddress must reference a parent object.", |o, _| text(parent(o))),
];

impl Kind for IPAddress {
    type Object = Object;
    const INFO: Info = Info {
        kind: "IPAddress",
        plural: "ipaddresses",
        singular: "ipaddress",
        short_names: &["ip"],
        scope: Scope::Cluster,
        served: &[
            Served { group: "networking.k8s.io", version: "v1", schema: "io.k8s.api.networking.v1.IPAddress" },
            Served { group: "networking.k8s.io", version: "v1beta1", schema: "io.k8s.api.networking.v1beta1.IPAddress" },
        ],
        name_rule: NameRule::Own,
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "IPAddress",
            "metadata": {"name": "192.0.2.9"},
            "spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "x"}}
        }))
    }
}

/// `services/default/x`
fn parent(o: &Object) -> String {
    let part = |f: &str| o.str_at(&["spec", "parentRef", f]);
    let all = [part("group"), part("resource"), part("namespace"), part("name")];
    all.iter().filter(|s| !s.is_empty()).copied().collect::<Vec<_>>().join("/")
}
