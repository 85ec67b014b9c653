//! Where a `kube::Client` comes from: a kubeconfig file, or a function call into a server of this process.

use crate::certificate::{CertificateError, ClientCertificate, Ending};
use crate::metrics::Counting;
use bytes::Bytes;
use http::{Request, Response};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::retry::RetryPolicy;
use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tower::retry::RetryLayer;
use tower::{Layer, ServiceBuilder};

/// Why a client could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("reading kubeconfig {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: kube::config::KubeconfigError,
    },
    #[error("kubeconfig {} names no usable cluster or user; check its current-context", path.display())]
    Context {
        path: PathBuf,
        #[source]
        source: kube::config::KubeconfigError,
    },
    #[error("setting up the connection that kubeconfig {} describes", path.display())]
    Transport {
        path: PathBuf,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("the client certificate of kubeconfig {} is not usable", path.display())]
    Certificate {
        path: PathBuf,
        #[source]
        source: CertificateError,
    },
}

/// A client over HTTPS as the kubeconfig's current context says; a client certificate in files is taken anew when they change. Must run inside a
/// tokio runtime.
pub async fn from_kubeconfig(path: impl AsRef<Path>) -> Result<kube::Client, ConnectError> {
    let path = path.as_ref();
    let config = config(path).await?;
    match (&config.auth_info.client_certificate, &config.auth_info.client_key) {
        // Data counts before files.
        (Some(certificate), Some(key)) if config.auth_info.client_certificate_data.is_none() && config.auth_info.client_key_data.is_none() => {
            let certificate = ClientCertificate::open(Path::new(certificate), Path::new(key)).map_err(|source| ConnectError::Certificate { path: path.into(), source })?;
            with_certificate(config, certificate)
        }
        _ => over_https(config),
    }
    .map_err(|source| ConnectError::Transport { path: path.into(), source: Box::new(source) })
}

/// The same with another client certificate than the kubeconfig's.
pub async fn from_kubeconfig_as(path: impl AsRef<Path>, certificate: Arc<ClientCertificate>) -> Result<kube::Client, ConnectError> {
    let path = path.as_ref();
    with_certificate(config(path).await?, certificate).map_err(|source| ConnectError::Transport { path: path.into(), source: Box::new(source) })
}

async fn config(path: &Path) -> Result<kube::Config, ConnectError> {
    let file = Kubeconfig::read_from(path).map_err(|source| ConnectError::Read { path: path.into(), source })?;
    let mut config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(|source| ConnectError::Context { path: path.into(), source })?;
    // Watches are long and may be silent; the informer's own watchdog finds dead connections.
    config.read_timeout = None;
    Ok(config)
}

/// The layers of `kube::client::ClientBuilder` over connections that end with their certificate; a proxy and a name that is none are refused as there.
fn with_certificate(mut config: kube::Config, certificate: Arc<ClientCertificate>) -> kube::Result<kube::Client> {
    let auth = &mut config.auth_info;
    (auth.client_certificate, auth.client_certificate_data, auth.client_key, auth.client_key_data) = (None, None, None, None);
    if config.proxy_url.is_some() {
        return over_https(config);
    }
    certificate.follow();
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    let tls = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(certificate.show(config.rustls_client_config()?)).https_or_http();
    let tls = match config.tls_server_name.clone().map(TryInto::try_into) {
        None => tls,
        Some(Ok(name)) => tls.with_server_name_resolver(hyper_rustls::FixedServerNameResolver::new(name)),
        Some(Err(_)) => return over_https(config),
    };
    let connector = Ending { inner: tls.enable_http1().wrap_connector(tcp), certificate, limit: config.connect_timeout };
    let http: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new()).build(connector);
    let host = config.cluster_url.authority().map_or_else(String::new, ToString::to_string);
    let service = ServiceBuilder::new()
        .layer(Counting::host(&host))
        .layer(config.base_uri_layer())
        .option_layer(config.default_retry.then_some(RetryLayer::new(RetryPolicy::server_retry())))
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(tower::BoxError::from)
        .service(http);
    Ok(kube::Client::new(service, config.default_namespace))
}

/// A client over HTTPS whose requests are counted. Must run inside a tokio runtime.
pub fn over_https(config: kube::Config) -> kube::Result<kube::Client> {
    let host = config.cluster_url.authority().map_or_else(String::new, ToString::to_string);
    Ok(ClientBuilder::try_from(config)?.with_layer(&Counting::host(&host)).build())
}

/// A client whose transport is a function call: no TCP, no TLS, no HTTP framing. The service decides as which user the caller comes.
/// Must run inside a tokio runtime.
pub fn in_process<S, B>(service: S) -> kube::Client
where
    S: tower::Service<Request<Body>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<tower::BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<tower::BoxError>,
{
    kube::Client::new(Counting::in_process().layer(service), "default")
}
