//! What a claim got: the status of a ResourceClaim.

use crate::conditions::conditions;
use crate::core::pod::affinity::node_selector;
use crate::field::{Field, immutable, remove};
use crate::ip;
use crate::labels;
use crate::resource::claim_spec::{CONFIG_MAX, Requests, configuration, json_object, referenced, tolerations};
use crate::resource::identifiers::{driver, each, label, pool, set, uid};
use keles_api::{Object, Path, Problem, Problems, problems::ProblemKind};
use serde_json::Value;
use std::collections::HashSet;

const RESERVED_MAX: usize = 256;
const RESULTS_MAX: usize = 32;
const CONDITIONS_MAX: usize = 8;
const BINDING_CONDITIONS_MAX: usize = 4;
const DATA_MAX_BYTES: usize = 10 << 10;
const IPS_MAX: usize = 16;
const INTERFACE_MAX_BYTES: usize = 256;
const HARDWARE_MAX_BYTES: usize = 128;

/// `driver/pool/device`, and the share of a device that is given out several times.
fn device_id(d: &Field) -> String {
    let id = format!("{}/{}/{}", d.str("driver"), d.str("pool"), d.str("device"));
    match d.str("shareID") {
        "" => id,
        share => format!("{id}/{share}"),
    }
}

/// What a driver said of a device goes with the device.
pub fn drop_deallocated(new: &mut Object, old: &Object) {
    let results = |o: &Object| -> HashSet<String> { Field::root(o).get("status").get("allocation").get("devices").items("results").iter().map(device_id).collect() };
    let (had, has) = (results(old), results(new));
    let Some(Value::Array(devices)) = new.at_mut(&["status", "devices"]) else { return };
    devices.retain(|d| {
        let id = device_id(&Field::new(d, Path::root()));
        !had.contains(&id) || has.contains(&id)
    });
    if devices.is_empty() {
        new.0.get_mut("status").into_iter().for_each(|status| remove(status, "devices"));
    }
}

/// `spec` is that of the claim.
pub fn validate_status(status: &Field, old: &Field, spec: &Field, deleted: bool, p: &mut Problems) {
    set(
        p,
        status,
        "reservedFor",
        RESERVED_MAX,
        |r| r.str("uid").to_owned(),
        |r, p| {
            for name in ["resource", "name", "uid"].iter().filter(|n| r.str(n).is_empty()) {
                p.required(&r.at(name), "");
            }
        },
    );
    let allocation = status.get("allocation");
    let allocated: HashSet<String> = allocation.get("devices").items("results").iter().map(device_id).collect();
    set(p, status, "devices", usize::MAX, device_id, |d, p| device(d, &allocated, p));
    if !status.list("reservedFor").is_empty() {
        let fresh = status.list("reservedFor").iter().any(|r| !old.list("reservedFor").contains(r));
        if !allocation.is_set() {
            p.forbidden(&status.at("reservedFor"), "may not be specified when `allocated` is not set");
        } else if deleted && fresh {
            p.forbidden(&status.at("reservedFor"), "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set");
        }
    }
    match (allocation.is_set(), old.has("allocation")) {
        (true, true) => immutable(p, &allocation, &old.get("allocation")),
        (true, false) => result(&allocation, &Requests::of(spec), p),
        (false, _) => {}
    }
}

fn result(allocation: &Field, requests: &Requests, p: &mut Problems) {
    let devices = allocation.get("devices");
    each(p, &devices, "results", RESULTS_MAX, |r, p| {
        requests.reference(p, &r.at("request"), r.str("request"));
        driver(p, &r.at("driver"), r.str("driver"));
        pool(p, &r.at("pool"), r.str("pool"));
        label(p, &r.at("device"), r.str("device"));
        binding_conditions(r, p);
        tolerations(r, p);
        if let Some(id) = r.opt_str("shareID") {
            uid(p, &r.at("shareID"), id);
        }
    });
    // As many as a class and a claim may have together.
    each(p, &devices, "config", 2 * CONFIG_MAX, |c, p| {
        crate::field::required_one_of(p, &c.at("source"), c.str("source"), &["FromClaim", "FromClass"]);
        referenced(c, requests, p);
        configuration(c, false, p);
    });
    if allocation.has("nodeSelector") {
        node_selector(&allocation.get("nodeSelector"), p);
    }
}

/// Conditions that must hold before a pod is bound, and those that say it failed: both or none, without overlap.
pub fn binding_conditions(of: &Field, p: &mut Problems) {
    const GOOD: &str = "bindingConditions";
    const BAD: &str = "bindingFailureConditions";
    for name in [GOOD, BAD] {
        each(p, of, name, BINDING_CONDITIONS_MAX, |c, p| labels::key(p, c.path(), c.text()));
    }
    let wanted = of.strings(GOOD);
    for name in [GOOD, BAD] {
        let mut seen = HashSet::new();
        for c in of.items(name) {
            if !seen.insert(c.text()) {
                p.duplicate(c.path(), c.text());
            }
            if name == BAD && wanted.contains(&c.text()) {
                p.invalid(c.path(), c.text(), "bindingFailureConditions must not overlap with bindingConditions");
            }
        }
    }
    let none = |name: &str| of.list(name).is_empty();
    if none(GOOD) && !none(BAD) {
        p.invalid(&of.at(GOOD), of.get(GOOD).value().clone(), "bindingConditions are required to use bindingFailureConditions");
    }
    if none(BAD) && !none(GOOD) {
        p.invalid(&of.at(BAD), of.get(BAD).value().clone(), "bindingFailureConditions are required to use bindingConditions");
    }
}

/// What a driver says of one allocated device.
fn device(d: &Field, allocated: &HashSet<String>, p: &mut Problems) {
    driver(p, &d.at("driver"), d.str("driver"));
    pool(p, &d.at("pool"), d.str("pool"));
    label(p, &d.at("device"), d.str("device"));
    if let Some(id) = d.opt_str("shareID") {
        uid(p, &d.at("shareID"), id);
    }
    let id = device_id(d);
    if !allocated.contains(&id) {
        let detail = format!("{id}: must be an allocated device in the claim");
        p.push(Problem { kind: ProblemKind::Invalid, field: d.path().as_str().into(), value: None, detail });
    }
    conditions(d, CONDITIONS_MAX, p);
    if d.has("data") {
        json_object(&d.get("data"), DATA_MAX_BYTES, p);
    }
    let network = d.get("networkData");
    for (name, max) in [("interfaceName", INTERFACE_MAX_BYTES), ("hardwareAddress", HARDWARE_MAX_BYTES)] {
        if network.str(name).len() > max {
            p.too_long(&network.at(name), max);
        }
    }
    set(p, &network, "ips", IPS_MAX, |a| a.text().to_owned(), |a, p| interface_address(p, a.path(), a.text()));
}

/// An address with the prefix of its network: `192.0.2.5/24`.
fn interface_address(p: &mut Problems, at: &Path, s: &str) {
    match ip::parse_cidr_sloppy(s) {
        None => p.invalid(at, s, "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)"),
        Some((ip, bits)) => {
            let canonical = format!("{ip}/{bits}");
            if canonical != s {
                p.invalid(at, s, format!("must be in canonical form ({canonical:?})"));
            }
        }
    }
}
