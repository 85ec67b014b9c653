//! The words of Tables: columns that nearly every kind has, and how cells print times, labels, containers and counts.
//!
//! Entry points: [`NAME`], [`AGE`], [`column`], [`wide`]. What is printed is what `kubectl get` users know, because kubectl prints
//! the cells of the server's Table as they are. Deliberately absent: the columns of a single kind (they stand in its file).

use jiff::Timestamp;
use keles_api::Object;
use keles_registry::kind::{Cells, Column};
use serde_json::{Map, Value};

const NAME_TEXT: &str = "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request the generation of an appropriate name automatically. Name is primarily intended for creation idempotence and configuration definition. Cannot be updated. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names";
const CREATION_TEXT: &str = "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed to be set in happens-before order across separate operations. Clients may not set this value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";
/// Names longer lists are cut to, as in `10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 4 more...`.
const SHOWN_MAX_COUNT: usize = 3;

pub const NAME: Column<Object> = Column { name: "Name", kind: "string", format: "name", description: NAME_TEXT, priority: 0, cell: |o, _| text(o.name()) };
/// The name of a class, which may be the default one.
pub const CLASS_NAME: Column<Object> = Column {
    cell: |o, _| {
        let is_default = DEFAULT_CLASS_ANNOTATIONS.iter().any(|key| o.annotation(key) == Some("true"));
        text(if is_default { format!("{} (default)", o.name()) } else { o.name().to_owned() })
    },
    ..NAME
};
const DEFAULT_CLASS_ANNOTATIONS: &[&str] = &["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
pub const AGE: Column<Object> = column("Age", "string", CREATION_TEXT, |o, c| text(age(o.meta_str("creationTimestamp"), c)));
/// What kinds without columns of their own show.
pub const CREATED_AT: Column<Object> = column("Created At", "date", CREATION_TEXT, |o, _| text(o.meta_str("creationTimestamp")));

/// A column that is always shown.
pub const fn column(name: &'static str, kind: &'static str, description: &'static str, cell: fn(&Object, &Cells) -> Value) -> Column<Object> {
    Column { name, kind, format: "", description, priority: 0, cell }
}
/// A column shown with `-o wide`.
pub const fn wide(name: &'static str, kind: &'static str, description: &'static str, cell: fn(&Object, &Cells) -> Value) -> Column<Object> {
    Column { name, kind, format: "", description, priority: 1, cell }
}

pub fn text(s: impl Into<String>) -> Value {
    Value::String(s.into())
}
/// The string there, or empty.
pub fn str_cell(o: &Object, path: &[&str]) -> Value {
    text(o.str_at(path))
}
/// The string there, or `otherwise` when missing or empty.
pub fn str_or(o: &Object, path: &[&str], otherwise: &str) -> Value {
    let s = o.str_at(path);
    text(if s.is_empty() { otherwise } else { s })
}
/// The number there, or 0.
pub fn int_cell(o: &Object, path: &[&str]) -> Value {
    o.at(path).as_i64().unwrap_or(0).into()
}
pub fn bool_cell(o: &Object, path: &[&str]) -> Value {
    o.at(path).as_bool().unwrap_or(false).into()
}
/// The scalar there as text, or `otherwise`.
pub fn scalar_or(o: &Object, path: &[&str], otherwise: &str) -> Value {
    match o.at(path) {
        Value::Null => text(otherwise),
        Value::String(s) => text(s.as_str()),
        other => text(other.to_string()),
    }
}
/// Entries of a list or map.
pub fn len_cell(o: &Object, path: &[&str]) -> Value {
    len(o.at(path)).into()
}
pub fn len(v: &Value) -> usize {
    v.as_array().map(Vec::len).or_else(|| v.as_object().map(Map::len)).unwrap_or(0)
}
pub fn list(v: &Value) -> &[Value] {
    v.as_array().map(Vec::as_slice).unwrap_or(&[])
}

/// How long ago an RFC 3339 time was, in kubectl's short words; `<unknown>` without a time.
pub fn age(at: &str, c: &Cells) -> String {
    match at.parse::<Timestamp>() {
        Ok(t) => duration(c.now_unix_seconds - t.as_second()),
        Err(_) => "<unknown>".into(),
    }
}

pub use keles_api::time::human_duration as duration;

/// `a=b,c=d`, or `<none>`.
pub fn labels(v: &Value) -> String {
    match v.as_object() {
        Some(m) if !m.is_empty() => {
            let mut pairs: Vec<String> = m.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or(""))).collect();
            pairs.sort();
            pairs.join(",")
        }
        _ => "<none>".into(),
    }
}

/// A LabelSelector as kubectl prints it: `a=b,tier in (web)`, or `<none>`.
pub fn selector(v: &Value) -> String {
    let mut parts: Vec<(String, String)> = Vec::new();
    for (k, v) in v.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
        parts.push((k.clone(), format!("{k}={}", v.as_str().unwrap_or(""))));
    }
    for e in v.get("matchExpressions").map(list).unwrap_or(&[]) {
        let key = e.get("key").and_then(Value::as_str).unwrap_or("");
        let mut values: Vec<&str> = e.get("values").map(list).unwrap_or(&[]).iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let values = values.join(",");
        let shown = match e.get("operator").and_then(Value::as_str).unwrap_or("") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        };
        parts.push((key.to_owned(), shown));
    }
    parts.sort();
    if parts.is_empty() { "<none>".into() } else { parts.into_iter().map(|p| p.1).collect::<Vec<_>>().join(",") }
}

/// One field of each container of a pod spec, joined by commas.
fn of_containers(pod_spec: &Value, field: &str) -> Value {
    let all = pod_spec.get("containers").map(list).unwrap_or(&[]);
    text(all.iter().map(|c| c.get(field).and_then(Value::as_str).unwrap_or("")).collect::<Vec<_>>().join(","))
}
pub fn containers(pod_spec: &Value) -> Value {
    of_containers(pod_spec, "name")
}
pub fn images(pod_spec: &Value) -> Value {
    of_containers(pod_spec, "image")
}

/// `a,b,c + 2 more...`
pub fn shorten(all: &[String]) -> String {
    let shown = all[..all.len().min(SHOWN_MAX_COUNT)].join(",");
    if all.len() > SHOWN_MAX_COUNT { format!("{shown} + {} more...", all.len() - SHOWN_MAX_COUNT) } else { shown }
}

/// Whether a condition of this type has status True.
pub fn condition_true(o: &Object, kind: &str) -> bool {
    condition(o, kind).is_some_and(|c| c.get("status").and_then(Value::as_str) == Some("True"))
}
pub fn condition<'a>(o: &'a Object, kind: &str) -> Option<&'a Value> {
    list(o.at(&["status", "conditions"])).iter().find(|c| c.get("type").and_then(Value::as_str) == Some(kind))
}

/// Addresses of a load balancer status, sorted and joined by commas.
pub fn load_balancer(v: &Value) -> String {
    let of = |i: &Value| ["ip", "hostname"].iter().find_map(|f| i.get(f).and_then(Value::as_str).filter(|s| !s.is_empty())).map(str::to_owned);
    let mut all: Vec<String> = v.get("ingress").map(list).unwrap_or(&[]).iter().filter_map(of).collect();
    all.sort();
    all.dedup();
    all.join(",")
}

/// `RWO,ROX` of access modes.
pub fn access_modes(v: &Value) -> String {
    let has = |m: &str| list(v).iter().any(|x| x.as_str() == Some(m));
    let short = [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    short.iter().filter(|(m, _)| has(m)).map(|p| p.1).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ages_read_as_kubectl_prints_them() {
        for (seconds, want) in [
            (-5, "<invalid>"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (599, "9m59s"),
            (600, "10m"),
            (10800, "3h"),
            (11100, "3h5m"),
            (172_800, "2d"),
            (28_000_000, "324d"),
            (400 * 86_400 * 2, "2y70d"),
        ] {
            assert_eq!(duration(seconds), want, "{seconds}");
        }
    }

    #[test]
    fn selectors_are_sorted_by_key() {
        let s = json!({"matchLabels": {"z": "1"}, "matchExpressions": [{"key": "a", "operator": "In", "values": ["y", "x"]}, {"key": "m", "operator": "DoesNotExist"}]});
        assert_eq!(selector(&s), "a in (x,y),!m,z=1");
        assert_eq!(selector(&Value::Null), "<none>");
    }

    #[test]
    fn long_lists_are_cut_after_three() {
        let all: Vec<String> = (1..=5).map(|i| format!("10.0.0.{i}:80")).collect();
        assert_eq!(shorten(&all), "10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more...");
    }
}
