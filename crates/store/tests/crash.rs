//! kill -9 in the middle of writes: the test binary runs itself as the writer, is killed, and what it acknowledged must be there.

use keles_store::embedded::{Embedded, Options};
use keles_store::suite::put;
use keles_store::{Expect, Store, StoreError, Write};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

const FOLDER: &str = "KELES_STORE_CRASH_FOLDER";
const WRITERS: usize = 8;
/// Kept before the present revision: more than can be durable without its acknowledgement being heard.
const HISTORY: u64 = 100;
const ROUNDS: usize = 6;

fn options() -> Options {
    Options { segment_bytes: 64 << 10, merge_floor_bytes: 64 << 10, ..Options::default() }
}

/// Writes for ever; says on standard output what is acknowledged: key, value, revision.
async fn write_until_killed(dir: &Path) {
    let store = Embedded::open(dir, options()).expect("opens after every crash");
    let tasks: Vec<_> = (0..WRITERS).map(|w| tokio::spawn(write_keys(store.clone(), w))).collect();
    for t in tasks {
        t.await.expect("writers do not end");
    }
}

async fn write_keys(store: Arc<Embedded>, w: usize) {
    for i in 0u64.. {
        let key = format!("w{w}/{}", i % 50);
        let expect = store.get(key.as_bytes()).await.expect("readable").map_or(Expect::Absent, |e| Expect::Revision(e.modified));
        let value = format!("{}-{i}-{}", std::process::id(), "x".repeat((i % 700) as usize));
        let revision = match (i % 7, expect) {
            (3, Expect::Revision(at)) => store.write(Write::Delete { key: key.clone().into(), expect: at }).await.map(|r| (r, String::new())),
            _ => store.write(put(&key, &value, expect)).await.map(|r| (r, value)),
        };
        let (revision, value) = revision.expect("only this task writes the key");
        // One call: lines of several tasks do not mix.
        std::io::stdout().write_all(format!("\nack {key} {revision} {value}\n").as_bytes()).expect("the parent reads");
        if w == 0 && i % 200 == 199 {
            match store.compact(revision.saturating_sub(HISTORY)).await {
                Ok(()) | Err(StoreError::Compacted { .. }) => {}
                Err(e) => panic!("{e}"),
            }
        }
    }
}

#[test]
fn every_acknowledged_write_survives_kill_9() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    if let Some(dir) = std::env::var_os(FOLDER) {
        return runtime.block_on(write_until_killed(Path::new(&dir)));
    }
    let dir = tempfile::tempdir().expect("a folder");
    let mut acknowledged: BTreeMap<String, (u64, String)> = BTreeMap::new();
    for round in 0..ROUNDS {
        run_and_kill(dir.path(), 600 + 350 * round, &mut acknowledged);
        runtime.block_on(check(dir.path(), &mut acknowledged));
    }
}

/// Runs the writer until it acknowledged `count` writes, then kills it; what it said is noted.
fn run_and_kill(dir: &Path, count: usize, acknowledged: &mut BTreeMap<String, (u64, String)>) {
    let mut child = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "every_acknowledged_write_survives_kill_9", "--nocapture"])
        .env(FOLDER, dir)
        .stdout(Stdio::piped())
        .spawn()
        .expect("this binary runs");
    let mut seen = 0;
    for line in BufReader::new(child.stdout.take().expect("piped")).split(b'\n') {
        let line = String::from_utf8(line.expect("readable")).expect("text");
        let mut words = line.strip_prefix("ack ").unwrap_or_default().splitn(3, ' ');
        let (Some(key), Some(Ok(revision)), Some(value)) = (words.next(), words.next().map(str::parse::<u64>), words.next()) else { continue };
        let note = acknowledged.entry(key.to_string()).or_default();
        if note.0 < revision {
            *note = (revision, value.to_string());
        }
        seen += 1;
        if seen == count {
            child.kill().expect("SIGKILL");
        }
    }
    child.wait().expect("it ended");
    assert!(seen >= count, "the writer ended by itself after {seen} writes");
}

/// Every key is as last acknowledged, or newer (a write may be durable before its acknowledgement is heard).
async fn check(dir: &Path, acknowledged: &mut BTreeMap<String, (u64, String)>) {
    let store = Embedded::open(dir, options()).expect("a killed store opens");
    let newest = acknowledged.values().map(|(r, _)| *r).max().expect("something was acknowledged");
    assert!(store.revision().await.expect("open") >= newest);
    for (key, (revision, value)) in acknowledged.iter() {
        match store.get(key.as_bytes()).await.expect("readable") {
            Some(entry) if entry.modified == *revision => assert_eq!(entry.value, value.as_bytes(), "{key}"),
            Some(entry) => assert!(entry.modified > *revision, "{key}: acknowledged at {revision}, found {}", entry.modified),
            None => assert!(value.is_empty() || deleted_later(&store, key, *revision).await, "{key}: acknowledged at {revision}, lost"),
        }
    }
    store.close().await.expect("closes");
}

/// Whether history tells of a delete after `revision`.
async fn deleted_later(store: &Embedded, key: &str, revision: u64) -> bool {
    use futures::StreamExt;
    let stream = match store.watch(key.as_bytes(), revision).await {
        Err(StoreError::Compacted { oldest, .. }) => store.watch(key.as_bytes(), oldest - 1).await,
        other => other,
    };
    let mut stream = stream.expect("history is kept");
    while let Some(Ok(watched)) = stream.next().await {
        match watched {
            keles_store::Watched::Changes(changes) if changes.iter().any(|c| c.deleted && c.entry.key == key.as_bytes()) => return true,
            keles_store::Watched::Changes(_) => {}
            keles_store::Watched::Progress(_) => return false,
        }
    }
    false
}
