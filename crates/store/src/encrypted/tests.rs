use super::*;
use crate::Expect;
use crate::embedded::{Embedded, Options};

pub(super) const KEY: &[u8] = b"/registry/core/secrets/shop/pass";
const K1: &str = "{name: key1, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}";
const K2: &str = "{name: key2, secret: YWJjZGVmMDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODk=}";

fn rules(entries: &str) -> Result<Rules, String> {
    config::parse(format!("apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n{entries}").as_bytes())
}
/// Secrets under these providers, in order.
pub(super) fn secrets(providers: &[&str]) -> Rules {
    let list: String = providers.iter().map(|p| format!("  - {p}\n")).collect();
    rules(&format!("- resources: [secrets]\n  providers:\n{list}")).expect("a good configuration")
}

pub(super) struct World {
    folder: tempfile::TempDir,
}

impl World {
    pub(super) fn new() -> World {
        World { folder: tempfile::tempdir().expect("a folder") }
    }
    pub(super) async fn over(&self, rules: Rules, f: impl AsyncFnOnce(Arc<dyn Store>, Arc<dyn Store>)) {
        let plain: Arc<dyn Store> = Embedded::open(&self.folder.path().join("s"), Options::default()).expect("opens");
        f(Encrypted::new(plain.clone(), rules), plain.clone()).await;
        plain.close().await.expect("closes");
    }
}

pub(super) async fn put(s: &dyn Store, value: &'static str, expect: Expect) -> u64 {
    s.write(Write::Put { key: Bytes::from_static(KEY), value: Bytes::from_static(value.as_bytes()), expect, ttl: None }).await.expect("a write")
}
pub(super) async fn read(s: &dyn Store) -> Result<Bytes, StoreError> {
    Ok(s.get(KEY).await?.expect("it is there").value)
}

#[tokio::test]
async fn every_provider_hides_the_value_and_gives_it_back() {
    for (provider, prefix) in [
        (format!("aescbc: {{keys: [{K1}]}}"), "k8s:enc:aescbc:v1:key1:"),
        (format!("aesgcm: {{keys: [{K1}]}}"), "k8s:enc:aesgcm:v1:key1:"),
        ("aesgcm: {keys: [{name: k, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3}]}".to_owned(), "k8s:enc:aesgcm:v1:k:"),
        (format!("secretbox: {{keys: [{K1}]}}"), "k8s:enc:secretbox:v1:key1:"),
        ("identity: {}".to_owned(), "hidden"),
    ] {
        World::new()
            .over(secrets(&[&provider]), async |s, plain| {
                let revision = put(&*s, "hidden", Expect::Absent).await;
                assert!(plain.get(KEY).await.unwrap().unwrap().value.starts_with(prefix.as_bytes()), "{provider}");
                assert_eq!(read(&*s).await.unwrap(), "hidden", "{provider}");
                let page = s.range(b"/registry/", None, 0, None).await.unwrap();
                assert_eq!(page.entries[0].value, "hidden", "{provider}");
                let mut w = s.watch(b"/registry/", 0).await.unwrap();
                let Some(Ok(Watched::Changes(c))) = w.next().await else { panic!("a change") };
                assert_eq!((c[0].entry.value.as_ref(), c[0].entry.modified), (b"hidden".as_slice(), revision), "{provider}");
                assert!(!s.stale(KEY), "{provider}");
            })
            .await;
    }
}

#[tokio::test]
async fn a_key_is_rotated_by_writing_anew_and_old_data_stays_readable() {
    let w = World::new();
    w.over(secrets(&["identity: {}"]), async |s, _| {
        put(&*s, "old", Expect::Absent).await;
    })
    .await;
    let (one, both) = (format!("aescbc: {{keys: [{K1}]}}"), format!("aescbc: {{keys: [{K2}, {K1}]}}"));
    w.over(secrets(&[&one, "identity: {}"]), async |s, plain| {
        assert_eq!(read(&*s).await.unwrap(), "old");
        assert!(s.stale(KEY), "written before there was encryption");
        let at = s.get(KEY).await.unwrap().unwrap().modified;
        put(&*s, "old", Expect::Revision(at)).await;
        assert_eq!(read(&*s).await.unwrap(), "old");
        assert!(!s.stale(KEY) && plain.get(KEY).await.unwrap().unwrap().value.starts_with(b"k8s:enc:aescbc:v1:key1:"));
    })
    .await;
    w.over(secrets(&[&both]), async |s, plain| {
        assert_eq!(read(&*s).await.unwrap(), "old");
        assert!(s.stale(KEY), "an older key");
        let at = s.get(KEY).await.unwrap().unwrap().modified;
        put(&*s, "new", Expect::Revision(at)).await;
        assert!(plain.get(KEY).await.unwrap().unwrap().value.starts_with(b"k8s:enc:aescbc:v1:key2:"));
    })
    .await;
}

#[tokio::test]
async fn a_wrong_or_missing_key_is_a_clear_error_that_names_the_object() {
    let w = World::new();
    w.over(secrets(&[&format!("aesgcm: {{keys: [{K1}]}}")]), async |s, _| {
        put(&*s, "x", Expect::Absent).await;
    })
    .await;
    let wrong = K2.replace("key2", "key1");
    for (provider, words) in [
        (format!("aesgcm: {{keys: [{wrong}]}}"), "not the one it was written with"),
        (format!("aesgcm: {{keys: [{K2}]}}"), "no matching key was found for the provided aesgcm transformer"),
        (format!("secretbox: {{keys: [{K1}]}}"), "no matching prefix found"),
        ("identity: {}".to_owned(), "no matching prefix found"),
    ] {
        w.over(secrets(&[&provider]), async |s, _| {
            let e = read(&*s).await.expect_err("unreadable").to_string();
            assert!(e.contains("/registry/core/secrets/shop/pass") && e.contains(words), "{provider}: {e}");
            let other = Bytes::from_static(b"/registry/core/configmaps/shop/c");
            let there = s.get(&other).await.unwrap().map_or(Expect::Absent, |e| Expect::Revision(e.modified));
            s.write(Write::Put { key: other.clone(), value: Bytes::from_static(b"plain"), expect: there, ttl: None }).await.unwrap();
            let page = s.range(b"/registry/", None, 0, None).await.unwrap();
            assert_eq!(page.entries.iter().map(|e| e.key.clone()).collect::<Vec<_>>(), [other], "{provider}: the others are read");
            assert!(page.unreadable.len() == 1 && page.unreadable[0].0 == KEY && page.unreadable[0].1.contains(words), "{provider}: {:?}", page.unreadable);
            let taken = s.write(Write::Put { key: Bytes::from_static(KEY), value: Bytes::from_static(b"y"), expect: Expect::Absent, ttl: None }).await;
            assert!(matches!(taken, Err(StoreError::Conflict { current: None })), "{provider}");
            let mut w = s.watch(b"/registry/", 0).await.unwrap();
            let Some(Ok(Watched::Changes(c))) = w.next().await else { panic!("a change") };
            assert!(c[0].unreadable.as_ref().is_some_and(|why| why.contains(words)) && c[0].entry.value.is_empty(), "{provider}: {:?}", c[0]);
        })
        .await;
    }
}

#[tokio::test]
async fn other_rules_take_effect_at_once_and_what_lies_under_old_ones_is_stale() {
    let (one, both, none) = (format!("aesgcm: {{keys: [{K1}]}}"), format!("aesgcm: {{keys: [{K2}, {K1}]}}"), format!("aesgcm: {{keys: [{K2}]}}"));
    let plain: Arc<dyn Store> = Embedded::open(&tempfile::tempdir().unwrap().path().join("s"), Options::default()).unwrap();
    let s = Encrypted::new(plain.clone(), secrets(&[&one]));
    let first = put(&*s, "x", Expect::Absent).await;
    s.replace(secrets(&[&both])).await.unwrap();
    assert!(s.stale(KEY), "known without a read in between");
    assert_eq!(read(&*s).await.unwrap(), "x");
    put(&*s, "x", Expect::Revision(first)).await;
    assert!(plain.get(KEY).await.unwrap().unwrap().value.starts_with(b"k8s:enc:aesgcm:v1:key2:"));
    s.replace(secrets(&[&none])).await.unwrap();
    assert!(!s.stale(KEY) && read(&*s).await.is_ok());
    plain.close().await.unwrap();
}

#[tokio::test]
async fn a_gcm_value_moved_to_another_key_is_refused() {
    World::new()
        .over(secrets(&[&format!("aesgcm: {{keys: [{K1}]}}")]), async |s, plain| {
            put(&*s, "x", Expect::Absent).await;
            let stolen = plain.get(KEY).await.unwrap().unwrap().value;
            let other = Bytes::from_static(b"/registry/core/secrets/shop/other");
            plain.write(Write::Put { key: other.clone(), value: stolen, expect: Expect::Absent, ttl: None }).await.unwrap();
            assert!(matches!(s.get(&other).await, Err(StoreError::Transform { source: TransformError::Damaged(_), .. })));
        })
        .await;
}

#[test]
fn resources_are_matched_in_order_with_wildcards() {
    let box_of = |r: &str| format!("- resources: [{r}]\n  providers: [{{secretbox: {{keys: [{K1}]}}}}]\n");
    let r = rules(&format!("{}{}{}", box_of("secrets"), box_of("'*.apps'"), box_of("'*.'"))).expect("good");
    let at = |key: &str| r.0.iter().position(|r| r.resources.iter().any(|p| p.matches(key.as_bytes())));
    assert_eq!(at("/registry/core/secrets/a/b"), Some(0));
    assert_eq!(at("/registry/apps/deployments/a/b"), Some(1));
    assert_eq!(at("/registry/core/pods/a/b"), Some(2));
    assert_eq!(at("/registry/batch/jobs/a/b"), None);
    let why = |text: &str| rules(text).err().unwrap_or_default();
    assert!(why(&format!("{}{}", box_of("'*.*'"), box_of("secrets"))).contains("masked by an earlier rule"));
    assert!(why("- resources: [secrets]\n  providers: [{aescbc: {keys: [{name: k, secret: c2hvcnQ=}]}}]\n").contains("got 5"));
    assert!(why("- resources: [secrets]\n  providers: [{}]\n").contains("does not contain any"));
    assert!(why("- resources: [secrets]\n  providers: [{kms: {apiVersion: v1, name: k, endpoint: 'unix:///x'}}]\n").contains("only v2 is supported"));
}
