//! A blocking netlink socket and a builder of messages: what [`crate::rtnl`] and [`crate::nft`] speak through.
//!
//! Entry point: [`Socket::transact`], which sends a batch in one datagram and waits for the last acknowledgement, so that
//! setting up a pod's network is two round trips instead of one a step. Blocking on purpose: callers run it on a thread of
//! their own, often one that has entered another network namespace ([`in_netns`]), and the socket stays in that namespace.
//! Source: Linux `netlink(7)`, `rtnetlink(7)`.

use rustix::net::netlink::{self as nl, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, socket_with, sockopt};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

pub const NLM_F_REQUEST: u16 = 0x1;
pub const NLM_F_ACK: u16 = 0x4;
pub const NLM_F_DUMP: u16 = 0x300;
pub const NLM_F_REPLACE: u16 = 0x100;
pub const NLM_F_EXCL: u16 = 0x200;
pub const NLM_F_CREATE: u16 = 0x400;
pub const NLM_F_APPEND: u16 = 0x800;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER_BYTES: usize = 16;
/// Largest batch we ask the kernel to take at once; the socket's send buffer is raised to it.
const MAX_BATCH_BYTES: usize = 32 << 20;
const RECEIVE_BYTES: usize = 1 << 16;

#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    #[error("netlink: {what}: {source}")]
    Io { what: &'static str, source: io::Error },
    /// The kernel refused one message of a batch; nothing of an nftables batch is applied then.
    #[error("netlink: the kernel refused message {index} of the batch: {source}")]
    Refused { index: usize, source: io::Error },
    #[error("netlink: a batch of {bytes} bytes is over the limit of {MAX_BATCH_BYTES}")]
    TooLarge { bytes: usize },
}

impl NetlinkError {
    /// The errno of the kernel's refusal, if it was one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            NetlinkError::Refused { source, .. } | NetlinkError::Io { source, .. } => source.raw_os_error(),
            NetlinkError::TooLarge { .. } => None,
        }
    }
}

/// One message under construction: header, family header, attributes.
#[derive(Clone, Debug)]
pub struct Message {
    buf: Vec<u8>,
}

impl Message {
    /// `kind` is the nlmsg_type; `NLM_F_REQUEST` is added to `flags`.
    pub fn new(kind: u16, flags: u16) -> Self {
        let mut buf = Vec::with_capacity(128);
        buf.extend_from_slice(&0u32.to_ne_bytes());
        buf.extend_from_slice(&kind.to_ne_bytes());
        buf.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        buf.extend_from_slice(&[0; 8]);
        Message { buf }
    }
    /// Bytes of the family's fixed header, padded to 4.
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.buf.extend_from_slice(bytes);
        self.pad();
        self
    }
    fn pad(&mut self) {
        while !self.buf.len().is_multiple_of(4) {
            self.buf.push(0);
        }
    }
    pub fn attr(mut self, kind: u16, payload: &[u8]) -> Self {
        self.push_attr(kind, payload);
        self
    }
    fn push_attr(&mut self, kind: u16, payload: &[u8]) {
        let len = u16::try_from(payload.len() + 4).expect("attributes built here are far below 64 KB");
        self.buf.extend_from_slice(&len.to_ne_bytes());
        self.buf.extend_from_slice(&kind.to_ne_bytes());
        self.buf.extend_from_slice(payload);
        self.pad();
    }
    /// A NUL-terminated string.
    pub fn text(self, kind: u16, s: &str) -> Self {
        let mut v = s.as_bytes().to_vec();
        v.push(0);
        self.attr(kind, &v)
    }
    pub fn u32(self, kind: u16, v: u32) -> Self {
        self.attr(kind, &v.to_ne_bytes())
    }
    /// Big endian, as nf_tables wants all its numbers.
    pub fn be32(self, kind: u16, v: u32) -> Self {
        self.attr(kind, &v.to_be_bytes())
    }
    pub fn u8(self, kind: u16, v: u8) -> Self {
        self.attr(kind, &[v])
    }
    /// A nested attribute filled by `f`.
    pub fn nest(mut self, kind: u16, f: impl FnOnce(Message) -> Message) -> Self {
        const NLA_F_NESTED: u16 = 1 << 15;
        let at = self.buf.len();
        self.buf.extend_from_slice(&[0; 4]);
        let mut inner = f(self);
        let len = u16::try_from(inner.buf.len() - at).expect("nested attributes built here are far below 64 KB");
        inner.buf[at..at + 2].copy_from_slice(&len.to_ne_bytes());
        inner.buf[at + 2..at + 4].copy_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        inner
    }
    /// Length of what is built so far; nf_tables splits long element lists by it.
    pub fn len(&self) -> usize {
        self.buf.len()
    }
    pub fn is_empty(&self) -> bool {
        self.buf.len() <= HEADER_BYTES
    }
}

/// A message from the kernel, without its netlink header.
#[derive(Clone, Debug)]
pub struct Reply {
    pub kind: u16,
    pub payload: Vec<u8>,
}

impl Reply {
    /// The attributes behind a fixed family header of `skip` bytes: (type without flags, payload).
    pub fn attrs(&self, skip: usize) -> Vec<(u16, &[u8])> {
        let mut out = Vec::new();
        let mut rest = self.payload.get(skip..).unwrap_or_default();
        while rest.len() >= 4 {
            let len = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
            let kind = u16::from_ne_bytes([rest[2], rest[3]]) & 0x3fff;
            if len < 4 || len > rest.len() {
                break;
            }
            out.push((kind, &rest[4..len]));
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        }
        out
    }
}

pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// NETLINK_ROUTE: links, addresses, routes of the calling thread's network namespace.
    pub fn route() -> Result<Self, NetlinkError> {
        Self::open(None) // NETLINK_ROUTE is protocol 0
    }
    /// NETLINK_NETFILTER: nf_tables, conntrack.
    pub fn netfilter() -> Result<Self, NetlinkError> {
        Self::open(Some(nl::NETFILTER))
    }
    fn open(protocol: Option<rustix::net::Protocol>) -> Result<Self, NetlinkError> {
        let io = |what| move |e: rustix::io::Errno| NetlinkError::Io { what, source: e.into() };
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol).map_err(io("socket"))?;
        bind(&fd, &SocketAddrNetlink::new(0, 0)).map_err(io("bind"))?;
        // Best effort: without the privilege the default sizes stand, which are enough for a pod's messages.
        let _ = sockopt::set_socket_send_buffer_size_force(&fd, MAX_BATCH_BYTES).or_else(|_| sockopt::set_socket_send_buffer_size(&fd, MAX_BATCH_BYTES));
        let _ = sockopt::set_socket_recv_buffer_size_force(&fd, MAX_BATCH_BYTES).or_else(|_| sockopt::set_socket_recv_buffer_size(&fd, MAX_BATCH_BYTES));
        Ok(Socket { fd, sequence: 1 })
    }

    /// Sends all messages in one datagram; returns when the kernel has done the last, or with the first refusal.
    pub fn transact(&mut self, messages: Vec<Message>) -> Result<(), NetlinkError> {
        self.transact_acking(messages, |_| true)
    }

    /// As [`Socket::transact`], asking for an acknowledgement only of messages that `acks` admits (nf_tables' batch
    /// markers have none). The last acknowledged message must be the last that can fail.
    pub fn transact_acking(&mut self, messages: Vec<Message>, acks: impl Fn(usize) -> bool) -> Result<(), NetlinkError> {
        let Some(last) = (0..messages.len()).rev().find(|i| acks(*i)) else { return Ok(()) };
        let first_sequence = self.sequence;
        let mut out = Vec::with_capacity(messages.iter().map(Message::len).sum());
        for (i, mut m) in messages.into_iter().enumerate() {
            self.finish(&mut m, if i == last { NLM_F_ACK } else { 0 });
            out.extend_from_slice(&m.buf);
        }
        self.send(&out)?;
        let end = first_sequence + last as u32;
        loop {
            for (sequence, reply) in self.receive()? {
                if reply.kind != NLMSG_ERROR || sequence < first_sequence {
                    continue;
                }
                let code = i32::from_ne_bytes(reply.payload[..4].try_into().expect("an nlmsgerr starts with an int"));
                if code != 0 {
                    return Err(NetlinkError::Refused { index: (sequence - first_sequence) as usize, source: io::Error::from_raw_os_error(-code) });
                }
                if sequence == end {
                    return Ok(());
                }
            }
        }
    }

    /// One request whose answer is a message or a dump.
    pub fn query(&mut self, mut message: Message) -> Result<Vec<Reply>, NetlinkError> {
        let dump = u16::from_ne_bytes([message.buf[6], message.buf[7]]) & NLM_F_DUMP == NLM_F_DUMP;
        let sequence = self.sequence;
        self.finish(&mut message, if dump { 0 } else { NLM_F_ACK });
        self.send(&message.buf)?;
        let mut out = Vec::new();
        loop {
            for (s, reply) in self.receive()? {
                match reply.kind {
                    _ if s != sequence => {}
                    NLMSG_DONE => return Ok(out),
                    NLMSG_ERROR => {
                        let code = i32::from_ne_bytes(reply.payload[..4].try_into().expect("an nlmsgerr starts with an int"));
                        return if code == 0 { Ok(out) } else { Err(NetlinkError::Refused { index: 0, source: io::Error::from_raw_os_error(-code) }) };
                    }
                    _ => out.push(reply),
                }
            }
        }
    }

    fn finish(&mut self, m: &mut Message, extra_flags: u16) {
        let len = m.buf.len() as u32;
        m.buf[..4].copy_from_slice(&len.to_ne_bytes());
        let flags = u16::from_ne_bytes([m.buf[6], m.buf[7]]) | extra_flags;
        m.buf[6..8].copy_from_slice(&flags.to_ne_bytes());
        m.buf[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
        self.sequence += 1;
    }
    fn send(&self, bytes: &[u8]) -> Result<(), NetlinkError> {
        if bytes.len() > MAX_BATCH_BYTES {
            return Err(NetlinkError::TooLarge { bytes: bytes.len() });
        }
        sendto(&self.fd, bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0)).map_err(|e| NetlinkError::Io { what: "send", source: e.into() })?;
        Ok(())
    }
    fn receive(&self) -> Result<Vec<(u32, Reply)>, NetlinkError> {
        let mut buf = vec![0u8; RECEIVE_BYTES];
        let (n, _) = loop {
            match recv(&self.fd, &mut buf[..], RecvFlags::empty()) {
                Err(rustix::io::Errno::INTR) => {}
                r => break r.map_err(|e| NetlinkError::Io { what: "receive", source: e.into() })?,
            }
        };
        let mut rest = &buf[..n];
        let mut out = Vec::new();
        while rest.len() >= HEADER_BYTES {
            let word = |at: usize| u32::from_ne_bytes(rest[at..at + 4].try_into().expect("four bytes"));
            let len = word(0) as usize;
            if len < HEADER_BYTES || len > rest.len() {
                break;
            }
            out.push((word(8), Reply { kind: u16::from_ne_bytes([rest[4], rest[5]]), payload: rest[HEADER_BYTES..len].to_vec() }));
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(out)
    }
}

/// Runs `f` on a throwaway thread inside the network namespace pinned at `netns`, so that no thread of the server changes
/// namespace. Sockets opened by `f` stay in that namespace.
pub fn in_netns<T: Send>(netns: &Path, f: impl FnOnce() -> T + Send) -> io::Result<T> {
    let ns = rustix::fs::open(netns, rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC, rustix::fs::Mode::empty())?;
    std::thread::scope(|s| {
        let t = std::thread::Builder::new().name("netns".into()).stack_size(256 << 10).spawn_scoped(s, move || -> io::Result<T> {
            rustix::thread::move_into_link_name_space(ns.as_fd(), Some(rustix::thread::LinkNameSpaceType::Network))?;
            Ok(f())
        })?;
        t.join().unwrap_or_else(|_| Err(io::Error::other("the thread in the network namespace panicked")))
    })
}
