//! Any descriptor under tokio: sockets of messages, terminals.

use std::io;
use std::os::fd::OwnedFd;
use tokio::io::unix::AsyncFd;

/// Registers a non-blocking descriptor with the current runtime.
pub fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd owns its number until it is dropped, and the AsyncFd owns the OwnedFd.
    unsafe { AsyncFd::register(fd) }.map_err(io::Error::from)
}
