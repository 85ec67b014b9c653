//! Manifests and indexes, OCI's and Docker's schema 2; and the `manifest.json` of `docker save`.

use crate::digest::Digest;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;

pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// Go writes `null` for an empty list or map.
pub(crate) fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub variant: String,
}

impl Platform {
    /// This machine's, in Go's words.
    pub fn host() -> Platform {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Platform { architecture: architecture.into(), os: "linux".into(), variant: String::new() }
    }

    pub fn runs_here(&self) -> bool {
        let host = Platform::host();
        self.architecture == host.architecture && self.os == host.os
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default, deserialize_with = "null_is_default")]
    pub media_type: String,
    pub digest: Digest,
    #[serde(default)]
    pub size: u64,
    /// Where else the content is found (foreign layers).
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub config: Descriptor,
    #[serde(default, deserialize_with = "null_is_default")]
    pub layers: Vec<Descriptor>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    #[serde(default, deserialize_with = "null_is_default")]
    pub manifests: Vec<Descriptor>,
}

impl Index {
    /// The first manifest for this machine, one without a variant before one with (they ask for newer processors); one that names no
    /// platform serves when it is the only one.
    pub fn for_host(&self) -> Option<&Descriptor> {
        let fits = |d: &&Descriptor| d.platform.as_ref().is_some_and(Platform::runs_here);
        let plain = |d: &&Descriptor| fits(d) && d.platform.as_ref().is_some_and(|p| matches!(p.variant.as_str(), "" | "v1") || (p.architecture == "arm64" && p.variant == "v8"));
        let only = || if self.manifests.len() == 1 { self.manifests.first().filter(|d| d.platform.is_none()) } else { None };
        self.manifests.iter().find(plain).or_else(|| self.manifests.iter().find(fits)).or_else(only)
    }
}

/// What a registry or a layout answers when asked for a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    Index(Index),
    Manifest(Manifest),
}

#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    #[error("the manifest is not valid JSON of its kind: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the manifest is of Docker's schema 1, which is no longer supported; push the image again with a current tool")]
    Schema1,
    #[error("the document has neither manifests nor a config: not an image")]
    NotAnImage,
}

impl Document {
    /// Told apart by content: media types are often absent in layouts and wrong in registries.
    pub fn parse(bytes: &[u8]) -> Result<Document, DocumentError> {
        let tree: serde_json::Value = serde_json::from_slice(bytes)?;
        if tree.get("manifests").is_some() {
            return Ok(Document::Index(serde_json::from_value(tree)?));
        }
        if tree.get("config").is_some() {
            return Ok(Document::Manifest(serde_json::from_value(tree)?));
        }
        Err(if tree.get("fsLayers").is_some() { DocumentError::Schema1 } else { DocumentError::NotAnImage })
    }
}

/// One image of `docker save`'s `manifest.json`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct SavedImage {
    pub config: String,
    #[serde(default, deserialize_with = "null_is_default")]
    pub repo_tags: Vec<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub layers: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_gives_the_manifest_of_this_machine() {
        let digest = |n: &str| Digest::of(n.as_bytes());
        let text = format!(
            r#"{{"manifests":[{{"digest":"{}","size":1,"platform":{{"os":"linux","architecture":"s390x"}}}},{{"digest":"{}","size":1,"platform":{{"os":"linux","architecture":"{}"}},"annotations":null}}]}}"#,
            digest("a"),
            digest("b"),
            Platform::host().architecture
        );
        let Ok(Document::Index(index)) = Document::parse(text.as_bytes()) else { panic!("an index") };
        assert_eq!(index.for_host().map(|d| &d.digest), Some(&digest("b")));
        let of = |name: &str, variant: &str| Descriptor {
            media_type: String::new(),
            digest: digest(name),
            size: 1,
            urls: Vec::new(),
            platform: Some(Platform { variant: variant.into(), ..Platform::host() }),
            annotations: BTreeMap::new(),
        };
        let variants = Index { manifests: vec![of("newer", "v3"), of("plain", "")] };
        assert_eq!(variants.for_host().map(|d| &d.digest), Some(&digest("plain")));
        assert!(matches!(Document::parse(br#"{"fsLayers":[]}"#), Err(DocumentError::Schema1)));
        assert!(matches!(Document::parse(b"{}"), Err(DocumentError::NotAnImage)));
    }
}
