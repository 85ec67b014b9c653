//! [`ApiServer`]: the parts put together, the listener, and the door for parts of the same process.

use crate::addresses::{default_range, repair};
use crate::admission;
use crate::aggregation::Aggregation;
use crate::audit::{AuditError, Auditor};
use crate::authenticate::Caller;
use crate::bootstrap;
use crate::certificates::Certificates;
use crate::config::Config;
use crate::custom_resources;
use crate::discovery::Discovery;
use crate::fairness::{self, Gate};
use crate::impersonate::LastModes;
use crate::kubelet::Kubelets;
use crate::lifecycle::Door;
use crate::live::Live;
use crate::metrics;
use crate::openapi::{Kept, OpenApi};
use crate::peers::{self, Peers};
use crate::policy::FromRegistry;
use crate::reload::{self, Followed};
use crate::resource_metrics;
use crate::verdicts;
use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::BodyExt;
use keles_auth::User;
use keles_auth::authenticators::config::{Authentication, AuthenticationError};
use keles_auth::authorizers::Chain;
use keles_auth::authorizers::config::{AuthorizationError, Built, Reload};
use keles_auth::node::NodeAuthorizer;
use keles_auth::rbac::Authorizer;
use keles_auth::tokens::Tokens;
use keles_pki::{Names, Pki, PkiError, PublicKey, SigningKey};
use keles_registry::{Registry, Settings};
use keles_serve::tls::TlsError;
use keles_serve::{Body, BoxError, Limits, Server};
use keles_store::{Store, StoreError};
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What taking a server from the endpoints of `default/kubernetes` may cost its stop.
const LEAVE_LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("certificates: {0}")]
    Pki(#[from] PkiError),
    #[error("TLS: {0}")]
    Tls(#[from] TlsError),
    #[error("the store: {0}")]
    Store(#[from] StoreError),
    #[error("making {what}: {status}")]
    Bootstrap { what: String, status: keles_api::Status },
    #[error("cannot read {}: {source}", path.display())]
    Read { path: std::path::PathBuf, source: std::io::Error },
    #[error("{} holds no certificate", path.display())]
    NoCertificate { path: std::path::PathBuf },
    #[error("{} holds no private key", path.display())]
    NoKey { path: std::path::PathBuf },
    #[error("authentication: {0}")]
    Authentication(#[from] AuthenticationError),
    #[error("authorization: {0}")]
    Authorization(#[from] AuthorizationError),
    #[error("audit: {0}")]
    Audit(#[from] AuditError),
    #[error(
        "the store holds a cluster whose {what} is another than this server's; copy ca.*, front-proxy-ca.* and sa.key of pki/ in the data folder from a server of it, or name its keys by flags (to begin with new ones, delete {key} from the store)"
    )]
    OtherCluster { what: &'static str, key: String },
    #[error("the certificate just made does not parse")]
    Certificate,
}

/// What every request sees.
pub struct Inner {
    pub config: Config,
    pub registry: Arc<Registry>,
    /// The rules of roles: one of `authorizers`, and what nobody may grant beyond.
    pub authorizer: Arc<Authorizer>,
    pub authorizers: Chain,
    /// Makes and checks ServiceAccount tokens; one of `authentication`.
    pub tokens: Arc<Tokens>,
    pub authentication: Authentication,
    /// Absent: nothing is written down.
    pub auditor: Option<Arc<Auditor>>,
    pub discovery: Live<Discovery>,
    pub openapi: Live<OpenApi>,
    pub kubelets: Kubelets,
    /// Readings of the nodes' figures.
    pub windows: resource_metrics::Windows,
    /// Group-versions that other servers serve.
    pub aggregation: Arc<Aggregation>,
    pub anonymous: Arc<User>,
    pub last_modes: LastModes,
    /// How many requests run at once, and whose turn it is.
    pub gate: Gate,
    /// For `--livez-grace-period`.
    pub began: Instant,
    /// Bootstrap objects are there.
    pub ready: AtomicBool,
    /// The server was told to stop: it says that it is not ready, and goes on for `--shutdown-delay-duration`.
    pub leaving: AtomicBool,
    /// Ends watches when the server stops.
    pub stops: CancellationToken,
    /// Cancelled when the endpoints of `default/kubernetes` name this server no longer, or never did.
    pub left: CancellationToken,
    /// Ends when the registry no longer follows the store.
    pub follows: AtomicBool,
}

/// A running API server; cheap to clone. It answers as soon as it is started, over TCP once [`ApiServer::serve`] runs.
#[derive(Clone)]
pub struct ApiServer {
    inner: Arc<Inner>,
    certificates: Arc<Certificates>,
}

impl ApiServer {
    /// Opens certificates, loads the store into the watch caches and makes what a cluster must have.
    pub async fn start(config: Config, store: Arc<dyn Store>) -> Result<ApiServer, StartError> {
        metrics::start();
        let pki = Pki::open(&config.data_dir)?;
        let key = match &config.service_accounts.signing_key_file {
            Some(path) => SigningKey::read(path)?,
            None => SigningKey::open(&config.data_dir)?,
        };
        let mut names = Names { dns: config.extra_names.clone(), ips: config.extra_ips.clone() };
        names.ips.push(config.advertise_address);
        let serving = pki.apiserver(&names, config.service_cidrs.first.address(0))?;
        let certificates = Certificates::open(&config, &pki, serving)?;
        let of_authentication = Followed::new("the authentication configuration", config.authentication.config_file.clone());
        let of_authorization = Followed::new("the authorization configuration", config.authorization.config_file.clone());
        let kubelets = Kubelets::new(&pki.apiserver_kubelet_client()?, &pki.ca_der())?;

        let aggregation = Aggregation::open(&pki.front_proxy_client()?)?;
        let kinds = keles_kinds::shared();
        let later = admission::Later::default();
        let for_compaction = Arc::downgrade(&store);
        let registry = Registry::start(Settings { store, kinds, admission: admission::rows(&config, later.clone()), lifetimes: config.lifecycle.lifetimes() }).await?;
        let accounts = &config.service_accounts;
        let mut further = Vec::new();
        for path in &accounts.key_files {
            further.extend(PublicKey::read(path)?);
        }
        if registry.is_shared() {
            let signing = peers::public_key(&key).await?;
            peers::agree(&registry, &pki, [signing].into_iter().chain(further.iter().cloned()).collect()).await?;
        }
        let objects = Arc::new(FromRegistry::new(registry.clone()));
        let authorizer = Arc::new(Authorizer::new(objects.clone()));
        let built = Built { rbac: authorizer.clone(), node: Arc::new(NodeAuthorizer::new(objects.clone())) };
        let tokens = Arc::new(Tokens::new(key, &config.issuer, objects.clone()).with(&accounts.further_issuers, &accounts.api_audiences, further));
        let authorization = Reload::of(&config.authorization, &built)?;
        let inner = Arc::new(Inner {
            authorizers: config.authorization.build(&built)?,
            authorizer,
            authentication: config.authentication.build(tokens.clone(), objects)?,
            auditor: Auditor::open(&config.audit)?,
            tokens,
            discovery: Live::new({
                let address = format!("{}:{}", config.advertise_address, config.port);
                let aggregation = aggregation.clone();
                move |r| Discovery::new(&r.kinds(), &address, &aggregation.state())
            }),
            openapi: Live::new({
                let (aggregation, kept) = (aggregation.clone(), Arc::<Kept>::default());
                move |r| OpenApi::new(&r.kinds(), &aggregation.state(), kept.clone())
            }),
            kubelets,
            windows: Default::default(),
            aggregation,
            anonymous: Arc::new(keles_auth::anonymous()),
            last_modes: LastModes::default(),
            gate: Gate::new(&config.lifecycle),
            began: Instant::now(),
            leaving: AtomicBool::new(false),
            ready: AtomicBool::new(false),
            stops: CancellationToken::new(),
            left: CancellationToken::new(),
            follows: AtomicBool::new(true),
            registry,
            config,
        });
        let _ = later.set(Arc::downgrade(&inner));
        tokio::spawn(follow(inner.clone()));
        if !inner.config.compaction_interval.is_zero() {
            tokio::spawn(keles_store::compactor::run(for_compaction, inner.config.compaction_interval));
        }
        // Before anybody asks: what was served before a restart is served again.
        tokio::spawn(custom_resources::Controller::start(inner.clone()).await?.run());
        verdicts::start(&inner);
        let server = ApiServer { inner, certificates };
        bootstrap::run(&server.inner, &server.certificates.trust()).await?;
        if let Some(mut peers) = Peers::new(&server.inner) {
            peers.pass(&server.inner.registry).await.map_err(|status| StartError::Bootstrap { what: "the endpoints of default/kubernetes".into(), status })?;
            tokio::spawn(peers::run(server.inner.clone(), peers));
        } else {
            server.inner.left.cancel();
        }
        server.certificates.follow(&server.inner, &server.inner.stops);
        follow_authentication(&server.inner, of_authentication);
        follow_authorization(&server.inner, of_authorization, authorization);
        server.inner.gate.load(&server.inner.registry);
        tokio::spawn(fairness::run(server.inner.clone()));
        tokio::spawn(Aggregation::run(server.inner.clone()));
        tokio::spawn(default_range::run(server.inner.clone()));
        let mut repair = repair::Repair::new();
        repair.pass(&server.inner).await;
        tokio::spawn(repair::run(server.inner.clone(), repair));
        server.inner.ready.store(true, Ordering::SeqCst);
        Ok(server)
    }

    /// Serves over TLS until `shutdown`. Then it says that it is not ready, goes on for the shutdown delay, takes no more connections, ends
    /// watches, sends clients away and answers what is open for as long as a request may take.
    pub async fn serve(&self, listener: TcpListener, shutdown: CancellationToken) {
        let (inner, certificates) = (self.inner.clone(), self.certificates.clone());
        let drain = CancellationToken::new();
        let options = self.inner.config.lifecycle.clone();
        let goaway_chance = options.goaway_chance;
        let door = Arc::<Door>::default();
        let entrance = door.clone();
        let connect = move |info: keles_serve::ConnInfo| {
            let away = info.away.clone();
            let (inner, door, connected) = (inner.clone(), entrance.clone(), Arc::new(certificates.connected(info)));
            move |request: Request<hyper::body::Incoming>| {
                if goaway_chance > 0.0 && request.version() == Version::HTTP_2 && rand::random_bool(goaway_chance) {
                    away.cancel();
                }
                let (inner, caller, door) = (inner.clone(), connected.caller(), door.clone());
                async move {
                    let _inside = match door.enter(request.uri().path()) {
                        Ok(inside) => inside,
                        Err(refusal) => return refusal,
                    };
                    inner.handle(caller, request.map(|b| b.map_err(BoxError::from).boxed_unsync())).await
                }
            }
        };
        let server = Server { listener, tls: self.certificates.tls(), limits: Limits { drain: options.request_timeout, ..Limits::default() } };
        let leaving = async {
            shutdown.cancelled().await;
            self.inner.leaving.store(true, Ordering::SeqCst);
            tokio::time::sleep(options.shutdown_delay).await;
            self.inner.stops.cancel();
            // While the store is open.
            if tokio::time::timeout(LEAVE_LIMIT, self.inner.left.cancelled()).await.is_err() {
                tracing::warn!("the store took too long to take this server from the endpoints of default/kubernetes; the others will see");
            }
            if options.send_retry_after {
                door.shut(options.request_timeout).await;
            }
            drain.cancel();
        };
        tokio::join!(server.run(connect, drain.clone()), leaving);
    }

    /// A transport for a client of this process that speaks as `user`: `kube::Client::new(server.service_for(user), "default")`.
    /// The user is out of reach of requests: no header can change it. Upgrades are refused.
    pub fn service_for(&self, mut user: User) -> InProcess {
        keles_auth::mark_authenticated(&mut user);
        InProcess { inner: self.inner.clone(), user: Arc::new(user) }
    }

    /// The key of ServiceAccount tokens, for controllers of the same process.
    pub fn signing_key(&self) -> SigningKey {
        self.inner.tokens.key().clone()
    }
    pub fn registry(&self) -> &Arc<Registry> {
        &self.inner.registry
    }
    /// Whether `/readyz` says ok.
    pub fn is_ready(&self) -> bool {
        self.inner.ready.load(Ordering::SeqCst)
    }
}

fn follow_authentication(inner: &Arc<Inner>, file: Option<Followed>) {
    let (Some(file), Some(issuers)) = (file, inner.authentication.issuers.clone()) else { return };
    file.counted(&reload::AUTHENTICATION).start(inner.stops.clone(), move || {
        let issuers = issuers.clone();
        async move { issuers.reload().await.map_err(|e| e.to_string()) }
    });
}

fn follow_authorization(inner: &Arc<Inner>, file: Option<Followed>, reload: Option<Reload>) {
    let (Some(file), Some(reload)) = (file, reload) else { return };
    let chain = inner.authorizers.clone();
    file.counted(&reload::AUTHORIZATION).start(inner.stops.clone(), move || {
        let done = reload.reload(&chain).map_err(|e| e.to_string());
        async move { done }
    });
}

/// Follows the store; its end is the end of good health.
async fn follow(inner: Arc<Inner>) {
    let registry = inner.registry.clone();
    if let Err(error) = registry.run().await {
        tracing::error!(%error, "the API server no longer follows its store");
    }
    inner.follows.store(false, Ordering::SeqCst);
}

/// See [`ApiServer::service_for`].
#[derive(Clone)]
pub struct InProcess {
    inner: Arc<Inner>,
    user: Arc<User>,
}

impl<B> tower::Service<Request<B>> for InProcess
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }
    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (inner, user) = (self.inner.clone(), self.user.clone());
        let request = request.map(|b| b.map_err(Into::into).boxed_unsync());
        Box::pin(async move { Ok(inner.handle(Caller::known(user), request).await) })
    }
}
