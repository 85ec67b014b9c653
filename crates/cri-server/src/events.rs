//! `GetContainerEvents`: what happens to containers and sandboxes, each with the pod as it is then.
//!
//! Two sources meet in [`follow`]: what the runtime tells, and what the methods tell ([`Cri::tell`]), which wait until it is out. So a sandbox is told
//! before its containers, whose client does not know it before, and a removal after all that the runtime told of what was removed.

use crate::{Cri, status};
use futures::StreamExt;
use keles_cri::{ContainerEventResponse, ContainerEventType, GetEventsRequest};
use keles_grpc::{Answers, Code, Status};
use keles_runtime::api::{ContainerEvent, ContainerState};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

pub fn now_unix_ns() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).ok().and_then(|since| i64::try_from(since.as_nanos()).ok()).unwrap_or(0)
}

/// The event with the pod as it is now, as far as there is one.
pub async fn event(cri: &Cri, container_id: &str, sandbox_id: &str, kind: ContainerEventType) -> ContainerEventResponse {
    let sandbox = cri.sandbox(sandbox_id).await.ok();
    let mut containers_statuses = Vec::new();
    for container in cri.containers_of(sandbox_id).await.unwrap_or_default() {
        containers_statuses.push(cri.status_of(&container).await);
    }
    ContainerEventResponse {
        container_id: container_id.to_owned(),
        container_event_type: kind as i32,
        created_at: now_unix_ns(),
        pod_sandbox_status: sandbox.as_ref().map(status::sandbox),
        containers_statuses,
    }
}

/// An event, and who waits until it is out.
pub type Told = (ContainerEventResponse, oneshot::Sender<()>);

impl Cri {
    /// Returns when clients have it, and all that the runtime told before.
    pub async fn send(&self, event: ContainerEventResponse) {
        let (out, is_out) = oneshot::channel();
        // Neither is left at the end of the server.
        if self.told.send((event, out)).await.is_ok() {
            let _ = is_out.await;
        }
    }

    pub async fn tell(&self, container_id: &str, sandbox_id: &str, kind: ContainerEventType) {
        self.send(event(self, container_id, sandbox_id, kind).await).await;
    }

    fn publish(&self, event: ContainerEventResponse) {
        // Nobody listening is fine.
        let _ = self.events.send(event);
    }

    pub async fn container_events(&self, _: GetEventsRequest) -> Result<Answers<ContainerEventResponse>, Status> {
        let lagged = |n: u64| Status::new(Code::ResourceExhausted, format!("{n} events were lost because they were read too slowly; list the pods anew"));
        let events = futures::stream::unfold(Some(self.events.subscribe()), move |receiver| async move {
            let mut receiver = receiver?;
            match receiver.recv().await {
                Ok(event) => Some((Ok(event), Some(receiver))),
                Err(RecvError::Lagged(n)) => Some((Err(lagged(n)), None)),
                Err(RecvError::Closed) => None,
            }
        });
        Ok(events.boxed())
    }
}

/// Hands on what the runtime and the methods tell, the runtime's first.
pub async fn follow(cri: Arc<Cri>, mut of_engine: broadcast::Receiver<ContainerEvent>, mut own: mpsc::Receiver<Told>, stop: CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            next = of_engine.recv() => match next {
                Ok(next) => hand_on(&cri, next).await,
                Err(RecvError::Lagged(n)) => tracing::warn!(n, "events of the runtime were lost; clients of the event stream list anew in time"),
                Err(RecvError::Closed) => return,
            },
            Some((event, out)) = own.recv() => {
                cri.publish(event);
                let _ = out.send(());
            }
        }
    }
}

async fn hand_on(cri: &Cri, happened: ContainerEvent) {
    let sandbox = &happened.sandbox_id;
    if happened.container_id.is_empty() {
        // The sandbox died unasked: what leads to it goes, its address stays until it is stopped.
        if let Err(error) = cri.ports.apply(&cri.engine).await {
            tracing::warn!(%error, sandbox, "host ports of a dead sandbox not taken back");
        }
        return cri.publish(event(cri, sandbox, sandbox, ContainerEventType::Stopped).await);
    }
    let kind = match happened.state {
        ContainerState::Created => ContainerEventType::Created,
        ContainerState::Running => ContainerEventType::Started,
        ContainerState::Exited => ContainerEventType::Stopped,
        ContainerState::Unknown => return,
    };
    cri.publish(event(cri, &happened.container_id, sandbox, kind).await);
}
