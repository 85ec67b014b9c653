//! Cold start on an empty folder, and the idle process.

use crate::Error;
use crate::process::Server;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use std::path::PathBuf;
use std::time::Duration;

/// After the node is Ready, before memory and CPU are read: long enough for every cache to be filled.
const SETTLE: Duration = Duration::from_secs(5);

pub async fn run(keles: PathBuf) -> Result<String, Error> {
    let s = Server::start(&keles, "server").await?;
    let nodes: Api<Node> = Api::all(s.client.clone());
    let is_ready = |n: &Node| n.status.iter().flat_map(|s| s.conditions.iter().flatten()).any(|c| c.type_ == "Ready" && c.status == "True");
    while !nodes.list(&Default::default()).await?.items.iter().any(is_ready) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let node_after = s.started.elapsed();
    tokio::time::sleep(SETTLE).await;
    let (before, resident) = (s.cpu_seconds(), s.resident_mib());
    tokio::time::sleep(SETTLE).await;
    let idle = (s.cpu_seconds() - before) / SETTLE.as_secs_f64() * 100.0;
    Ok(format!("API ready {:.2} s, node Ready {:.2} s, idle {resident:.0} MiB resident, {idle:.1} % of a core", s.ready_after.as_secs_f64(), node_after.as_secs_f64()))
}
