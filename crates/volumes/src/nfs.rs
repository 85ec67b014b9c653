//! nfs: an export of a server, mounted by the host's tool.

use crate::{Context, Result, VolumeError, mount_tool, tmpfs};
use k8s_openapi::api::core::v1::NFSVolumeSource;
use std::path::PathBuf;

pub async fn set_up(name: &str, source: &NFSVolumeSource, options: &[String], read_only: bool, context: &Context<'_>) -> Result<PathBuf> {
    let dir = context.volume_dir("nfs", name);
    std::fs::create_dir_all(&dir).map_err(VolumeError::io("create", &dir))?;
    if tmpfs::is_mounted(&dir)? {
        return Ok(dir);
    }
    // An address of version 6 stands in brackets before the path.
    let server = if source.server.contains(':') && !source.server.starts_with('[') { format!("[{}]", source.server) } else { source.server.clone() };
    let mut all: Vec<&str> = options.iter().map(String::as_str).collect();
    if read_only || source.read_only == Some(true) {
        all.push("ro");
    }
    mount_tool::mount(&mount_tool::Ask { kind: "nfs", package: "nfs-common", what: &format!("{server}:{}", source.path), at: &dir, options: &all }).await?;
    Ok(dir)
}
