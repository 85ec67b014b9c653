//! The laws every engine passes. A test calls [`check_all`] with a function that opens a new, empty store. Its revision may be any (etcd begins
//! with 1, and has seen more when others use it too); from there on nobody else may write.
//!
//! Panics with the law's name and what differed. Engine-neutral: what a restart or a crash keeps is tested beside the engine.

use crate::{Change, Expect, Revision, Store, StoreError, Watched, Write};
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

type Subject = Arc<dyn Store>;
type Law = fn(Subject) -> BoxFuture<'static, ()>;

/// How long an event may take before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(60);

/// One row a law.
pub const LAWS: &[(&str, Law)] = &[
    ("a write takes the next revision", |s| Box::pin(a_write_takes_the_next_revision(s))),
    ("a put that expects absence conflicts with what is there", |s| Box::pin(create_conflicts_with_existing(s))),
    ("a stale revision changes nothing", |s| Box::pin(stale_revision_changes_nothing(s))),
    ("a key made again has a new created revision", |s| Box::pin(recreated_key_is_new(s))),
    ("pages join to the whole range", |s| Box::pin(pages_join(s))),
    ("a prefix ends where the next key begins", |s| Box::pin(prefixes_do_not_bleed(s))),
    ("an old revision reads as it was", |s| Box::pin(old_revision_reads_as_it_was(s))),
    ("a revision in the future is refused", |s| Box::pin(future_is_refused(s))),
    ("compacted history is refused and the present stays", |s| Box::pin(compaction_keeps_the_present(s))),
    ("a watch from the start replays everything", |s| Box::pin(watch_replays(s))),
    ("a watch sees only its prefix and hears of progress elsewhere", |s| Box::pin(watch_hears_progress(s))),
    ("watchers among concurrent writers see every change once and in order", |s| Box::pin(watch_has_no_gaps(s))),
    ("a watcher that does not read loses nothing", |s| Box::pin(slow_watcher_loses_nothing(s))),
    ("a watch from compacted history ends with Compacted", |s| Box::pin(watch_from_compacted(s))),
    ("a watch resumed after each revision is the rest of the history", |s| Box::pin(watch_resumes_anywhere(s))),
    ("one of many concurrent writers of a key wins each round", |s| Box::pin(one_writer_wins(s))),
    ("a key with a time to live is deleted by an ordinary delete", |s| Box::pin(ttl_deletes(s))),
    ("a newer put without a time to live stays", |s| Box::pin(ttl_of_an_old_put_is_void(s))),
    ("values from nothing to 1.5 MB pass and larger ones are refused", |s| Box::pin(value_sizes(s))),
    ("random operations agree with a model at every revision", |s| Box::pin(agrees_with_model(s))),
    ("a closed store says so", |s| Box::pin(closed_says_so(s))),
];

/// Runs every law on a store of its own.
pub async fn check_all<F: AsyncFn() -> Subject>(fresh: F) {
    for (name, law) in LAWS {
        eprintln!("store law: {name}");
        let store = fresh().await;
        law(store.clone()).await;
        store.close().await.expect("a store closes");
    }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub fn put(key: &str, value: &str, expect: Expect) -> Write {
    Write::Put { key: bytes(key), value: bytes(value), expect, ttl: None }
}

async fn create(s: &Subject, key: &str, value: &str) -> Revision {
    s.write(put(key, value, Expect::Absent)).await.expect("the key is absent")
}

async fn update(s: &Subject, key: &str, value: &str, at: Revision) -> Revision {
    s.write(put(key, value, Expect::Revision(at))).await.expect("the revision is current")
}

async fn delete(s: &Subject, key: &str, at: Revision) -> Revision {
    s.write(Write::Delete { key: bytes(key), expect: at }).await.expect("the revision is current")
}

/// The revision before the law's first write.
async fn begin(s: &Subject) -> Revision {
    s.revision().await.expect("open")
}

async fn a_write_takes_the_next_revision(s: Subject) {
    let base = begin(&s).await;
    let page = s.range(b"", None, 0, None).await.expect("an empty range");
    assert_eq!((page.entries.len(), page.revision, page.more, page.count), (0, base, false, 0));
    assert_eq!(create(&s, "a", "1").await, base + 1);
    assert_eq!(create(&s, "b", "1").await, base + 2);
    assert_eq!(s.revision().await.expect("open"), base + 2);
    let a = s.get(b"a").await.expect("readable").expect("a is there");
    assert_eq!((a.value, a.created, a.modified), (bytes("1"), base + 1, base + 1));
    assert!(s.get(b"c").await.expect("readable").is_none());
}

async fn create_conflicts_with_existing(s: Subject) {
    let one = create(&s, "a", "1").await;
    match s.write(put("a", "2", Expect::Absent)).await {
        Err(StoreError::Conflict { current: Some(e) }) => assert_eq!((e.value, e.modified), (bytes("1"), one)),
        other => panic!("expected a conflict with the present entry, got {other:?}"),
    }
    assert_eq!(s.revision().await.expect("open"), one, "a refused write takes no revision");
}

async fn stale_revision_changes_nothing(s: Subject) {
    let one = create(&s, "a", "1").await;
    let two = update(&s, "a", "2", one).await;
    assert!(matches!(s.write(put("a", "3", Expect::Revision(one))).await, Err(StoreError::Conflict { current: Some(e) }) if e.modified == two));
    assert!(matches!(s.write(Write::Delete { key: bytes("a"), expect: one }).await, Err(StoreError::Conflict { current: Some(_) })));
    assert!(matches!(s.write(put("b", "3", Expect::Revision(one))).await, Err(StoreError::Conflict { current: None })));
    assert_eq!(s.get(b"a").await.expect("readable").expect("there").value, bytes("2"));
}

async fn recreated_key_is_new(s: Subject) {
    let one = create(&s, "a", "1").await;
    let two = update(&s, "a", "2", one).await;
    assert_eq!(s.get(b"a").await.expect("readable").expect("there").created, one);
    delete(&s, "a", two).await;
    assert!(s.get(b"a").await.expect("readable").is_none());
    let four = create(&s, "a", "4").await;
    assert_eq!(s.get(b"a").await.expect("readable").expect("there").created, four);
}

async fn pages_join(s: Subject) {
    for i in 0..25 {
        create(&s, &format!("k/{i:02}"), "v").await;
    }
    let (mut seen, mut start) = (Vec::new(), None::<Vec<u8>>);
    loop {
        let page = s.range(b"k/", start.as_deref(), 10, None).await.expect("a page");
        assert_eq!(page.count as usize, 25 - seen.len(), "count is what remains from the start key on");
        seen.extend(page.entries.iter().map(|e| e.key.clone()));
        if !page.more {
            break;
        }
        let mut next = seen.last().expect("a page with more after it is not empty").to_vec();
        next.push(0);
        start = Some(next);
    }
    let expected: Vec<Bytes> = (0..25).map(|i| bytes(&format!("k/{i:02}"))).collect();
    assert_eq!(seen, expected);
}

async fn prefixes_do_not_bleed(s: Subject) {
    for key in ["a", "a/", "a/1", "a/\u{7f}", "a0", "b/1"] {
        create(&s, key, "v").await;
    }
    s.write(Write::Put { key: Bytes::from_static(b"a/\xff\xff"), value: bytes("v"), expect: Expect::Absent, ttl: None }).await.expect("keys are bytes");
    let page = s.range(b"a/", None, 0, None).await.expect("readable");
    let keys: Vec<&[u8]> = page.entries.iter().map(|e| e.key.as_ref()).collect();
    assert_eq!(keys, [b"a/".as_slice(), b"a/1", b"a/\x7f", b"a/\xff\xff"]);
    assert_eq!(s.range(b"a/", Some(b"0"), 0, None).await.expect("readable").entries.len(), 4, "a start before the prefix is the prefix");
    assert_eq!(s.range(b"a/", Some(b"b"), 0, None).await.expect("readable").entries.len(), 0, "a start after the prefix finds nothing");
}

async fn old_revision_reads_as_it_was(s: Subject) {
    let one = create(&s, "a", "1").await;
    let two = create(&s, "b", "1").await;
    let three = update(&s, "a", "2", one).await;
    delete(&s, "b", two).await;
    let read = async |at| s.range(b"", None, 0, Some(at)).await.expect("kept").entries.into_iter().map(|e| (e.key, e.value, e.modified)).collect::<Vec<_>>();
    assert_eq!(read(one).await, [(bytes("a"), bytes("1"), one)]);
    assert_eq!(read(two).await, [(bytes("a"), bytes("1"), one), (bytes("b"), bytes("1"), two)]);
    assert_eq!(read(three).await, [(bytes("a"), bytes("2"), three), (bytes("b"), bytes("1"), two)]);
    assert_eq!(read(three + 1).await, [(bytes("a"), bytes("2"), three)]);
}

async fn future_is_refused(s: Subject) {
    let one = create(&s, "a", "1").await;
    assert!(matches!(s.range(b"", None, 0, Some(one + 1)).await, Err(StoreError::Future { asked, current }) if (asked, current) == (one + 1, one)));
    assert!(matches!(s.compact(one + 1).await, Err(StoreError::Future { .. })));
    assert!(matches!(s.watch(b"", one + 1).await.map(drop), Err(StoreError::Future { .. })));
}

async fn compaction_keeps_the_present(s: Subject) {
    let mut at = create(&s, "a", "0").await;
    let stays = create(&s, "stays", "x").await;
    for i in 1..10 {
        at = update(&s, "a", &i.to_string(), at).await;
    }
    let gone = create(&s, "gone", "x").await;
    delete(&s, "gone", gone).await;
    s.compact(at).await.expect("compaction");
    s.compact(1).await.expect("compacting less again does nothing");
    assert!(matches!(s.range(b"", None, 0, Some(at - 1)).await, Err(StoreError::Compacted { oldest, .. }) if oldest == at));
    let page = s.range(b"", None, 0, Some(at)).await.expect("the oldest kept revision reads");
    assert_eq!(page.entries.iter().map(|e| e.modified).collect::<Vec<_>>(), [at, stays]);
    s.compact(gone + 1).await.expect("compaction to the present");
    let page = s.range(b"", None, 0, None).await.expect("the present reads");
    assert_eq!(page.entries.iter().map(|e| e.modified).collect::<Vec<_>>(), [at, stays]);
    let next = create(&s, "gone", "y").await;
    assert_eq!(next, gone + 2, "revisions go on");
}

type Stream = BoxStream<'static, Result<Watched, StoreError>>;

/// Reads changes until `wanted` came.
async fn read_changes(stream: &mut Stream, wanted: usize) -> Vec<Change> {
    let mut changes = Vec::new();
    while changes.len() < wanted {
        let next = tokio::time::timeout(PATIENCE, stream.next()).await.unwrap_or_else(|_| panic!("only {} of {wanted} changes came", changes.len()));
        match next.expect("the stream goes on").expect("no error") {
            Watched::Changes(batch) => changes.extend(batch.iter().cloned()),
            Watched::Progress(_) => {}
        }
    }
    assert_eq!(changes.len(), wanted, "more changes than were made");
    changes
}

/// Reads until progress reaches `revision`; the changes on the way.
async fn read_until(stream: &mut Stream, revision: Revision) -> Vec<Change> {
    let mut changes: Vec<Change> = Vec::new();
    loop {
        let next = tokio::time::timeout(PATIENCE, stream.next()).await.unwrap_or_else(|_| panic!("no progress to {revision}"));
        match next.expect("the stream goes on").expect("no error") {
            Watched::Changes(batch) => {
                assert!(!batch.is_empty(), "a message of changes is never empty");
                changes.extend(batch.iter().cloned());
            }
            Watched::Progress(at) => {
                assert!(changes.last().is_none_or(|c| c.entry.modified <= at), "progress goes back");
                if at >= revision {
                    return changes;
                }
            }
        }
    }
}

async fn watch_replays(s: Subject) {
    let base = begin(&s).await;
    let one = create(&s, "a", "1").await;
    let two = update(&s, "a", "2", one).await;
    let three = delete(&s, "a", two).await;
    let mut stream = s.watch(b"", base).await.expect("nothing is compacted");
    let changes = read_changes(&mut stream, 3).await;
    assert_eq!(changes.iter().map(|c| c.entry.modified).collect::<Vec<_>>(), [one, two, three]);
    assert_eq!((changes[0].deleted, changes[1].deleted, changes[2].deleted), (false, false, true));
    assert_eq!((changes[1].entry.created, changes[1].entry.value.clone()), (one, bytes("2")));
    assert!(changes[2].entry.value.is_empty());
    let four = create(&s, "a", "4").await;
    let live = read_changes(&mut stream, 1).await;
    assert_eq!((live[0].entry.modified, live[0].entry.created), (four, four));
}

async fn watch_hears_progress(s: Subject) {
    let base = begin(&s).await;
    let mut stream = s.watch(b"a/", base).await.expect("open");
    assert!(read_until(&mut stream, base).await.is_empty());
    create(&s, "b/1", "v").await;
    let two = create(&s, "b/2", "v").await;
    // Whoever asks for the present revision may then wait for a watch to reach it.
    assert_eq!(s.revision().await.expect("open"), two);
    assert!(read_until(&mut stream, two).await.is_empty(), "changes of another prefix");
    let three = create(&s, "a/1", "v").await;
    assert_eq!(read_until(&mut stream, three).await.len(), 1);
    let four = create(&s, "b/3", "v").await;
    assert!(read_until(&mut stream, four).await.is_empty(), "an idle store tells progress unasked");
}

async fn watch_has_no_gaps(s: Subject) {
    const WRITERS: usize = 8;
    const WRITES: usize = 40;
    let base = begin(&s).await;
    let watching: Vec<_> = (0..4)
        .map(|i| {
            let s = s.clone();
            tokio::spawn(async move {
                let mut stream = s.watch(if i % 2 == 0 { b"" } else { b"w3/" }, base).await.expect("open");
                read_changes(&mut stream, if i % 2 == 0 { WRITERS * WRITES } else { WRITES }).await
            })
        })
        .collect();
    let writing: Vec<_> = (0..WRITERS)
        .map(|w| {
            let s = s.clone();
            tokio::spawn(async move {
                for i in 0..WRITES {
                    create(&s, &format!("w{w}/{i}"), "v").await;
                }
            })
        })
        .collect();
    for w in writing {
        w.await.expect("a writer ends");
    }
    for (i, w) in watching.into_iter().enumerate() {
        let revisions: Vec<Revision> = w.await.expect("a watcher ends").iter().map(|c| c.entry.modified).collect();
        assert!(revisions.is_sorted_by(|a, b| a < b), "watcher {i} saw changes twice or out of order");
        if i % 2 == 0 {
            assert_eq!(revisions, (base + 1..=base + (WRITERS * WRITES) as u64).collect::<Vec<_>>());
        }
    }
}

async fn slow_watcher_loses_nothing(s: Subject) {
    let base = begin(&s).await;
    let mut stream = s.watch(b"", base).await.expect("open");
    let mut at = create(&s, "a", "0").await;
    for i in 1..2000 {
        at = update(&s, "a", &i.to_string(), at).await;
    }
    let changes = read_changes(&mut stream, 2000).await;
    assert!(changes.iter().enumerate().all(|(i, c)| c.entry.modified == base + i as u64 + 1 && c.entry.value == i.to_string().as_bytes()));
}

async fn watch_from_compacted(s: Subject) {
    let mut at = create(&s, "a", "0").await;
    let behind = s.watch(b"", at - 1).await.expect("open");
    for i in 1..10 {
        at = update(&s, "a", &i.to_string(), at).await;
    }
    s.compact(at).await.expect("compaction");
    assert_eq!(compacted_floor(s.watch(b"", at - 7).await).await, at);
    assert_eq!(compacted_floor(Ok(behind)).await, at);
    let mut stream = s.watch(b"", at - 1).await.expect("the first kept change can be watched");
    assert_eq!(read_changes(&mut stream, 1).await[0].entry.modified, at);
}

/// `Compacted` may be the answer or the end of the stream; nothing may come after it.
async fn compacted_floor(stream: Result<Stream, StoreError>) -> Revision {
    let mut stream = match stream {
        Err(StoreError::Compacted { oldest, .. }) => return oldest,
        other => other.expect("only Compacted is an error here"),
    };
    loop {
        match tokio::time::timeout(PATIENCE, stream.next()).await.expect("the stream ends").expect("with an error") {
            Ok(_) => {}
            Err(StoreError::Compacted { oldest, .. }) => {
                assert!(stream.next().await.is_none(), "nothing follows Compacted");
                return oldest;
            }
            Err(e) => panic!("expected Compacted, got {e}"),
        }
    }
}

async fn watch_resumes_anywhere(s: Subject) {
    let base = begin(&s).await;
    for i in 0..30 {
        let one = create(&s, &format!("k{i}"), "v").await;
        if i % 3 == 0 {
            delete(&s, &format!("k{i}"), one).await;
        }
    }
    let end = s.revision().await.expect("open");
    for after in base..=end {
        let mut stream = s.watch(b"k", after).await.expect("kept");
        let seen: Vec<Revision> = read_until(&mut stream, end).await.iter().map(|c| c.entry.modified).collect();
        assert_eq!(seen, (after + 1..=end).collect::<Vec<_>>());
    }
}

async fn one_writer_wins(s: Subject) {
    let mut at = create(&s, "a", "0").await;
    for round in 0..20 {
        let tries: Vec<_> = (0..8)
            .map(|w| {
                let s = s.clone();
                tokio::spawn(async move { s.write(put("a", &format!("{round}-{w}"), Expect::Revision(at))).await })
            })
            .collect();
        let mut won = Vec::new();
        for t in tries {
            match t.await.expect("a writer ends") {
                Ok(revision) => won.push(revision),
                Err(StoreError::Conflict { current: Some(_) }) => {}
                Err(e) => panic!("{e}"),
            }
        }
        assert_eq!(won.len(), 1, "round {round}");
        at = won[0];
    }
}

async fn ttl_deletes(s: Subject) {
    let write = Write::Put { key: bytes("a"), value: bytes("v"), expect: Expect::Absent, ttl: Some(Duration::from_millis(100)) };
    let one = s.write(write).await.expect("absent");
    // Seen by the watch: on a slow machine it is gone before it can be read.
    let mut stream = s.watch(b"a", one - 1).await.expect("open");
    let seen = read_changes(&mut stream, 2).await;
    assert!(!seen[0].deleted && seen[0].entry.modified == one);
    assert!(seen[1].deleted && seen[1].entry.modified == one + 1);
    assert!(s.get(b"a").await.expect("readable").is_none());
    assert_eq!(s.revision().await.expect("open"), one + 1);
}

async fn ttl_of_an_old_put_is_void(s: Subject) {
    let short = |key: &str, ttl| Write::Put { key: bytes(key), value: bytes("v"), expect: Expect::Absent, ttl: Some(Duration::from_millis(ttl)) };
    let mut ttl = 60;
    loop {
        let one = s.write(short("a", ttl)).await.expect("absent");
        match s.write(put("a", "stays", Expect::Revision(one))).await {
            // Gone before it was put again: this machine is slow.
            Err(StoreError::Conflict { .. }) => ttl *= 2,
            done => {
                done.expect("the revision is current");
                break;
            }
        }
    }
    // A key that expires later is the clock: when it is gone the first one's time is over too.
    let marker = s.write(short("b", ttl * 5 / 2)).await.expect("absent");
    let mut stream = s.watch(b"b", marker).await.expect("open");
    assert!(read_changes(&mut stream, 1).await[0].deleted);
    assert_eq!(s.get(b"a").await.expect("readable").expect("still there").value, bytes("stays"));
}

async fn value_sizes(s: Subject) {
    for (i, size) in [0, 1, 4096, 1_500_000].into_iter().enumerate() {
        let value = Bytes::from(vec![b'x'; size]);
        let write = Write::Put { key: bytes(&format!("k{i}")), value: value.clone(), expect: Expect::Absent, ttl: None };
        s.write(write).await.expect("within the limit");
        assert_eq!(s.get(format!("k{i}").as_bytes()).await.expect("readable").expect("there").value, value);
    }
    let large = Write::Put { key: bytes("large"), value: Bytes::from(vec![0; 64 << 20]), expect: Expect::Absent, ttl: None };
    assert!(matches!(s.write(large).await, Err(StoreError::TooLarge { .. })));
}

/// A small generator: the seed reproduces the run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

type Model = BTreeMap<Bytes, (Bytes, Revision, Revision)>;

async fn agrees_with_model(s: Subject) {
    let mut dice = Dice(20_261_121);
    let base = begin(&s).await;
    // At each revision from the first on.
    let mut history: Vec<Model> = vec![Model::new()];
    let mut floor = base;
    for step in 0..600u64 {
        let mut model = history.last().expect("never empty").clone();
        let key = bytes(&format!("k{}", dice.roll(12)));
        let present = model.get(&key).cloned();
        let revision = base + history.len() as u64;
        match (dice.roll(10), present) {
            (0..=2, Some((_, _, modified))) => {
                s.write(Write::Delete { key: key.clone(), expect: modified }).await.expect("current");
                model.remove(&key);
            }
            (_, present) => {
                let value = bytes(&step.to_string());
                let expect = present.as_ref().map_or(Expect::Absent, |p| Expect::Revision(p.2));
                let got = s.write(Write::Put { key: key.clone(), value: value.clone(), expect, ttl: None }).await.expect("current");
                assert_eq!(got, revision);
                model.insert(key, (value, present.map_or(revision, |p| p.1), revision));
            }
        }
        history.push(model);
        if dice.roll(60) == 0 {
            floor = floor.max(base + dice.roll(revision - base) + 1);
            s.compact(floor).await.expect("compaction");
        }
        let at = floor + dice.roll(revision - floor + 1);
        let page = s.range(b"k", None, 0, Some(at)).await.expect("kept");
        let seen: Model = page.entries.into_iter().map(|e| (e.key, (e.value, e.created, e.modified))).collect();
        assert_eq!(seen, history[(at - base) as usize], "at revision {at} after step {step}");
    }
}

async fn closed_says_so(s: Subject) {
    let one = create(&s, "a", "1").await;
    let mut stream = s.watch(b"", one).await.expect("open");
    s.close().await.expect("closes");
    assert!(matches!(s.get(b"a").await, Err(StoreError::Closed)));
    assert!(matches!(s.write(put("b", "1", Expect::Absent)).await, Err(StoreError::Closed)));
    loop {
        match tokio::time::timeout(PATIENCE, stream.next()).await.expect("the stream ends").expect("with an error") {
            Ok(_) => {}
            Err(StoreError::Closed) => break,
            Err(e) => panic!("expected Closed, got {e}"),
        }
    }
}
