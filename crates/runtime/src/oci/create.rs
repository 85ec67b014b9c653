//! `create`: from a bundle to a first process that waits to be started.
//!
//! The caller opens everything that only the host can see (sources of mounts, namespaces, doors of the control groups), makes the first
//! process as a copy of itself, maps its ids, runs the hooks of the host's side when it asks, and leaves once it waits. Its ends of errors
//! and of the terminal come over one socket; the socket's end without a word of readiness is a failure.

use super::bundle::{self, Bundle};
use super::init::{self, Init};
use super::namespaces;
use super::state::{Container, START, Saved, Store, start_time};
use super::{devices, hooks, mounts, resources};
use crate::shim::{ERROR_MARK, report_failure};
use crate::steps::terminal::TERMINAL_MARK;
use crate::wire::{Failure, at};
use keles_linux::cgroup::{Group, Layout};
use keles_linux::{fdpass, mount, process, signal};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// From the first process: run the hooks of the host's side; everything is mounted.
pub const HOOKS_MARK: u8 = b'H';
/// From the first process: it waits to be started.
pub const READY_MARK: u8 = b'R';
/// From a stage in between: the first process's number follows.
pub const PID_MARK: u8 = b'P';
/// To the first process: go on.
pub const GO: &[u8] = b"g";

#[derive(Clone, Debug, Default)]
pub struct CreateOptions {
    pub bundle: PathBuf,
    pub pid_file: Option<PathBuf>,
    pub console_socket: Option<PathBuf>,
    pub no_pivot: bool,
    pub no_new_keyring: bool,
    pub preserve_fds: u32,
    /// The caller takes the terminal itself.
    pub keep_terminal: bool,
}

/// A container that waits, and its terminal when the caller asked to keep it.
pub struct Created {
    pub container: Container,
    pub terminal: Option<OwnedFd>,
}

pub fn create(store: &Store, id: &str, options: &CreateOptions) -> Result<Created, Failure> {
    let bundle = bundle::load(&options.bundle)?;
    let has_terminal = bundle.spec.process.as_ref().is_some_and(|p| p.terminal);
    match (has_terminal, options.console_socket.is_some() || options.keep_terminal) {
        (true, false) => return Err(Failure::new("terminal", "cannot allocate a terminal without --console-socket: nobody would hold it")),
        (false, true) if options.console_socket.is_some() => return Err(Failure::new("terminal", "--console-socket is given but process.terminal is false")),
        _ => {}
    }
    let folder = store.claim(id)?;
    let made = build(&folder, id, &bundle, options);
    if made.is_err() {
        let _ = std::fs::remove_dir_all(&folder);
    }
    made
}

fn build(folder: &Path, id: &str, bundle: &Bundle, options: &CreateOptions) -> Result<Created, Failure> {
    let spec = &bundle.spec;
    std::fs::write(folder.join(bundle::CONFIG), &bundle.text).map_err(at("keep configuration"))?;
    let layout = Layout::discover_with(&resources::controllers(&spec.linux.resources)).map_err(at("find cgroups"))?;
    let group = layout.group(&cgroup_path(&spec.linux.cgroups_path, id)).map_err(at("cgroup"))?;
    let saved = Saved {
        oci_version: spec.oci_version.clone(),
        id: id.to_owned(),
        init_process_pid: 0,
        init_process_start: 0,
        bundle: bundle.folder.clone(),
        rootfs: bundle.rootfs.clone(),
        created: jiff::Timestamp::now(),
        owner: rustix::process::getuid().as_raw().to_string(),
        annotations: spec.annotations.clone(),
        cgroup: group.path().to_owned(),
        layout,
    };
    let mut container = Container { folder: folder.to_owned(), saved };
    let made = confine(&container, spec, &group).and_then(|()| launch(&mut container, bundle, &group, options));
    if made.is_err() {
        // The first error is the one to tell.
        if container.saved.init_process_pid > 0 {
            let _ = signal::kill(container.saved.init_process_pid, signal::SIGKILL);
            let _ = rustix::process::waitpid(rustix::process::Pid::from_raw(container.saved.init_process_pid), rustix::process::WaitOptions::empty());
        }
        let _ = group.destroy();
        hooks::run_each("poststop", &spec.hooks.poststop, &container.state("stopped"));
    }
    made.map(|terminal| Created { container, terminal })
}

/// Below the trees' tops, absolute or not; the container's id when the bundle names none.
pub fn cgroup_path(asked: &str, id: &str) -> String {
    let path: Vec<&str> = asked.split('/').filter(|p| !p.is_empty()).collect();
    if path.is_empty() { id.to_owned() } else { path.join("/") }
}

fn confine(container: &Container, spec: &keles_oci::runtime::Spec, group: &Group) -> Result<(), Failure> {
    group.create().map_err(at("make cgroup"))?;
    group.inherit_cpuset().map_err(at("make cgroup"))?;
    resources::apply(&spec.linux.resources, group, &container.saved.layout)?;
    let rules = devices::rules(spec)?;
    if rules.is_empty() { Ok(()) } else { group.filter_devices(&rules).map_err(at("filter devices")) }
}

/// A socket's path has at most 107 bytes; the folder's own name may be longer.
fn short_path(folder: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}/{START}", folder.as_raw_fd()).into()
}

fn open_folder(folder: &Path) -> Result<OwnedFd, Failure> {
    std::fs::File::open(folder).map(OwnedFd::from).map_err(|e| Failure::new("open container folder", format!("{}: {e}", folder.display())))
}

fn launch(container: &mut Container, bundle: &Bundle, group: &Group, options: &CreateOptions) -> Result<Option<OwnedFd>, Failure> {
    let spec = &bundle.spec;
    let listener = fdpass::listen(&short_path(&open_folder(&container.folder)?)).map_err(at("make start socket"))?;
    let namespaces = namespaces::plan(spec)?;
    let birth_place = group.birth_place().map_err(at("cgroup"))?;
    let root = if namespaces.mounts { Some(mount::clone_tree(rustix::fs::CWD, &bundle.rootfs, true).map_err(at("open root"))?) } else { None };
    let init = Init {
        bundle,
        options,
        sources: mounts::prepare(spec, &bundle.folder)?,
        own_groups: if namespaces.mounts && !namespaces.new_cgroup { mounts::open_own_groups(group)? } else { Vec::new() },
        doors: group.doors(birth_place.is_some()).map_err(at("open cgroup"))?,
        namespaces,
        group,
        layout: &container.saved.layout,
        state: container.state("creating"),
        root,
    };
    let (report, theirs) = fdpass::pair().map_err(at("make report socket"))?;
    let pid = if init.namespaces.needs_stage() {
        make_through_stage(&init, listener, theirs, &report, birth_place.as_ref())?
    } else {
        let child = || init::run(&init, listener, theirs);
        init.namespaces.clone_into(spec, || process::clone_child(init.namespaces.born, birth_place.as_ref().map(AsFd::as_fd), child).map_err(at("make process")))?
    };
    container.saved.init_process_pid = pid;
    if init.namespaces.new_user {
        namespaces::map_ids(pid, &spec.linux.uid_mappings, &spec.linux.gid_mappings)?;
    }
    if let Some(wanted) = spec.process.as_ref().and_then(|p| p.oom_score_adj) {
        crate::steps::set_oom_score(&format!("/proc/{pid}/oom_score_adj"), wanted)?;
    }
    fdpass::send(&report, GO, &[]).map_err(at("talk to first process"))?;
    let terminal = attend(&report, container, spec)?;
    container.saved.init_process_start = start_time(pid).ok_or_else(|| Failure::new("create", "the first process ended by itself"))?;
    let terminal = hand_over(terminal, options)?;
    container.save()?;
    if let Some(path) = &options.pid_file {
        write_pid_file(path, pid)?;
    }
    Ok(terminal)
}

/// A process in between enters what must be entered before the first process is made, makes it as the caller's child and ends.
fn make_through_stage(init: &Init<'_>, listener: OwnedFd, theirs: OwnedFd, report: &OwnedFd, birth_place: Option<&OwnedFd>) -> Result<i32, Failure> {
    let spec = &init.bundle.spec;
    let stage = || {
        let copy = match theirs.try_clone() {
            Ok(copy) => copy,
            Err(_) => return 1,
        };
        let made = init.namespaces.enter().and_then(|()| {
            let child = || init::run(init, listener, theirs);
            init.namespaces.clone_into(spec, || process::clone_child(init.namespaces.born | process::CLONE_PARENT, None, child).map_err(at("make process")))
        });
        match made {
            Ok(pid) => {
                let mut message = vec![PID_MARK];
                message.extend(pid.to_ne_bytes());
                i32::from(fdpass::send(&copy, &message, &[]).is_err())
            }
            Err(failure) => report_failure(&copy, &failure),
        }
    };
    let stage = process::clone_child(0, birth_place.map(AsFd::as_fd), stage).map_err(at("make process"))?;
    let (message, _) = fdpass::receive_whole(report).map_err(at("talk to first process"))?;
    let _ = rustix::process::waitpid(rustix::process::Pid::from_raw(stage), rustix::process::WaitOptions::empty());
    match (message.first(), message.get(1..5).and_then(|b| b.try_into().ok())) {
        (Some(&PID_MARK), Some(pid)) => Ok(i32::from_ne_bytes(pid)),
        _ => Err(failure_of(&message)),
    }
}

/// The failure that a message tells.
pub fn failure_of(message: &[u8]) -> Failure {
    match message.split_first() {
        Some((&ERROR_MARK, text)) => serde_json::from_slice(text).unwrap_or_else(|e| Failure::new("start", e)),
        _ => Failure::new("create", "the first process ended by itself"),
    }
}

/// Serves the first process until it waits; returns its terminal.
fn attend(report: &OwnedFd, container: &Container, spec: &keles_oci::runtime::Spec) -> Result<Option<OwnedFd>, Failure> {
    let mut terminal = None;
    loop {
        let (message, fds) = fdpass::receive_whole(report).map_err(at("talk to first process"))?;
        match message.first() {
            Some(&TERMINAL_MARK) => terminal = fds.into_iter().next(),
            Some(&HOOKS_MARK) => {
                let state = container.state("creating");
                hooks::run("prestart", &spec.hooks.prestart, &state)?;
                hooks::run("createRuntime", &spec.hooks.create_runtime, &state)?;
                fdpass::send(report, GO, &[]).map_err(at("talk to first process"))?;
            }
            Some(&READY_MARK) => return Ok(terminal),
            _ => return Err(failure_of(&message)),
        }
    }
}

/// The terminal's master goes to whoever listens at the console socket, as runc sends it.
pub fn hand_over(terminal: Option<OwnedFd>, options: &CreateOptions) -> Result<Option<OwnedFd>, Failure> {
    match (terminal, &options.console_socket) {
        (Some(master), Some(path)) => send_terminal(&master, path).map(|()| None),
        (terminal, _) => Ok(terminal),
    }
}

fn send_terminal(master: &OwnedFd, path: &Path) -> Result<(), Failure> {
    let failed = |e: std::io::Error| Failure::new("console socket", format!("{}: {e}", path.display()));
    let socket = std::os::unix::net::UnixStream::connect(path).map_err(failed)?;
    fdpass::send(&socket, b"/dev/ptmx", &[master.as_fd()]).map_err(failed)
}

pub fn write_pid_file(path: &Path, pid: i32) -> Result<(), Failure> {
    let failed = |e: std::io::Error| Failure::new("write pid file", format!("{}: {e}", path.display()));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}"));
    std::fs::write(&temporary, pid.to_string()).map_err(failed)?;
    std::fs::rename(&temporary, path).map_err(failed)
}

/// Lets the waiting process go on; returns once it has become its command. An error ends the container.
pub fn start(container: &Container) -> Result<(), Failure> {
    let folder = open_folder(&container.folder)?;
    let socket = fdpass::connect(&short_path(&folder)).map_err(|_| Failure::new("start", "the first process does not wait any more"))?;
    let _ = std::fs::remove_file(container.folder.join(START));
    let (message, _) = fdpass::receive_whole(&socket).map_err(at("talk to first process"))?;
    if !message.is_empty() {
        return Err(failure_of(&message));
    }
    let spec = container.spec()?;
    hooks::run("poststart", &spec.hooks.poststart, &container.state("running")).inspect_err(|_| {
        let _ = signal::kill(container.saved.init_process_pid, signal::SIGKILL);
    })
}
