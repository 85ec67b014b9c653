//! What can go wrong with images: one enum for all operations of [`crate::Images`], since callers show it and seldom tell the steps apart.

use crate::unpack::UnpackError;
use keles_oci::{Digest, ReferenceError};
use std::path::Path;

#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("couldn't parse image name {name:?}: {reason}")]
    Name { name: String, reason: ReferenceError },
    #[error("{name:?} names a digest; a tag is needed")]
    TagIsDigest { name: String },
    #[error("no such image: {name}; pull it or load it from an archive")]
    Absent { name: String },
    #[error("{name} is the beginning of more than one image id; give more of it")]
    Ambiguous { name: String },
    #[error("image {name} is used by a running container; remove the container first")]
    InUse { name: String },
    #[error("cannot pull image {image}: {fault}")]
    Pull { image: String, fault: RegistryFault },
    #[error("image {image} has no variant for {platform}; use an image built for this machine")]
    Platform { image: String, platform: String },
    #[error("image {image}: {what} should be {expected} but is {found}; the registry or the archive is damaged, fetch it again")]
    Mismatch { image: String, what: String, expected: Digest, found: Digest },
    #[error("image {image}: layer {layer}: {reason}")]
    Layer { image: String, layer: Digest, reason: UnpackError },
    #[error("image {image}: {what}")]
    Malformed { image: String, what: String },
    #[error("cannot load {path}: {what}")]
    Archive { path: String, what: String },
    #[error("cannot write {path}: {reason}; free space or fix the disk, then retry")]
    Disk { path: String, reason: std::io::Error },
    #[error("{path} is damaged: {reason}; remove it and load the images again")]
    Index { path: String, reason: serde_json::Error },
    #[error("the work on images was interrupted")]
    Interrupted,
}

/// Why a registry did not give what was asked.
#[derive(Debug, thiserror::Error)]
pub enum RegistryFault {
    #[error("registry {registry} cannot be reached: {reason}; check the image's name and that the registry runs")]
    Unreachable { registry: String, reason: String },
    #[error("not found in registry {registry}; check name and tag")]
    NotFound { registry: String },
    #[error("registry {registry} refuses access (pull access denied, the repository may not exist or may need authorization); check the name and the pull secret")]
    Denied { registry: String },
    #[error("registry {registry} answered {status}: {message}")]
    Status { registry: String, status: u16, message: String },
    #[error("registry {registry}: {what}")]
    Protocol { registry: String, what: String },
}

impl RegistryFault {
    /// Whether the same request may well succeed at once.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self, RegistryFault::Unreachable { .. }) || matches!(self, RegistryFault::Status { status: 429 | 500.., .. })
    }
}

pub(crate) fn disk(path: &Path) -> impl FnOnce(std::io::Error) -> ImageError + '_ {
    |reason| ImageError::Disk { path: path.display().to_string(), reason }
}
