//! Service: a stable address for changing pods (v1).
//!
//! `prepare` has defaults and bookkeeping, `validate` the checks, `warnings` what is only worth a word. Allocation of addresses and ports is the API server's.

pub mod prepare;
mod validate;
mod warnings;

use crate::selectable;
use crate::subresource::status;
use crate::table::{self, AGE, NAME, column, text, wide};
use keles_api::{Object, Problems};
use keles_registry::kind::{Column, Info, Kind, NameRule, Request, Selectable, Served, Subresource, UnknownSelector};
use serde_json::{Value, json};

pub struct Service;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column(
        "Type",
        "string",
        "type determines how the Service is exposed. Defaults to ClusterIP. Valid options are ExternalName, ClusterIP, NodePort, and LoadBalancer. \"ClusterIP\" allocates a cluster-internal IP address for load-balancing to endpoints. Endpoints are determined by the selector or if that is not specified, by manual construction of an Endpoints object or EndpointSlice objects. If clusterIP is \"None\", no virtual IP is allocated and the endpoints are published as a set of endpoints rather than a virtual IP. \"NodePort\" builds on ClusterIP and allocates a port on every node which routes to the same endpoints as the clusterIP. \"LoadBalancer\" builds on NodePort and creates an external load-balancer (if supported in the current cloud) which routes to the same endpoints as the clusterIP. \"ExternalName\" aliases this service to the specified externalName. Several other fields do not apply to ExternalName services. More info: https://kubernetes.io/docs/concepts/services-networking/service/#publishing-services-service-types",
        |o, _| table::str_cell(o, &["spec", "type"]),
    ),
    column(
        "Cluster-IP",
        "string",
        "clusterIP is the IP address of the service and is usually assigned randomly. If an address is specified manually, is in-range (as per system configuration), and is not in use, it will be allocated to the service; otherwise creation of the service will fail. This field may not be changed through updates unless the type field is also being changed to ExternalName (which requires this field to be blank) or the type field is being changed from ExternalName (in which case this field may optionally be specified, as describe above).  Valid values are \"None\", empty string (\"\"), or a valid IP address. Setting this to \"None\" makes a \"headless service\" (no virtual IP), which is useful when direct endpoint connections are preferred and proxying is not required.  Only applies to types ClusterIP, NodePort, and LoadBalancer. If this field is specified when creating a Service of type ExternalName, creation will fail. This field will be wiped when updating a Service to type ExternalName. More info: https://kubernetes.io/docs/concepts/services-networking/service/#virtual-ips-and-service-proxies",
        |o, _| table::str_or(o, &["spec", "clusterIP"], "<none>"),
    ),
    column(
        "External-IP",
        "string",
        "externalIPs is a list of IP addresses for which nodes in the cluster will also accept traffic for this service.  These IPs are not managed by Kubernetes.  The user is responsible for ensuring that traffic arrives at a node with this IP.  A common example is external load-balancers that are not part of the Kubernetes system.",
        |o, _| text(external_ip(o)),
    ),
    column(
        "Port(s)",
        "string",
        "The list of ports that are exposed by this service. More info: https://kubernetes.io/docs/concepts/services-networking/service/#virtual-ips-and-service-proxies",
        |o, _| text(ports(o)),
    ),
    AGE,
    wide(
        "Selector",
        "string",
        "Route service traffic to pods with label keys and values matching this selector. If empty or not present, the service is assumed to have an external process managing its endpoints, which Kubernetes will not modify. Only applies to types ClusterIP, NodePort, and LoadBalancer. Ignored if type is ExternalName. More info: https://kubernetes.io/docs/concepts/services-networking/service/",
        |o, _| text(table::labels(o.at(&["spec", "selector"]))),
    ),
];

impl Kind for Service {
    type Object = Object;
    const INFO: Info = Info {
        kind: "Service",
        plural: "services",
        singular: "service",
        short_names: &["svc"],
        categories: &["all"],
        served: &[Served { group: "", version: "v1", schema: "io.k8s.api.core.v1.Service" }],
        subresources: &[
            Subresource { name: "proxy", kind: "ServiceProxyOptions", group: "", version: "", verbs: &["create", "delete", "get", "patch", "update"] },
            status("Service"),
        ],
        selectable: &[
            Selectable { path: "spec.clusterIP", value: |o| selectable::text(o, &["spec", "clusterIP"]) },
            Selectable { path: "spec.type", value: |o| selectable::text(o, &["spec", "type"]) },
        ],
        create_on_update: true,
        name_rule: NameRule::DnsLabel,
        unknown_selector: UnknownSelector::NotSupported,
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "sample", "namespace": "default"},
            "spec": {"ports": [{"port": 80}], "selector": {"app": "x"}}
        }))
    }

    fn set_defaults(o: &mut Object) {
        prepare::defaults(o);
    }

    fn prepare_create(o: &mut Object, _: &Request) {
        prepare::create(o);
    }

    fn prepare_update(new: &mut Object, old: &Object, _: &Request) {
        prepare::update(new, old);
    }

    fn validate(o: &Object, p: &mut Problems) {
        validate::service(o, None, p);
    }

    fn validate_update(new: &Object, old: &Object, p: &mut Problems) {
        validate::update(new, old, p);
    }

    fn validate_status(new: &Object, old: &Object, p: &mut Problems) {
        validate::status(new, old, p);
    }

    fn warnings(new: &Object, _old: Option<&Object>, w: &mut Vec<String>) {
        warnings::service(new, w);
    }

    fn status_warnings(new: &Object, _: &Object, w: &mut Vec<String>) {
        warnings::status(new, w);
    }
}

fn external_ip(o: &Object) -> String {
    let given: Vec<&str> = table::list(o.at(&["spec", "externalIPs"])).iter().filter_map(Value::as_str).collect();
    match o.str_at(&["spec", "type"]) {
        "ClusterIP" | "NodePort" if given.is_empty() => "<none>".into(),
        "ClusterIP" | "NodePort" => given.join(","),
        "LoadBalancer" => {
            let mut all = table::load_balancer(o.at(&["status", "loadBalancer"]));
            for ip in given {
                all = if all.is_empty() { ip.to_owned() } else { format!("{all},{ip}") };
            }
            if all.is_empty() { "<pending>".into() } else { all }
        }
        "ExternalName" => o.str_at(&["spec", "externalName"]).to_owned(),
        _ => "<unknown>".into(),
    }
}

/// `80:30080/TCP,53/UDP`
fn ports(o: &Object) -> String {
    let show = |p: &Value| {
        let (port, node_port, protocol) = (p["port"].as_i64().unwrap_or(0), p["nodePort"].as_i64().unwrap_or(0), p["protocol"].as_str().unwrap_or(""));
        if node_port > 0 { format!("{port}:{node_port}/{protocol}") } else { format!("{port}/{protocol}") }
    };
    let all: Vec<String> = table::list(o.at(&["spec", "ports"])).iter().map(show).collect();
    if all.is_empty() { "<none>".into() } else { all.join(",") }
}

fn is_headless(spec: &Value) -> bool {
    spec["clusterIPs"].as_array().is_some_and(|all| all.len() == 1 && all[0] == "None")
}

fn is_type(spec: &Value, kinds: &[&str]) -> bool {
    kinds.contains(&spec["type"].as_str().unwrap_or(""))
}

/// Whether packets from outside may come: the traffic policy for them has a meaning then.
fn is_external(spec: &Value) -> bool {
    let has_external_ips = spec["externalIPs"].as_array().is_some_and(|l| !l.is_empty());
    is_type(spec, &["LoadBalancer", "NodePort"]) || is_type(spec, &["ClusterIP"]) && has_external_ips
}

fn needs_health_check(spec: &Value) -> bool {
    is_type(spec, &["LoadBalancer"]) && spec["externalTrafficPolicy"].as_str() == Some("Local")
}

#[cfg(test)]
mod tests {
    use super::*;
    use keles_api::Path;

    fn service(spec: Value) -> Object {
        let mut o = Object(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "default"}, "spec": spec}));
        Service::set_defaults(&mut o);
        Service::prepare_create(&mut o, &Request::default());
        o
    }

    fn problems(o: &Object) -> Vec<String> {
        let mut p = Problems::new();
        Service::validate(o, &mut p);
        p.iter().map(|p| p.to_string()).collect()
    }

    #[test]
    fn a_service_gets_type_target_port_and_policies() {
        let o = service(json!({"ports": [{"port": 80}]}));
        assert_eq!(o.str_at(&["spec", "type"]), "ClusterIP");
        assert_eq!(o.at(&["spec", "ports"])[0], json!({"port": 80, "targetPort": 80, "protocol": "TCP"}));
        assert_eq!(o.str_at(&["spec", "internalTrafficPolicy"]), "Cluster");
        assert_eq!(o.at(&["spec", "ipFamilies"]), &json!(["IPv4"]));
        assert!(problems(&o).is_empty(), "{:?}", problems(&o));
    }

    #[test]
    fn odd_addresses_of_a_balancer_are_warned_of() {
        let mut o = service(json!({"type": "LoadBalancer", "ports": [{"port": 80}]}));
        o.0["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"hostname": "a.example"}, {"ip": "2001:db8::0:1"}]}});
        let mut w = Vec::new();
        Service::status_warnings(&o, &o, &mut w);
        assert_eq!(w, ["status.loadBalancer.ingress[2]: IPv6 address \"2001:db8::0:1\" should be in RFC 5952 canonical format (\"2001:db8::1\")"]);
    }

    #[test]
    fn leaving_a_type_clears_what_only_it_had() {
        let old = service(json!({"type": "NodePort", "clusterIP": "10.0.0.5", "ports": [{"port": 80, "nodePort": 30080}]}));
        let mut new = old.clone();
        new.0["spec"]["type"] = "ExternalName".into();
        new.0["spec"]["externalName"] = "a.example".into();
        Service::prepare_update(&mut new, &old, &Request::default());
        for gone in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "externalTrafficPolicy"] {
            assert!(new.at(&["spec", gone]).is_null(), "{gone}");
        }
        assert!(new.at(&["spec", "ports"])[0]["nodePort"].is_null());
    }

    #[test]
    fn an_update_without_addresses_and_ports_keeps_the_allocated_ones() {
        let old = service(json!({"type": "NodePort", "clusterIP": "10.0.0.5", "ports": [{"port": 80, "nodePort": 30080}]}));
        let mut new = service(json!({"type": "NodePort", "ports": [{"port": 80}]}));
        Service::prepare_update(&mut new, &old, &Request::default());
        assert_eq!(new.str_at(&["spec", "clusterIP"]), "10.0.0.5");
        assert_eq!(new.at(&["spec", "ports"])[0]["nodePort"], 30080);
        let mut p = Problems::new();
        Service::validate_update(&new, &old, &mut p);
        assert!(p.is_empty(), "{}", p.aggregate());
    }

    #[test]
    fn several_ports_need_names() {
        let o = service(json!({"ports": [{"port": 80}, {"port": 81, "name": "b"}]}));
        assert_eq!(problems(&o), [format!("{}: Required value", Path::new("spec").child("ports").index(0).child("name"))]);
    }

    fn settled(spec: Value, old: Option<&Object>) -> (Object, Vec<String>) {
        let mut o = Object(json!({"metadata": {"name": "s"}, "spec": spec}));
        Service::set_defaults(&mut o);
        let mut p = Problems::new();
        prepare::settle(&mut o, old, &["IPv4"], &mut p);
        (o, p.iter().map(|p| p.to_string()).collect())
    }

    #[test]
    fn a_headless_service_without_selector_holds_both_families() {
        let (o, found) = settled(json!({"clusterIP": "None"}), None);
        assert!(found.is_empty());
        assert_eq!(o.at(&["spec", "ipFamilies"]), &json!(["IPv4", "IPv6"]));
        assert_eq!(o.str_at(&["spec", "ipFamilyPolicy"]), "RequireDualStack");
    }

    #[test]
    fn a_family_that_the_cluster_lacks_is_refused_before_anything_else() {
        let (_, found) = settled(json!({"ipFamilies": ["IPv6"]}), None);
        assert_eq!(found, ["spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster"]);
        let (_, found) = settled(json!({"ipFamilyPolicy": "RequireDualStack", "ports": [{"port": 80}]}), None);
        assert_eq!(found, ["spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services"]);
    }

    #[test]
    fn a_cluster_of_two_families_gives_the_second_to_who_prefers_it() {
        let both = |spec: Value| {
            let mut o = Object(json!({"metadata": {"name": "s"}, "spec": spec}));
            Service::set_defaults(&mut o);
            let mut p = Problems::new();
            prepare::settle(&mut o, None, &["IPv6", "IPv4"], &mut p);
            assert!(p.is_empty(), "{}", p.aggregate());
            (o.str_at(&["spec", "ipFamilyPolicy"]).to_owned(), o.at(&["spec", "ipFamilies"]).clone(), o)
        };
        let (policy, families, _) = both(json!({"ports": [{"port": 80}]}));
        assert_eq!((policy.as_str(), families), ("SingleStack", json!(["IPv6"])));
        let (policy, families, mut o) = both(json!({"ports": [{"port": 80}], "ipFamilyPolicy": "PreferDualStack", "clusterIP": "10.0.0.9"}));
        assert_eq!((policy.as_str(), &families), ("PreferDualStack", &json!(["IPv4", "IPv6"])));
        let before = o.clone();
        Service::prepare_create(&mut o, &Request::default());
        assert_eq!(o.at(&["spec"]), before.at(&["spec"]), "the kind's own run leaves it");
    }

    #[test]
    fn node_ports_follow_the_names_of_ports() {
        let old =
            service(json!({"type": "NodePort", "clusterIP": "10.0.0.5", "ports": [{"name": "a", "port": 80, "nodePort": 30080}, {"name": "b", "port": 81, "nodePort": 30081}]}));
        let (o, _) = settled(json!({"type": "NodePort", "ports": [{"name": "b", "port": 90}, {"name": "a", "port": 91, "nodePort": 30081}]}), Some(&old));
        assert!(o.at(&["spec", "ports"])[0]["nodePort"].is_null(), "30081 is asked for by another port");
        let (o, _) = settled(json!({"type": "NodePort", "ports": [{"name": "b", "port": 90}]}), Some(&old));
        assert_eq!(o.at(&["spec", "ports"])[0]["nodePort"], 30081);
    }

    #[test]
    fn settling_twice_changes_nothing() {
        let old = service(json!({"clusterIP": "10.0.0.5", "ports": [{"port": 80}]}));
        let (once, _) = settled(json!({"ports": [{"port": 80}], "ipFamilyPolicy": "PreferDualStack"}), Some(&old));
        let mut twice = once.clone();
        prepare::settle(&mut twice, Some(&old), &["IPv4"], &mut Problems::new());
        assert_eq!(once, twice);
    }
}
