//! One driver's node service.

use super::wire;
use keles_grpc::{Channel, Code, Status};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Upstream's limit of a call (csiTimeout).
const TIMEOUT: Duration = Duration::from_secs(120);

/// A driver that is registered. Clones share its connection.
#[derive(Clone)]
pub struct Driver {
    pub name: String,
    pub endpoint: PathBuf,
    channel: Channel,
}

/// What the driver says of itself and this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeInfo {
    pub node_id: String,
    /// Volumes that may be on the node at once; absent: any number.
    pub max_volumes: Option<i32>,
    pub topology: HashMap<String, String>,
}

/// Which of the optional calls a driver answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(Vec<i32>);

impl Capabilities {
    pub fn has(&self, capability: wire::Capability) -> bool {
        self.0.contains(&(capability as i32))
    }
}

/// Whether the driver will not do it however often it is asked the same (upstream's codes).
pub fn is_infeasible(status: &Status) -> bool {
    matches!(status.code, Code::InvalidArgument | Code::OutOfRange | Code::NotFound)
}

pub fn text(path: &Path) -> String {
    path.display().to_string()
}

impl Driver {
    pub fn at(name: &str, endpoint: &Path) -> Driver {
        Driver { name: name.into(), endpoint: endpoint.into(), channel: Channel::unix(endpoint) }
    }

    async fn call<Q: prost::Message, A: prost::Message + Default>(&self, method: &str, request: &Q) -> Result<A, Status> {
        self.channel.unary(method, request, TIMEOUT).await
    }

    pub async fn node_info(&self) -> Result<NodeInfo, Status> {
        let info: wire::NodeGetInfoResponse = self.call(wire::NODE_GET_INFO, &wire::Empty {}).await?;
        // As upstream: more than the API's field holds is as good as its greatest number; none and less are no limit.
        let max_volumes = (info.max_volumes_per_node > 0).then(|| i32::try_from(info.max_volumes_per_node).unwrap_or(i32::MAX));
        Ok(NodeInfo { node_id: info.node_id, max_volumes, topology: info.accessible_topology.unwrap_or_default().segments })
    }

    pub async fn capabilities(&self) -> Result<Capabilities, Status> {
        let said: wire::NodeGetCapabilitiesResponse = self.call(wire::NODE_GET_CAPABILITIES, &wire::Empty {}).await?;
        Ok(Capabilities(said.capabilities.into_iter().filter_map(|capability| Some(capability.rpc?.capability)).collect()))
    }

    pub async fn stage(&self, request: &wire::NodeStageVolumeRequest) -> Result<(), Status> {
        self.call::<_, wire::Empty>(wire::NODE_STAGE, request).await.map(drop)
    }

    pub async fn unstage(&self, handle: &str, staging: &Path) -> Result<(), Status> {
        let request = wire::NodeUnstageVolumeRequest { volume_id: handle.into(), staging_target_path: text(staging) };
        self.call::<_, wire::Empty>(wire::NODE_UNSTAGE, &request).await.map(drop)
    }

    pub async fn publish(&self, request: &wire::NodePublishVolumeRequest) -> Result<(), Status> {
        self.call::<_, wire::Empty>(wire::NODE_PUBLISH, request).await.map(drop)
    }

    pub async fn unpublish(&self, handle: &str, target: &Path) -> Result<(), Status> {
        let request = wire::NodeUnpublishVolumeRequest { volume_id: handle.into(), target_path: text(target) };
        self.call::<_, wire::Empty>(wire::NODE_UNPUBLISH, &request).await.map(drop)
    }

    pub async fn expand(&self, request: &wire::NodeExpandVolumeRequest) -> Result<i64, Status> {
        self.call::<_, wire::NodeExpandVolumeResponse>(wire::NODE_EXPAND, request).await.map(|answer| answer.capacity_bytes)
    }

    pub async fn stats(&self, handle: &str, target: &Path, staging: &Path) -> Result<wire::NodeGetVolumeStatsResponse, Status> {
        let request = wire::NodeGetVolumeStatsRequest { volume_id: handle.into(), volume_path: text(target), staging_target_path: text(staging) };
        self.call(wire::NODE_GET_VOLUME_STATS, &request).await
    }
}
