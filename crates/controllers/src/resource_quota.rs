//! ResourceQuota: counts what a namespace uses of what its quotas limit.
//!
//! Admission charges a quota before an object is stored; this controller gives back what was deleted, has ended or was never stored.
//! Pods, services and claims are read whole; every other kind that some quota counts is watched by metadata from when it first is.

use crate::Start;
use crate::discovery::discover;
use crate::slim::Slim;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, ResourceQuotaStatus, Service};
use k8s_openapi::api::resource::v1::ResourceClaim;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;
use keles_api::quantity::{Format, Quantity};
use keles_client::{Change, Informer, ObjectKey, Options, Scope, Watched};
use keles_reconcile::{Context, Controller, Outcome, Queue, ReconcileError, Watches, Writer};
use keles_rules::quota::{in_scope, object_count, usage};
use keles_rules::requests::{Amounts, add};
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Every quota is counted anew this often, whatever was seen; upstream's period.
const RECOUNT_EVERY: Duration = Duration::from_secs(300);
/// A kind that discovery does not know may be a custom one that comes later.
const UNKNOWN_RETRY: Duration = Duration::from_secs(30);
/// Kinds with content of their own in quotas; the others are only numbered.
const READ_WHOLE: &[(&str, &str)] = &[("", "pods"), ("", "services"), ("", "persistentvolumeclaims"), ("resource.k8s.io", "resourceclaims")];

pub struct ResourceQuotaController {
    client: kube::Client,
    quotas: Writer<ResourceQuota>,
    pods: Informer<Pod>,
    services: Informer<Service>,
    claims: Informer<PersistentVolumeClaim>,
    device_claims: Informer<ResourceClaim>,
    /// By the name quotas have for a count: `count/deployments.apps`.
    numbered: tokio::sync::Mutex<HashMap<String, Informer<Slim>>>,
    shutdown: CancellationToken,
}

impl ResourceQuotaController {
    pub fn new(start: &Start) -> Self {
        ResourceQuotaController {
            client: start.client.clone(),
            quotas: start.writer(),
            pods: start.informers.of(),
            services: start.informers.of(),
            claims: start.informers.of(),
            device_claims: start.informers.of(),
            numbered: tokio::sync::Mutex::default(),
            shutdown: start.shutdown.clone(),
        }
    }

    /// The cache of a kind that a quota numbers, started when it is not there; `None` when no such kind is served.
    async fn cache(&self, count: &str, queue: &Queue<ObjectKey>) -> Result<Option<Informer<Slim>>, ReconcileError> {
        let mut all = self.numbered.lock().await;
        if let Some(informer) = all.get(count) {
            return Ok(Some(informer.clone()));
        }
        let found = discover(&self.client).await.map_err(ReconcileError::read("reading what resources there are"))?;
        let Some(resource) = found.resources.into_iter().find(|r| r.namespaced && object_count(&r.group, &r.plural) == count && r.can("list") && r.can("watch")) else {
            return Ok(None);
        };
        let informer: Informer<Slim> = Informer::start(self.client.clone(), &resource.path(""), &Scope::all(), Options::default(), self.shutdown.child_token());
        let (quotas, queue) = (self.quotas.informer().clone(), queue.clone());
        informer.on_change(move |change| {
            if change.old().is_none() || matches!(change, Change::Deleted(_)) {
                wake(&quotas, change.object().as_ref(), &queue);
            }
        });
        all.insert(count.to_owned(), informer.clone());
        drop(all);
        informer.synced().await;
        Ok(Some(informer))
    }

    /// What the namespace uses of the names in `hard`; false when some kind is not known.
    async fn count(&self, quota: &ResourceQuota, hard: &[&str], queue: &Queue<ObjectKey>) -> Result<(Amounts, bool), ReconcileError> {
        let namespace = quota.metadata.namespace.as_deref().unwrap_or_default();
        let spec = serde_json::to_value(&quota.spec).unwrap_or_default();
        let (mut used, mut complete) = (Amounts::new(), true);
        add(&mut used, &of_all("", "pods", &self.pods, namespace, &spec));
        add(&mut used, &of_all("", "services", &self.services, namespace, &spec));
        add(&mut used, &of_all("", "persistentvolumeclaims", &self.claims, namespace, &spec));
        add(&mut used, &of_all("resource.k8s.io", "resourceclaims", &self.device_claims, namespace, &spec));
        for name in hard {
            let Some(count) = numbered(name) else { continue };
            if !in_scope(&spec, "", "", &Value::Null) {
                continue; // scopes choose pods and claims only
            }
            match self.cache(&count, queue).await? {
                Some(informer) => drop(used.insert((*name).to_owned(), number(informer.list_namespace(namespace).len()))),
                None => complete = false,
            }
        }
        used.retain(|name, _| hard.contains(&name.as_str()));
        for name in hard {
            used.entry((*name).to_owned()).or_insert_with(|| number(0));
        }
        Ok((used, complete))
    }
}

fn number(n: usize) -> Quantity {
    Quantity::new(i64::try_from(n).unwrap_or(i64::MAX), Format::DecimalSi)
}

/// The count that a name of a quota stands for, when its kind is only numbered: `secrets` and `count/secrets` both do.
fn numbered(name: &str) -> Option<String> {
    let count = match name {
        "replicationcontrollers" | "resourcequotas" | "secrets" | "configmaps" => format!("count/{name}"),
        _ if name.starts_with("count/") => name.to_owned(),
        _ => return None,
    };
    READ_WHOLE.iter().all(|(group, plural)| object_count(group, plural) != count).then_some(count)
}

fn of_all<K: Watched + Serialize>(group: &str, plural: &str, informer: &Informer<K>, namespace: &str, spec: &Value) -> Amounts {
    let now = Timestamp::now().as_second();
    let mut used = Amounts::new();
    for object in informer.list_namespace(namespace) {
        let Ok(tree) = serde_json::to_value(object.as_ref()) else { continue };
        if in_scope(spec, group, plural, &tree) {
            add(&mut used, &usage(group, plural, &tree, now));
        }
    }
    used
}

/// Wakes the quotas of an object's namespace.
fn wake<K: Watched>(quotas: &Informer<ResourceQuota>, object: &K, queue: &Queue<ObjectKey>) {
    for q in quotas.list_namespace(object.metadata().namespace.as_deref().unwrap_or_default()) {
        queue.add(ObjectKey::of(q.as_ref()));
    }
}

impl Controller for ResourceQuotaController {
    const NAME: &'static str = "resourcequota-controller";

    fn watches(&self, watches: &mut Watches) {
        watches.own(self.quotas.informer());
        let quotas = self.quotas.informer().clone();
        watches.on(&self.pods, move |change, queue| {
            let ended = |pod: &Pod| pod.status.as_ref().and_then(|s| s.phase.as_deref()).is_some_and(|p| matches!(p, "Succeeded" | "Failed"));
            let same = change.old().is_some_and(|old| old.spec == change.object().spec && ended(old) == ended(change.object()));
            if !same || matches!(change, Change::Deleted(_)) {
                wake(&quotas, change.object().as_ref(), queue);
            }
        });
        let quotas = self.quotas.informer().clone();
        watches.on(&self.services, move |change, queue| wake(&quotas, change.object().as_ref(), queue));
        let quotas = self.quotas.informer().clone();
        watches.on(&self.claims, move |change, queue| wake(&quotas, change.object().as_ref(), queue));
        let quotas = self.quotas.informer().clone();
        watches.on(&self.device_claims, move |change, queue| wake(&quotas, change.object().as_ref(), queue));
    }

    async fn reconcile(&self, key: &ObjectKey, context: &Context) -> Result<Outcome, ReconcileError> {
        let Some(quota) = self.quotas.informer().get_key(key) else { return Ok(Outcome::Done) };
        let hard = quota.spec.as_ref().and_then(|s| s.hard.clone()).unwrap_or_default();
        let names: Vec<&str> = hard.keys().map(String::as_str).collect();
        let (used, complete) = self.count(&quota, &names, &context.queue).await?;
        let status = ResourceQuotaStatus { hard: Some(hard.clone()), used: Some(wire(used)) };
        if quota.status.as_ref() != Some(&status) {
            self.quotas.update_status(&ResourceQuota { status: Some(status), ..ResourceQuota::clone(&quota) }).await?;
        }
        Ok(Outcome::After(if complete { RECOUNT_EVERY } else { UNKNOWN_RETRY }))
    }
}

fn wire(amounts: Amounts) -> BTreeMap<String, Wire> {
    amounts.into_iter().map(|(name, q)| (name, Wire(q.to_string()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_a_quota_says_which_kind_is_numbered() {
        assert_eq!(numbered("secrets").as_deref(), Some("count/secrets"));
        assert_eq!(numbered("count/widgets.example.com").as_deref(), Some("count/widgets.example.com"));
        assert_eq!((numbered("count/pods"), numbered("pods"), numbered("requests.cpu")), (None, None, None), "what is read whole is not numbered");
    }
}
