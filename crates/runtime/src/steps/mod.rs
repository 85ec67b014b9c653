//! Setting up a container from inside its first process, one file a step.
//!
//! Entry points: [`container`] and [`exec`], which run in a fresh child of the shim and return only on failure. The order
//! follows the OCI runtime specification and runc where the order is visible: mounts before pivot, PATH lookup as the container's user,
//! seccomp last. The OCI runtime ([`crate::oci`]) takes the same steps in the order that a bundle asks for.

pub mod cgroup_view;
pub mod command;
pub mod devices;
pub mod masks;
mod mounts;
pub mod privileges;
pub mod root;
pub mod terminal;
pub mod user;

use crate::api::{AppArmor, NamespaceMode};
use crate::apparmor::Label;
use crate::wire::{Bundle, Failure, SandboxFile, at};
use keles_linux::cgroup::Group;
use keles_linux::seccomp::Profile;
use keles_linux::{mount, process, signal};
use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

/// What containers begin with where nothing else is said, as under runc: files that they make are the owner's to write. The shim has it too, so
/// that folders made on the way to a mount are as users expect them.
pub const UMASK: u32 = 0o022;

/// The standard streams of a process that gets no terminal. Absent: /dev/null.
#[derive(Default)]
pub struct Streams {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}

/// What a child of the shim needs to become a container's process.
pub struct Plan<'a> {
    pub sandbox: &'a SandboxFile,
    pub bundle: &'a Bundle,
    pub group: &'a Group,
    pub born_inside: bool,
    pub args: &'a [String],
    pub tty: bool,
    pub streams: Streams,
    /// Where the terminal and errors are sent; closed by a successful exec.
    pub report: BorrowedFd<'a>,
    /// The pod's /dev/shm; absent with the host's IPC namespace.
    pub shm: Option<BorrowedFd<'a>>,
    /// The pod's user namespace; absent with the host's.
    pub users: Option<BorrowedFd<'a>>,
}

impl Plan<'_> {
    fn folder(&self) -> PathBuf {
        self.sandbox.containers.join(&self.bundle.id)
    }
}

/// Namespaces of a running container.
pub struct Joined {
    pub mount: OwnedFd,
    pub cgroup: Option<OwnedFd>,
}

/// What only the host's rights can open.
struct Prepared<'a> {
    profile: Option<Profile>,
    sources: Vec<mounts::Source<'a>>,
    root: OwnedFd,
    shm: OwnedFd,
}

/// Becomes the container's first process.
pub fn container(plan: Plan<'_>) -> Result<Infallible, Failure> {
    let prepared = prepare(&plan)?;
    process::unshare(process::CLONE_NEWCGROUP).map_err(at("new cgroup namespace"))?;
    arrange(plan, prepared)
}

/// Where the pod has a user namespace: prepares with the host's rights, gives them up, and makes the container's first process as the caller's
/// child, so that all of its namespaces belong to that user namespace. Returns the child's pid as this process sees it. `pids`: the pid
/// namespace to join; absent for a new one. `failed` tells why the child did not become its command.
pub fn stage(plan: Plan<'_>, pids: Option<BorrowedFd<'_>>, failed: impl FnOnce(&Failure) -> i32) -> Result<i32, Failure> {
    let users = plan.users.ok_or_else(|| Failure::new("enter user namespace", "the pod has none"))?;
    let prepared = prepare(&plan)?;
    if let Some(pids) = pids {
        process::join_namespace(pids, process::CLONE_NEWPID).map_err(at("join pid namespace"))?;
    }
    process::join_namespace(users, process::CLONE_NEWUSER).map_err(at("enter user namespace"))?;
    let namespaces = if pids.is_some() { 0 } else { process::CLONE_NEWPID };
    let child = || match inside(plan, prepared) {
        Err(failure) => failed(&failure),
    };
    process::clone_child(namespaces | process::CLONE_PARENT, None, child).map_err(at("make process"))
}

/// A fresh process of the pod's user namespace.
fn inside(plan: Plan<'_>, prepared: Prepared<'_>) -> Result<Infallible, Failure> {
    become_root_of_namespace()?;
    rustix::process::setsid().map_err(at("new session"))?;
    process::new_session_keyring();
    process::unshare(process::CLONE_NEWNS | process::CLONE_NEWCGROUP).map_err(at("new mount namespace"))?;
    mount::stop_propagating_to_host().map_err(at("cut off mount propagation"))?;
    arrange(plan, prepared)
}

/// Whoever enters a user namespace keeps an id that is not of it.
fn become_root_of_namespace() -> Result<(), Failure> {
    process::become_user(0, 0, &[]).map_err(at("become root of the user namespace"))
}

fn prepare<'a>(plan: &Plan<'a>) -> Result<Prepared<'a>, Failure> {
    let profile = begin(plan)?;
    process::unshare(process::CLONE_NEWNS).map_err(at("new mount namespace"))?;
    // Before the host's propagation is cut off: a bidirectional mount must stay a peer of its source.
    let sources = mounts::open_sources(&plan.bundle.config.mounts, plan.users)?;
    mount::stop_propagating_to_host().map_err(at("cut off mount propagation"))?;
    let root = root::overlay(plan.bundle, &plan.folder(), plan.users)?;
    Ok(Prepared { profile, sources, root, shm: devices::open_shm(plan.shm)? })
}

/// From the container's mount namespace, still the host's files, to its command.
fn arrange(plan: Plan<'_>, prepared: Prepared<'_>) -> Result<Infallible, Failure> {
    let Prepared { profile, sources, root, shm } = prepared;
    let label = label(&plan)?;
    let root = root::attach(root, &plan.folder())?;
    root::mount_proc(&root)?;
    devices::mount_dev(&root, &plan, &shm)?;
    root::mount_sys(&root, plan.bundle.config.security.privileged)?;
    cgroup_view::mount(&root, &plan.sandbox.layout, plan.bundle.config.security.privileged)?;
    mounts::attach(&root, sources)?;
    mount::pivot(root.as_fd()).map_err(at("pivot_root"))?;
    let security = &plan.bundle.config.security;
    if !security.privileged {
        masks::apply(&security.read_only_paths, &security.masked_paths)?;
    }
    if plan.bundle.config.security.read_only_root {
        root::make_read_only()?;
    }
    finish(plan, true, profile, label)
}

/// Becomes one more process of a running container.
pub fn exec(plan: Plan<'_>, namespaces: Joined) -> Result<Infallible, Failure> {
    let profile = begin(&plan)?;
    let label = label(&plan)?;
    if let Some(users) = plan.users {
        process::join_namespace(users, process::CLONE_NEWUSER).map_err(at("enter user namespace"))?;
        become_root_of_namespace()?;
    }
    if let Some(cgroup) = &namespaces.cgroup {
        process::join_namespace(cgroup.as_fd(), process::CLONE_NEWCGROUP).map_err(at("join cgroup namespace"))?;
    }
    process::join_namespace(namespaces.mount.as_fd(), process::CLONE_NEWNS).map_err(at("join mount namespace"))?;
    finish(plan, false, profile, label)
}

/// What must happen while the host's files can be seen. Returns a Localhost seccomp profile.
fn begin(plan: &Plan<'_>) -> Result<Option<Profile>, Failure> {
    process::hide_from_tracers().map_err(at("hide from tracers"))?;
    signal::reset_for_exec();
    plan.group.join(plan.born_inside).map_err(at("join cgroup"))?;
    rustix::process::setsid().map_err(at("new session"))?;
    process::new_session_keyring();
    // The shim's own score, which protects it, must not be inherited.
    raise_oom_score(plan.bundle.config.resources.oom_score_adj.unwrap_or(0))?;
    if let Some(users) = &plan.sandbox.config.users {
        terminal::own_streams(&plan.streams, users.first);
    }
    privileges::load_profile(&plan.bundle.config.security)
}

/// What the engine found for the container ([`crate::apparmor::Host::profile_for`]).
fn label(plan: &Plan<'_>) -> Result<Option<Label>, Failure> {
    match &plan.bundle.config.security.apparmor {
        Some(AppArmor::Localhost(profile)) => Label::open(profile).map(Some),
        _ => Ok(None),
    }
}

/// Identity, streams, privileges, command: the same for a container's first and later processes.
fn finish(plan: Plan<'_>, first: bool, profile: Option<Profile>, label: Option<Label>) -> Result<Infallible, Failure> {
    let config = &plan.bundle.config;
    let user = user::resolve(&config.security)?;
    if plan.tty {
        terminal::open(plan.report, user.uid, first)?;
    } else {
        terminal::install_streams(&plan.streams, user.uid)?;
    }
    raise_file_limit();
    let env = command::environment(&plan.sandbox.config, config, &user.home, plan.tty);
    command::enter_working_folder(&config.working_dir)?;
    label.as_ref().map_or(Ok(()), Label::take)?;
    privileges::drop_to(&config.security, profile.as_ref(), &user)?;
    command::run(plan.args, &env)
}

/// Raises only: lowering needs CAP_SYS_RESOURCE, whose absence is told in the shim's log and is no failure.
fn raise_oom_score(wanted: i32) -> Result<(), Failure> {
    set_oom_score("/proc/self/oom_score_adj", wanted)
}

/// The nearest that the kernel allows, with a line on standard error when it is not what was asked.
pub fn set_oom_score(path: &str, wanted: i32) -> Result<(), Failure> {
    match std::fs::write(path, wanted.to_string()) {
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            eprintln!("oom_score_adj {wanted} refused by the kernel, keeping {}: give the server CAP_SYS_RESOURCE", std::fs::read_to_string(path).unwrap_or_default().trim());
            Ok(())
        }
        r => r.map_err(at("set oom_score_adj")),
    }
}

/// The limit of open files that containers get elsewhere, whatever the server's own soft limit is.
fn raise_file_limit() {
    const FILES: u64 = 1 << 20;
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    let maximum = now.maximum.unwrap_or(FILES).min(FILES);
    // Lowering a hard limit cannot fail; keeping the old one is fine too.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(maximum), maximum: Some(maximum) });
}

/// Whether this pod's containers have a pid namespace each.
pub fn own_pid_namespace(mode: NamespaceMode) -> bool {
    mode == NamespaceMode::Container
}
