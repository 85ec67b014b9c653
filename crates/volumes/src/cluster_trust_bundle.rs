//! clusterTrustBundle: the trust anchors of one ClusterTrustBundle or of those that a signer's labels select, as one PEM file (KEP-3257).
//!
//! Invariant: every anchor stands in the file once, as a plain CERTIFICATE block, in an order that stays for as long as this process runs and says
//! nothing: another process has another one, so that nobody comes to rely on it.

use crate::atomic_writer::{File, Payload};
use crate::{Context, Result, VolumeError};
use k8s_openapi::api::certificates::v1beta1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::ClusterTrustBundleProjection;
use keles_rules::{labels, pem};
use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

static ORDER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

pub(crate) async fn files(source: &ClusterTrustBundleProjection, mode: i32, context: &Context<'_>) -> Result<Payload> {
    let bundles = bundles(source, context).await?;
    let (mode, user) = context.guarded(mode);
    // Optional and absent: the file is there, empty.
    Ok(Payload::from([(source.path.clone(), File { bytes: anchors(&bundles).into_bytes(), mode, user })]))
}

async fn bundles(source: &ClusterTrustBundleProjection, context: &Context<'_>) -> Result<Vec<ClusterTrustBundle>> {
    let optional = source.optional == Some(true);
    if let Some(name) = &source.name {
        return match context.objects.trust_bundle(name).await? {
            Some(bundle) => Ok(vec![bundle]),
            None if optional => Ok(Vec::new()),
            None => Err(VolumeError::NotFound { kind: "clustertrustbundle", name: name.clone() }),
        };
    }
    let Some(signer) = &source.signer_name else {
        return Err(VolumeError::Field(format!("clusterTrustBundle for {:?} names neither a bundle nor a signer", source.path)));
    };
    // Without a selector none is selected; an empty one selects all (core/v1 ClusterTrustBundleProjection).
    let mut found = match &source.label_selector {
        Some(_) => context.objects.trust_bundles_of(signer).await?,
        None => Vec::new(),
    };
    found.retain(|bundle| source.label_selector.as_ref().is_some_and(|selector| labels::selects(selector, bundle.metadata.labels.as_ref())));
    match found.is_empty() && !optional {
        true => Err(VolumeError::Field("combination of signerName and labelSelector matched zero ClusterTrustBundles".into())),
        false => Ok(found),
    }
}

fn anchors(bundles: &[ClusterTrustBundle]) -> String {
    let unique: BTreeSet<Vec<u8>> = bundles.iter().flat_map(|bundle| pem::blocks(&bundle.spec.trust_bundle)).map(|block| block.bytes).collect();
    let mut unique: Vec<Vec<u8>> = unique.into_iter().collect();
    unique.sort_by_key(|der| ORDER.hash_one(der));
    pem::certificates(unique.iter().map(Vec::as_slice))
}
