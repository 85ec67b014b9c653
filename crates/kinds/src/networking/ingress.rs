//! Ingress: HTTP from outside to Services (networking.k8s.io/v1).

use crate::subresource::status;
use crate::table::{self, AGE, NAME, column, text};
use keles_api::Object;
use keles_registry::kind::{Column, Info, Kind, Served};
use serde_json::json;

pub struct Ingress;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("Class", "string", "The name of the IngressClass resource that should be used for additional configuration", |o, _| {
        table::str_or(o, &["spec", "ingressClassName"], "<none>")
    }),
    column("Hosts", "string", "Hosts that incoming requests are matched against before the ingress rule", |o, _| text(hosts(o))),
    column("Address", "string", "Address is a list containing ingress points for the load-balancer", |o, _| text(table::load_balancer(o.at(&["status", "loadBalancer"])))),
    column("Ports", "string", "Ports of TLS configurations that open", |o, _| text(if table::len(o.at(&["spec", "tls"])) > 0 { "80, 443" } else { "80" })),
    AGE,
];

impl Kind for Ingress {
    type Object = Object;
    const INFO: Info = Info {
        kind: "Ingress",
        plural: "ingresses",
        singular: "ingress",
        short_names: &["ing"],
        served: &[Served { group: "networking.k8s.io", version: "v1", schema: "io.k8s.api.networking.v1.Ingress" }],
        subresources: &[status("Ingress")],
        generation: true,
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "Ingress",
            "metadata": {"name": "sample", "namespace": "default"},
            "spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}
        }))
    }
}

fn hosts(o: &Object) -> String {
    let rules = table::list(o.at(&["spec", "rules"]));
    let all: Vec<String> = rules.iter().filter_map(|r| r["host"].as_str().filter(|h| !h.is_empty())).map(str::to_owned).collect();
    if all.is_empty() { "*".into() } else { table::shorten(&all) }
}
