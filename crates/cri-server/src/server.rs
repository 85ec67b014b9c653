//! The table of methods: a row each.

use crate::Cri;
use futures::StreamExt;
use keles_cri as cri;
use keles_grpc::{Answers, Code, Server, Status};
use std::future::Future;
use std::sync::Arc;

/// What a message of a list that streams holds at most, in items (KEP-5825).
const LIST_CHUNK: usize = 100;

/// Ends though the client leaves: half a sandbox helps nobody.
async fn whole<A: Send + 'static>(work: impl Future<Output = Result<A, Status>> + Send + 'static) -> Result<A, Status> {
    tokio::spawn(work).await.unwrap_or_else(|error| Err(Status::new(Code::Internal, format!("the call ended early: {error}"))))
}

/// A list in messages of some items each, none when there are none.
fn chunks<T: Send + 'static, A: Send + 'static>(all: Vec<T>, message: fn(Vec<T>) -> A) -> Answers<A> {
    futures::stream::iter(all).chunks(LIST_CHUNK).map(move |some| Ok(message(some))).boxed()
}

pub fn methods(state: Arc<Cri>) -> Server {
    let mut server = Server::new();
    macro_rules! unary {
        ($($path:ident => $method:ident),* $(,)?) => {$(
            let own = state.clone();
            server = server.unary(cri::$path, move |request| {
                let own = own.clone();
                whole(async move { own.$method(request).await })
            });
        )*};
    }
    macro_rules! list {
        ($($path:ident: $request:ident.$filter:ident => $method:ident -> $answer:ident.$field:ident),* $(,)?) => {$(
            let own = state.clone();
            server = server.server_streaming(cri::$path, move |request: cri::$request| {
                let own = own.clone();
                async move { Ok(chunks(own.$method(request.$filter).await?, |some| cri::$answer { $field: some })) }
            });
        )*};
    }
    unary! {
        VERSION => version, STATUS => status, UPDATE_RUNTIME_CONFIG => update_runtime_config, RUNTIME_CONFIG => runtime_config,
        RUN_POD_SANDBOX => run_pod_sandbox, STOP_POD_SANDBOX => stop_pod_sandbox, REMOVE_POD_SANDBOX => remove_pod_sandbox,
        POD_SANDBOX_STATUS => pod_sandbox_status, LIST_POD_SANDBOX => list_pod_sandbox, UPDATE_POD_SANDBOX_RESOURCES => update_pod_sandbox_resources,
        CREATE_CONTAINER => create_container, START_CONTAINER => start_container, STOP_CONTAINER => stop_container, REMOVE_CONTAINER => remove_container,
        LIST_CONTAINERS => list_containers, CONTAINER_STATUS => container_status, UPDATE_CONTAINER_RESOURCES => update_container_resources,
        REOPEN_CONTAINER_LOG => reopen_container_log, CHECKPOINT_CONTAINER => checkpoint_container,
        EXEC_SYNC => exec_sync, EXEC => exec, ATTACH => attach, PORT_FORWARD => port_forward,
        CONTAINER_STATS => container_stats, LIST_CONTAINER_STATS => list_container_stats, POD_SANDBOX_STATS => pod_sandbox_stats,
        LIST_POD_SANDBOX_STATS => list_pod_sandbox_stats, LIST_METRIC_DESCRIPTORS => list_metric_descriptors,
        LIST_POD_SANDBOX_METRICS => list_pod_sandbox_metrics,
        LIST_IMAGES => list_images, IMAGE_STATUS => image_status, REMOVE_IMAGE => remove_image, IMAGE_FS_INFO => image_fs_info,
    }
    list! {
        STREAM_POD_SANDBOXES: StreamPodSandboxesRequest.filter => sandboxes -> StreamPodSandboxesResponse.pod_sandboxes,
        STREAM_CONTAINERS: StreamContainersRequest.filter => containers -> StreamContainersResponse.containers,
        STREAM_CONTAINER_STATS: StreamContainerStatsRequest.filter => running_figures -> StreamContainerStatsResponse.container_stats,
        STREAM_POD_SANDBOX_STATS: StreamPodSandboxStatsRequest.filter => ready_figures -> StreamPodSandboxStatsResponse.pod_sandbox_stats,
        STREAM_IMAGES: StreamImagesRequest.filter => images_by -> StreamImagesResponse.images,
    }
    let own = state.clone();
    server = server.server_streaming(cri::STREAM_POD_SANDBOX_METRICS, move |_: cri::StreamPodSandboxMetricsRequest| {
        let own = own.clone();
        async move { Ok(chunks(own.pod_metrics().await?, |some| cri::StreamPodSandboxMetricsResponse { pod_sandbox_metrics: some })) }
    });
    // A pull is given up with its client: what came is gone on with by the next.
    let own = state.clone();
    server = server.unary(cri::PULL_IMAGE, move |request| {
        let own = own.clone();
        async move { own.pull_image(request).await }
    });
    server.server_streaming(cri::GET_CONTAINER_EVENTS, move |request| {
        let own = state.clone();
        async move { own.container_events(request).await }
    })
}
