//! Attaches volumes of CSI drivers to the nodes whose pods want them, and detaches them when the node has let go (upstream's attachdetach controller).
//!
//! A VolumeAttachment asks the driver's external attacher; `status.volumesAttached` of the node tells its agent, which says by `status.volumesInUse` what must
//! not be taken. `plan` decides purely; this file reads the caches and carries out, a node at a time. Invariant: what is to be detached leaves the node's
//! status before its attachment is deleted. Deliberately absent: in-tree volume types, drivers whose CSIDriver says `attachRequired: false`.

mod plan;

use crate::Start;
use crate::pod_gc::{index_by_node, node_of, pods_of_node};
use crate::pvc_protection::{claims_of, index_by_claim, pods_of_claim};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use keles_client::{Change, Informer, ObjectKey};
use keles_reconcile::{Context, Controller, Outcome, ReconcileError, Watches, Writer, reference_of};
use keles_rules::csi::{attaches, attachment_name, source, unique_name};
use keles_rules::readiness::is_terminal;
use keles_rules::volume_binding::{claim_ref, is_bound, is_claim_for, volume_of};
use kube::api::Patch;
use plan::{Attachment, NodeState, Wanted};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const BY_NODE: &str = "node";
const BY_VOLUME: &str = "volume";
/// Nodes whose agent leaves attaching to us carry it; ours do.
const MANAGED: &str = "volumes.kubernetes.io/controller-managed-attach-detach";
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

pub struct AttachDetachController {
    nodes: Writer<Node>,
    pods: Informer<Pod>,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    drivers: Informer<CSIDriver>,
    attachments: Writer<VolumeAttachment>,
    /// Attachments that nobody wants, and since when.
    unwanted: Mutex<HashMap<String, Instant>>,
}

/// A volume that pods of one node want.
struct Wish {
    volume: Arc<PersistentVolume>,
    pods: Vec<Arc<Pod>>,
    wanted: Wanted,
}

impl AttachDetachController {
    pub fn new(start: &Start) -> Self {
        let pods: Informer<Pod> = start.informers.of();
        index_by_node(&pods);
        index_by_claim(&pods);
        let attachments: Writer<VolumeAttachment> = start.writer();
        attachments.informer().add_index(BY_NODE, |attachment| vec![attachment.spec.node_name.clone()]);
        attachments.informer().add_index(BY_VOLUME, |attachment| attachment.spec.source.persistent_volume_name.clone().into_iter().collect());
        AttachDetachController {
            nodes: start.writer(),
            pods,
            claims: start.informers.of(),
            volumes: start.informers.of(),
            drivers: start.informers.of(),
            attachments,
            unwanted: Mutex::default(),
        }
    }

    /// What the node's pods want attached, by the name of the attachment.
    fn wishes(&self, node: &str) -> BTreeMap<String, Wish> {
        let mut wishes: BTreeMap<String, Wish> = BTreeMap::new();
        for pod in pods_of_node(&self.pods, node).into_iter().filter(|pod| !is_terminal(pod)) {
            for (key, own) in claims_of(&pod) {
                let Some(volume) = self.volume_of(&key, own, &pod) else { continue };
                let Some((driver, handle)) = source(&volume) else { continue };
                if !attaches(self.drivers.get("", driver).as_deref()) {
                    continue;
                }
                let wish = wishes.entry(attachment_name(handle, driver, node)).or_insert_with(|| Wish {
                    wanted: Wanted { unique: unique_name(driver, handle), taken_by: self.taken_by(&volume, node) },
                    volume: volume.clone(),
                    pods: Vec::new(),
                });
                wish.pods.push(pod.clone());
            }
        }
        wishes
    }

    /// The volume that the pod's claim is bound to, from both sides.
    fn volume_of(&self, key: &ObjectKey, own: bool, pod: &Pod) -> Option<Arc<PersistentVolume>> {
        let claim = self.claims.get_key(key).filter(|claim| is_bound(claim) && (!own || is_claim_for(claim, pod)))?;
        let volume = self.volumes.get("", volume_of(&claim))?;
        (claim_ref(&volume)?.uid == claim.metadata.uid).then_some(volume)
    }

    /// The other node that has a volume which only one may have.
    fn taken_by(&self, volume: &PersistentVolume, node: &str) -> Option<String> {
        let modes: Vec<&str> = volume.spec.iter().flat_map(|spec| spec.access_modes.iter().flatten()).map(String::as_str).collect();
        if modes.is_empty() || modes.iter().any(|mode| matches!(*mode, "ReadWriteMany" | "ReadOnlyMany")) {
            return None;
        }
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        let others = self.attachments.informer().by_index(BY_VOLUME, name);
        others.iter().map(|attachment| attachment.spec.node_name.clone()).find(|other| other != node)
    }

    fn unwanted_for(&self, name: &str, wanted: bool) -> Duration {
        let mut all = self.unwanted.lock().unwrap_or_else(PoisonError::into_inner);
        if wanted {
            all.remove(name);
            return Duration::ZERO;
        }
        all.entry(name.into()).or_insert_with(Instant::now).elapsed()
    }

    /// Attachments of the node that are of our making, by name.
    fn there(&self, node: &str, wishes: &BTreeMap<String, Wish>, in_use: &BTreeSet<String>) -> BTreeMap<String, (Arc<VolumeAttachment>, Attachment)> {
        let mut found = BTreeMap::new();
        for attachment in self.attachments.informer().by_index(BY_NODE, node) {
            let name = attachment.metadata.name.clone().unwrap_or_default();
            let Some(volume) = attachment.spec.source.persistent_volume_name.as_deref() else { continue };
            let volume = self.volumes.get("", volume);
            let named = volume.as_deref().and_then(source);
            // Others may attach volumes by objects of their own.
            if named.is_some_and(|(driver, handle)| attachment_name(handle, driver, node) != name) || (named.is_none() && !name.starts_with("csi-")) {
                continue;
            }
            // Of a volume whose object is gone the node may still tell.
            let told = || {
                let named = |unique: &str| {
                    unique.strip_prefix("kubernetes.io/csi/").and_then(|rest| rest.split_once('^')).is_some_and(|(driver, handle)| attachment_name(handle, driver, node) == name)
                };
                in_use.iter().find(|unique| named(unique.as_str())).cloned()
            };
            let state = Attachment {
                unique: named.map(|(driver, handle)| unique_name(driver, handle)).or_else(told),
                attached: attachment.status.as_ref().is_some_and(|status| status.attached),
                deleting: attachment.metadata.deletion_timestamp.is_some(),
                unwanted_for: self.unwanted_for(&name, wishes.contains_key(&name)),
            };
            found.insert(name, (attachment, state));
        }
        found
    }

    fn state_of(node: Option<&Node>) -> NodeState {
        let Some(node) = node else { return NodeState::default() };
        let status = node.status.as_ref();
        let ready = status.iter().flat_map(|status| status.conditions.iter().flatten()).any(|condition| condition.type_ == "Ready" && condition.status == "True");
        let mut taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
        NodeState {
            in_use: status.iter().flat_map(|status| status.volumes_in_use.iter().flatten()).cloned().collect(),
            healthy: ready,
            out_of_service: taints.any(|taint| taint.key == OUT_OF_SERVICE && taint.effect == "NoExecute"),
        }
    }

    /// Writes `status.volumesAttached` and tells the pods of what is new in it.
    async fn show(&self, node: &Node, plan: &plan::Plan, wishes: &BTreeMap<String, Wish>, context: &Context) -> Result<(), ReconcileError> {
        let mut before: Vec<String> = node.status.iter().flat_map(|status| status.volumes_attached.iter().flatten()).map(|volume| volume.name.clone()).collect();
        before.sort();
        if before.iter().eq(&plan.shown) {
            return Ok(());
        }
        let attached: Vec<_> = plan.shown.iter().map(|name| json!({"name": name, "devicePath": ""})).collect();
        self.nodes.patch_status(&ObjectKey::of(node), &Patch::Merge(json!({"status": {"volumesAttached": attached}}))).await?;
        for wish in wishes.values().filter(|wish| plan.shown.contains(&wish.wanted.unique) && !before.contains(&wish.wanted.unique)) {
            let message = format!("AttachVolume.Attach succeeded for volume \"{}\" ", wish.name());
            wish.pods.iter().for_each(|pod| context.events.normal(reference_of(pod.as_ref()), "SuccessfulAttachVolume", message.clone()));
        }
        Ok(())
    }

    /// Tells the pods of an attempt that failed.
    fn tell_failures(&self, wishes: &BTreeMap<String, Wish>, there: &BTreeMap<String, (Arc<VolumeAttachment>, Attachment)>, context: &Context) {
        for (name, wish) in wishes {
            let error = there.get(name).and_then(|(attachment, _)| attachment.status.as_ref()).filter(|status| !status.attached).and_then(|status| status.attach_error.as_ref());
            if let Some(why) = error.and_then(|error| error.message.as_deref()) {
                let message = format!("AttachVolume.Attach failed for volume \"{}\" : {why}", wish.name());
                wish.pods.iter().for_each(|pod| context.events.warning(reference_of(pod.as_ref()), "FailedAttachVolume", message.clone()));
            }
        }
    }

    /// Who has the volume, in upstream's words: pods of other namespaces are only counted.
    fn multi_attach(&self, wish: &Wish, pod: &Pod) -> String {
        let key = claim_ref(&wish.volume).map(|reference| ObjectKey::new(reference.namespace.as_deref().unwrap_or_default(), reference.name.as_deref().unwrap_or_default()));
        let holders: Vec<Arc<Pod>> = key.map(|key| pods_of_claim(&self.pods, &key)).unwrap_or_default();
        let others = holders.iter().filter(|other| node_of(other) != node_of(pod) && node_of(other).is_some());
        let mut names: Vec<&str> = others.filter_map(|other| other.metadata.name.as_deref()).collect();
        names.sort_unstable();
        let head = format!("Multi-Attach error for volume \"{}\" ", wish.name());
        match names.is_empty() {
            true => head + "Volume is already exclusively attached to one node and can't be attached to another",
            false => head + &format!("Volume is already used by pod(s) {}", names.join(", ")),
        }
    }

    async fn attach(&self, name: &str, node: &str, wish: &Wish) -> Result<(), ReconcileError> {
        let (driver, _) = source(&wish.volume).expect("only volumes of drivers are wished for");
        let spec = VolumeAttachmentSpec {
            attacher: driver.into(),
            node_name: node.into(),
            source: VolumeAttachmentSource { persistent_volume_name: wish.volume.metadata.name.clone(), inline_volume_spec: None },
        };
        let attachment = VolumeAttachment { metadata: ObjectMeta { name: Some(name.into()), ..Default::default() }, spec, status: None };
        match self.attachments.create(&attachment).await {
            Err(error) if error.is_already_exists() => Ok(()),
            other => other.map(drop).map_err(Into::into),
        }
    }

    /// The nodes whose pods use the volume.
    fn nodes_of(pods: &Informer<Pod>, volume: &PersistentVolume) -> Vec<String> {
        let Some(reference) = claim_ref(volume) else { return Vec::new() };
        let key = ObjectKey::new(reference.namespace.as_deref().unwrap_or_default(), reference.name.as_deref().unwrap_or_default());
        pods_of_claim(pods, &key).iter().filter_map(|pod| node_of(pod).map(str::to_owned)).collect()
    }
}

impl Wish {
    fn name(&self) -> &str {
        self.volume.metadata.name.as_deref().unwrap_or_default()
    }
}

impl Controller for AttachDetachController {
    const NAME: &'static str = "persistentvolume-attach-detach-controller";
    /// Whether another node has the volume is asked before it is attached: nothing may come in between.
    const WORKERS: usize = 1;

    fn watches(&self, watches: &mut Watches) {
        watches.on(self.nodes.informer(), |change, queue| {
            let state = |node: &Node| {
                let status = node.status.as_ref();
                let in_use = status.and_then(|status| status.volumes_in_use.clone());
                (in_use, status.and_then(|status| status.volumes_attached.clone()), node.spec.as_ref().and_then(|spec| spec.taints.clone()), Self::state_of(Some(node)).healthy)
            };
            // Heartbeats change nothing here.
            if change.old().is_none_or(|old| state(old) != state(change.object())) {
                queue.add(ObjectKey::of(change.object().as_ref()));
            }
        });
        watches.on(&self.pods, |change, queue| {
            let pod = change.object();
            let placed = |pod: &Pod| (node_of(pod).map(str::to_owned), is_terminal(pod));
            let matters = matches!(change, Change::Deleted(_)) || change.old().is_none_or(|old| placed(old) != placed(pod));
            if let Some(node) = node_of(pod).filter(|_| matters && claims_of(pod).next().is_some()) {
                queue.add(ObjectKey::cluster(node));
            }
        });
        let pods = self.pods.clone();
        watches.on(&self.volumes, move |change, queue| {
            if source(change.object()).is_some() {
                Self::nodes_of(&pods, change.object()).into_iter().for_each(|node| queue.add(ObjectKey::cluster(node)));
            }
        });
        let pods = self.pods.clone();
        watches.on(&self.claims, move |change, queue| {
            let key = ObjectKey::of(change.object().as_ref());
            pods_of_claim(&pods, &key).iter().filter_map(|pod| node_of(pod)).for_each(|node| queue.add(ObjectKey::cluster(node)));
        });
        let nodes = self.nodes.informer().clone();
        watches.on(&self.drivers, move |_, queue| nodes.list().iter().for_each(|node| queue.add(ObjectKey::of(node.as_ref()))));
        let (pods, volumes) = (self.pods.clone(), self.volumes.clone());
        watches.on(self.attachments.informer(), move |change, queue| {
            let attachment = change.object();
            queue.add(ObjectKey::cluster(&attachment.spec.node_name));
            // Somebody else may wait for the volume.
            let volume = attachment.spec.source.persistent_volume_name.as_deref().filter(|_| matches!(change, Change::Deleted(_)));
            if let Some(volume) = volume.and_then(|name| volumes.get("", name)) {
                Self::nodes_of(&pods, &volume).into_iter().for_each(|node| queue.add(ObjectKey::cluster(node)));
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey, context: &Context) -> Result<Outcome, ReconcileError> {
        let name = &key.name;
        let node = self.nodes.informer().get_key(key);
        let managed = |node: &Node| node.metadata.annotations.as_ref().and_then(|all| all.get(MANAGED)).is_some_and(|value| value == "true");
        if node.as_deref().is_some_and(|node| !managed(node)) {
            return Ok(Outcome::Done);
        }
        // Pods of a node that is gone want nothing attached to it.
        let wishes = if node.is_some() { self.wishes(name) } else { BTreeMap::new() };
        let mut state = Self::state_of(node.as_deref());
        let there = self.there(name, &wishes, &state.in_use);
        let wanted: BTreeMap<String, Wanted> = wishes.iter().map(|(name, wish)| (name.clone(), wish.wanted.clone())).collect();
        let states: BTreeMap<String, Attachment> = there.iter().map(|(name, (_, state))| (name.clone(), state.clone())).collect();
        if node.is_none() {
            // Its agent may still run and make it anew: all is held until the wait is over.
            state.in_use = states.values().filter_map(|attachment| attachment.unique.clone()).collect();
        }
        let plan = plan::plan(&wanted, &states, &state);
        if let Some(node) = &node {
            self.show(node, &plan, &wishes, context).await?;
        }
        self.tell_failures(&wishes, &there, context);
        let mut fresh = BTreeSet::new();
        if node.is_some() && !plan.detach.is_empty() {
            // Past the cache, and after the status shows it no more: a pod may have come meanwhile.
            fresh = Self::state_of(Some(&self.nodes.get(key).await?)).in_use;
        }
        for gone in &plan.detach {
            if states[gone].unique.as_ref().is_some_and(|unique| fresh.contains(unique) && !state.in_use.contains(unique)) {
                // The node's change brings us here again.
                continue;
            }
            self.attachments.delete(there[gone].0.as_ref()).await?;
            self.unwanted_for(gone, true);
        }
        for (refused, _) in &plan.refused {
            let wish = &wishes[refused];
            wish.pods.iter().for_each(|pod| context.events.warning(reference_of(pod.as_ref()), "FailedAttachVolume", self.multi_attach(wish, pod)));
        }
        for new in &plan.attach {
            self.attach(new, name, &wishes[new]).await?;
        }
        Ok(plan.again_after.map_or(Outcome::Done, Outcome::After))
    }
}
