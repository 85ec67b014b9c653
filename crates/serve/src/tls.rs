//! TLS settings of our servers.
//!
//! A client certificate is asked for but not demanded, and one that does not verify does not end the handshake: as upstream, the
//! request goes on and authentication answers 401 for it. [`verify_client`] tells which it was.

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};
use std::sync::Arc;

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the client CA is not usable: {0}")]
    ClientCa(String),
    #[error("the serving certificate and key are not usable: {0}")]
    Certificate(#[source] rustls::Error),
    #[error("TLS versions are not available: {0}")]
    Versions(#[source] rustls::Error),
}

/// Checks client certificates against the cluster's CA.
pub type ClientVerifier = Arc<dyn ClientCertVerifier>;

pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A verifier of client certificates signed by one of `cas` (DER).
pub fn client_verifier(cas: &[Vec<u8>]) -> Result<ClientVerifier, TlsError> {
    let mut roots = RootCertStore::empty();
    for ca in cas {
        roots.add(CertificateDer::from(ca.clone())).map_err(|e| TlsError::ClientCa(e.to_string()))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build().map_err(|e| TlsError::ClientCa(e.to_string()))
}

/// Whether the chain a client showed is of the verifier's CA and in its time.
pub fn verify_client(verifier: &dyn ClientCertVerifier, chain: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
    let (leaf, rest) = chain.split_first().ok_or(rustls::Error::NoCertificatesPresented)?;
    verifier.verify_client_cert(leaf, rest, UnixTime::now()).map(|_| ())
}

/// Settings with ALPN h2 and http/1.1.
pub fn server_config(certificates: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>, verifier: Option<ClientVerifier>) -> Result<Arc<ServerConfig>, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().map_err(TlsError::Versions)?;
    let builder = match verifier {
        Some(v) => builder.with_client_cert_verifier(Arc::new(AskOnly(v))),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(certificates, key).map_err(TlsError::Certificate)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // One ticket is enough for kubectl, and each costs an encryption a handshake.
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

/// Takes any certificate whose key the client holds; whether it is ours is asked later.
#[derive(Debug)]
struct AskOnly(ClientVerifier);

impl ClientCertVerifier for AskOnly {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }
    fn client_auth_mandatory(&self) -> bool {
        false
    }
    fn verify_client_cert(&self, _: &CertificateDer<'_>, _: &[CertificateDer<'_>], _: UnixTime) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }
    fn verify_tls12_signature(&self, message: &[u8], cert: &CertificateDer<'_>, dss: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }
    fn verify_tls13_signature(&self, message: &[u8], cert: &CertificateDer<'_>, dss: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
