//! What the audit event of a request tells of the webhooks it was shown to, under upstream's keys.

use super::config::Hook;
use crate::audit::PATCH_NOTE;
use keles_registry::annotations::{annotate, annotate_whole};
use serde::Serialize;
use serde_json::Value;

/// One call: the round of mutating webhooks, and the hook's place among those of the round.
#[derive(Clone, Copy)]
pub struct Place {
    pub round: usize,
    pub index: usize,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "round_{}_index_{}", self.round, self.index)
    }
}

#[derive(Serialize)]
struct Mutation<'a> {
    configuration: &'a str,
    webhook: &'a str,
    mutated: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Patch<'a> {
    configuration: &'a str,
    webhook: &'a str,
    patch: Value,
    patch_type: &'static str,
}

fn json(v: &impl Serialize) -> String {
    serde_json::to_string(v).expect("texts, a flag and JSON always encode")
}

/// Whether a mutating webhook changed the object.
pub fn mutation(h: &Hook, at: Place, mutated: bool) {
    annotate(format!("mutation.webhook.admission.k8s.io/{at}"), json(&Mutation { configuration: &h.configuration, webhook: &h.name, mutated }));
}

/// The patch a webhook answered, which is shown from level Request on.
pub fn patch(h: &Hook, at: Place, patch: &[u8]) {
    if let Ok(patch) = serde_json::from_slice::<Value>(patch) {
        annotate_whole(format!("{PATCH_NOTE}{at}"), json(&Patch { configuration: &h.configuration, webhook: &h.name, patch, patch_type: "JSONPatch" }));
    }
}

/// A call failed, and the request goes on. `kind` is `mutation` or `validating`.
pub fn failed_open(h: &Hook, kind: &str, at: Place) {
    annotate(format!("failed-open.{kind}.webhook.admission.k8s.io/{at}"), h.name.clone());
}
