//! The container runtime: pod sandboxes, a shim per pod, create, start, exec, attach, kill, stats.
//!
//! Entry point: [`api::PodRuntime`]. Set-up of containers runs in the single-threaded shim or its children, never in the
//! tokio process. Killing the server leaves shims and containers running; the next start re-adopts them from the state folder.

pub mod api;
