//! Messages with descriptors over local sockets that keep message bounds (SOCK_SEQPACKET).
//!
//! Entry points: [`listen`], [`connect`], [`pair`], [`send`], [`receive`]. Source: unix(7).

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind,
    connect as connect_to, listen as listen_on, recvmsg, sendmsg, socket_with, socketpair, sockopt,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Longest message.
pub const MAX_MESSAGE_BYTES: usize = 192 << 10;
/// Most descriptors in one message.
pub const MAX_FDS: usize = 8;
const BACKLOG: i32 = 16;
/// The kernel charges a message with its bookkeeping; twice the payload is enough.
const SOCKET_BUFFER_BYTES: usize = 2 * MAX_MESSAGE_BYTES;

fn new_socket() -> io::Result<OwnedFd> {
    let s = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let _ = sockopt::set_socket_send_buffer_size_force(&s, SOCKET_BUFFER_BYTES).or_else(|_| sockopt::set_socket_send_buffer_size(&s, SOCKET_BUFFER_BYTES));
    Ok(s)
}

/// A listening socket at `path`, readable by its owner only.
pub fn listen(path: &Path) -> io::Result<OwnedFd> {
    let s = new_socket()?;
    let _ = std::fs::remove_file(path);
    bind(&s, &SocketAddrUnix::new(path)?)?;
    rustix::fs::chmod(path, rustix::fs::Mode::from_raw_mode(0o600))?;
    listen_on(&s, BACKLOG)?;
    Ok(s)
}

/// Connects at once or fails; the result blocks until told otherwise.
pub fn connect(path: &Path) -> io::Result<OwnedFd> {
    let s = new_socket()?;
    connect_to(&s, &SocketAddrUnix::new(path)?)?;
    Ok(s)
}

pub fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let s = rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    let _ = sockopt::set_socket_send_buffer_size_force(&s, SOCKET_BUFFER_BYTES).or_else(|_| sockopt::set_socket_send_buffer_size(&s, SOCKET_BUFFER_BYTES));
    Ok(s)
}

pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends one message. `WouldBlock` on a non-blocking socket whose reader is slow.
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if bytes.len() > MAX_MESSAGE_BYTES || fds.len() > MAX_FDS {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("a message of {} bytes is over the limit of {MAX_MESSAGE_BYTES}", bytes.len())));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    loop {
        match sendmsg(&socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => {}
            r => return Ok(r.map(drop)?),
        }
    }
}

/// Receives one message of any length; an empty one means the peer is gone. Takes no more memory than the message.
pub fn receive_whole(socket: impl AsFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let length = loop {
        match rustix::net::recv(&socket, &mut [0u8; 0][..], RecvFlags::PEEK | RecvFlags::TRUNC) {
            Err(rustix::io::Errno::INTR) => {}
            r => break r?.1,
        }
    };
    let mut buffer = vec![0; length.min(MAX_MESSAGE_BYTES)];
    let (n, fds) = receive(socket, &mut buffer)?;
    buffer.truncate(n);
    Ok((buffer, fds))
}

/// Receives one message into `buffer`; length 0 means the peer is gone.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = loop {
        match recvmsg(&socket, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            r => break r?,
        }
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            fds.extend(passed);
        }
    }
    if got.flags.contains(rustix::net::ReturnFlags::TRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message over the limit was cut off"));
    }
    Ok((got.bytes, fds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_message_arrives_whole_with_its_descriptors() {
        let (a, b) = pair().unwrap();
        let (mut reader, mut writer) = std::io::pipe().unwrap();
        send(&a, b"first", &[writer.as_fd()]).unwrap();
        send(&a, b"second", &[]).unwrap();
        writer.write_all(b"x").unwrap();
        drop(writer);
        let mut buffer = [0; 64];
        let (n, fds) = receive(&b, &mut buffer).unwrap();
        assert_eq!((&buffer[..n], fds.len()), (&b"first"[..], 1));
        drop(fds);
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        assert_eq!(all, b"x");
        let (n, fds) = receive(&b, &mut buffer).unwrap();
        assert_eq!((&buffer[..n], fds.len()), (&b"second"[..], 0));
        send(&a, &[7; 100_000], &[]).unwrap();
        let (whole, fds) = receive_whole(&b).unwrap();
        assert_eq!((whole.len(), whole[99_999], fds.len()), (100_000, 7, 0));
        drop(a);
        assert!(receive_whole(&b).unwrap().0.is_empty());
        assert_eq!(receive(&b, &mut buffer).unwrap().0, 0);
    }
}
