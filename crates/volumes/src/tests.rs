use super::*;
use k8s_openapi::ByteString;
use serde_json::json;
use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Mutex;

/// The API as one map of each kind; tokens are numbered.
#[derive(Default)]
struct World {
    config_maps: Mutex<BTreeMap<String, ConfigMap>>,
    secrets: Mutex<BTreeMap<String, Secret>>,
}

#[async_trait]
impl Objects for World {
    async fn config_map(&self, _: &str, name: &str) -> Result<Option<ConfigMap>> {
        Ok(self.config_maps.lock().expect("not poisoned").get(name).cloned())
    }
    async fn secret(&self, _: &str, name: &str) -> Result<Option<Secret>> {
        Ok(self.secrets.lock().expect("not poisoned").get(name).cloned())
    }
    async fn token(&self, ask: &TokenAsk) -> Result<Token> {
        let token = format!("token-of-{}", ask.pod_name);
        Ok(Token { token, expires_at: jiff::Timestamp::now(), lifetime_seconds: ask.expiration_seconds })
    }
}

/// A pod folder that unmounts what the test mounted, even when the test fails.
struct Room {
    dir: tempfile::TempDir,
    world: World,
    pod: Pod,
    facts: downward::Facts,
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = tmpfs::unmount_below(self.dir.path());
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
        Self { dir: tempfile::tempdir().expect("tempdir"), world, pod: serde_json::from_value(pod).expect("a pod"), facts }
    }

    async fn set_up(&self, volume: serde_json::Value) -> Result<Mounted> {
        let volume: Volume = serde_json::from_value(volume).expect("a volume");
        let context = Context { pod: &self.pod, pod_dir: self.dir.path(), objects: &self.world, facts: &self.facts };
        super::set_up(&volume, &context).await
    }
}

fn plain() -> Room {
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
    let error = plain().set_up(json!({"name": "n", "nfs": {"server": "s", "path": "/"}})).await.expect_err("not supported");
    assert_eq!(error.to_string(), "volume type nfs is not supported by this node");
}
