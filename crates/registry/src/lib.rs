//! The kind-generic REST pipelines and the watch cache.
//!
//! [`kind`] says what a kind is; the pipelines over it are written once. No kind is known here by name, except where the API itself
//! joins two kinds (namespaces and what is in them, `scale`, `binding`).

pub mod admission;
pub mod call;
pub mod kind;
pub mod registry;

pub use admission::{Admission, Attributes, Operation};
pub use call::{Answer, Body, BodyFormat, Call, Form, MetaVersion, PatchType, Query, Verb};
pub use kind::{ALL_VERBS, AnyKind, Cells, Column, ColumnInfo, Erased, Info, Kind, NameRule, Request, Scope, Selectable, Served, Subresource, UnknownSelector, User};
pub use registry::{Registry, Settings};
