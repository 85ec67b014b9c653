//! csi: volumes of drivers that are reached through a socket each (Container Storage Interface, csi.v1).
//!
//! Entry points: [`Csi`], one a node: which drivers are there, and what they hold; [`volume::persistent`] and [`volume::inline`] bring a volume to a pod,
//! [`Csi::tear_down`] gives a pod's volumes back, [`Csi::sweep`] what no pod has any more. `state` is what stands on disk.
//!
//! Invariants: one thing at a time is done to a volume; a volume is staged once a node, however many pods have it, and unstaged when the last one let go; a
//! step that was begun is ended even when its pod no longer waits for it. Deliberately absent: SELinux mount labels, migration of in-tree volumes.

mod driver;
mod state;
mod tear_down;
#[cfg(test)]
mod tests;
pub mod volume;
pub mod wire;

pub use driver::{Driver, NodeInfo};
pub use keles_rules::csi::{attachment_name, hash, unique_name};
pub use state::VolumeData;

use crate::{Result, VolumeError};
use state::Places;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::sync::watch;

/// A driver's registration, or that it was taken back since the agent began.
#[derive(Clone)]
pub enum Registration {
    Present { driver: Driver, info: NodeInfo },
    Gone,
}

/// CSI on this node.
pub struct Csi {
    places: Places,
    drivers: watch::Sender<BTreeMap<String, Registration>>,
    /// One at a time for each volume.
    locks: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
    /// By pod uid: held for reading while something is brought to the pod, for writing while all is taken from it.
    gates: Mutex<HashMap<String, Weak<tokio::sync::RwLock<()>>>>,
    /// What this run of the agent knows to be staged.
    staged: Mutex<BTreeSet<PathBuf>>,
    /// By unique name: attached volumes that are wanted or there, and the pods that say so.
    in_use: watch::Sender<BTreeMap<String, BTreeSet<String>>>,
    /// Those of them that the node's status shows.
    reported: watch::Sender<BTreeSet<String>>,
    unswept: tokio::sync::Notify,
}

// Nothing can panic while these are held half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The one of its key, for as long as anybody holds it.
fn shared<T: Default>(all: &Mutex<HashMap<String, Weak<T>>>, key: String) -> Arc<T> {
    let mut all = lock(all);
    if let Some(there) = all.get(&key).and_then(Weak::upgrade) {
        return there;
    }
    all.retain(|_, one| one.strong_count() > 0);
    let new = Arc::default();
    all.insert(key, Arc::downgrade(&new));
    new
}

impl Csi {
    /// `root`: the agent's, below which drivers find what they are asked for. What an earlier run left counts as in use.
    pub fn open(root: &Path) -> Arc<Csi> {
        let places = Places { root: root.into() };
        let mut in_use: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (uid, held) in places.held().into_iter().filter(|(_, held)| held.data.attached) {
            in_use.entry(held.data.unique_name()).or_default().insert(uid);
        }
        for (data, _) in places.staged().into_iter().filter(|(data, _)| data.attached) {
            in_use.entry(data.unique_name()).or_default();
        }
        Arc::new(Csi {
            places,
            drivers: watch::Sender::default(),
            locks: Mutex::default(),
            gates: Mutex::default(),
            staged: Mutex::default(),
            in_use: watch::Sender::new(in_use),
            reported: watch::Sender::default(),
            unswept: tokio::sync::Notify::default(),
        })
    }

    pub fn register(&self, driver: Driver, info: NodeInfo) {
        // A driver that comes anew may have forgotten what it had staged.
        lock(&self.staged).clear();
        self.drivers.send_modify(|all| _ = all.insert(driver.name.clone(), Registration::Present { driver: driver.clone(), info }));
    }

    pub fn deregister(&self, name: &str) {
        self.drivers.send_modify(|all| _ = all.insert(name.into(), Registration::Gone));
    }

    /// Drivers by name, as they come and go.
    pub fn drivers(&self) -> watch::Receiver<BTreeMap<String, Registration>> {
        self.drivers.subscribe()
    }

    fn driver(&self, name: &str) -> Result<Driver> {
        match self.drivers.borrow().get(name) {
            Some(Registration::Present { driver, .. }) => Ok(driver.clone()),
            _ => Err(VolumeError::Field(format!("driver name {name} not found in the list of registered CSI drivers"))),
        }
    }

    /// Unique names of the attached volumes that this node uses, for `status.volumesInUse`.
    pub fn in_use(&self) -> watch::Receiver<BTreeMap<String, BTreeSet<String>>> {
        self.in_use.subscribe()
    }

    /// The node's status shows these as in use.
    pub fn was_reported(&self, names: BTreeSet<String>) {
        self.reported.send_replace(names);
    }

    /// Says that the pod wants the volume, and waits until the API knows: from then on nobody detaches it.
    async fn claim_use(&self, unique: &str, uid: &str) {
        self.in_use.send_if_modified(|all| all.entry(unique.into()).or_default().insert(uid.into()));
        // The sender is our own field.
        let _ = self.reported.subscribe().wait_for(|names| names.contains(unique)).await;
    }

    /// The pod has nothing of these any more; a volume that stays staged stays in use.
    fn release_uses(&self, uid: &str) {
        let staged: BTreeSet<String> = self.places.staged().into_iter().map(|(data, _)| data.unique_name()).collect();
        self.in_use.send_if_modified(|all| {
            let before = all.clone();
            all.values_mut().for_each(|pods| _ = pods.remove(uid));
            all.retain(|name, pods| !pods.is_empty() || staged.contains(name));
            *all != before
        });
    }

    /// The lock of a volume: of one driver and handle, whatever it is called.
    fn lock_of(&self, driver: &str, handle: &str) -> Arc<tokio::sync::Mutex<()>> {
        shared(&self.locks, unique_name(driver, handle))
    }

    /// What was begun for a pod ends before its volumes are given back.
    fn gate_of(&self, uid: &str) -> Arc<tokio::sync::RwLock<()>> {
        shared(&self.gates, uid.to_owned())
    }
}
