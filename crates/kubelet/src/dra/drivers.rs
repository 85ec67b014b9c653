//! The plugins of DRA drivers: who is there, what they say of their devices, and what the API shows of drivers that went.
//!
//! Entry points: [`Drivers::register`], [`Drivers::deregister`], [`Drivers::call`]. Invariant: a driver none of whose plugins is connected for
//! [`WIPE_DELAY`] has no ResourceSlices of this node any more, so that no pod is sent here for its devices.

use super::health::{Health, Name};
use super::wire::{SERVICES, Service, WATCH, WatchRequest, WatchResponse};
use super::{DraError, metrics};
use crate::agent::Agent;
use crate::plugins::Plugin;
use keles_grpc::{Channel, Code, Status};
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use prost::Message;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Limit of a call (upstream's figure).
const CALL_LIMIT: Duration = Duration::from_secs(45);
/// What a driver has to come back (upstream's `defaultWipingDelay`).
pub const WIPE_DELAY: Duration = Duration::from_secs(30);
/// Before a plugin that cannot be reached is tried again; doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// Before slices that the API did not delete are tried again at most.
const MAX_WIPE_PAUSE: Duration = Duration::from_secs(300);
/// Before a stream of health that ended is opened again (upstream's figure).
const HEALTH_PAUSE: Duration = Duration::from_secs(5);

/// A registered plugin.
#[derive(Clone)]
pub struct Registered {
    driver: String,
    /// Where it registered.
    socket: PathBuf,
    endpoint: PathBuf,
    service: &'static Service,
    channel: Channel,
    is_connected: bool,
    /// Ends what follows it.
    gone: CancellationToken,
}

#[derive(Default)]
struct State {
    /// By driver, the newest last: during an update there are two.
    plugins: BTreeMap<String, Vec<Registered>>,
    /// Drivers whose slices are about to go.
    wipes: BTreeMap<String, CancellationToken>,
}

#[derive(Default)]
pub struct Drivers {
    state: Mutex<State>,
    health: Mutex<Health>,
    stop: CancellationToken,
}

/// The service that is spoken with a plugin of these versions.
pub fn service(plugin: &Plugin) -> Result<&'static Service, String> {
    let quoted = |names: Vec<&str>| names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(" ");
    let chosen = SERVICES.iter().find(|service| plugin.versions.iter().any(|name| name == service.name));
    let why = || match plugin.versions.is_empty() {
        true => "empty list of supported gRPC services (aka supported versions)".to_owned(),
        false => {
            let (theirs, ours) = (plugin.versions.iter().map(String::as_str).collect(), SERVICES.iter().map(|service| service.name).collect());
            format!("none of services supported by the plugin ([{}]) are supported by the kubelet ([{}])", quoted(theirs), quoted(ours))
        }
    };
    chosen.ok_or_else(|| format!("invalid supported gRPC versions of DRA driver plugin {} at endpoint {}: {}", plugin.name, plugin.endpoint.display(), why()))
}

impl Drivers {
    /// With what an earlier run knew of devices' health.
    pub fn open(folder: &Path) -> Self {
        Drivers { health: Mutex::new(Health::open(folder)), ..Drivers::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn register(&self, agent: &Arc<Agent>, plugin: &Plugin) -> Result<(), String> {
        let Some(new) = self.add(plugin)? else { return Ok(()) };
        tokio::spawn(follow(agent.clone(), new.clone()));
        tokio::spawn(watch(agent.clone(), new.clone()));
        self.settle(agent, &new.driver);
        Ok(())
    }

    /// `None`: it is there already, and only the end of its registration is tried again.
    pub(super) fn add(&self, plugin: &Plugin) -> Result<Option<Registered>, String> {
        let service = service(plugin)?;
        let mut state = self.state();
        let all = state.plugins.entry(plugin.name.clone()).or_default();
        if let Some(other) = all.iter().find(|other| other.endpoint == plugin.endpoint) {
            if other.socket == plugin.socket {
                return Ok(None);
            }
            return Err(format!("endpoint {} already registered for DRA driver plugin {}", plugin.endpoint.display(), plugin.name));
        }
        let (driver, endpoint) = (plugin.name.clone(), plugin.endpoint.clone());
        let socket = plugin.socket.clone();
        let new = Registered { driver, socket, channel: Channel::unix(&endpoint), endpoint, service, is_connected: false, gone: self.stop.child_token() };
        all.push(new.clone());
        Ok(Some(new))
    }

    pub fn deregister(&self, agent: &Arc<Agent>, plugin: &Plugin) {
        {
            let mut state = self.state();
            let Some(all) = state.plugins.get_mut(&plugin.name) else { return };
            all.retain(|one| {
                // Another socket that named the same endpoint was refused: its end is not this one's.
                let stays = (&one.endpoint, &one.socket) != (&plugin.endpoint, &plugin.socket);
                if !stays {
                    one.gone.cancel();
                }
                stays
            });
            if all.is_empty() {
                state.plugins.remove(&plugin.name);
            }
        }
        self.settle(agent, &plugin.name);
    }

    /// Nothing is followed any more: the agent stops.
    pub fn close(&self) {
        self.stop.cancel();
    }

    /// The plugin to ask: the newest that is connected, else the newest.
    pub fn get(&self, driver: &str) -> Result<Registered, DraError> {
        let state = self.state();
        let all = state.plugins.get(driver).map(Vec::as_slice).unwrap_or_default();
        all.iter().rfind(|plugin| plugin.is_connected).or(all.last()).cloned().ok_or_else(|| DraError::NotRegistered(driver.into()))
    }

    fn set_connected(&self, agent: &Arc<Agent>, plugin: &Registered, is_connected: bool) {
        {
            let mut state = self.state();
            // Cancelled under this lock: what followed a plugin of before says nothing of the one after it.
            if plugin.gone.is_cancelled() {
                return;
            }
            let known = state.plugins.get_mut(&plugin.driver).and_then(|all| all.iter_mut().find(|one| one.endpoint == plugin.endpoint && !one.gone.is_cancelled()));
            let Some(known) = known else { return };
            known.is_connected = is_connected;
        }
        self.settle(agent, &plugin.driver);
    }

    /// A driver that can be used keeps its slices; one that cannot loses them after a while.
    fn settle(&self, agent: &Arc<Agent>, driver: &str) {
        let mut state = self.state();
        if state.plugins.get(driver).is_some_and(|all| all.iter().any(|plugin| plugin.is_connected)) {
            state.wipes.remove(driver).inspect(CancellationToken::cancel);
            return;
        }
        if state.wipes.contains_key(driver) {
            return;
        }
        let back = self.stop.child_token();
        state.wipes.insert(driver.to_owned(), back.clone());
        let (agent, driver) = (agent.clone(), driver.to_owned());
        tokio::spawn(back.clone().run_until_cancelled_owned(async move {
            tokio::time::sleep(WIPE_DELAY).await;
            wipe(&agent, Some(&driver)).await;
            agent.placement.dra.drivers.state().wipes.remove(&driver);
        }));
    }
}

impl Registered {
    pub fn driver(&self) -> &str {
        &self.driver
    }

    #[cfg(test)]
    pub async fn connected(&self) -> Result<CancellationToken, Status> {
        self.channel.connected().await
    }

    pub fn service(&self) -> &'static Service {
        self.service
    }

    pub async fn call<Q: Message, A: Message + Default>(&self, method: &'static str, request: &Q) -> Result<A, Status> {
        let begun = Instant::now();
        let answer = self.channel.unary(method, request, CALL_LIMIT).await;
        let code = answer.as_ref().err().map_or_else(|| "OK".to_owned(), |status| format!("{:?}", status.code));
        metrics::CALLS.with([&self.driver, &code, method]).observe_seconds(begun.elapsed());
        answer
    }
}

/// Notes whether a plugin is there, until it is deregistered.
async fn follow(agent: Arc<Agent>, plugin: Registered) {
    let gone = plugin.gone.clone();
    let drivers = &agent.placement.dra.drivers;
    let follow = async {
        let mut pause = FIRST_PAUSE;
        loop {
            match plugin.channel.connected().await {
                Ok(ended) => {
                    drivers.set_connected(&agent, &plugin, true);
                    let since = Instant::now();
                    ended.cancelled().await;
                    tracing::info!(driver = plugin.driver, endpoint = %plugin.endpoint.display(), "the connection to a DRA plugin ended");
                    drivers.set_connected(&agent, &plugin, false);
                    // One that takes connections only to end them does not keep the agent busy.
                    if since.elapsed() > MAX_PAUSE {
                        pause = FIRST_PAUSE;
                    }
                }
                Err(status) => tracing::debug!(%status, driver = plugin.driver, "a DRA plugin is not reached, will be tried again"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    };
    gone.run_until_cancelled(follow).await;
}

/// Hears what a plugin says of its devices, until it is deregistered or says that it tells nothing.
async fn watch(agent: Arc<Agent>, plugin: Registered) {
    let gone = plugin.gone.clone();
    let watch = async {
        loop {
            let end = hear(&agent, &plugin).await;
            forget(&agent, &plugin);
            if end.is_err_and(|status| status.code == Code::Unimplemented) {
                return;
            }
            tokio::time::sleep(HEALTH_PAUSE).await;
        }
    };
    if gone.run_until_cancelled(watch).await.is_none() {
        forget(&agent, &plugin);
    }
}

/// What a plugin said of devices holds no more, unless another one of its driver (an update) may have said it: then it gets old by itself.
fn forget(agent: &Agent, plugin: &Registered) {
    let drivers = &agent.placement.dra.drivers;
    let is_alone = drivers.state().plugins.get(&plugin.driver).is_none_or(|all| all.iter().all(|one| one.endpoint == plugin.endpoint));
    if is_alone {
        let forgotten = drivers.health().clear(&plugin.driver);
        tell(agent, &plugin.driver, &forgotten);
    }
}

async fn hear(agent: &Agent, plugin: &Registered) -> Result<(), Status> {
    let mut lists = plugin.channel.server_streaming::<_, WatchResponse>(WATCH, &WatchRequest {}).await?;
    let drivers = &agent.placement.dra.drivers;
    loop {
        let next = drivers.health().next(&plugin.driver);
        let old = async {
            match next {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        let changed = tokio::select! {
            list = lists.message() => match list? {
                Some(list) => drivers.health().update(&plugin.driver, list.devices, Instant::now()),
                None => return Ok(()),
            },
            () = old => drivers.health().expire(&plugin.driver, Instant::now()),
        };
        tell(agent, &plugin.driver, &changed);
    }
}

/// Pods that use these devices show it.
fn tell(agent: &Agent, driver: &str, devices: &[Name]) {
    if !devices.is_empty() {
        agent.pods.look_again(&agent.placement.dra.users_of(driver, devices));
    }
}

/// Deletes the node's ResourceSlices of one driver, or of all, however long it takes.
pub async fn wipe(agent: &Agent, driver: Option<&str>) {
    let slices: Api<k8s_openapi::api::resource::v1::ResourceSlice> = Api::all(agent.client.clone());
    let of_driver = driver.map(|driver| format!(",spec.driver={driver}")).unwrap_or_default();
    let all = ListParams::default().fields(&format!("spec.nodeName={}{of_driver}", agent.config.node_name));
    let mut pause = FIRST_PAUSE;
    loop {
        match slices.delete_collection(&DeleteParams::default(), &all).await {
            Ok(_) => return tracing::info!(driver, "ResourceSlices of drivers that are not here are deleted"),
            Err(kube::Error::Api(status)) if status.code == 404 => return,
            Err(error) => tracing::info!(%error, driver, "ResourceSlices not deleted, will be tried again"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(MAX_WIPE_PAUSE);
    }
}
