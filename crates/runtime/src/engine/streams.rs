//! Exec, attach and port-forward: descriptors as async streams.
//!
//! An exec's pipes lead straight from its process to the server; the shim only makes the process. With a terminal the
//! shim hands over its master. Attach goes through the shim, which owns the container's streams.

use super::client::{RequestError, ShimClient};
use super::{Container, Inner, blocking, io_error, refused, step};
use crate::api::{ContainerState, ContainerStatus, ExecControl, ExecOutput, ExecRequest, ExecStream, NamespaceMode, Result, RuntimeError};
use crate::shim::set_window_size;
use crate::wire::{Failure, Operation, UNKNOWN_CODE};
use async_trait::async_trait;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;
use tokio::sync::watch;

/// Most that a probe or hook may print.
const MAX_SYNC_OUTPUT_BYTES: u64 = 16 << 20;
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Our ends and theirs of the pipes a request asks for.
#[derive(Default)]
struct Pipes {
    stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    theirs: Vec<OwnedFd>,
}

fn make_pipes(stdin: bool, stdout: bool, stderr: bool) -> io::Result<Pipes> {
    let mut p = Pipes::default();
    if stdin {
        let (reader, writer) = io::pipe()?;
        p.theirs.push(reader.into());
        p.stdin = Some(Box::new(pipe::Sender::from_owned_fd(writer.into())?));
    }
    for (asked, ours) in [(stdout, &mut p.stdout), (stderr, &mut p.stderr)] {
        if asked {
            let (reader, writer) = io::pipe()?;
            p.theirs.push(writer.into());
            *ours = Some(Box::new(pipe::Receiver::from_owned_fd(reader.into())?));
        }
    }
    Ok(p)
}

impl Inner {
    pub(super) async fn exec(&self, id: &str, r: ExecRequest) -> Result<ExecStream> {
        let container = self.running(id)?;
        let client = self.client_of(&container)?;
        let exec: u64 = rand::random();
        let mut pipes = if r.tty { Pipes::default() } else { make_pipes(r.stdin, r.stdout, r.stderr).map_err(io_error("make pipes"))? };
        let (stdin, stdout, stderr) = (pipes.stdin.is_some(), pipes.stdout.is_some(), pipes.stderr.is_some());
        let end = client.watch_exec(exec);
        let operation = Operation::Exec { id: id.to_owned(), exec, args: r.args, tty: r.tty, stdin, stdout, stderr };
        let theirs = std::mem::take(&mut pipes.theirs);
        let answer = client.request(operation, &theirs.iter().map(AsFd::as_fd).collect::<Vec<_>>()).await;
        let terminal = match answer {
            Ok(fds) => fds.into_iter().next(),
            Err(e) => {
                client.forget_exec(exec);
                return Err(exec_error(e));
            }
        };
        let terminal = terminal.map(Terminal::new).transpose().map_err(io_error("open terminal"))?;
        if let Some(t) = &terminal {
            pipes.stdin = r.stdin.then(|| Box::new(t.clone()) as _);
            pipes.stdout = r.stdout.then(|| Box::new(t.clone()) as _);
        }
        let control = ExecProcess { client, exec, terminal, end };
        Ok(ExecStream { stdin: pipes.stdin, stdout: pipes.stdout, stderr: pipes.stderr, control: Box::new(control) })
    }

    pub(super) async fn exec_sync(&self, id: &str, args: Vec<String>, timeout: Duration) -> Result<ExecOutput> {
        let mut stream = self.exec(id, ExecRequest { args, tty: false, stdin: false, stdout: true, stderr: true }).await?;
        let (out, err) = (stream.stdout.take().expect("asked for"), stream.stderr.take().expect("asked for"));
        let run = async { tokio::join!(read_all(out), read_all(err), stream.control.wait()) };
        let done = if timeout.is_zero() { Ok(run.await) } else { tokio::time::timeout(timeout, run).await };
        let Ok((stdout, stderr, code)) = done else {
            stream.control.kill().await?;
            return Err(RuntimeError::Timeout(timeout));
        };
        Ok(ExecOutput { stdout: stdout.map_err(io_error("read exec output"))?, stderr: stderr.map_err(io_error("read exec output"))?, exit_code: code? })
    }

    pub(super) async fn attach(&self, id: &str, r: ExecRequest) -> Result<ExecStream> {
        let container = self.running(id)?;
        let client = self.client_of(&container)?;
        let (tty, stdin) = (container.bundle.config.tty, r.stdin && container.bundle.config.stdin);
        let mut pipes = make_pipes(stdin, r.stdout, r.stderr && !tty).map_err(io_error("make pipes"))?;
        let theirs = std::mem::take(&mut pipes.theirs);
        let operation = Operation::Attach { id: id.to_owned(), stdin, stdout: r.stdout, stderr: r.stderr && !tty };
        client.request(operation, &theirs.iter().map(AsFd::as_fd).collect::<Vec<_>>()).await.map_err(refused("attach"))?;
        let control = Attached { client, id: id.to_owned(), status: container.status.subscribe() };
        Ok(ExecStream { stdin: pipes.stdin, stdout: pipes.stdout, stderr: pipes.stderr, control: Box::new(control) })
    }

    fn running(&self, id: &str) -> Result<Arc<Container>> {
        let container = self.container(id)?;
        let state = container.status.borrow().state;
        if state == ContainerState::Running {
            return Ok(container);
        }
        Err(RuntimeError::Step { step: "reach container", message: format!("container {id} is not running: {state:?}") })
    }

    pub(super) async fn port_forward(&self, sandbox_id: &str, port: u16) -> Result<tokio::net::TcpStream> {
        let sandbox = self.sandbox(sandbox_id)?;
        let netns = sandbox.file.netns.clone().filter(|_| sandbox.file.config.network != NamespaceMode::Node);
        let connected = blocking(move || match netns {
            Some(pin) => keles_linux::netlink::in_netns(&pin, || connect_local(port)).and_then(|r| r),
            None => connect_local(port),
        })
        .await;
        let stream = connected.map_err(|e| RuntimeError::Io { what: format!("connect to port {port} in sandbox {sandbox_id}"), source: e })?;
        tokio::net::TcpStream::from_std(stream).map_err(step("port forward"))
    }
}

fn connect_local(port: u16) -> io::Result<TcpStream> {
    let try_one = |ip: IpAddr| TcpStream::connect_timeout(&SocketAddr::new(ip, port), CONNECT_LIMIT);
    // The first error is the one to tell: most pods have no IPv6.
    let stream = try_one(Ipv4Addr::LOCALHOST.into()).or_else(|first| try_one(Ipv6Addr::LOCALHOST.into()).map_err(|_| first))?;
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// What goes beyond the limit is read and lost, so that the command goes on as if it were heard.
async fn read_all(mut stream: Box<dyn AsyncRead + Send + Unpin>) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    (&mut stream).take(MAX_SYNC_OUTPUT_BYTES).read_to_end(&mut out).await?;
    tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
    Ok(out)
}

fn exec_error(e: RequestError) -> RuntimeError {
    match e {
        RequestError::Failed(Failure { exit_code: Some(exit_code), message, .. }) => {
            RuntimeError::Start { message: format!("unable to start container process: {message}"), exit_code }
        }
        e => refused("exec")(e),
    }
}

/// A terminal's master as an async stream; the last process closing it is its end.
#[derive(Clone)]
struct Terminal(Arc<AsyncFd<OwnedFd>>);

impl Terminal {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK)?;
        Ok(Terminal(Arc::new(keles_linux::async_fd::watch(fd)?)))
    }
}

impl AsyncRead for Terminal {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            match guard.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), buf.initialize_unfilled())?)) {
                Ok(Ok(n)) => {
                    buf.advance(n);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(e)) if e.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => return Poll::Ready(Ok(())),
                Ok(Err(e)) => return Poll::Ready(Err(e)),
                Err(_) => {}
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(cx))?;
            if let Ok(r) = guard.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), data)?)) {
                return Poll::Ready(r);
            }
        }
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

struct ExecProcess {
    client: Arc<ShimClient>,
    exec: u64,
    terminal: Option<Terminal>,
    end: watch::Receiver<Option<i32>>,
}

#[async_trait]
impl ExecControl for ExecProcess {
    async fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        match &self.terminal {
            Some(t) => set_window_size(t.0.get_ref(), columns, rows).map_err(io_error("resize terminal")),
            None => Ok(()),
        }
    }
    async fn wait(&self) -> Result<i32> {
        let mut end = self.end.clone();
        let code = end.wait_for(Option::is_some).await.map(|c| *c);
        // The sender goes without a word when the shim does.
        Ok(code.ok().flatten().unwrap_or(UNKNOWN_CODE))
    }
    async fn kill(&self) -> Result<()> {
        match self.client.request(Operation::KillExec { exec: self.exec }, &[]).await {
            Ok(_) | Err(RequestError::Gone) => Ok(()),
            Err(e) => Err(refused("kill exec")(e)),
        }
    }
}

struct Attached {
    client: Arc<ShimClient>,
    id: String,
    status: watch::Receiver<ContainerStatus>,
}

#[async_trait]
impl ExecControl for Attached {
    async fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        let operation = Operation::Resize { id: self.id.clone(), columns, rows };
        self.client.request(operation, &[]).await.map(drop).map_err(refused("resize terminal"))
    }
    async fn wait(&self) -> Result<i32> {
        let mut status = self.status.clone();
        let ended = status.wait_for(|s| s.state == ContainerState::Exited).await.map(|s| s.exit_code);
        Ok(ended.unwrap_or(UNKNOWN_CODE))
    }
    /// Attaching made no process: there is nothing to end. Dropping the streams detaches.
    async fn kill(&self) -> Result<()> {
        Ok(())
    }
}
