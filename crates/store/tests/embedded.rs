//! The embedded engine: the suite, and what restarts, damage, a full disk and merges keep.

use bytes::Bytes;
use futures::StreamExt;
use keles_store::embedded::{Embedded, Options};
use keles_store::suite::{self, put};
use keles_store::{Change, Expect, Store, StoreError, Watched, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn open(dir: &Path) -> Arc<Embedded> {
    Embedded::open(dir, Options::default()).expect("the store opens")
}

/// Small segments and an eager merge, so that a few writes make it work.
fn small() -> Options {
    Options { segment_bytes: 2000, merge_floor_bytes: 1000, cache_bytes: 400, ..Options::default() }
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(dir).expect("the folder").map(|e| e.expect("an entry").path()).filter(|p| p.extension().is_some_and(|e| e == "log")).collect();
    paths.sort();
    paths
}

async fn create(s: &Embedded, key: &str, value: &str) -> u64 {
    s.write(put(key, value, Expect::Absent)).await.expect("absent")
}

async fn value(s: &Embedded, key: &str) -> Option<Bytes> {
    s.get(key.as_bytes()).await.expect("readable").map(|e| e.value)
}

async fn suite_with(options: Options) {
    let folders = std::sync::Mutex::new(Vec::new());
    suite::check_all(async || {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Embedded::open(dir.path(), options.clone()).expect("opens");
        folders.lock().expect("no panic").push(dir);
        store as Arc<dyn Store>
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_passes_the_suite() {
    suite_with(Options::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_passes_the_suite_while_segments_turn_over_and_merge() {
    suite_with(small()).await;
}

#[tokio::test]
async fn a_restart_keeps_entries_history_and_the_compaction_floor() {
    let dir = tempfile::tempdir().expect("a folder");
    {
        let s = open(dir.path());
        let one = create(&s, "a", "1").await;
        let two = s.write(put("a", "2", Expect::Revision(one))).await.expect("current");
        create(&s, "b", "x").await;
        s.write(put("a", "3", Expect::Revision(two))).await.expect("current");
        let gone = create(&s, "gone", "x").await;
        s.write(Write::Delete { key: Bytes::from_static(b"gone"), expect: gone }).await.expect("current");
        s.compact(3).await.expect("compaction");
        s.close().await.expect("closes");
    }
    let s = open(dir.path());
    assert_eq!(s.revision().await.expect("open"), 6);
    assert!(matches!(s.range(b"", None, 0, Some(2)).await, Err(StoreError::Compacted { oldest: 3, .. })));
    let old = s.range(b"a", None, 0, Some(3)).await.expect("kept").entries;
    assert_eq!((old[0].value.as_ref(), old[0].created, old[0].modified), (b"2".as_slice(), 1, 2));
    assert_eq!(value(&s, "gone").await, None);
    let mut stream = s.watch(b"", 2).await.expect("kept");
    let Some(Ok(Watched::Changes(changes))) = stream.next().await else { panic!("changes come first") };
    assert_eq!(changes.iter().map(|c| c.entry.modified).collect::<Vec<_>>(), [3, 4, 5, 6]);
    assert_eq!(create(&s, "c", "1").await, 7);
}

#[tokio::test]
async fn who_is_fed_knows_a_change_before_its_writer_does() {
    let dir = tempfile::tempdir().expect("a folder");
    let s = open(dir.path());
    let one = create(&s, "a/1", "x").await;
    let two = create(&s, "b/1", "x").await;
    let told = Arc::new(Mutex::new((Vec::new(), 0)));
    let feed = || {
        let told = told.clone();
        Box::new(move |changes: &[Change], revision| {
            let mut told = told.lock().expect("no holder panics");
            told.0.extend(changes.iter().map(|c| (c.entry.clone(), c.deleted)));
            told.1 = revision;
        })
    };
    let last = || told.lock().expect("no holder panics").0.last().map(|(e, deleted)| (e.modified, e.created, e.value.clone(), *deleted));
    let fed = s.feed(b"a/", 0, feed()).await.expect("open").expect("this engine feeds");
    assert_eq!((last(), told.lock().unwrap().1), (Some((one, one, Bytes::from_static(b"x"), false)), two), "what was before comes first");
    let three = s.write(put("a/1", "y", Expect::Revision(one))).await.expect("current");
    assert_eq!(last(), Some((three, one, Bytes::from_static(b"y"), false)));
    let four = create(&s, "b/2", "x").await;
    assert_eq!((last().map(|l| l.0), told.lock().unwrap().1), (Some(three), four), "of others only that they are past");
    let five = s.write(Write::Delete { key: Bytes::from_static(b"a/1"), expect: three }).await.expect("current");
    assert_eq!(last().map(|l| (l.0, l.3)), Some((five, true)));
    drop(fed);
    create(&s, "a/2", "x").await;
    assert_eq!(last().map(|l| l.0), Some(five), "nobody wants it any more");
    assert!(matches!(s.feed(b"a/", 1000, feed()).await, Err(StoreError::Future { .. })));
    s.compact(five).await.expect("compaction");
    assert!(matches!(s.feed(b"a/", one, feed()).await, Err(StoreError::Compacted { .. })));
    let fed = s.feed(b"a/", five, feed()).await.expect("kept").expect("this engine feeds");
    s.close().await.expect("closes");
    fed.await;
}

#[tokio::test]
async fn an_expiry_survives_a_restart() {
    let dir = tempfile::tempdir().expect("a folder");
    let s = open(dir.path());
    let write = |key: &'static str, ms| Write::Put {
        key: Bytes::from_static(key.as_bytes()),
        value: Bytes::from_static(b"v"),
        expect: Expect::Absent,
        ttl: Some(Duration::from_millis(ms)),
    };
    s.write(write("soon", 50)).await.expect("absent");
    let two = s.write(write("later", 3_600_000)).await.expect("absent");
    s.close().await.expect("closes");
    let s = open(dir.path());
    let mut stream = s.watch(b"", two).await.expect("kept");
    let expired = loop {
        match tokio::time::timeout(Duration::from_secs(60), stream.next()).await.expect("it expires") {
            Some(Ok(Watched::Changes(changes))) => break changes,
            Some(Ok(Watched::Progress(_))) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((expired[0].entry.key.as_ref(), expired[0].deleted, expired[0].entry.modified), (b"soon".as_slice(), true, 3));
    assert!(value(&s, "later").await.is_some());
}

#[tokio::test]
async fn a_folder_in_use_is_refused_by_name() {
    let dir = tempfile::tempdir().expect("a folder");
    let s = open(dir.path());
    assert!(matches!(Embedded::open(dir.path(), Options::default()), Err(StoreError::InUse { path }) if path == dir.path().display().to_string()));
    s.close().await.expect("closes");
    open(dir.path());
}

#[tokio::test]
async fn a_last_record_torn_at_any_byte_is_cut_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a folder");
    let s = open(dir.path());
    create(&s, "a", "kept").await;
    let whole = segments(dir.path())[0].metadata().expect("the file").len();
    create(&s, "b", "torn value").await;
    s.close().await.expect("closes");
    let path = segments(dir.path())[0].clone();
    let bytes = std::fs::read(&path).expect("the file");
    for end in whole as usize..bytes.len() {
        // What a crash can leave: a shorter file, or the right length with the end not written.
        for zeros in [false, true] {
            let mut torn = bytes[..end].to_vec();
            if zeros {
                torn.resize(bytes.len(), 0);
            }
            std::fs::write(&path, &torn).expect("writable");
            let s = open(dir.path());
            assert_eq!(s.revision().await.expect("open"), 1, "torn at byte {end}");
            assert_eq!(value(&s, "a").await.as_deref(), Some(b"kept".as_slice()));
            assert_eq!(create(&s, "b", "again").await, 2);
            s.close().await.expect("closes");
            let s = open(dir.path());
            assert_eq!(value(&s, "b").await.as_deref(), Some(b"again".as_slice()), "a write after the cut at {end}");
            s.close().await.expect("closes");
        }
    }
}

#[tokio::test]
async fn a_flipped_byte_before_the_last_record_refuses_to_open_and_names_file_and_offset() {
    let dir = tempfile::tempdir().expect("a folder");
    let s = open(dir.path());
    create(&s, "a", "first").await;
    let last = segments(dir.path())[0].metadata().expect("the file").len() as usize;
    create(&s, "b", "last").await;
    s.close().await.expect("closes");
    let path = segments(dir.path())[0].clone();
    let bytes = std::fs::read(&path).expect("the file");
    for at in 0..last {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x10;
        std::fs::write(&path, &flipped).expect("writable");
        match Embedded::open(dir.path(), Options::default()).map(drop) {
            Err(StoreError::Damaged { path: named, offset, .. }) => {
                assert_eq!(named, path.display().to_string());
                assert!(offset as usize <= at && at - (offset as usize) < last, "byte {at} reported at {offset}");
            }
            other => panic!("byte {at}: expected Damaged, got {other:?}"),
        }
        assert_eq!(std::fs::read(&path).expect("the file"), flipped, "a damaged file is left as it is");
    }
}

#[tokio::test]
async fn a_missing_segment_refuses_to_open() {
    let dir = tempfile::tempdir().expect("a folder");
    let s = Embedded::open(dir.path(), small()).expect("opens");
    for i in 0..100 {
        create(&s, &format!("k{i}"), "some value").await;
    }
    s.close().await.expect("closes");
    let files = segments(dir.path());
    assert!(files.len() > 3, "{files:?}");
    std::fs::remove_file(&files[1]).expect("removable");
    assert!(matches!(Embedded::open(dir.path(), small()).map(drop), Err(StoreError::Damaged { path, .. }) if path == files[1].display().to_string()));
}

#[tokio::test]
async fn a_value_damaged_under_a_running_store_is_an_error_not_a_wrong_answer() {
    let dir = tempfile::tempdir().expect("a folder");
    let s = Embedded::open(dir.path(), Options { cache_bytes: 0, ..Options::default() }).expect("opens");
    create(&s, "a", "precious").await;
    let path = segments(dir.path())[0].clone();
    let mut bytes = std::fs::read(&path).expect("the file");
    let end = bytes.len() - 1;
    bytes[end] ^= 1;
    std::fs::write(&path, bytes).expect("writable");
    assert!(matches!(s.get(b"a").await, Err(StoreError::Damaged { .. })));
}

/// Waits for an event of the file system by asking again; the merge has no other sign.
async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..6000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} did not happen");
}

#[tokio::test]
async fn a_merge_gives_room_back_keeps_the_present_and_does_not_revive_deleted_keys() {
    let dir = tempfile::tempdir().expect("a folder");
    let s = Embedded::open(dir.path(), small()).expect("opens");
    let stays = create(&s, "stays", "from the first segment").await;
    for i in 0..60 {
        let one = create(&s, &format!("k{i}"), "some value that takes room").await;
        s.write(Write::Delete { key: Bytes::from(format!("k{i}")), expect: one }).await.expect("current");
    }
    let last = create(&s, "last", "v").await;
    let before = s.size_bytes().expect("a log has a size");
    s.compact(last).await.expect("compaction");
    until("the merge", || s.size_bytes().expect("a log has a size") < before / 4).await;
    until("the removal of the old files", || segments(dir.path()).len() == 2).await;
    assert_eq!(value(&s, "stays").await.as_deref(), Some(b"from the first segment".as_slice()), "read from its new place");
    let next = create(&s, "next", "v").await;
    assert_eq!(next, last + 1);
    s.close().await.expect("closes");
    let s = Embedded::open(dir.path(), small()).expect("opens");
    let page = s.range(b"", None, 0, None).await.expect("readable");
    let keys: Vec<_> = page.entries.iter().map(|e| (e.key.as_ref(), e.modified)).collect();
    assert_eq!(keys, [(b"last".as_slice(), last), (b"next", next), (b"stays", stays)]);
}

#[tokio::test]
async fn leftovers_of_an_interrupted_merge_are_removed_at_the_next_start() {
    let dir = tempfile::tempdir().expect("a folder");
    let s = Embedded::open(dir.path(), small()).expect("opens");
    for i in 0..60 {
        create(&s, &format!("k{i}"), "some value that takes room").await;
    }
    let files = segments(dir.path());
    let old: Vec<(PathBuf, Vec<u8>)> = files[..files.len() - 1].iter().map(|p| (p.clone(), std::fs::read(p).expect("a file"))).collect();
    for i in 0..60 {
        let at = s.get(format!("k{i}").as_bytes()).await.expect("readable").expect("there").modified;
        s.write(Write::Delete { key: Bytes::from(format!("k{i}")), expect: at }).await.expect("current");
    }
    let last = create(&s, "last", "v").await;
    s.compact(last).await.expect("compaction");
    until("the merge", || segments(dir.path()).len() == 2).await;
    s.close().await.expect("closes");
    // As if the process had been killed after the rename, before the old files were removed; and another time in the middle of writing.
    for (path, bytes) in old {
        std::fs::write(path, bytes).expect("writable");
    }
    std::fs::write(dir.path().join("merge.tmp"), b"half").expect("writable");
    let s = Embedded::open(dir.path(), small()).expect("opens");
    let page = s.range(b"", None, 0, None).await.expect("readable");
    assert_eq!(page.entries.iter().map(|e| e.key.as_ref()).collect::<Vec<_>>(), [b"last".as_slice()]);
    assert_eq!(segments(dir.path()).len(), 2);
    assert!(!dir.path().join("merge.tmp").exists());
}

/// A small file system of its own, unmounted at the end.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(size: &str) -> SmallDisk {
        let dir = tempfile::tempdir().expect("a folder");
        let options = std::ffi::CString::new(format!("size={size}")).expect("no zero byte");
        rustix::mount::mount("tmpfs", dir.path(), "tmpfs", rustix::mount::MountFlags::empty(), options.as_c_str()).expect("mounting a tmpfs needs root");
        SmallDisk(dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_writes_keeps_reads_and_resumes_when_there_is_room() {
    let disk = SmallDisk::new("1m");
    let dir = disk.0.path().join("store");
    let s = open(&dir);
    create(&s, "a", "kept").await;
    let ballast = disk.0.path().join("ballast");
    // write() stores what fits and then fails: the disk is full to the last page.
    assert!(std::fs::write(&ballast, vec![0u8; 2 << 20]).is_err());
    let large = "x".repeat(10_000);
    let writers: Vec<_> = (0..8)
        .map(|i| {
            let (s, large) = (s.clone(), large.clone());
            tokio::spawn(async move { s.write(put(&format!("w{i}"), &large, Expect::Absent)).await })
        })
        .collect();
    for w in writers {
        match w.await.expect("a writer ends") {
            Err(StoreError::Disk { path, source }) => {
                assert!(path.starts_with(dir.to_str().expect("utf-8")));
                assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
            }
            other => panic!("expected Disk, got {other:?}"),
        }
    }
    assert_eq!(s.revision().await.expect("reads go on"), 1);
    assert_eq!(value(&s, "a").await.as_deref(), Some(b"kept".as_slice()));
    assert_eq!(s.range(b"", None, 0, None).await.expect("reads go on").count, 1);
    std::fs::remove_file(&ballast).expect("removable");
    assert_eq!(create(&s, "w0", &large).await, 2);
    s.close().await.expect("closes");
    let s = open(&dir);
    assert_eq!((s.revision().await.expect("open"), s.range(b"", None, 0, None).await.expect("readable").count), (2, 2));
    s.close().await.expect("closes");
}
