//! A pull: manifest, configuration, then the layers that are not here, a few at a time, each streamed into its folder.

use crate::error::{ImageError, RegistryFault};
use crate::layer::{self, Slot};
use crate::layout::{Layout, Record};
use crate::registry::config::Endpoint;
use crate::registry::{Auth, Repository};
use crate::{Inner, Progress, PullEvent, fetch, record};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use keles_oci::manifest::Manifest;
use keles_oci::{Descriptor, Digest, Document, ImageFile, Platform, Reference};
use std::sync::Arc;

/// Layers fetched at once.
const PARALLEL_LAYERS: usize = 3;
/// Indexes within indexes.
const NESTING_LIMIT: usize = 4;

/// Which of the credentials the registry let in: its place among those given; none: without one, or with one of `registries.yaml`.
pub type Accepted = Option<usize>;

pub async fn pull(inner: &Arc<Inner>, reference: &Reference, auths: &[Auth], progress: Option<Progress>) -> Result<(Record, Accepted), ImageError> {
    let layout = inner.layout.clone();
    let _use = blocking(move || layout.lock_use()).await?;
    let pull = Pull { layout: inner.layout.clone(), image: reference.to_string(), progress };
    let mut failure = None;
    for endpoint in inner.options.registries.endpoints(reference) {
        let last = endpoint.namespace.is_none();
        match pull.from_endpoint(inner, &endpoint, reference, auths).await {
            Ok((record, accepted)) => {
                let layout = inner.layout.clone();
                return Ok((blocking(move || layout.commit(record)).await?, accepted));
            }
            // A full disk is full for the next server too.
            Err(error @ (ImageError::Disk { .. } | ImageError::Index { .. } | ImageError::Interrupted)) => return Err(error),
            Err(error) => {
                if !last {
                    tracing::warn!(image = pull.image, mirror = endpoint.host, %error, "a mirror did not give the image, asking the next");
                }
                failure = Some(error);
            }
        }
    }
    Err(failure.expect("the registry itself is always among the endpoints"))
}

pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, ImageError> + Send + 'static) -> Result<T, ImageError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| ImageError::Interrupted)?
}

pub struct Pull {
    pub layout: Layout,
    /// For messages.
    pub image: String,
    progress: Option<Progress>,
}

impl Pull {
    pub fn fault(&self, fault: RegistryFault) -> ImageError {
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

    pub fn tell(&self, event: PullEvent) {
        if let Some(progress) = &self.progress {
            progress(event);
        }
    }

    async fn from_endpoint(&self, inner: &Inner, endpoint: &Endpoint, reference: &Reference, auths: &[Auth]) -> Result<(Record, Accepted), ImageError> {
        let (repository, top, accepted) = self.authorized(inner, endpoint, reference, auths).await?;
        let top_digest = Digest::of(&top);
        if let Some(expected) = &reference.digest {
            self.check("the manifest", expected, &top_digest)?;
        }
        let manifest = self.for_host(&repository, top).await?;
        let config = repository.small_blob(&manifest.config.digest).await.map_err(|f| self.fault(f))?;
        let id = Digest::of(&config);
        self.check("the configuration", &manifest.config.digest, &id)?;
        let file: ImageFile = serde_json::from_slice(&config).map_err(|e| self.malformed(format!("its configuration is not valid: {e}")))?;
        if file.rootfs.diff_ids.len() != manifest.layers.len() {
            return Err(self.malformed(format!("its configuration names {} layers, its manifest {}", file.rootfs.diff_ids.len(), manifest.layers.len())));
        }
        let layers: Vec<(Digest, Descriptor)> = file.rootfs.diff_ids.iter().cloned().zip(manifest.layers).collect();
        let sizes: Vec<u64> = stream::iter(layers).map(|(diff_id, blob)| self.layer(&repository, diff_id, blob)).buffered(PARALLEL_LAYERS).try_collect().await?;
        let tags = reference.tagged().filter(|_| reference.digest.is_none()).into_iter().collect();
        Ok((record(id, file, sizes.iter().sum(), tags, vec![reference.with_digest(&top_digest)]), accepted))
    }

    /// Tries each credential that fits the registry, then that of `registries.yaml`, then none; the manifest comes with the first that is
    /// let in. The caller's credentials are for the registry: a mirror gets them only over a connection that nobody reads.
    async fn authorized(&self, inner: &Inner, endpoint: &Endpoint, reference: &Reference, auths: &[Auth]) -> Result<(Repository, Bytes, Accepted), ImageError> {
        let may_know = endpoint.namespace.is_none() || endpoint.is_private();
        let fitting = auths.iter().enumerate().filter(|(_, a)| may_know && a.fits(&reference.registry)).map(|(at, a)| (Some(a.clone()), Some(at)));
        let others = endpoint.auth.clone().map(|a| (Some(a), None)).into_iter().chain([(None, None)]);
        let mut refused = None;
        for (auth, place) in fitting.chain(others) {
            let repository = Repository::new(endpoint, auth, &inner.options.registries, inner.options.silence_limit);
            match repository.manifest(reference.wanted()).await {
                Ok(manifest) => return Ok((repository, manifest, place)),
                // Registries hide by 404 what a credential may not see; another may.
                Err(fault @ RegistryFault::NotFound { .. }) if repository.accepted().is_some() => refused = Some(fault),
                Err(fault @ RegistryFault::Denied { .. }) => refused = refused.or(Some(fault)),
                Err(other) => return Err(self.fault(other)),
            }
        }
        Err(self.fault(refused.expect("the last try is without credentials and did not return")))
    }

    /// The manifest for this machine, through indexes if there are any.
    async fn for_host(&self, repository: &Repository, top: Bytes) -> Result<Manifest, ImageError> {
        let mut bytes = top;
        for _ in 0..NESTING_LIMIT {
            let index = match Document::parse(&bytes).map_err(|e| self.malformed(e.to_string()))? {
                Document::Manifest(manifest) => return Ok(manifest),
                Document::Index(index) => index,
            };
            let host = Platform::host();
            let none = || ImageError::Platform { image: self.image.clone(), platform: format!("{}/{}", host.os, host.architecture) };
            let wanted = index.for_host().ok_or_else(none)?;
            bytes = repository.manifest(wanted.digest.as_str()).await.map_err(|f| self.fault(f))?;
            self.check("the manifest", &wanted.digest, &Digest::of(&bytes))?;
        }
        Err(self.malformed("its indexes are nested too deeply".into()))
    }

    async fn layer(&self, repository: &Repository, diff_id: Digest, blob: Descriptor) -> Result<u64, ImageError> {
        let (layout, wanted) = (self.layout.clone(), diff_id.clone());
        let lock = match blocking(move || layer::claim(&layout, &wanted)).await? {
            Slot::Present(size) => {
                self.tell(PullEvent::Present { layer: diff_id.to_string() });
                return Ok(size);
            }
            Slot::Missing(lock) => lock,
        };
        let size = fetch::layer(self, repository, &diff_id, &blob, lock).await?;
        self.tell(PullEvent::Unpacked { layer: diff_id.to_string() });
        Ok(size)
    }
}
