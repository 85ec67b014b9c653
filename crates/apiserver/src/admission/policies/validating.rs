//! ValidatingAdmissionPolicy: every expression must be true; what is to be audited goes to the audit event.

use super::config::{Configs, Policy, Validation};
use super::{Stage, Turn, applies, refused};
use crate::admission::Later;
use crate::admission::dynamic::OnFailure;
use crate::admission::dynamic::rules::is_exempt;
use async_trait::async_trait;
use keles_api::{Object, Status};
use keles_cel::{Budget, EvalError};
use keles_registry::annotations::annotate;
use keles_registry::{Admission, Attributes};
use serde_json::json;
use std::collections::BTreeMap;

/// Where audit events tell of validations that did not hold, as upstream calls it.
const FAILURE: &str = "validation.policy.admission.k8s.io/validation_failure";

pub struct ValidatingPolicies {
    configs: Configs,
    server: Later,
}

impl ValidatingPolicies {
    pub fn new(server: Later) -> Self {
        ValidatingPolicies { configs: Configs::new("validatingadmissionpolicies", "validatingadmissionpolicybindings"), server }
    }
}

/// A validation that did not hold.
struct Finding {
    message: String,
    reason: String,
    /// Which of the policy's validations it was; 0 when none was.
    index: usize,
}

impl Finding {
    fn failed(message: String) -> Finding {
        Finding { message, reason: String::new(), index: 0 }
    }
}

#[async_trait]
impl Admission for ValidatingPolicies {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionPolicy"
    }
    fn handles(&self, a: &Attributes<'_>) -> bool {
        !is_exempt(a) && self.configs.all(a.registry).iter().any(|p| p.matching.version(a).is_some())
    }
    async fn validate(&self, a: &Attributes<'_>, o: Option<&Object>, warnings: &mut Vec<String>) -> Result<(), Status> {
        let stage = Stage::new(a, &self.server, o);
        let mut denied = None;
        let mut told = BTreeMap::<String, Vec<String>>::new();
        for policy in self.configs.all(a.registry).iter() {
            let bound = stage.bound(policy, o).await;
            for turn in stage.turns(policy, o, bound) {
                let (binding, findings) = match &turn {
                    Ok(t) => (t.binding, findings(t, &mut told)),
                    Err((binding, why)) if policy.on_failure == OnFailure::Fail => (*binding, vec![Finding::failed(format!("failed to configure binding: {why}"))]),
                    Err(_) => continue,
                };
                for f in findings {
                    if binding.warns {
                        warnings.push(format!("Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {}", policy.name, binding.name, f.message));
                    }
                    if binding.audits {
                        let failure = json!([{"message": f.message, "policy": policy.name, "binding": binding.name, "expressionIndex": f.index, "validationActions": ["Audit"]}]);
                        annotate(FAILURE, failure.to_string());
                    }
                    if binding.denies && denied.is_none() {
                        let message = format!("ValidatingAdmissionPolicy '{}' with binding '{}' denied request: {}", policy.name, binding.name, f.message);
                        denied = Some(refused(a, o, &f.reason, message));
                    }
                }
            }
        }
        for (key, values) in told {
            annotate(key, values.join(", "));
        }
        denied.map_or(Ok(()), Err)
    }
}

/// What does not hold, and what failed where failures count; `told` are the annotations of the audit event, which several bindings share.
fn findings(turn: &Turn<'_>, told: &mut BTreeMap<String, Vec<String>>) -> Vec<Finding> {
    let strict = turn.policy.on_failure == OnFailure::Fail;
    match applies(turn) {
        Ok(false) => return Vec::new(),
        Err(why) => return if strict { vec![Finding::failed(why)] } else { Vec::new() },
        Ok(true) => {}
    }
    let activation = turn.activation();
    let mut budget = Budget::default();
    let mut all = Vec::new();
    for (index, v) in turn.policy.validations.iter().enumerate() {
        let failed = |why: &str| Finding { index, ..Finding::failed(format!("expression '{}' resulted in error: {why}", v.expression.text)) };
        let value = match &v.expression.program {
            Ok(p) => p.eval(&activation, &mut budget),
            Err(why) => Err(EvalError::new(why)),
        };
        match value {
            Ok(held) if held.as_bool() == Some(true) => {}
            Ok(_) => all.push(Finding { message: message(turn.policy, v, &activation, &mut budget), reason: v.reason.clone(), index }),
            Err(why) if strict => all.push(failed(&why.to_string())),
            Err(_) => {}
        }
        if budget.remaining == 0 {
            break;
        }
    }
    for (key, e) in &turn.policy.annotations {
        match e.program.as_ref().map_err(Clone::clone).and_then(|p| p.eval(&activation, &mut budget).map_err(|e| e.to_string())) {
            // null: nothing to tell.
            Ok(value) => {
                if let Some(text) = value.as_str().map(str::trim).filter(|t| !t.is_empty()) {
                    let values = told.entry(format!("{}/{key}", turn.policy.name)).or_default();
                    if !values.iter().any(|v| v == text) {
                        values.push(text.to_owned());
                    }
                }
            }
            Err(why) if strict => all.push(Finding::failed(format!("audit annotation '{key}' resulted in error: {why}"))),
            Err(_) => {}
        }
    }
    all
}

/// The words of a validation: its expression's, its own, or what failed.
fn message(policy: &Policy, v: &Validation, activation: &keles_cel::Activation<'_>, budget: &mut Budget) -> String {
    /// Longer messages are not used; upstream's figure.
    const BYTES_MAX: usize = 5 * 1024;
    let made = v.message_expression.as_ref().and_then(|e| {
        let value = e.program.as_ref().map_err(Clone::clone).and_then(|p| p.eval(activation, budget).map_err(|e| e.to_string()));
        match value {
            Ok(value) => value.as_str().map(str::trim).filter(|t| !t.is_empty() && t.len() <= BYTES_MAX && !t.contains('\n')).map(str::to_owned),
            Err(why) => {
                tracing::debug!(policy = policy.name, why, "a message expression failed; the fixed message is used");
                None
            }
        }
    });
    match made {
        Some(text) => text,
        None if !v.message.is_empty() => v.message.clone(),
        None => format!("failed expression: {}", v.expression.text),
    }
}
