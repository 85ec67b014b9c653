//! `exec`: one more process in a running container, in its namespaces and groups, by default with its identity and rules.

use super::create::{CreateOptions, READY_MARK, failure_of, hand_over, write_pid_file};
use super::process::Identity;
use super::state::{Container, Status};
use super::{bundle, namespaces};
use crate::shim::report_failure;
use crate::steps::command::{self, Command};
use crate::steps::terminal::{self, TERMINAL_MARK};
use crate::wire::{Failure, at};
use keles_linux::{cgroup, fdpass, process, signal};
use keles_oci::runtime::Process;
use std::convert::Infallible;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

/// What differs from the container's own process.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// `config.json`'s process object, instead of the container's.
    pub process: Option<Vec<u8>>,
    pub args: Vec<String>,
    pub terminal: bool,
    pub cwd: Option<String>,
    pub env: Vec<String>,
    /// `uid[:gid]`.
    pub user: Option<String>,
    pub additional_gids: Vec<u32>,
    pub capabilities: Vec<String>,
    pub no_new_privileges: bool,
    pub apparmor: Option<String>,
    pub label: Option<String>,
    pub ignore_paused: bool,
}

/// A process that runs, its parent being the caller.
pub struct Executed {
    pub pid: i32,
    pub terminal: Option<OwnedFd>,
}

fn wanted(container: &Container, changes: Changes) -> Result<(Process, Option<crate::steps::privileges::Filter>), Failure> {
    let spec = container.spec()?;
    let filter = bundle::seccomp(&spec)?;
    if let Some(text) = changes.process {
        let p: Process = keles_oci::runtime::parse(&text).map_err(at("read process"))?;
        bundle::check_process(&p)?;
        return Ok((p, filter));
    }
    let mut p = spec.process.expect("checked with the bundle");
    p.args = changes.args;
    p.terminal = changes.terminal;
    p.console_size = None;
    p.env.extend(changes.env);
    p.no_new_privileges |= changes.no_new_privileges;
    if let Some(cwd) = changes.cwd {
        p.cwd = cwd;
    }
    if let Some(user) = changes.user {
        let number = |s: &str| s.parse::<u32>().map_err(|e| Failure::new("user", format!("{user:?} is not uid[:gid]: {e}")));
        let (uid, gid) = user.split_once(':').map_or((user.as_str(), None), |(u, g)| (u, Some(g)));
        p.user.uid = number(uid)?;
        p.user.gid = gid.map_or(Ok(p.user.gid), number)?;
    }
    p.user.additional_gids.extend(changes.additional_gids);
    if !changes.capabilities.is_empty() {
        let c = p.capabilities.get_or_insert_default();
        for set in [&mut c.bounding, &mut c.effective, &mut c.permitted] {
            set.extend(changes.capabilities.iter().cloned());
        }
    }
    p.apparmor_profile = changes.apparmor.unwrap_or(p.apparmor_profile);
    p.selinux_label = changes.label.unwrap_or(p.selinux_label);
    bundle::check_process(&p)?;
    Ok((p, filter))
}

pub fn exec(container: &Container, changes: Changes, options: &CreateOptions) -> Result<Executed, Failure> {
    match container.status() {
        Status::Running | Status::Created => {}
        Status::Paused if changes.ignore_paused => {}
        other => return Err(Failure::new("exec", format!("cannot exec in a {} container", other.word()))),
    }
    let (p, filter) = wanted(container, changes)?;
    if p.terminal && options.console_socket.is_none() && !options.keep_terminal {
        return Err(Failure::new("terminal", "cannot allocate a terminal without --console-socket: nobody would hold it"));
    }
    let first = container.saved.init_process_pid;
    let group = container.group()?;
    let join = Join {
        handle: process::open_process(first).map_err(at("open first process"))?,
        kinds: namespaces::differing(first)?,
        root: File::open(format!("/proc/{first}/root")).map_err(at("open root"))?.into(),
        doors: group.doors(true).map_err(at("open cgroup"))?,
    };
    let birth_place = group.birth_place().map_err(at("cgroup"))?;
    let namespace = |pid: &str| File::open(format!("/proc/{pid}/ns/pid")).map(OwnedFd::from).map_err(at("open pid namespace"));
    let (theirs_pid, own_pid) = (namespace(&first.to_string())?, namespace("self")?);
    let (report, theirs) = fdpass::pair().map_err(at("make report socket"))?;
    let child = || {
        let report = theirs;
        match become_process(&join, &p, filter, options, &report) {
            Err(failure) => report_failure(&report, &failure),
        }
    };
    process::join_namespace(theirs_pid.as_fd(), process::CLONE_NEWPID).map_err(at("enter pid namespace"))?;
    let made = process::clone_child(0, birth_place.as_ref().map(AsFd::as_fd), child);
    process::join_namespace(own_pid.as_fd(), process::CLONE_NEWPID).map_err(at("leave pid namespace"))?;
    let pid = made.map_err(at("make process"))?;
    if let Some(score) = p.oom_score_adj {
        crate::steps::set_oom_score(&format!("/proc/{pid}/oom_score_adj"), score)?;
    }
    fdpass::send(&report, super::create::GO, &[]).map_err(at("talk to process"))?;
    let terminal = attend(&report).inspect_err(|_| {
        let _ = signal::kill(pid, signal::SIGKILL);
        let _ = rustix::process::waitpid(rustix::process::Pid::from_raw(pid), rustix::process::WaitOptions::empty());
    })?;
    let terminal = hand_over(terminal, options)?;
    if let Some(path) = &options.pid_file {
        write_pid_file(path, pid)?;
    }
    Ok(Executed { pid, terminal })
}

/// Where the new process goes.
struct Join {
    handle: OwnedFd,
    kinds: i32,
    root: OwnedFd,
    doors: Vec<OwnedFd>,
}

/// Its socket's end is the command's begin.
fn attend(report: &OwnedFd) -> Result<Option<OwnedFd>, Failure> {
    let (mut terminal, mut ready) = (None, false);
    loop {
        let (message, fds) = fdpass::receive_whole(report).map_err(at("talk to process"))?;
        match message.first() {
            Some(&TERMINAL_MARK) => terminal = fds.into_iter().next(),
            Some(&READY_MARK) => ready = true,
            None if ready => return Ok(terminal),
            _ => return Err(failure_of(&message)),
        }
    }
}

fn become_process(join: &Join, p: &Process, filter: Option<crate::steps::privileges::Filter>, options: &CreateOptions, report: &OwnedFd) -> Result<Infallible, Failure> {
    process::hide_from_tracers().map_err(at("hide from tracers"))?;
    signal::reset_for_exec();
    cgroup::enter(&join.doors).map_err(at("join cgroup"))?;
    drop(fdpass::receive_whole(report).map_err(at("talk to exec"))?);
    rustix::process::setsid().map_err(at("new session"))?;
    if !options.no_new_keyring {
        process::new_session_keyring();
    }
    // Limits and labels go by the host's /proc.
    let identity = Identity::prepare(p, filter)?;
    if join.kinds != 0 {
        process::join_namespace(join.handle.as_fd(), join.kinds).map_err(at("join namespaces"))?;
    }
    if join.kinds & process::CLONE_NEWNS == 0 {
        keles_linux::mount::change_root(join.root.as_fd()).map_err(at("change root"))?;
    }
    if p.terminal {
        terminal::open(report.as_fd(), p.user.uid, false)?;
        super::process::set_console_size(p);
    } else {
        super::process::own_streams(p.user.uid);
    }
    let mut found = None;
    identity.take(|env| {
        command::enter_working_folder(&p.cwd)?;
        found = Some(Command::find(&p.args, env)?);
        fdpass::send(report, &[READY_MARK], &[]).map_err(at("talk to exec"))?;
        process::keep_only(options.preserve_fds).map_err(at("close descriptors"))
    })?;
    found.expect("found just now").execute()
}
