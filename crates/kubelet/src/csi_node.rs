//! What the API shows of this node's CSI drivers: the CSINode object, the node's labels of where drivers can reach it, and its names at them.
//!
//! Entry point: [`run`]. It compares what drivers are registered with what the API has at each change of either and when the node is made anew; entries of
//! drivers that have not shown themselves since the agent began stay as they are.

use crate::agent::Agent;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::{CSINode, CSINodeDriver, CSINodeSpec, VolumeNodeResources};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use keles_volumes::csi::{NodeInfo, Registration};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// On the node: driver -> this node's name at it, as JSON.
const NODE_ID: &str = "csi.volume.kubernetes.io/nodeid";
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// How often failed unstaging is tried again.
const SWEEP_PAUSE: Duration = Duration::from_secs(10);

type Drivers = BTreeMap<String, Registration>;

/// Which drivers the API shows.
#[derive(Default)]
pub struct Shown {
    names: watch::Sender<Vec<String>>,
}

impl Shown {
    /// Resolves once the API shows the driver.
    pub async fn shown(&self, name: &str) {
        let _ = self.names.subscribe().wait_for(|names| names.iter().any(|shown| shown == name)).await;
    }
}

/// Keeps the objects until `stop`; `registered` is the node's uid, each time it is made.
pub async fn run(agent: Arc<Agent>, mut registered: watch::Receiver<Option<String>>, stop: CancellationToken) {
    let keep = async {
        let mut drivers = agent.csi.drivers();
        let mut pause = FIRST_PAUSE;
        loop {
            let Some(uid) = registered.borrow_and_update().clone() else {
                if registered.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let all = drivers.borrow_and_update().clone();
            let (mut shown, mut failed) = (Vec::new(), false);
            if let Err(error) = write_csi_node(&agent, &uid, &Drivers::new()).await {
                tracing::info!(%error, "the node's CSINode is not written, will be tried again");
                failed = true;
            }
            // One at a time: what the API refuses of one does not keep the others.
            for (name, one) in &all {
                match write(&agent, &uid, &Drivers::from([(name.clone(), one.clone())])).await {
                    Ok(()) if matches!(one, Registration::Present { .. }) => shown.push(name.clone()),
                    Ok(()) => {}
                    Err(error) => {
                        tracing::info!(%error, driver = name, "a CSI driver of the node is not written, will be tried again");
                        failed = true;
                    }
                }
            }
            agent.csi_node.names.send_replace(shown);
            if !failed {
                pause = FIRST_PAUSE;
            }
            tokio::select! {
                changed = drivers.changed() => if changed.is_err() { return },
                changed = registered.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(pause), if failed => pause = (pause * 2).min(MAX_PAUSE),
            }
        }
    };
    tokio::select! { () = keep => {}, () = stop.cancelled() => {} }
}

/// Unstages what no pod has any more: after the pods are known, when a driver comes, and what failed, again.
pub async fn sweep(agent: Arc<Agent>, stop: CancellationToken) {
    let mut drivers = agent.csi.drivers();
    let mut known = agent.pods.are_known();
    let keep = async {
        if known.wait_for(|known| *known).await.is_err() {
            return;
        }
        loop {
            drivers.mark_unchanged();
            let done = agent.csi.sweep().await;
            let retry = async {
                match done {
                    true => std::future::pending().await,
                    false => tokio::time::sleep(SWEEP_PAUSE).await,
                }
            };
            tokio::select! {
                changed = drivers.changed() => if changed.is_err() { return },
                () = agent.csi.unswept() => tokio::time::sleep(SWEEP_PAUSE).await,
                () = retry => {}
            }
        }
    };
    tokio::select! { () = keep => {}, () = stop.cancelled() => {} }
}

async fn write(agent: &Agent, uid: &str, drivers: &Drivers) -> Result<(), kube::Error> {
    write_node(agent, drivers).await?;
    write_csi_node(agent, uid, drivers).await
}

/// Labels and the annotation, in one patch that is not sent when it would change nothing.
async fn write_node(agent: &Agent, drivers: &Drivers) -> Result<(), kube::Error> {
    if drivers.is_empty() {
        return Ok(());
    }
    let api: Api<Node> = Api::all(agent.client.clone());
    let name = &agent.config.node_name;
    let node = api.get(name).await?;
    let (labels, ids) = node_metadata(&node, drivers);
    let has = |key: &str, value: &String| node.metadata.labels.as_ref().and_then(|labels| labels.get(key)) == Some(value);
    let known = node.metadata.annotations.as_ref().and_then(|all| all.get(NODE_ID));
    if labels.iter().all(|(key, value)| has(key, value)) && known == ids.as_ref() {
        return Ok(());
    }
    let patch = json!({"metadata": {"labels": labels, "annotations": {NODE_ID: ids}}});
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
}

/// The labels to set, and the annotation (`None`: it goes).
fn node_metadata(node: &Node, drivers: &Drivers) -> (BTreeMap<String, String>, Option<String>) {
    let old = node.metadata.annotations.as_ref().and_then(|all| all.get(NODE_ID));
    let mut ids: BTreeMap<String, String> = old.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let mut labels = BTreeMap::new();
    for (name, driver) in drivers {
        match driver {
            Registration::Present { info, .. } => {
                ids.insert(name.clone(), info.node_id.clone());
                labels.extend(info.topology.clone());
            }
            // Labels stay: volumes may still say that they are reached from here.
            Registration::Gone => drop(ids.remove(name)),
        }
    }
    (labels, (!ids.is_empty()).then(|| json!(ids).to_string()))
}

async fn write_csi_node(agent: &Agent, uid: &str, drivers: &Drivers) -> Result<(), kube::Error> {
    let api: Api<CSINode> = Api::all(agent.client.clone());
    let name = &agent.config.node_name;
    let owner = OwnerReference { api_version: "v1".into(), kind: "Node".into(), name: name.clone(), uid: uid.into(), ..Default::default() };
    let Some(old) = api.get_opt(name).await? else {
        let metadata = ObjectMeta { name: Some(name.clone()), owner_references: Some(vec![owner]), ..Default::default() };
        let new = CSINode { metadata, spec: CSINodeSpec { drivers: joined(&[], drivers) } };
        return api.create(&PostParams::default(), &new).await.map(drop);
    };
    let mut new = old.clone();
    new.spec.drivers = joined(&old.spec.drivers, drivers);
    if old.metadata.owner_references.iter().flatten().all(|owner| owner.uid != uid) {
        new.metadata.owner_references = Some(vec![owner]);
    }
    if new == old {
        return Ok(());
    }
    // With its resourceVersion: who wrote meanwhile is not overwritten, we come again.
    api.replace(name, &PostParams::default(), &new).await.map(drop)
}

fn joined(old: &[CSINodeDriver], drivers: &Drivers) -> Vec<CSINodeDriver> {
    let kept = old.iter().filter(|entry| !drivers.contains_key(&entry.name)).cloned();
    let present = drivers.iter().filter_map(|(name, driver)| match driver {
        Registration::Present { info, .. } => Some(entry(name, info)),
        Registration::Gone => None,
    });
    kept.chain(present).collect()
}

fn entry(name: &str, info: &NodeInfo) -> CSINodeDriver {
    let mut keys: Vec<String> = info.topology.keys().cloned().collect();
    keys.sort();
    CSINodeDriver {
        name: name.into(),
        node_id: info.node_id.clone(),
        topology_keys: Some(keys).filter(|keys| !keys.is_empty()),
        allocatable: info.max_volumes.map(|count| VolumeNodeResources { count: Some(count) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keles_volumes::csi::Driver;

    fn present(id: &str, zone: &str) -> Registration {
        let topology = [("example.com/zone".to_owned(), zone.to_owned())].into();
        Registration::Present { driver: Driver::at("d", std::path::Path::new("/x")), info: NodeInfo { node_id: id.into(), max_volumes: Some(3), topology } }
    }

    #[test]
    fn drivers_that_did_not_show_themselves_stay_as_they_were() {
        let old = |name: &str| CSINodeDriver { name: name.into(), node_id: "old".into(), ..Default::default() };
        let drivers = Drivers::from([("gone".into(), Registration::Gone), ("new".into(), present("id", "z"))]);
        let all = joined(&[old("gone"), old("kept"), old("new")], &drivers);
        let names: Vec<(&str, &str)> = all.iter().map(|entry| (entry.name.as_str(), entry.node_id.as_str())).collect();
        assert_eq!(names, [("kept", "old"), ("new", "id")]);
        assert_eq!(all[1].topology_keys.as_deref(), Some(&["example.com/zone".to_owned()][..]));
        assert_eq!(all[1].allocatable.as_ref().and_then(|room| room.count), Some(3));
    }

    #[test]
    fn the_node_carries_its_names_at_drivers_and_where_they_reach_it() {
        let node = |ids: &str| -> Node { serde_json::from_value(json!({"metadata": {"annotations": {NODE_ID: ids}}})).expect("a node") };
        let drivers = Drivers::from([("gone".into(), Registration::Gone), ("new".into(), present("id", "z"))]);
        let (labels, ids) = node_metadata(&node(r#"{"gone":"a","kept":"b"}"#), &drivers);
        assert_eq!(labels, BTreeMap::from([("example.com/zone".to_owned(), "z".to_owned())]));
        assert_eq!(ids.as_deref(), Some(r#"{"kept":"b","new":"id"}"#));
        assert_eq!(node_metadata(&node(r#"{"gone":"a"}"#), &Drivers::from([("gone".into(), Registration::Gone)])).1, None);
    }
}
