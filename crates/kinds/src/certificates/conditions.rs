//! Who may set which condition of a CertificateSigningRequest: approvers through `approval`, signers through `status`.

use crate::field::{Field, set};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use keles_api::{Object, Path, Problems};
use keles_rules::pem;
use serde_json::Value;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

pub const APPROVAL: &str = "approval";
/// Conditions that stand once they are set, and are never False.
const LASTING: &[&str] = &["Approved", "Denied", "Failed"];
/// What only an approver says.
const DECISIONS: &[&str] = &["Approved", "Denied"];

fn of(o: &Object) -> &[Value] {
    o.at(&["status", "conditions"]).as_array().map_or(&[], Vec::as_slice)
}

fn count(o: &Object, kind: &str) -> usize {
    of(o).iter().filter(|c| c["type"] == kind).count()
}

/// The times of new conditions that say none: a condition that was there keeps its transition.
pub fn date(new: &mut Object, old: &Object, now: &str) {
    let had = of(old).to_vec();
    let Some(list) = new.at_mut(&["status", "conditions"]).and_then(Value::as_array_mut) else { return };
    for c in list {
        if c["lastUpdateTime"].is_null() {
            set(c, "lastUpdateTime", now);
        }
        if c["lastTransitionTime"].is_null() {
            let before = had.iter().find(|h| h["type"] == c["type"] && h["status"] == c["status"]).map(|h| h["lastTransitionTime"].clone());
            set(c, "lastTransitionTime", before.filter(|t| !t.is_null()).unwrap_or_else(|| now.into()));
        }
    }
}

/// The conditions by themselves, and against what they were. `approves`: the write may decide.
pub fn check(new: &Object, old: &Object, approves: bool, p: &mut Problems) {
    let status = Field::root(new).get("status");
    let mut seen: Vec<&str> = Vec::new();
    for c in status.items("conditions") {
        let kind = c.str("type");
        if kind.is_empty() {
            p.required(&c.at("type"), "");
        }
        let allowed: &[&str] = if LASTING.contains(&kind) { &["True"] } else { &["False", "True", "Unknown"] };
        match c.str("status") {
            "" => p.required(&c.at("status"), ""),
            s if !allowed.contains(&s) => p.not_supported(&c.at("status"), s, allowed),
            _ => {}
        }
        if DECISIONS.contains(&kind) && seen.iter().any(|s| DECISIONS.contains(s) && *s != kind) {
            p.invalid(&status.at("conditions"), kind, "Approved and Denied conditions are mutually exclusive");
        }
        if seen.contains(&kind) {
            p.duplicate(&c.at("type"), kind);
        }
        seen.push(kind);
    }
    let at = Path::new("status").child("conditions");
    for kind in LASTING {
        let (has, had) = (count(new, kind), count(old, kind));
        if has < had {
            p.forbidden(&at, format!("updates may not remove a condition of type {kind:?}"));
        }
        if has > had && !approves && DECISIONS.contains(kind) {
            p.forbidden(&at, format!("updates may not add a condition of type {kind:?}"));
        }
    }
    certificate(new, old, approves, p);
}

fn certificate(new: &Object, old: &Object, approves: bool, p: &mut Problems) {
    let (has, had) = (new.str_at(&["status", "certificate"]), old.str_at(&["status", "certificate"]));
    let at = Path::new("status").child("certificate");
    if has == had {
        return;
    }
    issued(&at, has, p);
    if approves {
        p.forbidden(&at, "updates may not set certificate content");
    } else if !had.is_empty() {
        p.forbidden(&at, "updates may not modify existing certificate content");
    }
}

/// What a signer hands out: certificates and nothing else.
fn issued(at: &Path, text: &str, p: &mut Problems) {
    if text.is_empty() {
        return;
    }
    let bytes = BASE64.decode(text).unwrap_or_default();
    let blocks = pem::blocks(&String::from_utf8_lossy(&bytes));
    let why = match blocks.iter().find(|b| b.kind != "CERTIFICATE" || b.has_headers) {
        Some(b) if b.kind != "CERTIFICATE" => format!("only CERTIFICATE PEM blocks are allowed, found {:?}", b.kind),
        Some(_) => "no PEM block headers are permitted".into(),
        None if blocks.is_empty() => "must contain at least one CERTIFICATE PEM block".into(),
        None if blocks.iter().any(|b| X509Certificate::from_der(&b.bytes).is_err()) => "found no certificates in CERTIFICATE PEM block".into(),
        None => return,
    };
    p.invalid(at, "<certificate data>", why);
}
