//! downwardAPI: the pod's own fields and resources as files.

use crate::atomic_writer::{self, File, Payload};
use crate::config_map::DEFAULT_MODE;
use crate::{Context, Result, VolumeError, downward, tmpfs};
use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, DownwardAPIVolumeSource};
use std::path::PathBuf;

pub fn set_up(name: &str, source: &DownwardAPIVolumeSource, context: &Context<'_>) -> Result<PathBuf> {
    let payload = files(source.items.as_deref().unwrap_or_default(), source.default_mode.unwrap_or(DEFAULT_MODE), context)?;
    let dir = context.volume_dir("downward-api", name);
    tmpfs::ensure(&dir, None)?;
    atomic_writer::write(&dir, &payload, context.fs_group())?;
    Ok(dir)
}

pub(crate) fn files(items: &[DownwardAPIVolumeFile], default_mode: i32, context: &Context<'_>) -> Result<Payload> {
    let mut payload = Payload::new();
    for item in items {
        let value = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => downward::field(context.pod, &field.field_path, context.facts),
            (None, Some(resource)) => downward::resource_of(context.pod, resource.container_name.as_deref().unwrap_or_default(), resource, context.facts),
            (None, None) => return Err(VolumeError::Field(format!("downwardAPI item {} names neither a field nor a resource", item.path))),
        };
        let value = value.map_err(VolumeError::Field)?;
        let mode = item.mode.unwrap_or(default_mode) as u32;
        payload.insert(item.path.clone(), File { bytes: value.into_bytes(), mode, user: None });
    }
    Ok(payload)
}
