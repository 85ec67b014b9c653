//! The container runtime: pod sandboxes, a shim per pod, create, start, exec, attach, kill, stats.
//!
//! Entry points: [`api::PodRuntime`], which [`Engine`] implements, and [`shim_main`], which the binary runs as `keles shim`, and [`oci_main`],
//! an OCI runtime for containerd, Docker and Podman, which it runs as `keles oci`.
//! Set-up of containers runs in the single-threaded shim or its children, never in the tokio process. Killing the server
//! leaves shims and containers running; the next start re-adopts them from the state folder.

pub mod api;
pub mod apparmor;
pub mod cadvisor;
pub mod cdi;
mod engine;
mod oci;
pub mod process;
pub mod resolver;
mod shim;
mod steps;
pub mod usage;
mod wire;

pub use engine::{Engine, EngineOptions};
pub use oci::oci_main;
pub use shim::shim_main;
pub use steps::user::{User, of_layers as user_of_layers};
