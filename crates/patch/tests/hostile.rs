//! Patches that explode: each ends soon, in a bounded amount of memory, with the answer upstream gives or, where upstream has no limit, a 413.

use keles_api::decode::FieldValidation;
use keles_api::depth::DEPTH_MAX;
use keles_api::schema::builtin;
use keles_api::{Status, TypeRef};
use keles_patch::{JSON_PATCH_OPERATIONS_MAX, PatchKind, RESULT_BYTES_MAX, patch};
use serde_json::{Value, json};

fn config_map() -> TypeRef<'static> {
    builtin().get("io.k8s.api.core.v1.ConfigMap").expect("the table holds ConfigMaps")
}
fn pod_spec() -> TypeRef<'static> {
    builtin().get("io.k8s.api.core.v1.PodSpec").expect("the table holds PodSpecs")
}
/// A type with a field of any value.
fn revision() -> TypeRef<'static> {
    builtin().get("io.k8s.api.apps.v1.ControllerRevision").expect("the table holds ControllerRevisions")
}

fn refused(kind: PatchKind, current: &Value, document: &Value, ty: TypeRef) -> Status {
    patch(kind, current, document.to_string().as_bytes(), ty, FieldValidation::Ignore).map(|_| "accepted").expect_err("it is refused")
}

fn nested(levels: usize) -> Value {
    (0..levels).fold(json!(1), |v, _| json!({ "a": v }))
}

#[test]
fn copies_of_copies_are_refused_before_they_fill_the_memory() {
    let mut operations = vec![json!({"op": "add", "path": "/data", "value": {"a": "x".repeat(1024)}})];
    operations.extend((0..40).map(|i| json!({"op": "copy", "from": "/data", "path": format!("/data/k{i}")})));
    let s = refused(PatchKind::Json, &json!({}), &operations.into(), config_map());
    assert_eq!((s.code, s.reason.as_str()), (413, "RequestEntityTooLarge"), "{}", s.message);
}

#[test]
fn copies_into_themselves_do_not_double_the_depth() {
    let mut operations = vec![json!({"op": "add", "path": "/data", "value": {}})];
    let mut path = "/data".to_owned();
    for _ in 0..10 {
        operations.push(json!({"op": "copy", "from": "/data", "path": format!("{path}/a")}));
        path += &"/a".repeat(path.matches('/').count());
    }
    let s = refused(PatchKind::Json, &json!({}), &operations.into(), revision());
    assert_eq!(s.code, 422);
    assert!(s.message.ends_with("exceeded max depth"), "{}", s.message);
}

#[test]
fn patches_do_not_nest_deeper_than_what_can_be_read_again() {
    let current = json!({"data": nested(DEPTH_MAX - 1)});
    let deepest = format!("/data{}", "/a".repeat(DEPTH_MAX - 2));
    for operation in ["add", "replace"] {
        let s = refused(PatchKind::Json, &current, &json!([{"op": operation, "path": deepest, "value": [[1]]}]), revision());
        assert!(s.message.ends_with("exceeded max depth"), "{}", s.message);
    }
    let moved = json!([{"op": "add", "path": "/x", "value": nested(100)}, {"op": "move", "from": "/x", "path": format!("/data{}", "/a".repeat(60))}]);
    assert!(refused(PatchKind::Json, &current, &moved, revision()).message.ends_with("exceeded max depth"));
}

#[test]
fn insertions_before_a_long_list_are_bounded_work() {
    let list: Vec<u8> = vec![0; 300_000];
    let mut operations = vec![json!({"op": "add", "path": "/data", "value": list})];
    operations.resize(JSON_PATCH_OPERATIONS_MAX, json!({"op": "add", "path": "/data/0", "value": 0}));
    let s = refused(PatchKind::Json, &json!({}), &operations.into(), revision());
    assert_eq!((s.code, s.message.as_str()), (413, "Request entity too large: the patch moves more items about than a request may"));
}

#[test]
fn tests_of_large_values_cost_no_more_than_they_are_long() {
    let big = json!({"data": {"a": "x".repeat(1 << 20)}});
    let same = json!([{"op": "test", "path": "/data/a", "value": "x".repeat(1 << 20)}]);
    assert!(patch(PatchKind::Json, &big, same.to_string().as_bytes(), config_map(), FieldValidation::Ignore).is_ok());
    assert_eq!(refused(PatchKind::Json, &big, &json!([{"op": "test", "path": "/data/a", "value": "y"}]), config_map()).code, 422);
}

#[test]
fn indices_outside_of_a_list_are_the_generic_422() {
    let current = json!({"data": [1, 2]});
    for index in ["2", "-3", "99999999999999999999", "-9223372036854775808", "9223372036854775807", "1e3", "", "0x0", " 0", "٠"] {
        for op in ["replace", "remove", "test"] {
            let s = refused(PatchKind::Json, &current, &json!([{"op": op, "path": format!("/data/{index}"), "value": 0}]), revision());
            assert_eq!((s.code, s.message.as_str()), (422, "the server rejected our request due to an error in our request"), "{op} {index}");
        }
    }
}

#[test]
fn operations_without_their_members_are_refused() {
    for operation in
        [json!({}), json!(null), json!(1), json!([]), json!({"op": "add"}), json!({"op": 1, "path": 2}), json!({"op": "copy", "path": "/a"}), json!({"op": "add", "path": "a"})]
    {
        assert!(refused(PatchKind::Json, &json!({}), &json!([operation]), revision()).code >= 400);
    }
    for document in [json!({}), json!("x"), json!(1), json!(null)] {
        assert_eq!(refused(PatchKind::Json, &json!({}), &document, revision()).code, 400);
    }
}

#[test]
fn what_grows_past_a_request_is_refused_by_every_kind_of_patch() {
    let half = json!({"data": {"a": "x".repeat(RESULT_BYTES_MAX / 2)}});
    for kind in [PatchKind::Merge, PatchKind::Strategic] {
        let s = refused(kind, &half, &json!({"data": {"b": "x".repeat(RESULT_BYTES_MAX / 2)}}), config_map());
        assert_eq!(s.code, 413, "{}", s.message);
    }
}

#[test]
fn long_lists_merge_in_time() {
    // With a comparison of every item to every other this test would take hours.
    const ITEMS: usize = 40_000;
    let items = |from: usize| (from..from + ITEMS).map(|i| json!({"name": format!("c{i}")})).collect::<Vec<_>>();
    let current = json!({"containers": items(0)});
    let document = json!({"containers": items(ITEMS / 2), "$setElementOrder/containers": items(ITEMS / 2)});
    let done = patch(PatchKind::Strategic, &current, document.to_string().as_bytes(), pod_spec(), FieldValidation::Ignore).expect("it merges");
    assert_eq!(done.object.0["containers"].as_array().map(Vec::len), Some(ITEMS * 3 / 2));
    let gone = items(0).into_iter().map(|mut v| {
        v["$patch"] = "delete".into();
        v
    });
    let document = json!({"containers": gone.collect::<Vec<_>>()});
    let done = patch(PatchKind::Strategic, &current, document.to_string().as_bytes(), pod_spec(), FieldValidation::Ignore).expect("it merges");
    assert_eq!(done.object.0["containers"], json!([]));
    let names = |from: usize| (from..from + ITEMS).map(|i| format!("f/{i}")).collect::<Vec<_>>();
    let (current, meta) = (json!({"finalizers": names(0)}), builtin().get("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").expect("the table holds ObjectMeta"));
    let document = json!({"finalizers": names(ITEMS / 2), "$retainKeys": ["finalizers"]});
    let done = patch(PatchKind::Strategic, &current, document.to_string().as_bytes(), meta, FieldValidation::Ignore).expect("it merges");
    assert_eq!(done.object.0["finalizers"].as_array().map(Vec::len), Some(ITEMS * 3 / 2));
    let document = json!({"$deleteFromPrimitiveList/finalizers": names(0)});
    let done = patch(PatchKind::Strategic, &current, document.to_string().as_bytes(), meta, FieldValidation::Ignore).expect("it merges");
    assert_eq!(done.object.0["finalizers"], json!([]));
}

#[test]
fn directives_that_make_no_sense_are_refused() {
    let current = json!({"containers": [{"name": "a"}], "nodeSelector": {"a": "b"}});
    for document in [
        json!({"$patch": "explode"}),
        json!({"$patch": {"$patch": "delete"}}),
        json!({"$retainKeys": "all"}),
        json!({"$retainKeys": [1, null], "nodeName": "x"}),
        json!({"$setElementOrder/containers": {}}),
        json!({"$setElementOrder/containers": [{}], "containers": [{"name": "b"}]}),
        json!({"$setElementOrder/containers": [], "containers": {"a": 1}}),
        json!({"containers": [{"$patch": "delete"}]}),
        json!({"containers": [{"$patch": "merge", "name": "a"}]}),
        json!({"containers": [{"$patch": null, "name": "a"}]}),
        json!({"containers": [{"name": "a"}, [1]]}),
        json!({"containers": [{"name": "a"}, "x"]}),
        json!({"containers": [{"image": "x"}]}),
    ] {
        let s = refused(PatchKind::Strategic, &current, &document, pod_spec());
        assert!((400..=500).contains(&s.code) && !s.message.is_empty(), "{document}: {s:?}");
    }
}
