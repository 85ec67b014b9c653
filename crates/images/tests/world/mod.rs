//! Test images made in memory: tars, archives, and a registry on loopback.

#![allow(dead_code, reason = "each test binary uses its part")]

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use keles_oci::Digest;
use std::collections::HashMap;
use std::convert::Infallible;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tar::{Builder, EntryType, Header};

/// A tar in the making. Names are written as they are, also those that the tar crate would refuse.
pub struct Tar(Builder<Vec<u8>>);

impl Tar {
    pub fn new() -> Tar {
        Tar(Builder::new(Vec::new()))
    }

    fn header(kind: EntryType, name: &str, mode: u32) -> Header {
        let mut header = Header::new_ustar();
        header.as_ustar_mut().expect("ustar").name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(0);
        header
    }

    fn add(mut self, mut header: Header, content: &[u8]) -> Tar {
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.0.append(&header, content).expect("memory does not fail");
        self
    }

    pub fn file(self, name: &str, content: &[u8]) -> Tar {
        self.owned_file(name, content, 0o644, 0, 0)
    }

    pub fn owned_file(self, name: &str, content: &[u8], mode: u32, uid: u64, gid: u64) -> Tar {
        let mut header = Tar::header(EntryType::Regular, name, mode);
        header.set_uid(uid);
        header.set_gid(gid);
        self.add(header, content)
    }

    pub fn folder(self, name: &str) -> Tar {
        self.add(Tar::header(EntryType::Directory, name, 0o755), b"")
    }

    pub fn link(self, kind: EntryType, name: &str, to: &str) -> Tar {
        let mut header = Tar::header(kind, name, 0o777);
        header.as_ustar_mut().expect("ustar").linkname[..to.len()].copy_from_slice(to.as_bytes());
        self.add(header, b"")
    }

    pub fn symlink(self, name: &str, to: &str) -> Tar {
        self.link(EntryType::Symlink, name, to)
    }

    pub fn hardlink(self, name: &str, to: &str) -> Tar {
        self.link(EntryType::Link, name, to)
    }

    pub fn node(self, kind: EntryType, name: &str, major: u32, minor: u32) -> Tar {
        let mut header = Tar::header(kind, name, 0o660);
        header.set_device_major(major).expect("ustar has devices");
        header.set_device_minor(minor).expect("ustar has devices");
        self.add(header, b"")
    }

    pub fn pax(mut self, pairs: &[(&str, &[u8])]) -> Tar {
        self.0.append_pax_extensions(pairs.iter().copied()).expect("memory does not fail");
        self
    }

    pub fn done(self) -> Vec<u8> {
        self.0.into_inner().expect("memory does not fail")
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory does not fail");
    encoder.finish().expect("memory does not fail")
}

pub fn config(diff_ids: &[Digest]) -> Vec<u8> {
    serde_json::to_vec(&serde_json::json!({
        "architecture": "amd64", "os": "linux", "created": "2024-01-02T03:04:05Z",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["/hello"], "User": "1000", "WorkingDir": "/w", "ExposedPorts": {"80/tcp": {}}, "Labels": null},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }))
    .expect("plain data")
}

/// A `docker save` archive of one image.
pub fn docker_archive(tags: &[&str], layers: &[Vec<u8>]) -> Vec<u8> {
    let diff_ids: Vec<Digest> = layers.iter().map(|l| Digest::of(l)).collect();
    let config = config(&diff_ids);
    let names: Vec<String> = (0..layers.len()).map(|i| format!("l{i}/layer.tar")).collect();
    let mut tar = Tar::new();
    for (name, layer) in names.iter().zip(layers) {
        tar = tar.file(name, layer);
    }
    let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": tags, "Layers": names}]);
    tar.file("config.json", &config).file("manifest.json", manifest.to_string().as_bytes()).done()
}

pub fn write(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).expect("writable");
    path
}

/// An image as blobs: a registry serves it, a layout holds it.
pub struct Blobs {
    pub blobs: HashMap<String, Vec<u8>>,
    pub manifest: Digest,
    pub config: Digest,
}

/// `layers`: (uncompressed, as it is stored).
pub fn blobs(layers: &[(Vec<u8>, Vec<u8>)]) -> Blobs {
    let mut blobs = HashMap::new();
    let mut add = |bytes: Vec<u8>| {
        let (digest, size) = (Digest::of(&bytes), bytes.len());
        blobs.insert(digest.to_string(), bytes);
        (digest, size)
    };
    let diff_ids: Vec<Digest> = layers.iter().map(|(plain, _)| Digest::of(plain)).collect();
    let described: Vec<_> = layers
        .iter()
        .map(|(_, stored)| add(stored.clone()))
        .map(|(digest, size)| serde_json::json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest, "size": size}))
        .collect();
    let (config, size) = add(config(&diff_ids));
    let manifest =
        serde_json::json!({"schemaVersion": 2, "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": size}, "layers": described});
    let (manifest, _) = add(manifest.to_string().into_bytes());
    Blobs { blobs, manifest, config }
}

/// A registry on loopback; ends with the runtime of the test.
pub struct Registry {
    pub host: String,
    state: Arc<Mutex<Served>>,
}

#[derive(Default)]
struct Served {
    /// Path to content.
    paths: HashMap<String, Vec<u8>>,
    /// The `user:password` in base64 for which tokens are given; none: open to all.
    basic: Option<String>,
    /// Blobs are served by a redirect to `/storage/…`, which refuses credentials.
    redirect: bool,
    /// Paths whose next answer breaks off in the middle.
    breaks: Vec<String>,
    log: Vec<String>,
}

impl Registry {
    pub async fn start() -> Registry {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let host = listener.local_addr().expect("bound").to_string();
        let state = Arc::new(Mutex::new(Served::default()));
        let (served, own) = (state.clone(), host.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (served, own) = (served.clone(), own.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let response = answer(&served, &own, &request);
                    async move { Ok::<_, Infallible>(response) }
                });
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Registry { host, state }
    }

    fn served(&self) -> std::sync::MutexGuard<'_, Served> {
        self.state.lock().expect("no panic while held")
    }

    pub fn serve(&self, repository: &str, tag: &str, image: &Blobs) {
        for (digest, bytes) in &image.blobs {
            let kind = if *digest == image.manifest.to_string() { "manifests" } else { "blobs" };
            self.put(&format!("/v2/{repository}/{kind}/{digest}"), bytes);
        }
        self.put(&format!("/v2/{repository}/manifests/{tag}"), &image.blobs[image.manifest.as_str()]);
    }

    pub fn put(&self, path: &str, bytes: &[u8]) {
        self.served().paths.insert(path.into(), bytes.to_vec());
    }

    pub fn demand(&self, basic: &str) {
        self.served().basic = Some(basic.into());
    }

    pub fn redirect_blobs(&self) {
        self.served().redirect = true;
    }

    pub fn break_once(&self, path: &str) {
        self.served().breaks.push(path.into());
    }

    /// Paths asked for, in order.
    pub fn log(&self) -> Vec<String> {
        self.served().log.clone()
    }

    pub fn count(&self, part: &str) -> usize {
        self.log().iter().filter(|l| l.contains(part)).count()
    }
}

fn answer(served: &Mutex<Served>, own: &str, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let mut served = served.lock().expect("no panic while held");
    let path = request.uri().path().to_string();
    served.log.push(path.clone());
    let authorization = request.headers().get("authorization").and_then(|a| a.to_str().ok()).unwrap_or_default().to_string();
    let empty = |status: u16| Response::builder().status(status);
    if path == "/token" {
        let good = served.basic.as_ref().is_some_and(|b| authorization == format!("Basic {b}"));
        let query = request.uri().query().unwrap_or_default();
        if !good || !query.contains("service=test") || !query.contains("scope=repository%3A") {
            return empty(401).body(Full::default()).expect("valid");
        }
        return empty(200).body(Full::from(r#"{"token":"sesame"}"#)).expect("valid");
    }
    let storage = path.strip_prefix("/storage");
    if storage.is_some() && !authorization.is_empty() {
        return empty(400).body(Full::from("credentials do not belong here")).expect("valid");
    }
    if storage.is_none() && served.basic.is_some() && authorization != "Bearer sesame" {
        let challenge = format!("Bearer realm=\"http://{own}/token\",service=\"test\",scope=\"repository:x:pull\"");
        return empty(401).header("www-authenticate", challenge).body(Full::default()).expect("valid");
    }
    if storage.is_none() && served.redirect && path.contains("/blobs/") {
        // Another name of this machine is another host.
        let elsewhere = own.replace("127.0.0.1", "localhost");
        return empty(307).header("location", format!("http://{elsewhere}/storage{path}")).body(Full::default()).expect("valid");
    }
    let asked = storage.unwrap_or(&path).to_string();
    let Some(bytes) = served.paths.get(&asked).cloned() else {
        return empty(404).body(Full::from(r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#)).expect("valid");
    };
    if let Some(at) = served.breaks.iter().position(|b| asked.contains(b.as_str())) {
        served.breaks.remove(at);
        // The length promises more than comes: the server closes the connection in the middle.
        let half = Bytes::from(bytes[..bytes.len() / 2].to_vec());
        return empty(200).header("content-length", bytes.len()).body(Full::from(half)).expect("valid");
    }
    empty(200).body(Full::from(bytes)).expect("valid")
}
