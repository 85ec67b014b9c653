//! What the node knows of CSI volumes, on disk, in upstream's places below the agent's root: a restart of the agent, by kill -9 too, loses nothing.
//!
//! A pod's part is written before its driver is asked for anything, and taken away after the driver has given the volume back; so whatever stands on disk is
//! at least what drivers hold.

use crate::{Result, VolumeError, tmpfs};
use keles_rules::csi::{hash, unique_name};
use std::collections::BTreeMap;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

const FILE: &str = "vol_data.json";
/// Beside it while the driver shows the volume and the agent makes it ready.
const UNFINISHED: &str = ".unfinished";
const PLUGIN: &str = "kubernetes.io/csi";
const POD_PLUGIN: &str = "kubernetes.io~csi";
const PERSISTENT: &str = "Persistent";

/// `vol_data.json`, in upstream's keys; those with a dot are our own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeData {
    pub driver: String,
    pub handle: String,
    /// The persistent volume's name, or the name of an inline volume in its pod.
    pub spec_name: String,
    pub node: String,
    /// Name of the VolumeAttachment, whether or not the driver wants one.
    pub attachment: String,
    pub persistent: bool,
    /// Whether the volume had to be attached before it could be used.
    pub attached: bool,
    /// The volume's name in the pod, and its claim's.
    pub pod_volume: String,
    pub claim: String,
}

impl VolumeData {
    fn encode(&self) -> String {
        let lifecycle = if self.persistent { PERSISTENT } else { "Ephemeral" };
        serde_json::json!({
            "driverName": self.driver, "volumeHandle": self.handle, "specVolID": self.spec_name, "nodeName": self.node, "attachmentID": self.attachment,
            "volumeLifecycleMode": lifecycle, "keles.io/attached": self.attached.to_string(), "keles.io/pod-volume": self.pod_volume, "keles.io/claim": self.claim,
        })
        .to_string()
    }

    fn decode(text: &[u8]) -> Option<Self> {
        let map: BTreeMap<String, String> = serde_json::from_slice(text).ok()?;
        let text = |key: &str| map.get(key).cloned().unwrap_or_default();
        let data = VolumeData {
            driver: text("driverName"),
            handle: text("volumeHandle"),
            spec_name: text("specVolID"),
            node: text("nodeName"),
            attachment: text("attachmentID"),
            persistent: map.get("volumeLifecycleMode").is_none_or(|mode| mode == PERSISTENT),
            attached: text("keles.io/attached") == "true",
            pod_volume: text("keles.io/pod-volume"),
            claim: text("keles.io/claim"),
        };
        (!data.driver.is_empty() && !data.handle.is_empty()).then_some(data)
    }

    /// `kubernetes.io/csi/<driver>^<handle>`, as the node's status names volumes.
    pub fn unique_name(&self) -> String {
        unique_name(&self.driver, &self.handle)
    }
}

/// One volume of one pod on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub data: VolumeData,
    pub block: bool,
    /// Where the driver is to show it: a folder, or a file that is the device.
    pub target: PathBuf,
    /// Goes last: the pod's link to a device, or the folder around `target`.
    pub mark: PathBuf,
}

impl Held {
    /// Whether the driver has published it.
    pub fn is_there(&self) -> Result<bool> {
        if self.block {
            return Ok(std::fs::metadata(&self.target).is_ok_and(|info| info.file_type().is_block_device()));
        }
        Ok(!self.mark.join(UNFINISHED).exists() && tmpfs::is_mounted(&self.target)?)
    }

    /// What is mounted from here until [`Held::finish`] may be half of it.
    pub fn begin(&self) -> Result<()> {
        let path = self.mark.join(UNFINISHED);
        if self.block { Ok(()) } else { std::fs::write(&path, "").map_err(VolumeError::io("write", &path)) }
    }

    pub fn finish(&self) -> Result<()> {
        let path = self.mark.join(UNFINISHED);
        match std::fs::remove_file(&path) {
            Err(error) if !self.block && error.kind() != std::io::ErrorKind::NotFound => Err(VolumeError::io("remove", &path)(error)),
            _ => Ok(()),
        }
    }
}

/// The places below one root.
#[derive(Clone, Debug)]
pub struct Places {
    pub root: PathBuf,
}

impl Places {
    fn csi(&self) -> PathBuf {
        self.root.join("plugins").join(PLUGIN)
    }

    /// Where a driver prepares a volume of files for all pods of the node.
    pub fn staging(&self, driver: &str, handle: &str) -> PathBuf {
        self.csi().join(driver).join(hash(handle)).join("globalmount")
    }

    /// The same of a device.
    pub fn block_staging(&self, spec_name: &str) -> PathBuf {
        self.csi().join("volumeDevices/staging").join(spec_name)
    }

    fn block_target(&self, spec_name: &str, uid: &str) -> PathBuf {
        self.csi().join("volumeDevices/publish").join(spec_name).join(uid)
    }

    fn block_data(&self, spec_name: &str) -> PathBuf {
        self.csi().join("volumeDevices").join(spec_name).join("data")
    }

    pub fn staging_of(&self, data: &VolumeData, block: bool) -> PathBuf {
        if block { self.block_staging(&data.spec_name) } else { self.staging(&data.driver, &data.handle) }
    }

    fn pod(&self, uid: &str) -> PathBuf {
        self.root.join("pods").join(uid)
    }

    /// A pod's volume, whether or not it stands already.
    pub fn of_pod(&self, uid: &str, data: VolumeData, block: bool) -> Held {
        if block {
            let mark = self.pod(uid).join("volumeDevices").join(POD_PLUGIN).join(&data.spec_name);
            return Held { target: self.block_target(&data.spec_name, uid), mark, data, block };
        }
        let mark = self.pod(uid).join("volumes").join(POD_PLUGIN).join(&data.spec_name);
        Held { target: mark.join("mount"), mark, data, block }
    }

    /// Writes down that the pod is about to get the volume.
    pub fn note(&self, held: &Held) -> Result<()> {
        if !held.block {
            return write(&held.mark, &held.data);
        }
        write(&self.block_data(&held.data.spec_name), &held.data)?;
        for parent in [held.target.parent(), held.mark.parent()].into_iter().flatten() {
            std::fs::create_dir_all(parent).map_err(VolumeError::io("create", parent))?;
        }
        match std::os::unix::fs::symlink(&held.target, &held.mark) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(VolumeError::io("link", &held.mark)(error)),
            _ => Ok(()),
        }
    }

    /// The driver has given the volume back.
    pub fn forget(&self, held: &Held) -> Result<()> {
        let gone = |done: std::io::Result<()>, what, path: &Path| match done {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(VolumeError::io(what, path)(error)),
            _ => Ok(()),
        };
        if held.block {
            gone(std::fs::remove_file(&held.target), "remove", &held.target)?;
            return gone(std::fs::remove_file(&held.mark), "remove", &held.mark);
        }
        // Never with what is in it: a driver that left the files here must be asked again.
        gone(std::fs::remove_dir(&held.target), "remove", &held.target)?;
        held.finish()?;
        let file = held.mark.join(FILE);
        gone(std::fs::remove_file(&file), "remove", &file)?;
        gone(std::fs::remove_dir(&held.mark), "remove", &held.mark)
    }

    pub fn note_staging(&self, data: &VolumeData, block: bool) -> Result<PathBuf> {
        let path = self.staging_of(data, block);
        if !block {
            write(path.parent().expect("a staging folder has the volume's folder above it"), data)?;
        }
        std::fs::create_dir_all(&path).map_err(VolumeError::io("create", &path))?;
        Ok(path)
    }

    pub fn forget_staging(&self, data: &VolumeData, block: bool) -> Result<()> {
        let path = self.staging_of(data, block);
        let dir = |path: &Path| match std::fs::remove_dir(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(VolumeError::io("remove", path)(error)),
            _ => Ok(()),
        };
        dir(&path)?;
        if block {
            let data = self.block_data(&data.spec_name);
            let _ = std::fs::remove_file(data.join(FILE));
            let _ = std::fs::remove_dir(&data);
            let _ = data.parent().map(std::fs::remove_dir);
            return Ok(());
        }
        let around = path.parent().expect("a staging folder has the volume's folder above it");
        let _ = std::fs::remove_file(around.join(FILE));
        dir(around)
    }

    /// What stands on disk for one pod.
    pub fn held_by(&self, uid: &str) -> Vec<Held> {
        let files = children(&self.pod(uid).join("volumes").join(POD_PLUGIN)).into_iter().filter_map(|mark| Some(self.of_pod(uid, read(&mark)?, false)));
        let devices = children(&self.pod(uid).join("volumeDevices").join(POD_PLUGIN)).into_iter().filter_map(|mark| {
            let data = read(&self.block_data(mark.file_name()?.to_str()?))?;
            Some(self.of_pod(uid, data, true))
        });
        files.chain(devices).collect()
    }

    /// What stands on disk for all pods, with their uids.
    pub fn held(&self) -> Vec<(String, Held)> {
        let pods = children(&self.root.join("pods")).into_iter().filter_map(|pod| pod.file_name()?.to_str().map(str::to_owned));
        pods.flat_map(|uid| self.held_by(&uid).into_iter().map(move |held| (uid.clone(), held))).collect()
    }

    /// What drivers have prepared on this node, and whether it is a device.
    pub fn staged(&self) -> Vec<(VolumeData, bool)> {
        let drivers = children(&self.csi()).into_iter().filter(|path| path.file_name().is_some_and(|name| name != "volumeDevices"));
        let files = drivers.flat_map(|driver| children(&driver)).filter_map(|around| Some((read(&around)?, false)));
        let devices = children(&self.csi().join("volumeDevices/staging")).into_iter().filter_map(|path| Some((read(&self.block_data(path.file_name()?.to_str()?))?, true)));
        files.chain(devices).collect()
    }
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    all.sort();
    all
}

fn read(dir: &Path) -> Option<VolumeData> {
    VolumeData::decode(&std::fs::read(dir.join(FILE)).ok()?)
}

/// Whole or not at all: the agent may be killed at any time.
fn write(dir: &Path, data: &VolumeData) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(VolumeError::io("create", dir))?;
    if read(dir).as_ref() == Some(data) {
        return Ok(());
    }
    let (new, file) = (dir.join(".vol_data.json.new"), dir.join(FILE));
    std::fs::write(&new, data.encode()).map_err(VolumeError::io("write", &new))?;
    std::fs::rename(&new, &file).map_err(VolumeError::io("rename", &file))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data() -> VolumeData {
        VolumeData { driver: "d.example".into(), handle: "h".into(), spec_name: "pv".into(), node: "n".into(), attachment: "csi-x".into(), persistent: true, ..Default::default() }
    }

    #[test]
    fn what_is_noted_is_found_again_until_it_is_forgotten() {
        let root = tempfile::tempdir().expect("tempdir");
        let places = Places { root: root.path().into() };
        for block in [false, true] {
            let held = places.of_pod("u", VolumeData { spec_name: format!("pv-{block}"), handle: format!("h-{block}"), ..data() }, block);
            places.note(&held).expect("noted");
            places.note(&held).expect("noted again");
            let staging = places.note_staging(&held.data, block).expect("noted");
            assert!(staging.is_dir());
            assert_eq!(places.held_by("u"), [held.clone()]);
            assert_eq!(places.staged(), [(held.data.clone(), block)]);
            places.forget(&held).expect("forgotten");
            places.forget(&held).expect("twice");
            assert_eq!(places.held(), []);
            places.forget_staging(&held.data, block).expect("forgotten");
            assert_eq!(places.staged(), []);
        }
    }

    #[test]
    fn files_that_a_driver_left_are_not_removed() {
        let root = tempfile::tempdir().expect("tempdir");
        let places = Places { root: root.path().into() };
        let held = places.of_pod("u", data(), false);
        places.note(&held).expect("noted");
        std::fs::create_dir(&held.target).expect("made");
        std::fs::write(held.target.join("precious"), "").expect("written");
        places.forget(&held).expect_err("it is not empty");
        assert!(held.target.join("precious").exists());
        assert_eq!(places.held_by("u").len(), 1, "it is still known");
    }

    #[test]
    fn the_places_are_upstreams() {
        let places = Places { root: "/var/lib/kubelet".into() };
        let hash = "aaa9402664f1a41f40ebbc52c9993eb66aeb366602958fdfaa283b71e64db123";
        assert_eq!(places.staging("d", "h").to_str(), Some(format!("/var/lib/kubelet/plugins/kubernetes.io/csi/d/{hash}/globalmount").as_str()));
        assert_eq!(places.of_pod("u", data(), false).target.to_str(), Some("/var/lib/kubelet/pods/u/volumes/kubernetes.io~csi/pv/mount"));
        assert_eq!(places.of_pod("u", data(), true).target.to_str(), Some("/var/lib/kubelet/plugins/kubernetes.io/csi/volumeDevices/publish/pv/u"));
        assert_eq!(data().unique_name(), "kubernetes.io/csi/d.example^h");
    }

    /// As upstream's agent of v1.36 writes it.
    #[test]
    fn a_file_of_upstreams_agent_is_read() {
        let text = br#"{"attachmentID":"csi-1","driverName":"d","nodeName":"n","specVolID":"pv","volumeHandle":"h","volumeLifecycleMode":"Ephemeral","seLinuxMountContext":""}"#;
        let read = VolumeData::decode(text).expect("read");
        assert_eq!((read.driver.as_str(), read.handle.as_str(), read.persistent), ("d", "h", false));
        assert_eq!(VolumeData::decode(data().encode().as_bytes()), Some(data()));
        assert_eq!(VolumeData::decode(b"{}"), None);
    }
}
