//! The service proxy: Services and EndpointSlices to nftables, changed atomically.
//!
//! Entry point: [`run`]. [`rules`] computes purely what the kernel should hold, [`table`] turns differences into one transaction.
//! Invariants: a service address that no rule catches is rejected on this machine and never leaves it; only what changed is
//! written. Deliberately absent: IPv6, and affinity timeouts (ClientIP affinity hashes the source address; see docs/STATUS.md).

pub mod rules;
mod sync;
pub mod table;

pub use sync::{Options, forget_stale_udp, run};
