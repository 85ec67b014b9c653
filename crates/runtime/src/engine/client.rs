//! One connection to one shim: requests answered in any order, events pushed to the engine.

use super::Inner;
use crate::wire::{Event, Failure, Message, Operation, Request};
use keles_linux::fdpass;
use std::collections::HashMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{oneshot, watch};

#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("the pod's shim is gone")]
    Gone,
    #[error("{}: {}", .0.step, .0.message)]
    Failed(Failure),
    #[error("shim socket: {0}")]
    Io(#[from] io::Error),
}

type Answer = (Result<(), Failure>, Vec<OwnedFd>);

#[derive(Default)]
struct Waiting {
    answers: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
    execs: Mutex<HashMap<u64, watch::Sender<Option<i32>>>>,
    /// Set before the two above are cleared: who waits from then on looks here.
    gone: AtomicBool,
}

pub struct ShimClient {
    socket: Arc<AsyncFd<OwnedFd>>,
    next: AtomicU64,
    waiting: Arc<Waiting>,
    reader: tokio::task::AbortHandle,
}

impl Drop for ShimClient {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl ShimClient {
    /// Connects and reads events from now on; the engine is told when the shim is gone.
    pub fn connect(path: &Path, engine: Weak<Inner>, sandbox_id: &str) -> io::Result<Arc<Self>> {
        let socket = fdpass::connect(path)?;
        rustix::fs::fcntl_setfl(&socket, rustix::fs::OFlags::NONBLOCK)?;
        let socket = Arc::new(keles_linux::async_fd::watch(socket)?);
        let waiting = Arc::new(Waiting::default());
        let reader = tokio::spawn(read(socket.clone(), waiting.clone(), engine, sandbox_id.to_owned())).abort_handle();
        Ok(Arc::new(ShimClient { socket, next: AtomicU64::new(1), waiting, reader }))
    }

    pub async fn request(&self, operation: Operation, fds: &[BorrowedFd<'_>]) -> Result<Vec<OwnedFd>, RequestError> {
        let sequence = self.next.fetch_add(1, Ordering::Relaxed);
        let bytes = serde_json::to_vec(&Request { sequence, operation }).map_err(io::Error::from)?;
        let (sender, answer) = oneshot::channel();
        self.waiting.answers.lock().expect("no panic while held").insert(sequence, sender);
        let sent = self.socket.async_io(Interest::WRITABLE, |fd| fdpass::send(fd, &bytes, fds)).await;
        if let Err(e) = sent {
            self.waiting.answers.lock().expect("no panic while held").remove(&sequence);
            return Err(if e.kind() == io::ErrorKind::BrokenPipe { RequestError::Gone } else { e.into() });
        }
        if self.is_gone() {
            return Err(RequestError::Gone);
        }
        match answer.await {
            Ok((Ok(()), fds)) => Ok(fds),
            Ok((Err(failure), _)) => Err(RequestError::Failed(failure)),
            Err(_) => Err(RequestError::Gone),
        }
    }

    /// Whether the connection ended. The engine was told then, or did not know the sandbox yet and must look here once it does.
    pub fn is_gone(&self) -> bool {
        self.waiting.gone.load(Ordering::SeqCst)
    }

    /// To be called before the exec is requested. `None` until the end; the sender goes when the shim does.
    pub fn watch_exec(&self, exec: u64) -> watch::Receiver<Option<i32>> {
        let (sender, receiver) = watch::channel(None);
        self.waiting.execs.lock().expect("no panic while held").insert(exec, sender);
        receiver
    }

    pub fn forget_exec(&self, exec: u64) {
        self.waiting.execs.lock().expect("no panic while held").remove(&exec);
    }
}

async fn read(socket: Arc<AsyncFd<OwnedFd>>, waiting: Arc<Waiting>, engine: Weak<Inner>, sandbox_id: String) {
    loop {
        let received = socket.async_io(Interest::READABLE, |fd| fdpass::receive_whole(fd)).await;
        let (bytes, fds) = match received {
            Ok((bytes, _)) if bytes.is_empty() => break,
            Ok(r) => r,
            Err(e) => {
                tracing::warn!(sandbox = sandbox_id, error = %e, "shim socket failed");
                break;
            }
        };
        match serde_json::from_slice(&bytes) {
            Ok(Message::Reply { sequence, result }) => {
                if let Some(sender) = waiting.answers.lock().expect("no panic while held").remove(&sequence) {
                    // A caller that gave up needs no answer.
                    let _ = sender.send((result, fds));
                }
            }
            Ok(Message::Event(Event::ExecExited { exec, code })) => {
                if let Some(sender) = waiting.execs.lock().expect("no panic while held").remove(&exec) {
                    sender.send_replace(Some(code));
                }
            }
            Ok(Message::Event(event)) => {
                if let Some(engine) = engine.upgrade() {
                    engine.observe(event);
                }
            }
            Err(e) => tracing::warn!(sandbox = sandbox_id, error = %e, "a message of the shim is not understood"),
        }
    }
    waiting.gone.store(true, Ordering::SeqCst);
    waiting.answers.lock().expect("no panic while held").clear();
    waiting.execs.lock().expect("no panic while held").clear();
    if let Some(engine) = engine.upgrade() {
        engine.shim_gone(&sandbox_id);
    }
}

/// Ends a shim without an engine: asks, waits for its end, kills it in the end. Fine when there is none. Blocks.
pub fn end_shim(path: &Path) -> io::Result<()> {
    const PATIENCE_MS: i64 = 10_000;
    let socket = match fdpass::connect(path) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => return Ok(()),
        r => r?,
    };
    let request = Request { sequence: 1, operation: Operation::Shutdown };
    if fdpass::send(&socket, &serde_json::to_vec(&request)?, &[]).is_err() {
        return Ok(());
    }
    let end = std::time::Instant::now() + std::time::Duration::from_millis(PATIENCE_MS as u64);
    loop {
        let left = rustix::event::Timespec::try_from(end.saturating_duration_since(std::time::Instant::now())).unwrap_or_default();
        let mut fds = [rustix::event::PollFd::new(&socket, rustix::event::PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&left)) {
            Ok(0) => break,
            Ok(_) if fdpass::receive_whole(&socket).map_or(true, |(message, _)| message.is_empty()) => return Ok(()),
            _ => {}
        }
    }
    // The peer still holds the socket, so the number is still its own.
    let peer = rustix::net::sockopt::socket_peercred(&socket)?;
    if peer.pid != rustix::process::getpid() {
        rustix::process::kill_process(peer.pid, rustix::process::Signal::KILL)?;
    }
    Ok(())
}
