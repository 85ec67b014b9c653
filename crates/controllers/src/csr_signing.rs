//! Signs approved certificate requests of the built-in signers with the cluster's authority.
//!
//! A request that breaks its signer's rules gets the condition Failed, once and for ever.

use crate::Start;
use crate::certificate_requests::{certificate, condition, parse, signer, with_condition};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use keles_client::ObjectKey;
use keles_pki::Authority;
use keles_reconcile::{Context, Controller, Outcome, ReconcileError, Watches, Writer};
use std::sync::Arc;
use std::time::Duration;

/// Shorter lives are not given.
const SHORTEST: Duration = Duration::from_secs(600);

pub struct CsrSigningController {
    requests: Writer<CertificateSigningRequest>,
    authority: Option<Arc<Authority>>,
    longest: Duration,
}

impl CsrSigningController {
    pub fn new(start: &Start) -> Self {
        CsrSigningController { requests: start.writer(), authority: start.options.signer.clone(), longest: start.options.signing_duration }
    }
}

impl Controller for CsrSigningController {
    const NAME: &'static str = "certificatesigningrequest-signing-controller";
    const WORKERS: usize = 1;

    fn watches(&self, watches: &mut Watches) {
        watches.own(self.requests.informer());
    }

    async fn reconcile(&self, key: &ObjectKey, _: &Context) -> Result<Outcome, ReconcileError> {
        let (Some(authority), Some(csr)) = (&self.authority, self.requests.informer().get_key(key)) else { return Ok(Outcome::Done) };
        if let Some(next) = next(&csr, authority, self.longest) {
            self.requests.update_status(&next).await?;
        }
        Ok(Outcome::Done)
    }
}

/// The request with its certificate, or with the reason that there will be none; `None` when it is not ours to sign now.
fn next(csr: &CertificateSigningRequest, authority: &Authority, longest: Duration) -> Option<CertificateSigningRequest> {
    let signer = signer(csr)?;
    let waiting = condition(csr, "Approved").is_some() && condition(csr, "Denied").is_none() && condition(csr, "Failed").is_none() && certificate(csr).is_none();
    if !waiting {
        return None;
    }
    let failed = |why: &str| Some(with_condition(csr, "Failed", "SignerValidationFailure", why));
    let request = match parse(csr) {
        Ok(r) => r,
        Err(e) => return failed(&e),
    };
    if let Err(why) = (signer.check)(csr, &request) {
        return failed(why);
    }
    let wanted = csr.spec.expiration_seconds.map_or(longest, |s| Duration::from_secs(s.max(0) as u64));
    let usages = csr.spec.usages.clone().unwrap_or_default();
    match authority.sign_request(&request, &usages, wanted.max(SHORTEST).min(longest)) {
        Ok(pem) => {
            let mut csr = csr.clone();
            csr.status.get_or_insert_default().certificate = Some(ByteString(pem.into_bytes()));
            Some(csr)
        }
        Err(e) => failed(&e.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificate_requests::KUBELET_CLIENT;
    use k8s_openapi::api::certificates::v1::CertificateSigningRequestSpec;

    /// A request for a node's client certificate, O=system:nodes, CN=system:node:n1, made by rcgen.
    const REQUEST: &str = include_str!("csr_signing_request.pem");

    fn csr(usages: &[&str]) -> CertificateSigningRequest {
        let spec = CertificateSigningRequestSpec {
            request: ByteString(REQUEST.as_bytes().to_vec()),
            signer_name: KUBELET_CLIENT.into(),
            usages: Some(usages.iter().map(|u| (*u).to_owned()).collect()),
            expiration_seconds: Some(3600),
            ..Default::default()
        };
        CertificateSigningRequest { spec, ..Default::default() }
    }

    #[test]
    fn an_approved_request_is_signed_and_one_against_the_rules_fails() {
        let dir = tempfile::tempdir().expect("a folder");
        let authority = keles_pki::Pki::open(dir.path()).expect("opens").into_authority();
        let year = crate::YEAR;
        let good = csr(&["digital signature", "client auth"]);
        assert!(next(&good, &authority, year).is_none(), "not approved yet");
        let approved = |c: &CertificateSigningRequest| with_condition(c, "Approved", "r", "m");
        let signed = next(&approved(&good), &authority, year).expect("it is approved");
        let pem = String::from_utf8(certificate(&signed).expect("a certificate").0.clone()).expect("PEM");
        let left = keles_pki::not_after(&pem).expect("a certificate") - jiff::Timestamp::now().as_second();
        assert!((3000..=3600).contains(&left), "{left}");
        assert!(next(&signed, &authority, year).is_none(), "it is signed once");
        let bad = next(&approved(&csr(&["server auth"])), &authority, year).expect("a verdict");
        assert!(certificate(&bad).is_none());
        assert_eq!(condition(&bad, "Failed").and_then(|c| c.reason.as_deref()), Some("SignerValidationFailure"));
        let denied = with_condition(&approved(&good), "Denied", "r", "m");
        assert!(next(&denied, &authority, year).is_none());
    }
}
