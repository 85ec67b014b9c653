//! ServiceCIDR: where cluster addresses come from (networking.k8s.io/v1, networking.k8s.io/v1beta1).

use crate::subresource::status;
use crate::table::{self, AGE, NAME, column, text};
use keles_api::Object;
use keles_registry::kind::{Column, Info, Kind, Scope, Served};
use serde_json::json;

pub struct ServiceCIDR;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("CIDRs", "string", "CIDRs defines the IP blocks in CIDR notation (e.g. \"192.168.0.0/24\" or \"2001:db8::/64\") from which to assign service cluster IPs.", |o, _| {
        text(table::list(o.at(&["spec", "cidrs"])).iter().filter_map(|c| c.as_str()).collect::<Vec<_>>().join(","))
    }),
    AGE,
];

impl Kind for ServiceCIDR {
    type Object = Object;
    const INFO: Info = Info {
        kind: "ServiceCIDR",
        plural: "servicecidrs",
        singular: "servicecidr",
        scope: Scope::Cluster,
        served: &[
            Served { group: "networking.k8s.io", version: "v1", schema: "io.k8s.api.networking.v1.ServiceCIDR" },
            Served { group: "networking.k8s.io", version: "v1beta1", schema: "io.k8s.api.networking.v1beta1.ServiceCIDR" },
        ],
        subresources: &[status("ServiceCIDR")],
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "sample"}, "spec": {"cidrs": ["192.0.2.0/24"]}}))
    }
}
