//! ConfigMaps, Secrets, trust bundles and tokens from the API for volumes and env.
//!
//! Plain reads, and tokens kept until a fifth of their life is left (or a day has passed). Absent: watches, by which running pods
//! learn of changes; those are in `followed`.

use crate::credential_provider::Accounts;
use crate::events::{NORMAL, Recorder, WARNING};
use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::certificates::v1beta1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::{ConfigMap, Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret, ServiceAccount};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use keles_client::{Informers, Scope};
use keles_runtime::api::Features;
use keles_volumes::{Objects, Result, Token, TokenAsk, VolumeError};
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

/// Tokens are asked for anew after this long even when they live longer (upstream's rule).
const MAX_TOKEN_AGE: SignedDuration = SignedDuration::from_hours(24);
const MAX_TOKENS: usize = 4096;

pub struct ApiObjects {
    client: kube::Client,
    node: String,
    informers: Informers,
    events: Recorder,
    tokens: Mutex<HashMap<TokenAsk, (Timestamp, Token)>>,
}

impl ApiObjects {
    pub fn new(client: kube::Client, node: &str, informers: Informers, events: Recorder) -> Self {
        Self { client, node: node.into(), informers, events, tokens: Mutex::default() }
    }

    async fn patch_claim(&self, claim: &PersistentVolumeClaim, status: serde_json::Value) -> Result<()> {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), claim.metadata.namespace.as_deref().unwrap_or_default());
        // Of this very claim: one of the same name may be another by now.
        let patch = json!({"metadata": {"uid": claim.metadata.uid}, "status": status});
        api.patch_status(claim.metadata.name.as_deref().unwrap_or_default(), &PatchParams::default(), &Patch::Merge(patch)).await.map(drop).map_err(api_error)
    }

    fn cached(&self, ask: &TokenAsk) -> Option<Token> {
        let tokens = self.tokens.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (issued, token) = tokens.get(ask)?;
        let now = Timestamp::now();
        let fresh = token.expires_at.duration_since(now).as_secs() > token.lifetime_seconds / 5 && now.duration_since(*issued) < MAX_TOKEN_AGE;
        fresh.then(|| token.clone())
    }

    fn keep(&self, ask: &TokenAsk, token: &Token) {
        let mut tokens = self.tokens.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if tokens.len() >= MAX_TOKENS {
            let now = Timestamp::now();
            tokens.retain(|_, (_, token)| token.expires_at > now);
        }
        tokens.insert(ask.clone(), (Timestamp::now(), token.clone()));
    }

    /// The handler that a pod's RuntimeClass asks for; the error is for users. A runtime that does not tell its handlers refuses those it lacks itself.
    pub async fn runtime_handler(&self, name: &str, features: &Features) -> std::result::Result<String, String> {
        let found = Api::<RuntimeClass>::all(self.client.clone()).get_opt(name).await.map_err(|error| error.to_string())?;
        let class = found.ok_or_else(|| format!("RuntimeClass \"{name}\" not found"))?;
        match class.handler.as_str() {
            handler if features.handlers.is_empty() || features.handlers.iter().any(|known| known.name == handler) => Ok(class.handler),
            handler => Err(format!("failed to get sandbox runtime: no runtime for \"{handler}\" is configured")),
        }
    }

    /// Forgets the tokens of a pod that is gone.
    pub fn forget(&self, pod_uid: &str) {
        let mut tokens = self.tokens.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        tokens.retain(|ask, _| ask.pod_uid != pod_uid);
    }
}

fn api_error(error: kube::Error) -> VolumeError {
    match error {
        kube::Error::Api(status) => VolumeError::Api(status.message.clone()),
        other => VolumeError::Api(other.to_string()),
    }
}

#[async_trait]
impl Objects for ApiObjects {
    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<ConfigMap>> {
        Api::namespaced(self.client.clone(), namespace).get_opt(name).await.map_err(api_error)
    }

    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Secret>> {
        Api::namespaced(self.client.clone(), namespace).get_opt(name).await.map_err(api_error)
    }

    async fn trust_bundle(&self, name: &str) -> Result<Option<ClusterTrustBundle>> {
        Api::all(self.client.clone()).get_opt(name).await.map_err(api_error)
    }

    async fn trust_bundles_of(&self, signer: &str) -> Result<Vec<ClusterTrustBundle>> {
        let of_signer = ListParams::default().fields(&format!("spec.signerName={signer}"));
        Ok(Api::all(self.client.clone()).list(&of_signer).await.map_err(api_error)?.items)
    }

    async fn claim(&self, namespace: &str, name: &str) -> Result<Option<PersistentVolumeClaim>> {
        Api::namespaced(self.client.clone(), namespace).get_opt(name).await.map_err(api_error)
    }

    async fn persistent_volume(&self, name: &str) -> Result<Option<PersistentVolume>> {
        Api::all(self.client.clone()).get_opt(name).await.map_err(api_error)
    }

    async fn node_labels(&self) -> Result<BTreeMap<String, String>> {
        let node: Node = Api::all(self.client.clone()).get(&self.node).await.map_err(api_error)?;
        Ok(node.metadata.labels.unwrap_or_default())
    }

    async fn token(&self, ask: &TokenAsk) -> Result<Token> {
        if let Some(token) = self.cached(ask) {
            return Ok(token);
        }
        let bound = BoundObjectReference { api_version: Some("v1".into()), kind: Some("Pod".into()), name: Some(ask.pod_name.clone()), uid: Some(ask.pod_uid.clone()) };
        let spec =
            TokenRequestSpec { audiences: ask.audience.clone().map(|audience| vec![audience]), bound_object_ref: Some(bound), expiration_seconds: Some(ask.expiration_seconds) };
        let request = TokenRequest { spec: Some(spec), ..Default::default() };
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &ask.namespace);
        let answer = api.create_token_request(&ask.service_account, &PostParams::default(), &request).await.map_err(api_error)?;
        let status = answer.status.ok_or_else(|| VolumeError::Api("the API answered a token request without a token".into()))?;
        let (Some(token), Some(expires)) = (status.token, status.expiration_timestamp) else {
            return Err(VolumeError::Api("the API answered a token request without a token".into()));
        };
        let token = Token { token, expires_at: expires.0, lifetime_seconds: ask.expiration_seconds };
        self.keep(ask, &token);
        Ok(token)
    }

    async fn csi_driver(&self, name: &str) -> Result<Option<CSIDriver>> {
        let drivers = self.informers.of::<CSIDriver>();
        if !drivers.synced().await {
            return Err(VolumeError::Api("the agent stops".into()));
        }
        Ok(drivers.get("", name).map(|driver| CSIDriver::clone(&driver)))
    }

    /// A node may only get its attachments, not watch them; it is the controller's word in the node's own status that wakes us.
    async fn attached(&self, unique_name: &str, attachment: &str) -> Result<VolumeAttachment> {
        let nodes = self.informers.scoped::<Node>(Scope::fields(&format!("metadata.name={}", self.node)));
        let mut version = nodes.version();
        let api: Api<VolumeAttachment> = Api::all(self.client.clone());
        let own: Api<Node> = Api::all(self.client.clone());
        let says = |node: &Node| node.status.iter().flat_map(|status| status.volumes_attached.iter().flatten()).any(|volume| volume.name == unique_name);
        loop {
            version.mark_unchanged();
            // Our copy wakes us; only the API's own word, after it knows that the volume is in use, counts.
            let told = nodes.get("", &self.node).is_some_and(|node| says(&node)) && says(&own.get(&self.node).await.map_err(api_error)?);
            if told {
                let found = api.get_opt(attachment).await.map_err(api_error)?;
                if let Some(found) = found.filter(|found| found.status.as_ref().is_some_and(|status| status.attached)) {
                    return Ok(found);
                }
            }
            if version.changed().await.is_err() {
                return Err(VolumeError::Api("the agent stops".into()));
            }
        }
    }

    async fn claim_grows(&self, claim: &PersistentVolumeClaim) -> Result<()> {
        self.patch_claim(claim, json!({"allocatedResourceStatuses": {"storage": "NodeResizeInProgress"}})).await
    }

    async fn claim_grew(&self, claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Result<()> {
        let conditions: Vec<_> = claim.status.iter().flat_map(|status| status.conditions.iter().flatten()).filter(|condition| !is_of_growth(&condition.type_)).collect();
        let capacity = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()).and_then(|capacity| capacity.get("storage"));
        self.patch_claim(claim, json!({"capacity": {"storage": capacity}, "conditions": conditions, "allocatedResourceStatuses": {"storage": null}})).await
    }

    async fn claim_did_not_grow(&self, claim: &PersistentVolumeClaim, infeasible: bool) -> Result<()> {
        let status = if infeasible { "NodeResizeInfeasible" } else { "NodeResizeInProgress" };
        self.patch_claim(claim, json!({"allocatedResourceStatuses": {"storage": status}})).await
    }

    fn tell(&self, pod: &Pod, warning: bool, reason: &'static str, message: String) {
        self.events.pod(pod, if warning { WARNING } else { NORMAL }, reason, message);
    }
}

#[async_trait]
impl Accounts for ApiObjects {
    async fn account(&self, namespace: &str, name: &str) -> Result<Option<ServiceAccount>> {
        Api::namespaced(self.client.clone(), namespace).get_opt(name).await.map_err(api_error)
    }
    async fn account_token(&self, ask: &TokenAsk) -> Result<Token> {
        self.token(ask).await
    }
}

/// Conditions of a claim that end when the volume has grown.
fn is_of_growth(kind: &str) -> bool {
    matches!(kind, "Resizing" | "FileSystemResizePending" | "ControllerResizeError" | "NodeResizeError")
}
