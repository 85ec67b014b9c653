//! Connections to the nodes' HTTPS API, as `kube-apiserver-kubelet-client`.
//!
//! A node's certificate must be of the cluster's CA and name the node. One connection a request: streams own theirs.

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use keles_api::Status;
use keles_pki::Certified;
use keles_serve::tls::{AnyCertificate, TlsError, provider};
use keles_serve::{Body, BoxError};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

pub struct Kubelets {
    tls: Arc<ClientConfig>,
    /// For backends of the HTTP proxy, whose certificates nobody vouches for (as upstream).
    unverified: Arc<ClientConfig>,
}

/// Where a node's API is.
pub struct NodeAddress {
    pub node: String,
    pub host: String,
    pub port: u16,
}

impl Kubelets {
    pub fn new(client: &Certified, ca_der: &[u8]) -> Result<Kubelets, TlsError> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(ca_der.to_vec())).map_err(|e| TlsError::ClientCa(e.to_string()))?;
        let chain = client.certificate_der().unwrap_or_default();
        let key = client.key_der().ok_or_else(|| TlsError::ClientCa("the kubelet client's key does not parse".into()))?;
        let tls = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Versions)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(TlsError::Certificate)?;
        let unverified = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Versions)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate))
            .with_no_client_auth();
        Ok(Kubelets { tls: Arc::new(tls), unverified: Arc::new(unverified) })
    }

    /// TLS to a backend of the HTTP proxy.
    pub async fn any_certificate(&self, host: std::net::IpAddr, tcp: TcpStream) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        TlsConnector::from(self.unverified.clone()).connect(ServerName::IpAddress(host.into()), tcp).await
    }

    /// Sends one HTTP/1.1 request to a node; the connection lives as long as the answer (or what it upgrades to).
    pub async fn send(&self, to: &NodeAddress, request: Request<Body>) -> Result<Response<Incoming>, Status> {
        let refuse = |what: &str, why: &dyn std::fmt::Display| dial_failed(to, what, why);
        let connect = async {
            let tcp = TcpStream::connect((to.host.as_str(), to.port)).await?;
            let _ = tcp.set_nodelay(true);
            let name = ServerName::try_from(to.node.clone()).map_err(std::io::Error::other)?;
            TlsConnector::from(self.tls.clone()).connect(name, tcp).await
        };
        let tls = match tokio::time::timeout(CONNECT_TIMEOUT, connect).await {
            Ok(Ok(tls)) => tls,
            Ok(Err(e)) => return Err(refuse("dial tcp", &e)),
            Err(_) => return Err(refuse("dial tcp", &"i/o timeout")),
        };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.map_err(|e| refuse("handshake", &e))?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "connection to a node ended");
            }
        });
        sender.send_request(request).await.map_err(|e| refuse("request", &BoxError::from(e)))
    }
}

fn dial_failed(to: &NodeAddress, what: &str, why: &dyn std::fmt::Display) -> Status {
    Status::internal(format!("error dialing backend: {what} {}:{}: {why}", to.host, to.port))
}
