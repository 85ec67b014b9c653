//! Which of a resource's devices a container gets.
//!
//! Entry point: [`Devices::choose`]. In order: what its pod's init containers had, what is on the wished NUMA nodes, what the plugin prefers,
//! the rest by name.

use super::{DeviceError, Devices, Plugin, State, wire};
use crate::placement::hints::NumaMask;
use k8s_openapi::api::core::v1::Container;
use keles_grpc::Channel;
use std::collections::BTreeSet;
use std::time::Duration;

const PREFERRED_LIMIT: Duration = Duration::from_secs(30);

type Ids = BTreeSet<String>;

/// Healthy devices that nobody has.
pub(super) fn free(state: &State, resource: &str) -> Ids {
    let used: Ids = state.given.values().flat_map(|containers| containers.values()).filter_map(|resources| resources.get(resource)).flat_map(|given| given.devices()).collect();
    state.plugins.get(resource).map(Plugin::healthy).unwrap_or_default().difference(&used).cloned().collect()
}

/// Devices chosen so far.
struct Chosen {
    ids: Ids,
    wanted: usize,
}

impl Chosen {
    fn missing(&self) -> usize {
        self.wanted - self.ids.len()
    }
    /// True once there are enough.
    fn add(&mut self, from: &Ids) -> bool {
        let more: Vec<String> = from.difference(&self.ids).take(self.missing()).cloned().collect();
        self.ids.extend(more);
        self.missing() == 0
    }
}

impl Devices {
    /// `None`: it has them already.
    pub(super) async fn choose(
        &self,
        uid: &str,
        container: &Container,
        resource: &str,
        wanted: usize,
        affinity: Option<NumaMask>,
        reusable: Ids,
    ) -> Result<Option<Ids>, DeviceError> {
        let mut chosen = Chosen { ids: Ids::new(), wanted };
        let (available, aligned, ask) = {
            let state = self.state();
            let had = state.given.get(uid).and_then(|containers| containers.get(&container.name)?.get(resource)).map(|given| given.devices());
            if let Some(had) = had.as_ref().filter(|had| had.len() != wanted) {
                return Err(DeviceError::Changed { pod: uid.into(), container: container.name.clone(), resource: resource.into(), had: had.len(), wanted });
            }
            // Before it is looked at what is needed: after a reboot the plugin may not be there yet.
            let plugin = state.plugins.get(resource).ok_or_else(|| DeviceError::Unregistered(resource.into()))?;
            let healthy = plugin.healthy();
            if healthy.is_empty() {
                return Err(DeviceError::NoneHealthy(resource.into()));
            }
            if let Some(had) = had {
                return if had.is_subset(&healthy) { Ok(None) } else { Err(DeviceError::NoLongerHealthy(resource.into())) };
            }
            if chosen.add(&reusable) {
                return Ok(Some(chosen.ids));
            }
            let available = free(&state, resource);
            if available.len() < chosen.missing() {
                return Err(DeviceError::Unavailable { resource: resource.into(), wanted: chosen.missing(), available: available.len() });
            }
            let on = |mask: NumaMask| available.iter().filter(|id| plugin.is_on(id, mask)).cloned().collect();
            let aligned: Ids = affinity.filter(|_| plugin.has_topology()).map(on).unwrap_or_default();
            let ask = plugin.channel.clone().filter(|_| plugin.options.get_preferred_allocation_available);
            (available, aligned, ask)
        };
        if chosen.missing() < aligned.len() {
            return fill(chosen, &aligned, ask).await.map(Some);
        }
        // All that are on the wished nodes, and what more is needed of the others.
        if chosen.add(&aligned) {
            return Ok(Some(chosen.ids));
        }
        fill(chosen, &available, ask).await.map(Some)
    }
}

/// Those that the plugin prefers, then by name.
async fn fill(mut chosen: Chosen, from: &Ids, ask: Option<Channel>) -> Result<Ids, DeviceError> {
    let preferred = match ask {
        Some(channel) => preferred(&channel, from, &chosen).await?,
        None => Ids::new(),
    };
    if !chosen.add(&preferred.intersection(from).cloned().collect()) {
        chosen.add(from);
    }
    Ok(chosen.ids)
}

async fn preferred(channel: &Channel, from: &Ids, chosen: &Chosen) -> Result<Ids, DeviceError> {
    let request = wire::ContainerPreferredAllocationRequest {
        available_device_ids: from.union(&chosen.ids).cloned().collect(),
        must_include_device_ids: chosen.ids.iter().cloned().collect(),
        allocation_size: i32::try_from(chosen.wanted).unwrap_or(i32::MAX),
    };
    let request = wire::PreferredAllocationRequest { container_requests: vec![request] };
    let answer: wire::PreferredAllocationResponse =
        channel.unary(wire::PREFERRED, &request, PREFERRED_LIMIT).await.map_err(|status| DeviceError::Plugin { call: "GetPreferredAllocation", status })?;
    Ok(answer.container_responses.into_iter().next().map(|container| container.device_ids.into_iter().collect()).unwrap_or_default())
}
