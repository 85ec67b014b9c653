use super::*;
use serde_json::{Value, json};

fn service(spec: Value) -> Arc<Service> {
    Arc::new(serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "d"}, "spec": spec})).expect("a service"))
}

fn slice(ports: Value, endpoints: Value) -> Arc<EndpointSlice> {
    let v =
        json!({"metadata": {"name": "web-1", "namespace": "d", "labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4", "ports": ports, "endpoints": endpoints});
    Arc::new(serde_json::from_value(v).expect("a slice"))
}

fn rules(services: &[Arc<Service>], slices: &[Arc<EndpointSlice>]) -> Rules {
    compute(&State { services, slices, pods: &[], node: "n1" })
}

fn web() -> Arc<Service> {
    service(json!({"clusterIP": "10.0.0.9", "ports": [{"name": "http", "port": 80, "targetPort": "x", "nodePort": 30080}, {"name": "other", "port": 81}]}))
}

#[test]
fn a_service_port_finds_its_endpoints_by_the_name_of_the_port() {
    let s = slice(json!([{"name": "other", "port": 1}, {"name": "http", "port": 8000}]), json!([{"addresses": ["10.1.0.2"]}, {"addresses": ["10.1.0.3"]}]));
    let r = rules(&[web()], &[s]);
    let key = Words::new().ip(Ipv4Addr::new(10, 0, 0, 9)).protocol(TCP).port(80);
    assert_eq!(r.services[&key], Pick { count: 2, by_source: false, node_port: false });
    assert_eq!(r.endpoints[&key.clone().number(1)], Words::new().ip(Ipv4Addr::new(10, 1, 0, 3)).port(8000));
    assert!(r.node_ports.contains_key(&Words::new().protocol(TCP).port(30080)));
}

#[test]
fn only_ready_endpoints_get_traffic_and_terminating_ones_when_none_is_ready() {
    let ports = json!([{"name": "http", "port": 8000}]);
    let (ready, leaving, starting) = (
        json!({"addresses": ["10.1.0.2"], "conditions": {"ready": true}}),
        json!({"addresses": ["10.1.0.3"], "conditions": {"ready": false, "serving": true, "terminating": true}}),
        json!({"addresses": ["10.1.0.4"], "conditions": {"ready": false, "serving": false}}),
    );
    let used = |endpoints| rules(&[web()], &[slice(ports.clone(), endpoints)]).hairpin.len();
    assert_eq!(used(json!([ready, leaving, starting])), 1);
    assert_eq!(used(json!([leaving, starting])), 1);
    assert_eq!(used(json!([starting])), 0);
}

#[test]
fn headless_and_external_name_services_have_no_rules() {
    let s = slice(json!([{"name": "", "port": 8000}]), json!([{"addresses": ["10.1.0.2"]}]));
    assert_eq!(rules(&[service(json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": [{"port": 80}]}))], std::slice::from_ref(&s)), Rules::default());
    assert_eq!(rules(&[service(json!({"type": "ExternalName", "externalName": "a.b", "ports": [{"port": 80}]}))], &[s]), Rules::default());
}

#[test]
fn the_order_of_the_input_does_not_matter() {
    let ports = json!([{"name": "http", "port": 8000}]);
    let (a, b) = (json!({"addresses": ["10.1.0.2"]}), json!({"addresses": ["10.1.0.3"]}));
    assert_eq!(rules(&[web()], &[slice(ports.clone(), json!([a, b]))]), rules(&[web()], &[slice(ports, json!([b, a]))]));
}

#[test]
fn a_local_policy_keeps_to_this_node() {
    let s = slice(json!([{"name": "", "port": 8000}]), json!([{"addresses": ["10.1.0.2"], "nodeName": "n1"}, {"addresses": ["10.1.0.3"], "nodeName": "n2"}]));
    let r = rules(&[service(json!({"clusterIP": "10.0.0.9", "internalTrafficPolicy": "Local", "ports": [{"port": 80}]}))], &[s]);
    assert_eq!(r.endpoints.len(), 1);
}

#[test]
fn a_host_port_leads_to_its_pod_while_it_runs() {
    let pod = |phase: &str| {
        let v = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 8080}, {"containerPort": 81, "hostPort": 8081, "hostIP": "127.0.0.1"}]}]}, "status": {"phase": phase, "podIP": "10.1.0.2"}});
        Arc::new(serde_json::from_value::<Pod>(v).expect("a pod"))
    };
    let of = |phase| compute(&State { services: &[], slices: &[], pods: &[pod(phase)], node: "n1" });
    assert!(of("Running").node_ports.contains_key(&Words::new().protocol(TCP).port(8080)));
    assert!(of("Running").services.contains_key(&Words::new().ip(Ipv4Addr::LOCALHOST).protocol(TCP).port(8081)));
    assert_eq!(of("Succeeded"), Rules::default());
}

#[test]
fn a_port_without_a_host_port_makes_no_rule() {
    let ports = json!([{"containerPort": 80, "hostPort": 0}, {"containerPort": 81}]);
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "ports": ports}]}, "status": {"phase": "Running", "podIP": "10.1.0.2"}});
    let pod = Arc::new(serde_json::from_value::<Pod>(pod).expect("a pod"));
    assert_eq!(compute(&State { services: &[], slices: &[], pods: &[pod], node: "n1" }), Rules::default());
}

#[test]
fn affinity_goes_when_the_service_drops_it_and_its_node_port_follows() {
    let s = slice(json!([{"name": "http", "port": 8000}]), json!([{"addresses": ["10.1.0.2"]}]));
    let sticks = |affinity: &str| {
        let web = service(json!({"clusterIP": "10.0.0.9", "sessionAffinity": affinity, "ports": [{"name": "http", "port": 80, "nodePort": 30080}]}));
        let r = rules(&[web], std::slice::from_ref(&s));
        (r.services[&Words::new().ip(Ipv4Addr::new(10, 0, 0, 9)).protocol(TCP).port(80)].by_source, r.node_ports[&Words::new().protocol(TCP).port(30080)].by_source)
    };
    assert_eq!(sticks("ClientIP"), (true, true));
    assert_eq!(sticks("None"), (false, false));
}
