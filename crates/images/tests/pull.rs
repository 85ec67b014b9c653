//! Pulling from a registry on loopback.

mod world;

use base64::Engine;
use keles_images::{Auth, ImageError, Images, PullEvent, RegistryFault};
use keles_oci::Digest;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use world::{Blobs, Registry, Tar, blobs, gzip};

fn layer(name: &str) -> Vec<u8> {
    // Not compressible: a blob broken off in the middle lacks content, not padding.
    let content: Vec<u8> = (0u32..50_000).flat_map(|i| (i.wrapping_mul(2_654_435_761) ^ name.len() as u32).to_le_bytes()).collect();
    Tar::new().file(name, &content).done()
}

/// Three layers: gzip, zstd, plain.
fn image() -> Blobs {
    let (a, b, c) = (layer("a"), layer("bb"), layer("ccc"));
    blobs(&[(a.clone(), gzip(&a)), (b.clone(), zstd::encode_all(&b[..], 1).expect("memory")), (c.clone(), c)])
}

fn open(dir: &tempfile::TempDir) -> Images {
    Images::open(&dir.path().join("images")).expect("opens")
}

fn temp() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

#[tokio::test]
async fn an_image_is_pulled_once_and_known_by_tag_and_digest() {
    let (registry, dir, image) = (Registry::start().await, temp(), image());
    registry.serve("team/app", "v1", &image);
    let images = open(&dir);
    let name = format!("{}/team/app:v1", registry.host);
    let events = Arc::new(Mutex::new(Vec::new()));
    let heard = events.clone();
    let pulled = images.pull(&name, &[], Some(Arc::new(move |e| heard.lock().expect("no panic").push(e)))).await.expect("pulls");
    assert_eq!((pulled.id.as_str(), pulled.tags.as_slice()), (image.config.as_str(), [name.clone()].as_slice()));
    assert_eq!(pulled.digests, [format!("{}/team/app@{}", registry.host, image.manifest)]);
    assert_eq!((pulled.layers.len(), pulled.size_bytes), (3, 600_000));
    assert!(pulled.layers[0].join("ccc").exists() && pulled.layers[1].join("bb").exists() && pulled.layers[2].join("a").exists());
    assert_eq!(events.lock().expect("no panic").iter().filter(|e| matches!(e, PullEvent::Unpacked { .. })).count(), 3);
    let blobs_before = registry.count("/blobs/");
    let again = images.pull(&pulled.digests[0], &[], None).await.expect("by digest");
    assert_eq!(again.id, pulled.id);
    assert_eq!(registry.count("/blobs/"), blobs_before + 1, "only the configuration comes again");
    assert_eq!(images.get(&pulled.digests[0]).await.expect("readable").map(|i| i.tags), Some(vec![name]));
}

#[tokio::test]
async fn an_index_leads_to_the_manifest_of_this_machine() {
    let (registry, dir, image) = (Registry::start().await, temp(), image());
    registry.serve("app", "single", &image);
    let arch = keles_oci::Platform::host().architecture;
    let index = serde_json::json!({"manifests": [
        {"digest": Digest::of(b"other"), "size": 1, "platform": {"os": "linux", "architecture": "s390x"}},
        {"digest": image.manifest, "size": 1, "platform": {"os": "linux", "architecture": arch}},
    ]})
    .to_string();
    registry.put("/v2/app/manifests/multi", index.as_bytes());
    let images = open(&dir);
    let pulled = images.pull(&format!("{}/app:multi", registry.host), &[], None).await.expect("pulls");
    assert_eq!(pulled.id, image.config.to_string());
    assert_eq!(pulled.digests, [format!("{}/app@{}", registry.host, Digest::of(index.as_bytes()))], "the digest users pin is the index's");
    registry.put("/v2/app/manifests/foreign", index.replace(&arch, "riscv64").as_bytes());
    assert!(matches!(images.pull(&format!("{}/app:foreign", registry.host), &[], None).await, Err(ImageError::Platform { .. })));
}

#[tokio::test]
async fn a_token_is_fetched_with_the_credential_that_fits_and_does_not_follow_redirects() {
    let (registry, dir, image) = (Registry::start().await, temp(), image());
    registry.serve("app", "v1", &image);
    registry.demand(&base64::engine::general_purpose::STANDARD.encode("me:secret"));
    registry.redirect_blobs();
    let images = open(&dir);
    let name = format!("{}/app:v1", registry.host);
    let auth = |user: &str, host: &str| Auth { registry: host.into(), username: user.into(), password: "secret".into(), ..Auth::default() };
    for auths in [vec![], vec![auth("stranger", "")], vec![auth("me", "elsewhere.example:5000")]] {
        match images.pull(&name, &auths, None).await {
            Err(ImageError::Pull { fault: RegistryFault::Denied { .. }, .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    images.pull(&name, &[auth("stranger", ""), auth("me", &registry.host)], None).await.expect("the second credential is good");
    assert_eq!(registry.count("/storage/"), 4, "configuration and layers came from the storage server");
}

#[tokio::test]
async fn an_unreachable_registry_and_a_missing_image_fail_quickly_and_say_what_to_do() {
    let dir = temp();
    let images = open(&dir);
    let begun = Instant::now();
    let error = images.pull("localhost:1/app:v1", &[], None).await.expect_err("nobody listens");
    assert!(begun.elapsed() < Duration::from_secs(2));
    let text = error.to_string();
    assert!(text.contains("localhost:1/app:v1") && text.contains("onnection refused") && text.contains("check"), "{text}");
    let registry = Registry::start().await;
    let error = images.pull(&format!("{}/absent", registry.host), &[], None).await.expect_err("not there");
    assert!(matches!(&error, ImageError::Pull { fault: RegistryFault::NotFound { .. }, .. }), "{error}");
    assert!(matches!(images.pull("Bad Name", &[], None).await, Err(ImageError::Name { .. })));
}

#[tokio::test]
async fn a_connection_that_breaks_is_tried_again() {
    let (registry, dir) = (Registry::start().await, temp());
    let a = layer("a");
    let image = blobs(&[(a.clone(), gzip(&a))]);
    registry.serve("app", "v1", &image);
    let blob = Digest::of(&gzip(&a));
    registry.break_once(blob.as_str());
    let pulled = open(&dir).pull(&format!("{}/app:v1", registry.host), &[], None).await.expect("the second try is whole");
    assert!(pulled.layers[0].join("a").exists());
    assert_eq!(registry.count(blob.as_str()), 2);
}

#[tokio::test]
async fn content_that_does_not_match_its_digest_is_refused_and_leaves_nothing() {
    let (registry, dir) = (Registry::start().await, temp());
    let a = layer("a");
    let image = blobs(&[(a.clone(), gzip(&a))]);
    registry.serve("app", "v1", &image);
    registry.put(&format!("/v2/app/blobs/{}", Digest::of(&gzip(&a))), &gzip(&layer("evil")));
    let images = open(&dir);
    let name = format!("{}/app:v1", registry.host);
    assert!(matches!(images.pull(&name, &[], None).await, Err(ImageError::Mismatch { .. })));
    registry.put(&format!("/v2/app/manifests/{}", image.manifest), b"{}");
    assert!(matches!(images.pull(&format!("{}/app@{}", registry.host, image.manifest), &[], None).await, Err(ImageError::Mismatch { .. })));
    assert!(images.list().await.expect("readable").is_empty());
    assert_eq!(std::fs::read_dir(dir.path().join("images/layers")).expect("the folder").count(), 0);
    assert_eq!(std::fs::read_dir(dir.path().join("images/tmp")).expect("the folder").count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_pulls_of_one_image_fetch_each_layer_once() {
    let (registry, dir, image) = (Registry::start().await, temp(), image());
    registry.serve("app", "v1", &image);
    let name = format!("{}/app:v1", registry.host);
    let images = open(&dir);
    let pulls: Vec<_> = (0..6)
        .map(|_| {
            let (images, name) = (images.clone(), name.clone());
            tokio::spawn(async move { images.pull(&name, &[], None).await })
        })
        .collect();
    for pull in pulls {
        assert_eq!(pull.await.expect("no panic").expect("pulls").layers.len(), 3);
    }
    let layers = image.blobs.keys().filter(|d| **d != image.manifest.to_string() && **d != image.config.to_string());
    for digest in layers {
        assert_eq!(registry.count(digest), 1, "{digest}");
    }
}
