//! What happened to containers and sandboxes: the runtime's events where it tells them, else a look at its lists once a second.
//!
//! Entry point: [`Relay::start`]. Looking once a second is upstream's generic PLEG and all that runtimes before containerd 1.7 can do
//! (GetContainerEvents is unimplemented there); with events (KEP-3386) the lists are only read when the stream begins, so that nothing is lost
//! between two of them. Invariant: a change is told once, and the first look tells nothing: whoever subscribes lists for himself.

use crate::{Inner, container, held};
use keles_cri as cri;
use keles_grpc::{Code, Status, Streaming};
use keles_runtime::api::{ContainerEvent, ContainerState, Result};
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::task::JoinHandle;

/// Events a slow subscriber may lag behind before it must list anew.
pub const QUEUE: usize = 1024;
/// Upstream's period of relisting.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Tells events until it is dropped.
pub struct Relay(JoinHandle<()>);

impl Relay {
    pub fn start(inner: &Arc<Inner>) -> Relay {
        Relay(tokio::spawn(run(Arc::downgrade(inner))))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What the lists said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    /// By sandbox: the pod, and whether it is ready.
    sandboxes: HashMap<String, (String, bool)>,
    /// By container: its sandbox and its state.
    containers: HashMap<String, (String, ContainerState)>,
}

impl Seen {
    /// What changed since `before`; a container that is gone has ended.
    fn since(&self, before: &Seen) -> Vec<ContainerEvent> {
        let pod = |sandbox: &str| self.sandboxes.get(sandbox).or_else(|| before.sandboxes.get(sandbox)).map(|(pod, _)| pod.clone()).unwrap_or_default();
        let event = |sandbox: &str, container: &str, state| ContainerEvent { pod_uid: pod(sandbox), sandbox_id: sandbox.to_owned(), container_id: container.to_owned(), state };
        let changed = self.containers.iter().filter(|(id, (_, state))| before.containers.get(*id).map(|(_, state)| state) != Some(state));
        let gone = before.containers.iter().filter(|(id, (_, state))| *state != ContainerState::Exited && !self.containers.contains_key(*id));
        let ended = before.sandboxes.iter().filter(|(id, (_, ready))| *ready && !self.sandboxes.get(*id).is_some_and(|(_, ready)| *ready));
        let changed = changed.map(|(id, (sandbox, state))| event(sandbox, id, *state));
        let gone = gone.map(|(id, (sandbox, _))| event(sandbox, id, ContainerState::Exited));
        changed.chain(gone).chain(ended.map(|(id, _)| event(id, "", ContainerState::Exited))).collect()
    }
}

type Events = Streaming<cri::ContainerEventResponse>;

async fn run(inner: Weak<Inner>) {
    let mut looker = Looker { inner, seen: None, is_down: false };
    let mut tells_events = true;
    while let Some(mut stream) = looker.look_until_told(&mut tells_events).await {
        loop {
            match stream.message().await {
                Ok(Some(message)) => {
                    let Some(inner) = looker.inner.upgrade() else { return };
                    note(&inner, message, looker.seen.get_or_insert_default());
                }
                Ok(None) => break,
                Err(status) => {
                    // Some runtimes say so only once the stream is read.
                    tells_events = !is_unknown(&status);
                    break;
                }
            }
        }
        // A stream that ends as it begins is not asked for at once; the next look tells what happens until then.
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Reads the lists; holds the runtime weakly, which it must not keep alive.
struct Looker {
    inner: Weak<Inner>,
    seen: Option<Seen>,
    is_down: bool,
}

impl Looker {
    /// Looks once a second until the runtime tells events. gRPC servers in Go begin a stream with its first message: until then nobody knows that it
    /// was subscribed to. `None`: nobody needs the events any more.
    async fn look_until_told(&mut self, tells_events: &mut bool) -> Option<Events> {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut subscribed: Option<Pin<Box<dyn Future<Output = std::result::Result<Events, Status>> + Send>>> = None;
        loop {
            let inner = self.inner.upgrade()?;
            if subscribed.is_none() && *tells_events {
                let channel = inner.caller.channel().clone();
                subscribed = Some(Box::pin(async move { channel.server_streaming(cri::GET_CONTAINER_EVENTS, &cri::GetEventsRequest {}).await }));
            }
            drop(inner);
            let begun = async {
                match &mut subscribed {
                    Some(subscribed) => subscribed.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                begun = begun => {
                    subscribed = None;
                    match begun {
                        Ok(stream) => {
                            // What happened before it began.
                            self.look().await?;
                            return Some(stream);
                        }
                        // Anew with the next look, unless it never will.
                        Err(status) => {
                            *tells_events = !is_unknown(&status);
                            ticks.tick().await;
                        }
                    }
                }
                _ = ticks.tick() => {}
            }
            self.look().await?;
        }
    }

    async fn look(&mut self) -> Option<()> {
        let inner = self.inner.upgrade()?;
        match look(&inner).await {
            Ok(now) => {
                if let Some(before) = &self.seen {
                    now.since(before).into_iter().for_each(|event| tell(&inner, event));
                }
                self.seen = Some(now);
                self.is_down = false;
            }
            Err(error) if !self.is_down => {
                tracing::warn!(%error, "the container runtime does not list its containers; what happens to them is seen when it does again");
                self.is_down = true;
            }
            Err(_) => {}
        }
        Some(())
    }
}

/// containerd without evented PLEG answers with Unimplemented, CRI-O with Unknown and these words.
fn is_unknown(status: &Status) -> bool {
    status.code == Code::Unimplemented || status.message.contains("not enabled") || status.message.contains("not implemented")
}

fn tell(inner: &Inner, event: ContainerEvent) {
    // Nobody listening is fine.
    let _ = inner.events.send(event);
}

async fn look(inner: &Inner) -> Result<Seen> {
    let sandboxes = inner.sandboxes("").await?;
    let containers = inner.containers().await?;
    let pod = |sandbox: &cri::PodSandbox| sandbox.metadata.as_ref().map(|metadata| metadata.uid.clone()).unwrap_or_default();
    Ok(Seen {
        sandboxes: sandboxes.iter().map(|sandbox| (sandbox.id.clone(), (pod(sandbox), sandbox.state() == cri::PodSandboxState::Ready))).collect(),
        containers: containers.iter().map(|c| (c.id.clone(), (c.pod_sandbox_id.clone(), container::state(c.state())))).collect(),
    })
}

/// Takes one event of the runtime. Those of other agents' pods are not ours to tell.
fn note(inner: &Inner, message: cri::ContainerEventResponse, seen: &mut Seen) {
    let kind = message.container_event_type();
    let sandbox = message.pod_sandbox_status.unwrap_or_default();
    let sandbox_id = if sandbox.id.is_empty() { held(&inner.places).get(&message.container_id).cloned().unwrap_or_default() } else { sandbox.id.clone() };
    let is_ours = sandbox.labels.get(crate::OWNER) == Some(&inner.owner) || seen.sandboxes.contains_key(&sandbox_id);
    if !is_ours {
        return;
    }
    let pod = sandbox.metadata.as_ref().map(|metadata| metadata.uid.clone()).filter(|uid| !uid.is_empty());
    let pod = pod.or_else(|| seen.sandboxes.get(&sandbox_id).map(|(pod, _)| pod.clone())).unwrap_or_default();
    let mut now = seen.clone();
    let is_sandbox = message.container_id == sandbox_id || message.container_id == sandbox.id;
    if kind == cri::ContainerEventType::Deleted {
        if is_sandbox {
            now.sandboxes.remove(&message.container_id);
        } else {
            now.containers.remove(&message.container_id);
        }
    } else if is_sandbox {
        let ready = matches!(kind, cri::ContainerEventType::Created | cri::ContainerEventType::Started);
        now.sandboxes.insert(message.container_id, (pod, ready));
    } else {
        now.sandboxes.entry(sandbox_id.clone()).or_insert((pod, true));
        let state = match kind {
            cri::ContainerEventType::Created => ContainerState::Created,
            cri::ContainerEventType::Started => ContainerState::Running,
            cri::ContainerEventType::Stopped | cri::ContainerEventType::Deleted => ContainerState::Exited,
        };
        now.containers.insert(message.container_id, (sandbox_id, state));
    }
    now.since(seen).into_iter().for_each(|event| tell(inner, event));
    *seen = now;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(ready: bool, containers: &[(&str, ContainerState)]) -> Seen {
        let containers = containers.iter().map(|(id, state)| ((*id).to_owned(), ("s".to_owned(), *state))).collect();
        Seen { sandboxes: HashMap::from([("s".to_owned(), ("pod".to_owned(), ready))]), containers }
    }

    fn told(before: &Seen, now: &Seen) -> Vec<(String, ContainerState)> {
        let mut all: Vec<_> = now.since(before).into_iter().map(|event| (format!("{}/{}/{}", event.pod_uid, event.sandbox_id, event.container_id), event.state)).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    #[test]
    fn what_changed_between_two_looks_is_told_once() {
        use ContainerState::{Exited, Running};
        let before = seen(true, &[("a", Running), ("b", Running), ("c", Running)]);
        let now = seen(true, &[("a", Running), ("b", Exited), ("d", Running)]);
        assert_eq!(told(&before, &now), [("pod/s/b".into(), Exited), ("pod/s/c".into(), Exited), ("pod/s/d".into(), Running)]);
        assert_eq!(told(&now, &now), []);
    }

    #[test]
    fn a_sandbox_that_ends_or_vanishes_is_told_with_its_pod() {
        let before = seen(true, &[]);
        assert_eq!(told(&before, &seen(false, &[])), [("pod/s/".into(), ContainerState::Exited)]);
        assert_eq!(told(&before, &Seen::default()), [("pod/s/".into(), ContainerState::Exited)]);
        assert_eq!(told(&seen(false, &[]), &Seen::default()), [], "its end was told before");
    }
}
