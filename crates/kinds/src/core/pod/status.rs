//! The status of a pod: how it begins, and what `/status` may change.

use super::annotations;
use crate::field::{Field, immutable, invalid_each, one_of, remove, restore, set};
use crate::formats;
use keles_api::{Object, Problem, ProblemKind, Problems, names};
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
        let Some(affinity) = o.at_mut(&["spec", "affinity", kind]) else { continue };
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
    keep_generations(new, old);
}

/// The generation that a status tells of stays where a client that does not know it leaves it out: of the pod, and of each condition by its type.
fn keep_generations(new: &mut Object, old: &Object) {
    let observed = |v: &Value| v["observedGeneration"].as_i64().unwrap_or(0);
    let keep = |to: &mut Value, before: i64| {
        if to.is_object() && observed(to) == 0 && before != 0 {
            set(to, "observedGeneration", before);
        }
    };
    let mut known: Vec<(Value, i64)> = old.at(&["status", "conditions"]).as_array().into_iter().flatten().map(|c| (c["type"].clone(), observed(c))).collect();
    let Some(status) = new.0.get_mut("status") else { return };
    keep(status, observed(old.at(&["status"])));
    for condition in crate::field::items_mut(status, "conditions") {
        if let Some(i) = known.iter().position(|(kind, _)| *kind == condition["type"]) {
            keep(condition, known.remove(i).1);
        }
    }
}

/// What is said of addresses that are written sloppily.
pub fn warnings(o: &Object, w: &mut Vec<String>) {
    let status = Field::root(o).get("status");
    for entry in ["podIPs", "hostIPs"].iter().flat_map(|list| status.items(list)) {
        crate::ip::warn(w, &entry.at("ip"), entry.str("ip"));
    }
}

pub fn update(new: &Object, old: &Object, p: &mut Problems) {
    let (root, before) = (Field::root(new), Field::root(old));
    let (status, old_status) = (root.get("status"), before.get("status"));
    annotations::update(&root, &before, p);
    for (i, condition) in status.items("conditions").iter().enumerate() {
        let kind = condition.str("type");
        if !["PodScheduled", "Ready", "Initialized"].contains(&kind) {
            let at = status.at("conditions").index(i).child("Type");
            invalid_each(p, &at, kind, names::qualified_name(kind));
        }
        if condition.int("observedGeneration") < 0 {
            p.invalid(&condition.at("observedGeneration"), condition.int("observedGeneration"), NO_GENERATION);
        }
    }
    let nominated = status.str("nominatedNodeName");
    if !nominated.is_empty() && nominated != old_status.str("nominatedNodeName") {
        if !before.get("spec").str("nodeName").is_empty() {
            p.forbidden(&status.at("nominatedNodeName"), "may not be set on pods that are already bound to a node");
        }
        invalid_each(p, &status.at("nominatedNodeName"), nominated, names::dns_subdomain(nominated, false));
    }
    if status.int("observedGeneration") < 0 {
        p.invalid(&status.at("observedGeneration"), status.int("observedGeneration"), NO_GENERATION);
    }
    immutable(p, &status.get("qosClass"), &old_status.get("qosClass"));
    let spec = before.get("spec");
    for list in STATUSES {
        transitions(&status, &old_status, list, &spec, p);
    }
    claim_statuses(&root, p);
    addresses(&status, "podIPs", p);
    let first = status.items("hostIPs").into_iter().next();
    if let Some(first) = first.filter(|f| f.str("ip") != status.str("hostIP")) {
        p.invalid(&first.at("ip"), first.str("ip"), "must be equal to `hostIP`");
    }
    addresses(&status, "hostIPs", p);
    for (list, of) in STATUSES.iter().zip(["containers", "initContainers", ""]) {
        container_statuses(&status, list, &root.get("spec"), of, p);
    }
}

const NO_GENERATION: &str = "must be a non-negative integer";
const STATUSES: &[&str] = &["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];

/// Each claim of the pod has at most one status.
fn claim_statuses(root: &Field, p: &mut Problems) {
    let mut seen = BTreeSet::new();
    for claim in root.get("status").items("resourceClaimStatuses") {
        let name = claim.str("name");
        if !root.get("spec").list("resourceClaims").iter().any(|c| c["name"].as_str() == Some(name)) {
            p.invalid(&claim.at("name"), name, "must match the name of an entry in `spec.resourceClaims`");
        }
        if !seen.insert(name) {
            p.duplicate(&claim.at("name"), name);
        }
        if let Some(made) = claim.opt_str("resourceClaimName") {
            invalid_each(p, &claim.at("name"), made, names::dns_subdomain(made, false));
        }
    }
}

/// The user that a container runs as, and the health of its devices.
fn container_statuses(status: &Field, list: &str, spec: &Field, of: &str, p: &mut Problems) {
    let os = spec.get("os").str("name");
    for s in status.items(list) {
        let linux = Field::new(s.get("user").get("linux").value(), s.at("linux"));
        if os == "windows" && linux.is_set() {
            p.forbidden(linux.path(), "cannot be set for a windows pod");
        } else if os != "windows" && linux.is_set() {
            for id in ["uid", "gid"] {
                formats::user_id(linux.int(id)).into_iter().for_each(|m| p.invalid(&linux.at(id), linux.int(id), m));
            }
            for group in linux.items("supplementalGroups") {
                let id = group.value().as_i64().unwrap_or(0);
                formats::user_id(id).into_iter().for_each(|m| p.invalid(group.path(), id, m));
            }
        }
        if of.is_empty() && !s.list("allocatedResourcesStatus").is_empty() {
            p.forbidden(&s.at("allocatedResourcesStatus"), "must not be specified in container status");
            continue;
        }
        let container = spec.list(of).iter().find(|c| c["name"] == s.value()["name"]);
        for allocated in s.items("allocatedResourcesStatus") {
            allocated_resource(&allocated, container, p);
        }
    }
}

fn allocated_resource(allocated: &Field, container: Option<&Value>, p: &mut Problems) {
    const NO_CLAIM: &str = "must match one of the container's resource claims in a format 'claim:<claimName>/<request>' or 'claim:<claimName>' if request is empty";
    let name = allocated.str("name");
    if let Some(c) = container {
        let claims = c["resources"]["claims"].as_array().into_iter().flatten();
        let shown = |c: &Value| match c["request"].as_str().unwrap_or("") {
            "" => format!("claim:{}", c["name"].as_str().unwrap_or("")),
            request => format!("claim:{}/{request}", c["name"].as_str().unwrap_or("")),
        };
        let (found, text) = match name.starts_with("claim:") {
            true => (claims.map(shown).any(|c| c == name), NO_CLAIM),
            false => (c["resources"]["requests"].get(name).is_some(), "must match one of the container's resource requests"),
        };
        if !found {
            p.invalid(&allocated.at("name"), name, text);
        }
    }
    let mut seen = BTreeSet::new();
    for resource in allocated.items("resources") {
        one_of(p, &resource.at("health"), resource.str("health"), &["Healthy", "Unhealthy", "Unknown"]);
        if !seen.insert(resource.str("resourceID")) {
            p.duplicate(&resource.at("resourceID"), resource.str("resourceID"));
        }
    }
}

/// What has ended stays ended where the pod's policy says so; sidecars restart whatever it says.
fn transitions(status: &Field, old: &Field, list: &str, spec: &Field, p: &mut Problems) {
    let sidecar = |name: &str| spec.list("initContainers").iter().any(|c| c["name"].as_str() == Some(name) && c["restartPolicy"] == "Always");
    // The kubelet never restarts ephemeral containers.
    let policy = if list == "ephemeralContainerStatuses" { "Never" } else { spec.str("restartPolicy") };
    for (i, before) in old.list(list).iter().enumerate() {
        let name = before["name"].as_str().unwrap_or("");
        let ended = &before["state"]["terminated"];
        let failed = ended["exitCode"].as_i64().unwrap_or(0) != 0;
        let stays = match policy {
            _ if ended.is_null() || list == "initContainerStatuses" && sidecar(name) => false,
            "Always" => false,
            "OnFailure" => !failed,
            _ => true,
        };
        for _ in status.items(list).iter().filter(|now| stays && now.str("name") == name && !now.get("state").has("terminated")) {
            p.forbidden(&status.at(list).index(i).child("state"), "may not be transitioned to non-terminated state");
        }
    }
}

fn addresses(status: &Field, list: &str, p: &mut Problems) {
    let all = status.items(list);
    for entry in &all {
        invalid_each(p, entry.path(), entry.str("ip"), formats::ip(entry.str("ip")));
    }
    if all.len() < 2 {
        return;
    }
    let families: Vec<Option<bool>> = all.iter().map(|e| formats::parse_ip(e.str("ip")).map(|ip| ip.is_ipv4())).collect();
    if let Some(i) = families.iter().position(Option::is_none) {
        let detail = format!("failed to check for dual stack with error:invalid IP[{i}]: <nil>");
        p.push(Problem { kind: ProblemKind::Internal, field: status.at(list).as_str().into(), value: None, detail });
    }
    let is_dual_stack = families.iter().all(Option::is_some) && families.contains(&Some(true)) && families.contains(&Some(false));
    if !is_dual_stack || all.len() > POD_IPS_MAX_COUNT {
        p.invalid(&status.at(list), status.get(list).value().clone(), "may specify no more than one IP for each IP family");
    }
    let mut seen = BTreeSet::new();
    for entry in all.iter().filter(|e| !seen.insert(e.str("ip"))) {
        p.duplicate(entry.path(), json!({"IP": entry.str("ip")}));
    }
}
