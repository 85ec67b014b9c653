//! Cases of the conformance list: each names the entry it stands for, has a namespace of its own and runs beside the others on one cluster.
//!
//! Entry points: [`case`] makes a row, [`run`] runs all rows of a SIG and says which entries of the list no row names. The list
//! (`conformance.yaml` of upstream's release) is looked at where it is; without it the cases run all the same.

use crate::api::{SOON, World, eventually};
use crate::{Cluster, skip};
use kube::Client;
use serde_json::{Value, json};
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

const LIST: &str = "/work/shared/reference/conformance.yaml";
/// Cases under way at once: most of them wait for the agent's clocks.
const AT_ONCE: usize = 20;
/// A case that takes longer has failed.
const LONGEST: Duration = SOON.saturating_mul(3);

type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// An entry and what checks it.
pub struct Case {
    /// The entry's codename without its SIG, as far as it is unique.
    entry: &'static str,
    run: Box<dyn FnOnce(World) -> Running + Send>,
}

pub fn case<F: Future<Output = ()> + Send + 'static>(entry: &'static str, run: impl FnOnce(World) -> F + Send + 'static) -> Case {
    Case { entry, run: Box::new(|w| Box::pin(run(w))) }
}

impl Case {
    /// What went wrong, if anything did.
    async fn play(self, client: Client, namespace: String) -> Option<String> {
        let began = std::time::Instant::now();
        let w = world(client, namespace).await;
        let ended = tokio::spawn(tokio::time::timeout(LONGEST, (self.run)(w.clone()))).await;
        w.pods().delete_collection("").await;
        eprintln!("{:>6.1} s {}", began.elapsed().as_secs_f32(), self.entry);
        match ended {
            Ok(Ok(())) => None,
            Ok(Err(_)) => Some(format!("{}: not within {LONGEST:?}", self.entry)),
            Err(e) => Some(format!("{} (namespace {}): {e}", self.entry, w.namespace)),
        }
    }
}

/// Runs the cases; those first in the list begin first, so the slow ones stand there. `elsewhere` are entries that no case names, with the reason.
pub async fn run(sig: &str, cases: Vec<Case>, elsewhere: &[(&str, &str)]) {
    named(sig, &cases, elsewhere);
    play(cases).await;
}

/// Runs cases, whatever they stand for, on a cluster of their own. `KELES_CASE` chooses those with this text in their name.
pub async fn play(cases: Vec<Case>) {
    if skip() {
        return;
    }
    let c = Cluster::start();
    let client = c.client().await;
    let filter = std::env::var("KELES_CASE").unwrap_or_default();
    let (turns, mut running) = (Arc::new(Semaphore::new(AT_ONCE)), JoinSet::new());
    for (n, case) in cases.into_iter().enumerate().filter(|(_, c)| c.entry.contains(&filter)) {
        let (client, turns) = (client.clone(), turns.clone());
        running.spawn(async move {
            let _turn = turns.acquire_owned().await.expect("open");
            case.play(client, format!("case-{n}")).await
        });
    }
    let failed: Vec<String> = running.join_all().await.into_iter().flatten().collect();
    assert!(failed.is_empty(), "{} entries fail:\n{}", failed.len(), failed.join("\n"));
    tokio::task::spawn_blocking(move || drop(c)).await.expect("nothing is left behind");
}

async fn world(client: Client, namespace: String) -> World {
    let w = World { client, namespace, node: Cluster::NODE };
    w.cluster("v1/namespaces").create(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": w.namespace}})).await;
    let accounts = w.of("v1/serviceaccounts");
    eventually("the default service account", || async { accounts.try_get("default").await.map_err(|e| format!("{e:?}")) }).await;
    w
}

/// Every entry of the SIG is named once, by a case or with a reason, and nothing else is.
fn named(sig: &str, cases: &[Case], elsewhere: &[(&str, &str)]) {
    if !Path::new(LIST).exists() {
        eprintln!("{LIST} is not here: whether every entry has a case was not checked");
        return;
    }
    let list: Value = serde_yaml_ng::from_slice(&std::fs::read(LIST).expect("readable")).expect("YAML");
    let prefix = format!("[{sig}] ");
    let entries: Vec<&str> = list.as_array().expect("a list").iter().filter_map(|e| e["codename"].as_str()?.strip_prefix(prefix.as_str())).collect();
    assert!(!entries.is_empty(), "{LIST} has no entry of {sig}");
    let names: Vec<&str> = cases.iter().map(|c| c.entry).chain(elsewhere.iter().map(|(entry, _)| *entry)).collect();
    // A name that is the whole codename but for the marks in brackets wins over names that only begin so.
    let bare = |entry: &str| entry.find(" [").filter(|at| *at > 0).map_or(entry.to_owned(), |at| entry[..at].to_owned());
    let stands_for = |name: &str, entry: &str| if entries.iter().any(|e| bare(e) == name) { bare(entry) == name } else { entry.starts_with(name) };
    let mut wrong: Vec<String> = Vec::new();
    for entry in &entries {
        match names.iter().filter(|n| stands_for(n, entry)).count() {
            1 => {}
            0 => wrong.push(format!("no case names {entry:?}")),
            n => wrong.push(format!("{n} cases name {entry:?}")),
        }
    }
    for name in &names {
        match entries.iter().filter(|e| stands_for(name, e)).count() {
            1 => {}
            n => wrong.push(format!("{name:?} stands for {n} entries")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
