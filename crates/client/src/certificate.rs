//! A client certificate that is kept in files which somebody renews: connections show what the files hold when they are made, and those that were
//! made with another end.
//!
//! Entry points: [`ClientCertificate::open`], [`ClientCertificate::reload`]. Source: k8s.io/client-go/transport/cert_rotation.go.

use hyper_util::client::legacy::connect::{Connected, Connection};
use rustls::client::ResolvesClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, SignatureScheme};
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// How often connections are ended over a certificate that nobody told of; upstream's figure.
const LOOK_EVERY: Duration = Duration::from_secs(300);

/// Why files are no client certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} holds no certificate", .0.display())]
    NoCertificate(PathBuf),
    #[error("{} holds no private key", .0.display())]
    NoKey(PathBuf),
    #[error("the key in {} is not the certificate's: {source}", path.display())]
    Mismatch { path: PathBuf, source: rustls::Error },
}

/// Shared by the connections of a client.
#[derive(Debug)]
pub struct ClientCertificate {
    certificate: PathBuf,
    key: PathBuf,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    /// What the files held, to know a change by.
    text: Vec<u8>,
    pair: Arc<CertifiedKey>,
    /// Cancelled when another certificate takes over.
    replaced: CancellationToken,
}

impl Held {
    fn read(certificate: &Path, key: &Path) -> Result<Held, CertificateError> {
        let read = |path: &Path| std::fs::read(path).map_err(|source| CertificateError::Read { path: path.into(), source });
        let (chain_pem, key_pem) = (read(certificate)?, read(key)?);
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&chain_pem).filter_map(Result::ok).collect();
        if chain.is_empty() {
            return Err(CertificateError::NoCertificate(certificate.into()));
        }
        let private = PrivateKeyDer::from_pem_slice(&key_pem).map_err(|_| CertificateError::NoKey(key.into()))?;
        let pair = CertifiedKey::from_der(chain, private, &rustls::crypto::ring::default_provider());
        let pair = pair.map_err(|source| CertificateError::Mismatch { path: key.into(), source })?;
        Ok(Held { text: [chain_pem, key_pem].concat(), pair: Arc::new(pair), replaced: CancellationToken::new() })
    }
}

impl ClientCertificate {
    /// Reads the files, which may be one and the same.
    pub fn open(certificate: &Path, key: &Path) -> Result<Arc<ClientCertificate>, CertificateError> {
        let held = Held::read(certificate, key)?;
        Ok(Arc::new(ClientCertificate { certificate: certificate.into(), key: key.into(), held: Mutex::new(held) }))
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the files anew if they changed, and ends the connections made before. Files that cannot be used leave what was there: they may be half
    /// written.
    pub fn reload(&self) {
        match Held::read(&self.certificate, &self.key) {
            Ok(new) => {
                let mut held = self.held();
                if new.text != held.text {
                    tracing::info!(file = %self.certificate.display(), "client certificate changed: connections are made anew");
                    std::mem::replace(&mut *held, new).replaced.cancel();
                }
            }
            Err(error) => tracing::warn!(%error, "the client certificate cannot be taken anew; what was there stays"),
        }
    }

    /// Looks at the files now and then for as long as a client uses them.
    pub(crate) fn follow(self: &Arc<Self>) {
        let followed: Weak<Self> = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(LOOK_EVERY);
            loop {
                ticks.tick().await;
                let Some(certificate) = followed.upgrade() else { return };
                certificate.reload();
            }
        });
    }

    /// `config` with this certificate as its own.
    pub(crate) fn show(self: &Arc<Self>, mut config: ClientConfig) -> ClientConfig {
        config.client_auth_cert_resolver = self.clone();
        // A resumed session is its first certificate's.
        config.resumption = rustls::client::Resumption::disabled();
        config
    }
}

impl ResolvesClientCert for ClientCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.held().pair.clone())
    }
    fn has_certs(&self) -> bool {
        true
    }
}

/// Makes connections that end when the certificate is replaced. A connection is of the certificate that was there before its handshake began: one that
/// takes over meanwhile ends it too, which only costs another.
#[derive(Clone)]
pub(crate) struct Ending<C> {
    pub inner: C,
    pub certificate: Arc<ClientCertificate>,
    /// From the first packet to the end of the handshake.
    pub limit: Option<Duration>,
}

impl<C> tower::Service<http::Uri> for Ending<C>
where
    C: tower::Service<http::Uri>,
    C::Future: Send + 'static,
    C::Error: Into<tower::BoxError>,
    C::Response: Send,
{
    type Response = Mortal<C::Response>;
    type Error = tower::BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }
    fn call(&mut self, to: http::Uri) -> Self::Future {
        self.certificate.reload();
        let replaced = self.certificate.held().replaced.clone().cancelled_owned();
        let (connecting, limit) = (self.inner.call(to), self.limit.unwrap_or(Duration::MAX));
        Box::pin(async move {
            let inner = tokio::time::timeout(limit, connecting).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?.map_err(Into::into)?;
            Ok(Mortal { inner, replaced: Box::pin(replaced) })
        })
    }
}

/// A connection whose reads fail once its certificate was replaced.
pub(crate) struct Mortal<T> {
    inner: T,
    replaced: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<T> Mortal<T> {
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.replaced.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the client certificate was replaced")),
            Poll::Pending => Ok(()),
        }
    }
}

impl<T: hyper::rt::Read + Unpin> hyper::rt::Read for Mortal<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: hyper::rt::ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.inner).poll_read(cx, into)
    }
}

impl<T: hyper::rt::Write + Unpin> hyper::rt::Write for Mortal<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bytes)
    }
}

impl<T: Connection> Connection for Mortal<T> {
    fn connected(&self) -> Connected {
        self.inner.connected()
    }
}

#[cfg(test)]
#[path = "certificate_tests.rs"]
mod tests;
