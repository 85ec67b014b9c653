//! The API server: an ordered chain of layers over the registry.
//!
//! Entry points: [`ApiServer::start`], [`ApiServer::serve`] (TLS), [`ApiServer::service_for`] (in process). A request goes through
//! [`chain`]: request info, authenticate, impersonate, authorize, limit, dispatch. Invariants: every caller has a user, in process too,
//! and RBAC applies to it; no header can set the user; the truth is in the store alone.
//! Deliberately absent: REST semantics (`registry`), rules of kinds (`kinds`). Not built yet, and refused: CBOR (docs/STATUS.md).

mod addresses;
mod admission;
mod aggregation;
pub mod audit;
mod authenticate;
mod bootstrap;
mod certificates;
mod chain;
pub mod component_status;
mod config;
mod connect;
mod conversion;
mod custom_resources;
pub mod debug;
mod discovery;
mod fairness;
mod features;
pub mod health;
mod http_proxy;
mod impersonate;
mod kubelet;
pub mod lifecycle;
mod live;
pub mod metrics;
mod negotiate;
mod notices;
mod openapi;
mod path;
mod paths;
mod peers;
mod pieces;
mod pod_streams;
mod policy;
pub mod reload;
mod resource_metrics;
pub mod respond;
mod reviews;
mod server;
mod token_request;
mod upgrade;
mod verdicts;

pub use addresses::range::{ServiceCidr, ServiceCidrs};
pub use config::{Config, NODE_PORTS, NamedFiles, SERVICE_CIDR};
pub use features::{Feature, FeatureError, Features};
pub use paths::GIT_VERSION;
pub use server::{ApiServer, InProcess, StartError};
