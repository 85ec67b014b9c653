//! Standard streams: pipes given by the shim, or a terminal of the container's own devpts.

use super::Streams;
use crate::wire::{Failure, at};
use keles_linux::{fdpass, mount, process};
use rustix::fs::{Mode, OFlags, Uid, fchown};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

/// Marks the message that carries the terminal's master.
pub const TERMINAL_MARK: u8 = b'T';

/// Opens a terminal, sends its master to the shim, makes its other end the streams and controlling terminal.
pub fn open(report: BorrowedFd<'_>, uid: u32, is_console: bool) -> Result<(), Failure> {
    let master = rustix::fs::open("/dev/ptmx", OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).map_err(at("open /dev/ptmx"))?;
    unlockpt(&master).map_err(at("unlock terminal"))?;
    let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).map_err(at("open terminal"))?;
    // Before others of the container may open it: the first session leader that does would have it as its own.
    process::set_controlling_terminal(slave.as_fd()).map_err(at("set controlling terminal"))?;
    // A read-only devpts cannot be; refusals here concern only who may reopen the terminal.
    let _ = fchown(&slave, Some(Uid::from_raw(uid)), None);
    if is_console {
        bind_console(slave.as_fd())?;
    }
    fdpass::send(report, &[TERMINAL_MARK], &[master.as_fd()]).map_err(at("send terminal"))?;
    for n in 0..=2 {
        process::install_stdio(slave.as_fd(), n).map_err(at("install terminal"))?;
    }
    Ok(())
}

/// /dev/console is the container's terminal: the open file itself, not what its name leads to by now (CVE-2025-52565).
fn bind_console(slave: BorrowedFd<'_>) -> Result<(), Failure> {
    let root = keles_linux::rooted::RootDir::open(Path::new("/")).map_err(at("open root"))?;
    let target = root.make_file(Path::new("/dev/console")).map_err(at("make /dev/console"))?;
    let tree = mount::clone_tree(slave, Path::new(""), false).map_err(at("open terminal for /dev/console"))?;
    mount::attach(tree.as_fd(), target.as_fd()).map_err(at("mount /dev/console"))
}

/// Gives pipes to root of a user namespace, who may then give them on.
pub fn own_streams(streams: &Streams, root: u32) {
    for fd in [&streams.stdin, &streams.stdout, &streams.stderr].into_iter().flatten() {
        let _ = fchown(fd, Some(Uid::from_raw(root)), Some(rustix::fs::Gid::from_raw(root)));
    }
}

/// Streams not given read from and write to /dev/null.
pub fn install_streams(streams: &Streams, uid: u32) -> Result<(), Failure> {
    let null = open_null()?;
    for (n, stream) in [&streams.stdin, &streams.stdout, &streams.stderr].into_iter().enumerate() {
        if let Some(fd) = stream {
            // So that a user other than root can open /dev/stdout anew, as runc does.
            let _ = fchown(fd, Some(Uid::from_raw(uid)), None);
        }
        let fd = stream.as_ref().map_or(null.as_fd(), AsFd::as_fd);
        process::install_stdio(fd, n as i32).map_err(at("install streams"))?;
    }
    Ok(())
}

fn open_null() -> Result<std::os::fd::OwnedFd, Failure> {
    rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(at("open /dev/null"))
}
