//! Addresses and ranges. Zones and addresses of IPv4 written as IPv6 are refused, as Go's netip in Kubernetes is used.

use super::{Row, fail, mismatch};
use crate::error::Result;
use crate::value::Value;
use std::fmt;
use std::net::IpAddr;

pub(crate) const ROWS: &[Row] = &[
    Row { name: "ip", overloads: &[("string_to_ip", "string -> ip"), ("cidr_ip", ".cidr -> ip")], run: make },
    Row { name: "isIP", overloads: &[("is_ip", "string -> bool")], run: make },
    Row { name: "ip.isCanonical", overloads: &[("ip_is_canonical", "string -> bool")], run: make },
    Row { name: "family", overloads: &[("family", ".ip -> int")], run: property },
    Row { name: "isUnspecified", overloads: &[("is_unspecified", ".ip -> bool")], run: property },
    Row { name: "isLoopback", overloads: &[("is_loopback", ".ip -> bool")], run: property },
    Row { name: "isLinkLocalMulticast", overloads: &[("is_link_local_multicast", ".ip -> bool")], run: property },
    Row { name: "isLinkLocalUnicast", overloads: &[("is_link_local_unicast", ".ip -> bool")], run: property },
    Row { name: "isGlobalUnicast", overloads: &[("is_global_unicast", ".ip -> bool")], run: property },
    Row { name: "cidr", overloads: &[("string_to_cidr", "string -> cidr")], run: make },
    Row { name: "isCIDR", overloads: &[("is_cidr", "string -> bool")], run: make },
    Row { name: "containsIP", overloads: &[("cidr_contains_ip_string", ".cidr string -> bool"), ("cidr_contains_ip_ip", ".cidr ip -> bool")], run: contains },
    Row { name: "containsCIDR", overloads: &[("cidr_contains_cidr_string", ".cidr string -> bool"), ("cidr_contains_cidr", ".cidr cidr -> bool")], run: contains },
    Row { name: "masked", overloads: &[("cidr_masked", ".cidr -> cidr")], run: range },
    Row { name: "prefixLength", overloads: &[("cidr_prefix_length", ".cidr -> int")], run: range },
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    pub address: IpAddr,
    pub bits: u8,
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl Cidr {
    fn masked(self) -> Cidr {
        let address = match self.address {
            IpAddr::V4(a) => IpAddr::V4((u32::from(a) & u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0)).into()),
            IpAddr::V6(a) => IpAddr::V6((u128::from(a) & u128::MAX.checked_shl(128 - u32::from(self.bits)).unwrap_or(0)).into()),
        };
        Cidr { address, bits: self.bits }
    }
    fn contains(self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.address.is_ipv4() && (Cidr { address: ip, bits: self.bits }).masked() == self.masked()
    }
}

fn parse_ip(text: &str) -> std::result::Result<IpAddr, String> {
    if text.contains('%') {
        return Err(format!("IP address {} with zone value is not allowed", super::strings::quote(text)));
    }
    let Ok(ip) = text.parse::<IpAddr>() else {
        return Err(format!(
            "IP Address {} parse error during conversion from string: ParseAddr({}): unable to parse IP",
            super::strings::quote(text),
            super::strings::quote(text)
        ));
    };
    match ip {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Err(format!("IPv4-mapped IPv6 address {} is not allowed", super::strings::quote(text))),
        _ => Ok(ip),
    }
}

fn parse_cidr(text: &str) -> std::result::Result<Cidr, String> {
    let bad = |why: &str| Err(format!("network address parse error during conversion from string: netip.ParsePrefix({}): {why}", super::strings::quote(text)));
    let Some((address, bits)) = text.rsplit_once('/') else { return bad("no '/'") };
    if address.contains('%') {
        return bad("IPv6 zones cannot be present in a prefix");
    }
    let Ok(ip) = address.parse::<IpAddr>() else { return bad(&format!("ParseAddr({}): unable to parse IP", super::strings::quote(address))) };
    let most = if ip.is_ipv4() { 32 } else { 128 };
    let well_written = !bits.is_empty() && bits.bytes().all(|b| b.is_ascii_digit()) && (bits == "0" || !bits.starts_with('0'));
    match bits.parse::<u8>() {
        Ok(n) if well_written && n <= most => match ip {
            IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Err(format!("IPv4-mapped IPv6 address {} is not allowed", super::strings::quote(address))),
            _ => Ok(Cidr { address: ip, bits: n }),
        },
        _ if well_written => bad("prefix length out of range"),
        _ => bad(&format!("bad bits after slash: {}", super::strings::quote(bits))),
    }
}

fn make<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    if let (Value::Cidr(c), "ip") = (&a[0], function) {
        return Ok(Value::Ip(c.address));
    }
    let Some(s) = a[0].as_str() else { return Err(mismatch(function, a)) };
    let made = match function {
        "isIP" => Ok(parse_ip(s).is_ok().into()),
        "isCIDR" => Ok(parse_cidr(s).is_ok().into()),
        "ip.isCanonical" => parse_ip(s).map(|ip| (ip.to_string() == s).into()),
        "cidr" => parse_cidr(s).map(Value::Cidr),
        _ => parse_ip(s).map(Value::Ip),
    };
    made.or_else(fail)
}

fn property<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    let Value::Ip(ip) = &a[0] else { return Err(mismatch(function, a)) };
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    Ok(match function {
        "family" => Value::Int(if ip.is_ipv4() { 4 } else { 6 }),
        "isUnspecified" => ip.is_unspecified().into(),
        "isLoopback" => ip.is_loopback().into(),
        "isLinkLocalUnicast" => link_local.into(),
        "isLinkLocalMulticast" => match ip {
            IpAddr::V4(v4) => (v4.octets()[..3] == [224, 0, 0]).into(),
            IpAddr::V6(v6) => (v6.segments()[0] & 0xff0f == 0xff02).into(),
        },
        _ => {
            let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
            (!ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast() && !link_local && !broadcast).into()
        }
    })
}

fn contains<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    let Value::Cidr(range) = &a[0] else { return Err(mismatch(function, a)) };
    match (&a[1], function) {
        (Value::Ip(ip), "containsIP") => Ok(range.contains(*ip).into()),
        (Value::String(s), "containsIP") => parse_ip(s).map(|ip| range.contains(ip).into()).or_else(fail),
        (Value::Cidr(c), "containsCIDR") => Ok((range.bits <= c.bits && range.contains(c.address)).into()),
        (Value::String(s), "containsCIDR") => parse_cidr(s).map(|c| (range.bits <= c.bits && range.contains(c.address)).into()).or_else(fail),
        _ => Err(mismatch(function, a)),
    }
}

fn range<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    let Value::Cidr(c) = &a[0] else { return Err(mismatch(function, a)) };
    Ok(if function == "masked" { Value::Cidr(c.masked()) } else { Value::Int(c.bits.into()) })
}
