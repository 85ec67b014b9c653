//! How a node agent that runs alone proves who it is: to the API server by its client certificate, to its callers by its serving certificate. Both by
//! flags, see [`flags::Kubelet`].

use crate::flags;
use crate::parts::{authority_of, read};
use jiff::Timestamp;
use keles_client::ClientCertificate;
use keles_kubelet::certificates::bootstrap::{self, Bootstrap, CLIENT_PREFIX};
use keles_kubelet::certificates::{ClientRotation, Store};
use keles_kubelet::{ServerTls, ServingCertificate};
use keles_pki::{Authority, Names};
use keles_supervise::BoxError;
use std::net::Ipv4Addr;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
enum CertificatesError {
    #[error("cannot make {}: {source}", path.display())]
    Folder { path: PathBuf, source: std::io::Error },
    #[error("kubeconfig {} names no authority, so nobody could be allowed to call this node; give one with --client-ca-file", .0.display())]
    NoClientCa(PathBuf),
    #[error("--rotate-certificates: kubeconfig {} has no usable client certificate; give --bootstrap-kubeconfig to ask for one", .0.display())]
    NothingToRotate(PathBuf),
}

pub struct Connected {
    pub client: kube::Client,
    /// Absent without `--rotate-certificates`.
    pub rotation: Option<ClientRotation>,
}

fn folder(f: &flags::Kubelet) -> PathBuf {
    f.cert_dir.clone().unwrap_or_else(|| f.data_dir.join("pki"))
}

/// The node's client; with `--bootstrap-kubeconfig` its certificate is asked for first where there is none, which may take until somebody approves it.
pub async fn connect(f: &flags::Kubelet, name: &str) -> Result<Connected, BoxError> {
    let (kubeconfig, dir) = (&f.part.kubeconfig, folder(f));
    if let Some(bootstrap_kubeconfig) = &f.bootstrap_kubeconfig {
        bootstrap::ensure(&Bootstrap { kubeconfig, bootstrap_kubeconfig, certificates: &dir, node: name }, Timestamp::now()).await?;
    }
    if !f.rotate_certificates {
        return Ok(Connected { client: keles_client::from_kubeconfig(kubeconfig).await?, rotation: None });
    }
    let store = Store::open(&dir, CLIENT_PREFIX)?;
    let now = Timestamp::now();
    let is_first = store.current()?.is_none_or(|pair| pair.is_expired(now));
    if is_first {
        // As upstream: what the kubeconfig was given with stands in until one is issued to this node.
        let given = bootstrap::client_pair(kubeconfig).ok_or_else(|| CertificatesError::NothingToRotate(kubeconfig.clone()))?;
        store.update(&given.certificate_pem, &given.key_pem, now)?;
    }
    let shown = ClientCertificate::open(&store.current_path(), &store.current_path())?;
    let client = keles_client::from_kubeconfig_as(kubeconfig, shown.clone()).await?;
    Ok(Connected { client, rotation: Some(ClientRotation { store, shown, bootstrap: f.bootstrap_kubeconfig.clone(), is_first }) })
}

/// The certificate of the node's API: asked for, given in files, or as upstream one of the node's own authority.
pub fn serving(f: &flags::Kubelet, name: &str, ip: Ipv4Addr) -> Result<ServerTls, BoxError> {
    let client_ca_pem = match &f.client_ca_file {
        Some(path) => read(path)?,
        None => authority_of(&f.part.kubeconfig)?,
    };
    if client_ca_pem.trim().is_empty() {
        return Err(CertificatesError::NoClientCa(f.part.kubeconfig.clone()).into());
    }
    let dir = folder(f);
    if f.rotate_server_certificates {
        return Ok(ServerTls { certificate: ServingCertificate::Requested { dir }, client_ca_pem });
    }
    if let (Some(certificate), Some(key)) = (&f.tls_cert_file, &f.tls_private_key_file) {
        return Ok(ServerTls { certificate: ServingCertificate::Files { certificate: certificate.clone(), key: key.clone() }, client_ca_pem });
    }
    std::fs::create_dir_all(&dir).map_err(|source| CertificatesError::Folder { path: dir.clone(), source })?;
    let names = Names { dns: vec![name.to_owned(), "localhost".into()], ips: vec![ip.into(), Ipv4Addr::LOCALHOST.into()] };
    let own = Authority::open(&dir, "kubelet-ca", &format!("{name}-ca"))?.server(&dir, "kubelet", &format!("system:node:{name}"), Some("system:nodes"), &names)?;
    Ok(ServerTls { certificate: ServingCertificate::Given(own), client_ca_pem })
}
