//! Lifecycle hooks and probes of containers.

use crate::field::{Field, invalid_each, non_negative, one_of};
use crate::formats;
use keles_api::{Path, Problems};
use serde_json::Value;

const KINDS: &[&str] = &["exec", "httpGet", "tcpSocket", "grpc", "sleep"];

pub fn lifecycle(c: &Field, grace_seconds: i64, p: &mut Problems) {
    let lifecycle = c.get("lifecycle");
    for hook in ["postStart", "preStop"] {
        if lifecycle.has(hook) {
            handler(&lifecycle.get(hook), grace_seconds, p);
        }
    }
}

pub fn liveness(c: &Field, name: &str, grace_seconds: i64, p: &mut Problems) {
    let probe = c.get(name);
    if !probe.is_set() {
        return;
    }
    validate(&probe, grace_seconds, p);
    if probe.int("successThreshold") != 1 {
        p.invalid(&probe.at("successThreshold"), probe.int("successThreshold"), "must be 1");
    }
}

pub fn readiness(c: &Field, grace_seconds: i64, p: &mut Problems) {
    let probe = c.get("readinessProbe");
    if !probe.is_set() {
        return;
    }
    validate(&probe, grace_seconds, p);
    if let Some(seconds) = probe.opt_int("terminationGracePeriodSeconds") {
        p.invalid(&probe.at("terminationGracePeriodSeconds"), seconds, "must not be set for readinessProbes");
    }
}

fn validate(probe: &Field, grace_seconds: i64, p: &mut Problems) {
    handler(probe, grace_seconds, p);
    for name in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        non_negative(p, probe, name);
    }
    if let Some(seconds) = probe.opt_int("terminationGracePeriodSeconds").filter(|s| *s <= 0) {
        p.invalid(&probe.at("terminationGracePeriodSeconds"), seconds, "must be greater than 0");
    }
}

/// Exactly one way to ask or tell a container something.
fn handler(h: &Field, grace_seconds: i64, p: &mut Problems) {
    let mut found = false;
    for kind in KINDS.iter().filter(|k| h.has(k)) {
        let action = h.get(kind);
        if std::mem::replace(&mut found, true) {
            p.forbidden(action.path(), "may not specify more than 1 handler type");
            continue;
        }
        match *kind {
            "exec" if action.list("command").is_empty() => p.required(&action.at("command"), ""),
            "httpGet" => http_get(&action, p),
            "tcpSocket" => port(&action.at("port"), action.get("port").value(), p),
            "grpc" => port(&action.at("port"), &action.int("port").into(), p),
            "sleep" => sleep(&action, grace_seconds, p),
            _ => {}
        }
    }
    if !found {
        p.required(h.path(), "must specify a handler type");
    }
}

fn http_get(get: &Field, p: &mut Problems) {
    if get.str("path").is_empty() {
        p.required(&get.at("path"), "");
    }
    port(&get.at("port"), get.get("port").value(), p);
    one_of(p, &get.at("scheme"), get.str("scheme"), &["HTTP", "HTTPS"]);
    for header in get.items("httpHeaders") {
        invalid_each(p, &get.at("httpHeaders"), header.str("name"), formats::http_header(header.str("name")));
    }
}

/// A port by number or by name.
pub fn port(at: &Path, port: &Value, p: &mut Problems) {
    match port {
        Value::String(name) => invalid_each(p, at, name, formats::port_name(name)),
        number => {
            let n = number.as_i64().unwrap_or(0);
            formats::port_number(n).into_iter().for_each(|m| p.invalid(at, n, m));
        }
    }
}

fn sleep(action: &Field, grace_seconds: i64, p: &mut Problems) {
    let seconds = action.int("seconds");
    if seconds < 0 || seconds > grace_seconds {
        p.invalid(action.path(), seconds, format!("must be non-negative and less than terminationGracePeriodSeconds ({grace_seconds})"));
    }
}
