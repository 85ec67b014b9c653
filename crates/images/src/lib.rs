//! Images on this node: load from archives, pull from registries, unpacked layers shared by images and containers.
//!
//! Entry point: [`Images::open`]. The truth is files: `index.json` (replaced by rename under a lock) and a folder per layer, made
//! under another name and renamed when whole and synced. Several processes work on one root at the same time; each sees what the others
//! finished at its next call. Deliberately absent: containers (their writable folders are the runtime's), compressed blobs (not kept).

mod archive;
mod blob;
mod collect;
mod error;
mod fetch;
mod keyring;
mod layer;
mod layout;
mod pull;
mod registry;
mod unpack;

pub use error::{ImageError, RegistryFault};
pub use keles_oci::{ImageConfig, Reference, ReferenceError};
pub use keyring::{Keyring, KeyringError, is_match};
pub use registry::Auth;
pub use registry::config::{Registries, RegistriesError};
pub use unpack::UnpackError;

use keles_oci::digest::is_hex_id;
use keles_oci::{Digest, ImageFile};
use layout::{Layout, Record};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// How long a registry may send nothing, before an answer and within one.
pub const SILENCE_LIMIT: Duration = Duration::from_secs(60);
/// Tries of a blob that bring nothing.
const TRIES_LIMIT: usize = 5;
/// The shortest part of an id that names an image.
const SHORT_ID_MINIMUM: usize = 6;

/// An image, ready to run: all its layers are unpacked.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// `sha256:…`, the digest of the configuration.
    pub id: String,
    /// Normalised: `docker.io/library/nginx:latest`.
    pub tags: Vec<String>,
    /// `docker.io/library/nginx@sha256:…`; empty for images loaded from an archive that does not say.
    pub digests: Vec<String>,
    /// Of the unpacked files.
    pub size_bytes: u64,
    /// RFC 3339, as the image says; may be empty.
    pub created: String,
    pub config: ImageConfig,
    /// Folders, topmost first as overlayfs wants them, each once.
    pub layers: Vec<PathBuf>,
}

/// What happens during a pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PullEvent {
    /// The layer is here already.
    Present {
        layer: String,
    },
    /// So many of the layer's compressed bytes have come.
    Downloading {
        layer: String,
        done_bytes: u64,
        total_bytes: u64,
    },
    Unpacked {
        layer: String,
    },
}

pub type Progress = Arc<dyn Fn(PullEvent) + Send + Sync>;

#[derive(Clone, Debug)]
pub struct Options {
    /// Mirrors, credentials and trust by `registries.yaml`.
    pub registries: Registries,
    /// How long a registry may send nothing until a pull goes on with another connection, or fails.
    pub silence_limit: Duration,
    /// Pulls at once; none: as many as are asked for.
    pub parallel_pulls: Option<usize>,
}

impl Default for Options {
    fn default() -> Options {
        Options { registries: Registries::default(), silence_limit: SILENCE_LIMIT, parallel_pulls: None }
    }
}

/// What a pull gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Pulled {
    pub image: Image,
    /// Which of the caller's credentials the registry let in, by its place; none: it needed none of them.
    pub accepted: Option<usize>,
    /// How long it waited for other pulls to end.
    pub waited: Duration,
}

/// The images under a root folder. Cheap to clone.
#[derive(Clone)]
pub struct Images {
    inner: Arc<Inner>,
}

struct Inner {
    layout: Layout,
    options: Options,
    /// A permit a pull.
    turns: Semaphore,
}

impl Images {
    pub fn open(root: &Path) -> Result<Images, ImageError> {
        Images::open_with(root, Options::default())
    }

    /// Makes the folder when absent and removes what killed processes left in it.
    pub fn open_with(root: &Path, options: Options) -> Result<Images, ImageError> {
        let layout = Layout::open(root)?;
        collect::leftovers(&layout)?;
        let turns = Semaphore::new(options.parallel_pulls.unwrap_or(Semaphore::MAX_PERMITS).clamp(1, Semaphore::MAX_PERMITS));
        Ok(Images { inner: Arc::new(Inner { layout, options, turns }) })
    }

    /// Every image of a `docker save` archive or a tar of an OCI layout; the tar may be compressed.
    pub async fn load(&self, archive: &Path) -> Result<Vec<Image>, ImageError> {
        let path = archive.to_path_buf();
        self.blocking(move |layout| archive::load(layout, &path)?.into_iter().map(|r| image(layout, &r)).collect()).await
    }

    /// Fetches an image; layers that are here are not fetched again, and those that came in part are gone on with. Credentials for other
    /// registries are ignored.
    pub async fn pull(&self, reference: &str, auths: &[Auth], progress: Option<Progress>) -> Result<Pulled, ImageError> {
        let reference = parse(reference)?;
        let asked = Instant::now();
        // First come, first served; the permit goes back when this is given up.
        let _turn = self.inner.turns.acquire().await.map_err(|_| ImageError::Interrupted)?;
        let waited = asked.elapsed();
        let (record, accepted) = pull::pull(&self.inner, &reference, auths, progress).await?;
        Ok(Pulled { image: image(&self.inner.layout, &record)?, accepted, waited })
    }

    /// By name (normalised), name with digest, id, or the beginning of an id.
    pub async fn get(&self, reference_or_id: &str) -> Result<Option<Image>, ImageError> {
        let wanted = reference_or_id.to_string();
        self.blocking(move |layout| find(&layout.records()?, &wanted)?.map(|r| image(layout, r)).transpose()).await
    }

    pub async fn list(&self) -> Result<Vec<Image>, ImageError> {
        self.blocking(|layout| layout.records()?.iter().map(|r| image(layout, r)).collect()).await
    }

    /// Removes a name; the image goes with its last name, or at once when removed by id. Layers nobody needs go with it.
    pub async fn remove(&self, reference_or_id: &str) -> Result<(), ImageError> {
        let wanted = reference_or_id.to_string();
        self.blocking(move |layout| collect::remove(layout, &wanted)).await
    }

    pub async fn tag(&self, from: &str, to: &str) -> Result<(), ImageError> {
        let (from, to) = (from.to_string(), parse(to)?);
        let tag = to.tagged().filter(|_| to.digest.is_none()).ok_or_else(|| ImageError::TagIsDigest { name: to.to_string() })?;
        self.blocking(move |layout| {
            layout.update(|records| {
                let id = find(records, &from)?.map(|r| r.id.clone()).ok_or(ImageError::Absent { name: from.clone() })?;
                layout::give_tag(records, &id, &tag);
                Ok(())
            })
        })
        .await
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Layout) -> Result<T, ImageError> + Send + 'static) -> Result<T, ImageError> {
        let inner = self.inner.clone();
        tokio::task::spawn_blocking(move || work(&inner.layout)).await.map_err(|_| ImageError::Interrupted)?
    }
}

fn parse(reference: &str) -> Result<Reference, ImageError> {
    Reference::parse(reference).map_err(|reason| ImageError::Name { name: reference.to_string(), reason })
}

fn image(layout: &Layout, record: &Record) -> Result<Image, ImageError> {
    let mut seen = HashSet::new();
    // The kernel refuses a folder twice in one overlay mount; the topmost one hides the others anyway.
    let layers = record.layers.iter().rev().filter(|l| seen.insert(*l)).map(|l| layout.layer(l)).collect();
    Ok(Image {
        id: record.id.to_string(),
        tags: record.tags.clone(),
        digests: record.digests.clone(),
        size_bytes: record.size_bytes,
        created: record.created.clone(),
        config: record.config.clone(),
        layers,
    })
}

/// A name wins over the beginning of an id.
fn find<'a>(records: &'a [Record], wanted: &str) -> Result<Option<&'a Record>, ImageError> {
    let id = wanted.strip_prefix("sha256:").unwrap_or(wanted);
    if is_hex_id(id) {
        return Ok(records.iter().find(|r| r.id.hex() == id));
    }
    let by_name = Reference::parse(wanted).ok().and_then(|reference| match (&reference.digest, reference.tagged()) {
        (Some(digest), _) => records.iter().find(|r| r.digests.contains(&reference.with_digest(digest))),
        (None, tag) => tag.and_then(|tag| records.iter().find(|r| r.tags.contains(&tag))),
    });
    let short = id.len() >= SHORT_ID_MINIMUM && id.bytes().all(|b| b.is_ascii_hexdigit());
    if by_name.is_some() || !short {
        return Ok(by_name);
    }
    let mut by_id = records.iter().filter(|r| r.id.hex().starts_with(id));
    match (by_id.next(), by_id.next()) {
        (Some(_), Some(_)) => Err(ImageError::Ambiguous { name: wanted.to_string() }),
        (found, _) => Ok(found),
    }
}

/// What the index keeps of an image whose layers are in place.
fn record(id: Digest, file: ImageFile, size_bytes: u64, tags: Vec<String>, digests: Vec<String>) -> Record {
    Record { id, tags, digests, size_bytes, created: file.created, config: file.config, layers: file.rootfs.diff_ids }
}
