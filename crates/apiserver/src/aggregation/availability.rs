//! Whether a remote server can be used: its Service, that one's port and endpoints, and an answer to discovery.
//!
//! Looked at when the Service or its endpoints change, every 30 s, and after a failure sooner. Reasons and texts:
//! k8s.io/kube-aggregator/pkg/controllers/status/remote.

use super::backend::{Remote, aggregator, identify};
use super::documents;
use super::registration::{set_available, write_status};
use super::{GROUP, PLURAL};
use crate::server::Inner;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http::Request;
use keles_serve::body;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const CHECK_EVERY: Duration = Duration::from_secs(30);
/// The pause after a failure; it doubles up to [`CHECK_EVERY`].
const FIRST_RETRY: Duration = Duration::from_secs(5);
/// Tries made at once: an endpoint of several may be down.
const TRIES: usize = 5;
const TRY_TIMEOUT: Duration = Duration::from_secs(6);
/// A status that others keep overtaking waits for the next check.
const WRITES_MAX: usize = 5;

struct Finding {
    available: bool,
    reason: &'static str,
    message: String,
}

/// Revisions of what a finding rests on.
#[derive(PartialEq)]
struct Seen {
    service: Option<u64>,
    slices: Vec<(String, u64)>,
}

/// Checks until stopped; says what it found in the APIService's status and keeps the server's documents.
pub async fn follow(server: Arc<Inner>, remote: Arc<Remote>, stop: CancellationToken) {
    let never = || watch::channel(0).1;
    let mut services = server.registry.subscribe("", "services").unwrap_or_else(never);
    let mut slices = server.registry.subscribe("discovery.k8s.io", "endpointslices").unwrap_or_else(never);
    let mut retry = FIRST_RETRY;
    loop {
        services.borrow_and_update();
        slices.borrow_and_update();
        let seen = see(&server, &remote);
        let round = async {
            let found = check(&server, &remote).await;
            remote.set_available(found.available);
            say(&server, &remote, &found).await;
            if remote.set_documents(documents::renew(&server, &remote).await) {
                server.registry.touch_kinds();
            }
            found.available
        };
        let available = tokio::select! {
            () = stop.cancelled() => return,
            a = round => a,
        };
        let pause = if available { CHECK_EVERY } else { retry };
        retry = if available { FIRST_RETRY } else { (retry * 2).min(CHECK_EVERY) };
        let due = tokio::time::sleep(pause);
        tokio::pin!(due);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = &mut due => break,
                r = services.changed() => if r.is_err() { return },
                r = slices.changed() => if r.is_err() { return },
            }
            if see(&server, &remote) != seen {
                retry = FIRST_RETRY;
                break;
            }
        }
    }
}

fn see(server: &Inner, remote: &Remote) -> Seen {
    let s = &remote.spec;
    let slices = server.registry.peek_all("discovery.k8s.io", "endpointslices");
    let own = slices.values().filter(|o| o.namespace() == s.namespace && o.label("kubernetes.io/service-name") == Some(&s.name));
    Seen { service: server.registry.peek("", "services", &s.namespace, &s.name).map(|o| o.revision), slices: own.map(|o| (o.name().to_owned(), o.revision)).collect() }
}

async fn check(server: &Arc<Inner>, remote: &Arc<Remote>) -> Finding {
    if let Err(f) = endpoints(server, remote) {
        return f;
    }
    let mut tries: FuturesUnordered<_> = (0..TRIES).map(|_| discover(server, remote)).collect();
    let mut last = String::new();
    while let Some(tried) = tries.next().await {
        match tried {
            Ok(()) => return Finding { available: true, reason: "Passed", message: "all checks passed".into() },
            Err(e) => last = e,
        }
    }
    Finding { available: false, reason: "FailedDiscoveryCheck", message: last }
}

/// The Service of type ClusterIP listens on the port and has endpoints there.
fn endpoints(server: &Inner, remote: &Remote) -> Result<(), Finding> {
    let s = &remote.spec;
    let missing = |reason, message| Finding { available: false, reason, message };
    let (name, ns) = (&s.name, &s.namespace);
    let service = server.registry.read("", "services", ns, name).ok_or_else(|| missing("ServiceNotFound", format!("service/{name} in {ns:?} is not present")))?;
    if !matches!(service.str_at(&["spec", "type"]), "ClusterIP" | "") {
        return Ok(());
    }
    let ports = service.at(&["spec", "ports"]).as_array().cloned().unwrap_or_default();
    let port = ports.iter().find(|p| p["port"] == s.port).ok_or_else(|| missing("ServicePortError", format!("service/{name} in {ns:?} is not listening on port {}", s.port)))?;
    let port_name = port["name"].as_str().unwrap_or_default();
    let all = server.registry.read_all("discovery.k8s.io", "endpointslices", ns);
    let own: Vec<_> = all.iter().filter(|o| o.label("kubernetes.io/service-name") == Some(name)).collect();
    if own.is_empty() {
        return Err(missing("EndpointsNotFound", format!("cannot find endpointslices for service/{name} in {ns:?}")));
    }
    let active = own.iter().any(|slice| {
        let list = |field: &str| slice.at(&[field]).as_array().cloned().unwrap_or_default();
        let ready = list("endpoints").iter().any(|e| e["conditions"]["ready"] != false && e["addresses"].as_array().is_some_and(|a| !a.is_empty()));
        ready && list("ports").iter().any(|p| p["name"].as_str().unwrap_or_default() == port_name)
    });
    if active { Ok(()) } else { Err(missing("MissingEndpoints", format!("endpointslices for service/{name} in {ns:?} have no addresses with port name {port_name:?}"))) }
}

async fn discover(server: &Inner, remote: &Remote) -> Result<(), String> {
    let to = remote.resolve(server)?;
    let path = remote.spec.path();
    let url = format!("https://{to}{path}");
    let mut request = Request::get(&path).body(body::empty()).map_err(|e| e.to_string())?;
    identify(request.headers_mut(), &aggregator());
    let why = match tokio::time::timeout(TRY_TIMEOUT, remote.send(&to, request)).await {
        Err(_) => return Err(format!("timed out waiting for {url}")),
        Ok(Ok(answer)) if answer.status().is_success() => return Ok(()),
        Ok(Ok(answer)) => format!("bad status from {url}: {}", answer.status().as_u16()),
        Ok(Err(e)) => format!("Get {url:?}: {e}"),
    };
    Err(format!("failing or missing response from {url}: {why}"))
}

/// Writes the condition into the status of the APIService as it is now.
async fn say(server: &Inner, remote: &Remote, found: &Finding) {
    for _ in 0..WRITES_MAX {
        let Ok(Some(o)) = server.registry.read_fresh(GROUP, PLURAL, "", &remote.spec.object_name()).await else { return };
        let Some(new) = set_available(&o, found.available, found.reason, &found.message) else { return };
        match write_status(server, &new).await {
            Err(s) if s.code == 409 => {}
            Err(status) if status.code != 404 => return tracing::warn!(name = o.name(), %status, "the availability of an APIService was not written"),
            _ => return,
        }
    }
}
