//! Taking an address is creating its IPAddress; giving it back is deleting it.

use super::range::{ServiceCidr, family};
use super::{ADDRESSES, ALLOCATOR, FAMILY, GROUP, MANAGED_BY, RANGES, Write};
use keles_api::{Object, Status};
use keles_registry::{Registry, Verb};
use rand::Rng;
use serde_json::{Value, json};
use std::net::IpAddr;

/// Why an address cannot be had; texts are upstream's.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("provided IP is already allocated")]
    Taken,
    /// In none of the ranges that are ready.
    #[error("the provided network does not match the current range")]
    NoRange,
    /// What a dry run says, which upstream asks one range alone.
    #[error("the provided IP ({ip}) is not in the valid range. The range of valid IPs is {range}")]
    OutOfRange { ip: IpAddr, range: ServiceCidr },
    #[error("range is full")]
    Full,
    #[error("{}", .0.message)]
    Failed(Status),
}

/// The Service an address is for.
#[derive(Clone, Copy)]
pub struct For<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
}

/// The blocks that addresses may come from now, by the name of their ServiceCIDR. One that says nothing of itself is ready, for clusters
/// whose controllers do not run (yet).
pub fn ready(registry: &Registry) -> Vec<ServiceCidr> {
    let mut all = Vec::new();
    for o in registry.read_all(GROUP, RANGES, "") {
        let condition = o.at(&["status", "conditions"]).as_array().and_then(|c| c.iter().find(|c| c["type"] == "Ready")).map(|c| c["status"] == "True");
        if o.deletion_timestamp().is_none() && condition.unwrap_or(true) {
            all.extend(blocks(&o));
        }
    }
    all.dedup();
    all
}

/// The blocks of a ServiceCIDR.
pub fn blocks(o: &Object) -> impl Iterator<Item = ServiceCidr> + '_ {
    o.at(&["spec", "cidrs"]).as_array().into_iter().flatten().filter_map(|c| ServiceCidr::parse(c.as_str()?))
}

/// Takes the address that somebody chose.
pub async fn take(registry: &Registry, ip: IpAddr, service: For<'_>, dry_run: bool) -> Result<(), Refusal> {
    let ready = ready(registry);
    if !ready.iter().any(|c| c.contains(ip)) {
        let of_family = ready.into_iter().find(|c| c.network().is_ipv4() == ip.is_ipv4());
        return Err(of_family.filter(|_| dry_run).map_or(Refusal::NoRange, |range| Refusal::OutOfRange { ip, range }));
    }
    if dry_run {
        return Ok(());
    }
    create(registry, ip, service).await
}

/// Takes any free address of a family: of the upper part of a block at random, of the band that people choose from when that is full.
pub async fn take_any(registry: &Registry, family: &str, service: For<'_>, dry_run: bool) -> Result<IpAddr, Refusal> {
    for block in ready(registry).into_iter().filter(|c| c.family() == family && c.usable() > 0) {
        if dry_run {
            // Upstream looks for none either: the one it found might be gone by the time it is asked for.
            return Ok(block.network());
        }
        let reserved = block.reserved();
        for (first, count) in [(reserved, block.usable() - reserved), (0, reserved)] {
            if let Some(ip) = take_between(registry, &block, first, count, service).await? {
                return Ok(ip);
            }
        }
    }
    Err(Refusal::Full)
}

/// Looks once at each of `count` addresses from the `first` on, beginning anywhere.
async fn take_between(registry: &Registry, block: &ServiceCidr, first: u128, count: u128, service: For<'_>) -> Result<Option<IpAddr>, Refusal> {
    if count == 0 {
        return Ok(None);
    }
    let start = rand::rng().random_range(0..count);
    let taken = registry.peek_all(GROUP, ADDRESSES);
    for n in (start..count).chain(0..start) {
        let ip = block.address(first + n);
        if taken.contains_key(ip.to_string().as_str()) {
            continue;
        }
        match create(registry, ip, service).await {
            Ok(()) => return Ok(Some(ip)),
            // Somebody was faster.
            Err(Refusal::Taken) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(None)
}

async fn create(registry: &Registry, ip: IpAddr, service: For<'_>) -> Result<(), Refusal> {
    let body = object(ip, service);
    match (Write { verb: Verb::Create, group: GROUP, plural: ADDRESSES, namespace: "", name: "", body: Some(&body) }).send(registry).await {
        Ok(()) => Ok(()),
        Err(s) if s.reason == "AlreadyExists" => Err(Refusal::Taken),
        Err(s) => Err(Refusal::Failed(s)),
    }
}

/// Gives an address back that is this Service's own.
pub async fn give_back_of(registry: &Registry, ip: &str, service: For<'_>) -> Result<(), Status> {
    let Some(o) = registry.read(GROUP, ADDRESSES, "", ip) else { return Ok(()) };
    let part = |f: &str| o.str_at(&["spec", "parentRef", f]);
    let own = part("resource") == "services" && (part("namespace"), part("name")) == (service.namespace, service.name);
    if own { give_back(registry, ip).await } else { Ok(()) }
}

/// Gives an address back; nothing happens when nobody has it.
pub async fn give_back(registry: &Registry, ip: &str) -> Result<(), Status> {
    match (Write { verb: Verb::Delete, group: GROUP, plural: ADDRESSES, namespace: "", name: ip, body: None }).send(registry).await {
        Err(s) if s.code == 404 => Ok(()),
        r => r,
    }
}

/// The IPAddress of a Service's address.
pub fn object(ip: IpAddr, service: For<'_>) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
        "metadata": {"name": ip.to_string(), "labels": {MANAGED_BY: ALLOCATOR, FAMILY: family(ip)}},
        "spec": {"parentRef": {"resource": "services", "namespace": service.namespace, "name": service.name}},
    })
}
