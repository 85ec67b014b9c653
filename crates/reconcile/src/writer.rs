//! Writes of one kind, each shown to the informer as soon as the server acknowledged it (lesson 125).

use keles_client::{Informer, ObjectKey, Watched};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use kube::core::Request;
use serde::Serialize;
use std::error::Error as _;
use std::fmt;

const TOO_MANY_REQUESTS: u16 = 429;

/// A write that the server refused or that did not reach it.
#[derive(Debug)]
pub struct WriteError {
    pub verb: &'static str,
    pub kind: String,
    pub key: ObjectKey,
    pub source: Box<kube::Error>,
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.verb, self.kind, self.key)
    }
}

impl std::error::Error for WriteError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

impl WriteError {
    /// The HTTP code, where the server answered.
    pub fn code(&self) -> Option<u16> {
        self.status().map(|status| status.code)
    }
    pub fn status(&self) -> Option<&kube::core::Status> {
        match self.source.as_ref() {
            kube::Error::Api(status) => Some(status),
            _ => None,
        }
    }
    /// The server's message, or the transport's.
    pub fn message(&self) -> String {
        match self.status() {
            Some(status) => status.message.clone(),
            None => self.source.source().map_or_else(|| self.source.to_string(), ToString::to_string),
        }
    }
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }
    pub fn is_conflict(&self) -> bool {
        self.status().is_some_and(|status| status.code == 409 && status.reason != "AlreadyExists")
    }
    pub fn is_already_exists(&self) -> bool {
        self.status().is_some_and(|status| status.reason == "AlreadyExists")
    }
    pub fn is_throttled(&self) -> bool {
        self.code() == Some(TOO_MANY_REQUESTS)
    }
    /// Creation refused because the namespace is being deleted: nothing to retry.
    pub fn is_namespace_terminating(&self) -> bool {
        let causes = self.status().and_then(|status| status.details.as_ref()).map(|details| details.causes.as_slice()).unwrap_or_default();
        self.code() == Some(403) && causes.iter().any(|cause| cause.reason == "NamespaceTerminating")
    }
}

/// Writes objects of kind `K` as one user and tells the kind's informer.
pub struct Writer<K: Watched> {
    client: kube::Client,
    informer: Informer<K>,
}

impl<K: Watched> Clone for Writer<K> {
    fn clone(&self) -> Self {
        Writer { client: self.client.clone(), informer: self.informer.clone() }
    }
}

impl<K> Writer<K>
where
    K: Watched + kube::Resource + Serialize,
    K::DynamicType: Default,
{
    pub fn new(client: kube::Client, informer: Informer<K>) -> Self {
        Writer { client, informer }
    }
    pub fn informer(&self) -> &Informer<K> {
        &self.informer
    }

    /// The object as the server holds it now, past every cache.
    pub async fn get(&self, key: &ObjectKey) -> Result<K, WriteError> {
        let request = self.request(&key.namespace).get(&key.name, &Default::default());
        self.send("get", key, request, false).await
    }
    pub async fn create(&self, object: &K) -> Result<K, WriteError> {
        let key = ObjectKey::of(object);
        let request = self.request(&key.namespace).create(&PostParams::default(), encode(object));
        self.send("create", &key, request, true).await
    }
    pub async fn update(&self, object: &K) -> Result<K, WriteError> {
        let key = ObjectKey::of(object);
        let request = self.request(&key.namespace).replace(&key.name, &PostParams::default(), encode(object));
        self.send("update", &key, request, true).await
    }
    pub async fn update_status(&self, object: &K) -> Result<K, WriteError> {
        self.update_subresource("status", object).await
    }
    pub async fn update_subresource(&self, subresource: &str, object: &K) -> Result<K, WriteError> {
        let key = ObjectKey::of(object);
        let request = self.request(&key.namespace).replace_subresource(subresource, &key.name, &PostParams::default(), encode(object));
        self.send("update", &key, request, true).await
    }
    pub async fn patch(&self, key: &ObjectKey, patch: &Patch<serde_json::Value>) -> Result<K, WriteError> {
        let request = self.request(&key.namespace).patch(&key.name, &PatchParams::default(), patch);
        self.send("patch", key, request, true).await
    }
    pub async fn patch_status(&self, key: &ObjectKey, patch: &Patch<serde_json::Value>) -> Result<K, WriteError> {
        let request = self.request(&key.namespace).patch_subresource("status", &key.name, &PatchParams::default(), patch);
        self.send("patch", key, request, true).await
    }
    /// Applies the status (server-side apply, forced) as `manager`.
    pub async fn apply_status(&self, key: &ObjectKey, manager: &str, object: serde_json::Value) -> Result<K, WriteError> {
        let request = self.request(&key.namespace).patch_subresource("status", &key.name, &PatchParams::apply(manager).force(), &Patch::Apply(object));
        self.send("apply", key, request, true).await
    }
    /// Deletes this very object (by uid), dependents in the background. `Ok` also when it is gone already.
    pub async fn delete(&self, object: &K) -> Result<(), WriteError> {
        self.delete_with(object, None).await
    }
    /// As [`Writer::delete`], with a grace period.
    pub async fn delete_with(&self, object: &K, grace_period_seconds: Option<u32>) -> Result<(), WriteError> {
        let key = ObjectKey::of(object);
        let uid = object.metadata().uid.clone().unwrap_or_default();
        let params = DeleteParams {
            grace_period_seconds,
            preconditions: Some(Preconditions { uid: Some(uid.clone()), resource_version: None }),
            propagation_policy: Some(PropagationPolicy::Background),
            ..Default::default()
        };
        let request = self.request(&key.namespace).delete(&key.name, &params).map_err(|error| self.error("delete", &key, kube::Error::BuildRequest(error)))?;
        match self.client.request_status::<K>(request).await {
            Ok(answer) => {
                match answer.left() {
                    Some(left) if left.metadata().deletion_timestamp.is_some() => self.informer.acknowledge(left),
                    _ => self.informer.acknowledge_deletion(&key, &uid),
                }
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {
                self.informer.acknowledge_deletion(&key, &uid);
                Ok(())
            }
            Err(source) => Err(self.error("delete", &key, source)),
        }
    }

    fn request(&self, namespace: &str) -> Request {
        Request::new(K::url_path(&K::DynamicType::default(), Some(namespace).filter(|ns| !ns.is_empty())))
    }
    async fn send(&self, verb: &'static str, key: &ObjectKey, request: Result<http::Request<Vec<u8>>, kube::core::request::Error>, write: bool) -> Result<K, WriteError> {
        let request = request.map_err(|error| self.error(verb, key, kube::Error::BuildRequest(error)))?;
        let object: K = self.client.request(request).await.map_err(|source| self.error(verb, key, source))?;
        if write {
            self.informer.acknowledge(object.clone());
        }
        Ok(object)
    }
    fn error(&self, verb: &'static str, key: &ObjectKey, source: kube::Error) -> WriteError {
        WriteError { verb, kind: K::kind(&K::DynamicType::default()).into_owned(), key: key.clone(), source: Box::new(source) }
    }
}

fn encode<K: Serialize>(object: &K) -> Vec<u8> {
    serde_json::to_vec(object).expect("API types always encode")
}
