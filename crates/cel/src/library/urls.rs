//! URLs, as Go's `url.ParseRequestURI` reads them.

use super::{Row, fail, mismatch};
use crate::error::Result;
use crate::value::{Key, Map, Text, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

pub(crate) const ROWS: &[Row] = &[
    Row { name: "url", overloads: &[("string_to_url", "string -> url")], run: make },
    Row { name: "isURL", overloads: &[("is_url_string", "string -> bool")], run: make },
    Row { name: "getScheme", overloads: &[("url_get_scheme", ".url -> string")], run: part },
    Row { name: "getHost", overloads: &[("url_get_host", ".url -> string")], run: part },
    Row { name: "getHostname", overloads: &[("url_get_hostname", ".url -> string")], run: part },
    Row { name: "getPort", overloads: &[("url_get_port", ".url -> string")], run: part },
    Row { name: "getEscapedPath", overloads: &[("url_get_escaped_path", ".url -> string")], run: part },
    Row { name: "getQuery", overloads: &[("url_get_query", ".url -> map(string,list(string))")], run: part },
];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    text: String,
    scheme: String,
    host: String,
    path: String,
    query: String,
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Url {
    /// An absolute URL or an absolute path; `Err` is Go's text.
    pub(crate) fn parse(text: &str) -> std::result::Result<Url, String> {
        let bad = |why: &str| Err(format!("parse {}: {why}", super::strings::quote(text)));
        if text.bytes().any(|b| b < 0x20 || b == 0x7f) {
            return bad("net/url: invalid control character in URL");
        }
        if text.is_empty() {
            return bad("empty url");
        }
        let colon = text.find(|c: char| !(c.is_ascii_alphanumeric() || "+-.".contains(c)));
        let (scheme, rest) = match colon {
            Some(0) if text.starts_with(':') => return bad("missing protocol scheme"),
            Some(i) if text[i..].starts_with(':') && text.starts_with(|c: char| c.is_ascii_alphabetic()) => (text[..i].to_ascii_lowercase(), &text[i + 1..]),
            Some(i) if text[i..].starts_with(':') => return bad("first path segment in URL cannot contain colon"),
            _ => (String::new(), text),
        };
        if !rest.starts_with('/') {
            // A scheme with no slash is opaque: allowed, with nothing in it that accessors show.
            return if scheme.is_empty() {
                bad("invalid URI for request")
            } else {
                Ok(Url { text: text.into(), scheme, host: String::new(), path: String::new(), query: rest.split_once('?').map_or("", |q| q.1).into() })
            };
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (host, path) = match rest.strip_prefix("//") {
            Some(r) if !scheme.is_empty() || !rest.starts_with("///") => r.find('/').map_or((r, ""), |i| r.split_at(i)),
            _ => ("", rest),
        };
        let host = host.rsplit_once('@').map_or(host, |(_, h)| h);
        if let Some(escape) = bad_escape(path).or_else(|| bad_escape(host)) {
            return bad(&format!("invalid URL escape {}", super::strings::quote(&escape)));
        }
        if let Some(c) = host.chars().find(|c| matches!(c, ' ' | '<' | '>' | '"' | '\\' | '^' | '`' | '{' | '}' | '|')) {
            return bad(&format!("invalid character {} in host name", super::strings::quote(&c.to_string())));
        }
        if let Some(port) = port_of(host).filter(|p| !p.bytes().all(|b| b.is_ascii_digit())) {
            return bad(&format!("invalid port {} after host", super::strings::quote(&format!(":{port}"))));
        }
        if host.starts_with('[') && !host.contains(']') {
            return bad("missing ']' in host");
        }
        Ok(Url { text: text.into(), scheme, host: host.into(), path: path.into(), query: query.into() })
    }
}

fn bad_escape(text: &str) -> Option<String> {
    text.match_indices('%').map(|(i, _)| text[i..].chars().take(3).collect::<String>()).find(|e| e.len() != 3 || !e[1..].bytes().all(|b| b.is_ascii_hexdigit()))
}

/// What stands behind the host's last colon, outside of brackets.
fn port_of(host: &str) -> Option<&str> {
    let after = if host.starts_with('[') { host.rsplit_once(']').map_or("", |(_, a)| a) } else { host };
    after.rsplit_once(':').map(|(_, p)| p)
}

fn unescape(text: &str) -> String {
    let mut out = Vec::new();
    let bytes = text.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        match (bytes[i], bytes.get(i + 1..i + 3).and_then(|h| std::str::from_utf8(h).ok()).and_then(|h| u8::from_str_radix(h, 16).ok())) {
            (b'%', Some(b)) => {
                out.push(b);
                i += 3;
            }
            (b'+', _) => {
                out.push(b' ');
                i += 1;
            }
            (b, _) => {
                out.push(b);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn make<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    let Some(s) = a[0].as_str() else { return Err(mismatch(function, a)) };
    match (Url::parse(s), function) {
        (parsed, "isURL") => Ok(parsed.is_ok().into()),
        (Ok(u), _) => Ok(Value::Url(Arc::new(u))),
        (Err(e), _) => fail(format!("URL parse error during conversion from string: {e}")),
    }
}

fn part<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    let Value::Url(u) = &a[0] else { return Err(mismatch(function, a)) };
    let port = port_of(&u.host);
    Ok(match function {
        "getScheme" => u.scheme.clone().into(),
        "getHost" => u.host.clone().into(),
        "getHostname" => {
            let name = port.map_or(&*u.host, |p| &u.host[..u.host.len() - p.len() - 1]);
            name.trim_start_matches('[').trim_end_matches(']').to_owned().into()
        }
        "getPort" => port.unwrap_or("").to_owned().into(),
        "getEscapedPath" => u.path.clone().into(),
        _ => {
            let mut query: BTreeMap<Key<'a>, Vec<Value<'a>>> = BTreeMap::new();
            for pair in u.query.split('&').filter(|p| !p.is_empty()) {
                let (k, v) = pair.split_once('=').unwrap_or((pair, ""));
                query.entry(Key::String(Text::Shared(unescape(k).into()))).or_default().push(unescape(v).into());
            }
            Value::Map(Map::Made(Arc::new(query.into_iter().map(|(k, v)| (k, Value::list(v))).collect())))
        }
    })
}
