use super::*;
use http::Method;
use serde_json::json;

fn request(method: Method, uri: &str) -> (RequestInfo, String, Query) {
    let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
    let query = Query::parse(query);
    (RequestInfo::parse(&method, path, &query), path.to_owned(), query)
}

fn level(name: &str, spec: Value) -> Object {
    Object(json!({"metadata": {"name": name, "uid": format!("uid-of-{name}")}, "spec": spec}))
}

fn schema(name: &str, level: &str, precedence: i64, subject: Value, distinguisher: Option<&str>) -> Object {
    let rule = json!({
        "subjects": [subject],
        "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
    });
    let mut spec = json!({"priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence, "rules": [rule]});
    if let Some(d) = distinguisher {
        spec["distinguisherMethod"] = json!({"type": d});
    }
    Object(json!({"metadata": {"name": name, "uid": format!("uid-of-{name}")}, "spec": spec}))
}

fn by_user(name: &str) -> Value {
    json!({"kind": "User", "user": {"name": name}})
}

/// One seat and one queue in which `waiting` may wait.
fn narrow(waiting: u64) -> Value {
    json!({"type": "Limited", "limited": {"nominalConcurrencyShares": 1, "limitResponse": {"type": "Queue", "queuing": {"queues": 1, "handSize": 1, "queueLengthLimit": waiting}}}})
}

fn initial() -> Fairness {
    let f = Fairness::new(600);
    let objects = |all: Vec<Value>| all.into_iter().map(Object).collect::<Vec<_>>();
    f.load(&objects(bootstrap::levels()), &objects(bootstrap::schemas()));
    f
}

/// The schema that a request falls under.
fn falls_under(f: &Fairness, user: &User, method: Method, uri: &str) -> String {
    let (info, path, _) = request(method, uri);
    f.classify(&About { info: &info, user, path: &path }).name.clone()
}

#[test]
fn requests_of_a_new_cluster_fall_under_the_documented_schemas() {
    let f = initial();
    let node = keles_auth::user("system:node:n1", &[keles_auth::NODES]);
    let manager = keles_auth::user("system:kube-controller-manager", &[]);
    let dns = keles_auth::service_account("kube-system", "dns", "");
    let app = keles_auth::service_account("shop", "web", "");
    let root = keles_auth::user("root", &[keles_auth::MASTERS]);
    let jane = keles_auth::user("jane", &[]);
    let nobody = User { name: "odd".into(), ..User::default() };
    let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/x";
    let node_lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1";
    for (user, method, uri, want) in [
        (&root, Method::GET, "/api/v1/pods", "exempt"),
        (&jane, Method::GET, "/readyz", "probes"),
        (&jane, Method::GET, "/api/v1/pods", "global-default"),
        (&keles_auth::anonymous(), Method::GET, "/version", "global-default"),
        (&node, Method::PATCH, "/api/v1/nodes/n1/status", "system-node-high"),
        (&node, Method::PUT, node_lease, "system-node-high"),
        (&node, Method::GET, "/api/v1/pods", "system-nodes"),
        (&manager, Method::PUT, lease, "system-leader-election"),
        (&manager, Method::PATCH, lease, "kube-controller-manager"),
        (&dns, Method::GET, "/api/v1/services", "kube-system-service-accounts"),
        (&dns, Method::PUT, node_lease, "system-leader-election"),
        (&app, Method::GET, "/api/v1/namespaces/shop/configmaps/a", "service-accounts"),
        (&nobody, Method::GET, "/api/v1/pods", "catch-all"),
    ] {
        assert_eq!(falls_under(&f, user, method, uri), want, "{} {uri}", user.name);
    }
}

#[test]
fn lower_precedence_wins_then_the_name_and_a_schema_without_its_level_is_passed_over() {
    let f = Fairness::new(600);
    let jane = || by_user("jane");
    let schemas = [schema("b", "work", 500, jane(), None), schema("a", "work", 500, jane(), None), schema("z", "gone", 2, jane(), None)];
    f.load(&[level("work", narrow(5))], &schemas);
    let user = keles_auth::user("jane", &[]);
    assert_eq!(falls_under(&f, &user, Method::GET, "/api"), "a");
    f.load(&[level("work", narrow(5)), level("gone", narrow(5))], &schemas);
    assert_eq!(falls_under(&f, &user, Method::GET, "/api"), "z", "its level is there now");
    f.load(&[], &[]);
    assert_eq!(falls_under(&f, &user, Method::GET, "/api"), "catch-all", "which needs no object");
}

/// Lets a request of jane in, or says why not.
async fn enter(f: &Fairness, user: &User, wait: Duration) -> Result<Seat, Refused> {
    let (info, path, _) = request(Method::GET, "/api/v1/namespaces/a/pods/p");
    let about = About { info: &info, user, path: &path };
    let flow = f.classify(&about);
    let hash = matching::hash(&flow.name, flow.schema.distinguisher.of(&about));
    let story = || Story { distinguisher: String::new(), arrived: jiff::Timestamp::UNIX_EPOCH, user: user.name.clone(), info: info.clone(), path: path.clone() };
    let now = Instant::now();
    flow.level.enter(&flow, hash, work::Work::LEAST, Execution::Regular, now, now + wait, story).await
}

/// Jane and the rest, on levels apart. Jane's level has one seat and room for `waiting`.
fn janes(waiting: u64) -> (Fairness, User) {
    let f = Fairness::new(1);
    f.load(&[level("jane", narrow(waiting))], &[schema("jane", "jane", 10, by_user("jane"), None)]);
    (f, keles_auth::user("jane", &[]))
}

const LONG: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn one_who_waits_gets_the_seat_that_is_given_back() {
    let (f, jane) = janes(5);
    let first = enter(&f, &jane, LONG).await.expect("a seat");
    let mut second = std::pin::pin!(enter(&f, &jane, LONG));
    assert!(futures::poll!(&mut second).is_pending());
    let other = enter(&f, &keles_auth::user("joe", &[]), LONG).await;
    assert!(other.is_ok(), "another level is not held up");
    drop(first);
    let second = second.await.expect("the seat of the first");
    let counts = &second.flow().counts;
    assert_eq!((counts.dispatched.load(std::sync::atomic::Ordering::Relaxed), counts.waiting.load(std::sync::atomic::Ordering::Relaxed)), (2, 0));
}

#[tokio::test]
async fn a_full_queue_refuses_and_the_wait_has_an_end() {
    let (f, jane) = janes(1);
    let _seat = enter(&f, &jane, LONG).await.expect("a seat");
    assert_eq!(enter(&f, &jane, Duration::ZERO).await.err().map(|r| r.reason), Some(flow::Reason::TimeOut));
    let mut waits = std::pin::pin!(enter(&f, &jane, LONG));
    assert!(futures::poll!(&mut waits).is_pending());
    let refused = enter(&f, &jane, LONG).await.err().expect("the queue is full");
    assert_eq!(refused, Refused { reason: flow::Reason::QueueFull, retry_after_seconds: 1 });
}

#[tokio::test]
async fn a_client_that_goes_away_gives_up_its_place_and_what_it_was_given() {
    let (f, jane) = janes(1);
    let seat = enter(&f, &jane, LONG).await.expect("a seat");
    {
        let mut gone = std::pin::pin!(enter(&f, &jane, LONG));
        assert!(futures::poll!(&mut gone).is_pending());
    }
    {
        let mut called = std::pin::pin!(enter(&f, &jane, LONG));
        assert!(futures::poll!(&mut called).is_pending());
        // It is given the seat, and never looks.
        drop(seat);
    }
    assert!(enter(&f, &jane, Duration::ZERO).await.is_ok(), "the seat is free again");
    let level = f.levels().into_iter().find(|l| l.name == "jane").expect("the level");
    let s = level.state();
    assert_eq!((s.queues.executing(), s.queues.waiting()), (0, 0));
}

#[tokio::test]
async fn new_limits_let_out_who_waits() {
    let (f, jane) = janes(5);
    let _seat = enter(&f, &jane, LONG).await.expect("a seat");
    let mut waits = std::pin::pin!(enter(&f, &jane, LONG));
    assert!(futures::poll!(&mut waits).is_pending());
    f.load(&[level("jane", json!({"type": "Exempt"}))], &[schema("jane", "jane", 10, by_user("jane"), None)]);
    assert!(waits.await.is_ok());
}

#[tokio::test]
async fn a_level_with_no_share_is_a_jail() {
    let f = Fairness::new(10);
    let jail = json!({"type": "Limited", "limited": {"nominalConcurrencyShares": 0, "limitResponse": {"type": "Reject"}}});
    f.load(&[level("jail", jail)], &[schema("jane", "jail", 10, by_user("jane"), None)]);
    let refused = enter(&f, &keles_auth::user("jane", &[]), LONG).await.err();
    assert_eq!(refused.map(|r| r.reason), Some(flow::Reason::ConcurrencyLimit));
    f.lend();
    assert!(enter(&f, &keles_auth::user("jane", &[]), LONG).await.is_err(), "and nobody lends it a seat");
}

#[tokio::test]
async fn the_tables_tell_who_waits_where() {
    let (f, jane) = janes(5);
    let _seat = enter(&f, &jane, LONG).await.expect("a seat");
    let mut waits = std::pin::pin!(enter(&f, &jane, LONG));
    assert!(futures::poll!(&mut waits).is_pending());
    let levels = dump::table(&f, "dump_priority_levels", false).expect("a table");
    let cells: Vec<&str> = levels.lines().find(|l| l.starts_with("jane,")).expect("a row").split(',').map(str::trim).collect();
    assert_eq!(cells, ["jane", "1", "false", "false", "1", "1", "1", "0", "0", "0"]);
    let requests = dump::table(&f, "dump_requests", true).expect("a table");
    let row = requests.lines().nth(1).expect("one waits");
    assert!(row.starts_with("jane,") && row.contains("/api/v1/namespaces/a/pods/p") && row.contains(" v1,"), "{requests}");
    assert!(dump::table(&f, "dump_queues", false).expect("a table").lines().nth(1).is_some_and(|l| l.starts_with("jane,")));
    assert!(dump::table(&f, "dump_all", false).is_none());
}
