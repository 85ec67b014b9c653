//! Exec, attach and port-forward: the runtime makes them ready and names a URL of its streaming server, which is dialled by SPDY/3.1.

use crate::Inner;
use crate::call::{USUAL, seconds};
use async_trait::async_trait;
use keles_cri as cri;
use keles_grpc::Code;
use keles_runtime::api::{ExecControl, ExecOutput, ExecRequest, ExecStream, PortConnection, Result, RuntimeError};
use keles_serve::streams::StreamError;
use keles_serve::streams::dial::{self, Control};
use keles_serve::streams::exec::{Outcome, Size, Wants};
use std::time::Duration;

fn failed(step: &'static str) -> impl FnOnce(StreamError) -> RuntimeError {
    move |error| RuntimeError::Step { step, message: error.to_string() }
}

fn wants(r: &ExecRequest) -> Wants {
    Wants { stdin: r.stdin, stdout: r.stdout, stderr: r.stderr && !r.tty, tty: r.tty }
}

impl Inner {
    pub(crate) async fn exec(&self, id: &str, r: ExecRequest) -> Result<ExecStream> {
        let wants = wants(&r);
        let request =
            cri::ExecRequest { container_id: id.to_owned(), cmd: r.args, tty: wants.tty, stdin: wants.stdin, stdout: wants.stdout, stderr: wants.stderr, ..Default::default() };
        let answer: cri::ExecResponse = self.caller.container(cri::EXEC, "exec", id, &request, USUAL).await?;
        Ok(stream(dial::command(&answer.url, wants).await.map_err(failed("exec"))?))
    }

    pub(crate) async fn attach(&self, id: &str, r: ExecRequest) -> Result<ExecStream> {
        let wants = wants(&r);
        let request = cri::AttachRequest { container_id: id.to_owned(), tty: wants.tty, stdin: wants.stdin, stdout: wants.stdout, stderr: wants.stderr, ..Default::default() };
        let answer: cri::AttachResponse = self.caller.container(cri::ATTACH, "attach", id, &request, USUAL).await?;
        Ok(stream(dial::command(&answer.url, wants).await.map_err(failed("attach"))?))
    }

    pub(crate) async fn exec_sync(&self, id: &str, args: Vec<String>, timeout: Duration) -> Result<ExecOutput> {
        let request = cri::ExecSyncRequest { container_id: id.to_owned(), cmd: args, timeout: seconds(timeout) };
        // The runtime ends a command that takes too long; ours is for a runtime that does not. Without a limit there is none here either.
        let limit = if timeout.is_zero() { Duration::from_secs(u32::MAX.into()) } else { timeout + USUAL };
        let answer: std::result::Result<cri::ExecSyncResponse, _> = self.caller.raw(cri::EXEC_SYNC, &request, limit).await;
        match answer {
            Ok(done) => Ok(ExecOutput { stdout: done.stdout, stderr: done.stderr, exit_code: done.exit_code }),
            Err(status) if status.code == Code::DeadlineExceeded => Err(RuntimeError::Timeout(timeout)),
            Err(status) => Err(crate::call::failed("container", "exec", id, status)),
        }
    }

    pub(crate) async fn port_forward(&self, sandbox_id: &str, port: u16) -> Result<PortConnection> {
        let request = cri::PortForwardRequest { pod_sandbox_id: sandbox_id.to_owned(), port: vec![port.into()] };
        let answer: cri::PortForwardResponse = self.caller.sandbox(cri::PORT_FORWARD, "port forward", sandbox_id, &request, USUAL).await?;
        let (io, fault) = dial::port_forward(&answer.url, port).await.map_err(failed("port forward"))?.split();
        Ok(PortConnection { io: Box::new(io), fault: Box::pin(fault) })
    }
}

fn stream(command: dial::Command) -> ExecStream {
    let dial::Command { stdin, stdout, stderr, control } = command;
    ExecStream { stdin, stdout, stderr, control: Box::new(Dialled(control)) }
}

struct Dialled(Control);

#[async_trait]
impl ExecControl for Dialled {
    async fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        self.0.resize(Size { width: columns, height: rows }).await.map_err(failed("resize terminal"))
    }
    async fn wait(&self) -> Result<i32> {
        match self.0.wait().await {
            Outcome::Exited(code) => Ok(code),
            Outcome::Failed(message) => Err(RuntimeError::Step { step: "exec", message }),
        }
    }
    /// The CRI has no call that ends a command. Its connection goes, and with it its input and whoever reads its output.
    async fn kill(&self) -> Result<()> {
        self.0.close();
        Ok(())
    }
}
