//! gRPC over HTTP/2, both ends: what plugins and etcd serve (KMS, CSI, devices, health), and what the agent serves to plugins.
//!
//! Entry points: [`Channel`] calls, [`Server`] answers. Messages are structs with `#[derive(prost::Message)]`, whose tags their own file
//! takes from the service's definition; nothing is generated. Source: gRPC over HTTP/2 (grpc/doc/PROTOCOL-HTTP2.md). Deliberately absent:
//! compression; streams from the client and TLS on the serving side: what is served here is on a local socket.

mod client;
mod frame;
mod server;
mod status;

pub use client::{Channel, Settings, Streaming};
pub use server::{Answers, Server};
pub use status::{Code, Status};

/// What a message may have at most, in bytes: upstream's agent and its runtimes agree on 16 MiB, more than gRPC's own 4 MiB.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;

#[cfg(test)]
mod tests;
