//! `keles server`: control plane and node in one process, as a list of services.

use crate::node_flags::NodeLimits;
use crate::{addons, flags, leading, lifecycle_flags, node, security_flags, users};
use keles_apiserver::reload::{self, Followed};
use keles_apiserver::{ApiServer, Config};
use keles_client::Informers;
use keles_dns as dns;
use keles_network::{Cidr, PodNetwork};
use keles_pki::{KubeconfigUser, Pki};
use keles_store::Store;
use keles_store::encrypted::{self, Encrypted};
use keles_supervise::{BoxError, Handle, Supervisor};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("{flag} is not built yet, see docs/STATUS.md; {instead}")]
    NotBuilt { flag: &'static str, instead: &'static str },
    #[error("--disable {0:?}: there is no such part; there are {KNOWN:?}")]
    UnknownPart(String),
    #[error("cannot listen on {address}: {source}; is another server running? choose another --https-listen-port")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("this host has no name that can be a node's; give one with --node-name")]
    NoNodeName,
    #[error("the service range {0} has no tenth address for cluster DNS; give a larger --service-cidr or a --cluster-dns")]
    NoDnsAddress(Cidr),
    #[error("nodes give services only IPv4 addresses yet, see docs/STATUS.md; add an IPv4 range to --service-cidr")]
    NoIpv4Services,
    #[error(transparent)]
    Runtime(#[from] keles_cri_client::OpenError),
}

const KNOWN: [&str; 4] = ["dns", "proxy", "scheduler", "controllers"];
const API: &str = "apiserver";
/// For what the API server does after its last request: it closes the store.
const API_STOP: Duration = Duration::from_secs(10);
const NETWORK: &str = "network";
const PROXY: &str = "proxy";

/// What the services share, made once each by the service that owns it.
struct Shared {
    flags: flags::Server,
    limits: NodeLimits,
    node_name: String,
    node_ip: Ipv4Addr,
    dns_address: Ipv4Addr,
    services: Cidr,
    pods: Cidr,
    api: OnceLock<ApiServer>,
    network: OnceLock<PodNetwork>,
    stop: CancellationToken,
    /// How images are pulled; read before anything is begun.
    pulls: crate::image_flags::Pulls,
}

impl Shared {
    fn api(&self) -> &ApiServer {
        self.api.get().expect("services that use the API need it, so it is ready before they start")
    }
    fn network(&self) -> &PodNetwork {
        self.network.get().expect("services that use the network need it, so it is ready before they start")
    }
    fn on(&self, part: &str) -> bool {
        !self.flags.disable.iter().any(|d| d == part)
    }
    /// Whether no other server is at work on the store.
    fn alone(&self) -> bool {
        self.flags.api.datastore.datastore_endpoint.is_none()
    }
    fn informers(&self, user: kube::Client) -> Informers {
        Informers::new(user, self.stop.child_token())
    }
}

pub async fn run(f: Box<flags::Server>) -> Result<(), BoxError> {
    refuse_unbuilt(&f)?;
    let stop = stop_signal()?;
    let services: Cidr = f.api.service_cidr.of("IPv4").ok_or(ServerError::NoIpv4Services)?.to_string().parse()?;
    let dns_address = f.cluster_dns.or_else(|| services.nth(10)).ok_or(ServerError::NoDnsAddress(services))?;
    let shared = Arc::new(Shared {
        limits: f.node.limits()?,
        node_name: f.node_name.clone().or_else(node::host_name).ok_or(ServerError::NoNodeName)?,
        pods: f.cluster_cidr.first(f.node_cidr_mask_size),
        node_ip: f.node_ip.or_else(node::primary_address).unwrap_or_else(|| f.cluster_cidr.first(f.node_cidr_mask_size).nth(1).unwrap_or(Ipv4Addr::LOCALHOST)),
        dns_address,
        services,
        api: OnceLock::new(),
        network: OnceLock::new(),
        stop: stop.clone(),
        pulls: f.pulls.pulls()?,
        flags: *f,
    });
    let mut s = Supervisor::new();
    // Requests that are open when it stops may take their time.
    let lifecycle = &shared.flags.api.lifecycle;
    s.wait_for(API, lifecycle.shutdown_delay_duration.0 + lifecycle.request_timeout.0 + API_STOP);
    let mut add = |name, needs, on: bool, run: fn(Arc<Shared>, Handle) -> Service| {
        if on {
            let shared = shared.clone();
            s.add(name, needs, move |h| run(shared, h));
        }
    };
    let agent = !shared.flags.disable_agent;
    add(API, &[], true, |s, h| Box::pin(api(s, h)));
    add(NETWORK, &[], agent, |s, h| Box::pin(network(s, h)));
    add(PROXY, &[API, NETWORK], agent && shared.on("proxy"), |s, h| Box::pin(proxy(s, h)));
    add("dns", &[API, NETWORK], agent && shared.on("dns"), |s, h| Box::pin(cluster_dns(s, h)));
    add("scheduler", &[API], shared.on("scheduler"), |s, h| Box::pin(scheduler(s, h)));
    add("controllers", &[API], shared.on("controllers"), |s, h| Box::pin(controllers(s, h)));
    let node_needs: &[&str] = if shared.on("proxy") { &[API, NETWORK, PROXY] } else { &[API, NETWORK] };
    add("kubelet", node_needs, agent, |s, h| Box::pin(kubelet(s, h)));
    Ok(s.run(stop).await?)
}

type Service = futures::future::BoxFuture<'static, Result<(), BoxError>>;

fn refuse_unbuilt(f: &flags::Server) -> Result<(), ServerError> {
    if f.token.is_some() {
        return Err(ServerError::NotBuilt { flag: "--token", instead: "this version runs one node; leave it out" });
    }
    f.container_runtime_endpoint.as_deref().map(keles_cri_client::socket).transpose()?;
    match f.disable.iter().find(|d| !KNOWN.contains(&d.as_str())) {
        Some(unknown) => Err(ServerError::UnknownPart(unknown.clone())),
        None => Ok(()),
    }
}

/// Cancelled on SIGTERM and SIGINT.
pub fn stop_signal() -> Result<CancellationToken, std::io::Error> {
    let (stop, mut term, mut int) = (CancellationToken::new(), signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let cancel = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        cancel.cancel();
    });
    Ok(stop)
}

/// What [`serve_api`] is told besides the flags.
pub struct Advertised {
    pub ip: IpAddr,
    pub names: Vec<String>,
}

/// Opens the store, starts the API server, writes the kubeconfig, calls `started` and serves until `stop`.
pub async fn serve_api(f: &flags::ApiFlags, at: Advertised, stop: CancellationToken, started: impl FnOnce(&ApiServer)) -> Result<(), BoxError> {
    let address = SocketAddr::new(f.bind_address, f.https_listen_port);
    // Bound before anything is made: a second server on the port must not touch this one's files.
    let listener = TcpListener::bind(address).await.map_err(|source| ServerError::Listen { address, source })?;
    let port = listener.local_addr()?.port();
    std::fs::create_dir_all(&f.data_dir)?;
    let Some(plain) = stop.run_until_cancelled(f.datastore.open(&f.data_dir)).await else { return Ok(()) };
    let plain = plain?;
    let file = f.audit.encryption_provider_config.clone();
    let followed = Followed::new("the encryption configuration", file.clone()).filter(|_| f.audit.encryption_provider_config_automatic_reload);
    let encrypted = file.as_deref().map(encrypted::config::read).transpose()?.map(|rules| Encrypted::new(plain.clone(), rules));
    let store: Arc<dyn Store> = encrypted.clone().map_or(plain, |e| e);
    let (ips, names): (Vec<_>, Vec<_>) = f.tls_san.iter().partition(|s| s.parse::<IpAddr>().is_ok());
    let mut config = Config::new(&f.data_dir);
    config.port = port;
    config.advertise_address = at.ip;
    config.service_cidrs = f.service_cidr;
    config.compaction_interval = f.datastore.etcd_compaction_interval.0;
    config.extra_ips = ips.iter().filter_map(|s| s.parse().ok()).collect();
    config.extra_names = names.into_iter().cloned().chain(at.names).collect();
    f.serving.apply(&mut config);
    security_flags::apply(&mut config, &f.authentication, &f.authorization, &f.audit)?;
    lifecycle_flags::apply(&mut config, &f.lifecycle);
    f.observe.apply(&mut config)?;
    let server = ApiServer::start(config, store.clone()).await?;
    if let (Some(followed), Some(encrypted), Some(path)) = (followed, encrypted, file) {
        follow_encryption(followed, encrypted, path, &server, &stop);
    }
    let serving = tokio::spawn({
        let (server, stop) = (server.clone(), stop.clone());
        async move { server.serve(listener, stop).await }
    });
    let pki = Pki::open(&f.data_dir)?;
    let admin = pki.admin()?;
    let path = f.kubeconfig();
    // By this name the cluster's own certificate is shown, whatever the operator's is.
    let host = if f.serving.tls_cert_file.is_some() { "localhost" } else { "127.0.0.1" };
    keles_pki::write_kubeconfig(&path, &format!("https://{host}:{port}"), pki.ca_pem(), &KubeconfigUser::Certificate(&admin))?;
    tracing::info!("API server ready on {address}; kubeconfig {}", path.display());
    started(&server);
    serving.await?;
    keles_store::Store::close(&*store).await?;
    Ok(())
}

fn follow_encryption(followed: Followed, encrypted: Arc<Encrypted>, path: PathBuf, server: &ApiServer, stop: &CancellationToken) {
    let registry = server.registry().clone();
    followed.counted(&reload::ENCRYPTION).start(stop.clone(), move || {
        let (encrypted, path, registry) = (encrypted.clone(), path.clone(), registry.clone());
        async move {
            let rules = encrypted::config::read(&path).map_err(|e| e.to_string())?;
            encrypted.replace(rules).await.map_err(|e| e.to_string())?;
            registry.reread().await.map_err(|e| e.to_string())
        }
    });
}

async fn api(s: Arc<Shared>, h: Handle) -> Result<(), BoxError> {
    let at = Advertised { ip: s.node_ip.into(), names: vec![s.node_name.clone()] };
    serve_api(&s.flags.api, at, h.stop(), |server| {
        let first = s.api.set(server.clone());
        debug_assert!(first.is_ok(), "the API server is started once");
        h.ready();
    })
    .await
}

async fn network(s: Arc<Shared>, h: Handle) -> Result<(), BoxError> {
    let first = s.network.set(node::network(&s.flags.bridge, s.pods, s.services, &s.flags.api.data_dir).await?);
    debug_assert!(first.is_ok(), "the network is opened once");
    h.ready();
    // The bridge stays: containers outlive the server.
    h.stop().cancelled().await;
    Ok(())
}

async fn proxy(s: Arc<Shared>, h: Handle) -> Result<(), BoxError> {
    let options = proxy_options(&s.flags.bridge, s.flags.cluster_cidr, s.services, &s.node_name);
    let informers = s.informers(users::proxy(s.api()));
    let on_node = s.informers(users::node(s.api(), &s.node_name));
    keles_proxy::run(options, &informers, Some(&on_node), h.stop(), || h.ready()).await;
    Ok(())
}

pub fn proxy_options(bridge: &str, pods: Cidr, services: Cidr, node: &str) -> keles_proxy::Options {
    let range = |c: Cidr| keles_proxy::table::Range { base: c.base(), mask: c.mask() };
    let frame = keles_proxy::table::Frame { table: bridge.to_owned(), bridge: bridge.to_owned(), pods: range(pods), services: range(services) };
    keles_proxy::Options { frame, node: node.to_owned() }
}

async fn cluster_dns(s: Arc<Shared>, h: Handle) -> Result<(), BoxError> {
    const PORT: u16 = 53;
    let listen = SocketAddr::from((s.network().gateway(), PORT));
    let informers = s.informers(users::named(s.api(), &format!("system:serviceaccount:kube-system:{}", addons::DNS_ACCOUNT)));
    addons::dns(&users::setup(s.api()), s.dns_address, listen).await?;
    let resolvers = s.limits.resolver_file.as_deref().map(dns::node_resolvers).unwrap_or_default();
    let upstreams = resolvers.into_iter().filter(|r| r.ip() != listen.ip()).collect();
    let options = dns::Options { listen, domain: s.flags.cluster_domain.clone(), upstreams };
    let server = dns::Server::bind(options, Arc::new(dns::Cluster::new(&informers))).await?;
    h.ready();
    server.run(h.stop()).await;
    Ok(())
}

async fn scheduler(s: Arc<Shared>, h: Handle) -> Result<(), BoxError> {
    h.ready();
    let _present = keles_apiserver::component_status::scheduler_present();
    let client = users::scheduler(s.api());
    let schedule = |stop| keles_scheduler::run(client.clone(), keles_scheduler::Options::default(), stop);
    leading::work(s.alone(), client.clone(), "kube-scheduler", h.stop(), schedule).await;
    Ok(())
}

async fn controllers(s: Arc<Shared>, h: Handle) -> Result<(), BoxError> {
    let pki = Pki::open(&s.flags.api.data_dir)?;
    let root_ca = pki.ca_pem().to_owned();
    h.ready();
    let signing = &s.flags.signing;
    let options = keles_controllers::Options {
        root_ca,
        signer: Some(Arc::new(signing.authority()?.unwrap_or_else(|| pki.into_authority()))),
        signing_duration: signing.cluster_signing_duration.0,
        token_key: Some(signing.key()?.unwrap_or_else(|| s.api().signing_key())),
        ..Default::default()
    };
    let _present = keles_apiserver::component_status::controllers_present();
    let control = |stop| keles_controllers::run(|user| users::named(s.api(), user), options.clone(), stop);
    leading::work(s.alone(), users::named(s.api(), "system:kube-controller-manager"), "kube-controller-manager", h.stop(), control).await;
    Ok(())
}

async fn kubelet(s: Arc<Shared>, h: Handle) -> Result<(), BoxError> {
    let f = &s.flags;
    let options = node::Options {
        name: s.node_name.clone(),
        ip: s.node_ip,
        root_dir: node::root_dir(&f.api.data_dir, f.root_dir.as_deref()),
        data_dir: f.api.data_dir.clone(),
        bridge: f.bridge.clone(),
        dns_addresses: s.on("dns").then_some(s.dns_address.into()).into_iter().collect(),
        domain: f.cluster_domain.clone(),
        listen: SocketAddr::from(([0, 0, 0, 0], f.kubelet_port)),
        max_pods: f.max_pods,
        labels: Default::default(),
        allowed_unsafe_sysctls: Vec::new(),
        seccomp_default: f.seccomp_default,
        pulls: s.pulls.clone(),
        anonymous_auth: false,
        limits: s.limits.clone(),
        runtime_endpoint: f.container_runtime_endpoint.clone(),
        client_rotation: None,
    };
    let tls = node::serving(&s.node_name, s.node_ip, &Pki::open(&f.api.data_dir)?)?;
    node::run(options, tls, users::node(s.api(), &s.node_name), s.network().clone(), h).await
}
