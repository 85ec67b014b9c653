//! Where the members are and how they are reached: `--datastore-endpoint` and the flags about TLS.

use keles_grpc::Channel;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Files in PEM.
#[derive(Clone, Debug, Default)]
pub struct TlsFiles {
    /// Whom to trust; absent: whom the machine trusts.
    pub ca: Option<PathBuf>,
    /// Who we are.
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    #[error("--datastore-endpoint: {0:?} is no endpoint; write etcd://HOST:PORT or http://HOST:PORT without TLS, https://HOST:PORT with it, several separated by commas")]
    Endpoint(String),
    #[error("--datastore-endpoint: {0}:// is not built, see docs/STATUS.md; there are the embedded store (leave the flag out) and etcd (etcd://, http://, https://)")]
    NotBuilt(String),
    #[error("--etcd-certfile and --etcd-keyfile are given together or not at all")]
    HalfACertificate,
    #[error("--etcd-cafile, --etcd-certfile and --etcd-keyfile are for TLS, and {0} is without; write https://")]
    NoTls(String),
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} holds no {what} in PEM", path.display())]
    Empty { path: PathBuf, what: &'static str },
    #[error("TLS to etcd: {0}")]
    Tls(#[from] rustls::Error),
}

/// etcd's port for clients.
const PORT: u16 = 2379;

/// A channel to each of the endpoints.
pub fn channels(endpoints: &str, files: &TlsFiles) -> Result<Vec<Channel>, OptionsError> {
    let mut config = None;
    let mut all = Vec::new();
    for text in endpoints.split(',').map(str::trim) {
        let (scheme, rest) = text.split_once("://").ok_or_else(|| OptionsError::Endpoint(text.into()))?;
        let authority = authority(rest).ok_or_else(|| OptionsError::Endpoint(text.into()))?;
        let told = files.ca.is_some() || files.certificate.is_some() || files.key.is_some();
        match scheme {
            "etcd" | "http" if told => return Err(OptionsError::NoTls(text.into())),
            "etcd" | "http" => all.push(Channel::tcp(authority)),
            "https" | "etcds" => {
                let made = match &config {
                    Some(made) => ClientConfig::clone(made),
                    None => config.insert(client_config(files)?).clone(),
                };
                all.push(Channel::tls(authority, made));
            }
            "mysql" | "postgres" | "postgresql" | "sqlite" | "nats" => return Err(OptionsError::NotBuilt(scheme.into())),
            _ => return Err(OptionsError::Endpoint(text.into())),
        }
    }
    Ok(all)
}

/// `HOST:PORT` of what follows the scheme.
fn authority(rest: &str) -> Option<String> {
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let parsed: http::uri::Authority = authority.parse().ok()?;
    if parsed.host().is_empty() || authority.contains(['@', '/']) {
        return None;
    }
    match parsed.port_u16() {
        Some(_) => Some(authority.to_owned()),
        // What is there is no port.
        None if authority.len() > parsed.host().len() => None,
        None => Some(format!("{authority}:{PORT}")),
    }
}

fn client_config(files: &TlsFiles) -> Result<ClientConfig, OptionsError> {
    let mut roots = RootCertStore::empty();
    match &files.ca {
        Some(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate)?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider())).with_safe_default_protocol_versions()?.with_root_certificates(roots);
    Ok(match (&files.certificate, &files.key) {
        (Some(certificate), Some(path)) => config.with_client_auth_cert(certificates(certificate)?, key(path)?)?,
        (None, None) => config.with_no_client_auth(),
        _ => return Err(OptionsError::HalfACertificate),
    })
}

fn read(path: &Path) -> Result<Vec<u8>, OptionsError> {
    std::fs::read(path).map_err(|source| OptionsError::Read { path: path.into(), source })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, OptionsError> {
    let empty = || OptionsError::Empty { path: path.into(), what: "certificate" };
    let all: Vec<_> = rustls_pemfile::certs(&mut &*read(path)?).collect::<Result<_, _>>().map_err(|_| empty())?;
    if all.is_empty() { Err(empty()) } else { Ok(all) }
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, OptionsError> {
    rustls_pemfile::private_key(&mut &*read(path)?).ok().flatten().ok_or_else(|| OptionsError::Empty { path: path.into(), what: "private key" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_name_scheme_host_and_port() {
        let names = |text: &str| channels(text, &TlsFiles::default()).map(|all| all.iter().map(|c| c.peer().to_string()).collect::<Vec<_>>().join(" "));
        assert_eq!(names("etcd://10.0.0.1:2379").unwrap(), "10.0.0.1:2379");
        assert_eq!(names("http://a:1, http://b/,https://[::1]:2").unwrap(), "a:1 b:2379 [::1]:2");
        for wrong in ["", "10.0.0.1:2379", "ftp://a:1", "http://", "http://a:1,", "http://a:b", "http://u:p@a:1", "http://a:1/x"] {
            assert!(matches!(names(wrong), Err(OptionsError::Endpoint(_))), "{wrong}");
        }
        assert!(matches!(names("postgres://a:1"), Err(OptionsError::NotBuilt(_))));
    }

    #[test]
    fn files_are_for_tls_and_come_in_pairs() {
        let files = TlsFiles { certificate: Some("/nonexistent".into()), ..TlsFiles::default() };
        assert!(matches!(channels("http://a:1", &files), Err(OptionsError::NoTls(_))));
        assert!(matches!(channels("https://a:1", &files), Err(OptionsError::HalfACertificate)));
        let files = TlsFiles { ca: Some("/nonexistent".into()), ..TlsFiles::default() };
        assert!(matches!(channels("https://a:1", &files), Err(OptionsError::Read { .. })));
    }
}
