//! The shim: a small single-threaded process per pod, parent of its containers.
//!
//! Entry point: [`shim_main`]. It outlives the server: own session, own socket, and everything it must remember is in files.
//! One epoll loop serves requests, containers' output, attached clients and ended children. Invariants: exit files are
//! written before the end is announced; no request blocks the loop (a start is answered when the child's report socket
//! closes); only children change mounts, and only in their own mount namespace. Absent: threads, timers but one, tokio.

mod attach;
mod connection;
mod container;
mod exec;
mod log;
mod pod;
mod reactor;

use crate::wire::{Event, Failure, Message, Operation, Request, SANDBOX_FILE, SandboxFile, read_file};
pub(crate) use attach::set_window_size;
use connection::Connection;
use container::Container;
pub(crate) use container::{ERROR_MARK, report_failure};
use exec::Exec;
use keles_linux::{fdpass, process, signal};
use pod::Pod;
pub(crate) use pod::set_sysctl;
use reactor::{Interest, Reactor, Source};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// After a shutdown request: how long containers may take to end after SIGKILL.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(8);
const READ_BYTES: usize = 32 << 10;
const MAX_CONNECTIONS: usize = 16;

/// The process that `keles shim --sandbox FOLDER` becomes; standard input is its listening socket.
pub fn shim_main(args: impl IntoIterator<Item = OsString>) -> ! {
    let args: Vec<OsString> = args.into_iter().collect();
    let [flag, folder] = args.as_slice() else { usage() };
    if flag != "--sandbox" {
        usage();
    }
    // What the server was started with, a lock or a pipe of its parent's, is not to be held for as long as the pod lives.
    let _ = process::close_from(3);
    // The server does without them, and what it starts would too.
    let _ = process::allow_huge_pages(true);
    match Shim::new(Path::new(folder)) {
        // Sockets close with the process, not before it: who sees their end may rely on there being no shim.
        Ok(mut shim) => process::exit_now(shim.run()),
        Err(e) => {
            eprintln!("shim: {}: {}", e.step, e.message);
            process::exit_now(1)
        }
    }
}

fn usage() -> ! {
    eprintln!("usage: keles shim --sandbox FOLDER (started by the server, not by hand)");
    process::exit_now(2)
}

pub(crate) struct Shim {
    file: SandboxFile,
    listener: OwnedFd,
    children: OwnedFd,
    reactor: Reactor,
    pod: Result<Pod, Failure>,
    connections: BTreeMap<u64, Connection>,
    containers: BTreeMap<String, Container>,
    execs: BTreeMap<u64, Exec>,
    buffer: Vec<u8>,
    /// Set by a shutdown request: when to end although children are left.
    ending: Option<Instant>,
}

impl Shim {
    fn new(folder: &Path) -> Result<Shim, Failure> {
        let failed = |what: &'static str| move |e: std::io::Error| Failure::new(what, e);
        let listener = process::take_stdin().map_err(failed("take socket"))?;
        rustix::fs::fcntl_setfl(&listener, rustix::fs::OFlags::NONBLOCK).map_err(|e| Failure::new("set socket non-blocking", e))?;
        // The server made the socket; listening once more makes this process the peer that clients see and can end.
        rustix::net::listen(&listener, MAX_CONNECTIONS as i32).map_err(|e| Failure::new("listen", e))?;
        let _ = rustix::process::setsid();
        let _ = rustix::thread::set_name(c"keles-shim");
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(crate::steps::UMASK));
        signal::ignore_terminal_signals();
        process::hide_from_tracers().map_err(failed("hide from tracers"))?;
        process::become_subreaper().map_err(failed("become subreaper"))?;
        // Best effort: without CAP_SYS_RESOURCE the score cannot go down.
        let _ = std::fs::write("/proc/self/oom_score_adj", "-998");
        let children = signal::child_signal_fd().map_err(failed("watch children"))?;
        let file: SandboxFile = read_file(&folder.join(SANDBOX_FILE)).map_err(failed("read sandbox file"))?;
        rustix::process::chdir("/").map_err(|e| Failure::new("change to /", e))?;
        let mut reactor = Reactor::new().map_err(failed("make epoll"))?;
        reactor.add(listener.as_fd(), Interest::Read, Source::Listener).map_err(failed("watch socket"))?;
        reactor.add(children.as_fd(), Interest::Read, Source::Children).map_err(failed("watch children"))?;
        let pod = Pod::set_up(&file);
        let (connections, containers, execs) = Default::default();
        Ok(Shim { file, listener, children, reactor, pod, connections, containers, execs, buffer: vec![0; READ_BYTES], ending: None })
    }

    fn run(&mut self) -> i32 {
        loop {
            for (token, source, ready) in self.reactor.wait(self.next_deadline()) {
                match source {
                    Source::Listener => self.accept(),
                    Source::Children => self.reap(),
                    Source::Connection => self.serve(token, ready),
                    Source::Launch(id) => self.launched(&id),
                    Source::LaunchExec(exec) => self.launched_exec(exec),
                    Source::Output(id, stream) => drop(self.read_output(&id, stream)),
                    Source::Outlet(id, attachment, stream) => self.flush_outlet(&id, attachment, stream, ready),
                    Source::Inlet(id, attachment) => self.read_inlet(&id, attachment),
                    Source::Sink(id) => self.flush_sink(&id, ready),
                    Source::OutOfMemory(id) => self.out_of_memory(&id),
                }
            }
            self.check_deadlines();
            if self.ending.is_some_and(|end| self.is_quiet() || Instant::now() >= end) {
                self.pod = Err(Failure::new("shutdown", "the pod has ended"));
                return 0;
            }
        }
    }

    fn is_quiet(&self) -> bool {
        self.containers.values().all(Container::is_done) && self.execs.is_empty()
    }

    fn next_deadline(&self) -> Option<Duration> {
        let drains = self.containers.values().filter_map(|c| c.drain_deadline());
        let oom = self.containers.values().filter_map(|c| c.oom_check());
        drains.chain(oom).chain(self.ending).min().map(|d| d.saturating_duration_since(Instant::now()))
    }

    fn accept(&mut self) {
        while let Ok(socket) = fdpass::accept(self.listener.as_fd()) {
            if self.connections.len() >= MAX_CONNECTIONS {
                continue;
            }
            if let Ok(token) = self.reactor.add(socket.as_fd(), Interest::Read, Source::Connection) {
                self.connections.insert(token, Connection::new(socket));
            }
        }
    }

    fn serve(&mut self, token: u64, ready: reactor::Ready) {
        if ready.write && !self.connections.get_mut(&token).is_some_and(Connection::flush) {
            return self.disconnect(token);
        }
        self.update_connection(token);
        if !ready.read {
            return;
        }
        loop {
            let Some(connection) = self.connections.get(&token) else { return };
            match fdpass::receive_whole(connection.socket()) {
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(_) => return self.disconnect(token),
                Ok((message, _)) if message.is_empty() => return self.disconnect(token),
                Ok((message, fds)) => match serde_json::from_slice::<Request>(&message) {
                    Ok(request) => self.handle(token, request, fds),
                    Err(e) => {
                        eprintln!("shim: a request that is not understood: {e}");
                        return self.disconnect(token);
                    }
                },
            }
        }
    }

    fn disconnect(&mut self, token: u64) {
        if let Some(connection) = self.connections.remove(&token) {
            self.reactor.remove(connection.socket(), token);
        }
    }

    fn update_connection(&mut self, token: u64) {
        if let Some(c) = self.connections.get(&token) {
            let interest = if c.has_pending() { Interest::ReadWrite } else { Interest::Read };
            self.reactor.change(c.socket(), token, interest);
        }
    }

    fn handle(&mut self, from: u64, request: Request, fds: Vec<OwnedFd>) {
        let to = ReplyTo { connection: from, sequence: request.sequence };
        let result = match request.operation {
            Operation::Setup => self.pod.as_ref().map(drop).map_err(Clone::clone),
            Operation::Start { id } => return self.start(to, &id),
            Operation::Exec { id, exec, args, tty, stdin, stdout, stderr } => return self.exec(to, &id, exec, &args, tty, [stdin, stdout, stderr], fds),
            Operation::Kill { id, signal, all } => self.kill(&id, signal, all),
            Operation::KillExec { exec } => self.kill_exec(exec),
            Operation::Attach { id, stdin, stdout, stderr } => self.attach(&id, [stdin, stdout, stderr], fds),
            Operation::Resize { id, columns, rows } => self.resize(&id, columns, rows),
            Operation::ReopenLog { id } => self.reopen_log(&id),
            Operation::Forget { id } => self.forget(&id),
            Operation::Shutdown => self.shutdown(),
        };
        self.reply(to, result, None);
    }

    fn reply(&mut self, to: ReplyTo, result: Result<(), Failure>, fd: Option<OwnedFd>) {
        let message = Message::Reply { sequence: to.sequence, result };
        self.send(to.connection, &message, fd);
    }

    /// To every connection.
    fn announce(&mut self, event: Event) {
        let message = Message::Event(event);
        for token in self.connections.keys().copied().collect::<Vec<_>>() {
            self.send(token, &message, None);
        }
    }

    fn send(&mut self, token: u64, message: &Message, fd: Option<OwnedFd>) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        let bytes = serde_json::to_vec(message).expect("our own messages are plain JSON");
        if connection.send(bytes, fd) { self.update_connection(token) } else { self.disconnect(token) }
    }

    fn reap(&mut self) {
        let mut drain = [0; 1024];
        while rustix::io::read(&self.children, &mut drain).is_ok_and(|n| n > 0) {}
        while let Ok(Some((pid, status))) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get();
            self.ended(pid, status);
        }
    }

    fn ended(&mut self, pid: i32, status: rustix::process::WaitStatus) {
        let container = self.containers.values().find(|c| c.runs_as(pid)).map(|c| c.id().to_owned());
        if let Some(id) = container {
            return self.container_ended(&id, status);
        }
        if let Some(exec) = self.execs.iter().find(|(_, e)| e.pid == pid).map(|(n, _)| *n) {
            self.exec_ended(exec, status);
        }
        // Else an orphan of a container in the host's pid namespace: reaping it was all it needed.
    }

    fn shutdown(&mut self) -> Result<(), Failure> {
        self.ending = Some(Instant::now() + SHUTDOWN_LIMIT);
        for c in self.containers.values_mut() {
            c.kill_all();
        }
        for e in self.execs.values() {
            let _ = signal::kill(e.pid, signal::SIGKILL);
        }
        Ok(())
    }

    fn container_folder(&self, id: &str) -> PathBuf {
        self.file.containers.join(id)
    }
}

/// Who waits for an answer.
#[derive(Clone, Copy)]
pub(crate) struct ReplyTo {
    connection: u64,
    sequence: u64,
}

/// Exit code and signal as container runtimes tell them.
pub(crate) fn exit_code(status: rustix::process::WaitStatus) -> (i32, i32) {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => (code, 0),
        (None, Some(signal)) => (128 + signal, signal),
        (None, None) => (crate::wire::UNKNOWN_CODE, 0),
    }
}
