//! The way to a definition's conversion webhook: its address (a URL, or an endpoint of a Service), its trust, and its failures in upstream's words.
//!
//! Entry point: [`webhook`]. What goes over the wire and what may come back is `keles_custom::conversion`'s.

use crate::admission::Client;
use crate::http_proxy::service_address;
use crate::server::Inner;
use keles_auth::outbound::{Endpoint, OutboundError};
use keles_custom::{Answering, Definition, Webhook};
use serde_json::Value;
use std::error::Error;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Upstream's limit of one conversion.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How a definition's webhook is reached, if it converts by one.
pub fn webhook(server: &Arc<Inner>, d: &Definition) -> Option<Arc<dyn Webhook>> {
    let client = Client::parse(d.spec.conversion.as_ref()?.webhook.as_ref()?.get("clientConfig")?);
    d.converts_by_webhook().then(|| Arc::new(Hook { server: Arc::downgrade(server), client }) as Arc<dyn Webhook>)
}

struct Hook {
    /// The server holds the kind, and the kind this.
    server: Weak<Inner>,
    client: Client,
}

impl Webhook for Hook {
    fn post(&self, review: Value) -> Answering<'_> {
        Box::pin(async move { self.answer(&review).await.map_err(|why| format!("Post \"{}\": {why}", self.shown())) })
    }
}

impl Hook {
    async fn answer(&self, review: &Value) -> Result<Value, String> {
        let endpoint = self.endpoint()?;
        endpoint.post_once(review, TIMEOUT).await.map_err(|e| said(&e))
    }

    fn endpoint(&self) -> Result<Endpoint, String> {
        let c = &self.client;
        let made = match &c.url {
            Some(_) => c.endpoint(None, || Endpoint::https(&self.shown(), c.ca_pem.as_deref())),
            None => {
                let server = self.server.upgrade().ok_or("the server is shutting down")?;
                let at = service_address(&server.registry, &c.service.namespace, &c.service.name, c.service.port).map_err(|s| s.message)?;
                let url = format!("https://{at}{}", self.path());
                c.endpoint(Some(at), || Endpoint::https_as(&url, c.ca_pem.as_deref(), &c.service.host()))
            }
        };
        made.map_err(|e| e.to_string())
    }

    fn path(&self) -> String {
        let (path, seconds) = (&self.client.service.path, TIMEOUT.as_secs());
        let slash = if path.starts_with('/') { "" } else { "/" };
        format!("{slash}{path}?timeout={seconds}s")
    }

    /// The address as messages show it.
    fn shown(&self) -> String {
        let s = &self.client.service;
        match &self.client.url {
            Some(url) => format!("{url}{}timeout={}s", if url.contains('?') { '&' } else { '?' }, TIMEOUT.as_secs()),
            None => format!("https://{}:{}{}", s.host(), s.port, self.path()),
        }
    }
}

/// A failed call as Go's client tells it.
fn said(e: &OutboundError) -> String {
    match e {
        OutboundError::Timeout { .. } => "context deadline exceeded".into(),
        OutboundError::Refused { code, .. } if code.as_u16() == 404 => "the server could not find the requested resource".into(),
        OutboundError::Refused { code, text, .. } if code.is_server_error() => format!("an error on the server ({:?}) has prevented the request from succeeding", text.trim()),
        OutboundError::Refused { code, .. } => format!("the server responded with the status code {} but did not return more information", code.as_u16()),
        OutboundError::Transport { url, source } => {
            let mut deepest: &dyn Error = source;
            while let Some(cause) = deepest.source() {
                deepest = cause;
            }
            let deepest = deepest.to_string();
            let refused = deepest.contains("Connection refused");
            let address = url.strip_prefix("https://").and_then(|u| u.split('/').next()).unwrap_or(url);
            if refused { format!("dial tcp {address}: connect: connection refused") } else { deepest }
        }
        other => other.to_string(),
    }
}
