//! Streams between containers, their logs and attached clients.
//!
//! Output is read once, written to the log and to every attached client; a client that reads slowly holds the container's
//! output back (as docker and containerd do) until it reads or goes. Input of a client goes to the container's stdin.

use super::Shim;
use super::container::set_non_blocking;
use super::reactor::{Interest, Reactor, Ready, Source};
use crate::wire::{Failure, at};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

const MAX_ATTACHED: usize = 16;

pub struct Output {
    fd: OwnedFd,
    token: u64,
    paused: bool,
}

pub struct Sink {
    fd: OwnedFd,
    token: u64,
    pending: VecDeque<u8>,
    close_when_written: bool,
}

pub struct Attachment {
    inlet: Option<Inlet>,
    outlets: [Option<Outlet>; 2],
}

struct Inlet {
    fd: OwnedFd,
    token: u64,
    paused: bool,
}

struct Outlet {
    fd: OwnedFd,
    token: u64,
    pending: VecDeque<u8>,
}

fn non_blocking(fd: OwnedFd) -> io::Result<OwnedFd> {
    set_non_blocking(&fd).map_err(|f| io::Error::other(f.message))?;
    Ok(fd)
}

impl Output {
    pub fn new(reactor: &mut Reactor, fd: OwnedFd, id: &str, stream: usize) -> io::Result<Self> {
        let fd = non_blocking(fd)?;
        let token = reactor.add(fd.as_fd(), Interest::Read, Source::Output(id.to_owned(), stream))?;
        Ok(Output { fd, token, paused: false })
    }
}

impl Sink {
    pub fn new(reactor: &mut Reactor, fd: OwnedFd, id: &str) -> io::Result<Self> {
        let fd = non_blocking(fd)?;
        let token = reactor.add(fd.as_fd(), Interest::Hangup, Source::Sink(id.to_owned()))?;
        Ok(Sink { fd, token, pending: VecDeque::new(), close_when_written: false })
    }
}

/// Writes what is pending; false when the reader is gone.
fn write_pending(fd: &OwnedFd, pending: &mut VecDeque<u8>) -> bool {
    while !pending.is_empty() {
        match rustix::io::write(fd, pending.as_slices().0) {
            Ok(n) => drop(pending.drain(..n)),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return true,
            Err(_) => return false,
        }
    }
    true
}

impl Shim {
    /// True: something was read and more may be there.
    pub(super) fn read_output(&mut self, id: &str, stream: usize) -> bool {
        let Some(c) = self.containers.get_mut(id) else { return false };
        let ended = c.drain_deadline().is_some();
        let Some(output) = &c.outputs[stream] else { return false };
        let n = match rustix::io::read(&output.fd, &mut self.buffer) {
            Err(Errno::AGAIN | Errno::INTR) => return false,
            // EIO: the last process has closed the terminal.
            Ok(0) | Err(_) => {
                self.close_output(id, stream);
                self.finish_if_drained(id);
                return false;
            }
            Ok(n) => n,
        };
        c.log.write(stream, &self.buffer[..n]);
        let mut gone = Vec::new();
        let mut held_back = false;
        for (key, attachment) in &mut c.attachments {
            let Some(outlet) = &mut attachment.outlets[stream] else { continue };
            outlet.pending.extend(&self.buffer[..n]);
            if !write_pending(&outlet.fd, &mut outlet.pending) {
                gone.push(*key);
            } else if !outlet.pending.is_empty() {
                self.reactor.change(outlet.fd.as_fd(), outlet.token, Interest::Write);
                held_back = true;
            }
        }
        if held_back && !ended {
            let output = c.outputs[stream].as_mut().expect("was read just now");
            self.reactor.pause(output.fd.as_fd());
            output.paused = true;
        }
        gone.into_iter().for_each(|key| self.close_outlet(id, key, stream));
        !held_back || ended
    }

    fn close_output(&mut self, id: &str, stream: usize) {
        let Some(c) = self.containers.get_mut(id) else { return };
        if let Some(output) = c.outputs[stream].take() {
            self.reactor.remove(output.fd.as_fd(), output.token);
            c.log.end(stream);
        }
    }

    /// A client can take more, or is gone.
    pub(super) fn flush_outlet(&mut self, id: &str, key: u64, stream: usize, ready: Ready) {
        let Some(c) = self.containers.get_mut(id) else { return };
        let Some(outlet) = c.attachments.get_mut(&key).and_then(|a| a.outlets[stream].as_mut()) else { return };
        if !write_pending(&outlet.fd, &mut outlet.pending) || (ready.gone && !ready.write) {
            return self.close_outlet(id, key, stream);
        }
        if !outlet.pending.is_empty() {
            return;
        }
        self.reactor.change(outlet.fd.as_fd(), outlet.token, Interest::Hangup);
        if c.is_done() { self.close_outlet(id, key, stream) } else { self.resume_output(id, stream) }
    }

    fn resume_output(&mut self, id: &str, stream: usize) {
        let Some(c) = self.containers.get_mut(id) else { return };
        let held_back = c.attachments.values().any(|a| a.outlets[stream].as_ref().is_some_and(|o| !o.pending.is_empty()));
        if let Some(output) = c.outputs[stream].as_mut().filter(|o| o.paused && !held_back) {
            output.paused = false;
            self.reactor.resume(output.fd.as_fd(), output.token, Interest::Read);
        }
    }

    fn close_outlet(&mut self, id: &str, key: u64, stream: usize) {
        let Some(c) = self.containers.get_mut(id) else { return };
        let Some(a) = c.attachments.get_mut(&key) else { return };
        if let Some(outlet) = a.outlets[stream].take() {
            self.reactor.remove(outlet.fd.as_fd(), outlet.token);
        }
        // A client without streams left is gone; one with stdin alone may stay.
        if a.outlets.iter().all(Option::is_none)
            && let Some(a) = c.attachments.remove(&key)
            && let Some(inlet) = a.inlet
        {
            self.reactor.remove(inlet.fd.as_fd(), inlet.token);
        }
        self.resume_output(id, stream);
    }

    pub(super) fn attach(&mut self, id: &str, asked: [bool; 3], fds: Vec<OwnedFd>) -> Result<(), Failure> {
        if fds.len() != asked.iter().filter(|a| **a).count() {
            return Err(Failure::new("attach", "the request's descriptors do not match its streams"));
        }
        let c = self.known(id)?;
        if c.pid().is_none() {
            return Err(Failure::new("attach", format!("container {id} is not running")));
        }
        if c.attachments.len() >= MAX_ATTACHED {
            return Err(Failure::new("attach", format!("{MAX_ATTACHED} clients are attached to container {id} already")));
        }
        let key = c.attachments.keys().last().map_or(1, |k| k + 1);
        let mut fds = fds.into_iter();
        let mut next = |asked: bool| asked.then(|| fds.next()).flatten().map(non_blocking).transpose().map_err(at("attach"));
        let (stdin, outputs) = (next(asked[0])?, [next(asked[1])?, next(asked[2])?]);
        let mut attachment = Attachment { inlet: None, outlets: [None, None] };
        if let Some(fd) = stdin {
            let token = self.reactor.add(fd.as_fd(), Interest::Read, Source::Inlet(id.to_owned(), key)).map_err(at("attach"))?;
            attachment.inlet = Some(Inlet { fd, token, paused: false });
        }
        for (stream, fd) in outputs.into_iter().enumerate() {
            if let Some(fd) = fd {
                let token = self.reactor.add(fd.as_fd(), Interest::Hangup, Source::Outlet(id.to_owned(), key, stream)).map_err(at("attach"))?;
                attachment.outlets[stream] = Some(Outlet { fd, token, pending: VecDeque::new() });
            }
        }
        self.known(id)?.attachments.insert(key, attachment);
        Ok(())
    }

    /// A client typed, or closed its stdin.
    pub(super) fn read_inlet(&mut self, id: &str, key: u64) {
        let Some(c) = self.containers.get_mut(id) else { return };
        let Some(inlet) = c.attachments.get_mut(&key).and_then(|a| a.inlet.as_mut()) else { return };
        let n = match rustix::io::read(&inlet.fd, &mut self.buffer) {
            Err(Errno::AGAIN | Errno::INTR) => return,
            Ok(0) | Err(_) => return self.end_inlet(id, key),
            Ok(n) => n,
        };
        let Some(sink) = &mut c.sink else { return };
        sink.pending.extend(&self.buffer[..n]);
        if !write_pending(&sink.fd, &mut sink.pending) {
            return self.close_sink(id);
        }
        if !sink.pending.is_empty() {
            self.reactor.change(sink.fd.as_fd(), sink.token, Interest::Write);
            self.reactor.pause(inlet.fd.as_fd());
            inlet.paused = true;
        }
    }

    fn end_inlet(&mut self, id: &str, key: u64) {
        let Some(c) = self.containers.get_mut(id) else { return };
        if let Some(inlet) = c.attachments.get_mut(&key).and_then(|a| a.inlet.take()) {
            self.reactor.remove(inlet.fd.as_fd(), inlet.token);
        }
        if c.stdin_once && !c.tty {
            match &mut c.sink {
                Some(sink) if !sink.pending.is_empty() => sink.close_when_written = true,
                _ => self.close_sink(id),
            }
        }
    }

    /// The container's stdin can take more, or its reader is gone.
    pub(super) fn flush_sink(&mut self, id: &str, ready: Ready) {
        let Some(c) = self.containers.get_mut(id) else { return };
        let Some(sink) = &mut c.sink else { return };
        if !write_pending(&sink.fd, &mut sink.pending) || (ready.gone && !ready.write) {
            return self.close_sink(id);
        }
        if !sink.pending.is_empty() {
            return;
        }
        if sink.close_when_written {
            return self.close_sink(id);
        }
        self.reactor.change(sink.fd.as_fd(), sink.token, Interest::Hangup);
        for inlet in c.attachments.values_mut().filter_map(|a| a.inlet.as_mut()).filter(|i| i.paused) {
            inlet.paused = false;
            self.reactor.resume(inlet.fd.as_fd(), inlet.token, Interest::Read);
        }
    }

    fn close_sink(&mut self, id: &str) {
        let Some(c) = self.containers.get_mut(id) else { return };
        if let Some(sink) = c.sink.take() {
            self.reactor.remove(sink.fd.as_fd(), sink.token);
        }
        for inlet in c.attachments.values_mut().filter_map(|a| a.inlet.take()) {
            self.reactor.remove(inlet.fd.as_fd(), inlet.token);
        }
    }

    pub(super) fn resize(&mut self, id: &str, columns: u16, rows: u16) -> Result<(), Failure> {
        let c = self.known(id)?;
        let Some(terminal) = c.outputs[0].as_ref().filter(|_| c.tty) else { return Ok(()) };
        set_window_size(&terminal.fd, columns, rows).map_err(at("resize terminal"))
    }

    /// The container has ended or never began: clients get what is pending, then the end of their streams.
    pub(super) fn close_streams(&mut self, id: &str) {
        self.close_output(id, 0);
        self.close_output(id, 1);
        self.close_sink(id);
        let Some(c) = self.containers.get(id) else { return };
        let flushed: Vec<(u64, usize)> =
            c.attachments.iter().flat_map(|(key, a)| (0..2).filter(|s| a.outlets[*s].as_ref().is_some_and(|o| o.pending.is_empty())).map(|s| (*key, s))).collect();
        flushed.into_iter().for_each(|(key, stream)| self.close_outlet(id, key, stream));
    }

    pub(super) fn drop_attachments(&mut self, id: &str) {
        let Some(c) = self.containers.get_mut(id) else { return };
        for a in std::mem::take(&mut c.attachments).into_values() {
            for outlet in a.outlets.into_iter().flatten() {
                self.reactor.remove(outlet.fd.as_fd(), outlet.token);
            }
            if let Some(inlet) = a.inlet {
                self.reactor.remove(inlet.fd.as_fd(), inlet.token);
            }
        }
    }
}

pub(crate) fn set_window_size(terminal: impl AsFd, columns: u16, rows: u16) -> io::Result<()> {
    Ok(rustix::termios::tcsetwinsize(terminal, rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })?)
}
