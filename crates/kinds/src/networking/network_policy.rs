//! NetworkPolicy: who may talk to pods (networking.k8s.io/v1).

use crate::core::pod::handlers;
use crate::field::{Field, child_mut, default_pointer, invalid_each, items_mut, one_of, set};
use crate::formats;
use crate::labels;
use crate::table::{self, AGE, NAME, column, text};
use keles_api::{Object, Problems};
use keles_registry::kind::{Column, Info, Kind, Served};
use serde_json::{Value, json};

pub struct NetworkPolicy;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("Pod-Selector", "string", "podSelector selects the pods to which this NetworkPolicy object applies.", |o, _| text(table::selector(o.at(&["spec", "podSelector"])))),
    AGE,
];

impl Kind for NetworkPolicy {
    type Object = Object;
    const INFO: Info = Info {
        kind: "NetworkPolicy",
        plural: "networkpolicies",
        singular: "networkpolicy",
        short_names: &["netpol"],
        served: &[Served { group: "networking.k8s.io", version: "v1", schema: "io.k8s.api.networking.v1.NetworkPolicy" }],
        generation: true,
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "sample", "namespace": "default"},
            "spec": {"podSelector": {}}
        }))
    }

    fn set_defaults(o: &mut Object) {
        let Some(spec) = child_mut(&mut o.0, "spec") else { return };
        for list in ["ingress", "egress"] {
            for rule in items_mut(spec, list) {
                items_mut(rule, "ports").for_each(|port| default_pointer(port, "protocol", "TCP"));
            }
        }
        if table::len(&spec["policyTypes"]) == 0 {
            let both = table::len(&spec["egress"]) > 0;
            set(spec, "policyTypes", if both { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) });
        }
    }

    fn validate(o: &Object, p: &mut Problems) {
        let spec = Field::root(o).get("spec");
        labels::selector(p, &spec.get("podSelector"));
        for (list, peers) in [("ingress", "from"), ("egress", "to")] {
            for rule in spec.items(list) {
                rule.items("ports").iter().for_each(|one| port(one, p));
                rule.items(peers).iter().for_each(|one| peer(one, p));
            }
        }
        let types = spec.items("policyTypes");
        if types.len() > 2 {
            p.invalid(&spec.at("policyTypes"), spec.get("policyTypes").value().clone(), "may not specify more than two policyTypes");
            return;
        }
        for one in types {
            one_of(p, one.path(), one.text(), &["Ingress", "Egress"]);
        }
    }
}

fn port(port: &Field, p: &mut Problems) {
    if let Some(protocol) = port.opt_str("protocol") {
        one_of(p, &port.at("protocol"), protocol, &["TCP", "UDP", "SCTP"]);
    }
    let number = port.get("port");
    if number.is_set() {
        handlers::port(number.path(), number.value(), p);
    }
    let Some(end) = port.opt_int("endPort") else { return };
    match number.value() {
        Value::Number(n) => {
            let first = n.as_i64().unwrap_or(0);
            if end < first {
                // The value shown is the port's, as upstream has it.
                p.invalid(&port.at("endPort"), first, "must be greater than or equal to `port`");
            }
            formats::port_number(end).into_iter().for_each(|m| p.invalid(&port.at("endPort"), end, m));
        }
        Value::Null => p.invalid(&port.at("endPort"), end, "may not be specified when `port` is not specified"),
        _ => p.invalid(&port.at("endPort"), end, "may not be specified when `port` is non-numeric"),
    }
}

fn peer(peer: &Field, p: &mut Problems) {
    let (pods, namespaces, block) = (peer.get("podSelector"), peer.get("namespaceSelector"), peer.get("ipBlock"));
    labels::selector(p, &pods);
    labels::selector(p, &namespaces);
    if block.is_set() {
        ip_block(&block, p);
    }
    match (block.is_set(), pods.is_set() || namespaces.is_set()) {
        (false, false) => p.required(peer.path(), "must specify a peer"),
        (true, true) => p.forbidden(peer.path(), "may not specify both ipBlock and another peer"),
        _ => {}
    }
}

fn ip_block(block: &Field, p: &mut Problems) {
    let cidr = block.str("cidr");
    if cidr.is_empty() {
        p.required(&block.at("cidr"), "");
        return;
    }
    let bad = formats::cidr(cidr);
    let whole = formats::parse_cidr(cidr);
    invalid_each(p, &block.at("cidr"), cidr, bad);
    for except in block.items("except") {
        invalid_each(p, except.path(), except.text(), formats::cidr(except.text()));
        if let (Some(whole), Some(part)) = (whole, formats::parse_cidr(except.text()))
            && !formats::strictly_inside(part, whole)
        {
            p.invalid(except.path(), except.text(), "must be a strict subset of `cidr`");
        }
    }
}
