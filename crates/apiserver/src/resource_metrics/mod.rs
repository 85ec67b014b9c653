//! `metrics.k8s.io/v1beta1`: what nodes and pods use now, for `kubectl top` and autoscaling.
//!
//! Entry point: [`serve`], below an APIService of our own ([`crate::aggregation::local`]). Figures are the nodes' `/metrics/resource`, read over
//! the ordinary connection to the nodes when somebody asks: nothing polls. Use of processors is a rate, so what was read before is kept for a
//! while, and who asks first waits for a second reading ([`window`]).
//! Source: k8s.io/metrics, kubernetes-sigs/metrics-server (texts and the rule for containers younger than the window).
//! Deliberately absent: watch (metrics-server has none: 405), protobuf.

pub mod documents;
mod forms;
mod scrape;
mod window;

use crate::chain::{Asked, method_not_allowed, now};
use crate::negotiate::{Accepted, Forms};
use crate::pod_streams::node_address_of;
use crate::respond::{self, Style};
use crate::server::Inner;
use futures::StreamExt;
use http::Response;
use keles_api::quantity::{Format, Quantity};
use keles_api::selector::{FieldSelector, Selector};
use keles_api::{Object, Status};
use keles_registry::Answer;
use keles_serve::Body;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
pub use window::Windows;
use window::{Measured, Use};

pub const GROUP: &str = "metrics.k8s.io";
pub const VERSION: &str = "v1beta1";
/// Nodes asked at once.
const AT_ONCE: usize = 32;
/// A node that has told nothing by then is left out, also when others were asking it first.
const NODE_LIMIT: Duration = Duration::from_secs(15);

/// Answers a request that may be answered.
pub async fn serve(server: &Inner, asked: Asked) -> Result<Response<Body>, Status> {
    let info = &asked.info;
    if !info.is_resource {
        let known = asked.request.uri().path().trim_end_matches('/') == format!("/apis/{GROUP}/{VERSION}");
        return Ok(if known { json_answer(&documents::resource_list(), &Style::new(Accepted::default(), asked.request.headers(), &asked.query)) } else { respond::no_route() });
    }
    if !matches!(info.resource.as_str(), "nodes" | "pods") || !info.subresource.is_empty() || info.overlong {
        return Ok(respond::no_route());
    }
    if !matches!(info.verb, "get" | "list") {
        return Err(method_not_allowed());
    }
    let style = Style::new(server.media().accept(asked.request.headers(), Forms::Custom)?, asked.request.headers(), &asked.query);
    let selected = Selected::parse(&asked)?;
    let kind = if info.resource == "nodes" { "NodeMetrics" } else { "PodMetrics" };
    let value = match (info.resource.as_str(), info.name.is_empty() || info.verb == "list") {
        ("nodes", true) => list("NodeMetricsList", nodes(server, &selected).await),
        ("nodes", false) => node(server, &info.name).await?,
        (_, true) => list("PodMetricsList", pods(server, info.object_namespace(), &selected).await),
        (_, false) => pod(server, info.object_namespace(), &info.name).await?,
    };
    let value = forms::shown(value, kind, style.accepted.form, asked.query.text("includeObject"));
    Ok(json_answer(&value, &style))
}

fn json_answer(v: &Value, style: &Style) -> Response<Body> {
    let json = serde_json::to_vec(v).expect("a JSON tree always encodes");
    respond::answer(Answer::ok(json), style, &Default::default())
}

fn list(kind: &str, items: Vec<Value>) -> Value {
    json!({"kind": kind, "apiVersion": format!("{GROUP}/{VERSION}"), "metadata": {}, "items": items})
}

/// What a list is limited to.
struct Selected {
    labels: Selector,
    fields: FieldSelector,
}

impl Selected {
    fn parse(asked: &Asked) -> Result<Selected, Status> {
        let labels = Selector::parse(asked.query.text("labelSelector")).map_err(Status::bad_request)?;
        let fields = FieldSelector::parse(asked.query.text("fieldSelector")).map_err(Status::bad_request)?;
        match fields.requirements.iter().find(|r| !matches!(r.field.as_str(), "metadata.name" | "metadata.namespace")) {
            Some(unknown) => Err(Status::bad_request(format!("field label not supported: {}", unknown.field))),
            None => Ok(Selected { labels, fields }),
        }
    }

    fn has(&self, o: &Object) -> bool {
        let field = |name: &str| match name {
            "metadata.name" => o.name().to_owned().into(),
            _ => o.namespace().to_owned().into(),
        };
        self.labels.matches_object(o) && self.fields.matches(field)
    }
}

/// What each node tells, by name; nodes that do not answer are left out.
async fn measure(server: &Inner, nodes: Vec<Arc<Object>>) -> BTreeMap<String, Measured> {
    let asks: Vec<_> = nodes.into_iter().map(|node| ask(server, node)).collect();
    let answers: Vec<_> = futures::stream::iter(asks).buffer_unordered(AT_ONCE).collect().await;
    answers.into_iter().flatten().collect()
}

async fn ask(server: &Inner, node: Arc<Object>) -> Option<(String, Measured)> {
    let name = node.name().to_owned();
    let measured = match node_address_of(&node) {
        Ok(address) => {
            let measuring = server.windows.measure(&name, || scrape::scrape(&server.kubelets, &address));
            tokio::time::timeout(NODE_LIMIT, measuring).await.unwrap_or_else(|_| Err(format!("no figures within {NODE_LIMIT:?}")))
        }
        Err(status) => Err(status.message),
    };
    match measured {
        Ok(m) => Some((name, m)),
        Err(error) => {
            tracing::warn!(node = name, error, "a node's figures cannot be read");
            None
        }
    }
}

async fn nodes(server: &Inner, selected: &Selected) -> Vec<Value> {
    let all: Vec<Arc<Object>> = server.registry.read_all("", "nodes", "").into_iter().filter(|o| selected.has(o)).map(Arc::new).collect();
    let measured = measure(server, all.clone()).await;
    all.iter().filter_map(|o| Some(node_metrics(o, measured.get(o.name())?))).collect()
}

async fn node(server: &Inner, name: &str) -> Result<Value, Status> {
    let missing = || Status::not_found(GROUP, "nodes", name);
    let node = server.registry.read("", "nodes", "", name).ok_or_else(missing)?;
    let measured = measure(server, vec![node.clone()]).await;
    let mut value = node_metrics(&node, measured.get(name).ok_or_else(missing)?);
    typed(&mut value, "NodeMetrics");
    Ok(value)
}

fn is_running(o: &Object) -> bool {
    o.str_at(&["status", "phase"]) == "Running"
}

async fn pods(server: &Inner, namespace: &str, selected: &Selected) -> Vec<Value> {
    let all: Vec<Object> = server.registry.read_all("", "pods", namespace).into_iter().filter(|o| is_running(o) && selected.has(o)).collect();
    let names: BTreeSet<&str> = all.iter().map(|o| o.str_at(&["spec", "nodeName"])).collect();
    let nodes = names.into_iter().filter_map(|name| server.registry.read("", "nodes", "", name)).collect();
    let measured = measure(server, nodes).await;
    all.iter().filter_map(|o| pod_metrics(o, measured.get(o.str_at(&["spec", "nodeName"]))?)).collect()
}

async fn pod(server: &Inner, namespace: &str, name: &str) -> Result<Value, Status> {
    let pod = server.registry.read("", "pods", namespace, name).ok_or_else(|| Status::not_found("", "pods", name))?;
    let node = server.registry.read("", "nodes", "", pod.str_at(&["spec", "nodeName"]));
    let measured = measure(server, node.into_iter().collect()).await;
    let own = measured.get(pod.str_at(&["spec", "nodeName"])).filter(|_| is_running(&pod)).and_then(|m| pod_metrics(&pod, m));
    let mut value = own.ok_or_else(|| Status::not_found(GROUP, "podmetrics", &format!("{namespace}/{name}")))?;
    typed(&mut value, "PodMetrics");
    Ok(value)
}

fn typed(value: &mut Value, kind: &str) {
    value["kind"] = kind.into();
    value["apiVersion"] = format!("{GROUP}/{VERSION}").into();
}

fn metadata(o: &Object) -> Value {
    let mut m = json!({"name": o.name(), "creationTimestamp": now()});
    if !o.namespace().is_empty() {
        m["namespace"] = o.namespace().into();
    }
    let labels = o.at(&["metadata", "labels"]);
    if labels.as_object().is_some_and(|l| !l.is_empty()) {
        m["labels"] = labels.clone();
    }
    m
}

fn usage(u: &Use) -> Value {
    let whole = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let (cpu, memory) = (Quantity::from_nano(whole(u.nano_cores), Format::DecimalSi), Quantity::new(whole(u.memory_bytes), Format::BinarySi));
    json!({"cpu": cpu.to_string(), "memory": memory.to_string()})
}

fn node_metrics(o: &Object, m: &Measured) -> Value {
    json!({"metadata": metadata(o), "timestamp": m.node.time(), "window": m.node.window(), "usage": usage(&m.node)})
}

/// `None` until every running container has been measured.
fn pod_metrics(o: &Object, m: &Measured) -> Option<Value> {
    let containers = m.containers.get(&(o.namespace().to_owned(), o.name().to_owned()))?;
    let listed = ["initContainerStatuses", "containerStatuses"].into_iter().flat_map(|f| o.at(&["status", f]).as_array().into_iter().flatten());
    let running = listed.filter(|s| !s["state"]["running"].is_null()).filter_map(|s| s["name"].as_str());
    if running.into_iter().any(|name| !containers.contains_key(name)) {
        return None;
    }
    // All are of one reading; the window is the shortest.
    let first = containers.values().min_by(|a, b| a.window_seconds.total_cmp(&b.window_seconds))?;
    let all: Vec<Value> = containers.iter().map(|(name, u)| json!({"name": name, "usage": usage(u)})).collect();
    Some(json!({"metadata": metadata(o), "timestamp": first.time(), "window": first.window(), "containers": all}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_told_once_all_its_running_containers_are_measured() {
        let o = Object(json!({"metadata": {"name": "p", "namespace": "n", "labels": {"a": "b"}},
            "status": {"phase": "Running", "containerStatuses": [{"name": "a", "state": {"running": {}}}, {"name": "b", "state": {"running": {}}}, {"name": "c", "state": {"terminated": {}}}]}}));
        let one = |window_seconds| Use { at_seconds: 1_700_000_000.0, window_seconds, nano_cores: 5, memory_bytes: 2048 };
        let mut m = Measured { node: one(9.0), containers: Default::default() };
        let key = ("n".to_owned(), "p".to_owned());
        m.containers.entry(key.clone()).or_default().insert("a".into(), one(9.0));
        assert_eq!(pod_metrics(&o, &m), None);
        m.containers.entry(key).or_default().insert("b".into(), one(4.5));
        let told = pod_metrics(&o, &m).expect("both are measured");
        assert_eq!((&told["window"], &told["timestamp"], &told["metadata"]["labels"]["a"]), (&json!("4.5s"), &json!("2023-11-14T22:13:20Z"), &json!("b")));
        assert_eq!(told["containers"], json!([{"name": "a", "usage": {"cpu": "5n", "memory": "2Ki"}}, {"name": "b", "usage": {"cpu": "5n", "memory": "2Ki"}}]));
    }
}
