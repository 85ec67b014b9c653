//! The wish for devices, in a ResourceClaim and in a ResourceClaimTemplate: defaults and validation.

use crate::field::{Field, NOT_POSITIVE, default, default_nonzero, items_mut};
use crate::labels;
use crate::resource::identifiers::{class, driver, each, fully_qualified, label, set};
use crate::resource::selectors;
use keles_api::{Path, Problems, names};
use serde_json::Value;

pub const REQUESTS_MAX: usize = 32;
const CONSTRAINTS_MAX: usize = 32;
pub const CONFIG_MAX: usize = 32;
const FIRST_AVAILABLE_MAX: usize = 8;
const TOLERATIONS_MAX: usize = 16;
const PARAMETERS_MAX_BYTES: usize = 10 << 10;
const EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "None"];

/// Defaults of the requests of a claim.
pub fn default_requests(spec: &mut Value) {
    let Some(devices) = spec.get_mut("devices") else { return };
    for request in items_mut(devices, "requests") {
        if let Some(exactly) = request.get_mut("exactly").filter(|e| e.is_object()) {
            one_device(exactly);
        }
        items_mut(request, "firstAvailable").for_each(one_device);
    }
}

fn one_device(request: &mut Value) {
    default(request, "allocationMode", "ExactCount");
    if request["allocationMode"] == "ExactCount" {
        default_nonzero(request, "count", 1);
    }
    items_mut(request, "tolerations").for_each(|t| default(t, "operator", "Equal"));
}

/// Requests and subrequests that a claim names.
pub struct Requests<'a>(Vec<(&'a str, Vec<&'a str>)>);

impl<'a> Requests<'a> {
    /// Of the spec of a claim.
    pub fn of(spec: &Field<'a>) -> Self {
        let sub = |r: &Field<'a>| r.items("firstAvailable").iter().map(|s| s.str("name")).collect();
        Requests(spec.get("devices").items("requests").iter().map(|r| (r.str("name"), sub(r))).collect())
    }
    fn has(&self, name: &str) -> bool {
        let (request, sub) = name.split_once('/').map_or((name, None), |(r, s)| (r, Some(s)));
        // Later requests of the same name replace earlier ones.
        self.0.iter().rev().find(|(n, _)| *n == request).is_some_and(|(_, subs)| sub.is_none_or(|s| subs.contains(&s)))
    }
    /// A reference to a request or to `request/subrequest`.
    pub fn reference(&self, p: &mut Problems, at: &Path, name: &str) {
        const UNKNOWN: &str = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
        if name.split('/').count() > 2 {
            return p.invalid(at, name, UNKNOWN);
        }
        name.split('/').for_each(|part| label(p, at, part));
        if !self.has(name) {
            p.invalid(at, name, UNKNOWN);
        }
    }
}

/// `stored`: the expressions are those that the object had.
pub fn validate(spec: &Field, stored: bool, p: &mut Problems) {
    let devices = spec.get("devices");
    let requests = Requests::of(spec);
    set(p, &devices, "requests", REQUESTS_MAX, |r| r.str("name").to_owned(), |r, p| request(r, stored, p));
    each(p, &devices, "constraints", CONSTRAINTS_MAX, |c, p| constraint(c, &requests, p));
    each(p, &devices, "config", CONFIG_MAX, |c, p| {
        referenced(c, &requests, p);
        configuration(c, stored, p);
    });
}

/// The requests that a constraint or configuration is about.
pub fn referenced(of: &Field, requests: &Requests, p: &mut Problems) {
    set(p, of, "requests", REQUESTS_MAX, |r| r.text().to_owned(), |r, p| requests.reference(p, r.path(), r.text()));
}

fn request(r: &Field, stored: bool, p: &mut Problems) {
    label(p, &r.at("name"), r.str("name"));
    match (r.has("exactly"), !r.list("firstAvailable").is_empty()) {
        (false, false) => p.required(r.path(), "exactly one of `exactly` or `firstAvailable` is required"),
        (true, true) => p.invalid(r.path(), Value::Null, "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set"),
        (true, false) => devices_asked(&r.get("exactly"), stored, p),
        (false, true) => set(
            p,
            r,
            "firstAvailable",
            FIRST_AVAILABLE_MAX,
            |s| s.str("name").to_owned(),
            |s, p| {
                label(p, &s.at("name"), s.str("name"));
                devices_asked(s, stored, p);
            },
        ),
    }
}

fn devices_asked(r: &Field, stored: bool, p: &mut Problems) {
    class(p, &r.at("deviceClassName"), r.str("deviceClassName"));
    selectors::validate(r, stored, p);
    match (r.str("allocationMode"), r.int("count")) {
        ("All", 0) => {}
        ("All", n) => p.invalid(&r.at("count"), n, "must not be specified when allocationMode is 'All'"),
        ("ExactCount", n) if n <= 0 => p.invalid(&r.at("count"), n, NOT_POSITIVE),
        ("ExactCount", _) => {}
        (other, _) => p.not_supported(&r.at("allocationMode"), other, &["All", "ExactCount"]),
    }
    tolerations(r, p);
}

/// Tolerations of taints of devices.
pub fn tolerations(of: &Field, p: &mut Problems) {
    each(p, of, "tolerations", TOLERATIONS_MAX, toleration);
}

fn toleration(t: &Field, p: &mut Problems) {
    if !t.str("key").is_empty() {
        labels::key(p, &t.at("key"), t.str("key"));
    }
    match (t.str("operator"), t.str("value")) {
        ("Exists", "") => {}
        ("Exists", value) => p.invalid(&t.at("value"), value, "must be empty for operator `Exists`"),
        ("Equal", value) => crate::field::invalid_each(p, &t.at("value"), value, names::label_value(value)),
        ("", _) => p.required(&t.at("operator"), ""),
        (other, _) => p.not_supported(&t.at("operator"), other, &["Equal", "Exists"]),
    }
    let effect = t.str("effect");
    if !effect.is_empty() && !EFFECTS.contains(&effect) {
        p.not_supported(&t.at("effect"), effect, EFFECTS);
    }
}

/// A taint of a device. An effect that the taint `had` stays good.
pub fn taint(t: &Field, had: Option<&str>, p: &mut Problems) {
    labels::key(p, &t.at("key"), t.str("key"));
    crate::field::invalid_each(p, &t.at("value"), t.str("value"), names::label_value(t.str("value")));
    let effect = t.str("effect");
    if had != Some(effect) {
        crate::field::required_one_of(p, &t.at("effect"), effect, EFFECTS);
    }
}

fn constraint(c: &Field, requests: &Requests, p: &mut Problems) {
    referenced(c, requests, p);
    match (c.opt_str("matchAttribute"), c.opt_str("distinctAttribute")) {
        (Some(name), _) => fully_qualified(p, &c.at("matchAttribute"), name),
        (None, Some(name)) => fully_qualified(p, &c.at("distinctAttribute"), name),
        (None, None) => p.required(c.path(), "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set"),
    }
}

/// Configuration for a driver, of a claim, a class or an allocation.
pub fn configuration(c: &Field, stored: bool, p: &mut Problems) {
    let opaque = c.get("opaque");
    if !opaque.is_set() {
        return p.required(opaque.path(), "");
    }
    driver(p, &opaque.at("driver"), opaque.str("driver"));
    json_object(&opaque.get("parameters"), if stored { usize::MAX } else { PARAMETERS_MAX_BYTES }, p);
}

/// Free-form data that must be a JSON object.
pub fn json_object(v: &Field, max_bytes: usize, p: &mut Problems) {
    if !v.is_set() {
        p.required(v.path(), "");
    } else if v.value().to_string().len() > max_bytes {
        p.too_long(v.path(), max_bytes);
    } else if !v.value().is_object() {
        p.invalid(v.path(), "<value omitted>", "must be a valid JSON object");
    }
}
