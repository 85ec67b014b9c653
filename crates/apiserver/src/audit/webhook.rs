//! The webhook sink: events are posted as EventLists, in batches off the request's path, or one by one while it waits.

use super::{Mode, Options, Sink};
use futures::future::BoxFuture;
use keles_auth::outbound::{Endpoint, OutboundError};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc::{self, Receiver, Sender, error::TrySendError};

const TIMEOUT: Duration = Duration::from_secs(30);

pub struct Webhook {
    way: Way,
    lost: AtomicU64,
}

enum Way {
    Queue(Sender<Arc<Value>>),
    /// Posted while the request waits; `strict`: which fails with it.
    Wait {
        endpoint: Endpoint,
        strict: bool,
    },
}

impl Webhook {
    /// Starts the task that delivers; it ends with the sink, after what is queued.
    pub fn open(path: &Path, o: &Options) -> Result<Webhook, OutboundError> {
        let endpoint = Endpoint::from_kubeconfig(path)?;
        let way = match o.webhook_mode {
            Mode::Batch => {
                let (queue, events) = mpsc::channel(o.webhook_buffer.max(1));
                tokio::spawn(deliver(endpoint, events, o.webhook_batch_max.max(1), o.webhook_batch_wait));
                Way::Queue(queue)
            }
            mode => Way::Wait { endpoint, strict: mode == Mode::BlockingStrict },
        };
        Ok(Webhook { way, lost: AtomicU64::new(0) })
    }

    fn lose(&self) {
        let lost = self.lost.fetch_add(1, Ordering::Relaxed) + 1;
        // Powers of two: the first is told, and a flood does not flood the log.
        if lost.is_power_of_two() {
            tracing::error!(lost, "the buffer of the audit webhook is full: audit events are lost");
        }
    }
}

impl Sink for Webhook {
    fn take<'a>(&'a self, event: &'a Arc<Value>) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            match &self.way {
                Way::Queue(queue) => {
                    if let Err(TrySendError::Full(_)) = queue.try_send(event.clone()) {
                        self.lose();
                    }
                    true
                }
                Way::Wait { endpoint, strict } => post(endpoint, std::slice::from_ref(event)).await || !strict,
            }
        })
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
        post(&endpoint, &batch).await;
    }
}

/// Whether they were taken.
async fn post(endpoint: &Endpoint, batch: &[Arc<Value>]) -> bool {
    let items: Vec<&Value> = batch.iter().map(|e| &**e).collect();
    let list = json!({"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "metadata": {}, "items": items});
    let posted = endpoint.post(&list, TIMEOUT).await;
    if let Err(error) = &posted {
        tracing::error!(%error, events = batch.len(), "audit events were not delivered");
    }
    posted.is_ok()
}
