//! secret: a Secret's data as files on a tmpfs.

use crate::atomic_writer::{self, Payload};
use crate::config_map::{DEFAULT_MODE, pick};
use crate::{Context, Result, VolumeError, tmpfs};
use k8s_openapi::api::core::v1::{KeyToPath, SecretVolumeSource};
use std::path::PathBuf;

pub async fn set_up(name: &str, source: &SecretVolumeSource, context: &Context<'_>) -> Result<PathBuf> {
    let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
    let secret = source.secret_name.as_deref().unwrap_or_default();
    let payload = files(secret, source.items.as_deref(), mode, source.optional == Some(true), context).await?;
    let dir = context.volume_dir("secret", name);
    tmpfs::ensure(&dir, None)?;
    atomic_writer::write(&dir, &payload, context.fs_group())?;
    Ok(dir)
}

pub(crate) async fn files(name: &str, items: Option<&[KeyToPath]>, mode: i32, optional: bool, context: &Context<'_>) -> Result<Payload> {
    match context.objects.secret(context.namespace(), name).await? {
        Some(secret) => {
            let content = secret.data.into_iter().flatten().map(|(key, value)| (key, value.0)).collect();
            pick(content, items, mode, optional, VolumeError::NoSuchSecretKey)
        }
        None if optional => Ok(Payload::new()),
        None => Err(VolumeError::NotFound { kind: "secret", name: name.into() }),
    }
}
