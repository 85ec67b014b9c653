//! TLS settings of our servers.
//!
//! A client certificate is asked for but not demanded, and one that does not verify does not end the handshake: as upstream, the
//! request goes on and authentication answers 401 for it. [`verify_client`] tells which it was.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};
use std::sync::{Arc, PoisonError, RwLock};

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

/// Takes the certificate of any server (Go's InsecureSkipVerify): where we encrypt but do not ask who it is, as to pods and services behind the
/// proxy and in probes, and where an operator says so.
#[derive(Debug)]
pub struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(&self, _: &CertificateDer<'_>, _: &[CertificateDer<'_>], _: &ServerName<'_>, _: &[u8], _: UnixTime) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(&self, m: &[u8], c: &CertificateDer<'_>, d: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(m, c, d, &provider().signature_verification_algorithms)
    }
    fn verify_tls13_signature(&self, m: &[u8], c: &CertificateDer<'_>, d: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(m, c, d, &provider().signature_verification_algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
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

/// What a server speaks TLS with; cheap to clone. It may be replaced while the server runs: connections that come later get the new settings.
#[derive(Clone, Debug)]
pub struct Settings(Arc<RwLock<Result<Arc<ServerConfig>, &'static str>>>);

impl Settings {
    fn new(config: ServerConfig) -> Settings {
        Settings(Arc::new(RwLock::new(Ok(Arc::new(config)))))
    }
    /// None yet: handshakes fail with `why` in the log, as those of a Go server without a certificate do.
    pub fn none_yet(why: &'static str) -> Settings {
        Settings(Arc::new(RwLock::new(Err(why))))
    }
    /// As they are now, or why there are none.
    pub fn current(&self) -> Result<Arc<ServerConfig>, &'static str> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
    /// Takes over what `other` holds.
    pub fn replace(&self, other: &Settings) {
        let new = other.current();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = new;
    }
}

/// Settings with ALPN h2 and http/1.1.
pub fn server_config(certificates: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>, verifier: Option<ClientVerifier>) -> Result<Settings, TlsError> {
    named_server_config(vec![Named { names: Vec::new(), pair: pair(certificates, key)? }], verifier)
}

/// A chain with its key, once it is known that they fit each other.
pub fn pair(certificates: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Arc<CertifiedKey>, TlsError> {
    CertifiedKey::from_der(certificates, key, &provider()).map(Arc::new).map_err(TlsError::Certificate)
}

/// A certificate, and the names of servers (SNI) it is shown for: `a.example`, or `*.example` for one label more.
#[derive(Clone, Debug)]
pub struct Named {
    pub names: Vec<String>,
    pub pair: Arc<CertifiedKey>,
}

/// The same with several certificates, chosen by the name a client asks for. The first is shown to who asks for no name or for none of theirs.
pub fn named_server_config(certificates: Vec<Named>, verifier: Option<ClientVerifier>) -> Result<Settings, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().map_err(TlsError::Versions)?;
    let builder = match verifier {
        Some(v) => builder.with_client_cert_verifier(Arc::new(AskOnly(v))),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(ByName(certificates)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // One ticket is enough for kubectl, and each costs an encryption a handshake.
    config.send_tls13_tickets = 1;
    Ok(Settings::new(config))
}

/// Chooses by SNI.
#[derive(Debug)]
struct ByName(Vec<Named>);

impl ByName {
    fn choose(&self, name: &str) -> Option<&Named> {
        let name = name.to_ascii_lowercase();
        let exact = self.0.iter().find(|c| c.names.contains(&name));
        let wild = || {
            let (_, rest) = name.split_once('.')?;
            self.0.iter().find(|c| c.names.iter().any(|n| n.strip_prefix("*.") == Some(rest)))
        };
        exact.or_else(wild)
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|n| self.choose(n)).or(self.0.first())?;
        Some(named.pair.clone())
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(names: &[&str]) -> Named {
        let made = rcgen::generate_simple_self_signed(vec!["x".to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
        Named { names: names.iter().map(|n| (*n).to_owned()).collect(), pair: pair(vec![made.cert.der().clone()], key).expect("they fit") }
    }

    #[test]
    fn a_certificate_is_chosen_by_name_and_a_wildcard_stands_for_one_label() {
        let all = ByName(vec![certificate(&[]), certificate(&["*.a.example"]), certificate(&["b.a.example"])]);
        let at = |name: &str| all.choose(name).map(|c| c.names[0].as_str());
        assert_eq!(at("B.a.example"), Some("b.a.example"), "the exact name before the wildcard, whatever its case");
        assert_eq!(at("c.a.example"), Some("*.a.example"));
        assert_eq!((at("d.c.a.example"), at("a.example"), at("else")), (None, None, None));
    }

    #[test]
    fn a_key_that_is_not_the_certificates_is_refused() {
        let (a, b) = (rcgen::generate_simple_self_signed(vec!["a".to_owned()]).unwrap(), rcgen::generate_simple_self_signed(vec!["b".to_owned()]).unwrap());
        let key = PrivateKeyDer::try_from(b.signing_key.serialize_der()).unwrap();
        assert!(matches!(pair(vec![a.cert.der().clone()], key), Err(TlsError::Certificate(_))));
    }
}
