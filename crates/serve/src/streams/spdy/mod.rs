//! A SPDY/3.1 connection: the client opens streams, each becomes a byte pipe. [`Session::start`] is the server's side, [`Session::connect`] the
//! client's.
//!
//! One task reads frames, one writes them, one a stream carries its output. A stream that nobody reads stops the whole
//! connection (as spdystream does, whose clients send no window updates); windows are granted as data is taken. The good-bye is the last
//! frame, and what the client still sends is read until it has closed too: a socket closed over unread bytes resets the connection, and the
//! end of the output, the exit code with it, would be lost on the way.

mod frame;

use super::{LINGER, MAX_STREAMS, STREAM_BUFFER_BYTES, StreamError};
use bytes::BytesMut;
pub use frame::Headers;
use frame::{Decoder, Encoder, Frame};
use std::collections::HashMap;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot};

const STATUS_REFUSED_STREAM: u32 = 3;
/// Frames waiting for the connection before their streams wait too.
const WRITE_QUEUE_FRAMES: usize = 16;
/// The most that a client of ours opens: those of a remote command. Fewer than the queue has places.
pub const STREAMS_OF_CLIENT: usize = 5;

/// A stream that the client opened.
pub struct Stream {
    headers: Headers,
    pub io: DuplexStream,
}

impl Stream {
    /// A header by its lower-case name, empty when absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(k, _)| k == name).map_or("", |(_, v)| v)
    }
}

/// An accepted connection.
pub struct Session {
    streams: mpsc::Receiver<Stream>,
    frames: mpsc::Sender<Frame>,
    /// Dropped, it ends the reading of frames.
    _reading: oneshot::Sender<()>,
    writer: tokio::task::JoinHandle<()>,
}

impl Session {
    pub fn start<S: AsyncRead + AsyncWrite + Send + 'static>(io: S) -> Session {
        let (read, write) = tokio::io::split(io);
        let (opened, streams) = mpsc::channel(MAX_STREAMS);
        let (frames, queue) = mpsc::channel(WRITE_QUEUE_FRAMES);
        let writer = tokio::spawn(write_frames(write, queue));
        let (reading, stop) = oneshot::channel();
        let reader = ReadLoop { opened, frames: frames.clone(), inputs: HashMap::new(), grants: true };
        tokio::spawn(reader.run(read, stop));
        Session { streams, frames, _reading: reading, writer }
    }
    /// The client's side: opens streams with these headers, in their order; the peer opens none.
    pub fn connect<S: AsyncRead + AsyncWrite + Send + 'static>(io: S, open: [Option<Headers>; STREAMS_OF_CLIENT]) -> (Session, Vec<Stream>) {
        let (read, write) = tokio::io::split(io);
        let (opened, refused) = mpsc::channel(1);
        let (frames, queue) = mpsc::channel(WRITE_QUEUE_FRAMES);
        let (mut inputs, mut streams) = (HashMap::new(), Vec::new());
        for (i, headers) in open.into_iter().flatten().enumerate() {
            let id = 2 * i as u32 + 1;
            let (ours, theirs) = tokio::io::duplex(STREAM_BUFFER_BYTES);
            let (output, input) = tokio::io::split(ours);
            let _ = frames.try_send(Frame::SynStream { stream: id, fin: false, headers: headers.clone() });
            inputs.insert(id, input);
            streams.push((output, id, Stream { headers, io: theirs }));
        }
        // Only now: what is written to a stream comes after the frame that opens it.
        let streams = streams.into_iter().map(|(output, id, stream)| {
            tokio::spawn(carry(id, output, frames.clone()));
            stream
        });
        let streams = streams.collect();
        let writer = tokio::spawn(write_frames(write, queue));
        let (reading, stop) = oneshot::channel();
        tokio::spawn(ReadLoop { opened, frames: frames.clone(), inputs, grants: false }.run(read, stop));
        (Session { streams: refused, frames, _reading: reading, writer }, streams)
    }
    /// The next stream the client opens, absent when the connection has ended.
    pub async fn accept(&mut self) -> Option<Stream> {
        self.streams.recv().await
    }
    /// Says good-bye and closes once everything written to streams has left. Drop the streams first.
    pub async fn close(self) {
        // Streams that nobody accepted end here too, else their carriers would keep the writer waiting.
        drop((self.streams, self.frames, self._reading));
        let _ = self.writer.await;
    }
}

struct ReadLoop {
    opened: mpsc::Sender<Stream>,
    frames: mpsc::Sender<Frame>,
    inputs: HashMap<u32, WriteHalf<DuplexStream>>,
    /// Whether windows are granted. Upstream's servers look at none, and what they have not read when they close resets the connection, the last
    /// output and the status with it: so clients grant none, as upstream's.
    grants: bool,
}

impl ReadLoop {
    async fn run<R: AsyncRead>(mut self, mut read: ReadHalf<R>, stop: oneshot::Receiver<()>) {
        let over = tokio::select! {
            r = self.read(&mut read) => r.is_err_and(|e| { tracing::debug!("spdy connection ended: {e}"); true }),
            _ = stop => false,
        };
        // The streams and the way to the writer end here, the connection does not yet. To drop a half would not tell its reader: the other is `carry`'s.
        for input in self.inputs.values_mut() {
            let _ = input.shutdown().await;
        }
        drop(self);
        if !over {
            let _ = tokio::time::timeout(LINGER, tokio::io::copy(&mut read, &mut tokio::io::sink())).await;
        }
    }
    async fn read<R: AsyncRead>(&mut self, read: &mut ReadHalf<R>) -> Result<(), StreamError> {
        let (mut decoder, mut buf) = (Decoder::new(), BytesMut::with_capacity(STREAM_BUFFER_BYTES));
        loop {
            while let Some(frame) = decoder.decode(&mut buf)? {
                if !self.handle(frame).await? {
                    return Ok(());
                }
            }
            if read.read_buf(&mut buf).await? == 0 {
                return Ok(());
            }
        }
    }
    /// False when the connection is to end.
    async fn handle(&mut self, frame: Frame) -> Result<bool, StreamError> {
        match frame {
            Frame::SynStream { stream, fin, headers } => self.open(stream, fin, headers).await?,
            Frame::Data { stream, fin, bytes } => self.data(stream, fin, &bytes).await?,
            Frame::Headers { stream, fin: true, .. } => self.finish(stream).await,
            Frame::Reset { stream, .. } => self.finish(stream).await,
            Frame::Ping { id } => self.send(Frame::Ping { id }).await?,
            Frame::GoAway { .. } => return Ok(false),
            Frame::Headers { .. } | Frame::SynReply { .. } | Frame::Settings | Frame::WindowUpdate { .. } => {}
        }
        Ok(true)
    }
    async fn open(&mut self, id: u32, fin: bool, headers: Headers) -> Result<(), StreamError> {
        if self.inputs.len() >= MAX_STREAMS {
            return self.send(Frame::Reset { stream: id, status: STATUS_REFUSED_STREAM }).await;
        }
        let (ours, theirs) = tokio::io::duplex(STREAM_BUFFER_BYTES);
        let (output, input) = tokio::io::split(ours);
        self.send(Frame::SynReply { stream: id, fin: false, headers: vec![] }).await?;
        tokio::spawn(carry(id, output, self.frames.clone()));
        self.inputs.insert(id, input);
        if fin {
            self.finish(id).await;
        }
        self.opened.send(Stream { headers, io: theirs }).await.map_err(|_| StreamError::Closed)
    }
    async fn data(&mut self, id: u32, fin: bool, bytes: &[u8]) -> Result<(), StreamError> {
        if let Some(input) = self.inputs.get_mut(&id) {
            // A stream whose reader is gone swallows the rest: the client may still be sending.
            let _ = input.write_all(bytes).await;
            if self.grants && !bytes.is_empty() {
                self.send(Frame::WindowUpdate { stream: id, delta_bytes: bytes.len() as u32 }).await?;
            }
        }
        if fin {
            self.finish(id).await;
        }
        Ok(())
    }
    async fn finish(&mut self, id: u32) {
        if let Some(mut input) = self.inputs.remove(&id) {
            let _ = input.shutdown().await;
        }
    }
    async fn send(&self, frame: Frame) -> Result<(), StreamError> {
        self.frames.send(frame).await.map_err(|_| StreamError::Closed)
    }
}

/// What is written to a stream goes out as data frames, its end as FIN.
async fn carry(id: u32, mut output: ReadHalf<DuplexStream>, frames: mpsc::Sender<Frame>) {
    let mut buf = BytesMut::with_capacity(STREAM_BUFFER_BYTES);
    loop {
        buf.reserve(STREAM_BUFFER_BYTES / 2);
        let n = output.read_buf(&mut buf).await.unwrap_or(0);
        let frame = Frame::Data { stream: id, fin: n == 0, bytes: buf.split().freeze() };
        if frames.send(frame).await.is_err() || n == 0 {
            return;
        }
    }
}

async fn write_frames<W: AsyncWrite>(mut write: WriteHalf<W>, mut queue: mpsc::Receiver<Frame>) {
    let (mut encoder, mut out) = (Encoder::new(), BytesMut::new());
    while let Some(frame) = queue.recv().await {
        encoder.encode(&frame, &mut out);
        while out.len() < STREAM_BUFFER_BYTES
            && let Ok(more) = queue.try_recv()
        {
            encoder.encode(&more, &mut out);
        }
        if write.write_all(&out).await.is_err() || write.flush().await.is_err() {
            return;
        }
        out.clear();
    }
    encoder.encode(&Frame::GoAway { last_stream: 0, status: 0 }, &mut out);
    let _ = write.write_all(&out).await;
    let _ = write.shutdown().await;
}

/// Frames of a server that is not ours, for the client's tests.
#[cfg(test)]
pub fn text_for_test(stream: u32, text: &str) -> Vec<u8> {
    encoded(Frame::Data { stream, fin: false, bytes: bytes::Bytes::copy_from_slice(text.as_bytes()) })
}

#[cfg(test)]
pub fn reset_for_test(stream: u32) -> Vec<u8> {
    const CANCEL: u32 = 5;
    encoded(Frame::Reset { stream, status: CANCEL })
}

#[cfg(test)]
fn encoded(frame: Frame) -> Vec<u8> {
    let mut out = BytesMut::new();
    Encoder::new().encode(&frame, &mut out);
    out.to_vec()
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
