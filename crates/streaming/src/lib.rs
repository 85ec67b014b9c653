//! exec, attach and port-forward: a client's streams joined with the runtime's. What the node agent's API and the CRI's streaming server share.
//!
//! Entry points: [`exec`], [`attach`], [`port_forward`], each with the request to switch; the answer is to be sent, the rest goes on by itself.
//! Deliberately absent: who may ask, and which container is meant.

use http::{Request, Response};
use keles_runtime::api::{ExecControl, ExecRequest, ExecStream, PodRuntime, PortConnection};
use keles_serve::streams::exec::{ExecSession, Outcome, Wants};
use keles_serve::streams::{self, StreamError};
use keles_serve::{Body, body};
use std::sync::Arc;
use tokio::io::{AsyncWriteExt, copy};

fn switched(answer: Response<()>) -> Response<Body> {
    answer.map(|()| body::empty())
}

fn asked(wants: Wants, args: Vec<String>) -> ExecRequest {
    ExecRequest { args, tty: wants.tty, stdin: wants.stdin, stdout: wants.stdout, stderr: wants.stderr }
}

/// Runs a command in container `id` for the client.
pub fn exec<B>(runtime: Arc<dyn PodRuntime>, id: String, args: Vec<String>, wants: Wants, request: &mut Request<B>) -> Result<Response<Body>, StreamError> {
    let (answer, upgrade) = streams::exec::upgrade(request, wants)?;
    tokio::spawn(async move {
        let session = match upgrade.accept().await {
            Ok(session) => session,
            Err(error) => return tracing::debug!(%error, "exec session not set up"),
        };
        match runtime.exec(&id, asked(wants, args)).await {
            Ok(stream) => join(session, stream, Outcome::Exited).await,
            Err(error) => session.finish(Outcome::Failed(format!("error executing command in container: {error}"))).await,
        }
    });
    Ok(switched(answer))
}

/// Joins the client with the streams of container `id` itself.
pub fn attach<B>(runtime: Arc<dyn PodRuntime>, id: String, wants: Wants, request: &mut Request<B>) -> Result<Response<Body>, StreamError> {
    let (answer, upgrade) = streams::exec::upgrade(request, wants)?;
    tokio::spawn(async move {
        let session = match upgrade.accept().await {
            Ok(session) => session,
            Err(error) => return tracing::debug!(%error, "attach session not set up"),
        };
        match runtime.attach(&id, asked(wants, Vec::new())).await {
            // Upstream reports an attach's end as success, whatever the container's exit code.
            Ok(stream) => join(session, stream, |_| Outcome::Exited(0)).await,
            Err(error) => session.finish(Outcome::Failed(format!("error attaching to container: {error}"))).await,
        }
    });
    Ok(switched(answer))
}

/// Moves bytes both ways until the command has ended and its output is delivered.
async fn join(mut session: ExecSession, stream: ExecStream, outcome: impl Fn(i32) -> Outcome) {
    session.established();
    let ExecStream { stdin, stdout, stderr, control } = stream;
    let control: Arc<dyn ExecControl> = control.into();
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

/// Carries the client's connections to ports of the pod in `sandbox`; `ports` are those of the request, which plain WebSocket clients need.
pub fn port_forward<B>(runtime: Arc<dyn PodRuntime>, sandbox: String, ports: &[u16], request: &mut Request<B>) -> Result<Response<Body>, StreamError> {
    let (answer, upgrade) = streams::port_forward::upgrade(request, ports)?;
    tokio::spawn(async move {
        let mut session = match upgrade.accept().await {
            Ok(session) => session,
            Err(error) => return tracing::debug!(%error, "port-forward session not set up"),
        };
        while let Some(forwarded) = session.next().await {
            let (runtime, sandbox) = (runtime.clone(), sandbox.clone());
            tokio::spawn(async move {
                match runtime.port_forward(&sandbox, forwarded.port).await {
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
    Ok(switched(answer))
}
