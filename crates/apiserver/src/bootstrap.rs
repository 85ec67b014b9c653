//! What a cluster must have before it answers: namespaces, the bootstrap policy, priority classes, the `kubernetes` Service.
//!
//! Only what is missing is written, many writes at once (the store commits them in groups), so that a warm start writes nothing.

use crate::config::Config;
use crate::server::{Inner, StartError};
use futures::StreamExt;
use keles_api::{Object, Status};
use keles_auth::User;
use keles_auth::authenticators::request_header::RequestHeader;
use keles_kinds::flowcontrol::bootstrap as flowcontrol;
use keles_registry::{Call, Registry, Request as About, Verb};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::time::{Duration, Instant};

const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];
const RBAC: &str = "rbac.authorization.k8s.io";
/// Writes under way at once.
const AT_ONCE: usize = 64;

/// How long what another server is making may be on its way: longer than the repair lets an address be without its Service.
const OTHERS: Duration = Duration::from_secs(90);
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// An object with its place.
#[derive(Clone)]
struct Wanted {
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    object: Object,
    /// Whether it is written again when it differs in the fields wanted.
    keep_up: bool,
}

/// The CA certificates that aggregated API servers look for.
#[derive(Clone)]
pub struct Trust {
    pub client_ca_pem: String,
    pub front_proxy_ca_pem: String,
}

pub async fn run(server: &Inner, trust: &Trust) -> Result<(), StartError> {
    let first: Vec<Wanted> = NAMESPACES.iter().map(|n| wanted("", "v1", "namespaces", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": n}}))).collect();
    make_all(&server.registry, first).await?;
    crate::addresses::default_range::make(server).await?;
    let mut rest: Vec<Wanted> = keles_auth::bootstrap::policy().into_iter().map(policy_row).collect();
    rest.extend(priority_classes());
    rest.extend(priority_and_fairness());
    rest.push(metrics_reader());
    make_among_others(&server.registry, own_service(&server.config)).await?;
    // Of several servers each is an endpoint ([`crate::peers`]).
    let own = server.config.advertise_address;
    if own.is_loopback() {
        // Endpoints may not lead to a loopback address: pods have one of their own.
        tracing::info!("the API server advertises a loopback address: the Service default/kubernetes gets no endpoints");
    } else if !server.registry.is_shared() {
        rest.extend(endpoints(&[own], server.config.port));
    }
    rest.push(token_tracking());
    rest.push(authentication(trust, &server.config.authentication.request_header));
    make_all(&server.registry, rest).await
}

/// Tells aggregated API servers of other authorities.
pub async fn publish(server: &Inner, trust: &Trust) -> Result<(), StartError> {
    make(&server.registry, authentication(trust, &server.config.authentication.request_header)).await
}

fn wanted(group: &'static str, version: &'static str, plural: &'static str, object: Value) -> Wanted {
    Wanted { group, version, plural, object: Object(object), keep_up: false }
}

fn policy_row(object: Object) -> Wanted {
    let plural = match object.kind() {
        "ClusterRole" => "clusterroles",
        "ClusterRoleBinding" => "clusterrolebindings",
        "Role" => "roles",
        _ => "rolebindings",
    };
    Wanted { group: RBAC, version: "v1", plural, object, keep_up: false }
}

fn priority_classes() -> Vec<Wanted> {
    [
        ("system-node-critical", 2_000_001_000, "Used for system critical pods that must not be moved from their current node."),
        ("system-cluster-critical", 2_000_000_000, "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary."),
    ]
    .into_iter()
    .map(|(name, value, description)| {
        let o = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": value, "description": description});
        wanted("scheduling.k8s.io", "v1", "priorityclasses", o)
    })
    .collect()
}

fn priority_and_fairness() -> Vec<Wanted> {
    let row = |plural| move |o| wanted("flowcontrol.apiserver.k8s.io", "v1", plural, o);
    let levels = flowcontrol::levels().into_iter().map(row("prioritylevelconfigurations"));
    levels.chain(flowcontrol::schemas().into_iter().map(row("flowschemas"))).collect()
}

/// Who may view, edit or administer may read what nodes and pods use: the role that metrics-server ships under its name.
fn metrics_reader() -> Wanted {
    let to = |role: &str| (format!("{RBAC}/aggregate-to-{role}"), Value::from("true"));
    let labels: serde_json::Map<String, Value> = ["admin", "edit", "view"].map(to).into_iter().chain([("k8s-app".to_owned(), "metrics-server".into())]).collect();
    let rules = json!([{"apiGroups": [crate::resource_metrics::GROUP], "resources": ["pods", "nodes"], "verbs": ["get", "list", "watch"]}]);
    policy_row(Object(
        json!({"apiVersion": format!("{RBAC}/v1"), "kind": "ClusterRole", "metadata": {"name": "system:aggregated-metrics-reader", "labels": labels}, "rules": rules}),
    ))
}

/// Makes the endpoints of `default/kubernetes` these, where they are not.
pub async fn publish_endpoints(registry: &Registry, addresses: &[IpAddr], port: u16) -> Result<(), Status> {
    for wanted in endpoints(addresses, port) {
        match make(registry, wanted).await {
            Err(StartError::Bootstrap { status, .. }) => return Err(status),
            Err(e) => return Err(Status::internal(e)),
            Ok(()) => {}
        }
    }
    Ok(())
}

/// The Service `default/kubernetes`.
fn own_service(c: &Config) -> Wanted {
    let ip = c.service_cidrs.first.address(0);
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {"type": "ClusterIP", "clusterIP": ip.to_string(), "clusterIPs": [ip.to_string()], "sessionAffinity": "None",
                 "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": c.port}]},
    });
    wanted("", "v1", "services", service)
}

/// Where `default/kubernetes` leads; the addresses are of one family.
fn endpoints(addresses: &[IpAddr], port: u16) -> [Wanted; 2] {
    let family = if addresses.first().is_none_or(IpAddr::is_ipv4) { "IPv4" } else { "IPv6" };
    let ports = json!([{"name": "https", "port": port, "protocol": "TCP"}]);
    let of_endpoints: Vec<Value> = addresses.iter().map(|a| json!({"ip": a.to_string()})).collect();
    let of_slice: Vec<Value> = addresses.iter().map(|a| json!({"addresses": [a.to_string()], "conditions": {"ready": true}})).collect();
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{"addresses": of_endpoints, "ports": ports}],
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": family, "endpoints": of_slice, "ports": ports,
    });
    [("", "endpoints", endpoints), ("discovery.k8s.io", "endpointslices", slice)].map(|(group, plural, o)| Wanted { keep_up: true, ..wanted(group, "v1", plural, o) })
}

/// Where aggregated API servers learn whom to trust.
fn authentication(trust: &Trust, front: &RequestHeader) -> Wanted {
    let list = |all: &[String]| json!(all).to_string();
    let o = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
        "data": {
            "client-ca-file": trust.client_ca_pem,
            "requestheader-client-ca-file": trust.front_proxy_ca_pem,
            "requestheader-allowed-names": list(&front.allowed_names),
            "requestheader-username-headers": list(&front.username_headers),
            "requestheader-uid-headers": list(&front.uid_headers),
            "requestheader-group-headers": list(&front.group_headers),
            "requestheader-extra-headers-prefix": list(&front.extra_prefixes),
        },
    });
    Wanted { keep_up: true, ..wanted("", "v1", "configmaps", o) }
}

/// Since when the last use of tokens in Secrets is noted: the clean-up of old ones counts from there.
fn token_tracking() -> Wanted {
    let today = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
    let o = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "kube-apiserver-legacy-service-account-token-tracking", "namespace": "kube-system"},
        "data": {"since": today},
    });
    wanted("", "v1", "configmaps", o)
}

async fn make_all(registry: &Registry, all: Vec<Wanted>) -> Result<(), StartError> {
    let results: Vec<_> = futures::stream::iter(all.into_iter().map(|w| make(registry, w))).buffer_unordered(AT_ONCE).collect().await;
    results.into_iter().collect()
}

/// Makes the Service of the API server, whose address another server that starts now may have taken for the same purpose: then its Service comes, or,
/// when it died meanwhile, the address is given back by the repair of those that run.
async fn make_among_others(registry: &Registry, w: Wanted) -> Result<(), StartError> {
    let Some(mut changes) = registry.subscribe(w.group, w.plural).filter(|_| registry.is_shared()) else { return make(registry, w).await };
    let began = Instant::now();
    loop {
        changes.borrow_and_update();
        match make(registry, w.clone()).await {
            Err(e) if began.elapsed() > OTHERS => return Err(e),
            Err(error) => tracing::info!(%error, "another server seems to be making it; looking again"),
            Ok(()) => return Ok(()),
        }
        let _ = tokio::time::timeout(LOOK_AGAIN, changes.changed()).await;
    }
}

async fn make(registry: &Registry, w: Wanted) -> Result<(), StartError> {
    let what = format!("{} {}/{}", w.plural, w.object.namespace(), w.object.name());
    let found = registry.read(w.group, w.plural, w.object.namespace(), w.object.name());
    let done = match found {
        None => write(registry, Verb::Create, &w).await,
        Some(there) if w.keep_up && !holds(&there.0, &w.object.0) => write(registry, Verb::Update, &w).await,
        Some(_) => Ok(()),
    };
    match done {
        Ok(()) => Ok(()),
        // Another server on the same store was quicker.
        Err(s) if s.code == 409 => Ok(()),
        Err(status) => Err(StartError::Bootstrap { what, status }),
    }
}

/// Makes an object that is missing; one that is there and `follows` gets the wanted spec back.
pub async fn keep(registry: &Registry, group: &'static str, plural: &'static str, object: Object, follows: bool) -> Result<(), StartError> {
    let wanted = wanted(group, "v1", plural, object.0);
    let Some(there) = registry.read(group, plural, "", wanted.object.name()) else { return make(registry, wanted).await };
    if !follows || holds(there.at(&["spec"]), wanted.object.at(&["spec"])) {
        return Ok(());
    }
    let mut there = Object::clone(&there);
    there.0["spec"] = wanted.object.0["spec"].clone();
    let what = format!("{plural} {}", there.name());
    match write(registry, Verb::Update, &Wanted { object: there, ..wanted }).await {
        Err(status) if status.code != 409 => Err(StartError::Bootstrap { what, status }),
        _ => Ok(()),
    }
}

/// Whether `there` has everything that is `wanted`.
fn holds(there: &Value, wanted: &Value) -> bool {
    match (there, wanted) {
        (Value::Object(t), Value::Object(w)) => w.iter().all(|(k, v)| t.get(k).is_some_and(|x| holds(x, v))),
        (Value::Array(t), Value::Array(w)) => t.len() == w.len() && t.iter().zip(w).all(|(t, w)| holds(t, w)),
        _ => there == wanted,
    }
}

async fn write(registry: &Registry, verb: Verb, w: &Wanted) -> Result<(), Status> {
    let request = About {
        user: User { name: "system:apiserver".into(), groups: vec![keles_auth::MASTERS.into(), keles_auth::AUTHENTICATED.into()], ..User::default() },
        group: w.group.into(),
        version: w.version.into(),
        plural: w.plural.into(),
        namespace: w.object.namespace().into(),
        name: if verb == Verb::Update { w.object.name().into() } else { String::new() },
        now: crate::chain::now(),
        ..About::default()
    };
    let body = serde_json::to_vec(&w.object).expect("a JSON tree always encodes").into();
    // As upstream's parts call themselves in managedFields.
    let user_agent = if w.group == "flowcontrol.apiserver.k8s.io" { "api-priority-and-fairness-config-producer-v1" } else { "kube-apiserver" };
    registry.serve(verb, Call { request, body, user_agent: user_agent.into(), ..Call::default() }).await.map(|_| ())
}
