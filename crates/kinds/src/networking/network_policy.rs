//! NetworkPolicy: who may talk to pods (networking.k8s.io/v1).

use crate::core::pod::handlers;
use crate::field::{Field, child_mut, default_pointer, items_mut, one_of, set};
use crate::formats;
use crate::ip;
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
        validate_spec(o, &[], p);
    }

    /// Ranges that the policy had may stay as they are, wherever they stand now.
    fn validate_update(new: &Object, old: &Object, p: &mut Problems) {
        let kept: Vec<&str> = ip_blocks(&Field::root(old).get("spec")).iter().flat_map(|b| [vec![b.str("cidr")], b.strings("except")].concat()).collect();
        validate_spec(new, &kept, p);
    }

    fn warnings(new: &Object, _: Option<&Object>, w: &mut Vec<String>) {
        for block in ip_blocks(&Field::root(new).get("spec")) {
            ip::warn_cidr(w, &block.at("cidr"), block.str("cidr"));
            block.items("except").iter().for_each(|e| ip::warn_cidr(w, e.path(), e.text()));
        }
    }
}

const PEERS: &[(&str, &str)] = &[("ingress", "from"), ("egress", "to")];

fn ip_blocks<'a>(spec: &Field<'a>) -> Vec<Field<'a>> {
    let rules = PEERS.iter().flat_map(|(list, peers)| spec.items(list).into_iter().map(move |rule| (rule, *peers)));
    rules.flat_map(|(rule, peers)| rule.items(peers)).map(|peer| peer.get("ipBlock")).filter(Field::is_set).collect()
}

fn validate_spec(o: &Object, kept: &[&str], p: &mut Problems) {
    let spec = Field::root(o).get("spec");
    labels::selector(p, &spec.get("podSelector"));
    for (list, peers) in PEERS {
        for rule in spec.items(list) {
            rule.items("ports").iter().for_each(|one| port(one, p));
            rule.items(peers).iter().for_each(|one| peer(one, kept, p));
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

fn peer(peer: &Field, kept: &[&str], p: &mut Problems) {
    let (pods, namespaces, block) = (peer.get("podSelector"), peer.get("namespaceSelector"), peer.get("ipBlock"));
    labels::selector(p, &pods);
    labels::selector(p, &namespaces);
    if block.is_set() {
        ip_block(&block, kept, p);
    }
    match (block.is_set(), pods.is_set() || namespaces.is_set()) {
        (false, false) => p.required(peer.path(), "must specify a peer"),
        (true, true) => p.forbidden(peer.path(), "may not specify both ipBlock and another peer"),
        _ => {}
    }
}

fn ip_block(block: &Field, kept: &[&str], p: &mut Problems) {
    let cidr = block.str("cidr");
    if cidr.is_empty() {
        p.required(&block.at("cidr"), "");
        return;
    }
    ip::legacy_cidr(p, &block.at("cidr"), cidr, kept);
    let Some((whole, bits)) = ip::parse_cidr_sloppy(cidr) else { return };
    for except in block.items("except") {
        ip::legacy_cidr(p, except.path(), except.text(), kept);
        if let Some(part) = ip::parse_cidr_sloppy(except.text())
            && !formats::strictly_inside(part, (ip::network(whole, bits), bits))
        {
            p.invalid(except.path(), except.text(), "must be a strict subset of `cidr`");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(cidr: &str) -> Object {
        let mut o = NetworkPolicy::example();
        o.0["spec"]["ingress"] = json!([{"from": [{"ipBlock": {"cidr": cidr}}]}]);
        o
    }

    #[test]
    fn a_sloppy_range_is_refused_unless_the_policy_had_it_and_warned_of_in_any_case() {
        let check = |old: Option<&str>| {
            let mut p = Problems::new();
            match old {
                None => NetworkPolicy::validate(&policy("10.1.0.1/16"), &mut p),
                Some(old) => NetworkPolicy::validate_update(&policy("10.1.0.1/16"), &policy(old), &mut p),
            }
            p.len()
        };
        assert_eq!((check(None), check(Some("10.0.0.0/8")), check(Some("10.1.0.1/16"))), (1, 1, 0));
        let mut w = Vec::new();
        NetworkPolicy::warnings(&policy("10.1.0.1/16"), None, &mut w);
        assert_eq!(w, ["spec.ingress[0].from[0].ipBlock.cidr: CIDR value \"10.1.0.1/16\" is ambiguous in this context (should be \"10.1.0.0/16\" or \"10.1.0.1/32\"?)"]);
    }
}
