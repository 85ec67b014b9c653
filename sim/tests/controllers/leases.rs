//! Leader election over the real API server.

use k8s_openapi::api::coordination::v1::Lease;
use keles_reconcile::{Election, lead};
use keles_sim::World;
use kube::Api;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_leads_and_another_only_after_it_stopped_renewing() {
    let world = World::start().await;
    let election = |identity: &str| Election {
        lease_duration: Duration::from_secs(4),
        renew_deadline: Duration::from_secs(3),
        retry_period: Duration::from_millis(100),
        ..Election::new("kube-system", "sim-leader", identity)
    };
    let (first_stop, second_stop) = (CancellationToken::new(), CancellationToken::new());
    let leads = lead(world.admin.clone(), election("first"), first_stop.clone()).await.expect("nobody else stands");
    let first = leads.token();
    let mut second = tokio::spawn(lead(world.admin.clone(), election("second"), second_stop.clone()));
    assert!(tokio::time::timeout(Duration::from_secs(5), &mut second).await.is_err(), "the first one renews");
    assert!(!first.is_cancelled());
    first_stop.cancel();
    assert!(first.is_cancelled(), "who stops leading knows at once");
    let leading = tokio::time::timeout(Duration::from_secs(60), second).await.expect("the lease runs out").expect("no panic").expect("not shut down");
    assert!(!leading.token().is_cancelled());
    second_stop.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_gives_the_lease_back_is_followed_at_once_though_it_would_last_an_hour() {
    let world = World::start().await;
    let hour = Duration::from_secs(3600);
    let election = |identity: &str| Election {
        lease_duration: hour,
        renew_deadline: hour / 2,
        retry_period: Duration::from_millis(100),
        ..Election::new("kube-system", "sim-hand-over", identity)
    };
    let stop = CancellationToken::new();
    let first = lead(world.admin.clone(), election("first"), stop.child_token()).await.expect("nobody else stands");
    let second = tokio::spawn(lead(world.admin.clone(), election("second"), stop.clone()));
    let work = first.token();
    first.resign().await;
    assert!(work.is_cancelled(), "its work has ended");
    let second = tokio::time::timeout(Duration::from_secs(60), second).await.expect("the lease is free").expect("no panic").expect("not shut down");
    assert!(!second.token().is_cancelled());
    let leases: Api<Lease> = Api::namespaced(world.admin.clone(), "kube-system");
    let spec = leases.get("sim-hand-over").await.unwrap().spec.unwrap();
    assert_eq!((spec.holder_identity.as_deref(), spec.lease_transitions), (Some("second"), Some(1)));
    stop.cancel();
}
