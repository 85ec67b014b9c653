//! Many watchers of one kind: every event delivered, and what it costs the server.

use crate::Error;
use crate::process::{Meter, Server};
use futures::{AsyncBufReadExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use std::path::PathBuf;

const WATCHERS: usize = 100;
const CHANGES: usize = 500;

pub async fn run(keles: PathBuf) -> Result<String, Error> {
    let s = Server::start(&keles, "apiserver").await?;
    let maps: Api<ConfigMap> = Api::default_namespaced(s.client.clone());
    maps.create(&PostParams::default(), &serde_json::from_value(json!({"metadata": {"name": "m"}}))?).await?;
    let from = maps.list(&Default::default()).await?.metadata.resource_version.unwrap_or_default();
    let mut watchers = Vec::new();
    for _ in 0..WATCHERS {
        let path = format!("/api/v1/namespaces/default/configmaps?watch=true&resourceVersion={from}");
        let mut lines = s.client.request_stream(crate::process::http_get(&path)).await?.lines();
        watchers.push(tokio::spawn(async move {
            let mut seen = 0;
            while seen < CHANGES && lines.try_next().await.ok().flatten().is_some() {
                seen += 1;
            }
            seen
        }));
    }
    let mut cpu = Meter::settled(&s).await;
    for i in 0..CHANGES {
        maps.patch("m", &PatchParams::default(), &Patch::Merge(json!({"data": {"i": i.to_string()}}))).await?;
    }
    let mut seen = 0;
    for w in watchers {
        seen += w.await?;
    }
    Ok(format!("{WATCHERS} watchers saw {seen} of {} events, {:.2} s of server CPU in all, the {CHANGES} writes included", WATCHERS * CHANGES, cpu.lap()))
}
