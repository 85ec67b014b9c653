//! Objects that every cluster of this binary has besides upstream's bootstrap: the Service in front of cluster DNS, and the
//! role under which DNS reads.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Resource};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The account cluster DNS speaks as, CoreDNS's name so that users find what they know.
pub const DNS_ACCOUNT: &str = "coredns";

/// Makes or mends them; they are written only when they differ.
pub async fn dns(client: &kube::Client, address: Ipv4Addr, listens: SocketAddr) -> Result<(), kube::Error> {
    let role: Api<ClusterRole> = Api::all(client.clone());
    let binding: Api<ClusterRoleBinding> = Api::all(client.clone());
    let services: Api<Service> = Api::namespaced(client.clone(), "kube-system");
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), "kube-system");
    ensure(
        &role,
        "system:coredns",
        json!({"rules": [
        {"apiGroups": [""], "resources": ["services", "namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]}]}),
    )
    .await?;
    ensure(
        &binding,
        "system:coredns",
        json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:coredns"},
        "subjects": [{"kind": "ServiceAccount", "name": DNS_ACCOUNT, "namespace": "kube-system"}]}),
    )
    .await?;
    let ports =
        |named: &str| json!([{"name": "dns", "port": 53, "protocol": "UDP", named: listens.port()}, {"name": "dns-tcp", "port": 53, "protocol": "TCP", named: listens.port()}]);
    ensure(
        &services,
        "kube-dns",
        json!({"metadata": {"labels": {"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"}},
        "spec": {"clusterIP": address, "ports": ports("targetPort")}}),
    )
    .await?;
    let IpAddr::V4(ip) = listens.ip() else { return Ok(()) };
    let ports = json!([{"name": "dns", "port": listens.port(), "protocol": "UDP"}, {"name": "dns-tcp", "port": listens.port(), "protocol": "TCP"}]);
    ensure(
        &slices,
        "kube-dns",
        json!({"metadata": {"labels": {"kubernetes.io/service-name": "kube-dns", "endpointslice.kubernetes.io/managed-by": "keles"}},
        "addressType": "IPv4", "ports": ports, "endpoints": [{"addresses": [ip], "conditions": {"ready": true}}]}),
    )
    .await
}

/// Merges what is wanted into the object that is there, or creates it. Not the other way round: a Service made anew with the address that it
/// has is refused for the address, not because it exists.
async fn ensure<K>(api: &Api<K>, name: &str, wanted: Value) -> Result<(), kube::Error>
where
    K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
{
    let mut object = json!({"apiVersion": K::api_version(&()), "kind": K::kind(&()), "metadata": {"name": name}});
    for (key, value) in wanted.as_object().into_iter().flatten() {
        match key.as_str() {
            "metadata" => value.as_object().into_iter().flatten().for_each(|(k, v)| object["metadata"][k] = v.clone()),
            _ => object[key] = value.clone(),
        }
    }
    let typed: K = serde_json::from_value(object.clone()).map_err(kube::Error::SerdeError)?;
    match api.patch(name, &PatchParams::default(), &Patch::Merge(object)).await {
        Err(kube::Error::Api(e)) if e.reason == "NotFound" => api.create(&PostParams::default(), &typed).await.map(drop),
        merged => merged.map(drop),
    }
}
