//! The epoll set: which descriptor means what.

use rustix::event::epoll::{self, EventData, EventFlags};
use std::collections::HashMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

#[derive(Clone, Debug)]
pub enum Source {
    Listener,
    Children,
    Connection,
    /// A container's first process reports, or has become its command.
    Launch(String),
    LaunchExec(u64),
    /// Container's output: 0 stdout (or terminal), 1 stderr.
    Output(String, usize),
    /// An attached client's stdout or stderr.
    Outlet(String, u64, usize),
    /// An attached client's stdin.
    Inlet(String, u64),
    /// The container's stdin.
    Sink(String),
    /// The container, or its pod, has run out of memory.
    OutOfMemory(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Only that the other end is gone.
    Hangup,
    Read,
    Write,
    ReadWrite,
}

#[derive(Clone, Copy, Debug)]
pub struct Ready {
    pub read: bool,
    pub write: bool,
    pub gone: bool,
}

pub struct Reactor {
    epoll: OwnedFd,
    sources: HashMap<u64, Source>,
    next: u64,
}

const BATCH: usize = 64;

impl Interest {
    fn flags(self) -> EventFlags {
        match self {
            Interest::Hangup => EventFlags::empty(),
            Interest::Read => EventFlags::IN,
            Interest::Write => EventFlags::OUT,
            Interest::ReadWrite => EventFlags::IN | EventFlags::OUT,
        }
    }
}

impl Reactor {
    pub fn new() -> io::Result<Self> {
        Ok(Reactor { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?, sources: HashMap::new(), next: 1 })
    }

    pub fn add(&mut self, fd: BorrowedFd<'_>, interest: Interest, source: Source) -> io::Result<u64> {
        let token = self.next;
        epoll::add(&self.epoll, fd, EventData::new_u64(token), interest.flags())?;
        self.next += 1;
        self.sources.insert(token, source);
        Ok(token)
    }

    pub fn change(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest) {
        // Fails only when the descriptor was removed before, which asks for nothing more.
        let _ = epoll::modify(&self.epoll, fd, EventData::new_u64(token), interest.flags());
    }

    /// To be called before the descriptor is closed: a child may hold a copy that would keep reporting.
    pub fn remove(&mut self, fd: BorrowedFd<'_>, token: u64) {
        let _ = epoll::delete(&self.epoll, fd);
        self.sources.remove(&token);
    }

    /// Stops reports without forgetting what it is; [`Reactor::resume`] undoes it. A hang-up cannot be masked otherwise.
    pub fn pause(&self, fd: BorrowedFd<'_>) {
        let _ = epoll::delete(&self.epoll, fd);
    }
    pub fn resume(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest) {
        let _ = epoll::add(&self.epoll, fd, EventData::new_u64(token), interest.flags());
    }

    pub fn wait(&self, timeout: Option<Duration>) -> Vec<(u64, Source, Ready)> {
        let timeout = timeout.and_then(|t| rustix::event::Timespec::try_from(t).ok());
        let mut events = Vec::with_capacity(BATCH);
        // An interruption is an empty batch.
        let _ = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref());
        let mut out = Vec::with_capacity(events.len());
        for e in &events {
            let (flags, token) = (e.flags, e.data.u64());
            let gone = flags.intersects(EventFlags::ERR | EventFlags::HUP);
            let ready = Ready { read: flags.contains(EventFlags::IN) || gone, write: flags.contains(EventFlags::OUT), gone };
            if let Some(source) = self.sources.get(&token) {
                out.push((token, source.clone(), ready));
            }
        }
        out
    }
}
