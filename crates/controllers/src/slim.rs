//! Metadata without labels and annotations, for those who watch many kinds and only count or link.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use keles_client::{MetadataOnly, Watched};

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(from = "MetadataOnly")]
pub struct Slim {
    pub metadata: ObjectMeta,
}

impl From<MetadataOnly> for Slim {
    fn from(object: MetadataOnly) -> Self {
        let mut metadata = object.metadata;
        (metadata.labels, metadata.annotations, metadata.managed_fields) = (None, None, None);
        Slim { metadata }
    }
}

impl Watched for Slim {
    const ACCEPT: &'static str = MetadataOnly::ACCEPT;
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
