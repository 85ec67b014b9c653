//! Updates of a pod: hardly anything of its spec may change.

use super::{annotations, scheduling, spec};
use crate::field::{Field, remove, same, set};
use crate::formats;
use keles_api::{Object, Path, Problems};
use serde_json::Value;

const MUTABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
const GATED_AFFINITY: &str = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
/// Most changed fields that the answer lists.
const DIFF_MAX_LINES: usize = 20;

pub fn update(new: &Object, old: &Object, p: &mut Problems) {
    let (new, old) = (Field::root(new), Field::root(old));
    spec::pod(&new, p);
    annotations::update(&new, &old, p);
    let (new, old) = (new.get("spec"), old.get("spec"));
    for list in ["containers", "initContainers"] {
        if !same_containers(&new, &old, list, p) {
            return;
        }
    }
    if !deadline(&new, &old, p) {
        return;
    }
    only_added_tolerations(&new, &old, p);
    only_deleted_gates(&new, &old, p);
    if same(new.value(), old.value()) {
        return;
    }
    let (munged, gated) = (munge(new.value(), old.value()), !old.list("schedulingGates").is_empty());
    let munged = if gated { gated_selectors(munged, &old, p) } else { munged };
    if !same(&munged, old.value()) {
        p.forbidden(new.path(), format!("{MUTABLE}\n{}", changes(&munged, old.value())));
    }
}

/// Containers stay in number; `false` stops the checks.
fn same_containers(new: &Field, old: &Field, list: &str, p: &mut Problems) -> bool {
    if new.list(list).len() != old.list(list).len() {
        p.forbidden(&new.at(list), "pod updates may not add or remove containers");
        return false;
    }
    for c in new.items(list) {
        let image = c.str("image");
        if image.is_empty() {
            p.required(&c.at("image"), "");
        } else if image.trim() != image {
            p.invalid(&c.at("image"), image, "must not have leading or trailing whitespace");
        }
    }
    true
}

/// A deadline may come, or become shorter.
fn deadline(new: &Field, old: &Field, p: &mut Problems) -> bool {
    let at = new.at("activeDeadlineSeconds");
    match (new.opt_int("activeDeadlineSeconds"), old.opt_int("activeDeadlineSeconds")) {
        (Some(now), _) if !(0..=i64::from(i32::MAX)).contains(&now) => {
            p.invalid(&at, now, formats::between(0, i64::from(i32::MAX)));
            false
        }
        (Some(now), Some(before)) if before < now => {
            p.invalid(&at, now, "must be less than or equal to previous value");
            false
        }
        (None, Some(_)) => {
            p.invalid(&at, Value::Null, "must not update from a positive integer to nil value");
            true
        }
        _ => true,
    }
}

fn only_added_tolerations(new: &Field, old: &Field, p: &mut Problems) {
    let without_seconds = |t: &Value| {
        let mut t = t.clone();
        remove(&mut t, "tolerationSeconds");
        t
    };
    let kept = |before: &Value| new.list("tolerations").iter().any(|t| same(&without_seconds(t), &without_seconds(before)));
    if !old.list("tolerations").iter().all(kept) {
        p.forbidden(&new.at("tolerations"), "existing toleration can not be modified except its tolerationSeconds");
        return;
    }
    scheduling::tolerations(&new.items("tolerations"), p);
}

fn only_deleted_gates(new: &Field, old: &Field, p: &mut Problems) {
    for gate in new.items("schedulingGates") {
        if !old.list("schedulingGates").iter().any(|g| g["name"] == gate.value()["name"]) {
            p.forbidden(&gate.at("name"), "only deletion is allowed, but found new scheduling gate '".to_owned() + gate.str("name") + "'");
        }
    }
}

/// The new spec with the fields that may change set back.
fn munge(new: &Value, old: &Value) -> Value {
    let mut munged = new.clone();
    for list in ["containers", "initContainers"] {
        let before = old[list].as_array().cloned().unwrap_or_default();
        for (c, before) in crate::field::items_mut(&mut munged, list).zip(before) {
            set(c, "image", before["image"].clone());
        }
    }
    for name in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        put_back(&mut munged, old, name);
    }
    let grace = "terminationGracePeriodSeconds";
    if old[grace].as_i64().is_some_and(|s| s < 0) && new[grace].as_i64() == Some(1) {
        put_back(&mut munged, old, grace);
    }
    munged
}

fn put_back(new: &mut Value, old: &Value, name: &str) {
    match old.get(name) {
        Some(v) => set(new, name, v.clone()),
        None => remove(new, name),
    }
}

/// Until its gates are gone a pod's node selection may be narrowed.
fn gated_selectors(mut munged: Value, old: &Field, p: &mut Problems) -> Value {
    let spec = Path::new("spec");
    if !same(&munged["nodeSelector"], old.get("nodeSelector").value()) {
        if !old.map("nodeSelector").all(|(k, v)| munged["nodeSelector"].get(k) == Some(v)) {
            p.invalid(&spec.child("nodeSelector"), munged["nodeSelector"].clone(), "only additions to spec.nodeSelector are allowed (no mutations or deletions)");
        }
        put_back(&mut munged, old.value(), "nodeSelector");
    }
    let before = old.get("affinity").get("nodeAffinity").value().clone();
    let now = munged.pointer("/affinity/nodeAffinity").cloned().unwrap_or(Value::Null);
    if !same(&now, &before) {
        narrowed_affinity(&now, &before, &spec.child("affinity").child("nodeAffinity"), p);
        // From here on the affinity to nodes counts as unchanged.
        let others = ["podAffinity", "podAntiAffinity"].iter().any(|f| !munged["affinity"][*f].is_null());
        match (&before, others || !old.get("affinity").value().is_null()) {
            (Value::Null, false) => remove(&mut munged, "affinity"),
            (Value::Null, true) => munged.get_mut("affinity").into_iter().for_each(|a| remove(a, "nodeAffinity")),
            _ => crate::field::child_mut(&mut munged, "affinity").into_iter().for_each(|a| set(a, "nodeAffinity", before.clone())),
        }
    }
    munged
}

/// Terms stay in number; each only gains requirements, at its end.
fn narrowed_affinity(now: &Value, before: &Value, at: &Path, p: &mut Problems) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    let list = |v: &Value, f: &str| v[f].as_array().cloned().unwrap_or_default();
    let (now, before) = (list(&now[REQUIRED], "nodeSelectorTerms"), list(&before[REQUIRED], "nodeSelectorTerms"));
    let at = at.child(REQUIRED).child("nodeSelectorTerms");
    if !before.is_empty() && before.len() != now.len() {
        return p.invalid(&at, now, GATED_AFFINITY);
    }
    for (i, (now, before)) in now.iter().zip(&before).enumerate() {
        let grown = ["matchExpressions", "matchFields"].iter().all(|f| list(now, f).starts_with(&list(before, f)));
        let was_empty = ["matchExpressions", "matchFields"].iter().all(|f| list(before, f).is_empty());
        let is_empty = ["matchExpressions", "matchFields"].iter().all(|f| list(now, f).is_empty());
        if !grown || was_empty && !is_empty {
            p.invalid(&at.index(i), now.clone(), "only additions are allowed (no mutations or deletions)");
        }
    }
}

/// The changed fields, one a line; upstream prints a Go diff here, which nobody parses.
fn changes(new: &Value, old: &Value) -> String {
    let mut lines = Vec::new();
    diff("spec", new, old, &mut lines);
    lines.truncate(DIFF_MAX_LINES);
    lines.join("\n")
}

fn diff(at: &str, new: &Value, old: &Value, lines: &mut Vec<String>) {
    match (new, old) {
        (Value::Object(n), Value::Object(o)) => {
            let keys: std::collections::BTreeSet<&String> = n.keys().chain(o.keys()).collect();
            keys.into_iter().for_each(|k| diff(&format!("{at}.{k}"), n.get(k).unwrap_or(&Value::Null), o.get(k).unwrap_or(&Value::Null), lines));
        }
        (Value::Array(n), Value::Array(o)) if n.len() == o.len() => {
            n.iter().zip(o).enumerate().for_each(|(i, (n, o))| diff(&format!("{at}[{i}]"), n, o, lines));
        }
        _ if same(new, old) => {}
        _ => lines.push(format!("-{at}: {old}\n+{at}: {new}")),
    }
}
