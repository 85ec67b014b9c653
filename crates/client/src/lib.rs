//! The kube client over HTTPS or in-process, kubeconfig, and shared informers.
//!
//! Entry points: [`from_kubeconfig`] and [`in_process`] give a `kube::Client`, over [`ClientCertificate`] where that is in files; [`Informers`] gives one shared list+watch a kind.
//! Invariant: an [`Informer`]'s cache never goes back in time: an object in it is never replaced by an older version of itself, and a write
//! that was acknowledged to this process ([`Informer::acknowledge`]) is visible in it at once (lesson 125).
//! Deliberately absent: kinds, queues and retries of writes (those live in `reconcile`).

mod cache;
mod certificate;
mod connect;
mod informer;
mod metrics;
mod reflector;
mod watched;

pub use cache::{Change, ObjectKey};
pub use certificate::{CertificateError, ClientCertificate};
pub use connect::{ConnectError, from_kubeconfig, from_kubeconfig_as, in_process, over_https};
pub use informer::{Informer, Informers, Options, Scope};
pub use watched::{MetadataOnly, Watched, revision_of};
