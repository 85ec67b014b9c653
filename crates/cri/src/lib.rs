//! The words of the CRI: messages, enums and method paths of `runtime.v1.RuntimeService` and `ImageService`, as of Kubernetes v1.36.
//!
//! Who serves it is `keles-cri-server`; who calls it joins these with `keles_grpc::Channel`. Source: `k8s.io/cri-api/pkg/apis/runtime/v1`.
//! Invariant: an absent message is `None`, and what is empty or 0 is not specified. Deliberately absent: the messages and fields of Windows,
//! which are skipped when they come.

mod container;
mod image;
mod runtime;
mod sandbox;
mod signal;
mod stats;
mod streaming;

pub use container::*;
pub use image::*;
pub use runtime::*;
pub use sandbox::*;
pub use signal::Signal;
pub use stats::*;
pub use streaming::*;

use std::fmt;

/// Passwords and tokens stay out of logs.
impl fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthConfig").field("username", &self.username).field("server_address", &self.server_address).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
