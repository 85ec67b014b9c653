//! MutatingAdmissionWebhook and ValidatingAdmissionWebhook: requests are shown to servers that configurations name (admission.k8s.io/v1).
//!
//! Mutating hooks run one after the other by name, and those that ask for it once more when a later one changed the object; validating hooks
//! run at the same time, and any denial stands. Deliberately absent: v1beta1 reviews, which v1.36 does not send.

mod call;
mod config;
mod notes;

pub use config::Client;

use super::Later;
use super::dynamic::conditions::{Asks, Scene, Verdict, about};
use super::dynamic::rules::is_exempt;
use super::dynamic::{OnFailure, subject};
use crate::metrics;
use async_trait::async_trait;
use call::Reply;
use config::{Configs, Hook};
use keles_api::{Object, Status};
use keles_observe::current;
use keles_observe::trace::{self, Kind};
use keles_registry::annotations::annotate;
use keles_registry::{Admission, Attributes, Operation, Served};
use notes::Place;
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub struct MutatingWebhooks {
    configs: Configs,
    server: Later,
}

pub struct ValidatingWebhooks {
    configs: Configs,
    server: Later,
}

impl MutatingWebhooks {
    pub fn new(server: Later) -> Self {
        MutatingWebhooks { configs: Configs::new("mutatingwebhookconfigurations"), server }
    }
}

impl ValidatingWebhooks {
    pub fn new(server: Later) -> Self {
        ValidatingWebhooks { configs: Configs::new("validatingwebhookconfigurations"), server }
    }
}

/// The namespace of a request: the object itself when that is what is written.
fn namespace(a: &Attributes<'_>, object: Option<&Object>) -> Option<Arc<Object>> {
    if a.info.plural == "namespaces" && a.info.served[0].group.is_empty() {
        return object.or(a.old).cloned().map(Arc::new);
    }
    (!a.request.namespace.is_empty()).then(|| a.registry.read("", "namespaces", "", &a.request.namespace)).flatten()
}

/// A hook that wants the request, and the version it wants it in.
struct Wanted {
    hook: Arc<Hook>,
    version: Served,
}

/// What is the same for all hooks of a request.
struct Stage<'a> {
    a: &'a Attributes<'a>,
    server: &'a Later,
    namespace: Option<Arc<Object>>,
    /// As metrics name it: `admit` or `validating`.
    kind: &'static str,
}

impl Stage<'_> {
    /// Counts a call, and takes its time off that of the request.
    fn count(&self, hook: &Hook, said: &Result<Reply, String>, took: Duration) {
        current::waited(took);
        let operation = match self.a.operation {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        };
        let ignored = said.is_err() && hook.on_failure != OnFailure::Fail;
        let denied = said.as_ref().ok().and_then(|r| r.denied.as_ref());
        let rejected = if denied.is_some() || said.is_err() && !ignored { "true" } else { "false" };
        let code = match (said, denied) {
            (Err(_), _) => 0,
            (_, Some(s)) => s.code,
            _ => 200,
        };
        metrics::WEBHOOK_SECONDS_TAKEN.with([&hook.name, operation, rejected, self.kind]).observe_seconds(took);
        metrics::WEBHOOK_REQUESTS.with([&code.to_string(), &hook.name, operation, rejected, self.kind]).increment();
        if ignored {
            metrics::WEBHOOK_FAIL_OPEN.with([&hook.name, self.kind]).increment();
        }
    }

    /// Whether the hook wants the object as it is now. `Err` refuses the request.
    fn wanted(&self, hook: &Arc<Hook>, object: Option<&Object>) -> Result<Option<Wanted>, Status> {
        let Some(version) = hook.matching.version(self.a).filter(|_| hook.matching.selects(self.a, object, self.namespace.as_deref())) else { return Ok(None) };
        let wanted = Some(Wanted { hook: hook.clone(), version });
        if hook.conditions.is_empty() {
            return Ok(wanted);
        }
        let (shown, old) = (self.shown(object, &version), self.shown(self.a.old, &version));
        let request = subject::request(self.a, &version);
        let namespace = Value::Null;
        let asks = Asks::new(self.server, &self.a.request.user);
        match hook.conditions.verdict(&Scene { object: &shown, old_object: &old, request: &request, namespace: &namespace, about: about(self.a) }.activation(&asks)) {
            Verdict::Matches => Ok(wanted),
            Verdict::Leaves => Ok(None),
            Verdict::Failed(why) if hook.on_failure == OnFailure::Fail => Err(Status::forbidden(&self.a.request.group, &self.a.request.plural, &self.a.request.name, why)),
            Verdict::Failed(why) => {
                tracing::warn!(webhook = hook.name, why, "a match condition failed; the webhook is left out, as its failure policy says");
                Ok(None)
            }
        }
    }

    fn shown(&self, o: Option<&Object>, version: &Served) -> Value {
        o.map_or(Value::Null, |o| subject::in_version(self.a, o, version).0)
    }

    /// Calls a hook; `None` when it failed and its policy is to go on.
    async fn call(&self, w: &Wanted, at: Place, object: Option<&Object>, warnings: &mut Vec<String>) -> Result<Option<Reply>, Status> {
        let hook = &w.hook;
        if self.a.request.dry_run && !hook.dry_runs {
            return Err(Status::bad_request(format!("admission webhook {:?} does not support dry run", hook.name)));
        }
        let mut request = subject::request(self.a, &w.version);
        request["object"] = self.shown(object, &w.version);
        request["oldObject"] = self.shown(self.a.old, &w.version);
        let mut span = trace::child(|| format!("Call {} webhook", if self.kind == "admit" { "mutating" } else { "validating" }), Kind::Client);
        if let Some(s) = &mut span {
            s.attribute("webhook", hook.name.as_str());
            s.attribute("resource", self.a.request.plural.as_str());
        }
        let started = Instant::now();
        let said = call::review(self.a, hook, request).await;
        self.count(hook, &said, started.elapsed());
        drop(span);
        match said {
            Ok(reply) => {
                warnings.extend(reply.warnings.iter().cloned());
                reply.notes.iter().for_each(|(key, value)| annotate(format!("{}/{key}", hook.name), value.clone()));
                match &reply.denied {
                    Some(s) => Err(s.clone()),
                    None => Ok(Some(reply)),
                }
            }
            Err(why) => {
                let said = format!("failed calling webhook {:?}: {why}", hook.name);
                if hook.on_failure == OnFailure::Fail {
                    return Err(Status::internal(said));
                }
                tracing::warn!(webhook = hook.name, why, "the webhook is left out, as its failure policy says");
                notes::failed_open(hook, if self.kind == "admit" { "mutation" } else { "validating" }, at);
                Ok(None)
            }
        }
    }
}

#[async_trait]
impl Admission for MutatingWebhooks {
    fn name(&self) -> &'static str {
        "MutatingAdmissionWebhook"
    }
    fn handles(&self, a: &Attributes<'_>) -> bool {
        !is_exempt(a) && self.configs.all(a.registry).iter().any(|h| h.matching.version(a).is_some())
    }
    fn mutates(&self) -> bool {
        true
    }
    fn leaves_defaults(&self) -> bool {
        true
    }
    async fn mutate(&self, a: &Attributes<'_>, o: &mut Object, warnings: &mut Vec<String>) -> Result<(), Status> {
        let hooks = self.configs.all(a.registry);
        // Where the last change was made, as an index into the hooks: those before it that ask for it are called once more.
        let mut last_change = None;
        let mut called_before = vec![false; hooks.len()];
        for round in 0..2 {
            for (i, hook) in hooks.iter().enumerate() {
                let again = round == 1;
                if again && (!hook.reinvokes || !called_before[i] || last_change.is_none_or(|last| last <= i)) {
                    continue;
                }
                let stage = Stage { a, server: &self.server, namespace: namespace(a, Some(o)), kind: "admit" };
                let Some(wanted) = stage.wanted(hook, Some(o))? else { continue };
                called_before[i] = true;
                let at = Place { round, index: i };
                let called = stage.call(&wanted, at, Some(o), warnings).await;
                let Ok(Some(Reply { patch: Some(patch), .. })) = called else {
                    notes::mutation(hook, at, false);
                    called?;
                    continue;
                };
                let shown = subject::in_version(a, o, &wanted.version);
                let changed =
                    keles_patch::json_patch(&shown.0, &patch).map_err(|e| Status::internal(format!("failed calling webhook {:?}: {}", hook.name, e.to_status().message)))?;
                notes::mutation(hook, at, changed != shown.0);
                notes::patch(hook, at, &patch);
                if changed != shown.0 {
                    let fitted = fit(a, Object(changed), &wanted.version)?;
                    *o = subject::to_storage(a, &fitted, &wanted.version);
                    last_change = Some(i);
                }
            }
        }
        Ok(())
    }
    /// Requests without an object to change are only asked about.
    async fn validate(&self, a: &Attributes<'_>, o: Option<&Object>, warnings: &mut Vec<String>) -> Result<(), Status> {
        if !matches!(a.operation, Operation::Delete | Operation::Connect) {
            return Ok(());
        }
        let stage = Stage { a, server: &self.server, namespace: namespace(a, o), kind: "admit" };
        for (index, hook) in self.configs.all(a.registry).iter().enumerate() {
            if let Some(w) = stage.wanted(hook, o)? {
                let at = Place { round: 0, index };
                let called = stage.call(&w, at, o, warnings).await;
                notes::mutation(hook, at, false);
                called?;
            }
        }
        Ok(())
    }
}

/// A patched object must still be of its type, and fields that its schema does not know are dropped.
fn fit(a: &Attributes<'_>, o: Object, version: &Served) -> Result<Object, Status> {
    let Some(ty) = a.registry.kind(version.group, version.version, a.info.plural) else { return Ok(o) };
    let Some(schema) = ty.schema(version) else { return Ok(o) };
    keles_api::decode::conform(o.0, schema, keles_api::decode::FieldValidation::Ignore).map(|d| d.object).map_err(|e| Status::internal(e))
}

#[async_trait]
impl Admission for ValidatingWebhooks {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionWebhook"
    }
    fn handles(&self, a: &Attributes<'_>) -> bool {
        !is_exempt(a) && self.configs.all(a.registry).iter().any(|h| h.matching.version(a).is_some())
    }
    async fn validate(&self, a: &Attributes<'_>, o: Option<&Object>, warnings: &mut Vec<String>) -> Result<(), Status> {
        let stage = Stage { a, server: &self.server, namespace: namespace(a, o), kind: "validating" };
        let mut wanted = Vec::new();
        for hook in self.configs.all(a.registry).iter() {
            wanted.extend(stage.wanted(hook, o)?);
        }
        let calls = wanted.iter().enumerate().map(|(index, w)| {
            let stage = &stage;
            async move {
                let mut said = Vec::new();
                (stage.call(w, Place { round: 0, index }, o, &mut said).await, said)
            }
        });
        let mut refused = None;
        for (answer, said) in futures::future::join_all(calls).await {
            warnings.extend(said);
            if let (Err(s), None) = (answer, &refused) {
                refused = Some(s);
            }
        }
        refused.map_or(Ok(()), Err)
    }
}
