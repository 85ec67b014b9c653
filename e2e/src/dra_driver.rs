//! A DRA driver of our own, in the test's process: registration, claims and health on real sockets. A prepared claim is a CDI device that sets a variable to
//! the claim's name. What the scheduler and the ResourceClaim controller do the test does through the API.
//!
//! Entry point: [`DraDriver::start`]. Dropped, it goes as a driver's pod does: its sockets vanish.

use crate::plugin::registrar;
use futures::StreamExt;
use keles_grpc::{Server, Status};
use prost::Message;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

#[derive(Clone, PartialEq, Message)]
struct Empty {}

#[derive(Clone, PartialEq, Message)]
struct Claim {
    #[prost(string, tag = "1")]
    namespace: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct Claims {
    #[prost(message, repeated, tag = "1")]
    claims: Vec<Claim>,
}

#[derive(Clone, PartialEq, Message)]
struct Device {
    #[prost(string, repeated, tag = "1")]
    request_names: Vec<String>,
    #[prost(string, tag = "2")]
    pool_name: String,
    #[prost(string, tag = "3")]
    device_name: String,
    #[prost(string, repeated, tag = "4")]
    cdi_device_ids: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Prepared {
    #[prost(message, repeated, tag = "1")]
    devices: Vec<Device>,
    #[prost(string, tag = "2")]
    error: String,
}

#[derive(Clone, PartialEq, Message)]
struct PrepareResponse {
    #[prost(map = "string, message", tag = "1")]
    claims: HashMap<String, Prepared>,
}

#[derive(Clone, PartialEq, Message)]
struct Unprepared {
    #[prost(string, tag = "1")]
    error: String,
}

#[derive(Clone, PartialEq, Message)]
struct UnprepareResponse {
    #[prost(map = "string, message", tag = "1")]
    claims: HashMap<String, Unprepared>,
}

#[derive(Clone, PartialEq, Message)]
struct Identifier {
    #[prost(string, tag = "1")]
    pool_name: String,
    #[prost(string, tag = "2")]
    device_name: String,
}

#[derive(Clone, PartialEq, Message)]
struct DeviceHealth {
    #[prost(message, optional, tag = "1")]
    device: Option<Identifier>,
    #[prost(int32, tag = "2")]
    health: i32,
    #[prost(int64, tag = "3")]
    last_updated_time: i64,
    #[prost(int64, tag = "4")]
    timeout_seconds: i64,
    #[prost(string, tag = "5")]
    message: String,
}

#[derive(Clone, PartialEq, Message)]
struct HealthList {
    #[prost(message, repeated, tag = "1")]
    devices: Vec<DeviceHealth>,
}

/// What the driver was told and what it has; it outlives the driver's process, as hardware does.
pub struct Hardware {
    lines: Mutex<Vec<String>>,
    /// Preparing fails with this.
    pub fails: Mutex<Option<String>>,
    /// By claim.
    cdi: Mutex<BTreeMap<String, Value>>,
    file: PathBuf,
    health: watch::Sender<(i32, String)>,
}

impl Default for Hardware {
    fn default() -> Self {
        let file = Path::new("/var/run/cdi").join(format!("keles-e2e-{}.json", std::process::id()));
        Self { lines: Mutex::default(), fails: Mutex::default(), cdi: Mutex::default(), file, health: watch::channel((1, String::new())).0 }
    }
}

impl Hardware {
    fn note(&self, line: String) {
        self.lines.lock().expect("not poisoned").push(line);
    }
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("not poisoned").clone()
    }
    /// What was asked since the last time.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.lines.lock().expect("not poisoned"))
    }
    pub fn break_down(&self, message: &str) {
        self.health.send_replace((2, message.to_owned()));
    }

    fn set(&self, claim: &str, is_prepared: bool) {
        let mut all = self.cdi.lock().expect("not poisoned");
        match is_prepared {
            true => drop(all.insert(claim.to_owned(), json!({"name": claim, "containerEdits": {"env": [format!("CLAIM={claim}")]}}))),
            false => drop(all.remove(claim)),
        }
        if all.is_empty() {
            let _ = std::fs::remove_file(&self.file);
            return;
        }
        std::fs::create_dir_all(self.file.parent().expect("in a folder")).expect("made");
        let spec = json!({"cdiVersion": "0.6.0", "kind": "e2e.example.com/claim", "devices": all.values().collect::<Vec<_>>()});
        // Whole or not at all: the agent may be reading.
        let new = self.file.with_extension("new");
        std::fs::write(&new, spec.to_string()).and_then(|()| std::fs::rename(&new, &self.file)).expect("written");
    }
}

impl Drop for Hardware {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

pub struct DraDriver {
    sockets: [PathBuf; 2],
    stop: CancellationToken,
    _runtime: tokio::runtime::Runtime,
}

impl DraDriver {
    pub const NAME: &str = "dra.e2e.example.com";

    /// `root`: the agent's.
    pub fn start(root: &Path, hardware: &Arc<Hardware>) -> DraDriver {
        let stop = CancellationToken::new();
        let folder = root.join("plugins").join(Self::NAME);
        std::fs::create_dir_all(&folder).expect("made");
        let sockets = [folder.join("dra.sock"), root.join("plugins_registry").join(format!("{}-reg.sock", Self::NAME))];
        sockets.iter().for_each(|socket| _ = std::fs::remove_file(socket));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let _inside = runtime.enter();
        runtime.spawn(service(hardware).serve_unix(UnixListener::bind(&sockets[0]).expect("bound"), stop.clone()));
        let notes = hardware.clone();
        let registrar = registrar("DRAPlugin", Self::NAME, &sockets[0], &["v1beta1.DRAPlugin", "v1.DRAPlugin", "v1alpha1.DRAResourceHealth"], move |status| {
            notes.note(format!("registered {} {}", status.plugin_registered, status.error).trim().to_owned());
            Ok(())
        });
        runtime.spawn(registrar.serve_unix(UnixListener::bind(&sockets[1]).expect("bound"), stop.clone()));
        DraDriver { sockets, stop, _runtime: runtime }
    }
}

impl Drop for DraDriver {
    fn drop(&mut self) {
        self.stop.cancel();
        self.sockets.iter().for_each(|socket| _ = std::fs::remove_file(socket));
    }
}

fn service(hardware: &Arc<Hardware>) -> Server {
    let (for_prepare, for_unprepare, for_health) = (hardware.clone(), hardware.clone(), hardware.clone());
    Server::new()
        .unary("/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodePrepareResources", move |request: Claims| {
            let hardware = for_prepare.clone();
            let result = move |claim: Claim| {
                hardware.note(format!("prepare {}/{}", claim.namespace, claim.name));
                let error = hardware.fails.lock().expect("not poisoned").clone().unwrap_or_default();
                if error.is_empty() {
                    hardware.set(&claim.name, true);
                }
                let ids = vec![format!("e2e.example.com/claim={}", claim.name)];
                let device = Device { request_names: vec!["r".into()], pool_name: "pool".into(), device_name: format!("of-{}", claim.name), cdi_device_ids: ids };
                (claim.uid, Prepared { devices: vec![device], error })
            };
            async move { Ok::<_, Status>(PrepareResponse { claims: request.claims.into_iter().map(result).collect() }) }
        })
        .unary("/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodeUnprepareResources", move |request: Claims| {
            let hardware = for_unprepare.clone();
            let result = move |claim: Claim| {
                hardware.note(format!("unprepare {}/{}", claim.namespace, claim.name));
                hardware.set(&claim.name, false);
                (claim.uid, Unprepared::default())
            };
            async move { Ok::<_, Status>(UnprepareResponse { claims: request.claims.into_iter().map(result).collect() }) }
        })
        .server_streaming("/v1alpha1.DRAResourceHealth/NodeWatchResources", move |_: Empty| {
            let hardware = for_health.clone();
            async move {
                // The list at once, when it changes, and often enough that it does not get old.
                let lists = futures::stream::unfold((hardware.health.subscribe(), hardware, true), |(mut changes, hardware, is_first)| async move {
                    if !is_first {
                        let _ = tokio::time::timeout(std::time::Duration::from_secs(5), changes.changed()).await;
                    }
                    let (health, message) = changes.borrow_and_update().clone();
                    let names: Vec<String> = hardware.cdi.lock().expect("not poisoned").keys().cloned().collect();
                    let of = |name: String| DeviceHealth {
                        device: Some(Identifier { pool_name: "pool".into(), device_name: format!("of-{name}") }),
                        health,
                        message: message.clone(),
                        timeout_seconds: 300,
                        ..Default::default()
                    };
                    Some((Ok(HealthList { devices: names.into_iter().map(of).collect() }), (changes, hardware, false)))
                });
                Ok::<_, Status>(lists.boxed())
            }
        })
}
