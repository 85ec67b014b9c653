//! What the controllers of certificate requests have in common: conditions, and the rules of the built-in signers.
//!
//! Source: kubernetes.io "Certificate Signing Requests", the table of Kubernetes signers. Pure.

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use keles_pki::CertificateRequest;

pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
pub const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
pub const LEGACY: &str = "kubernetes.io/legacy-unknown";
const NODES: &str = "system:nodes";
const NODE_PREFIX: &str = "system:node:";

pub fn condition<'c>(csr: &'c CertificateSigningRequest, kind: &str) -> Option<&'c CertificateSigningRequestCondition> {
    csr.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == kind)
}
pub fn is_decided(csr: &CertificateSigningRequest) -> bool {
    condition(csr, "Approved").is_some() || condition(csr, "Denied").is_some()
}
pub fn certificate(csr: &CertificateSigningRequest) -> Option<&ByteString> {
    csr.status.as_ref()?.certificate.as_ref().filter(|c| !c.0.is_empty())
}

/// The request with one more condition.
pub fn with_condition(csr: &CertificateSigningRequest, kind: &str, reason: &str, message: &str) -> CertificateSigningRequest {
    let mut csr = csr.clone();
    let now = Some(Time(jiff::Timestamp::now()));
    let c = CertificateSigningRequestCondition {
        type_: kind.into(),
        status: "True".into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_update_time: now.clone(),
        last_transition_time: now,
    };
    csr.status.get_or_insert_default().conditions.get_or_insert_default().push(c);
    csr
}

pub fn parse(csr: &CertificateSigningRequest) -> Result<CertificateRequest, String> {
    CertificateRequest::parse(&String::from_utf8_lossy(&csr.spec.request.0)).map_err(|e| e.to_string())
}

fn usages_are(csr: &CertificateSigningRequest, allowed: &[&[&str]]) -> bool {
    let mut have: Vec<&str> = csr.spec.usages.iter().flatten().map(String::as_str).collect();
    have.sort_unstable();
    have.dedup();
    allowed.iter().any(|set| {
        let mut set = set.to_vec();
        set.sort_unstable();
        set == have
    })
}

const KUBELET_CLIENT_USAGES: &[&[&str]] = &[&["key encipherment", "digital signature", "client auth"], &["digital signature", "client auth"]];
const KUBELET_SERVING_USAGES: &[&[&str]] = &[&["key encipherment", "digital signature", "server auth"], &["digital signature", "server auth"]];

/// Why a request is no node's client certificate.
pub fn check_kubelet_client(csr: &CertificateSigningRequest, r: &CertificateRequest) -> Result<(), &'static str> {
    if r.subject.organizations != [NODES] {
        return Err("subject organization is not system:nodes");
    }
    if r.dns_names > 0 {
        return Err("DNS subjectAltNames are not allowed");
    }
    if r.email_addresses > 0 {
        return Err("email subjectAltNames are not allowed");
    }
    if r.ip_addresses > 0 {
        return Err("IP subjectAltNames are not allowed");
    }
    if r.uris > 0 {
        return Err("URI subjectAltNames are not allowed");
    }
    if !r.subject.common_name.starts_with(NODE_PREFIX) {
        return Err("subject common name does not begin with system:node: ");
    }
    if !usages_are(csr, KUBELET_CLIENT_USAGES) {
        return Err("usages did not match [client auth digital signature] or [client auth digital signature key encipherment]");
    }
    Ok(())
}

/// Why a request is no node's serving certificate.
fn check_kubelet_serving(csr: &CertificateSigningRequest, r: &CertificateRequest) -> Result<(), &'static str> {
    if r.subject.organizations != [NODES] {
        return Err("subject organization is not system:nodes");
    }
    if r.dns_names + r.ip_addresses == 0 {
        return Err("DNS or IP subjectAltName is required");
    }
    if r.email_addresses > 0 {
        return Err("email subjectAltNames are not allowed");
    }
    if r.uris > 0 {
        return Err("URI subjectAltNames are not allowed");
    }
    if !usages_are(csr, KUBELET_SERVING_USAGES) {
        return Err("usages did not match [digital signature server auth] or [digital signature key encipherment server auth]");
    }
    if !r.subject.common_name.starts_with(NODE_PREFIX) {
        return Err("subject common name does not begin with system:node: ");
    }
    if csr.spec.username.as_deref() != Some(&r.subject.common_name) {
        return Err("requested subject common name is not the requesting node's");
    }
    Ok(())
}

/// Why a request is no client's certificate.
fn check_client(csr: &CertificateSigningRequest, _: &CertificateRequest) -> Result<(), &'static str> {
    const ALLOWED: &[&str] = &["client auth", "digital signature", "key encipherment"];
    let usages: Vec<&str> = csr.spec.usages.iter().flatten().map(String::as_str).collect();
    if !usages.contains(&"client auth") {
        return Err("missing required usage \"client auth\"");
    }
    if usages.iter().any(|u| !ALLOWED.contains(u)) {
        return Err("usages did not match: only client auth, digital signature and key encipherment are allowed");
    }
    Ok(())
}

type Check = fn(&CertificateSigningRequest, &CertificateRequest) -> Result<(), &'static str>;

/// One signer of this cluster.
pub struct Signer {
    pub name: &'static str,
    pub check: Check,
}

/// Every signer that is built in.
pub const SIGNERS: &[Signer] = &[
    Signer { name: CLIENT, check: check_client },
    Signer { name: KUBELET_CLIENT, check: check_kubelet_client },
    Signer { name: KUBELET_SERVING, check: check_kubelet_serving },
    Signer { name: LEGACY, check: |_, _| Ok(()) },
];

pub fn signer(csr: &CertificateSigningRequest) -> Option<&'static Signer> {
    SIGNERS.iter().find(|s| s.name == csr.spec.signer_name)
}
