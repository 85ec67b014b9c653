//! Pulling from registries on loopback: good ones, bad ones, mirrors.

mod world;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keles_images::{Auth, ImageError, Images, Options, PullEvent, Pulled, Registries, RegistryFault};
use keles_oci::Digest;
use keles_testkit::registry::{Blobs, Fault, Registry};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use world::{Tar, gzip};

fn layer(name: &str) -> Vec<u8> {
    // Not compressible: a blob broken off in the middle lacks content, not padding.
    let content: Vec<u8> = (0u32..50_000).flat_map(|i| (i.wrapping_mul(2_654_435_761) ^ name.len() as u32).to_le_bytes()).collect();
    Tar::new().file(name, &content).done()
}

/// Three layers: gzip, zstd, plain.
fn image() -> Blobs {
    let (a, b, c) = (layer("a"), layer("bb"), layer("ccc"));
    Blobs::new(&[(a.clone(), gzip(&a)), (b.clone(), zstd::encode_all(&b[..], 1).expect("memory")), (c.clone(), c)])
}

/// One layer, as gzip.
fn small() -> Blobs {
    let a = layer("a");
    Blobs::new(&[(a.clone(), gzip(&a))])
}

fn open(dir: &tempfile::TempDir) -> Images {
    Images::open(&dir.path().join("images")).expect("opens")
}

fn open_with(dir: &tempfile::TempDir, options: Options) -> Images {
    Images::open_with(&dir.path().join("images"), options).expect("opens")
}

fn registries(yaml: &str) -> Options {
    Options { registries: Registries::parse(yaml, Path::new("registries.yaml")).expect("a good file"), ..Options::default() }
}

fn temp() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn files_in(dir: &tempfile::TempDir, folder: &str) -> usize {
    std::fs::read_dir(dir.path().join("images").join(folder)).expect("the folder").count()
}

fn login(user: &str, host: &str) -> Auth {
    Auth { registry: host.into(), username: user.into(), password: "secret".into(), ..Auth::default() }
}

fn is_denied(result: &Result<Pulled, ImageError>) -> bool {
    matches!(result, Err(ImageError::Pull { fault: RegistryFault::Denied { .. }, .. }))
}

#[tokio::test]
async fn an_image_is_pulled_once_and_known_by_tag_and_digest() {
    let (registry, dir, image) = (Registry::start().await, temp(), image());
    registry.serve("team/app", "v1", &image);
    let images = open(&dir);
    let name = format!("{}/team/app:v1", registry.host);
    let events = Arc::new(Mutex::new(Vec::new()));
    let heard = events.clone();
    let pulled = images.pull(&name, &[], Some(Arc::new(move |e| heard.lock().expect("no panic").push(e)))).await.expect("pulls").image;
    assert_eq!((pulled.id.as_str(), pulled.tags.as_slice()), (image.config.as_str(), [name.clone()].as_slice()));
    assert_eq!(pulled.digests, [format!("{}/team/app@{}", registry.host, image.manifest)]);
    assert_eq!((pulled.layers.len(), pulled.size_bytes), (3, 600_000));
    assert!(pulled.layers[0].join("ccc").exists() && pulled.layers[1].join("bb").exists() && pulled.layers[2].join("a").exists());
    assert_eq!(events.lock().expect("no panic").iter().filter(|e| matches!(e, PullEvent::Unpacked { .. })).count(), 3);
    assert_eq!(files_in(&dir, "partial"), 0, "what came is gone when the layers are made");
    let blobs_before = registry.count("/blobs/");
    let again = images.pull(&pulled.digests[0], &[], None).await.expect("by digest").image;
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
    let pulled = images.pull(&format!("{}/app:multi", registry.host), &[], None).await.expect("pulls").image;
    assert_eq!(pulled.id, image.config);
    assert_eq!(pulled.digests, [format!("{}/app@{}", registry.host, Digest::of(index.as_bytes()))], "the digest users pin is the index's");
    registry.put("/v2/app/manifests/foreign", index.replace(&arch, "riscv64").as_bytes());
    assert!(matches!(images.pull(&format!("{}/app:foreign", registry.host), &[], None).await, Err(ImageError::Platform { .. })));
    let inner = Digest::of(index.as_bytes());
    registry.put(&format!("/v2/app/manifests/{inner}"), index.as_bytes());
    let outer = serde_json::json!({"manifests": [{"digest": inner, "size": 1, "platform": {"os": "linux", "architecture": arch}}]}).to_string();
    registry.put("/v2/app/manifests/nested", outer.as_bytes());
    assert_eq!(images.pull(&format!("{}/app:nested", registry.host), &[], None).await.expect("through both").image.id, image.config);
}

#[tokio::test]
async fn empty_layers_and_foreign_ones_are_pulled() {
    let (registry, elsewhere, dir) = (Registry::start().await, Registry::start().await, temp());
    let (empty, a) = (Tar::new().done(), layer("a"));
    let mut image = Blobs::new(&[(empty.clone(), gzip(&empty)), (Vec::new(), gzip(b"")), (a.clone(), gzip(&a))]);
    let blob = image.layers[2].clone();
    elsewhere.put("/away/layer", &gzip(&a));
    let mut manifest: serde_json::Value = serde_json::from_slice(&image.blobs[&image.manifest]).expect("JSON");
    manifest["layers"][2]["mediaType"] = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip".into();
    manifest["layers"][2]["urls"] = serde_json::json!(["https://127.0.0.1:1/nobody", format!("{}/away/layer", elsewhere.url)]);
    image.manifest = Digest::of(manifest.to_string().as_bytes()).to_string();
    image.blobs.insert(image.manifest.clone(), manifest.to_string().into_bytes());
    registry.serve("app", "v1", &image);
    registry.forget(&format!("/v2/app/blobs/{blob}"));
    registry.demand_basic(&[&STANDARD.encode("me:secret")]);
    let pulled = open(&dir).pull(&format!("{}/app:v1", registry.host), &[login("me", "")], None).await.expect("pulls").image;
    assert!(pulled.layers[0].join("a").exists());
    assert_eq!(pulled.layers.len(), 3);
    assert_eq!(elsewhere.log().iter().map(|asked| asked.authorization.as_str()).collect::<Vec<_>>(), [""], "no credential goes to an address that an image names");
}

#[tokio::test]
async fn a_token_is_fetched_with_the_credential_that_fits_and_does_not_follow_redirects() {
    let (registry, dir, image) = (Registry::start().await, temp(), image());
    registry.serve("app", "v1", &image);
    registry.demand_bearer(&[&STANDARD.encode("me:secret")]);
    registry.redirect_blobs();
    let images = open(&dir);
    let name = format!("{}/app:v1", registry.host);
    for auths in [vec![], vec![login("stranger", "")], vec![login("me", "elsewhere.example:5000")]] {
        let result = images.pull(&name, &auths, None).await;
        assert!(is_denied(&result), "{result:?}");
    }
    let pulled = images.pull(&name, &[login("stranger", ""), login("me", &registry.host)], None).await.expect("the second credential is good");
    assert_eq!(pulled.accepted, Some(1));
    assert_eq!(registry.count("/storage/"), 4, "configuration and layers came from the storage server");
}

#[tokio::test]
async fn basic_authentication_over_tls_with_an_authority_of_its_own_by_registries_yaml() {
    let (registry, dir, image) = (Registry::start_tls(true).await, temp(), image());
    registry.serve("app", "v1", &image);
    registry.demand_basic(&[&STANDARD.encode("me:secret")]);
    let file = |name: &str, text: &str| world::write(dir.path(), name, text.as_bytes()).display().to_string();
    let (ca, certificate, key) = (file("ca.pem", &registry.ca_pem), file("client.pem", &registry.client_pem.0), file("client.key", &registry.client_pem.1));
    let host = &registry.host;
    let auth = "auth: {username: me, password: secret}";
    let name = format!("{host}/app:v1");
    let refused = |result: Result<Pulled, ImageError>| matches!(result, Err(ImageError::Pull { fault: RegistryFault::Unreachable { .. }, .. }));
    // The machine does not know the authority; with it, the registry does not know us.
    assert!(refused(open_with(&dir, registries(&format!("mirrors: {{\"{host}\": {{endpoint: [\"https://{host}\"]}}}}"))).pull(&name, &[], None).await));
    assert!(refused(open_with(&dir, registries(&format!("configs: {{\"{host}\": {{{auth}, tls: {{ca_file: {ca}}}}}}}"))).pull(&name, &[], None).await));
    assert!(registry.log().is_empty(), "nothing was asked before each believed the other");
    let both = format!("cert_file: {certificate}, key_file: {key}");
    let without_auth = open_with(&dir, registries(&format!("configs: {{\"{host}\": {{tls: {{ca_file: {ca}, {both}}}}}}}"))).pull(&name, &[], None).await;
    assert!(is_denied(&without_auth), "{without_auth:?}");
    let images = open_with(&dir, registries(&format!("configs: {{\"{host}\": {{{auth}, tls: {{ca_file: {ca}, {both}}}}}}}")));
    let pulled = images.pull(&name, &[], None).await.expect("both believe each other");
    assert_eq!((pulled.image.layers.len(), pulled.accepted), (3, None));
    images.remove(&name).await.expect("removed");
    let lax = open_with(&dir, registries(&format!("configs: {{\"{host}\": {{{auth}, tls: {{insecure_skip_verify: true, {both}}}}}}}")));
    lax.pull(&name, &[], None).await.expect("told not to look");
}

#[tokio::test]
async fn mirrors_are_asked_first_under_their_own_names_and_with_their_own_credentials() {
    let (absent, mirror, dir, image) = (Registry::start().await, Registry::start().await, temp(), small());
    mirror.serve("cache/team/app", "v1", &image);
    mirror.demand_basic(&[&STANDARD.encode("mirror:secret")]);
    let yaml = format!(
        "mirrors:\n  nowhere.example:\n    endpoint: [\"{}\", \"{}\"]\n    rewrite: {{\"^(.*)$\": \"cache/$1\"}}\nconfigs:\n  \"{}\":\n    auth: {{username: mirror, password: secret}}\n",
        absent.url, mirror.url, mirror.host
    );
    let pulled = open_with(&dir, registries(&yaml)).pull("nowhere.example/team/app:v1", &[], None).await.expect("the second mirror has it").image;
    assert_eq!((pulled.tags, pulled.digests), (vec!["nowhere.example/team/app:v1".to_string()], vec![format!("nowhere.example/team/app@{}", image.manifest)]));
    assert_eq!(absent.log()[0].path, "/v2/cache/team/app/manifests/v1");
    assert_eq!(absent.log()[0].query, "ns=nowhere.example");
    // Everything's mirror, and the registry itself after it.
    let everybody = open_with(&dir, registries(&format!("mirrors: {{\"*\": {{endpoint: [\"{}\"]}}}}", absent.url)));
    mirror.serve("own", "v1", &image);
    everybody.pull(&format!("{}/own:v1", mirror.host), &[login("mirror", "")], None).await.expect("from the registry itself");
    assert_eq!(absent.count("/v2/own/manifests/v1"), 1, "the mirror was asked first");
}

#[tokio::test]
async fn an_unreachable_registry_and_a_missing_image_say_what_to_do() {
    let dir = temp();
    let images = open(&dir);
    let error = images.pull("localhost:1/app:v1", &[], None).await.expect_err("nobody listens");
    let text = error.to_string();
    assert!(text.contains("localhost:1/app:v1") && text.contains("onnection refused") && text.contains("check"), "{text}");
    let registry = Registry::start().await;
    let error = images.pull(&format!("{}/absent", registry.host), &[], None).await.expect_err("not there");
    assert!(matches!(&error, ImageError::Pull { fault: RegistryFault::NotFound { .. }, .. }), "{error}");
    assert!(matches!(images.pull("Bad Name", &[], None).await, Err(ImageError::Name { .. })));
}

/// The ranges with which a blob was asked for.
fn ranges(registry: &Registry, blob: &str) -> Vec<String> {
    registry.log().into_iter().filter(|asked| asked.path.contains(blob)).map(|asked| asked.range).collect()
}

#[tokio::test]
async fn a_cut_connection_is_gone_on_with_where_it_broke() {
    let (registry, dir, image) = (Registry::start().await, temp(), small());
    registry.serve("app", "v1", &image);
    let blob = &image.layers[0];
    registry.fault(blob, Fault::Cut(70_000), 1);
    registry.fault(blob, Fault::Status(503), 1);
    registry.fault(blob, Fault::Cut(50_000), 1);
    let pulled = open(&dir).pull(&format!("{}/app:v1", registry.host), &[], None).await.expect("the fourth connection is whole").image;
    assert!(pulled.layers[0].join("a").exists());
    assert_eq!(ranges(&registry, blob), ["", "bytes=70000-", "bytes=70000-", "bytes=120000-"]);
}

#[tokio::test]
async fn a_connection_that_breaks_is_tried_again() {
    let (registry, dir, image) = (Registry::start().await, temp(), small());
    registry.serve("app", "v1", &image);
    registry.fault(&image.layers[0], Fault::Break, 3);
    let pulled = open(&dir).pull(&format!("{}/app:v1", registry.host), &[], None).await.expect("the fourth connection is whole").image;
    assert!(pulled.layers[0].join("a").exists());
    assert_eq!(registry.count(&image.layers[0]), 4);
}

#[tokio::test]
async fn a_server_without_ranges_sends_everything_again() {
    let (registry, dir, image) = (Registry::start().await, temp(), small());
    registry.serve("app", "v1", &image);
    registry.without_ranges();
    registry.fault(&image.layers[0], Fault::Cut(70_000), 1);
    let pulled = open(&dir).pull(&format!("{}/app:v1", registry.host), &[], None).await.expect("what is known is passed over").image;
    assert!(pulled.layers[0].join("a").exists());
}

#[tokio::test]
async fn another_process_goes_on_with_what_came_and_what_rotted_is_fetched_anew() {
    let (registry, dir, image) = (Registry::start().await, temp(), small());
    registry.serve("app", "v1", &image);
    let (blob, name) = (&image.layers[0], format!("{}/app:v1", registry.host));
    registry.fault(blob, Fault::Cut(60_000), 1);
    registry.fault(blob, Fault::Status(403), 1);
    assert!(is_denied(&open(&dir).pull(&name, &[], None).await), "refused while going on: the pull fails");
    assert_eq!(files_in(&dir, "partial"), 1);
    open(&dir).pull(&name, &[], None).await.expect("goes on");
    assert_eq!(ranges(&registry, blob), ["", "bytes=60000-", "bytes=60000-"]);

    let other = temp();
    registry.fault(blob, Fault::Cut(60_000), 1);
    registry.fault(blob, Fault::Status(403), 1);
    assert!(is_denied(&open(&other).pull(&name, &[], None).await));
    let partial = std::fs::read_dir(other.path().join("images/partial")).expect("the folder").next().expect("one").expect("readable").path();
    std::fs::write(&partial, vec![0; 60_000]).expect("writable");
    open(&other).pull(&name, &[], None).await.expect("from its beginning");
    assert_eq!(ranges(&registry, blob)[3..], ["", "bytes=60000-", "bytes=60000-", ""]);
    assert_eq!(files_in(&other, "partial"), 0);
}

#[tokio::test]
async fn a_registry_that_hangs_is_left_after_its_time_and_gone_on_with_elsewhere() {
    let (registry, dir, image) = (Registry::start().await, temp(), small());
    registry.serve("app", "v1", &image);
    let blob = &image.layers[0];
    let (name, short) = (format!("{}/app:v1", registry.host), Options { silence_limit: Duration::from_secs(5), ..Options::default() });
    registry.fault(blob, Fault::Silence(30_000), 1);
    open_with(&dir, short.clone()).pull(&name, &[], None).await.expect("another connection brings the rest");
    assert_eq!(ranges(&registry, blob)[..2], ["", "bytes=30000-"]);
    registry.fault("/manifests/v1", Fault::Silence(1), usize::MAX);
    let error = open_with(&dir, short).pull(&name, &[], None).await.expect_err("it says nothing, ever");
    assert!(matches!(&error, ImageError::Pull { fault: RegistryFault::Unreachable { .. }, .. }), "{error}");
}

#[tokio::test]
async fn content_that_does_not_match_its_digest_is_refused_and_leaves_nothing() {
    let (registry, dir, image) = (Registry::start().await, temp(), small());
    registry.serve("app", "v1", &image);
    let mut evil = gzip(&layer("evil"));
    let images = open(&dir);
    let name = format!("{}/app:v1", registry.host);
    evil.resize(image.blobs[&image.layers[0]].len(), 0);
    registry.put(&format!("/v2/app/blobs/{}", image.layers[0]), &evil);
    let error = images.pull(&name, &[], None).await.expect_err("other content");
    assert!(matches!(error, ImageError::Mismatch { .. }), "{error}");
    evil.push(0);
    registry.put(&format!("/v2/app/blobs/{}", image.layers[0]), &evil);
    let error = images.pull(&name, &[], None).await.expect_err("more than was said");
    assert!(error.to_string().contains("more than the"), "{error}");
    registry.put(&format!("/v2/app/manifests/{}", image.manifest), b"{}");
    assert!(matches!(images.pull(&format!("{}/app@{}", registry.host, image.manifest), &[], None).await, Err(ImageError::Mismatch { .. })));
    assert!(images.list().await.expect("readable").is_empty());
    assert_eq!((files_in(&dir, "layers"), files_in(&dir, "tmp")), (0, 0));
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
        assert_eq!(pull.await.expect("no panic").expect("pulls").image.layers.len(), 3);
    }
    for digest in &image.layers {
        assert_eq!(registry.count(digest), 1, "{digest}");
    }
}

#[tokio::test]
async fn pulls_wait_for_their_turn() {
    let (registry, dir, image) = (Registry::start().await, temp(), small());
    registry.serve("app", "v1", &image);
    registry.put("/v2/slow/manifests/v1", b"never sent");
    registry.fault("/v2/slow/", Fault::Silence(0), usize::MAX);
    let images = open_with(&dir, Options { parallel_pulls: Some(1), ..Options::default() });
    let (first, name) = (images.clone(), format!("{}/slow:v1", registry.host));
    let first = tokio::spawn(async move { first.pull(&name, &[], None).await });
    while registry.count("/v2/slow/") == 0 {
        tokio::task::yield_now().await;
    }
    let name = format!("{}/app:v1", registry.host);
    let mut second = Box::pin(images.pull(&name, &[], None));
    assert!(futures::poll!(&mut second).is_pending());
    assert_eq!(registry.count("/v2/app/"), 0, "not before the first ends");
    first.abort();
    assert!(first.await.is_err_and(|e| e.is_cancelled()));
    second.await.expect("its turn");
}
