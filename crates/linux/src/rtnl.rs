//! Links, addresses and routes: the few rtnetlink messages a pod network needs.
//!
//! Functions return [`Message`]s so that the caller can send several in one [`Socket::transact`].
//! Source: `rtnetlink(7)`, linux/if_link.h, linux/veth.h.

use crate::netlink::{Message, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NetlinkError, Socket};
use std::net::Ipv4Addr;
use std::os::fd::RawFd;

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BR_FORWARD_DELAY: u16 = 1;
const IFLA_BR_STP_STATE: u16 = 5;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_F_NOPREFIXROUTE: u32 = 0x200;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;

const AF_UNSPEC: u8 = 0;
const AF_INET: u8 = 2;
const AF_BRIDGE: u8 = 7;
const IFF_UP: u32 = 1;

/// A link as the kernel lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// Index of the bridge it is a port of, 0 for none.
    pub master: u32,
    pub up: bool,
}

fn ifinfo(family: u8, index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut v = vec![family, 0, 0, 0];
    v.extend_from_slice(&index.to_ne_bytes());
    v.extend_from_slice(&flags.to_ne_bytes());
    v.extend_from_slice(&change.to_ne_bytes());
    v
}

/// A bridge with a fixed address, up. The fixed address keeps it from changing with the first port.
pub fn bridge(name: &str, mac: [u8; 6], mtu: u32) -> Message {
    Message::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL)
        .raw(&ifinfo(AF_UNSPEC, 0, IFF_UP, IFF_UP))
        .text(IFLA_IFNAME, name)
        .attr(IFLA_ADDRESS, &mac)
        .u32(IFLA_MTU, mtu)
        .nest(IFLA_LINKINFO, |m| m.text(IFLA_INFO_KIND, "bridge").nest(IFLA_INFO_DATA, |m| m.u32(IFLA_BR_FORWARD_DELAY, 0).u32(IFLA_BR_STP_STATE, 0)))
}

/// Both ends of a veth pair in one message: `name` here, up and a port of `bridge`; `peer` in the namespace of `netns`,
/// still down: the driver refuses to open it before the pair is whole.
pub fn veth(name: &str, bridge: u32, peer: &str, peer_mac: [u8; 6], netns: RawFd, mtu: u32) -> Message {
    Message::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL).raw(&ifinfo(AF_UNSPEC, 0, IFF_UP, IFF_UP)).text(IFLA_IFNAME, name).u32(IFLA_MTU, mtu).u32(IFLA_MASTER, bridge).nest(
        IFLA_LINKINFO,
        |m| {
            m.text(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, |m| {
                m.nest(VETH_INFO_PEER, |m| {
                    m.raw(&ifinfo(AF_UNSPEC, 0, 0, 0)).text(IFLA_IFNAME, peer).attr(IFLA_ADDRESS, &peer_mac).u32(IFLA_MTU, mtu).u32(IFLA_NET_NS_FD, netns as u32)
                })
            })
        },
    )
}

/// Lets a bridge port send a frame back where it came from: a pod reaching itself through its service.
pub fn hairpin(port: u32) -> Message {
    Message::new(RTM_SETLINK, 0).raw(&ifinfo(AF_BRIDGE, port, 0, 0)).nest(IFLA_PROTINFO, |m| m.u8(IFLA_BRPORT_MODE, 1))
}

pub fn set_up(index: u32) -> Message {
    Message::new(RTM_SETLINK, 0).raw(&ifinfo(AF_UNSPEC, index, IFF_UP, IFF_UP))
}

pub fn delete_link(index: u32) -> Message {
    Message::new(RTM_DELLINK, 0).raw(&ifinfo(AF_UNSPEC, index, 0, 0))
}

pub fn address(index: u32, ip: Ipv4Addr, prefix: u8) -> Message {
    let mut head = vec![AF_INET, prefix, 0, 0];
    head.extend_from_slice(&index.to_ne_bytes());
    Message::new(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE).raw(&head).attr(IFA_LOCAL, &ip.octets()).attr(IFA_ADDRESS, &ip.octets())
}

/// Like [`address`], but the kernel makes no route to the prefix: it only tells which range the address is of.
pub fn address_without_route(index: u32, ip: Ipv4Addr, prefix: u8) -> Message {
    address(index, ip, prefix).attr(IFA_FLAGS, &IFA_F_NOPREFIXROUTE.to_ne_bytes())
}

/// A route to `to/prefix` (0.0.0.0/0: default) by `device`, through `gateway` or directly, with `source` as preferred source.
pub fn route(to: Ipv4Addr, prefix: u8, device: u32, gateway: Option<Ipv4Addr>, source: Option<Ipv4Addr>) -> Message {
    const RT_TABLE_MAIN: u8 = 254;
    const RTPROT_STATIC: u8 = 4;
    const RT_SCOPE_UNIVERSE: u8 = 0;
    const RT_SCOPE_LINK: u8 = 253;
    const RTN_UNICAST: u8 = 1;
    let scope = if gateway.is_some() { RT_SCOPE_UNIVERSE } else { RT_SCOPE_LINK };
    let head = [AF_INET, prefix, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, scope, RTN_UNICAST, 0, 0, 0, 0];
    let mut m = Message::new(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE).raw(&head);
    if prefix > 0 {
        m = m.attr(RTA_DST, &to.octets());
    }
    if let Some(g) = gateway {
        m = m.attr(RTA_GATEWAY, &g.octets());
    }
    if let Some(s) = source {
        m = m.attr(RTA_PREFSRC, &s.octets());
    }
    m.u32(RTA_OIF, device)
}

/// All links of the socket's namespace.
pub fn links(socket: &mut Socket) -> Result<Vec<Link>, NetlinkError> {
    let replies = socket.query(Message::new(RTM_GETLINK, NLM_F_DUMP).raw(&ifinfo(AF_UNSPEC, 0, 0, 0)))?;
    Ok(replies.iter().filter(|r| r.kind == RTM_NEWLINK).filter_map(parse_link).collect())
}

/// The link of this name, absent when there is none.
pub fn link(socket: &mut Socket, name: &str) -> Result<Option<Link>, NetlinkError> {
    const ENODEV: i32 = 19;
    match socket.query(Message::new(RTM_GETLINK, 0).raw(&ifinfo(AF_UNSPEC, 0, 0, 0)).text(IFLA_IFNAME, name)) {
        Ok(replies) => Ok(replies.iter().filter(|r| r.kind == RTM_NEWLINK).find_map(parse_link)),
        Err(e) if e.errno() == Some(ENODEV) => Ok(None),
        Err(e) => Err(e),
    }
}

fn parse_link(reply: &crate::netlink::Reply) -> Option<Link> {
    let word = |at: usize| Some(u32::from_ne_bytes(reply.payload.get(at..at + 4)?.try_into().ok()?));
    let (index, flags) = (word(4)?, word(8)?);
    let attrs = reply.attrs(16);
    let find = |kind| attrs.iter().find(|(k, _)| *k == kind).map(|(_, v)| *v);
    let name = find(IFLA_IFNAME).map(|v| String::from_utf8_lossy(v.strip_suffix(&[0]).unwrap_or(v)).into_owned())?;
    let master = find(IFLA_MASTER).and_then(|v| v.try_into().ok()).map_or(0, u32::from_ne_bytes);
    Some(Link { index, name, master, up: flags & IFF_UP != 0 })
}
