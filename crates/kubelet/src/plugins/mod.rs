//! Plugins that announce themselves by a socket in `<root>/plugins_registry` (KEP pluginregistration v1): who is there is asked, told to the handler of its
//! type, and answered.
//!
//! Entry point: [`run`]. The folder is the state: at each change it is read whole, and what is new, made anew or gone is acted on, so that what stood there
//! before the agent is no special case. A socket whose plugin does not answer is asked again with growing pauses for as long as it is the same socket.

mod csi;
mod dra;
mod watcher;
pub mod wire;

use crate::agent::Agent;
use async_trait::async_trait;
use keles_grpc::Channel;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use watcher::{Stamp, Watcher};

/// Limit of one call to a plugin.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Upstream's figure.
const MAX_PAUSE: Duration = Duration::from_secs(122);

/// What a plugin says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plugin {
    pub name: String,
    /// Where it registers.
    pub socket: PathBuf,
    /// Where its service is; the registration socket itself when it names none.
    pub endpoint: PathBuf,
    pub versions: Vec<String>,
}

/// What is done with plugins of one type.
#[async_trait]
pub trait Handler: Send + Sync {
    /// The error goes to the plugin.
    fn validate(&self, plugin: &Plugin) -> Result<(), String>;
    /// Once it returns, the plugin is in use.
    async fn register(&self, agent: &Arc<Agent>, plugin: &Plugin) -> Result<(), String>;
    async fn deregister(&self, agent: &Arc<Agent>, plugin: &Plugin);
}

/// One type of plugins.
struct Row {
    kind: &'static str,
    handler: &'static dyn Handler,
}

/// Every type that this agent knows; a plugin of another is told so.
static HANDLERS: &[Row] = &[Row { kind: "CSIPlugin", handler: &csi::CsiPlugins }, Row { kind: "DRAPlugin", handler: &dra::DraPlugins }];

fn handler(kind: &str) -> Result<&'static dyn Handler, String> {
    HANDLERS.iter().find(|row| row.kind == kind).map(|row| row.handler).ok_or_else(|| format!("no handler registered for plugin type: {kind}"))
}

/// A socket that is being asked, or whose plugin is in use.
struct Followed {
    stamp: Stamp,
    task: tokio::task::JoinHandle<()>,
    registered: Arc<std::sync::Mutex<Option<(&'static dyn Handler, Plugin)>>>,
}

/// Follows the folder until `stop`.
pub async fn run(agent: Arc<Agent>, stop: CancellationToken) {
    let folder = agent.config.plugins_registry();
    let mut watcher = match Watcher::open(&folder) {
        Ok(watcher) => watcher,
        Err(error) => return tracing::error!(%error, folder = %folder.display(), "plugins cannot register: the folder cannot be followed"),
    };
    let mut followed: BTreeMap<PathBuf, Followed> = BTreeMap::new();
    loop {
        let sockets = watcher.sockets();
        let gone: Vec<PathBuf> = followed.iter().filter(|(path, one)| sockets.get(*path) != Some(&one.stamp)).map(|(path, _)| path.clone()).collect();
        for path in gone {
            let one = followed.remove(&path).expect("it was just there");
            end(&agent, &path, one).await;
        }
        for (path, stamp) in sockets {
            followed.entry(path.clone()).or_insert_with(|| follow(agent.clone(), path, stamp));
        }
        tokio::select! { () = watcher.changed() => {}, () = stop.cancelled() => break }
    }
    // Plugins stay registered: they outlive the agent.
    followed.values().for_each(|one| one.task.abort());
}

fn follow(agent: Arc<Agent>, path: PathBuf, stamp: Stamp) -> Followed {
    let registered: Arc<std::sync::Mutex<Option<(&'static dyn Handler, Plugin)>>> = Arc::default();
    let note = registered.clone();
    let task = tokio::spawn(async move {
        let mut pause = FIRST_PAUSE;
        loop {
            match register(&agent, &path, &note).await {
                Ok(name) => return tracing::info!(plugin = name, socket = %path.display(), "plugin registered"),
                Err(error) => tracing::info!(error, socket = %path.display(), "plugin not registered, will be tried again"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    });
    Followed { stamp, task, registered }
}

async fn end(agent: &Arc<Agent>, path: &Path, one: Followed) {
    one.task.abort();
    // Once it has ended nothing is noted any more.
    let _ = one.task.await;
    let registered = one.registered.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    if let Some((handler, plugin)) = registered {
        tracing::info!(plugin = plugin.name, socket = %path.display(), "plugin deregistered");
        handler.deregister(agent, &plugin).await;
    }
}

/// One attempt; the plugin learns how it ended.
async fn register(agent: &Arc<Agent>, socket: &Path, note: &std::sync::Mutex<Option<(&'static dyn Handler, Plugin)>>) -> Result<String, String> {
    let channel = Channel::unix(socket);
    let info: wire::PluginInfo = channel.unary(wire::GET_INFO, &wire::InfoRequest {}, CALL_TIMEOUT).await.map_err(|status| status.to_string())?;
    let endpoint = if info.endpoint.is_empty() { socket.to_path_buf() } else { PathBuf::from(&info.endpoint) };
    let plugin = Plugin { name: info.name, socket: socket.into(), endpoint, versions: info.supported_versions };
    let taken = async {
        let handler = handler(&info.r#type)?;
        handler.validate(&plugin)?;
        // From here on it must be taken back.
        *note.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some((handler, plugin.clone()));
        handler.register(agent, &plugin).await
    };
    let taken = taken.await;
    let error = taken.as_ref().err().map(|why| format!("RegisterPlugin error -- plugin registration failed with err: {why}")).unwrap_or_default();
    let status = wire::RegistrationStatus { plugin_registered: taken.is_ok(), error };
    let told: Result<wire::RegistrationStatusResponse, _> = channel.unary(wire::NOTIFY, &status, CALL_TIMEOUT).await;
    taken?;
    told.map_err(|status| status.to_string())?;
    Ok(plugin.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_one_handler_and_others_are_refused() {
        let mut kinds: Vec<&str> = HANDLERS.iter().map(|row| row.kind).collect();
        kinds.dedup();
        assert_eq!(kinds.len(), HANDLERS.len());
        assert!(handler("CSIPlugin").is_ok());
        assert_eq!(handler("Nothing").err().as_deref(), Some("no handler registered for plugin type: Nothing"));
    }

    #[test]
    fn a_dra_driver_names_a_service_that_we_speak() {
        let plugin = |services: &[&str]| Plugin {
            name: "d.example".into(),
            socket: "/r".into(),
            endpoint: "/x".into(),
            versions: services.iter().map(|service| (*service).into()).collect(),
        };
        let validate = |services| handler("DRAPlugin").expect("known").validate(&plugin(services));
        assert_eq!((validate(&["v1.DRAPlugin"]), validate(&["v1alpha1.DRAResourceHealth", "v1beta1.DRAPlugin"])), (Ok(()), Ok(())));
        let none = "invalid supported gRPC versions of DRA driver plugin d.example at endpoint /x: empty list of supported gRPC services (aka supported versions)";
        assert_eq!(validate(&[]).as_ref().map_err(String::as_str), Err(none));
        let other = "invalid supported gRPC versions of DRA driver plugin d.example at endpoint /x: none of services supported by the plugin ([\"v9.DRAPlugin\"]) are supported by the kubelet ([\"v1.DRAPlugin\" \"v1beta1.DRAPlugin\"])";
        assert_eq!(validate(&["v9.DRAPlugin"]).as_ref().map_err(String::as_str), Err(other));
    }

    #[test]
    fn a_driver_speaks_a_version_that_we_do() {
        let plugin = |versions: &[&str]| Plugin {
            name: "d.example".into(),
            socket: "/r".into(),
            endpoint: "/x".into(),
            versions: versions.iter().map(|version| (*version).into()).collect(),
        };
        for (versions, ok) in [(&["1.0.0"][..], true), (&["v1.2.0", "0.3.0"], true), (&["0.3.0"], false), (&["2.0.0"], false), (&[], false), (&["one"], false)] {
            assert_eq!(handler("CSIPlugin").expect("known").validate(&plugin(versions)).is_ok(), ok, "{versions:?}");
        }
    }
}
