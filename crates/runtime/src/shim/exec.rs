//! More processes in a running container: probes, `kubectl exec`.

use super::container::{Launch, Report, in_pids, report_failure, set_non_blocking};
use super::reactor::{Interest, Source};
use super::{ReplyTo, Shim, exit_code};
use crate::steps::{self, Joined, Plan, Streams};
use crate::wire::{Bundle, CONFIG_FILE, Event, Failure, Message, at, read_file};
use keles_linux::{fdpass, process, signal};
use rustix::process::WaitStatus;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

const MAX_EXECS: usize = 256;

pub struct Exec {
    pub pid: i32,
    /// Who is told of the end.
    connection: u64,
    launch: Option<Launch>,
}

impl Shim {
    #[allow(clippy::too_many_arguments)]
    pub(super) fn exec(&mut self, to: ReplyTo, id: &str, exec: u64, args: &[String], tty: bool, asked: [bool; 3], fds: Vec<OwnedFd>) {
        if let Err(failure) = self.launch_exec(to, id, exec, args, tty, asked, fds) {
            self.reply(to, Err(failure), None);
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn launch_exec(&mut self, to: ReplyTo, id: &str, exec: u64, args: &[String], tty: bool, asked: [bool; 3], fds: Vec<OwnedFd>) -> Result<(), Failure> {
        if self.execs.len() >= MAX_EXECS || self.ending.is_some() {
            return Err(Failure::new("exec", format!("the pod is ending or runs {MAX_EXECS} commands already")));
        }
        let pod = self.pod.as_ref().map_err(Clone::clone)?;
        let container = self.containers.get(id).ok_or_else(|| Failure::new("exec", format!("container {id} is not running")))?;
        let first = container.pid().ok_or_else(|| Failure::new("exec", format!("container {id} is not running")))?;
        let bundle: Bundle = read_file(&self.container_folder(id).join(CONFIG_FILE)).map_err(at("read container configuration"))?;
        let namespace = |kind: &str| File::open(format!("/proc/{first}/ns/{kind}")).map(OwnedFd::from).map_err(at("open namespace"));
        let joined = Joined { mount: namespace("mnt")?, cgroup: namespace("cgroup").ok() };
        let streams = streams(asked, fds)?;
        let (report, theirs) = fdpass::pair().map_err(at("make report socket"))?;
        let group = container.group();
        let birth_place = group.birth_place().map_err(at("cgroup"))?;
        let child = || {
            let (theirs, streams, joined) = (theirs, streams, joined);
            let plan =
                Plan { sandbox: &self.file, bundle: &bundle, group, born_inside: birth_place.is_some(), args, tty, streams, report: theirs.as_fd(), shm: None, users: pod.users() };
            match steps::exec(plan, joined) {
                Err(failure) => report_failure(&theirs, &failure),
            }
        };
        let own = steps::own_pid_namespace(self.file.config.pid);
        let make = || process::clone_child(0, birth_place.as_ref().map(AsFd::as_fd), child).map_err(at("make process"));
        let pid = if own { in_pids(pod, namespace("pid")?.as_fd(), make)?? } else { make()? };
        set_non_blocking(&report)?;
        let token = self.reactor.add(report.as_fd(), Interest::Read, Source::LaunchExec(exec)).map_err(at("watch report socket"))?;
        self.execs.insert(exec, Exec { pid, connection: to.connection, launch: Some(Launch::new(token, report, to)) });
        Ok(())
    }

    pub(super) fn launched_exec(&mut self, exec: u64) {
        let Some(launch) = self.execs.get_mut(&exec).and_then(|e| e.launch.as_mut()) else { return };
        let report = launch.read();
        if matches!(report, Report::NotYet) {
            return;
        }
        let launch = self.execs.get_mut(&exec).and_then(|e| e.launch.take()).expect("was read just now");
        let (to, terminal) = launch.take(self);
        match report {
            Report::Failed(failure) => {
                self.execs.remove(&exec);
                self.reply(to, Err(failure), None);
            }
            _ => self.reply(to, Ok(()), terminal),
        }
    }

    pub(super) fn exec_ended(&mut self, exec: u64, status: WaitStatus) {
        self.launched_exec(exec);
        if let Some(e) = self.execs.remove(&exec) {
            let event = Event::ExecExited { exec, code: exit_code(status).0 };
            self.send(e.connection, &Message::Event(event), None);
        }
    }

    /// It leads a session of its own: its group goes with it.
    pub(super) fn kill_exec(&mut self, exec: u64) -> Result<(), Failure> {
        let Some(e) = self.execs.get(&exec) else { return Ok(()) };
        signal::kill(-e.pid, signal::SIGKILL).and_then(|()| signal::kill(e.pid, signal::SIGKILL)).map_err(at("kill exec"))
    }
}

fn streams(asked: [bool; 3], fds: Vec<OwnedFd>) -> Result<Streams, Failure> {
    if fds.len() != asked.iter().filter(|a| **a).count() {
        return Err(Failure::new("exec", "the request's descriptors do not match its streams"));
    }
    let mut fds = fds.into_iter();
    let mut next = |asked: bool| if asked { fds.next() } else { None };
    Ok(Streams { stdin: next(asked[0]), stdout: next(asked[1]), stderr: next(asked[2]) })
}
