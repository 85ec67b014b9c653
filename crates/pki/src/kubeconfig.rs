//! The kubeconfig file that kubectl and client libraries read.

use crate::{Certified, Result, write_atomically};
use base64::Engine;
use std::path::Path;

/// Who the kubeconfig speaks as.
pub enum KubeconfigUser<'a> {
    Certificate(&'a Certified),
    Token(&'a str),
}

/// The text of a kubeconfig with one cluster, one user, one context, all named `keles`.
pub fn kubeconfig(server: &str, ca_pem: &str, user: &KubeconfigUser<'_>) -> String {
    let b64 = |s: &str| base64::engine::general_purpose::STANDARD.encode(s);
    let credentials = match user {
        KubeconfigUser::Certificate(c) => format!("    client-certificate-data: {}\n    client-key-data: {}\n", b64(&c.certificate_pem), b64(&c.key_pem)),
        KubeconfigUser::Token(t) => format!("    token: {t}\n"),
    };
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: keles\n  cluster:\n    server: {server}\n    certificate-authority-data: {}\n\
         users:\n- name: keles\n  user:\n{credentials}contexts:\n- name: keles\n  context:\n    cluster: keles\n    user: keles\ncurrent-context: keles\n",
        b64(ca_pem)
    )
}

/// Writes a kubeconfig with mode 0600, whole or not at all.
pub fn write_kubeconfig(path: &Path, server: &str, ca_pem: &str, user: &KubeconfigUser<'_>) -> Result<()> {
    write_atomically(path, kubeconfig(server, ca_pem, user).as_bytes())
}
