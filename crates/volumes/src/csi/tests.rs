//! A driver of our own on a real socket, which binds folders as drivers do.

use super::wire::*;
use super::{Csi, Driver, NodeInfo};
use crate::tests::{Room, plain};
use crate::{Result, tmpfs};
use keles_grpc::{Code, Server, Status};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

/// What the driver was asked, in order, and what it refuses.
#[derive(Default)]
struct Diary {
    lines: Mutex<Vec<String>>,
    refuses: Mutex<Option<(&'static str, Code)>>,
}

impl Diary {
    fn note(&self, call: &'static str, detail: impl std::fmt::Display) -> std::result::Result<(), Status> {
        self.lines.lock().expect("not poisoned").push(format!("{call} {detail}").trim_end().to_owned());
        match *self.refuses.lock().expect("not poisoned") {
            Some((refused, code)) if refused == call => Err(Status::new(code, "no")),
            _ => Ok(()),
        }
    }
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.lines.lock().expect("not poisoned"))
    }
}

struct Fake {
    diary: Arc<Diary>,
    endpoint: PathBuf,
    stop: CancellationToken,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn sorted(map: &std::collections::HashMap<String, String>) -> String {
    json!(map.iter().collect::<std::collections::BTreeMap<_, _>>()).to_string()
}

fn bind(from: &Path, to: &str) {
    std::fs::create_dir_all(to).expect("made");
    rustix::mount::mount_bind(from, to).expect("bound");
}

fn unbind(at: &str) {
    let _ = tmpfs::unmount_below(Path::new(at));
    let _ = std::fs::remove_dir(at);
}

impl Fake {
    fn start(dir: &Path, capabilities: &'static [Capability]) -> Fake {
        let (diary, stop, endpoint, content) = (Arc::new(Diary::default()), CancellationToken::new(), dir.join("csi.sock"), dir.join("content"));
        std::fs::create_dir_all(&content).expect("made");
        let d = || diary.clone();
        let (stage, unstage, publish, unpublish, expand, stats) = (d(), d(), d(), d(), d(), d());
        let server = Server::new()
            .unary(NODE_GET_CAPABILITIES, move |_: Empty| async move {
                Ok(NodeGetCapabilitiesResponse { capabilities: capabilities.iter().map(|c| NodeServiceCapability { rpc: Some(Rpc { capability: *c as i32 }) }).collect() })
            })
            .unary(NODE_STAGE, move |q: NodeStageVolumeRequest| {
                let (diary, content) = (stage.clone(), content.clone());
                async move {
                    diary.note("stage", format!("{} {} {}", q.volume_id, sorted(&q.secrets), sorted(&q.publish_context)))?;
                    bind(&content, &q.staging_target_path);
                    Ok(Empty {})
                }
            })
            .unary(NODE_UNSTAGE, move |q: NodeUnstageVolumeRequest| {
                let diary = unstage.clone();
                async move {
                    diary.note("unstage", &q.volume_id)?;
                    unbind(&q.staging_target_path);
                    Ok(Empty {})
                }
            })
            .unary(NODE_PUBLISH, move |q: NodePublishVolumeRequest| {
                let diary = publish.clone();
                async move {
                    let mode = q.volume_capability.and_then(|c| c.access_mode).map_or(0, |mode| mode.mode);
                    diary.note("publish", format!("{} mode={mode} ro={} {} {}", q.volume_id, q.readonly, sorted(&q.volume_context), sorted(&q.secrets)))?;
                    if !tmpfs::is_mounted(Path::new(&q.target_path)).expect("readable") {
                        let from = if q.staging_target_path.is_empty() { "/tmp".into() } else { q.staging_target_path };
                        bind(Path::new(&from), &q.target_path);
                    }
                    Ok(Empty {})
                }
            })
            .unary(NODE_UNPUBLISH, move |q: NodeUnpublishVolumeRequest| {
                let diary = unpublish.clone();
                async move {
                    diary.note("unpublish", &q.volume_id)?;
                    unbind(&q.target_path);
                    Ok(Empty {})
                }
            })
            .unary(NODE_EXPAND, move |q: NodeExpandVolumeRequest| {
                let diary = expand.clone();
                async move {
                    let bytes = q.capacity_range.map_or(0, |range| range.required_bytes);
                    diary.note("expand", format!("{} {bytes}", q.volume_id))?;
                    Ok(NodeExpandVolumeResponse { capacity_bytes: bytes })
                }
            })
            .unary(NODE_GET_VOLUME_STATS, move |q: NodeGetVolumeStatsRequest| {
                let diary = stats.clone();
                async move {
                    diary.note("stats", &q.volume_id)?;
                    Ok(NodeGetVolumeStatsResponse { usage: vec![VolumeUsage { available: 1, total: 3, used: 2, unit: Unit::Bytes as i32 }], volume_condition: None })
                }
            });
        tokio::spawn(server.serve_unix(UnixListener::bind(&endpoint).expect("bound"), stop.clone()));
        Fake { diary, endpoint, stop }
    }

    fn register(&self, csi: &Csi) {
        csi.register(Driver::at("d.example", &self.endpoint), NodeInfo::default());
    }
}

const STAGES: &[Capability] = &[Capability::StageUnstageVolume, Capability::ExpandVolume, Capability::GetVolumeStats];

/// A room with the driver, its object, and a claim bound to a volume of it.
fn room(capabilities: &'static [Capability], driver: Value, shown: &str) -> (Room, Fake, Value) {
    let room = plain().bound(json!({"capacity": {"storage": "2Gi"}, "accessModes": ["ReadWriteOnce"], "csi": {
        "driver": "d.example", "volumeHandle": "h", "volumeAttributes": {"a": "b"}, "nodeStageSecretRef": {"name": "sec", "namespace": "n"}, "nodePublishSecretRef": {"name": "sec", "namespace": "n"}}}));
    if let Some(claim) = room.world.claim.lock().expect("fresh").as_mut() {
        claim.status.get_or_insert_default().capacity = serde_json::from_value(json!({"storage": shown})).expect("a capacity");
    }
    *room.world.csi_driver.lock().expect("fresh") = Some(serde_json::from_value(json!({"metadata": {"name": "d.example"}, "spec": driver})).expect("a driver"));
    let fake = Fake::start(room.dir.path(), capabilities);
    fake.register(&room.csi);
    (room, fake, json!({"name": "v", "persistentVolumeClaim": {"claimName": "data"}}))
}

async fn give_back(room: &Room) -> Result<()> {
    room.csi.tear_down(&room.dir.path().join("pods/u"), "u").await
}

#[tokio::test]
async fn a_volume_is_staged_published_and_given_back_in_order() {
    let (room, fake, volume) = room(STAGES, json!({"attachRequired": false, "podInfoOnMount": true}), "2Gi");
    let mounted = room.set_up(volume.clone()).await.expect("set up");
    assert!(mounted.path.ends_with("volumes/kubernetes.io~csi/pv/mount") && tmpfs::is_mounted(&mounted.path).expect("readable"), "{mounted:?}");
    let told = fake.diary.take();
    assert_eq!(told[0], r#"stage h {"p":"s3cret"} {}"#);
    let info = r#"{"a":"b","csi.storage.k8s.io/ephemeral":"false","csi.storage.k8s.io/pod.name":"p","csi.storage.k8s.io/pod.namespace":"n","csi.storage.k8s.io/pod.uid":"u","csi.storage.k8s.io/serviceAccount.name":"default"}"#;
    assert_eq!(told[1], format!(r#"publish h mode=1 ro=false {info} {{"p":"s3cret"}}"#));
    room.set_up(volume).await.expect("set up again");
    assert_eq!(fake.diary.take(), Vec::<String>::new(), "it stands already");
    give_back(&room).await.expect("given back");
    assert_eq!(fake.diary.take(), ["unpublish h", "unstage h"]);
    assert!(!mounted.path.exists());
    give_back(&room).await.expect("nothing left to do");
    assert_eq!(fake.diary.take(), Vec::<String>::new());
}

#[tokio::test]
async fn a_new_run_of_the_agent_gives_back_what_the_last_one_left() {
    let (mut room, fake, volume) = room(STAGES, json!({"attachRequired": false}), "2Gi");
    room.set_up(volume).await.expect("set up");
    fake.diary.take();
    room.csi = Csi::open(room.dir.path());
    let error = give_back(&room).await.expect_err("nobody to ask").to_string();
    assert!(error.contains("driver name d.example not found in the list of registered CSI drivers"), "{error}");
    fake.register(&room.csi);
    *fake.diary.refuses.lock().expect("not poisoned") = Some(("unstage", Code::Internal));
    give_back(&room).await.expect("the pod has nothing of it any more");
    assert_eq!(fake.diary.take(), ["unpublish h", "unstage h"]);
    assert!(!room.csi.sweep().await, "refused again");
    *fake.diary.refuses.lock().expect("not poisoned") = None;
    fake.diary.take();
    assert!(room.csi.sweep().await);
    assert_eq!(fake.diary.take(), ["unstage h"]);
    assert!(room.csi.sweep().await && fake.diary.take().is_empty(), "once");
}

#[tokio::test]
async fn an_attached_volume_is_in_use_from_before_it_is_staged_until_it_is_unstaged() {
    let (room, fake, volume) = room(STAGES, json!({}), "2Gi");
    let unique = "kubernetes.io/csi/d.example^h".to_owned();
    let mut in_use = room.csi.in_use();
    let reports = async {
        in_use.wait_for(|all| all.contains_key(&unique)).await.expect("claimed");
        assert!(fake.diary.take().is_empty(), "not before the node says so");
        room.csi.was_reported([unique.clone()].into());
    };
    let (mounted, ()) = tokio::join!(room.set_up(volume), reports);
    mounted.expect("set up");
    let told = fake.diary.take();
    assert!(told[0].ends_with(&format!(r#"{{"unique":"{unique}"}}"#)), "what the driver said when it attached it: {told:?}");
    assert!(Csi::open(room.dir.path()).in_use().borrow().contains_key(&unique), "after a restart too");
    give_back(&room).await.expect("given back");
    assert!(room.csi.in_use().borrow().is_empty());
}

#[tokio::test]
async fn an_inline_volume_is_published_only_where_its_driver_allows_it() {
    let (room, fake, _) = room(
        STAGES,
        json!({"volumeLifecycleModes": ["Ephemeral"], "tokenRequests": [{"audience": "vault"}], "serviceAccountTokenInSecrets": true, "requiresRepublish": true}),
        "2Gi",
    );
    let volume = json!({"name": "i", "csi": {"driver": "d.example", "volumeAttributes": {"x": "y"}, "readOnly": true}});
    let mounted = room.set_up(volume.clone()).await.expect("set up");
    assert!(mounted.read_only && mounted.follows);
    let handle = format!("csi-{}", super::hash("ui"));
    let tokens = r#"{"csi.storage.k8s.io/serviceAccount.tokens":"{\"vault\":{\"expirationTimestamp\":\"1970-01-01T00:00:00Z\",\"token\":\"token-of-p\"}}"}"#;
    let published = format!(r#"publish {handle} mode=1 ro=true {{"x":"y"}} {tokens}"#);
    assert_eq!(fake.diary.take(), [published.clone()]);
    room.set_up(volume).await.expect("again");
    assert_eq!(fake.diary.take(), [published], "requiresRepublish");
    give_back(&room).await.expect("given back");
    assert_eq!(fake.diary.take(), [format!("unpublish {handle}")]);
    *room.world.csi_driver.lock().expect("not poisoned") = None;
    let error = room.set_up(json!({"name": "i", "csi": {"driver": "d.example"}})).await.expect_err("persistent ones only").to_string();
    assert_eq!(error, r#"volume mode "Ephemeral" not supported by driver d.example (only supports ["Persistent"])"#);
}

#[tokio::test]
async fn a_volume_that_grew_is_grown_on_the_node_and_its_claim_told() {
    let (room, fake, volume) = room(STAGES, json!({"attachRequired": false}), "1Gi");
    room.set_up(volume.clone()).await.expect("set up");
    assert_eq!(fake.diary.take().last().map(String::as_str), Some("expand h 2147483648"));
    assert_eq!(std::mem::take(&mut *room.world.told.lock().expect("not poisoned")), ["grows", "grew", "FileSystemResizeSuccessful"]);
    *fake.diary.refuses.lock().expect("not poisoned") = Some(("expand", Code::OutOfRange));
    room.set_up(volume).await.expect("the pod has its volume all the same");
    assert_eq!(*room.world.told.lock().expect("not poisoned"), ["grows", "did not grow, infeasible: true", "FileSystemResizeFailed"]);
    assert_eq!(room.csi.stats("u").await[0].1.as_ref().map(|said| said.usage[0].total), Some(3));
    give_back(&room).await.expect("given back");
}

#[tokio::test]
async fn what_a_driver_refuses_is_said_in_upstreams_words() {
    let (room, fake, volume) = room(STAGES, json!({"attachRequired": false}), "2Gi");
    for (call, expected) in [
        ("stage", "MountVolume.MountDevice failed for volume \"pv\" : rpc error: code = Internal desc = no"),
        ("publish", "MountVolume.SetUp failed for volume \"pv\" : rpc error: code = Internal desc = no"),
    ] {
        *fake.diary.refuses.lock().expect("not poisoned") = Some((call, Code::Internal));
        assert_eq!(room.set_up(volume.clone()).await.expect_err("refused").to_string(), expected);
    }
    *fake.diary.refuses.lock().expect("not poisoned") = None;
    give_back(&room).await.expect("also what came only half way");
    room.csi.deregister("d.example");
    let error = room.set_up(volume).await.expect_err("gone").to_string();
    assert!(error.contains("driver name d.example not found in the list of registered CSI drivers"), "{error}");
}
