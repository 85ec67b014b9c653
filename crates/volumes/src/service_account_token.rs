//! serviceAccountToken: a token bound to the pod, from TokenRequest (KEP-1205).

use crate::atomic_writer::{File, Payload};
use crate::{Context, Result, TokenAsk};
use k8s_openapi::api::core::v1::ServiceAccountTokenProjection;

const DEFAULT_EXPIRATION_SECONDS: i64 = 3600;

pub(crate) async fn files(source: &ServiceAccountTokenProjection, mode: i32, context: &Context<'_>) -> Result<Payload> {
    let account = context.pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone()).unwrap_or_else(|| "default".into());
    let ask = TokenAsk {
        namespace: context.namespace().into(),
        service_account: account,
        audience: source.audience.clone().filter(|audience| !audience.is_empty()),
        expiration_seconds: source.expiration_seconds.unwrap_or(DEFAULT_EXPIRATION_SECONDS),
        pod_name: context.pod.metadata.name.clone().unwrap_or_default(),
        pod_uid: context.pod.metadata.uid.clone().unwrap_or_default(),
    };
    let token = context.objects.token(&ask).await?;
    let (mode, user) = context.guarded(mode);
    Ok(Payload::from([(source.path.clone(), File { bytes: token.token.into_bytes(), mode, user })]))
}
