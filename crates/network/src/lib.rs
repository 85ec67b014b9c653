//! The pod network of one node: a bridge, an address and a veth pair a pod, routes.
//!
//! Entry point: [`PodNetwork`]. Invariants: an address is written to disk before it is used and freed after its interface is
//! gone, so a kill at any moment neither leaks nor doubles one; the service range is routed to the bridge, so that a service
//! address that no rule catches never leaves the machine. Deliberately absent: services (crate `proxy`) and other nodes' pods.

pub mod addresses;
mod bridge;
mod cidr;

pub use bridge::{NetworkError, Options, PodNetwork};
pub use cidr::Cidr;
