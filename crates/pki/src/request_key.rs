//! The asking side of certificate requests: a key, and the PKCS#10 request it signs.
//!
//! Source: RFC 2986; the name of a node's request is that of kubernetes pkg/kubelet/certificate/bootstrap.

use crate::authority::distinguished;
use crate::{Names, PkiError, Result};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{CertificateParams, KeyPair, PublicKeyData, SanType};
use sha2::{Digest, Sha512_256};

/// A private key that a certificate is asked for.
pub struct RequestKey(KeyPair);

impl RequestKey {
    /// EC over P-256.
    pub fn generate() -> Result<RequestKey> {
        KeyPair::generate().map(RequestKey).map_err(|source| PkiError::Certificate { name: "of a new key".into(), source })
    }
    /// PKCS#8 in PEM.
    pub fn parse(pem: &str) -> Result<RequestKey> {
        KeyPair::from_pem(pem).map(RequestKey).map_err(|source| PkiError::Certificate { name: "of a kept key".into(), source })
    }
    pub fn pem(&self) -> String {
        self.0.serialize_pem()
    }
    pub fn is_rsa(&self) -> bool {
        self.0.is_compatible(&rcgen::PKCS_RSA_SHA256)
    }
    /// SubjectPublicKeyInfo.
    pub fn public_key_der(&self) -> Vec<u8> {
        self.0.subject_public_key_info()
    }

    /// The request for `user` in `group` with these names, PEM.
    pub fn request(&self, user: &str, group: &str, names: &Names) -> Result<String> {
        let failed = |source| PkiError::Certificate { name: user.to_owned(), source };
        let mut params = CertificateParams::new(names.dns.clone()).map_err(failed)?;
        params.subject_alt_names.extend(names.ips.iter().map(|ip| SanType::IpAddress(*ip)));
        params.distinguished_name = distinguished(user, Some(group));
        params.serialize_request(&self.0).and_then(|request| request.pem()).map_err(failed)
    }

    /// The name under which a node asks with this key: the same at every start, so that a request which was posted is found again.
    pub fn request_name(&self, user: &str, group: &str, usages: &[&str]) -> String {
        let mut digest = Sha512_256::new();
        let key = self.public_key_der();
        for part in [&key[..], user.as_bytes(), group.as_bytes()].into_iter().chain(usages.iter().map(|usage| usage.as_bytes())) {
            // The bar is not of the alphabet, so that no two lists write the same.
            digest.update(URL_SAFE_NO_PAD.encode(part));
            digest.update("|");
        }
        format!("node-csr-{}", URL_SAFE_NO_PAD.encode(digest.finalize()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CertificateRequest;

    #[test]
    fn a_request_says_who_asks_and_is_of_its_key() {
        let key = RequestKey::generate().expect("a key");
        let names = Names { dns: vec!["n1".into()], ips: vec![[10, 0, 0, 7].into()] };
        let request = CertificateRequest::parse(&key.request("system:node:n1", "system:nodes", &names).expect("made")).expect("parses");
        assert_eq!((request.subject.common_name.as_str(), request.subject.organizations.as_slice()), ("system:node:n1", &["system:nodes".to_owned()][..]));
        assert_eq!((request.dns_names, request.ip_addresses), (1, 1));
        assert_eq!(request.public_key_der, key.public_key_der());
    }

    #[test]
    fn a_name_is_of_key_subject_and_usages() {
        let key = RequestKey::generate().expect("a key");
        let name = key.request_name("u", "g", &["a", "b"]);
        assert!(name.starts_with("node-csr-") && name.len() == "node-csr-".len() + 43, "{name}");
        let kept = RequestKey::parse(&key.pem()).expect("parses");
        assert_eq!(kept.request_name("u", "g", &["a", "b"]), name, "the same after a restart");
        for other in [kept.request_name("v", "g", &["a", "b"]), kept.request_name("u", "h", &["a", "b"]), kept.request_name("u", "g", &["ab"])] {
            assert_ne!(other, name);
        }
        assert_ne!(RequestKey::generate().expect("a key").request_name("u", "g", &["a", "b"]), name);
        assert!(!key.is_rsa());
    }
}
