//! IP addresses and CIDRs as API fields: what is wrong with one, and what is merely unusual.
//!
//! Old fields were read sloppily for years (leading zeros, IPv4 in IPv6); since v1.36 new values must be strict while values that an object
//! already had stay good ([`legacy`], KEP-4858). Warnings tell of good values that do not read as Go would print them.

use keles_api::{Path, Problems};
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const NO_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const NO_CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// An address as Go's sloppy parser reads it: leading zeros in IPv4 are fine, IPv4 in IPv6 is IPv4.
pub fn parse_sloppy(s: &str) -> Option<IpAddr> {
    if s.contains(':') {
        let v6 = s.parse::<Ipv6Addr>().ok()?;
        return Some(v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4));
    }
    let octet = |part: &str| (!part.is_empty() && part.bytes().all(|b| b.is_ascii_digit())).then(|| part.parse::<u8>().ok()).flatten();
    let octets: Vec<u8> = s.split('.').map(octet).collect::<Option<_>>()?;
    <[u8; 4]>::try_from(octets).ok().map(|o| IpAddr::V4(Ipv4Addr::from(o)))
}

fn is_mapped(s: &str) -> bool {
    s.parse::<Ipv6Addr>().is_ok_and(|a| a.to_ipv4_mapped().is_some())
}

/// `10.0.0.0/8` read sloppily: address and prefix length.
pub fn parse_cidr_sloppy(s: &str) -> Option<(IpAddr, u8)> {
    let (ip, bits) = s.split_once('/')?;
    let width = if ip.contains(':') { 128 } else { 32 };
    let bits = (!bits.is_empty() && bits.bytes().all(|b| b.is_ascii_digit())).then(|| bits.parse::<u8>().ok()).flatten().filter(|b| *b <= width)?;
    let ip = parse_sloppy(ip)?;
    // The prefix of an IPv4 address in IPv6 form counts the 96 bits before it.
    Some((ip, if ip.is_ipv4() && width == 128 { bits.saturating_sub(96) } else { bits }))
}

fn width(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

/// The network of a CIDR.
pub fn network(ip: IpAddr, bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(a) => Ipv4Addr::from(u32::from(a) & u32::MAX.checked_shl(u32::from(32 - bits.min(32))).unwrap_or(0)).into(),
        IpAddr::V6(a) => Ipv6Addr::from(u128::from(a) & u128::MAX.checked_shl(u32::from(128 - bits.min(128))).unwrap_or(0)).into(),
    }
}

/// Go's IsDualStack: both families are there.
pub fn both_families<'a>(ips: impl IntoIterator<Item = &'a IpAddr>) -> bool {
    let (mut v4, mut v6) = (false, false);
    ips.into_iter().for_each(|ip| if ip.is_ipv4() { v4 = true } else { v6 = true });
    v4 && v6
}

/// An address in a field that was read sloppily once; `kept` are the values the object already had there. `true` when nothing is wrong.
pub fn legacy(p: &mut Problems, at: &Path, s: &str, kept: &[&str]) -> bool {
    if kept.contains(&s) {
        return true;
    }
    let before = p.len();
    match parse_sloppy(s) {
        None => p.invalid(at, s, NO_IP),
        Some(_) if is_mapped(s) => p.invalid(at, s, "must not be an IPv4-mapped IPv6 address"),
        Some(_) if s.parse::<IpAddr>().is_err() => p.invalid(at, s, "must not have leading 0s"),
        Some(_) => {}
    }
    p.len() == before
}

/// A CIDR in a field that was read sloppily once.
pub fn legacy_cidr(p: &mut Problems, at: &Path, s: &str, kept: &[&str]) -> bool {
    if kept.contains(&s) {
        return true;
    }
    let before = p.len();
    let Some((ip, bits)) = parse_cidr_sloppy(s) else {
        p.invalid(at, s, NO_CIDR);
        return false;
    };
    let (address, prefix) = s.split_once('/').unwrap_or((s, ""));
    if is_mapped(address) {
        p.invalid(at, s, "must not have an IPv4-mapped IPv6 address");
    } else if address.parse::<IpAddr>().is_err() || prefix.len() > 1 && prefix.starts_with('0') {
        p.invalid(at, s, "must not have leading 0s in IP or prefix length");
    } else if network(ip, bits) != ip {
        p.invalid(at, s, "must not have bits set beyond the prefix length");
    }
    p.len() == before
}

/// An address in a new field: strict, and written as Go prints it.
pub fn canonical(p: &mut Problems, at: &Path, s: &str) {
    if !legacy(p, at, s, &[]) {
        return;
    }
    if let Some(ip) = parse_sloppy(s).map(|ip| ip.to_string()).filter(|ip| ip != s) {
        p.invalid(at, s, format!("must be in canonical form ({ip:?})"));
    }
}

/// A CIDR in a new field: strict, and written as Go prints it.
pub fn canonical_cidr(p: &mut Problems, at: &Path, s: &str) {
    if !legacy_cidr(p, at, s, &[]) {
        return;
    }
    if let Some(cidr) = parse_cidr_sloppy(s).map(|(ip, bits)| format!("{ip}/{bits}")).filter(|cidr| cidr != s) {
        p.invalid(at, s, format!("must be in canonical form ({cidr:?})"));
    }
}

/// Addresses that would lead a client to the node itself or to nowhere are refused.
pub fn reachable(p: &mut Problems, at: &Path, s: &str) {
    let Some(ip) = parse_sloppy(s) else {
        p.invalid(at, s, "must be a valid IP address");
        return;
    };
    let (link_local, link_local_multicast) = match ip {
        IpAddr::V4(a) => (a.is_link_local(), a.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(a) => (a.segments()[0] & 0xffc0 == 0xfe80, a.segments()[0] & 0xff0f == 0xff02),
    };
    if ip.is_unspecified() {
        p.invalid(at, s, format!("may not be unspecified ({s})"));
    }
    if ip.is_loopback() {
        p.invalid(at, s, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    if link_local {
        p.invalid(at, s, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if link_local_multicast {
        p.invalid(at, s, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    }
}

/// What is unusual about an address that was accepted.
pub fn warn(w: &mut Vec<String>, at: &Path, s: &str) {
    let Some(ip) = parse_sloppy(s) else { return };
    if is_mapped(s) || s.parse::<IpAddr>().is_err() {
        w.push(format!("{at}: non-standard IP address {s:?} will be considered invalid in a future Kubernetes release: use {:?}", ip.to_string()));
    } else if ip.is_ipv6() && ip.to_string() != s {
        w.push(format!("{at}: IPv6 address {s:?} should be in RFC 5952 canonical format ({:?})", ip.to_string()));
    }
}

/// What is unusual about a CIDR that was accepted.
pub fn warn_cidr(w: &mut Vec<String>, at: &Path, s: &str) {
    let Some((ip, bits)) = parse_cidr_sloppy(s) else { return };
    let net = network(ip, bits);
    let mut shown = String::new();
    let _ = write!(shown, "{net}/{bits}");
    let (address, prefix) = s.split_once('/').unwrap_or((s, ""));
    let ambiguous = net != ip;
    if ambiguous {
        w.push(format!("{at}: CIDR value {s:?} is ambiguous in this context (should be {shown:?} or {:?}?)", format!("{ip}/{}", width(ip))));
    }
    let odd = is_mapped(address) || address.parse::<IpAddr>().is_err() || prefix.len() > 1 && prefix.starts_with('0');
    if odd {
        w.push(format!("{at}: non-standard CIDR value {s:?} will be considered invalid in a future Kubernetes release: use {shown:?}"));
    } else if !ambiguous && ip.is_ipv6() && shown != s {
        w.push(format!("{at}: IPv6 CIDR value {s:?} should be in RFC 5952 canonical format ({shown:?})"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(rule: impl Fn(&mut Problems, &Path)) -> Vec<String> {
        let mut p = Problems::new();
        rule(&mut p, &Path::new("f"));
        p.iter().map(|p| p.detail.clone()).collect()
    }

    #[test]
    fn new_fields_hold_addresses_as_go_prints_them() {
        assert!(said(|p, at| canonical(p, at, "2001:db8::1")).is_empty());
        assert_eq!(said(|p, at| canonical(p, at, "2001:DB8::1")), ["must be in canonical form (\"2001:db8::1\")"]);
        assert_eq!(said(|p, at| canonical(p, at, "192.0.2.09")), ["must not have leading 0s"]);
        assert_eq!(said(|p, at| canonical_cidr(p, at, "2001:DB8::/64")), ["must be in canonical form (\"2001:db8::/64\")"]);
        assert_eq!(said(|p, at| canonical_cidr(p, at, "192.0.2.1/24")), ["must not have bits set beyond the prefix length"]);
    }

    #[test]
    fn sloppy_addresses_are_refused_unless_the_object_had_them() {
        assert_eq!(
            said(|p, at| {
                legacy(p, at, "010.0.0.1", &[]);
            }),
            ["must not have leading 0s"]
        );
        assert!(
            said(|p, at| {
                legacy(p, at, "010.0.0.1", &["010.0.0.1"]);
            })
            .is_empty()
        );
        assert_eq!(
            said(|p, at| {
                legacy(p, at, "::ffff:10.0.0.1", &[]);
            }),
            ["must not be an IPv4-mapped IPv6 address"]
        );
        assert_eq!(
            said(|p, at| {
                legacy(p, at, "x", &[]);
            }),
            [NO_IP]
        );
        assert!(
            said(|p, at| {
                legacy(p, at, "fd00::1", &[]);
            })
            .is_empty()
        );
    }

    #[test]
    fn a_cidr_is_a_network_without_host_bits() {
        assert!(
            said(|p, at| {
                legacy_cidr(p, at, "10.0.0.0/8", &[]);
            })
            .is_empty()
        );
        assert_eq!(
            said(|p, at| {
                legacy_cidr(p, at, "10.0.0.1/8", &[]);
            }),
            ["must not have bits set beyond the prefix length"]
        );
        assert_eq!(
            said(|p, at| {
                legacy_cidr(p, at, "10.0.0.0/08", &[]);
            }),
            ["must not have leading 0s in IP or prefix length"]
        );
        assert_eq!(
            said(|p, at| {
                legacy_cidr(p, at, "10.0.0.0", &[]);
            }),
            [NO_CIDR]
        );
        assert!(
            said(|p, at| {
                legacy_cidr(p, at, "0.0.0.0/0", &[]);
            })
            .is_empty()
        );
    }

    #[test]
    fn warnings_show_the_canonical_form() {
        let mut w = Vec::new();
        warn(&mut w, &Path::new("f"), "2001:DB8::1");
        warn(&mut w, &Path::new("f"), "10.0.0.1");
        warn_cidr(&mut w, &Path::new("f"), "10.0.0.1/8");
        assert_eq!(w[0], "f: IPv6 address \"2001:DB8::1\" should be in RFC 5952 canonical format (\"2001:db8::1\")");
        assert_eq!(w[1], "f: CIDR value \"10.0.0.1/8\" is ambiguous in this context (should be \"10.0.0.0/8\" or \"10.0.0.1/32\"?)");
        assert_eq!(w.len(), 2);
    }

    #[test]
    fn loopback_and_link_local_addresses_are_no_endpoints() {
        for bad in ["127.0.0.1", "::1", "0.0.0.0", "169.254.1.1", "fe80::1", "224.0.0.1", "ff02::1"] {
            assert_eq!(said(|p, at| reachable(p, at, bad)).len(), 1, "{bad}");
        }
        assert!(said(|p, at| reachable(p, at, "192.0.2.1")).is_empty());
    }
}
