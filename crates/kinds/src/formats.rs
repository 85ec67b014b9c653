//! Formats of strings and numbers that rules of many kinds check, each as upstream's messages about a bad value (none when good).
//!
//! The formats of names and labels are in `api::names`.

use std::net::IpAddr;

pub const PORT_NAME_MAX_BYTES: usize = 15;
const CONFIG_KEY_MAX_BYTES: usize = 253;
const SYSCTL_NAME_MAX_BYTES: usize = 253;
const SUBDOMAIN_MAX_BYTES: usize = 253;
const SYSCTL_PATTERN: &str = "^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
pub const MODE_MESSAGE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

fn one(message: impl Into<String>) -> Vec<String> {
    vec![message.into()]
}

pub fn between(min: i64, max: i64) -> String {
    format!("must be between {min} and {max}, inclusive")
}

pub fn port_number(n: i64) -> Vec<String> {
    if (1..=65535).contains(&n) { Vec::new() } else { one(between(1, 65535)) }
}

/// An IANA service name: at most 15 of `[-a-z0-9]`, with a letter.
pub fn port_name(name: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut say = |bad: bool, text: &str| {
        if bad {
            found.push(text.to_owned());
        }
    };
    say(name.len() > PORT_NAME_MAX_BYTES, "must be no more than 15 characters");
    let good = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    say(!good, "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)");
    say(!name.bytes().any(|b| b.is_ascii_lowercase()), "must contain at least one letter (a-z)");
    say(name.contains("--"), "must not contain consecutive hyphens");
    say(name.starts_with('-') || name.ends_with('-'), "must not begin or end with a hyphen");
    found
}

pub fn user_id(id: i64) -> Vec<String> {
    if (0..=i64::from(i32::MAX)).contains(&id) { Vec::new() } else { one(between(0, i64::from(i32::MAX))) }
}

/// File permission bits.
pub fn mode(bits: i64) -> bool {
    (0..=0o777).contains(&bits)
}

pub fn http_header(name: &str) -> Vec<String> {
    if !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Vec::new();
    }
    one("a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')")
}

/// Since relaxed names: any printable ASCII but `=`.
pub fn env_name(name: &str) -> Vec<String> {
    if !name.is_empty() && name.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=') {
        return Vec::new();
    }
    one("a valid environment variable name must consist only of printable ASCII characters other than '='")
}

/// A key of a ConfigMap or Secret.
pub fn config_key(key: &str) -> Vec<String> {
    let mut found = Vec::new();
    if key.len() > CONFIG_KEY_MAX_BYTES {
        found.push(format!("must be no more than {CONFIG_KEY_MAX_BYTES} characters"));
    }
    if key.is_empty() || !key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
        found.push("a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')".into());
    }
    match key {
        "." => found.push("must not be '.'".into()),
        ".." => found.push("must not be '..'".into()),
        _ if key.starts_with("..") => found.push("must not start with '..'".into()),
        _ => {}
    }
    found
}

/// A DNS subdomain whose labels may begin with `_` and hold more of them, as names of services do (RFC 2782).
pub fn dns_subdomain_with_underscores(name: &str) -> Vec<String> {
    const TEXT: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character";
    const FORM: &str = "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*";
    let outer = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let label = |l: &str| {
        let b = l.strip_prefix('_').unwrap_or(l).as_bytes();
        !b.is_empty() && outer(b[0]) && outer(b[b.len() - 1]) && b.iter().all(|&c| outer(c) || c == b'-' || c == b'_')
    };
    let mut found = Vec::new();
    if name.len() > SUBDOMAIN_MAX_BYTES {
        found.push(format!("must be no more than {SUBDOMAIN_MAX_BYTES} characters"));
    }
    if !name.split('.').all(label) {
        found.push(keles_api::names::form_error(TEXT, FORM, &["example.com"]));
    }
    found
}

/// Dots or slashes between parts of `[-_a-z0-9]`.
pub fn sysctl_name(name: &str) -> Vec<String> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let part = |s: &str| {
        let b = s.as_bytes();
        !b.is_empty() && inner(b[0]) && inner(b[b.len() - 1]) && b.iter().all(|&c| inner(c) || c == b'-' || c == b'_')
    };
    if name.len() <= SYSCTL_NAME_MAX_BYTES && name.split(['.', '/']).all(part) {
        return Vec::new();
    }
    one(format!("must have at most {SYSCTL_NAME_MAX_BYTES} characters and match regex {SYSCTL_PATTERN}"))
}

/// An address as Go's netutils reads it; leading zeros are refused.
pub fn parse_ip(s: &str) -> Option<IpAddr> {
    s.parse::<IpAddr>().ok()
}

pub fn ip(s: &str) -> Vec<String> {
    if parse_ip(s).is_some() { Vec::new() } else { one("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)") }
}

/// `10.0.0.0/8`; the network and its prefix length.
pub fn parse_cidr(s: &str) -> Option<(IpAddr, u8)> {
    let (ip, bits) = s.split_once('/')?;
    if bits.is_empty() || !bits.bytes().all(|b| b.is_ascii_digit()) || (bits.len() > 1 && bits.starts_with('0')) {
        return None;
    }
    let (ip, bits) = (parse_ip(ip)?, bits.parse::<u8>().ok()?);
    let max = if ip.is_ipv4() { 32 } else { 128 };
    (bits <= max).then_some((ip, bits))
}

pub fn cidr(s: &str) -> Vec<String> {
    if parse_cidr(s).is_some() { Vec::new() } else { one("must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)") }
}

/// Whether bits beyond the prefix are zero.
pub fn is_network_address(ip: IpAddr, bits: u8) -> bool {
    match ip {
        IpAddr::V4(a) => u32::from(a) & (u32::MAX.checked_shr(bits.into()).unwrap_or(0)) == 0,
        IpAddr::V6(a) => u128::from(a) & (u128::MAX.checked_shr(bits.into()).unwrap_or(0)) == 0,
    }
}

/// Whether a network lies within another and is smaller.
pub fn strictly_inside(part: (IpAddr, u8), whole: (IpAddr, u8)) -> bool {
    if part.0.is_ipv4() != whole.0.is_ipv4() || part.1 <= whole.1 {
        return false;
    }
    let cut = |ip: IpAddr| match ip {
        IpAddr::V4(a) => u128::from(u32::from(a).checked_shr(32 - u32::from(whole.1)).unwrap_or(0)),
        IpAddr::V6(a) => u128::from(a).checked_shr(128 - u32::from(whole.1)).unwrap_or(0),
    };
    cut(part.0) == cut(whole.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_names_are_short_lower_case_and_hold_a_letter() {
        assert!(port_name("http").is_empty());
        assert_eq!(port_name("80"), ["must contain at least one letter (a-z)"]);
        assert_eq!(port_name("-a--b").len(), 2);
        assert_eq!(port_name("Bad_Value!"), ["must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)"]);
    }

    #[test]
    fn names_of_services_may_hold_underscores() {
        assert!(dns_subdomain_with_underscores("_sip._tcp.a_b.example").is_empty());
        for bad in ["", "__a", "a_", "A", "a..b"] {
            assert_eq!(dns_subdomain_with_underscores(bad).len(), 1, "{bad}");
        }
    }

    #[test]
    fn addresses_with_leading_zeros_are_refused() {
        assert!(ip("10.0.0.1").is_empty());
        assert_eq!(ip("010.0.0.1").len(), 1);
        assert_eq!(cidr("10.0.0.0/08").len(), 1);
        assert!(cidr("2001:db8::/64").is_empty());
    }

    #[test]
    fn a_cidr_with_host_bits_is_no_network_address() {
        let (ip, bits) = parse_cidr("10.0.0.1/8").expect("parses");
        assert!(!is_network_address(ip, bits));
        let (ip, bits) = parse_cidr("0.0.0.0/0").expect("parses");
        assert!(is_network_address(ip, bits));
    }
}
