//! Which claims pods of this node use, and the file that tells it to the next run (upstream's `dra_manager_state`).
//!
//! The file is JSON within JSON: the inner text carries a CRC-32 (IEEE), so that a damaged one is not taken for what drivers have prepared.

use crate::placement::checkpoint;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

pub const FILE: &str = "dra_manager_state";
const KIND: &str = "DRACheckpoint";
const VERSION: &str = "checkpoint.dra.kubelet.k8s.io/v1";

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("could not initialize checkpoint manager, please drain node and remove dra state file {path}: {source}")]
    Read { path: String, source: std::io::Error },
    #[error("could not initialize checkpoint manager, please drain node and remove dra state file {path}: {source}")]
    Form { path: String, source: serde_json::Error },
    #[error("could not initialize checkpoint manager, please drain node and remove dra state file {path}: checkpoint is corrupted: checksum {written}, counted {counted}")]
    Corrupted { path: String, written: u32, counted: u32 },
}

/// A claim that pods of the node use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Claim {
    #[serde(rename = "ClaimUID")]
    pub uid: String,
    #[serde(rename = "ClaimName")]
    pub name: String,
    pub namespace: String,
    #[serde(rename = "PodUIDs", with = "set")]
    pub pods: BTreeSet<String>,
    /// All drivers that have a part in the allocation, with the devices they gave.
    #[serde(rename = "DriverState", with = "list_or_null")]
    pub drivers: BTreeMap<String, Driver>,
    /// By this run: what an earlier one left may be half done, and drivers answer the same to a second call.
    #[serde(skip)]
    pub prepared: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Driver {
    #[serde(with = "list_or_null")]
    pub devices: Vec<Device>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Device {
    #[serde(rename = "PoolName")]
    pub pool: String,
    #[serde(rename = "DeviceName")]
    pub name: String,
    #[serde(rename = "ShareID", default)]
    pub share_id: Option<String>,
    /// None: of all requests of the claim.
    #[serde(rename = "RequestNames", with = "list_or_null")]
    pub requests: Vec<String>,
    #[serde(rename = "CDIDeviceIDs", with = "list_or_null")]
    pub cdi: Vec<String>,
}

impl Device {
    /// Whether it belongs to a request; `None` stands for all.
    pub fn is_of(&self, request: Option<&str>) -> bool {
        request.is_none_or(|request| self.requests.is_empty() || self.requests.iter().any(|name| name == request))
    }
}

/// By namespace and name.
pub type Claims = BTreeMap<(String, String), Claim>;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct File {
    data: String,
    checksum: u32,
}

#[derive(Serialize, Deserialize)]
struct Data {
    kind: String,
    #[serde(rename = "apiVersion")]
    api_version: String,
    #[serde(rename = "Entries", with = "list_or_null")]
    entries: Vec<Claim>,
}

fn checksum(text: &str) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(text.as_bytes());
    crc.sum()
}

fn encode(claims: &Claims) -> serde_json::Result<Vec<u8>> {
    let data = Data { kind: KIND.into(), api_version: VERSION.into(), entries: claims.values().cloned().collect() };
    let data = serde_json::to_string(&data)?;
    serde_json::to_vec(&File { checksum: checksum(&data), data })
}

pub fn write(folder: &Path, claims: &Claims) -> std::io::Result<()> {
    checkpoint::write(&folder.join(FILE), &encode(claims).map_err(std::io::Error::other)?)
}

/// What an earlier run had; nothing where there is no file.
pub fn read(folder: &Path) -> Result<Claims, StoreError> {
    let file = folder.join(FILE);
    let path = file.display().to_string();
    let text = match std::fs::read(&file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Claims::new()),
        text => text.map_err(|source| StoreError::Read { path: path.clone(), source })?,
    };
    decode(&text, path)
}

fn decode(text: &[u8], path: String) -> Result<Claims, StoreError> {
    let form = |source| StoreError::Form { path: path.clone(), source };
    let File { data, checksum: written } = serde_json::from_slice(text).map_err(form)?;
    let counted = checksum(&data);
    if written != counted {
        return Err(StoreError::Corrupted { path, written, counted });
    }
    let Data { entries, .. } = serde_json::from_str(&data).map_err(form)?;
    Ok(entries.into_iter().map(|claim| ((claim.namespace.clone(), claim.name.clone()), claim)).collect())
}

/// As Go writes a set: `{"a":{},"b":{}}`.
mod set {
    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Empty {}

    pub fn serialize<S: Serializer>(all: &BTreeSet<String>, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(all.iter().map(|item| (item, Empty {})))
    }
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeSet<String>, D::Error> {
        let all: Option<BTreeMap<String, Empty>> = Option::deserialize(from)?;
        Ok(all.into_iter().flatten().map(|(item, _)| item).collect())
    }
}

/// As Go writes a slice that was never filled: `null`.
mod list_or_null {
    use super::*;

    /// What knows whether anything is in it.
    pub trait Collection {
        fn is_bare(&self) -> bool;
    }
    impl<T> Collection for Vec<T> {
        fn is_bare(&self) -> bool {
            self.is_empty()
        }
    }
    impl<K, V> Collection for BTreeMap<K, V> {
        // Made with the claim, never nil.
        fn is_bare(&self) -> bool {
            false
        }
    }

    pub fn serialize<S: Serializer, C: Collection + Serialize>(all: &C, to: S) -> Result<S::Ok, S::Error> {
        if all.is_bare() { to.serialize_none() } else { all.serialize(to) }
    }
    pub fn deserialize<'de, D: Deserializer<'de>, C: Default + Deserialize<'de>>(from: D) -> Result<C, D::Error> {
        Ok(Option::deserialize(from)?.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(name: &str, device: Device) -> Claim {
        Claim {
            uid: format!("uid-of-{name}"),
            name: name.into(),
            namespace: "default".into(),
            pods: ["pod-1".to_owned()].into(),
            drivers: BTreeMap::from([("d.example.com".to_owned(), Driver { devices: vec![device] })]),
            prepared: false,
        }
    }

    fn all() -> Claims {
        let full = Device { pool: "w".into(), name: "dev-1".into(), share_id: None, requests: vec!["r".into()], cdi: vec!["example.com/x=1".into()] };
        let bare = Device { pool: "w".into(), name: "dev-2".into(), ..Device::default() };
        [claim("a", full), claim("b", bare)].into_iter().map(|claim| ((claim.namespace.clone(), claim.name.clone()), claim)).collect()
    }

    /// The form of the state as Go's encoder writes it: fields in their structs' order, nil slices as null, a set as a map of empty objects.
    #[test]
    fn the_state_is_written_in_upstreams_form() {
        let file: serde_json::Value = serde_json::from_slice(&encode(&all()).expect("encodes")).expect("JSON");
        let data = concat!(
            r#"{"kind":"DRACheckpoint","apiVersion":"checkpoint.dra.kubelet.k8s.io/v1","Entries":["#,
            r#"{"ClaimUID":"uid-of-a","ClaimName":"a","Namespace":"default","PodUIDs":{"pod-1":{}},"DriverState":{"d.example.com":{"Devices":["#,
            r#"{"PoolName":"w","DeviceName":"dev-1","ShareID":null,"RequestNames":["r"],"CDIDeviceIDs":["example.com/x=1"]}]}}},"#,
            r#"{"ClaimUID":"uid-of-b","ClaimName":"b","Namespace":"default","PodUIDs":{"pod-1":{}},"DriverState":{"d.example.com":{"Devices":["#,
            r#"{"PoolName":"w","DeviceName":"dev-2","ShareID":null,"RequestNames":null,"CDIDeviceIDs":null}]}}}]}"#
        );
        assert_eq!(file["Data"], data);
        assert_eq!(file["Checksum"], checksum(data));
        // The check value of CRC-32 (IEEE 802.3).
        assert_eq!(checksum("123456789"), 0xcbf4_3926);
    }

    /// Upstream before 1.34 knew no shares: its files have no ShareID.
    #[test]
    fn a_file_of_an_older_upstream_is_read() {
        let data = r#"{"kind":"DRACheckpoint","apiVersion":"checkpoint.dra.kubelet.k8s.io/v1","Entries":[{"ClaimUID":"u","ClaimName":"example","Namespace":"default","PodUIDs":{"p":{}},"DriverState":{"d":{"Devices":[{"PoolName":"worker-1","DeviceName":"dev-1","RequestNames":["q"],"CDIDeviceIDs":null}]},"without":{"Devices":null}}}]}"#;
        let text = serde_json::json!({"Data": data, "Checksum": checksum(data)}).to_string();
        let claims = decode(text.as_bytes(), "file".into()).expect("whole");
        let claim = &claims[&("default".to_owned(), "example".to_owned())];
        assert_eq!((claim.uid.as_str(), claim.drivers["d"].devices[0].requests.as_slice(), claim.drivers["without"].devices.len()), ("u", &["q".to_owned()][..], 0));
        let none = r#"{"kind":"DRACheckpoint","apiVersion":"checkpoint.dra.kubelet.k8s.io/v1","Entries":null}"#;
        let text = serde_json::json!({"Data": none, "Checksum": checksum(none)}).to_string();
        assert!(decode(text.as_bytes(), "file".into()).expect("empty").is_empty());
    }

    #[test]
    fn what_was_written_is_read_back_and_a_damaged_file_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(read(folder.path()).expect("nothing yet").is_empty());
        write(folder.path(), &all()).expect("written");
        assert_eq!(read(folder.path()).expect("whole"), all());
        let file = folder.path().join(FILE);
        let text = std::fs::read_to_string(&file).expect("a file").replace("dev-1", "dev-9");
        std::fs::write(&file, text).expect("changed");
        let error = read(folder.path()).expect_err("damaged");
        assert!(matches!(error, StoreError::Corrupted { .. }) && error.to_string().contains("please drain node and remove dra state file"), "{error}");
    }

    #[test]
    fn a_device_without_requests_is_of_all() {
        let of = |requests: &[&str]| Device { requests: requests.iter().map(|name| (*name).into()).collect(), ..Device::default() };
        for (requests, asked, is) in [(&[][..], Some("r"), true), (&["r"], Some("r"), true), (&["r"], None, true), (&["other"], Some("r"), false)] {
            assert_eq!(of(requests).is_of(asked), is, "{requests:?} {asked:?}");
        }
    }
}
