//! Hooks: programs that a bundle names to be run at points of a container's life, with the container's state on their standard input.

use crate::wire::Failure;
use keles_linux::process;
use keles_oci::runtime::{Hook, State};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::time::Duration;

/// What is told of what a failed hook printed.
const MAX_TOLD_BYTES: u64 = 4 << 10;

/// Runs all in order; the first failure ends it.
pub fn run(point: &'static str, hooks: &[Hook], state: &State) -> Result<(), Failure> {
    hooks.iter().enumerate().try_for_each(|(i, hook)| run_one(hook, state).map_err(|m| Failure::new(point, format!("hook #{i} {}: {m}", hook.path.display()))))
}

/// Runs all, telling failures; for hooks after the fact.
pub fn run_each(point: &'static str, hooks: &[Hook], state: &State) {
    for hook in hooks {
        if let Err(message) = run_one(hook, state) {
            eprintln!("{point} hook {}: {message}", hook.path.display());
        }
    }
}

fn run_one(hook: &Hook, state: &State) -> Result<(), String> {
    let mut command = Command::new(&hook.path);
    if let Some((name, rest)) = hook.args.split_first() {
        command.arg0(name).args(rest);
    }
    command.env_clear().envs(hook.env.iter().filter_map(|e| e.split_once('=')));
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| e.to_string())?;
    let text = serde_json::to_vec(state).expect("a state is plain JSON");
    // A hook that does not read it is fine.
    let _ = child.stdin.take().expect("piped above").write_all(&text);
    if let Some(seconds) = hook.timeout {
        let handle = process::open_process(child.id() as i32).map_err(|e| e.to_string())?;
        if !ends_within(&handle, Duration::from_secs(seconds as u64)) {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("did not end within {seconds} s"));
        }
    }
    let status = child.wait().map_err(|e| e.to_string())?;
    if status.success() {
        return Ok(());
    }
    let mut said = String::new();
    let _ = child.stderr.take().expect("piped above").take(MAX_TOLD_BYTES).read_to_string(&mut said);
    let how = status.code().map_or_else(|| format!("ended by signal {}", status.signal().unwrap_or(0)), |c| format!("exit status {c}"));
    Err(if said.trim().is_empty() { how } else { format!("{how}: {}", said.trim()) })
}

fn ends_within(handle: &std::os::fd::OwnedFd, limit: Duration) -> bool {
    let mut fds = [rustix::event::PollFd::from_borrowed_fd(handle.as_fd(), rustix::event::PollFlags::IN)];
    let timeout = rustix::event::Timespec::try_from(limit).ok();
    rustix::event::poll(&mut fds, timeout.as_ref()).is_ok_and(|n| n > 0)
}
