//! Deletion of namespaces: pods first, then everything else found by discovery, then the finalizer (lesson 71).
//!
//! Conditions say what is left. A round that still deleted or found something never finalizes; the next one, which finds nothing, does.
//! Deliberately absent: creation (nothing to do) and a list of kinds (discovery has them, custom ones included).

use crate::Start;
use crate::discovery::{Resource, discover};
use jiff::{Timestamp, Unit};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, NamespaceStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use keles_client::{Change, Informer, MetadataOnly, ObjectKey};
use keles_reconcile::{Context, Controller, Outcome, ReconcileError, Watches, WriteError, Writer};
use kube::api::{DeleteParams, ListParams, PropagationPolicy};
use kube::core::ObjectList;
use kube::core::PartialObjectMeta;
use kube::core::Request;
use std::collections::BTreeMap;
use std::time::Duration;

const FINALIZER: &str = "kubernetes";
const PAGE_OBJECTS: u32 = 500;
/// When content of other kinds than pods waits for its finalizers, no watch tells of its end.
const REMAINING_RETRY: Duration = Duration::from_secs(2);

pub struct NamespaceController {
    client: kube::Client,
    namespaces: Writer<Namespace>,
    pods: Informer<Pod>,
}

impl NamespaceController {
    pub fn new(start: &Start) -> Self {
        NamespaceController { client: start.client.clone(), namespaces: start.writer(), pods: start.informers.of() }
    }

    /// Deletes what a resource has in the namespace and says what is left after.
    async fn empty(&self, resource: &Resource, namespace: &str) -> Result<Left, kube::Error> {
        let path = resource.path(namespace);
        let before = self.list(&path).await?;
        if before.objects.is_empty() {
            return Ok(before);
        }
        let params = DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..Default::default() };
        if resource.can("deletecollection") {
            let request = Request::new(&path).delete_collection(&params, &ListParams::default()).map_err(kube::Error::BuildRequest)?;
            self.client.request::<serde_json::Value>(request).await?;
        } else {
            for name in before.objects.iter().filter_map(|object| object.metadata.name.as_deref()) {
                let request = Request::new(&path).delete(name, &params).map_err(kube::Error::BuildRequest)?;
                match self.client.request::<serde_json::Value>(request).await {
                    Err(kube::Error::Api(status)) if status.code == 404 => {}
                    other => _ = other?,
                }
            }
        }
        self.list(&path).await
    }
    async fn list(&self, path: &str) -> Result<Left, kube::Error> {
        let request = Request::new(path).list_metadata(&ListParams::default().limit(PAGE_OBJECTS)).map_err(kube::Error::BuildRequest)?;
        // The kind named here is not looked at: the answer holds metadata only.
        let list: ObjectList<PartialObjectMeta<ConfigMap>> = self.client.request(request).await?;
        let more = list.metadata.remaining_item_count.unwrap_or(0);
        Ok(Left { objects: list.items.into_iter().map(|item| MetadataOnly { metadata: item.metadata }).collect(), more })
    }

    /// One round over all content. Pods first: while one is left, nothing else is touched, so that they can end in order.
    async fn empty_all(&self, namespace: &str, round: &mut Round) {
        let found = match discover(&self.client).await {
            Ok(found) => found,
            Err(error) => {
                round.discovery = Some(error.to_string());
                return;
            }
        };
        if !found.stale.is_empty() {
            round.discovery = Some(format!("unable to retrieve the complete list of server APIs: {}", found.stale.join(", ")));
        }
        let mut resources: Vec<Resource> = found.resources.into_iter().filter(|r| r.namespaced && r.can("delete") && r.can("list")).collect();
        resources.sort_by_key(|resource| !(resource.group.is_empty() && resource.plural == "pods"));
        for resource in resources {
            match self.empty(&resource, namespace).await {
                Ok(left) => round.note(&resource, &left),
                // Not served any more, or without such a verb after all: no content there.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 405) => {}
                Err(error) => round.failures.push(error.to_string()),
            }
            if resource.plural == "pods" && resource.group.is_empty() && !round.is_clean() {
                return;
            }
        }
    }

    async fn write_status(&self, namespace: &Namespace, round: &Round) -> Result<(), WriteError> {
        let mut update = namespace.clone();
        let status = update.status.get_or_insert_default();
        status.phase = Some("Terminating".into());
        round.conditions(status, Timestamp::now());
        if update.status == namespace.status {
            return Ok(());
        }
        self.namespaces.update_status(&update).await.map(|_| ())
    }
}

impl Controller for NamespaceController {
    const NAME: &'static str = "namespace-controller";
    const WORKERS: usize = 10;

    fn watches(&self, watches: &mut Watches) {
        watches.own(self.namespaces.informer());
        let namespaces = self.namespaces.informer().clone();
        watches.on(&self.pods, move |change, queue| {
            if let Change::Deleted(pod) = change
                && let Some(key) = pod.metadata.namespace.clone().map(ObjectKey::cluster)
                && namespaces.get_key(&key).is_some_and(|namespace| namespace.metadata.deletion_timestamp.is_some())
            {
                queue.add(key);
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey, _: &Context) -> Result<Outcome, ReconcileError> {
        if self.namespaces.informer().get_key(key).is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_none()) {
            return Ok(Outcome::Done);
        }
        let namespace = match self.namespaces.get(key).await {
            Err(error) if error.is_not_found() => return Ok(Outcome::Done),
            other => other?,
        };
        let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.clone()).unwrap_or_default();
        if namespace.metadata.deletion_timestamp.is_none() || !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
            return Ok(Outcome::Done);
        }
        let mut round = Round::default();
        self.empty_all(&key.name, &mut round).await;
        if !round.is_clean() || round.discovery.is_some() {
            self.write_status(&namespace, &round).await?;
            if let Some(problem) = round.failures.first().or(round.discovery.as_ref()) {
                return Err(ReconcileError::Object { object: key.clone(), problem: problem.clone() });
            }
            return Ok(Outcome::After(REMAINING_RETRY));
        }
        let mut update = namespace.clone();
        update.spec.get_or_insert_default().finalizers = Some(finalizers.into_iter().filter(|finalizer| finalizer != FINALIZER).collect());
        match self.namespaces.update_subresource("finalize", &update).await {
            Err(error) if error.is_not_found() => Ok(Outcome::Done),
            other => other.map(|_| Outcome::Done).map_err(Into::into),
        }
    }
}

/// What a resource has in the namespace.
struct Left {
    objects: Vec<MetadataOnly>,
    /// Beyond the page read.
    more: i64,
}

/// What one round found.
#[derive(Default)]
struct Round {
    discovery: Option<String>,
    failures: Vec<String>,
    /// `pods.` -> how many.
    resources: BTreeMap<String, i64>,
    finalizers: BTreeMap<String, i64>,
}

impl Round {
    fn note(&mut self, resource: &Resource, left: &Left) {
        if left.objects.is_empty() {
            return;
        }
        let name = format!("{}.{}", resource.plural, resource.group);
        *self.resources.entry(name).or_default() += left.objects.len() as i64 + left.more;
        for finalizer in left.objects.iter().flat_map(|object| object.metadata.finalizers.iter().flatten()) {
            *self.finalizers.entry(finalizer.clone()).or_default() += 1;
        }
    }
    fn is_clean(&self) -> bool {
        self.resources.is_empty() && self.failures.is_empty()
    }

    /// The five conditions, each with upstream's words for good and bad.
    fn conditions(&self, status: &mut NamespaceStatus, now: Timestamp) {
        let listed =
            |counts: &BTreeMap<String, i64>, what: &str| counts.iter().map(|(name, count)| format!("{name} {what} {count} resource instances")).collect::<Vec<_>>().join(", ");
        let remaining = (!self.resources.is_empty()).then(|| format!("Some resources are remaining: {}", listed(&self.resources, "has")));
        let finalizers = (!self.finalizers.is_empty()).then(|| format!("Some content in the namespace has finalizers remaining: {}", listed(&self.finalizers, "in")));
        let failures = (!self.failures.is_empty()).then(|| format!("Failed to delete all resource types, {} remaining: {}", self.failures.len(), self.failures.join(", ")));
        let discovery = self.discovery.as_ref().map(|problem| format!("Discovery failed for some groups, {problem}"));
        for (kind, bad, bad_reason, good_reason, good) in [
            ("NamespaceDeletionDiscoveryFailure", discovery, "DiscoveryFailed", "ResourcesDiscovered", "All resources successfully discovered"),
            ("NamespaceDeletionGroupVersionParsingFailure", None, "GroupVersionParsingFailed", "ParsedGroupVersions", "All legacy kube types successfully parsed"),
            ("NamespaceDeletionContentFailure", failures, "ContentDeletionFailed", "ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
            ("NamespaceContentRemaining", remaining, "SomeResourcesRemain", "ContentRemoved", "All content successfully removed"),
            ("NamespaceFinalizersRemaining", finalizers, "SomeFinalizersRemain", "ContentHasNoFinalizers", "All content-preserving finalizers finished"),
        ] {
            let (value, reason, message) = match bad {
                Some(message) => ("True", bad_reason, message),
                None => ("False", good_reason, good.to_owned()),
            };
            set_condition(status, kind, value, reason, message, now);
        }
    }
}

fn set_condition(status: &mut NamespaceStatus, kind: &str, value: &str, reason: &str, message: String, now: Timestamp) {
    let conditions = status.conditions.get_or_insert_default();
    let since = Some(Time(now.round(Unit::Second).unwrap_or(now)));
    let new = NamespaceCondition { type_: kind.into(), status: value.into(), reason: Some(reason.into()), message: Some(message), last_transition_time: since };
    match conditions.iter_mut().find(|condition| condition.type_ == kind) {
        Some(held) if held.status == new.status && held.reason == new.reason && held.message == new.message => {}
        Some(held) => *held = new,
        None => conditions.push(new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    #[test]
    fn the_five_conditions_say_what_is_left_in_upstreams_words() {
        let mut round = Round::default();
        let pods = Resource { group: String::new(), version: "v1".into(), plural: "pods".into(), kind: "Pod".into(), namespaced: true, verbs: vec![] };
        let object = MetadataOnly { metadata: ObjectMeta { finalizers: Some(vec!["x.io/f".into()]), ..Default::default() } };
        round.note(&pods, &Left { objects: vec![object], more: 0 });
        let mut status = NamespaceStatus::default();
        round.conditions(&mut status, Timestamp::UNIX_EPOCH);
        let conditions = status.conditions.clone().expect("conditions");
        let texts: Vec<(&str, &str)> = conditions.iter().map(|c| (c.status.as_str(), c.message.as_deref().unwrap_or(""))).collect();
        assert_eq!(
            texts,
            [
                ("False", "All resources successfully discovered"),
                ("False", "All legacy kube types successfully parsed"),
                ("False", "All content successfully deleted, may be waiting on finalization"),
                ("True", "Some resources are remaining: pods. has 1 resource instances"),
                ("True", "Some content in the namespace has finalizers remaining: x.io/f in 1 resource instances"),
            ]
        );
        assert!(!round.is_clean(), "a round that found something does not finalize");
        let before = status.clone();
        round.conditions(&mut status, Timestamp::now());
        assert_eq!(status, before, "the same findings change nothing, times included");
    }
}
