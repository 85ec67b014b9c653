//! TLS bootstrap: the first client certificate, asked for with credentials that may do nothing else, and the kubeconfig that names it.
//!
//! Entry point: [`ensure`]. Source: kubernetes pkg/kubelet/certificate/bootstrap, whose files' and contexts' names these are. A certificate in force whose
//! kubeconfig was lost is used again, as long as it lasts.

use super::request::{Name, WAIT_LIMIT, ask};
use super::{RequestError, Store, StoreError, Wanted};
use base64::Engine;
use jiff::Timestamp;
use keles_client::ConnectError;
use keles_pki::{Certified, Leaf, PkiError, RequestKey};
use kube::config::{AuthInfo, Context, Kubeconfig, KubeconfigError, NamedAuthInfo, NamedCluster, NamedContext};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Of the store of client certificates.
pub const CLIENT_PREFIX: &str = "kubelet-client";
/// Holds the key while its request waits, so that a restart finds the request again.
const WAITING_KEY: &str = "kubelet-client.key.tmp";
/// Upstream's figures.
const SERVER_LIMIT: Duration = Duration::from_secs(60);
const SERVER_RETRY: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    #[error("reading existing kubeconfig {}: {source}", path.display())]
    Existing { path: PathBuf, source: io::Error },
    #[error("bootstrap kubeconfig {} is not usable", path.display())]
    Kubeconfig { path: PathBuf, source: Box<KubeconfigError> },
    #[error("bootstrap kubeconfig {} names no cluster in its current context", .0.display())]
    NoCluster(PathBuf),
    #[error("the bootstrap credentials do not connect")]
    Connect(#[from] ConnectError),
    #[error("no client certificate for this node")]
    Request(#[from] RequestError),
    #[error("the client certificate cannot be kept")]
    Store(#[from] StoreError),
    #[error("kubeconfig {} cannot be written: {why}", path.display())]
    Write { path: PathBuf, why: String },
    #[error("the key of the client certificate cannot be made or kept")]
    Key(#[from] PkiError),
}

/// Where things are.
pub struct Bootstrap<'a> {
    pub kubeconfig: &'a Path,
    pub bootstrap_kubeconfig: &'a Path,
    pub certificates: &'a Path,
    pub node: &'a str,
}

/// Makes sure that the kubeconfig has a client certificate in its time; asks for one with the bootstrap credentials where it has not.
pub async fn ensure(b: &Bootstrap<'_>, now: Timestamp) -> Result<(), BootstrapError> {
    if is_valid(b.kubeconfig, now)? {
        tracing::info!(kubeconfig = %b.kubeconfig.display(), "the kubeconfig is still valid, no bootstrap necessary");
        return Ok(());
    }
    let store = Store::open(b.certificates, CLIENT_PREFIX)?;
    let (wanted, written) = (Wanted::client(b.node), kubeconfig(b.bootstrap_kubeconfig, &store.current_path())?);
    if !store.current()?.is_some_and(|pair| !pair.is_expired(now) && wanted.is_met_by(&pair.leaf)) {
        let waiting = b.certificates.join(WAITING_KEY);
        let key = kept_key(&waiting)?;
        let client = keles_client::from_kubeconfig(b.bootstrap_kubeconfig).await?;
        if tokio::time::timeout(SERVER_LIMIT, answers(&client)).await.is_err() {
            tracing::warn!("the API server does not answer; it is asked all the same");
        }
        let certificate = ask(&client, &wanted, &key, Name::OfKey, WAIT_LIMIT).await?;
        store.update(&certificate, &key.pem(), Timestamp::now())?;
        if let Err(error) = std::fs::remove_file(&waiting) {
            tracing::warn!(%error, file = %waiting.display(), "the key is in the certificate's file now, and could not be removed here");
        }
    }
    let fault = |why: String| BootstrapError::Write { path: b.kubeconfig.into(), why };
    if let Some(folder) = b.kubeconfig.parent() {
        std::fs::create_dir_all(folder).map_err(|error| fault(error.to_string()))?;
    }
    keles_pki::write_atomically(b.kubeconfig, written.as_bytes()).map_err(|error| fault(error.to_string()))
}

/// Returns once the API server answers, whatever it says: node and control plane may start together.
async fn answers(client: &kube::Client) {
    loop {
        let request = http::Request::get("/healthz").body(Vec::new()).expect("a fixed request");
        match client.request_text(request).await {
            Ok(_) | Err(kube::Error::Api(_)) => return,
            Err(error) => tracing::info!(%error, "failed to connect to the API server"),
        }
        // Nobody tells of a server that begins to listen.
        tokio::time::sleep(SERVER_RETRY).await;
    }
}

/// Whether the kubeconfig's user has a client certificate with its key, none of its chain expired. One that cannot be understood is none.
fn is_valid(path: &Path, now: Timestamp) -> Result<bool, BootstrapError> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(source) => return Err(BootstrapError::Existing { path: path.into(), source }),
        Ok(_) => {}
    }
    let Some(pair) = client_pair(path) else {
        tracing::warn!(kubeconfig = %path.display(), "the kubeconfig has no usable client certificate");
        return Ok(false);
    };
    let chain = pair.certificate_der().unwrap_or_default();
    let ends: Vec<Timestamp> = chain.iter().filter_map(|der| Leaf::of(der)).map(|leaf| leaf.not_after).collect();
    let expired = ends.iter().find(|end| **end < now);
    if let Some(end) = expired {
        tracing::warn!(kubeconfig = %path.display(), %end, "the kubeconfig's client certificate has expired");
    }
    Ok(expired.is_none() && !ends.is_empty() && super::Pair::of(pair).is_ok())
}

/// The client certificate and key of a kubeconfig's current user, from its data or its files.
pub fn client_pair(path: &Path) -> Option<Certified> {
    let file = Kubeconfig::read_from(path).ok()?;
    let context = context_of(&file)?;
    let user = context.user.as_ref()?;
    let auth = file.auth_infos.iter().find(|named| named.name == *user)?.auth_info.as_ref()?;
    // The key is hidden from all but a writer.
    let auth = serde_json::to_value(auth).ok()?;
    let pem = |name: &str| -> Option<String> {
        match (auth[format!("{name}-data")].as_str(), auth[name].as_str()) {
            (Some(data), _) => String::from_utf8(base64::engine::general_purpose::STANDARD.decode(data).ok()?).ok(),
            (None, file) => std::fs::read_to_string(file?).ok(),
        }
    };
    Some(Certified { certificate_pem: pem("client-certificate")?, key_pem: pem("client-key")? })
}

fn context_of(file: &Kubeconfig) -> Option<&Context> {
    let current = file.current_context.as_ref()?;
    file.contexts.iter().find(|named| named.name == *current)?.context.as_ref()
}

/// The bootstrap kubeconfig's cluster with the certificate in `pem` as its user.
fn kubeconfig(bootstrap: &Path, pem: &Path) -> Result<String, BootstrapError> {
    let file = Kubeconfig::read_from(bootstrap).map_err(|source| BootstrapError::Kubeconfig { path: bootstrap.into(), source: Box::new(source) })?;
    let no_cluster = || BootstrapError::NoCluster(bootstrap.into());
    let name = &context_of(&file).ok_or_else(no_cluster)?.cluster;
    let cluster = file.clusters.iter().find(|named| named.name == *name).and_then(|named| named.cluster.clone()).ok_or_else(no_cluster)?;
    let pem = pem.display().to_string();
    let auth = AuthInfo { client_certificate: Some(pem.clone()), client_key: Some(pem), ..Default::default() };
    let context = Context { cluster: "default-cluster".into(), user: Some("default-auth".into()), namespace: Some("default".into()), ..Default::default() };
    let made = Kubeconfig {
        kind: Some("Config".into()),
        api_version: Some("v1".into()),
        clusters: vec![NamedCluster { name: "default-cluster".into(), cluster: Some(cluster), other: Default::default() }],
        auth_infos: vec![NamedAuthInfo { name: "default-auth".into(), auth_info: Some(auth), other: Default::default() }],
        contexts: vec![NamedContext { name: "default-context".into(), context: Some(context), other: Default::default() }],
        current_context: Some("default-context".into()),
        ..Default::default()
    };
    serde_yaml_ng::to_string(&made).map_err(|error| BootstrapError::Write { path: bootstrap.into(), why: error.to_string() })
}

/// The key of a request that may be waiting, or a new one.
fn kept_key(path: &Path) -> Result<RequestKey, PkiError> {
    if let Ok(pem) = std::fs::read_to_string(path) {
        match RequestKey::parse(&pem) {
            Ok(key) => return Ok(key),
            Err(error) => tracing::warn!(%error, file = %path.display(), "the key of an earlier start cannot be used, another is made"),
        }
    }
    let key = RequestKey::generate()?;
    keles_pki::write_atomically(path, key.pem().as_bytes())?;
    Ok(key)
}

#[cfg(test)]
#[path = "bootstrap_tests.rs"]
mod tests;
