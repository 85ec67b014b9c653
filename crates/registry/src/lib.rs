//! The kind-generic REST pipelines and the watch cache.
//!
//! [`kind`] says what a kind is; the pipelines over it are written once. No kind is known here by name.

pub mod kind;

pub use kind::{AnyKind, Cells, Column, ColumnInfo, Erased, Info, Kind, NameRule, Request, Scope, Selectable, Served, Subresource, UnknownSelector, User, ALL_VERBS};
