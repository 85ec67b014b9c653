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

/// A descriptor that tells of these signals, which are blocked from now on; see [`next_signal`]. It blocks when none is pending.
pub fn watch_signals(signals: &[i32]) -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by sigemptyset before use; signalfd returns a descriptor that we own.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for s in signals {
            libc::sigaddset(&mut set, *s);
        }
        if libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = libc::signalfd(-1, &set, libc::SFD_CLOEXEC);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// The number of the next signal of [`watch_signals`].
pub fn next_signal(fd: &OwnedFd) -> io::Result<i32> {
    let mut record = [0u8; size_of::<libc::signalfd_siginfo>()];
    loop {
        match rustix::io::read(fd, &mut record) {
            // ssi_signo is the record's first word.
            Ok(n) if n == record.len() => return Ok(i32::from_ne_bytes([record[0], record[1], record[2], record[3]])),
            Ok(_) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// The number of `TERM`, `SIGTERM`, `15`, `RTMIN+1`.
pub fn number(name: &str) -> Option<i32> {
    if let Ok(n) = name.parse() {
        return (0..=64).contains(&n).then_some(n);
    }
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    let relative = |prefix: &str, base: i32, sign: i32| {
        bare.strip_prefix(prefix).and_then(|n| if n.is_empty() { Some(base) } else { n.parse::<i32>().ok().map(|n: i32| base + sign * n.abs()) })
    };
    NAMES.iter().find(|(n, _)| *n == bare).map(|(_, s)| *s).or_else(|| relative("RTMIN", 34, 1)).or_else(|| relative("RTMAX", 64, -1)).filter(|n| (0..=64).contains(n))
}

#[rustfmt::skip]
const NAMES: &[(&str, i32)] = &[
    ("HUP", libc::SIGHUP), ("INT", libc::SIGINT), ("QUIT", libc::SIGQUIT), ("ILL", libc::SIGILL), ("TRAP", libc::SIGTRAP), ("ABRT", libc::SIGABRT), ("IOT", libc::SIGIOT),
    ("BUS", libc::SIGBUS), ("FPE", libc::SIGFPE), ("KILL", libc::SIGKILL), ("USR1", libc::SIGUSR1), ("SEGV", libc::SIGSEGV), ("USR2", libc::SIGUSR2), ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM), ("TERM", libc::SIGTERM), ("STKFLT", libc::SIGSTKFLT), ("CHLD", libc::SIGCHLD), ("CLD", libc::SIGCHLD), ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP), ("TSTP", libc::SIGTSTP), ("TTIN", libc::SIGTTIN), ("TTOU", libc::SIGTTOU), ("URG", libc::SIGURG), ("XCPU", libc::SIGXCPU), ("XFSZ", libc::SIGXFSZ),
    ("VTALRM", libc::SIGVTALRM), ("PROF", libc::SIGPROF), ("WINCH", libc::SIGWINCH), ("IO", libc::SIGIO), ("POLL", libc::SIGPOLL), ("PWR", libc::SIGPWR), ("SYS", libc::SIGSYS),
];

/// Ignores what a terminal or an operator sends to process groups: the shim ends when told so on its socket.
pub fn ignore_terminal_signals() {
    for signal in [libc::SIGPIPE, libc::SIGHUP, libc::SIGINT, libc::SIGTERM, libc::SIGTTOU, libc::SIGTTIN] {
        // SAFETY: SIG_IGN is always a valid disposition for these signals.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// Default dispositions and an empty mask, as a program started by exec expects.
pub fn reset_for_exec() {
    // SIG_DFL without flags, with an empty mask: zeros in the kernel's form on every architecture.
    let default = [0_u64; 4];
    // SAFETY: the kernel reads `default`, whose form is its own `struct sigaction`; refusals (SIGKILL, SIGSTOP) change nothing. Past the C library,
    // which keeps two signals to itself and would leave them as whoever started the server had them.
    unsafe {
        for signal in 1..=64 {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), std::ptr::null_mut::<u64>(), size_of::<u64>());
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
