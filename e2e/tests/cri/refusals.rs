//! What cannot be is told in words that help.

use super::world::*;
use keles_cri as cri;
use keles_e2e::skip;
use keles_grpc::Code;

#[test]
fn what_a_message_asks_in_vain_is_named_and_leaves_nothing() {
    if skip() || outside("refusals::what_a_message_asks_in_vain_is_named_and_leaves_nothing") {
        return;
    }
    tokio::runtime::Runtime::new().expect("a runtime").block_on(in_vain());
}

async fn in_vain() {
    let w = World::start().await;
    let run = |change: fn(&mut cri::PodSandboxConfig)| {
        let mut config = w.sandbox_config();
        change(&mut config);
        cri::RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() }
    };
    let kata = cri::RunPodSandboxRequest { runtime_handler: "kata".into(), ..run(|_| ()) };
    assert!(w.refused(cri::RUN_POD_SANDBOX, kata).await.message.contains("kata"));
    assert!(w.refused(cri::RUN_POD_SANDBOX, run(|config| config.hostname.clear())).await.message.contains("hostname"));
    assert!(w.refused(cri::RUN_POD_SANDBOX, run(|config| config.port_mappings[0].host_port = 70_000)).await.message.contains("70000"));
    // The second with the same port on the host is told whose it is; with the host's network no address is taken.
    let first = w.ok::<_, cri::RunPodSandboxResponse>(cri::RUN_POD_SANDBOX, run(|_| ())).await.pod_sandbox_id;
    let next = |config: &mut cri::PodSandboxConfig| config.metadata.as_mut().expect("there").attempt = 1;
    assert!(w.refused(cri::RUN_POD_SANDBOX, run(next)).await.message.contains(&first));
    let absent = cri::CreateContainerRequest { pod_sandbox_id: first.clone(), config: Some(w.container_config("c", "absent:1", "true")), sandbox_config: None };
    assert_eq!(w.refused(cri::CREATE_CONTAINER, absent).await.code, Code::NotFound);
    // An id that nobody has: removing and stopping it is done, asking for it is not.
    let nobody = "f".repeat(64);
    let _: cri::StopPodSandboxResponse = w.ok(cri::STOP_POD_SANDBOX, cri::StopPodSandboxRequest { pod_sandbox_id: nobody.clone() }).await;
    let _: cri::RemoveContainerResponse = w.ok(cri::REMOVE_CONTAINER, cri::RemoveContainerRequest { container_id: nobody.clone() }).await;
    assert_eq!(w.refused(cri::START_CONTAINER, cri::StartContainerRequest { container_id: nobody.clone() }).await.code, Code::NotFound);
    assert_eq!(w.refused(cri::PORT_FORWARD, cri::PortForwardRequest { pod_sandbox_id: nobody, port: vec![80] }).await.code, Code::NotFound);
    assert_eq!(w.refused("/runtime.v1.RuntimeService/NoSuchMethod", cri::VersionRequest::default()).await.code, Code::Unimplemented);
    let pods: cri::ListPodSandboxResponse = w.ok(cri::LIST_POD_SANDBOX, cri::ListPodSandboxRequest::default()).await;
    assert_eq!(pods.items.iter().map(|pod| pod.id.clone()).collect::<Vec<_>>(), [first.clone()], "what was refused left no sandbox");
    w.remove_sandbox(&first).await;
    ends_and_leaves_nothing(w).await;
}
