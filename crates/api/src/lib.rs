//! The words of the API: objects, metadata, quantities, selectors, Status, field problems, the schema table and the codecs.
//!
//! Pure: no tokio, no IO, no clock. Everything above speaks in these types.
//! Deliberately absent: storage, HTTP, and rules of single kinds (those live in `kinds`).

pub mod object;
pub mod problems;
pub mod status;

pub use object::{GroupVersion, GroupVersionKind, Object};
pub use problems::{Path, Problem, ProblemKind, Problems};
pub use status::{Cause, Status};
