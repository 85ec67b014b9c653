//! MutatingAdmissionPolicy: an object is changed by applied configurations and JSON patches that expressions make.

use super::config::{Configs, Mutation, Policy};
use super::{Stage, Turn, applies, refused};
use crate::admission::Later;
use crate::admission::dynamic::rules::is_exempt;
use crate::admission::dynamic::{OnFailure, subject};
use async_trait::async_trait;
use keles_api::decode::{FieldValidation, conform};
use keles_api::{GroupVersion, Object, Status};
use keles_cel::Budget;
use keles_patch::managed::{self, OneVersion, Writer};
use keles_registry::{Admission, Attributes, Operation, Served};
use serde_json::Value;

pub struct MutatingPolicies {
    configs: Configs,
    server: Later,
}

impl MutatingPolicies {
    pub fn new(server: Later) -> Self {
        MutatingPolicies { configs: Configs::new("mutatingadmissionpolicies", "mutatingadmissionpolicybindings"), server }
    }
}

#[async_trait]
impl Admission for MutatingPolicies {
    fn name(&self) -> &'static str {
        "MutatingAdmissionPolicy"
    }
    fn handles(&self, a: &Attributes<'_>) -> bool {
        matches!(a.operation, Operation::Create | Operation::Update) && !is_exempt(a) && self.configs.all(a.registry).iter().any(|p| p.matching.version(a).is_some())
    }
    fn mutates(&self) -> bool {
        true
    }
    fn leaves_defaults(&self) -> bool {
        true
    }
    async fn mutate(&self, a: &Attributes<'_>, o: &mut Object, _: &mut Vec<String>) -> Result<(), Status> {
        let policies = self.configs.all(a.registry);
        let mut last_change = None;
        for round in 0..2 {
            for (i, policy) in policies.iter().enumerate() {
                if round == 1 && (!policy.reinvokes || last_change.is_none_or(|last| last <= i)) {
                    continue;
                }
                if run(a, &self.server, policy, o).await? {
                    last_change = Some(i);
                }
            }
        }
        Ok(())
    }
}

/// One policy with all its bindings; whether it changed the object.
async fn run(a: &Attributes<'_>, server: &Later, policy: &Policy, o: &mut Object) -> Result<bool, Status> {
    let mut changed = false;
    // Each turn sees what the one before it did; how many there are is settled by the first look.
    let (mut at, mut count) = (0, 1);
    while at < count {
        let made = {
            let stage = Stage::new(a, server, Some(o));
            let bound = stage.bound(policy, Some(o)).await;
            let turns = stage.turns(policy, Some(o), bound);
            if at == 0 {
                count = turns.len();
            }
            at += 1;
            let Some(turn) = turns.into_iter().nth(at - 1) else { continue };
            match turn {
                Ok(t) => mutated(a, &t).map(|m| m.map(|m| (m, t.version))).map_err(|why| (t.binding.name.clone(), why)),
                Err((binding, why)) => Err((binding.name.clone(), format!("failed to configure binding: {why}"))),
            }
        };
        match made {
            Ok(Some((new, version))) => {
                let new = subject::to_storage(a, &new, &version);
                changed |= new.0 != o.0;
                *o = new;
            }
            Ok(None) => {}
            Err((binding, why)) if policy.on_failure == OnFailure::Fail => {
                let message = format!("policy '{}' with binding '{binding}' denied request: {why}", policy.name);
                return Err(refused(a, Some(o), "", message));
            }
            Err((binding, why)) => tracing::warn!(policy = policy.name, binding, why, "a mutating policy failed and is left out, as its failure policy says"),
        }
    }
    Ok(changed)
}

/// The object after all mutations of a turn; `None` when its conditions leave the request out.
fn mutated(a: &Attributes<'_>, turn: &Turn<'_>) -> Result<Option<Object>, String> {
    if !applies(turn)? {
        return Ok(None);
    }
    let mut object = turn.object.clone();
    let mut budget = Budget::default();
    for m in &turn.policy.mutations {
        let (Mutation::Apply(e) | Mutation::Patch(e)) = m;
        let value = {
            let mut activation = turn.activation();
            activation.set("object", keles_cel::Value::json(&object));
            let program = e.program.as_ref().map_err(Clone::clone)?;
            let value = program.eval(&activation, &mut budget).map_err(|why| format!("expression '{}' resulted in error: {why}", e.text))?;
            if matches!(m, Mutation::Apply(_)) {
                value.check_type_names()?;
            }
            value.to_json().ok_or_else(|| format!("expression '{}' gives no object", e.text))?
        };
        object = match m {
            Mutation::Apply(_) => applied(a, &object, value, &turn.version)?,
            Mutation::Patch(_) => keles_patch::json_patch(&object, value.to_string().as_bytes()).map_err(|e| format!("JSON Patch: {}", e.to_status().message))?,
        };
        object = fitted(a, object, &turn.version)?;
    }
    Ok(Some(Object(object)))
}

/// Structured merge of an applied configuration, owned by nobody: managed fields are the writer's business.
fn applied(a: &Attributes<'_>, object: &Value, mut configuration: Value, version: &Served) -> Result<Value, String> {
    let kind = a.registry.kind(version.group, version.version, a.info.plural).ok_or("the kind is not served any more")?;
    let ty = kind.schema(version).ok_or("the kind has no schema")?;
    let api_version = GroupVersion::new(version.group, version.version).to_string();
    for atomic in ["apiVersion", "kind"] {
        configuration[atomic] = object[atomic].clone();
    }
    let mut live = object.clone();
    let kept = live["metadata"].as_object_mut().and_then(|m| m.remove("managedFields"));
    let w = Writer { manager: "mutating-admission-policy", api_version: &api_version, subresource: "", reset: &[], now: &a.request.now };
    let merged = managed::apply(Some(&live), &configuration, true, &w, &OneVersion { api_version: &api_version, ty }).map_err(|e| e.to_string())?;
    let mut object = merged.object;
    if let Some(m) = object["metadata"].as_object_mut() {
        m.remove("managedFields");
        kept.map(|k| m.insert("managedFields".into(), k));
    }
    Ok(object)
}

fn fitted(a: &Attributes<'_>, object: Value, version: &Served) -> Result<Value, String> {
    let Some(kind) = a.registry.kind(version.group, version.version, a.info.plural) else { return Ok(object) };
    let Some(ty) = kind.schema(version) else { return Ok(object) };
    conform(object, ty, FieldValidation::Ignore).map(|d| d.object.0).map_err(|e| e.to_string())
}
