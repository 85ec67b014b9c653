//! The configurations as hooks in the order they are called, parsed once a change.

use crate::admission::dynamic::OnFailure;
use crate::admission::dynamic::conditions::Conditions;
use crate::admission::dynamic::rules::Matching;
use keles_api::Object;
use keles_auth::outbound::{Endpoint, OutboundError};
use keles_registry::Registry;
use serde_json::Value;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
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

/// Where a hook's server is.
pub struct Client {
    /// Absent: `service` says where.
    pub url: Option<String>,
    pub service: Service,
    pub ca_pem: Option<Vec<u8>>,
    /// Connections that are kept, by where they lead: a Service's endpoints change.
    endpoints: Mutex<HashMap<Option<SocketAddr>, Endpoint>>,
}

#[derive(Clone, Debug, Default)]
pub struct Service {
    pub namespace: String,
    pub name: String,
    pub path: String,
    pub port: u16,
}

impl Service {
    /// The name its certificate must have.
    pub fn host(&self) -> String {
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

    /// A pooled connection to `at`, made by `make` at first.
    pub fn endpoint(&self, at: Option<SocketAddr>, make: impl FnOnce() -> Result<Endpoint, OutboundError>) -> Result<Endpoint, OutboundError> {
        let mut all = self.endpoints.lock().expect("no holder panics");
        if let Some(e) = all.get(&at) {
            return Ok(e.clone());
        }
        let e = make()?;
        // Pods come and go: what is kept stays small.
        const KEPT: usize = 16;
        if all.len() >= KEPT {
            all.clear();
        }
        all.insert(at, e.clone());
        Ok(e)
    }
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
