//! The configurations as hooks in the order they are called, parsed once a change.

use crate::admission::dynamic::OnFailure;
use crate::admission::dynamic::conditions::Conditions;
use crate::admission::dynamic::rules::Matching;
use crate::http_proxy::service_address;
use keles_api::Object;
use keles_auth::outbound::{Endpoint, OutboundError};
use keles_registry::Registry;
use serde_json::Value;
use std::collections::HashMap;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const GROUP: &str = "admissionregistration.k8s.io";
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// One `webhooks` entry.
pub struct Hook {
    pub name: String,
    /// The configuration it stands in.
    pub configuration: String,
    pub matching: Matching,
    pub conditions: Conditions,
    pub on_failure: OnFailure,
    /// Has no side effects when the request is a dry run.
    pub dry_runs: bool,
    /// `reinvocationPolicy: IfNeeded`
    pub reinvokes: bool,
    pub timeout: Duration,
    pub client: Client,
}

/// Where a hook's server is, or that of a conversion.
pub struct Client {
    /// Absent: `service` says where.
    url: Option<String>,
    service: Service,
    ca_pem: Option<Vec<u8>>,
    /// Connections that are kept, by where they lead: a Service's endpoints change.
    endpoints: Mutex<HashMap<Option<SocketAddr>, Endpoint>>,
}

#[derive(Clone, Debug, Default)]
struct Service {
    namespace: String,
    name: String,
    path: String,
    port: u16,
}

impl Service {
    /// The name its certificate must have.
    fn host(&self) -> String {
        format!("{}.{}.svc", self.name, self.namespace)
    }
}

impl Client {
    pub fn parse(v: &Value) -> Client {
        use base64::Engine;
        let s = &v["service"];
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let ca = v["caBundle"].as_str().filter(|t| !t.is_empty()).and_then(|t| base64::engine::general_purpose::STANDARD.decode(t).ok());
        Client {
            url: v["url"].as_str().map(str::to_owned),
            service: Service {
                namespace: text(&s["namespace"]),
                name: text(&s["name"]),
                path: text(&s["path"]),
                port: s["port"].as_u64().and_then(|p| u16::try_from(p).ok()).unwrap_or(443),
            },
            ca_pem: ca,
            endpoints: Mutex::default(),
        }
    }

    /// Posts JSON to the server, once; the JSON of its answer. The error is what Go's client says, with the address as messages show it.
    pub async fn post(&self, registry: &Registry, body: &Value, timeout: Duration) -> Result<Value, String> {
        let unreached = |why: String| format!("Post \"{}\": {why}", self.shown(timeout));
        let at = match &self.url {
            Some(_) => None,
            None => Some(service_address(registry, &self.service.namespace, &self.service.name, self.service.port).map_err(|s| unreached(s.message))?),
        };
        let endpoint = self.endpoint(at, timeout).map_err(|e| e.to_string())?;
        endpoint.post_once(body, timeout).await.map_err(|e| match e {
            OutboundError::Timeout { .. } => unreached("context deadline exceeded".into()),
            OutboundError::Transport { url, source } => unreached(transport(&url, &source)),
            OutboundError::Refused { code, .. } if code.as_u16() == 404 => "the server could not find the requested resource".into(),
            OutboundError::Refused { code, text, .. } if code.is_server_error() => format!("an error on the server ({:?}) has prevented the request from succeeding", text.trim()),
            OutboundError::Refused { code, .. } => format!("the server responded with the status code {} but did not return more information", code.as_u16()),
            other => other.to_string(),
        })
    }

    /// A connection to `at`, or to the URL; it is kept, with others where a Service's endpoints are several.
    fn endpoint(&self, at: Option<SocketAddr>, timeout: Duration) -> Result<Endpoint, OutboundError> {
        let mut all = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(e) = all.get(&at) {
            return Ok(e.clone());
        }
        let e = match at {
            None => Endpoint::https(&self.shown(timeout), self.ca_pem.as_deref())?,
            Some(at) => Endpoint::https_as(&format!("https://{at}{}", self.path(timeout)), self.ca_pem.as_deref(), &self.service.host())?,
        };
        // Pods come and go: what is kept stays small.
        const KEPT: usize = 16;
        if all.len() >= KEPT {
            all.clear();
        }
        all.insert(at, e.clone());
        Ok(e)
    }

    /// Path and query at a Service.
    fn path(&self, timeout: Duration) -> String {
        format!("/{}?timeout={}s", self.service.path.trim_start_matches('/'), timeout.as_secs())
    }

    /// The address as messages show it.
    fn shown(&self, timeout: Duration) -> String {
        match &self.url {
            Some(url) => format!("{url}{}timeout={}s", if url.contains('?') { '&' } else { '?' }, timeout.as_secs()),
            None => format!("https://{}:{}{}", self.service.host(), self.service.port, self.path(timeout)),
        }
    }
}

/// Why no connection came about.
fn transport(url: &str, source: &dyn Error) -> String {
    let mut deepest = source;
    while let Some(cause) = deepest.source() {
        deepest = cause;
    }
    let deepest = deepest.to_string();
    if !deepest.contains("Connection refused") {
        return deepest;
    }
    let address = url.strip_prefix("https://").and_then(|u| u.split('/').next()).unwrap_or(url);
    format!("dial tcp {address}: connect: connection refused")
}

impl Hook {
    fn parse(configuration: &str, v: &Value) -> Hook {
        Hook {
            configuration: configuration.into(),
            name: v["name"].as_str().unwrap_or_default().to_owned(),
            matching: Matching::parse(v),
            conditions: Conditions::parse(&v["matchConditions"]),
            on_failure: OnFailure::parse(v["failurePolicy"].as_str().unwrap_or_default()),
            dry_runs: matches!(v["sideEffects"].as_str(), Some("None" | "NoneOnDryRun")),
            reinvokes: v["reinvocationPolicy"] == "IfNeeded",
            timeout: v["timeoutSeconds"].as_u64().map_or(DEFAULT_TIMEOUT, Duration::from_secs),
            client: Client::parse(&v["clientConfig"]),
        }
    }
}

/// All hooks of one of the two kinds of configuration.
pub struct Configs {
    plural: &'static str,
    parsed: Mutex<(u64, Arc<Vec<Arc<Hook>>>)>,
}

impl Configs {
    pub fn new(plural: &'static str) -> Self {
        Configs { plural, parsed: Mutex::default() }
    }

    /// The hooks in order of their configurations' names; parsed anew when a configuration changed.
    pub fn all(&self, registry: &Registry) -> Arc<Vec<Arc<Hook>>> {
        let change = registry.changed(GROUP, self.plural);
        let mut parsed = self.parsed.lock().expect("no holder panics");
        if parsed.0 != change {
            let mut configs = registry.read_all(GROUP, self.plural, "");
            configs.sort_by(|a, b| a.name().cmp(b.name()));
            *parsed = (change, Arc::new(configs.iter().flat_map(hooks).collect()));
        }
        parsed.1.clone()
    }
}

fn hooks(config: &Object) -> impl Iterator<Item = Arc<Hook>> {
    config.at(&["webhooks"]).as_array().into_iter().flatten().map(|v| Arc::new(Hook::parse(config.name(), v)))
}
