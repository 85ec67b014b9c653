//! Whose turn it is, and how things end, over real sockets: levels that are full, the time of a request, the way down.

mod world;

use http::{Method, StatusCode};
use http_body_util::{BodyExt, Full};
use keles_apiserver::Config;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::mpsc;
use world::{Client, World};

const FLOW: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";
const NAMESPACE: &str = "/api/v1/namespaces/default";

/// A user `name` that may do everything, with a token of its own.
async fn with_users(names: &[&str], more: impl FnOnce(&mut Config)) -> World {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tokens");
    let lines: String = names.iter().map(|n| format!("token-of-{n},{n},{n}\n")).collect();
    std::fs::write(&path, lines).expect("writes");
    let w = World::configured(
        folder,
        |c| {
            c.authentication.token_file = Some(path);
            more(c);
        },
        None,
    )
    .await;
    for name in names {
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}],
        });
        let made = w.admin().post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
    }
    w
}

fn user(w: &World, name: &str) -> Client {
    w.bearer(&format!("token-of-{name}"))
}

/// Every level has one seat then, by rounding up.
fn one_seat_in_all(c: &mut Config) {
    (c.lifecycle.max_requests_in_flight, c.lifecycle.max_mutating_requests_in_flight) = (1, 0);
}

/// A level of its own for a user; `response` is what happens when it is taken.
async fn one_seat(w: &World, level: &str, user: &str, response: Value) -> (String, String) {
    let pl = json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration", "metadata": {"name": level},
        "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 1, "borrowingLimitPercent": 0, "limitResponse": response}},
    });
    let rule = json!({
        "subjects": [{"kind": "User", "user": {"name": user}}],
        "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
    });
    let fs = json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": level},
        "spec": {"priorityLevelConfiguration": {"name": level}, "matchingPrecedence": 10, "rules": [rule]},
    });
    let made = w.admin().post(&format!("{FLOW}/prioritylevelconfigurations"), &pl).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
    let pl_uid = made.json()["metadata"]["uid"].as_str().expect("a uid").to_owned();
    let made = w.admin().post(&format!("{FLOW}/flowschemas"), &fs).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
    let fs_uid = made.json()["metadata"]["uid"].as_str().expect("a uid").to_owned();
    // The new table is in force once an answer carries it.
    let client = self::user(w, user);
    within(async {
        while client.get("/version").await.header(SCHEMA_UID) != fs_uid {
            tokio::task::yield_now().await;
        }
    })
    .await;
    (fs_uid, pl_uid)
}

const SCHEMA_UID: &str = "x-kubernetes-pf-flowschema-uid";
const LEVEL_UID: &str = "x-kubernetes-pf-prioritylevel-uid";

/// A hang becomes a failure.
async fn within<F: std::future::Future>(f: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(60), f).await.expect("what is waited for happens")
}

/// A create whose body comes only when told: it holds its seat until then.
struct SlowCreate {
    body: mpsc::UnboundedSender<String>,
    answer: tokio::task::JoinHandle<StatusCode>,
}

impl SlowCreate {
    fn start(client: Client, name: &str) -> SlowCreate {
        let (body, mut pieces) = mpsc::unbounded_channel::<String>();
        let stream = futures::stream::poll_fn(move |cx| pieces.poll_recv(cx)).map_frames();
        let answer = tokio::spawn(async move { client.send_body(Method::POST, &format!("{NAMESPACE}/configmaps"), stream).await.status });
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}).to_string();
        body.send(object[..object.len() / 2].to_owned()).expect("it listens");
        body.send(String::new()).expect("it listens");
        SlowCreate { body, answer }
    }
    async fn finish(self, name: &str) -> StatusCode {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}).to_string();
        self.body.send(object[object.len() / 2..].to_owned()).expect("it listens");
        drop(self.body);
        within(self.answer).await.expect("it ran")
    }
}

trait MapFrames: futures::Stream<Item = String> + Sized {
    fn map_frames(self) -> impl futures::Stream<Item = Result<hyper::body::Frame<bytes::Bytes>, std::convert::Infallible>> {
        futures::StreamExt::map(self, |s| Ok(hyper::body::Frame::data(bytes::Bytes::from(s))))
    }
}
impl<S: futures::Stream<Item = String>> MapFrames for S {}

/// The value of a metric's series whose line starts like this.
async fn metric(w: &World, series: &str) -> Option<f64> {
    let text = w.admin().get("/metrics").await.text();
    text.lines().find_map(|l| l.strip_prefix(series)?.trim().parse().ok())
}

/// Waits until a request of the level runs.
async fn until_executing(w: &World, level: &str, n: f64) {
    let series = format!("apiserver_flowcontrol_current_executing_requests{{flow_schema=\"{level}\",priority_level=\"{level}\"}}");
    within(async { while metric(w, &series).await != Some(n) {} }).await;
}

#[tokio::test]
async fn answers_name_the_schema_and_level_they_came_through() {
    let w = World::start().await;
    let uid = |kind: &'static str, name: &'static str| {
        let admin = w.admin();
        async move { admin.get(&format!("{FLOW}/{kind}/{name}")).await.json()["metadata"]["uid"].as_str().expect("a uid").to_owned() }
    };
    let exempt = (uid("flowschemas", "exempt").await, uid("prioritylevelconfigurations", "exempt").await);
    let rest = (uid("flowschemas", "global-default").await, uid("prioritylevelconfigurations", "global-default").await);
    let read = |r: world::Reply| (r.header(SCHEMA_UID), r.header(LEVEL_UID));
    assert_eq!(read(w.admin().get("/api/v1/pods").await), exempt);
    assert_eq!(read(w.admin().get("/api/v1/nothing").await), exempt, "whatever the answer");
    let refused = w.stranger().get("/api/v1/pods").await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert_eq!(read(refused), rest, "it was classified before it was refused");
    let unknown = w.bearer("nobody's").get("/api/v1/pods").await;
    assert_eq!((unknown.status, read(unknown)), (StatusCode::UNAUTHORIZED, (String::new(), String::new())), "and this one was not");
    w.stop().await;
}

#[tokio::test]
async fn a_level_that_is_full_refuses_its_own_and_serves_others() {
    let w = with_users(&["jane", "joe"], one_seat_in_all).await;
    let uids = one_seat(&w, "jane", "jane", json!({"type": "Reject"})).await;
    let slow = SlowCreate::start(user(&w, "jane"), "slow");
    until_executing(&w, "jane", 1.0).await;
    let refused = user(&w, "jane").get(&format!("{NAMESPACE}/configmaps")).await;
    assert_eq!((refused.status, refused.text().as_str()), (StatusCode::TOO_MANY_REQUESTS, "Too many requests, please try again later.\n"));
    assert_eq!(refused.header("retry-after"), "1");
    assert_eq!(refused.header("content-type"), "text/plain; charset=utf-8");
    assert_eq!((refused.header(SCHEMA_UID), refused.header(LEVEL_UID)), uids);
    assert_eq!(user(&w, "joe").get(&format!("{NAMESPACE}/configmaps")).await.status, StatusCode::OK, "the others are not held up");
    assert_eq!(w.admin().get(&format!("{NAMESPACE}/configmaps")).await.status, StatusCode::OK);
    assert_eq!(slow.finish("slow").await, StatusCode::CREATED);
    assert_eq!(user(&w, "jane").get(&format!("{NAMESPACE}/configmaps/slow")).await.status, StatusCode::OK, "its seat is free again");
    let rejected = metric(&w, "apiserver_flowcontrol_rejected_requests_total{flow_schema=\"jane\",priority_level=\"jane\",reason=\"concurrency-limit\"}").await;
    assert_eq!(rejected, Some(1.0));
    w.stop().await;
}

#[tokio::test]
async fn who_finds_no_seat_waits_for_it_and_not_for_ever() {
    let w = with_users(&["jane"], one_seat_in_all).await;
    let queuing = json!({"type": "Queue", "queuing": {"queues": 1, "handSize": 1, "queueLengthLimit": 1}});
    one_seat(&w, "jane", "jane", queuing).await;
    let slow = SlowCreate::start(user(&w, "jane"), "slow");
    until_executing(&w, "jane", 1.0).await;
    // A quarter of the request's time is spent waiting at most.
    let brief = user(&w, "jane").get("/api/v1/namespaces?timeout=40ms").await;
    assert_eq!((brief.status, brief.text().as_str()), (StatusCode::TOO_MANY_REQUESTS, "Too many requests, please try again later.\n"));
    let waits = tokio::spawn({
        let jane = user(&w, "jane");
        async move { jane.get("/api/v1/namespaces").await.status }
    });
    let waiting = "apiserver_flowcontrol_current_inqueue_requests{flow_schema=\"jane\",priority_level=\"jane\"}";
    within(async { while metric(&w, waiting).await != Some(1.0) {} }).await;
    let dump = w.admin().get("/debug/api_priority_and_fairness/dump_requests?includeRequestDetails=1").await.text();
    assert!(dump.lines().any(|l| l.starts_with("jane,") && l.contains("/api/v1/namespaces")), "{dump}");
    assert_eq!(user(&w, "jane").get("/api/v1/namespaces").await.status, StatusCode::TOO_MANY_REQUESTS, "its queue has one place");
    assert_eq!(slow.finish("slow").await, StatusCode::CREATED);
    assert_eq!(within(waits).await.expect("it ran"), StatusCode::OK);
    w.stop().await;
}

#[tokio::test]
async fn a_watch_holds_its_seat_only_until_it_has_begun() {
    let w = with_users(&["jane"], one_seat_in_all).await;
    one_seat(&w, "jane", "jane", json!({"type": "Reject"})).await;
    let watch = user(&w, "jane").open(&format!("{NAMESPACE}/configmaps?watch=1")).await;
    assert_eq!(watch.status(), StatusCode::OK);
    assert!(watch.headers().contains_key(SCHEMA_UID));
    within(async { while user(&w, "jane").get("/api/v1/namespaces").await.status != StatusCode::OK {} }).await;
    drop(watch);
    w.stop().await;
}

#[tokio::test]
async fn changed_objects_count_at_once_and_mandatory_ones_need_none() {
    let w = with_users(&["jane"], |_| {}).await;
    let (uid, _) = one_seat(&w, "jane", "jane", json!({"type": "Reject"})).await;
    assert_eq!(user(&w, "jane").get("/version").await.header(SCHEMA_UID), uid);
    w.admin().send(Method::DELETE, &format!("{FLOW}/prioritylevelconfigurations/jane"), "application/json", Vec::new()).await;
    within(async { while user(&w, "jane").get("/version").await.header(SCHEMA_UID) == uid {} }).await;
    let condition = within(async {
        loop {
            let schema = w.admin().get(&format!("{FLOW}/flowschemas/jane")).await.json();
            if schema["status"]["conditions"][0]["status"] == "True" {
                break schema["status"]["conditions"][0].clone();
            }
        }
    })
    .await;
    assert_eq!((condition["type"].as_str(), condition["reason"].as_str()), (Some("Dangling"), Some("NotFound")));
    w.stop().await;
}

#[tokio::test]
async fn a_request_ends_after_the_time_it_asked_for() {
    let w = World::start().await;
    let bad = w.admin().get("/api/v1/namespaces?timeout=soon").await;
    assert_eq!((bad.status, bad.json()["message"].as_str()), (StatusCode::BAD_REQUEST, Some("invalid timeout specified in the request URL - time: invalid duration \"soon\"")));
    // The body never comes.
    let (body, mut pieces) = mpsc::unbounded_channel::<String>();
    let stream = futures::stream::poll_fn(move |cx| pieces.poll_recv(cx)).map_frames();
    let reply = within(w.admin().send_body(Method::POST, &format!("{NAMESPACE}/configmaps?timeout=50ms"), stream)).await;
    let status = reply.json();
    assert_eq!(reply.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!((status["reason"].as_str(), status["message"].as_str()), (Some("Timeout"), Some("Timeout: request did not complete within the allotted timeout")));
    assert_eq!(status["details"], json!({}));
    drop(body);
    w.stop().await;
}

#[tokio::test]
async fn a_client_is_sent_away_by_chance_after_its_answer() {
    for (chance, leaves) in [(1.0, true), (0.0, false)] {
        let w = World::with(|c| c.lifecycle.goaway_chance = chance).await;
        let (mut sender, connection) = w.admin().http2().await;
        let request = http::Request::get("https://localhost/version").body(Full::new(bytes::Bytes::new())).expect("a request");
        let answer = within(sender.send_request(request)).await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK);
        answer.into_body().collect().await.expect("a body");
        if leaves {
            within(connection).await.expect("the connection's task").expect("an orderly end");
        } else {
            let again = http::Request::get("https://localhost/version").body(Full::new(bytes::Bytes::new())).expect("a request");
            assert_eq!(within(sender.send_request(again)).await.expect("an answer").status(), StatusCode::OK);
        }
        drop(sender);
        w.stop().await;
    }
}

#[tokio::test]
async fn a_server_that_stops_says_so_goes_on_and_answers_what_is_open() {
    let w = World::with(|c| c.lifecycle.shutdown_delay = Duration::from_millis(500)).await;
    let watch = w.admin().open(&format!("{NAMESPACE}/configmaps?watch=1")).await;
    let slow = SlowCreate::start(w.admin(), "slow");
    let admin = w.admin();
    assert_eq!(admin.get("/readyz").await.status, StatusCode::OK);
    w.begin_stop();
    let unready = within(async {
        loop {
            let r = admin.get("/readyz").await;
            if r.status != StatusCode::OK {
                return r;
            }
        }
    })
    .await;
    assert_eq!(unready.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(unready.text().contains("[-]shutdown failed: reason withheld"), "{}", unready.text());
    assert_eq!(admin.get("/livez").await.status, StatusCode::OK, "it still lives");
    // The watch ends without an error, the open request is answered.
    within(watch.into_body().collect()).await.expect("an orderly end of the watch");
    assert_eq!(slow.finish("slow").await, StatusCode::CREATED);
    within(w.stop()).await;
}
