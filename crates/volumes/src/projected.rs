//! projected: several sources in one folder; later sources win over earlier ones of the same path.
//!
//! Deliberately absent: podCertificate sources. Upstream's agent refuses them too as long as the gate PodCertificateRequest is off, which it is by
//! default in v1.36.

use crate::atomic_writer::{self, Payload};
use crate::config_map::DEFAULT_MODE;
use crate::{Context, Result, VolumeError, cluster_trust_bundle, config_map, downward_api, secret, service_account_token, tmpfs};
use k8s_openapi::api::core::v1::{ProjectedVolumeSource, VolumeProjection};
use std::path::PathBuf;

pub async fn set_up(name: &str, source: &ProjectedVolumeSource, context: &Context<'_>) -> Result<PathBuf> {
    let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
    let sources = source.sources.iter().flatten().map(|projection| files(projection, mode, context));
    let mut payload = Payload::new();
    let mut errors = Vec::new();
    for part in futures::future::join_all(sources).await {
        match part {
            Ok(part) => payload.extend(part),
            Err(error) => errors.push(error),
        }
    }
    match errors.len() {
        0 => {}
        1 => return Err(errors.remove(0)),
        _ => return Err(VolumeError::Several(errors)),
    }
    let dir = context.volume_dir("projected", name);
    tmpfs::ensure(&dir, None)?;
    atomic_writer::write(&dir, &payload, context.fs_group())?;
    Ok(dir)
}

async fn files(projection: &VolumeProjection, mode: i32, context: &Context<'_>) -> Result<Payload> {
    if let Some(source) = &projection.config_map {
        return config_map::files(&source.name, source.items.as_deref(), mode, source.optional == Some(true), context).await;
    }
    if let Some(source) = &projection.secret {
        return secret::files(&source.name, source.items.as_deref(), mode, source.optional == Some(true), context).await;
    }
    if let Some(source) = &projection.downward_api {
        return downward_api::files(source.items.as_deref().unwrap_or_default(), mode, context);
    }
    if let Some(source) = &projection.service_account_token {
        return service_account_token::files(source, mode, context).await;
    }
    if let Some(source) = &projection.cluster_trust_bundle {
        return cluster_trust_bundle::files(source, mode, context).await;
    }
    Err(VolumeError::Unsupported("projected with the source podCertificate (feature gate PodCertificateRequest, off by default in v1.36)".into()))
}
