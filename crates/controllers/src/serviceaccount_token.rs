//! Fills Secrets of type `kubernetes.io/service-account-token` with a token of their account, the cluster's CA and their namespace.
//!
//! The Secret names its account in an annotation; it goes when the account does. The token has no end (it is as good as its Secret).

use crate::Start;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use keles_client::{Informer, ObjectKey, Scope};
use keles_pki::{PkiError, SigningKey};
use keles_reconcile::{Context, Controller, Outcome, ReconcileError, Watches, Writer};
use serde_json::json;

const TYPE: &str = "kubernetes.io/service-account-token";
const NAME: &str = "kubernetes.io/service-account.name";
const UID: &str = "kubernetes.io/service-account.uid";
const BY_ACCOUNT: &str = "service account";

pub struct ServiceAccountTokenController {
    accounts: Informer<ServiceAccount>,
    secrets: Writer<Secret>,
    key: Option<SigningKey>,
    root_ca: String,
}

impl ServiceAccountTokenController {
    pub fn new(start: &Start) -> Self {
        let secrets = start.informers.scoped(Scope::fields(&format!("type={TYPE}")));
        secrets.add_index(BY_ACCOUNT, |s: &Secret| vec![format!("{}/{}", s.metadata.namespace.as_deref().unwrap_or_default(), annotation(s, NAME))]);
        ServiceAccountTokenController {
            accounts: start.informers.of(),
            secrets: Writer::new(start.client.clone(), secrets),
            key: start.options.token_key.clone(),
            root_ca: start.options.root_ca.clone(),
        }
    }
}

fn annotation<'s>(s: &'s Secret, key: &str) -> &'s str {
    s.metadata.annotations.as_ref().and_then(|a| a.get(key)).map(String::as_str).unwrap_or_default()
}

impl Controller for ServiceAccountTokenController {
    const NAME: &'static str = "serviceaccount-token-controller";
    const WORKERS: usize = 1;

    fn watches(&self, watches: &mut Watches) {
        watches.own(self.secrets.informer());
        let secrets = self.secrets.informer().clone();
        watches.on(&self.accounts, move |change, queue| {
            let account = change.object();
            let key = format!("{}/{}", account.metadata.namespace.as_deref().unwrap_or_default(), account.metadata.name.as_deref().unwrap_or_default());
            secrets.by_index(BY_ACCOUNT, &key).iter().for_each(|s| queue.add(ObjectKey::of(s.as_ref())));
        });
    }

    async fn reconcile(&self, key: &ObjectKey, _: &Context) -> Result<Outcome, ReconcileError> {
        let Some(signing) = self.key.clone() else { return Ok(Outcome::Done) };
        let Some(secret) = self.secrets.informer().get_key(key) else { return Ok(Outcome::Done) };
        let (namespace, name) = (secret.metadata.namespace.as_deref().unwrap_or_default(), annotation(&secret, NAME));
        if secret.type_.as_deref() != Some(TYPE) || name.is_empty() || secret.metadata.deletion_timestamp.is_some() {
            return Ok(Outcome::Done);
        }
        let account = self.accounts.get(namespace, name);
        let Some(account) = account.filter(|a| annotation(&secret, UID).is_empty() || a.metadata.uid.as_deref() == Some(annotation(&secret, UID))) else {
            self.secrets.delete(&secret).await?;
            return Ok(Outcome::Done);
        };
        let Some(mut wanted) = completed(&secret, &account, &self.root_ca) else { return Ok(Outcome::Done) };
        let data = wanted.data.get_or_insert_default();
        if data.get("token").is_none_or(|t| t.0.is_empty()) {
            let claims = claims(&secret, &account);
            // The key may still be in the making on a first start: off the event loop.
            let problem = |problem: String| ReconcileError::Object { object: key.clone(), problem };
            let token = tokio::task::spawn_blocking(move || sign(&signing, &claims)).await.map_err(|e| problem(e.to_string()))?;
            let token = token.map_err(|e| problem(e.to_string()))?;
            data.insert("token".into(), ByteString(token.into_bytes()));
        }
        self.secrets.update(&wanted).await?;
        Ok(Outcome::Done)
    }
}

/// The Secret as it should be but for its token; `None` when nothing is missing.
fn completed(secret: &Secret, account: &ServiceAccount, root_ca: &str) -> Option<Secret> {
    let held = |key: &str| secret.data.as_ref().and_then(|d| d.get(key)).map(|v| v.0.as_slice()).unwrap_or_default();
    let namespace = secret.metadata.namespace.clone().unwrap_or_default();
    let uid = account.metadata.uid.clone().unwrap_or_default();
    let ca_fits = root_ca.is_empty() || held("ca.crt") == root_ca.as_bytes();
    if ca_fits && held("namespace") == namespace.as_bytes() && !held("token").is_empty() && annotation(secret, UID) == uid {
        return None;
    }
    let mut s = secret.clone();
    s.metadata.annotations.get_or_insert_default().insert(UID.into(), uid);
    let data = s.data.get_or_insert_default();
    if !ca_fits {
        data.insert("ca.crt".into(), ByteString(root_ca.as_bytes().to_vec()));
    }
    data.insert("namespace".into(), ByteString(namespace.into_bytes()));
    Some(s)
}

/// The claims of the token, in upstream's legacy form.
fn claims(secret: &Secret, account: &ServiceAccount) -> serde_json::Value {
    let namespace = secret.metadata.namespace.as_deref().unwrap_or_default();
    let name = account.metadata.name.as_deref().unwrap_or_default();
    json!({
        "iss": "kubernetes/serviceaccount",
        "kubernetes.io/serviceaccount/namespace": namespace,
        "kubernetes.io/serviceaccount/secret.name": secret.metadata.name,
        "kubernetes.io/serviceaccount/service-account.name": name,
        "kubernetes.io/serviceaccount/service-account.uid": account.metadata.uid,
        "sub": format!("system:serviceaccount:{namespace}:{name}"),
    })
}

fn sign(key: &SigningKey, claims: &serde_json::Value) -> Result<String, PkiError> {
    let public = key.public()?;
    let header = format!(r#"{{"alg":"{}","kid":"{}"}}"#, public.algorithm(), public.id);
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims.to_string()));
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes())?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    #[test]
    fn a_secret_gets_what_is_missing_and_is_left_alone_when_whole() {
        let meta = |name: &str, uid: &str| ObjectMeta { name: Some(name.into()), namespace: Some("shop".into()), uid: Some(uid.into()), ..Default::default() };
        let account = ServiceAccount { metadata: meta("bot", "u1"), ..Default::default() };
        let empty = Secret { metadata: meta("bot-token", "s"), type_: Some(TYPE.into()), ..Default::default() };
        let mut filled = completed(&empty, &account, "PEM").expect("it is empty");
        assert_eq!(annotation(&filled, UID), "u1");
        assert_eq!(filled.data.as_ref().expect("data")["namespace"].0, b"shop");
        filled.data.get_or_insert_default().insert("token".into(), ByteString(b"t".to_vec()));
        assert!(completed(&filled, &account, "PEM").is_none());
        assert!(completed(&filled, &account, "OTHER").is_some(), "the CA was rotated");
        assert_eq!(claims(&empty, &account)["sub"], "system:serviceaccount:shop:bot");
    }
}
