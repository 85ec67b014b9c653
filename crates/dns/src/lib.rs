//! Cluster DNS: names of services, their endpoints and pods; everything else goes to the node's own resolvers.
//!
//! Entry point: [`Server`]. [`zone`] answers purely from a [`zone::Directory`]; [`server`] speaks UDP and TCP.
//! Source: the Kubernetes DNS specification 1.1.0. Deliberately absent: caching of upstream answers, DNSSEC, IPv6 services.

mod directory;
mod server;
pub mod zone;

pub use directory::Cluster;
pub use server::{DnsError, Options, Server, node_resolvers};
