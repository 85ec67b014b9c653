//! The node's own certificates: asked for by CertificateSigningRequests, kept in files, renewed before their end.
//!
//! Entry points: [`bootstrap::ensure`] gets the first client certificate, [`Rotation::run`] renews it and the serving one, [`serving::keep`] is what the
//! agent's API shows. `store` is the files, `request` one request and its answer. Times are inputs of everything that decides by them. Deliberately absent:
//! the host's addresses as a cloud tells them. Source: k8s.io/client-go/util/certificate, kubernetes pkg/kubelet/certificate.

pub mod bootstrap;
mod metrics;
pub mod request;
mod rotation;
pub(crate) mod serving;
pub mod store;

pub use request::{RequestError, Wanted};
pub use rotation::{ClientRotation, Rotation};
pub use store::{Pair, Store, StoreError};
