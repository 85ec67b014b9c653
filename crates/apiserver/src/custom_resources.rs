//! CustomResourceDefinitions: from an object in the store to a kind that is served, and back.
//!
//! One task follows the definitions and works through all that changed: names are accepted where nobody else has them, the kind is served,
//! then the definition says `Established`, so that whoever sees that can use it. A deleted definition first loses its objects, then its
//! finalizer, then its kind. Level-triggered: every pass looks at states only, and a write that fails is tried again.
//! Source: k8s.io/apiextensions-apiserver/pkg/controller/{status,establish,finalizer,apiapproval}.

use crate::chain::now;
use crate::conversion;
use crate::server::Inner;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use keles_api::{Object, Status};
use keles_auth::User;
use keles_custom::{Condition, Custom, Definition, Names};
use keles_registry::{Call, Follow, Registry, Request as About, Verb};
use keles_store::StoreError;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

const GROUP: &str = "apiextensions.k8s.io";
const PLURAL: &str = "customresourcedefinitions";
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";
const NAMES_ACCEPTED: &str = "NamesAccepted";
const ESTABLISHED: &str = "Established";
const TERMINATING: &str = "Terminating";
const APPROVED: &str = "KubernetesAPIApprovalPolicyConformant";
const APPROVAL: &str = "api-approved.kubernetes.io";
/// How long a failed pass waits for the next.
const RETRY: Duration = Duration::from_secs(1);

/// What is known of a definition that has been worked through.
struct Known {
    revision: u64,
    uid: String,
    group: String,
    generation: i64,
    /// The names it has: nobody else may have them.
    names: Names,
    /// Not all names it wants.
    wanting: bool,
    kind: Option<Custom>,
}

pub struct Controller {
    server: Arc<Inner>,
    changes: Follow,
    known: HashMap<Arc<str>, Known>,
}

/// What a pass waits for besides changes of definitions.
#[derive(Default)]
struct Pending {
    /// Something failed.
    retry: bool,
    /// Resources whose objects still have to go.
    leaving: Vec<(String, String)>,
}

impl Controller {
    /// Serves what was served before the start, so that no client meets a gap.
    pub async fn start(server: Arc<Inner>) -> Result<Controller, StoreError> {
        let changes = Follow::new(&server.registry, &[(GROUP, PLURAL)], RETRY);
        let mut c = Controller { server, changes, known: HashMap::new() };
        for (key, o) in &c.registry().peek_all(GROUP, PLURAL) {
            let Ok(d) = Definition::read(&o.object()) else { continue };
            if d.is_true(ESTABLISHED) {
                let kind = Custom::with_webhook(d.clone(), o.object(), conversion::webhook(&c.server, &d));
                c.registry().add(Arc::new(kind.clone())).await?;
                // Revision 0: the first pass looks at it all the same.
                c.known.insert(key.clone(), Known::new(0, &d, Some(kind)));
            }
        }
        Ok(c)
    }

    fn registry(&self) -> Arc<Registry> {
        self.server.registry.clone()
    }

    pub async fn run(mut self) {
        let stops = self.server.stops.clone();
        loop {
            let pending = self.pass().await;
            let mut leaving: FuturesUnordered<_> =
                pending.leaving.iter().filter_map(|(g, p)| self.registry().subscribe(g, p)).map(|mut r| async move { r.changed().await }).collect();
            tokio::select! {
                () = stops.cancelled() => return,
                more = self.changes.next(pending.retry) => if !more { return },
                Some(_) = leaving.next(), if !leaving.is_empty() => {}
            }
        }
    }

    /// Brings everything in line with the definitions as they are.
    async fn pass(&mut self) -> Pending {
        let all = self.registry().peek_all(GROUP, PLURAL);
        let mut pending = Pending::default();
        self.forget(|key, known| {
            let other = |o: &keles_registry::cache::Cached| known.revision != o.revision && known.uid != Definition::read(&o.object()).map(|d| d.metadata.uid).unwrap_or_default();
            all.get(key).is_none_or(|o| other(o))
        })
        .await;
        for (key, o) in &all {
            if self.known.get(key).is_some_and(|k| k.revision == o.revision) {
                continue;
            }
            let d = match Definition::read(&o.object()) {
                Ok(d) => d,
                Err(error) => {
                    tracing::error!(definition = %key, %error, "a stored definition cannot be read and is not served");
                    continue;
                }
            };
            let done = if d.metadata.deletion_timestamp.is_some() { self.finish(key, &d, &mut pending).await } else { self.settle(key, &d, o).await };
            match done {
                Ok(()) => {}
                Err(status) if status.code == 404 || status.code == 409 => pending.retry = true,
                Err(status) => {
                    tracing::warn!(definition = %key, %status, "a definition could not be worked through; trying again");
                    pending.retry = true;
                }
            }
        }
        pending
    }

    /// Stops serving definitions that are gone; those that waited for their names are looked at again.
    async fn forget(&mut self, gone: impl Fn(&Arc<str>, &Known) -> bool) {
        let keys: Vec<Arc<str>> = self.known.iter().filter(|(key, k)| gone(key, k)).map(|(key, _)| key.clone()).collect();
        for key in keys {
            let Some(k) = self.known.remove(&key) else { continue };
            if k.kind.is_some() {
                self.server.registry.remove(&k.group, &k.names.plural).await;
            }
            self.known.values_mut().filter(|o| o.wanting && o.group == k.group).for_each(|o| o.revision = 0);
        }
    }

    /// Names, kind and conditions of a definition that stays.
    async fn settle(&mut self, key: &Arc<str>, d: &Definition, o: &keles_registry::cache::Cached) -> Result<(), Status> {
        let (names, accepted) = self.names(key, d);
        let established = d.is_true(ESTABLISHED) || accepted.status == "True";
        let mut kind = self.known.get(key).and_then(|k| k.kind.clone());
        if established {
            let known = self.known.get(key).filter(|k| k.kind.is_some() && k.generation == d.metadata.generation && k.names == names);
            match (known, &kind) {
                (Some(_), Some(k)) => k.refresh(o.object()),
                _ => {
                    let mut own = d.clone();
                    own.status.accepted_names = names.clone();
                    let hook = conversion::webhook(&self.server, &own);
                    let new = Custom::with_webhook(own, o.object(), hook);
                    self.server.registry.add(Arc::new(new.clone())).await.map_err(Status::internal)?;
                    kind = Some(new);
                }
            }
        }
        let known = Known { revision: o.revision, names: names.clone(), wanting: accepted.status != "True", kind, ..Known::new(0, d, None) };
        self.known.insert(key.clone(), known);
        let mut wanted = vec![accepted];
        let (reason, message) = ("InitialNamesAccepted", "the initial names have been accepted");
        wanted.push(match d.condition(ESTABLISHED) {
            Some(c) if c.status == "True" => c.clone(),
            _ if established => condition(ESTABLISHED, true, reason, message),
            Some(c) => c.clone(),
            None => condition(ESTABLISHED, false, "NotAccepted", "not all names are accepted"),
        });
        wanted.extend(approval(d));
        if is_described(d, &names, &wanted) {
            return Ok(());
        }
        let mut new = o.tree();
        if self.describe(&mut new, &names, &wanted, d) {
            let written = self.write("status", &new).await;
            if written.is_err()
                && let Some(k) = self.known.get_mut(key)
            {
                k.revision = 0;
            }
            written?;
        }
        Ok(())
    }

    /// Puts names and conditions into the status; false when they are there already.
    fn describe(&self, o: &mut Object, names: &Names, wanted: &[Condition], d: &Definition) -> bool {
        let before = o.at(&["status"]).clone();
        let status = o.root_mut().entry("status").or_insert_with(|| json!({}));
        status["acceptedNames"] = names_json(names);
        for c in wanted {
            set_condition(status, c);
        }
        let stored = d.storage_version().map(|v| v.name.clone()).unwrap_or_default();
        let mut versions: Vec<String> = d.status.stored_versions.clone();
        if !versions.contains(&stored) {
            versions.push(stored);
        }
        status["storedVersions"] = json!(versions);
        *status != before
    }

    /// The names a definition gets, and what there is to say of it.
    fn names(&self, key: &Arc<str>, d: &Definition) -> (Names, Condition) {
        let (asked, had) = (&d.spec.names, &d.status.accepted_names);
        if asked == had {
            return (had.clone(), condition(NAMES_ACCEPTED, true, "NoConflicts", "no conflicts found"));
        }
        let others = || self.known.iter().filter(|(other, k)| *other != key && k.group == d.spec.group).map(|(_, k)| &k.names);
        let resources = |name: &str| others().any(|k| k.plural == name || k.singular == name || k.short_names.iter().any(|s| s == name));
        let kinds = |name: &str| others().any(|k| k.kind == name || k.list_kind == name);
        let mut got = had.clone();
        let mut problem = None;
        let used = |name: &str| format!("{name:?} is already in use");
        let mut one = |asked: &str, had: &str, taken: &dyn Fn(&str) -> bool, reason: &'static str, got: &mut String| {
            if asked != had && taken(asked) {
                problem = Some((reason, used(asked)));
            } else {
                *got = asked.to_owned();
            }
        };
        one(&asked.plural, &had.plural, &resources, "PluralConflict", &mut got.plural);
        one(&asked.singular, &had.singular, &resources, "SingularConflict", &mut got.singular);
        one(&asked.kind, &had.kind, &kinds, "KindConflict", &mut got.kind);
        one(&asked.list_kind, &had.list_kind, &kinds, "ListKindConflict", &mut got.list_kind);
        let taken: Vec<String> = asked.short_names.iter().filter(|s| !had.short_names.contains(s) && resources(s)).map(|s| used(s)).collect();
        match taken.as_slice() {
            [] => got.short_names = asked.short_names.clone(),
            [only] => problem = problem.or(Some(("ShortNamesConflict", only.clone()))),
            many => problem = problem.or(Some(("ShortNamesConflict", format!("[{}]", many.join(", "))))),
        }
        got.categories = asked.categories.clone();
        let accepted = match problem {
            Some((reason, message)) => condition(NAMES_ACCEPTED, false, reason, &message),
            None => condition(NAMES_ACCEPTED, true, "NoConflicts", "no conflicts found"),
        };
        (got, accepted)
    }

    /// The end of a definition: its objects go first.
    async fn finish(&mut self, key: &Arc<str>, d: &Definition, pending: &mut Pending) -> Result<(), Status> {
        if !d.metadata.finalizers.iter().any(|f| f == CLEANUP) {
            return Ok(());
        }
        let Some(o) = self.server.registry.peek(GROUP, PLURAL, "", &d.metadata.name) else { return Ok(()) };
        let names = &d.status.accepted_names;
        let in_progress = condition(TERMINATING, true, "InstanceDeletionInProgress", "CustomResource deletion is in progress");
        if d.condition(TERMINATING).is_none_or(|c| !matches!(c.reason.as_str(), "InstanceDeletionInProgress" | "InstanceDeletionFailed")) {
            let mut new = o.tree();
            set_condition(new.root_mut().entry("status").or_insert_with(|| json!({})), &in_progress);
            // The change brings the next pass.
            return self.write("status", &new).await;
        }
        if d.is_true(ESTABLISHED) {
            if let Some(kind) = self.known.get(key).and_then(|k| k.kind.as_ref()) {
                if !kind.is_terminating() {
                    kind.terminate();
                    self.server.registry.touch_kinds();
                }
                kind.refresh(o.object());
            }
            let who = About { user: own_user(), now: now(), ..About::default() };
            let left = match self.server.registry.purge(&d.spec.group, &names.plural, &who).await {
                Ok(left) => left,
                // Objects that cannot be read (their conversion fails) cannot be deleted: the definition says so and waits.
                Err(s) => {
                    pending.retry = true;
                    let failed = condition(TERMINATING, true, "InstanceDeletionFailed", &format!("could not list instances: {}", s.message));
                    if d.condition(TERMINATING) == Some(&failed) {
                        return Ok(());
                    }
                    let mut new = o.tree();
                    set_condition(new.root_mut().entry("status").or_insert_with(|| json!({})), &failed);
                    return self.write("status", &new).await;
                }
            };
            if left > 0 {
                pending.leaving.push((d.spec.group.clone(), names.plural.clone()));
                return Ok(());
            }
        }
        let mut new = o.tree();
        let kept: Vec<&str> = d.metadata.finalizers.iter().map(String::as_str).filter(|f| *f != CLEANUP).collect();
        new.set_meta("finalizers", if kept.is_empty() { Value::Null } else { json!(kept) });
        self.write("", &new).await
    }

    async fn write(&self, subresource: &str, o: &Object) -> Result<(), Status> {
        let request = About {
            user: own_user(),
            group: GROUP.into(),
            version: "v1".into(),
            plural: PLURAL.into(),
            subresource: subresource.into(),
            name: o.name().into(),
            now: now(),
            ..About::default()
        };
        let body = serde_json::to_vec(o).map_err(Status::internal)?.into();
        self.server.registry.serve(Verb::Update, Call { request, body, user_agent: "kube-apiserver".into(), ..Call::default() }).await.and_then(|a| {
            let refused = serde_json::from_slice::<Status>(&a.body.collect()).ok().filter(|s| a.code >= 400 && s.code >= 400);
            refused.map_or(Ok(()), Err)
        })
    }
}

impl Known {
    fn new(revision: u64, d: &Definition, kind: Option<Custom>) -> Self {
        Known {
            revision,
            uid: d.metadata.uid.clone(),
            group: d.spec.group.clone(),
            generation: d.metadata.generation,
            names: d.status.accepted_names.clone(),
            wanting: false,
            kind,
        }
    }
}

/// Whether the status says all this already; told without making a tree of the definition.
fn is_described(d: &Definition, names: &Names, wanted: &[Condition]) -> bool {
    let stored = d.storage_version().is_none_or(|v| d.status.stored_versions.contains(&v.name));
    stored && d.status.accepted_names == *names && wanted.iter().all(|c| d.condition(&c.kind) == Some(c))
}

fn own_user() -> User {
    User { name: "system:apiserver".into(), groups: vec![keles_auth::MASTERS.into(), keles_auth::AUTHENTICATED.into()], ..User::default() }
}

fn condition(kind: &str, status: bool, reason: &str, message: &str) -> Condition {
    Condition { kind: kind.into(), status: if status { "True" } else { "False" }.into(), reason: reason.into(), message: message.into() }
}

/// Sets a condition; its time changes when its status does.
fn set_condition(status: &mut Value, c: &Condition) {
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    let Some(all) = status["conditions"].as_array_mut() else { return };
    let mut new = json!({"type": c.kind, "status": c.status, "reason": c.reason, "message": c.message});
    match all.iter_mut().find(|o| o["type"] == c.kind.as_str()) {
        Some(old) => {
            let same = old["status"] == c.status.as_str();
            new["lastTransitionTime"] = if same { old["lastTransitionTime"].clone() } else { now().into() };
            if let Some(generation) = old.get("observedGeneration") {
                new["observedGeneration"] = generation.clone();
            }
            *old = new;
        }
        None => {
            new["lastTransitionTime"] = now().into();
            all.push(new);
        }
    }
}

fn names_json(n: &Names) -> Value {
    let mut all: BTreeMap<&str, Value> = BTreeMap::from([("plural", json!(n.plural)), ("kind", json!(n.kind))]);
    for (field, v, there) in [
        ("singular", json!(n.singular), !n.singular.is_empty()),
        ("listKind", json!(n.list_kind), !n.list_kind.is_empty()),
        ("shortNames", json!(n.short_names), !n.short_names.is_empty()),
        ("categories", json!(n.categories), !n.categories.is_empty()),
    ] {
        if there {
            all.insert(field, v);
        }
    }
    json!(all)
}

/// Groups of Kubernetes itself want an approval; others have no such condition.
fn approval(d: &Definition) -> Option<Condition> {
    const SEE: &str = "https://github.com/kubernetes/enhancements/pull/1111";
    let group = d.spec.group.as_str();
    let protected = ["k8s.io", "kubernetes.io"].iter().any(|s| group == *s || group.ends_with(&format!(".{s}")));
    if !protected {
        return None;
    }
    let said = d.metadata.annotations.get(APPROVAL).map(String::as_str).unwrap_or_default();
    Some(match said {
        "" => condition(APPROVED, false, "MissingAnnotation", &format!("protected groups must have approval annotation {APPROVAL:?}, see {SEE}")),
        s if s.starts_with("unapproved") => condition(APPROVED, false, "UnapprovedAnnotation", &format!("not approved: {s:?}")),
        s if s.starts_with("https://") || s.starts_with("http://") => condition(APPROVED, true, "ApprovedAnnotation", &format!("approved in {s}")),
        s => condition(
            APPROVED,
            false,
            "InvalidAnnotation",
            &format!("protected groups must have approval annotation {APPROVAL:?} with either a URL or a reason starting with \"unapproved\", see {SEE}, got {s:?}"),
        ),
    })
}
