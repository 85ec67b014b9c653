//! The webhook sink: events are posted as EventLists, in batches off the request's path, or one by one in its way.

use super::{Options, Sink};
use keles_auth::outbound::{Endpoint, OutboundError};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc::{self, Receiver, Sender, error::TrySendError};

const TIMEOUT: Duration = Duration::from_secs(30);

pub struct Webhook {
    queue: Sender<Arc<Value>>,
    lost: AtomicU64,
}

impl Webhook {
    /// Starts the task that delivers; it ends with the sink, after what is queued.
    pub fn open(path: &Path, o: &Options) -> Result<Webhook, OutboundError> {
        let endpoint = Endpoint::from_kubeconfig(path)?;
        let (queue, events) = mpsc::channel(o.webhook_buffer.max(1));
        // Blocking mode sends what is there at once: batches of one that nobody waits to fill.
        let (most, wait) = if o.webhook_blocking { (1, Duration::ZERO) } else { (o.webhook_batch_max.max(1), o.webhook_batch_wait) };
        tokio::spawn(deliver(endpoint, events, most, wait));
        Ok(Webhook { queue, lost: AtomicU64::new(0) })
    }
}

impl Sink for Webhook {
    fn take(&self, event: &Arc<Value>) {
        if let Err(TrySendError::Full(_)) = self.queue.try_send(event.clone()) {
            let lost = self.lost.fetch_add(1, Ordering::Relaxed) + 1;
            // Powers of two: the first is told, and a flood does not flood the log.
            if lost.is_power_of_two() {
                tracing::error!(lost, "the buffer of the audit webhook is full: audit events are lost");
            }
        }
    }
}

async fn deliver(endpoint: Endpoint, mut events: Receiver<Arc<Value>>, most: usize, wait: Duration) {
    while let Some(first) = events.recv().await {
        let mut batch = vec![first];
        let end = tokio::time::Instant::now() + wait;
        while batch.len() < most {
            match tokio::time::timeout_at(end, events.recv()).await {
                Ok(Some(e)) => batch.push(e),
                Ok(None) | Err(_) => break,
            }
        }
        let items: Vec<&Value> = batch.iter().map(|e| &**e).collect();
        let list = json!({"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "metadata": {}, "items": items});
        if let Err(error) = endpoint.post(&list, TIMEOUT).await {
            tracing::error!(%error, events = batch.len(), "audit events were not delivered");
        }
    }
}
