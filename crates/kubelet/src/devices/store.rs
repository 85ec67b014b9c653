//! Which devices containers have, and the file that tells it to the next run (upstream's `kubelet_internal_checkpoint`).

use super::wire::ContainerAllocateResponse;
use crate::placement::checkpoint;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use prost::Message;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

pub const FILE: &str = "kubelet_internal_checkpoint";
/// Where devices stand that belong to no NUMA node.
pub const ANYWHERE: i64 = -1;

/// What a container was given of one resource.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Given {
    /// Device ids by NUMA node; one of several nodes is under each.
    pub ids: BTreeMap<i64, Vec<String>>,
    /// What the plugin said the container needs.
    pub answer: ContainerAllocateResponse,
}

impl Given {
    pub fn devices(&self) -> BTreeSet<String> {
        self.ids.values().flatten().cloned().collect()
    }
}

/// By pod's uid, container and resource.
pub type Allocations = BTreeMap<String, BTreeMap<String, BTreeMap<String, Given>>>;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct File {
    data: Data,
    checksum: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Data {
    pod_device_entries: Option<Vec<Entry>>,
    registered_devices: Option<BTreeMap<String, Vec<String>>>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    #[serde(rename = "PodUID")]
    pod_uid: String,
    #[serde(rename = "ContainerName")]
    container: String,
    #[serde(rename = "ResourceName")]
    resource: String,
    #[serde(rename = "DeviceIDs")]
    ids: BTreeMap<i64, Vec<String>>,
    /// Base64 of the message.
    #[serde(rename = "AllocResp")]
    answer: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("{0}")]
    Read(std::io::Error),
    #[error("it is no checkpoint: {0}")]
    Form(serde_json::Error),
    #[error("checkpoint is corrupted: its checksum is {written}, its content's {counted}")]
    Corrupted { written: u64, counted: u64 },
    #[error("the answer kept for container {container} of pod {pod} cannot be read")]
    Answer { pod: String, container: String },
}

/// As Go prints `checkpointData`; `None` is its nil.
fn print(data: &Data) -> String {
    let entry = |entry: &Entry| {
        let ids = checkpoint::map(entry.ids.iter().map(|(node, ids)| (node, checkpoint::list(ids))));
        let answer = entry.answer.as_ref().map_or("<nil>".into(), |text| checkpoint::list(BASE64_STANDARD.decode(text).unwrap_or_default()));
        format!(
            "{{PodUID:(string){} ContainerName:(string){} ResourceName:(string){} DeviceIDs:(checkpoint.DevicesPerNUMA){ids} AllocResp:([]uint8){answer}}}",
            entry.pod_uid, entry.container, entry.resource
        )
    };
    let entries = data.pod_device_entries.as_ref().map_or("<nil>".into(), |all| checkpoint::list(all.iter().map(entry)));
    let registered = data.registered_devices.as_ref().map_or("<nil>".into(), |all| checkpoint::map(all.iter().map(|(name, ids)| (name, checkpoint::list(ids)))));
    format!("(checkpoint.checkpointData){{PodDeviceEntries:([]checkpoint.PodDevicesEntry){entries} RegisteredDevices:(map[string][]string){registered}}}")
}

pub fn write(folder: &Path, allocations: &Allocations, registered: BTreeMap<String, Vec<String>>) -> std::io::Result<()> {
    let entries = allocations.iter().flat_map(|(pod, containers)| {
        containers.iter().flat_map(move |(container, resources)| {
            resources.iter().map(move |(resource, given)| Entry {
                pod_uid: pod.clone(),
                container: container.clone(),
                resource: resource.clone(),
                ids: given.ids.clone(),
                answer: Some(BASE64_STANDARD.encode(given.answer.encode_to_vec())),
            })
        })
    });
    let entries: Vec<Entry> = entries.collect();
    let data = Data { pod_device_entries: (!entries.is_empty()).then_some(entries), registered_devices: Some(registered) };
    let checksum = checkpoint::checksum(&print(&data));
    let text = serde_json::to_vec(&File { data, checksum }).map_err(std::io::Error::other)?;
    checkpoint::write(&folder.join(FILE), &text)
}

/// What an earlier run gave, and the resources it knew; `None` where there is no checkpoint.
pub fn read(folder: &Path) -> Result<Option<(Allocations, Vec<String>)>, CheckpointError> {
    let text = match std::fs::read(folder.join(FILE)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(CheckpointError::Read)?,
    };
    let File { data, checksum } = serde_json::from_slice(&text).map_err(CheckpointError::Form)?;
    let counted = checkpoint::checksum(&print(&data));
    if checksum != counted {
        return Err(CheckpointError::Corrupted { written: checksum, counted });
    }
    let mut allocations = Allocations::new();
    for Entry { pod_uid, container, resource, ids, answer } in data.pod_device_entries.into_iter().flatten() {
        let bytes = BASE64_STANDARD.decode(answer.unwrap_or_default()).ok();
        let answer = bytes.and_then(|bytes| ContainerAllocateResponse::decode(bytes.as_slice()).ok());
        let answer = answer.ok_or_else(|| CheckpointError::Answer { pod: pod_uid.clone(), container: container.clone() })?;
        allocations.entry(pod_uid).or_default().entry(container).or_default().insert(resource, Given { ids, answer });
    }
    Ok(Some((allocations, data.registered_devices.into_iter().flatten().map(|(name, _)| name).collect())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The form in which Go's spew prints the state, as upstream's checksum reads it.
    #[test]
    fn a_checkpoint_is_printed_as_go_prints_it() {
        let entry =
            Entry { pod_uid: "u".into(), container: "c".into(), resource: "r/x".into(), ids: BTreeMap::from([(-1, vec!["a".into(), "b".into()])]), answer: Some("CgA=".into()) };
        let data = Data { pod_device_entries: Some(vec![entry]), registered_devices: Some(BTreeMap::from([("r/x".into(), vec!["a".into()])])) };
        assert_eq!(
            print(&data),
            "(checkpoint.checkpointData){PodDeviceEntries:([]checkpoint.PodDevicesEntry)[{PodUID:(string)u ContainerName:(string)c ResourceName:(string)r/x \
             DeviceIDs:(checkpoint.DevicesPerNUMA)map[-1:[a b]] AllocResp:([]uint8)[10 0]}] RegisteredDevices:(map[string][]string)map[r/x:[a]]}"
        );
    }

    #[test]
    fn what_was_given_is_read_back_and_a_damaged_file_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(read(folder.path()).expect("nothing yet"), None);
        let answer = ContainerAllocateResponse { envs: BTreeMap::from([("A".into(), "1".into())]), ..Default::default() };
        let given = Given { ids: BTreeMap::from([(0, vec!["d1".into()])]), answer };
        let all = Allocations::from([("uid".into(), BTreeMap::from([("c".into(), BTreeMap::from([("example.com/x".into(), given)]))]))]);
        write(folder.path(), &all, BTreeMap::from([("example.com/x".into(), vec!["d1".into()])])).expect("written");
        let (back, names) = read(folder.path()).expect("whole").expect("there");
        assert_eq!((back, names), (all, vec!["example.com/x".to_owned()]));
        let file = folder.path().join(FILE);
        let text = std::fs::read_to_string(&file).expect("a file").replace("d1", "d2");
        std::fs::write(&file, text).expect("changed");
        assert!(matches!(read(folder.path()), Err(CheckpointError::Corrupted { .. })));
    }
}
