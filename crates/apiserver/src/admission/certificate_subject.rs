//! CertificateSubjectRestriction: nobody becomes an administrator by a request to the signer of clients.

use super::is;
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use keles_api::{Object, Status};
use keles_auth::MASTERS;
use keles_pki::CertificateRequest;
use keles_registry::{Admission, Attributes, Operation};

const GROUP: &str = "certificates.k8s.io";
const PLURAL: &str = "certificatesigningrequests";
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

pub struct CertificateSubjectRestriction;

#[async_trait]
impl Admission for CertificateSubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }
    fn handles(&self, a: &Attributes<'_>) -> bool {
        a.operation == Operation::Create && is(a, GROUP, PLURAL)
    }
    async fn validate(&self, _: &Attributes<'_>, o: Option<&Object>, _: &mut Vec<String>) -> Result<(), Status> {
        let Some(o) = o.filter(|o| o.str_at(&["spec", "signerName"]) == CLIENT_SIGNER) else { return Ok(()) };
        let refuse = |why: String| Status::forbidden(GROUP, PLURAL, o.name(), why);
        let pem = BASE64.decode(o.str_at(&["spec", "request"])).unwrap_or_default();
        let request = CertificateRequest::parse(&String::from_utf8_lossy(&pem)).map_err(|e| refuse(format!("could not parse CSR: {e}")))?;
        if request.subject.organizations.iter().any(|g| g == MASTERS) {
            return Err(refuse(format!("use of {CLIENT_SIGNER} signer with {MASTERS} group is not allowed")));
        }
        Ok(())
    }
}
