//! A layer's blob on its way: from the network through a file in `partial/` to the unpacker, which reads while more comes.
//!
//! Entry point: [`layer`]. What came stays in the file until the layer is made, so that a connection that was cut, and a process that was
//! killed, go on from there. The unpacker does not notice cuts. Nothing of the file is believed: its digest is taken anew each time, and a
//! blob that was continued and turns out wrong is fetched once more from its beginning.

use crate::error::{ImageError, RegistryFault, disk};
use crate::layer::{self, Expected};
use crate::layout::{Layout, Lock};
use crate::pull::{Pull, blocking};
use crate::registry::Repository;
use crate::{PullEvent, TRIES_LIMIT};
use bytes::{Buf, Bytes};
use keles_oci::{Descriptor, Digest};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Chunks between the network and the disk.
const CHUNKS_WAITING: usize = 16;
/// The pause before the second try; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const PAUSE_LIMIT: Duration = Duration::from_secs(10);
/// Connections for one blob, also when each brings a little.
const CONNECTIONS_LIMIT: usize = 100;

/// Fetches and unpacks a layer whose lock is held; the bytes of its files.
pub async fn layer(pull: &Pull, repository: &Repository, diff_id: &Digest, blob: &Descriptor, lock: Lock) -> Result<u64, ImageError> {
    let lock = Arc::new(lock);
    let partial = Partial::open(&pull.layout, diff_id, blob)?;
    let resumed = partial.length > 0;
    match attempt(pull, repository, diff_id, blob, lock.clone(), partial).await {
        Err(error) if resumed && blames_content(&error) => {
            tracing::warn!(image = pull.image, layer = %diff_id, %error, "a layer that was continued is not right; fetching it from its beginning");
            let path = pull.layout.partial(diff_id, &blob.digest);
            // Absent when the attempt found it wrong to the end.
            let _ = std::fs::remove_file(path);
            attempt(pull, repository, diff_id, blob, lock, Partial::open(&pull.layout, diff_id, blob)?).await
        }
        done => done,
    }
}

/// Whether other bytes would have made a difference.
fn blames_content(error: &ImageError) -> bool {
    let refused = |fault: &RegistryFault| matches!(fault, RegistryFault::Protocol { .. } | RegistryFault::Status { status: 416, .. });
    matches!(error, ImageError::Mismatch { .. } | ImageError::Layer { .. }) || matches!(error, ImageError::Pull { fault, .. } if refused(fault))
}

/// The network side here, the unpacking on a blocking thread, a short queue between.
async fn attempt(pull: &Pull, repository: &Repository, diff_id: &Digest, blob: &Descriptor, lock: Arc<Lock>, partial: Partial) -> Result<u64, ImageError> {
    let (sender, receiver) = mpsc::channel(CHUNKS_WAITING);
    let mut sending = Sending { pull, repository, diff_id, blob, done: partial.length, sender };
    let (layout, image, wanted, expected) = (pull.layout.clone(), pull.image.clone(), diff_id.clone(), blob.digest.clone());
    let unpacking = blocking(move || {
        // The lock lives as long as the folder is being made, also when the pull is given up meanwhile.
        let _lock = lock;
        let path = partial.path.clone();
        let mut arriving = Arriving { partial, read: 0, receiver, chunk: Bytes::new(), whole: false };
        // Gone before the layer is made durable: so the disk never has to write it.
        let forget = || drop(std::fs::remove_file(&path));
        let made = layer::make(&layout, &Expected { image: &image, diff_id: &wanted, blob: Some(&expected) }, &mut arriving, forget);
        // Whole and yet wrong: nothing to go on with. On a full disk its room is needed.
        if made.is_err() && (arriving.whole || matches!(made, Err(ImageError::Disk { .. }))) {
            forget();
        }
        made
    });
    let (sent, unpacked) = tokio::join!(sending.run(), unpacking);
    sent?;
    unpacked
}

/// What came of a blob so far.
struct Partial {
    path: PathBuf,
    file: File,
    length: u64,
}

impl Partial {
    fn open(layout: &Layout, diff_id: &Digest, blob: &Descriptor) -> Result<Partial, ImageError> {
        let path = layout.partial(diff_id, &blob.digest);
        let open = || {
            let file = File::options().create(true).read(true).append(true).mode(0o600).open(&path)?;
            let length = file.metadata()?.len();
            // More than the blob has, or one whose size nobody said: nothing to go on with.
            if length > blob.size {
                file.set_len(0)?;
                return Ok((file, 0));
            }
            Ok((file, length))
        };
        let (file, length) = open().map_err(disk(&path))?;
        Ok(Partial { path, file, length })
    }
}

enum Piece {
    Bytes(Bytes),
    /// The blob is whole.
    End,
}

/// The network's side of a blob.
struct Sending<'a> {
    pull: &'a Pull,
    repository: &'a Repository,
    diff_id: &'a Digest,
    blob: &'a Descriptor,
    /// So many bytes have come.
    done: u64,
    sender: mpsc::Sender<Piece>,
}

impl Sending<'_> {
    /// Consumes its sender by ending: an unpacker that waits for more learns that none comes.
    async fn run(&mut self) -> Result<(), ImageError> {
        let sent = self.all().await;
        let (closed, _) = mpsc::channel(1);
        self.sender = closed;
        sent.map_err(|fault| self.pull.fault(fault))
    }

    async fn all(&mut self) -> Result<(), RegistryFault> {
        let mut failures = 0;
        for _ in 0..CONNECTIONS_LIMIT {
            let before = self.done;
            let fault = match self.connection().await {
                Ok(()) => return Ok(()),
                Err(fault) => fault,
            };
            failures = if self.done > before { 1 } else { failures + 1 };
            if failures >= TRIES_LIMIT || !fault.is_transient() {
                return Err(fault);
            }
            tracing::warn!(image = self.pull.image, layer = %self.diff_id, at_bytes = self.done, %fault, "fetching a layer stopped, going on");
            tokio::time::sleep(pause(failures)).await;
        }
        Err(RegistryFault::Protocol { registry: self.repository.registry().into(), what: format!("it cut the connection {CONNECTIONS_LIMIT} times") })
    }

    /// One connection: from what is there to the end, or to where it breaks.
    async fn connection(&mut self) -> Result<(), RegistryFault> {
        if self.blob.size == 0 || self.done < self.blob.size {
            let (from, mut body) = self.open().await?;
            let mut known = self.done - from;
            while let Some(mut chunk) = self.repository.next_chunk(&mut body).await? {
                let skipped = known.min(chunk.len() as u64);
                chunk.advance(skipped as usize);
                known -= skipped;
                if chunk.is_empty() {
                    continue;
                }
                self.done += chunk.len() as u64;
                self.check_size()?;
                if self.sender.send(Piece::Bytes(chunk)).await.is_err() {
                    // The unpacker gave up and says why.
                    return Ok(());
                }
                self.pull.tell(PullEvent::Downloading { layer: self.diff_id.to_string(), done_bytes: self.done, total_bytes: self.blob.size });
            }
            if self.done < self.blob.size {
                let reason = format!("it ended after {} of {} bytes", self.done, self.blob.size);
                return Err(RegistryFault::Unreachable { registry: self.repository.registry().into(), reason });
            }
        }
        let _ = self.sender.send(Piece::End).await;
        Ok(())
    }

    /// The registry first, then the addresses that a foreign layer's manifest gives.
    async fn open(&self) -> Result<(u64, hyper::body::Incoming), RegistryFault> {
        let mut fault = match self.repository.blob(&self.blob.digest, self.done).await {
            Err(fault @ RegistryFault::NotFound { .. }) => fault,
            other => return other,
        };
        for url in &self.blob.urls {
            match self.repository.foreign(url, self.done).await {
                Ok(found) => return Ok(found),
                Err(other) => fault = other,
            }
        }
        Err(fault)
    }

    fn check_size(&self) -> Result<(), RegistryFault> {
        if self.blob.size > 0 && self.done > self.blob.size {
            let what = format!("blob {} has more than the {} bytes that the manifest says", self.blob.digest, self.blob.size);
            return Err(RegistryFault::Protocol { registry: self.repository.registry().into(), what });
        }
        Ok(())
    }
}

fn pause(failures: usize) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(PAUSE_LIMIT)
}

/// The unpacker's side: what is in the file already, then what comes, which it writes there.
struct Arriving {
    partial: Partial,
    /// So many bytes of the file were handed on.
    read: u64,
    receiver: mpsc::Receiver<Piece>,
    chunk: Bytes,
    whole: bool,
}

impl Read for Arriving {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.read < self.partial.length {
            let left = usize::try_from(self.partial.length - self.read).unwrap_or(usize::MAX);
            let wanted = buffer.len().min(left);
            let count = self.partial.file.read_at(&mut buffer[..wanted], self.read)?;
            self.read += count as u64;
            return if count == 0 && wanted > 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(count) };
        }
        while self.chunk.is_empty() && !self.whole {
            match self.receiver.blocking_recv() {
                Some(Piece::Bytes(chunk)) => {
                    self.partial.file.write_all(&chunk)?;
                    self.chunk = chunk;
                }
                Some(Piece::End) => self.whole = true,
                None => return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the download was given up")),
            }
        }
        let count = self.chunk.len().min(buffer.len());
        self.chunk.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit() {
        assert_eq!((pause(1), pause(2), pause(3)), (FIRST_PAUSE, FIRST_PAUSE * 2, FIRST_PAUSE * 4));
        assert_eq!(pause(1000), PAUSE_LIMIT);
    }
}
