use super::*;
use serde_json::{Value, json};

/// A cluster of literals.
pub(crate) struct Fixed {
    pub services: Vec<Arc<Service>>,
    pub slices: Vec<Arc<EndpointSlice>>,
    pub synced: bool,
}

fn named(m: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta, ns: &str, name: &str) -> bool {
    m.namespace.as_deref() == Some(ns) && m.name.as_deref() == Some(name)
}

impl Directory for Fixed {
    fn namespace_exists(&self, name: &str) -> bool {
        name == "d"
    }
    fn service(&self, ns: &str, name: &str) -> Option<Arc<Service>> {
        self.services.iter().find(|s| named(&s.metadata, ns, name)).cloned()
    }
    fn slices(&self, ns: &str, service: &str) -> Vec<Arc<EndpointSlice>> {
        self.slices
            .iter()
            .filter(|s| s.metadata.namespace.as_deref() == Some(ns) && s.metadata.labels.as_ref().is_some_and(|l| l["kubernetes.io/service-name"] == service))
            .cloned()
            .collect()
    }
    fn service_at(&self, ip: Ipv4Addr) -> Option<Arc<Service>> {
        self.services.iter().find(|s| s.spec.as_ref().and_then(|s| s.cluster_ip.clone()) == Some(ip.to_string())).cloned()
    }
    fn slices_at(&self, ip: Ipv4Addr) -> Vec<Arc<EndpointSlice>> {
        self.slices.iter().filter(|s| s.endpoints.iter().flatten().any(|e| e.addresses[0] == ip.to_string())).cloned().collect()
    }
    fn synced(&self) -> bool {
        self.synced
    }
}

pub(crate) fn cluster() -> Fixed {
    let service = |name: &str, spec: Value| Arc::new(serde_json::from_value(json!({"metadata": {"name": name, "namespace": "d"}, "spec": spec})).expect("a service"));
    let slice = |service: &str, endpoints: Value| {
        let v = json!({"metadata": {"name": "x", "namespace": "d", "labels": {"kubernetes.io/service-name": service}}, "addressType": "IPv4", "ports": [{"name": "http", "port": 8000}], "endpoints": endpoints});
        Arc::new(serde_json::from_value(v).expect("a slice"))
    };
    Fixed {
        services: vec![
            service("web", json!({"clusterIP": "10.0.0.9", "ports": [{"name": "http", "port": 80}]})),
            service("db", json!({"clusterIP": "None", "ports": [{"name": "http", "port": 80}]})),
            service("empty", json!({"clusterIP": "None"})),
            service("out", json!({"type": "ExternalName", "externalName": "example.org"})),
        ],
        slices: vec![
            slice("db", json!([{"addresses": ["10.1.0.2"], "hostname": "db-0"}, {"addresses": ["10.1.0.3"]}, {"addresses": ["10.1.0.4"], "conditions": {"ready": false}}])),
            slice("web", json!([{"addresses": ["10.1.0.7"]}])),
        ],
        synced: true,
    }
}

/// The answer as text: record data one a line, or `nothing`, `elsewhere`.
fn ask(name: &str, kind: RecordType) -> String {
    ask_of(&cluster(), name, kind)
}

fn ask_of(cluster: &Fixed, name: &str, kind: RecordType) -> String {
    let zone = Zone::new(Name::from_ascii("cluster.local.").expect("a name"));
    match zone.find(cluster, &Name::from_ascii(name).expect("a name"), kind) {
        Found::Records { answers, .. } => answers.iter().map(|r| r.data.to_string()).collect::<Vec<_>>().join("\n"),
        Found::Nothing => "nothing".into(),
        Found::Elsewhere => "elsewhere".into(),
    }
}

#[test]
fn names_of_the_specification_resolve() {
    use RecordType::{A, AAAA, CNAME, PTR, SRV, TXT};
    let cases = [
        ("web.d.svc.cluster.local.", A, "10.0.0.9"),
        ("WEB.D.SVC.Cluster.Local.", A, "10.0.0.9"),
        ("web.d.svc.cluster.local.", AAAA, ""),
        ("absent.d.svc.cluster.local.", A, "nothing"),
        ("db.d.svc.cluster.local.", A, "10.1.0.2\n10.1.0.3"),
        ("db-0.db.d.svc.cluster.local.", A, "10.1.0.2"),
        ("10-1-0-3.db.d.svc.cluster.local.", A, "10.1.0.3"),
        ("empty.d.svc.cluster.local.", A, "nothing"),
        ("out.d.svc.cluster.local.", A, "example.org."),
        ("out.d.svc.cluster.local.", CNAME, "example.org."),
        ("_http._tcp.web.d.svc.cluster.local.", SRV, "0 100 80 web.d.svc.cluster.local."),
        ("_http._tcp.db.d.svc.cluster.local.", SRV, "0 50 8000 db-0.db.d.svc.cluster.local.\n0 50 8000 10-1-0-3.db.d.svc.cluster.local."),
        ("_other._tcp.web.d.svc.cluster.local.", SRV, "nothing"),
        ("10-1-0-9.d.pod.cluster.local.", A, "10.1.0.9"),
        ("10-1-0-9.absent.pod.cluster.local.", A, "nothing"),
        ("d.svc.cluster.local.", A, ""),
        ("absent.svc.cluster.local.", A, "nothing"),
        ("dns-version.cluster.local.", TXT, "1.1.0"),
        ("9.0.0.10.in-addr.arpa.", PTR, "web.d.svc.cluster.local."),
        ("2.0.1.10.in-addr.arpa.", PTR, "db-0.db.d.svc.cluster.local."),
        ("7.0.1.10.in-addr.arpa.", PTR, "elsewhere"),
        ("example.org.", A, "elsewhere"),
        ("web.d.svc.cluster.local.d.svc.cluster.local.", A, "nothing"),
    ];
    for (name, kind, expected) in cases {
        assert_eq!(ask(name, kind).trim_end_matches('\n'), expected, "{name} {kind}");
    }
}

#[test]
fn a_service_that_becomes_external_name_answers_so_at_once_and_back() {
    use RecordType::{A, CNAME, PTR};
    let mut changing = cluster();
    let as_ip = changing.services[0].clone();
    let away = json!({"metadata": {"name": "web", "namespace": "d"}, "spec": {"type": "ExternalName", "externalName": "example.org", "ports": [{"name": "http", "port": 80}]}});
    let away: Arc<Service> = Arc::new(serde_json::from_value(away).expect("a service"));
    let answers = |cluster: &Fixed, kind| ask_of(cluster, "web.d.svc.cluster.local.", kind);
    for _ in 0..2 {
        assert_eq!((answers(&changing, A), answers(&changing, CNAME)), ("10.0.0.9".into(), String::new()));
        assert_eq!(ask_of(&changing, "9.0.0.10.in-addr.arpa.", PTR), "web.d.svc.cluster.local.");
        // Its slices are still there for a moment.
        changing.services[0] = away.clone();
        assert_eq!((answers(&changing, A), answers(&changing, CNAME)), ("example.org.".into(), "example.org.".into()));
        assert_eq!(ask_of(&changing, "9.0.0.10.in-addr.arpa.", PTR), "elsewhere");
        changing.services[0] = as_ip.clone();
    }
}
