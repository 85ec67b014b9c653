//! Names in `resource.k8s.io`: drivers, pools, devices, attributes; and lists with a limit and without duplicates.

use crate::field::{Field, invalid_each};
use keles_api::{Path, Problems, names};
use std::collections::HashSet;

pub const DRIVER_MAX_BYTES: usize = 63;
const POOL_MAX_BYTES: usize = 253;
const IDENTIFIER_MAX_BYTES: usize = 32;
/// Longer keys of attributes are cut in paths: domain, slash, identifier.
pub const QUALIFIED_KEY_MAX_BYTES: usize = DRIVER_MAX_BYTES + 1 + IDENTIFIER_MAX_BYTES;
const SHOWN_KEY_MIN_BYTES: usize = 16;
const UUID_LEN: usize = 36;

/// A driver's name: a DNS subdomain, case aside.
pub fn driver(p: &mut Problems, at: &Path, name: &str) {
    if name.is_empty() {
        return p.required(at, "");
    }
    if name.len() > DRIVER_MAX_BYTES {
        p.too_long(at, DRIVER_MAX_BYTES);
    }
    invalid_each(p, at, name, names::dns_subdomain(&name.to_lowercase(), false));
}

/// A pool's name: DNS subdomains between slashes.
pub fn pool(p: &mut Problems, at: &Path, name: &str) {
    if name.is_empty() {
        return p.required(at, "");
    }
    if name.len() > POOL_MAX_BYTES {
        p.too_long(at, POOL_MAX_BYTES);
    }
    for part in name.split('/') {
        invalid_each(p, at, part, names::dns_subdomain(part, false));
    }
}

/// A DNS label: a request, a device, a counter.
pub fn label(p: &mut Problems, at: &Path, name: &str) {
    invalid_each(p, at, name, names::dns_label(name, false));
}

pub fn required_label(p: &mut Problems, at: &Path, name: &str) {
    if name.is_empty() { p.required(at, "") } else { label(p, at, name) }
}

/// A DeviceClass's name.
pub fn class(p: &mut Problems, at: &Path, name: &str) {
    if name.is_empty() { p.required(at, "") } else { invalid_each(p, at, name, names::dns_subdomain(name, false)) }
}

/// `name` or `domain/name` of an attribute or capacity.
pub fn qualified(p: &mut Problems, at: &Path, name: &str) {
    match name.split('/').collect::<Vec<_>>()[..] {
        [own] => identifier(p, at, own),
        [domain, own] => {
            if domain.is_empty() {
                p.invalid(at, "", "the domain must not be empty")
            } else {
                driver(p, at, domain)
            }
            if own.is_empty() { p.invalid(at, "", "the name must not be empty") } else { identifier(p, at, own) }
        }
        _ => p.invalid(at, name, "must not contain more than one slash"),
    }
}

/// `domain/name`
pub fn fully_qualified(p: &mut Problems, at: &Path, name: &str) {
    qualified(p, at, name);
    if !name.contains('/') {
        p.invalid(at, name, "a fully qualified name must be a domain and a name separated by a slash");
    }
}

fn identifier(p: &mut Problems, at: &Path, id: &str) {
    const TEXT: &str = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'";
    if id.len() > IDENTIFIER_MAX_BYTES {
        p.too_long(at, IDENTIFIER_MAX_BYTES);
    }
    let starts = id.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    if !starts || !id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        p.invalid(at, id, names::form_error(TEXT, "[A-Za-z_][A-Za-z0-9_]*", &["my_name", "MY_NAME", "MyName"]));
    }
}

/// A UUID in its normal form.
pub fn uid(p: &mut Problems, at: &Path, id: &str) {
    let bytes = id.as_bytes();
    let shaped = bytes.len() == UUID_LEN && bytes.iter().enumerate().all(|(i, b)| if matches!(i, 8 | 13 | 18 | 23) { *b == b'-' } else { b.is_ascii_hexdigit() });
    if !shaped {
        let why = if bytes.len() == UUID_LEN { "invalid UUID format".to_owned() } else { format!("invalid UUID length: {}", bytes.len()) };
        p.invalid(at, id, format!("error validating uid: {why}"));
    } else if id.bytes().any(|b| b.is_ascii_uppercase()) {
        p.invalid(at, id, "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters");
    }
}

/// A list with a limit. Over it nothing else is looked at.
pub fn each(p: &mut Problems, of: &Field, name: &str, max_count: usize, mut rule: impl FnMut(&Field, &mut Problems)) -> bool {
    let count = of.list(name).len();
    if count > max_count {
        p.too_many(&of.at(name), count, max_count);
        return false;
    }
    for item in of.items(name) {
        rule(&item, p);
    }
    true
}

/// A list with a limit whose entries differ in their keys.
pub fn set(p: &mut Problems, of: &Field, name: &str, max_count: usize, key: impl Fn(&Field) -> String, rule: impl FnMut(&Field, &mut Problems)) {
    if !each(p, of, name, max_count, rule) {
        return;
    }
    let mut seen = HashSet::new();
    for item in of.items(name) {
        let key = key(&item);
        if seen.contains(&key) {
            p.duplicate(item.path(), key);
        } else {
            seen.insert(key);
        }
    }
}

/// A map with a limit: each key checked at the map, each value at its entry.
pub fn entries(p: &mut Problems, of: &Field, name: &str, max_count: usize, key_max_bytes: usize, key: fn(&mut Problems, &Path, &str), mut rule: impl FnMut(&Field, &mut Problems)) {
    let at = of.at(name);
    if of.map_len(name) > max_count {
        return p.too_many(&at, of.map_len(name), max_count);
    }
    for (k, v) in of.map(name) {
        key(p, &at, k);
        rule(&Field::new(v, at.key(&shortened(k, key_max_bytes))), p);
    }
}

/// A long key, cut in its middle.
fn shortened(key: &str, max_bytes: usize) -> String {
    let max = max_bytes.max(SHOWN_KEY_MIN_BYTES);
    if key.len() <= max {
        return key.to_owned();
    }
    let rest = max - "...".len();
    let (head, tail) = (&key.as_bytes()[..rest.div_ceil(2)], &key.as_bytes()[key.len() - rest / 2..]);
    format!("{}...{}", String::from_utf8_lossy(head), String::from_utf8_lossy(tail))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(rule: fn(&mut Problems, &Path, &str), text: &str) -> Vec<String> {
        let mut p = Problems::new();
        rule(&mut p, &Path::new("f"), text);
        p.iter().map(|p| p.detail.clone()).collect()
    }

    #[test]
    fn names_of_devices_and_their_attributes() {
        assert!(said(driver, "gpu.Example.com").is_empty());
        assert!(said(pool, "node-1/rack.2").is_empty());
        assert_eq!(said(pool, "a//b").len(), 1);
        assert!(said(fully_qualified, "d.example/x_1").is_empty());
        assert_eq!(said(fully_qualified, "other"), ["a fully qualified name must be a domain and a name separated by a slash"]);
        assert_eq!(said(qualified, "/x"), ["the domain must not be empty"]);
        assert_eq!(said(qualified, "a/b/c"), ["must not contain more than one slash"]);
        assert_eq!(said(uid, "x"), ["error validating uid: invalid UUID length: 1"]);
        assert_eq!(said(uid, "5E1C9B9E-0000-4000-8000-000000000000").len(), 1);
    }

    #[test]
    fn long_keys_are_cut_in_their_middle() {
        assert_eq!(shortened("abc", 20), "abc");
        assert_eq!(shortened(&"x".repeat(40), 1).len(), 16);
    }
}
