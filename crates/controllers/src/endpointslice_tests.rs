use super::*;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

fn service(spec: serde_json::Value) -> Service {
    serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "d", "uid": "s", "labels": {"team": "x"}}, "spec": spec})).expect("a service")
}
fn pod(name: &str, ip: &str, ready: bool, port: i32) -> Arc<Pod> {
    let ready = if ready { "True" } else { "False" };
    let value = json!({
        "metadata": {"name": name, "namespace": "d", "uid": name},
        "spec": {"nodeName": "n1", "hostname": "h", "subdomain": "web", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": port}]}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [{"type": "Ready", "status": ready}]},
    });
    Arc::new(serde_json::from_value(value).expect("a pod"))
}
fn terminating(pod: &Arc<Pod>) -> Arc<Pod> {
    let mut pod = pod.as_ref().clone();
    pod.metadata.deletion_timestamp = Some(Time(jiff::Timestamp::UNIX_EPOCH));
    Arc::new(pod)
}
fn run(service: &Service, pods: &[Arc<Pod>], held: &[Arc<EndpointSlice>]) -> Plan {
    plan(service, pods, held, |_| Some("z".into()))
}
fn conditions(slice: &EndpointSlice) -> Vec<(bool, bool, bool)> {
    let of = |c: &EndpointConditions| (c.ready == Some(true), c.serving == Some(true), c.terminating == Some(true));
    slice.endpoints.iter().flatten().filter_map(|e| e.conditions.as_ref().map(of)).collect()
}
fn stored(slices: Vec<EndpointSlice>) -> Vec<Arc<EndpointSlice>> {
    slices
        .into_iter()
        .enumerate()
        .map(|(i, mut slice)| {
            slice.metadata.name = Some(format!("web-{i}"));
            Arc::new(slice)
        })
        .collect()
}

#[test]
fn slices_carry_target_ports_conditions_topology_and_labels() {
    let service = service(json!({"selector": {"app": "a"}, "ports": [{"name": "w", "port": 80, "targetPort": "http"}], "ipFamilies": ["IPv4"]}));
    let plan = run(&service, &[pod("a", "10.0.0.1", true, 8080), pod("b", "10.0.0.2", false, 8080), terminating(&pod("c", "10.0.0.3", true, 8080))], &[]);
    let slice = &plan.create[0];
    assert_eq!(plan.create.len(), 1);
    assert_eq!(slice.ports.as_ref().expect("ports")[0].port, Some(8080), "lesson 119: target ports by name");
    assert_eq!(conditions(slice), [(true, true, false), (false, false, false), (false, true, true)]);
    let first = &slice.endpoints.as_ref().expect("endpoints")[0];
    assert_eq!((first.node_name.as_deref(), first.zone.as_deref(), first.hostname.as_deref()), (Some("n1"), Some("z"), Some("h")));
    let labels = slice.metadata.labels.as_ref().expect("labels");
    assert_eq!(labels[SERVICE_NAME_LABEL], "web");
    assert_eq!(labels[MANAGED_BY_LABEL], MANAGER);
    assert_eq!(labels["team"], "x");
    assert_eq!(slice.metadata.owner_references.as_ref().expect("owner")[0].kind, "Service");
}

#[test]
fn an_unchanged_world_writes_nothing() {
    let service = service(json!({"selector": {"app": "a"}, "ports": [{"port": 80}], "ipFamilies": ["IPv4"]}));
    let pods = [pod("a", "10.0.0.1", true, 8080)];
    let held = stored(run(&service, &pods, &[]).create);
    let plan = run(&service, &pods, &held);
    assert!(plan.create.is_empty() && plan.update.is_empty() && plan.delete.is_empty(), "{plan:?}");
}

#[test]
fn pods_that_resolve_a_named_port_differently_stand_in_different_slices() {
    let service = service(json!({"selector": {"app": "a"}, "ports": [{"port": 80, "targetPort": "http"}], "ipFamilies": ["IPv4"]}));
    let plan = run(&service, &[pod("a", "10.0.0.1", true, 8080), pod("b", "10.0.0.2", true, 9090)], &[]);
    assert_eq!(plan.create.len(), 2);
}

#[test]
fn a_slice_holds_at_most_a_hundred_endpoints_and_freed_places_are_used() {
    let service = service(json!({"selector": {"app": "a"}, "ports": [{"port": 80}], "ipFamilies": ["IPv4"]}));
    let pods: Vec<Arc<Pod>> = (0..150).map(|i| pod(&format!("p{i:03}"), &format!("10.0.1.{i}"), true, 1)).collect();
    let held = stored(run(&service, &pods, &[]).create);
    let sizes: Vec<usize> = held.iter().map(|s| s.endpoints.as_ref().expect("endpoints").len()).collect();
    assert_eq!(sizes, [100, 50]);
    let mut next = pods[1..].to_vec();
    next.push(pod("new", "10.0.2.1", true, 1));
    let plan = run(&service, &next, &held);
    assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (0, 1, 0), "the new pod takes the place of the one gone");
}

#[test]
fn a_service_without_pods_keeps_one_empty_slice() {
    let service = service(json!({"selector": {"app": "a"}, "ports": [{"port": 80}], "ipFamilies": ["IPv4"]}));
    let empty = stored(run(&service, &[], &[]).create);
    assert_eq!(empty.len(), 1);
    assert!(empty[0].endpoints.as_ref().expect("endpoints").is_empty());
    let again = run(&service, &[], &empty);
    assert!(again.create.is_empty() && again.update.is_empty() && again.delete.is_empty());
    let filled = run(&service, &[pod("a", "10.0.0.1", true, 1)], &empty);
    assert_eq!((filled.create.len(), filled.delete.len()), (1, 1), "the placeholder has other ports, so it goes");
}

#[test]
fn publish_not_ready_addresses_makes_all_ready_and_headless_is_labelled() {
    let service = service(json!({"clusterIP": "None", "publishNotReadyAddresses": true, "selector": {"app": "a"}, "ipFamilies": ["IPv4"]}));
    let plan = run(&service, &[pod("a", "10.0.0.1", false, 1)], &[]);
    assert_eq!(conditions(&plan.create[0]), [(true, false, false)]);
    assert!(plan.create[0].metadata.labels.as_ref().expect("labels").contains_key(HEADLESS_LABEL));
}

#[test]
fn a_service_that_became_external_name_loses_its_slices() {
    let was = service(json!({"selector": {"app": "a"}, "ports": [{"port": 80}], "ipFamilies": ["IPv4"]}));
    let held = stored(run(&was, &[pod("a", "10.0.0.1", true, 1)], &[]).create);
    let now = service(json!({"type": "ExternalName", "externalName": "x.y", "selector": {"app": "a"}}));
    assert_eq!(run(&now, &[], &held).delete.len(), 1);
}
