//! What operators see over sockets: metrics, pages for debugging, profiles, traces.

mod world;

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use std::convert::Infallible;
use tokio::sync::mpsc;
use world::World;

/// The value of a series, named as the exposition names it.
fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|l| l.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

#[tokio::test]
async fn requests_are_counted_under_upstreams_names_and_labels() {
    let w = World::start().await;
    let admin = w.admin();
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": "b"}});
    assert_eq!(admin.post("/api/v1/namespaces/default/configmaps?dryRun=All", &map).await.status, StatusCode::CREATED);
    assert_eq!(admin.get("/api/v1/namespaces/default/configmaps").await.status, StatusCode::OK);
    assert_eq!(admin.get("/api/v1/namespaces/default/configmaps/absent").await.status, StatusCode::NOT_FOUND);
    assert_eq!(admin.get("/api/v1/endpoints").await.status, StatusCode::OK);
    assert_eq!(admin.get("/apis/made.up/v1/things").await.status, StatusCode::NOT_FOUND);
    let a = admin.get("/metrics").await;
    assert!(a.header("content-type").starts_with("text/plain; version=0.0.4; charset=utf-8"));
    let text = a.text();
    let labels = |code: &str, dry: &str, scope: &str, verb: &str| {
        format!(
            "apiserver_request_total{{code=\"{code}\",component=\"apiserver\",dry_run=\"{dry}\",group=\"\",resource=\"configmaps\",scope=\"{scope}\",subresource=\"\",verb=\"{verb}\",version=\"v1\"}}"
        )
    };
    for series in [labels("201", "All", "resource", "POST"), labels("200", "", "namespace", "LIST"), labels("404", "", "resource", "GET")] {
        assert!(value(&text, &series).is_some_and(|n| n >= 1.0), "{series}");
    }
    for family in [
        "# TYPE apiserver_request_total counter",
        "# TYPE apiserver_request_duration_seconds histogram",
        "# TYPE apiserver_request_sli_duration_seconds histogram",
        "# TYPE apiserver_response_sizes histogram",
        "# TYPE apiserver_current_inflight_requests gauge",
        "# TYPE apiserver_storage_objects gauge",
        "# TYPE apiserver_storage_size_bytes gauge",
        "# TYPE apiserver_resource_objects gauge",
        "# TYPE apiserver_admission_controller_admission_duration_seconds histogram",
        "# TYPE apiserver_admission_step_admission_duration_seconds histogram",
        "# TYPE authentication_attempts counter",
        "# TYPE authorization_attempts_total counter",
        "# TYPE etcd_request_duration_seconds histogram",
        "# TYPE kubernetes_feature_enabled gauge",
        "# TYPE process_resident_memory_bytes gauge",
    ] {
        assert!(text.contains(family), "{family}");
    }
    assert!(text.contains("# HELP apiserver_request_total [STABLE] "), "the stability stands in the help");
    assert_eq!(value(&text, "apiserver_requested_deprecated_apis{group=\"\",removed_release=\"\",resource=\"endpoints\",subresource=\"\",version=\"v1\"}"), Some(1.0));
    assert!(!text.contains("made.up"), "what nobody serves makes no series");
    let namespaces = value(&text, "apiserver_storage_objects{resource=\"namespaces\"}").unwrap();
    assert!(namespaces >= 4.0, "{namespaces}");
    let open = w.admin().with_header("accept", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5").get("/metrics").await;
    assert!(open.header("content-type").starts_with("application/openmetrics-text; version=1.0.0"));
    assert!(open.text().contains("# TYPE apiserver_request counter\n") && open.text().ends_with("# EOF\n"));
}

#[tokio::test]
async fn health_is_an_indicator_and_watches_are_counted_while_they_are_open() {
    let w = World::start().await;
    let admin = w.admin();
    assert_eq!(admin.get("/readyz").await.status, StatusCode::OK);
    let slis = admin.get("/metrics/slis").await.text();
    assert_eq!(value(&slis, "kubernetes_healthcheck{name=\"etcd\",type=\"readyz\"}"), Some(1.0));
    assert!(value(&slis, "kubernetes_healthchecks_total{name=\"ping\",status=\"success\",type=\"readyz\"}").is_some_and(|n| n >= 1.0), "{slis}");
    assert_eq!(admin.get("/api/v1/nodes?watch=1&timeoutSeconds=1&resourceVersion=0").await.status, StatusCode::OK);
    let text = admin.get("/metrics").await.text();
    let open = "apiserver_longrunning_requests{component=\"apiserver\",group=\"\",resource=\"nodes\",scope=\"cluster\",subresource=\"\",verb=\"WATCH\",version=\"v1\"}";
    assert_eq!(value(&text, open), Some(0.0), "the watch is over");
    let ready = "apiserver_request_total{code=\"200\",component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"\",scope=\"\",subresource=\"/readyz\",verb=\"GET\",version=\"\"}";
    assert!(value(&text, ready).is_some_and(|n| n >= 1.0));
}

#[tokio::test]
async fn pages_say_what_runs_and_only_to_who_may() {
    let w = World::with(|c| drop(c.flags.insert("v".into(), "4".into()))).await;
    let text = w.admin().get("/statusz").await.text();
    assert!(text.starts_with("\nkube-apiserver statusz\nWarning: ") && text.contains("\nEmulation version: 1.36\n"), "{text}");
    assert!(text.contains("Paths: ") && text.contains(" /metrics ") && text.contains(" /statusz"), "{text}");
    assert!(w.admin().get("/flagz").await.text().ends_with("\n\nv=4\n"));
    let structured = w.admin().with_header("accept", "application/json;v=v1beta1;g=config.k8s.io;as=Flagz").get("/flagz").await;
    assert_eq!(structured.json(), json!({"kind": "Flagz", "apiVersion": "config.k8s.io/v1beta1", "metadata": {"name": "kube-apiserver"}, "flags": {"v": "4"}}));
    assert_eq!(w.admin().with_header("accept", "application/json").get("/statusz").await.status, StatusCode::NOT_ACCEPTABLE);
    assert_eq!(w.stranger().get("/flagz").await.status, StatusCode::FORBIDDEN);
    assert_eq!(w.stranger().get("/debug/pprof/profile").await.status, StatusCode::FORBIDDEN);
    let off = World::with(|c| c.features = "ComponentStatusz=false".parse().unwrap()).await;
    assert_eq!((off.admin().get("/statusz").await.status, off.admin().get("/flagz").await.status), (StatusCode::NOT_FOUND, StatusCode::OK));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_processor_is_profiled_unless_that_is_switched_off() {
    let w = World::start().await;
    let a = w.admin().get("/debug/pprof/profile?seconds=1").await;
    assert_eq!((a.status, a.header("content-type").as_str()), (StatusCode::OK, "application/octet-stream"));
    assert!(a.body.starts_with(&[0x1f, 0x8b]), "gzip, as go tool pprof reads it");
    assert_eq!(w.admin().get("/debug/pprof/profile?seconds=0").await.status, StatusCode::BAD_REQUEST);
    assert_eq!(w.admin().get("/debug/pprof/heap").await.status, StatusCode::NOT_FOUND);
    let off = World::with(|c| c.profiling = false).await;
    for path in ["/debug/pprof/profile?seconds=1", "/debug/pprof", "/debug/flags/v"] {
        assert_eq!(off.admin().get(path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn how_much_is_logged_is_changed_by_a_put() {
    keles_observe::init_logs(Default::default());
    let w = World::start().await;
    let admin = w.admin();
    let put = |body: &'static [u8]| admin.send(Method::PUT, "/debug/flags/v", "text/plain", body.to_vec());
    let a = put(b"4").await;
    assert_eq!((a.status, a.text().as_str()), (StatusCode::OK, "successfully set klog.logging.verbosity to 4\n"));
    let a = put(b"loud").await;
    assert!(a.status == StatusCode::BAD_REQUEST && a.text().starts_with("failed set klog.logging.verbosity loud"), "{}", a.text());
    assert_eq!(put(b"0").await.status, StatusCode::OK);
    assert_eq!(w.admin().get("/debug/flags/v").await.status, StatusCode::NOT_ACCEPTABLE);
}

/// A collector: its address, and the bodies of what it is sent.
async fn collector() -> (String, mpsc::UnboundedReceiver<Bytes>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (to, from) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let to = to.clone();
            let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let to = to.clone();
                async move {
                    assert_eq!(request.uri().path(), "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    let _ = to.send(body);
                    let answer = http::Response::builder().header("content-type", "application/grpc").header("grpc-status", "0");
                    Ok::<_, Infallible>(answer.body(Full::new(Bytes::from_static(&[0; 5]))).unwrap())
                }
            });
            tokio::spawn(hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service));
        }
    });
    (address, from)
}

#[tokio::test]
async fn a_request_leaves_a_span_in_the_trace_of_who_asked() {
    let (endpoint, mut sent) = collector().await;
    keles_observe::trace::start(&keles_observe::trace::Configuration { endpoint, sampling_rate_per_million: 0 }, "apiserver");
    let w = World::start().await;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let traced = |id: &str| w.admin().with_header("traceparent", &format!("00-{id}-b7ad6b7169203331-01"));
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "traced"}});
    assert_eq!(traced(trace).post("/api/v1/namespaces/default/configmaps", &map).await.status, StatusCode::CREATED);
    let batch = sent.recv().await.unwrap();
    let has = |bytes: &[u8]| batch.windows(bytes.len()).any(|w| w == bytes);
    assert!(has(b"POST /api/v1/namespaces/{:namespace}/configmaps"), "the span of the request");
    assert!(has(b"create configmaps"), "and that of the store within it");
    assert!(has(&0x0af7651916cd43dd8448eb211c80319c_u128.to_be_bytes()) && has(&0xb7ad6b7169203331_u64.to_be_bytes()), "in the trace it came with");
    assert!(has(b"service.name") && has(b"http.response.status_code"));
}
