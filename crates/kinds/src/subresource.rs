//! The subresources that many kinds share.

use keles_registry::kind::{STATUS, Subresource};

const READ_AND_WRITE: &[&str] = &["get", "patch", "update"];

pub const fn status(kind: &'static str) -> Subresource {
    Subresource { name: STATUS, kind, group: "", version: "", verbs: READ_AND_WRITE }
}

pub const SCALE: Subresource = Subresource { name: "scale", kind: "Scale", group: "autoscaling", version: "v1", verbs: READ_AND_WRITE };
