//! An OCI runtime: what containerd, Docker and Podman call runc for, with runc's commands and flags.
//!
//! Entry point: [`oci_main`], which the binary runs as `keles oci` (or as a link named `keles-oci`). Each call is a short single-threaded
//! process; containers have no shim, and whoever calls `create` becomes the parent of the first process. The steps inside a container
//! are those of the pods' shim ([`crate::steps`]); this module decides from a bundle which of them, and in which order.
//! Invariants: nothing in a container refers to the program's file but from a read-only mount; a failed create leaves nothing.
//! Deliberately absent, and refused by name: checkpoint and restore, systemd's cgroups, seccomp notify, memory policies, Intel RDT.

mod bundle;
mod cli;
mod console;
mod create;
mod devices;
mod exec;
mod hooks;
mod init;
mod mounts;
pub(crate) mod namespaces;
mod options;
mod process;
mod report;
mod resources;
mod state;

use crate::wire::{Failure, at};
use keles_linux::signal;
use state::{Container, Status, Store};

pub use cli::oci_main;

/// Sends a signal to the first process, or to all.
fn kill(container: &Container, number: i32, all: bool) -> Result<(), Failure> {
    if all {
        return container.group()?.members().iter().try_for_each(|pid| signal::kill(*pid, number)).map_err(at("kill"));
    }
    if container.status() == Status::Stopped {
        return Err(Failure::new("kill", "container not running"));
    }
    signal::kill(container.saved.init_process_pid, number).map_err(at("kill"))?;
    // A frozen process cannot end: let it.
    if number == signal::SIGKILL && container.status() == Status::Paused {
        container.group()?.freeze(false).map_err(at("thaw"))?;
    }
    Ok(())
}

/// Takes away what a stopped container has; with `force` ends it first.
fn delete(store: &Store, id: &str, force: bool) -> Result<(), Failure> {
    let container = match store.open(id) {
        Ok(c) => c,
        Err(e) => {
            return match store.unfinished(id) {
                Some(folder) => remove_unfinished(&folder, id),
                None if force => Ok(()),
                None => Err(e),
            };
        }
    };
    match container.status() {
        Status::Stopped => {}
        Status::Created => end(&container)?,
        _ if force => end(&container)?,
        other => return Err(Failure::new("delete", format!("cannot delete container {id} that is not stopped: {}", other.word()))),
    }
    container.group()?.destroy().map_err(at("remove cgroup"))?;
    let spec = container.spec();
    let state = container.state("stopped");
    std::fs::remove_dir_all(&container.folder).map_err(at("remove container folder"))?;
    hooks::run_each("poststop", &spec?.hooks.poststop, &state);
    Ok(())
}

/// What a killed `create` left: its groups, with whoever is in them, are found by the configuration that it kept first of all.
fn remove_unfinished(folder: &std::path::Path, id: &str) -> Result<(), Failure> {
    if let Ok(spec) = bundle::read_limited(&folder.join(bundle::CONFIG)).and_then(|text| bundle::kept(&text)) {
        let layout = keles_linux::cgroup::Layout::discover_with(&resources::controllers(&spec.linux.resources)).map_err(at("find cgroups"))?;
        let group = layout.group(&create::cgroup_path(&spec.linux.cgroups_path, id)).map_err(at("cgroup"))?;
        group.destroy().map_err(at("remove cgroup"))?;
    }
    std::fs::remove_dir_all(folder).map_err(at("remove container folder"))
}

/// Kills the first process and waits until it has ended.
fn end(container: &Container) -> Result<(), Failure> {
    let pid = container.saved.init_process_pid;
    let Ok(handle) = keles_linux::process::open_process(pid) else { return Ok(()) };
    kill(container, signal::SIGKILL, false).or_else(|e| if container.is_alive() { Err(e) } else { Ok(()) })?;
    let mut fds = [rustix::event::PollFd::new(&handle, rustix::event::PollFlags::IN)];
    const LIMIT: rustix::event::Timespec = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
    match rustix::event::poll(&mut fds, Some(&LIMIT)) {
        Ok(0) => Err(Failure::new("kill", format!("process {pid} does not end after SIGKILL"))),
        r => r.map(drop).map_err(at("wait for end")),
    }
}

fn pause(container: &Container, frozen: bool) -> Result<(), Failure> {
    let step = if frozen { "pause" } else { "resume" };
    match (container.status(), frozen) {
        (Status::Running | Status::Created, true) | (Status::Paused, false) => container.group()?.freeze(frozen).map_err(|e| Failure::new(step, e)),
        (other, _) => Err(Failure::new(step, format!("container is {}", other.word()))),
    }
}

/// New figures for a running container; absent ones stay.
fn update(container: &mut Container, wanted: &keles_oci::runtime::Resources) -> Result<(), Failure> {
    if container.status() == Status::Stopped {
        return Err(Failure::new("update", "container is stopped"));
    }
    let more = resources::controllers(wanted);
    if more.iter().any(|c| container.saved.layout.version_of(c).is_none()) {
        // A controller that nobody asked for until now: its group is made, and all processes go in.
        let members = container.group()?.members();
        let had: Vec<String> = container.saved.layout.hierarchies.iter().flat_map(|h| h.controllers.clone()).collect();
        let all: Vec<&str> = had.iter().map(String::as_str).chain(more).collect();
        container.saved.layout = keles_linux::cgroup::Layout::discover_with(&all).map_err(at("find cgroups"))?;
        let group = container.group()?;
        group.create().map_err(at("make cgroup"))?;
        group.inherit_cpuset().map_err(at("make cgroup"))?;
        group.adopt(&members).map_err(at("join cgroup"))?;
        container.save()?;
    }
    resources::apply(wanted, &container.group()?, &container.saved.layout)
}
