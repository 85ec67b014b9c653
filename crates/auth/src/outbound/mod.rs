//! HTTPS to others: webhooks described by a kubeconfig file, and issuers of tokens.
//!
//! Entry points: [`Endpoint::from_kubeconfig`], [`Endpoint::in_cluster`], [`Endpoint::https`]. Connections are pooled; every call has a time limit
//! and every answer a size limit. Deliberately absent, and refused by name: auth-provider plugins, which upstream dropped but one.

mod dial;
mod exec;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use dial::Dial;
use exec::{Exec, Plugin};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// No answer of a webhook or issuer is larger than this.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Tries of a call whose failure may pass, and the pause before the second; upstream's figures.
const TRIES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const PAUSE_FACTOR: f64 = 1.5;

#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} is not a kubeconfig: {source}", path.display())]
    Kubeconfig { path: PathBuf, source: serde_yaml_ng::Error },
    #[error("{}: {why}", path.display())]
    Incomplete { path: PathBuf, why: String },
    #[error("{what} holds no usable PEM: {why}")]
    Pem { what: String, why: String },
    #[error("TLS settings: {0}")]
    Tls(#[source] rustls::Error),
    #[error("{0:?} is not a URL")]
    Url(String),
    #[error("the proxy {url}: {why}")]
    Proxy { url: String, why: String },
    #[error("getting credentials: exec {command:?}: {why}")]
    Exec { command: String, why: String },
    #[error("unable to load in-cluster configuration, KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT must be defined")]
    NotInCluster,
    #[error("{url}: {source}")]
    Transport { url: String, source: hyper_util::client::legacy::Error },
    #[error("{url}: no answer within {seconds} s")]
    Timeout { url: String, seconds: f64 },
    #[error("{url}: the answer breaks off or is over {ANSWER_BYTES_MAX} bytes")]
    Answer { url: String },
    #[error("{url}: answered {code}: {text}")]
    Refused { url: String, code: StatusCode, text: String },
    #[error("{url}: the answer is no JSON: {source}")]
    Json { url: String, source: serde_json::Error },
}

impl OutboundError {
    pub fn is_timeout(&self) -> bool {
        matches!(self, OutboundError::Timeout { .. })
    }
    /// Whether the same call may succeed a moment later.
    fn may_pass(&self) -> bool {
        match self {
            OutboundError::Transport { .. } => true,
            OutboundError::Refused { code, .. } => code.is_server_error() || *code == StatusCode::TOO_MANY_REQUESTS,
            _ => false,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Kubeconfig {
    #[serde(default)]
    clusters: Vec<NamedCluster>,
    #[serde(default)]
    users: Vec<NamedUser>,
    #[serde(default)]
    contexts: Vec<NamedContext>,
    #[serde(default)]
    current_context: String,
}
#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}
#[derive(Deserialize)]
struct NamedUser {
    name: String,
    #[serde(default)]
    user: Option<Credentials>,
}
#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: Context,
}
#[derive(Deserialize)]
struct Context {
    cluster: String,
    #[serde(default)]
    user: String,
}
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    #[serde(default)]
    certificate_authority: Option<PathBuf>,
    #[serde(default)]
    certificate_authority_data: Option<String>,
    #[serde(default)]
    insecure_skip_tls_verify: bool,
    #[serde(default)]
    tls_server_name: Option<String>,
    #[serde(default)]
    proxy_url: Option<String>,
}
impl Cluster {
    /// What a credential plugin is told of it.
    fn info(&self, ca_pem: Option<&[u8]>) -> Value {
        let mut info = serde_json::json!({"server": self.server, "config": null});
        if let Some(n) = &self.tls_server_name {
            info["tls-server-name"] = n.as_str().into();
        }
        if self.insecure_skip_tls_verify {
            info["insecure-skip-tls-verify"] = true.into();
        }
        if let Some(ca) = ca_pem {
            info["certificate-authority-data"] = BASE64.encode(ca).into();
        }
        if let Some(p) = &self.proxy_url {
            info["proxy-url"] = p.as_str().into();
        }
        info
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct Credentials {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
    username: Option<String>,
    password: Option<String>,
    exec: Option<Exec>,
    auth_provider: Option<Value>,
}

/// A server that is spoken to.
#[derive(Clone)]
pub struct Endpoint {
    url: Uri,
    client: Pool,
    /// Who says with what credential, when a program does.
    plugin: Option<Arc<Programmed>>,
    authorization: Option<HeaderValue>,
    /// Read anew for each call: tokens on disk rotate.
    token_file: Option<PathBuf>,
    /// The name asked for, where `url` holds an address.
    host: Option<HeaderValue>,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Endpoint({})", self.url)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, OutboundError> {
    std::fs::read(path).map_err(|source| OutboundError::Read { path: path.into(), source })
}

fn certificates(what: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, OutboundError> {
    let all = rustls_pemfile::certs(&mut &*pem).collect::<Result<Vec<_>, _>>().map_err(|e| OutboundError::Pem { what: what.into(), why: e.to_string() })?;
    if all.is_empty() { Err(OutboundError::Pem { what: what.into(), why: "it holds no certificate".into() }) } else { Ok(all) }
}

/// Whom to trust: the authorities given, or those of the machine.
pub fn roots(ca_pem: Option<&[u8]>) -> Result<RootCertStore, OutboundError> {
    let mut store = RootCertStore::empty();
    match ca_pem {
        Some(pem) => {
            for c in certificates("the certificate authority", pem)? {
                store.add(c).map_err(OutboundError::Tls)?;
            }
        }
        // What the machine trusts; a machine without certificates trusts nobody, and the handshake says so.
        None => {
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    Ok(store)
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

type Pool = Client<HttpsConnector<Dial>, Full<Bytes>>;

/// How a server is reached, and what it is trusted for.
#[derive(Clone)]
struct Reach {
    /// `None`: any certificate will do (`insecure-skip-tls-verify`).
    roots: Option<Arc<RootCertStore>>,
    server_name: Option<String>,
    dial: Dial,
}

impl Reach {
    fn straight(ca_pem: Option<&[u8]>, server_name: Option<&str>) -> Result<Reach, OutboundError> {
        Ok(Reach { roots: Some(Arc::new(roots(ca_pem)?)), server_name: server_name.map(str::to_owned), dial: Dial::through(None)? })
    }

    /// Connections that show a certificate, or none.
    fn pool(&self, identity: Option<Identity>) -> Result<Pool, OutboundError> {
        let builder = ClientConfig::builder_with_provider(keles_serve::tls::provider()).with_safe_default_protocol_versions().map_err(OutboundError::Tls)?;
        let builder = match &self.roots {
            Some(roots) => builder.with_root_certificates(roots.clone()),
            None => builder.dangerous().with_custom_certificate_verifier(Arc::new(keles_serve::tls::AnyCertificate)),
        };
        let tls = match identity {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(OutboundError::Tls)?,
            None => builder.with_no_client_auth(),
        };
        let builder = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
        let connector = match &self.server_name {
            Some(n) => {
                let name = ServerName::try_from(n.to_owned()).map_err(|_| OutboundError::Url(n.clone()))?;
                builder.with_server_name_resolver(FixedServerNameResolver::new(name)).enable_http1().wrap_connector(self.dial.clone())
            }
            None => builder.enable_http1().wrap_connector(self.dial.clone()),
        };
        Ok(Client::builder(TokioExecutor::new()).build(connector))
    }
}

/// A program's credentials, and the connections made with the last of them.
struct Programmed {
    plugin: Plugin,
    reach: Reach,
    pool: Mutex<Option<(Arc<exec::Credential>, Pool)>>,
}

impl Programmed {
    /// The credential of now (another one than `refused`), and connections that show its certificate.
    async fn now(&self, refused: Option<&Arc<exec::Credential>>) -> Result<(Arc<exec::Credential>, Pool), OutboundError> {
        let credential = self.plugin.credential(refused).await?;
        let mut held = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, pool)) = held.as_ref().filter(|(of, _)| Arc::ptr_eq(of, &credential)) {
            return Ok((credential, pool.clone()));
        }
        let identity = credential.identity.as_ref().map(|(c, k)| identity(c.as_bytes(), k.as_bytes())).transpose()?;
        let pool = self.reach.pool(identity)?;
        *held = Some((credential.clone(), pool.clone()));
        Ok((credential, pool))
    }
}

fn identity(certificate: &[u8], key: &[u8]) -> Result<Identity, OutboundError> {
    let key = rustls_pemfile::private_key(&mut &*key).ok().flatten().ok_or_else(|| OutboundError::Pem { what: "client-key".into(), why: "it holds no private key".into() })?;
    Ok((certificates("client-certificate", certificate)?, key))
}

/// Where a pod finds its own credentials.
const ACCOUNT_FOLDER: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

impl Endpoint {
    /// A server at `url` whose certificate is of `ca_pem`, or of the machine's trusted authorities.
    pub fn https(url: &str, ca_pem: Option<&[u8]>) -> Result<Endpoint, OutboundError> {
        let url = url.parse().map_err(|_| OutboundError::Url(url.into()))?;
        Ok(Endpoint { url, client: Reach::straight(ca_pem, None)?.pool(None)?, plugin: None, authorization: None, token_file: None, host: None })
    }

    /// The same where `url` holds an address and the certificate is of the name `host`.
    pub fn https_as(url: &str, ca_pem: Option<&[u8]>, host: &str) -> Result<Endpoint, OutboundError> {
        let url = url.parse().map_err(|_| OutboundError::Url(url.into()))?;
        let client = Reach::straight(ca_pem, Some(host))?.pool(None)?;
        Ok(Endpoint { url, client, plugin: None, authorization: None, token_file: None, host: HeaderValue::from_str(host).ok() })
    }

    /// The API server of the pod this process runs in, as its service account.
    pub fn in_cluster() -> Result<Endpoint, OutboundError> {
        let of = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
        let (Some(host), Some(port)) = (of("KUBERNETES_SERVICE_HOST"), of("KUBERNETES_SERVICE_PORT")) else { return Err(OutboundError::NotInCluster) };
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let folder = Path::new(ACCOUNT_FOLDER);
        // The token is looked for now: without it no call can succeed.
        read(&folder.join("token"))?;
        let ca = read(&folder.join("ca.crt"))?;
        Ok(Endpoint { token_file: Some(folder.join("token")), ..Endpoint::https(&format!("https://{host}:{port}"), Some(&ca))? })
    }

    /// The server of the current context. Paths in the file are relative to its folder.
    pub fn from_kubeconfig(path: &Path) -> Result<Endpoint, OutboundError> {
        let incomplete = |why: &str| OutboundError::Incomplete { path: path.into(), why: why.into() };
        let file: Kubeconfig = serde_yaml_ng::from_slice(&read(path)?).map_err(|source| OutboundError::Kubeconfig { path: path.into(), source })?;
        let context = file.contexts.iter().find(|c| c.name == file.current_context).ok_or_else(|| incomplete("current-context names no context"))?;
        let cluster = file.clusters.iter().find(|c| c.name == context.context.cluster).map(|c| &c.cluster).ok_or_else(|| incomplete("the context names no cluster of the file"))?;
        let none = Credentials::default();
        let user = file.users.iter().find(|u| u.name == context.context.user).and_then(|u| u.user.as_ref()).unwrap_or(&none);
        if user.auth_provider.is_some() {
            return Err(incomplete("auth-provider is not supported here: give a client certificate, a token or an exec plugin"));
        }
        let beside = |p: &PathBuf| path.parent().unwrap_or(Path::new("")).join(p);
        let pem = |data: &Option<String>, file: &Option<PathBuf>, what: &str| -> Result<Option<Vec<u8>>, OutboundError> {
            match (data, file) {
                (Some(d), _) if !d.is_empty() => BASE64.decode(d.trim()).map(Some).map_err(|_| incomplete(&format!("{what} is not base64"))),
                (_, Some(f)) => read(&beside(f)).map(Some),
                _ => Ok(None),
            }
        };
        let ca = pem(&cluster.certificate_authority_data, &cluster.certificate_authority, "certificate-authority-data")?;
        let certificate = pem(&user.client_certificate_data, &user.client_certificate, "client-certificate-data")?;
        let key = pem(&user.client_key_data, &user.client_key, "client-key-data")?;
        if cluster.insecure_skip_tls_verify && ca.is_some() {
            return Err(incomplete("specifying a root certificates file with the insecure flag is not allowed"));
        }
        let shown = match (certificate, key) {
            (Some(c), Some(k)) => Some(identity(&c, &k)?),
            (None, None) => None,
            _ => return Err(incomplete("a client certificate needs its key, and a key its certificate")),
        };
        let basic = user.username.as_ref().map(|u| format!("Basic {}", BASE64.encode(format!("{u}:{}", user.password.as_deref().unwrap_or_default()))));
        let bearer = user.token.as_ref().filter(|t| !t.is_empty()).map(|t| format!("Bearer {t}"));
        let authorization = bearer.or(basic).map(|v| HeaderValue::from_str(&v)).transpose().map_err(|_| incomplete("the token is no header value"))?;
        let reach = Reach {
            roots: if cluster.insecure_skip_tls_verify { None } else { Some(Arc::new(roots(ca.as_deref())?)) },
            server_name: cluster.tls_server_name.clone().filter(|n| !n.is_empty()),
            dial: Dial::through(cluster.proxy_url.as_deref())?,
        };
        let client = reach.pool(shown)?;
        let plugin = match &user.exec {
            None => None,
            Some(exec) => {
                let folder = path.parent().unwrap_or(Path::new(""));
                let plugin = Plugin::new(exec.clone(), folder, cluster.info(ca.as_deref())).map_err(|why| incomplete(&why))?;
                Some(Arc::new(Programmed { plugin, reach, pool: Mutex::default() }))
            }
        };
        Ok(Endpoint {
            url: cluster.server.parse().map_err(|_| OutboundError::Url(cluster.server.clone()))?,
            client,
            plugin,
            authorization,
            token_file: user.token_file.as_ref().map(beside),
            host: None,
        })
    }

    pub fn url(&self) -> &Uri {
        &self.url
    }

    /// Posts JSON to the endpoint itself and reads the JSON of a 2xx answer; failures that may pass are tried again within `limit`.
    pub async fn post(&self, body: &Value, limit: Duration) -> Result<Value, OutboundError> {
        let bytes = Bytes::from(serde_json::to_vec(body).expect("a JSON tree always encodes"));
        let tries = async {
            let mut pause = FIRST_PAUSE;
            for _ in 1..TRIES {
                match self.once(Method::POST, &self.url, bytes.clone()).await {
                    Err(e) if e.may_pass() => tokio::time::sleep(pause).await,
                    done => return done,
                }
                pause = pause.mul_f64(PAUSE_FACTOR);
            }
            self.once(Method::POST, &self.url, bytes).await
        };
        let answer = self.within(limit, &self.url, tries).await?;
        if answer.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&answer).map_err(|source| OutboundError::Json { url: self.url.to_string(), source })
    }

    /// The same with a single try: for calls whose failure has a policy of its own.
    pub async fn post_once(&self, body: &Value, limit: Duration) -> Result<Value, OutboundError> {
        let bytes = Bytes::from(serde_json::to_vec(body).expect("a JSON tree always encodes"));
        let answer = self.within(limit, &self.url, self.once(Method::POST, &self.url, bytes)).await?;
        serde_json::from_slice(&answer).map_err(|source| OutboundError::Json { url: self.url.to_string(), source })
    }

    /// Gets JSON from any address over this endpoint's trust.
    pub async fn get(&self, url: &str, limit: Duration) -> Result<Value, OutboundError> {
        let url: Uri = url.parse().map_err(|_| OutboundError::Url(url.into()))?;
        let answer = self.within(limit, &url, self.once(Method::GET, &url, Bytes::new())).await?;
        serde_json::from_slice(&answer).map_err(|source| OutboundError::Json { url: url.to_string(), source })
    }

    /// Gets text from any address over this endpoint's trust, with a bearer token of the address's own.
    pub async fn get_text(&self, url: &str, token: Option<&str>, limit: Duration) -> Result<String, OutboundError> {
        let url: Uri = url.parse().map_err(|_| OutboundError::Url(url.into()))?;
        let answer = self.within(limit, &url, self.with(&self.client, token, Method::GET, &url, Bytes::new())).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    async fn within<T>(&self, limit: Duration, url: &Uri, f: impl Future<Output = Result<T, OutboundError>>) -> Result<T, OutboundError> {
        tokio::time::timeout(limit, f).await.unwrap_or_else(|_| Err(OutboundError::Timeout { url: url.to_string(), seconds: limit.as_secs_f64() }))
    }

    async fn once(&self, method: Method, url: &Uri, body: Bytes) -> Result<Bytes, OutboundError> {
        let Some(programmed) = &self.plugin else { return self.with(&self.client, None, method, url, body).await };
        let (credential, pool) = programmed.now(None).await?;
        let first = self.with(&pool, credential.token.as_deref(), method.clone(), url, body.clone()).await;
        if !matches!(first, Err(OutboundError::Refused { code: StatusCode::UNAUTHORIZED, .. })) {
            return first;
        }
        let (credential, pool) = programmed.now(Some(&credential)).await?;
        self.with(&pool, credential.token.as_deref(), method, url, body).await
    }

    async fn with(&self, pool: &Pool, token: Option<&str>, method: Method, url: &Uri, body: Bytes) -> Result<Bytes, OutboundError> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = url.clone();
        let h = request.headers_mut();
        h.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        h.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(trace) = keles_observe::trace::traceparent().and_then(|t| HeaderValue::from_str(&t).ok()) {
            h.insert("traceparent", trace);
        }
        let of_file = || std::fs::read_to_string(self.token_file.as_ref()?).ok().and_then(|t| HeaderValue::from_str(&format!("Bearer {}", t.trim())).ok());
        if let Some(host) = &self.host {
            h.insert(HOST, host.clone());
        }
        let of_plugin = token.and_then(|t| HeaderValue::from_str(&format!("Bearer {t}")).ok());
        if let Some(v) = of_plugin.or_else(|| self.authorization.clone()).or_else(of_file) {
            h.insert(AUTHORIZATION, v);
        }
        let answer = pool.request(request).await.map_err(|source| OutboundError::Transport { url: url.to_string(), source })?;
        let code = answer.status();
        let bytes = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(|_| OutboundError::Answer { url: url.to_string() })?.to_bytes();
        if code.is_success() {
            return Ok(bytes);
        }
        const SHOWN: usize = 300;
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN)]).into_owned();
        Err(OutboundError::Refused { url: url.to_string(), code, text })
    }
}
