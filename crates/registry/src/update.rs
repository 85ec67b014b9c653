//! Update: of the main resource, of its status, of a namespace's finalizers. PATCH and scale end here too.
//!
//! [`Exchange::modify`] is the one loop of read, change, check, compare-and-swap.

use crate::admission::{Ending, Operation};
use crate::cache::Cached;
use crate::call::Answer;
use crate::exchange::Exchange;
use crate::facts;
use crate::kind::GenerationKept;
use crate::managed_fields::keep_times;
use crate::options::WriteOptions;
use crate::write::{Outcome, Refused, shrinks};
use keles_api::problems::ProblemKind;
use keles_api::{Object, Path, Problem, Problems, Status, meta, names};
use keles_store::Expect;
use serde_json::Value;
use std::sync::Arc;

/// How often a write is tried again when somebody else was faster.
const MODIFY_TRIES: usize = 50;

/// Which part of an object a request may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Main,
    Status,
    /// `spec.finalizers` of a namespace.
    Finalize,
    /// What a subresource of the kind's own writes, see [`crate::Kind::PIECES`].
    Piece,
    /// Server-made changes of a subresource (binding, eviction, deletion marks): checked by their pipeline.
    Own,
}

/// Makes the new state from the old one, both in the version worked on. May be called again for the same state.
pub type Make<'m> = dyn FnMut(&Object) -> Result<Object, Status> + Send + 'm;

impl Exchange<'_> {
    pub async fn put(mut self, part: Part) -> Result<Answer, Status> {
        let options = WriteOptions::parse(&self.call.query, "UpdateOptions")?;
        let (mut o, mut warnings) = self.decode(options.field_validation)?;
        self.check_name(&o)?;
        self.request.dry_run = options.dry_run;
        self.request.field_manager = options.field_manager.clone();
        if self.resource.info().create_on_update && part == Part::Main && !self.exists().await? {
            self.request.upsert = true;
            return self.create_object(o, &options, warnings).await;
        }
        self.settle_namespace(&mut o)?;
        self.internalize(&mut o)?;
        let key = self.own_key();
        let outcome = self.modify(part, &mut warnings, &mut |_| Ok(o.clone())).await?;
        Ok(Answer { code: 200, body: self.outcome(&key, outcome).await?, warnings })
    }

    pub fn own_key(&self) -> String {
        self.resource.key(&self.request.namespace, &self.request.name)
    }

    pub async fn exists(&self) -> Result<bool, Status> {
        self.registry.fresh(None).await?;
        let key = self.own_key();
        match self.resource.cache.unreadable.status(&key) {
            Some(s) => Err(s),
            None => Ok(self.resource.cache.get(&key).is_some()),
        }
    }

    /// The object's name and namespace must be those of the URL.
    pub fn check_name(&self, o: &Object) -> Result<(), Status> {
        let (name, namespace) = (&self.request.name, &self.request.namespace);
        if o.name().is_empty() {
            return Err(Status::bad_request(format!("the name of the object ({name} based on URL) was undeterminable: name must be provided")));
        }
        if o.name() != name {
            return Err(Status::bad_request(format!("the name of the object ({}) does not match the name on the URL ({name})", o.name())));
        }
        if self.resource.namespaced() && !o.namespace().is_empty() && o.namespace() != namespace {
            return Err(Status::bad_request(format!("the namespace of the object ({}) does not match the namespace on the URL ({namespace})", o.namespace())));
        }
        Ok(())
    }

    /// Reads, changes and stores until nobody else was faster. The resourceVersion in what `make` makes decides whether a newer state is a
    /// conflict: a PUT keeps the client's, a patch that names none takes over the state's own.
    pub async fn modify(&self, part: Part, warnings: &mut Vec<String>, make: &mut Make<'_>) -> Result<Outcome, Status> {
        let key = self.own_key();
        let mut current = self.current(&key).await?;
        for _ in 0..MODIFY_TRIES {
            let mut w = Vec::new();
            match self.modify_once(&key, &current, part, &mut w, make).await {
                Ok(outcome) => {
                    w.into_iter().for_each(|t| {
                        if !warnings.contains(&t) {
                            warnings.push(t)
                        }
                    });
                    return Ok(outcome);
                }
                Err(Refused::Conflict(entry)) => current = self.overtaken(&key, entry)?,
                Err(Refused::Failed(s)) => return Err(s),
            }
        }
        Err(Status::stale(self.served.group, self.resource.info().plural, &self.request.name))
    }

    async fn modify_once(&self, key: &str, current: &Arc<Cached>, part: Part, w: &mut Vec<String>, make: &mut Make<'_>) -> Result<Outcome, Refused> {
        let old = self.working_tree(current).await.map_err(Refused::Failed)?;
        let mut new = self.with_conversions(|| make(&old)).await.map_err(Refused::Failed)?;
        let written = self.modify_attempt(key, current, part, w, &old, &mut new).await;
        let ending = match &written {
            Ok(Outcome::Wrote(..)) if !self.request.dry_run && deletion_is_complete(&new, self.is_namespace()) => Ending::Gone,
            Ok(Outcome::Wrote(..)) if !self.request.dry_run => Ending::Stored,
            Err(Refused::Failed(s)) => Ending::of_failure(s),
            _ => Ending::Nothing,
        };
        self.ended(Operation::Update, Some(&new), Some(&old), ending).await;
        if let Ok(outcome) = &written {
            self.keep_tree(key, outcome, new);
        }
        written
    }

    async fn modify_attempt(&self, key: &str, current: &Arc<Cached>, part: Part, w: &mut Vec<String>, old: &Object, new: &mut Object) -> Result<Outcome, Refused> {
        self.settle(new, old, current, part, w).await.map_err(Refused::Failed)?;
        keep_times(new, old);
        let stored = self.lay_out(new).await.map_err(Refused::Failed)?;
        if current.is_stored_as(&stored, &self.resource.cache.head) && !self.registry.store().stale(&self.resource.store_key(key)) {
            return Ok(Outcome::Same(current.clone()));
        }
        if self.request.dry_run {
            return Ok(Outcome::Wrote(stored, current.revision));
        }
        if deletion_is_complete(new, self.is_namespace()) {
            self.store_delete(key, current.revision).await?;
            return Ok(Outcome::Wrote(stored, current.revision));
        }
        let expect = Expect::Revision(current.revision);
        match self.store_put(key, stored.clone(), expect).await {
            Err(Refused::Failed(s)) if shrinks(&s, new) => {
                let stored = self.lay_out(new).await.map_err(Refused::Failed)?;
                let revision = self.store_put(key, stored.clone(), expect).await?;
                Ok(Outcome::Wrote(stored, revision))
            }
            written => Ok(Outcome::Wrote(stored, written?)),
        }
    }

    fn is_namespace(&self) -> bool {
        facts::is_namespace(self.resource.info())
    }

    /// Admission, preconditions, preparation and validation of a new state.
    async fn settle(&self, new: &mut Object, old: &Object, current: &Cached, part: Part, w: &mut Vec<String>) -> Result<(), Status> {
        if part == Part::Piece {
            self.take_piece(new, old)?;
        }
        if part != Part::Own {
            self.resource.kind.set_defaults(new)?;
            self.track(new, Some(old)).await?;
            self.mutate(Operation::Update, new, Some(old), w).await?;
            self.check_preconditions(new, old, current)?;
        }
        self.take_over(new, old, part);
        let (mut found, mut rules) = (Problems::new(), Problems::new());
        let kind = &self.resource.kind;
        match part {
            Part::Main => kind.update(new, old, &self.request, &mut rules, w)?,
            Part::Status => {
                kind.update_status(new, old, &self.request, &mut rules)?;
                kind.status_warnings(new, old, w)?;
            }
            Part::Piece => kind.validate_piece(new, old, &self.request.subresource, &mut rules)?,
            Part::Finalize => kind.validate(new, &mut rules)?,
            Part::Own => {}
        }
        let info = self.resource.info();
        // What rules and defaults wrote is not a change where Go would write the same.
        self.resource.kind.canonicalise(&self.working, new);
        let grows = info.generation && info.generation_kept != GenerationKept::OnCreate && matches!(part, Part::Main | Part::Piece) && differs(new, old);
        if grows {
            new.set_meta("generation", old.generation() + 1);
        }
        if part != Part::Own {
            self.check_metadata(new, old, part, &mut found);
        }
        rules.into_vec().into_iter().for_each(|p| found.push(p));
        if !found.is_empty() {
            return Err(Status::invalid(self.resource.group(), self.resource.info().kind, new.name(), &found));
        }
        w.iter().for_each(|w| self.heard.warn(w.as_str()));
        if part != Part::Own {
            self.admit(Operation::Update, Some(new), Some(old), w).await?;
        }
        Ok(())
    }

    /// Upstream checks metadata for every kind (whole, then against the old one), and most kinds' own rules do so again: a problem is told as often.
    fn check_metadata(&self, new: &Object, old: &Object, part: Part, found: &mut Problems) {
        let (kind, at) = (&self.resource.kind, Path::new("metadata"));
        let checks = kind.metadata_checks(&self.request);
        let checks = if part == Part::Status { checks.status } else { checks.update };
        let whole = |name: meta::NameCheck, p: &mut Problems| meta::validate_create_with(new, self.resource.namespaced(), name, facts::finalizers(&**kind), &at, p);
        whole(names::path_segment, found);
        let mut against = Problems::new();
        meta::validate_update(new, old, &at, &mut against);
        for n in 1..checks {
            match n {
                1 | 2 => against.iter().for_each(|p| found.push(p.clone())),
                _ => whole(self.name_check(), found),
            }
        }
    }

    /// Leaves of a new state only what the subresource may write; what the client said of identity and owners stays.
    fn take_piece(&self, new: &mut Object, old: &Object) -> Result<(), Status> {
        let said = ["resourceVersion", "uid", "managedFields"].map(|f| (f, new.meta(f).clone()));
        self.resource.kind.set_defaults(new)?;
        crate::gates::take_away(new, Some(old), self.resource.kind.gated());
        self.resource.kind.take_piece(new, old, &self.request)?;
        said.into_iter().for_each(|(f, v)| new.set_meta(f, v));
        Ok(())
    }

    /// resourceVersion and uid, where the client names them.
    fn check_preconditions(&self, new: &mut Object, old: &Object, current: &Cached) -> Result<(), Status> {
        let info = self.resource.info();
        match new.resource_version() {
            "" | "0" if info.unconditional_update => {}
            "" | "0" => {
                let mut p = Problems::new();
                // Go prints the number that is missing as 0x0.
                p.push(Problem { kind: ProblemKind::Invalid, field: "metadata.resourceVersion".into(), value: None, detail: "0x0: must be specified for an update".into() });
                return Err(Status::invalid(self.resource.group(), info.kind, new.name(), &p));
            }
            v if v != current.revision.to_string() => return Err(Status::stale(self.served.group, info.plural, &self.request.name)),
            _ => {}
        }
        // Of a patch it is the rules that say so: only whole objects name what they mean to replace.
        if self.call.patch_type.is_none() && !new.uid().is_empty() && new.uid() != old.uid() {
            let key = format!("/registry/{}/{}", info.plural, current.key);
            return Err(Status::conflict(
                self.served.group,
                info.plural,
                &self.request.name,
                format!(
                    "StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {}, UID in object meta: {}",
                    new.uid(),
                    old.uid()
                ),
            ));
        }
        Ok(())
    }

    /// What a client cannot change, or may leave out, comes from the old state.
    fn take_over(&self, new: &mut Object, old: &Object, part: Part) {
        let own = part == Part::Own;
        if new.uid().is_empty() {
            new.set_meta("uid", old.uid());
        }
        if !old.meta("creationTimestamp").is_null() {
            new.set_meta("creationTimestamp", old.meta("creationTimestamp").clone());
        }
        if !own {
            new.set_meta("generation", old.meta("generation").clone());
            if !old.meta("deletionTimestamp").is_null() {
                new.set_meta("deletionTimestamp", old.meta("deletionTimestamp").clone());
            }
            if new.meta("deletionGracePeriodSeconds").is_null() {
                new.set_meta("deletionGracePeriodSeconds", old.meta("deletionGracePeriodSeconds").clone());
            }
        }
        new.set_meta("selfLink", Value::Null);
        new.set_meta("resourceVersion", old.resource_version());
        if part == Part::Main && self.is_namespace() {
            set_spec_finalizers(new, old.at(&["spec", "finalizers"]).clone());
        }
        match part {
            Part::Main if self.resource.has_status() && self.resource.kind.has_subresource(&self.served, crate::kind::STATUS) => copy(old, new, "status"),
            Part::Status => {
                keep_only_status(new, old);
                if facts::status_keeps_metadata(self.resource.info()) {
                    ["labels", "annotations", "finalizers", "ownerReferences"].into_iter().for_each(|f| new.set_meta(f, old.meta(f).clone()));
                }
            }
            Part::Finalize => {
                let (finalizers, owners) = (new.at(&["spec", "finalizers"]).clone(), new.meta("managedFields").clone());
                *new = old.clone();
                set_spec_finalizers(new, finalizers);
                new.set_meta("managedFields", owners);
            }
            _ => {}
        }
    }
}

fn copy(from: &Object, to: &mut Object, field: &str) {
    match from.at(&[field]) {
        Value::Null => {
            to.root_mut().remove(field);
        }
        v => {
            to.root_mut().insert(field.into(), v.clone());
        }
    }
}

/// A status update changes metadata and status, nothing else.
fn keep_only_status(new: &mut Object, old: &Object) {
    let mut kept = old.clone();
    copy(new, &mut kept, "metadata");
    copy(new, &mut kept, "status");
    *new = kept;
}

fn set_spec_finalizers(o: &mut Object, finalizers: Value) {
    let spec = o.root_mut().entry("spec").or_insert_with(|| Value::Object(Default::default()));
    if let Some(spec) = spec.as_object_mut() {
        match finalizers {
            Value::Null => spec.remove("finalizers"),
            v => spec.insert("finalizers".into(), v),
        };
    }
}

/// Whether anything but metadata and status changed: then the generation grows. Both trees are canonical, so a field is there or not for a
/// reason: an empty struct behind a pointer is something else than none.
fn differs(new: &Object, old: &Object) -> bool {
    fn rest(o: &Object) -> impl Iterator<Item = (&String, &Value)> {
        o.root().iter().filter(|(k, v)| !matches!(k.as_str(), "metadata" | "status" | "apiVersion" | "kind") && !v.is_null())
    }
    rest(new).any(|(k, v)| v != old.at(&[k])) || rest(old).any(|(k, _)| new.at(&[k]).is_null())
}

/// Nothing holds a deleted object any more: no finalizer, no grace.
pub fn deletion_is_complete(o: &Object, namespace: bool) -> bool {
    let held_by_content = namespace && o.at(&["spec", "finalizers"]).as_array().is_some_and(|f| !f.is_empty());
    o.deletion_timestamp().is_some() && o.finalizers().is_empty() && o.meta("deletionGracePeriodSeconds").as_i64().unwrap_or(0) == 0 && !held_by_content
}
