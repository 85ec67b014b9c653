//! ClusterTrustBundle: certificates that pods trust (certificates.k8s.io/v1beta1, certificates.k8s.io/v1alpha1).

use crate::certificates::signer;
use crate::field::{Field, immutable, invalid_each};
use crate::selectable;
use crate::table::{self, NAME, column};
use keles_api::{Object, Problems, names};
use keles_registry::kind::{Column, Info, Kind, NameRule, Scope, Selectable, Served};
use keles_rules::pem;
use serde_json::json;
use std::collections::BTreeMap;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

pub struct ClusterTrustBundle;

const COLUMNS: &[Column<Object>] =
    &[NAME, column("SignerName", "string", "signerName indicates the associated signer, if any.", |o, _| table::str_cell(o, &["spec", "signerName"]))];

impl Kind for ClusterTrustBundle {
    type Object = Object;
    const INFO: Info = Info {
        kind: "ClusterTrustBundle",
        plural: "clustertrustbundles",
        singular: "clustertrustbundle",
        scope: Scope::Cluster,
        served: &[
            Served { group: "certificates.k8s.io", version: "v1beta1", schema: "io.k8s.api.certificates.v1beta1.ClusterTrustBundle" },
            Served { group: "certificates.k8s.io", version: "v1alpha1", schema: "io.k8s.api.certificates.v1alpha1.ClusterTrustBundle" },
        ],
        selectable: &[Selectable { path: "spec.signerName", value: |o| selectable::text(o, &["spec", "signerName"]) }],
        unconditional_update: false,
        name_rule: NameRule::Own,
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "certificates.k8s.io/v1beta1",
            "kind": "ClusterTrustBundle",
            "metadata": {"name": "sample"},
            "spec": {"trustBundle": "-----BEGIN CERTIFICATE-----\nMIIBeDCCAR+gAwIBAgIUB5YRJTUwgE8q1dw/L8pIoxzDCMcwCgYIKoZIzj0EAwIw\nETEPMA0GA1UEAwwGc2FtcGxlMCAXDTI2MTEyMTE1NTI1MloYDzIxMjYxMDI4MTU1\nMjUyWjARMQ8wDQYDVQQDDAZzYW1wbGUwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC\nAAQ18UUJqbGDpaFyNGzIdJDmULtsvFH+p0gs5hBxUGGngEQmkA6vYvacDm3rI+73\nLzWjW0AKmi+uaZXOhaDaqKzIo1MwUTAdBgNVHQ4EFgQUtR12jtGBPIprZ49+b5Mx\nsXOQlE8wHwYDVR0jBBgwFoAUtR12jtGBPIprZ49+b5MxsXOQlE8wDwYDVR0TAQH/\nBAUwAwEB/zAKBggqhkjOPQQDAgNHADBEAiBuiJfzBTwzoQYYoV40SjZJiTZjWqkn\nb7RnIBqw4yh4hAIgGG7TxsOfJa+TZQYXefnIhMHICJ5RfRQ2n8k9SmWEi+8=\n-----END CERTIFICATE-----\n"}
        }))
    }

    fn validate(o: &Object, p: &mut Problems) {
        name(o, p);
        let spec = Field::root(o).get("spec");
        if !spec.str("signerName").is_empty() {
            signer::name(&spec.at("signerName"), spec.str("signerName"), p);
        }
        bundle(&spec, p);
    }

    /// A bundle that stays as it was is not looked into again.
    fn validate_update(new: &Object, old: &Object, p: &mut Problems) {
        let (now, before) = (Field::root(new).get("spec"), Field::root(old).get("spec"));
        if now.str("trustBundle") != before.str("trustBundle") {
            bundle(&now, p);
        }
        immutable(p, &now.get("signerName"), &before.get("signerName"));
    }
}

/// A signer's bundles are named after it.
fn name(o: &Object, p: &mut Problems) {
    let (name, signer) = (o.name(), o.str_at(&["spec", "signerName"]));
    if name.is_empty() {
        return;
    }
    let prefix = format!("{}:", signer.replace('/', ":"));
    let found = match (signer, name.strip_prefix(&prefix)) {
        ("", _) if name.contains(':') => vec!["ClusterTrustBundle without signer name must not have \":\" in its name".to_owned()],
        ("", _) => names::dns_subdomain(name, false),
        (_, Some(rest)) => names::dns_subdomain(rest, false),
        (_, None) => vec![format!("ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}")],
    };
    invalid_each(p, &Field::root(o).get("metadata").at("name"), name, found);
}

const BUNDLE_MAX_BYTES: usize = 1 << 20;

/// Trust anchors, each once.
fn bundle(spec: &Field, p: &mut Problems) {
    const OMITTED: &str = "<value omitted>";
    let (text, at) = (spec.str("trustBundle"), spec.at("trustBundle"));
    if text.len() > BUNDLE_MAX_BYTES {
        return p.too_long(&at, BUNDLE_MAX_BYTES);
    }
    let before = p.len();
    let mut seen: BTreeMap<Vec<u8>, Vec<usize>> = BTreeMap::new();
    for (i, block) in pem::blocks(text).into_iter().enumerate() {
        match unfit(&block) {
            Some(why) => p.invalid(&at, OMITTED, format!("entry {i} {why}")),
            None => seen.entry(block.bytes).or_default().push(i),
        }
    }
    if p.len() > before {
        return;
    }
    if seen.is_empty() {
        p.invalid(&at, OMITTED, "at least one trust anchor must be provided");
    }
    for places in seen.values().filter(|places| places.len() > 1) {
        let shown: Vec<String> = places.iter().map(usize::to_string).collect();
        p.invalid(&at, OMITTED, format!("duplicate trust anchor (indices [{}])", shown.join(" ")));
    }
}

/// Why a block is no trust anchor.
fn unfit(block: &pem::Block) -> Option<String> {
    if block.kind != "CERTIFICATE" {
        return Some(format!("has bad block type: {}", block.kind));
    }
    if block.has_headers {
        return Some("has PEM block headers".into());
    }
    let Ok((_, certificate)) = X509Certificate::from_der(&block.bytes) else {
        return Some("does not parse as X.509 certificate".into());
    };
    match certificate.basic_constraints() {
        Ok(Some(c)) if c.value.ca => None,
        Ok(_) => Some("does not have the CA bit set".into()),
        Err(_) => Some("has invalid basic constraints".into()),
    }
}
