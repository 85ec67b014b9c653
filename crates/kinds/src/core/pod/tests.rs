//! How pods behave, in the words of the behaviour.

use super::*;
use keles_registry::kind::{AnyKind, Erased};

fn pod(spec: Value) -> Object {
    let mut o = Object(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "default"}, "spec": spec}));
    Pod::set_defaults(&mut o);
    o
}

fn problems(o: &Object) -> Vec<String> {
    let mut p = Problems::new();
    Pod::validate(o, &mut p);
    p.iter().map(|p| p.to_string()).collect()
}

#[test]
fn a_plain_pod_gets_the_defaults_users_know() {
    let o = pod(json!({"containers": [{"name": "c", "image": "nginx", "ports": [{"containerPort": 80}], "resources": {"limits": {"cpu": "1"}}}]}));
    assert_eq!(o.str_at(&["spec", "restartPolicy"]), "Always");
    assert_eq!(o.str_at(&["spec", "dnsPolicy"]), "ClusterFirst");
    let c = &o.at(&["spec", "containers"])[0];
    assert_eq!(c["imagePullPolicy"], "Always");
    assert_eq!(c["resources"]["requests"]["cpu"], "1");
    assert_eq!(c["ports"][0]["protocol"], "TCP");
    assert!(problems(&o).is_empty(), "{:?}", problems(&o));
}

#[test]
fn the_pull_policy_follows_the_tag() {
    for (image, tag) in [
        ("nginx", Some("latest")),
        ("nginx:1", Some("1")),
        ("r.example:5000/a/b", Some("latest")),
        ("r.example:5000/a/b:v2", Some("v2")),
        ("nginx@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", None),
        ("", None),
        ("Bad_Value!", None),
        ("a/b:c:d", None),
        ("Upper/x", Some("latest")),
        ("Upper", None),
        ("localhost/x", Some("latest")),
        ("r.example:port/x", None),
        ("x:-v", None),
        ("x@sha256:short", None),
        ("a__b/c..d", None),
        ("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", None),
    ] {
        assert_eq!(defaults::image_tag(image).as_deref(), tag, "{image}");
    }
}

#[test]
fn a_file_of_variables_lies_in_an_empty_dir_of_the_pod() {
    let with = |volumes: Value, path: &str| {
        let env = json!([{"name": "A", "valueFrom": {"fileKeyRef": {"volumeName": "files", "path": path, "key": "A"}}}]);
        let c = json!({"name": "c", "image": "i", "env": env});
        problems(&pod(json!({"initContainers": [{"name": "first", "image": "i", "env": env}], "containers": [c], "volumes": volumes})))
    };
    assert!(with(json!([{"name": "files", "emptyDir": {}}]), "/a/..env").is_empty());
    let at = |list: &str| format!("spec.{list}[0].env[0].valueFrom.fileKeyRef.volumeName");
    let both = |why: &str| ["initContainers", "containers"].map(|list| format!("{}: {why}", at(list)));
    assert_eq!(with(json!([]), "a"), both("Not found: \"files\""));
    assert_eq!(with(json!([{"name": "files", "configMap": {"name": "x"}}]), "a"), both("Invalid value: \"files\": referenced volume must be of type emptyDir"));
    assert!(with(json!([{"name": "files", "emptyDir": {}}]), "a/../b")[0].ends_with("fileKeyRef.path: Invalid value: \"a/../b\": must not contain '..'"));
}

#[test]
fn the_mirror_of_a_static_pod_has_no_resource_claims() {
    let claims = json!([{"name": "a"}, {"name": "b", "resourceClaimName": "b"}]);
    let mut o = pod(json!({"nodeName": "n", "containers": [{"name": "c", "image": "i", "resources": {"claims": [{"name": "a"}]}}], "resourceClaims": claims}));
    assert_eq!(problems(&o).len(), 1, "{:?}", problems(&o));
    o.set_meta("annotations", json!({"kubernetes.io/config.mirror": "x"}));
    assert_eq!(problems(&o), ["[]: Forbidden: static pods do not support resource claims"; 2]);
}

#[test]
fn a_mount_of_an_unknown_volume_is_not_found() {
    let o = pod(json!({"containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}));
    assert_eq!(problems(&o), ["spec.containers[0].volumeMounts[0].name: Not found: \"v\""]);
}

#[test]
fn an_image_may_change_and_a_command_may_not() {
    let old = pod(json!({"containers": [{"name": "c", "image": "i:1", "command": ["a"]}]}));
    let mut new = old.clone();
    new.0["spec"]["containers"][0]["image"] = "i:2".into();
    let mut p = Problems::new();
    Pod::validate_update(&new, &old, &mut p);
    assert!(p.is_empty(), "{:?}", p.aggregate());
    new.0["spec"]["containers"][0]["command"] = json!(["b"]);
    Pod::validate_update(&new, &old, &mut p);
    assert!(p.aggregate().starts_with("spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`"), "{}", p.aggregate());
}

#[test]
fn a_new_pod_is_pending_and_has_its_class() {
    let mut o = pod(json!({"containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}]}));
    Pod::prepare_create(&mut o, &Request::default());
    assert_eq!(o.at(&["status"]), &json!({"phase": "Pending", "qosClass": "Guaranteed"}));
}

#[test]
fn unscheduled_and_ended_pods_are_deleted_at_once() {
    let kind = Erased::<Pod>::new();
    let mut o = pod(json!({"containers": [{"name": "c", "image": "i"}]}));
    assert_eq!(kind.grace_seconds(&o, None).expect("a tree"), Some(0));
    o.0["spec"]["nodeName"] = "n".into();
    assert_eq!(kind.grace_seconds(&o, None).expect("a tree"), Some(30));
    assert_eq!(kind.grace_seconds(&o, Some(5)).expect("a tree"), Some(5));
    o.0["status"] = json!({"phase": "Succeeded"});
    assert_eq!(kind.grace_seconds(&o, None).expect("a tree"), Some(0));
}

#[test]
fn the_status_column_says_what_holds_a_pod_up() {
    let mut o = pod(json!({"containers": [{"name": "c", "image": "i"}], "initContainers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]}));
    let shown = |o: &Object| (columns::COLUMNS[2].cell)(o, &keles_registry::kind::Cells { now_unix_seconds: 0 });
    o.0["status"] = json!({"phase": "Pending", "initContainerStatuses": [{"name": "a", "state": {"terminated": {"exitCode": 0}}}, {"name": "b", "state": {"running": {}}}]});
    assert_eq!(shown(&o), "Init:1/2");
    o.0["status"] = json!({"phase": "Running", "containerStatuses": [{"name": "c", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]});
    assert_eq!(shown(&o), "CrashLoopBackOff");
    o.set_meta("deletionTimestamp", "2026-01-01T00:00:00Z");
    assert_eq!(shown(&o), "Terminating");
}

#[test]
fn a_pod_limited_as_a_whole_asks_for_what_its_containers_ask_for_else_for_its_limit() {
    let requests = |containers: Value| {
        let o = pod(json!({"resources": {"limits": {"cpu": "1", "memory": "64Mi"}}, "containers": containers}));
        o.0["spec"]["resources"]["requests"].clone()
    };
    assert_eq!(requests(json!([{"name": "c", "image": "i"}])), json!({"cpu": "1", "memory": "64Mi"}));
    let asking = json!({"resources": {"requests": {"cpu": "100m"}}, "name": "c", "image": "i"});
    assert_eq!(requests(json!([asking])), json!({"cpu": "100m", "memory": "64Mi"}));
}

#[test]
fn the_addresses_of_a_pod_are_kept_in_step() {
    let settled = |status: Value| {
        let mut o = Object(json!({"metadata": {"name": "p"}, "spec": {"containers": []}, "status": status}));
        Pod::set_defaults(&mut o);
        (o.str_at(&["status", "podIP"]).to_owned(), o.at(&["status", "podIPs"]).clone())
    };
    let one = json!([{"ip": "10.0.0.1"}]);
    assert_eq!(settled(json!({"podIP": "10.0.0.1"})), ("10.0.0.1".into(), one.clone()));
    assert_eq!(settled(json!({"podIPs": one})), ("10.0.0.1".into(), one.clone()));
    assert_eq!(settled(json!({"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.2"}, {"ip": "fd00::1"}]})), ("10.0.0.1".into(), one), "a client that knows one address alone");
    let both = json!([{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]);
    assert_eq!(settled(json!({"podIP": "10.0.0.1", "podIPs": both})), ("10.0.0.1".into(), both));
}

#[test]
fn several_addresses_are_of_two_families() {
    let found = |ips: &[&str]| {
        let ips: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
        let old = Object(json!({"metadata": {"name": "p"}, "spec": {"containers": []}, "status": {}}));
        let mut new = old.clone();
        new.0["status"] = json!({"podIP": ips[0]["ip"], "podIPs": ips});
        let mut p = Problems::new();
        Pod::validate_status(&new, &old, &mut p);
        p.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(found(&["10.0.0.1", "fd00::1"]), [] as [String; 0]);
    let same = found(&["10.0.0.1", "10.0.0.1"]);
    assert!(same.len() == 2 && same[0].ends_with("may specify no more than one IP for each IP family") && same[1].starts_with("status.podIPs[1]: Duplicate value"), "{same:?}");
    let odd = found(&["10.0.0.1", "x"]);
    assert!(
        odd[1].ends_with("failed to check for dual stack with error:invalid IP[1]: <nil>") && odd[2].ends_with("may specify no more than one IP for each IP family"),
        "{odd:?}"
    );
}

#[test]
fn a_status_that_knows_no_generations_keeps_them() {
    let condition = |kind: &str, generation: i64| json!({"type": kind, "status": "True", "observedGeneration": generation});
    let old = Object(json!({"spec": {}, "status": {"observedGeneration": 3, "conditions": [condition("Ready", 2), condition("Ready", 1)]}}));
    let mut new =
        Object(json!({"spec": {}, "status": {"conditions": [{"type": "Ready", "status": "False"}, {"type": "Ready", "status": "True"}, {"type": "Other", "status": "True"}]}}));
    Pod::prepare_status(&mut new, &old, &Request::default());
    assert_eq!(new.at(&["status", "observedGeneration"]), 3);
    let seen: Vec<&Value> = new.at(&["status", "conditions"]).as_array().unwrap().iter().map(|c| &c["observedGeneration"]).collect();
    assert_eq!(seen, [&json!(2), &json!(1), &Value::Null]);
}

#[test]
fn a_pod_with_amounts_of_its_own_takes_over_what_its_containers_say() {
    let resources = |of_pod: Value, of_container: Value| {
        let o = pod(json!({"resources": of_pod, "containers": [{"name": "c", "image": "i", "resources": of_container}]}));
        o.at(&["spec", "resources"]).clone()
    };
    let huge = json!({"limits": {"hugepages-2Mi": "4Mi", "memory": "1Gi"}});
    assert_eq!(
        resources(json!({"limits": {"cpu": "2"}}), huge),
        json!({"limits": {"cpu": "2", "hugepages-2Mi": "4Mi"}, "requests": {"cpu": "2", "hugepages-2Mi": "4Mi", "memory": "1Gi"}})
    );
    assert_eq!(resources(json!({"limits": {"cpu": "2"}}), json!({"requests": {"cpu": "1"}})), json!({"limits": {"cpu": "2"}, "requests": {"cpu": "1"}}));
    assert_eq!(resources(json!({"requests": {"cpu": "2"}}), json!({"requests": {"cpu": "1"}})), json!({"requests": {"cpu": "2"}}), "no limits, nothing to default");
}

#[test]
fn annotations_that_once_were_init_containers_are_dropped() {
    let mut o = Object(json!({"metadata": {"annotations": {"pod.beta.kubernetes.io/init-containers": "[]", "kept": "x"}}, "spec": {"containers": []}}));
    Pod::set_defaults(&mut o);
    assert_eq!(o.meta("annotations"), &json!({"kept": "x"}));
}
