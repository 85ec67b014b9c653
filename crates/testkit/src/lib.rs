//! What tests and examples share: images made without a registry or an engine, a registry and an etcd on loopback, and hostile documents.
//!
//! A development crate: the product does not link it.

pub mod containerd;
pub mod etcd;
pub mod image;
pub mod odd;
pub mod registry;
