//! Containers and sandboxes as their configs say.

use super::world::*;
use futures::SinkExt;
use keles_cri as cri;
use keles_e2e::skip;
use keles_testkit::image::Image;
use keles_testkit::registry::Registry;
use tokio_tungstenite::tungstenite::Message;

#[test]
fn containers_are_as_their_configs_say() {
    if skip() || outside("configs::containers_are_as_their_configs_say") {
        return;
    }
    tokio::runtime::Runtime::new().expect("a runtime").block_on(as_configs_say());
}

async fn as_configs_say() {
    let registry = Registry::start().await;
    let w = World::start().await;
    let image = w.pulled(&registry, "e2e/busybox", Image::new().busybox().expect("busybox-static").user("nobody")).await;
    let files = Image::new().add_bytes("docs/page/text", b"of an image\n").and_then(|image| image.add_bytes("docs/other", b"hidden\n")).expect("layers");
    let files = w.pulled(&registry, "e2e/files", files).await;
    let pod = w.run(|_, _| ()).await;
    // The image's user; an image volume with a part of it; no log.
    let part = cri::Mount {
        container_path: "/part".into(),
        image: Some(cri::ImageSpec { image: files.clone(), ..Default::default() }),
        image_sub_path: "docs/page".into(),
        ..Default::default()
    };
    let whole = cri::Mount { container_path: "/whole".into(), image: Some(cri::ImageSpec { image: files.clone(), ..Default::default() }), ..Default::default() };
    let mut plain = w.container_config("plain", &image, "exec sleep 6000");
    (plain.mounts, plain.log_path) = (vec![part.clone(), whole], String::new());
    let plain = w.started(&pod, plain).await;
    assert_eq!(w.said(&plain, "id -u; cat /part/text /whole/docs/other; ls /part").await, "65534\nof an image\nhidden\ntext\n");
    let status = w.container(&plain).await;
    assert_eq!(status.user.clone().and_then(|user| user.linux).map(|user| (user.uid, user.gid)), Some((65534, 65534)));
    assert_eq!((status.log_path.as_str(), status.mounts.len(), status.stop_signal()), ("", 2, cri::Signal::Sigterm));
    assert!(status.image_ref.contains("@sha256:"), "{}", status.image_ref);
    let mut outside_of_it = w.container_config("bad", &image, "true");
    outside_of_it.mounts = vec![cri::Mount { image_sub_path: "absent".into(), ..part }];
    let request = cri::CreateContainerRequest { pod_sandbox_id: pod.clone(), config: Some(outside_of_it), sandbox_config: None };
    assert!(w.refused(cri::CREATE_CONTAINER, request).await.message.contains("\"absent\""));
    // Another user with groups, limits, and a look at the first one's processes.
    let mut other = w.container_config("other", &image, "exec sleep 6000");
    let linux = other.linux.as_mut().expect("there");
    let security = linux.security_context.as_mut().expect("there");
    (security.run_as_user, security.run_as_group, security.supplemental_groups) = (Some(cri::Int64Value { value: 0 }), Some(cri::Int64Value { value: 7 }), vec![8]);
    security.namespace_options = Some(cri::NamespaceOption { pid: cri::NamespaceMode::Target as i32, target_id: plain.clone(), ..Default::default() });
    security.readonly_rootfs = true;
    linux.resources = Some(cri::LinuxContainerResources { memory_limit_in_bytes: 32 << 20, cpu_quota: 50_000, cpu_period: 100_000, ..Default::default() });
    let other = w.started(&pod, other).await;
    assert_eq!(w.said(&other, "id -g; id -G; touch /x 2>/dev/null || echo read-only; ps | grep -c 'sleep 600[0]'").await, "7\n7 8\nread-only\n2\n");
    let memory = w.ok::<_, cri::ContainerStatsResponse>(cri::CONTAINER_STATS, cri::ContainerStatsRequest { container_id: other }).await.stats.and_then(|stats| stats.memory);
    assert!(memory.and_then(|memory| memory.available_bytes).is_some_and(|bytes| bytes.value <= 32 << 20), "it is limited");
    // A terminal of a command, with its size.
    let request = cri::ExecRequest {
        container_id: plain.clone(),
        cmd: ["sh", "-c", "read line; stty size; tty"].map(str::to_owned).to_vec(),
        tty: true,
        stdin: true,
        stdout: true,
        ..Default::default()
    };
    let mut socket = websocket(&w.ok::<_, cri::ExecResponse>(cri::EXEC, request).await.url, "v5.channel.k8s.io").await.expect("switches");
    socket.send(Message::binary(b"\x04{\"Width\":101,\"Height\":43}".to_vec())).await.expect("sent");
    // Sizes and input go separate ways; the size is there once the terminal shows it.
    let size = async || w.said(&plain, "for t in /dev/pts/[0-9]*; do (stty size < $t); done 2>/dev/null").await;
    until("the size", async || if size().await.contains("43 101") { Ok(()) } else { Err("not yet".to_owned()) }).await;
    socket.send(Message::binary(b"\x00go\n".to_vec())).await.expect("sent");
    let answer = read_until(&mut socket, 3, "\"status\"").await;
    assert!(String::from_utf8_lossy(&answer[&1]).contains("43 101"), "{:?}", String::from_utf8_lossy(&answer[&1]));

    w.remove_sandbox(&pod).await;
    ends_and_leaves_nothing(w).await;
}

#[test]
fn namespaces_and_privileges_are_as_asked() {
    if skip() || outside("configs::namespaces_and_privileges_are_as_asked") {
        return;
    }
    tokio::runtime::Runtime::new().expect("a runtime").block_on(as_asked());
}

async fn as_asked() {
    let registry = Registry::start().await;
    let w = World::start().await;
    let image = w.pulled(&registry, "e2e/busybox", Image::new().busybox().expect("busybox-static")).await;
    let pod = w.run(|_, security| security.privileged = true).await;
    let mut privileged = w.container_config("privileged", &image, "exec sleep 6000");
    let security = privileged.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).expect("there");
    (security.privileged, security.run_as_user) = (true, Some(cri::Int64Value { value: 0 }));
    let privileged = w.started(&pod, privileged).await;
    assert_eq!(w.said(&privileged, "ls /dev/kmsg; mount -o remount,rw /sys && echo may mount").await, "/dev/kmsg\nmay mount\n");
    let on_host = w
        .run(|config, security| {
            config.metadata.as_mut().expect("there").name = "on-host".into();
            config.hostname.clear();
            security.namespace_options.as_mut().expect("there").network = cri::NamespaceMode::Node as i32;
        })
        .await;
    let mut sees = w.container_config("sees", &image, "exec sleep 6000");
    let options = sees.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).and_then(|security| security.namespace_options.as_mut()).expect("there");
    options.network = cri::NamespaceMode::Node as i32;
    let sees = w.started(&on_host, sees).await;
    assert!(w.said(&sees, "ip link").await.contains(&w.bridge), "the host's interfaces");
    let shown = w.sandbox(&on_host).await;
    let options = shown.linux.and_then(|linux| linux.namespaces).and_then(|namespaces| namespaces.options).expect("there");
    assert_eq!((shown.network.expect("a network").ip.as_str(), options.network()), ("", cri::NamespaceMode::Node));
    let with_users = w
        .run(|config, security| {
            config.metadata.as_mut().expect("there").name = "with-users".into();
            let ids = vec![cri::IdMapping { host_id: 400_000, container_id: 0, length: 65536 }];
            let users = cri::UserNamespace { mode: cri::NamespaceMode::Pod as i32, uids: ids.clone(), gids: ids };
            security.namespace_options.as_mut().expect("there").userns_options = Some(users);
        })
        .await;
    let root = w.started(&with_users, w.container_config("root", &image, "exec sleep 6000")).await;
    assert_eq!(w.said(&root, "tr -s ' ' < /proc/self/uid_map").await.trim(), "0 400000 65536");

    for pod in [pod, on_host, with_users] {
        w.remove_sandbox(&pod).await;
    }
    ends_and_leaves_nothing(w).await;
}
