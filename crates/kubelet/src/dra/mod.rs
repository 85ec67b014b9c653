//! Dynamic resource allocation, the node's side (resource.k8s.io/v1, KEP-4381): devices of the claims that the scheduler allocated for pods.
//!
//! Entry points: [`Dra::open`], [`Dra::prepare`] before a pod's sandbox is made, [`Dra::cdi`] for each container, [`Dra::unprepare`] once nothing of the
//! pod runs, [`run`], which gives back what pods of before left. Invariants: a driver is asked to prepare a claim only after the pod's use of it is on the
//! disk; a claim is prepared once for all pods that share it, and given back with the last of them. Deliberately absent: allocation and reservation,
//! which are the scheduler's; claims that are not for the pod keep it from starting.

pub mod drivers;
mod health;
pub mod metrics;
mod reference;
pub mod store;
#[cfg(test)]
mod tests;
pub mod wire;

use crate::agent::Agent;
use drivers::{Drivers, Registered};
use health::Name;
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus, ResourceHealth, ResourceStatus};
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::Api;
use reference::{Reference, Use};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use store::{Claim, Claims, Device, Driver, StoreError};
use tokio::sync::{OwnedMutexGuard, watch};
use tokio_util::sync::CancellationToken;

/// Before what could not be given back for pods of before is tried again, unless a driver registers (upstream's reconcile period).
const SWEEP_PAUSE: Duration = Duration::from_secs(60);

/// Of claims among the resources of a container's status; no resource's name begins so.
const ENTRY_PREFIX: &str = "claim:";

/// Why a pod's claims are not ready, in upstream's words.
#[derive(Debug, thiserror::Error)]
pub enum DraError {
    #[error("pod \"{pod}\": ResourceClaim not created yet")]
    NotCreated { pod: String },
    #[error("pod \"{pod}\", spec.resourceClaim \"{claim}\": none of the supported fields are set")]
    NoField { pod: String, claim: String },
    #[error("fetch ResourceClaim {claim}: {message}")]
    Fetch { claim: String, message: String },
    #[error("ResourceClaim {claim} was not created for Pod {pod} (Pod is not owner)")]
    NotOwned { claim: String, pod: String },
    #[error("pod {pod} ({uid}) is not allowed to use ResourceClaim {claim} ({claim_uid})")]
    NotReserved { pod: String, uid: String, claim: String, claim_uid: String },
    #[error("ResourceClaim {0}: not allocated")]
    NotAllocated(String),
    #[error("DRA driver {0} is not registered")]
    NotRegistered(String),
    #[error("old ResourceClaim with same name {claim} and different UID {uid} still exists (previous pod force-deleted?!)")]
    Old { claim: String, uid: String },
    #[error("{call}: {status}")]
    Call { call: &'static str, status: keles_grpc::Status },
    #[error("{call} returned result for unknown claim UID {uid}")]
    UnknownResult { call: &'static str, uid: String },
    #[error("{call} failed for ResourceClaim {claim}: {message}")]
    Driver { call: &'static str, claim: String, message: String },
    #[error("{call} skipped {count} ResourceClaims")]
    Skipped { call: &'static str, count: usize },
    #[error("unable to get information for ResourceClaim {0}")]
    Unprepared(String),
    #[error("checkpoint ResourceClaim state {path}: {source}")]
    Checkpoint { path: String, source: std::io::Error },
}

type Key = (String, String);
type Gates = Mutex<HashMap<Key, Arc<tokio::sync::Mutex<()>>>>;

pub struct Dra {
    folder: PathBuf,
    pub drivers: Drivers,
    claims: Mutex<Claims>,
    /// One at a time works on a claim.
    gates: Gates,
    /// Counts up when a driver registers.
    registered: watch::Sender<u64>,
}

impl Dra {
    /// Reads what an earlier run had prepared.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let claims = Mutex::new(store::read(folder)?);
        Ok(Self { folder: folder.into(), drivers: Drivers::open(folder), claims, gates: Gates::default(), registered: watch::channel(0).0 })
    }

    fn claims(&self) -> MutexGuard<'_, Claims> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A driver is there: what waits for one is tried again.
    pub fn ring(&self) {
        self.registered.send_modify(|count| *count += 1);
    }

    fn save(&self, claims: &Claims) -> Result<(), DraError> {
        store::write(&self.folder, claims).map_err(|source| DraError::Checkpoint { path: self.folder.join(store::FILE).display().to_string(), source })
    }

    /// In order, so that two who want the same ones never wait for each other.
    async fn gates(&self, keys: &BTreeSet<Key>) -> Vec<OwnedMutexGuard<()>> {
        let gates: Vec<_> = {
            let mut all = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|_, gate| Arc::strong_count(gate) > 1);
            keys.iter().map(|key| all.entry(key.clone()).or_default().clone()).collect()
        };
        let mut held = Vec::with_capacity(gates.len());
        for gate in gates {
            held.push(gate.lock_owned().await);
        }
        held
    }

    /// Has the pod's claims prepared; those that are already stay as they are. Nothing is noted of a pod that fails before its drivers are asked.
    pub async fn prepare(&self, client: &kube::Client, pod: &Pod) -> Result<(), DraError> {
        timed("PrepareResources", async {
            let references = reference::all(pod)?;
            if references.is_empty() {
                return Ok(());
            }
            let namespace = pod.metadata.namespace.clone().unwrap_or_default();
            let keys = references.iter().map(|reference| (namespace.clone(), reference.claim.clone())).collect();
            let _one_at_a_time = self.gates(&keys).await;
            let usable = self.fetch(client, pod, &references).await?;
            let batches = self.refer(pod.metadata.uid.as_deref().unwrap_or_default(), &usable)?;
            for (driver, claims) in batches {
                self.ask(&self.drivers.get(&driver)?, claims).await?;
            }
            self.change(|claims| claims.iter_mut().filter(|(key, _)| keys.contains(*key)).for_each(|(_, claim)| claim.prepared = true))
        })
        .await
    }

    /// The claims as the API has them, if the pod may use them and their drivers are here.
    async fn fetch(&self, client: &kube::Client, pod: &Pod, references: &[Reference]) -> Result<BTreeMap<Key, Claim>, DraError> {
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let api: Api<ResourceClaim> = Api::namespaced(client.clone(), &namespace);
        let mut usable = BTreeMap::new();
        for reference in references {
            let name = &reference.claim;
            let found = api.get(name).await.map_err(|error| DraError::Fetch { claim: name.clone(), message: words(error) })?;
            let drivers = reference::check(pod, reference, &found)?;
            // Even if it is prepared: without its driver something is wrong with the node (upstream's rule).
            drivers.iter().try_for_each(|driver| self.drivers.get(driver).map(drop))?;
            let drivers = drivers.into_iter().map(|driver| (driver, Driver::default())).collect();
            let claim = Claim { uid: found.metadata.uid.unwrap_or_default(), name: name.clone(), namespace: namespace.clone(), drivers, ..Claim::default() };
            usable.insert((namespace.clone(), name.clone()), claim);
        }
        Ok(usable)
    }

    /// Notes that the pod uses these claims; by driver, those that are to be prepared.
    fn refer(&self, uid: &str, usable: &BTreeMap<Key, Claim>) -> Result<BTreeMap<String, Vec<wire::Claim>>, DraError> {
        let mut claims = self.claims();
        let old = usable.iter().find_map(|(key, new)| claims.get(key).filter(|old| old.uid != new.uid));
        if let Some(old) = old {
            return Err(DraError::Old { claim: old.name.clone(), uid: old.uid.clone() });
        }
        let mut batches: BTreeMap<String, Vec<wire::Claim>> = BTreeMap::new();
        for (key, new) in usable {
            let claim = claims.entry(key.clone()).or_insert_with(|| new.clone());
            claim.pods.insert(uid.to_owned());
            if !claim.prepared {
                claim.drivers.keys().for_each(|driver| batches.entry(driver.clone()).or_default().push(message(claim)));
            }
        }
        self.save(&claims)?;
        Ok(batches)
    }

    /// Has a driver prepare its part of claims, and notes the devices that it gives.
    async fn ask(&self, plugin: &Registered, asked: Vec<wire::Claim>) -> Result<(), DraError> {
        const CALL: &str = "NodePrepareResources";
        let request = wire::ClaimsRequest { claims: asked };
        let answer: wire::PrepareResponse = plugin.call(plugin.service().prepare, &request).await.map_err(|status| DraError::Call { call: CALL, status })?;
        let errors = answer.claims.iter().map(|(uid, result)| (uid, result.error.as_str()));
        judge(CALL, &request.claims, errors)?;
        let mut claims = self.claims();
        for claim in &request.claims {
            let given = answer.claims[&claim.uid].devices.iter().map(device).collect();
            if let Some(known) = claims.get_mut(&(claim.namespace.clone(), claim.name.clone())) {
                known.drivers.insert(plugin.driver().to_owned(), Driver { devices: given });
            }
        }
        Ok(())
    }

    fn change(&self, how: impl FnOnce(&mut Claims)) -> Result<(), DraError> {
        let mut claims = self.claims();
        how(&mut claims);
        self.save(&claims)
    }

    /// The pod uses its claims no more: those that nobody else uses are given back. Repeatable until it succeeds.
    pub async fn unprepare(&self, uid: &str) -> Result<(), DraError> {
        timed("UnprepareResources", async {
            let keys: BTreeSet<Key> = self.claims().iter().filter(|(_, claim)| claim.pods.contains(uid)).map(|(key, _)| key.clone()).collect();
            if keys.is_empty() {
                return Ok(());
            }
            let _one_at_a_time = self.gates(&keys).await;
            let last = self.last(uid, &keys);
            let mut batches: BTreeMap<String, Vec<wire::Claim>> = BTreeMap::new();
            for claim in &last {
                claim.drivers.keys().for_each(|driver| batches.entry(driver.clone()).or_default().push(message(claim)));
            }
            for (driver, claims) in batches {
                give_back(&self.drivers.get(&driver)?, claims).await?;
            }
            self.change(|claims| {
                claims.values_mut().for_each(|claim| claim.pods.retain(|pod| pod != uid));
                claims.retain(|_, claim| !claim.pods.is_empty());
            })
        })
        .await
    }

    /// Of these, the claims that no other pod uses.
    fn last(&self, uid: &str, keys: &BTreeSet<Key>) -> Vec<Claim> {
        let claims = self.claims();
        keys.iter().filter_map(|key| claims.get(key)).filter(|claim| claim.pods.iter().all(|pod| pod == uid)).cloned().collect()
    }

    /// Whether drivers may still hold something for the pod.
    pub fn is_held(&self, uid: &str) -> bool {
        self.claims().values().any(|claim| claim.pods.contains(uid))
    }

    /// Uids of pods that use claims.
    pub fn holders(&self) -> BTreeSet<String> {
        self.claims().values().flat_map(|claim| claim.pods.iter().cloned()).collect()
    }

    /// CDI names of the devices that a container gets, each once.
    pub fn cdi(&self, pod: &Pod, container: &Container) -> Result<Vec<String>, DraError> {
        let mut names: Vec<String> = Vec::new();
        for (used, claim) in self.used(pod, container)? {
            let devices = claim.drivers.values().flat_map(|driver| &driver.devices).filter(|device| device.is_of(used.request.as_deref()));
            for name in devices.flat_map(|device| &device.cdi) {
                if !names.contains(name) {
                    names.push(name.clone());
                }
            }
        }
        Ok(names)
    }

    /// What a container uses, with what was prepared of it.
    fn used(&self, pod: &Pod, container: &Container) -> Result<Vec<(Use, Claim)>, DraError> {
        let uses = reference::of_container(pod, container)?;
        let claims = self.claims();
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let known = |used: Use| match claims.get(&(namespace.clone(), used.claim.clone())) {
            Some(claim) => Ok((used, claim.clone())),
            None => Err(DraError::Unprepared(used.claim)),
        };
        uses.into_iter().map(known).collect()
    }

    /// The claims that a container uses, each once.
    pub fn of_container(&self, pod: &Pod, container: &Container) -> Vec<Claim> {
        let mut all: Vec<Claim> = Vec::new();
        for (_, claim) in self.used(pod, container).unwrap_or_default() {
            if !all.contains(&claim) {
                all.push(claim);
            }
        }
        all
    }

    /// Puts the health of its devices into each container's status (KEP-4680): `claim:ENTRY` or `claim:ENTRY/REQUEST`.
    pub fn show(&self, pod: &Pod, status: &mut PodStatus) {
        let spec = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
        let lists = [&mut status.init_container_statuses, &mut status.container_statuses];
        let mut statuses: BTreeMap<String, _> = lists.into_iter().flatten().flatten().map(|status| (status.name.clone(), status)).collect();
        for container in spec.filter(|container| container.resources.as_ref().is_some_and(|resources| resources.claims.is_some())) {
            let (Some(status), Ok(used)) = (statuses.get_mut(&container.name), self.used(pod, container)) else { continue };
            // Of a container that is told of only by an earlier status they stand there already.
            if let Some(known) = &mut status.allocated_resources_status {
                known.retain(|resource| !resource.name.starts_with(ENTRY_PREFIX));
            }
            let shown: Vec<ResourceStatus> = used.iter().filter_map(|(used, claim)| self.health_of(used, claim)).collect();
            if !shown.is_empty() {
                status.allocated_resources_status.get_or_insert_default().extend(shown);
            }
        }
    }

    fn health_of(&self, used: &Use, claim: &Claim) -> Option<ResourceStatus> {
        let (health, now) = (self.drivers.health(), Instant::now());
        let of_device = |driver: &str, device: &Device| {
            let (state, message) = health.of(driver, &(device.pool.clone(), device.name.clone()), now);
            let id = device.cdi.first().cloned().unwrap_or_else(|| format!("{driver}/{}/{}", device.pool, device.name));
            ResourceHealth { health: Some(state.into()), message, resource_id: id }
        };
        let devices = claim.drivers.iter().flat_map(|(driver, state)| state.devices.iter().map(move |device| (driver, device)));
        let all: Vec<ResourceHealth> = devices.filter(|(_, device)| device.is_of(used.request.as_deref())).map(|(driver, device)| of_device(driver, device)).collect();
        let entry = used.entry.as_deref()?;
        let name = used.request.as_ref().map_or_else(|| format!("{ENTRY_PREFIX}{entry}"), |request| format!("{ENTRY_PREFIX}{entry}/{request}"));
        (!all.is_empty()).then_some(ResourceStatus { name, resources: Some(all) })
    }

    /// Pods that use any of a driver's devices.
    fn users_of(&self, driver: &str, devices: &[Name]) -> Vec<String> {
        let is_one = |device: &Device| devices.iter().any(|(pool, name)| *pool == device.pool && *name == device.name);
        let claims = self.claims();
        let using = claims.values().filter(|claim| claim.drivers.get(driver).is_some_and(|state| state.devices.iter().any(is_one)));
        using.flat_map(|claim| claim.pods.iter().cloned()).collect()
    }

    /// How many claims pods use, all in all and by driver.
    fn in_use(&self) -> (usize, BTreeMap<String, usize>) {
        let claims = self.claims();
        let mut by_driver = BTreeMap::new();
        claims.values().flat_map(|claim| claim.drivers.keys()).for_each(|driver| *by_driver.entry(driver.clone()).or_insert(0) += 1);
        (claims.len(), by_driver)
    }
}

async fn give_back(plugin: &Registered, asked: Vec<wire::Claim>) -> Result<(), DraError> {
    const CALL: &str = "NodeUnprepareResources";
    let request = wire::ClaimsRequest { claims: asked };
    let answer: wire::UnprepareResponse = plugin.call(plugin.service().unprepare, &request).await.map_err(|status| DraError::Call { call: CALL, status })?;
    judge(CALL, &request.claims, answer.claims.iter().map(|(uid, result)| (uid, result.error.as_str())))
}

/// Whether a driver did what it was asked for each claim, and nothing else.
fn judge<'a>(call: &'static str, asked: &[wire::Claim], results: impl Iterator<Item = (&'a String, &'a str)>) -> Result<(), DraError> {
    let mut answered = 0;
    for (uid, error) in results {
        let claim = asked.iter().find(|claim| claim.uid == *uid).ok_or_else(|| DraError::UnknownResult { call, uid: uid.clone() })?;
        if !error.is_empty() {
            return Err(DraError::Driver { call, claim: claim.name.clone(), message: error.into() });
        }
        answered += 1;
    }
    match asked.len().saturating_sub(answered) {
        0 => Ok(()),
        count => Err(DraError::Skipped { call, count }),
    }
}

async fn timed(operation: &'static str, work: impl Future<Output = Result<(), DraError>>) -> Result<(), DraError> {
    let begun = Instant::now();
    let done = work.await;
    metrics::OPERATIONS.with([if done.is_err() { "true" } else { "false" }, operation]).observe_seconds(begun.elapsed());
    done
}

fn message(claim: &Claim) -> wire::Claim {
    wire::Claim { namespace: claim.namespace.clone(), uid: claim.uid.clone(), name: claim.name.clone() }
}

fn device(told: &wire::Device) -> Device {
    Device { pool: told.pool_name.clone(), name: told.device_name.clone(), share_id: told.share_id.clone(), requests: told.request_names.clone(), cdi: told.cdi_device_ids.clone() }
}

fn words(error: kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Gives back what pods of before left, and takes off the API what drivers of before offered: none has registered yet, and pods that wait for one that
/// never comes would be stuck here. `registered` is the node's uid, once it is made. Until `stop`.
pub async fn run(agent: Arc<Agent>, mut registered: watch::Receiver<Option<String>>, stop: CancellationToken) {
    let wipe = async {
        if registered.wait_for(Option::is_some).await.is_ok() {
            drivers::wipe(&agent, None).await;
        }
    };
    let _ = stop.run_until_cancelled(async { tokio::join!(wipe, sweep(&agent)) }).await;
    agent.placement.dra.drivers.close();
}

/// Pods that are over end by themselves; these are the ones that no worker ends any more.
async fn sweep(agent: &Agent) {
    let dra = &agent.placement.dra;
    let mut known = agent.pods.are_known();
    if known.wait_for(|known| *known).await.is_err() {
        return;
    }
    agent.placement.settled().await;
    let mut rung = dra.registered.subscribe();
    loop {
        let mut is_clean = true;
        for uid in dra.holders().into_iter().filter(|uid| !agent.pods.is_active(uid)) {
            if let Err(error) = dra.unprepare(&uid).await {
                tracing::warn!(%error, uid, "claims of a pod that is gone are not given back, will be tried again");
                is_clean = false;
            }
        }
        let again = async { if is_clean { std::future::pending().await } else { tokio::time::sleep(SWEEP_PAUSE).await } };
        tokio::select! {
            changed = rung.changed() => if changed.is_err() { return },
            () = again => {}
        }
    }
}
