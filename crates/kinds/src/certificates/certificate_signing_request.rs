//! CertificateSigningRequest: a wish for a certificate (certificates.k8s.io/v1).

use crate::certificates::{conditions, signer};
use crate::field::clear_status;
use crate::field::{Field, child_mut, one_of, remove, restore, set};
use crate::selectable;
use crate::subresource::status;
use crate::table::{self, AGE, NAME, column, text};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use keles_api::{Object, Problems};
use keles_registry::kind::{Column, Info, Kind, MetadataChecks, NameRule, Request, Scope, Selectable, Served, Subresource, UnknownSelector};
use keles_rules::pem;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

pub struct CertificateSigningRequest;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    AGE,
    column("SignerName", "string", "signerName indicates the requested signer, and is a qualified name.", |o, _| table::str_cell(o, &["spec", "signerName"])),
    column("Requestor", "string", "username contains the name of the user that created the CertificateSigningRequest.", |o, _| table::str_cell(o, &["spec", "username"])),
    column("RequestedDuration", "string", "expirationSeconds is the requested duration of validity of the issued certificate.", |o, _| text(requested(o))),
    column("Condition", "string", "conditions applied to the request.", |o, _| text(condition_cell(o))),
];

impl Kind for CertificateSigningRequest {
    type Object = Object;
    const INFO: Info = Info {
        kind: "CertificateSigningRequest",
        plural: "certificatesigningrequests",
        singular: "certificatesigningrequest",
        short_names: &["csr"],
        scope: Scope::Cluster,
        served: &[Served { group: "certificates.k8s.io", version: "v1", schema: "io.k8s.api.certificates.v1.CertificateSigningRequest" }],
        subresources: &[
            Subresource { name: "approval", kind: "CertificateSigningRequest", group: "", version: "", verbs: &["get", "patch", "update"] },
            status("CertificateSigningRequest"),
        ],
        selectable: &[Selectable { path: "spec.signerName", value: |o| selectable::text(o, &["spec", "signerName"]) }],
        unknown_selector: UnknownSelector::NotSupported,
        name_rule: NameRule::Own,
        metadata_checks: MetadataChecks { update: 4, status: 4, ..MetadataChecks::USUAL },
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "certificates.k8s.io/v1",
            "kind": "CertificateSigningRequest",
            "metadata": {"name": "sample"},
            "spec": {
                "request": "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlIUk1Ib0NBUUF3R0RFS01BZ0dBMVVFQXd3QmRURUtNQWdHQTFVRUNnd0JaekJaTUJNR0J5cUdTTTQ5QWdFRwpDQ3FHU000OUF3RUhBMElBQkFkWkdYeUxGNEN5em83dW0xcmdLY1E5NGZNaVNhYkJhdmpEOXUwK2FqcUlUM1NMCmxFU09WcUkxcFk1UTJWV2FGVEtuc2ZidFlVVEFoMU9CeWRjMHdKT2dBREFLQmdncWhrak9QUVFEQWdOSEFEQkUKQWlBMHZwZ3QwOW9LRzVBRnNITEJqZDJkZXB0Sit1VW5PMzNNdDVLRDZkaWNwUUlnSTlxYk5DTDZQR25ySFNEdwpUQjQ2SVNNV1VHRDlwM3ltby9CTEF2RUE2UTQ9Ci0tLS0tRU5EIENFUlRJRklDQVRFIFJFUVVFU1QtLS0tLQo=",
                "signerName": "example.com/s",
                "usages": ["client auth"]
            }
        }))
    }

    /// The server says who asks, whatever the client says.
    fn prepare_create(o: &mut Object, r: &Request) {
        clear_status(o);
        let Some(spec) = child_mut(&mut o.0, "spec") else { return };
        for name in ["username", "uid", "groups", "extra"] {
            remove(spec, name);
        }
        set(spec, "username", r.user.name.as_str());
        if !r.user.uid.is_empty() {
            set(spec, "uid", r.user.uid.as_str());
        }
        if !r.user.groups.is_empty() {
            set(spec, "groups", r.user.groups.clone());
        }
        if !r.user.extra.is_empty() {
            set(spec, "extra", json!(r.user.extra));
        }
    }

    fn prepare_update(new: &mut Object, old: &Object, _: &Request) {
        restore(new, old, "spec");
        restore(new, old, "status");
    }

    fn prepare_status(new: &mut Object, old: &Object, r: &Request) {
        conditions::date(new, old, &r.now);
    }

    fn validate_status(new: &Object, old: &Object, p: &mut Problems) {
        conditions::check(new, old, false, p);
    }

    const PIECES: &'static [&'static str] = &[conditions::APPROVAL];

    /// An approver decides; the request itself and its certificate stay.
    fn take_piece(new: &mut Object, old: &Object, r: &Request) {
        restore(new, old, "spec");
        let certificate = old.at(&["status", "certificate"]).clone();
        if let Some(status) = child_mut(&mut new.0, "status") {
            match certificate {
                Value::Null => remove(status, "certificate"),
                c => set(status, "certificate", c),
            }
        }
        conditions::date(new, old, &r.now);
    }

    fn validate_piece(new: &Object, old: &Object, _: &str, p: &mut Problems) {
        Self::validate(new, p);
        conditions::check(new, old, true, p);
    }

    fn validate(o: &Object, p: &mut Problems) {
        let spec = Field::root(o).get("spec");
        request(&spec, p);
        usages(&spec, p);
        match spec.str("signerName") {
            LEGACY_SIGNER => p.invalid(&spec.at("signerName"), LEGACY_SIGNER, "the legacy signerName is not allowed via this API version"),
            name => signer::name(&spec.at("signerName"), name, p),
        }
        if let Some(seconds) = spec.opt_int("expirationSeconds").filter(|s| *s < EXPIRATION_MIN_SECONDS) {
            p.invalid(&spec.at("expirationSeconds"), seconds, format!("may not specify a duration less than {EXPIRATION_MIN_SECONDS} seconds (10 minutes)"));
        }
    }
}

fn requested(o: &Object) -> String {
    o.at(&["spec", "expirationSeconds"]).as_i64().map_or("<none>".into(), table::duration)
}

/// `Approved,Issued`
fn condition_cell(o: &Object) -> String {
    let all = table::list(o.at(&["status", "conditions"]));
    let has = |kind: &str| all.iter().any(|c| c["type"] == kind);
    let mut shown = if has("Denied") {
        "Denied"
    } else if has("Approved") {
        "Approved"
    } else {
        "Pending"
    }
    .to_owned();
    if has("Failed") {
        shown.push_str(",Failed");
    }
    if !o.str_at(&["status", "certificate"]).is_empty() {
        shown.push_str(",Issued");
    }
    shown
}

const LEGACY_SIGNER: &str = "kubernetes.io/legacy-unknown";
const EXPIRATION_MIN_SECONDS: i64 = 600;
const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

fn request(spec: &Field, p: &mut Problems) {
    let bytes = BASE64.decode(spec.str("request")).unwrap_or_default();
    let first = pem::blocks(&String::from_utf8_lossy(&bytes)).into_iter().next().filter(|b| b.kind == "CERTIFICATE REQUEST");
    let shown = spec.get("request").value().clone();
    match first {
        None => p.invalid(&spec.at("request"), shown, "PEM block type must be CERTIFICATE REQUEST"),
        Some(block) => {
            if let Err(why) = X509CertificationRequest::from_der(&block.bytes) {
                p.invalid(&spec.at("request"), shown, format!("asn1: structure error: {why}"));
            }
        }
    }
}

fn usages(spec: &Field, p: &mut Problems) {
    let all = spec.items("usages");
    if all.is_empty() {
        p.required(&spec.at("usages"), "");
    }
    let mut seen = BTreeSet::new();
    for usage in &all {
        one_of(p, usage.path(), usage.text(), USAGES);
        if !seen.insert(usage.text()) {
            p.duplicate(usage.path(), usage.text());
        }
    }
}
