//! The image configuration: what a container of the image runs unless told otherwise.

use crate::digest::Digest;
use crate::manifest::null_is_default;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// An object without content, Go's set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Present {}

/// Absent and empty are the same, as in Go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageConfig {
    #[serde(deserialize_with = "null_is_default")]
    pub user: String,
    /// `NAME=value`
    #[serde(deserialize_with = "null_is_default")]
    pub env: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    pub entrypoint: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    pub cmd: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    pub working_dir: String,
    /// `80/tcp`
    #[serde(deserialize_with = "null_is_default")]
    pub exposed_ports: BTreeMap<String, Present>,
    #[serde(deserialize_with = "null_is_default")]
    pub labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "null_is_default")]
    pub stop_signal: String,
    #[serde(deserialize_with = "null_is_default")]
    pub volumes: BTreeMap<String, Present>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RootFs {
    /// Digests of the uncompressed layers, lowest first.
    #[serde(deserialize_with = "null_is_default")]
    pub diff_ids: Vec<Digest>,
}

/// The whole file; its digest is the image's id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageFile {
    #[serde(deserialize_with = "null_is_default")]
    pub architecture: String,
    #[serde(deserialize_with = "null_is_default")]
    pub os: String,
    #[serde(deserialize_with = "null_is_default")]
    pub created: String,
    #[serde(deserialize_with = "null_is_default")]
    pub config: ImageConfig,
    pub rootfs: RootFs,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_accepted_for_anything_as_go_does() {
        let text = r#"{"config":{"User":null,"Env":null,"Cmd":["a"],"ExposedPorts":{"80/tcp":{}},"Labels":null},"rootfs":{"type":"layers","diff_ids":null}}"#;
        let file: ImageFile = serde_json::from_str(text).expect("valid");
        assert_eq!((file.config.user.as_str(), file.config.cmd.len(), file.config.exposed_ports.len()), ("", 1, 1));
        assert_eq!(serde_json::from_str::<ImageFile>(r#"{"config":null}"#).expect("valid"), ImageFile::default());
    }
}
