//! The front proxy: a proxy with a certificate of `--requestheader-client-ca-file` says in headers who asks.
//!
//! The headers count from nobody else. They are taken off before the request goes on, so that they cannot reach a backend.

use crate::{User, mark_authenticated};
use http::{HeaderMap, HeaderName};
use std::path::PathBuf;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// PEM bundle of the authorities that sign proxies; absent: the cluster's own front-proxy authority.
    pub ca_file: Option<PathBuf>,
    /// Common names that count; empty: any certificate of the authority.
    pub allowed_names: Vec<String>,
    pub username_headers: Vec<String>,
    pub uid_headers: Vec<String>,
    pub group_headers: Vec<String>,
    pub extra_prefixes: Vec<String>,
}

impl Default for RequestHeader {
    fn default() -> Self {
        RequestHeader {
            ca_file: None,
            allowed_names: vec!["front-proxy-client".into()],
            username_headers: vec!["X-Remote-User".into()],
            uid_headers: vec!["X-Remote-Uid".into()],
            group_headers: vec!["X-Remote-Group".into()],
            extra_prefixes: vec!["X-Remote-Extra-".into()],
        }
    }
}

impl RequestHeader {
    pub fn allows(&self, common_name: &str) -> bool {
        self.allowed_names.is_empty() || self.allowed_names.iter().any(|n| n == common_name)
    }

    /// The user the headers name; `None` without a user name. To be asked only for a verified proxy.
    pub fn user(&self, headers: &HeaderMap) -> Option<User> {
        let first = |names: &[String]| names.iter().find_map(|n| headers.get(n.as_str())?.to_str().ok().filter(|v| !v.is_empty()).map(str::to_owned));
        let name = first(&self.username_headers)?;
        let mut user = User { name, uid: first(&self.uid_headers).unwrap_or_default(), ..User::default() };
        for n in &self.group_headers {
            user.groups.extend(headers.get_all(n.as_str()).iter().filter_map(|v| v.to_str().ok()).map(str::to_owned));
        }
        for (name, value) in headers {
            let Some(key) = self.extra_key(name) else { continue };
            user.extra.entry(unescape(&key)).or_default().extend(value.to_str().map(str::to_owned));
        }
        mark_authenticated(&mut user);
        Some(user)
    }

    fn extra_key(&self, name: &HeaderName) -> Option<String> {
        self.extra_prefixes.iter().find_map(|p| name.as_str().strip_prefix(p.to_ascii_lowercase().as_str()).map(str::to_owned))
    }

    /// Takes off every header that could name a user.
    pub fn strip(&self, headers: &mut HeaderMap) {
        for n in self.username_headers.iter().chain(&self.uid_headers).chain(&self.group_headers) {
            headers.remove(n.as_str());
        }
        let extra: Vec<HeaderName> = headers.keys().filter(|n| self.extra_key(n).is_some()).cloned().collect();
        for n in extra {
            headers.remove(n);
        }
    }
}

/// Percent-decodes a header's key; as it stands when it does not decode.
pub fn unescape(key: &str) -> String {
    if !key.contains('%') {
        return key.to_owned();
    }
    let b = key.as_bytes();
    let digit = |i: usize| b.get(i).and_then(|c| (*c as char).to_digit(16));
    let (mut out, mut i) = (Vec::with_capacity(b.len()), 0);
    while i < b.len() {
        match (b[i], digit(i + 1), digit(i + 2)) {
            (b'%', Some(h), Some(l)) => {
                out.push((h * 16 + l) as u8);
                i += 3;
            }
            (b'%', ..) => return key.to_owned(),
            (c, ..) => {
                out.push(c);
                i += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| key.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_name_user_groups_and_extra_and_are_taken_off() {
        let r = RequestHeader::default();
        let mut h = HeaderMap::new();
        h.insert("x-remote-user", "jane".parse().unwrap());
        h.append("x-remote-group", "dev".parse().unwrap());
        h.append("x-remote-group", "ops".parse().unwrap());
        h.append("x-remote-extra-example.com%2fscope", "a".parse().unwrap());
        h.append("accept", "application/json".parse().unwrap());
        let u = r.user(&h).unwrap();
        assert_eq!((u.name.as_str(), u.groups.as_slice()), ("jane", ["dev", "ops", "system:authenticated"].map(String::from).as_slice()));
        assert_eq!(u.extra["example.com/scope"], ["a"]);
        r.strip(&mut h);
        assert_eq!(h.keys().map(|k| k.as_str()).collect::<Vec<_>>(), ["accept"]);
        assert!(r.user(&h).is_none());
        assert!(r.allows("front-proxy-client") && !r.allows("jane"));
    }
}
