use super::*;
use k8s_openapi::ByteString;
use serde_json::json;
use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::sync::Mutex;

/// The API as one map of each kind; tokens are numbered.
#[derive(Default)]
pub(crate) struct World {
    config_maps: Mutex<BTreeMap<String, ConfigMap>>,
    secrets: Mutex<BTreeMap<String, Secret>>,
    bundles: Mutex<Vec<ClusterTrustBundle>>,
    pub claim: Mutex<Option<PersistentVolumeClaim>>,
    volume: Mutex<Option<PersistentVolume>>,
    pub csi_driver: Mutex<Option<CSIDriver>>,
    /// What was written of claims, and events' reasons.
    pub told: Mutex<Vec<String>>,
}

impl World {
    pub fn add_secret(&self, name: &str, data: BTreeMap<String, ByteString>) {
        self.secrets.lock().expect("not poisoned").insert(name.into(), Secret { data: Some(data), ..Default::default() });
    }
}

#[async_trait]
impl Objects for World {
    async fn config_map(&self, _: &str, name: &str) -> Result<Option<ConfigMap>> {
        Ok(self.config_maps.lock().expect("not poisoned").get(name).cloned())
    }
    async fn secret(&self, _: &str, name: &str) -> Result<Option<Secret>> {
        Ok(self.secrets.lock().expect("not poisoned").get(name).cloned())
    }
    async fn trust_bundle(&self, name: &str) -> Result<Option<ClusterTrustBundle>> {
        Ok(self.bundles.lock().expect("not poisoned").iter().find(|bundle| bundle.metadata.name.as_deref() == Some(name)).cloned())
    }
    async fn trust_bundles_of(&self, signer: &str) -> Result<Vec<ClusterTrustBundle>> {
        Ok(self.bundles.lock().expect("not poisoned").iter().filter(|bundle| bundle.spec.signer_name.as_deref() == Some(signer)).cloned().collect())
    }
    async fn claim(&self, _: &str, name: &str) -> Result<Option<PersistentVolumeClaim>> {
        Ok(self.claim.lock().expect("not poisoned").clone().filter(|claim| claim.metadata.name.as_deref() == Some(name)))
    }
    async fn persistent_volume(&self, _: &str) -> Result<Option<PersistentVolume>> {
        Ok(self.volume.lock().expect("not poisoned").clone())
    }
    async fn node_labels(&self) -> Result<BTreeMap<String, String>> {
        Ok(BTreeMap::from([("disk".into(), "ssd".into())]))
    }
    async fn token(&self, ask: &TokenAsk) -> Result<Token> {
        let token = format!("token-of-{}", ask.pod_name);
        Ok(Token { token, expires_at: jiff::Timestamp::UNIX_EPOCH, lifetime_seconds: ask.expiration_seconds })
    }
    async fn csi_driver(&self, _: &str) -> Result<Option<CSIDriver>> {
        Ok(self.csi_driver.lock().expect("not poisoned").clone())
    }
    async fn attached(&self, unique_name: &str, attachment: &str) -> Result<VolumeAttachment> {
        let metadata = json!({"unique": unique_name});
        Ok(serde_json::from_value(
            json!({"metadata": {"name": attachment}, "spec": {"attacher": "d", "nodeName": "n1", "source": {}}, "status": {"attached": true, "attachmentMetadata": metadata}}),
        )
        .expect("an attachment"))
    }
    async fn claim_grows(&self, _: &PersistentVolumeClaim) -> Result<()> {
        self.told.lock().expect("not poisoned").push("grows".into());
        Ok(())
    }
    async fn claim_grew(&self, _: &PersistentVolumeClaim, _: &PersistentVolume) -> Result<()> {
        self.told.lock().expect("not poisoned").push("grew".into());
        Ok(())
    }
    async fn claim_did_not_grow(&self, _: &PersistentVolumeClaim, infeasible: bool) -> Result<()> {
        self.told.lock().expect("not poisoned").push(format!("did not grow, infeasible: {infeasible}"));
        Ok(())
    }
    fn tell(&self, _: &Pod, _: bool, reason: &'static str, _: String) {
        self.told.lock().expect("not poisoned").push(reason.into());
    }
}

/// A pod folder that unmounts what the test mounted, even when the test fails.
pub(crate) struct Room {
    pub dir: tempfile::TempDir,
    pub world: World,
    pod: Pod,
    /// The pod's; `dir` where it is not another.
    pod_dir: PathBuf,
    facts: downward::Facts,
    pub csi: Arc<csi::Csi>,
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = tmpfs::unmount_below(&self.pod_dir);
    }
}

impl Room {
    fn new(spec: serde_json::Value) -> Self {
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"app": "x", "tier": "a\"b"}}, "spec": spec});
        let world = World::default();
        let data = BTreeMap::from([("a".to_string(), "one".to_string()), ("b".to_string(), "two".to_string())]);
        world.config_maps.lock().expect("fresh").insert("cfg".into(), ConfigMap { data: Some(data), ..Default::default() });
        let data = BTreeMap::from([("p".to_string(), ByteString(b"s3cret".to_vec()))]);
        world.secrets.lock().expect("fresh").insert("sec".into(), Secret { data: Some(data), ..Default::default() });
        let facts = downward::Facts { allocatable_cpu: quantity::Quantity::from_whole(4), ..Default::default() };
        let dir = tempfile::tempdir().expect("tempdir");
        Self { csi: csi::Csi::open(dir.path()), pod_dir: dir.path().into(), dir, world, pod: serde_json::from_value(pod).expect("a pod"), facts }
    }

    /// Of a pod among others.
    pub fn in_folder(spec: serde_json::Value, pod_dir: PathBuf) -> Self {
        let mut room = Self::new(spec);
        room.pod_dir = pod_dir;
        room
    }

    pub fn folder(&self) -> &Path {
        &self.pod_dir
    }

    pub fn context(&self) -> Context<'_> {
        Context { pod: &self.pod, pod_dir: &self.pod_dir, objects: &self.world, facts: &self.facts, csi: &self.csi }
    }

    pub async fn set_up(&self, volume: serde_json::Value) -> Result<Mounted> {
        let volume: Volume = serde_json::from_value(volume).expect("a volume");
        super::set_up(&volume, &self.context()).await
    }
}

pub(crate) fn plain() -> Room {
    Room::new(json!({"containers": [{"name": "c"}]}))
}

fn mode(path: &Path) -> u32 {
    path.metadata().expect("exists").permissions().mode() & 0o7777
}

#[tokio::test]
async fn an_empty_dir_is_one_shared_folder_of_mode_0777() {
    let room = plain();
    let volume = json!({"name": "d", "emptyDir": {}});
    let first = room.set_up(volume.clone()).await.expect("set up");
    assert_eq!(mode(&first.path), 0o777);
    std::fs::write(first.path.join("x"), "kept").expect("writable");
    let again = room.set_up(volume).await.expect("set up again");
    assert_eq!(std::fs::read_to_string(again.path.join("x")).expect("kept"), "kept");
}

#[tokio::test]
async fn a_memory_empty_dir_is_a_tmpfs_of_its_size_limit() {
    let room = plain();
    let mounted = room.set_up(json!({"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}})).await.expect("set up");
    assert!(tmpfs::is_mounted(&mounted.path).expect("readable"));
    assert_eq!(mode(&mounted.path), 0o1777);
    assert!(std::fs::write(mounted.path.join("big"), vec![0; 2 << 20]).is_err(), "the size limit holds");
}

/// Options of the filesystem mounted at `path`.
fn filesystem_options(path: &Path) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("readable");
    let line = table.lines().find(|line| line.split(' ').nth(4) == path.canonicalize().expect("there").to_str()).expect("mounted");
    line.rsplit(' ').next().expect("options").split(',').map(str::to_owned).collect()
}

#[tokio::test]
async fn what_lies_in_memory_stays_out_of_swap_where_the_kernel_can() {
    let room = plain();
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("readable");
    let mut numbers = release.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let can = (numbers.next(), numbers.next()) >= (Some(6), Some(4));
    assert_eq!(tmpfs::is_noswap_supported(), can, "{release}");
    for volume in [
        json!({"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}),
        json!({"name": "s", "secret": {"secretName": "sec"}}),
        json!({"name": "d", "downwardAPI": {"items": [{"path": "n", "fieldRef": {"fieldPath": "metadata.name"}}]}}),
        json!({"name": "j", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}),
    ] {
        let mounted = room.set_up(volume.clone()).await.expect("set up");
        let options = filesystem_options(&mounted.path);
        assert_eq!(options.iter().any(|option| option == "noswap"), can, "{volume}: {options:?}");
    }
}

#[tokio::test]
async fn a_config_map_shows_its_items_with_their_modes() {
    let room = plain();
    let volume = json!({"name": "c", "configMap": {"name": "cfg", "items": [{"key": "a", "path": "x/y", "mode": 0o400}]}});
    let mounted = room.set_up(volume).await.expect("set up");
    assert!(mounted.read_only);
    assert_eq!(std::fs::read_to_string(mounted.path.join("x/y")).expect("file"), "one");
    assert_eq!(mode(&mounted.path.join("x/y")), 0o400);
    assert!(mounted.path.join("x").symlink_metadata().expect("link").is_symlink());
    assert!(!mounted.path.join("b").exists());
}

#[tokio::test]
async fn a_changed_config_map_is_swapped_in_whole_and_stale_names_go() {
    let room = plain();
    let volume = json!({"name": "c", "configMap": {"name": "cfg"}});
    let mounted = room.set_up(volume.clone()).await.expect("set up");
    let before = std::fs::read_link(mounted.path.join("..data")).expect("link");
    room.set_up(volume.clone()).await.expect("unchanged");
    assert_eq!(std::fs::read_link(mounted.path.join("..data")).expect("link"), before, "nothing changed, nothing written");
    let data = BTreeMap::from([("a".to_string(), "new".to_string())]);
    room.world.config_maps.lock().expect("fresh").insert("cfg".into(), ConfigMap { data: Some(data), ..Default::default() });
    room.set_up(volume).await.expect("changed");
    assert_eq!(std::fs::read_to_string(mounted.path.join("a")).expect("file"), "new");
    assert!(mounted.path.join("b").symlink_metadata().is_err(), "the name that went away is gone");
    assert!(!mounted.path.join(before).exists(), "the old folder is gone");
}

#[tokio::test]
async fn a_missing_object_is_named_unless_it_is_optional() {
    let room = plain();
    let error = room.set_up(json!({"name": "s", "secret": {"secretName": "nope"}})).await.expect_err("missing");
    assert_eq!(error.to_string(), "secret \"nope\" not found");
    let error = room.set_up(json!({"name": "s", "configMap": {"name": "cfg", "items": [{"key": "zz", "path": "z"}]}})).await.expect_err("missing key");
    assert_eq!(error.to_string(), "configmap references non-existent config key: zz");
    let mounted = room.set_up(json!({"name": "o", "secret": {"secretName": "nope", "optional": true}})).await.expect("optional");
    assert_eq!(std::fs::read_dir(&mounted.path).expect("dir").filter(|e| !e.as_ref().expect("entry").file_name().to_string_lossy().starts_with("..")).count(), 0);
}

#[tokio::test]
async fn secrets_live_on_tmpfs_and_follow_fs_group() {
    let room = Room::new(json!({"securityContext": {"fsGroup": 4567}, "containers": [{"name": "c"}]}));
    let mounted = room.set_up(json!({"name": "s", "secret": {"secretName": "sec", "defaultMode": 0o400}})).await.expect("set up");
    assert!(tmpfs::is_mounted(&mounted.path).expect("readable"));
    let file = mounted.path.join("p");
    assert_eq!(file.metadata().expect("file").gid(), 4567);
    assert_eq!(mode(&file), 0o440);
    let shared = room.set_up(json!({"name": "d", "emptyDir": {}})).await.expect("set up");
    assert_eq!((shared.path.metadata().expect("dir").gid(), mode(&shared.path)), (4567, 0o2777));
}

#[tokio::test]
async fn downward_files_quote_labels_and_default_limits_to_allocatable() {
    let room = plain();
    let items = json!([
        {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
        {"path": "app", "fieldRef": {"fieldPath": "metadata.labels['app']"}},
        {"path": "cpu", "resourceFieldRef": {"containerName": "c", "resource": "limits.cpu"}}]);
    let mounted = room.set_up(json!({"name": "d", "downwardAPI": {"items": items}})).await.expect("set up");
    let read = |name: &str| std::fs::read_to_string(mounted.path.join(name)).expect("file");
    assert_eq!(read("labels"), "app=\"x\"\ntier=\"a\\\"b\"");
    assert_eq!((read("app"), read("cpu")), ("x".into(), "4".into()));
}

#[tokio::test]
async fn a_projection_joins_its_sources_and_reports_every_fault() {
    let room = plain();
    let sources = json!([{"serviceAccountToken": {"path": "token"}}, {"configMap": {"name": "cfg"}}, {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}}]);
    let mounted = room.set_up(json!({"name": "j", "projected": {"sources": sources}})).await.expect("set up");
    assert_eq!(std::fs::read_to_string(mounted.path.join("token")).expect("file"), "token-of-p");
    assert_eq!(mode(&mounted.path.join("token")), 0o644);
    assert_eq!(std::fs::read_to_string(mounted.path.join("namespace")).expect("file"), "n");
    let bad = json!({"name": "k", "projected": {"sources": [{"configMap": {"name": "x"}}, {"secret": {"name": "y"}}]}});
    let error = room.set_up(bad).await.expect_err("two are missing");
    assert_eq!(error.to_string(), "[configmap \"x\" not found, secret \"y\" not found]");
}

#[tokio::test]
async fn a_token_is_private_to_the_one_user_of_the_pod() {
    let room = Room::new(json!({"securityContext": {"runAsUser": 1234}, "containers": [{"name": "c"}]}));
    let mounted = room.set_up(json!({"name": "j", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}})).await.expect("set up");
    let file = mounted.path.join("token");
    assert_eq!((mode(&file), file.metadata().expect("file").uid()), (0o600, 1234));
}

#[tokio::test]
async fn a_host_path_is_checked_against_its_type() {
    let room = plain();
    let path = room.dir.path().join("made");
    let path = path.to_str().expect("utf-8");
    let error = room.set_up(json!({"name": "h", "hostPath": {"path": path, "type": "Directory"}})).await.expect_err("missing");
    assert_eq!(error.to_string(), format!("hostPath type check failed: {path} is not a directory"));
    room.set_up(json!({"name": "h", "hostPath": {"path": path, "type": "DirectoryOrCreate"}})).await.expect("made");
    assert_eq!(mode(Path::new(path)), 0o755);
    room.set_up(json!({"name": "h", "hostPath": {"path": path, "type": "File"}})).await.expect_err("not a file");
}

#[tokio::test]
async fn a_sub_path_cannot_leave_its_volume() {
    let room = plain();
    let mounted = room.set_up(json!({"name": "d", "emptyDir": {}})).await.expect("set up");
    let bind = |part: &str, index| {
        sub_path::make(&mounted.path, part)?;
        sub_path::bind(&mounted.path, part, &sub_path::place(room.dir.path(), "d", "c", index))
    };
    let made = bind("made/here", 0).expect("made");
    std::fs::write(made.join("x"), "1").expect("writable");
    assert_eq!(std::fs::read_to_string(mounted.path.join("made/here/x")).expect("same file"), "1");
    std::os::unix::fs::symlink("/etc", mounted.path.join("out")).expect("link");
    bind("out/passwd", 1).expect_err("a symlink out of the volume");
    bind("../x", 2).expect_err("a path out of the volume");
    std::fs::write(mounted.path.join("file"), "f").expect("writable");
    assert_eq!(std::fs::read_to_string(bind("file", 3).expect("a file binds")).expect("readable"), "f");
}

#[tokio::test]
async fn a_sub_path_that_is_not_there_becomes_a_folder_with_the_volumes_permissions() {
    let room = plain();
    let mounted = room.set_up(json!({"name": "d", "emptyDir": {}})).await.expect("set up");
    sub_path::make(&mounted.path, "made/here").expect("made");
    assert_eq!((mode(&mounted.path.join("made")), mode(&mounted.path.join("made/here"))), (0o755, 0o777));
    let map = room.set_up(json!({"name": "c", "configMap": {"name": "cfg"}})).await.expect("set up");
    sub_path::make(&map.path, "none").expect("a key that is not there");
    sub_path::make(&map.path, "a").expect("a key that is there stays a file");
    assert!(map.path.join("none").is_dir() && map.path.join("a").is_file());
}

#[tokio::test]
async fn tear_down_leaves_no_mount_and_no_folder() {
    let room = plain();
    room.set_up(json!({"name": "s", "secret": {"secretName": "sec"}})).await.expect("set up");
    let mounted = room.set_up(json!({"name": "d", "emptyDir": {"medium": "Memory"}})).await.expect("set up");
    sub_path::make(&mounted.path, "a").expect("made");
    sub_path::bind(&mounted.path, "a", &sub_path::place(room.dir.path(), "d", "c", 0)).expect("bound");
    tear_down(room.dir.path()).expect("torn down");
    assert!(!room.dir.path().exists());
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("readable");
    assert!(!table.contains(room.dir.path().to_str().expect("utf-8")));
    tear_down(room.dir.path()).expect("again is fine");
}

#[tokio::test]
async fn an_unsupported_volume_says_its_type() {
    let error = plain().set_up(json!({"name": "n", "fc": {"lun": 1}})).await.expect_err("not supported");
    assert_eq!(error.to_string(), "volume type fc is not supported by this node");
}

impl Room {
    /// A claim `data`, bound to the volume `pv` of this source.
    pub fn bound(self, source: serde_json::Value) -> Self {
        let mut spec = json!({"claimRef": {"name": "data", "namespace": "n", "uid": "claim-uid"}});
        spec.as_object_mut().expect("an object").extend(source.as_object().expect("an object").clone());
        let claim = json!({"metadata": {"name": "data", "namespace": "n", "uid": "claim-uid"}, "spec": {"volumeName": "pv"}, "status": {"phase": "Bound"}});
        *self.world.claim.lock().expect("fresh") = serde_json::from_value(claim).expect("a claim");
        *self.world.volume.lock().expect("fresh") = serde_json::from_value(json!({"metadata": {"name": "pv"}, "spec": spec})).expect("a volume");
        self
    }
    async fn claimed(&self, read_only: bool) -> Result<Mounted> {
        self.set_up(json!({"name": "v", "persistentVolumeClaim": {"claimName": "data", "readOnly": read_only}})).await
    }
}

#[tokio::test]
async fn a_local_volume_is_mounted_at_the_pod_and_outlives_it() {
    let store = tempfile::tempdir().expect("tempdir");
    std::fs::write(store.path().join("kept"), "data").expect("written");
    let room = Room::new(json!({"containers": [], "securityContext": {"fsGroup": 4321}})).bound(json!({"local": {"path": store.path()}}));
    let mounted = room.claimed(false).await.expect("mounted");
    assert_eq!(room.claimed(false).await.expect("again is fine"), mounted);
    assert_eq!(std::fs::read_to_string(mounted.path.join("kept")).expect("readable"), "data");
    assert_eq!(std::fs::metadata(store.path().join("kept")).expect("there").gid(), 4321);
    std::fs::write(mounted.path.join("new"), "x").expect("writable");
    tear_down(room.dir.path()).expect("torn down");
    assert!(!room.dir.path().exists());
    assert_eq!(std::fs::read_dir(store.path()).expect("there").count(), 2, "the volume's content is not the pod's");
}

#[tokio::test]
async fn a_read_only_claim_takes_no_writes_and_keeps_its_owners() {
    let store = tempfile::tempdir().expect("tempdir");
    let room = Room::new(json!({"containers": [], "securityContext": {"fsGroup": 4321}})).bound(json!({"local": {"path": store.path()}}));
    let mounted = room.claimed(true).await.expect("mounted");
    assert!(mounted.read_only);
    std::fs::write(mounted.path.join("new"), "x").expect_err("read-only");
    assert_ne!(std::fs::metadata(store.path()).expect("there").gid(), 4321);
}

#[tokio::test]
async fn what_keeps_a_claim_from_being_mounted_is_said_in_upstreams_words() {
    let said = |room: Room| async move { room.claimed(false).await.expect_err("refused").to_string() };
    let plain = || Room::new(json!({"containers": []}));
    let missing = "MountVolume.NewMounter initialization failed for volume \"pv\" : path \"/no/such/folder\" does not exist";
    assert_eq!(said(plain().bound(json!({"local": {"path": "/no/such/folder"}}))).await, missing);
    let elsewhere = json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "disk", "operator": "In", "values": ["hdd"]}]}]}});
    let refused = "MountVolume.NodeAffinity check failed for volume \"pv\" : no matching NodeSelectorTerms";
    assert_eq!(said(plain().bound(json!({"local": {"path": "/tmp"}, "nodeAffinity": elsewhere}))).await, refused);
    assert_eq!(said(plain()).await, "error processing PVC n/data: failed to fetch PVC from API server: persistentvolumeclaims \"data\" not found");
    let room = plain().bound(json!({"local": {"path": "/tmp"}}));
    room.world.claim.lock().expect("fresh").as_mut().expect("there").status = None;
    assert_eq!(said(room).await, "error processing PVC n/data: PVC is not bound");
    let room = plain().bound(json!({"local": {"path": "/tmp"}}));
    room.world.claim.lock().expect("fresh").as_mut().expect("there").metadata.uid = Some("another".into());
    assert!(said(room).await.contains("that does not match the claim's UID \"another\""));
    let unknown = "MountVolume.SetUp failed for volume \"pv\" : volume type fc is not supported by this node";
    assert_eq!(said(plain().bound(json!({"fc": {"lun": 1}}))).await, unknown);
}

#[tokio::test]
async fn a_volume_is_used_as_what_it_is_files_or_a_device() {
    let with = |container: serde_json::Value| Room::new(json!({"containers": [container]}));
    let room = with(json!({"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/v"}]})).bound(json!({"volumeMode": "Block", "local": {"path": "/dev/null"}}));
    let error = room.claimed(false).await.expect_err("refused").to_string();
    assert_eq!(error, "error processing PVC n/data: volume v has volumeMode Block, but is specified in volumeMounts");
    let room = with(json!({"name": "c", "volumeDevices": [{"name": "v", "devicePath": "/dev/x"}]})).bound(json!({"local": {"path": "/tmp"}}));
    let error = room.claimed(false).await.expect_err("refused").to_string();
    assert_eq!(error, "error processing PVC n/data: volume v has volumeMode Filesystem, but is specified in volumeDevices");
    let room = || with(json!({"name": "c", "volumeDevices": [{"name": "v", "devicePath": "/dev/x"}]}));
    let error = room().bound(json!({"volumeMode": "Block", "local": {"path": "/dev/null"}})).claimed(false).await.expect_err("not one").to_string();
    assert_eq!(error, "MapVolume.SetUpDevice failed for volume \"pv\" : path \"/dev/null\" is not a block device");
    let Some(device) =
        std::fs::read_dir("/dev").expect("there").flatten().map(|entry| entry.path()).find(|path| path.metadata().is_ok_and(|info| info.file_type().is_block_device()))
    else {
        return;
    };
    let mounted = room().bound(json!({"volumeMode": "Block", "local": {"path": device}})).claimed(false).await.expect("set up");
    assert_eq!((mounted.path, mounted.is_device), (device, true));
}

#[tokio::test]
async fn an_ephemeral_volume_takes_only_the_claim_that_the_pod_owns() {
    let room = Room::new(json!({"containers": []})).bound(json!({"hostPath": {"path": "/tmp"}}));
    room.world.claim.lock().expect("fresh").as_mut().expect("there").metadata.name = Some("p-v".into());
    let volume = json!({"name": "v", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}});
    let error = room.set_up(volume.clone()).await.expect_err("not its own").to_string();
    assert_eq!(error, "error processing PVC n/p-v: PVC n/p-v was not created for pod n/p (pod is not owner)");
    let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true}]);
    room.world.claim.lock().expect("fresh").as_mut().expect("there").metadata.owner_references = serde_json::from_value(owner).expect("owners");
    assert_eq!(room.set_up(volume).await.expect("its own").path, Path::new("/tmp"));
}

#[test]
fn the_change_policy_leaves_a_volume_alone_whose_root_has_the_group() {
    let dir = tempfile::tempdir().expect("tempdir");
    let file = dir.path().join("file");
    std::fs::write(&file, "").expect("written");
    let gid = || std::fs::metadata(&file).expect("there").gid();
    ownership::grant_by_policy(dir.path(), 4321, ownership::ChangePolicy::OnRootMismatch).expect("granted");
    assert_eq!(gid(), 4321, "the root did not match");
    std::os::unix::fs::chown(&file, None, Some(0)).expect("chown");
    ownership::grant_by_policy(dir.path(), 4321, ownership::ChangePolicy::OnRootMismatch).expect("granted");
    assert_eq!(gid(), 0, "the root matched");
    ownership::grant_by_policy(dir.path(), 4321, ownership::ChangePolicy::Always).expect("granted");
    assert_eq!(gid(), 4321);
}

/// A bundle with one anchor a letter, each as a block with a header and text beside it.
fn bundle(name: &str, signer: Option<&str>, label: &str, anchors: &str) -> ClusterTrustBundle {
    let block = |letter: char| keles_rules::pem::certificates([letter.to_string().repeat(70).as_bytes()]).replacen("-----\n", "-----\nNote: x\n\n", 1);
    let text: String = anchors.chars().map(|letter| format!("about {letter}\n{}", block(letter))).collect();
    serde_json::from_value(json!({"metadata": {"name": name, "labels": {"l": label}}, "spec": {"signerName": signer, "trustBundle": text}})).expect("a bundle")
}

/// The letters of the anchors in a file, sorted.
fn letters(path: &Path) -> String {
    let text = std::fs::read_to_string(path).expect("file");
    assert!(text.is_empty() || text.starts_with("-----BEGIN CERTIFICATE-----\n"), "normalised: {text}");
    assert!(!text.contains("Note") && !text.contains("about"), "normalised: {text}");
    let mut all: Vec<char> = keles_rules::pem::blocks(&text).iter().map(|block| block.bytes[0] as char).collect();
    all.sort_unstable();
    all.into_iter().collect()
}

#[tokio::test]
async fn trust_anchors_come_by_name_and_by_signer_each_once_and_follow_the_bundles() {
    let room = plain();
    let all = vec![bundle("own", None, "x", "ab"), bundle("s:1", Some("k.io/s"), "x", "abc"), bundle("s:2", Some("k.io/s"), "x", "cd"), bundle("s:3", Some("k.io/s"), "y", "e")];
    *room.world.bundles.lock().expect("not poisoned") = all;
    let by_signer = |selector: serde_json::Value| json!({"signerName": "k.io/s", "path": "p", "labelSelector": selector});
    let volume = |name: &str, source: serde_json::Value| json!({"name": name, "projected": {"sources": [{"clusterTrustBundle": source}]}});
    for (name, source, expected) in [
        ("n", json!({"name": "own", "path": "p"}), "ab"),
        ("l", by_signer(json!({"matchLabels": {"l": "x"}})), "abcd"),
        ("e", by_signer(json!({})), "abcde"),
        ("o", json!({"name": "none", "path": "p", "optional": true}), ""),
        ("u", json!({"signerName": "k.io/s", "path": "p", "optional": true}), ""),
    ] {
        let mounted = room.set_up(volume(name, source)).await.expect(name);
        assert_eq!((letters(&mounted.path.join("p")).as_str(), mode(&mounted.path.join("p"))), (expected, 0o644), "{name}");
    }
    let refused = |source| async { room.set_up(volume("r", source)).await.expect_err("refused").to_string() };
    assert_eq!(refused(json!({"name": "none", "path": "p"})).await, "clustertrustbundle \"none\" not found");
    let none = "combination of signerName and labelSelector matched zero ClusterTrustBundles";
    assert_eq!(refused(by_signer(json!({"matchLabels": {"l": "z"}}))).await, none);
    assert_eq!(refused(json!({"signerName": "k.io/s", "path": "p"})).await, none, "no selector selects nothing");
    // The same bundles give the same bytes, so that nothing is swapped in without need; changed ones show.
    let by_name = volume("n", json!({"name": "own", "path": "p"}));
    let mounted = room.set_up(by_name.clone()).await.expect("unchanged");
    let before = std::fs::read_link(mounted.path.join("..data")).expect("link");
    room.set_up(by_name.clone()).await.expect("unchanged");
    assert_eq!(std::fs::read_link(mounted.path.join("..data")).expect("link"), before);
    room.world.bundles.lock().expect("not poisoned")[0] = bundle("own", None, "x", "z");
    room.set_up(by_name).await.expect("changed");
    assert_eq!(letters(&mounted.path.join("p")), "z");
}

#[tokio::test]
async fn a_pod_certificate_is_refused_with_its_gate() {
    let source = json!({"podCertificate": {"signerName": "k.io/s", "keyType": "ED25519", "credentialBundlePath": "p"}});
    let error = plain().set_up(json!({"name": "c", "projected": {"sources": [source]}})).await.expect_err("refused").to_string();
    assert!(error.contains("podCertificate (feature gate PodCertificateRequest, off by default in v1.36)"), "{error}");
}

/// A loop device of 64 MiB; given back at the end.
pub(crate) struct LoopDevice {
    pub path: String,
    _file: tempfile::NamedTempFile,
}

impl LoopDevice {
    /// `None` on a machine that gives none.
    pub fn new() -> Option<Self> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        file.as_file().set_len(64 << 20).expect("sized");
        let made = std::process::Command::new("losetup").args(["-f", "--show"]).arg(file.path()).output().ok()?;
        let path = String::from_utf8(made.stdout).ok()?.trim().to_owned();
        made.status.success().then_some(Self { path, _file: file })
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup").args(["-d", &self.path]).status();
    }
}

#[tokio::test]
async fn a_local_device_gets_a_filesystem_once_and_keeps_its_files_for_the_next_pod() {
    let Some(device) = LoopDevice::new() else { return eprintln!("this machine gives no loop devices: not tested") };
    let volume = |more: serde_json::Value| {
        let mut local = json!({"path": device.path});
        local.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        json!({"local": local, "mountOptions": ["noatime"]})
    };
    let room = |more| Room::new(json!({"containers": [], "securityContext": {"fsGroup": 4321}})).bound(volume(more));
    let refused = room(json!({})).claimed(true).await.expect_err("nothing is made for who only reads").to_string();
    let device_path = &device.path;
    assert_eq!(refused, format!("MountVolume.MountDevice failed for volume \"pv\" : cannot mount unformatted disk {device_path} as we are manipulating it in read-only mode"));
    let first = room(json!({}));
    let mounted = first.claimed(false).await.expect("made and mounted");
    assert_eq!(first.claimed(false).await.expect("again is fine"), mounted);
    std::fs::write(mounted.path.join("kept"), "data").expect("writable");
    assert_eq!(mounted.path.metadata().expect("there").gid(), 4321);
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("readable");
    let path = mounted.path.display().to_string();
    assert!(table.lines().any(|line| line.contains(&path) && line.contains("noatime") && line.contains(" - ext4 ")), "{table}");
    // Beside it one that reads, and after both another.
    let second = room(json!({"fsType": "ext4"}));
    let reads = second.claimed(true).await.expect("mounted beside the first");
    assert_eq!(std::fs::read_to_string(reads.path.join("kept")).expect("the same files"), "data");
    std::fs::write(reads.path.join("new"), "x").expect_err("read-only");
    tear_down(first.dir.path()).expect("torn down");
    tear_down(second.dir.path()).expect("torn down");
    let third = room(json!({}));
    let mounted = third.claimed(false).await.expect("checked and mounted");
    assert_eq!(std::fs::read_to_string(mounted.path.join("kept")).expect("it was not made anew"), "data");
    tear_down(third.dir.path()).expect("torn down");
    let other = room(json!({"fsType": "xfs"})).claimed(false).await.expect_err("it is ext4").to_string();
    assert!(other.contains("failed to mount the volume as \"xfs\", it already contains ext4"), "{other}");
}
