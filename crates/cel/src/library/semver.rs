//! Semantic versions 2.0.0; errors are those of the parser upstream uses (blang/semver).

use super::{Row, fail, mismatch};
use crate::error::Result;
use crate::value::Value;
use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

pub(crate) const ROWS: &[Row] = &[
    Row { name: "semver", overloads: &[("string_to_semver", "string -> semver"), ("string_bool_to_semver", "string bool -> semver")], run: make },
    Row { name: "isSemver", overloads: &[("is_semver_string", "string -> bool"), ("is_semver_string_bool", "string bool -> bool")], run: make },
    Row { name: "isGreaterThan", overloads: &[("semver_is_greater_than", ".semver semver -> bool")], run: compare },
    Row { name: "isLessThan", overloads: &[("semver_is_less_than", ".semver semver -> bool")], run: compare },
    Row { name: "compareTo", overloads: &[("semver_compare_to", ".semver semver -> int")], run: compare },
    Row { name: "major", overloads: &[("semver_major", ".semver -> int")], run: part },
    Row { name: "minor", overloads: &[("semver_minor", ".semver -> int")], run: part },
    Row { name: "patch", overloads: &[("semver_patch", ".semver -> int")], run: part },
];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    numbers: [u64; 3],
    pre: Vec<String>,
    build: Vec<String>,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.numbers;
        write!(f, "{major}.{minor}.{patch}")?;
        if !self.pre.is_empty() {
            write!(f, "-{}", self.pre.join("."))?;
        }
        if !self.build.is_empty() {
            write!(f, "+{}", self.build.join("."))?;
        }
        Ok(())
    }
}

impl Version {
    fn parse(text: &str) -> std::result::Result<Version, String> {
        if text.is_empty() {
            return Err("Version string empty".into());
        }
        let mut parts = text.splitn(3, '.');
        let (Some(major), Some(minor), Some(rest)) = (parts.next(), parts.next(), parts.next()) else { return Err("No Major.Minor.Patch elements found".into()) };
        let end = rest.find(['-', '+']).unwrap_or(rest.len());
        let numbers = [number("major", major)?, number("minor", minor)?, number("patch", &rest[..end])?];
        let (pre, build) = match rest[end..].split_once('+') {
            Some((pre, build)) => (pre, Some(build)),
            None => (&rest[end..], None),
        };
        let mut version = Version { numbers, pre: Vec::new(), build: Vec::new() };
        if let Some(pre) = pre.strip_prefix('-') {
            for id in pre.split('.') {
                identifier("Prerelease", id)?;
                if id.len() > 1 && id.starts_with('0') && id.bytes().all(|b| b.is_ascii_digit()) {
                    return Err(format!("Numeric PreRelease version must not contain leading zeroes {}", super::strings::quote(id)));
                }
                version.pre.push(id.into());
            }
        }
        for id in build.into_iter().flat_map(|b| b.split('.')) {
            identifier("Build meta data", id)?;
            version.build.push(id.into());
        }
        Ok(version)
    }
    /// With a leading `v`, missing numbers and leading zeros taken away.
    fn parse_tolerant(text: &str) -> std::result::Result<Version, String> {
        let text = text.trim().trim_start_matches('v');
        let end = text.find(['-', '+']).unwrap_or(text.len());
        let mut numbers: Vec<String> = text[..end].splitn(3, '.').map(|p| if p.len() > 1 { p.trim_start_matches('0').to_owned() } else { p.to_owned() }).collect();
        numbers.iter_mut().filter(|p| p.is_empty()).for_each(|p| *p = "0".into());
        if numbers.len() < 3 && end < text.len() {
            return Err("Short version cannot contain PreRelease/Build meta data".into());
        }
        while numbers.len() < 3 {
            numbers.push("0".into());
        }
        Version::parse(&format!("{}{}", numbers.join("."), &text[end..]))
    }
    /// Build data does not count.
    pub(crate) fn order(&self, other: &Version) -> Ordering {
        self.numbers.cmp(&other.numbers).then_with(|| match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => pre_order(&self.pre, &other.pre),
        })
    }
}

fn pre_order(a: &[String], b: &[String]) -> Ordering {
    for (x, y) in a.iter().zip(b) {
        let found = match (x.parse::<u64>(), y.parse::<u64>()) {
            (Ok(x), Ok(y)) => x.cmp(&y),
            (Ok(_), Err(_)) => Ordering::Less,
            (Err(_), Ok(_)) => Ordering::Greater,
            (Err(_), Err(_)) => x.cmp(y),
        };
        if found.is_ne() {
            return found;
        }
    }
    a.len().cmp(&b.len())
}

fn number(which: &str, text: &str) -> std::result::Result<u64, String> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("Invalid character(s) found in {which} number {}", super::strings::quote(text)));
    }
    if text.len() > 1 && text.starts_with('0') {
        let title = format!("{}{}", which[..1].to_uppercase(), &which[1..]);
        return Err(format!("{title} number must not contain leading zeroes {}", super::strings::quote(text)));
    }
    text.parse().map_err(|_| format!("strconv.ParseUint: parsing {}: value out of range", super::strings::quote(text)))
}

fn identifier(which: &str, text: &str) -> std::result::Result<(), String> {
    if text.is_empty() {
        return Err(format!("{which} is empty"));
    }
    let good = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if good { Ok(()) } else { Err(format!("Invalid character(s) found in {} {}", which.to_lowercase(), super::strings::quote(text))) }
}

fn make<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    let parsed = match (&a[0], a.get(1)) {
        (Value::String(s), None | Some(Value::Bool(false))) => Version::parse(s),
        (Value::String(s), Some(Value::Bool(true))) => Version::parse_tolerant(s),
        _ => return Err(mismatch(function, a)),
    };
    match (parsed, function) {
        (parsed, "isSemver") => Ok(parsed.is_ok().into()),
        (Ok(v), _) => Ok(Value::Semver(Arc::new(v))),
        (Err(e), _) => fail(e),
    }
}

fn compare<'a>(function: &str, args: &[Value<'a>]) -> Result<Value<'a>> {
    let (Value::Semver(a), Value::Semver(b)) = (&args[0], &args[1]) else { return Err(mismatch(function, args)) };
    let order = a.order(b);
    Ok(match function {
        "isGreaterThan" => order.is_gt().into(),
        "isLessThan" => order.is_lt().into(),
        _ => Value::Int(order as i64),
    })
}

fn part<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    let Value::Semver(v) = &a[0] else { return Err(mismatch(function, a)) };
    let [major, minor, patch] = v.numbers;
    let n = match function {
        "major" => major,
        "minor" => minor,
        _ => patch,
    };
    Ok(Value::Int(i64::try_from(n).unwrap_or(i64::MAX)))
}

/// The value of a version's text.
pub(crate) fn parse<'a>(text: &str) -> Option<Value<'a>> {
    Version::parse(text).ok().map(|v| Value::Semver(Arc::new(v)))
}
