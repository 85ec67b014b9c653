//! A container's life in the shim: launch, run, end.

use super::attach::{Attachment, Output, Sink};
use super::log::Log;
use super::reactor::{Interest, Source};
use super::{ReplyTo, Shim, exit_code};
use crate::steps::terminal::TERMINAL_MARK;
use crate::steps::{self, Plan, Streams};
use crate::wire::{Bundle, CONFIG_FILE, EXIT_FILE, Event, Exit, Failure, START_ERROR_CODE, STARTED_FILE, Started, at, now_unix_ns, read_file, write_file};
use keles_linux::cgroup::Group;
use keles_linux::{fdpass, process, signal};
use rustix::process::WaitStatus;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// After the last process is gone its pipes are closed; this is for descriptors that leaked elsewhere.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);
/// The mark of an error report; a terminal is sent with [`TERMINAL_MARK`].
pub const ERROR_MARK: u8 = b'E';

/// A child that is on its way to exec.
pub struct Launch {
    token: u64,
    report: OwnedFd,
    to: ReplyTo,
    pub terminal: Option<OwnedFd>,
}

/// What a report socket said.
pub enum Report {
    NotYet,
    Executed,
    Failed(Failure),
}

pub struct Container {
    id: String,
    group: Group,
    pid: i32,
    started_at: i64,
    launch: Option<Launch>,
    ended: Option<(WaitStatus, Instant)>,
    done: bool,
    /// Others may outlive the first process: its pid namespace is not its own.
    shares_pids: bool,
    pub(super) tty: bool,
    pub(super) stdin_once: bool,
    pub(super) log: Log,
    pub(super) outputs: [Option<Output>; 2],
    pub(super) sink: Option<Sink>,
    pub(super) attachments: BTreeMap<u64, Attachment>,
}

impl Container {
    pub fn id(&self) -> &str {
        &self.id
    }
    pub fn is_done(&self) -> bool {
        self.done
    }
    pub fn runs_as(&self, pid: i32) -> bool {
        self.pid == pid && self.ended.is_none() && !self.done
    }
    pub fn pid(&self) -> Option<i32> {
        (self.ended.is_none() && !self.done && self.launch.is_none()).then_some(self.pid)
    }
    pub fn group(&self) -> &Group {
        &self.group
    }
    pub fn drain_deadline(&self) -> Option<Instant> {
        self.ended.filter(|_| !self.done).map(|(_, deadline)| deadline)
    }
    pub fn kill_all(&mut self) {
        if self.done {
            return;
        }
        if self.ended.is_none() {
            // Not reaped yet, so the number is still this process's.
            let _ = signal::kill(self.pid, signal::SIGKILL);
        }
        if self.shares_pids {
            self.group.kill();
        }
    }
}

impl Launch {
    pub fn new(token: u64, report: OwnedFd, to: ReplyTo) -> Self {
        Launch { token, report, to, terminal: None }
    }
    /// Reads what the child reports, without blocking.
    pub fn read(&mut self) -> Report {
        loop {
            match fdpass::receive_whole(&self.report) {
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return Report::NotYet,
                Err(e) => return Report::Failed(Failure::new("start", e)),
                Ok((message, _)) if message.is_empty() => return Report::Executed,
                Ok((message, fds)) if message[0] == TERMINAL_MARK => self.terminal = fds.into_iter().next(),
                Ok((message, _)) => return Report::Failed(serde_json::from_slice(&message[1..]).unwrap_or_else(|e| Failure::new("start", e))),
            }
        }
    }
    pub fn take(self, shim: &mut Shim) -> (ReplyTo, Option<OwnedFd>) {
        shim.reactor.remove(self.report.as_fd(), self.token);
        (self.to, self.terminal)
    }
}

/// In a child: tells the shim why it could not become the command.
pub fn report_failure(report: &OwnedFd, failure: &Failure) -> i32 {
    let mut message = vec![ERROR_MARK];
    message.extend(serde_json::to_vec(failure).unwrap_or_default());
    message.truncate(8 << 10);
    // Nothing is left to do when the shim is gone.
    let _ = fdpass::send(report, &message, &[]);
    1
}

/// Pipes towards and from a container without a terminal: (the child's ends, our stdin, our stdout and stderr).
type Pipes = (Streams, Option<OwnedFd>, [Option<OwnedFd>; 2]);

fn make_pipes(stdin: bool) -> Result<Pipes, Failure> {
    let pipe = || std::io::pipe().map_err(at("make pipe"));
    let (out_read, out_write) = pipe()?;
    let (err_read, err_write) = pipe()?;
    let (in_read, in_write) = if stdin { pipe().map(|(r, w)| (Some(r.into()), Some(w.into())))? } else { (None, None) };
    Ok((Streams { stdin: in_read, stdout: Some(out_write.into()), stderr: Some(err_write.into()) }, in_write, [Some(out_read.into()), Some(err_read.into())]))
}

impl Shim {
    pub(super) fn start(&mut self, to: ReplyTo, id: &str) {
        if self.containers.contains_key(id) || self.ending.is_some() {
            let failure = Failure::new("start", format!("container {id} was started before, or the pod is ending"));
            return self.reply(to, Err(failure), None);
        }
        if let Err(failure) = self.launch_container(to, id) {
            self.abandon_launch(id);
            self.record_start_error(id, &failure);
            self.reply(to, Err(failure), None);
        }
    }

    /// A child was made but could not be connected.
    fn abandon_launch(&mut self, id: &str) {
        let Some(c) = self.containers.get_mut(id) else { return };
        c.kill_all();
        c.done = true;
        if let Some(launch) = c.launch.take() {
            launch.take(self);
        }
        self.close_streams(id);
    }

    fn launch_container(&mut self, to: ReplyTo, id: &str) -> Result<(), Failure> {
        let bundle: Bundle = read_file(&self.container_folder(id).join(CONFIG_FILE)).map_err(at("read container configuration"))?;
        let pod = self.pod.as_ref().map_err(Clone::clone)?;
        let group = self.file.layout.group(&format!("{}/{id}", self.file.cgroup)).map_err(at("cgroup"))?;
        let log = Log::open(&bundle.log_path).map_err(at("open log"))?;
        let (report, theirs) = fdpass::pair().map_err(at("make report socket"))?;
        let (streams, our_stdin, our_outputs) = if bundle.config.tty { Default::default() } else { make_pipes(bundle.config.stdin)? };
        let namespaces = if steps::own_pid_namespace(self.file.config.pid) { process::CLONE_NEWPID } else { 0 };
        let birth_place = group.birth_place().map_err(at("cgroup"))?;
        let child = || {
            // Moved in, so that the shim's copies are closed with this closure and only the child holds them.
            let (theirs, streams) = (theirs, streams);
            let plan = Plan {
                sandbox: &self.file,
                bundle: &bundle,
                group: &group,
                born_inside: birth_place.is_some(),
                args: &bundle.config.args,
                tty: bundle.config.tty,
                streams,
                report: theirs.as_fd(),
                shm: pod.shm(),
            };
            match steps::container(plan) {
                Err(failure) => report_failure(&theirs, &failure),
            }
        };
        let pid = process::clone_child(namespaces, birth_place.as_ref().map(AsFd::as_fd), child).map_err(at("make process"))?;
        set_non_blocking(&report)?;
        let token = self.reactor.add(report.as_fd(), Interest::Read, Source::Launch(id.to_owned())).map_err(at("watch report socket"))?;
        let container = Container {
            id: id.to_owned(),
            group,
            pid,
            started_at: now_unix_ns(),
            launch: Some(Launch::new(token, report, to)),
            ended: None,
            done: false,
            shares_pids: namespaces == 0,
            tty: bundle.config.tty,
            stdin_once: bundle.config.stdin_once,
            log,
            outputs: [None, None],
            sink: None,
            attachments: BTreeMap::new(),
        };
        self.containers.insert(id.to_owned(), container);
        self.connect_streams(id, our_stdin, our_outputs)
    }

    fn connect_streams(&mut self, id: &str, stdin: Option<OwnedFd>, outputs: [Option<OwnedFd>; 2]) -> Result<(), Failure> {
        for (stream, fd) in outputs.into_iter().enumerate() {
            if let Some(fd) = fd {
                let output = Output::new(&mut self.reactor, fd, id, stream).map_err(at("watch output"))?;
                self.containers.get_mut(id).expect("inserted by the caller").outputs[stream] = Some(output);
            }
        }
        if let Some(fd) = stdin {
            let sink = Sink::new(&mut self.reactor, fd, id).map_err(at("watch stdin"))?;
            self.containers.get_mut(id).expect("inserted by the caller").sink = Some(sink);
        }
        Ok(())
    }

    /// The report socket of a container's first process is readable or closed.
    pub(super) fn launched(&mut self, id: &str) {
        let Some(c) = self.containers.get_mut(id) else { return };
        let report = match c.launch.as_mut() {
            Some(launch) => launch.read(),
            None => return,
        };
        if matches!(report, Report::NotYet) {
            return;
        }
        let launch = c.launch.take().expect("was read just now");
        let (to, terminal) = launch.take(self);
        match report {
            Report::Failed(failure) => {
                self.give_up(id, &failure);
                self.reply(to, Err(failure), None);
            }
            _ => {
                let connected = terminal.map_or(Ok(()), |t| self.connect_terminal(id, t));
                self.running(id);
                self.reply(to, connected, None);
            }
        }
    }

    fn connect_terminal(&mut self, id: &str, terminal: OwnedFd) -> Result<(), Failure> {
        let input = terminal.try_clone().map_err(at("copy terminal"))?;
        self.connect_streams(id, Some(input), [Some(terminal), None])
    }

    fn running(&mut self, id: &str) {
        let Some(c) = self.containers.get_mut(id) else { return };
        c.started_at = now_unix_ns();
        let started = Started { pid: c.pid, at_unix_ns: c.started_at };
        if let Err(e) = write_file(&self.file.containers.join(id).join(STARTED_FILE), &started) {
            eprintln!("shim: {id}: write {STARTED_FILE}: {e}");
        }
        self.announce(Event::Started { id: id.to_owned(), started });
    }

    /// The child could not become the command; it ends by itself.
    fn give_up(&mut self, id: &str, failure: &Failure) {
        if let Some(c) = self.containers.get_mut(id) {
            c.done = true;
            c.group.kill();
        }
        self.close_streams(id);
        self.record_start_error(id, failure);
    }

    fn record_start_error(&mut self, id: &str, failure: &Failure) {
        let now = now_unix_ns();
        let message = failure.for_users();
        self.record_exit(id, Exit { code: START_ERROR_CODE, signal: 0, reason: "StartError".into(), message, started_at_unix_ns: 0, finished_at_unix_ns: now });
    }

    fn record_exit(&mut self, id: &str, exit: Exit) {
        if let Err(e) = write_file(&self.container_folder(id).join(EXIT_FILE), &exit) {
            eprintln!("shim: {id}: write {EXIT_FILE}: {e}");
        }
        self.announce(Event::Exited { id: id.to_owned(), exit });
    }

    /// The first process was reaped.
    pub(super) fn container_ended(&mut self, id: &str, status: WaitStatus) {
        self.launched(id);
        let Some(c) = self.containers.get_mut(id) else { return };
        if c.done {
            return;
        }
        c.ended = Some((status, Instant::now() + DRAIN_LIMIT));
        if c.shares_pids {
            c.group.kill();
        }
        for stream in 0..2 {
            while self.read_output(id, stream) {}
        }
        self.finish_if_drained(id);
    }

    pub(super) fn finish_if_drained(&mut self, id: &str) {
        let Some(c) = self.containers.get(id) else { return };
        let drained = c.outputs.iter().all(Option::is_none);
        if let Some((status, deadline)) = c.ended
            && !c.done
            && (drained || Instant::now() >= deadline)
        {
            self.finish(id, status);
        }
    }

    fn finish(&mut self, id: &str, status: WaitStatus) {
        let Some(c) = self.containers.get_mut(id) else { return };
        c.done = true;
        let (code, signal) = exit_code(status);
        let out_of_memory = c.group.oom_kills() > 0;
        let reason = if out_of_memory {
            "OOMKilled"
        } else if code == 0 {
            "Completed"
        } else {
            "Error"
        };
        let exit = Exit { code, signal, reason: reason.into(), message: String::new(), started_at_unix_ns: c.started_at, finished_at_unix_ns: now_unix_ns() };
        self.close_streams(id);
        self.record_exit(id, exit);
    }

    pub(super) fn check_deadlines(&mut self) {
        let due: Vec<String> = self.containers.values().filter(|c| c.drain_deadline().is_some_and(|d| d <= Instant::now())).map(|c| c.id.clone()).collect();
        due.iter().for_each(|id| self.finish_if_drained(id));
    }

    pub(super) fn known(&mut self, id: &str) -> Result<&mut Container, Failure> {
        self.containers.get_mut(id).ok_or_else(|| Failure::new("find container", format!("{id} was not started in this pod")))
    }

    pub(super) fn kill(&mut self, id: &str, signal: i32, all: bool) -> Result<(), Failure> {
        let Some(c) = self.containers.get_mut(id).filter(|c| !c.done) else { return Ok(()) };
        if c.ended.is_none() {
            signal::kill(c.pid, signal).map_err(at("kill"))?;
        }
        if all {
            c.group.kill();
        }
        Ok(())
    }

    pub(super) fn reopen_log(&mut self, id: &str) -> Result<(), Failure> {
        self.known(id)?.log.reopen().map_err(at("reopen log"))
    }

    pub(super) fn forget(&mut self, id: &str) -> Result<(), Failure> {
        match self.containers.get(id) {
            Some(c) if !c.done => Err(Failure::new("forget container", format!("{id} still runs"))),
            Some(_) => {
                self.drop_attachments(id);
                self.containers.remove(id);
                Ok(())
            }
            None => Ok(()),
        }
    }
}

pub(super) fn set_non_blocking(fd: &OwnedFd) -> Result<(), Failure> {
    let flags = rustix::fs::fcntl_getfl(fd).map_err(at("read descriptor flags"))?;
    rustix::fs::fcntl_setfl(fd, flags | rustix::fs::OFlags::NONBLOCK).map_err(at("set non-blocking"))
}
