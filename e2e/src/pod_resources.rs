//! What the agent's pod-resources socket says (KEP-606, KEP-3695).

use crate::{Cluster, until};
use keles_grpc::Channel;
use prost::Message;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

#[derive(Clone, PartialEq, Message)]
struct Empty {}

#[derive(Clone, PartialEq, Message)]
struct Listed {
    #[prost(message, repeated, tag = "1")]
    pods: Vec<Pod>,
}

#[derive(Clone, PartialEq, Message)]
struct Pod {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "3")]
    containers: Vec<Container>,
}

#[derive(Clone, PartialEq, Message)]
struct Asked {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    namespace: String,
}

#[derive(Clone, PartialEq, Message)]
struct Found {
    #[prost(message, optional, tag = "1")]
    pod: Option<Pod>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Container {
    #[prost(message, repeated, tag = "2")]
    pub devices: Vec<Devices>,
    #[prost(int64, repeated, tag = "3")]
    pub cpu_ids: Vec<i64>,
    #[prost(message, repeated, tag = "5")]
    pub dynamic: Vec<Claim>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Devices {
    #[prost(string, tag = "1")]
    pub resource: String,
    #[prost(string, repeated, tag = "2")]
    pub ids: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Claim {
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(string, tag = "3")]
    pub namespace: String,
    #[prost(message, repeated, tag = "4")]
    pub devices: Vec<ClaimedDevice>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ClaimedDevice {
    #[prost(message, repeated, tag = "1")]
    pub cdi: Vec<Cdi>,
    #[prost(string, tag = "2")]
    pub driver: String,
    #[prost(string, tag = "3")]
    pub pool: String,
    #[prost(string, tag = "4")]
    pub name: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Cdi {
    #[prost(string, tag = "1")]
    pub name: String,
}

/// The containers of a pod in namespace `default`, which List and Get say alike.
pub fn containers(c: &Cluster, pod: &str) -> Vec<Container> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let kubelet = Channel::unix(c.data().join("pod-resources/kubelet.sock"));
    let listed = until("the pod in the list", SOON, || {
        let all: Listed = runtime.block_on(kubelet.unary("/v1.PodResourcesLister/List", &Empty {}, SOON)).map_err(|status| status.to_string())?;
        all.pods.into_iter().find(|listed| listed.name == pod).ok_or_else(|| "it is not listed".to_owned())
    });
    let asked = Asked { name: pod.into(), namespace: "default".into() };
    let found: Found = runtime.block_on(kubelet.unary("/v1.PodResourcesLister/Get", &asked, SOON)).expect("the pod");
    assert_eq!(found.pod.expect("it is there").containers, listed.containers);
    listed.containers
}
