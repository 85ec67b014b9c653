//! kill -9 of the server at any moment.

use super::world::*;
use keles_cri as cri;
use keles_e2e::skip;
use std::time::Duration;

#[test]
fn a_server_killed_while_it_makes_a_pod_leaves_a_whole_one_or_none() {
    if skip() || outside("kills::a_server_killed_while_it_makes_a_pod_leaves_a_whole_one_or_none") {
        return;
    }
    tokio::runtime::Runtime::new().expect("a runtime").block_on(killed_while_making());
}

async fn killed_while_making() {
    let mut w = World::start().await;
    for (attempt, pause_ms) in [0, 2, 5, 8, 12, 16, 20, 30, 50, 90].into_iter().enumerate() {
        let mut config = w.sandbox_config();
        config.metadata.as_mut().expect("there").attempt = attempt as u32;
        let (channel, request) = (w.channel.clone(), cri::RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() });
        let call = tokio::spawn(async move { channel.unary::<_, cri::RunPodSandboxResponse>(cri::RUN_POD_SANDBOX, &request, LIMIT).await });
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        w.kill();
        let answered = call.await.expect("no panic").ok().map(|answer| answer.pod_sandbox_id);
        w.serve().await;
        let pods: cri::ListPodSandboxResponse = w.ok(cri::LIST_POD_SANDBOX, cri::ListPodSandboxRequest::default()).await;
        assert!(answered.iter().all(|id| pods.items.iter().any(|pod| pod.id == *id)), "what was answered is there: {answered:?} {pods:?}");
        for pod in pods.items {
            let shown = w.sandbox(&pod.id).await;
            assert_eq!(shown.state(), cri::PodSandboxState::Ready);
            assert!(shown.network.expect("a network").ip.starts_with("10.91."), "after {pause_ms} ms");
            w.remove_sandbox(&pod.id).await;
        }
        until("nothing left of it", async || {
            // The server itself is not.
            let left: Vec<String> = w.leftovers().into_iter().filter(|one| !one.contains(" cri --data-dir ")).collect();
            if left.is_empty() { Ok(()) } else { Err(format!("after {pause_ms} ms: {left:?}")) }
        })
        .await;
    }
    ends_and_leaves_nothing(w).await;
}
