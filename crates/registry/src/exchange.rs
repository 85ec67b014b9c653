//! One request on its way through a pipeline: what it is about, and the steps that several pipelines share.

use crate::admission::{Admission, Attributes, Ending, Operation, Taken};
use crate::call::{Answer, Call, Verb};
use crate::kind::{NameRule, Request, Scope, Served};
use crate::metrics;
use crate::registry::Registry;
use crate::represent::View;
use crate::resource::{Resource, api_version};
use crate::update::Part;
use crate::versions::Conversions;
use keles_api::decode::FieldValidation;
use keles_api::problems::go_quote;
use keles_api::{Object, Status, names};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub struct Exchange<'a> {
    pub registry: &'a Registry,
    pub resource: Arc<Resource>,
    /// The version the client speaks.
    pub served: Served,
    /// The version in which rules and admission see objects: the storage version, but of custom resources the client's.
    pub working: Served,
    pub view: View,
    pub call: &'a Call,
    pub request: Request,
    /// Warnings that reach the client whatever becomes of the request.
    pub heard: Heard,
    /// The object comes from an apply, which settled its owners.
    pub applied: bool,
    /// What admission took for the attempt under way.
    pub taken: Taken,
    pub conversions: Conversions,
}

/// Warnings found so far, shared by the steps of a request.
#[derive(Clone, Default)]
pub struct Heard(Arc<Mutex<Vec<String>>>);

impl Heard {
    pub fn warn(&self, text: impl Into<String>) {
        let (text, mut all) = (text.into(), self.0.lock().expect("no holder panics"));
        // More than there are characters to show are not kept.
        if all.len() < WARNINGS_CHARS_MAX && !all.contains(&text) {
            all.push(text);
        }
    }
    /// Adds them to an answer; a refusal becomes an answer when there are any.
    pub fn join(self, answered: Result<Answer, Status>) -> Result<Answer, Status> {
        if let Ok(a) = &answered {
            a.warnings.iter().for_each(|w| self.warn(w.as_str()));
        }
        let warnings = within_bounds(std::mem::take(&mut *self.0.lock().expect("no holder panics")));
        match answered {
            Err(s) if warnings.is_empty() => Err(s),
            Err(s) => Ok(Answer { warnings, ..Answer::status(&s) }),
            Ok(a) => Ok(Answer { warnings, ..a }),
        }
    }
}

/// Characters of all warnings of an answer, beyond which each is cut to [`WARNING_CHARS_MAX`]; upstream's limits.
const WARNINGS_CHARS_MAX: usize = 4096;
const WARNING_CHARS_MAX: usize = 256;

/// Warnings as upstream sends them: all, or where they are too many the first ones, each cut. They are headers, of which there may not be
/// any number.
fn within_bounds(all: Vec<String>) -> Vec<String> {
    let chars = |t: &String| t.chars().count();
    if all.iter().map(chars).sum::<usize>() <= WARNINGS_CHARS_MAX {
        return all;
    }
    let mut written = 0;
    let cut = |t: String| t.chars().take(WARNING_CHARS_MAX).collect::<String>();
    let fits = |t: &String| {
        let room = written < WARNINGS_CHARS_MAX;
        written += chars(t);
        room
    };
    all.into_iter().map(cut).take_while(fits).collect()
}

/// How long it is since `started`, which becomes now: the end of one plugin is the start of the next.
fn lap(started: &mut Instant) -> Duration {
    let now = Instant::now();
    now - std::mem::replace(started, now)
}

fn not_allowed() -> Status {
    Status::failure(405, "MethodNotAllowed", "the server does not allow this method on the requested resource").with_details(Default::default())
}

impl Exchange<'_> {
    pub async fn serve(self, verb: Verb) -> Result<Answer, Status> {
        let heard = self.heard.clone();
        heard.join(self.dispatch(verb).await)
    }

    async fn dispatch(self, verb: Verb) -> Result<Answer, Status> {
        self.served_here(verb)?;
        let name = self.request.name.as_str();
        let bad = names::path_segment(name, false);
        if !name.is_empty() && !bad.is_empty() {
            return Err(Status::bad_request(format!("Name parameter invalid: {}: {}", go_quote(name), bad.join(";"))));
        }
        match (self.request.subresource.as_str(), verb) {
            ("", Verb::Get) | ("status", Verb::Get) => self.get().await,
            ("", Verb::List) => self.list().await,
            ("", Verb::Watch) => self.watch().await,
            ("", Verb::Create) => self.create().await,
            ("", Verb::Update) => self.put(Part::Main).await,
            ("", Verb::Patch) => self.patch(Part::Main).await,
            ("", Verb::Delete) => self.delete().await,
            ("", Verb::DeleteCollection) => self.delete_collection().await,
            ("status", Verb::Update) => self.put(Part::Status).await,
            ("status", Verb::Patch) => self.patch(Part::Status).await,
            ("finalize", Verb::Update) => self.put(Part::Finalize).await,
            ("scale", Verb::Get) => self.scale_get().await,
            ("scale", Verb::Update) => self.scale_put().await,
            ("scale", Verb::Patch) => self.scale_patch().await,
            ("binding", Verb::Create) => self.bind().await,
            ("eviction", Verb::Create) => self.evict().await,
            (sub @ ("status" | "finalize" | "scale" | "binding" | "eviction"), _) => {
                tracing::debug!(sub, "verb not served");
                Err(not_allowed())
            }
            (sub, verb) if self.resource.kind.pieces().contains(&sub) => match verb {
                Verb::Get => self.get().await,
                Verb::Update => self.put(Part::Piece).await,
                Verb::Patch => self.patch(Part::Piece).await,
                _ => Err(not_allowed()),
            },
            (sub, _) => Err(Status::not_implemented(&format!("{}/{sub}", self.resource.info().plural))),
        }
    }

    fn served_here(&self, verb: Verb) -> Result<(), Status> {
        let info = self.resource.info();
        let sub = self.request.subresource.as_str();
        if !sub.is_empty() {
            return if info.subresources.iter().any(|s| s.name == sub) && self.resource.kind.has_subresource(&self.served, sub) { Ok(()) } else { Err(Status::no_such_path()) };
        }
        let name = match verb {
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Watch => "watch",
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Patch => "patch",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
        };
        let homeless = info.scope == Scope::Namespaced && self.request.namespace.is_empty() && !matches!(verb, Verb::List | Verb::Watch);
        if !info.verbs.contains(&name) || homeless { Err(not_allowed()) } else { Ok(()) }
    }

    /// The body as an object of the client's version, with its defaults; and what was found in it.
    pub fn decode(&self, validation: FieldValidation) -> Result<(Object, Vec<String>), Status> {
        let kind = self.resource.info().kind;
        let d = self.resource.kind.decode(&self.served, &self.call.body, self.call.body_format, validation)?;
        let mut o = d.object;
        d.warnings.iter().for_each(|w| self.heard.warn(w.as_str()));
        self.check_type(&o)?;
        o.set_type(&api_version(&self.served), kind);
        Ok((o, d.warnings))
    }

    fn check_type(&self, o: &Object) -> Result<(), Status> {
        let (expected, kind) = (api_version(&self.served), self.resource.info().kind);
        if !o.api_version().is_empty() && o.api_version() != expected {
            return Err(Status::bad_request(format!("the API version in the data ({}) does not match the expected API version ({expected})", o.api_version())));
        }
        if !o.kind().is_empty() && o.kind() != kind {
            let (found, v) = (o.kind(), &self.served.version);
            return Err(Status::bad_request(format!(
                "{found} in version {v:?} cannot be handled as a {kind}: converting ({v}.{found}) to ({}.{kind}): unknown conversion",
                if self.served.group.is_empty() { "core" } else { self.served.group }
            )));
        }
        Ok(())
    }

    /// From the client's version, defaults filled in, to the version worked on.
    pub fn internalize(&self, o: &mut Object) -> Result<(), Status> {
        let (kind, working) = (&self.resource.kind, self.working);
        kind.static_defaults(&self.served, o);
        if self.served != working {
            self.resource.convert(o, &self.served, &working);
            kind.static_defaults(&working, o);
        }
        Ok(())
    }

    /// Names the namespace of the object: the URL's, which it may repeat but not contradict.
    pub fn settle_namespace(&self, o: &mut Object) -> Result<(), Status> {
        let asked = if self.resource.namespaced() { self.request.namespace.as_str() } else { "" };
        if asked.is_empty() || o.namespace().is_empty() || o.namespace() == asked {
            o.set_meta("namespace", asked);
            return Ok(());
        }
        Err(Status::bad_request("the namespace of the provided object does not match the namespace sent on the request"))
    }

    pub fn name_check(&self) -> keles_api::meta::NameCheck {
        match self.resource.info().name_rule {
            NameRule::DnsSubdomain => names::dns_subdomain,
            NameRule::DnsLabel => names::dns_label,
            NameRule::Dns1035Label => names::dns1035_label,
            NameRule::PathSegment => names::path_segment,
            NameRule::Own => |_, _| Vec::new(),
        }
    }

    fn attributes<'b>(&'b self, operation: Operation, old: Option<&'b Object>) -> Attributes<'b> {
        Attributes { operation, request: &self.request, info: self.resource.info(), old, registry: self.registry, taken: &self.taken }
    }

    /// The plugins that care about this request.
    fn plugins<'b>(&'b self, a: &'b Attributes<'b>) -> impl Iterator<Item = &'b Arc<dyn Admission>> {
        self.registry.admission().iter().filter(|p| p.handles(a))
    }

    /// Runs the mutating phase on an object that has its defaults; it has them after it too.
    pub async fn mutate(&self, operation: Operation, o: &mut Object, old: Option<&Object>, w: &mut Vec<String>) -> Result<(), Status> {
        let a = self.attributes(operation, old);
        let leaves_defaults = self.plugins(&a).any(|p| p.leaves_defaults());
        let step = Instant::now();
        let mut started = step;
        for p in self.plugins(&a) {
            let done = p.mutate(&a, o, w).await;
            let (operation, rejected) = (metrics::operation(operation), metrics::rejected(&done));
            if p.mutates() {
                metrics::PLUGIN_SECONDS.with([p.name(), operation, rejected, "admit"]).observe_seconds(lap(&mut started));
            }
            if done.is_err() {
                metrics::STEP_SECONDS.with([operation, rejected, "admit"]).observe_seconds(step.elapsed());
            }
            done?;
        }
        metrics::STEP_SECONDS.with([metrics::operation(operation), "false", "admit"]).observe_seconds(step.elapsed());
        if leaves_defaults {
            self.resource.kind.readmit(&self.working, o);
            self.resource.kind.set_defaults(o)?;
        }
        Ok(())
    }

    /// Tells the plugins that keep books how an attempt ended.
    pub async fn ended(&self, operation: Operation, o: Option<&Object>, old: Option<&Object>, ending: Ending) {
        let a = self.attributes(operation, old);
        for p in self.plugins(&a).filter(|p| p.keeps_books()) {
            p.ended(&a, o, ending).await;
        }
    }

    /// Runs the validating phase.
    pub async fn admit(&self, operation: Operation, o: Option<&Object>, old: Option<&Object>, w: &mut Vec<String>) -> Result<(), Status> {
        let a = self.attributes(operation, old);
        let step = Instant::now();
        let (mut done, mut started) = (Ok(()), step);
        for p in self.plugins(&a) {
            done = p.validate(&a, o, w).await;
            metrics::PLUGIN_SECONDS.with([p.name(), metrics::operation(operation), metrics::rejected(&done), "validate"]).observe_seconds(lap(&mut started));
            if done.is_err() {
                break;
            }
        }
        metrics::STEP_SECONDS.with([metrics::operation(operation), metrics::rejected(&done), "validate"]).observe_seconds(step.elapsed());
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_as_many_as_upstream_sends() {
        let few: Vec<String> = (0..10).map(|i| format!("{i}{}", "x".repeat(300))).collect();
        assert_eq!(within_bounds(few.clone()), few);
        let many = within_bounds((0..100_000).map(|i| format!("{i:06}{}", "é".repeat(300))).collect());
        assert_eq!(many.len(), WARNINGS_CHARS_MAX / WARNING_CHARS_MAX);
        assert!(many.iter().all(|t| t.chars().count() == WARNING_CHARS_MAX));
    }
}
