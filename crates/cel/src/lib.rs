//! The Common Expression Language as Kubernetes v1.36 has it: grammar, types, libraries, costs.

mod ast;
pub mod authorizer;
mod check;
mod cost;
mod environment;
mod error;
mod eval;
mod lexer;
mod library;
pub mod limits;
mod macros;
mod parser;
mod source;
pub mod types;
pub mod value;

pub use authorizer::{Authorizer, Check, Decision};
pub use cost::Estimate;
pub use environment::{Activation, Environment, Program};
pub use error::EvalError;
pub use limits::Budget;
pub use source::{Issue, Issues};
pub use types::{Decl, Type};
pub use value::Value;
