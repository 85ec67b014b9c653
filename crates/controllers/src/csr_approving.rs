//! Approves the client certificates of nodes whose requestor may have them (`nodeclient`, `selfnodeclient`).
//!
//! Asked by a SubjectAccessReview, so an administrator turns it on with a binding. Everything else waits for a person.

use crate::Start;
use crate::certificate_requests::{KUBELET_CLIENT, check_kubelet_client, is_decided, parse, with_condition};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use keles_client::ObjectKey;
use keles_pki::CertificateRequest;
use keles_reconcile::{Context, Controller, Outcome, ReconcileError, Watches, Writer};
use kube::Api;
use kube::api::PostParams;

pub struct CsrApprovingController {
    requests: Writer<CertificateSigningRequest>,
    reviews: Api<SubjectAccessReview>,
}

/// A kind of request that is approved by itself.
struct Recognized {
    /// Subresource of certificatesigningrequests that the requestor must be allowed to create.
    permission: &'static str,
    message: &'static str,
    fits: fn(&CertificateSigningRequest, &CertificateRequest) -> bool,
}

const RECOGNIZED: &[Recognized] = &[
    Recognized {
        permission: "selfnodeclient",
        message: "Auto approving self kubelet client certificate after SubjectAccessReview.",
        fits: |csr, r| csr.spec.username.as_deref() == Some(&r.subject.common_name),
    },
    Recognized { permission: "nodeclient", message: "Auto approving kubelet client certificate after SubjectAccessReview.", fits: |_, _| true },
];

impl CsrApprovingController {
    pub fn new(start: &Start) -> Self {
        CsrApprovingController { requests: start.writer(), reviews: Api::all(start.client.clone()) }
    }

    async fn allowed(&self, csr: &CertificateSigningRequest, permission: &str) -> Result<bool, ReconcileError> {
        let s = &csr.spec;
        let attributes = ResourceAttributes {
            group: Some("certificates.k8s.io".into()),
            resource: Some("certificatesigningrequests".into()),
            verb: Some("create".into()),
            subresource: Some(permission.into()),
            version: Some("*".into()),
            ..Default::default()
        };
        let spec = SubjectAccessReviewSpec {
            user: s.username.clone(),
            uid: s.uid.clone(),
            groups: s.groups.clone(),
            extra: s.extra.clone(),
            resource_attributes: Some(attributes),
            ..Default::default()
        };
        let review = SubjectAccessReview { spec, ..Default::default() };
        let answer = self.reviews.create(&PostParams::default(), &review).await.map_err(ReconcileError::read("asking whether the requestor may have its certificate"))?;
        Ok(answer.status.is_some_and(|s| s.allowed))
    }
}

impl Controller for CsrApprovingController {
    const NAME: &'static str = "certificatesigningrequest-approving-controller";
    const WORKERS: usize = 1;

    fn watches(&self, watches: &mut Watches) {
        watches.own(self.requests.informer());
    }

    async fn reconcile(&self, key: &ObjectKey, _: &Context) -> Result<Outcome, ReconcileError> {
        let Some(csr) = self.requests.informer().get_key(key) else { return Ok(Outcome::Done) };
        if is_decided(&csr) || csr.spec.signer_name != KUBELET_CLIENT {
            return Ok(Outcome::Done);
        }
        let Ok(request) = parse(&csr) else { return Ok(Outcome::Done) };
        if check_kubelet_client(&csr, &request).is_err() {
            return Ok(Outcome::Done);
        }
        for kind in RECOGNIZED.iter().filter(|k| (k.fits)(&csr, &request)) {
            if self.allowed(&csr, kind.permission).await? {
                self.requests.update_subresource("approval", &with_condition(&csr, "Approved", "AutoApproved", kind.message)).await?;
                break;
            }
        }
        Ok(Outcome::Done)
    }
}
