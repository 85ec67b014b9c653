//! The words of the API: objects, metadata, quantities, selectors, Status, field problems, the schema table and the codecs.
//!
//! Pure: no tokio, no IO, no clock. Everything above speaks in these types.
//! Deliberately absent: storage, HTTP, and rules of single kinds (those live in `kinds`).

pub mod canonical;
pub mod cbor;
pub mod decode;
pub mod defaults;
pub mod depth;
pub mod int_or_string;
pub mod json;
pub mod meta;
pub mod names;
pub mod object;
pub mod openapi;
pub mod problems;
pub mod protobuf;
pub mod quantity;
pub mod schema;
pub mod selector;
pub mod status;
pub mod time;
pub mod yaml;

pub use object::{GroupVersion, GroupVersionKind, Object};
pub use problems::{Path, Problem, ProblemKind, Problems};
pub use quantity::Quantity;
pub use schema::{Schema, TypeRef};
pub use selector::{FieldSelector, Selector};
pub use status::{Cause, Status};
