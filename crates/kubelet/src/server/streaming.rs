//! exec, attach and port-forward: which container is meant; `keles-streaming` joins its streams with the client's.

use super::{Asked, Query, text};
use crate::agent::Agent;
use crate::pod_worker::View;
use crate::pods::Pods;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use keles_runtime::api::ContainerState;
use keles_serve::Body;
use keles_serve::streams::StreamError;
use keles_serve::streams::exec::Wants;
use std::sync::Arc;

fn wants(query: &Query) -> Wants {
    // The kubelet's own names, and the API's for whoever passes them through.
    let either = |a: &str, b: &str| query.flag(a) || query.flag(b);
    let tty = query.flag("tty");
    Wants { stdin: either("input", "stdin"), stdout: either("output", "stdout"), stderr: either("error", "stderr") && !tty, tty }
}

fn refused(error: StreamError) -> Response<Body> {
    text(error.code(), error.to_string())
}

/// The running container of that name, of whatever kind: ordinary, init or ephemeral.
fn find(view: &View, container: &str) -> Option<String> {
    let named = view.records.iter().filter(|record| record.name == container && record.state == ContainerState::Running);
    named.max_by_key(|record| record.attempt).map(|record| record.id.clone())
}

/// The same by the pod's name.
#[cfg(test)]
pub fn running_container(pods: &Pods, namespace: &str, pod: &str, container: &str) -> Option<String> {
    find(&pods.view(namespace, pod)?, container)
}

/// The same; the error is the answer.
pub(super) fn running(pods: &Pods, asked: Asked<'_>) -> Result<String, Response<Body>> {
    let Some(view) = asked.view(pods) else {
        return Err(text(StatusCode::NOT_FOUND, "pod does not exist"));
    };
    let container = asked.container;
    find(&view, container).ok_or_else(|| text(StatusCode::INTERNAL_SERVER_ERROR, format!("container not found (\"{container}\")")))
}

pub async fn exec(agent: Arc<Agent>, pods: &Pods, query: &Query, names: Asked<'_>, mut request: Request<Incoming>) -> Response<Body> {
    let id = match running(pods, names) {
        Ok(id) => id,
        Err(answer) => return answer,
    };
    let args = query.all("command");
    if args.is_empty() {
        return text(StatusCode::BAD_REQUEST, "you must specify at least 1 command for the container");
    }
    keles_streaming::exec(agent.runtime.clone(), id, args, wants(query), &mut request).unwrap_or_else(refused)
}

pub async fn attach(agent: Arc<Agent>, pods: &Pods, query: &Query, names: Asked<'_>, mut request: Request<Incoming>) -> Response<Body> {
    match running(pods, names) {
        Ok(id) => keles_streaming::attach(agent.runtime.clone(), id, wants(query), &mut request).unwrap_or_else(refused),
        Err(answer) => answer,
    }
}

pub async fn port_forward(agent: Arc<Agent>, pods: &Pods, query: &Query, asked: Asked<'_>, mut request: Request<Incoming>) -> Response<Body> {
    let pod = asked.pod;
    let Some(view) = asked.view(pods) else {
        return text(StatusCode::NOT_FOUND, "pod does not exist");
    };
    let Some(sandbox) = view.sandbox else {
        return text(StatusCode::INTERNAL_SERVER_ERROR, format!("pod {pod} is not running"));
    };
    let ports: Vec<u16> = query.all("port").iter().chain(&query.all("ports")).flat_map(|list| list.split(',')).filter_map(|port| port.parse().ok()).collect();
    keles_streaming::port_forward(agent.runtime.clone(), sandbox, &ports, &mut request).unwrap_or_else(refused)
}
