//! exec, attach and port-forward: a client's streams joined with the runtime's.

use super::{Asked, Query, text};
use crate::agent::Agent;
use crate::pod_worker::View;
use crate::pods::Pods;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use keles_runtime::api::{ContainerState, ExecRequest, ExecStream, PortConnection};
use keles_serve::streams::exec::{ExecSession, Outcome, Wants};
use keles_serve::streams::{self, StreamError};
use keles_serve::{Body, body};
use std::sync::Arc;
use tokio::io::{AsyncWriteExt, copy};

fn wants(query: &Query) -> Wants {
    // The kubelet's own names, and the API's for whoever passes them through.
    let either = |a: &str, b: &str| query.flag(a) || query.flag(b);
    let tty = query.flag("tty");
    Wants { stdin: either("input", "stdin"), stdout: either("output", "stdout"), stderr: either("error", "stderr") && !tty, tty }
}

fn refused(error: &StreamError) -> Response<Body> {
    text(error.code(), error.to_string())
}

fn switched(answer: Response<()>) -> Response<Body> {
    answer.map(|()| body::empty())
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
    let wants = wants(query);
    let (answer, upgrade) = match streams::exec::upgrade(&mut request, wants) {
        Ok(both) => both,
        Err(error) => return refused(&error),
    };
    tokio::spawn(async move {
        let session = match upgrade.accept().await {
            Ok(session) => session,
            Err(error) => return tracing::debug!(%error, "exec session not set up"),
        };
        let asked = ExecRequest { args, tty: wants.tty, stdin: wants.stdin, stdout: wants.stdout, stderr: wants.stderr };
        match agent.runtime.exec(&id, asked).await {
            Ok(stream) => join(session, stream).await,
            Err(error) => session.finish(Outcome::Failed(format!("error executing command in container: {error}"))).await,
        }
    });
    switched(answer)
}

pub async fn attach(agent: Arc<Agent>, pods: &Pods, query: &Query, names: Asked<'_>, mut request: Request<Incoming>) -> Response<Body> {
    let id = match running(pods, names) {
        Ok(id) => id,
        Err(answer) => return answer,
    };
    let wants = wants(query);
    let (answer, upgrade) = match streams::exec::upgrade(&mut request, wants) {
        Ok(both) => both,
        Err(error) => return refused(&error),
    };
    tokio::spawn(async move {
        let session = match upgrade.accept().await {
            Ok(session) => session,
            Err(error) => return tracing::debug!(%error, "attach session not set up"),
        };
        let asked = ExecRequest { args: Vec::new(), tty: wants.tty, stdin: wants.stdin, stdout: wants.stdout, stderr: wants.stderr };
        match agent.runtime.attach(&id, asked).await {
            // Upstream reports an attach's end as success, whatever the container's exit code.
            Ok(stream) => join_with(session, stream, |_| Outcome::Exited(0)).await,
            Err(error) => session.finish(Outcome::Failed(format!("error attaching to container: {error}"))).await,
        }
    });
    switched(answer)
}

async fn join(session: ExecSession, stream: ExecStream) {
    join_with(session, stream, Outcome::Exited).await;
}

/// Moves bytes both ways until the command has ended and its output is delivered.
async fn join_with(mut session: ExecSession, stream: ExecStream, outcome: impl Fn(i32) -> Outcome) {
    session.established();
    let ExecStream { stdin, stdout, stderr, control } = stream;
    let control: Arc<dyn keles_runtime::api::ExecControl> = control.into();
    let input = session.stdin.take().zip(stdin).map(|(mut from, mut to)| {
        tokio::spawn(async move {
            let _ = copy(&mut from, &mut to).await;
            // The command sees the end of its input.
            let _ = to.shutdown().await;
        })
    });
    let mut sizes = std::mem::replace(&mut session.resize, tokio::sync::mpsc::channel(1).1);
    let resizer = {
        let control = control.clone();
        tokio::spawn(async move {
            while let Some(size) = sizes.recv().await {
                let _ = control.resize(size.width, size.height).await;
            }
        })
    };
    let (out, err) = (session.stdout.take(), session.stderr.take());
    let deliver = async {
        let output = async {
            match (stdout, out) {
                (Some(mut from), Some(mut to)) => copy(&mut from, &mut to).await.map(drop),
                _ => Ok(()),
            }
        };
        let errors = async {
            match (stderr, err) {
                (Some(mut from), Some(mut to)) => copy(&mut from, &mut to).await.map(drop),
                _ => Ok(()),
            }
        };
        tokio::try_join!(output, errors)
    };
    let delivered = deliver.await;
    if delivered.is_err() {
        // The client is gone: nobody waits for the command any more.
        let _ = control.kill().await;
    }
    let ended = control.wait().await;
    if let Some(input) = input {
        input.abort();
    }
    resizer.abort();
    let outcome = match ended {
        Ok(code) => outcome(code),
        Err(error) => Outcome::Failed(error.to_string()),
    };
    session.finish(outcome).await;
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
    let (answer, upgrade) = match streams::port_forward::upgrade(&mut request, &ports) {
        Ok(both) => both,
        Err(error) => return refused(&error),
    };
    tokio::spawn(async move {
        let mut session = match upgrade.accept().await {
            Ok(session) => session,
            Err(error) => return tracing::debug!(%error, "port-forward session not set up"),
        };
        while let Some(forwarded) = session.next().await {
            let (agent, sandbox) = (agent.clone(), sandbox.clone());
            tokio::spawn(async move {
                match agent.runtime.port_forward(&sandbox, forwarded.port).await {
                    Ok(PortConnection { io, fault }) => {
                        let (port, sandbox) = (forwarded.port, sandbox.clone());
                        let told = async move { fault.await.map(|why| format!("error forwarding port {port} to pod {sandbox}: {why}")) };
                        forwarded.carry(io, told).await;
                    }
                    Err(error) => {
                        let why = format!("error forwarding port {} to pod {sandbox}: {error}", forwarded.port);
                        forwarded.fail(&why).await;
                    }
                }
            });
        }
    });
    switched(answer)
}
