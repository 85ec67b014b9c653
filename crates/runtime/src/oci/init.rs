//! A container's first process, from its making to its command: the list of steps that a bundle asks for, in the specification's order.

use super::create::{CreateOptions, GO, HOOKS_MARK, READY_MARK};
use super::mounts::{Prepared, View};
use super::namespaces::Namespaces;
use super::process::Identity;
use super::{bundle, devices, hooks};
use crate::shim::report_failure;
use crate::steps::command::{self, Command};
use crate::steps::{masks, root, terminal};
use crate::wire::{Failure, at};
use keles_linux::cgroup::{self, Group, Layout};
use keles_linux::mount::{self, Attributes, Propagation};
use keles_linux::rooted::RootDir;
use keles_linux::{fdpass, process, signal};
use keles_oci::runtime::{Process, Spec, State};
use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// All that the first process inherits.
pub struct Init<'a> {
    pub bundle: &'a bundle::Bundle,
    pub options: &'a CreateOptions,
    pub sources: Vec<Prepared>,
    pub own_groups: Vec<(PathBuf, OwnedFd)>,
    pub doors: Vec<OwnedFd>,
    pub namespaces: Namespaces,
    pub group: &'a Group,
    pub layout: &'a Layout,
    pub state: State,
    /// Absent without a mount namespace.
    pub root: Option<OwnedFd>,
}

/// Returns the exit code of a process that could not become its command.
pub fn run(init: &Init<'_>, listener: OwnedFd, report: OwnedFd) -> i32 {
    match set_up(init, &report) {
        Err(failure) => report_failure(&report, &failure),
        Ok(identity) => {
            let mut report = Some(report);
            // Whoever started it, once somebody has.
            let mut starter = None;
            match become_command(init, &identity, &listener, &mut report, &mut starter) {
                Err(failure) => starter.as_ref().or(report.as_ref()).map_or(1, |to| report_failure(to, &failure)),
            }
        }
    }
}

fn set_up(init: &Init<'_>, report: &OwnedFd) -> Result<Identity, Failure> {
    let spec = &init.bundle.spec;
    let p = spec.process.as_ref().expect("checked with the bundle");
    begin(init, report)?;
    set_names(spec)?;
    if let Some(tree) = &init.root {
        place_root(spec, &init.bundle.rootfs, tree)?;
        let root = RootDir::of(tree.try_clone().map_err(at("open root"))?);
        let view = View { root: &root, group: init.group, layout: init.layout, cgroup_namespace: init.namespaces.new_cgroup, own_groups: &init.own_groups };
        init.sources.iter().try_for_each(|m| m.attach(&view))?;
        devices::make(&root, spec, init.namespaces.new_user || init.namespaces.user.is_some())?;
    }
    // By the host's /proc, which nobody can have put anything over; they concern this process's namespaces.
    set_sysctls(spec)?;
    if let Some(personality) = &spec.linux.personality {
        super::process::set_personality(personality)?;
    }
    let identity = Identity::prepare(p, init.bundle.filter.clone())?;
    fdpass::send(report, &[HOOKS_MARK], &[]).map_err(at("talk to create"))?;
    wait_for_go(report)?;
    hooks::run("createContainer", &spec.hooks.create_container, &State { pid: std::process::id() as i32, ..init.state.clone() })?;
    match &init.root {
        Some(tree) if init.options.no_pivot => mount::move_to_root(tree.as_fd()).map_err(at("move root"))?,
        Some(tree) => mount::pivot(tree.as_fd()).map_err(at("pivot_root"))?,
        None => change_root(&init.bundle.rootfs)?,
    }
    if p.terminal {
        terminal::open(report.as_fd(), p.user.uid, init.namespaces.mounts)?;
        super::process::set_console_size(p);
    } else {
        super::process::own_streams(p.user.uid);
    }
    if init.root.is_some() {
        masks::apply(&spec.linux.readonly_paths, &spec.linux.masked_paths)?;
        finish_root(spec)?;
    }
    Ok(identity)
}

fn begin(init: &Init<'_>, report: &OwnedFd) -> Result<(), Failure> {
    process::hide_from_tracers().map_err(at("hide from tracers"))?;
    signal::reset_for_exec();
    cgroup::enter(&init.doors).map_err(at("join cgroup"))?;
    if !init.namespaces.needs_stage() {
        init.namespaces.enter()?;
    }
    // The caller maps ids and sets the score first.
    wait_for_go(report)?;
    if init.namespaces.new_user || init.namespaces.user.is_some() {
        match process::become_user(0, 0, &[]) {
            // Root need not be mapped.
            Err(e) if e.kind() == std::io::ErrorKind::InvalidInput => {}
            r => r.map_err(at("become root of the user namespace"))?,
        }
    }
    rustix::process::setsid().map_err(at("new session"))?;
    if !init.options.no_new_keyring {
        process::new_session_keyring();
    }
    if init.namespaces.new_cgroup {
        process::unshare(process::CLONE_NEWCGROUP).map_err(at("new cgroup namespace"))?;
    }
    if init.namespaces.mounts {
        mount::stop_propagating_to_host().map_err(at("cut off mount propagation"))?;
    }
    Ok(())
}

fn wait_for_go(report: &OwnedFd) -> Result<(), Failure> {
    let (message, _) = fdpass::receive_whole(report).map_err(at("talk to create"))?;
    if message == GO { Ok(()) } else { Err(Failure::new("create", "the caller has gone")) }
}

fn set_names(spec: &Spec) -> Result<(), Failure> {
    if !spec.hostname.is_empty() {
        rustix::system::sethostname(spec.hostname.as_bytes()).map_err(at("set hostname"))?;
    }
    if !spec.domainname.is_empty() {
        rustix::system::setdomainname(spec.domainname.as_bytes()).map_err(at("set domainname"))?;
    }
    Ok(())
}

fn set_sysctls(spec: &Spec) -> Result<(), Failure> {
    spec.linux.sysctl.iter().try_for_each(|(name, value)| crate::shim::set_sysctl(name, value))
}

/// The root tree at the bundle's own path, where hooks look for it.
fn place_root(spec: &Spec, rootfs: &Path, tree: &OwnedFd) -> Result<(), Failure> {
    let propagation = match spec.linux.rootfs_propagation.trim_start_matches('r') {
        "" | "slave" => Propagation::Slave,
        // The rest when it is the root: nothing shared can become one.
        "private" | "shared" | "unbindable" => Propagation::Private,
        other => return Err(Failure::new("rootfsPropagation", format!("{other:?} is not known"))),
    };
    mount::set_attributes(tree.as_fd(), true, Attributes::empty(), propagation).map_err(at("set propagation of root"))?;
    let place = match RootDir::open(rootfs) {
        // Ids of a user namespace may not reach it; nothing else looks for it there.
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => RootDir::open(Path::new("/")),
        r => r,
    };
    mount::attach(tree.as_fd(), place.map_err(at("open root"))?.as_fd()).map_err(at("attach root"))
}

fn change_root(rootfs: &Path) -> Result<(), Failure> {
    let root = RootDir::open(rootfs).map_err(at("open root"))?;
    mount::change_root(root.as_fd()).map_err(at("change root"))
}

fn finish_root(spec: &Spec) -> Result<(), Failure> {
    let word = &spec.linux.rootfs_propagation;
    let later = match word.trim_start_matches('r') {
        "shared" => Some(Propagation::Shared),
        "unbindable" => Some(Propagation::Unbindable),
        _ => None,
    };
    if let Some(propagation) = later {
        let root = RootDir::open(Path::new("/")).map_err(at("open root"))?;
        mount::set_attributes(root.as_fd(), word.starts_with('r'), Attributes::empty(), propagation).map_err(at("set propagation of root"))?;
    }
    if spec.root.as_ref().is_some_and(|r| r.readonly) { root::make_read_only() } else { Ok(()) }
}

/// As the container's user: working folder, lookup of the command, the wait, the last hooks, the command.
fn become_command(init: &Init<'_>, identity: &Identity, listener: &OwnedFd, report: &mut Option<OwnedFd>, starter: &mut Option<OwnedFd>) -> Result<Infallible, Failure> {
    let spec = &init.bundle.spec;
    let p: &Process = spec.process.as_ref().expect("checked with the bundle");
    let mut found: Option<Command> = None;
    let preserved = init.options.preserve_fds;
    identity.take(|env| {
        command::enter_working_folder(&p.cwd)?;
        found = Some(Command::find(&p.args, env)?);
        fdpass::send(report.as_ref().expect("open until now"), &[READY_MARK], &[]).map_err(at("talk to create"))?;
        // Its end tells the caller that all is ready.
        *report = None;
        *starter = Some(rustix::net::accept_with(listener, rustix::net::SocketFlags::CLOEXEC).map_err(at("wait for start"))?);
        hooks::run("startContainer", &spec.hooks.start_container, &State { pid: std::process::id() as i32, status: "created".into(), ..init.state.clone() })?;
        process::keep_only(preserved).map_err(at("close descriptors"))
    })?;
    found.expect("found just now").execute()
}
