//! `binding` of a pod: a scheduler's decision. The owners of its fields stay as they are, as upstream.

use crate::call::{Answer, Body};
use crate::exchange::Exchange;
use crate::options::WriteOptions;
use crate::update::Part;
use keles_api::decode::{self, FieldValidation};
use keles_api::{Object, Path, Problems, Status, schema};
use serde_json::{Value, json};

const BINDING_SCHEMA: &str = "io.k8s.api.core.v1.Binding";

impl Exchange<'_> {
    pub fn decode_as(&self, name: &str, kind: &str, validation: FieldValidation) -> Result<(Object, Vec<String>), Status> {
        let ty = schema::builtin().get(name).ok_or_else(|| Status::internal(format!("no schema for {kind}")))?;
        let d = decode::decode(&self.call.body, self.call.body_format, ty, kind, validation)?;
        Ok((d.object, d.warnings))
    }

    /// POST pods/NAME/binding, and POST bindings with the name in the body.
    pub async fn bind(mut self) -> Result<Answer, Status> {
        let options = WriteOptions::parse(&self.call.query, "CreateOptions")?;
        let (mut b, mut warnings) = self.decode_as(BINDING_SCHEMA, "Binding", options.field_validation)?;
        if self.request.name.is_empty() {
            self.request.name = b.name().to_owned();
        }
        if b.name() != self.request.name {
            return Err(Status::bad_request("name in URL does not match name in Binding object"));
        }
        self.request.dry_run = options.dry_run;
        warnings.extend(self.registry.admit_posted(&self.request, &mut b).await?);
        check_binding(&b)?;
        let now = self.request.now.clone();
        self.modify(Part::Own, &mut warnings, &mut |old| assign(old, &b, &now)).await?;
        let mut done = Status::failure(201, "", "");
        done.status = "Success".into();
        Ok(Answer { code: 201, body: Body::Bytes(done.to_json().into()), warnings })
    }
}

fn check_binding(b: &Object) -> Result<(), Status> {
    let mut p = Problems::new();
    let target = Path::new("target");
    let kind = b.str_at(&["target", "kind"]);
    if !matches!(kind, "" | "Node") {
        p.not_supported(&target.child("kind"), kind, &["Node", "<empty>"]);
    }
    if b.str_at(&["target", "name"]).is_empty() {
        p.required(&target.child("name"), "");
    }
    if p.is_empty() { Ok(()) } else { Err(Status::invalid("", "Binding", b.name(), &p)) }
}

/// The pod with its node, or why it cannot have one.
fn assign(old: &Object, b: &Object, now: &str) -> Result<Object, Status> {
    let name = old.name();
    let conflict = |why: String| Err(Status::conflict("", "pods/binding", name, why));
    if !b.uid().is_empty() && b.uid() != old.uid() {
        return conflict(format!("Precondition failed: UID in precondition: {}, UID in object meta: {}", b.uid(), old.uid()));
    }
    if old.deletion_timestamp().is_some() {
        return conflict(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let node = old.str_at(&["spec", "nodeName"]);
    if !node.is_empty() {
        return conflict(format!("pod {name} is already assigned to node {node:?}"));
    }
    if old.at(&["spec", "schedulingGates"]).as_array().is_some_and(|g| !g.is_empty()) {
        return conflict(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    let mut new = old.clone();
    if let Some(spec) = new.root_mut().entry("spec").or_insert_with(|| json!({})).as_object_mut() {
        spec.insert("nodeName".into(), b.str_at(&["target", "name"]).into());
    }
    for field in ["annotations", "labels"] {
        if let Some(given) = b.meta(field).as_object().filter(|m| !m.is_empty()) {
            let have = new.meta_mut().entry(field).or_insert_with(|| json!({}));
            if let Some(have) = have.as_object_mut() {
                have.extend(given.clone());
            }
        }
    }
    scheduled(&mut new, now);
    Ok(new)
}

/// Sets the condition PodScheduled to True.
fn scheduled(o: &mut Object, now: &str) {
    set_condition(o, json!({"type": "PodScheduled", "status": "True", "lastProbeTime": Value::Null, "lastTransitionTime": now}));
}

/// Sets a condition of the status, whose transition time stays while its status does.
pub fn set_condition(o: &mut Object, mut c: Value) {
    let status = o.root_mut().entry("status").or_insert_with(|| json!({}));
    let Some(status) = status.as_object_mut() else { return };
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    let Some(list) = conditions.as_array_mut() else { return };
    match list.iter_mut().find(|have| have["type"] == c["type"]) {
        Some(have) => {
            if have["status"] == c["status"] {
                c["lastTransitionTime"] = have["lastTransitionTime"].clone();
            }
            *have = c;
        }
        None => list.push(c),
    }
}
