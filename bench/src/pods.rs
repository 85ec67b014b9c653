//! From a pod's creation to its container running, the image being present.

use crate::process::Server;
use crate::{Error, quantile};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use keles_testkit::image::Image;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const ONE_BY_ONE: usize = 50;
const AT_ONCE: usize = 50;
const LIMIT: Duration = Duration::from_secs(60);
const IMAGE: &str = "bench/sleep:v1";

fn pod(name: &str) -> Pod {
    let value = json!({"metadata": {"name": name}, "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": IMAGE}]}});
    serde_json::from_value(value).expect("a literal pod")
}

fn running(p: &Pod) -> bool {
    p.status.iter().flat_map(|s| s.container_statuses.iter().flatten()).any(|c| c.state.as_ref().is_some_and(|s| s.running.is_some()))
}

/// A node with the image, its pods, and their changes.
pub struct Node {
    pub server: Server,
    pub pods: Api<Pod>,
    pub changes: Changes,
}

pub type Changes = futures::stream::BoxStream<'static, Result<Pod, watcher::Error>>;

pub async fn node(keles: &Path) -> Result<Node, Error> {
    let s = Server::start(keles, "server").await?;
    let archive = s.dir.path().join("image.tar");
    Image::new().busybox()?.command(&["sleep", "100000"]).write(IMAGE, &archive)?;
    let loaded = Command::new(keles).args(["load", "-i"]).arg(&archive).arg("--data-dir").arg(s.data()).output()?;
    if !loaded.status.success() {
        return Err(String::from_utf8_lossy(&loaded.stderr).into_owned().into());
    }
    let (pods, accounts): (Api<Pod>, Api<ServiceAccount>) = (Api::default_namespaced(s.client.clone()), Api::default_namespaced(s.client.clone()));
    while accounts.get_opt("default").await?.is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let changes = watcher(pods.clone(), watcher::Config::default()).applied_objects().boxed();
    Ok(Node { server: s, pods, changes })
}

/// Seconds until so many pods, created one right after another, all run.
pub async fn at_once(node: &mut Node, count: usize) -> Result<f64, Error> {
    let begin = Instant::now();
    let mut wanted = std::collections::BTreeSet::new();
    for i in 0..count {
        let name = format!("many-{i}");
        node.pods.create(&PostParams::default(), &pod(&name)).await?;
        wanted.insert(name);
    }
    until_running(&mut node.changes, &mut wanted).await?;
    Ok(begin.elapsed().as_secs_f64())
}

pub async fn run(keles: PathBuf) -> Result<String, Error> {
    let mut node = node(&keles).await?;
    let mut samples = Vec::new();
    for i in 0..ONE_BY_ONE {
        let (name, begin) = (format!("one-{i}"), Instant::now());
        node.pods.create(&PostParams::default(), &pod(&name)).await?;
        let mut wanted = std::collections::BTreeSet::from([name]);
        until_running(&mut node.changes, &mut wanted).await?;
        samples.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    remove_all(&node.pods).await?;
    samples.sort_by(f64::total_cmp);
    let burst = at_once(&mut node, AT_ONCE).await?;
    remove_all(&node.pods).await?;
    Ok(format!(
        "create to running p50 {:.0} ms, p99 {:.0} ms over {ONE_BY_ONE} one after another; {AT_ONCE} at once all running in {burst:.2} s",
        quantile(&samples, 0.5),
        quantile(&samples, 0.99)
    ))
}

async fn until_running(changes: &mut Changes, wanted: &mut std::collections::BTreeSet<String>) -> Result<(), Error> {
    let wait = async {
        while let Some(change) = changes.next().await {
            let p = change?;
            if running(&p) {
                wanted.remove(p.metadata.name.as_deref().unwrap_or(""));
            }
            if wanted.is_empty() {
                return Ok(());
            }
        }
        Err::<(), Error>("the watch ended".into())
    };
    tokio::time::timeout(LIMIT, wait).await.map_err(|_| format!("{} pods were not running within {LIMIT:?}", wanted.len()))?
}

pub async fn remove_all(pods: &Api<Pod>) -> Result<(), Error> {
    pods.delete_collection(&DeleteParams::default().grace_period(1), &Default::default()).await?;
    while !pods.list_metadata(&Default::default()).await?.items.is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
