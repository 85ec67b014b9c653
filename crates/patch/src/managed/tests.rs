use super::*;
use keles_api::schema::builtin;

const NOW: &str = "2026-01-01T00:00:00Z";

fn deployment() -> OneVersion<'static> {
    OneVersion { api_version: "apps/v1", ty: builtin().get("io.k8s.api.apps.v1.Deployment").unwrap() }
}
fn update_of(old: Option<&Value>, new: &mut Value, w: &Writer) {
    let managed = update(old, new, w, &deployment());
    set_managed(new, managed);
}
fn writer(manager: &str) -> Writer<'_> {
    Writer { manager, api_version: "apps/v1", subresource: "", reset: &[&["status"]], now: NOW }
}
fn config(replicas: i64, image: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}, "spec": {"replicas": replicas, "template": {"spec": {"containers": [{"name": "c", "image": image, "ports": [{"containerPort": 80}]}]}}}})
}
fn owned(object: &Value, manager: &str) -> Value {
    read_entries(object).iter().find(|e| e.manager == manager).map_or(Value::Null, |e| e.set().into_owned().into_json())
}

#[test]
fn an_apply_owns_what_it_says_and_list_items_by_key() {
    let got = apply(None, &config(1, "x"), false, &writer("m1"), &deployment()).unwrap().object;
    let want = json!({"f:spec": {"f:replicas": {}, "f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:name": {}, "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}}}}}});
    assert_eq!(owned(&got, "m1"), want);
}

#[test]
fn a_change_of_anothers_field_conflicts_until_forced() {
    let live = apply(None, &config(1, "x"), false, &writer("m1"), &deployment()).unwrap().object;
    let e = apply(Some(&live), &config(2, "x"), false, &writer("m2"), &deployment()).unwrap_err();
    assert_eq!(e.to_string(), "Apply failed with 1 conflict: conflict with \"m1\": .spec.replicas");
    let e = apply(Some(&live), &config(2, "y"), false, &writer("m2"), &deployment()).unwrap_err().to_status();
    assert_eq!((e.code, e.message.as_str()), (409, "Apply failed with 2 conflicts: conflicts with \"m1\":\n- .spec.replicas\n- .spec.template.spec.containers[name=\"c\"].image"));
    let forced = apply(Some(&live), &config(2, "x"), true, &writer("m2"), &deployment()).unwrap().object;
    assert_eq!(forced["spec"]["replicas"], 2);
    assert!(owned(&forced, "m1")["f:spec"].get("f:replicas").is_none());
}

#[test]
fn what_is_no_longer_applied_goes_unless_another_owns_it() {
    let first = json!({"metadata": {"name": "a", "labels": {"x": "1", "y": "2"}}});
    let live = apply(None, &first, false, &writer("m1"), &deployment()).unwrap().object;
    let live = apply(Some(&live), &json!({"metadata": {"labels": {"y": "2"}}}), false, &writer("m2"), &deployment()).unwrap().object;
    let got = apply(Some(&live), &json!({"metadata": {"name": "a"}}), false, &writer("m1"), &deployment()).unwrap().object;
    assert_eq!(got["metadata"]["labels"], json!({"y": "2"}));
    assert_eq!(owned(&got, "m1"), Value::Null);
}

#[test]
fn an_update_owns_what_it_changes_and_takes_it_from_others() {
    let live = apply(None, &config(1, "x"), false, &writer("m1"), &deployment()).unwrap().object;
    let mut new = live.clone();
    new["spec"]["replicas"] = 5.into();
    new["metadata"]["annotations"] = json!({"k": "1"});
    update_of(Some(&live), &mut new, &writer("edit"));
    assert_eq!(owned(&new, "edit"), json!({"f:metadata": {"f:annotations": {".": {}, "f:k": {}}}, "f:spec": {"f:replicas": {}}}));
    assert!(owned(&new, "m1")["f:spec"].get("f:replicas").is_none());
    let same = new.clone();
    update_of(Some(&same), &mut new, &writer("other"));
    assert_eq!(owned(&new, "other"), Value::Null);
}

#[test]
fn status_written_through_the_main_resource_is_nobodys() {
    let mut new = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}, "spec": {"paused": true}, "status": {"replicas": 3}});
    update_of(None, &mut new, &writer("m"));
    assert_eq!(owned(&new, "m"), json!({"f:spec": {"f:paused": {}}}));
}

#[test]
fn field_sets_survive_their_json_form() {
    let json = json!({"f:a": {".": {}, "f:b": {}}, "f:c": {"v:\"x\"": {}, "k:{\"n\":1}": {".": {}}}});
    let once = FieldSet::from_json(&json);
    assert_eq!(FieldSet::from_json(&once.clone().into_json()), once);
}

#[test]
fn old_updates_are_joined_beyond_their_limit() {
    let mut object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}, "spec": {"paused": true}});
    update_of(None, &mut object, &writer("m"));
    for i in 0..20 {
        let old = object.clone();
        object["metadata"]["annotations"][format!("k{i}")] = "v".into();
        update_of(Some(&old), &mut object, &writer(&format!("m{i}")));
    }
    let entries = read_entries(&object);
    assert!(entries.len() <= UPDATE_ENTRIES_MAX + 1 && entries.iter().any(|e| e.manager == ANCIENT), "{}", entries.len());
}
