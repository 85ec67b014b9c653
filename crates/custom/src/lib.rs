//! Kinds made at run time from CustomResourceDefinitions.
//!
//! Entry points: [`Definition::read`], what a definition serves; [`Custom::new`], the kind it makes, an `AnyKind` like any built-in one.
//! A file an algorithm of structural schemas: pruning, defaulting, validation, list types, embedded resources, columns, JSONPath.
//! Deliberately absent: whether a definition is a sound one (`kinds`), and when it is served (`apiserver`).

mod columns;
mod conversion;
mod default;
mod definition;
mod embedded;
mod formats;
pub mod jsonpath;
mod kind;
mod lists;
mod names;
mod open_api;
mod prune;
mod rules;
mod schema;
mod structural;
mod validate;
mod versions;

pub use conversion::{Answering, Conversion, Webhook};
pub use definition::{Condition, Definition, Names};
pub use kind::Custom;
pub use open_api::{API_VERSION_TEXT, KIND_TEXT};
pub use structural::Node;
pub use validate::validate;
pub use versions::priority;
