//! Leader election over the real API server.

use keles_reconcile::{Election, lead};
use keles_sim::World;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_leads_and_another_only_after_it_stopped_renewing() {
    let world = World::start().await;
    let election = |identity: &str| Election {
        lease_duration: Duration::from_secs(1),
        renew_deadline: Duration::from_millis(700),
        retry_period: Duration::from_millis(100),
        ..Election::new("kube-system", "sim-leader", identity)
    };
    let (first_stop, second_stop) = (CancellationToken::new(), CancellationToken::new());
    let first = lead(world.admin.clone(), election("first"), first_stop.clone()).await.expect("nobody else stands");
    let mut second = tokio::spawn(lead(world.admin.clone(), election("second"), second_stop.clone()));
    assert!(tokio::time::timeout(Duration::from_secs(2), &mut second).await.is_err(), "the first one renews");
    assert!(!first.is_cancelled());
    first_stop.cancel();
    assert!(first.is_cancelled(), "who stops leading knows at once");
    let leading = tokio::time::timeout(Duration::from_secs(10), second).await.expect("the lease runs out").expect("no panic").expect("not shut down");
    assert!(!leading.is_cancelled());
    second_stop.cancel();
}
