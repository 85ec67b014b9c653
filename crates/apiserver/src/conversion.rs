//! The way to a definition's conversion webhook: its address (a URL, or an endpoint of a Service), its trust, and its failures in upstream's words
//! (all of these are [`Client`]'s).
//!
//! Entry point: [`webhook`]. What goes over the wire and what may come back is `keles_custom::conversion`'s.

use crate::admission::Client;
use crate::server::Inner;
use keles_custom::{Answering, Definition, Webhook};
use serde_json::Value;
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
        Box::pin(async move {
            let server = self.server.upgrade().ok_or("the server is shutting down")?;
            self.client.post(&server.registry, &review, TIMEOUT).await
        })
    }
}
