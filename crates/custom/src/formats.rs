//! `format` of strings and numbers: which ones count, and what they demand.
//!
//! Others are ignored, as upstream strips them. Source: the formats of k8s.io/kube-openapi/pkg/validation/strfmt that apiextensions keeps
//! (v1.36 keeps those of numbers too).

use crate::structural::Type;
use base64::Engine;
use regex::Regex;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

/// A format that is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format(pub &'static str);

/// Text formats and their rule.
type Row = (&'static str, fn(&str) -> bool);

const TEXTS: &[Row] = &[
    ("bsonobjectid", |s| s.len() == 24 && s.bytes().all(|b| b.is_ascii_hexdigit())),
    ("uri", is_uri),
    ("email", is_email),
    ("hostname", is_hostname),
    ("ipv4", |s| s.parse::<Ipv4Addr>().is_ok()),
    ("ipv6", |s| s.parse::<Ipv6Addr>().is_ok()),
    ("cidr", is_cidr),
    ("mac", is_mac),
    ("uuid", |s| UUID.is_match(s)),
    ("uuid3", |s| UUID.is_match(s) && version_of_uuid(s) == '3'),
    ("uuid4", |s| UUID.is_match(s) && version_of_uuid(s) == '4' && variant_of_uuid(s)),
    ("uuid5", |s| UUID.is_match(s) && version_of_uuid(s) == '5' && variant_of_uuid(s)),
    ("isbn", |s| is_isbn10(s) || is_isbn13(s)),
    ("isbn10", is_isbn10),
    ("isbn13", is_isbn13),
    ("creditcard", is_credit_card),
    ("ssn", |s| SSN.is_match(s)),
    ("hexcolor", |s| HEX_COLOR.is_match(s)),
    ("rgbcolor", |s| RGB_COLOR.is_match(s)),
    ("byte", |s| !s.is_empty() && base64::engine::general_purpose::STANDARD.decode(s).is_ok()),
    ("password", |_| true),
    ("date", |s| s.len() == 10 && s.parse::<jiff::civil::Date>().is_ok()),
    ("duration", is_duration),
    ("datetime", is_date_time),
    ("date-time", is_date_time),
    ("k8s-short-name", |s| keles_api::names::dns_label(s, false).is_empty()),
    ("k8s-long-name", |s| keles_api::names::dns_subdomain(s, false).is_empty()),
];

const INTEGERS: &[&str] = &["int32", "int64"];
const NUMBERS: &[&str] = &["float", "double"];

impl Format {
    /// `None`: not one that is checked for this type.
    pub fn parse(name: &str, ty: Type) -> Option<Self> {
        let known = |list: &[&'static str]| list.iter().find(|n| **n == name).map(|n| Format(n));
        match ty {
            Type::Integer => known(INTEGERS),
            Type::Number => known(NUMBERS),
            _ => TEXTS.iter().find(|(n, _)| *n == name).map(|(n, _)| Format(n)),
        }
    }
    /// Whether a text has the format; texts are not what the formats of numbers are about.
    pub fn matches(self, s: &str) -> bool {
        TEXTS.iter().find(|(n, _)| *n == self.0).is_none_or(|(_, rule)| rule(s))
    }
}

fn pattern(p: &str) -> Regex {
    Regex::new(p).expect("a pattern written here, which a test uses")
}

static UUID: LazyLock<Regex> = LazyLock::new(|| pattern("(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$"));
static SSN: LazyLock<Regex> = LazyLock::new(|| pattern(r"^\d{3}[- ]?\d{2}[- ]?\d{4}$"));
static HEX_COLOR: LazyLock<Regex> = LazyLock::new(|| pattern("^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$"));
static RGB_COLOR: LazyLock<Regex> = LazyLock::new(|| {
    let part = r"\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*";
    pattern(&format!("^rgb\\({part},{part},{part}\\)$"))
});
static HOST: LazyLock<Regex> = LazyLock::new(|| pattern(r"^([a-zA-Z0-9\p{L}][a-zA-Z0-9\p{L}-]{0,62}\.)*[a-zA-Z0-9\p{L}][a-zA-Z0-9\p{L}-]{0,62}\.?$"));
static DATE_TIME: LazyLock<Regex> = LazyLock::new(|| pattern(r"^\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:?\d{2})$"));
static GO_DURATION: LazyLock<Regex> = LazyLock::new(|| pattern(r"^[+-]?(0|((\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h))+)$"));
static WORD_DURATION: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"(?i)^\s*-?\d+\s*(ns|nanos|us|µs|micros|ms|millis|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?|w|wks?|weeks?)\s*$"));

fn hex_digits(s: &str) -> Vec<char> {
    s.chars().filter(char::is_ascii_hexdigit).collect()
}
fn version_of_uuid(s: &str) -> char {
    hex_digits(s)[12]
}
fn variant_of_uuid(s: &str) -> bool {
    matches!(hex_digits(s)[16].to_ascii_lowercase(), '8' | '9' | 'a' | 'b')
}

/// An absolute URI, or a path from the root: what Go's `url.ParseRequestURI` takes.
fn is_uri(s: &str) -> bool {
    let clean = !s.is_empty() && !s.bytes().any(|b| b < 0x20 || b == 0x7f || b == b' ');
    let scheme = |s: &str| s.starts_with(|c: char| c.is_ascii_alphabetic()) && s.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    let escaped = s.match_indices('%').all(|(i, _)| s.as_bytes().get(i + 1..i + 3).is_some_and(|h| h.iter().all(u8::is_ascii_hexdigit)));
    clean && escaped && (s.starts_with('/') || s.split_once(':').is_some_and(|(before, _)| scheme(before)))
}

/// `a@b`, or `Name <a@b>`.
fn is_email(s: &str) -> bool {
    let address = match (s.rfind('<'), s.ends_with('>')) {
        (Some(i), true) => &s[i + 1..s.len() - 1],
        _ => s,
    };
    let atom = |c: char| c.is_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.".contains(c);
    let dots = |s: &str| !s.starts_with('.') && !s.ends_with('.') && !s.contains("..");
    address.split_once('@').is_some_and(|(local, domain)| {
        let quoted = local.len() > 2 && local.starts_with('"') && local.ends_with('"');
        (quoted || !local.is_empty() && local.chars().all(atom) && dots(local)) && !domain.is_empty() && domain.chars().all(atom) && dots(domain)
    })
}

fn is_hostname(s: &str) -> bool {
    s.len() <= 255 && HOST.is_match(s) && s.split('.').all(|l| !l.ends_with('-'))
}

fn is_cidr(s: &str) -> bool {
    s.split_once('/').is_some_and(|(ip, bits)| {
        let max = match ip.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => 32,
            Ok(IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        bits.bytes().all(|b| b.is_ascii_digit()) && bits.parse::<u32>().is_ok_and(|b| b <= max)
    })
}

fn is_mac(s: &str) -> bool {
    let groups = |separator: char, len: usize, counts: &[usize]| {
        let parts: Vec<&str> = s.split(separator).collect();
        counts.contains(&parts.len()) && parts.iter().all(|p| p.len() == len && p.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    groups(':', 2, &[6, 8, 20]) || groups('-', 2, &[6, 8, 20]) || groups('.', 4, &[3, 4, 10])
}

fn digits_of(s: &str) -> Vec<char> {
    s.chars().filter(|c| !matches!(c, '-' | ' ')).collect()
}

fn is_isbn10(s: &str) -> bool {
    let d = digits_of(s);
    let value = |(i, c): (usize, &char)| if i == 9 && *c == 'X' { Some(10) } else { c.to_digit(10) };
    let all: Option<Vec<u32>> = d.iter().enumerate().map(value).collect();
    d.len() == 10 && all.is_some_and(|v| v.iter().zip(1..).map(|(v, w)| v * w).sum::<u32>() % 11 == 0)
}

fn is_isbn13(s: &str) -> bool {
    let d: Option<Vec<u32>> = digits_of(s).iter().map(|c| c.to_digit(10)).collect();
    d.is_some_and(|d| d.len() == 13 && d.iter().enumerate().map(|(i, v)| v * if i % 2 == 0 { 1 } else { 3 }).sum::<u32>() % 10 == 0)
}

fn is_credit_card(s: &str) -> bool {
    let d: Option<Vec<u32>> = digits_of(s).iter().map(|c| c.to_digit(10)).collect();
    let double = |(i, v): (usize, &u32)| if i % 2 == 1 { (v * 2) / 10 + (v * 2) % 10 } else { *v };
    d.is_some_and(|d| (13..=19).contains(&d.len()) && d.iter().rev().enumerate().map(double).sum::<u32>() % 10 == 0)
}

fn is_duration(s: &str) -> bool {
    GO_DURATION.is_match(s) && !s.is_empty() || WORD_DURATION.is_match(s)
}

fn is_date_time(s: &str) -> bool {
    DATE_TIME.is_match(s) && s[..10].parse::<jiff::civil::Date>().is_ok() && s[11..19].parse::<jiff::civil::Time>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_format_takes_its_own_and_refuses_others() {
        for (format, good, bad) in [
            ("bsonobjectid", "507f1f77bcf86cd799439011", "507f"),
            ("uri", "http://a.example/x?y=1", "not a uri"),
            ("email", "a.b@example.com", "a.example.com"),
            ("hostname", "a-b.example.com", "a_b"),
            ("ipv4", "10.0.0.1", "10.0.0"),
            ("ipv6", "::1", "10.0.0.1"),
            ("cidr", "10.0.0.0/8", "10.0.0.0/33"),
            ("mac", "01:23:45:67:89:ab", "01:23"),
            ("uuid", "a8098c1a-f86e-11da-bd1a-00112444be1e", "a8098c1a"),
            ("uuid3", "bcd02e22-68f0-3046-a512-327cca9def8f", "025b0d74-00a2-4048-bf57-227c5111bb34"),
            ("uuid4", "025b0d74-00a2-4048-bf57-227c5111bb34", "bcd02e22-68f0-3046-a512-327cca9def8f"),
            ("uuid5", "886313e1-3b8a-5372-9b90-0c9aee199e5d", "025b0d74-00a2-4048-bf57-227c5111bb34"),
            ("isbn10", "0-306-40615-2", "0-306-40615-3"),
            ("isbn13", "978-3-16-148410-0", "978-3-16-148410-1"),
            ("isbn", "0306406152", "1"),
            ("creditcard", "4111-1111-1111-1111", "4111-1111-1111-1112"),
            ("ssn", "111-11-1111", "111-11"),
            ("hexcolor", "#FFFFFF", "#GG0000"),
            ("rgbcolor", "rgb(1, 2, 255)", "rgb(1,2,256)"),
            ("byte", "aGVsbG8=", "a b"),
            ("date", "2026-01-31", "2026-02-31"),
            ("duration", "1h30m", "yes"),
            ("duration", "3 days", "3 fortnights"),
            ("date-time", "2026-01-31T10:00:00.5Z", "2026-01-31"),
            ("datetime", "2026-01-31T10:00:00+01:00", "2026-01-31T25:00:00Z"),
            ("k8s-short-name", "a-b", "a.b"),
            ("k8s-long-name", "a.b", "A"),
        ] {
            let f = Format::parse(format, Type::String).unwrap_or_else(|| panic!("{format}"));
            assert!(f.matches(good), "{format} takes {good}");
            assert!(!f.matches(bad), "{format} refuses {bad}");
        }
        assert!(Format::parse("password", Type::String).is_some_and(|f| f.matches("anything")));
        assert_eq!(Format::parse("no-such", Type::String), None);
        assert_eq!(Format::parse("int32", Type::String), None);
        assert!(Format::parse("int32", Type::Integer).is_some());
    }
}
