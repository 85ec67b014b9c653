//! Approving and signing certificates need a right on the signer besides the one on the request: CertificateApproval and
//! CertificateSigning (upstream's plugins of those names, with their texts).

use super::escalation::Later;
use async_trait::async_trait;
use keles_api::{Object, Status};
use keles_auth::Attributes as Question;
use keles_registry::{Admission, Attributes, Operation};
use std::sync::Weak;

const GROUP: &str = "certificates.k8s.io";
const PLURAL: &str = "certificatesigningrequests";

/// One of the two: what is written, and the verb on `signers` it needs.
pub struct SignerRight {
    name: &'static str,
    subresource: &'static str,
    verb: &'static str,
    server: Later,
}

impl SignerRight {
    pub fn approval(server: Later) -> Self {
        SignerRight { name: "CertificateApproval", subresource: "approval", verb: "approve", server }
    }
    pub fn signing(server: Later) -> Self {
        SignerRight { name: "CertificateSigning", subresource: "status", verb: "sign", server }
    }
}

#[async_trait]
impl Admission for SignerRight {
    fn name(&self) -> &'static str {
        self.name
    }
    fn handles(&self, a: &Attributes<'_>) -> bool {
        a.operation == Operation::Update && a.info.plural == PLURAL && a.info.served[0].group == GROUP && a.request.subresource == self.subresource
    }
    async fn validate(&self, a: &Attributes<'_>, o: Option<&Object>, _: &mut Vec<String>) -> Result<(), Status> {
        let (Some(o), Some(old), Some(server)) = (o, a.old, self.server.get().and_then(Weak::upgrade)) else { return Ok(()) };
        let signs = ["certificate", "conditions"].iter().any(|f| o.at(&["status", f]) != old.at(&["status", f]));
        if self.verb == "sign" && !signs {
            return Ok(());
        }
        let signer = old.str_at(&["spec", "signerName"]);
        let any_of_domain = format!("{}/*", signer.split('/').next().unwrap_or_default());
        for name in [signer, any_of_domain.as_str()] {
            if server.allows(&Question { verb: self.verb, group: GROUP, version: "*", resource: "signers", name, ..Question::of(&a.request.user) }).await {
                return Ok(());
            }
        }
        Err(Status::forbidden(GROUP, PLURAL, old.name(), format!("user not permitted to {} requests with signerName {signer:?}", self.verb)))
    }
}
