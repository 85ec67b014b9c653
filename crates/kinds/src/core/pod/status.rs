//! The status of a pod: how it begins, and what `/status` may change.

use crate::field::{Field, invalid_each, remove, restore, set};
use crate::formats;
use keles_api::{Object, Problems, names};
use keles_rules::qos;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const POD_IPS_MAX_COUNT: usize = 2;

/// A new pod is Pending, has its quality-of-service class, and says so when gates hold it.
pub fn begin(o: &mut Object) {
    let class = qos::class(o.at(&["spec"]));
    let mut status = json!({"phase": "Pending", "qosClass": class.as_str()});
    if !o.at(&["spec", "schedulingGates"]).as_array().is_none_or(Vec::is_empty) {
        let gated = json!({"type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "message": "Scheduling is blocked due to non-empty scheduling gates", "lastProbeTime": null, "lastTransitionTime": null});
        set(&mut status, "conditions", json!([gated]));
    }
    set(&mut o.0, "status", status);
    match_label_keys(o);
}

/// `matchLabelKeys` of affinity terms and spread constraints become requirements on the values that this pod has.
fn match_label_keys(o: &mut Object) {
    let labels = o.meta("labels").clone();
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(affinity) = o.0.pointer_mut(&format!("/spec/affinity/{kind}")) else { continue };
        for term in crate::field::items_mut(affinity, required) {
            add_requirements(term, &labels);
        }
        for term in crate::field::items_mut(affinity, preferred).filter_map(|t| t.get_mut("podAffinityTerm")) {
            add_requirements(term, &labels);
        }
    }
    if let Some(spec) = o.0.get_mut("spec") {
        for constraint in crate::field::items_mut(spec, "topologySpreadConstraints") {
            add_requirements(constraint, &labels);
        }
    }
}

fn add_requirements(term: &mut Value, labels: &Value) {
    let mut added = Vec::new();
    for (list, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        for key in term[list].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if let Some(value) = labels.get(key) {
                added.push(json!({"key": key, "operator": operator, "values": [value]}));
            }
        }
    }
    let Some(selector) = term.get_mut("labelSelector").filter(|s| s.is_object() && !added.is_empty()) else { return };
    match selector.get_mut("matchExpressions").and_then(Value::as_array_mut) {
        Some(all) => all.extend(added),
        None => set(selector, "matchExpressions", added),
    }
}

/// Spec and owners are not for `/status`; the class of service is never anything but what it was.
pub fn prepare(new: &mut Object, old: &Object) {
    restore(new, old, "spec");
    for name in ["ownerReferences", "deletionTimestamp"] {
        match old.meta(name) {
            Value::Null => {
                new.meta_mut().remove(name);
            }
            v => {
                let v = v.clone();
                new.meta_mut().insert(name.into(), v);
            }
        }
    }
    let class = old.str_at(&["status", "qosClass"]);
    if let Some(status) = new.0.get_mut("status")
        && status["qosClass"].as_str().unwrap_or("").is_empty()
    {
        match class {
            "" => remove(status, "qosClass"),
            _ => set(status, "qosClass", class),
        }
    }
}

pub fn update(new: &Object, old: &Object, p: &mut Problems) {
    let (root, before) = (Field::root(new), Field::root(old));
    let (status, old_status) = (root.get("status"), before.get("status"));
    let nominated = status.str("nominatedNodeName");
    if !nominated.is_empty() {
        invalid_each(p, &status.at("nominatedNodeName"), nominated, names::dns_subdomain(nominated, false));
    }
    if status.int("observedGeneration") < 0 {
        p.invalid(&status.at("observedGeneration"), status.int("observedGeneration"), crate::field::NEGATIVE);
    }
    for condition in status.items("conditions") {
        let kind = condition.str("type");
        if !kind.contains('/') {
            continue;
        }
        invalid_each(p, &condition.at("type"), kind, names::qualified_name(kind));
    }
    let spec = before.get("spec");
    for list in ["containerStatuses", "initContainerStatuses"] {
        transitions(&status, &old_status, list, &spec, p);
    }
    addresses(&status, "podIPs", p);
    addresses(&status, "hostIPs", p);
}

/// What has ended stays ended where the pod's policy says so; sidecars restart whatever it says.
fn transitions(status: &Field, old: &Field, list: &str, spec: &Field, p: &mut Problems) {
    let sidecar = |name: &str| spec.list("initContainers").iter().any(|c| c["name"].as_str() == Some(name) && c["restartPolicy"] == "Always");
    for now in status.items(list) {
        let name = now.str("name");
        let Some(before) = old.list(list).iter().find(|s| s["name"].as_str() == Some(name)) else { continue };
        let ended = &before["state"]["terminated"];
        let failed = ended["exitCode"].as_i64().unwrap_or(0) != 0;
        let stays = match spec.str("restartPolicy") {
            _ if ended.is_null() || list == "initContainerStatuses" && sidecar(name) => false,
            "Never" => true,
            "OnFailure" => !failed,
            _ => false,
        };
        if stays && !now.get("state").has("terminated") {
            p.forbidden(&now.at("state"), "may not be transitioned to non-terminated state");
        }
    }
}

fn addresses(status: &Field, list: &str, p: &mut Problems) {
    let all = status.items(list);
    let mut seen = BTreeSet::new();
    for entry in &all {
        let ip = entry.str("ip");
        invalid_each(p, entry.path(), ip, formats::ip(ip));
        if !seen.insert(ip) {
            p.duplicate(entry.path(), ip);
        }
    }
    let families: BTreeSet<bool> = all.iter().filter_map(|e| formats::parse_ip(e.str("ip"))).map(|ip| ip.is_ipv4()).collect();
    if all.len() > POD_IPS_MAX_COUNT || all.len() == POD_IPS_MAX_COUNT && families.len() < POD_IPS_MAX_COUNT && seen.len() == POD_IPS_MAX_COUNT {
        p.invalid(&status.at(list), status.get(list).value().clone(), "may specify no more than one IP for each IP family");
    }
}
