//! The API server over real sockets, a file a subject. One binary, for each would be 100 MB with the whole server in it; files beside this folder read
//! what the process counts, which must then be theirs alone.

#[path = "../world/mod.rs"]
mod world;

mod addresses;
mod admission;
mod admission_certificates;
mod admission_classes;
mod admission_policies;
mod aggregation;
mod audit;
mod authentication;
mod authorization;
mod cbor;
mod chain;
mod content;
mod conversion;
mod custom_resources;
mod encryption;
mod etcd;
mod every_apply;
mod every_verb;
mod hostile;
mod impersonation;
mod node_rules;
mod nodes;
mod webhooks;
