//! A pod template, as every workload kind holds one.

use super::{annotations, defaults, spec};
use crate::field::{Field, child_mut};
use crate::labels;
use keles_api::Problems;
use serde_json::Value;

/// Defaults of `owner.template`.
pub fn set_defaults(owner: &mut Value) {
    let Some(template) = child_mut(owner, "template") else { return };
    defaults::metadata(template);
    if let Some(pod_spec) = child_mut(template, "spec") {
        defaults::spec(pod_spec);
    }
}

/// The template's metadata and pod spec.
pub fn validate(template: &Field, p: &mut Problems) {
    let meta = template.get("metadata");
    labels::labels(p, &meta_field(template, &meta, "labels"));
    let notes = meta_field(template, &meta, "annotations");
    labels::annotations(p, &notes);
    let pod_spec = template.get("spec");
    annotations::validate(&notes, &pod_spec, p);
    spec::validate(&pod_spec, None, p);
    annotations::match_fields(template, p);
    if !pod_spec.list("ephemeralContainers").is_empty() {
        p.forbidden(&pod_spec.at("ephemeralContainers"), "ephemeral containers not allowed in pod template");
    }
}

/// Problems of a template's labels and annotations name `template.labels`, without `metadata`.
fn meta_field<'a>(template: &Field<'a>, meta: &Field<'a>, name: &str) -> Field<'a> {
    Field::new(meta.get(name).value(), template.at(name))
}

/// Warnings about the template's annotations and pod spec.
pub fn warnings(template: &Field, w: &mut Vec<String>) {
    super::warnings::pod(template, true, w);
}
