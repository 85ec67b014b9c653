//! `WWW-Authenticate` (RFC 9110, section 11.6.1), form encoding, relative redirects. Pure.

use http::Uri;
use std::collections::HashMap;

pub type Parameters = HashMap<String, String>;

#[derive(Debug, PartialEq)]
pub enum Challenge {
    Bearer(Parameters),
    Basic,
}

impl Challenge {
    pub fn parse(header: &str) -> Option<Challenge> {
        let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        match scheme.to_ascii_lowercase().as_str() {
            "bearer" => Some(Challenge::Bearer(parameters(rest))),
            "basic" => Some(Challenge::Basic),
            _ => None,
        }
    }
}

/// `name="value",name=value`; commas and escapes inside quotes belong to the value.
fn parameters(text: &str) -> Parameters {
    let mut found = Parameters::new();
    let mut rest = text;
    while let Some((name, after)) = rest.split_once('=') {
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => after.split_once(',').map_or((after.trim().to_string(), ""), |(v, a)| (v.trim().to_string(), a)),
        };
        found.insert(name.trim_matches([' ', ',']).to_ascii_lowercase(), value);
        rest = after;
    }
    found
}

fn unquote(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

/// Query or form of pairs.
pub fn form(pairs: &[(&str, String)]) -> String {
    pairs.iter().map(|(name, value)| format!("{name}={}", escape(value))).collect::<Vec<_>>().join("&")
}

fn escape(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => (b as char).to_string(),
            b => format!("%{b:02X}"),
        })
        .collect()
}

/// A location, absolute or relative to the server.
pub fn join(base: &Uri, location: &str) -> String {
    if location.contains("://") {
        return location.to_string();
    }
    let (scheme, authority) = (base.scheme_str().unwrap_or("https"), base.authority().map(|a| a.as_str()).unwrap_or_default());
    if let Some(rest) = location.strip_prefix("//") {
        return format!("{scheme}://{rest}");
    }
    if location.starts_with('/') {
        return format!("{scheme}://{authority}{location}");
    }
    let folder = base.path().rsplit_once('/').map_or("", |(f, _)| f);
    format!("{scheme}://{authority}{folder}/{location}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_challenge_gives_realm_service_and_scope() {
        let Some(Challenge::Bearer(p)) = Challenge::parse(r#"Bearer realm="https://auth.example/token",service="reg, \"x\"",scope="repository:a/b:pull,push",error=none"#) else {
            panic!("bearer")
        };
        assert_eq!(p["realm"], "https://auth.example/token");
        assert_eq!(p["service"], "reg, \"x\"");
        assert_eq!(p["scope"], "repository:a/b:pull,push");
        assert_eq!(p["error"], "none");
        assert_eq!(Challenge::parse("Basic realm=x"), Some(Challenge::Basic));
        assert_eq!(Challenge::parse("Negotiate"), None);
    }

    #[test]
    fn locations_may_be_relative() {
        let base: Uri = "http://h:1/v2/a/blobs/x".parse().expect("valid");
        assert_eq!(join(&base, "/s?q"), "http://h:1/s?q");
        assert_eq!(join(&base, "y"), "http://h:1/v2/a/blobs/y");
        assert_eq!(join(&base, "https://o/z"), "https://o/z");
        assert_eq!(join(&base, "//o/z"), "http://o/z");
        assert_eq!(form(&[("a", "b c:/".into())]), "a=b%20c%3A%2F");
    }
}
