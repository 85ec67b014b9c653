//! A pull: manifest, configuration, then the layers that are not here, a few at a time, each streamed into its folder.

use crate::error::{ImageError, RegistryFault};
use crate::layer::{self, Expected, Slot};
use crate::layout::{Layout, Lock, Record};
use crate::registry::{Auth, Repository};
use crate::{Inner, Progress, PullEvent, record};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use http_body_util::BodyExt;
use keles_oci::manifest::Manifest;
use keles_oci::{Descriptor, Digest, Document, ImageFile, Platform, Reference};
use std::io::{self, Read};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Layers fetched at once.
const PARALLEL_LAYERS: usize = 3;
/// Tries of a layer when the connection breaks.
const LAYER_TRIES: usize = 3;
/// Chunks between the network and the disk.
const CHUNKS_WAITING: usize = 16;

pub async fn pull(inner: &Arc<Inner>, reference: &Reference, auths: &[Auth], progress: Option<Progress>) -> Result<Record, ImageError> {
    let layout = inner.layout.clone();
    let _use = blocking(move || layout.lock_use()).await?;
    let pull = Pull { layout: inner.layout.clone(), image: reference.to_string(), progress };
    let (repository, top) = pull.authorized(inner, reference, auths).await?;
    let repository = Arc::new(repository);
    let top_digest = Digest::of(&top);
    if let Some(expected) = &reference.digest {
        pull.check("the manifest", expected, &top_digest)?;
    }
    let manifest = pull.for_host(&repository, &top).await?;
    let config = repository.small_blob(&manifest.config.digest).await.map_err(|f| pull.fault(f))?;
    let id = Digest::of(&config);
    pull.check("the configuration", &manifest.config.digest, &id)?;
    let file: ImageFile = serde_json::from_slice(&config).map_err(|e| pull.malformed(format!("its configuration is not valid: {e}")))?;
    if file.rootfs.diff_ids.len() != manifest.layers.len() {
        return Err(pull.malformed(format!("its configuration names {} layers, its manifest {}", file.rootfs.diff_ids.len(), manifest.layers.len())));
    }
    let layers: Vec<(Digest, Descriptor)> = file.rootfs.diff_ids.iter().cloned().zip(manifest.layers).collect();
    let sizes: Vec<u64> = stream::iter(layers).map(|(diff_id, blob)| pull.layer(&repository, diff_id, blob)).buffered(PARALLEL_LAYERS).try_collect().await?;
    let tags = reference.tagged().filter(|_| reference.digest.is_none()).into_iter().collect();
    let done = record(id, file, sizes.iter().sum(), tags, vec![reference.with_digest(&top_digest)]);
    let layout = inner.layout.clone();
    blocking(move || layout.commit(done)).await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, ImageError> + Send + 'static) -> Result<T, ImageError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| ImageError::Interrupted)?
}

struct Pull {
    layout: Layout,
    image: String,
    progress: Option<Progress>,
}

impl Pull {
    fn fault(&self, fault: RegistryFault) -> ImageError {
        ImageError::Pull { image: self.image.clone(), fault }
    }

    fn malformed(&self, what: String) -> ImageError {
        ImageError::Malformed { image: self.image.clone(), what }
    }

    fn check(&self, what: &str, expected: &Digest, found: &Digest) -> Result<(), ImageError> {
        if expected == found {
            return Ok(());
        }
        Err(ImageError::Mismatch { image: self.image.clone(), what: what.into(), expected: expected.clone(), found: found.clone() })
    }

    fn tell(&self, event: PullEvent) {
        if let Some(progress) = &self.progress {
            progress(event);
        }
    }

    /// Tries each credential that fits the registry, then none; the manifest comes with the first that is let in.
    async fn authorized(&self, inner: &Inner, reference: &Reference, auths: &[Auth]) -> Result<(Repository, Bytes), ImageError> {
        let fitting = auths.iter().filter(|a| a.fits(&reference.registry)).cloned().map(Some);
        let mut denied = None;
        for auth in fitting.chain([None]) {
            let repository = Repository::new(reference, auth, &inner.options.insecure_registries, &inner.tls);
            match repository.manifest(reference.wanted()).await {
                Ok(manifest) => return Ok((repository, manifest)),
                Err(RegistryFault::Denied { registry }) => denied = Some(RegistryFault::Denied { registry }),
                Err(other) => return Err(self.fault(other)),
            }
        }
        Err(self.fault(denied.expect("the last try is without credentials and did not return")))
    }

    /// The manifest for this machine, through an index if there is one.
    async fn for_host(&self, repository: &Repository, top: &[u8]) -> Result<Manifest, ImageError> {
        let parse = |bytes: &[u8]| Document::parse(bytes).map_err(|e| self.malformed(e.to_string()));
        let index = match parse(top)? {
            Document::Manifest(manifest) => return Ok(manifest),
            Document::Index(index) => index,
        };
        let host = Platform::host();
        let none = || ImageError::Platform { image: self.image.clone(), platform: format!("{}/{}", host.os, host.architecture) };
        let wanted = index.for_host().ok_or_else(none)?;
        let bytes = repository.manifest(wanted.digest.as_str()).await.map_err(|f| self.fault(f))?;
        self.check("the manifest", &wanted.digest, &Digest::of(&bytes))?;
        match parse(&bytes)? {
            Document::Manifest(manifest) => Ok(manifest),
            Document::Index(_) => Err(self.malformed("its index names another index".into())),
        }
    }

    async fn layer(&self, repository: &Arc<Repository>, diff_id: Digest, blob: Descriptor) -> Result<u64, ImageError> {
        let (layout, wanted) = (self.layout.clone(), diff_id.clone());
        let lock = match blocking(move || layer::claim(&layout, &wanted)).await? {
            Slot::Present(size) => {
                self.tell(PullEvent::Present { layer: diff_id.to_string() });
                return Ok(size);
            }
            Slot::Missing(lock) => Arc::new(lock),
        };
        for attempt in 1.. {
            match self.fetch(repository, &diff_id, &blob, lock.clone()).await {
                Err(ImageError::Pull { fault, .. }) if attempt < LAYER_TRIES && fault.is_transient() => {
                    tracing::warn!(image = self.image, layer = %diff_id, %fault, "fetching a layer failed, trying again");
                }
                done => {
                    done.as_ref().inspect(|_| self.tell(PullEvent::Unpacked { layer: diff_id.to_string() })).ok();
                    return done;
                }
            }
        }
        unreachable!("the loop ends by returning: attempts are bounded above")
    }

    /// One try: the network side here, the unpacking on a blocking thread, a short queue between.
    async fn fetch(&self, repository: &Repository, diff_id: &Digest, blob: &Descriptor, lock: Arc<Lock>) -> Result<u64, ImageError> {
        let mut body = repository.blob(&blob.digest).await.map_err(|f| self.fault(f))?;
        let (sender, receiver) = mpsc::channel(CHUNKS_WAITING);
        let (layout, image, wanted, expected) = (self.layout.clone(), self.image.clone(), diff_id.clone(), blob.digest.clone());
        let unpacking = blocking(move || {
            // The lock lives as long as the folder is being made, also when the pull is given up meanwhile.
            let _lock = lock;
            layer::make(&layout, &Expected { image: &image, diff_id: &wanted, blob: Some(&expected) }, Chunks { receiver, chunk: Bytes::new() })
        });
        let sending = async {
            let mut done_bytes = 0;
            while let Some(chunk) = repository.next_chunk(&mut body).await {
                let failed = chunk.as_ref().err().map(|e| RegistryFault::Unreachable { registry: repository.registry().into(), reason: e.to_string() });
                done_bytes += chunk.as_ref().map_or(0, |c| c.len() as u64);
                if sender.send(chunk).await.is_err() {
                    break;
                }
                if let Some(fault) = failed {
                    drop(sender);
                    return Err(self.fault(fault));
                }
                self.tell(PullEvent::Downloading { layer: diff_id.to_string(), done_bytes, total_bytes: blob.size });
            }
            drop(sender);
            Ok(())
        };
        let (sent, unpacked) = tokio::join!(sending, unpacking);
        sent?;
        unpacked
    }
}

/// Chunks from the network, read on a blocking thread.
struct Chunks {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    chunk: Bytes,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => self.chunk = chunk?,
                None => return Ok(0),
            }
        }
        let count = self.chunk.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.chunk.split_to(count));
        Ok(count)
    }
}

impl Repository {
    /// The next bytes of a body; a connection that is silent for too long is an error.
    async fn next_chunk(&self, body: &mut hyper::body::Incoming) -> Option<io::Result<Bytes>> {
        loop {
            let frame = match tokio::time::timeout(crate::registry::SILENCE_LIMIT, body.frame()).await {
                Err(_) => return Some(Err(io::ErrorKind::TimedOut.into())),
                Ok(None) => return None,
                Ok(Some(Err(e))) => return Some(Err(io::Error::other(e))),
                Ok(Some(Ok(frame))) => frame,
            };
            // Trailers carry nothing of the blob.
            if let Ok(data) = frame.into_data() {
                return Some(Ok(data));
            }
        }
    }
}
