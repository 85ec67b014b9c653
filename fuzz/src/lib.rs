//! The laws that the fuzz targets try to break; they live with the property tests that try them in `make test`.

#[path = "../../crates/kinds/tests/any_bytes/laws/mod.rs"]
mod laws;

pub use laws::*;
