//! `pods/log`, `exec`, `attach`, `portforward`: checked here, then handed through to the node byte for byte.
//!
//! Texts and rules: kubernetes pkg/registry/core/pod/strategy.go. Upgrades (WebSocket, SPDY) pass unchanged: the node speaks them.

use crate::chain::{Asked, method_not_allowed};
use crate::kubelet::NodeAddress;
use crate::path::RequestInfo;
use crate::respond;
use crate::server::Inner;
use crate::upgrade;
use http::header::{CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use keles_api::{Object, Path, Problems, Status};
use keles_auth::{Attributes, User};
use keles_registry::Query;
use keles_serve::body;
use keles_serve::streams::output;
use keles_serve::{Body, BoxError};

/// The kubelet's port where a node does not say.
const KUBELET_PORT: u16 = 10250;
/// How much of a node's error text is passed on.
const ERROR_BYTES_MAX: usize = 1024;

pub async fn serve(server: &Inner, asked: Asked) -> Result<Response<Body>, Status> {
    let what = asked.info.subresource.as_str();
    let method = asked.request.method();
    let allowed = if what == "log" { *method == Method::GET } else { matches!(*method, Method::GET | Method::POST) };
    if !allowed {
        return Err(method_not_allowed());
    }
    if what != "log" && asked.info.verb != "create" {
        may_create(server, &asked.user, &asked.info).await?;
    }
    if what != "log" {
        crate::connect::admit(server, &asked.user, &asked.info, &asked.query).await?;
    }
    let (namespace, name) = (asked.info.namespace.as_str(), asked.info.name.as_str());
    let pod = server.registry.read("", "pods", namespace, name).ok_or_else(|| Status::not_found("", "pods", name))?;
    match what {
        "log" => log(server, asked, &pod).await,
        "portforward" => {
            let query = pairs(asked.query.all("ports").map(|p| ("port", p.to_owned())));
            stream(server, asked, &pod, "portForward", "", query).await
        }
        _ => {
            let container = container(&pod, asked.query.text("container"))?;
            let kubelet = if what == "exec" { "exec" } else { "attach" };
            let query = stream_query(&asked.query, what == "exec")?;
            stream(server, asked, &pod, kubelet, &container, query).await
        }
    }
}

/// WebSockets open with GET, which RBAC reads as `get`; to run something also asks for `create`, as POST does.
async fn may_create(server: &Inner, user: &User, i: &RequestInfo) -> Result<(), Status> {
    let a = Attributes { verb: "create", version: "v1", resource: "pods", subresource: &i.subresource, namespace: &i.namespace, name: &i.name, ..Attributes::of(user) };
    server.authorize(&a).await.map(|_| ())
}

fn names(pod: &Object, field: &str) -> Vec<String> {
    pod.at(&["spec", field]).as_array().into_iter().flatten().filter_map(|c| c["name"].as_str().map(str::to_owned)).collect()
}

/// The container that is meant: the named one, or the only one.
fn container(pod: &Object, asked: &str) -> Result<String, Status> {
    let (main, init) = (names(pod, "containers"), names(pod, "initContainers"));
    if !asked.is_empty() {
        let known = main.iter().chain(&init).chain(&names(pod, "ephemeralContainers")).any(|n| n == asked);
        return if known { Ok(asked.into()) } else { Err(Status::bad_request(format!("container {asked} is not valid for pod {}", pod.name()))) };
    }
    if let [one] = main.as_slice() {
        return Ok(one.clone());
    }
    let mut why = format!("a container name must be specified for pod {}", pod.name());
    if !main.is_empty() {
        why.push_str(&format!(", choose one of: [{}]", main.join(" ")));
        if !init.is_empty() {
            why.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
        }
    }
    Err(Status::bad_request(why))
}

fn node_address(server: &Inner, pod: &Object) -> Result<NodeAddress, Status> {
    let name = pod.str_at(&["spec", "nodeName"]);
    if name.is_empty() {
        return Err(Status::bad_request(format!("pod {} does not have a host assigned", pod.name())));
    }
    let node = server.registry.read("", "nodes", "", name).ok_or_else(|| Status::not_found("", "nodes", name))?;
    node_address_of(&node)
}

/// Where a node says its kubelet listens.
pub fn node_address_of(node: &Object) -> Result<NodeAddress, Status> {
    let addresses = node.at(&["status", "addresses"]);
    let of = |kind: &str| addresses.as_array().into_iter().flatten().find(|a| a["type"] == kind).and_then(|a| a["address"].as_str());
    let host =
        ["InternalIP", "ExternalIP", "Hostname"].into_iter().find_map(of).ok_or_else(|| Status::internal(format!("no preferred addresses found; known addresses: {addresses}")))?;
    let port = node.at(&["status", "daemonEndpoints", "kubeletEndpoint", "Port"]).as_u64().and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0);
    Ok(NodeAddress { node: node.name().into(), host: host.into(), port: port.unwrap_or(KUBELET_PORT) })
}

fn pairs<'a>(all: impl Iterator<Item = (&'a str, String)>) -> String {
    all.map(|(k, v)| format!("{k}={}", encode(&v))).collect::<Vec<_>>().join("&")
}

fn encode(s: &str) -> String {
    s.bytes().map(|b| if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) { (b as char).to_string() } else { format!("%{b:02X}") }).collect()
}

/// Options of exec and attach in the kubelet's words.
fn stream_query(q: &Query, exec: bool) -> Result<String, Status> {
    let mut out: Vec<(&str, String)> = Vec::new();
    for (ours, theirs) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
        if q.flag(ours) {
            out.push((theirs, "1".into()));
        }
    }
    if !["stdin", "stdout", "stderr"].iter().any(|s| q.flag(s)) {
        return Err(Status::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
    }
    if exec {
        let command: Vec<_> = q.all("command").map(|c| ("command", c.to_owned())).collect();
        if command.is_empty() {
            return Err(Status::bad_request("you must specify at least 1 command"));
        }
        out.extend(command);
    }
    Ok(pairs(out.into_iter()))
}

/// Options of a log request in the kubelet's words, checked as upstream does.
fn log_query(q: &Query, pod: &str) -> Result<String, Status> {
    let mut p = Problems::new();
    let number = |name: &str| -> Result<Option<i64>, Status> {
        match q.get(name) {
            None | Some("") => Ok(None),
            Some(v) => v.parse().map(Some).map_err(|_| Status::bad_request(format!("strconv.ParseInt: parsing {v:?}: invalid syntax"))),
        }
    };
    let (tail, limit, since) = (number("tailLines")?, number("limitBytes")?, number("sinceSeconds")?);
    if let Some(n) = tail.filter(|n| *n < 0) {
        p.invalid(&Path::new("tailLines"), n, "must be greater than or equal to 0");
    }
    if let Some(n) = limit.filter(|n| *n < 1) {
        p.invalid(&Path::new("limitBytes"), n, "must be greater than 0");
    }
    match (since, q.get("sinceTime")) {
        (Some(_), Some(_)) => p.forbidden(&Path::root(), "at most one of `sinceTime` or `sinceSeconds` may be specified"),
        (Some(n), None) if n < 1 => p.invalid(&Path::new("sinceSeconds"), n, "must be greater than 0"),
        _ => {}
    }
    if !p.is_empty() {
        return Err(Status::invalid("", "PodLogOptions", pod, &p));
    }
    let mut out: Vec<(&str, String)> = Vec::new();
    for name in ["follow", "previous", "timestamps"] {
        if q.flag(name) {
            out.push((name, "true".into()));
        }
    }
    for name in ["sinceSeconds", "sinceTime", "tailLines", "limitBytes", "stream"] {
        out.extend(q.get(name).filter(|v| !v.is_empty()).map(|v| (name, v.to_owned())));
    }
    Ok(pairs(out.into_iter()))
}

fn kubelet_uri(to: &NodeAddress, what: &str, pod: &Object, container: &str, query: &str) -> Result<Uri, Status> {
    let mut path = format!("/{what}/{}/{}", pod.namespace(), pod.name());
    if !container.is_empty() {
        path.push('/');
        path.push_str(container);
    }
    if !query.is_empty() {
        path.push('?');
        path.push_str(query);
    }
    path.parse().map_err(|_| Status::bad_request(format!("no path for pod {} on node {}", pod.name(), to.node)))
}

/// The log as the answer's body, or in the messages of a WebSocket for a client that asks for one.
async fn log(server: &Inner, mut asked: Asked, pod: &Object) -> Result<Response<Body>, Status> {
    let answer = log_of(server, &asked.query, pod).await?;
    match output::upgrade(&mut asked.request).map_err(|e| Status::bad_request(e.to_string()))? {
        None => Ok(answer),
        Some((switch, upgraded)) => {
            let (sending, stops) = (upgraded.send(answer.into_body()), server.stops.clone());
            tokio::spawn(async move {
                tokio::select! {
                    sent = sending => if let Err(error) = sent { tracing::debug!(%error, "a log over WebSocket ended early") },
                    () = stops.cancelled() => {}
                }
            });
            Ok(switch.map(|()| body::empty()))
        }
    }
}

async fn log_of(server: &Inner, options: &Query, pod: &Object) -> Result<Response<Body>, Status> {
    let query = log_query(options, pod.name())?;
    let container = container(pod, options.text("container"))?;
    if pod.str_at(&["spec", "nodeName"]).is_empty() {
        // Nothing has run yet: an empty log, as upstream answers.
        return Ok(respond::text(StatusCode::OK, ""));
    }
    let to = node_address(server, pod)?;
    let uri = kubelet_uri(&to, "containerLogs", pod, &container, &query)?;
    let request = Request::get(uri).header(HOST, format!("{}:{}", to.host, to.port)).body(body::empty()).map_err(Status::internal)?;
    let response = server.kubelets.send(&to, request).await?;
    if !response.status().is_success() {
        return Err(node_error(response, pod.name()).await);
    }
    let mut r = Response::new(response.into_body().map_err(BoxError::from).boxed_unsync());
    r.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(r)
}

/// A node's refusal as a Status.
async fn node_error(response: Response<hyper::body::Incoming>, pod: &str) -> Status {
    let code = response.status().as_u16();
    let text =
        body::read(response.into_body(), 64 * ERROR_BYTES_MAX).await.map(|b| String::from_utf8_lossy(&b[..b.len().min(ERROR_BYTES_MAX)]).trim_end().to_owned()).unwrap_or_default();
    match code {
        400 => Status::bad_request(text),
        500 => Status::internal(text),
        404 => Status::failure(404, "NotFound", format!("the server could not find the requested resource ({text})")).with_details(about(pod, &text)),
        other => Status::failure(other, "", text.clone()).with_details(about(pod, &text)),
    }
}

fn about(pod: &str, text: &str) -> keles_api::status::Details {
    let cause = keles_api::Cause { reason: "UnexpectedServerResponse".into(), message: text.into(), ..Default::default() };
    keles_api::status::Details { name: pod.into(), kind: "pods".into(), causes: vec![cause], ..Default::default() }
}

async fn stream(server: &Inner, asked: Asked, pod: &Object, what: &str, container: &str, query: String) -> Result<Response<Body>, Status> {
    let to = node_address(server, pod)?;
    let mut request = asked.request;
    let client = upgrade::take(&mut request)?;
    let mut onward = Request::new(body::empty());
    *onward.method_mut() = request.method().clone();
    *onward.uri_mut() = kubelet_uri(&to, what, pod, container, &query)?;
    upgrade::copy_headers(request.headers(), onward.headers_mut());
    onward.headers_mut().insert(HOST, HeaderValue::from_str(&format!("{}:{}", to.host, to.port)).map_err(Status::internal)?);
    let answer = server.kubelets.send(&to, onward).await?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(node_error(answer, pod.name()).await);
    }
    Ok(upgrade::join(client, answer, &server.stops))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(containers: &[&str], init: &[&str]) -> Object {
        let list = |n: &[&str]| n.iter().map(|n| json!({"name": n})).collect::<Vec<_>>();
        Object(json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": {"containers": list(containers), "initContainers": list(init)}}))
    }

    #[test]
    fn the_container_is_the_named_or_the_only_one() {
        assert_eq!(container(&pod(&["a"], &["i"]), "").unwrap(), "a");
        assert_eq!(container(&pod(&["a", "b"], &["i"]), "i").unwrap(), "i");
        assert_eq!(
            container(&pod(&["a", "b"], &["i"]), "").unwrap_err().message,
            "a container name must be specified for pod p, choose one of: [a b] or one of the init containers: [i]"
        );
        assert_eq!(container(&pod(&["a"], &[]), "x").unwrap_err().message, "container x is not valid for pod p");
    }

    #[test]
    fn options_reach_the_node_in_its_own_words() {
        let q = Query::parse("command=sh&command=-c&command=a%20b%26c&stdin=true&stdout=1&tty=true&container=x");
        assert_eq!(stream_query(&q, true).unwrap(), "input=1&output=1&tty=1&command=sh&command=-c&command=a%20b%26c");
        assert_eq!(stream_query(&Query::parse("command=sh"), true).unwrap_err().code, 400);
        assert_eq!(log_query(&Query::parse("follow=true&tailLines=5&pretty=1"), "p").unwrap(), "follow=true&tailLines=5");
        let bad = log_query(&Query::parse("tailLines=-1&limitBytes=0"), "p").unwrap_err();
        assert_eq!((bad.code, bad.details.unwrap().causes.len()), (422, 2));
    }
}
