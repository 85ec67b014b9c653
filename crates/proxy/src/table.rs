//! The nftables table: its fixed chains, and the transaction from one set of rules to the next.

use crate::rules::{Pick, Rules, TCP};
use keles_linux::nft::{ADDRESS_TYPE_LOCAL, Batch, DESTINATION_ADDRESS, DESTINATION_PORT, Expr, Field, Hook, HookPoint, MapOf, Reg, SOURCE_ADDRESS, Value, Words};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// An IPv4 range as address and mask.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    pub base: Ipv4Addr,
    pub mask: Ipv4Addr,
}

/// Names and ranges of this node.
#[derive(Clone, Debug)]
pub struct Frame {
    pub table: String,
    pub bridge: String,
    pub pods: Range,
    pub services: Range,
}

const SERVICES: &str = "services";
const ENDPOINTS: &str = "endpoints";
const NODE_PORTS: &str = "nodeports";
const NODE_PORT_ENDPOINTS: &str = "nodeport-endpoints";
const HAIRPIN: &str = "hairpin";
const DISPATCH: &str = "dispatch";

/// Registers: a map's key starts at 0, the endpoint that it yields at 8, so that they never overlap.
const KEY: Reg = Reg(0);
const ENDPOINT: Reg = Reg(8);
const ENDPOINT_PORT: Reg = Reg(9);
const SCRATCH: Reg = Reg(12);

/// The whole table anew, whatever was there: the first transaction, and the one after a failure.
pub fn replace(frame: &Frame, rules: &Rules) -> Batch {
    use Field::{Address, Number, Port, Protocol};
    let mut b = Batch::new(&frame.table);
    b.replace_table();
    b.add_set(SERVICES, &[Address, Protocol, Port], &MapOf::Verdict);
    b.add_set(ENDPOINTS, &[Address, Protocol, Port, Number], &MapOf::Data(&[Address, Port]));
    b.add_set(NODE_PORTS, &[Protocol, Port], &MapOf::Verdict);
    b.add_set(NODE_PORT_ENDPOINTS, &[Protocol, Port, Number], &MapOf::Data(&[Address, Port]));
    b.add_set(HAIRPIN, &[Address, Address], &MapOf::Nothing);
    base_chains(&mut b, frame);
    change(&mut b, &Rules::default(), rules);
    b
}

/// Only what differs.
pub fn update(frame: &Frame, old: &Rules, new: &Rules) -> Batch {
    let mut b = Batch::new(&frame.table);
    change(&mut b, old, new);
    b
}

fn change(b: &mut Batch, old: &Rules, new: &Rules) {
    // Chains stay once made: they are as many as there were different endpoint counts.
    for pick in new.picks().difference(&old.picks()) {
        add_pick(b, *pick);
    }
    let goto = |p: &Pick| Value::Goto(p.chain());
    let data = |w: &Words| Value::Data(w.clone());
    // Fronts go before the endpoints they lead to and come after them; within one transaction it only reads better.
    let fronts = [(SERVICES, &old.services, &new.services), (NODE_PORTS, &old.node_ports, &new.node_ports)];
    let ends = [(ENDPOINTS, &old.endpoints, &new.endpoints), (NODE_PORT_ENDPOINTS, &old.node_port_endpoints, &new.node_port_endpoints)];
    fronts.iter().for_each(|(set, o, n)| remove(b, set, o, n));
    ends.iter().for_each(|(set, o, n)| remove(b, set, o, n));
    ends.iter().for_each(|(set, o, n)| add(b, set, o, n, data));
    fronts.iter().for_each(|(set, o, n)| add(b, set, o, n, goto));
    b.delete_elements(HAIRPIN, old.hairpin.difference(&new.hairpin));
    b.add_elements(HAIRPIN, new.hairpin.difference(&old.hairpin).map(|k| (k, Value::None)));
}

/// Elements that are gone or whose value changed: a map's value changes by removing and adding its key.
fn remove<V: PartialEq>(b: &mut Batch, set: &str, old: &BTreeMap<Words, V>, new: &BTreeMap<Words, V>) {
    let gone: BTreeSet<&Words> = old.iter().filter(|(k, v)| new.get(k) != Some(v)).map(|(k, _)| k).collect();
    b.delete_elements(set, gone);
}

fn add<V: PartialEq>(b: &mut Batch, set: &str, old: &BTreeMap<Words, V>, new: &BTreeMap<Words, V>, value: impl Fn(&V) -> Value) {
    b.add_elements(set, new.iter().filter(|(k, v)| old.get(k) != Some(v)).map(|(k, v)| (k, value(v))));
}

fn source(to: Reg) -> Expr {
    Expr::Network { offset: SOURCE_ADDRESS, len: 4, to }
}
fn destination(to: Reg) -> Expr {
    Expr::Network { offset: DESTINATION_ADDRESS, len: 4, to }
}
fn port(to: Reg) -> Expr {
    Expr::Transport { offset: DESTINATION_PORT, len: 2, to }
}
fn within(reg: Reg, range: Range) -> [Expr; 2] {
    [Expr::And { reg, mask: range.mask.octets().to_vec() }, Expr::Equal { reg, value: range.base.octets().to_vec() }]
}

/// Interface names are compared as the kernel keeps them, padded to 16 bytes.
fn interface(name: &str) -> Vec<u8> {
    const IFNAMSIZ: usize = 16;
    let mut v = name.as_bytes().to_vec();
    v.resize(IFNAMSIZ, 0);
    v
}

fn base_chains(b: &mut Batch, f: &Frame) {
    const DSTNAT: i32 = -100;
    const SRCNAT: i32 = 100;
    const FILTER: i32 = 0;
    b.add_chain(DISPATCH);
    b.add_rule(DISPATCH, &[destination(KEY), Expr::L4Protocol { to: Reg(1) }, port(Reg(2)), Expr::VerdictMap { map: SERVICES.into(), key: KEY }]);
    let local = ADDRESS_TYPE_LOCAL.to_ne_bytes().to_vec();
    b.add_rule(
        DISPATCH,
        &[
            Expr::DestinationType { to: SCRATCH },
            Expr::Equal { reg: SCRATCH, value: local },
            Expr::L4Protocol { to: KEY },
            port(Reg(1)),
            Expr::VerdictMap { map: NODE_PORTS.into(), key: KEY },
        ],
    );
    for (name, hook) in [("prerouting", HookPoint::PreRouting), ("output", HookPoint::Output)] {
        b.add_base_chain(name, Hook { kind: "nat", hook, priority: DSTNAT });
        b.add_rule(name, &[Expr::Jump(DISPATCH.into())]);
    }
    b.add_base_chain("postrouting", Hook { kind: "nat", hook: HookPoint::PostRouting, priority: SRCNAT });
    b.add_rule("postrouting", &[source(KEY), destination(Reg(1)), Expr::InSet { set: HAIRPIN.into(), key: KEY }, Expr::Masquerade]);
    let loopback = Range { base: Ipv4Addr::new(127, 0, 0, 0), mask: Ipv4Addr::new(255, 0, 0, 0) };
    let on_bridge = Expr::Equal { reg: SCRATCH, value: interface(&f.bridge) };
    let off_bridge = Expr::NotEqual { reg: SCRATCH, value: interface(&f.bridge) };
    let [mask, equal] = within(KEY, loopback);
    b.add_rule("postrouting", &[source(KEY), mask, equal, Expr::OutInterface { to: SCRATCH }, on_bridge, Expr::Masquerade]);
    let [mask, equal] = within(KEY, f.pods);
    b.add_rule("postrouting", &[source(KEY), mask, equal, Expr::OutInterface { to: SCRATCH }, off_bridge, Expr::Masquerade]);
    for (name, hook) in [("reject-forward", HookPoint::Forward), ("reject-output", HookPoint::Output)] {
        b.add_base_chain(name, Hook { kind: "filter", hook, priority: FILTER });
        let [mask, equal] = within(KEY, f.services);
        b.add_rule(name, &[destination(KEY), mask, equal, Expr::L4Protocol { to: SCRATCH }, Expr::Equal { reg: SCRATCH, value: vec![TCP] }, Expr::RejectTcpReset]);
        let [mask, equal] = within(KEY, f.services);
        b.add_rule(name, &[destination(KEY), mask, equal, Expr::RejectIcmpPortUnreachable]);
    }
}

/// The chain that picks one of N endpoints and sends the connection there.
fn add_pick(b: &mut Batch, pick: Pick) {
    let chain = pick.chain();
    let mut rule = if pick.node_port { vec![Expr::L4Protocol { to: KEY }, port(Reg(1))] } else { vec![destination(KEY), Expr::L4Protocol { to: Reg(1) }, port(Reg(2))] };
    let slot = Reg(if pick.node_port { 2 } else { 3 });
    if pick.by_source {
        rule.extend([source(SCRATCH), Expr::Hash { from: SCRATCH, len: 4, modulus: pick.count, to: slot }]);
    } else {
        rule.push(Expr::Random { modulus: pick.count, to: slot });
    }
    let map = if pick.node_port { NODE_PORT_ENDPOINTS } else { ENDPOINTS };
    rule.extend([Expr::Map { map: map.into(), key: KEY, to: ENDPOINT }, Expr::DestinationNat { address: ENDPOINT, port: ENDPOINT_PORT }]);
    b.add_chain(&chain);
    b.add_rule(&chain, &rule);
}
