//! StorageVersionMigrations: every object of a resource is written anew, unchanged, so that the store holds all of them in the present version
//! and under the present encryption key (KEP-4192).
//!
//! Of several migrations of a resource one runs at a time, the oldest first. It reads all objects' metadata in one state and sends each an empty
//! patch that names uid and resourceVersion: who wrote meanwhile has migrated the object, who deleted it has made that needless. A custom
//! resource's definition says meanwhile that it is `StorageMigrating`; when nobody changed it until the end, `status.storedVersions` is left with
//! the one version. Level-triggered: a migration that was cut short begins again.
//! Deliberately absent: waiting for the garbage collector's cache, out of which upstream takes the objects: the list here is as fresh as the write.

use crate::Start;
use crate::discovery::{Resource, discover};
use futures::TryStreamExt;
use k8s_openapi::api::storagemigration::v1beta1::StorageVersionMigration;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, CustomResourceDefinitionCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{APIResourceList, Condition, ListMeta, ObjectMeta, Time};
use keles_client::{MetadataOnly, ObjectKey};
use keles_reconcile::{Context, Controller, Outcome, ReconcileError, Watches, WriteError, Writer};
use keles_rules::storage_hash::storage_hash;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::core::Request;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;

const NAME: &str = "storage-version-migrator-controller";
const RUNNING: &str = "Running";
const SUCCEEDED: &str = "Succeeded";
const FAILED: &str = "Failed";
const MIGRATING: &str = "StorageMigrating";
/// So long a resource that was just defined may take to appear; looked for that often.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_secs(2);
const PAGE_OBJECTS: u32 = 500;
const WRITES_AT_ONCE: usize = 8;

pub struct StorageVersionMigrator {
    client: kube::Client,
    migrations: Writer<StorageVersionMigration>,
    definitions: Api<CustomResourceDefinition>,
}

impl StorageVersionMigrator {
    pub fn new(start: &Start) -> Self {
        StorageVersionMigrator { client: start.client.clone(), migrations: start.writer(), definitions: Api::all(start.client.clone()) }
    }
}

/// Why not every object was written.
enum Stopped {
    /// For good; what is told.
    Refused(String),
    /// Worth another try.
    Later(ReconcileError),
}

impl From<ReconcileError> for Stopped {
    fn from(e: ReconcileError) -> Self {
        Stopped::Later(e)
    }
}

impl Controller for StorageVersionMigrator {
    const NAME: &'static str = NAME;

    fn watches(&self, watches: &mut Watches) {
        // One that ends, or goes, lets the next of the same resource begin.
        let all = self.migrations.informer().clone();
        watches.on(self.migrations.informer(), move |change, queue| {
            queue.add(ObjectKey::of(change.object().as_ref()));
            let same = |m: &StorageVersionMigration| m.spec.as_ref().map(|s| &s.resource) == change.object().spec.as_ref().map(|s| &s.resource);
            all.list().iter().filter(|m| same(m) && !is_over(m)).for_each(|m| queue.add(ObjectKey::of(m.as_ref())));
        });
    }

    async fn reconcile(&self, key: &ObjectKey, _: &Context) -> Result<Outcome, ReconcileError> {
        let all = self.migrations.informer().list();
        let Some(migration) = self.migrations.informer().get_key(key).filter(|m| !is_over(m)) else { return Ok(Outcome::Done) };
        if turn(all.iter().map(|m| m.as_ref()), &migration).is_some_and(|first| first.metadata.uid != migration.metadata.uid) {
            return Ok(Outcome::Done);
        }
        let ended = match self.migrate(&migration).await {
            Ok(None) => return Ok(Outcome::After(LOOK_AGAIN)),
            Ok(Some(())) => self.end(&migration, Ok(())).await,
            Err(Stopped::Refused(why)) => self.end(&migration, Err(why)).await,
            Err(Stopped::Later(e)) => Err(e),
        };
        match ended {
            // It was taken away meanwhile.
            Err(ReconcileError::Write(e)) if e.is_not_found() => Ok(Outcome::Done),
            ended => ended.map(|()| Outcome::Done),
        }
    }
}

impl StorageVersionMigrator {
    /// `None`: the resource is not served as it should be yet.
    async fn migrate(&self, migration: &StorageVersionMigration) -> Result<Option<()>, Stopped> {
        let wanted = migration.spec.clone().unwrap_or_default().resource;
        let found = discover(&self.client).await.map_err(ReconcileError::read("reading what resources there are"))?;
        let Some(resource) = found.resources.into_iter().find(|r| r.group == wanted.group && r.plural == wanted.resource) else {
            return if age(migration) < PATIENCE { Ok(None) } else { Err(Stopped::Refused("resource not found".into())) };
        };
        if let Some(verb) = ["list", "patch"].into_iter().find(|verb| !resource.can(verb)) {
            return Err(Stopped::Refused(format!("resource {} cannot be migrated: it does not support {verb}", resource.name())));
        }
        let definition = self.definition(&resource).await?;
        if let Some(d) = &definition
            && !self.stores(&resource, d).await?
        {
            return if age(migration) < PATIENCE { Ok(None) } else { Err(Stopped::Refused("the definition's storage version is not the one that is stored".into())) };
        }
        self.begin(migration, &resource, definition.as_ref()).await?;
        self.write_all(&resource).await.map(Some)
    }

    async fn definition(&self, resource: &Resource) -> Result<Option<CustomResourceDefinition>, ReconcileError> {
        if resource.group.is_empty() {
            return Ok(None);
        }
        self.definitions.get_opt(&resource.name()).await.map_err(ReconcileError::read(format!("reading the definition of {}", resource.name())))
    }

    /// Whether the server stores in the version that the definition says: it tells by a hash in discovery.
    async fn stores(&self, resource: &Resource, d: &CustomResourceDefinition) -> Result<bool, ReconcileError> {
        let request = http::Request::get(format!("/apis/{}/{}", resource.group, resource.version)).body(Vec::new()).expect("a path of names");
        let list: APIResourceList = self.client.request(request).await.map_err(ReconcileError::read(format!("reading discovery of {}", resource.name())))?;
        let shown = list.resources.into_iter().find(|r| r.name == resource.plural).and_then(|r| r.storage_version_hash);
        Ok(shown.as_deref() == Some(&storage_hash(&resource.group, storage_version(d), &resource.kind)))
    }

    /// Says that it runs, and from which state on; the definition before the migration, so that a running one is always known there.
    async fn begin(&self, migration: &StorageVersionMigration, resource: &Resource, definition: Option<&CustomResourceDefinition>) -> Result<(), ReconcileError> {
        if let Some(d) = definition {
            let message = format!("Migration {} is running", migration.metadata.name.as_deref().unwrap_or_default());
            let told = migrating(d).is_some_and(|c| c.status == "True" && c.message.as_ref() == Some(&message) && c.observed_generation == d.metadata.generation);
            if !told {
                self.describe(d, ("True", "MigrationRunning", &message), None).await?;
            }
        }
        let mut status = migration.status.clone().unwrap_or_default();
        if status.resource_version.as_deref().unwrap_or_default().is_empty() {
            let page = self.page(resource, &ListParams::default().limit(1)).await.map_err(ReconcileError::read(format!("listing {}", resource.name())))?;
            status.resource_version = page.metadata.resource_version;
        }
        let conditions = status.conditions.get_or_insert_default();
        if !set(conditions, RUNNING, true, "MigrationRunning", "The migration is running")
            && migration.status.as_ref().is_some_and(|s| s.resource_version == status.resource_version)
        {
            return Ok(());
        }
        self.migrations.update_status(&StorageVersionMigration { status: Some(status), ..migration.clone() }).await?;
        Ok(())
    }

    /// Says what came of it, to the definition first.
    async fn end(&self, migration: &StorageVersionMigration, came: Result<(), String>) -> Result<(), ReconcileError> {
        let key = ObjectKey::of(migration);
        let resource = migration.spec.clone().unwrap_or_default().resource;
        let name = format!("{}.{}", resource.resource, resource.group);
        let definition = match resource.group.is_empty() {
            true => None,
            false => self.definitions.get_opt(&name).await.map_err(ReconcileError::read(format!("reading the definition {name}")))?,
        };
        if let Some(d) = definition.filter(|d| migrating(d).is_some()) {
            // Whoever changed the definition meanwhile may have changed what is stored.
            let untouched = migrating(&d).and_then(|c| c.observed_generation) == d.metadata.generation;
            let (reason, message) = match (&came, untouched) {
                (Ok(()), true) => ("MigrationSucceeded", "The migration has succeeded and the stored versions have been updated"),
                (Ok(()), false) => ("MigrationSucceeded", "The migration has succeeded but the stored versions have not been updated due to a generation mismatch"),
                (Err(_), _) => ("MigrationFailed", "The migration has failed"),
            };
            let stored = (came.is_ok() && untouched).then(|| storage_version(&d));
            self.describe(&d, ("False", reason, message), stored).await?;
        }
        // What was written of it is there already; who changed it meanwhile makes this a conflict, and another try.
        let Some(held) = self.migrations.informer().get_key(&key) else { return Ok(()) };
        let mut new = StorageVersionMigration::clone(&held);
        let conditions = new.status.get_or_insert_default().conditions.get_or_insert_default();
        if conditions.iter().any(|c| c.type_ == RUNNING) {
            set(conditions, RUNNING, false, "MigrationCompleted", "The migration has completed");
        }
        match &came {
            Ok(()) => set(conditions, SUCCEEDED, true, "StorageVersionMigrationSucceeded", "The migration has succeeded"),
            Err(why) => set(conditions, FAILED, true, "StorageVersionMigrationFailed", why),
        };
        self.migrations.update_status(&new).await?;
        tracing::info!(migration = %key, resource = name, failed = came.err(), "storage version migration ended");
        Ok(())
    }

    /// The condition of a definition (status, reason, message), unless it changed since it was read; with the one version that is stored.
    async fn describe(&self, d: &CustomResourceDefinition, said: (&str, &str, &str), stored: Option<&str>) -> Result<(), ReconcileError> {
        let name = d.metadata.name.as_deref().unwrap_or_default();
        let condition = json!({
            "type": MIGRATING, "status": said.0, "reason": said.1, "message": said.2, "observedGeneration": d.metadata.generation, "lastTransitionTime": now(),
        });
        let mut object = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": name, "resourceVersion": d.metadata.resource_version}, "status": {"conditions": [condition]},
        });
        if let Some(version) = stored {
            object["status"]["storedVersions"] = json!([version]);
        }
        let params = PatchParams::apply("migration-runner-controller").force();
        let wrote = self.definitions.patch_status(name, &params, &Patch::Apply(&object)).await;
        wrote.map(drop).map_err(|source| WriteError { verb: "apply", kind: "CustomResourceDefinition".into(), key: ObjectKey::cluster(name), source: Box::new(source) }.into())
    }

    async fn write_all(&self, resource: &Resource) -> Result<(), Stopped> {
        let mut token = None;
        loop {
            let params = ListParams { limit: Some(PAGE_OBJECTS), continue_token: token.take(), ..ListParams::default() };
            let page = match self.page(resource, &params).await {
                Ok(page) => page,
                // The state is forgotten: begin again; what was written stays written.
                Err(kube::Error::Api(status)) if status.code == 410 && params.continue_token.is_some() => continue,
                Err(e) => return Err(refused(format!("listing {}", resource.name()), e)),
            };
            let writes = futures::stream::iter(page.items.into_iter().map(|o| Ok(o.metadata)));
            writes.try_for_each_concurrent(WRITES_AT_ONCE, |o| self.write(resource, o)).await?;
            match page.metadata.continue_.filter(|t| !t.is_empty()) {
                Some(next) => token = Some(next),
                None => return Ok(()),
            }
        }
    }

    async fn page(&self, resource: &Resource, params: &ListParams) -> kube::Result<Page> {
        let request = Request::new(resource.path("")).list_metadata(params).map_err(kube::Error::BuildRequest)?;
        self.client.request(request).await
    }

    /// Writes one object as it is.
    async fn write(&self, resource: &Resource, o: ObjectMeta) -> Result<(), Stopped> {
        let (namespace, name) = (o.namespace.unwrap_or_default(), o.name.unwrap_or_default());
        let same = json!({"metadata": {"uid": o.uid, "resourceVersion": o.resource_version}});
        let params = PatchParams { field_manager: Some(NAME.into()), ..PatchParams::default() };
        let request = Request::new(resource.path(&namespace)).patch_metadata(&name, &params, &Patch::Merge(&same)).map_err(kube::Error::BuildRequest);
        let wrote = match request {
            Ok(request) => self.client.request::<MetadataOnly>(request).await,
            Err(e) => Err(e),
        };
        match wrote {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(e) => {
                let shown = if namespace.is_empty() { name } else { format!("{namespace}/{name}") };
                Err(refused(format!("migrating {} {shown}", resource.name()), e))
            }
        }
    }
}

/// What was refused stays refused; a server that is busy or away may do it later.
fn refused(what: String, e: kube::Error) -> Stopped {
    match e {
        kube::Error::Api(status) if !matches!(status.code, 401 | 403 | 429 | 502 | 503 | 504) => Stopped::Refused(format!("{what}: {}", status.message)),
        e => Stopped::Later(ReconcileError::read(what)(e)),
    }
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    metadata: ListMeta,
    #[serde(default)]
    items: Vec<MetadataOnly>,
}

fn holds(m: &StorageVersionMigration, kind: &str) -> bool {
    let mut conditions = m.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.any(|c| c.type_ == kind && c.status == "True")
}

fn is_over(m: &StorageVersionMigration) -> bool {
    holds(m, SUCCEEDED) || holds(m, FAILED)
}

/// Whose turn it is among the migrations of the same resource: the one that runs, else the oldest.
fn turn<'m>(all: impl Iterator<Item = &'m StorageVersionMigration>, of: &'m StorageVersionMigration) -> Option<&'m StorageVersionMigration> {
    let same = |m: &&StorageVersionMigration| m.spec.as_ref().map(|s| &s.resource) == of.spec.as_ref().map(|s| &s.resource) && !is_over(m);
    all.filter(same).min_by_key(|m| (!holds(m, RUNNING), m.metadata.creation_timestamp.as_ref().map(|t| t.0), m.metadata.name.clone()))
}

fn age(m: &StorageVersionMigration) -> Duration {
    let made = m.metadata.creation_timestamp.as_ref().map_or(i64::MIN, |t| t.0.as_second());
    Duration::from_secs(jiff::Timestamp::now().as_second().saturating_sub(made).max(0) as u64)
}

fn now() -> Value {
    json!(Time(jiff::Timestamp::from_second(jiff::Timestamp::now().as_second()).unwrap_or_default()))
}

/// Sets a condition; false when it was so already.
fn set(conditions: &mut Vec<Condition>, kind: &str, holds: bool, reason: &str, message: &str) -> bool {
    let status = if holds { "True" } else { "False" };
    let old = conditions.iter().position(|c| c.type_ == kind);
    let since = match old.map(|at| &conditions[at]) {
        Some(c) if c.status == status && c.reason == reason && c.message == message => return false,
        Some(c) if c.status == status => c.last_transition_time.clone(),
        _ => Time(jiff::Timestamp::now()),
    };
    let new = Condition { type_: kind.into(), status: status.into(), reason: reason.into(), message: message.into(), last_transition_time: since, observed_generation: None };
    match old {
        Some(at) => conditions[at] = new,
        None => conditions.push(new),
    }
    true
}

fn storage_version(d: &CustomResourceDefinition) -> &str {
    d.spec.versions.iter().find(|v| v.storage).map_or("", |v| v.name.as_str())
}

fn migrating(d: &CustomResourceDefinition) -> Option<&CustomResourceDefinitionCondition> {
    d.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == MIGRATING)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn migration(name: &str, made: &str, conditions: &[&str]) -> StorageVersionMigration {
        let conditions: Vec<Value> = conditions.iter().map(|c| json!({"type": c, "status": "True", "reason": "R", "message": "", "lastTransitionTime": made})).collect();
        let object = json!({
            "metadata": {"name": name, "uid": name, "creationTimestamp": made}, "spec": {"resource": {"group": "g", "resource": "as"}}, "status": {"conditions": conditions},
        });
        serde_json::from_value(object).expect("a migration")
    }

    #[test]
    fn one_migration_of_a_resource_runs_at_a_time_the_oldest_first() {
        let (early, late) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
        let first = |all: &[StorageVersionMigration]| turn(all.iter(), &all[0]).and_then(|m| m.metadata.name.clone()).unwrap_or_default();
        assert_eq!(first(&[migration("b", late, &[]), migration("a", late, &[]), migration("c", early, &[])]), "c");
        assert_eq!(first(&[migration("b", late, &[]), migration("a", late, &[]), migration("c", early, &[SUCCEEDED])]), "a");
        assert_eq!(first(&[migration("b", late, &[RUNNING]), migration("a", early, &[])]), "b", "what runs is not overtaken");
        let mut other = migration("o", early, &[]);
        other.spec.as_mut().expect("given").resource.group = "h".into();
        assert_eq!(first(&[migration("b", late, &[]), other]), "b", "another resource does not matter");
    }

    #[test]
    fn a_condition_keeps_its_time_until_it_turns_and_the_hash_is_upstreams() {
        let mut all = migration("a", "2026-01-01T00:00:00Z", &[RUNNING]).status.and_then(|s| s.conditions).expect("given");
        let began = all[0].last_transition_time.clone();
        assert!(set(&mut all, RUNNING, true, "MigrationRunning", "m") && !set(&mut all, RUNNING, true, "MigrationRunning", "m"));
        assert_eq!(all[0].last_transition_time, began);
        assert!(set(&mut all, RUNNING, false, "MigrationCompleted", "m") && all[0].last_transition_time != began);
        assert_eq!(storage_hash("", "v1", "ConfigMap"), "qFsyl6wFWjQ=", "as discovery of v1.36 says");
    }
}
