//! Delete and deletecollection: preconditions, grace, finalizers of the garbage collector, and the answer.
//!
//! A delete ends in one of three steps ([`Step`]): the object goes at once, it is marked and waits (for its finalizers or its grace), or
//! nothing happens because a deletion is already under way.

use crate::admission::{Ending, Operation};
use crate::cache::Cached;
use crate::call::Answer;
use crate::exchange::Exchange;
use crate::facts;
use crate::options::{DeleteOptions, ListOptions, Propagation};
use crate::read::Filter;
use crate::update::deletion_is_complete;
use crate::write::Refused;
use keles_api::{Object, Status, decode, schema};
use keles_store::Expect;
use serde_json::{Value, json};
use std::sync::Arc;

/// Finalizers that the garbage collector answers to.
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
const DELETE_TRIES: usize = 50;
const OPTIONS_SCHEMA: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";

/// What to do with the object.
enum Step {
    /// Gone at once; answered as it was, or in this last state, with its deletion marked.
    Remove(Option<Object>),
    /// Store this state instead, with its deletion marked.
    Mark(Object),
    /// A deletion is pending; nothing to add.
    Pending,
}

/// How a delete ended.
pub struct Deleted {
    pub object: Arc<Cached>,
    pub gone: bool,
}

impl Exchange<'_> {
    pub async fn delete(mut self) -> Result<Answer, Status> {
        let options = self.delete_options()?;
        self.request.dry_run = options.dry_run;
        let mut warnings = Vec::new();
        let name = self.request.name.clone();
        let deleted = self.delete_one(&name, &options, &mut warnings).await?;
        let cascading = options.propagation == Propagation::Foreground || options.orphan_dependents == Some(false);
        let code = if !deleted.gone && cascading { 202 } else { 200 };
        let as_object = facts::returns_deleted(self.resource.info()) || !deleted.gone;
        let body = if as_object {
            self.view.object(&*self.shown(deleted.object).await?)?
        } else {
            let o = deleted.object.tree();
            Status::success(self.served.group, self.resource.info().plural, o.name(), o.uid()).to_json().into()
        };
        Ok(Answer { code, body, warnings })
    }

    /// DeleteOptions from the body (in any of its apiVersions), else from the query.
    pub fn delete_options(&self) -> Result<DeleteOptions, Status> {
        if self.call.body.is_empty() {
            return DeleteOptions::parse(None, &self.call.query);
        }
        let ty = schema::builtin().get(OPTIONS_SCHEMA).ok_or_else(|| Status::internal("no schema for DeleteOptions"))?;
        let options = decode::decode_options(&self.call.body, self.call.body_format, ty, "DeleteOptions")?;
        DeleteOptions::parse(Some(&options), &self.call.query)
    }

    /// Deletes one object, trying again when somebody else was faster.
    pub async fn delete_one(&self, name: &str, options: &DeleteOptions, w: &mut Vec<String>) -> Result<Deleted, Status> {
        let key = self.resource.key(&self.request.namespace, name);
        self.registry.fresh(None).await?;
        let mut current = self.resource.cache.get(&key).ok_or_else(|| self.resource.absent(&self.served, &key, name))?;
        for _ in 0..DELETE_TRIES {
            match self.delete_once(&key, &current, options, w).await {
                Ok(done) => return Ok(done),
                Err(Refused::Conflict(Some(entry))) => current = self.overtaken(&key, Some(entry))?,
                Err(Refused::Conflict(None)) => return Err(self.resource.not_found(&self.served, name)),
                Err(Refused::Failed(s)) => return Err(s),
            }
        }
        Err(Status::stale(self.served.group, self.resource.info().plural, name))
    }

    async fn delete_once(&self, key: &str, current: &Arc<Cached>, options: &DeleteOptions, w: &mut Vec<String>) -> Result<Deleted, Refused> {
        let old = self.working_tree(current).await.map_err(Refused::Failed)?;
        self.check_delete(&old, current, options).map_err(Refused::Failed)?;
        // An eviction was admitted as such.
        if self.request.subresource.is_empty() {
            self.admit(Operation::Delete, None, Some(&old), w).await.map_err(Refused::Failed)?;
        }
        let step = self.step(&old, options).map_err(Refused::Failed)?;
        let dry = self.request.dry_run;
        match step {
            Step::Pending => Ok(Deleted { object: current.clone(), gone: false }),
            Step::Remove(last) => {
                let object = match last {
                    Some(mut last) => {
                        let shown = self.encode(&mut last).await.map_err(Refused::Failed)?;
                        Arc::new(Cached::new(key, &shown, current.revision, &self.resource.cache.head, "DELETED"))
                    }
                    None => current.clone(),
                };
                if !dry {
                    self.store_delete(key, current.revision).await?;
                    self.ended(Operation::Delete, None, Some(&old), Ending::Gone).await;
                }
                Ok(Deleted { object, gone: true })
            }
            Step::Mark(mut marked) => {
                let stored = self.encode(&mut marked).await.map_err(Refused::Failed)?;
                let revision = if dry { current.revision } else { self.store_put(key, stored.clone(), Expect::Revision(current.revision)).await? };
                let head = &self.resource.cache.head;
                Ok(Deleted { object: Arc::new(Cached::new(key, &stored, revision, head, "MODIFIED")), gone: false })
            }
        }
    }

    fn check_delete(&self, old: &Object, current: &Cached, o: &DeleteOptions) -> Result<(), Status> {
        // Upstream names the kind here, not the resource.
        let conflict = |why: String| Status::conflict(self.resource.group(), self.resource.info().kind, old.name(), why);
        if let Some(uid) = o.uid.as_deref().filter(|u| *u != old.uid()) {
            if facts::checks_uid_itself(self.resource.info()) {
                let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", old.uid());
                return Err(Status::conflict(self.resource.group(), self.resource.info().plural, old.name(), why));
            }
            return Err(conflict(format!(
                "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been deleted and then recreated",
                old.uid()
            )));
        }
        let revision = current.revision.to_string();
        if let Some(rv) = o.resource_version.as_deref().filter(|rv| *rv != revision) {
            return Err(conflict(format!(
                "the ResourceVersion in the precondition ({rv}) does not match the ResourceVersion in record ({revision}). The object might have been modified"
            )));
        }
        Ok(())
    }

    fn step(&self, old: &Object, options: &DeleteOptions) -> Result<Step, Status> {
        let mut new = old.clone();
        let namespace = facts::is_namespace(self.resource.info());
        match self.grace(&mut new, options)? {
            Grace::Pending => return Ok(Step::Pending),
            Grace::Given(seconds) => {
                self.settle_finalizers(&mut new, options);
                return Ok(if seconds == 0 && new.finalizers().is_empty() { Step::Remove(Some(new)) } else { Step::Mark(new) });
            }
            Grace::None => {}
        }
        self.settle_finalizers(&mut new, options);
        if old.deletion_timestamp().is_none() {
            self.resource.kind.prepare_delete(&mut new, &self.request)?;
        }
        if namespace {
            mark(&mut new, &self.request.now);
            new.set_meta("deletionGracePeriodSeconds", Value::Null);
            if let Some(status) = new.root_mut().entry("status").or_insert_with(|| json!({})).as_object_mut() {
                status.insert("phase".into(), "Terminating".into());
            }
            return Ok(if deletion_is_complete(&new, true) { Step::Remove(None) } else { changed(new, old) });
        }
        if new.finalizers().is_empty() {
            return Ok(Step::Remove(None));
        }
        mark(&mut new, &self.request.now);
        Ok(changed(new, old))
    }

    /// Graceful deletion, for kinds that have it: marks the time, or shortens it.
    fn grace(&self, new: &mut Object, options: &DeleteOptions) -> Result<Grace, Status> {
        let Some(default) = self.resource.kind.grace_seconds(new, options.grace_seconds)? else { return Ok(Grace::None) };
        let pending = new.meta("deletionGracePeriodSeconds").as_i64();
        if let Some(marked) = new.deletion_timestamp().map(str::to_owned) {
            let Some(pending) = pending else { return Ok(Grace::None) };
            let Some(asked) = options.grace_seconds.filter(|a| *a < pending) else {
                return Ok(if pending == 0 && new.finalizers().is_empty() { Grace::Given(0) } else { Grace::Pending });
            };
            // Kinds may raise what was asked (a negative value means 1 second).
            let asked = if asked < 0 { 1 } else { asked };
            new.set_meta("deletionTimestamp", plus_seconds(&marked, asked - pending));
            new.set_meta("deletionGracePeriodSeconds", asked);
            return Ok(Grace::Given(asked));
        }
        new.set_meta("deletionTimestamp", plus_seconds(&self.request.now, default));
        new.set_meta("deletionGracePeriodSeconds", default);
        grow(new);
        Ok(Grace::Given(default))
    }

    /// Adds or takes away the garbage collector's finalizers, as the options say.
    fn settle_finalizers(&self, o: &mut Object, options: &DeleteOptions) {
        let had: Vec<String> = o.finalizers().into_iter().map(Into::into).collect();
        let has = |f: &str| had.iter().any(|h| h == f);
        let orphan = match (options.orphan_dependents, options.propagation) {
            (Some(orphan), _) => orphan,
            (None, Propagation::Orphan) => true,
            (None, Propagation::Background | Propagation::Foreground) => false,
            (None, Propagation::Unset) if has(ORPHAN) => true,
            (None, Propagation::Unset) if has(FOREGROUND) => false,
            (None, Propagation::Unset) => facts::orphans_by_default(self.resource.info()),
        };
        let foreground = match (options.orphan_dependents, options.propagation) {
            (Some(_), _) => false,
            (None, Propagation::Foreground) => true,
            (None, Propagation::Background | Propagation::Orphan) => false,
            (None, Propagation::Unset) => has(FOREGROUND) && !has(ORPHAN),
        };
        let mut now: Vec<String> = had.iter().filter(|f| *f != ORPHAN && *f != FOREGROUND).cloned().collect();
        if orphan {
            now.push(ORPHAN.into());
        }
        if foreground {
            now.push(FOREGROUND.into());
        }
        let same = now.len() == had.len() && now.iter().all(|f| had.contains(f));
        if !same {
            o.set_meta("finalizers", if now.is_empty() { Value::Null } else { json!(now) });
        }
    }

    pub async fn delete_collection(mut self) -> Result<Answer, Status> {
        let options = self.delete_options()?;
        let list = ListOptions::parse(&self.call.query, false)?;
        let filter = Filter::new(&self, &list)?;
        let (items, meta) = self.page(&list, &filter).await?;
        self.request.dry_run = options.dry_run;
        let mut warnings = Vec::new();
        let mut shown = Vec::with_capacity(items.len());
        for item in items {
            self.request.name = item.name().to_owned();
            match self.delete_one(item.name(), &options, &mut warnings).await {
                Ok(_) => {}
                Err(s) if s.reason == "NotFound" => {}
                Err(s) => return Err(s),
            }
            shown.push(item);
        }
        let mut answer = self.view.list(shown, &meta)?;
        answer.warnings = warnings;
        Ok(answer)
    }
}

enum Grace {
    /// The kind knows none.
    None,
    /// Marked to go in so many seconds.
    Given(i64),
    Pending,
}

fn changed(new: Object, old: &Object) -> Step {
    if new == *old { Step::Pending } else { Step::Mark(new) }
}

/// Marks an object that its finalizers hold back.
fn mark(o: &mut Object, now: &str) {
    if o.meta("deletionTimestamp").is_null() {
        o.set_meta("deletionTimestamp", now);
        grow(o);
    }
    o.set_meta("deletionGracePeriodSeconds", 0);
}

/// The deletion mark counts as a change of what is wanted.
fn grow(o: &mut Object) {
    if o.generation() > 0 {
        o.set_meta("generation", o.generation() + 1);
    }
}

fn plus_seconds(time: &str, seconds: i64) -> String {
    match time.parse::<jiff::Timestamp>() {
        Ok(t) => (t + jiff::SignedDuration::from_secs(seconds)).strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        Err(_) => time.to_owned(),
    }
}
