//! The CA, the certificates of every part, and the key that signs ServiceAccount tokens, kept under `<data-dir>/pki`.
//!
//! Entry points: [`Pki::open`], then one method a certificate (`serving`, `admin`, `scheduler`, …); [`SigningKey::open`];
//! [`write_kubeconfig`]; [`RequestKey`] for who asks another to sign. Invariants: files are created once with mode 0600, written whole or not at all, used again on the next
//! start, and leaf certificates are made anew when they near their end, no longer fit their key, or lack a wanted name.
//! Deliberately absent: rotation of the CA itself.

mod authority;
mod files;
mod kubeconfig;
mod leaf;
mod request_key;
mod requests;
mod self_signed;
mod signing;
mod token_key;

pub use authority::{Authority, Certified, LEAF_DAYS, RENEW_BEFORE_DAYS, Subject, certificates, dns_names};
pub use files::{make_private_folder, write_atomically};
pub use kubeconfig::{KubeconfigUser, kubeconfig, write_kubeconfig};
pub use leaf::Leaf;
pub use request_key::RequestKey;
pub use requests::{CertificateRequest, not_after};
pub use self_signed::self_signed;
pub use signing::SigningKey;
pub use token_key::{PublicKey, jwks};

use std::net::IpAddr;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("cannot {action} {path}: {source}")]
    File { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{path} is not a usable {what}: {why}; move it away to have it made anew")]
    Damaged { path: PathBuf, what: &'static str, why: String },
    #[error("cannot make the certificate {name}: {source}")]
    Certificate { name: String, source: rcgen::Error },
    #[error("cannot make the ServiceAccount signing key: {why}")]
    SigningKey { why: String },
    #[error("unable to parse csr: {why}")]
    Request { why: String },
    #[error("cannot sign with the ServiceAccount key")]
    Sign,
}

pub type Result<T> = std::result::Result<T, PkiError>;

/// The names of a certificate for servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    pub dns: Vec<String>,
    pub ips: Vec<IpAddr>,
}

impl Names {
    /// Whether all of `others` are among these.
    pub fn carry(&self, others: &Names) -> bool {
        others.dns.iter().all(|n| self.dns.contains(n)) && others.ips.iter().all(|ip| self.ips.contains(ip))
    }
}

/// The certificate store of one data folder.
pub struct Pki {
    dir: PathBuf,
    /// Signs servers and clients.
    ca: Authority,
    /// Signs the proxy client that aggregated API servers trust.
    front_proxy: Authority,
}

impl Pki {
    /// Opens `<data_dir>/pki`, making the authorities on the first start.
    pub fn open(data_dir: &Path) -> Result<Pki> {
        let dir = data_dir.join("pki");
        files::make_private_folder(&dir)?;
        Ok(Pki { ca: Authority::open(&dir, "ca", "keles-ca")?, front_proxy: Authority::open(&dir, "front-proxy-ca", "keles-front-proxy-ca")?, dir })
    }
    pub fn dir(&self) -> &Path {
        &self.dir
    }
    /// What signs servers and clients, and certificate requests.
    pub fn authority(&self) -> &Authority {
        &self.ca
    }
    pub fn into_authority(self) -> Authority {
        self.ca
    }
    pub fn ca_pem(&self) -> &str {
        self.ca.certificate_pem()
    }
    pub fn ca_der(&self) -> Vec<u8> {
        self.ca.certificate_der()
    }
    pub fn front_proxy_ca_pem(&self) -> &str {
        self.front_proxy.certificate_pem()
    }

    /// The API server's certificate. Besides `names` it always carries the names every cluster uses.
    pub fn apiserver(&self, names: &Names, service_ip: IpAddr) -> Result<Certified> {
        let mut all =
            Names { dns: APISERVER_NAMES.iter().map(|n| (*n).to_owned()).collect(), ips: vec![[127, 0, 0, 1].into(), IpAddr::V6(std::net::Ipv6Addr::LOCALHOST), service_ip] };
        all.dns.extend(names.dns.iter().cloned());
        all.ips.extend(names.ips.iter().copied());
        self.ca.server(&self.dir, "apiserver", "kube-apiserver", None, &all)
    }
    /// The certificate of a node's own HTTPS API.
    pub fn kubelet_server(&self, node: &str, names: &Names) -> Result<Certified> {
        let mut all = names.clone();
        all.dns.extend([node.to_owned(), "localhost".to_owned()]);
        all.ips.push([127, 0, 0, 1].into());
        self.ca.server(&self.dir, "kubelet-server", &format!("system:node:{node}"), Some("system:nodes"), &all)
    }
    /// The administrator: group `system:masters`.
    pub fn admin(&self) -> Result<Certified> {
        self.client("admin", "kubernetes-admin", Some("system:masters"))
    }
    pub fn scheduler(&self) -> Result<Certified> {
        self.client("scheduler", "system:kube-scheduler", None)
    }
    pub fn controller_manager(&self) -> Result<Certified> {
        self.client("controller-manager", "system:kube-controller-manager", None)
    }
    pub fn kube_proxy(&self) -> Result<Certified> {
        self.client("kube-proxy", "system:kube-proxy", Some("system:node-proxier"))
    }
    /// A node's client certificate, user `system:node:NAME`.
    pub fn node(&self, node: &str) -> Result<Certified> {
        self.client("node", &format!("system:node:{node}"), Some("system:nodes"))
    }
    /// What the API server shows to nodes when it proxies logs, exec, attach and port-forward.
    pub fn apiserver_kubelet_client(&self) -> Result<Certified> {
        self.client("apiserver-kubelet-client", "kube-apiserver-kubelet-client", Some("system:masters"))
    }
    /// What the API server shows to aggregated API servers.
    pub fn front_proxy_client(&self) -> Result<Certified> {
        self.front_proxy.client(&self.dir, "front-proxy-client", "front-proxy-client", None)
    }
    /// Any client certificate of the cluster's CA, kept in `<file>.crt` and `<file>.key`.
    pub fn client(&self, file: &str, user: &str, group: Option<&str>) -> Result<Certified> {
        self.ca.client(&self.dir, file, user, group)
    }
}

/// Names under which pods and people reach an API server.
pub const APISERVER_NAMES: &[&str] = &["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"];

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn open(dir: &Path) -> Pki {
        Pki::open(dir).expect("a fresh folder opens")
    }

    #[test]
    fn certificates_are_made_once_and_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path()).admin().unwrap();
        let again = open(dir.path()).admin().unwrap();
        assert_eq!(first.certificate_pem, again.certificate_pem);
        assert_eq!(first.key_pem, again.key_pem);
    }

    #[test]
    fn every_file_is_private() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path()).admin().unwrap();
        for f in std::fs::read_dir(dir.path().join("pki")).unwrap() {
            let f = f.unwrap();
            assert_eq!(f.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", f.path());
        }
    }

    #[test]
    fn a_new_name_makes_the_serving_certificate_anew_and_keeps_the_ca() {
        let dir = tempfile::tempdir().unwrap();
        let pki = open(dir.path());
        let ip: IpAddr = [10, 43, 0, 1].into();
        let a = pki.apiserver(&Names::default(), ip).unwrap();
        let b = pki.apiserver(&Names { dns: vec!["box".into()], ips: vec![[192, 0, 2, 7].into()] }, ip).unwrap();
        let c = pki.apiserver(&Names::default(), ip).unwrap();
        assert_ne!(a.certificate_pem, b.certificate_pem);
        assert_eq!(b.certificate_pem, c.certificate_pem, "fewer names are still served by what is there");
        assert_eq!(pki.ca_pem(), open(dir.path()).ca_pem());
    }

    #[test]
    fn a_torn_leaf_is_made_anew_but_a_torn_ca_is_a_clear_error() {
        let dir = tempfile::tempdir().unwrap();
        let before = open(dir.path()).admin().unwrap();
        std::fs::write(dir.path().join("pki/admin.crt"), "").unwrap();
        let after = open(dir.path()).admin().unwrap();
        assert_ne!(before.certificate_pem, after.certificate_pem);
        std::fs::write(dir.path().join("pki/ca.crt"), "x").unwrap();
        let e = Pki::open(dir.path()).err().expect("a damaged CA is refused").to_string();
        assert!(e.contains("ca.crt") && e.contains("move it away"), "{e}");
    }

    #[test]
    fn subjects_carry_user_and_groups() {
        let dir = tempfile::tempdir().unwrap();
        let c = open(dir.path()).node("n1").unwrap();
        let s = Subject::of(&c.certificate_der().unwrap()[0]).unwrap();
        assert_eq!(s, Subject { common_name: "system:node:n1".into(), organizations: vec!["system:nodes".into()] });
    }
}
