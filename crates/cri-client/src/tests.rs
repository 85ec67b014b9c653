//! Against a runtime made of a few answers: what containerd 1.6 does not have, and how it says no.

use super::*;
use futures::StreamExt;
use keles_grpc::{Server, Status};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const SOON: Duration = Duration::from_secs(60);

struct World {
    dir: tempfile::TempDir,
    _stop: tokio_util::sync::DropGuard,
}

impl World {
    fn serve(server: Server) -> World {
        let dir = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(dir.path().join("s")).expect("bound");
        let stop = CancellationToken::new();
        tokio::spawn(server.serve_unix(listener, stop.clone()));
        World { dir, _stop: stop.drop_guard() }
    }
    fn endpoint(&self) -> String {
        format!("unix://{}", self.dir.path().join("s").display())
    }
    async fn open(&self) -> std::result::Result<Remote, OpenError> {
        Remote::open(&self.endpoint(), "keles-test").await
    }
}

/// Answers what every runtime does; `status` is its state.
fn runtime(status: cri::StatusResponse) -> Server {
    let version = |_: cri::VersionRequest| async { Ok(cri::VersionResponse { runtime_name: "other".into(), runtime_version: "v9.1.0".into(), ..Default::default() }) };
    Server::new().unary(cri::VERSION, version).unary(cri::STATUS, move |_: cri::StatusRequest| {
        let status = status.clone();
        async move { Ok(status) }
    })
}

fn condition(kind: &str, status: bool) -> cri::RuntimeCondition {
    cri::RuntimeCondition { r#type: kind.into(), status, reason: "Why".into(), message: "because".into() }
}

#[tokio::test]
async fn what_a_runtime_is_and_can_do_is_what_it_says() {
    let can = cri::RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces: false };
    let world = World::serve(runtime(cri::StatusResponse {
        status: Some(cri::RuntimeStatus { conditions: vec![condition("RuntimeReady", true), condition("NetworkReady", false)] }),
        runtime_handlers: vec![cri::RuntimeHandler { name: "runc".into(), features: Some(can) }],
        ..Default::default()
    }));
    let remote = world.open().await.expect("answers");
    assert_eq!(remote.version(), "other://9.1.0");
    let features = remote.features();
    assert!(features.of_handler("runc").recursive_read_only_mounts && !features.of_handler("runc").user_namespaces && !features.of_handler("").recursive_read_only_mounts);
    assert!(!features.supplemental_groups_policy && !features.image_layers);
    assert_eq!(remote.not_ready().await.as_deref(), Some("container runtime network not ready: NetworkReady=false reason:Why message:because"));
    assert!(remote.set_network("s", vec![]).await.expect_err("not ours to give").to_string().contains("other://9.1.0"));
}

#[tokio::test]
async fn a_runtime_that_cannot_be_used_is_refused_with_the_remedy() {
    let refusal = |result: std::result::Result<Remote, OpenError>| result.err().expect("refused").to_string();
    assert!(refusal(Remote::open("tcp://127.0.0.1:1", "k").await).contains("unix:///run/containerd/containerd.sock"));
    assert!(refusal(World::serve(Server::new()).open().await).contains("CRI plugin"));
    let systemd = |_: cri::RuntimeConfigRequest| async {
        Ok(cri::RuntimeConfigResponse { linux: Some(cri::LinuxRuntimeConfiguration { cgroup_driver: cri::CgroupDriver::Systemd.into() }) })
    };
    assert!(refusal(World::serve(runtime(Default::default()).unary(cri::RUNTIME_CONFIG, systemd)).open().await).contains("SystemdCgroup"));
}

/// A sandbox of ours with a container; the lists do not change, the stream tells what happens.
#[tokio::test]
async fn events_are_taken_from_a_runtime_that_tells_them() {
    let labels = std::collections::BTreeMap::from([(OWNER.to_owned(), "keles-test".to_owned())]);
    let metadata = cri::PodSandboxMetadata { uid: "u1".into(), ..Default::default() };
    let sandbox = cri::PodSandbox { id: "s1".into(), metadata: Some(metadata.clone()), labels: labels.clone(), ..Default::default() };
    let container = cri::Container { id: "c1".into(), pod_sandbox_id: "s1".into(), state: cri::ContainerState::Running.into(), ..Default::default() };
    let (tell, told) = mpsc::unbounded_channel::<cri::ContainerEventResponse>();
    let told = Arc::new(Mutex::new(Some(told)));
    let server = runtime(Default::default())
        .unary(cri::LIST_POD_SANDBOX, move |q: cri::ListPodSandboxRequest| {
            let items = if q.filter.is_some_and(|f| f.label_selector.contains_key(OWNER)) { vec![sandbox.clone()] } else { vec![] };
            async move { Ok(cri::ListPodSandboxResponse { items }) }
        })
        .unary(cri::LIST_CONTAINERS, move |_: cri::ListContainersRequest| {
            let containers = vec![container.clone()];
            async move { Ok(cri::ListContainersResponse { containers }) }
        })
        .server_streaming(cri::GET_CONTAINER_EVENTS, move |_: cri::GetEventsRequest| {
            let told = held(&told).take();
            async move {
                let mut told = told.ok_or_else(|| Status::new(Code::Unavailable, "one at a time"))?;
                Ok(futures::stream::poll_fn(move |context| told.poll_recv(context)).map(Ok).boxed())
            }
        });
    let world = World::serve(server);
    let remote = world.open().await.expect("answers");
    let mut events = remote.events();
    let status = cri::PodSandboxStatus { id: "s1".into(), metadata: Some(metadata), labels, ..Default::default() };
    let event = |container: &str, kind: cri::ContainerEventType, of: &cri::PodSandboxStatus| cri::ContainerEventResponse {
        container_id: container.into(),
        container_event_type: kind.into(),
        pod_sandbox_status: Some(of.clone()),
        ..Default::default()
    };
    let foreign = cri::PodSandboxStatus { id: "s9".into(), ..Default::default() };
    for message in [
        event("c9", cri::ContainerEventType::Stopped, &foreign),
        event("c1", cri::ContainerEventType::Stopped, &status),
        event("c1", cri::ContainerEventType::Deleted, &status),
        event("c2", cri::ContainerEventType::Started, &status),
        event("s1", cri::ContainerEventType::Stopped, &status),
    ] {
        tell.send(message).expect("read");
    }
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let event = tokio::time::timeout(SOON, events.recv()).await.expect("soon").expect("told");
        seen.push((event.pod_uid, event.container_id, event.state));
    }
    use keles_runtime::api::ContainerState::{Exited, Running};
    let expected = [("c1", Exited), ("c2", Running), ("", Exited)].map(|(id, state)| ("u1".to_owned(), id.to_owned(), state));
    assert_eq!(seen, expected, "of ours, each once, a sandbox's end without a container");
}
