//! Signals: sending by number, a descriptor that tells of ended children, the defaults a new program expects.
//!
//! Source: signalfd(2), sigaction(2), kill(2).

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

pub use libc::{SIGKILL, SIGTERM};

/// Sends `signal` to `pid` (a negative pid: its group). A process already gone is no error.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: a system call without memory arguments.
    if unsafe { libc::kill(pid, signal) } == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        e if e.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        e => Err(e),
    }
}

/// A non-blocking descriptor that becomes readable when a child has ended. SIGCHLD is blocked from now on.
pub fn child_signal_fd() -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by sigemptyset before use; signalfd returns a descriptor that we own.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGCHLD);
        if libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// Ignores what a terminal or an operator sends to process groups: the shim ends when told so on its socket.
pub fn ignore_terminal_signals() {
    for signal in [libc::SIGPIPE, libc::SIGHUP, libc::SIGINT, libc::SIGTERM, libc::SIGTTOU, libc::SIGTTIN] {
        // SAFETY: SIG_IGN is always a valid disposition for these signals.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// Default dispositions and an empty mask, as a program started by exec expects.
pub fn reset_for_exec() {
    // SAFETY: SIG_DFL is a valid disposition; refusals (SIGKILL, SIGSTOP, the C library's own) change nothing.
    unsafe {
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut());
    }
}

/// Ended children leave no zombies and are not waited for.
pub fn reap_children_automatically() {
    // SAFETY: SIG_IGN is a valid disposition of SIGCHLD.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// Sleeps until a signal.
pub fn pause() {
    // SAFETY: a system call without arguments.
    unsafe { libc::pause() };
}
