//! resource.k8s.io/v1beta1: the fields of `exactly` stand in the request itself, those of a device in `basic`.

use crate::field::{items_mut, set};
use serde_json::{Map, Value};

pub const API_VERSION: &str = "resource.k8s.io/v1beta1";
/// What a request of v1beta1 holds that v1 has in `exactly`.
const OF_EXACTLY: &[&str] = &["deviceClassName", "selectors", "allocationMode", "count", "adminAccess", "tolerations", "capacity"];

/// The requests of the spec of a claim, from or to v1beta1.
pub fn convert_requests(spec: Option<&mut Value>, from: &str, to: &str) {
    let Some(devices) = spec.and_then(|s| s.get_mut("devices")) else { return };
    for request in items_mut(devices, "requests") {
        match (from == API_VERSION, to == API_VERSION) {
            (true, false) => gather(request),
            (false, true) => spread(request, "exactly"),
            _ => {}
        }
    }
}

/// A request without alternatives asks for exactly one kind of device, with all its fields defaulted.
fn gather(request: &mut Value) {
    let Some(map) = request.as_object_mut() else { return };
    let found: Map<String, Value> = OF_EXACTLY.iter().filter_map(|name| map.remove(*name).filter(|v| !is_zero(v)).map(|v| ((*name).to_owned(), v))).collect();
    let alternatives = map.get("firstAvailable").and_then(Value::as_array).is_some_and(|l| !l.is_empty());
    if !alternatives || !found.is_empty() {
        map.insert("exactly".into(), found.into());
    }
}

/// A string or number held by value that was not given.
fn is_zero(v: &Value) -> bool {
    v.is_null() || v.as_str() == Some("") || v.as_i64() == Some(0)
}

/// Moves the fields of an inner map out of it.
fn spread(v: &mut Value, inner: &str) {
    let Some(map) = v.as_object_mut() else { return };
    if let Some(Value::Object(inner)) = map.remove(inner) {
        map.extend(inner);
    }
}

/// The devices of the spec of a slice, from or to v1beta1.
pub fn convert_devices(spec: Option<&mut Value>, from: &str, to: &str) {
    let Some(spec) = spec else { return };
    for device in items_mut(spec, "devices") {
        match (from == API_VERSION, to == API_VERSION) {
            (true, false) => spread(device, "basic"),
            (false, true) => {
                let Some(map) = device.as_object_mut() else { continue };
                let name = map.remove("name");
                let basic = Value::Object(std::mem::take(map));
                if let Some(name) = name {
                    set(device, "name", name);
                }
                set(device, "basic", basic);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_request_of_v1beta1_is_flat() {
        let flat = json!({"devices": {"requests": [{"name": "r", "deviceClassName": "c", "count": 2}, {"name": "s", "firstAvailable": [{"name": "a"}]}]}});
        let given = json!({"devices": {"requests": [{"name": "r", "deviceClassName": "c", "count": 2}, {"name": "s", "deviceClassName": "", "firstAvailable": [{"name": "a"}]}]}});
        let v1 = json!({"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "c", "count": 2}}, {"name": "s", "firstAvailable": [{"name": "a"}]}]}});
        let mut o = given;
        convert_requests(Some(&mut o), API_VERSION, "resource.k8s.io/v1");
        assert_eq!(o, v1);
        convert_requests(Some(&mut o), "resource.k8s.io/v1", "resource.k8s.io/v1beta2");
        assert_eq!(o, v1);
        convert_requests(Some(&mut o), "resource.k8s.io/v1", API_VERSION);
        assert_eq!(o, flat);
    }

    #[test]
    fn an_empty_request_of_v1beta1_asks_for_exactly_one_device() {
        let mut o = json!({"devices": {"requests": [{"name": "r"}]}});
        convert_requests(Some(&mut o), API_VERSION, "resource.k8s.io/v1");
        assert_eq!(o, json!({"devices": {"requests": [{"name": "r", "exactly": {}}]}}));
    }

    #[test]
    fn a_device_of_v1beta1_is_basic() {
        let old = json!({"devices": [{"name": "d0", "basic": {"attributes": {"x": {"int": 1}}, "allNodes": true}}]});
        let mut o = old.clone();
        convert_devices(Some(&mut o), API_VERSION, "resource.k8s.io/v1");
        assert_eq!(o, json!({"devices": [{"name": "d0", "attributes": {"x": {"int": 1}}, "allNodes": true}]}));
        convert_devices(Some(&mut o), "resource.k8s.io/v1", API_VERSION);
        assert_eq!(o, old);
    }
}
