//! What an informer needs of an object, and the object that is only its metadata.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fmt::Debug;

/// An object that an informer can hold. Every `kube::Resource` is one.
pub trait Watched: Clone + Debug + DeserializeOwned + Send + Sync + 'static {
    /// The media type to ask for.
    const ACCEPT: &'static str = "application/json";
    fn metadata(&self) -> &ObjectMeta;
    fn metadata_mut(&mut self) -> &mut ObjectMeta;
}

impl<K> Watched for K
where
    K: kube::Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    fn metadata(&self) -> &ObjectMeta {
        self.meta()
    }
    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        self.meta_mut()
    }
}

/// Any object, of which the server is asked to send only the metadata (`PartialObjectMetadata`).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct MetadataOnly {
    #[serde(default)]
    pub metadata: ObjectMeta,
}

impl Watched for MetadataOnly {
    const ACCEPT: &'static str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// The resourceVersion as a number. They come from one growing space, so they order all writes (KEP-5504). 0 when absent or foreign.
pub fn revision_of(meta: &ObjectMeta) -> u64 {
    meta.resource_version.as_deref().and_then(|rv| rv.parse().ok()).unwrap_or(0)
}
