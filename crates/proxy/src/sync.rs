//! The loop: wake on a change, compute, write the difference.

use crate::rules::{self, Rules, State};
use crate::table::{self, Frame};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use keles_client::{Informer, Informers, Scope};
use keles_linux::netlink::{NetlinkError, Socket};
use keles_linux::nft;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// After a refused transaction the whole table is written anew, this much later.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub struct Options {
    pub frame: Frame,
    pub node: String,
}

struct Watches {
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    /// Absent when nobody may read them: then there are no host ports.
    pods: Option<Informer<Pod>>,
}

impl Watches {
    fn desired(&self, node: &str) -> Rules {
        rules::compute(&State { services: &self.services.list(), slices: &self.slices.list(), pods: &self.pods.as_ref().map(Informer::list).unwrap_or_default(), node })
    }
}

/// Keeps the kernel's rules in step until `stop`; leaves them in place at the end, so that a restart interrupts nobody.
/// `on_node` lists this node's pods for their host ports: it speaks as the node, for upstream's role of the proxy may not read pods;
/// without it host ports are not served.
/// `ready` is called once, when the first table stands: from then on no service address leaves the machine.
pub async fn run(options: Options, informers: &Informers, on_node: Option<&Informers>, stop: CancellationToken, ready: impl FnOnce() + Send) {
    let frame = Arc::new(options.frame);
    // Before anything is known: the table that rejects every service address, so that nobody dials past it. What a running
    // server left is only replaced once the caches hold the truth.
    let mut applied = None;
    if let Ok(true) = table_is_missing(&frame).await {
        applied = apply(&frame, None, Rules::default()).await;
    }
    ready();
    let watches = Watches { services: informers.of(), slices: informers.of(), pods: on_node.map(|i| i.scoped(Scope::fields(&format!("spec.nodeName={}", options.node)))) };
    let (mut a, mut b, mut c) = (watches.services.version(), watches.slices.version(), watches.pods.as_ref().map(Informer::version));
    let pods_synced = async {
        match &watches.pods {
            Some(pods) => pods.synced().await,
            None => true,
        }
    };
    let synced = async { watches.services.synced().await && watches.slices.synced().await && pods_synced.await };
    tokio::select! {
        ok = synced => if !ok { return },
        () = stop.cancelled() => return,
    }
    loop {
        let desired = watches.desired(&options.node);
        if applied.as_ref() != Some(&desired) {
            applied = apply(&frame, applied, desired).await;
        }
        let retry = async {
            if applied.is_some() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(RETRY).await;
        };
        let pods_changed = async {
            match &mut c {
                Some(c) => c.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            r = a.changed() => if r.is_err() { return },
            r = b.changed() => if r.is_err() { return },
            r = pods_changed => if r.is_err() { return },
            () = retry => {}
        }
    }
}

async fn table_is_missing(frame: &Arc<Frame>) -> Result<bool, NetlinkError> {
    let frame = frame.clone();
    blocking(move || nft::table_exists(&mut Socket::netfilter()?, &frame.table).map(|there| !there)).await
}

/// The rules that now stand, absent when the kernel refused.
async fn apply(frame: &Arc<Frame>, old: Option<Rules>, new: Rules) -> Option<Rules> {
    let frame = frame.clone();
    let result = blocking(move || {
        let mut socket = Socket::netfilter()?;
        let batch = match &old {
            Some(old) => table::update(&frame, old, &new),
            None => table::replace(&frame, &new),
        };
        batch.commit(&mut socket)?;
        forget_stale_udp(&mut socket, &old.unwrap_or_default(), &new)?;
        Ok(new)
    })
    .await;
    result.inspect_err(|e| tracing::error!("service rules not applied, the whole table is written anew in {RETRY:?}: {e}")).ok()
}

/// UDP flows keep their endpoint as long as packets come, even when it is gone (lessons.md 122).
pub fn forget_stale_udp(socket: &mut Socket, old: &Rules, new: &Rules) -> Result<(), NetlinkError> {
    let changed: BTreeSet<(Ipv4Addr, u16)> =
        old.udp.iter().filter(|(k, v)| new.udp.get(k) != Some(v)).chain(new.udp.iter().filter(|(k, v)| old.udp.get(k) != Some(v))).map(|(k, _)| *k).collect();
    if changed.is_empty() {
        return Ok(());
    }
    for flow in nft::flows(socket)? {
        let stale = flow.protocol == rules::UDP && changed.contains(&flow.destination) && !new.udp.get(&flow.destination).is_some_and(|ends| ends.contains(&flow.answering));
        if stale {
            nft::forget(socket, &flow)?;
        }
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(f: impl FnOnce() -> Result<T, NetlinkError> + Send + 'static) -> Result<T, NetlinkError> {
    let ended = |_| Err(NetlinkError::Io { what: "run on a thread", source: std::io::Error::other("the thread ended early") });
    tokio::task::spawn_blocking(f).await.unwrap_or_else(ended)
}
