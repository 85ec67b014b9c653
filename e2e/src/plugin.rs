//! How a plugin of the agent's registers (KEP pluginregistration v1), for the drivers of the tests.

use keles_grpc::{Server, Status};
use prost::Message;
use std::path::Path;

#[derive(Clone, PartialEq, Message)]
struct Empty {}

#[derive(Clone, PartialEq, Message)]
struct PluginInfo {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    endpoint: String,
    #[prost(string, repeated, tag = "4")]
    supported_versions: Vec<String>,
}

/// What the agent made of a registration.
#[derive(Clone, PartialEq, Message)]
pub struct RegistrationStatus {
    #[prost(bool, tag = "1")]
    pub plugin_registered: bool,
    #[prost(string, tag = "2")]
    pub error: String,
}

/// The service of a socket in `plugins_registry`. `kind` is `CSIPlugin` or such; `told` hears what becomes of it, and may refuse to.
pub fn registrar(kind: &str, name: &str, endpoint: &Path, versions: &[&str], told: impl Fn(RegistrationStatus) -> Result<(), Status> + Send + Sync + 'static) -> Server {
    let supported_versions = versions.iter().map(|v| (*v).to_owned()).collect();
    let info = PluginInfo { kind: kind.into(), name: name.into(), endpoint: endpoint.display().to_string(), supported_versions };
    Server::new()
        .unary("/pluginregistration.Registration/GetInfo", move |_: Empty| {
            let info = info.clone();
            async move { Ok::<_, Status>(info) }
        })
        .unary("/pluginregistration.Registration/NotifyRegistrationStatus", move |status: RegistrationStatus| {
            let answer = told(status).map(|()| Empty {});
            async move { answer }
        })
}
