//! Claims against an API that only shows them and a driver of our own on a real socket.

use super::wire::{PrepareResponse, Prepared, SERVICES, UnprepareResponse, Unprepared};
use super::*;
use crate::plugins::Plugin;
use http::{Request, Response};
use keles_grpc::{Server, Status};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::net::UnixListener;

/// What a driver was asked, and what it is to fail.
#[derive(Default)]
struct Driver {
    asked: Mutex<Vec<String>>,
    /// Answers to preparing: an error for the claim of this name.
    fails: Mutex<Option<String>>,
    /// Held by a test while preparing is to hang.
    hangs: tokio::sync::Mutex<()>,
}

impl Driver {
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().expect("not poisoned"))
    }

    fn note(&self, what: &str, claims: &[wire::Claim]) {
        let names: Vec<&str> = claims.iter().map(|claim| claim.name.as_str()).collect();
        self.asked.lock().expect("not poisoned").push(format!("{what} {}", names.join(",")));
    }

    fn serve(self: &Arc<Self>, socket: &Path, service: &'static wire::Service, stop: CancellationToken) {
        let (for_prepare, for_unprepare) = (self.clone(), self.clone());
        let server = Server::new()
            .unary(service.prepare, move |request: wire::ClaimsRequest| {
                let driver = for_prepare.clone();
                async move {
                    driver.note("prepare", &request.claims);
                    let _hang = driver.hangs.lock().await;
                    let fails = driver.fails.lock().expect("not poisoned").clone();
                    let result = |claim: &wire::Claim| {
                        let error = fails.as_ref().filter(|name| **name == claim.name).map(|_| "no such device".to_owned()).unwrap_or_default();
                        let device = |name: &str, request: &str| wire::Device {
                            request_names: vec![request.to_owned()],
                            pool_name: "w".into(),
                            device_name: name.into(),
                            cdi_device_ids: vec![format!("example.com/x={}-{name}", claim.name)],
                            share_id: None,
                        };
                        Prepared { devices: vec![device("one", "r1"), device("two", "r2")], error }
                    };
                    Ok::<_, Status>(PrepareResponse { claims: request.claims.iter().map(|claim| (claim.uid.clone(), result(claim))).collect() })
                }
            })
            .unary(service.unprepare, move |request: wire::ClaimsRequest| {
                let driver = for_unprepare.clone();
                async move {
                    driver.note("unprepare", &request.claims);
                    Ok::<_, Status>(UnprepareResponse { claims: request.claims.iter().map(|claim| (claim.uid.clone(), Unprepared::default())).collect() })
                }
            });
        tokio::spawn(server.serve_unix(UnixListener::bind(socket).expect("bound"), stop));
    }
}

struct World {
    dra: Dra,
    driver: Arc<Driver>,
    /// By name.
    claims: Arc<Mutex<BTreeMap<String, Value>>>,
    client: kube::Client,
    folder: tempfile::TempDir,
    stop: CancellationToken,
}

const DRIVER: &str = "d.example.com";

/// `service` of [`SERVICES`] is what the driver speaks.
fn world(service: usize) -> World {
    let folder = tempfile::tempdir().expect("a folder");
    let (driver, stop, claims) = (Arc::new(Driver::default()), CancellationToken::new(), Arc::new(Mutex::new(BTreeMap::new())));
    driver.serve(&folder.path().join("d.sock"), &SERVICES[service], stop.clone());
    let dra = Dra::open(folder.path()).expect("opens");
    let client = api(claims.clone());
    let world = World { dra, driver, claims, client, folder, stop };
    world.register(&world.dra, SERVICES[service].name);
    world
}

/// Shows the claims and nothing else.
fn api(claims: Arc<Mutex<BTreeMap<String, Value>>>) -> kube::Client {
    let service = tower::service_fn(move |request: Request<Body>| {
        let name = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let found = claims.lock().expect("not poisoned").get(&name).cloned();
        async move {
            let missing = || json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404, "message": format!("resourceclaims.resource.k8s.io \"{name}\" not found")});
            let (code, body) = found.map_or_else(|| (404, missing()), |claim| (200, claim));
            Ok::<_, std::convert::Infallible>(Response::builder().status(code).body(Body::from(body.to_string().into_bytes())).expect("a response"))
        }
    });
    kube::Client::new(service, "default")
}

impl World {
    fn register(&self, dra: &Dra, service: &str) {
        let plugin =
            |socket: &str| Plugin { name: DRIVER.into(), socket: self.folder.path().join(socket), endpoint: self.folder.path().join("d.sock"), versions: vec![service.into()] };
        assert!(dra.drivers.add(&plugin("reg.sock")).expect("registered").is_some());
        assert!(dra.drivers.add(&plugin("reg.sock")).expect("registered").is_none(), "a registration that is tried again");
        let other = dra.drivers.add(&plugin("other.sock")).err().expect("it is another's");
        assert!(other.starts_with("endpoint ") && other.ends_with("d.sock already registered for DRA driver plugin d.example.com"), "{other}");
    }

    /// A claim of these drivers that is reserved for these pods.
    fn claim(&self, name: &str, uid: &str, pods: &[&str], drivers: &[&str]) {
        let reserved: Vec<Value> = pods.iter().map(|pod| json!({"resource": "pods", "name": pod, "uid": format!("uid-{pod}")})).collect();
        let results: Vec<Value> = drivers.iter().map(|driver| json!({"request": "r1", "driver": driver, "pool": "w", "device": "one"})).collect();
        let status = json!({"reservedFor": reserved, "allocation": {"devices": {"results": results}}});
        let claim = json!({"metadata": {"name": name, "namespace": "n", "uid": uid}, "spec": {}, "status": status});
        self.claims.lock().expect("not poisoned").insert(name.into(), claim);
    }

    async fn prepare(&self, pod: &Pod) -> Result<(), String> {
        self.dra.prepare(&self.client, pod).await.map_err(|error| error.to_string())
    }

    /// As the next run of the agent finds it.
    fn restarted(&self) -> Dra {
        Dra::open(self.folder.path()).expect("opens")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A pod whose only container uses claims, `entry` or `entry/request` each; an entry's claim has its name.
fn pod(name: &str, uses: &[&str]) -> Pod {
    let used: Vec<(&str, Option<&str>)> = uses.iter().map(|used| used.split_once('/').map_or((*used, None), |(entry, request)| (entry, Some(request)))).collect();
    let entries: BTreeSet<&str> = used.iter().map(|(entry, _)| *entry).collect();
    let entries: Vec<Value> = entries.into_iter().map(|entry| json!({"name": entry, "resourceClaimName": entry})).collect();
    let uses: Vec<Value> = used.iter().map(|(entry, request)| json!({"name": entry, "request": request})).collect();
    let spec = json!({"resourceClaims": entries, "containers": [{"name": "c", "resources": {"claims": uses}}, {"name": "without"}]});
    serde_json::from_value(json!({"metadata": {"name": name, "namespace": "n", "uid": format!("uid-{name}")}, "spec": spec})).expect("a pod")
}

fn container(pod: &Pod, at: usize) -> &Container {
    &pod.spec.as_ref().expect("a spec").containers[at]
}

#[tokio::test]
async fn a_claim_is_prepared_once_for_all_its_pods_and_given_back_with_the_last() {
    for service in 0..SERVICES.len() {
        let w = world(service);
        w.claim("shared", "u1", &["a", "b"], &[DRIVER]);
        let (a, b) = (pod("a", &["shared"]), pod("b", &["shared/r2"]));
        let both = tokio::join!(w.prepare(&a), w.prepare(&b));
        assert_eq!((both, w.driver.asked()), ((Ok(()), Ok(())), vec!["prepare shared".to_owned()]));
        assert_eq!(w.dra.cdi(&a, container(&a, 0)).expect("prepared"), ["example.com/x=shared-one", "example.com/x=shared-two"]);
        assert_eq!(w.dra.cdi(&b, container(&b, 0)).expect("prepared"), ["example.com/x=shared-two"], "of the request alone");
        assert!(w.dra.cdi(&a, container(&a, 1)).expect("nothing").is_empty(), "a container that names no claim gets none");
        assert_eq!(w.dra.in_use(), (1, BTreeMap::from([(DRIVER.to_owned(), 1)])));
        w.dra.unprepare("uid-a").await.expect("given back");
        assert!(w.driver.asked().is_empty() && !w.dra.is_held("uid-a") && w.dra.is_held("uid-b"));
        w.dra.unprepare("uid-b").await.expect("given back");
        assert_eq!((w.driver.asked(), w.dra.holders().len()), (vec!["unprepare shared".to_owned()], 0));
        w.dra.unprepare("uid-b").await.expect("once more does no harm");
        assert!(w.driver.asked().is_empty());
    }
}

#[tokio::test]
async fn what_is_prepared_outlives_the_agent() {
    let w = world(0);
    w.claim("x", "u1", &["a"], &[DRIVER]);
    let a = pod("a", &["x/r1"]);
    w.prepare(&a).await.expect("prepared");
    let next = w.restarted();
    assert_eq!(next.cdi(&a, container(&a, 0)).expect("known"), ["example.com/x=x-one"]);
    assert!(next.unprepare("uid-a").await.expect_err("nobody to ask").to_string().contains("DRA driver d.example.com is not registered"));
    assert!(next.is_held("uid-a"), "it is tried again");
    w.register(&next, "v1.DRAPlugin");
    w.driver.asked();
    next.prepare(&w.client, &a).await.expect("for a new sandbox");
    assert_eq!(next.cdi(&a, container(&a, 0)).expect("known").len(), 1, "the devices are not there twice");
    next.unprepare("uid-a").await.expect("given back");
    assert_eq!(w.driver.asked(), ["prepare x", "unprepare x"]);
    assert!(w.restarted().holders().is_empty());
}

#[tokio::test]
async fn what_a_pod_may_not_use_asks_no_driver_and_leaves_no_trace() {
    let w = world(0);
    let a = pod("a", &["x"]);
    assert_eq!(w.prepare(&a).await, Err("fetch ResourceClaim x: resourceclaims.resource.k8s.io \"x\" not found".into()));
    w.claim("x", "u1", &["another"], &[DRIVER]);
    assert_eq!(w.prepare(&a).await, Err("pod a (uid-a) is not allowed to use ResourceClaim x (u1)".into()));
    w.claim("x", "u1", &["a"], &[DRIVER, "gone.example.com"]);
    assert_eq!(w.prepare(&a).await, Err("DRA driver gone.example.com is not registered".into()));
    assert!(w.dra.cdi(&a, container(&a, 0)).is_err());
    assert!(w.driver.asked().is_empty() && w.dra.holders().is_empty() && w.restarted().holders().is_empty());
}

#[tokio::test]
async fn a_driver_that_fails_is_asked_again_and_its_claim_is_given_back_all_the_same() {
    let w = world(0);
    w.claim("good", "u1", &["a"], &[DRIVER]);
    w.claim("bad", "u2", &["a"], &[DRIVER]);
    let a = pod("a", &["bad", "good"]);
    *w.driver.fails.lock().expect("not poisoned") = Some("bad".into());
    assert_eq!(w.prepare(&a).await, Err("NodePrepareResources failed for ResourceClaim bad: no such device".into()));
    assert_eq!(w.restarted().holders().len(), 1, "what the driver may have begun is known after a kill");
    *w.driver.fails.lock().expect("not poisoned") = None;
    w.prepare(&a).await.expect("the second time");
    w.stop.cancel();
    std::fs::remove_file(w.folder.path().join("d.sock")).expect("removed");
    until_unavailable(&w).await;
    let stop = CancellationToken::new();
    w.driver.serve(&w.folder.path().join("d.sock"), &SERVICES[0], stop.clone());
    w.dra.unprepare("uid-a").await.expect("the driver is back");
    assert_eq!(w.driver.asked(), ["prepare bad,good", "prepare bad,good", "unprepare bad,good"]);
    stop.cancel();
}

/// The driver's server needs a moment to go.
async fn until_unavailable(w: &World) {
    let gone = async {
        loop {
            match w.dra.drivers.get(DRIVER).expect("registered").connected().await {
                Ok(ended) => ended.cancelled().await,
                Err(_) => return w.dra.unprepare("uid-a").await.expect_err("nobody answers"),
            }
        }
    };
    let error = tokio::time::timeout(Duration::from_secs(60), gone).await.expect("it goes");
    assert!(error.to_string().starts_with("NodeUnprepareResources: rpc error: code = Unavailable"), "{error}");
}

#[tokio::test]
async fn another_claim_of_the_same_name_waits_for_the_end_of_the_first() {
    let w = world(0);
    w.claim("x", "u1", &["a"], &[DRIVER]);
    w.prepare(&pod("a", &["x"])).await.expect("prepared");
    w.claim("x", "u2", &["b"], &[DRIVER]);
    let b = pod("b", &["x"]);
    assert_eq!(w.prepare(&b).await, Err("old ResourceClaim with same name x and different UID u1 still exists (previous pod force-deleted?!)".into()));
    w.dra.unprepare("uid-a").await.expect("given back");
    w.prepare(&b).await.expect("now");
    assert_eq!(w.driver.asked(), ["prepare x", "unprepare x", "prepare x"]);
}

#[tokio::test]
async fn giving_back_waits_for_who_prepares_the_same_claim() {
    let w = world(0);
    w.claim("x", "u1", &["a", "b"], &[DRIVER]);
    let (a, b) = (pod("a", &["x"]), pod("b", &["x"]));
    w.prepare(&a).await.expect("prepared");
    let again = w.restarted();
    w.register(&again, "v1.DRAPlugin");
    let hang = w.driver.hangs.lock().await;
    let (prepare, give_back) = (again.prepare(&w.client, &b), again.unprepare("uid-a"));
    let release = async {
        while !w.driver.asked.lock().expect("not poisoned").iter().filter(|line| *line == "prepare x").count().eq(&2) {
            tokio::task::yield_now().await;
        }
        drop(hang);
    };
    let (prepared, given_back, ()) = tokio::join!(prepare, give_back, release);
    (prepared.expect("prepared"), given_back.expect("given back"));
    assert!(again.is_held("uid-b") && !again.is_held("uid-a"));
    assert_eq!(w.driver.asked(), ["prepare x", "prepare x"], "the claim is still used");
}

#[tokio::test]
async fn statuses_show_what_drivers_say_of_their_devices() {
    let w = world(0);
    w.claim("x", "u1", &["a"], &[DRIVER]);
    let a = pod("a", &["x", "x/r2"]);
    w.prepare(&a).await.expect("prepared");
    let told = |device: &str, health: i32, message: &str| wire::DeviceHealth {
        device: Some(wire::DeviceIdentifier { pool_name: "w".into(), device_name: device.into() }),
        health,
        message: message.into(),
        ..Default::default()
    };
    let changed = w.dra.drivers.health().update(DRIVER, vec![told("one", 1, ""), told("two", 2, "too hot")], Instant::now());
    assert_eq!(w.dra.users_of(DRIVER, &changed), ["uid-a"]);
    let mut status: PodStatus = serde_json::from_value(json!({"containerStatuses": [
        {"name": "c", "ready": true, "restartCount": 0, "image": "i", "imageID": "i", "allocatedResourcesStatus": [{"name": "example.com/thing"}]},
        {"name": "without", "ready": true, "restartCount": 0, "image": "i", "imageID": "i"},
    ]}))
    .expect("a status");
    w.dra.show(&a, &mut status);
    w.dra.show(&a, &mut status);
    let (one, two) = (json!({"health": "Healthy", "resourceID": "example.com/x=x-one"}), json!({"health": "Unhealthy", "message": "too hot", "resourceID": "example.com/x=x-two"}));
    let shown: Vec<Value> = status.container_statuses.iter().flatten().map(|status| json!(status.allocated_resources_status)).collect();
    let of_claims = json!([{"name": "example.com/thing"}, {"name": "claim:x", "resources": [one, two]}, {"name": "claim:x/r2", "resources": [two]}]);
    assert_eq!(shown, [of_claims, Value::Null]);
}
