//! Addresses of Services: IPAddress objects, several ServiceCIDRs, both families, and the repair.

use crate::world::{Client, Reply, World};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

const SERVICES: &str = "/api/v1/namespaces/default/services";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";
const RANGES: &str = "/apis/networking.k8s.io/v1/servicecidrs";
/// Nothing here takes this long unless it never comes.
const LIMIT: Duration = Duration::from_secs(60);

fn service(name: &str, spec: Value) -> Value {
    let mut spec = spec;
    spec["ports"] = json!([{"port": 80}]);
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

async fn with_range(cidrs: &str) -> World {
    let cidrs = cidrs.parse().unwrap();
    World::with(|c| c.service_cidrs = cidrs).await
}

async fn make(admin: &Client, path: &str, o: &Value) -> Value {
    let made = admin.post(path, o).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
    made.json()
}

async fn patch(admin: &Client, path: &str, body: Value) -> Value {
    let r = admin.send(Method::PATCH, path, "application/merge-patch+json", body.to_string().into_bytes()).await;
    assert_eq!(r.status, StatusCode::OK, "{}", r.text());
    r.json()
}

async fn delete(admin: &Client, path: &str) {
    let r = admin.send(Method::DELETE, path, "application/json", vec![]).await;
    assert_eq!(r.status, StatusCode::OK, "{}", r.text());
}

/// The names of all IPAddresses.
async fn taken(admin: &Client) -> BTreeSet<String> {
    let list = admin.get(ADDRESSES).await.json();
    list["items"].as_array().unwrap().iter().map(|o| o["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

fn ips(service: &Value) -> Vec<String> {
    service["spec"]["clusterIPs"].as_array().into_iter().flatten().map(|ip| ip.as_str().unwrap().to_owned()).collect()
}

/// What `path` answers once `good` says so; asked again at each change of a resource.
async fn once(w: &World, followed: (&str, &str), path: &str, good: impl Fn(&Reply) -> bool) -> Value {
    let mut changes = w.server().registry().subscribe(followed.0, followed.1).unwrap();
    let admin = w.admin();
    let mut last = String::new();
    let found = tokio::time::timeout(LIMIT, async {
        loop {
            changes.borrow_and_update();
            let r = admin.get(path).await;
            if good(&r) {
                return r.json();
            }
            last = r.text();
            changes.changed().await.unwrap();
        }
    });
    found.await.unwrap_or_else(|_| panic!("it never came: {last}"))
}

#[tokio::test]
async fn an_address_is_an_object_that_goes_with_its_service() {
    let w = World::start().await;
    let admin = w.admin();
    let kubernetes = admin.get(&format!("{ADDRESSES}/10.43.0.1")).await.json();
    assert_eq!(kubernetes["spec"]["parentRef"], json!({"resource": "services", "namespace": "default", "name": "kubernetes"}));
    let s = make(&admin, SERVICES, &service("a", json!({}))).await;
    let ip = ips(&s)[0].clone();
    let o = admin.get(&format!("{ADDRESSES}/{ip}")).await.json();
    assert_eq!(o["metadata"]["labels"], json!({"ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io", "ipaddress.kubernetes.io/ip-family": "IPv4"}));
    assert_eq!(o["spec"]["parentRef"], json!({"resource": "services", "namespace": "default", "name": "a"}));

    patch(&admin, &format!("{SERVICES}/a"), json!({"spec": {"type": "ExternalName", "externalName": "example.org"}})).await;
    assert_eq!(taken(&admin).await, ["10.43.0.1".to_owned()].into(), "given back with the type");
    let s = patch(&admin, &format!("{SERVICES}/a"), json!({"spec": {"type": "ClusterIP", "externalName": null, "clusterIP": ip}})).await;
    assert_eq!(ips(&s), [ip.as_str()]);
    assert!(taken(&admin).await.contains(&ip));
    // One that finalizers hold keeps its address until it is gone.
    patch(&admin, &format!("{SERVICES}/a"), json!({"metadata": {"finalizers": ["example.com/hold"]}})).await;
    admin.send(Method::DELETE, &format!("{SERVICES}/a"), "application/json", vec![]).await;
    assert!(taken(&admin).await.contains(&ip));
    patch(&admin, &format!("{SERVICES}/a"), json!({"metadata": {"finalizers": null}})).await;
    assert!(!taken(&admin).await.contains(&ip));
    make(&admin, SERVICES, &service("b", json!({"clusterIP": "None"}))).await;
    assert_eq!(taken(&admin).await.len(), 1, "headless ones have none");
}

#[tokio::test]
async fn a_refused_write_takes_nothing_and_a_taken_address_stays_with_its_holder() {
    let w = World::start().await;
    let admin = w.admin();
    let ip = ips(&make(&admin, SERVICES, &service("a", json!({}))).await)[0].clone();
    let before = taken(&admin).await;
    let mut bad = service("b", json!({}));
    bad["spec"]["ports"][0]["port"] = 0.into();
    assert_eq!(admin.post(SERVICES, &bad).await.status.as_u16(), 422);
    assert_eq!(admin.post(SERVICES, &service("a", json!({}))).await.status, StatusCode::CONFLICT);
    let mut both = service("b", json!({"clusterIP": "10.43.0.77", "type": "NodePort"}));
    both["spec"]["ports"][0]["nodePort"] = 80.into();
    assert_eq!(admin.post(SERVICES, &both).await.status.as_u16(), 422);
    let clash = admin.post(SERVICES, &service("b", json!({"clusterIP": ip}))).await.json();
    assert_eq!(clash["message"], format!("Service \"b\" is invalid: spec.clusterIPs: Invalid value: [\"{ip}\"]: failed to allocate IP {ip}: provided IP is already allocated"));
    let outside = admin.post(SERVICES, &service("b", json!({"clusterIP": "10.99.0.1"}))).await.json();
    assert!(outside["message"].as_str().unwrap().ends_with("failed to allocate IP 10.99.0.1: the provided network does not match the current range"), "{outside}");
    let dry = make(&admin, &format!("{SERVICES}?dryRun=All"), &service("d", json!({}))).await;
    assert_eq!(ips(&dry), ["10.43.0.0"], "a dry run shows the range's own address, as upstream does");
    assert_eq!(taken(&admin).await, before);
}

#[tokio::test]
async fn what_is_taken_is_told_before_any_other_fault_and_what_was_taken_in_vain_is_free_at_once() {
    let w = World::start().await;
    let admin = w.admin();
    let ip = ips(&make(&admin, SERVICES, &service("a", json!({}))).await)[0].clone();
    let before = taken(&admin).await;
    let mut bad = service("b", json!({"clusterIP": ip, "sessionAffinity": "Bad"}));
    let clash = admin.post(SERVICES, &bad).await.json();
    assert_eq!(clash["message"], format!("Service \"b\" is invalid: spec.clusterIPs: Invalid value: [\"{ip}\"]: failed to allocate IP {ip}: provided IP is already allocated"));
    bad["spec"]["clusterIP"] = "10.43.0.77".into();
    bad["spec"]["type"] = "NodePort".into();
    bad["spec"]["ports"][0]["nodePort"] = 30500.into();
    let refused = admin.post(SERVICES, &bad).await;
    assert_eq!(refused.status.as_u16(), 422);
    assert!(refused.text().contains("spec.sessionAffinity: Unsupported value"), "{}", refused.text());
    assert_eq!(taken(&admin).await, before);
    let mut good = service("c", json!({"clusterIP": "10.43.0.77", "type": "NodePort"}));
    good["spec"]["ports"][0]["nodePort"] = 30500.into();
    let made = make(&admin, SERVICES, &good).await;
    assert_eq!((ips(&made), &made["spec"]["ports"][0]["nodePort"]), (vec!["10.43.0.77".to_owned()], &json!(30500)), "nothing of a refused write is held");
    // An update is told of the port first too, and keeps its own.
    let update = json!({"spec": {"type": "NodePort", "sessionAffinity": "Bad", "ports": [{"port": 80, "nodePort": 30500}]}});
    let r = admin.send(Method::PATCH, &format!("{SERVICES}/a"), "application/merge-patch+json", update.to_string().into_bytes()).await;
    assert!(r.text().contains("provided port is already allocated") && !r.text().contains("sessionAffinity"), "{}", r.text());
}

#[tokio::test]
async fn the_lower_band_is_left_to_people() {
    let w = with_range("10.43.0.0/26").await;
    let admin = w.admin();
    for n in 0..20 {
        let ip = ips(&make(&admin, SERVICES, &service(&format!("s{n}"), json!({}))).await)[0].clone();
        let last: u8 = ip.rsplit('.').next().unwrap().parse().unwrap();
        assert!((17..=62).contains(&last), "{ip}");
    }
    assert_eq!(ips(&make(&admin, SERVICES, &service("chosen", json!({"clusterIP": "10.43.0.9"}))).await), ["10.43.0.9"]);
}

#[tokio::test]
async fn further_ranges_are_used_when_they_are_ready() {
    let w = with_range("10.43.0.0/29").await;
    let admin = w.admin();
    for n in 0..5 {
        make(&admin, SERVICES, &service(&format!("s{n}"), json!({}))).await;
    }
    let full = admin.post(SERVICES, &service("more", json!({}))).await;
    assert_eq!((full.status.as_u16(), full.json()["message"].as_str()), (500, Some("Internal error occurred: failed to allocate a serviceIP: range is full")));
    make(&admin, RANGES, &json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "second"}, "spec": {"cidrs": ["10.44.0.0/28"]}})).await;
    let s = make(&admin, SERVICES, &service("more", json!({}))).await;
    assert!(ips(&s)[0].starts_with("10.44.0."), "{s}");
    let condition =
        json!({"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "Terminating", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    patch(&admin, &format!("{RANGES}/second/status"), condition).await;
    assert_eq!(admin.post(SERVICES, &service("most", json!({}))).await.status.as_u16(), 500, "one that says it is not ready is not used");
}

#[tokio::test]
async fn the_default_range_is_ready_and_made_again() {
    let w = World::start().await;
    let ready = |r: &Reply| r.status == StatusCode::OK && r.json()["status"]["conditions"][0]["status"] == "True";
    let path = format!("{RANGES}/kubernetes");
    let o = once(&w, ("networking.k8s.io", "servicecidrs"), &path, ready).await;
    assert_eq!((&o["spec"], &o["status"]["conditions"][0]["message"]), (&json!({"cidrs": ["10.43.0.0/16"]}), &json!("Kubernetes default Service CIDR is ready")));
    let managers: Vec<_> = o["metadata"]["managedFields"].as_array().unwrap().iter().map(|m| (m["manager"].as_str().unwrap(), m["operation"].as_str().unwrap())).collect();
    assert!(managers.contains(&("kubernetes-service-cidr-controller", "Apply")), "{managers:?}");
    delete(&w.admin(), &path).await;
    once(&w, ("networking.k8s.io", "servicecidrs"), &path, |r| ready(r) && r.json()["metadata"]["uid"] != o["metadata"]["uid"]).await;
}

#[tokio::test]
async fn a_cluster_of_two_families_gives_both() {
    let w = with_range("10.43.0.0/16,2001:db8:43::/112").await;
    let admin = w.admin();
    assert_eq!(admin.get(&format!("{RANGES}/kubernetes")).await.json()["spec"]["cidrs"], json!(["10.43.0.0/16", "2001:db8:43::/112"]));
    assert_eq!(ips(&make(&admin, SERVICES, &service("one", json!({}))).await).len(), 1);
    let s = make(&admin, SERVICES, &service("two", json!({"ipFamilyPolicy": "RequireDualStack"}))).await;
    assert_eq!(s["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
    let both = ips(&s);
    assert!(both[0].starts_with("10.43.") && both[1].starts_with("2001:db8:43::") && s["spec"]["clusterIP"] == both[0].as_str(), "{s}");
    let six = admin.get(&format!("{ADDRESSES}/{}", both[1])).await.json();
    assert_eq!(six["metadata"]["labels"]["ipaddress.kubernetes.io/ip-family"], "IPv6");
    let s = make(&admin, SERVICES, &service("six", json!({"ipFamilies": ["IPv6"], "clusterIP": "2001:db8:43::9"}))).await;
    assert_eq!((ips(&s), &s["spec"]["ipFamilyPolicy"]), (vec!["2001:db8:43::9".to_owned()], &json!("SingleStack")));
    // Up to both families and down again.
    let up = patch(&admin, &format!("{SERVICES}/one"), json!({"spec": {"ipFamilyPolicy": "PreferDualStack"}})).await;
    assert_eq!((ips(&up).len(), &up["spec"]["ipFamilies"]), (2, &json!(["IPv4", "IPv6"])));
    assert!(taken(&admin).await.contains(&ips(&up)[1]));
    let down = patch(&admin, &format!("{SERVICES}/one"), json!({"spec": {"ipFamilyPolicy": "SingleStack"}})).await;
    assert_eq!(ips(&down), ips(&up)[..1]);
    assert!(!taken(&admin).await.contains(&ips(&up)[1]), "the second is given back");
    let headless = make(&admin, SERVICES, &service("headless", json!({"clusterIP": "None", "selector": {"a": "b"}, "ipFamilyPolicy": "PreferDualStack"}))).await;
    assert_eq!((ips(&headless), &headless["spec"]["ipFamilies"]), (vec!["None".to_owned()], &json!(["IPv4", "IPv6"])));
}

#[tokio::test]
async fn what_is_missing_is_made_again_and_what_names_no_service_goes() {
    let w = World::start().await;
    let admin = w.admin();
    let s = make(&admin, SERVICES, &service("a", json!({}))).await;
    let path = format!("{ADDRESSES}/{}", ips(&s)[0]);
    let uid = admin.get(&path).await.json()["metadata"]["uid"].clone();
    delete(&admin, &path).await;
    once(&w, ("networking.k8s.io", "ipaddresses"), &path, |r| r.status == StatusCode::OK && r.json()["metadata"]["uid"] != uid).await;
    let told = format!("Cluster IP [IPv4]: {} is not allocated; repairing", ips(&s)[0]);
    let event = |r: &Reply| r.json()["items"].as_array().unwrap().iter().any(|e| e["reason"] == "ClusterIPNotAllocated" && e["note"] == told.as_str());
    let events = once(&w, ("", "events"), "/apis/events.k8s.io/v1/namespaces/default/events", event).await;
    let of = events["items"].as_array().unwrap().iter().find(|e| e["note"] == told.as_str()).unwrap();
    assert_eq!((&of["reportingController"], &of["regarding"]["name"], &of["type"]), (&json!("ipallocator-repair-controller"), &json!("a"), &json!("Warning")));

    let stray = json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress", "metadata": {"name": "10.43.9.9",
        "labels": {"ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io", "ipaddress.kubernetes.io/ip-family": "IPv4"}},
        "spec": {"parentRef": {"group": "gateway.networking.k8s.io", "resource": "gateways", "name": "g"}}});
    let mut others = stray.clone();
    others["metadata"] = json!({"name": "10.43.9.10"});
    make(&admin, ADDRESSES, &others).await;
    make(&admin, ADDRESSES, &stray).await;
    once(&w, ("networking.k8s.io", "ipaddresses"), &format!("{ADDRESSES}/10.43.9.9"), |r| r.status == StatusCode::NOT_FOUND).await;
    assert_eq!(admin.get(&format!("{ADDRESSES}/10.43.9.10")).await.status, StatusCode::OK, "somebody else's is left alone");
    let clash = admin.post(SERVICES, &service("b", json!({"clusterIP": "10.43.9.10"}))).await;
    assert_eq!(clash.status.as_u16(), 422, "and its address is taken");
}

#[tokio::test]
async fn a_port_for_health_checks_that_cannot_be_had_is_the_servers_failure() {
    let w = World::start().await;
    let admin = w.admin();
    let balancer = |name: &str, health: i64| service(name, json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": health}));
    assert_eq!(make(&admin, SERVICES, &balancer("a", 30600)).await["spec"]["healthCheckNodePort"], 30600);
    let out_of_range = "provided port is not in the valid range. The range of valid ports is 30000-32767";
    for (health, why) in [(30600, "provided port is already allocated"), (80, out_of_range), (70_000, out_of_range), (-1, out_of_range)] {
        let refused = admin.post(SERVICES, &balancer("b", health)).await;
        let why = format!("failed to allocate requested HealthCheck NodePort {health}: {why}");
        assert_eq!((refused.status.as_u16(), &refused.json()["message"]), (500, &json!(format!("Internal error occurred: {why}"))));
        assert_eq!((&refused.json()["reason"], &refused.json()["details"]["causes"]), (&json!("InternalError"), &json!([{"message": why}])));
    }
    let mut twice = balancer("b", 30601);
    twice["spec"]["ports"][0]["nodePort"] = 30601.into();
    assert_eq!(admin.post(SERVICES, &twice).await.status.as_u16(), 500, "its own ports have it");
    assert_eq!(make(&admin, SERVICES, &balancer("b", 30601)).await["spec"]["healthCheckNodePort"], 30601, "what was refused holds nothing");
}

#[tokio::test]
async fn node_ports_are_one_for_all_protocols_and_never_twice_in_a_service() {
    let brief = |c: &mut keles_apiserver::Config| c.node_ports = 30000..=30003;
    let w = World::with(brief).await;
    let admin = w.admin();
    let ports = |all: &[(&str, u16)]| Value::from(all.iter().map(|(p, n)| json!({"name": format!("{}{n}", p.to_lowercase()), "protocol": p, "port": n})).collect::<Vec<_>>());
    let mut s = service("dns", json!({"type": "NodePort"}));
    s["spec"]["ports"] = ports(&[("TCP", 53), ("UDP", 53), ("TCP", 80), ("TCP", 81)]);
    let s = make(&admin, SERVICES, &s).await;
    let nodes: Vec<u64> = s["spec"]["ports"].as_array().unwrap().iter().map(|p| p["nodePort"].as_u64().unwrap()).collect();
    assert_eq!(nodes[0], nodes[1], "one port of two protocols");
    assert_eq!(nodes.iter().collect::<BTreeSet<_>>().len(), 3);
    let mut other = service("other", json!({"type": "NodePort"}));
    other["spec"]["ports"] = json!([{"port": 9, "protocol": "UDP", "nodePort": nodes[2]}]);
    let refused = admin.post(SERVICES, &other).await.json();
    assert_eq!(refused["message"], format!("Service \"other\" is invalid: spec.ports[0].nodePort: Invalid value: {}: provided port is already allocated", nodes[2]));
}
