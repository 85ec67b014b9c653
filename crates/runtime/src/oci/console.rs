//! Standing by a process in the foreground: its terminal on ours, our signals to it, its end as ours.

use crate::shim::{exit_code, set_window_size};
use crate::wire::{Failure, at};
use keles_linux::signal;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, WaitOptions};
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};

/// Passed on to the process; all others of the caller's keep their meaning.
const FORWARDED: &[&str] = &["HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "WINCH", "CONT", "ALRM"];
const READ_BYTES: usize = 32 << 10;

/// Blocks the signals that [`Foreground::attend`] takes; to be made before the process is.
pub struct Foreground {
    signals: OwnedFd,
}

impl Foreground {
    pub fn new() -> Result<Self, Failure> {
        let numbers: Vec<i32> = FORWARDED.iter().chain(&["CHLD"]).filter_map(|n| signal::number(n)).collect();
        Ok(Foreground { signals: signal::watch_signals(&numbers).map_err(at("watch signals"))? })
    }

    /// Until `pid` ends; its exit code.
    pub fn attend(&self, pid: i32, terminal: Option<OwnedFd>) -> Result<i32, Failure> {
        let raw = terminal.as_ref().and_then(|_| RawInput::new());
        if let Some(t) = &terminal {
            copy_size(t);
        }
        let code = self.serve(pid, terminal.as_ref());
        if let Some(t) = &terminal {
            // What it printed last.
            while forward(t, &mut io::stdout()) {}
        }
        drop(raw);
        code
    }

    fn serve(&self, pid: i32, terminal: Option<&OwnedFd>) -> Result<i32, Failure> {
        let stdin = io::stdin();
        let (mut input, mut output) = (terminal.is_some(), terminal.is_some());
        loop {
            let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
            if let Some(t) = terminal {
                fds.push(PollFd::new(t, if output { PollFlags::IN } else { PollFlags::empty() }));
                fds.push(PollFd::new(&stdin, if input { PollFlags::IN } else { PollFlags::empty() }));
            }
            match poll(&mut fds, None) {
                Err(rustix::io::Errno::INTR) => continue,
                r => r.map_err(at("wait"))?,
            };
            let ready: Vec<bool> = fds.iter().map(|f| !f.revents().is_empty()).collect();
            if let Some(t) = terminal {
                if ready[1] && output {
                    output = forward(t, &mut io::stdout());
                }
                if ready[2] && input {
                    input = forward(&stdin, &mut FdWriter(t));
                }
            }
            if ready[0]
                && let Some(code) = self.signalled(pid, terminal)?
            {
                return Ok(code);
            }
        }
    }

    fn signalled(&self, pid: i32, terminal: Option<&OwnedFd>) -> Result<Option<i32>, Failure> {
        let number = signal::next_signal(&self.signals).map_err(at("read signal"))?;
        if Some(number) == signal::number("CHLD") {
            return Ok(reap(pid));
        }
        match terminal.filter(|_| Some(number) == signal::number("WINCH")) {
            Some(t) => copy_size(t),
            None => signal::kill(pid, number).map_err(at("forward signal"))?,
        }
        Ok(None)
    }
}

/// Takes the ends of all children, orphans of the container included; the exit code when `pid` is among them.
fn reap(pid: i32) -> Option<i32> {
    let mut code = None;
    while let Ok(Some((ended, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        if Some(ended) == Pid::from_raw(pid) {
            code = Some(exit_code(status).0);
        }
    }
    code
}

struct FdWriter<'a>(&'a OwnedFd);

impl Write for FdWriter<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(self.0, data)?)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Copies what is there; false at the end.
fn forward(from: impl AsFd, to: &mut impl Write) -> bool {
    let mut buffer = [0; READ_BYTES];
    match rustix::io::read(from, &mut buffer) {
        Ok(0) | Err(_) => false,
        Ok(n) => to.write_all(&buffer[..n]).and_then(|()| to.flush()).is_ok(),
    }
}

fn copy_size(terminal: &OwnedFd) {
    if let Ok(size) = rustix::termios::tcgetwinsize(io::stdin()) {
        let _ = set_window_size(terminal, size.ws_col, size.ws_row);
    }
}

/// Our terminal passes keys on unread; put back when dropped.
struct RawInput(rustix::termios::Termios);

impl RawInput {
    fn new() -> Option<Self> {
        if !io::stdin().is_terminal() {
            return None;
        }
        let before = rustix::termios::tcgetattr(io::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(io::stdin(), rustix::termios::OptionalActions::Now, &raw).ok()?;
        Some(RawInput(before))
    }
}

impl Drop for RawInput {
    fn drop(&mut self) {
        let _ = rustix::termios::tcsetattr(io::stdin(), rustix::termios::OptionalActions::Now, &self.0);
    }
}
