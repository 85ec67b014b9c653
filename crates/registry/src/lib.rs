//! The kind-generic REST pipelines and the watch cache.
//!
//! [`kind`] says what a kind is; the pipelines over it are written once. No kind is known here by name, except where the API itself
//! joins two kinds (namespaces and what is in them, `scale`, `binding`) and in the table of [`facts`].

pub mod admission;
pub mod annotations;
pub mod cache;
mod caches;
pub mod call;
pub mod claims;
mod create;
mod delete;
mod encode;
mod eviction;
mod exchange;
pub mod facts;
mod follow;
pub mod gates;
pub mod kind;
mod lifetimes;
mod managed_fields;
mod metrics;
mod options;
mod patch;
mod pods;
mod protobuf;
mod read;
pub mod registry;
mod represent;
mod resource;
mod scale;
mod table;
mod unreadable;
mod update;
mod versions;
mod watch;
mod write;

pub use admission::{Admission, Attributes, Ending, Operation, Taken};
pub use call::{Answer, Body, Call, Form, MetaVersion, PatchType, Query, Verb, Wire};
pub use encode::Restore;
pub use follow::Follow;
pub use kind::{ALL_VERBS, AnyKind, Cells, Column, ColumnInfo, Erased, Info, Kind, NameRule, Request, ScalePaths, Scope, Selectable, Served, Subresource, UnknownSelector, User};
pub use lifetimes::Lifetimes;
pub use registry::{Registry, Settings};
pub use write::store_error;
