//! Volumes of the downward API, plain and projected.

use keles_e2e::api::{World, eventually, shell, with};
use keles_e2e::conformance::{Case, case};
use serde_json::{Value, json};

pub fn cases() -> Vec<Case> {
    vec![
        case("Downward API volume should update annotations on modification", |w| updates(w, false, "annotations")),
        case("Downward API volume should update labels on modification", |w| updates(w, false, "labels")),
        case("Projected downwardAPI should update annotations on modification", |w| updates(w, true, "annotations")),
        case("Projected downwardAPI should update labels on modification", |w| updates(w, true, "labels")),
        case("Downward API volume should provide container's cpu limit", |w| resource(w, false, "limits.cpu", "2")),
        case("Downward API volume should provide container's cpu request", |w| resource(w, false, "requests.cpu", "1")),
        case("Downward API volume should provide container's memory limit", |w| resource(w, false, "limits.memory", "67108864")),
        case("Downward API volume should provide container's memory request", |w| resource(w, false, "requests.memory", "33554432")),
        case("Downward API volume should provide node allocatable (cpu) as default cpu limit if the limit is not set", |w| allocatable(w, false, "cpu")),
        case("Downward API volume should provide node allocatable (memory) as default memory limit if the limit is not set", |w| allocatable(w, false, "memory")),
        case("Downward API volume should provide podname only", |w| name_with_mode(w, false, None, None)),
        case("Downward API volume should set DefaultMode on files", |w| name_with_mode(w, false, Some(0o400), None)),
        case("Downward API volume should set mode on item file", |w| name_with_mode(w, false, None, Some(0o400))),
        case("Projected downwardAPI should provide container's cpu limit", |w| resource(w, true, "limits.cpu", "2")),
        case("Projected downwardAPI should provide container's cpu request", |w| resource(w, true, "requests.cpu", "1")),
        case("Projected downwardAPI should provide container's memory limit", |w| resource(w, true, "limits.memory", "67108864")),
        case("Projected downwardAPI should provide container's memory request", |w| resource(w, true, "requests.memory", "33554432")),
        case("Projected downwardAPI should provide node allocatable (cpu) as default cpu limit if the limit is not set", |w| allocatable(w, true, "cpu")),
        case("Projected downwardAPI should provide node allocatable (memory) as default memory limit if the limit is not set", |w| allocatable(w, true, "memory")),
        case("Projected downwardAPI should provide podname only", |w| name_with_mode(w, true, None, None)),
        case("Projected downwardAPI should set DefaultMode on files", |w| name_with_mode(w, true, Some(0o400), None)),
        case("Projected downwardAPI should set mode on item file", |w| name_with_mode(w, true, None, Some(0o400))),
    ]
}

fn volume(projected: bool, item: &Value, default_mode: Option<u32>) -> Value {
    let mode = default_mode.map_or(json!({}), |m| json!({"defaultMode": m}));
    if projected {
        json!({"name": "v", "projected": with(json!({"sources": [{"downwardAPI": {"items": [item]}}]}), mode)})
    } else {
        json!({"name": "v", "downwardAPI": with(json!({"items": [item]}), mode)})
    }
}

fn container(script: &str, resources: Value) -> Value {
    with(shell(script), json!({"resources": resources, "volumeMounts": [{"name": "v", "mountPath": "/v"}]}))
}

async fn name_with_mode(w: World, projected: bool, default_mode: Option<u32>, mode: Option<u32>) {
    let item = with(json!({"path": "podname", "fieldRef": {"fieldPath": "metadata.name"}}), mode.map_or(json!({}), |m| json!({"mode": m})));
    let log = w.output(json!({"containers": [container("cat /v/podname; echo; stat -L -c %a /v/podname", json!({}))], "volumes": [volume(projected, &item, default_mode)]})).await;
    assert_eq!(log, format!("p\n{:o}\n", mode.or(default_mode).unwrap_or(0o644)));
}

async fn resource(w: World, projected: bool, field: &str, value: &str) {
    let item = json!({"path": "f", "resourceFieldRef": {"containerName": "c", "resource": field}});
    // What the scheduler counts is small: the cases run beside one another on two cores.
    let resources = json!({"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": "1250m", "memory": "64Mi"}});
    let log = w.output(json!({"containers": [container("cat /v/f", resources)], "volumes": [volume(projected, &item, None)]})).await;
    assert_eq!(log, value, "a divisor of 1 rounds up");
}

async fn allocatable(w: World, projected: bool, name: &str) {
    let node = w.cluster("v1/nodes").get(w.node).await;
    let item = json!({"path": "f", "resourceFieldRef": {"containerName": "c", "resource": format!("limits.{name}")}});
    let log = w.output(json!({"containers": [container("cat /v/f", json!({}))], "volumes": [volume(projected, &item, None)]})).await;
    let said = node["status"]["allocatable"][name].as_str().expect("allocatable");
    let (number, unit) = said.split_at(said.find(|c: char| !c.is_ascii_digit()).unwrap_or(said.len()));
    let number: u64 = number.parse().expect("a number");
    let value = match unit {
        "" => number,
        "m" => number.div_ceil(1000),
        "Ki" => number << 10,
        "Mi" => number << 20,
        other => panic!("{other} in {said}"),
    };
    assert_eq!(log, value.to_string());
}

async fn updates(w: World, projected: bool, what: &str) {
    let item = json!({"path": "f", "fieldRef": {"fieldPath": format!("metadata.{what}")}});
    let metadata = json!({what: {"builder": "bar"}});
    w.labelled_pod("p", metadata, json!({"containers": [container("sleep 3600", json!({}))], "volumes": [volume(projected, &item, None)]})).await;
    w.pods().ready("p").await;
    assert!(w.exec("p", "c", &["cat", "/v/f"]).await.contains("builder=\"bar\""));
    w.pods().patch("p", json!({"metadata": {what: {"builder": "foo", "new": "one"}}})).await;
    eventually("the new words in the volume", || async {
        let said = w.exec("p", "c", &["cat", "/v/f"]).await;
        if said.contains("builder=\"foo\"\nnew=\"one\"") { Ok(()) } else { Err(said) }
    })
    .await;
}
