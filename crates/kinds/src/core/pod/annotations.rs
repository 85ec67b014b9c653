//! Annotations that say something of a pod: what is wrong with them, and with fields that say otherwise.

use super::volumes::local_descending;
use super::{containers, scheduling};
use crate::field::Field;
use keles_api::{Path, Problems, decode};
use serde_json::{Map, Value};

pub const MIRROR: &str = "kubernetes.io/config.mirror";
/// Tolerations before they were a field. Nothing obeys it, but it is checked still.
const TOLERATIONS: &str = "scheduler.alpha.kubernetes.io/tolerations";
/// Names and types of an old toleration, as Go's decoder shows them, and the field's name.
const TOLERATION: &[(&str, &str, &str)] = &[
    ("Key", "string", "key"),
    ("Operator", "core.TolerationOperator", "operator"),
    ("Value", "string", "value"),
    ("Effect", "core.TaintEffect", "effect"),
    ("TolerationSeconds", "int64", "tolerationSeconds"),
];
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
pub const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
pub const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
pub const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const LOCALHOST: &str = "localhost/";
const RUNTIME_DEFAULT: &str = "runtime/default";
const UNCONFINED: &str = "unconfined";

pub fn validate(annotations: &Field, spec: &Field, p: &mut Problems) {
    let at = annotations.path();
    if let Some(value) = annotations.opt_str(MIRROR).filter(|_| spec.str("nodeName").is_empty()) {
        p.invalid(&at.key(MIRROR), value, "must set spec.nodeName if mirror pod annotation is set");
    }
    if let Some(text) = annotations.opt_str(TOLERATIONS).filter(|text| !text.is_empty()) {
        match tolerations(text) {
            Ok(all) => {
                let at = at.child(TOLERATIONS);
                let all: Vec<Field> = all.iter().enumerate().map(|(i, t)| Field::new(t, at.index(i))).collect();
                scheduling::tolerations(&all, p);
            }
            Err(why) => p.invalid(at, TOLERATIONS, why),
        }
    }
    if let Some(cost) = annotations.opt_str(DELETION_COST).filter(|cost| !is_cost(cost)) {
        p.invalid(&at.key(DELETION_COST), cost, "must be a 32bit integer");
    }
    for (key, value) in annotations.value().as_object().into_iter().flatten() {
        let value = value.as_str().unwrap_or("");
        if key == SECCOMP_POD || key.starts_with(SECCOMP_CONTAINER) {
            seccomp(&at.child(key), value, p);
        }
        if let Some(container) = key.strip_prefix(APP_ARMOR) {
            if !containers::all(spec).iter().any(|c| c.str("name") == container) {
                p.invalid(&at.key(key), container, "container not found");
            }
            if !value.is_empty() && value != RUNTIME_DEFAULT && value != UNCONFINED && !value.starts_with(LOCALHOST) {
                p.invalid(&at.key(key), value, format!("invalid AppArmor profile name: {value:?}"));
            }
        }
    }
}

/// Whether it is the metadata of a static pod's mirror.
pub fn is_mirror(meta: &Field) -> bool {
    meta.get("annotations").has(MIRROR)
}

/// The tolerations of the annotation of old. Names match in any case and unknown ones are nothing; `Err` is in the words of Go's decoder.
fn tolerations(text: &str) -> Result<Vec<Value>, String> {
    let refused = |v: &Value, place: &str| Err(format!("json: cannot unmarshal {} into Go {place}", go_kind(v)));
    let all = match serde_json::from_str(text) {
        Ok(Value::Array(all)) => all,
        Ok(Value::Null) => Vec::new(),
        Ok(other) => return refused(&other, "value of type []core.Toleration"),
        Err(error) => return Err(decode::explain_json(text).unwrap_or_else(|| error.to_string())),
    };
    let mut found = Vec::with_capacity(all.len());
    for one in all {
        let mut toleration = Map::new();
        match one {
            Value::Null => {}
            Value::Object(given) => {
                for (name, v) in given {
                    let Some((go, ty, field)) = TOLERATION.iter().find(|row| row.0.eq_ignore_ascii_case(&name)) else { continue };
                    match &v {
                        Value::Null => continue,
                        Value::String(_) if *ty != "int64" => {}
                        Value::Number(n) if *ty == "int64" && n.is_i64() => {}
                        Value::Number(n) if *ty == "int64" => return Err(format!("json: cannot unmarshal number {n} into Go struct field Toleration.{go} of type {ty}")),
                        _ => return refused(&v, &format!("struct field Toleration.{go} of type {ty}")),
                    }
                    toleration.insert((*field).to_owned(), v);
                }
            }
            other => return refused(&other, "value of type core.Toleration"),
        }
        found.push(Value::Object(toleration));
    }
    Ok(found)
}

/// What Go's decoder calls a value.
fn go_kind(v: &Value) -> &'static str {
    match v {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// A 32-bit number without a plus and without zeros before it.
fn is_cost(text: &str) -> bool {
    (text == "0" || !text.starts_with(['0', '+'])) && text.parse::<i32>().is_ok()
}

fn seccomp(at: &Path, profile: &str, p: &mut Problems) {
    match profile.strip_prefix(LOCALHOST) {
        Some(path) => local_descending(p, at, path),
        None if matches!(profile, RUNTIME_DEFAULT | "docker/default" | UNCONFINED) => {}
        None => p.invalid(at, profile, "must be a valid seccomp profile"),
    }
}

/// Where a field and its older annotation are both given they say the same. `owner` is a pod or a template.
pub fn match_fields(owner: &Field, p: &mut Problems) {
    let (annotations, spec) = (owner.get("metadata").get("annotations"), owner.get("spec"));
    let of_pod = spec.get("securityContext");
    if let Some(said) = annotations.opt_str(SECCOMP_POD) {
        same_profile(&of_pod.get("seccompProfile"), said, "seccomp", p);
    }
    for c in containers::all(&spec) {
        let own = c.get("securityContext");
        if let Some(said) = annotations.opt_str(&format!("{SECCOMP_CONTAINER}{}", c.str("name"))) {
            same_profile(&own.get("seccompProfile"), said, "seccomp", p);
        }
        if let Some(said) = annotations.opt_str(&format!("{APP_ARMOR}{}", c.str("name"))).filter(|_| spec.get("os").str("name") != "windows") {
            let profile = if own.has("appArmorProfile") { own.get("appArmorProfile") } else { of_pod.get("appArmorProfile") };
            same_profile(&Field::new(profile.value(), own.at("appArmorProfile")), said, "apparmor", p);
        }
    }
}

fn same_profile(profile: &Field, said: &str, what: &str, p: &mut Problems) {
    let same = match profile.str("type") {
        "Unconfined" => said == UNCONFINED,
        "RuntimeDefault" => said == RUNTIME_DEFAULT || what == "seccomp" && said == "docker/default",
        "Localhost" => match said.strip_prefix(LOCALHOST) {
            Some(path) if profile.opt_str("localhostProfile") != Some(path) => {
                return p.forbidden(&profile.at("localhostProfile"), format!("{what} profile in annotation and field must match"));
            }
            found => found.is_some(),
        },
        _ => true,
    };
    if !same {
        p.forbidden(&profile.at("type"), format!("{what} type in annotation and field must match"));
    }
}

/// Annotations that an update may neither bring nor change nor take away.
pub fn update(new: &Field, old: &Field, p: &mut Problems) {
    let (now, before) = (new.get("metadata").get("annotations"), old.get("metadata").get("annotations"));
    let fixed = |key: &str| if key == MIRROR { Some("mirror pod annotation") } else { key.starts_with(APP_ARMOR).then_some("AppArmor annotations") };
    let entries = |f: &Field| f.value().as_object().into_iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect::<Vec<_>>();
    for (key, value) in entries(&before) {
        if let Some(what) = fixed(&key).filter(|_| now.value().get(&key) != Some(&value)) {
            p.forbidden(&now.path().key(&key), format!("may not remove or update {what}"));
        }
    }
    for (key, _) in entries(&now) {
        if let Some(what) = fixed(&key).filter(|_| before.value().get(&key).is_none()) {
            p.forbidden(&now.path().key(&key), format!("may not add {what}"));
        }
    }
    validate(&now, &new.get("spec"), p);
}

#[cfg(test)]
mod tests {
    use super::*;
    use keles_api::Object;
    use serde_json::{Value, json};

    fn problems(annotations: Value, security: Value) -> Vec<String> {
        let o = Object(json!({"metadata": {"annotations": annotations}, "spec": {"containers": [{"name": "c", "securityContext": security}]}}));
        let root = Field::root(&o);
        let mut p = Problems::new();
        validate(&root.get("metadata").get("annotations"), &root.get("spec"), &mut p);
        match_fields(&root, &mut p);
        p.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_deletion_cost_is_a_plain_32_bit_number() {
        for (cost, good) in [("0", true), ("-5", true), ("2147483647", true), ("2147483648", false), ("+1", false), ("01", false), ("", false), ("x", false)] {
            assert_eq!(problems(json!({DELETION_COST: cost}), json!({})).is_empty(), good, "{cost}");
        }
    }

    #[test]
    fn tolerations_of_old_are_checked_as_those_of_the_field() {
        let said = |text: &str| problems(json!({TOLERATIONS: text}), json!({}));
        for good in ["", "null", "[]", r#"[{"key":"a","OPERATOR":"Exists","other":1}]"#, r#"[{"operator":"Exists","effect":"NoExecute","tolerationSeconds":5}]"#] {
            assert!(said(good).is_empty(), "{good}: {:?}", said(good));
        }
        let at = "metadata.annotations";
        assert_eq!(
            said(r#"[{"key":"a","effect":"x"}]"#),
            [format!("{at}.{TOLERATIONS}[0].effect: Unsupported value: \"x\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"")]
        );
        for (text, why) in [
            ("x", "invalid character 'x' looking for beginning of value"),
            ("[", "unexpected end of JSON input"),
            ("{}", "json: cannot unmarshal object into Go value of type []core.Toleration"),
            ("[1]", "json: cannot unmarshal number into Go value of type core.Toleration"),
            (r#"[{"key":1}]"#, "json: cannot unmarshal number into Go struct field Toleration.Key of type string"),
            (r#"[{"operator":true}]"#, "json: cannot unmarshal bool into Go struct field Toleration.Operator of type core.TolerationOperator"),
            (r#"[{"tolerationSeconds":1.5}]"#, "json: cannot unmarshal number 1.5 into Go struct field Toleration.TolerationSeconds of type int64"),
        ] {
            assert_eq!(said(text), [format!("{at}: Invalid value: \"{TOLERATIONS}\": {why}")], "{text}");
        }
    }

    #[test]
    fn a_profile_in_an_annotation_is_the_fields_profile() {
        let annotations = json!({"container.apparmor.security.beta.kubernetes.io/c": "runtime/default"});
        assert!(problems(annotations.clone(), json!({"appArmorProfile": {"type": "RuntimeDefault"}})).is_empty());
        assert_eq!(
            problems(annotations, json!({"appArmorProfile": {"type": "Unconfined"}})),
            ["spec.containers[0].securityContext.appArmorProfile.type: Forbidden: apparmor type in annotation and field must match"]
        );
    }

    #[test]
    fn a_profile_of_a_container_that_is_not_there_is_refused() {
        let found = problems(json!({"container.apparmor.security.beta.kubernetes.io/x": "other"}), json!({}));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].ends_with("Invalid value: \"x\": container not found"), "{found:?}");
    }
}
