//! Of several `keles server` on one store one schedules, and one runs the controllers: each leads for itself, as upstream's parts do.
//!
//! The leases are those of the parts that run alone (`keles scheduler`, `keles controller-manager`), so both kinds may stand side by side.

use crate::node;
use keles_reconcile::Election;
use tokio_util::sync::CancellationToken;

const NAMESPACE: &str = "kube-system";

/// Does the work of a component until `stop`: at once where this server is `alone` on its store, else while it leads. Who loses the lease tries
/// again: everything that is done starts from what is stored.
pub async fn work<F: Future<Output = ()>>(alone: bool, client: kube::Client, component: &str, stop: CancellationToken, work: impl Fn(CancellationToken) -> F) {
    if alone {
        return work(stop).await;
    }
    let identity = format!("{}_{}", node::host_name().unwrap_or_else(|| "localhost".into()), uuid::Uuid::new_v4());
    loop {
        let Some(leadership) = keles_reconcile::lead(client.clone(), Election::new(NAMESPACE, component, &identity), stop.clone()).await else { return };
        work(leadership.token()).await;
        leadership.resign().await;
        if stop.is_cancelled() {
            return;
        }
        tracing::warn!(component, "this server leads no longer; trying again");
    }
}
