//! Tokens in Secrets that nobody has used for a year are marked, and a year later taken away (KEP-2799).
//!
//! Only Secrets that old clusters made by themselves for an account (it lists them) and that no pod mounts. When a token was used last stands
//! in a label that the API server keeps; since when it keeps it, in a ConfigMap.

use crate::Start;
use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, ServiceAccount};
use keles_client::{Informer, ObjectKey, Scope};
use keles_reconcile::{Context, Controller, Outcome, ReconcileError, Watches, Writer};
use kube::api::Patch;
use serde_json::json;
use std::collections::HashSet;
use std::time::Duration;

const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
const TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";
const SINCE: &str = "since";
const ROUND: Duration = Duration::from_secs(24 * 3600);
/// How long unused is too long (`--legacy-service-account-token-clean-up-period`).
const PERIOD: SignedDuration = SignedDuration::from_hours(365 * 24);

pub struct LegacyTokenCleaner {
    secrets: Writer<Secret>,
    accounts: Informer<ServiceAccount>,
    pods: Informer<Pod>,
    tracking: Informer<ConfigMap>,
}

impl LegacyTokenCleaner {
    pub fn new(start: &Start) -> Self {
        LegacyTokenCleaner {
            secrets: Writer::new(start.client.clone(), start.informers.scoped(Scope::fields(&format!("type={TYPE}")))),
            accounts: start.informers.of(),
            pods: start.informers.of(),
            tracking: start.informers.scoped(Scope::fields(&format!("metadata.name={TRACKING}"))),
        }
    }
}

#[derive(Debug, PartialEq)]
enum Step {
    Keep,
    Mark,
    Delete,
}

impl Controller for LegacyTokenCleaner {
    const NAME: &'static str = "legacy-serviceaccount-token-cleaner-controller";
    const WORKERS: usize = 1;

    fn watches(&self, watches: &mut Watches) {
        watches.reads(self.secrets.informer());
        watches.reads(&self.accounts);
        watches.reads(&self.pods);
        watches.reads(&self.tracking);
        watches.at_start(ObjectKey::cluster("everything"));
    }

    async fn reconcile(&self, _: &ObjectKey, _: &Context) -> Result<Outcome, ReconcileError> {
        let now = Timestamp::now();
        let tracked = self.tracking.get("kube-system", TRACKING).and_then(|m| day(m.data.as_ref()?.get(SINCE)?));
        // What was used before anybody looked is not known.
        if tracked.is_none_or(|since| since + PERIOD > now) {
            return Ok(Outcome::After(ROUND));
        }
        let mounted = mounted(&self.pods.list());
        for secret in self.secrets.informer().list() {
            let key = ObjectKey::of(secret.as_ref());
            let account = self.accounts.get(&key.namespace, annotation(&secret, ACCOUNT));
            match decide(&secret, account.as_deref(), &mounted, now) {
                Step::Keep => {}
                Step::Mark => {
                    let today = now.strftime("%Y-%m-%d").to_string();
                    self.secrets.patch(&key, &Patch::Strategic(json!({"metadata": {"uid": secret.metadata.uid, "labels": {INVALID_SINCE: today}}}))).await?;
                }
                Step::Delete => self.secrets.delete(&secret).await?,
            }
        }
        Ok(Outcome::After(ROUND))
    }
}

fn decide(secret: &Secret, account: Option<&ServiceAccount>, mounted: &HashSet<(String, String)>, now: Timestamp) -> Step {
    let meta = &secret.metadata;
    let (namespace, name) = (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
    let old = meta.creation_timestamp.as_ref().is_some_and(|t| t.0 + PERIOD <= now);
    if secret.type_.as_deref() != Some(TYPE) || meta.deletion_timestamp.is_some() || !old {
        return Step::Keep;
    }
    let listed = |a: &ServiceAccount| a.secrets.iter().flatten().any(|s| s.name.as_deref() == Some(&name));
    let own = account.filter(|a| a.metadata.uid.as_deref() == Some(annotation(secret, ACCOUNT_UID)));
    // One that its account does not list was made by somebody.
    if !own.is_some_and(listed) || mounted.contains(&(namespace, name)) {
        return Step::Keep;
    }
    let label = |key: &str| meta.labels.as_ref().and_then(|l| l.get(key)).map(|d| day(d));
    if label(LAST_USED).is_some_and(|used| used.is_none_or(|used| used + PERIOD > now)) {
        return Step::Keep;
    }
    match label(INVALID_SINCE) {
        Some(Some(since)) if since + PERIOD <= now => Step::Delete,
        Some(Some(_)) => Step::Keep,
        // No date is no mark.
        Some(None) | None => Step::Mark,
    }
}

fn annotation<'s>(s: &'s Secret, key: &str) -> &'s str {
    s.metadata.annotations.as_ref().and_then(|a| a.get(key)).map(String::as_str).unwrap_or_default()
}

/// The start of a day, UTC.
fn day(text: &str) -> Option<Timestamp> {
    text.parse::<Date>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|z| z.timestamp())
}

/// Namespace and name of every Secret that a pod mounts.
fn mounted(pods: &[std::sync::Arc<Pod>]) -> HashSet<(String, String)> {
    let mut all = HashSet::new();
    for pod in pods {
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        for volume in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
            let own = volume.secret.iter().filter_map(|s| s.secret_name.clone());
            let projected = volume.projected.iter().flat_map(|p| p.sources.iter().flatten()).filter_map(|s| Some(s.secret.as_ref()?.name.clone()));
            all.extend(own.chain(projected).map(|name| (namespace.clone(), name)));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ObjectReference;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn at(text: &str) -> Timestamp {
        day(text).unwrap()
    }
    fn secret(made: &str, labels: &[(&str, &str)]) -> Secret {
        let mut s = Secret { type_: Some(TYPE.into()), ..Default::default() };
        (s.metadata.namespace, s.metadata.name) = (Some("shop".into()), Some("bot-token".into()));
        s.metadata.creation_timestamp = Some(Time(at(made)));
        s.metadata.annotations = Some([(ACCOUNT.to_owned(), "bot".to_owned()), (ACCOUNT_UID.to_owned(), "u".to_owned())].into());
        s.metadata.labels = Some(labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect());
        s
    }
    fn account(lists: bool) -> ServiceAccount {
        let mut a = ServiceAccount::default();
        a.metadata.uid = Some("u".into());
        a.secrets = lists.then(|| vec![ObjectReference { name: Some("bot-token".into()), ..Default::default() }]);
        a
    }

    #[test]
    fn a_token_unused_for_a_year_is_marked_and_goes_a_year_later() {
        let now = at("2026-06-01");
        let step = |s: &Secret| decide(s, Some(&account(true)), &HashSet::new(), now);
        assert_eq!(step(&secret("2026-01-01", &[])), Step::Keep, "young");
        assert_eq!(step(&secret("2020-01-01", &[])), Step::Mark);
        assert_eq!(step(&secret("2020-01-01", &[(LAST_USED, "2026-01-01")])), Step::Keep);
        assert_eq!(step(&secret("2020-01-01", &[(LAST_USED, "2024-01-01")])), Step::Mark);
        assert_eq!(step(&secret("2020-01-01", &[(INVALID_SINCE, "2026-01-01")])), Step::Keep);
        assert_eq!(step(&secret("2020-01-01", &[(INVALID_SINCE, "2025-01-01")])), Step::Delete);
        assert_eq!(step(&secret("2020-01-01", &[(INVALID_SINCE, "soon")])), Step::Mark);
    }

    #[test]
    fn what_somebody_made_or_mounts_stays() {
        let (now, old) = (at("2026-06-01"), secret("2020-01-01", &[]));
        assert_eq!(decide(&old, Some(&account(false)), &HashSet::new(), now), Step::Keep);
        assert_eq!(decide(&old, None, &HashSet::new(), now), Step::Keep, "its account is gone, and with it the token");
        let mounted = [("shop".to_owned(), "bot-token".to_owned())].into();
        assert_eq!(decide(&old, Some(&account(true)), &mounted, now), Step::Keep);
    }
}
