//! A device of a ResourceSlice: attributes, capacity, counters, taints, the nodes it is for.

use crate::core::pod::affinity::node_selector;
use crate::field::{Field, invalid_each, same};
use crate::resource::allocation::binding_conditions;
use crate::resource::claim_spec::taint;
use crate::resource::identifiers::{QUALIFIED_KEY_MAX_BYTES, each, entries, label, qualified, required_label, set};
use keles_api::quantity::Quantity;
use keles_api::{Path, Problems, names};
use serde_json::Value;

const PROPERTIES_MAX: usize = 32;
const VALUE_MAX_BYTES: usize = 64;
const TAINTS_MAX: usize = 16;
const CONSUMPTIONS_MAX: usize = 2;
const COUNTERS_MAX: usize = 32;
const LABEL_MAX_BYTES: usize = 63;
const VALID_VALUES_MAX: usize = 10;

/// `old`: the device of the same name before, if there was one. `per_device`: devices name their nodes themselves.
pub fn validate(d: &Field, old: Option<&Field>, per_device: bool, p: &mut Problems) {
    label(p, &d.at("name"), d.str("name"));
    let properties = d.map_len("attributes") + d.map_len("capacity");
    if properties > PROPERTIES_MAX {
        p.invalid(d.path(), properties, format!("the total number of attributes and capacities must not exceed {PROPERTIES_MAX}"));
    }
    entries(p, d, "attributes", usize::MAX, QUALIFIED_KEY_MAX_BYTES, qualified, attribute);
    let changed = |name: &str| old.is_none_or(|old| !same(old.get(name).value(), d.get(name).value()));
    if changed("capacity") {
        let shared = d.bool("allowMultipleAllocations");
        entries(p, d, "capacity", usize::MAX, QUALIFIED_KEY_MAX_BYTES, qualified, |c, p| capacity(c, shared, p));
    }
    if changed("taints") {
        each(p, d, "taints", TAINTS_MAX, |t, p| taint(t, None, p));
    }
    set(
        p,
        d,
        "consumesCounters",
        CONSUMPTIONS_MAX,
        |c| c.str("counterSet").to_owned(),
        |c, p| {
            required_label(p, &c.at("counterSet"), c.str("counterSet"));
            counters(c, p);
        },
    );
    nodes(d, per_device, p);
    binding_conditions(d, p);
}

/// A set of counters that devices share.
pub fn counter_set(s: &Field, p: &mut Problems) {
    required_label(p, &s.at("name"), s.str("name"));
    counters(s, p);
}

fn counters(of: &Field, p: &mut Problems) {
    if of.map_len("counters") == 0 {
        return p.required(&of.at("counters"), "");
    }
    entries(p, of, "counters", COUNTERS_MAX, LABEL_MAX_BYTES, label, |_, _| {});
}

fn attribute(a: &Field, p: &mut Problems) {
    if let Some(s) = a.opt_str("string") {
        short(p, &a.at("string"), s);
    }
    if let Some(s) = a.opt_str("version") {
        if !is_semver(s) {
            p.invalid(&a.at("version"), s, "must be a string compatible with semver.org spec 2.0.0");
        }
        short(p, &a.at("version"), s);
    }
    match ["bool", "int", "string", "version"].iter().filter(|n| a.has(n)).count() {
        0 => p.invalid(a.path(), "", "exactly one value must be specified"),
        1 => {}
        _ => p.invalid(a.path(), a.value().clone(), "exactly one value must be specified"),
    }
}

fn short(p: &mut Problems, at: &Path, s: &str) {
    if s.len() > VALUE_MAX_BYTES {
        p.too_long(at, VALUE_MAX_BYTES);
    }
}

/// semver.org 2.0.0: `1.2.3`, `1.2.3-rc.1+build.5`.
fn is_semver(s: &str) -> bool {
    let (rest, build) = s.split_once('+').map_or((s, None), |(r, b)| (r, Some(b)));
    let (core, pre) = rest.split_once('-').map_or((rest, None), |(c, p)| (c, Some(p)));
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let number = |s: &str| digits(s) && (s == "0" || !s.starts_with('0'));
    let word = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let parts: Vec<&str> = core.split('.').collect();
    parts.len() == 3
        && parts.iter().all(|n| number(n))
        && pre.is_none_or(|p| p.split('.').all(|w| word(w) && (!digits(w) || number(w))))
        && build.is_none_or(|b| b.split('.').all(word))
}

fn capacity(c: &Field, shared: bool, p: &mut Problems) {
    let policy = c.get("requestPolicy");
    if !policy.is_set() {
        return;
    }
    if !shared {
        return p.forbidden(policy.path(), "allowMultipleAllocations must be true");
    }
    let (values, range) = (policy.list("validValues"), policy.get("validRange"));
    let most = quantity(c.get("value").value()).unwrap_or(Quantity::ZERO);
    let preset = quantity(policy.get("default").value());
    match (values.is_empty(), range.is_set(), preset) {
        (true, false, _) => {}
        (false, true, _) => p.forbidden(policy.path(), "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time"),
        (false, false, None) => p.required(&policy.at("default"), "required when validValues is defined"),
        (true, true, None) => p.required(&policy.at("default"), "required when validRange is defined"),
        (false, false, Some(preset)) => valid_values(&policy, preset, most, p),
        (true, true, Some(preset)) => valid_range(&range, preset, most, p),
    }
}

fn quantity(v: &Value) -> Option<Quantity> {
    Quantity::parse(v.as_str()?).ok()
}

fn valid_values(policy: &Field, preset: Quantity, most: Quantity, p: &mut Problems) {
    let all: Vec<Quantity> = policy.list("validValues").iter().filter_map(quantity).collect();
    let at = policy.at("validValues");
    for (i, pair) in all.windows(2).enumerate().filter(|(_, pair)| pair[0] > pair[1]) {
        p.invalid(&at.index(i + 1), pair[1].to_string(), "values must be sorted in ascending order");
    }
    set(
        p,
        policy,
        "validValues",
        VALID_VALUES_MAX,
        |v| quantity(v.value()).map_or(0, Quantity::units).to_string(),
        |v, p| {
            if let Some(q) = quantity(v.value()).filter(|q| *q > most) {
                p.invalid(v.path(), q.to_string(), format!("option is larger than capacity value: {most}"));
            }
        },
    );
    if !all.contains(&preset) || all.len() > VALID_VALUES_MAX {
        p.invalid(&at, preset.to_string(), "default value is not valid according to the requestPolicy");
    }
}

fn valid_range(range: &Field, preset: Quantity, most: Quantity, p: &mut Problems) {
    let of = |name: &str| quantity(range.get(name).value());
    let Some(min) = of("min") else { return p.required(&range.at("min"), "required when validRange is defined") };
    let (max, step) = (of("max"), of("step"));
    if min > most {
        p.invalid(&range.at("min"), min.to_string(), format!("min is larger than capacity value: {most}"));
    }
    if preset < min {
        p.invalid(&range.at("default"), preset.to_string(), format!("default is less than min: {min}"));
    }
    if let Some(max) = max {
        if min > max {
            p.invalid(&range.at("max"), min.to_string(), format!("min is larger than max: {max}"));
        }
        if max > most {
            p.invalid(&range.at("max"), max.to_string(), format!("max is larger than capacity value: {most}"));
        }
        if preset > max {
            p.invalid(&range.at("default"), preset.to_string(), format!("default is more than max: {max}"));
        }
    }
    let Some(step) = step else { return };
    let one = min.add(step);
    if one > most {
        p.invalid(&range.at("step"), step.to_string(), format!("one step {one} is larger than capacity value: {most}"));
    }
    // A step of nothing would divide by zero; upstream refuses it as not being a multiple.
    let fits = |q: Quantity| step.units() != 0 && (i128::from(q.units()) - i128::from(min.units())) % i128::from(step.units()) == 0;
    for q in [Some(preset), max].into_iter().flatten().filter(|q| !fits(*q)) {
        p.invalid(&range.at("step"), q.to_string(), format!("value is not a multiple of a given step ({step}) from ({min})"));
    }
}

fn nodes(d: &Field, per_device: bool, p: &mut Problems) {
    const CHOOSE: &str = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    if !per_device {
        if d.has("nodeName") || d.has("nodeSelector") || d.has("allNodes") {
            p.invalid(d.path(), Value::Null, "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec");
        }
        return;
    }
    let mut found = Vec::new();
    match d.opt_str("nodeName") {
        Some("") => p.invalid(&d.at("nodeName"), "", "must not be empty"),
        Some(name) => {
            found.push("`nodeName`");
            node_name(p, &d.at("nodeName"), name);
        }
        None => {}
    }
    if d.has("nodeSelector") {
        found.push("`nodeSelector`");
        node_selector(&d.get("nodeSelector"), p);
    }
    true_or_unset(d, "allNodes", "`allNodes`", &mut found, p);
    match found.len() {
        0 => p.required(d.path(), CHOOSE),
        1 => {}
        _ => p.invalid(d.path(), format!("{{{}}}", found.join(", ")), CHOOSE),
    }
}

pub fn node_name(p: &mut Problems, at: &Path, name: &str) {
    invalid_each(p, at, name, names::dns_subdomain(name, false));
}

/// A switch that can only be turned on; `shown` is noted when it is.
pub fn true_or_unset(of: &Field, name: &str, shown: &'static str, found: &mut Vec<&'static str>, p: &mut Problems) {
    match of.opt_bool(name) {
        Some(true) => found.push(shown),
        Some(false) => p.invalid(&of.at(name), false, "must be either unset or set to true"),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn said(d: Value) -> Vec<String> {
        let mut p = Problems::new();
        validate(&Field::new(&d, Path::new("d")), None, false, &mut p);
        p.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn versions_follow_semver() {
        for good in ["1.2.3", "0.0.0", "1.2.3-rc.1+build.05", "1.0.0-0a"] {
            assert!(is_semver(good), "{good}");
        }
        for bad in ["1.2", "01.2.3", "1.2.3-", "1.2.3-01", "v1.2.3", "1.2.3+"] {
            assert!(!is_semver(bad), "{bad}");
        }
    }

    #[test]
    fn an_attribute_has_one_value() {
        assert!(said(json!({"name": "d0", "attributes": {"x": {"int": 1}}})).is_empty());
        assert_eq!(said(json!({"name": "d0", "attributes": {"x": {}}})), ["d.attributes[x]: Invalid value: \"\": exactly one value must be specified"]);
    }

    #[test]
    fn a_range_of_requests_must_fit_the_capacity() {
        let policy = |step: &str| json!({"name": "d", "allowMultipleAllocations": true, "capacity": {"mem": {"value": "8Gi", "requestPolicy": {"default": "1Gi", "validRange": {"min": "1Gi", "step": step}}}}});
        assert!(said(policy("1Gi")).is_empty());
        assert_eq!(said(policy("16Gi")), ["d.capacity[mem].requestPolicy.validRange.step: Invalid value: \"16Gi\": one step 17Gi is larger than capacity value: 8Gi"]);
    }
}
