//! One part alone: the API server over its own store, or a part that finds any API server by kubeconfig.

use crate::controller_accounts::Accounts;
use crate::part_http;
use crate::part_http::access::Access;
use crate::part_http::flags::SecureFlags;
use crate::{flags, node, node_certificates, observe_flags, server};
use http::{Response, StatusCode};
use k8s_openapi::api::core::v1::Pod;
use keles_apiserver::health::Check;
use keles_apiserver::respond;
use keles_client::Informers;
use keles_network::PodNetwork;
use keles_observe::pages::Component;
use keles_reconcile::Election;
use keles_serve::Body;
use keles_supervise::{BoxError, Supervisor};
use kube::Api;
use kube::api::ListParams;
use serde_json::json;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use tokio_util::sync::CancellationToken;

#[derive(Debug, thiserror::Error)]
pub enum PartError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{component} no longer holds the lease {lease}")]
    LeadershipLost { component: &'static str, lease: String },
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

pub async fn scheduler(f: flags::Elected) -> Result<(), BoxError> {
    let (stop, client) = (server::stop_signal()?, keles_client::from_kubeconfig(&f.part.kubeconfig).await?);
    let alone = Alone { component: "kube-scheduler", port: SCHEDULER_PORT, group: "kubescheduler.config.k8s.io", kind: "KubeSchedulerConfiguration" };
    let own = client.clone();
    alone.run(&f, client, stop, |stop| keles_scheduler::run(own, keles_scheduler::Options::default(), stop)).await
}

/// A part of the control plane that may stand several times, of which one works.
struct Alone {
    component: &'static str,
    port: u16,
    /// Of what `/configz` shows.
    group: &'static str,
    kind: &'static str,
}

/// Upstream's ports.
const SCHEDULER_PORT: u16 = 10259;
const CONTROLLERS_PORT: u16 = 10257;

impl Alone {
    /// Serves health and metrics, and works for as long as it leads.
    async fn run<F: Future<Output = ()>>(
        &self,
        flags: &flags::Elected,
        client: kube::Client,
        stop: CancellationToken,
        work: impl FnOnce(CancellationToken) -> F,
    ) -> Result<(), BoxError> {
        let identity = format!("{}_{}", node::host_name().unwrap_or_else(|| "localhost".into()), uuid::Uuid::new_v4());
        let flags::Elected { part, secure, leader } = flags;
        let election = leader.election(self.component, &identity)?;
        let lost = Arc::new(AtomicBool::new(false));
        let serving = match secure.address(self.port) {
            Some(address) => {
                let reviewer = match &secure.authentication_kubeconfig {
                    Some(path) if *path != part.kubeconfig => keles_client::from_kubeconfig(path).await?,
                    _ => client.clone(),
                };
                let access = Access::new(secure, self.component, reviewer)?;
                let listener = part_http::listen(address).await?;
                tracing::info!("{} serves health and metrics on https://{}", self.component, listener.local_addr()?);
                tokio::spawn(access.clone().follow(secure.clone(), stop.clone()));
                let shown = self.shown(secure, election.as_ref(), lost.clone(), stop.clone());
                Some(tokio::spawn(part_http::serve_secure(Arc::new(shown), access, listener, stop.clone())))
            }
            None => None,
        };
        let done = match election {
            None => {
                work(stop.clone()).await;
                Ok(())
            }
            Some(election) => self.lead(client, election, &stop, &lost, work).await,
        };
        if let (Some(serving), true) = (serving, stop.is_cancelled()) {
            serving.await?;
        }
        done
    }

    async fn lead<F: Future<Output = ()>>(
        &self,
        client: kube::Client,
        election: Election,
        stop: &CancellationToken,
        lost: &AtomicBool,
        work: impl FnOnce(CancellationToken) -> F,
    ) -> Result<(), BoxError> {
        let lease = format!("{}/{}", election.namespace, election.name);
        let Some(leadership) = keles_reconcile::lead(client, election, stop.clone()).await else { return Ok(()) };
        work(leadership.token()).await;
        if stop.is_cancelled() {
            leadership.resign().await;
            return Ok(());
        }
        // Another may lead by now: the process ends, and whoever keeps it starts it anew as one that waits.
        lost.store(true, Ordering::SeqCst);
        Err(PartError::LeadershipLost { component: self.component, lease }.into())
    }

    fn shown(&self, secure: &SecureFlags, election: Option<&Election>, lost: Arc<AtomicBool>, stop: CancellationToken) -> part_http::Part {
        let go = |d: std::time::Duration| format!("{}s", d.as_secs_f64());
        let leader_election = election.map_or_else(
            || json!({"leaderElect": false}),
            |e| {
                json!({
                    "leaderElect": true, "leaseDuration": go(e.lease_duration), "renewDeadline": go(e.renew_deadline), "retryPeriod": go(e.retry_period),
                    "resourceLock": "leases", "resourceName": e.name, "resourceNamespace": e.namespace,
                })
            },
        );
        let version = if self.group.starts_with("kubescheduler") { "v1" } else { "v1alpha1" };
        let inner = json!({"kind": self.kind, "apiVersion": format!("{}/{version}", self.group), "leaderElection": leader_election, "enableProfiling": secure.profiling});
        let elects = election.is_some();
        part_http::Part {
            pages: pages_of(self.component),
            configuration: json!({self.group: inner}),
            checks: Box::new(move |endpoint| {
                let mut all = vec![Check { name: "ping", failure: None }];
                if elects && endpoint != "readyz" {
                    all.push(Check { name: "leaderElection", failure: lost.load(Ordering::SeqCst).then(|| "failed election to renew leadership on lease".to_owned()) });
                }
                if endpoint == "readyz" {
                    all.push(Check { name: "shutdown", failure: stop.is_cancelled().then(|| "process is shutting down".to_owned()) });
                }
                all
            }),
            profiling: secure.profiling,
        }
    }
}

fn pages_of(component: &'static str) -> Component {
    let paths = part_http::PATHS.iter().map(|p| (*p).to_owned()).collect();
    Component { name: component, version: keles_apiserver::GIT_VERSION.trim_start_matches('v'), paths, flags: observe_flags::all() }
}

/// Controllers speak as their own accounts or as the kubeconfig's user; the API server's CA is the kubeconfig's.
pub async fn controller_manager(f: flags::ControllerManager) -> Result<(), BoxError> {
    let (stop, kubeconfig) = (server::stop_signal()?, &f.elected.part.kubeconfig);
    let options = keles_controllers::Options {
        root_ca: authority_of(kubeconfig)?,
        signer: f.signing.authority()?.map(Arc::new),
        signing_duration: f.signing.cluster_signing_duration.0,
        token_key: f.signing.key()?,
        ..Default::default()
    };
    let alone = Alone { component: "kube-controller-manager", port: CONTROLLERS_PORT, group: "kubecontrollermanager.config.k8s.io", kind: "KubeControllerManagerConfiguration" };
    let client = keles_client::from_kubeconfig(kubeconfig).await?;
    let accounts = if f.use_service_account_credentials { Some(Accounts::open(kubeconfig).await?) } else { None };
    let own = client.clone();
    let client_for = move |user: &str| accounts.as_ref().map_or_else(|| own.clone(), |a| a.client(user));
    alone.run(&f.elected, client, stop, |stop| keles_controllers::run(client_for, options, stop)).await
}

/// PEM of the authority that a kubeconfig trusts; empty when it names none.
pub fn authority_of(kubeconfig: &Path) -> Result<String, BoxError> {
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

pub fn read(path: &Path) -> Result<String, PartError> {
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
    let synced = Arc::new(AtomicBool::new(false));
    let serving = serve_proxy(&f, &synced, &stop).await?;
    let options = server::proxy_options(&f.bridge, f.cluster_cidr, f.service_cidr, &name);
    keles_proxy::run(options, &informers, on_node.as_ref(), stop, move || synced.store(true, Ordering::SeqCst)).await;
    for task in serving {
        task.await?;
    }
    Ok(())
}

/// The proxy's two addresses: health for load balancers, and metrics for this machine.
async fn serve_proxy(f: &flags::Proxy, synced: &Arc<AtomicBool>, stop: &CancellationToken) -> Result<Vec<tokio::task::JoinHandle<()>>, BoxError> {
    let part = |profiling| {
        let synced = synced.clone();
        let checks =
            move |_: &str| vec![Check { name: "ping", failure: None }, Check { name: "rules", failure: (!synced.load(Ordering::SeqCst)).then(|| "not written yet".to_owned()) }];
        let inner = json!({
            "kind": "KubeProxyConfiguration", "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "mode": "nftables", "clusterCIDR": f.cluster_cidr.to_string(),
            "metricsBindAddress": f.metrics_bind_address.0.map(|a| a.to_string()).unwrap_or_default(),
            "healthzBindAddress": f.healthz_bind_address.0.map(|a| a.to_string()).unwrap_or_default(), "enableProfiling": profiling,
        });
        let configuration = json!({"kubeproxy.config.k8s.io": inner});
        Arc::new(part_http::Part { pages: pages_of("kube-proxy"), configuration, checks: Box::new(checks), profiling })
    };
    let mut serving = Vec::new();
    if let Some(address) = f.metrics_bind_address.0 {
        let mode = |path: &str| (path == "/proxyMode").then(|| respond::text(StatusCode::OK, "nftables"));
        serving.push(tokio::spawn(part_http::serve_plain(part(f.profiling), mode, part_http::listen(address).await?, stop.clone())));
    }
    if let Some(address) = f.healthz_bind_address.0 {
        let synced = synced.clone();
        let health = move |path: &str| Some(proxy_health(path, synced.load(Ordering::SeqCst)));
        serving.push(tokio::spawn(part_http::serve_plain(part(false), health, part_http::listen(address).await?, stop.clone())));
    }
    Ok(serving)
}

/// What load balancers ask: rules are written at each change, so they are as new as the question once they were written at all.
fn proxy_health(path: &str, synced: bool) -> Response<Body> {
    if !matches!(path, "/healthz" | "/livez") {
        return respond::no_route();
    }
    let now = jiff::Timestamp::now().to_string();
    let mut said = json!({"lastUpdated": now, "currentTime": now});
    if path == "/healthz" {
        said["nodeEligible"] = true.into();
    }
    let code = if synced { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut r = respond::text(code, said.to_string());
    r.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    r
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
    f.container_runtime_endpoint.as_deref().map(keles_cri_client::socket).transpose()?;
    let stop = server::stop_signal()?;
    let name = f.node_name.clone().or_else(node::host_name).ok_or(server::ServerError::NoNodeName)?;
    let pods = f.ranges.pods();
    let ip = f.node_ip.or_else(node::primary_address).unwrap_or_else(|| pods.nth(1).unwrap_or(Ipv4Addr::LOCALHOST));
    let Some(connected) = stop.run_until_cancelled(node_certificates::connect(&f, &name)).await else { return Ok(()) };
    let node_certificates::Connected { client, rotation: client_rotation } = connected?;
    let tls = node_certificates::serving(&f, &name, ip)?;
    let options = node::Options {
        name,
        ip,
        root_dir: node::root_dir(&f.data_dir, None),
        data_dir: f.data_dir.clone(),
        bridge: f.bridge.clone(),
        dns_addresses: f.cluster_dns.clone(),
        domain: f.cluster_domain.clone(),
        listen: SocketAddr::new(f.address, f.port),
        max_pods: f.max_pods,
        labels: f.node_labels.iter().cloned().collect(),
        allowed_unsafe_sysctls: f.allowed_unsafe_sysctls.clone(),
        seccomp_default: f.seccomp_default,
        pulls: f.pulls.pulls()?,
        anonymous_auth: f.anonymous_auth,
        limits: f.node.limits()?,
        runtime_endpoint: f.container_runtime_endpoint.clone(),
        client_rotation,
    };
    let opened = Arc::new(OnceLock::<PodNetwork>::new());
    let mut s = Supervisor::new();
    s.add("network", &[], {
        let opened = opened.clone();
        move |h| async move {
            let first = opened.set(node::network(&f.bridge, pods, f.ranges.service_cidr, &f.data_dir).await?);
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
