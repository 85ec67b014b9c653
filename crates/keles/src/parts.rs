//! One part alone: the API server over its own store, or a part that finds any API server by kubeconfig.

use crate::controller_accounts::Accounts;
use crate::{flags, node, server};
use k8s_openapi::api::core::v1::Pod;
use keles_client::Informers;
use keles_kubelet::ServerTls;
use keles_network::PodNetwork;
use keles_pki::{Authority, Names};
use keles_supervise::{BoxError, Supervisor};
use kube::Api;
use kube::api::ListParams;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

#[derive(Debug, thiserror::Error)]
enum PartError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("cannot make {}: {source}", path.display())]
    Folder { path: PathBuf, source: std::io::Error },
    #[error("kubeconfig {} names no authority, so nobody could be allowed to call this node; give one with --client-ca-file", .0.display())]
    NoClientCa(PathBuf),
}

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

/// Controllers speak as their own accounts or as the kubeconfig's user; the API server's CA is the kubeconfig's.
pub async fn controller_manager(f: flags::ControllerManager) -> Result<(), BoxError> {
    let (stop, kubeconfig) = (server::stop_signal()?, &f.part.kubeconfig);
    let options = keles_controllers::Options {
        root_ca: authority_of(kubeconfig)?,
        signer: f.signing.authority()?.map(Arc::new),
        signing_duration: f.signing.cluster_signing_duration.0,
        token_key: f.signing.key()?,
        ..Default::default()
    };
    if f.use_service_account_credentials {
        let accounts = Accounts::open(kubeconfig).await?;
        keles_controllers::run(move |user| accounts.client(user), options, stop).await;
    } else {
        let client = keles_client::from_kubeconfig(kubeconfig).await?;
        keles_controllers::run(move |_| client.clone(), options, stop).await;
    }
    Ok(())
}

/// PEM of the authority that a kubeconfig trusts; empty when it names none.
fn authority_of(kubeconfig: &Path) -> Result<String, BoxError> {
    use base64::Engine;
    let file = kube::config::Kubeconfig::read_from(kubeconfig)?;
    let cluster = file.clusters.into_iter().find_map(|c| c.cluster);
    let Some(cluster) = cluster else { return Ok(String::new()) };
    Ok(match (cluster.certificate_authority_data, cluster.certificate_authority) {
        (Some(data), _) => String::from_utf8(base64::engine::general_purpose::STANDARD.decode(data)?)?,
        (None, Some(path)) => read(Path::new(&path))?,
        (None, None) => String::new(),
    })
}

fn read(path: &Path) -> Result<String, PartError> {
    std::fs::read_to_string(path).map_err(|source| PartError::Read { path: path.into(), source })
}

pub async fn proxy(f: Box<flags::Proxy>) -> Result<(), BoxError> {
    let (stop, client) = (server::stop_signal()?, keles_client::from_kubeconfig(&f.part.kubeconfig).await?);
    let name = f.node_name.clone().or_else(node::host_name).ok_or(server::ServerError::NoNodeName)?;
    let node = match &f.node_kubeconfig {
        Some(path) => keles_client::from_kubeconfig(path).await?,
        None => client.clone(),
    };
    let on_node = may_read_pods(&node, &name).await.then(|| Informers::new(node, stop.child_token()));
    let informers = Informers::new(client, stop.child_token());
    keles_proxy::run(server::proxy_options(&f.bridge, f.cluster_cidr, f.service_cidr, &name), &informers, on_node.as_ref(), stop, || {}).await;
    Ok(())
}

/// Upstream's role of the proxy may not read pods: then services work and host ports do not, which is said.
async fn may_read_pods(client: &kube::Client, node: &str) -> bool {
    const FORBIDDEN: u16 = 403;
    let one = ListParams::default().fields(&format!("spec.nodeName={node}")).limit(1);
    match Api::<Pod>::all(client.clone()).list_metadata(&one).await {
        Err(kube::Error::Api(status)) if status.code == FORBIDDEN => {
            tracing::warn!("pods' host ports are not served: {}; give the node's kubeconfig with --node-kubeconfig", status.message);
            false
        }
        _ => true,
    }
}

/// The node agent with runtime, pod network and volumes.
pub async fn kubelet(f: Box<flags::Kubelet>) -> Result<(), BoxError> {
    server::refuse_runtime(f.container_runtime_endpoint.as_deref())?;
    let stop = server::stop_signal()?;
    let name = f.node_name.clone().or_else(node::host_name).ok_or(server::ServerError::NoNodeName)?;
    let pods = f.pod_cidr.unwrap_or_else(|| f.cluster_cidr.first(node::POD_PREFIX));
    let ip = f.node_ip.or_else(node::primary_address).unwrap_or_else(|| pods.nth(1).unwrap_or(Ipv4Addr::LOCALHOST));
    let client = keles_client::from_kubeconfig(&f.part.kubeconfig).await?;
    let tls = serving(&f, &name, ip)?;
    let options = node::Options {
        name,
        ip,
        data_dir: f.data_dir.clone(),
        bridge: f.bridge.clone(),
        dns_addresses: f.cluster_dns.clone(),
        domain: f.cluster_domain.clone(),
        listen: SocketAddr::new(f.address, f.port),
        max_pods: f.max_pods,
        labels: f.node_labels.iter().cloned().collect(),
        allowed_unsafe_sysctls: f.allowed_unsafe_sysctls.clone(),
        seccomp_default: f.seccomp_default,
    };
    let opened = Arc::new(OnceLock::<PodNetwork>::new());
    let mut s = Supervisor::new();
    s.add("network", &[], {
        let opened = opened.clone();
        move |h| async move {
            let first = opened.set(node::network(&f.bridge, pods, f.service_cidr, &f.data_dir).await?);
            debug_assert!(first.is_ok(), "the network is opened once");
            h.ready();
            // The bridge stays: containers outlive the agent.
            h.stop().cancelled().await;
            Ok(())
        }
    });
    s.add("kubelet", &["network"], move |h| async move {
        let network = opened.get().expect("the network is ready before the agent starts").clone();
        node::run(options, tls, client, network, h).await
    });
    Ok(s.run(stop).await?)
}

/// The certificate of the node's API: the one given, or as upstream one of the node's own authority.
fn serving(f: &flags::Kubelet, name: &str, ip: Ipv4Addr) -> Result<ServerTls, BoxError> {
    let client_ca_pem = match &f.client_ca_file {
        Some(path) => read(path)?,
        None => authority_of(&f.part.kubeconfig)?,
    };
    if client_ca_pem.trim().is_empty() {
        return Err(PartError::NoClientCa(f.part.kubeconfig.clone()).into());
    }
    if let (Some(certificate), Some(key)) = (&f.tls_cert_file, &f.tls_private_key_file) {
        return Ok(ServerTls { certificate_pem: read(certificate)?, key_pem: read(key)?, client_ca_pem });
    }
    let dir = f.cert_dir.clone().unwrap_or_else(|| f.data_dir.join("pki"));
    std::fs::create_dir_all(&dir).map_err(|source| PartError::Folder { path: dir.clone(), source })?;
    let names = Names { dns: vec![name.to_owned(), "localhost".into()], ips: vec![ip.into(), Ipv4Addr::LOCALHOST.into()] };
    let own = Authority::open(&dir, "kubelet-ca", &format!("{name}-ca"))?.server(&dir, "kubelet", &format!("system:node:{name}"), Some("system:nodes"), &names)?;
    Ok(ServerTls { certificate_pem: own.certificate_pem, key_pem: own.key_pem, client_ca_pem })
}
