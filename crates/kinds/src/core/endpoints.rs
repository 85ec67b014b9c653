//! Endpoints: addresses behind a Service, the older form (v1).

use crate::table::{self, AGE, NAME, column, text};
use keles_api::Object;
use keles_registry::kind::{Column, Info, Kind, Served};
use serde_json::json;

pub struct Endpoints;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column(
        "Endpoints",
        "string",
        "The set of all endpoints is the union of all subsets. Addresses are placed into subsets according to the IPs they share. A single address with multiple ports, some of which are ready and some of which are not (because they come from different containers) will result in the address being displayed in different subsets for the different ports. No address will appear in both Addresses and NotReadyAddresses in the same subset. Sets of addresses and ports that comprise a service.",
        |o, _| text(addresses(o)),
    ),
    AGE,
];

impl Kind for Endpoints {
    type Object = Object;
    const INFO: Info = Info {
        kind: "Endpoints",
        plural: "endpoints",
        singular: "endpoints",
        short_names: &["ep"],
        served: &[Served { group: "", version: "v1", schema: "io.k8s.api.core.v1.Endpoints" }],
        create_on_update: true,
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "sample", "namespace": "default"}}))
    }
}

/// `10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 1 more...`
fn addresses(o: &Object) -> String {
    let mut all = Vec::new();
    for subset in table::list(o.at(&["subsets"])) {
        let ips = table::list(&subset["addresses"]).iter().filter_map(|a| a["ip"].as_str());
        let ports = table::list(&subset["ports"]);
        if ports.is_empty() {
            all.extend(ips.map(str::to_owned));
            continue;
        }
        let ips: Vec<&str> = ips.collect();
        for port in ports {
            all.extend(ips.iter().map(|ip| join_host_port(ip, port["port"].as_i64().unwrap_or(0))));
        }
    }
    if all.is_empty() { "<none>".into() } else { table::shorten(&all) }
}

fn join_host_port(ip: &str, port: i64) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}
