//! EncryptionConfiguration (apiserver.config.k8s.io/v1), `--encryption-provider-config`.
//!
//! Source: kubernetes.io "Encrypting Confidential Data at Rest". An unknown field is an error.

use super::aescbc::AesCbc;
use super::aesgcm::AesGcmKeys;
use super::identity::Identity;
use super::secretbox::SecretBox;
use super::{Pattern, Rule, Rules, Transform};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Debug, thiserror::Error)]
pub enum EncryptionConfigError {
    #[error("cannot read the encryption configuration {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} is no EncryptionConfiguration: {why}", path.display())]
    File { path: PathBuf, why: String },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    resources: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    resources: Vec<String>,
    providers: Vec<Provider>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Provider {
    identity: Option<Nothing>,
    aescbc: Option<KeyList>,
    aesgcm: Option<KeyList>,
    secretbox: Option<KeyList>,
    kms: Option<KmsEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyList {
    #[serde(default)]
    keys: Vec<KeyEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyEntry {
    #[serde(default)]
    name: String,
    #[serde(default)]
    secret: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KmsEntry {
    #[serde(default)]
    pub api_version: String,
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub endpoint: String,
    pub timeout: Option<String>,
    #[serde(default)]
    pub cachesize: Option<i64>,
}

/// Keys of these lengths in bytes.
const AES: &[usize] = &[16, 24, 32];
const BOX: &[usize] = &[32];

/// Reads the file whole, or says which field is wrong. Secrets never stand in the error.
pub fn read(path: &Path) -> Result<Rules, EncryptionConfigError> {
    let bytes = std::fs::read(path).map_err(|source| EncryptionConfigError::Read { path: path.into(), source })?;
    parse(&bytes).map_err(|why| EncryptionConfigError::File { path: path.into(), why })
}

pub(super) fn parse(bytes: &[u8]) -> Result<Rules, String> {
    let file: File = serde_yaml_ng::from_slice(bytes).map_err(|e| e.to_string())?;
    if file.api_version != "apiserver.config.k8s.io/v1" || file.kind != "EncryptionConfiguration" {
        return Err(format!("apiVersion {:?}, kind {:?}; wanted apiserver.config.k8s.io/v1 EncryptionConfiguration", file.api_version, file.kind));
    }
    if file.resources.is_empty() {
        return Err("resources: Required value: at least one resource must be specified".into());
    }
    let mut rules: Vec<Rule> = Vec::new();
    for (i, e) in file.resources.iter().enumerate() {
        let at = format!("resources[{i}]");
        if e.resources.is_empty() {
            return Err(format!("{at}.resources: Required value: at least one resource must be specified"));
        }
        if e.providers.is_empty() {
            return Err(format!("{at}.providers: Required value: at least one provider must be specified"));
        }
        let mut resources: Vec<Pattern> = Vec::new();
        for (n, r) in e.resources.iter().enumerate() {
            let p = pattern(r).map_err(|why| format!("{at}.resources[{n}]: Invalid value: {r:?}: {why}"))?;
            if rules.iter().flat_map(|r| &r.resources).chain(&resources).any(|earlier| covers(earlier, &p)) {
                return Err(format!("{at}.resources[{n}]: Invalid value: {r:?}: it is masked by an earlier rule"));
            }
            resources.push(p);
        }
        let providers = e.providers.iter().enumerate().map(|(n, p)| provider(&format!("{at}.providers[{n}]"), p)).collect::<Result<_, _>>()?;
        rules.push(Rule { resources, providers });
    }
    Ok(Rules(rules))
}

fn pattern(text: &str) -> Result<Pattern, &'static str> {
    let (resource, group) = text.split_once('.').unwrap_or((text, ""));
    if resource.is_empty() || resource.contains('/') {
        return Err("must be a resource, resource.group, *.group, *. or *.*");
    }
    if text == "*" {
        return Err("use *.* for every resource");
    }
    if text != text.to_lowercase() {
        return Err("resource name should be lowercase");
    }
    if matches!(group, "apiserver.k8s.io") || group.ends_with(".apiserver.k8s.io") && resource == "*" {
        return Err("cannot encrypt resources of that group");
    }
    if resource != "*" && group == "*" {
        return Err("a resource of every group cannot be named");
    }
    Ok(Pattern { resource: resource.into(), group: group.into() })
}

/// Whether everything of `later` already falls to `earlier`.
fn covers(earlier: &Pattern, later: &Pattern) -> bool {
    (earlier.group == "*" || earlier.group == later.group) && (earlier.resource == "*" || earlier.resource == later.resource)
}

fn provider(at: &str, p: &Provider) -> Result<Arc<dyn Transform>, String> {
    let given = [p.identity.is_some(), p.aescbc.is_some(), p.aesgcm.is_some(), p.secretbox.is_some(), p.kms.is_some()].iter().filter(|g| **g).count();
    if given != 1 {
        return Err(format!(
            "{at}: {}",
            if given == 0 {
                "Required value: provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity"
            } else {
                "Invalid value: more than one provider specified in a single element, should split into different list elements"
            }
        ));
    }
    Ok(match p {
        Provider { aescbc: Some(k), .. } => Arc::new(AesCbc::new(keys(&format!("{at}.aescbc"), k, AES)?)),
        Provider { aesgcm: Some(k), .. } => Arc::new(AesGcmKeys::new(keys(&format!("{at}.aesgcm"), k, AES)?).ok_or("the keys' lengths were just checked")?),
        Provider { secretbox: Some(k), .. } => Arc::new(SecretBox::new(keys(&format!("{at}.secretbox"), k, BOX)?).ok_or("the keys' lengths were just checked")?),
        Provider { kms: Some(k), .. } => super::kms::provider(&format!("{at}.kms"), k)?,
        _ => Arc::new(Identity),
    })
}

fn keys(at: &str, list: &KeyList, bytes: &[usize]) -> Result<Vec<(String, Vec<u8>)>, String> {
    if list.keys.is_empty() {
        return Err(format!("{at}.keys: Required value: at least one key must be specified"));
    }
    let mut out: Vec<(String, Vec<u8>)> = Vec::new();
    for (i, k) in list.keys.iter().enumerate() {
        let at = format!("{at}.keys[{i}]");
        if k.name.is_empty() || k.name.contains(':') {
            return Err(format!("{at}.name: Invalid value: {:?}: a name is required, without a colon", k.name));
        }
        if out.iter().any(|(n, _)| *n == k.name) {
            return Err(format!("{at}.name: Duplicate value: {:?}", k.name));
        }
        let secret = BASE64.decode(k.secret.trim()).map_err(|_| format!("{at}.secret: Invalid value: \"REDACTED\": secrets must be base64 encoded"))?;
        if !bytes.contains(&secret.len()) {
            return Err(format!("{at}.secret: Invalid value: \"REDACTED\": secret is not of the expected length, got {}, expected one of {bytes:?}", secret.len()));
        }
        out.push((k.name.clone(), secret));
    }
    Ok(out)
}
