//! nf_tables: tables, chains, rules, sets and maps as netlink messages; one [`Batch`] is one transaction.
//!
//! Only the expressions that services and pod egress need. The kernel applies a batch whole or not at all, so a packet never
//! sees half a rule set (lessons.md 118). Source: linux/netfilter/nf_tables.h. The `nft` binary is the oracle in tests.

use crate::netlink::{Message, NLM_F_CREATE, NLM_F_DUMP, NetlinkError, Socket};
use std::net::Ipv4Addr;

const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_SUBSYS_CTNETLINK: u16 = 1;

const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_DELTABLE: u16 = 2;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_NEWRULE: u16 = 6;
const NFT_MSG_NEWSET: u16 = 9;
const NFT_MSG_NEWSETELEM: u16 = 12;
const NFT_MSG_DELSETELEM: u16 = 14;

const AF_INET: u8 = 2;
const NFPROTO_IPV4: u8 = AF_INET;
const NLM_F_APPEND: u16 = crate::netlink::NLM_F_APPEND;

/// Elements of one message: a nested attribute holds at most 64 KB and an element takes under 100 bytes.
const ELEMENTS_PER_MESSAGE: usize = 500;

/// A 32-bit register, 0 to 15. Neighbouring registers form a concatenation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reg(pub u32);

impl Reg {
    fn number(self) -> u32 {
        const NFT_REG32_00: u32 = 8;
        NFT_REG32_00 + self.0
    }
}

/// A key or datum, each field padded to four bytes as the kernel concatenates them.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Words(Vec<u8>);

impl Words {
    pub fn new() -> Self {
        Self::default()
    }
    pub fn ip(mut self, ip: Ipv4Addr) -> Self {
        self.0.extend_from_slice(&ip.octets());
        self
    }
    pub fn protocol(mut self, p: u8) -> Self {
        self.0.extend_from_slice(&[p, 0, 0, 0]);
        self
    }
    pub fn port(mut self, p: u16) -> Self {
        self.0.extend_from_slice(&p.to_be_bytes());
        self.0.extend_from_slice(&[0, 0]);
        self
    }
    /// A number in the machine's byte order, as `numgen` and `jhash` leave it.
    pub fn number(mut self, n: u32) -> Self {
        self.0.extend_from_slice(&n.to_ne_bytes());
        self
    }
}

/// Types of set fields; the numbers are `nft`'s, which prints sets by them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    Address = 7,
    Protocol = 12,
    Port = 13,
    /// A 32-bit number in the machine's byte order; `nft` has no plain one whose length it knows.
    Number = 19,
}

fn type_of(fields: &[Field]) -> u32 {
    const TYPE_BITS: u32 = 6;
    fields.iter().fold(0, |t, f| t << TYPE_BITS | *f as u32)
}

/// What a map yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapOf<'a> {
    /// Not a map: a set.
    Nothing,
    Verdict,
    Data(&'a [Field]),
}

/// The value of a map's element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    None,
    Goto(String),
    Data(Words),
}

/// One expression of a rule, in `nft` list's order of evaluation.
#[derive(Clone, Debug)]
pub enum Expr {
    /// `len` bytes of the IP header at `offset` into a register.
    Network {
        offset: u32,
        len: u32,
        to: Reg,
    },
    /// `len` bytes of the transport header.
    Transport {
        offset: u32,
        len: u32,
        to: Reg,
    },
    L4Protocol {
        to: Reg,
    },
    OutInterface {
        to: Reg,
    },
    /// Type of the destination address by the routing table (`fib daddr type`).
    DestinationType {
        to: Reg,
    },
    CtState {
        to: Reg,
    },
    And {
        reg: Reg,
        mask: Vec<u8>,
    },
    Equal {
        reg: Reg,
        value: Vec<u8>,
    },
    NotEqual {
        reg: Reg,
        value: Vec<u8>,
    },
    /// Continues only when the key is in the set.
    InSet {
        set: String,
        key: Reg,
    },
    /// Takes the verdict of the map.
    VerdictMap {
        map: String,
        key: Reg,
    },
    /// Puts the map's datum into a register, or ends the rule.
    Map {
        map: String,
        key: Reg,
        to: Reg,
    },
    Random {
        modulus: u32,
        to: Reg,
    },
    /// Jenkins hash of `len` bytes: the same source, the same number.
    Hash {
        from: Reg,
        len: u32,
        modulus: u32,
        to: Reg,
    },
    DestinationNat {
        address: Reg,
        port: Reg,
    },
    Masquerade,
    RejectTcpReset,
    RejectIcmpPortUnreachable,
    Jump(String),
    Accept,
}

/// Offsets in the IPv4 header.
pub const SOURCE_ADDRESS: u32 = 12;
pub const DESTINATION_ADDRESS: u32 = 16;
/// Offset in the TCP, UDP and SCTP header.
pub const DESTINATION_PORT: u32 = 2;
/// `RTN_LOCAL`: an address of this machine.
pub const ADDRESS_TYPE_LOCAL: u32 = 2;

/// Where a base chain hooks in.
#[derive(Clone, Copy, Debug)]
pub struct Hook {
    /// `nat` or `filter`.
    pub kind: &'static str,
    pub hook: HookPoint,
    pub priority: i32,
}

#[derive(Clone, Copy, Debug)]
pub enum HookPoint {
    PreRouting = 0,
    Forward = 2,
    Output = 3,
    PostRouting = 4,
}

/// A transaction under construction over one table of family `ip`.
pub struct Batch {
    table: String,
    messages: Vec<Message>,
    set_id: u32,
}

fn message(kind: u16, flags: u16) -> Message {
    Message::new(NFNL_SUBSYS_NFTABLES << 8 | kind, flags).raw(&[NFPROTO_IPV4, 0, 0, 0])
}

fn marker(kind: u16) -> Message {
    let id = NFNL_SUBSYS_NFTABLES.to_be_bytes();
    Message::new(kind, 0).raw(&[0, 0, id[0], id[1]])
}

impl Batch {
    pub fn new(table: &str) -> Self {
        Batch { table: table.into(), messages: vec![marker(NFNL_MSG_BATCH_BEGIN)], set_id: 0 }
    }
    pub fn is_empty(&self) -> bool {
        self.messages.len() == 1
    }
    fn push(&mut self, m: Message) -> &mut Self {
        self.messages.push(m);
        self
    }
    /// Makes the table empty and new, whatever there was.
    pub fn replace_table(&mut self) -> &mut Self {
        self.add_table().delete_table().add_table()
    }
    pub fn add_table(&mut self) -> &mut Self {
        let m = message(NFT_MSG_NEWTABLE, NLM_F_CREATE).text(1, &self.table).be32(2, 0);
        self.push(m)
    }
    /// The table must exist.
    pub fn delete_table(&mut self) -> &mut Self {
        let m = message(NFT_MSG_DELTABLE, 0).text(1, &self.table);
        self.push(m)
    }
    pub fn add_base_chain(&mut self, name: &str, h: Hook) -> &mut Self {
        let m = message(NFT_MSG_NEWCHAIN, NLM_F_CREATE).text(1, &self.table).text(3, name).nest(4, |m| m.be32(1, h.hook as u32).be32(2, h.priority as u32)).text(7, h.kind);
        self.push(m)
    }
    pub fn add_chain(&mut self, name: &str) -> &mut Self {
        let m = message(NFT_MSG_NEWCHAIN, NLM_F_CREATE).text(1, &self.table).text(3, name);
        self.push(m)
    }
    pub fn add_set(&mut self, name: &str, key: &[Field], of: &MapOf) -> &mut Self {
        const NFT_SET_MAP: u32 = 0x8;
        const NFT_DATA_VERDICT: u32 = 0xffff_ff00;
        self.set_id += 1;
        let flags = if *of == MapOf::Nothing { 0 } else { NFT_SET_MAP };
        let mut m =
            message(NFT_MSG_NEWSET, NLM_F_CREATE).text(1, &self.table).text(2, name).be32(3, flags).be32(4, type_of(key)).be32(5, 4 * key.len() as u32).be32(10, self.set_id);
        m = match of {
            MapOf::Nothing => m,
            MapOf::Verdict => m.be32(6, NFT_DATA_VERDICT).be32(7, 0),
            MapOf::Data(fields) => m.be32(6, type_of(fields)).be32(7, 4 * fields.len() as u32),
        };
        self.push(m)
    }
    pub fn add_elements<'a>(&mut self, set: &str, elements: impl IntoIterator<Item = (&'a Words, Value)>) -> &mut Self {
        self.elements(NFT_MSG_NEWSETELEM, NLM_F_CREATE, set, elements)
    }
    pub fn delete_elements<'a>(&mut self, set: &str, keys: impl IntoIterator<Item = &'a Words>) -> &mut Self {
        self.elements(NFT_MSG_DELSETELEM, 0, set, keys.into_iter().map(|k| (k, Value::None)))
    }
    fn elements<'a>(&mut self, kind: u16, flags: u16, set: &str, elements: impl IntoIterator<Item = (&'a Words, Value)>) -> &mut Self {
        let all: Vec<_> = elements.into_iter().collect();
        for part in all.chunks(ELEMENTS_PER_MESSAGE) {
            let m = message(kind, flags).text(1, &self.table).text(2, set).nest(3, |m| part.iter().fold(m, |m, (k, v)| element(m, k, v)));
            self.push(m);
        }
        self
    }
    pub fn add_rule(&mut self, chain: &str, expressions: &[Expr]) -> &mut Self {
        let m = message(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND).text(1, &self.table).text(2, chain).nest(4, |m| expressions.iter().fold(m, expression));
        self.push(m)
    }
    /// Applies all or nothing.
    pub fn commit(mut self, socket: &mut Socket) -> Result<(), NetlinkError> {
        if self.is_empty() {
            return Ok(());
        }
        self.messages.push(marker(NFNL_MSG_BATCH_END));
        let last = self.messages.len() - 1;
        socket.transact_acking(self.messages, |i| i != 0 && i != last)
    }
}

fn value(m: Message, kind: u16, bytes: &[u8]) -> Message {
    m.nest(kind, |m| m.attr(1, bytes))
}

fn verdict(m: Message, kind: u16, code: i32, chain: Option<&str>) -> Message {
    m.nest(kind, |m| {
        m.nest(2, |m| {
            let m = m.be32(1, code as u32);
            match chain {
                Some(c) => m.text(2, c),
                None => m,
            }
        })
    })
}

const NF_ACCEPT: i32 = 1;
const NFT_JUMP: i32 = -3;
const NFT_GOTO: i32 = -4;

fn element(m: Message, key: &Words, v: &Value) -> Message {
    m.nest(1, |m| {
        let m = value(m, 1, &key.0);
        match v {
            Value::None => m,
            Value::Goto(chain) => verdict(m, 2, NFT_GOTO, Some(chain)),
            Value::Data(d) => value(m, 2, &d.0),
        }
    })
}

fn expression(m: Message, e: &Expr) -> Message {
    const NETWORK: u32 = 1;
    const TRANSPORT: u32 = 2;
    let payload = |base, offset: u32, len: u32, to: Reg| move |m: Message| m.be32(1, to.number()).be32(2, base).be32(3, offset).be32(4, len);
    let one = |m: Message, name: &str, data: &dyn Fn(Message) -> Message| m.nest(1, |m| m.text(1, name).nest(2, data));
    match e {
        Expr::Network { offset, len, to } => one(m, "payload", &payload(NETWORK, *offset, *len, *to)),
        Expr::Transport { offset, len, to } => one(m, "payload", &payload(TRANSPORT, *offset, *len, *to)),
        Expr::L4Protocol { to } => one(m, "meta", &|m| m.be32(1, to.number()).be32(2, 16)),
        Expr::OutInterface { to } => one(m, "meta", &|m| m.be32(1, to.number()).be32(2, 7)),
        Expr::DestinationType { to } => one(m, "fib", &|m| m.be32(1, to.number()).be32(2, 3).be32(3, 2)),
        Expr::CtState { to } => one(m, "ct", &|m| m.be32(1, to.number()).be32(2, 0)),
        Expr::And { reg, mask } => one(m, "bitwise", &|m| value(value(m.be32(1, reg.number()).be32(2, reg.number()).be32(3, mask.len() as u32), 4, mask), 5, &vec![0; mask.len()])),
        Expr::Equal { reg, value: v } => one(m, "cmp", &|m| value(m.be32(1, reg.number()).be32(2, 0), 3, v)),
        Expr::NotEqual { reg, value: v } => one(m, "cmp", &|m| value(m.be32(1, reg.number()).be32(2, 1), 3, v)),
        Expr::InSet { set, key } => one(m, "lookup", &|m| m.text(1, set).be32(2, key.number())),
        Expr::VerdictMap { map, key } => one(m, "lookup", &|m| m.text(1, map).be32(2, key.number()).be32(3, 0)),
        Expr::Map { map, key, to } => one(m, "lookup", &|m| m.text(1, map).be32(2, key.number()).be32(3, to.number())),
        Expr::Random { modulus, to } => one(m, "numgen", &|m| m.be32(1, to.number()).be32(2, *modulus).be32(3, 1).be32(4, 0)),
        Expr::Hash { from, len, modulus, to } => one(m, "hash", &|m| m.be32(1, from.number()).be32(2, to.number()).be32(3, *len).be32(4, *modulus).be32(7, 0)),
        Expr::DestinationNat { address, port } => one(m, "nat", &|m| m.be32(1, 1).be32(2, u32::from(NFPROTO_IPV4)).be32(3, address.number()).be32(5, port.number())),
        Expr::Masquerade => one(m, "masq", &|m| m),
        Expr::RejectTcpReset => one(m, "reject", &|m| m.be32(1, 1).u8(2, 0)),
        Expr::RejectIcmpPortUnreachable => one(m, "reject", &|m| m.be32(1, 0).u8(2, 3)),
        Expr::Jump(chain) => one(m, "immediate", &|m| verdict(m.be32(1, 0), 2, NFT_JUMP, Some(chain))),
        Expr::Accept => one(m, "immediate", &|m| verdict(m.be32(1, 0), 2, NF_ACCEPT, None)),
    }
}

/// A connection that conntrack remembers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    pub protocol: u8,
    /// Where the client sent to: a service's address and port.
    pub destination: (Ipv4Addr, u16),
    /// Who answers: the endpoint.
    pub answering: Ipv4Addr,
    /// The original tuple as the kernel wrote it; deleting names it.
    original: Vec<u8>,
}

const IPCTNL_MSG_CT_GET: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;

/// All IPv4 flows of the socket's namespace.
pub fn flows(socket: &mut Socket) -> Result<Vec<Flow>, NetlinkError> {
    let get = Message::new(NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET, NLM_F_DUMP).raw(&[AF_INET, 0, 0, 0]);
    Ok(socket.query(get)?.iter().filter_map(flow).collect())
}

/// Forgets a flow, so that its next packet is looked up anew: UDP has no connection whose end would do it.
pub fn forget(socket: &mut Socket, f: &Flow) -> Result<(), NetlinkError> {
    const ENOENT: i32 = 2;
    const NLA_F_NESTED: u16 = 1 << 15;
    let m = Message::new(NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE, 0).raw(&[AF_INET, 0, 0, 0]).attr(CTA_TUPLE_ORIG | NLA_F_NESTED, &f.original);
    match socket.transact(vec![m]) {
        Err(e) if e.errno() == Some(ENOENT) => Ok(()),
        r => r,
    }
}

fn flow(reply: &crate::netlink::Reply) -> Option<Flow> {
    let find = |attrs: &[(u16, &[u8])], kind: u16| attrs.iter().find(|(k, _)| *k == kind).map(|(_, v)| v.to_vec());
    let attrs_of = |payload: Vec<u8>| crate::netlink::Reply { kind: 0, payload };
    let top = reply.attrs(4);
    let original = find(&top, CTA_TUPLE_ORIG)?;
    let address = |tuple: &[u8], which: u16| -> Option<Ipv4Addr> {
        let tuple = attrs_of(tuple.to_vec());
        let ip = attrs_of(find(&tuple.attrs(0), 1)?);
        let bytes: [u8; 4] = find(&ip.attrs(0), which)?.try_into().ok()?;
        Some(bytes.into())
    };
    let tuple = attrs_of(original.clone());
    let proto = attrs_of(find(&tuple.attrs(0), 2)?);
    let number = find(&proto.attrs(0), 1)?.first().copied()?;
    let port = find(&proto.attrs(0), 3).and_then(|p| Some(u16::from_be_bytes(p.try_into().ok()?))).unwrap_or(0);
    Some(Flow { protocol: number, destination: (address(&original, 2)?, port), answering: address(&find(&top, CTA_TUPLE_REPLY)?, 1)?, original })
}

/// Whether a table of family `ip` is there.
pub fn table_exists(socket: &mut Socket, name: &str) -> Result<bool, NetlinkError> {
    const NFT_MSG_GETTABLE: u16 = 1;
    const ENOENT: i32 = 2;
    match socket.query(message(NFT_MSG_GETTABLE, 0).text(1, name)) {
        Ok(_) => Ok(true),
        Err(e) if e.errno() == Some(ENOENT) => Ok(false),
        Err(e) => Err(e),
    }
}
