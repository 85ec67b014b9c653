//! What tests and examples share: images made without a registry or an engine, a registry on loopback, and hostile documents.
//!
//! A development crate: the product does not link it.

pub mod containerd;
pub mod image;
pub mod odd;
pub mod registry;
