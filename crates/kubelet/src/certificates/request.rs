//! One CertificateSigningRequest: posted, or found again, and waited for.
//!
//! Source: k8s.io/client-go/util/certificate/csr.

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use keles_pki::{CertificateRequest, Leaf, Names, PkiError, RequestKey, certificates};
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher;
use std::time::Duration;

pub const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub const SERVING_SIGNER: &str = "kubernetes.io/kubelet-serving";
pub(crate) const GROUP: &str = "system:nodes";
/// How long a request is waited for; upstream's figure.
pub const WAIT_LIMIT: Duration = Duration::from_secs(15 * 60);
const CONFLICT: u16 = 409;

#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error(transparent)]
    Key(#[from] PkiError),
    #[error("cannot create certificate signing request: {0}")]
    Create(Box<kube::Error>),
    #[error("cannot retrieve certificate signing request {name}: {error}")]
    Read { name: String, error: Box<kube::Error> },
    #[error("certificate signing request {name} is there already and not of this key and node: {why}; delete it to have another made")]
    Foreign { name: String, why: &'static str },
    #[error("certificate signing request {name} is denied, reason: {reason}, message: {message}")]
    Denied { name: String, reason: String, message: String },
    #[error("certificate signing request {name} failed, reason: {reason}, message: {message}")]
    Failed { name: String, reason: String, message: String },
    #[error("certificate signing request {name} was deleted")]
    Deleted { name: String },
    #[error("certificate signing request {name} was neither approved and issued nor denied within {} minutes; is it approved? (kubectl certificate approve {name})", limit.as_secs() / 60)]
    TimedOut { name: String, limit: Duration },
}

/// The certificate a node wants.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub signer: &'static str,
    /// `client auth` or `server auth`.
    pub usage: &'static str,
    pub node: String,
    pub names: Names,
}

impl Wanted {
    /// To ask the API server with.
    pub fn client(node: &str) -> Wanted {
        Wanted { signer: CLIENT_SIGNER, usage: "client auth", node: node.into(), names: Names::default() }
    }
    /// To answer others with, under the addresses that the Node's status shows.
    pub fn serving(node: &str, names: Names) -> Wanted {
        Wanted { signer: SERVING_SIGNER, usage: "server auth", node: node.into(), names }
    }

    pub fn user(&self) -> String {
        format!("system:node:{}", self.node)
    }

    /// Keys over curves do not encipher keys (RFC 8813); RSA's may.
    fn usages(&self, key: &RequestKey) -> Vec<&'static str> {
        let encipherment = key.is_rsa().then_some("key encipherment");
        ["digital signature"].into_iter().chain(encipherment).chain([self.usage]).collect()
    }

    /// Whether a certificate is what is wanted, or more.
    pub fn is_met_by(&self, leaf: &Leaf) -> bool {
        leaf.subject.common_name == self.user() && leaf.subject.organizations.iter().any(|group| group == GROUP) && leaf.names.carry(&self.names)
    }
}

/// How a request is called.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// By key and subject: a restart finds it again.
    OfKey,
    /// By the API server: one of each key.
    Any,
}

/// Asks for a certificate and waits until it is issued; PEM.
pub async fn ask(client: &kube::Client, wanted: &Wanted, key: &RequestKey, name: Name, limit: Duration) -> Result<String, RequestError> {
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let posted = post(&api, wanted, key, name).await?;
    let name = posted.metadata.name.clone().unwrap_or_default();
    tracing::info!(request = name, signer = wanted.signer, "certificate asked for, waiting until it is approved and issued");
    match tokio::time::timeout(limit, issued(&api, &name, posted.metadata.uid.as_deref())).await {
        Ok(issued) => issued,
        Err(_) => Err(RequestError::TimedOut { name, limit }),
    }
}

async fn post(api: &Api<CertificateSigningRequest>, wanted: &Wanted, key: &RequestKey, name: Name) -> Result<CertificateSigningRequest, RequestError> {
    let (user, usages) = (wanted.user(), wanted.usages(key));
    let name = (name == Name::OfKey).then(|| key.request_name(&user, GROUP, &usages));
    let metadata = match &name {
        Some(name) => ObjectMeta { name: Some(name.clone()), ..Default::default() },
        None => ObjectMeta { generate_name: Some("csr-".into()), ..Default::default() },
    };
    let spec = CertificateSigningRequestSpec {
        request: ByteString(key.request(&user, GROUP, &wanted.names)?.into_bytes()),
        signer_name: wanted.signer.into(),
        usages: Some(usages.into_iter().map(str::to_owned).collect()),
        ..Default::default()
    };
    let request = CertificateSigningRequest { metadata, spec, status: None };
    match (api.create(&PostParams::default(), &request).await, name) {
        (Ok(posted), _) => Ok(posted),
        (Err(kube::Error::Api(refusal)), Some(name)) if refusal.code == CONFLICT => {
            let found = api.get(&name).await.map_err(|error| RequestError::Read { name: name.clone(), error: Box::new(error) })?;
            check(&found, wanted, key, Timestamp::now()).map_err(|why| RequestError::Foreign { name: name.clone(), why })?;
            tracing::info!(request = name, "the request of an earlier start is still there");
            Ok(found)
        }
        (Err(error), _) => Err(RequestError::Create(Box::new(error))),
    }
}

/// Why a request that was there already is not ours.
fn check(found: &CertificateSigningRequest, wanted: &Wanted, key: &RequestKey, now: Timestamp) -> Result<(), &'static str> {
    let request = CertificateRequest::parse(&String::from_utf8_lossy(&found.spec.request.0)).map_err(|_| "it does not parse")?;
    if request.subject.common_name != wanted.user() || request.subject.organizations != [GROUP] {
        return Err("another subject");
    }
    if found.spec.signer_name != wanted.signer {
        return Err("another signer");
    }
    if request.public_key_der != key.public_key_der() {
        return Err("another key");
    }
    let issued = found.status.as_ref().and_then(|status| status.certificate.as_ref()).map(|pem| String::from_utf8_lossy(&pem.0).into_owned()).unwrap_or_default();
    match certificates(&issued).iter().filter_map(|der| Leaf::of(der)).any(|leaf| leaf.not_after < now) {
        true => Err("its certificate has expired"),
        false => Ok(()),
    }
}

/// Follows the request; what makes the watch fail passes or the caller's patience ends.
async fn issued(api: &Api<CertificateSigningRequest>, name: &str, uid: Option<&str>) -> Result<String, RequestError> {
    let mut events = std::pin::pin!(watcher::watch_object(api.clone(), name).default_backoff());
    while let Some(event) = events.next().await {
        match event {
            Ok(Some(request)) if request.metadata.uid.as_deref() == uid => {
                if let Some(pem) = answer(&request, name)? {
                    return Ok(pem);
                }
            }
            Ok(_) => break,
            Err(error) => tracing::info!(%error, request = name, "the request could not be watched, will be tried again"),
        }
    }
    Err(RequestError::Deleted { name: name.to_owned() })
}

/// The certificate, once there is one.
fn answer(request: &CertificateSigningRequest, name: &str) -> Result<Option<String>, RequestError> {
    let Some(status) = &request.status else { return Ok(None) };
    let conditions = status.conditions.as_deref().unwrap_or_default();
    for condition in conditions {
        let (name, reason, message) = (name.to_owned(), condition.reason.clone().unwrap_or_default(), condition.message.clone().unwrap_or_default());
        match condition.type_.as_str() {
            "Denied" => return Err(RequestError::Denied { name, reason, message }),
            "Failed" => return Err(RequestError::Failed { name, reason, message }),
            _ => {}
        }
    }
    let is_approved = conditions.iter().any(|condition| condition.type_ == "Approved");
    Ok(status.certificate.as_ref().filter(|pem| is_approved && !pem.0.is_empty()).map(|pem| String::from_utf8_lossy(&pem.0).into_owned()))
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
