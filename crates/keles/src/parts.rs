//! One part alone: the API server over its own store, or a part that finds any API server by kubeconfig.

use crate::{flags, node, server};
use keles_client::Informers;
use keles_supervise::{BoxError, Supervisor};
use std::net::Ipv4Addr;

pub async fn apiserver(f: Box<flags::Apiserver>) -> Result<(), BoxError> {
    let stop = server::stop_signal()?;
    let ip = node::primary_address().unwrap_or(Ipv4Addr::LOCALHOST);
    let mut s = Supervisor::new();
    s.add("apiserver", &[], move |h| async move {
        server::serve_api(&f.api, server::Advertised { ip: ip.into(), names: node::host_name().into_iter().collect() }, h.stop(), |_| h.ready()).await
    });
    Ok(s.run(stop).await?)
}

pub async fn scheduler(f: flags::Part) -> Result<(), BoxError> {
    let (stop, client) = (server::stop_signal()?, keles_client::from_kubeconfig(&f.kubeconfig).await?);
    keles_scheduler::run(client, keles_scheduler::Options::default(), stop).await;
    Ok(())
}

/// All controllers speak as the kubeconfig's user; the API server's CA is the kubeconfig's.
pub async fn controller_manager(f: flags::Part) -> Result<(), BoxError> {
    let (stop, client) = (server::stop_signal()?, keles_client::from_kubeconfig(&f.kubeconfig).await?);
    let options = keles_controllers::Options { root_ca: root_ca(&f.kubeconfig)?, ..Default::default() };
    keles_controllers::run(move |_| client.clone(), options, stop).await;
    Ok(())
}

fn root_ca(kubeconfig: &std::path::Path) -> Result<String, BoxError> {
    use base64::Engine;
    let file = kube::config::Kubeconfig::read_from(kubeconfig)?;
    let cluster = file.clusters.into_iter().find_map(|c| c.cluster);
    let Some(cluster) = cluster else { return Ok(String::new()) };
    Ok(match (cluster.certificate_authority_data, cluster.certificate_authority) {
        (Some(data), _) => String::from_utf8(base64::engine::general_purpose::STANDARD.decode(data)?)?,
        (None, Some(path)) => std::fs::read_to_string(path)?,
        (None, None) => String::new(),
    })
}

pub async fn proxy(f: Box<flags::Proxy>) -> Result<(), BoxError> {
    let (stop, client) = (server::stop_signal()?, keles_client::from_kubeconfig(&f.part.kubeconfig).await?);
    let name = f.node_name.clone().or_else(node::host_name).ok_or(server::ServerError::NoNodeName)?;
    let informers = Informers::new(client, stop.child_token());
    keles_proxy::run(server::proxy_options(&f.bridge, f.cluster_cidr, f.service_cidr, &name), &informers, &informers, stop, || {}).await;
    Ok(())
}
