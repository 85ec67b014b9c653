//! A container's life in the shim: launch, run, end.

use super::attach::{Attachment, Output, Sink};
use super::log::Log;
use super::pod::Pod;
use super::reactor::{Interest, Source};
use super::{ReplyTo, Shim, exit_code};
use crate::steps::terminal::TERMINAL_MARK;
use crate::steps::{self, Plan, Streams};
use crate::wire::{Bundle, CONFIG_FILE, EXIT_FILE, Event, Exit, Failure, START_ERROR_CODE, STARTED_FILE, Started, at, now_unix_ns, read_file, write_file};
use keles_linux::cgroup::Group;
use keles_linux::{fdpass, process, signal};
use rustix::process::WaitStatus;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// After the last process is gone its pipes are closed; this is for descriptors that leaked elsewhere.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);
/// How long after its notice the kernel may take to end a process, and how often is looked.
const OOM_LIMIT: Duration = Duration::from_secs(1);
const OOM_PAUSE: Duration = Duration::from_millis(5);
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
    /// Told when memory runs out; on cgroup v1 only.
    oom_notice: Option<(u64, OwnedFd)>,
    /// When to look again whether a process was ended for it, and until when.
    oom_check: Option<(Instant, Instant)>,
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
    pub fn oom_check(&self) -> Option<Instant> {
        self.oom_check.filter(|_| !self.done).map(|(at, _)| at)
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
        let target = match &bundle.config.pid_target {
            Some(target) if steps::own_pid_namespace(self.file.config.pid) => Some(self.pids_of(target)?),
            _ => None,
        };
        let pids = target.as_ref().map(AsFd::as_fd).or(pod.shared_pids());
        let namespaces = if pids.is_none() && steps::own_pid_namespace(self.file.config.pid) { process::CLONE_NEWPID } else { 0 };
        let birth_place = group.birth_place().map_err(at("cgroup"))?;
        let become_command = |stage: Option<OwnedFd>| {
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
                users: pod.users(),
            };
            let failed = |failure: &Failure| report_failure(&theirs, failure);
            match stage {
                None => match steps::container(plan) {
                    Err(failure) => failed(&failure),
                },
                Some(to) => match steps::stage(plan, pids, failed) {
                    Ok(pid) => i32::from(fdpass::send(&to, &stage_message(pid), &[]).is_err()),
                    Err(failure) => report_failure(&to, &failure),
                },
            }
        };
        let birth_place = birth_place.as_ref().map(AsFd::as_fd);
        let pid = if pod.users().is_some() {
            // The stage stays in the shim's pid namespace, so that it knows its child by the number that the shim does.
            in_pids(pod, pod.own_pid_namespace(), || make_through_stage(birth_place, become_command))?.inspect_err(|_| group.kill())?
        } else {
            let make = || process::clone_child(namespaces, birth_place, || become_command(None)).map_err(at("make process"));
            match &target {
                Some(target) => in_pids(pod, target.as_fd(), make)??,
                None => make()?,
            }
        };
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
            oom_notice: None,
            oom_check: None,
            tty: bundle.config.tty,
            stdin_once: bundle.config.stdin_once,
            log,
            outputs: [None, None],
            sink: None,
            attachments: BTreeMap::new(),
        };
        self.containers.insert(id.to_owned(), container);
        self.watch_memory(id);
        self.connect_streams(id, our_stdin, our_outputs)
    }

    /// Without the notice only the process that the kernel chooses ends.
    fn watch_memory(&mut self, id: &str) {
        let Some(c) = self.containers.get_mut(id) else { return };
        let watched = c.group.oom_notice().and_then(|notice| {
            let Some(notice) = notice else { return Ok(None) };
            let token = self.reactor.add(notice.as_fd(), Interest::Read, Source::OutOfMemory(id.to_owned()))?;
            Ok(Some((token, notice)))
        });
        match watched {
            Ok(notice) => c.oom_notice = notice,
            Err(e) => eprintln!("shim: {id}: out of memory is not noticed: {e}"),
        }
    }

    /// The kernel tells before it has chosen whom to end, and tells all groups of a pod that is out of memory.
    pub(super) fn out_of_memory(&mut self, id: &str) {
        let Some(c) = self.containers.get_mut(id) else { return };
        if let Some((_, notice)) = &c.oom_notice {
            let _ = rustix::io::read(notice, &mut [0; 8]);
        }
        c.oom_check = Some((Instant::now(), Instant::now() + OOM_LIMIT));
        self.check_memory(id);
    }

    /// What cgroup v2's `memory.oom.group` does: a container whose process is ended for its memory ends as a whole.
    fn check_memory(&mut self, id: &str) {
        let Some(c) = self.containers.get_mut(id) else { return };
        let Some((_, until)) = c.oom_check.take().filter(|_| !c.done) else { return };
        if c.group.oom_kills() > 0 {
            c.group.kill();
        } else if Instant::now() < until {
            c.oom_check = Some((Instant::now() + OOM_PAUSE, until));
        }
    }

    /// The pid namespace of a running container.
    fn pids_of(&self, id: &str) -> Result<OwnedFd, Failure> {
        let failed = || Failure::new("join pid namespace", format!("target container {id} is not running"));
        let pid = self.containers.get(id).and_then(Container::pid).ok_or_else(failed)?;
        std::fs::File::open(format!("/proc/{pid}/ns/pid")).map(OwnedFd::from).map_err(at("open pid namespace"))
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
        if let Some((token, notice)) = c.oom_notice.take() {
            self.reactor.remove(notice.as_fd(), token);
        }
        let exit = Exit { code, signal, reason: reason.into(), message: String::new(), started_at_unix_ns: c.started_at, finished_at_unix_ns: now_unix_ns() };
        self.close_streams(id);
        self.record_exit(id, exit);
    }

    pub(super) fn check_deadlines(&mut self) {
        let due: Vec<String> = self.containers.values().filter(|c| c.oom_check().is_some_and(|at| at <= Instant::now())).map(|c| c.id.clone()).collect();
        due.iter().for_each(|id| self.check_memory(id));
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
                if let Some((token, notice)) = self.containers.remove(id).and_then(|c| c.oom_notice) {
                    self.reactor.remove(notice.as_fd(), token);
                }
                Ok(())
            }
            None => Ok(()),
        }
    }
}

/// Runs `make` with `pids` as the pid namespace of the children it makes; then they are born where the pod's are again.
pub(super) fn in_pids<T>(pod: &Pod, pids: BorrowedFd<'_>, make: impl FnOnce() -> T) -> Result<T, Failure> {
    process::join_namespace(pids, process::CLONE_NEWPID).map_err(at("enter pid namespace"))?;
    let made = make();
    process::join_namespace(pod.shared_pids().unwrap_or(pod.own_pid_namespace()), process::CLONE_NEWPID).map_err(at("leave pid namespace"))?;
    Ok(made)
}

/// The mark of a stage's word about the process it made.
const PID_MARK: u8 = b'P';

fn stage_message(pid: i32) -> Vec<u8> {
    [&[PID_MARK][..], &pid.to_ne_bytes()].concat()
}

/// A process in between gives up the host's rights before it makes the container's first process, as the shim's child ([`steps::stage`]).
fn make_through_stage(birth_place: Option<BorrowedFd<'_>>, stage: impl FnOnce(Option<OwnedFd>) -> i32) -> Result<i32, Failure> {
    let (report, theirs) = fdpass::pair().map_err(at("make report socket"))?;
    let pid = process::clone_child(0, birth_place, || stage(Some(theirs))).map_err(at("make process"))?;
    let told = fdpass::receive_whole(&report).map_err(at("talk to stage"));
    let _ = rustix::process::waitpid(rustix::process::Pid::from_raw(pid), rustix::process::WaitOptions::empty());
    let (message, _) = told?;
    match message.split_first() {
        Some((&PID_MARK, number)) => number.try_into().map(i32::from_ne_bytes).map_err(|_| Failure::new("make process", "the stage's word is cut")),
        Some((_, text)) => Err(serde_json::from_slice(text).unwrap_or_else(|e| Failure::new("make process", e))),
        None => Err(Failure::new("make process", "the process in between ended by itself")),
    }
}

pub(super) fn set_non_blocking(fd: &OwnedFd) -> Result<(), Failure> {
    let flags = rustix::fs::fcntl_getfl(fd).map_err(at("read descriptor flags"))?;
    rustix::fs::fcntl_setfl(fd, flags | rustix::fs::OFlags::NONBLOCK).map_err(at("set non-blocking"))
}
