//! Several API servers on one etcd: each sees what the others write, and nothing is given out twice.

use crate::world::{Client, Reply, World, until};
use futures::future::join_all;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use keles_apiserver::{ApiServer, Config};
use keles_store::Store;
use keles_store::encrypted::config;
use keles_store::etcd::{Etcd, Options};
use keles_testkit::etcd::{self, Etcd as Cluster};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const SERVICES: &str = "/api/v1/namespaces/default/services";
/// Nothing here takes this long unless it never comes.
const LIMIT: Duration = Duration::from_secs(120);

fn start() -> Option<Cluster> {
    etcd::installed().then(|| Cluster::start(etcd::Options::default()).expect("etcd starts"))
}

fn store(cluster: &Cluster) -> Arc<dyn Store> {
    Etcd::new(Options::of(&cluster.endpoints()).expect("endpoints"))
}

/// A data folder with the authority and keys of another server.
fn folder_like(other: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("pki")).expect("made");
    for file in ["ca.crt", "ca.key", "front-proxy-ca.crt", "front-proxy-ca.key", "sa.key"] {
        std::fs::copy(other.join("pki").join(file), folder.path().join("pki").join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
    }
    folder
}

/// Two servers, the second on what the first made.
async fn two(cluster: &Cluster, configure: impl Fn(&mut Config)) -> [World; 2] {
    let first = World::over(tempfile::tempdir().expect("a folder"), store(cluster), &configure, None).await;
    let second = World::over(folder_like(first.folder()), store(cluster), &configure, None).await;
    [first, second]
}

fn map(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"v": value}})
}

async fn patch(c: &Client, path: &str, body: &Value) -> Reply {
    c.send(Method::PATCH, path, "application/merge-patch+json", body.to_string().into_bytes()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_server_writes_the_other_reads_at_once_and_watches() {
    let Some(cluster) = start() else { return };
    let worlds = two(&cluster, |_| {}).await;
    let [a, b] = [worlds[0].admin(), worlds[1].admin()];
    let from = b.get(MAPS).await.json()["metadata"]["resourceVersion"].as_str().expect("a revision").to_owned();
    let mut watch = b.open(&format!("{MAPS}?watch=1&resourceVersion={from}")).await.into_body();
    for i in 0..20 {
        let name = format!("m{i}");
        assert_eq!(a.post(MAPS, &map(&name, "a")).await.status, StatusCode::CREATED);
        let read = b.get(&format!("{MAPS}/{name}")).await;
        assert_eq!((read.status, read.json()["data"]["v"].as_str()), (StatusCode::OK, Some("a")), "a read asks the store how far it is");
        assert_eq!(patch(&b, &format!("{MAPS}/{name}"), &json!({"data": {"v": "b"}})).await.status, StatusCode::OK);
        assert_eq!(a.get(&format!("{MAPS}/{name}")).await.json()["data"]["v"], "b");
    }
    let mut told = String::new();
    // A frame may end within an event.
    while told.matches('\n').count() < 40 {
        let frame = tokio::time::timeout(LIMIT, watch.frame()).await.expect("an event").expect("the watch goes on").expect("no error");
        told.push_str(&String::from_utf8_lossy(&frame.into_data().unwrap_or_default()));
    }
    let kinds: Vec<String> = told.lines().map(|l| serde_json::from_str::<Value>(l).expect("an event")["type"].as_str().expect("a type").to_owned()).collect();
    assert_eq!(kinds, ["ADDED", "MODIFIED"].repeat(20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_updates_of_one_revision_one_conflicts_whichever_servers_they_go_through() {
    let Some(cluster) = start() else { return };
    let worlds = two(&cluster, |_| {}).await;
    let [a, b] = [worlds[0].admin(), worlds[1].admin()];
    let path = format!("{MAPS}/m");
    let mut o = a.post(MAPS, &map("m", "0")).await.json();
    for round in 1..20 {
        let of = |who: &str| {
            let mut o = o.clone();
            o["data"]["v"] = format!("{who}{round}").into();
            o
        };
        let (of_a, of_b) = (of("a"), of("b"));
        let (x, y) = tokio::join!(a.put(&path, &of_a), b.put(&path, &of_b));
        let mut codes = [x.status.as_u16(), y.status.as_u16()];
        codes.sort_unstable();
        assert_eq!(codes, [200, 409], "{}\n{}", x.text(), y.text());
        o = if x.status == StatusCode::OK { x.json() } else { y.json() };
    }
    // Patches do not say which state they are for: none is lost.
    let all = (0..10).flat_map(|i| [(a.clone(), format!("a{i}")), (b.clone(), format!("b{i}"))]).map(|(c, field)| {
        let path = path.clone();
        async move { patch(&c, &path, &json!({"data": {field: "x"}})).await.status }
    });
    assert!(join_all(all).await.iter().all(|s| *s == StatusCode::OK));
    assert_eq!(b.get(&path).await.json()["data"].as_object().expect("data").len(), 21);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_made_through_one_server_counts_in_the_admission_of_the_other_at_once() {
    let Some(cluster) = start() else { return };
    let worlds = two(&cluster, |_| {}).await;
    let [a, b] = [worlds[0].admin(), worlds[1].admin()];
    for i in 0..20 {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": format!("n{i}")}});
        assert_eq!(a.post("/api/v1/namespaces", &namespace).await.status, StatusCode::CREATED);
        let made = b.post(&format!("/api/v1/namespaces/n{i}/configmaps"), &map("m", "v")).await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "s"}});
        assert_eq!(b.post(&format!("/api/v1/namespaces/n{i}/serviceaccounts"), &account).await.status, StatusCode::CREATED);
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
        let token = a.post(&format!("/api/v1/namespaces/n{i}/serviceaccounts/s/token"), &request).await;
        assert_eq!(token.status, StatusCode::CREATED, "{}", token.text());
        // The other has the same key.
        let token = token.json()["status"]["token"].as_str().expect("a token").to_owned();
        assert_eq!(worlds[1].bearer(&token).get("/api").await.status, StatusCode::OK);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_and_node_ports_are_given_out_once_between_servers() {
    const EACH: usize = 25;
    let Some(cluster) = start() else { return };
    // As many ports as are asked for, so that both servers look for the same last ones.
    let worlds = two(&cluster, |c| c.node_ports = 30000..=30000 + (2 * EACH as u16) - 1).await;
    let clients = [worlds[0].admin(), worlds[1].admin()];
    let service = |name: String| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
    let all = (0..EACH).flat_map(|i| [(0, i), (1, i)]).map(|(which, i)| {
        let (client, body) = (clients[which].clone(), service(format!("s{which}-{i}")));
        async move { client.post(SERVICES, &body).await }
    });
    let made: Vec<Value> = join_all(all)
        .await
        .into_iter()
        .map(|r| {
            assert_eq!(r.status, StatusCode::CREATED, "{}", r.text());
            r.json()
        })
        .collect();
    let ports: BTreeSet<u64> = made.iter().map(|s| s["spec"]["ports"][0]["nodePort"].as_u64().expect("a port")).collect();
    let ips: BTreeSet<&str> = made.iter().map(|s| s["spec"]["clusterIP"].as_str().expect("an address")).collect();
    assert_eq!((ports.len(), ips.len()), (2 * EACH, 2 * EACH), "each once");
    for client in &clients {
        let full = client.post(SERVICES, &service("over".into())).await;
        assert!(full.status == StatusCode::INTERNAL_SERVER_ERROR && full.text().contains("range is full"), "{}", full.text());
    }
    // One that goes through one server is free for the other at once, by name too.
    let gone = &made[0];
    let port = &gone["spec"]["ports"][0]["nodePort"];
    let name = gone["metadata"]["name"].as_str().expect("a name");
    let chosen = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "chosen"}, "spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]}});
    let refused = clients[1].post(SERVICES, &chosen).await;
    assert!(refused.status == StatusCode::UNPROCESSABLE_ENTITY && refused.text().contains("already allocated"), "{}", refused.text());
    assert_eq!(clients[0].send(Method::DELETE, &format!("{SERVICES}/{name}"), "application/json", vec![]).await.status, StatusCode::OK);
    let made = clients[1].post(SERVICES, &chosen).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
    assert_eq!(store(&cluster).range(b"/registry/ranges/", None, 0, None).await.expect("reads").count, 0, "claims are let go");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_holds_between_servers() {
    let Some(cluster) = start() else { return };
    let worlds = two(&cluster, |_| {}).await;
    let clients = [worlds[0].admin(), worlds[1].admin()];
    let hard = json!({"count/secrets": "10"});
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": hard}});
    assert_eq!(clients[0].post("/api/v1/namespaces/default/resourcequotas", &quota).await.status, StatusCode::CREATED);
    // As the quota controller would.
    let status = patch(&clients[0], "/api/v1/namespaces/default/resourcequotas/q/status", &json!({"status": {"hard": hard, "used": {"count/secrets": "0"}}})).await;
    assert_eq!(status.status, StatusCode::OK, "{}", status.text());
    let all = (0..12).flat_map(|i| [(0, i), (1, i)]).map(|(which, i)| {
        let client = clients[which].clone();
        let body = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": format!("s{which}-{i}")}});
        async move {
            // Who is overtaken too often is told to try again.
            loop {
                let r = client.post("/api/v1/namespaces/default/secrets", &body).await;
                if r.status != StatusCode::CONFLICT {
                    return r.status;
                }
            }
        }
    });
    let codes = join_all(all).await;
    assert_eq!(codes.iter().filter(|c| **c == StatusCode::CREATED).count(), 10, "{codes:?}");
    assert!(codes.iter().all(|c| [StatusCode::CREATED, StatusCode::FORBIDDEN].contains(c)), "{codes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn custom_resources_made_through_one_server_are_served_by_the_other() {
    let Some(cluster) = start() else { return };
    let worlds = two(&cluster, |_| {}).await;
    let [a, b] = [worlds[0].admin(), worlds[1].admin()];
    let crd = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "cats.zoo.example"},
        "spec": {"group": "zoo.example", "scope": "Namespaced", "names": {"plural": "cats", "kind": "Cat"},
                 "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]},
    });
    assert_eq!(a.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &crd).await.status, StatusCode::CREATED);
    const CATS: &str = "/apis/zoo.example/v1/namespaces/default/cats";
    for c in [&a, &b] {
        until("the definition is served", async || c.get(CATS).await.status == StatusCode::OK).await;
    }
    let cat = json!({"apiVersion": "zoo.example/v1", "kind": "Cat", "metadata": {"name": "tom"}, "spec": {"lives": 9}});
    assert_eq!(b.post(CATS, &cat).await.status, StatusCode::CREATED);
    assert_eq!(a.get(&format!("{CATS}/tom")).await.json()["spec"]["lives"], 9);
    // Of the same plural in another group (lessons.md 35): another key.
    assert_eq!(cluster.ctl(&["get", "/registry/zoo.example/cats/", "--prefix", "--keys-only"]).expect("reads").trim(), "/registry/zoo.example/cats/default/tom");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_fails_while_etcd_is_away_and_all_goes_on_when_it_is_back() {
    let Some(mut cluster) = start() else { return };
    let w = World::over(tempfile::tempdir().expect("a folder"), store(&cluster), |_| {}, None).await;
    let admin = w.admin();
    assert_eq!(admin.post(MAPS, &map("before", "v")).await.status, StatusCode::CREATED);
    let from = admin.get(MAPS).await.json()["metadata"]["resourceVersion"].as_str().expect("a revision").to_owned();
    let mut watch = admin.open(&format!("{MAPS}?watch=1&resourceVersion={from}")).await.into_body();
    // Once may be too slow: etcd has two seconds to answer.
    for path in ["/readyz", "/healthz/etcd"] {
        until(path, async || admin.get(path).await.status == StatusCode::OK).await;
    }
    cluster.kill(0).expect("killed");
    for path in ["/healthz/etcd", "/readyz", "/livez"] {
        assert_eq!(admin.get(path).await.status, StatusCode::INTERNAL_SERVER_ERROR, "{path}");
    }
    assert_eq!(admin.get("/healthz/ping").await.status, StatusCode::OK);
    let away = admin.get(&format!("{MAPS}/before")).await;
    assert!(away.status == StatusCode::SERVICE_UNAVAILABLE && away.text().contains("does not answer"), "{}", away.text());
    assert_eq!(admin.post(MAPS, &map("lost", "v")).await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(admin.get(&format!("{MAPS}/before?resourceVersion=0")).await.status, StatusCode::OK, "what the cache has is read on");
    cluster.restart(0).expect("comes back");
    until("health", async || admin.get("/readyz").await.status == StatusCode::OK).await;
    assert_eq!(admin.post(MAPS, &map("after", "v")).await.status, StatusCode::CREATED);
    let frame = tokio::time::timeout(LIMIT, watch.frame()).await.expect("an event").expect("the client's watch goes on").expect("no error");
    let event: Value = serde_json::from_slice(&frame.into_data().unwrap_or_default()).expect("an event");
    assert_eq!((&event["type"], &event["object"]["metadata"]["name"]), (&json!("ADDED"), &json!("after")));
    let metrics = admin.get("/metrics").await.text();
    let counted = |l: &str| l.starts_with("etcd_requests_total{group=\"\",operation=\"create\",resource=\"configmaps\"}");
    assert!(metrics.lines().any(counted), "requests are counted");
    assert!(metrics.lines().any(|l| l.starts_with("apiserver_storage_size_bytes{storage_cluster_id=\"etcd-0\"}")), "etcd says how large it is");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_encrypted_in_etcd_and_read_by_every_server_with_the_key() {
    let Some(cluster) = start() else { return };
    let file = tempfile::NamedTempFile::new().expect("a file");
    let key = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers:\n  - aescbc:\n      keys:\n      - name: k\n        secret: {key}\n  - identity: {{}}\n"
    );
    std::fs::write(file.path(), text).expect("written");
    let rules = || Some(config::read(file.path()).expect("a configuration"));
    let first = World::over(tempfile::tempdir().expect("a folder"), store(&cluster), |_| {}, rules()).await;
    let second = World::over(folder_like(first.folder()), store(&cluster), |_| {}, rules()).await;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"k": "hidden"}});
    assert_eq!(first.admin().post("/api/v1/namespaces/default/secrets", &secret).await.status, StatusCode::CREATED);
    assert_eq!(second.admin().get("/api/v1/namespaces/default/secrets/s").await.json()["data"]["k"], "aGlkZGVu");
    let stored = cluster.ctl(&["get", "/registry/core/secrets/default/s", "--print-value-only"]).expect("reads");
    assert!(stored.starts_with("k8s:enc:aescbc:v1:k:") && !stored.contains("aGlkZGVu"), "{stored}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_start_at_once_make_one_cluster_and_each_is_an_endpoint() {
    let Some(cluster) = start() else { return };
    let made = World::start().await;
    until("the key is made", async || made.folder().join("pki/sa.key").exists()).await;
    let made = made.stop().await;
    let folders = [folder_like(made.path()), folder_like(made.path()), folder_like(made.path())];
    // Addresses that nobody calls: they are only told.
    let all = folders.into_iter().enumerate().map(|(i, folder)| {
        let store = store(&cluster);
        World::over(
            folder,
            store,
            move |c| {
                c.advertise_address = [192, 0, 2, 1 + i as u8].into();
                c.port = 6443;
            },
            None,
        )
    });
    let mut worlds = join_all(all).await;
    const SLICE: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
    let named = async |admin: &Client| -> Vec<String> {
        let slice = admin.get(SLICE).await.json();
        slice["endpoints"].as_array().into_iter().flatten().map(|e| e["addresses"][0].as_str().unwrap_or_default().to_owned()).collect()
    };
    let admin = worlds[0].admin();
    let all = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];
    until("all three are endpoints", async || named(&admin).await == all).await;
    until("the Endpoints name all three", async || {
        let endpoints = admin.get("/api/v1/namespaces/default/endpoints/kubernetes").await.json();
        endpoints["subsets"][0]["addresses"].as_array().map(Vec::len) == Some(3)
    })
    .await;
    worlds.pop().expect("three").stop().await;
    until("the one that stopped is none", async || named(&admin).await == all[..2]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_another_authority_is_refused() {
    let Some(cluster) = start() else { return };
    let first = World::over(tempfile::tempdir().expect("a folder"), store(&cluster), |_| {}, None).await;
    let stranger = tempfile::tempdir().expect("a folder");
    let start = async |folder: &Path| ApiServer::start(Config::new(folder), store(&cluster)).await.map(drop).map_err(|e| e.to_string());
    let refused = start(stranger.path()).await.expect_err("another authority");
    assert!(refused.contains("certificate authority") && refused.contains("sa.key"), "{refused}");
    let halfway = folder_like(first.folder());
    std::fs::remove_file(halfway.path().join("pki/sa.key")).expect("removed");
    let refused = start(halfway.path()).await.expect_err("another ServiceAccount key");
    assert!(refused.contains("ServiceAccount key"), "{refused}");
    assert_eq!(start(folder_like(first.folder()).path()).await, Ok(()));
}
