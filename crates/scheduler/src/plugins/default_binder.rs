//! DefaultBinder: binds through the pod's `binding` subresource.

use crate::cache::PodInfo;
use crate::framework::{BindError, Binding, Event, Plugin};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Binding as Wire, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::api::PostParams;
use kube::core::Request;

pub struct DefaultBinder;

impl Plugin for DefaultBinder {
    fn name(&self) -> &'static str {
        "DefaultBinder"
    }
    fn bind(&self, binding: &Binding) -> Option<BoxFuture<'static, Result<(), BindError>>> {
        let binding = binding.clone();
        Some(Box::pin(async move {
            let refused = |source| BindError::Refused { pod: binding.pod.display(), node: binding.node.clone(), source: Box::new(source) };
            let meta = &binding.pod.pod.metadata;
            let wire = Wire {
                metadata: ObjectMeta { name: meta.name.clone(), namespace: meta.namespace.clone(), uid: meta.uid.clone(), ..Default::default() },
                target: ObjectReference { kind: Some("Node".into()), name: Some(binding.node.clone()), ..Default::default() },
            };
            let body = serde_json::to_vec(&wire).expect("API types always encode");
            let request = Request::new(Pod::url_path(&(), meta.namespace.as_deref()));
            let name = meta.name.as_deref().unwrap_or_default();
            let request = request.create_subresource("binding", name, &PostParams::default(), body).map_err(|error| refused(kube::Error::BuildRequest(error)))?;
            binding.client.request::<serde_json::Value>(request).await.map(|_| ()).map_err(refused)
        }))
    }
    fn helps(&self, _: &Event, _: &PodInfo) -> bool {
        false
    }
}
