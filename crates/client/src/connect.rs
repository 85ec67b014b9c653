//! Where a `kube::Client` comes from: a kubeconfig file, or a function call into a server of this process.

use crate::metrics::Counting;
use bytes::Bytes;
use http::{Request, Response};
use kube::client::{Body, ClientBuilder};
use kube::config::{KubeConfigOptions, Kubeconfig};
use std::path::{Path, PathBuf};
use tower::Layer;

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
}

/// A client over HTTPS as the kubeconfig's current context says. Must run inside a tokio runtime.
pub async fn from_kubeconfig(path: impl AsRef<Path>) -> Result<kube::Client, ConnectError> {
    let path = path.as_ref();
    let file = Kubeconfig::read_from(path).map_err(|source| ConnectError::Read { path: path.into(), source })?;
    let mut config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(|source| ConnectError::Context { path: path.into(), source })?;
    // Watches are long and may be silent; the informer's own watchdog finds dead connections.
    config.read_timeout = None;
    over_https(config).map_err(|source| ConnectError::Transport { path: path.into(), source: Box::new(source) })
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
