//! A CSI driver of our own, in the test's process: identity, node and registration services on real sockets, volumes that are folders which it binds, devices
//! that are loop devices which it binds. What others of a driver's parts do (external-provisioner, external-attacher) the test does through the API.
//!
//! Entry point: [`CsiDriver::start`]. Everything it is asked is noted as a line. Dropped, it goes as a driver's pod does: its sockets vanish.

use crate::plugin::registrar;
use keles_grpc::{Code, Server, Status};
use keles_volumes::csi::wire::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

/// What the driver was told and what it has; it outlives the driver's process, as a storage system does.
#[derive(Default)]
pub struct Storage {
    lines: Mutex<Vec<String>>,
    /// Calls that are refused, with the status' code.
    pub refuses: Mutex<BTreeMap<&'static str, Code>>,
}

impl Storage {
    fn note(&self, call: &'static str, detail: Value) -> Result<(), Status> {
        self.lines.lock().expect("not poisoned").push(format!("{call} {detail}"));
        match self.refuses.lock().expect("not poisoned").get(call) {
            Some(code) => Err(Status::new(*code, "as the test wants")),
            None => Ok(()),
        }
    }
    /// What was asked since the last time.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.lines.lock().expect("not poisoned"))
    }
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("not poisoned").clone()
    }
    /// The calls alone, without what they were told.
    pub fn calls(&self) -> Vec<String> {
        self.lines().iter().map(|line| line.split(' ').next().unwrap_or_default().to_owned()).collect()
    }
}

/// How a driver is made.
#[derive(Clone)]
pub struct Shape {
    pub name: &'static str,
    pub capabilities: Vec<Capability>,
    pub max_volumes: i64,
}

impl Shape {
    pub fn staging(name: &'static str) -> Shape {
        Shape { name, capabilities: vec![Capability::StageUnstageVolume, Capability::GetVolumeStats, Capability::ExpandVolume], max_volumes: 0 }
    }
}

pub struct CsiDriver {
    pub storage: Arc<Storage>,
    registration: PathBuf,
    endpoint: PathBuf,
    stop: CancellationToken,
    _runtime: tokio::runtime::Runtime,
}

fn run(program: &str, args: &[&str]) -> Result<(), Status> {
    let out = Command::new(program).args(args).output().expect("util-linux");
    if out.status.success() { Ok(()) } else { Err(Status::new(Code::Internal, format!("{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr)))) }
}

fn is_mounted(path: &str) -> bool {
    Command::new("mountpoint").args(["-q", path]).status().is_ok_and(|status| status.success())
        || std::fs::read_to_string("/proc/self/mountinfo").is_ok_and(|table| table.lines().any(|line| line.split(' ').nth(4) == Some(path)))
}

fn bind(from: &str, to: &str, file: bool) -> Result<(), Status> {
    if is_mounted(to) {
        return Ok(());
    }
    let made = if file { std::fs::write(to, "") } else { std::fs::create_dir_all(to) };
    made.map_err(|error| Status::new(Code::Internal, format!("{to}: {error}")))?;
    run("mount", &["--bind", from, to])
}

fn unbind(at: &str) -> Result<(), Status> {
    if is_mounted(at) {
        run("umount", &[at])?;
    }
    let _ = std::fs::remove_dir(at);
    let _ = std::fs::remove_file(at);
    Ok(())
}

fn map(of: &HashMap<String, String>) -> Value {
    json!(of.iter().collect::<BTreeMap<_, _>>())
}

fn is_block(capability: &Option<VolumeCapability>) -> bool {
    matches!(capability.as_ref().and_then(|c| c.access_type.as_ref()), Some(AccessType::Block(_)))
}

fn mode(capability: &Option<VolumeCapability>) -> i32 {
    capability.as_ref().and_then(|c| c.access_mode.as_ref()).map_or(0, |mode| mode.mode)
}

/// A unary method that notes, then does; `$q` is its request.
macro_rules! answers {
    ($server:expr, $storage:expr, $content:ident, $path:expr, $q:ident: $request:ty, $detail:expr, $answer:expr) => {{
        let (storage, content) = ($storage.clone(), $content.clone());
        $server.unary($path, move |$q: $request| {
            let (storage, $content) = (storage.clone(), content.clone());
            async move {
                storage.note($path.rsplit('/').next().expect("a method"), $detail)?;
                let _ = &$content;
                $answer
            }
        })
    }};
}

impl CsiDriver {
    /// `root`: the agent's. Volumes lie in `content/<handle>`, which must be there, as a storage system's do.
    pub fn start(shape: &Shape, root: &Path, content: &Path, storage: Arc<Storage>) -> CsiDriver {
        let stop = CancellationToken::new();
        let folder = root.join("plugins").join(shape.name);
        std::fs::create_dir_all(&folder).expect("made");
        let (endpoint, registration) = (folder.join("csi.sock"), root.join("plugins_registry").join(format!("{}-reg.sock", shape.name)));
        for socket in [&endpoint, &registration] {
            let _ = std::fs::remove_file(socket);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let _inside = runtime.enter();
        let node = node_service(shape, content, &storage);
        runtime.spawn(node.serve_unix(UnixListener::bind(&endpoint).expect("bound"), stop.clone()));
        let notes = storage.clone();
        let registrar = registrar("CSIPlugin", shape.name, &endpoint, &["1.0.0"], move |q| {
            notes.note("NotifyRegistrationStatus", json!({"registered": q.plugin_registered, "error": q.error}))
        });
        runtime.spawn(registrar.serve_unix(UnixListener::bind(&registration).expect("bound"), stop.clone()));
        CsiDriver { storage, registration, endpoint, stop, _runtime: runtime }
    }
}

impl Drop for CsiDriver {
    fn drop(&mut self) {
        self.stop.cancel();
        let _ = std::fs::remove_file(&self.registration);
        let _ = std::fs::remove_file(&self.endpoint);
    }
}

fn node_service(shape: &Shape, content: &Path, storage: &Arc<Storage>) -> Server {
    let (capabilities, max, content) = (shape.capabilities.clone(), shape.max_volumes, content.display().to_string());
    let stages = capabilities.contains(&Capability::StageUnstageVolume);
    let server = Server::new()
        .unary(NODE_GET_INFO, move |_: Empty| async move {
            let segments = [("topology.test.example/rack".to_owned(), "r1".to_owned())].into();
            Ok(NodeGetInfoResponse { node_id: "node-of-the-test".into(), max_volumes_per_node: max, accessible_topology: Some(Topology { segments }) })
        })
        .unary(NODE_GET_CAPABILITIES, move |_: Empty| {
            let all = capabilities.iter().map(|c| NodeServiceCapability { rpc: Some(Rpc { capability: *c as i32 }) }).collect();
            async move { Ok(NodeGetCapabilitiesResponse { capabilities: all }) }
        });
    let server = answers!(
        server,
        storage,
        content,
        NODE_STAGE,
        q: NodeStageVolumeRequest,
        json!({"id": q.volume_id, "publish": map(&q.publish_context), "secrets": map(&q.secrets), "block": is_block(&q.volume_capability)}),
        if is_block(&q.volume_capability) { Ok(Empty {}) } else { bind(&format!("{content}/{}", q.volume_id), &q.staging_target_path, false).map(|()| Empty {}) }
    );
    let server = answers!(server, storage, content, NODE_UNSTAGE, q: NodeUnstageVolumeRequest, json!({"id": q.volume_id}), unbind(&q.staging_target_path).map(|()| Empty {}));
    let server = answers!(
        server,
        storage,
        content,
        NODE_PUBLISH,
        q: NodePublishVolumeRequest,
        json!({"id": q.volume_id, "context": map(&q.volume_context), "secrets": map(&q.secrets), "readonly": q.readonly, "mode": mode(&q.volume_capability), "target": q.target_path}),
        {
            let block = is_block(&q.volume_capability);
            let from = match (block, stages && !q.staging_target_path.is_empty()) {
                (true, _) => q.volume_context.get("device").cloned().unwrap_or_default(),
                (false, true) => q.staging_target_path.clone(),
                (false, false) => {
                    let own = format!("{content}/{}", q.volume_id);
                    std::fs::create_dir_all(&own).expect("made");
                    own
                }
            };
            bind(&from, &q.target_path, block)?;
            if q.readonly && !block {
                run("mount", &["-o", "remount,bind,ro", &q.target_path])?;
            }
            Ok(Empty {})
        }
    );
    let server = answers!(server, storage, content, NODE_UNPUBLISH, q: NodeUnpublishVolumeRequest, json!({"id": q.volume_id}), unbind(&q.target_path).map(|()| Empty {}));
    let server = answers!(
        server,
        storage,
        content,
        NODE_EXPAND,
        q: NodeExpandVolumeRequest,
        json!({"id": q.volume_id, "bytes": q.capacity_range.as_ref().map_or(0, |range| range.required_bytes), "secrets": map(&q.secrets)}),
        Ok(NodeExpandVolumeResponse { capacity_bytes: 0 })
    );
    answers!(
        server,
        storage,
        content,
        NODE_GET_VOLUME_STATS,
        q: NodeGetVolumeStatsRequest,
        json!({"id": q.volume_id}),
        Ok(NodeGetVolumeStatsResponse { usage: vec![VolumeUsage { available: 60, total: 100, used: 40, unit: Unit::Bytes as i32 }], volume_condition: None })
    )
}
