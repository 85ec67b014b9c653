//! Credentials for parts that run alone: `kubeconfig` (kubeadm's `kubeconfig user`) and `certificate`, signed with the CA that
//! `keles apiserver` or `keles server` keeps in its data folder.

use crate::flags;
use keles_pki::{Authority, KubeconfigUser, Names, Pki, write_atomically};
use keles_supervise::BoxError;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    #[error("{} holds no cluster: there is no pki/ca.crt; name the folder of a `keles apiserver` or `keles server` with --data-dir", .0.display())]
    NoCluster(PathBuf),
    #[error("cannot make {}: {source}", path.display())]
    Folder { path: PathBuf, source: std::io::Error },
}

/// Opening a folder without a CA would make a new one, which nobody trusts.
fn must_hold_a_cluster(data_dir: &Path) -> Result<PathBuf, CredentialError> {
    let pki = data_dir.join("pki");
    if pki.join("ca.crt").exists() { Ok(pki) } else { Err(CredentialError::NoCluster(data_dir.into())) }
}

/// Prints a kubeconfig; the same certificate as before while it is good.
pub fn kubeconfig(f: flags::Kubeconfig) -> Result<(), BoxError> {
    must_hold_a_cluster(&f.data.data_dir)?;
    let pki = Pki::open(&f.data.data_dir)?;
    let file: String = f.client_name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '.' { c } else { '-' }).collect();
    let client = pki.client(&format!("client-{file}"), &f.client_name, f.org.as_deref())?;
    print!("{}", keles_pki::kubeconfig(&f.server, pki.ca_pem(), &KubeconfigUser::Certificate(&client)));
    Ok(())
}

/// Writes `kubelet.crt`, `kubelet.key` and `ca.crt`, which says who may call the node.
pub fn certificate(f: flags::Certificate) -> Result<(), BoxError> {
    let pki = must_hold_a_cluster(&f.data.data_dir)?;
    std::fs::create_dir_all(&f.cert_dir).map_err(|source| CredentialError::Folder { path: f.cert_dir.clone(), source })?;
    let ca = Authority::open(&pki, "ca", "keles-ca")?;
    ca.server(&f.cert_dir, "kubelet", &format!("system:node:{}", f.node_name), Some("system:nodes"), &names(&f.node_name, &f.tls_san))?;
    write_atomically(&f.cert_dir.join("ca.crt"), ca.certificate_pem().as_bytes())?;
    println!("{}\n{}", f.cert_dir.join("kubelet.crt").display(), f.cert_dir.join("kubelet.key").display());
    Ok(())
}

/// The API server asks a node's certificate for the node's name.
fn names(node: &str, more: &[String]) -> Names {
    let mut names = Names { dns: vec![node.to_owned(), "localhost".into()], ips: vec![[127, 0, 0, 1].into()] };
    for name in more {
        match name.parse::<IpAddr>() {
            Ok(ip) => names.ips.push(ip),
            Err(_) => names.dns.push(name.clone()),
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use flags::{Certificate, Data, Kubeconfig};
    use keles_pki::{Certified, Subject};

    fn folder(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("keles-credentials-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).expect("a folder");
        dir
    }

    #[test]
    fn a_folder_without_a_cluster_is_refused_and_no_authority_is_made() {
        let dir = folder("none");
        let data = || Data { data_dir: dir.clone() };
        let config = kubeconfig(Kubeconfig { data: data(), client_name: "a".into(), org: None, server: String::new() });
        assert!(config.expect_err("refused").to_string().contains("holds no cluster"));
        certificate(Certificate { data: data(), node_name: "n".into(), tls_san: vec![], cert_dir: dir.join("out") }).expect_err("refused");
        assert_eq!(std::fs::read_dir(&dir).expect("is there").count(), 0);
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn a_nodes_certificate_names_it_and_is_of_the_clusters_authority() {
        let dir = folder("node");
        let ca = Pki::open(&dir).expect("made").ca_pem().to_owned();
        let out = dir.join("out");
        certificate(Certificate { data: Data { data_dir: dir.clone() }, node_name: "n1".into(), tls_san: vec!["192.0.2.1".into(), "n1.example".into()], cert_dir: out.clone() })
            .expect("signed");
        assert_eq!(std::fs::read_to_string(out.join("ca.crt")).expect("written"), ca);
        let read = |f: &str| std::fs::read_to_string(out.join(f)).expect("written");
        let signed = Certified { certificate_pem: read("kubelet.crt"), key_pem: read("kubelet.key") };
        let subject = Subject::of(&signed.certificate_der().expect("a certificate")[0]).expect("a subject");
        assert_eq!((subject.common_name.as_str(), subject.organizations.as_slice()), ("system:node:n1", &["system:nodes".to_owned()][..]));
        std::fs::remove_dir_all(dir).expect("removed");
    }
}
