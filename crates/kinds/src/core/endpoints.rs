//! Endpoints: addresses behind a Service, the older form (v1).

use crate::field::{Field, default, invalid_each, items_mut, required_one_of, same};
use crate::formats;
use crate::ip;
use crate::table::{self, AGE, NAME, column, text};
use keles_api::{Object, Problems, names};
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

    fn set_defaults(o: &mut Object) {
        for subset in items_mut(&mut o.0, "subsets") {
            for port in items_mut(subset, "ports") {
                default(port, "protocol", "TCP");
            }
        }
    }

    fn validate(o: &Object, p: &mut Problems) {
        subsets(&Field::root(o), &[], p);
    }

    fn validate_update(new: &Object, old: &Object, p: &mut Problems) {
        let (root, before) = (Field::root(new), Field::root(old));
        if !same(root.get("subsets").value(), before.get("subsets").value()) {
            subsets(&root, &ips(&before), p);
        }
    }

    fn warnings(new: &Object, _old: Option<&Object>, w: &mut Vec<String>) {
        // The controller has put its addresses right already.
        if new.label(MANAGED_BY) == Some("endpoints-controller") {
            return;
        }
        for subset in Field::root(new).items("subsets") {
            for a in subset.items("addresses").iter().chain(&subset.items("notReadyAddresses")) {
                ip::warn(w, &a.at("ip"), a.str("ip"));
            }
        }
    }
}

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";

fn ips<'a>(root: &Field<'a>) -> Vec<&'a str> {
    let of = |subset: Field<'a>| subset.items("addresses").into_iter().chain(subset.items("notReadyAddresses")).map(|a| a.str("ip")).collect::<Vec<_>>();
    root.items("subsets").into_iter().flat_map(of).collect()
}

/// `kept`: addresses that the object already had, which stay good however sloppy.
fn subsets(root: &Field, kept: &[&str], p: &mut Problems) {
    for subset in root.items("subsets") {
        if subset.list("addresses").is_empty() && subset.list("notReadyAddresses").is_empty() {
            p.required(subset.path(), "must specify `addresses` or `notReadyAddresses`");
        }
        for a in subset.items("addresses").iter().chain(&subset.items("notReadyAddresses")) {
            address(a, kept, p);
        }
        let ports = subset.items("ports");
        let needs_name = ports.len() > 1;
        ports.iter().for_each(|one| port(one, needs_name, p));
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

fn address(a: &Field, kept: &[&str], p: &mut Problems) {
    ip::legacy(p, &a.at("ip"), a.str("ip"), kept);
    if !a.str("hostname").is_empty() {
        invalid_each(p, &a.at("hostname"), a.str("hostname"), names::dns_label(a.str("hostname"), false));
    }
    if let Some(node) = a.opt_str("nodeName") {
        invalid_each(p, &a.at("nodeName"), node, names::dns_subdomain(node, false));
    }
    ip::reachable(p, &a.at("ip"), a.str("ip"));
}

fn port(port: &Field, needs_name: bool, p: &mut Problems) {
    match port.str("name") {
        "" if needs_name => p.required(&port.at("name"), ""),
        "" => {}
        name => invalid_each(p, &port.at("name"), name, names::dns_label(name, false)),
    }
    let n = port.int("port");
    formats::port_number(n).into_iter().for_each(|m| p.invalid(&port.at("port"), n, m));
    required_one_of(p, &port.at("protocol"), port.str("protocol"), &["SCTP", "TCP", "UDP"]);
    if let Some(app) = port.opt_str("appProtocol") {
        invalid_each(p, &port.at("appProtocol"), app, names::qualified_name(app));
    }
}
