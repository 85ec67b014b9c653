//! What an object counts against a ResourceQuota: usage by resource name, scopes, and what a pod must say to be counted.
//!
//! Pure, over trees; admission and the quota controller share it. Source: the ResourceQuota API and upstream's evaluators of pods,
//! services, claims and object counts. Deliberately absent: summing over a namespace and storing the sum.

use crate::qos;
use crate::requests::{Amounts, add, limits_of_spec, of_spec, tree};
use keles_api::quantity::{Format, Quantity};
use serde_json::Value;
use std::collections::BTreeMap;

/// Kinds with a name of their own in quotas besides `count/PLURAL`.
const NAMED: &[&str] = &["pods", "services", "persistentvolumeclaims", "replicationcontrollers", "resourcequotas", "secrets", "configmaps"];
/// Resources that quotas count under their bare name (as requests) as well as under `requests.` and `limits.`.
const COMPUTE: &[&str] = &["cpu", "memory", "ephemeral-storage"];
/// Limits of a quota that make every container state its share.
const STATED: &[&str] = &["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];
const HUGE: &str = "hugepages-";
const CLASS_OF_STORAGE: &str = ".storageclass.storage.k8s.io/";

fn one() -> Quantity {
    count(1)
}

fn count(n: usize) -> Quantity {
    Quantity::new(i64::try_from(n).unwrap_or(i64::MAX), Format::DecimalSi)
}

/// `count/deployments.apps`
pub fn object_count(group: &str, plural: &str) -> String {
    if group.is_empty() { format!("count/{plural}") } else { format!("count/{plural}.{group}") }
}

/// What one object uses. `now_unix_seconds` decides whether a deleted pod's grace is over.
pub fn usage(group: &str, plural: &str, o: &Value, now_unix_seconds: i64) -> Amounts {
    let mut used = Amounts::from([(object_count(group, plural), one())]);
    if group.is_empty() && NAMED.contains(&plural) && (plural != "pods" || counts(o, now_unix_seconds)) {
        used.insert(plural.to_owned(), one());
    }
    match (group, plural) {
        ("", "pods") if counts(o, now_unix_seconds) => used.extend(of_pod(&o["spec"])),
        ("", "services") => used.extend(of_service(&o["spec"])),
        ("", "persistentvolumeclaims") => used.extend(of_claim(o)),
        ("resource.k8s.io", "resourceclaims") => used.extend(of_device_claim(&o["spec"])),
        _ => {}
    }
    used
}

/// Whether a pod still uses anything: not ended, and not deleted for longer than its grace.
fn counts(pod: &Value, now_unix_seconds: i64) -> bool {
    if matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
        return false;
    }
    let (Some(deleted), Some(grace)) = (pod["metadata"]["deletionTimestamp"].as_str(), pod["metadata"]["deletionGracePeriodSeconds"].as_i64()) else { return true };
    // The timestamp is when the grace ends; upstream adds the grace once more.
    deleted.parse::<jiff::Timestamp>().is_ok_and(|t| now_unix_seconds <= t.as_second().saturating_add(grace))
}

fn of_pod(spec: &Value) -> Amounts {
    compute(&of_spec(spec), &limits_of_spec(spec))
}

/// Requests and limits under the names that quotas have for them.
fn compute(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut used = Amounts::new();
    for (name, q) in requests {
        if COMPUTE.contains(&name.as_str()) {
            used.insert(name.clone(), *q);
            used.insert(format!("requests.{name}"), *q);
        } else if name.starts_with(HUGE) {
            used.insert(name.clone(), *q);
            used.insert(format!("requests.{name}"), *q);
        } else if is_extended(name) {
            used.insert(format!("requests.{name}"), *q);
        }
    }
    for (name, q) in limits.iter().filter(|(name, _)| COMPUTE.contains(&name.as_str())) {
        used.insert(format!("limits.{name}"), *q);
    }
    used
}

/// A resource of somebody's domain, not Kubernetes' own.
fn is_extended(name: &str) -> bool {
    name.split_once('/').is_some_and(|(domain, _)| domain != "kubernetes.io" && !domain.ends_with(".kubernetes.io"))
}

fn of_service(spec: &Value) -> Amounts {
    let ports = spec["ports"].as_array().map_or(&[][..], Vec::as_slice);
    let (node_ports, balancers) = match spec["type"].as_str() {
        Some("NodePort") => (ports.len(), 0),
        Some("LoadBalancer") if spec["allocateLoadBalancerNodePorts"] == false => (ports.iter().filter(|p| p["nodePort"].as_i64().unwrap_or(0) != 0).count(), 1),
        Some("LoadBalancer") => (ports.len(), 1),
        _ => (0, 0),
    };
    Amounts::from([("services.nodeports".to_owned(), count(node_ports)), ("services.loadbalancers".to_owned(), count(balancers))])
}

fn of_claim(o: &Value) -> Amounts {
    let mut used = Amounts::new();
    let class = o["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"].as_str().or(o["spec"]["storageClassName"].as_str()).unwrap_or_default();
    if !class.is_empty() {
        used.insert(format!("{class}{CLASS_OF_STORAGE}persistentvolumeclaims"), one());
    }
    // While a claim shrinks back after a failed growth, what was allocated counts.
    let sizes = [&o["spec"]["resources"]["requests"]["storage"], &o["status"]["allocatedResources"]["storage"]];
    if let Some(size) = sizes.into_iter().filter_map(|q| Quantity::parse(q.as_str()?).ok()).max() {
        used.insert("requests.storage".to_owned(), size);
        if !class.is_empty() {
            used.insert(format!("{class}{CLASS_OF_STORAGE}requests.storage"), size);
        }
    }
    used
}

/// Devices by class that a claim may be given at most.
fn of_device_claim(spec: &Value) -> Amounts {
    const ALL_AT_MOST: i64 = 32;
    let mut used = Amounts::new();
    for request in spec["devices"]["requests"].as_array().into_iter().flatten() {
        let alternatives: Vec<&Value> = match request["firstAvailable"].as_array() {
            Some(all) => all.iter().collect(),
            None => vec![&request["exactly"]],
        };
        // Only one of the alternatives is taken: of each class the most that one of them asks for counts.
        let mut most = Amounts::new();
        for r in alternatives {
            let devices = if r["allocationMode"] == "All" { ALL_AT_MOST } else { r["count"].as_i64().unwrap_or(1) };
            let name = format!("{}.deviceclass.resource.k8s.io/devices", r["deviceClassName"].as_str().unwrap_or_default());
            let q = Quantity::new(devices, Format::DecimalSi);
            if most.get(&name).is_none_or(|have| *have < q) {
                most.insert(name, q);
            }
        }
        add(&mut used, &most);
    }
    used
}

/// Whether a quota counts an object of this kind at all, and this one by its scopes.
pub fn in_scope(quota_spec: &Value, group: &str, plural: &str, o: &Value) -> bool {
    let plain = quota_spec["scopes"].as_array().into_iter().flatten().filter_map(Value::as_str).map(|s| (s, "Exists", &Value::Null));
    let selected = quota_spec["scopeSelector"]["matchExpressions"].as_array().into_iter().flatten();
    let selected = selected.map(|e| (e["scopeName"].as_str().unwrap_or_default(), e["operator"].as_str().unwrap_or_default(), &e["values"]));
    plain.chain(selected).all(|(scope, operator, values)| match (group, plural) {
        ("", "pods") => pod_in(&o["spec"], scope, operator, values),
        ("", "persistentvolumeclaims") => scope == "VolumeAttributesClass" && chosen(o["spec"]["volumeAttributesClassName"].as_str(), operator, values),
        _ => false,
    })
}

fn pod_in(spec: &Value, scope: &str, operator: &str, values: &Value) -> bool {
    let terminating = spec["activeDeadlineSeconds"].as_i64().is_some_and(|s| s >= 0);
    match scope {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => qos::class(spec) == qos::Class::BestEffort,
        "NotBestEffort" => qos::class(spec) != qos::Class::BestEffort,
        "PriorityClass" => chosen(spec["priorityClassName"].as_str(), operator, values),
        "CrossNamespacePodAffinity" => crosses_namespaces(&spec["affinity"]),
        _ => false,
    }
}

/// A scope that looks at a name.
fn chosen(name: Option<&str>, operator: &str, values: &Value) -> bool {
    let name = name.unwrap_or_default();
    let among = || values.as_array().into_iter().flatten().any(|v| v == name);
    match operator {
        "Exists" => !name.is_empty(),
        "DoesNotExist" => name.is_empty(),
        "In" => !name.is_empty() && among(),
        "NotIn" => !among(),
        _ => false,
    }
}

fn crosses_namespaces(affinity: &Value) -> bool {
    ["podAffinity", "podAntiAffinity"].iter().any(|side| {
        let required = affinity[*side]["requiredDuringSchedulingIgnoredDuringExecution"].as_array().into_iter().flatten();
        let preferred = affinity[*side]["preferredDuringSchedulingIgnoredDuringExecution"].as_array().into_iter().flatten().map(|p| &p["podAffinityTerm"]);
        required.chain(preferred).any(|t| t["namespaces"].as_array().is_some_and(|n| !n.is_empty()) || !t["namespaceSelector"].is_null())
    })
}

/// What containers of a pod must state for a quota with these hard limits, in upstream's words; `None` when all is stated.
pub fn unstated<'a>(spec: &Value, hard: impl Iterator<Item = &'a str>) -> Option<String> {
    if !spec["resources"].is_null() {
        return None;
    }
    let required: Vec<&str> = hard.filter(|name| STATED.contains(name)).collect();
    let mut missing: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for list in ["containers", "initContainers"] {
        for c in spec[list].as_array().into_iter().flatten() {
            let stated = compute(&tree(&c["resources"]["requests"]), &tree(&c["resources"]["limits"]));
            for name in required.iter().filter(|n| !stated.contains_key(**n)) {
                missing.entry(name).or_default().push(c["name"].as_str().unwrap_or_default());
            }
        }
    }
    let lines = missing.into_iter().map(|(resource, mut containers)| {
        containers.sort_unstable();
        format!("{resource} for: {}", containers.join(","))
    });
    let text = lines.collect::<Vec<_>>().join("; ");
    (!text.is_empty()).then(|| format!("must specify {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn used(group: &str, plural: &str, o: Value) -> String {
        usage(group, plural, &o, 0).into_iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",")
    }

    #[test]
    fn pods_count_what_they_ask_for_until_they_end() {
        let spec = json!({"containers": [{"resources": {"requests": {"cpu": "1", "example.com/foo": "2"}, "limits": {"memory": "1Gi", "example.com/foo": "2"}}}]});
        assert_eq!(used("", "pods", json!({"spec": spec})), "count/pods=1,cpu=1,limits.memory=1Gi,pods=1,requests.cpu=1,requests.example.com/foo=2");
        assert_eq!(used("", "pods", json!({"spec": spec, "status": {"phase": "Succeeded"}})), "count/pods=1");
        let deleted = json!({"metadata": {"deletionTimestamp": "1970-01-01T00:01:00Z", "deletionGracePeriodSeconds": 30}, "spec": {}});
        let holds = |now| usage("", "pods", &deleted, now).contains_key("pods");
        assert!(holds(90) && !holds(91));
    }

    #[test]
    fn services_claims_and_plain_objects_count() {
        assert_eq!(used("", "services", json!({"spec": {"type": "NodePort", "ports": [{}, {}]}})), "count/services=1,services=1,services.loadbalancers=0,services.nodeports=2");
        let balancer = json!({"spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": [{"nodePort": 30000}, {}]}});
        assert_eq!(used("", "services", balancer), "count/services=1,services=1,services.loadbalancers=1,services.nodeports=1");
        let claim = json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "10Gi"}}}});
        assert_eq!(
            used("", "persistentvolumeclaims", claim),
            "count/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/requests.storage=10Gi,persistentvolumeclaims=1,requests.storage=10Gi"
        );
        assert_eq!(used("apps", "deployments", json!({})), "count/deployments.apps=1");
        assert_eq!(used("", "configmaps", json!({})), "configmaps=1,count/configmaps=1");
    }

    #[test]
    fn devices_count_by_class_and_alternatives_by_the_largest() {
        let spec = json!({"devices": {"requests": [
            {"exactly": {"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 2}},
            {"firstAvailable": [{"deviceClassName": "gpu", "count": 1}, {"deviceClassName": "gpu", "count": 3}, {"deviceClassName": "npu", "allocationMode": "All"}]}]}});
        assert_eq!(
            used("resource.k8s.io", "resourceclaims", json!({"spec": spec})),
            "count/resourceclaims.resource.k8s.io=1,gpu.deviceclass.resource.k8s.io/devices=5,npu.deviceclass.resource.k8s.io/devices=32"
        );
    }

    #[test]
    fn scopes_choose_pods() {
        let plain = json!({"spec": {"containers": [{}]}});
        let deadline = json!({"spec": {"containers": [{"resources": {"requests": {"cpu": "1"}}}], "activeDeadlineSeconds": 5, "priorityClassName": "high"}});
        let by = |scope: &str, o: &Value| in_scope(&json!({"scopes": [scope]}), "", "pods", o);
        assert!(by("BestEffort", &plain) && !by("BestEffort", &deadline) && by("NotBestEffort", &deadline));
        assert!(by("Terminating", &deadline) && by("NotTerminating", &plain));
        let class = |operator: &str, values: Value| json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": operator, "values": values}]}});
        assert!(in_scope(&class("In", json!(["high"])), "", "pods", &deadline) && !in_scope(&class("In", json!(["high"])), "", "pods", &plain));
        assert!(in_scope(&class("NotIn", json!(["low"])), "", "pods", &deadline) && in_scope(&class("DoesNotExist", json!(null)), "", "pods", &plain));
        assert!(!in_scope(&json!({"scopes": ["BestEffort"]}), "", "services", &plain), "a scoped quota counts only what has the scope");
        assert!(in_scope(&json!({}), "", "services", &plain));
    }

    #[test]
    fn a_quota_on_compute_makes_every_container_state_it() {
        let spec = json!({"containers": [{"name": "b", "resources": {"limits": {"memory": "1Gi"}}}, {"name": "a"}]});
        assert_eq!(unstated(&spec, ["limits.memory", "pods", "requests.cpu"].into_iter()).unwrap(), "must specify limits.memory for: a; requests.cpu for: a,b");
        assert_eq!(unstated(&spec, ["pods", "services"].into_iter()), None);
    }
}
