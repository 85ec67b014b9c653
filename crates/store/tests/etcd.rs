//! The etcd engine against a real etcd: the suite, and what kills, elections, TLS, a full quota and neighbours do to it.

use futures::StreamExt;
use futures::stream::BoxStream;
use keles_store::compactor;
use keles_store::encrypted::{Encrypted, Rules};
use keles_store::etcd::{Etcd, Options, TlsFiles};
use keles_store::suite::{self, put};
use keles_store::{Change, Expect, Revision, Store, StoreError, Watched, Write};
use keles_testkit::etcd::{self, Etcd as Cluster};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How long anything may take before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(120);

fn start(options: etcd::Options) -> Cluster {
    Cluster::start(options).expect("etcd starts")
}

fn one() -> Cluster {
    start(etcd::Options::default())
}

fn open(cluster: &Cluster) -> Arc<Etcd> {
    Etcd::new(Options::of(&cluster.endpoints()).expect("endpoints"))
}

async fn create(s: &Etcd, key: &str, value: &str) -> Revision {
    s.write(put(key, value, Expect::Absent)).await.expect("absent")
}

/// Again while etcd is away.
async fn patiently<T>(what: impl AsyncFn() -> Result<T, StoreError>) -> T {
    let tries = async {
        loop {
            match what().await {
                Err(StoreError::Unavailable { .. }) => tokio::time::sleep(Duration::from_millis(50)).await,
                done => return done.expect("no other failure"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, tries).await.expect("etcd comes back")
}

/// Creates a key, whatever member leads by then: a write without an answer may have been done.
async fn patiently_create(store: &Etcd, key: &str) -> u64 {
    patiently(async || match store.write(put(key, "v", Expect::Absent)).await {
        Err(StoreError::Conflict { current: Some(e) }) => Ok(e.modified),
        done => done,
    })
    .await
}

type Stream = BoxStream<'static, Result<Watched, StoreError>>;

/// Changes until everything up to `revision` is told.
async fn read_until(stream: &mut Stream, revision: Revision) -> Vec<Change> {
    let mut changes: Vec<Change> = Vec::new();
    loop {
        match tokio::time::timeout(PATIENCE, stream.next()).await.expect("the watch goes on").expect("it does not end").expect("no error") {
            Watched::Changes(batch) => changes.extend(batch.iter().cloned()),
            Watched::Progress(at) if at >= revision => return changes,
            Watched::Progress(_) => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_passes_the_suite() {
    if !etcd::installed() {
        return;
    }
    let clusters = std::sync::Mutex::new(Vec::new());
    suite::check_all(async || {
        let cluster = one();
        let store = open(&cluster);
        store.wait().await.expect("it answers");
        let mut held = clusters.lock().expect("no panic");
        held.clear();
        held.push(cluster);
        let store: Arc<dyn Store> = store;
        store
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_passes_the_suite_encrypted_and_under_a_prefix_of_its_own_beside_a_neighbour() {
    if !etcd::installed() {
        return;
    }
    let clusters = std::sync::Mutex::new(Vec::new());
    suite::check_all(async || {
        let cluster = one();
        // Its keys are none of the subject's, though they sort on both sides of it.
        let neighbour = open(&cluster);
        for key in ["a", "k/1", "/other/registry/x", "z"] {
            create(&neighbour, key, "not yours").await;
        }
        let options = Options::with(&cluster.endpoints(), &TlsFiles::default(), "/mine/").expect("endpoints");
        let mut held = clusters.lock().expect("no panic");
        held.clear();
        held.push(cluster);
        let store: Arc<dyn Store> = Encrypted::new(Etcd::new(options), Rules(Vec::new()));
        store
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_another_prefix_are_seen_as_progress_only() {
    if !etcd::installed() {
        return;
    }
    let cluster = one();
    let (ours, theirs) = (open(&cluster), Etcd::new(Options::with(&cluster.endpoints(), &TlsFiles::default(), "theirs").expect("endpoints")));
    let base = ours.revision().await.expect("answers");
    let mut watch = ours.watch(b"/registry/", base).await.expect("open");
    create(&theirs, "/registry/core/pods/a", "theirs").await;
    let mine = create(&ours, "/registry/core/pods/a", "ours").await;
    let last = create(&theirs, "/registry/core/pods/b", "theirs").await;
    let changes = read_until(&mut watch, last).await;
    assert_eq!(changes.iter().map(|c| (c.entry.key.as_ref(), c.entry.modified)).collect::<Vec<_>>(), [(&b"/registry/core/pods/a"[..], mine)]);
    let keys = cluster.ctl(&["get", "", "--prefix", "--keys-only"]).expect("lists");
    let keys: Vec<&str> = keys.split_whitespace().collect();
    assert_eq!(keys, ["/registry/core/pods/a", "/theirs/registry/core/pods/a", "/theirs/registry/core/pods/b"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_amid_writes_loses_nothing_acknowledged_and_a_watch_misses_and_repeats_nothing() {
    const WRITERS: usize = 4;
    const KILLS: usize = 3;
    if !etcd::installed() {
        return;
    }
    let mut cluster = one();
    let store = open(&cluster);
    let base = store.revision().await.expect("answers");
    let mut watch = store.watch(b"", base).await.expect("open");
    let stop = tokio_util::sync::CancellationToken::new();
    let writing: Vec<_> = (0..WRITERS)
        .map(|w| {
            let (store, stop) = (store.clone(), stop.clone());
            tokio::spawn(async move {
                let mut acknowledged = Vec::new();
                for i in 0.. {
                    if stop.is_cancelled() {
                        break;
                    }
                    let key = format!("w{w}/{i}");
                    match store.write(put(&key, "v", Expect::Absent)).await {
                        Ok(revision) => acknowledged.push((key, revision)),
                        Err(StoreError::Unavailable { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
                        Err(e) => panic!("{e}"),
                    }
                }
                acknowledged
            })
        })
        .collect();
    for _ in 0..KILLS {
        let reached = store_moves_on(&store, 50).await;
        assert!(reached > base);
        cluster.kill(0).expect("killed");
        assert!(matches!(store.revision().await, Err(StoreError::Unavailable { .. })));
        assert!(matches!(store.health().await, Err(StoreError::Unavailable { .. })));
        cluster.restart(0).expect("comes back on its data");
        patiently(async || store.health().await).await;
    }
    store_moves_on(&store, 50).await;
    stop.cancel();
    let mut acknowledged = BTreeMap::new();
    for w in writing {
        acknowledged.extend(w.await.expect("a writer ends"));
    }
    let last = patiently(async || store.revision().await).await;
    let seen = read_until(&mut watch, last).await;
    let revisions: Vec<Revision> = seen.iter().map(|c| c.entry.modified).collect();
    assert_eq!(revisions, (base + 1..=last).collect::<Vec<_>>(), "every revision once");
    let stored: BTreeMap<String, Revision> =
        store.range(b"w", None, 0, None).await.expect("reads").entries.into_iter().map(|e| (String::from_utf8(e.key.to_vec()).expect("text"), e.modified)).collect();
    assert!(acknowledged.len() > KILLS * 50);
    for (key, revision) in acknowledged {
        assert_eq!(stored.get(&key), Some(&revision), "{key}");
    }
}

/// Waits for so many more revisions; the one reached.
async fn store_moves_on(store: &Arc<Etcd>, by: u64) -> Revision {
    let from = patiently(async || store.revision().await).await;
    let moves = async {
        loop {
            let now = patiently(async || store.revision().await).await;
            if now >= from + by {
                return now;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, moves).await.expect("writes go on")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_die_are_gone_around() {
    if !etcd::installed() {
        return;
    }
    let mut cluster = start(etcd::Options { members: 3, ..etcd::Options::default() });
    let store = open(&cluster);
    let base = patiently(async || store.revision().await).await;
    let mut watch = patiently(async || store.watch(b"", base).await).await;
    let mut keys = 0;
    for member in [0, 1, 2] {
        patiently_create(&store, &format!("before{member}")).await;
        read_until(&mut watch, base + keys + 1).await;
        cluster.kill(member).expect("killed");
        // Not retried by the store where it was sent: it may have been done, and then it is there.
        let key = format!("during{member}");
        patiently_create(&store, &key).await;
        keys += 2;
        assert_eq!(patiently(async || store.revision().await).await, base + keys);
        let seen = read_until(&mut watch, base + keys).await;
        assert_eq!(seen.iter().map(|c| c.entry.key.clone()).collect::<Vec<_>>(), [key.as_bytes()]);
        cluster.restart(member).expect("comes back");
    }
    assert_eq!(patiently(async || store.range(b"", None, 0, None).await).await.count, keys);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_hangs_is_left_by_reads_and_by_watches() {
    if !etcd::installed() {
        return;
    }
    let cluster = start(etcd::Options { members: 3, ..etcd::Options::default() });
    let (store, other) = (open(&cluster), Etcd::new(Options::of(&[cluster.endpoint(1), cluster.endpoint(2)].join(",")).expect("endpoints")));
    let at = patiently_create(&store, "before").await;
    let mut watch = patiently(async || store.watch(b"", at - 1).await).await;
    assert_eq!(read_until(&mut watch, at).await.len(), 1, "the first member tells it");
    cluster.freeze(0).expect("stopped");
    let during = patiently_create(&other, "during").await;
    // The connection stands, and nothing comes over it: pings find out.
    let seen = read_until(&mut watch, during).await;
    assert_eq!(seen.iter().map(|c| c.entry.key.as_ref()).collect::<Vec<_>>(), [b"during"]);
    assert!(patiently(async || store.get(b"during").await).await.is_some());
    cluster.wake(0).expect("goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_changes_of_a_revision_come_together_and_large_answers_in_parts() {
    if !etcd::installed() {
        return;
    }
    let cluster = one();
    let store = open(&cluster);
    let base = store.revision().await.expect("answers");
    // A neighbour's transaction of several keys is one revision.
    let mut ctl = std::process::Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .args(["--dial-timeout=120s", "--command-timeout=120s", "--endpoints", &cluster.endpoints(), "txn"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("etcdctl");
    std::io::Write::write_all(&mut ctl.stdin.take().expect("piped"), b"\nput t/1 a\nput t/2 b\nput t/3 c\n\n\n").expect("told");
    assert!(ctl.wait().expect("ends").success());
    // Larger together than any answer: with the values before, 24 MB.
    let value = "x".repeat(1_000_000);
    let mut at = create(&store, "large", &value).await;
    for _ in 0..12 {
        at = store.write(put("large", &value, Expect::Revision(at))).await.expect("current");
    }
    let mut watch = store.watch(b"", base).await.expect("open");
    let (mut batches, mut reached) = (Vec::new(), 0);
    while reached < at {
        match tokio::time::timeout(PATIENCE, watch.next()).await.expect("goes on").expect("does not end").expect("no error") {
            Watched::Changes(batch) => batches.push(batch.iter().map(|c| c.entry.modified).collect::<Vec<_>>()),
            Watched::Progress(to) => reached = to,
        }
    }
    assert_eq!(batches[0][..3], [base + 1; 3]);
    assert_eq!(batches.iter().flatten().copied().collect::<Vec<_>>(), [vec![base + 1; 3], (base + 2..=at).collect()].concat());
    assert!(batches.len() > 1, "it came in parts: {batches:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_ranges_are_read_in_parts_of_one_revision() {
    if !etcd::installed() {
        return;
    }
    let cluster = one();
    let store = open(&cluster);
    // Small ones first, so that the parts grow until the large ones make them too large.
    for i in 0..400 {
        create(&store, &format!("k/{i:03}"), "v").await;
    }
    let value = "x".repeat(1_400_000);
    for i in 400..460 {
        create(&store, &format!("k/{i:03}"), &value).await;
    }
    let at = store.revision().await.expect("answers");
    let page = store.range(b"k/", None, 0, None).await.expect("reads");
    assert_eq!((page.entries.len(), page.count, page.more, page.revision), (460, 460, false, at));
    assert!(page.entries.iter().enumerate().all(|(i, e)| e.key == format!("k/{i:03}")));
    let page = store.range(b"k/", Some(b"k/395"), 50, None).await.expect("reads");
    assert_eq!((page.entries.len(), page.count, page.more), (50, 65, true));
    assert_eq!(page.entries[49].key, "k/444");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_begins_at_a_forgotten_delete_says_that_it_is_too_old() {
    if !etcd::installed() {
        return;
    }
    let cluster = one();
    let store = open(&cluster);
    let one = create(&store, "a", "v").await;
    let two = store.write(Write::Delete { key: "a".into(), expect: one }).await.expect("current");
    let three = create(&store, "b", "v").await;
    store.compact(two).await.expect("compaction");
    let mut watch = store.watch(b"", two).await.expect("open");
    assert_eq!(read_until(&mut watch, three).await.len(), 1, "what comes after it is kept");
    // etcd forgets a delete with its revision, and would tell a watch from there nothing of it.
    let refused = match store.watch(b"", one).await {
        Err(e) => e,
        Ok(mut watch) => loop {
            match tokio::time::timeout(PATIENCE, watch.next()).await.expect("goes on").expect("does not just end") {
                Ok(Watched::Progress(at)) => assert!(at < two, "the delete was passed over"),
                Ok(Watched::Changes(_)) => panic!("the delete was passed over, or etcd keeps it now"),
                Err(e) => break e,
            }
        },
    };
    assert!(matches!(refused, StoreError::Compacted { asked, .. } if asked == one), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_one_time_to_live_share_a_lease() {
    if !etcd::installed() {
        return;
    }
    let cluster = one();
    let store = open(&cluster);
    let event = |key: String, ttl| Write::Put { key: key.into(), value: "v".into(), expect: Expect::Absent, ttl: Some(Duration::from_secs(ttl)) };
    // Not all at once: each has its limit from its beginning on.
    let all = futures::stream::iter((0..1001).map(|i| store.write(event(format!("e{i}"), 3600)))).buffer_unordered(50);
    assert!(all.collect::<Vec<_>>().await.iter().all(Result::is_ok));
    store.write(event("other".into(), 60)).await.expect("absent");
    let leases = cluster.ctl(&["lease", "list"]).expect("lists");
    let ids: Vec<&str> = leases.lines().skip(1).collect();
    assert_eq!(ids.len(), 3, "a thousand on one, one on the next, and one of another time: {leases}");
    // One that is revoked takes its keys along, and is not taken for further ones.
    for id in ids {
        cluster.ctl(&["lease", "revoke", id]).expect("revoked");
    }
    assert_eq!(store.range(b"", None, 0, None).await.expect("reads").count, 0);
    store.write(event("again".into(), 3600)).await.expect("a new lease is taken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_shows_a_certificate_and_wants_one() {
    if !etcd::installed() {
        return;
    }
    let cluster = start(etcd::Options { tls: true, ..etcd::Options::default() });
    let files = |ca: &str, name: &str| TlsFiles {
        ca: Some(cluster.file(ca)),
        certificate: (!name.is_empty()).then(|| cluster.file(&format!("{name}.pem"))),
        key: (!name.is_empty()).then(|| cluster.file(&format!("{name}-key.pem"))),
    };
    let with = |files: TlsFiles| Etcd::new(Options::with(&cluster.endpoints(), &files, "/registry").expect("files"));
    let known = with(files("ca.pem", "client"));
    known.wait().await.expect("answers");
    let at = create(&known, "a", "v").await;
    let mut watch = known.watch(b"", at - 1).await.expect("open");
    assert_eq!(read_until(&mut watch, at).await.len(), 1);
    // Of another authority, without one, and who trusts another.
    for stranger in [with(files("ca.pem", "stranger")), with(files("ca.pem", "")), with(files("stranger.pem", "client"))] {
        assert!(matches!(stranger.get(b"a").await, Err(StoreError::Unavailable { .. })));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_etcd_refuses_writes_by_name_and_goes_on_reading_and_deleting() {
    if !etcd::installed() {
        return;
    }
    let cluster = start(etcd::Options { flags: vec!["--quota-backend-bytes=2000000".into()], ..etcd::Options::default() });
    let store = open(&cluster);
    let value = "x".repeat(500_000);
    let mut at = create(&store, "a", &value).await;
    let refused = loop {
        match store.write(put("a", &value, Expect::Revision(at))).await {
            Ok(revision) => at = revision,
            Err(e) => break e,
        }
        assert!(at < 100, "50 MB went into a quota of 2");
    };
    assert!(matches!(refused, StoreError::NoSpace { .. }) && refused.to_string().contains("alarm disarm"), "{refused}");
    assert_eq!(store.get(b"a").await.expect("reads go on").expect("there").modified, at);
    let mut watch = store.watch(b"", at - 1).await.expect("open");
    let gone = store.write(Write::Delete { key: "a".into(), expect: at }).await;
    // Before 3.5.7 it refuses every transaction, though this one needs no room.
    let gone = if matches!(gone, Err(StoreError::NoSpace { .. })) && cluster.version().contains(" 3.5.") { at } else { gone.expect("deletes go on") };
    assert_eq!(read_until(&mut watch, gone).await.len() as u64, 1 + gone - at);
    store.compact(gone).await.expect("compaction goes on");
    // As the error says. etcd forgets in the background: before it has, there is nothing to win.
    let again = async {
        loop {
            cluster.ctl(&["defrag"]).expect("defragmented");
            cluster.ctl(&["alarm", "disarm"]).expect("disarmed");
            match store.write(put("b", "v", Expect::Absent)).await {
                Err(StoreError::NoSpace { .. }) => tokio::time::sleep(Duration::from_millis(50)).await,
                done => return done.expect("absent"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("there is room again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_servers_forgets_history_at_each_tick() {
    if !etcd::installed() {
        return;
    }
    let cluster = one();
    let stores: [Arc<dyn Store>; 2] = [open(&cluster), open(&cluster)];
    let first = stores[0].take_turn(0, 0).await.expect("answers");
    assert!(first.mine);
    let late = stores[1].take_turn(0, 0).await.expect("answers");
    assert!(!late.mine && late.number == first.number, "the other was faster, and says how far it is");
    assert!(stores[1].take_turn(late.number, 5).await.expect("answers").mine, "whoever comes first");
    assert!(!stores[0].take_turn(first.number, 5).await.expect("answers").mine);
    assert!(cluster.ctl(&["get", "compact_rev_key", "--print-value-only"]).expect("reads").starts_with('5'));
    // The loops of both: history goes, whoever does it.
    let old = stores[0].write(put("a", "v", Expect::Absent)).await.expect("absent");
    let running: Vec<_> = stores.iter().map(|s| tokio::spawn(compactor::run(Arc::downgrade(s), Duration::from_millis(300)))).collect();
    let forgotten = async {
        while !matches!(stores[0].range(b"", None, 0, Some(old)).await, Err(StoreError::Compacted { .. })) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, forgotten).await.expect("history is forgotten");
    assert!(stores[1].get(b"a").await.expect("reads").is_some());
    for s in &stores {
        s.close().await.expect("closes");
    }
    for r in running {
        tokio::time::timeout(PATIENCE, r).await.expect("the loop ends with its store").expect("no panic");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_waits_for_an_etcd_that_is_not_there_yet_until_it_is_told_to_stop() {
    if !etcd::installed() {
        return;
    }
    let mut cluster = one();
    cluster.kill(0).expect("killed");
    let store = open(&cluster);
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { store.wait().await }
    });
    assert!(matches!(store.get(b"a").await, Err(StoreError::Unavailable { store, .. }) if store.contains("127.0.0.1")));
    assert!(!waiting.is_finished());
    cluster.restart(0).expect("comes");
    tokio::time::timeout(PATIENCE, waiting).await.expect("it is noticed").expect("no panic").expect("answers");
    cluster.kill(0).expect("killed");
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { store.wait().await }
    });
    store.close().await.expect("closes");
    assert!(matches!(tokio::time::timeout(PATIENCE, waiting).await.expect("ends").expect("no panic"), Err(StoreError::Closed)));
}
