//! Names of signers: `example.com/signer`.

use keles_api::{Path, Problems, names};

const DOMAIN_MAX_BYTES: usize = 253;
/// A label, a dot and a subdomain: what names of a signer's objects are made of.
const PATH_MAX_BYTES: usize = 253 + 63 + 1;
const NAME_MAX_BYTES: usize = DOMAIN_MAX_BYTES + PATH_MAX_BYTES + 1;

/// A domain and a path, both needed.
pub fn name(at: &Path, name: &str, p: &mut Problems) {
    if name.is_empty() {
        p.required(at, "");
        return;
    }
    let Some((domain, path)) = name.split_once('/').filter(|(_, path)| !path.contains('/')) else {
        p.invalid(at, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'");
        return;
    };
    if domain.len() > DOMAIN_MAX_BYTES {
        p.too_long(at, DOMAIN_MAX_BYTES);
    }
    parts(at, domain, |label| names::dns_label(label, false), p);
    if domain.split('.').count() < 2 {
        p.invalid(at, domain, "should be a domain with at least two segments separated by dots");
    }
    parts(at, path, |label| names::dns_subdomain(label, false), p);
    if name.len() > NAME_MAX_BYTES {
        p.too_long(at, NAME_MAX_BYTES);
    }
}

/// Only the first bad part is told: the others would say the same.
fn parts(at: &Path, whole: &str, bad: impl Fn(&str) -> Vec<String>, p: &mut Problems) {
    let found = whole.split('.').map(|part| (part, bad(part))).find(|(_, bad)| !bad.is_empty());
    for (part, message) in found.into_iter().flat_map(|(part, bad)| bad.into_iter().map(move |m| (part, m))) {
        p.invalid(at, whole, format!("validating label \"{part}\": {message}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signer_has_a_domain_and_a_path() {
        let said = |text: &str| {
            let mut p = Problems::new();
            name(&Path::new("s"), text, &mut p);
            p.len()
        };
        assert_eq!([said("example.com/s"), said("example.com/a.b")], [0, 0]);
        assert_eq!([said(""), said("other"), said("com/s"), said("example.com/S"), said("a_b.com/s")], [1, 1, 1, 1, 1]);
    }
}
