//! Removes certificate requests that nobody needs any more: decided for an hour, undecided for a day, or with an expired certificate.

use crate::Start;
use crate::certificate_requests::{certificate, condition};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use keles_client::ObjectKey;
use keles_reconcile::{Context, Controller, Outcome, ReconcileError, Watches, Writer};
use std::time::Duration;

const DECIDED_SECONDS: i64 = 3600;
const PENDING_SECONDS: i64 = 24 * 3600;

pub struct CsrCleanerController {
    requests: Writer<CertificateSigningRequest>,
}

impl CsrCleanerController {
    pub fn new(start: &Start) -> Self {
        CsrCleanerController { requests: start.writer() }
    }
}

impl Controller for CsrCleanerController {
    const NAME: &'static str = "certificatesigningrequest-cleaner-controller";
    const WORKERS: usize = 1;

    fn watches(&self, watches: &mut Watches) {
        watches.own(self.requests.informer());
    }

    async fn reconcile(&self, key: &ObjectKey, _: &Context) -> Result<Outcome, ReconcileError> {
        let Some(csr) = self.requests.informer().get_key(key) else { return Ok(Outcome::Done) };
        let left = ends_at(&csr) - jiff::Timestamp::now().as_second();
        if left > 0 {
            return Ok(Outcome::After(Duration::from_secs(left as u64)));
        }
        self.requests.delete(&csr).await?;
        Ok(Outcome::Done)
    }
}

/// When the request is to go, Unix seconds.
fn ends_at(csr: &CertificateSigningRequest) -> i64 {
    let made = csr.metadata.creation_timestamp.as_ref().map_or(i64::MAX - PENDING_SECONDS, |t| t.0.as_second());
    let decided = ["Approved", "Denied", "Failed"].iter().filter_map(|kind| {
        let c = condition(csr, kind)?;
        Some(c.last_update_time.as_ref()?.0.as_second() + DECIDED_SECONDS)
    });
    let expires = certificate(csr).and_then(|c| keles_pki::not_after(&String::from_utf8_lossy(&c.0)));
    let undecided = ["Approved", "Denied", "Failed"].iter().all(|kind| condition(csr, kind).is_none());
    decided.chain(expires).chain(undecided.then_some(made + PENDING_SECONDS)).min().unwrap_or(made + PENDING_SECONDS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificate_requests::with_condition;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    #[test]
    fn requests_go_an_hour_after_the_decision_or_a_day_without_one() {
        let mut csr = CertificateSigningRequest::default();
        let made = jiff::Timestamp::now();
        csr.metadata.creation_timestamp = Some(Time(made));
        assert_eq!(ends_at(&csr), made.as_second() + 24 * 3600);
        let approved = with_condition(&csr, "Approved", "r", "m");
        let at = condition(&approved, "Approved").and_then(|c| c.last_update_time.clone()).expect("a time").0.as_second();
        assert_eq!(ends_at(&approved), at + 3600);
    }
}
