//! What tests and examples share: images made without a registry or an engine.
//!
//! A development crate: the product does not link it.

pub mod image;
