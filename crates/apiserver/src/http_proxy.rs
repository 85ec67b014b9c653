//! `pods/NAME/proxy`, `services/NAME/proxy`, `nodes/NAME/proxy`: any HTTP request, handed on to the pod, endpoint or node.
//!
//! Names may carry scheme and port: `https:web:metrics`. Texts: kubernetes pkg/registry/core/{pod,service}. Bodies stream both ways and
//! upgrades pass. Deliberately absent: rewriting of links in HTML pages; redirects get their Location rewritten.

use crate::chain::{Asked, wants_upgrade};
use crate::pod_streams::node_address_of;
use crate::respond;
use crate::server::Inner;
use crate::upgrade;
use http::header::{HOST, HeaderValue, LOCATION};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use keles_api::{Object, Status};
use keles_registry::Registry;
use keles_serve::{Body, BoxError};
use rand::seq::IndexedRandom;
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Where a request goes.
struct Target {
    https: bool,
    host: IpAddr,
    port: u16,
}

/// `[scheme:]name[:port]`
struct Id<'a> {
    scheme: &'a str,
    name: &'a str,
    port: &'a str,
}

impl<'a> Id<'a> {
    fn parse(id: &'a str) -> Option<Id<'a>> {
        let parts: Vec<&str> = id.split(':').collect();
        let (scheme, name, port) = match parts.as_slice() {
            [name] => ("", *name, ""),
            [name, port] => ("", *name, *port),
            [scheme @ ("" | "http" | "https"), name, port] => (*scheme, *name, *port),
            _ => return None,
        };
        (!name.is_empty()).then_some(Id { scheme, name, port })
    }
}

/// The path after `/proxy`, as the client wrote it; `None` when there is not even a slash.
fn path_after(full: &str, namespaced: bool) -> Option<&str> {
    // "", api, v1, [namespaces, ns,] plural, name, proxy
    let before = if namespaced { 8 } else { 6 };
    full.match_indices('/').nth(before - 1).map(|(at, _)| &full[at..])
}

pub async fn serve(server: &Inner, asked: Asked) -> Result<Response<Body>, Status> {
    crate::connect::admit(server, &asked.user, &asked.info, &asked.query).await?;
    let full = asked.request.uri().path().to_owned();
    let namespaced = asked.info.resource != "nodes";
    let Some(path) = path_after(&full, namespaced) else {
        return match *asked.request.method() {
            Method::GET | Method::HEAD => Ok(with_slash(&asked)),
            _ => send(server, asked, "/", &full).await,
        };
    };
    let path = path.to_owned();
    send(server, asked, &path, full.strip_suffix(&path).unwrap_or_default()).await
}

/// Relative links of a page only work below a slash.
fn with_slash(asked: &Asked) -> Response<Body> {
    let query = asked.request.uri().query().map(|q| format!("?{q}")).unwrap_or_default();
    let mut r = respond::text(StatusCode::MOVED_PERMANENTLY, "");
    if let Ok(to) = HeaderValue::from_str(&format!("{}/{query}", asked.request.uri().path())) {
        r.headers_mut().insert(LOCATION, to);
    }
    r
}

async fn send(server: &Inner, asked: Asked, path: &str, prefix: &str) -> Result<Response<Body>, Status> {
    let (info, mut request) = (asked.info, asked.request);
    let id = Id::parse(&info.name).ok_or_else(|| Status::bad_request(format!("invalid {} request {:?}", info.resource.trim_end_matches('s'), info.name)))?;
    let upgraded = if wants_upgrade(request.method(), request.headers()) { Some(upgrade::take(&mut request)?) } else { None };
    let query = request.uri().query().map(|q| format!("?{q}")).unwrap_or_default();
    let uri: Uri = format!("{path}{query}").parse().map_err(|_| Status::bad_request("the path is not one"))?;
    let (parts, body) = request.into_parts();
    let mut onward = Request::new(body);
    *onward.method_mut() = parts.method;
    *onward.uri_mut() = uri;
    if upgraded.is_some() {
        upgrade::copy_headers(&parts.headers, onward.headers_mut())
    } else {
        upgrade::copy_end_to_end(&parts.headers, onward.headers_mut())
    }
    let answer = match info.resource.as_str() {
        "nodes" => {
            let node = server.registry.read("", "nodes", "", id.name).ok_or_else(|| Status::not_found("", "nodes", id.name))?;
            let to = node_address_of(&node)?;
            if !id.port.is_empty() && id.port != to.port.to_string() {
                return Err(Status::not_implemented("the proxy to a node's port other than its kubelet's"));
            }
            set_host(&mut onward, &format!("{}:{}", to.host, to.port));
            server.kubelets.send(&to, onward).await?
        }
        plural => {
            let to = if plural == "pods" { pod(server, &info.namespace, &id)? } else { service(server, &info.namespace, &id, &info.name)? };
            set_host(&mut onward, &format!("{}:{}", to.host, to.port));
            dial(server, &to, onward).await?
        }
    };
    match upgraded {
        Some(client) if answer.status() == StatusCode::SWITCHING_PROTOCOLS => Ok(upgrade::join(client, answer, &server.stops)),
        _ => Ok(hand_back(answer, prefix)),
    }
}

fn set_host(r: &mut Request<Body>, host: &str) {
    if let Ok(v) = HeaderValue::from_str(host) {
        r.headers_mut().insert(HOST, v);
    }
}

fn hand_back(answer: Response<Incoming>, prefix: &str) -> Response<Body> {
    let (parts, body) = answer.into_parts();
    let mut r = Response::new(body.map_err(BoxError::from).boxed_unsync());
    *r.status_mut() = parts.status;
    upgrade::copy_end_to_end(&parts.headers, r.headers_mut());
    // A redirect within the backend stays within the proxy.
    let moved = parts.headers.get(LOCATION).and_then(|l| l.to_str().ok()).filter(|l| l.starts_with('/')).and_then(|l| HeaderValue::from_str(&format!("{prefix}{l}")).ok());
    if let Some(l) = moved {
        r.headers_mut().insert(LOCATION, l);
    }
    r
}

/// Addresses that lead to this machine or its metadata services are none of a pod's (upstream's IsProxyableIP).
fn proxyable(ip: &str) -> Result<IpAddr, Status> {
    let ip: IpAddr = ip.parse().map_err(|_| Status::bad_request("address not allowed"))?;
    let closed = match ip {
        IpAddr::V4(v) => v.is_loopback() || v.is_link_local() || v.is_multicast() || v.is_unspecified(),
        IpAddr::V6(v) => v.is_loopback() || v.is_multicast() || v.is_unspecified() || (v.segments()[0] & 0xffc0) == 0xfe80,
    };
    if closed { Err(Status::bad_request("address not allowed")) } else { Ok(ip) }
}

fn list(v: &Value) -> impl Iterator<Item = &Value> {
    v.as_array().into_iter().flatten()
}

fn port_of(v: &Value) -> Option<u16> {
    v.as_u64().and_then(|p| u16::try_from(p).ok())
}

fn pod(server: &Inner, namespace: &str, id: &Id<'_>) -> Result<Target, Status> {
    let pod = server.registry.read("", "pods", namespace, id.name).ok_or_else(|| Status::not_found("", "pods", id.name))?;
    let https = id.scheme == "https";
    let declared = || list(pod.at(&["spec", "containers"])).flat_map(|c| list(&c["ports"])).find_map(|p| port_of(&p["containerPort"]));
    let port = match id.port {
        "" => declared().unwrap_or(if https { 443 } else { 80 }),
        p => p.parse().map_err(|_| Status::bad_request(format!("invalid pod request \"{}:{p}\"", id.name)))?,
    };
    Ok(Target { https, host: proxyable(pod.str_at(&["status", "podIP"]))?, port })
}

fn service(server: &Inner, namespace: &str, id: &Id<'_>, whole: &str) -> Result<Target, Status> {
    let (ip, port) = endpoint(&server.registry, namespace, id, whole)?;
    Ok(Target { https: id.scheme == "https", host: proxyable(&ip)?, port })
}

/// Where a Service's port leads now: one of its ready endpoints. For calls of the server's own, whose messages name one `service`.
pub fn service_address(registry: &Registry, namespace: &str, name: &str, port: u16) -> Result<SocketAddr, Status> {
    let port = port.to_string();
    if registry.read("", "services", namespace, name).is_none() {
        return Err(Status::not_found("", "service", name));
    }
    let (ip, port) = endpoint(registry, namespace, &Id { scheme: "https", name, port: &port }, name)?;
    let ip: IpAddr = ip.parse().map_err(|_| Status::unavailable(format!("the endpoint {ip:?} of service {name:?} is no address")))?;
    Ok(SocketAddr::new(ip, port))
}

fn endpoint(registry: &Registry, namespace: &str, id: &Id<'_>, whole: &str) -> Result<(String, u16), Status> {
    let service = registry.read("", "services", namespace, id.name).ok_or_else(|| Status::not_found("", "services", id.name))?;
    let port_name = service_port(&service, id)?;
    let slices = registry.read_all("discovery.k8s.io", "endpointslices", namespace);
    let mut all: Vec<(String, u16)> = Vec::new();
    for s in slices.iter().filter(|s| s.label("kubernetes.io/service-name") == Some(id.name)) {
        let Some(port) = list(s.at(&["ports"])).find(|p| p["name"].as_str().unwrap_or_default() == port_name).and_then(|p| port_of(&p["port"])) else { continue };
        let ready = list(s.at(&["endpoints"])).filter(|e| e["conditions"]["ready"] != false);
        all.extend(ready.flat_map(|e| list(&e["addresses"])).filter_map(|a| Some((a.as_str()?.to_owned(), port))));
    }
    all.choose(&mut rand::rng()).cloned().ok_or_else(|| Status::unavailable(format!("no endpoints available for service {whole:?}")))
}

/// The name of the Service's port that is meant: by number, by name, or the only one.
fn service_port(service: &Object, id: &Id<'_>) -> Result<String, Status> {
    let ports: Vec<&Value> = list(service.at(&["spec", "ports"])).collect();
    let name = |p: &Value| p["name"].as_str().unwrap_or_default().to_owned();
    let found = match (id.port, ports.as_slice()) {
        ("", [one]) => Some(name(one)),
        ("", _) => Some(String::new()),
        (asked, all) => all.iter().find(|p| name(p) == asked || p["port"].as_u64().is_some_and(|n| n.to_string() == asked)).map(|p| name(p)),
    };
    found.ok_or_else(|| Status::unavailable(format!("no service port {:?} found for service {:?}", id.port, id.name)))
}

async fn dial(server: &Inner, to: &Target, request: Request<Body>) -> Result<Response<Incoming>, Status> {
    let unreachable = |why: &dyn std::fmt::Display| Status::unavailable(format!("error trying to reach service: dial tcp {}:{}: {why}", to.host, to.port));
    let tcp = match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect((to.host, to.port))).await {
        Ok(Ok(tcp)) => tcp,
        Ok(Err(e)) => return Err(unreachable(&e)),
        Err(_) => return Err(unreachable(&"i/o timeout")),
    };
    let _ = tcp.set_nodelay(true);
    let answer = if to.https {
        let tls = server.kubelets.any_certificate(to.host, tcp).await.map_err(|e| unreachable(&e))?;
        exchange(tls, request).await
    } else {
        exchange(tcp, request).await
    };
    answer.map_err(|e| unreachable(&e))
}

async fn exchange<I: AsyncRead + AsyncWrite + Unpin + Send + 'static>(io: I, request: Request<Body>) -> Result<Response<Incoming>, hyper::Error> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a proxied connection ended");
        }
    });
    sender.send_request(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_carry_scheme_and_port() {
        let brief = |id: &str| Id::parse(id).map(|i| format!("{}|{}|{}", i.scheme, i.name, i.port));
        assert_eq!(brief("web").unwrap(), "|web|");
        assert_eq!(brief("web:80").unwrap(), "|web|80");
        assert_eq!(brief("https:web:metrics").unwrap(), "https|web|metrics");
        assert_eq!(brief(":web:").unwrap(), "|web|");
        assert!(brief("ftp:web:80").is_none() && brief("").is_none());
    }

    #[test]
    fn the_path_goes_on_as_it_was_written() {
        assert_eq!(path_after("/api/v1/namespaces/a/services/web/proxy/x%2Fy/", true), Some("/x%2Fy/"));
        assert_eq!(path_after("/api/v1/namespaces/a/services/web/proxy/", true), Some("/"));
        assert_eq!(path_after("/api/v1/namespaces/a/services/web/proxy", true), None);
        assert_eq!(path_after("/api/v1/nodes/n1/proxy/pods", false), Some("/pods"));
    }

    #[test]
    fn this_machine_is_not_reached_through_pods() {
        assert!(proxyable("127.0.0.1").is_err() && proxyable("169.254.169.254").is_err() && proxyable("").is_err());
        assert!(proxyable("10.42.0.5").is_ok());
    }
}
