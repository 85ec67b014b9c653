//! A pod from its image to its end.

use super::world::*;
use futures::SinkExt;
use keles_cri as cri;
use keles_e2e::skip;
use keles_grpc::Code;
use keles_testkit::image::Image;
use keles_testkit::registry::Registry;
use std::path::{Path, PathBuf};
use tokio_tungstenite::tungstenite::Message;

#[test]
fn a_pod_lives_its_whole_life_over_the_socket() {
    if skip() || outside("life::a_pod_lives_its_whole_life_over_the_socket") {
        return;
    }
    tokio::runtime::Runtime::new().expect("a runtime").block_on(whole_life());
}

async fn whole_life() {
    use cri::ContainerEventType::{Created, Deleted, Started, Stopped};
    let registry = Registry::start().await;
    registry.serve("e2e/busybox", "v1", &Image::new().busybox().expect("busybox-static").env("FROM=image").blobs());
    // base64 of user:password
    registry.demand_basic(&["dXNlcjpwYXNzd29yZA=="]);
    let mut w = World::start().await;
    the_runtime_says_what_it_is(&w).await;
    let image = format!("{}/e2e/busybox:v1", registry.host);
    let image_id = an_image_is_pulled_with_credentials(&w, &image).await;

    let mut events = w.events().await;
    let run = cri::RunPodSandboxRequest { config: Some(w.sandbox_config()), runtime_handler: String::new() };
    let sandbox = w.ok::<_, cri::RunPodSandboxResponse>(cri::RUN_POD_SANDBOX, run.clone()).await.pod_sandbox_id;
    assert_eq!(w.refused(cri::RUN_POD_SANDBOX, run).await.code, Code::AlreadyExists);
    let shown = w.sandbox(&sandbox).await;
    let ip = shown.network.as_ref().expect("a network").ip.clone();
    assert!(ip.starts_with("10.91.0."), "{ip}");
    assert_eq!((shown.state(), shown.labels["app"].as_str(), &shown.annotations), (cri::PodSandboxState::Ready, "web", &w.sandbox_config().annotations));

    let web = w.container_config("web", &image, "echo hello > /tmp/index.html; echo started from $FROM; exec httpd -f -p 8000 -h /tmp");
    let web = w.create(&sandbox, web).await;
    let cat = cri::ContainerConfig { stdin: true, ..w.container_config("cat", &image_id, "echo ready; exec cat") };
    let again = cri::CreateContainerRequest { pod_sandbox_id: sandbox.clone(), config: Some(cat.clone()), sandbox_config: None };
    let cat = w.create(&sandbox, cat).await;
    assert_eq!(w.refused(cri::CREATE_CONTAINER, again).await.code, Code::AlreadyExists);
    w.start_container(&web).await;
    w.start_container(&cat).await;
    let status = w.container(&web).await;
    assert_eq!((status.state(), &status.image_id, status.annotations["of"].as_str()), (cri::ContainerState::Running, &image_id, "web"));
    assert_eq!(status.image.as_ref().expect("an image").image, image);
    assert_eq!(status.user.and_then(|user| user.linux).map(|user| (user.uid, user.gid)), Some((0, 0)));
    logged(Path::new(&status.log_path), "started from image").await;
    expect_events(&mut events, &[(&sandbox, Created), (&sandbox, Started), (&web, Created), (&web, Started), (&cat, Started)]).await;

    commands_run_in_the_container(&w, &web).await;
    lists_and_filters(&w, &sandbox, &web).await;
    until("the host port", async || http_get(&format!("{GATEWAY}:{HOST_PORT}")).await.and_then(|text| if text.ends_with("hello\n") { Ok(()) } else { Err(text) })).await;
    streams_are_joined(&w, &sandbox, &web, &cat).await;
    figures_are_told(&w, &sandbox, &web).await;
    a_rotated_log_is_opened_anew(&w, &cat).await;
    let limits = cri::LinuxContainerResources { memory_limit_in_bytes: 64 << 20, ..Default::default() };
    let _: cri::UpdateContainerResourcesResponse =
        w.ok(cri::UPDATE_CONTAINER_RESOURCES, cri::UpdateContainerResourcesRequest { container_id: web.clone(), linux: Some(limits), ..Default::default() }).await;

    let before = (w.container(&web).await, w.sandbox(&sandbox).await);
    w.kill();
    assert!(http_get(&format!("{ip}:8000")).await.expect("the pod runs without the server").ends_with("hello\n"));
    w.serve().await;
    assert_eq!((w.container(&web).await, w.sandbox(&sandbox).await), before, "taken up as it was");
    assert_eq!(before.0.resources.and_then(|r| r.linux).map(|r| r.memory_limit_in_bytes), Some(64 << 20));
    assert_eq!(w.exec(&web, "hostname").await.stdout, b"web-host\n");
    assert!(http_get(&format!("{GATEWAY}:{HOST_PORT}")).await.expect("the host port").ends_with("hello\n"));

    let mut events = w.events().await;
    let stop = cri::StopContainerRequest { container_id: web.clone(), timeout: 0 };
    for _ in 0..2 {
        let _: cri::StopContainerResponse = w.ok(cri::STOP_CONTAINER, stop.clone()).await;
    }
    let ended = w.container(&web).await;
    assert_eq!((ended.state(), ended.exit_code, ended.finished_at >= ended.started_at), (cri::ContainerState::Exited, 137, true));
    for _ in 0..2 {
        let _: cri::RemoveContainerResponse = w.ok(cri::REMOVE_CONTAINER, cri::RemoveContainerRequest { container_id: web.clone() }).await;
    }
    assert_eq!(w.refused(cri::CONTAINER_STATUS, cri::ContainerStatusRequest { container_id: web.clone(), verbose: false }).await.code, Code::NotFound);
    for _ in 0..2 {
        let _: cri::StopPodSandboxResponse = w.ok(cri::STOP_POD_SANDBOX, cri::StopPodSandboxRequest { pod_sandbox_id: sandbox.clone() }).await;
    }
    assert_eq!((w.sandbox(&sandbox).await.state(), w.container(&cat).await.state()), (cri::PodSandboxState::Notready, cri::ContainerState::Exited));
    for _ in 0..2 {
        let _: cri::RemovePodSandboxResponse = w.ok(cri::REMOVE_POD_SANDBOX, cri::RemovePodSandboxRequest { pod_sandbox_id: sandbox.clone() }).await;
    }
    let came = expect_events(&mut events, &[(&web, Stopped), (&web, Deleted), (&sandbox, Stopped), (&sandbox, Deleted)]).await;
    assert!(came.iter().any(|event| event.container_id == cat && event.container_event_type() == Deleted), "{came:?}");
    assert_eq!(w.refused(cri::POD_SANDBOX_STATUS, cri::PodSandboxStatusRequest { pod_sandbox_id: sandbox, verbose: false }).await.code, Code::NotFound);
    let spec = cri::ImageSpec { image, ..Default::default() };
    for _ in 0..2 {
        let _: cri::RemoveImageResponse = w.ok(cri::REMOVE_IMAGE, cri::RemoveImageRequest { image: Some(spec.clone()) }).await;
    }
    let left: cri::ListImagesResponse = w.ok(cri::LIST_IMAGES, cri::ListImagesRequest::default()).await;
    assert_eq!(left.images, []);
    drop(events);
    ends_and_leaves_nothing(w).await;
}

async fn the_runtime_says_what_it_is(w: &World) {
    let version: cri::VersionResponse = w.ok(cri::VERSION, cri::VersionRequest::default()).await;
    assert_eq!((version.runtime_name.as_str(), version.runtime_api_version.as_str()), ("keles", "v1"));
    let status: cri::StatusResponse = w.ok(cri::STATUS, cri::StatusRequest { verbose: true }).await;
    let conditions: Vec<(String, bool)> = status.status.expect("a status").conditions.into_iter().map(|c| (c.r#type, c.status)).collect();
    assert_eq!(conditions, [("RuntimeReady".to_owned(), true), ("NetworkReady".to_owned(), true)]);
    assert!(status.info["config"].contains("10.91.0.0/24"), "{:?}", status.info);
    let config: cri::RuntimeConfigResponse = w.ok(cri::RUNTIME_CONFIG, cri::RuntimeConfigRequest {}).await;
    assert_eq!(config.linux.expect("linux").cgroup_driver(), cri::CgroupDriver::Cgroupfs);
    let range =
        |pod_cidr: &str| cri::UpdateRuntimeConfigRequest { runtime_config: Some(cri::UpdatedConfig { network_config: Some(cri::NetworkConfig { pod_cidr: pod_cidr.into() }) }) };
    let _: cri::UpdateRuntimeConfigResponse = w.ok(cri::UPDATE_RUNTIME_CONFIG, range("10.91.0.0/24")).await;
    assert_eq!(w.refused(cri::UPDATE_RUNTIME_CONFIG, range("10.99.0.0/24")).await.code, Code::FailedPrecondition);
}

async fn an_image_is_pulled_with_credentials(w: &World, image: &str) -> String {
    let spec = Some(cri::ImageSpec { image: image.into(), ..Default::default() });
    let without = cri::PullImageRequest { image: spec.clone(), ..Default::default() };
    assert_eq!(w.refused(cri::PULL_IMAGE, without).await.code, Code::PermissionDenied);
    let auth = cri::AuthConfig { username: "user".into(), password: "password".into(), ..Default::default() };
    let pulled: cri::PullImageResponse = w.ok(cri::PULL_IMAGE, cri::PullImageRequest { image: spec.clone(), auth: Some(auth), sandbox_config: None }).await;
    let found: cri::ImageStatusResponse = w.ok(cri::IMAGE_STATUS, cri::ImageStatusRequest { image: spec, verbose: true }).await;
    let shown = found.image.expect("it is here");
    assert_eq!((&shown.id, shown.repo_tags.as_slice(), shown.size > 0), (&pulled.image_ref, [image.to_owned()].as_slice(), true));
    assert!(found.info["info"].contains("FROM=image"));
    let absent: cri::ImageStatusResponse =
        w.ok(cri::IMAGE_STATUS, cri::ImageStatusRequest { image: Some(cri::ImageSpec { image: "absent:1".into(), ..Default::default() }), verbose: false }).await;
    assert_eq!(absent.image, None);
    let disk: cri::ImageFsInfoResponse = w.ok(cri::IMAGE_FS_INFO, cri::ImageFsInfoRequest {}).await;
    assert!(disk.image_filesystems[0].used_bytes.as_ref().is_some_and(|used| used.value > 0));
    pulled.image_ref
}

async fn commands_run_in_the_container(w: &World, web: &str) {
    let files = w.exec(web, "cat /etc/resolv.conf /etc/hostname; grep -c localhost /etc/hosts > /dev/null && echo hosts >&2").await;
    assert_eq!(String::from_utf8_lossy(&files.stdout), "search a.example\nnameserver 192.0.2.53\noptions ndots:5\nweb-host\n");
    assert_eq!((files.stderr.as_slice(), files.exit_code), (b"hosts\n".as_slice(), 0));
    assert_eq!(w.exec(web, "exit 3").await.exit_code, 3);
    let slow = cri::ExecSyncRequest { container_id: web.into(), cmd: vec!["sleep".into(), "600".into()], timeout: 1 };
    assert_eq!(w.refused(cri::EXEC_SYNC, slow).await.code, Code::DeadlineExceeded);
    assert_eq!(w.refused(cri::CHECKPOINT_CONTAINER, cri::CheckpointContainerRequest { container_id: web.into(), ..Default::default() }).await.code, Code::Unimplemented);
    let much = w.exec(web, "yes | head -c 40000000; echo to the end >&2; exit 5").await;
    assert_eq!((much.exit_code, much.stderr.as_slice()), (5, b"to the end\n".as_slice()), "a command that prints too much goes on");
    assert!((1 << 20..16 << 20).contains(&much.stdout.len()), "{}", much.stdout.len());
    assert_eq!(w.exec(&web[..12], "true").await.exit_code, 0, "an id may be shortened");
}

async fn lists_and_filters(w: &World, sandbox: &str, web: &str) {
    let by = |label_selector: &[(&str, &str)], state: cri::ContainerState| cri::ContainerFilter {
        state: Some(cri::ContainerStateValue { state: state as i32 }),
        pod_sandbox_id: sandbox.into(),
        label_selector: label_selector.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        ..Default::default()
    };
    let list = async |filter| w.ok::<_, cri::ListContainersResponse>(cri::LIST_CONTAINERS, cri::ListContainersRequest { filter: Some(filter) }).await.containers;
    assert_eq!(list(by(&[("name", "web")], cri::ContainerState::Running)).await.iter().map(|c| c.id.as_str()).collect::<Vec<_>>(), [web]);
    assert_eq!(list(by(&[], cri::ContainerState::Running)).await.len(), 2);
    assert_eq!(list(by(&[], cri::ContainerState::Exited)).await.len(), 0);
    let mut stream = w.channel.server_streaming::<_, cri::StreamContainersResponse>(cri::STREAM_CONTAINERS, &cri::StreamContainersRequest::default()).await.expect("a stream");
    let mut streamed = 0;
    while let Some(some) = stream.message().await.expect("a good stream") {
        streamed += some.containers.len();
    }
    assert_eq!(streamed, 2);
    let ready = cri::PodSandboxFilter { state: Some(cri::PodSandboxStateValue { state: cri::PodSandboxState::Ready as i32 }), ..Default::default() };
    let pods: cri::ListPodSandboxResponse = w.ok(cri::LIST_POD_SANDBOX, cri::ListPodSandboxRequest { filter: Some(ready) }).await;
    assert_eq!(pods.items.iter().map(|pod| pod.id.as_str()).collect::<Vec<_>>(), [sandbox]);
}

async fn streams_are_joined(w: &World, sandbox: &str, web: &str, cat: &str) {
    let request = cri::ExecRequest { container_id: web.into(), cmd: vec!["sh".into(), "-c".into(), "cat; exit 7".into()], stdin: true, stdout: true, ..Default::default() };
    let url = w.ok::<_, cri::ExecResponse>(cri::EXEC, request).await.url;
    let mut socket = websocket(&url, "v5.channel.k8s.io").await.expect("switches");
    socket.send(Message::binary(b"\x00to the command".to_vec())).await.expect("sent");
    // Channel 255 closes another.
    socket.send(Message::binary(vec![255, 0])).await.expect("sent");
    let said = read_until(&mut socket, 3, "\"status\"").await;
    assert_eq!(String::from_utf8_lossy(&said[&1]), "to the command");
    let end: serde_json::Value = serde_json::from_slice(&said[&3]).expect("a Status");
    assert_eq!(end["details"]["causes"][0]["message"], "7", "{end}");
    assert!(websocket(&url, "v5.channel.k8s.io").await.is_err(), "a URL is good once");

    let request = cri::AttachRequest { container_id: cat.into(), stdin: true, stdout: true, ..Default::default() };
    let url = w.ok::<_, cri::AttachResponse>(cri::ATTACH, request).await.url;
    let mut socket = websocket(&url, "v4.channel.k8s.io").await.expect("switches");
    socket.send(Message::binary(b"\x00hello cat\n".to_vec())).await.expect("sent");
    let said = read_until(&mut socket, 1, "hello cat").await;
    assert!(String::from_utf8_lossy(&said[&1]).contains("hello cat"));
    drop(socket);

    let url = w.ok::<_, cri::PortForwardResponse>(cri::PORT_FORWARD, cri::PortForwardRequest { pod_sandbox_id: sandbox.into(), port: vec![8000] }).await.url;
    let mut socket = websocket(&url, "v4.channel.k8s.io").await.expect("switches");
    socket.send(Message::binary(b"\x00GET /index.html HTTP/1.0\r\n\r\n".to_vec())).await.expect("sent");
    let said = read_until(&mut socket, 0, "hello").await;
    assert_eq!(said[&0][..2], 8000u16.to_le_bytes(), "the port comes first");
    assert!(String::from_utf8_lossy(&said[&0]).ends_with("hello\n"));
}

async fn figures_are_told(w: &World, sandbox: &str, web: &str) {
    let one: cri::ContainerStatsResponse = w.ok(cri::CONTAINER_STATS, cri::ContainerStatsRequest { container_id: web.into() }).await;
    let one = one.stats.expect("figures");
    assert!(one.cpu.expect("cpu").usage_core_nano_seconds.is_some_and(|ns| ns.value > 0));
    assert!(one.memory.expect("memory").usage_bytes.is_some_and(|bytes| bytes.value > 0));
    assert!(one.writable_layer.expect("a layer").used_bytes.is_some_and(|bytes| bytes.value > 0), "index.html");
    let all: cri::ListContainerStatsResponse = w.ok(cri::LIST_CONTAINER_STATS, cri::ListContainerStatsRequest::default()).await;
    assert_eq!(all.stats.len(), 2);
    let pods: cri::ListPodSandboxStatsResponse = w.ok(cri::LIST_POD_SANDBOX_STATS, cri::ListPodSandboxStatsRequest::default()).await;
    let pod = pods.stats[0].linux.clone().expect("linux");
    assert_eq!((pods.stats[0].attributes.as_ref().expect("whose").id.as_str(), pod.containers.len()), (sandbox, 2));
    let disk: cri::ImageFsInfoResponse = w.ok(cri::IMAGE_FS_INFO, cri::ImageFsInfoRequest {}).await;
    assert_eq!(disk.container_filesystems[0].fs_id, disk.image_filesystems[0].fs_id, "one filesystem");
    assert!(disk.container_filesystems[0].used_bytes.as_ref().is_some_and(|used| used.value > 0), "what containers wrote");
    let interface = pod.network.expect("a network").default_interface.expect("eth0");
    assert!(interface.rx_bytes.is_some_and(|bytes| bytes.value > 0), "{interface:?}", interface = interface.name);
    let described: cri::ListMetricDescriptorsResponse = w.ok(cri::LIST_METRIC_DESCRIPTORS, cri::ListMetricDescriptorsRequest {}).await;
    let metrics: cri::ListPodSandboxMetricsResponse = w.ok(cri::LIST_POD_SANDBOX_METRICS, cri::ListPodSandboxMetricsRequest {}).await;
    let of_pod = &metrics.pod_metrics[0];
    for metric in of_pod.metrics.iter().chain(of_pod.container_metrics.iter().flat_map(|of| &of.metrics)) {
        let about = described.descriptors.iter().find(|about| about.name == metric.name).unwrap_or_else(|| panic!("{} is not described", metric.name));
        assert_eq!(about.label_keys.len(), metric.label_values.len(), "{}", metric.name);
    }
    assert!(of_pod.metrics.iter().any(|metric| metric.name == "container_network_receive_bytes_total"));
}

async fn a_rotated_log_is_opened_anew(w: &World, cat: &str) {
    let log = PathBuf::from(w.container(cat).await.log_path);
    logged(&log, "hello cat").await;
    std::fs::rename(&log, log.with_extension("old")).expect("renamed");
    let _: cri::ReopenContainerLogResponse = w.ok(cri::REOPEN_CONTAINER_LOG, cri::ReopenContainerLogRequest { container_id: cat.into() }).await;
    let url = w.ok::<_, cri::AttachResponse>(cri::ATTACH, cri::AttachRequest { container_id: cat.into(), stdin: true, stdout: true, ..Default::default() }).await.url;
    let mut socket = websocket(&url, "v4.channel.k8s.io").await.expect("switches");
    socket.send(Message::binary(b"\x00after rotation\n".to_vec())).await.expect("sent");
    logged(&log, "after rotation").await;
}
