//! VolumeBinding: a pod goes only where its claims' volumes can be reached; claims that wait for their first consumer are bound on its way.
//!
//! PreFilter sorts the claims, Filter finds volumes for a node, Reserve keeps them from other pods, PreBind writes the choice and waits until the
//! binder has made it whole. Deliberately absent: storage capacity of drivers, scores.

use crate::cache::{NodeInfo, PodInfo};
use crate::framework::{BindError, Binding, CycleState, Event, Plugin, PreFilter, Rejection};
use crate::storage::Storage;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use keles_client::ObjectKey;
use keles_rules::volume_binding::{
    NO_PROVISIONER, SELECTED_NODE, annotation, best_match, claim_name, claim_ref, class_of_claim, is_bound, is_claim_for, is_reachable,
    is_reserved_for, reserve, volume_of, waits_for_consumer,
};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const NAME: &str = "VolumeBinding";
/// Upstream's limit of the wait for claims to be bound.
const BIND_TIMEOUT: Duration = Duration::from_secs(600);
const UNBOUND: &str = "pod has unbound immediate PersistentVolumeClaims";
const OUT_OF_REACH: &str = "node(s) didn't match PersistentVolume's node affinity";
const NONE_FREE: &str = "node(s) didn't find available persistent volumes to bind";
const GONE: &str = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";

/// How a claim gets its volume once the pod has its node.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Choice {
    Take { claim: ObjectKey, volume: String },
    Make { claim: ObjectKey, node: String },
}

impl Choice {
    fn claim(&self) -> &ObjectKey {
        match self {
            Choice::Take { claim, .. } | Choice::Make { claim, .. } => claim,
        }
    }
}

/// What PreFilter found, and for each node what Filter chose.
struct Wanted {
    volumes: Vec<Arc<PersistentVolume>>,
    /// A claim is bound to a volume that is not there.
    lost: bool,
    waiting: Vec<(Arc<PersistentVolumeClaim>, Arc<StorageClass>)>,
    all: Vec<Arc<PersistentVolume>>,
    choices: Mutex<HashMap<String, Vec<Choice>>>,
}

#[derive(Default)]
pub struct VolumeBinding {
    /// By pod uid: what was chosen and is not seen bound yet.
    reserved: Mutex<BTreeMap<String, Vec<Choice>>>,
}

pub static PLUGIN: VolumeBinding = VolumeBinding { reserved: Mutex::new(BTreeMap::new()) };

// Nothing can panic while these are held half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The pod's claims, and whether each is made for it.
fn claims_of(pod: &PodInfo) -> Vec<(ObjectKey, bool)> {
    let namespace = pod.pod.metadata.namespace.as_deref().unwrap_or_default();
    let volumes = pod.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| claim_name(&pod.pod, volume)).map(|(name, own)| (ObjectKey::new(namespace, name), own)).collect()
}

/// The claim, if nothing is wrong with it by itself.
fn usable(storage: &Storage, pod: &PodInfo, key: &ObjectKey, own: bool) -> Result<Arc<PersistentVolumeClaim>, Rejection> {
    let name = &key.name;
    let refuse = |why: String| Err(Rejection::unresolvable(why));
    let Some(claim) = storage.claims.get_key(key) else {
        return refuse(match own {
            true => format!("waiting for ephemeral volume controller to create the persistentvolumeclaim \"{name}\""),
            false => format!("persistentvolumeclaim \"{name}\" not found"),
        });
    };
    if claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Lost") {
        return refuse(format!("persistentvolumeclaim \"{name}\" bound to non-existent persistentvolume \"{}\"", volume_of(&claim)));
    }
    if claim.metadata.deletion_timestamp.is_some() {
        return refuse(format!("persistentvolumeclaim \"{name}\" is being deleted"));
    }
    if own && !is_claim_for(&claim, &pod.pod) {
        return refuse(format!("PVC {key} was not created for pod {} (pod is not owner)", pod.display()));
    }
    Ok(claim)
}

/// The class of a claim that waits for its consumer.
fn waiting_class(storage: &Storage, claim: &PersistentVolumeClaim) -> Option<Arc<StorageClass>> {
    let class = storage.classes.get("", class_of_claim(claim)?)?;
    (volume_of(claim).is_empty() && waits_for_consumer(&class)).then_some(class)
}

fn admits(class: &StorageClass, node: &NodeInfo) -> bool {
    let labels = node.node.as_ref().and_then(|node| node.metadata.labels.as_ref());
    let has = |key: &str, values: &[String]| labels.and_then(|labels| labels.get(key)).is_some_and(|value| values.contains(value));
    let terms = class.allowed_topologies.as_deref().unwrap_or_default();
    terms.is_empty() || terms.iter().any(|term| term.match_label_expressions.iter().flatten().all(|wanted| has(&wanted.key, &wanted.values)))
}

impl VolumeBinding {
    /// How each waiting claim would get its volume on the node; `None`: some would not.
    fn choose(&self, wanted: &Wanted, pod: &PodInfo, node: &NodeInfo) -> Option<Vec<Choice>> {
        let reserved = lock(&self.reserved);
        let of_others: Vec<&Choice> = reserved.iter().filter(|(uid, _)| *uid != pod.uid()).flat_map(|(_, choices)| choices).collect();
        let mut taken: Vec<String> = of_others.iter().filter_map(|choice| if let Choice::Take { volume, .. } = choice { Some(volume.clone()) } else { None }).collect();
        let labels = node.node.as_ref().and_then(|node| node.metadata.labels.as_ref());
        let reaches = |volume: &PersistentVolume| is_reachable(volume, node.name(), labels);
        let mut choices = Vec::new();
        for (claim, class) in &wanted.waiting {
            let key = ObjectKey::of(claim.as_ref());
            let can_make = class.provisioner != NO_PROVISIONER && admits(class, node);
            // What another pod of this claim was promised is this one's too; so is the node that a provisioner was told.
            let promised = of_others.iter().find(|choice| *choice.claim() == key).map(|choice| Choice::clone(choice));
            let promised = promised.or_else(|| Some(Choice::Make { claim: key.clone(), node: annotation(&claim.metadata, SELECTED_NODE)?.to_owned() }));
            let choice = match promised {
                Some(Choice::Take { claim, volume }) if wanted.all.iter().any(|v| v.metadata.name.as_ref() == Some(&volume) && reaches(v)) => Choice::Take { claim, volume },
                Some(Choice::Make { claim, node: chosen }) if chosen == node.name() && can_make => Choice::Make { claim, node: chosen },
                Some(_) => return None,
                None => {
                    let free = wanted.all.iter().filter(|volume| volume.metadata.name.as_ref().is_none_or(|name| !taken.contains(name)));
                    match best_match(claim, free, false, reaches) {
                        Some(volume) => Choice::Take { claim: key, volume: volume.metadata.name.clone().unwrap_or_default() },
                        None if can_make => Choice::Make { claim: key, node: node.name().to_owned() },
                        None => return None,
                    }
                }
            };
            if let Choice::Take { volume, .. } = &choice {
                taken.push(volume.clone());
            }
            choices.push(choice);
        }
        Some(choices)
    }
}

impl Plugin for VolumeBinding {
    fn name(&self) -> &'static str {
        NAME
    }
    fn pre_filter(&self, state: &mut CycleState, pod: &PodInfo) -> Result<PreFilter, Rejection> {
        let claims = claims_of(pod);
        let Some(storage) = state.storage.clone().filter(|_| !claims.is_empty()) else { return Ok(PreFilter::Skip) };
        let mut wanted = Wanted { volumes: Vec::new(), lost: false, waiting: Vec::new(), all: Vec::new(), choices: Mutex::default() };
        for (key, own) in claims {
            let claim = usable(&storage, pod, &key, own)?;
            if is_bound(&claim) {
                match storage.volumes.get("", volume_of(&claim)) {
                    Some(volume) => wanted.volumes.push(volume),
                    None => wanted.lost = true,
                }
            } else {
                let class = waiting_class(&storage, &claim).ok_or_else(|| Rejection::unresolvable(UNBOUND))?;
                wanted.waiting.push((claim, class));
            }
        }
        if !wanted.waiting.is_empty() {
            wanted.all = storage.volumes.list();
        }
        state.put(NAME, wanted);
        Ok(PreFilter::Continue)
    }
    fn filter(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        let Some(wanted) = state.get::<Wanted>(NAME) else { return Ok(()) };
        let labels = node.node.as_ref().and_then(|node| node.metadata.labels.as_ref());
        if wanted.lost {
            return Err(Rejection::unresolvable(GONE));
        }
        if !wanted.volumes.iter().all(|volume| is_reachable(volume, node.name(), labels)) {
            return Err(Rejection::unresolvable(OUT_OF_REACH));
        }
        let choices = self.choose(wanted, pod, node).ok_or_else(|| Rejection::unresolvable(NONE_FREE))?;
        lock(&wanted.choices).insert(node.name().to_owned(), choices);
        Ok(())
    }
    fn reserve(&self, state: &CycleState, pod: &PodInfo, node: &str) -> Result<(), Rejection> {
        let Some(wanted) = state.get::<Wanted>(NAME) else { return Ok(()) };
        let choices = lock(&wanted.choices).remove(node).unwrap_or_default();
        if !choices.is_empty() {
            lock(&self.reserved).insert(pod.uid().to_owned(), choices);
        }
        Ok(())
    }
    fn unreserve(&self, pod: &PodInfo, _: &str) {
        lock(&self.reserved).remove(pod.uid());
    }
    fn pre_bind(&self, binding: &Binding) -> BoxFuture<'static, Result<(), BindError>> {
        let choices = lock(&self.reserved).get(binding.pod.uid()).cloned().unwrap_or_default();
        let binding = binding.clone();
        Box::pin(async move {
            // A volume that is gone is no pod that is gone.
            let refused = |source: kube::Error| BindError::Volumes { pod: binding.pod.display(), why: source.to_string() };
            for choice in &choices {
                write(&binding, choice).await.map_err(refused)?;
            }
            match &binding.storage {
                Some(storage) if !choices.is_empty() => wait(storage, &binding, &choices).await,
                _ => Ok(()),
            }
        })
    }
    fn post_bind(&self, binding: &Binding) {
        lock(&self.reserved).remove(binding.pod.uid());
    }
    fn helps(&self, event: &Event, pod: &PodInfo) -> bool {
        match event {
            Event::StorageChanged(_) => !claims_of(pod).is_empty(),
            Event::NodeAdded(_) => true,
            Event::NodeChanged { old, new } => old.metadata.labels != new.metadata.labels,
            Event::PodRemoved(_) => false,
        }
    }
}

/// Writes one choice, unless it stands already.
async fn write(binding: &Binding, choice: &Choice) -> Result<(), kube::Error> {
    match choice {
        Choice::Make { claim, node } => {
            let claims: Api<PersistentVolumeClaim> = Api::namespaced(binding.client.clone(), &claim.namespace);
            let patch = json!({"metadata": {"annotations": {SELECTED_NODE: node}}});
            let told = claims.patch(&claim.name, &PatchParams::default(), &Patch::Merge(patch)).await?;
            // Without it the wait could take the claim as it was before for one that its provisioner gave back.
            if let Some(storage) = &binding.storage {
                storage.claims.acknowledge(told);
            }
            Ok(())
        }
        Choice::Take { claim, volume } => {
            let claims: Api<PersistentVolumeClaim> = Api::namespaced(binding.client.clone(), &claim.namespace);
            let volumes: Api<PersistentVolume> = Api::all(binding.client.clone());
            let (claim, mut volume) = futures::try_join!(claims.get(&claim.name), volumes.get(volume))?;
            let name = volume.metadata.name.clone().unwrap_or_default();
            if claim_ref(&volume).is_some_and(|reference| reference.uid != claim.metadata.uid) && !is_reserved_for(&volume, &claim) {
                let taken = kube::core::Status::failure(&format!("persistentvolume \"{name}\" was bound to another claim meanwhile"), "Conflict").with_code(409);
                return Err(kube::Error::Api(Box::new(taken)));
            }
            if !reserve(&mut volume, &claim) {
                return Ok(());
            }
            // With its resourceVersion: who was first has it.
            volumes.replace(&name, &PostParams::default(), &volume).await.map(drop)
        }
    }
}

/// Waits until the binder has bound what was chosen.
async fn wait(storage: &Storage, binding: &Binding, choices: &[Choice]) -> Result<(), BindError> {
    let mut version = storage.claims.version();
    let bound = |choice: &Choice| storage.claims.get_key(choice.claim()).is_some_and(|claim| is_bound(&claim));
    // A provisioner that cannot serve the node takes its annotation back: the pod is scheduled anew.
    let given_up = |choice: &Choice| {
        let Some(claim) = storage.claims.get_key(choice.claim()) else { return true };
        match choice {
            Choice::Take { volume, .. } => is_bound(&claim) && volume_of(&claim) != volume,
            Choice::Make { node, .. } => !is_bound(&claim) && (claim.metadata.deletion_timestamp.is_some() || annotation(&claim.metadata, SELECTED_NODE) != Some(node.as_str())),
        }
    };
    let failed = |why: &str| BindError::Volumes { pod: binding.pod.display(), why: why.to_owned() };
    let waiting = async {
        loop {
            if choices.iter().any(given_up) {
                return Err(failed("provisioning failed for a claim, or it is gone or has another volume"));
            }
            if choices.iter().all(bound) {
                return Ok(());
            }
            if version.changed().await.is_err() {
                return Err(failed("the scheduler stops"));
            }
        }
    };
    tokio::time::timeout(BIND_TIMEOUT, waiting).await.unwrap_or_else(|_| Err(failed("timed out waiting for the condition")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Cache;
    use crate::cache::tests::{node, pod};
    use crate::cycle::{Rotation, schedule};
    use keles_client::{Informer, Options};
    use serde_json::Value;
    use tokio_util::sync::CancellationToken;

    fn informer<K: keles_client::Watched>(objects: Value) -> Informer<K> {
        let informer = Informer::detached(Options::default(), CancellationToken::new());
        informer.fill(serde_json::from_value(objects).expect("objects"), 1);
        informer
    }
    fn volume(name: &str, host: &str) -> Value {
        let term = json!([{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [host]}]}]);
        let spec = json!({"capacity": {"storage": "5Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "wait", "nodeAffinity": {"required": {"nodeSelectorTerms": term}}});
        json!({"metadata": {"name": name}, "spec": spec, "status": {"phase": "Available"}})
    }
    fn claim(name: &str, class: &str, volume: &str) -> Value {
        let annotations = if volume.is_empty() { json!({}) } else { json!({"pv.kubernetes.io/bind-completed": "yes"}) };
        let spec = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": class, "volumeName": volume, "resources": {"requests": {"storage": "1Gi"}}});
        json!({"metadata": {"name": name, "namespace": "d", "annotations": annotations}, "spec": spec})
    }
    fn storage(claims: Value, volumes: Value) -> Storage {
        let class = |name: &str, provisioner: &str| json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer"});
        Storage { claims: informer(claims), volumes: informer(volumes), classes: informer(json!([class("wait", NO_PROVISIONER), class("made", "d.example")])) }
    }
    fn cluster() -> Cache {
        let mut cache = Cache::default();
        ["n1", "n2"].into_iter().for_each(|name| cache.set_node(node(name, json!({}))));
        cache
    }
    fn using(name: &str, claim: &str) -> Arc<PodInfo> {
        pod(name, json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]}))
    }
    fn run(storage: &Storage, pod: &PodInfo) -> Result<String, String> {
        schedule(pod, &cluster().snapshot(), &mut Rotation::default(), Some(storage)).map_err(|no_fit| no_fit.message)
    }

    #[test]
    fn a_pod_goes_where_its_volume_is_and_waits_for_claims_that_cannot_be_bound() {
        let held = storage(json!([claim("bound", "wait", "here"), claim("free", "now", "")]), json!([volume("here", "n2")]));
        assert_eq!(run(&held, &using("a", "bound")), Ok("n2".into()));
        let said = |claim: &str| run(&held, &using("b", claim)).expect_err("it waits");
        let prefix = "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims.";
        assert!(said("free").starts_with(prefix), "{}", said("free"));
        assert!(said("none").starts_with("0/2 nodes are available: persistentvolumeclaim \"none\" not found."), "{}", said("none"));
        let nowhere = storage(json!([claim("bound", "wait", "here")]), json!([volume("here", "n9")]));
        assert!(run(&nowhere, &using("c", "bound")).expect_err("out of reach").contains("2 node(s) didn't match PersistentVolume's node affinity"));
    }

    #[test]
    fn a_waiting_claim_gets_a_volume_that_the_node_reaches_and_no_other_pod_was_promised() {
        let storage = storage(json!([claim("c1", "wait", ""), claim("c2", "wait", ""), claim("c3", "made", "")]), json!([volume("only", "n1")]));
        assert_eq!(run(&storage, &using("first", "c1")), Ok("n1".into()));
        let refused = run(&storage, &using("second", "c2")).expect_err("it is promised to the first");
        assert!(refused.contains("2 node(s) didn't find available persistent volumes to bind"), "{refused}");
        PLUGIN.unreserve(&using("first", "c1"), "n1");
        assert_eq!(run(&storage, &using("second", "c2")), Ok("n1".into()), "free again");
        assert!(run(&storage, &using("third", "c3")).is_ok(), "a provisioner can make one anywhere");
        PLUGIN.unreserve(&using("second", "c2"), "n1");
        PLUGIN.unreserve(&using("third", "c3"), "n1");
    }

    #[test]
    fn pods_of_one_claim_are_promised_one_volume_and_a_provisioner_is_told_one_node() {
        let storage = |node: &str| {
            let mut told = claim("told", "made", "");
            told["metadata"]["annotations"] = json!({SELECTED_NODE: node});
            storage(json!([claim("shared", "wait", ""), told]), json!([volume("v1", "n1"), volume("v2", "n2")]))
        };
        let first = run(&storage("n2"), &using("one", "shared")).expect("a node");
        assert_eq!(run(&storage("n2"), &using("other", "shared")), Ok(first), "not the other volume");
        assert_eq!(run(&storage("n2"), &using("made", "told")), Ok("n2".into()));
        PLUGIN.unreserve(&using("made", ""), "");
        assert!(run(&storage("n9"), &using("made-too", "told")).expect_err("another node was told").contains("2 node(s) didn't find"));
        for name in ["one", "other"] {
            PLUGIN.unreserve(&using(name, ""), "");
        }
    }
}
