//! Whose certificates count, and which this server shows: our own, and those of files the operator gives, which may change while it runs.
//!
//! Entry points: [`Certificates::open`], [`Certificates::follow`], [`Certificates::connected`] for a connection. A connection that is open when an
//! authority comes or goes is judged anew at its next request, as upstream judges each request.

use crate::authenticate::Caller;
use crate::bootstrap::{self, Trust};
use crate::config::{Config, NamedFiles};
use crate::reload::Followed;
use crate::server::{Inner, StartError};
use keles_auth::authenticators::request_header::RequestHeader;
use keles_pki::{APISERVER_NAMES, Certified, Pki};
use keles_serve::ConnInfo;
use keles_serve::tls::{self, ClientVerifier, Named, Settings};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use tokio_util::sync::CancellationToken;

/// Whose certificates count.
pub struct Verifiers {
    pub clients: ClientVerifier,
    pub proxies: ClientVerifier,
}

/// What is there now.
struct Held {
    trust: Trust,
    serving: Vec<Named>,
}

pub struct Certificates {
    /// Our own authorities in PEM, and our own certificate.
    own_ca: String,
    own_front_proxy_ca: String,
    own: Certified,
    client_ca_file: Option<PathBuf>,
    front_proxy_ca_file: Option<PathBuf>,
    default_files: Option<NamedFiles>,
    files_by_name: Vec<NamedFiles>,
    headers: RequestHeader,
    held: Mutex<Held>,
    verifiers: RwLock<Arc<Verifiers>>,
    tls: Settings,
    /// What the files held when they were read for the first time, until they are followed.
    followed: Mutex<[Option<Followed>; 2]>,
}

impl Certificates {
    /// Reads the files that `config` names, beside our own `certificate`.
    pub fn open(config: &Config, pki: &Pki, certificate: Certified) -> Result<Arc<Certificates>, StartError> {
        let a = &config.authentication;
        let (client, proxy) = (a.client_ca_file.clone(), a.request_header.ca_file.clone());
        let authorities = Followed::new("the authorities of clients and proxies", client.clone().into_iter().chain(proxy.clone()));
        let serving = Followed::new("the serving certificates", config.serving.iter().chain(&config.serving_by_name).flat_map(|s| [s.certificate.clone(), s.key.clone()]));
        let (own_ca, own_front_proxy_ca) = (pki.ca_pem().to_owned(), pki.front_proxy_ca_pem().to_owned());
        let trust = trust(&own_ca, &client, &own_front_proxy_ca, &proxy)?;
        let named = shown(&certificate, &config.serving, &config.serving_by_name)?;
        let verifiers = verifiers(&trust)?;
        let tls = tls::named_server_config(named.clone(), Some(verifiers.clients.clone()))?;
        Ok(Arc::new(Certificates {
            own_ca,
            own_front_proxy_ca,
            own: certificate,
            client_ca_file: client,
            front_proxy_ca_file: proxy,
            default_files: config.serving.clone(),
            files_by_name: config.serving_by_name.clone(),
            headers: a.request_header.clone(),
            held: Mutex::new(Held { trust, serving: named }),
            verifiers: RwLock::new(Arc::new(verifiers)),
            tls,
            followed: Mutex::new([authorities, serving]),
        }))
    }

    /// Follows the files until `stop`; new authorities are told to aggregated servers too.
    pub fn follow(self: &Arc<Self>, server: &Arc<Inner>, stop: &CancellationToken) {
        let [authorities, serving] = std::mem::take(&mut *self.followed.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(f) = authorities {
            let (this, server) = (self.clone(), server.clone());
            f.start(stop.clone(), move || {
                let (this, server) = (this.clone(), server.clone());
                async move {
                    this.read_authorities().map_err(|e| e.to_string())?;
                    bootstrap::publish(&server, &this.trust()).await.map_err(|e| e.to_string())
                }
            });
        }
        if let Some(f) = serving {
            let this = self.clone();
            f.start(stop.clone(), move || {
                let this = this.clone();
                async move { this.read_serving().map_err(|e| e.to_string()) }
            });
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_authorities(&self) -> Result<(), StartError> {
        let trust = trust(&self.own_ca, &self.client_ca_file, &self.own_front_proxy_ca, &self.front_proxy_ca_file)?;
        let verifiers = verifiers(&trust)?;
        let mut held = self.held();
        // The names of authorities stand in the handshake: clients choose their certificate by them.
        self.tls.replace(&tls::named_server_config(held.serving.clone(), Some(verifiers.clients.clone()))?);
        held.trust = trust;
        *self.verifiers.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(verifiers);
        Ok(())
    }

    fn read_serving(&self) -> Result<(), StartError> {
        let named = shown(&self.own, &self.default_files, &self.files_by_name)?;
        let mut held = self.held();
        self.tls.replace(&tls::named_server_config(named.clone(), Some(self.verifiers().clients.clone()))?);
        held.serving = named;
        Ok(())
    }

    fn verifiers(&self) -> Arc<Verifiers> {
        self.verifiers.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
    pub fn trust(&self) -> Trust {
        self.held().trust.clone()
    }
    pub fn tls(&self) -> Settings {
        self.tls.clone()
    }

    /// A new connection, whose caller is told at each request.
    pub fn connected(self: &Arc<Self>, info: ConnInfo) -> Connected {
        let verifiers = self.verifiers();
        let caller = Caller::of(&info, &verifiers, &self.headers);
        Connected { certificates: self.clone(), info, judged: Mutex::new((verifiers, caller)) }
    }
}

/// One connection.
pub struct Connected {
    certificates: Arc<Certificates>,
    info: ConnInfo,
    /// By whom the other end was judged, and what came of it.
    judged: Mutex<(Arc<Verifiers>, Caller)>,
}

impl Connected {
    pub fn caller(&self) -> Caller {
        let now = self.certificates.verifiers();
        let mut judged = self.judged.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&judged.0, &now) {
            let caller = Caller::of(&self.info, &now, &self.certificates.headers);
            *judged = (now, caller);
        }
        judged.1.clone()
    }
}

fn read(path: &Path) -> Result<String, StartError> {
    std::fs::read_to_string(path).map_err(|source| StartError::Read { path: path.into(), source })
}

/// The cluster's own authorities and those the operator gives: for clients beside our own, for proxies in its place.
fn trust(own_ca: &str, client: &Option<PathBuf>, own_front_proxy_ca: &str, proxy: &Option<PathBuf>) -> Result<Trust, StartError> {
    let given = |file: &Option<PathBuf>| -> Result<Option<String>, StartError> {
        let Some(path) = file else { return Ok(None) };
        let pem = read(path)?;
        if keles_pki::certificates(&pem).is_empty() { Err(StartError::NoCertificate { path: path.clone() }) } else { Ok(Some(pem)) }
    };
    Ok(Trust {
        client_ca_pem: given(client)?.map_or_else(|| own_ca.to_owned(), |g| format!("{own_ca}{g}")),
        front_proxy_ca_pem: given(proxy)?.unwrap_or_else(|| own_front_proxy_ca.to_owned()),
    })
}

fn verifiers(t: &Trust) -> Result<Verifiers, StartError> {
    let verifier = |pem: &str| tls::client_verifier(&keles_pki::certificates(pem).iter().map(|c| c.to_vec()).collect::<Vec<_>>());
    Ok(Verifiers { clients: verifier(&t.client_ca_pem)?, proxies: verifier(&t.front_proxy_ca_pem)? })
}

/// What is shown to clients: the operator's certificates, and ours for the names that every cluster has.
fn shown(own: &Certified, default: &Option<NamedFiles>, by_name: &[NamedFiles]) -> Result<Vec<Named>, StartError> {
    let mut all = Vec::new();
    for f in default.iter().chain(by_name) {
        let chain = keles_pki::certificates(&read(&f.certificate)?);
        let leaf = chain.first().ok_or_else(|| StartError::NoCertificate { path: f.certificate.clone() })?;
        let mut names = if f.names.is_empty() { keles_pki::dns_names(leaf) } else { f.names.clone() };
        // The administrator's kubeconfig asks for this name and trusts our authority.
        names.retain(|n| n != "localhost");
        let key = rustls_pemfile::private_key(&mut read(&f.key)?.as_bytes()).ok().flatten().ok_or_else(|| StartError::NoKey { path: f.key.clone() })?;
        all.push(Named { names, pair: tls::pair(chain, key)? });
    }
    let (Some(chain), Some(key)) = (own.certificate_der(), own.key_der()) else { return Err(StartError::Certificate) };
    let ours = Named { names: APISERVER_NAMES.iter().map(|n| (*n).to_owned()).collect(), pair: tls::pair(chain, key)? };
    all.insert(if default.is_some() { all.len() } else { 0 }, ours);
    Ok(all)
}
