//! Amounts of resources as plain numbers, for arithmetic in the hot path.

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;
use keles_api::Quantity;
use keles_rules::requests::held_by;
use std::collections::BTreeMap;

/// What scoring counts for a container that asks for nothing, so that many such pods still spread (upstream's defaults).
const ASSUMED_MILLI_CPU: i64 = 100;
const ASSUMED_MEMORY_BYTES: i64 = 200 * 1024 * 1024;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    pub milli_cpu: i64,
    pub memory: i64,
    pub ephemeral_storage: i64,
    pub pods: i64,
    /// Everything else: huge pages and extended resources, in whole units.
    pub scalar: BTreeMap<String, i64>,
}

impl Resources {
    pub fn of_pod(pod: &Pod) -> Self {
        let mut resources = Resources::default();
        for (name, quantity) in held_by(pod) {
            resources.set(&name, quantity);
        }
        resources
    }
    pub fn of_list(list: &BTreeMap<String, Wire>) -> Self {
        let mut resources = Resources::default();
        for (name, quantity) in list {
            if let Ok(quantity) = Quantity::parse(&quantity.0) {
                resources.set(name, quantity);
            }
        }
        resources
    }
    fn set(&mut self, name: &str, quantity: Quantity) {
        match name {
            "cpu" => self.milli_cpu = quantity.milli(),
            "memory" => self.memory = quantity.units(),
            "ephemeral-storage" => self.ephemeral_storage = quantity.units(),
            "pods" => self.pods = quantity.units(),
            _ => _ = self.scalar.insert(name.to_owned(), quantity.units()),
        }
    }
    pub fn add(&mut self, other: &Resources) {
        self.apply(other, 1);
    }
    pub fn sub(&mut self, other: &Resources) {
        self.apply(other, -1);
    }
    fn apply(&mut self, other: &Resources, sign: i64) {
        self.milli_cpu += sign * other.milli_cpu;
        self.memory += sign * other.memory;
        self.ephemeral_storage += sign * other.ephemeral_storage;
        self.pods += sign * other.pods;
        for (name, amount) in &other.scalar {
            *self.scalar.entry(name.clone()).or_default() += sign * amount;
        }
    }
}

/// Requests as scoring sees them: containers that ask for no cpu or memory count with an assumed amount.
pub fn assumed(spec: &PodSpec, requests: &Resources) -> (i64, i64) {
    let missing = |name: &str| {
        let asks = |c: &&k8s_openapi::api::core::v1::Container| c.resources.as_ref().and_then(|r| r.requests.as_ref()).is_some_and(|list| list.contains_key(name));
        spec.containers.iter().filter(|c| !asks(c)).count() as i64
    };
    (requests.milli_cpu + missing("cpu") * ASSUMED_MILLI_CPU, requests.memory + missing("memory") * ASSUMED_MEMORY_BYTES)
}
