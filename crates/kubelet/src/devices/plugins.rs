//! Where plugins register, and the stream on which each tells of its devices.
//!
//! Entry point: [`Devices::serve`].

use super::wire::{self, Empty, RegisterRequest};
use super::{Device, Devices, Plugin, is_extended, store};
use keles_grpc::{Channel, Code, Server, Status};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

/// Of the agent, in the folder of device plugins.
pub const SOCKET: &str = "kubelet.sock";
const OPTIONS_LIMIT: Duration = Duration::from_secs(10);
/// More devices of one resource are not taken.
const MAX_DEVICES: usize = 4096;

impl Devices {
    /// Lets plugins register until `stop`. What lies in the folder goes first but for the checkpoint: plugins watch their own socket and register
    /// anew when it goes (upstream's rule).
    pub async fn serve(&self, stop: CancellationToken) -> io::Result<()> {
        let listener = self.listen()?;
        let (devices, alive) = (self.clone(), stop.clone());
        let register = move |request: RegisterRequest| {
            let (devices, alive) = (devices.clone(), alive.clone());
            async move { devices.register(request, alive).await }
        };
        Server::new().unary(wire::REGISTER, register).serve_unix(listener, stop).await;
        Ok(())
    }

    fn listen(&self) -> io::Result<UnixListener> {
        std::fs::create_dir_all(self.folder())?;
        for entry in std::fs::read_dir(self.folder())?.flatten() {
            if entry.file_name() != store::FILE && !entry.path().is_dir() {
                std::fs::remove_file(entry.path())?;
            }
        }
        UnixListener::bind(self.folder().join(SOCKET))
    }

    async fn register(&self, request: RegisterRequest, stop: CancellationToken) -> Result<Empty, Status> {
        tracing::info!(resource = request.resource_name, endpoint = request.endpoint, "a device plugin registers");
        crate::metrics::DEVICE_PLUGINS.with([&request.resource_name]).increment();
        if request.version != wire::VERSION {
            let text = format!("requested API version \"{}\" is not supported by kubelet. Supported versions are [\"{}\"]", request.version, wire::VERSION);
            return Err(Status::new(Code::Unknown, text));
        }
        if !is_extended(&request.resource_name) {
            return Err(Status::new(Code::Unknown, format!("the ResourceName \"{}\" is invalid", request.resource_name)));
        }
        // A plugin's own file, not a way out of the folder.
        if Path::new(&request.endpoint).file_name().is_none_or(|name| name != request.endpoint.as_str()) {
            return Err(Status::new(Code::InvalidArgument, format!("endpoint \"{}\" is not the name of a socket in {}", request.endpoint, self.folder().display())));
        }
        let channel = Channel::unix(self.folder().join(&request.endpoint));
        let options = channel.unary(wire::OPTIONS, &Empty {}, OPTIONS_LIMIT).await?;
        let replaced = stop.child_token();
        let registration = {
            let mut state = self.state();
            state.registrations += 1;
            let registration = state.registrations;
            state.gone.remove(&request.resource_name);
            let plugin = state.plugins.entry(request.resource_name.clone()).or_default();
            let devices = std::mem::take(&mut plugin.devices);
            plugin.replaced.cancel();
            *plugin = Plugin { channel: Some(channel.clone()), options, devices, stopped_at: None, registration, replaced: replaced.clone() };
            // Their health is what the first list says.
            plugin.devices.values_mut().for_each(|device| device.is_healthy = false);
            registration
        };
        let devices = self.clone();
        tokio::spawn(async move {
            let watch = devices.watch(&channel, &request.resource_name, registration);
            let ended = tokio::select! { ended = watch => ended, () = replaced.cancelled() => return };
            devices.disconnect(&request.resource_name, registration, ended.err());
        });
        Ok(Empty {})
    }

    /// Hears the plugin until its stream ends or another of its kind registers.
    async fn watch(&self, channel: &Channel, resource: &str, registration: u64) -> Result<(), Status> {
        let mut lists = channel.server_streaming::<_, wire::ListAndWatchResponse>(wire::LIST_AND_WATCH, &Empty {}).await?;
        let mut is_first = true;
        while let Some(list) = lists.message().await? {
            let mut state = self.state();
            let Some(plugin) = state.plugins.get_mut(resource).filter(|plugin| plugin.registration == registration) else { return Ok(()) };
            if list.devices.len() > MAX_DEVICES {
                tracing::warn!(resource, count = list.devices.len(), "more devices than {MAX_DEVICES}: the others are not offered");
            }
            let told: std::collections::BTreeMap<String, Device> = list.devices.into_iter().take(MAX_DEVICES).map(device).collect();
            // Some tell the same every few seconds.
            if !std::mem::take(&mut is_first) && plugin.devices == told {
                continue;
            }
            plugin.devices = told;
            self.save(&state).unwrap_or_else(|error| tracing::warn!(%error, resource, "registered devices not in the checkpoint"));
            drop(state);
            self.ring();
        }
        Ok(())
    }

    fn disconnect(&self, resource: &str, registration: u64, error: Option<Status>) {
        let mut state = self.state();
        let Some(plugin) = state.plugins.get_mut(resource).filter(|plugin| plugin.registration == registration) else { return };
        tracing::warn!(resource, error = error.map(|error| error.to_string()), "a device plugin is gone: its devices are unhealthy until it registers again");
        plugin.channel = None;
        plugin.stopped_at = Some(Instant::now());
        drop(state);
        self.ring();
    }

    /// As if a plugin had gone so long ago.
    #[cfg(test)]
    pub(super) fn age(&self, resource: &str, by: Duration) {
        if let Some(at) = self.state().plugins.get_mut(resource).and_then(|plugin| plugin.stopped_at.as_mut()) {
            *at = at.checked_sub(by).expect("this machine has been up so long");
        }
    }
}

fn device(told: wire::Device) -> (String, Device) {
    let nodes = told.topology.into_iter().flat_map(|topology| topology.nodes).filter_map(|node| usize::try_from(node.id).ok()).collect();
    (told.id, Device { is_healthy: told.health == wire::HEALTHY, nodes })
}
