//! Keeps what a cluster begins with: mandatory and suggested objects that are gone come back, and those that follow the server's own specs
//! (`apf.kubernetes.io/autoupdate-spec`) are brought back to them.

use super::{GROUP, LEVELS, SCHEMAS};
use crate::bootstrap;
use keles_api::Object;
use keles_kinds::flowcontrol::bootstrap as initial;
use keles_registry::Registry;
use std::time::Duration;

/// How often it is looked after, as upstream.
pub const PERIOD: Duration = Duration::from_secs(60);
const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

pub async fn pass(registry: &Registry) {
    let all = initial::levels().into_iter().map(|o| (LEVELS, o)).chain(initial::schemas().into_iter().map(|o| (SCHEMAS, o)));
    for (plural, object) in all {
        let wanted = Object(object);
        let there = registry.read(GROUP, plural, "", wanted.name());
        let mandatory = [initial::EXEMPT, initial::CATCH_ALL].contains(&wanted.name());
        let follows = mandatory || there.as_ref().is_none_or(|t| t.at(&["metadata", "annotations", AUTO_UPDATE]) == "true");
        if let Err(error) = bootstrap::keep(registry, GROUP, plural, wanted, follows).await {
            tracing::warn!(%error, "a part of flow control could not be kept; trying again");
        }
    }
}
