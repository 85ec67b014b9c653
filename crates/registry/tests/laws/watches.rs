//! Laws of watches.

use crate::world::*;
use futures::StreamExt;
use keles_registry::{Form, MetaVersion};
use keles_store::Store;
use std::sync::Arc;

#[tokio::test]
async fn a_watch_without_a_revision_starts_with_what_is_there() {
    let w = World::new().await;
    w.req("configmaps").create(&config("b", "1")).await.unwrap();
    w.req("configmaps").create(&config("a", "1")).await.unwrap();
    w.req("configmaps").named("a").merge(r#"{"data":{"t":"2"}}"#).await.unwrap();
    for q in ["watch=1", "watch=1&resourceVersion=0"] {
        let mut s = w.req("configmaps").query(q).watch().await;
        assert_eq!(s.shorts(2).await, ["ADDED a 2", "ADDED b 1"], "sorted, and all of them ADDED");
    }
}

#[tokio::test]
async fn nothing_is_lost_or_doubled_between_list_and_watch() {
    let w = World::new().await;
    let writer = {
        let r = w.req("configmaps");
        tokio::spawn(async move {
            for i in 0..300 {
                r.clone().create(&config(&format!("c{i:03}"), "1")).await.unwrap();
            }
        })
    };
    let list = w.req("configmaps").list().await.unwrap();
    let mut seen = names(&list);
    let mut s = w.req("configmaps").query(&format!("watch=1&resourceVersion={}", list["metadata"]["resourceVersion"].as_str().unwrap())).watch().await;
    while seen.len() < 300 {
        let e = s.next().await.unwrap();
        assert_eq!(e["type"], "ADDED");
        seen.push(e["object"]["metadata"]["name"].as_str().unwrap().into());
    }
    writer.await.unwrap();
    let expected: Vec<_> = (0..300).map(|i| format!("c{i:03}")).collect();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn sent_initial_events_end_with_a_marked_bookmark_even_when_there_are_none() {
    let w = World::new().await;
    let q = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut s = w.req("configmaps").query(q).watch().await;
    let e = s.next().await.unwrap();
    assert_eq!((e["type"].as_str(), e["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"].as_str()), (Some("BOOKMARK"), Some("true")));
    assert_eq!(e["object"]["metadata"]["resourceVersion"], w.revision().await.to_string(), "an empty collection bookmarks the present revision, never 0");
    w.req("configmaps").create(&config("a", "1")).await.unwrap();
    assert_eq!(s.short().await, "ADDED a 1");
    let mut s = w.req("configmaps").query(q).watch().await;
    assert_eq!(s.shorts(2).await, ["ADDED a 1", "BOOKMARK  end-of-initial"]);
}

#[tokio::test]
async fn initial_events_can_be_declined() {
    let w = World::new().await;
    w.req("configmaps").create(&config("a", "1")).await.unwrap();
    let mut s = w.req("configmaps").query("watch=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan").watch().await;
    assert!(s.is_quiet().await);
    w.req("configmaps").create(&config("b", "1")).await.unwrap();
    assert_eq!(s.short().await, "ADDED b 1");
}

#[tokio::test]
async fn every_event_carries_its_own_revision_and_a_delete_the_last_state() {
    let w = World::new().await;
    let start = w.revision().await;
    let a = w.req("configmaps").create(&config("a", "1")).await.unwrap();
    let b = w.req("configmaps").named("a").merge(r#"{"data":{"t":"2"}}"#).await.unwrap();
    w.req("configmaps").named("a").delete("").await.unwrap();
    let end = w.revision().await;
    let mut s = w.req("configmaps").query(&format!("watch=1&resourceVersion={start}")).watch().await;
    let mut got = Vec::new();
    for _ in 0..3 {
        let e = s.next().await.unwrap();
        got.push(format!("{} {} {}", e["type"].as_str().unwrap(), e["object"]["metadata"]["resourceVersion"].as_str().unwrap(), e["object"]["data"]["t"].as_str().unwrap()));
    }
    assert_eq!(got, [format!("ADDED {} 1", rv(&a)), format!("MODIFIED {} 2", rv(&b)), format!("DELETED {end} 2")]);
}

#[tokio::test]
async fn objects_enter_and_leave_a_selector_as_added_and_deleted() {
    let w = World::new().await;
    let start = w.revision().await;
    let mut s = w.req("configmaps").query(&format!("watch=1&labelSelector=t=in&resourceVersion={start}")).watch().await;
    w.req("configmaps").create(&config("a", "out")).await.unwrap();
    let label = |t: &str| format!(r#"{{"metadata":{{"labels":{{"t":"{t}"}}}}}}"#);
    w.req("configmaps").named("a").merge(&label("in")).await.unwrap();
    w.req("configmaps").named("a").merge(r#"{"data":{"t":"more"}}"#).await.unwrap();
    let out = w.req("configmaps").named("a").merge(&label("out")).await.unwrap();
    w.req("configmaps").named("a").delete("").await.unwrap();
    assert_eq!(s.shorts(2).await, ["ADDED a out", "MODIFIED a more"]);
    let left = s.next().await.unwrap();
    assert_eq!((left["type"].as_str(), left["object"]["metadata"]["labels"]["t"].as_str()), (Some("DELETED"), Some("in")), "the last state the watcher knew");
    assert_eq!(left["object"]["metadata"]["resourceVersion"], out.resource_version(), "at the revision of the change");
    assert!(s.is_quiet().await, "the delete of what is outside is not told");
}

#[tokio::test]
async fn a_status_written_right_after_a_create_is_a_second_event() {
    let w = World::new().await;
    let start = w.revision().await;
    w.req("deployments").create(&deployment("d")).await.unwrap();
    w.req("deployments").named("d").sub("status").merge(r#"{"status":{"replicas":1}}"#).await.unwrap();
    for _ in 0..2 {
        let mut s = w.req("deployments").query(&format!("watch=1&resourceVersion={start}")).watch().await;
        assert_eq!(s.shorts(2).await, ["ADDED d", "MODIFIED d"], "both can be replayed");
    }
}

#[tokio::test]
async fn a_revision_older_than_the_history_is_an_error_event_in_the_stream() {
    let w = World::new().await;
    w.req("configmaps").create(&config("a", "1")).await.unwrap();
    let later = w.restarted().await;
    let mut s = Req::new(later, "configmaps").query("watch=1&resourceVersion=1").watch().await;
    let e = s.next().await.unwrap();
    assert_eq!(e["type"], "ERROR");
    assert_eq!((e["object"]["code"].as_u64(), e["object"]["reason"].as_str()), (Some(410), Some("Expired")));
    assert_eq!(s.short().await, "END");
}

/// Lines of the log, as an operator reads them.
#[derive(Clone, Default)]
struct Lines(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_log_says_why_a_watch_was_told_410() {
    let lines = Lines::default();
    let writer = lines.clone();
    let _guard = tracing::subscriber::set_default(tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish());
    let w = World::new().await;
    w.req("configmaps").create(&config("a", "1")).await.unwrap();
    let later = w.restarted().await;
    let oldest = w.revision().await;
    let mut s = Req::new(later, "configmaps").query("watch=1&resourceVersion=1").watch().await;
    assert_eq!(s.next().await.unwrap()["object"]["code"], 410);
    let log = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let line = log.lines().find(|l| l.contains("a watch asks for events that are gone")).unwrap_or_else(|| panic!("no line about it in {log}"));
    for part in ["resource=\"configmaps\"", "revision=1 ", &format!("oldest={oldest}")] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
}

#[tokio::test]
async fn a_quiet_resource_can_be_watched_from_a_revision_of_another() {
    let w = World::new().await;
    let start = w.revision().await;
    for i in 0..50 {
        w.req("configmaps").create(&config(&format!("c{i}"), "1")).await.unwrap();
    }
    let mut s = w.req("leases").query(&format!("watch=1&resourceVersion={start}")).watch().await;
    assert!(s.is_quiet().await, "no 410 where nothing was forgotten");
    let mut s = w.req("leases").query(&format!("watch=1&resourceVersion={}", w.revision().await)).watch().await;
    assert!(s.is_quiet().await, "the first watcher may bring a revision of the whole store");
}

#[tokio::test]
async fn watchers_come_and_go_without_ending_others() {
    let w = World::new().await;
    let start = w.revision().await;
    let q = format!("watch=1&resourceVersion={start}");
    let mut stays = w.req("configmaps").query(&q).watch().await;
    drop(w.req("configmaps").query(&q).watch().await);
    w.req("configmaps").create(&config("a", "1")).await.unwrap();
    assert_eq!(stays.short().await, "ADDED a 1");
    drop(stays);
    w.req("configmaps").create(&config("b", "1")).await.unwrap();
    let mut again = w.req("configmaps").query(&q).watch().await;
    assert_eq!(again.shorts(2).await, ["ADDED a 1", "ADDED b 1"], "events are kept while nobody watches");
}

#[tokio::test]
async fn many_watchers_share_the_bytes_of_an_event() {
    use futures::StreamExt;
    let w = World::new().await;
    let q = format!("watch=1&resourceVersion={}", w.revision().await);
    let mut streams = Vec::new();
    for _ in 0..10 {
        let keles_registry::Body::Watch(s) = w.req("configmaps").query(&q).serve(keles_registry::Verb::Watch).await.unwrap().body else { panic!() };
        streams.push(s);
    }
    for s in &mut streams {
        assert!(s.next().await.unwrap().is_empty(), "the answer begins before there is an event");
    }
    w.req("configmaps").create(&config("a", "1")).await.unwrap();
    let mut places = std::collections::HashSet::new();
    for s in &mut streams {
        places.insert(s.next().await.unwrap().as_ptr() as usize);
    }
    assert_eq!(places.len(), 1, "one buffer for all");
}

#[tokio::test]
async fn bookmarks_come_only_when_allowed_and_tell_the_revision_of_the_store() {
    let w = World::new().await;
    let start = w.revision().await;
    let mut with = w.req("configmaps").query(&format!("watch=1&allowWatchBookmarks=true&timeoutSeconds=1&resourceVersion={start}")).watch().await;
    let mut without = w.req("configmaps").query(&format!("watch=1&timeoutSeconds=1&resourceVersion={start}")).watch().await;
    let lease = w.req("leases").create(r#"{"apiVersion":"coordination.k8s.io/v1","kind":"Lease","metadata":{"name":"l"},"spec":{}}"#).await.unwrap();
    w.registry.wait_seen(rv(&lease)).await;
    let e = with.next().await.unwrap();
    assert_eq!((e["type"].as_str(), e["object"]["kind"].as_str()), (Some("BOOKMARK"), Some("ConfigMap")));
    assert_eq!(e["object"]["metadata"]["resourceVersion"], lease.resource_version(), "though another resource changed");
    assert_eq!(without.short().await, "END", "after timeoutSeconds, and no bookmark before");
}

#[tokio::test]
async fn a_watch_in_tables_names_its_columns_once() {
    let w = World::new().await;
    w.req("configmaps").create(&config("a", "1")).await.unwrap();
    let mut s = w.req("configmaps").query("watch=1").form(Form::Table(MetaVersion::V1)).watch().await;
    let one = s.next().await.unwrap();
    assert!(one["object"]["columnDefinitions"].is_array());
    w.req("configmaps").create(&config("b", "1")).await.unwrap();
    let two = s.next().await.unwrap();
    assert_eq!((two["object"]["columnDefinitions"].is_null(), &two["object"]["rows"][0]["cells"][0]), (true, &"b".into()));
}

#[tokio::test]
async fn closing_ends_every_watch() {
    let w = World::new().await;
    let mut s = w.req("configmaps").query("watch=1&allowWatchBookmarks=1").watch().await;
    w.registry.close();
    assert_eq!(s.short().await, "END");
}

#[tokio::test]
async fn compaction_under_a_live_watch_is_not_noticed() {
    let w = World::new().await;
    let mut s = w.req("configmaps").query("watch=1").watch().await;
    w.req("configmaps").create(&config("a", "1")).await.unwrap();
    w.store.compact(w.revision().await).await.unwrap();
    w.req("configmaps").create(&config("b", "1")).await.unwrap();
    assert_eq!(s.shorts(2).await, ["ADDED a 1", "ADDED b 1"]);
}

#[tokio::test]
async fn one_name_in_the_path_is_watched_alone() {
    let w = World::new().await;
    let mut s = w.req("configmaps").named("a").query("watch=1").watch().await;
    w.req("configmaps").create(&config("b", "1")).await.unwrap();
    w.req("configmaps").create(&config("a", "1")).await.unwrap();
    assert_eq!(s.short().await, "ADDED a 1");
}

#[tokio::test]
async fn a_watch_ends_in_time_though_its_resource_is_busy() {
    let w = World::new().await;
    let mut s = w.req("configmaps").query("watch=1&timeoutSeconds=1&labelSelector=never").watch().await;
    let busy = {
        let r = w.req("configmaps");
        tokio::spawn(async move {
            for i in 0.. {
                let _ = r.clone().create(&config(&format!("c{i}"), "1")).await;
            }
        })
    };
    assert_eq!(s.short().await, "END");
    busy.abort();
}

/// A store that counts the watches opened on it.
struct Counting {
    inner: std::sync::Arc<keles_store::embedded::Embedded>,
    watches: std::sync::atomic::AtomicUsize,
    /// How many of them tell nothing, the first ones.
    silent: usize,
}

#[async_trait::async_trait]
impl Store for Counting {
    async fn revision(&self) -> Result<u64, keles_store::StoreError> {
        self.inner.revision().await
    }
    async fn get(&self, key: &[u8]) -> Result<Option<keles_store::Entry>, keles_store::StoreError> {
        self.inner.get(key).await
    }
    async fn range(&self, prefix: &[u8], start: Option<&[u8]>, limit: usize, at: Option<u64>) -> Result<keles_store::Page, keles_store::StoreError> {
        self.inner.range(prefix, start, limit, at).await
    }
    async fn write(&self, w: keles_store::Write) -> Result<u64, keles_store::StoreError> {
        self.inner.write(w).await
    }
    async fn watch(
        &self,
        prefix: &[u8],
        after: u64,
    ) -> Result<futures::stream::BoxStream<'static, Result<keles_store::Watched, keles_store::StoreError>>, keles_store::StoreError> {
        let before = self.watches.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let told = self.inner.watch(prefix, after).await?;
        Ok(if before < self.silent { futures::stream::pending().boxed() } else { told })
    }
    async fn compact(&self, before: u64) -> Result<(), keles_store::StoreError> {
        self.inner.compact(before).await
    }
    async fn close(&self) -> Result<(), keles_store::StoreError> {
        self.inner.close().await
    }
}

#[tokio::test]
async fn one_watch_of_the_store_serves_every_watcher_of_every_resource() {
    let w = World::new().await;
    let store = std::sync::Arc::new(Counting { inner: w.store.clone(), watches: Default::default(), silent: 0 });
    let registry = start(store.clone()).await;
    let _run = spawn(&registry);
    let mut watchers = Vec::new();
    for plural in ["configmaps", "pods", "deployments", "leases", "namespaces"].repeat(20) {
        watchers.push(Req::new(registry.clone(), plural).query("watch=1").watch().await);
    }
    Req::new(registry.clone(), "configmaps").create(&config("a", "1")).await.unwrap();
    for s in watchers.iter_mut().step_by(5) {
        assert_eq!(s.short().await, "ADDED a 1");
    }
    assert_eq!(store.watches.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_watch_of_the_store_that_went_silent_is_opened_anew_and_misses_nothing() {
    let w = World::new().await;
    let store = std::sync::Arc::new(Counting { inner: w.store.clone(), watches: Default::default(), silent: 2 });
    let lifetimes = keles_registry::Lifetimes { store_silence: std::time::Duration::from_millis(5), ..Default::default() };
    let registry = start_with(store.clone(), lifetimes).await;
    let _run = spawn(&registry);
    let mut s = Req::new(registry.clone(), "configmaps").query("watch=1").watch().await;
    // Through the other registry: this one hears of it by its watch alone.
    w.req("configmaps").create(&config("a", "1")).await.unwrap();
    assert_eq!(s.short().await, "ADDED a 1");
    assert!(store.watches.load(std::sync::atomic::Ordering::SeqCst) >= 3);
    w.req("configmaps").create(&config("b", "1")).await.unwrap();
    assert_eq!(s.short().await, "ADDED b 1");
}

/// More changes than a ring holds; [`keles_registry`] keeps 8192 at most.
const MORE_THAN_A_RING: usize = 9000;

#[tokio::test]
async fn a_list_can_always_be_watched_from_however_hot_the_resource_is() {
    let w = World::new().await;
    w.req("configmaps").create(&config("hot", "0")).await.unwrap();
    w.req("leases").create(r#"{"apiVersion":"coordination.k8s.io/v1","kind":"Lease","metadata":{"name":"cold"}}"#).await.unwrap();
    let quiet_since = w.req("leases").list().await.unwrap()["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let writer = {
        let r = w.req("configmaps");
        tokio::spawn(async move {
            for round in 0..MORE_THAN_A_RING / 100 {
                let changes = (0..100).map(|i| {
                    let r = r.clone();
                    async move { r.create(&config(&format!("c{round:03}-{i:02}"), "1")).await }
                });
                futures::future::join_all(changes).await.into_iter().for_each(|c| drop(c.unwrap()));
            }
        })
    };
    // Nobody watches the hot resource while its ring is trimmed; what a list names can be watched from, again and again.
    while !writer.is_finished() {
        let list = w.req("configmaps").query("limit=1").list().await.unwrap();
        let mut s = w.req("configmaps").query(&format!("watch=1&resourceVersion={}&timeoutSeconds=1", list["metadata"]["resourceVersion"].as_str().unwrap())).watch().await;
        if let Some(e) = s.next().await {
            assert_eq!(e["type"], "ADDED", "{e}");
        }
    }
    writer.await.unwrap();
    // A quiet resource keeps its history whatever happens elsewhere.
    let mut s = w.req("leases").query(&format!("watch=1&resourceVersion={quiet_since}")).watch().await;
    w.req("leases").named("cold").merge(r#"{"metadata":{"labels":{"a":"b"}}}"#).await.unwrap();
    assert_eq!(s.short().await, "MODIFIED cold");
}
