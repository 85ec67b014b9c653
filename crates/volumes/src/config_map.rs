//! configMap: a ConfigMap's data and binaryData as files.

use crate::atomic_writer::{self, File, Payload};
use crate::{Context, Result, VolumeError};
use k8s_openapi::api::core::v1::{ConfigMap, ConfigMapVolumeSource, KeyToPath};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The API's default for files of configMap, secret, downwardAPI and projected volumes.
pub const DEFAULT_MODE: i32 = 0o644;

pub async fn set_up(name: &str, source: &ConfigMapVolumeSource, context: &Context<'_>) -> Result<PathBuf> {
    let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
    let payload = files(&source.name, source.items.as_deref(), mode, source.optional == Some(true), context).await?;
    let dir = context.volume_dir("configmap", name);
    std::fs::create_dir_all(&dir).map_err(VolumeError::io("create", &dir))?;
    atomic_writer::write(&dir, &payload, context.fs_group())?;
    Ok(dir)
}

/// The files a ConfigMap gives; none when it is absent and optional.
pub(crate) async fn files(name: &str, items: Option<&[KeyToPath]>, mode: i32, optional: bool, context: &Context<'_>) -> Result<Payload> {
    match context.objects.config_map(context.namespace(), name).await? {
        Some(map) => pick(content(map), items, mode, optional, |key| VolumeError::NoSuchKey { kind: "configmap", what: "config", key }),
        None if optional => Ok(Payload::new()),
        None => Err(VolumeError::NotFound { kind: "configmap", name: name.into() }),
    }
}

fn content(map: ConfigMap) -> BTreeMap<String, Vec<u8>> {
    let text = map.data.into_iter().flatten().map(|(key, value)| (key, value.into_bytes()));
    let binary = map.binary_data.into_iter().flatten().map(|(key, value)| (key, value.0));
    text.chain(binary).collect()
}

/// Applies `items`: only the named keys at their paths and modes, or every key under its own name.
pub(crate) fn pick(
    mut content: BTreeMap<String, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    default_mode: i32,
    optional: bool,
    missing: impl Fn(String) -> VolumeError,
) -> Result<Payload> {
    let file = |bytes, mode: i32| File { bytes, mode: mode as u32, user: None };
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        return Ok(content.into_iter().map(|(key, bytes)| (key, file(bytes, default_mode))).collect());
    };
    let mut payload = Payload::new();
    for item in items {
        match content.get_mut(&item.key) {
            Some(bytes) => {
                payload.insert(item.path.clone(), file(bytes.clone(), item.mode.unwrap_or(default_mode)));
            }
            None if optional => {}
            None => return Err(missing(item.key.clone())),
        }
    }
    Ok(payload)
}
