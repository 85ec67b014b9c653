//! What the runtime says of itself.

use crate::{Cri, sandbox_config};
use keles_cri::{
    CgroupDriver, LinuxRuntimeConfiguration, RuntimeCondition, RuntimeConfigRequest, RuntimeConfigResponse, RuntimeFeatures, RuntimeHandler, RuntimeHandlerFeatures, RuntimeStatus,
    StatusRequest, StatusResponse, UpdateRuntimeConfigRequest, UpdateRuntimeConfigResponse, VersionRequest, VersionResponse,
};
use keles_grpc::{Code, Status};
use keles_linux::netlink::Socket;
use keles_linux::rtnl;
use keles_runtime::api::PodRuntime;

/// Of the agent's API, which has not changed since there is one.
const KUBELET_API: &str = "0.1.0";
const RUNTIME_API: &str = "v1";
pub const RUNTIME_NAME: &str = "keles";

fn condition(name: &str, fault: Option<(&str, String)>) -> RuntimeCondition {
    let status = fault.is_none();
    let (reason, message) = fault.map(|(reason, message)| (reason.to_owned(), message)).unwrap_or_default();
    RuntimeCondition { r#type: name.into(), status, reason, message }
}

impl Cri {
    pub async fn version(&self, _: VersionRequest) -> Result<VersionResponse, Status> {
        let (version, runtime_name, runtime_api_version) = (KUBELET_API.into(), RUNTIME_NAME.into(), RUNTIME_API.into());
        Ok(VersionResponse { version, runtime_name, runtime_version: self.version.clone(), runtime_api_version })
    }

    pub async fn status(&self, request: StatusRequest) -> Result<StatusResponse, Status> {
        let runtime = self.engine.list_sandboxes().await.err().map(|error| ("ContainerRuntimeNotReady", error.to_string()));
        let features = RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces: true };
        let mut answer = StatusResponse {
            status: Some(RuntimeStatus { conditions: vec![condition("RuntimeReady", runtime), condition("NetworkReady", self.network_fault().await)] }),
            runtime_handlers: sandbox_config::HANDLERS.iter().map(|name| RuntimeHandler { name: (*name).to_owned(), features: Some(features.clone()) }).collect(),
            features: Some(RuntimeFeatures { supplemental_groups_policy: true, user_namespaces_host_network: false }),
            ..StatusResponse::default()
        };
        if request.verbose {
            let info = serde_json::json!({"bridge": self.network.bridge(), "podCIDR": self.pod_cidr, "imagesDir": self.images_dir, "stateDir": self.state_dir, "cgroupParent": self.cgroup_parent});
            answer.info.insert("config".into(), info.to_string());
        }
        Ok(answer)
    }

    /// Somebody may have taken the bridge away.
    async fn network_fault(&self) -> Option<(&'static str, String)> {
        let bridge = self.network.bridge().to_owned();
        let name = bridge.clone();
        let look = move || Socket::route().and_then(|mut socket| rtnl::link(&mut socket, &name)).is_ok_and(|link| link.is_some());
        let there = tokio::task::spawn_blocking(look).await.unwrap_or(false);
        (!there).then(|| ("NetworkPluginNotReady", format!("the pods' bridge {bridge} is gone; start keles cri again")))
    }

    pub async fn runtime_config(&self, _: RuntimeConfigRequest) -> Result<RuntimeConfigResponse, Status> {
        Ok(RuntimeConfigResponse { linux: Some(LinuxRuntimeConfiguration { cgroup_driver: CgroupDriver::Cgroupfs as i32 }) })
    }

    /// The range is a flag's: pods that run have its addresses.
    pub async fn update_runtime_config(&self, request: UpdateRuntimeConfigRequest) -> Result<UpdateRuntimeConfigResponse, Status> {
        let asked = request.runtime_config.and_then(|config| config.network_config).map(|network| network.pod_cidr).unwrap_or_default();
        if asked.is_empty() || asked == self.pod_cidr {
            return Ok(UpdateRuntimeConfigResponse {});
        }
        Err(Status::new(
            Code::FailedPrecondition,
            format!("pod_cidr {asked} is not the range of this node's pods; start keles cri with --pod-cidr {asked} in place of {}", self.pod_cidr),
        ))
    }
}
