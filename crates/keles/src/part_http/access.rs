//! Who may ask a part that runs alone: [`keles_auth::delegated`] over what the API server says of whose client certificates count
//! (`kube-system/extension-apiserver-authentication`).
//!
//! Source: k8s.io/apiserver/pkg/server/options, delegating authentication and authorization.

use super::HttpError;
use super::flags::SecureFlags;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Method};
use k8s_openapi::api::core::v1::ConfigMap;
use keles_api::Status;
use keles_auth::delegated::{Delegated, Kept, certificate_user};
use keles_auth::{Attributes, User};
use keles_client::{Informers, Scope};
use keles_pki::{Certified, Names};
use keles_serve::tls::{self, ClientVerifier, Settings};
use rustls::pki_types::CertificateDer;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use tokio_util::sync::CancellationToken;

const TRUST: (&str, &str, &str) = ("kube-system", "extension-apiserver-authentication", "client-ca-file");

pub struct Access {
    client: kube::Client,
    /// Answered for everybody; a trailing `*` covers what is below.
    open: Vec<String>,
    own: Certified,
    tls: Settings,
    /// Whose client certificates count, once known.
    clients: RwLock<Option<ClientVerifier>>,
    reviews: Delegated,
}

impl Access {
    /// Reads the certificate, or makes one that nobody signed. `reviewer` asks the reviews.
    pub fn new(f: &SecureFlags, component: &str, reviewer: kube::Client) -> Result<Arc<Access>, HttpError> {
        let own = certificate(f, component)?;
        let tls = settings(&own, None)?;
        let access = Access {
            reviews: Delegated::new(reviewer.clone(), Kept::OF_PARTS),
            client: reviewer,
            open: f.authorization_always_allow_paths.clone(),
            own,
            tls,
            clients: RwLock::default(),
        };
        if let Some(path) = &f.client_ca_file {
            access.trust(&read(path)?)?;
        }
        Ok(Arc::new(access))
    }

    pub fn tls(&self) -> Settings {
        self.tls.clone()
    }

    /// Follows what the cluster says of client certificates until `stop`; not where a flag says it.
    pub async fn follow(self: Arc<Self>, f: SecureFlags, stop: CancellationToken) {
        if f.client_ca_file.is_some() {
            return;
        }
        let (namespace, name, field) = TRUST;
        let scope = Scope { namespace: namespace.into(), fields: format!("metadata.name={name}"), ..Scope::default() };
        let maps = Informers::new(self.client.clone(), stop.child_token()).scoped::<ConfigMap>(scope);
        let mut version = maps.version();
        let mut known = String::new();
        loop {
            version.mark_unchanged();
            let pem = maps.get(namespace, name).and_then(|m| m.data.as_ref()?.get(field).cloned()).unwrap_or_default();
            if pem != known && !pem.is_empty() {
                match self.trust(&pem) {
                    Ok(()) => known = pem,
                    Err(error) => tracing::warn!(%error, "the cluster's authorities of clients are not usable"),
                }
            }
            let Some(Ok(())) = stop.run_until_cancelled(version.changed()).await else { return };
        }
    }

    fn trust(&self, pem: &str) -> Result<(), HttpError> {
        let ders: Vec<Vec<u8>> = keles_pki::certificates(pem).iter().map(|c| c.to_vec()).collect();
        let verifier = tls::client_verifier(&ders)?;
        self.tls.replace(&settings(&self.own, Some(verifier.clone()))?);
        *self.clients.write().unwrap_or_else(PoisonError::into_inner) = Some(verifier);
        Ok(())
    }

    /// Whether the request may be answered.
    pub async fn admit(&self, method: &Method, path: &str, headers: &HeaderMap, certificates: &[CertificateDer<'static>]) -> Result<(), Status> {
        if self.open.iter().any(|open| covers(open, path)) {
            return Ok(());
        }
        let user = self.user(headers, certificates).await?;
        if user.groups.iter().any(|g| g == keles_auth::MASTERS) {
            return Ok(());
        }
        let verb = method.as_str().to_ascii_lowercase();
        let attributes = Attributes { verb: &verb, path, ..Attributes::of(&user) };
        self.reviews.decide(&attributes).await?.map_err(|why| attributes.forbidden(&why))
    }

    /// Whoever shows nothing is anonymous; a certificate that does not count, alone, is refused.
    async fn user(&self, headers: &HeaderMap, certificates: &[CertificateDer<'static>]) -> Result<User, Status> {
        let verifier = self.clients.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(verifier) = verifier
            && let Some(user) = certificate_user(&verifier, certificates)?
        {
            return Ok(user);
        }
        if !headers.contains_key(AUTHORIZATION) && !certificates.is_empty() {
            return Err(Status::unauthorized());
        }
        Ok(self.reviews.token_user(headers).await?.unwrap_or_else(keles_auth::anonymous))
    }
}

fn covers(open: &str, path: &str) -> bool {
    match open.strip_suffix('*') {
        Some(root) => path.starts_with(root),
        None => path.trim_end_matches('/') == open.trim_end_matches('/'),
    }
}

fn read(path: &Path) -> Result<String, HttpError> {
    std::fs::read_to_string(path).map_err(|source| HttpError::Read { path: path.into(), source })
}

/// The one given; the one of `--cert-dir`, made when there is none; else one for this run alone.
fn certificate(f: &SecureFlags, component: &str) -> Result<Certified, HttpError> {
    if let (Some(certificate), Some(key)) = (&f.tls_cert_file, &f.tls_private_key_file) {
        return Ok(Certified { certificate_pem: read(certificate)?, key_pem: read(key)? });
    }
    let names = Names { dns: vec!["localhost".into(), component.into()], ips: vec![[127, 0, 0, 1].into()] };
    let Some(dir) = &f.cert_dir else { return Ok(keles_pki::self_signed(component, &names)?) };
    let (certificate, key) = (dir.join(format!("{component}.crt")), dir.join(format!("{component}.key")));
    if certificate.exists() && key.exists() {
        return Ok(Certified { certificate_pem: read(&certificate)?, key_pem: read(&key)? });
    }
    std::fs::create_dir_all(dir).map_err(|source| HttpError::Read { path: dir.clone(), source })?;
    let made = keles_pki::self_signed(component, &names)?;
    keles_pki::write_atomically(&key, made.key_pem.as_bytes())?;
    keles_pki::write_atomically(&certificate, made.certificate_pem.as_bytes())?;
    Ok(made)
}

fn settings(own: &Certified, clients: Option<ClientVerifier>) -> Result<Settings, HttpError> {
    let (Some(chain), Some(key)) = (own.certificate_der().filter(|c| !c.is_empty()), own.key_der()) else {
        return Err(HttpError::NoCertificate("--tls-cert-file".into()));
    };
    Ok(tls::server_config(chain, key, clients)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
    use k8s_openapi::api::core::v1::ServiceAccount;
    use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
    use keles_apiserver::{ApiServer, Config};
    use keles_pki::Pki;
    use keles_store::embedded::{Embedded, Options};
    use kube::Api;
    use kube::api::PostParams;
    use serde_json::json;
    use std::time::Duration;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        secure: SecureFlags,
    }

    const PATIENCE: Duration = Duration::from_secs(60);

    async fn monitor(admin: &kube::Client) -> String {
        let params = PostParams::default();
        let role = json!({"metadata": {"name": "monitor"}, "rules": [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]});
        Api::<ClusterRole>::all(admin.clone()).create(&params, &serde_json::from_value(role).unwrap()).await.unwrap();
        let subject = json!({"kind": "ServiceAccount", "name": "monitor", "namespace": "default"});
        let binding =
            json!({"metadata": {"name": "monitor"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "monitor"}, "subjects": [subject]});
        Api::<ClusterRoleBinding>::all(admin.clone()).create(&params, &serde_json::from_value(binding).unwrap()).await.unwrap();
        let accounts: Api<ServiceAccount> = Api::namespaced(admin.clone(), "default");
        accounts.create(&params, &serde_json::from_value(json!({"metadata": {"name": "monitor"}})).unwrap()).await.unwrap();
        let asked = TokenRequest { spec: Some(TokenRequestSpec::default()), ..TokenRequest::default() };
        accounts.create_token_request("monitor", &params, &asked).await.unwrap().status.unwrap().token.unwrap()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_api_server_says_who_asks_and_whether_they_may() {
        let folder = std::env::temp_dir().join(format!("keles-part-access-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        let server = ApiServer::start(Config::new(&folder), Embedded::open(&folder.join("store"), Options::default()).unwrap()).await.unwrap();
        let user = |name: &str, groups: &[&str]| {
            let user = User { name: name.into(), groups: groups.iter().map(|g| (*g).to_owned()).collect(), ..User::default() };
            keles_client::in_process(server.service_for(user))
        };
        let flags = Cli::parse_from(["part"]).secure;
        let access = Access::new(&flags, "kube-scheduler", user("system:kube-scheduler", &[])).unwrap();
        let stop = CancellationToken::new();
        let following = tokio::spawn(access.clone().follow(flags, stop.clone()));
        let ask = async |path: &str, token: &str, certificates: &[CertificateDer<'static>]| {
            let mut headers = HeaderMap::new();
            if !token.is_empty() {
                headers.insert(AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
            }
            access.admit(&Method::GET, path, &headers, certificates).await.map_err(|s| (s.code, s.message))
        };
        assert_eq!(ask("/healthz", "", &[]).await, Ok(()));
        let no = |user: &str, path: &str| Err((403, format!("forbidden: User \"{user}\" cannot get path \"{path}\"")));
        assert_eq!(ask("/metrics", "", &[]).await, no("system:anonymous", "/metrics"));
        let token = monitor(&user("admin", &["system:masters"])).await;
        assert_eq!(ask("/metrics", &token, &[]).await, Ok(()));
        assert_eq!(ask("/flagz", &token, &[]).await, no("system:serviceaccount:default:monitor", "/flagz"));
        assert_eq!(ask("/metrics", "nobody's", &[]).await.unwrap_err().0, 401);
        let admin = Pki::open(&folder).unwrap().admin().unwrap().certificate_der().unwrap();
        let known = async {
            while ask("/flagz", "", &admin).await != Ok(()) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, known).await.expect("the cluster's authority of clients is read from the cluster");
        stop.cancel();
        following.await.unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_path_is_open_by_name_or_below_a_star() {
        assert!(covers("/healthz", "/healthz") && covers("/healthz/", "/healthz") && covers("/livez/*", "/livez/ping"));
        assert!(!covers("/healthz", "/healthz/ping") && !covers("/healthz", "/metrics"));
    }
}
