//! Words of the OCI and Docker image formats (digests, references, manifests, image configurations) and of runtime bundles. Pure.
//!
//! Entry points: [`Reference::parse`], [`Digest::parse`], [`manifest::Document`], [`runtime::Spec`]. Deliberately absent: where bytes come from.

pub mod config;
pub mod digest;
pub mod manifest;
pub mod reference;
pub mod runtime;
pub mod runtime_default;

pub use config::{ImageConfig, ImageFile};
pub use digest::{Digest, DigestError, Hasher};
pub use manifest::{Descriptor, Document, Index, Manifest, Platform};
pub use reference::{Reference, ReferenceError};
