//! TLS, HTTP/1.1 and HTTP/2, upgrades, drain.
//!
//! Entry points: [`tls::server_config`], [`Server::run`], [`body::read`]. A handler is made once a connection from its [`ConnInfo`],
//! so that what the client certificate says is worked out once. Invariants: nothing a peer sends makes the accept loop end;
//! connections, headers, handshakes and bodies have limits; no `Connection` header goes out over HTTP/2 (hyper strips it).
//! Deliberately absent: routing, authentication, compression.

pub mod body;
pub mod server;
pub mod tls;

pub use body::{Body, BoxError, ReadError};
pub use server::{ConnInfo, Limits, Server, run_plain};

pub mod streams;
