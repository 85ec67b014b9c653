//! One server connected to the shim; answers wait in a bounded queue when it reads slowly.

use keles_linux::fdpass;
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A server that lets more answers wait is disconnected; it lists anew when it returns.
const MAX_WAITING: usize = 4096;

pub struct Connection {
    socket: OwnedFd,
    waiting: VecDeque<(Vec<u8>, Option<OwnedFd>)>,
}

impl Connection {
    pub fn new(socket: OwnedFd) -> Self {
        Connection { socket, waiting: VecDeque::new() }
    }
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
    pub fn has_pending(&self) -> bool {
        !self.waiting.is_empty()
    }
    /// False: the connection is of no more use.
    pub fn send(&mut self, bytes: Vec<u8>, fd: Option<OwnedFd>) -> bool {
        self.waiting.push_back((bytes, fd));
        self.flush() && self.waiting.len() <= MAX_WAITING
    }
    pub fn flush(&mut self) -> bool {
        while let Some((bytes, fd)) = self.waiting.front() {
            let fds: Vec<BorrowedFd<'_>> = fd.iter().map(AsFd::as_fd).collect();
            match fdpass::send(&self.socket, bytes, &fds) {
                Ok(()) => drop(self.waiting.pop_front()),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
        }
        true
    }
}
