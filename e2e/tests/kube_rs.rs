//! kube-rs, the Rust client: typed and dynamic calls, watches, a reflector, apply, streams over WebSocket.

use futures::{AsyncBufReadExt, StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::core::v1::{ConfigMap, Container, Namespace, Pod, PodSpec, PodTemplateSpec, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use keles_e2e::{Cluster, WEB, skip};
use kube::api::{ApiResource, AttachParams, DeleteParams, DynamicObject, EvictParams, ListParams, LogParams, ObjectMeta, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::{Discovery, verbs};
use kube::runtime::{conditions, reflector, wait::await_condition, watcher};
use kube::{Api, Client, Error};
use serde_json::json;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn kube_rs_works() {
    if skip() {
        return;
    }
    let c = Cluster::start();
    let client = c.client().await;
    let all = async {
        tokio::join!(
            crud(namespace(&client, "rs-crud").await, client.clone()),
            pages_and_watches(namespace(&client, "rs-watch").await, client.clone()),
            a_reflector_follows(namespace(&client, "rs-reflector").await, client.clone()),
            workloads(namespace(&client, "rs-workload").await, client.clone()),
            inside(namespace(&client, "rs-inside").await, client.clone()),
            custom_resources(namespace(&client, "rs-custom").await, client.clone()),
            discovery(client.clone()),
        )
    };
    timeout(2 * SOON, all).await.expect("all flows end");
}

async fn namespace(client: &Client, name: &'static str) -> &'static str {
    let made = Namespace { metadata: named(name), ..Namespace::default() };
    Api::all(client.clone()).create(&PostParams::default(), &made).await.expect("a namespace");
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), name);
    await_condition(accounts, "default", |a: Option<&ServiceAccount>| a.is_some()).await.expect("its service account");
    name
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() }
}

fn config_map(name: &str, value: &str) -> ConfigMap {
    ConfigMap { metadata: named(name), data: Some([("k".to_owned(), value.to_owned())].into()), ..ConfigMap::default() }
}

fn pod_spec(command: &[&str]) -> PodSpec {
    let command = (!command.is_empty()).then(|| command.iter().map(|a| (*a).to_owned()).collect());
    let container = Container { name: "c".into(), image: Some(WEB.into()), command, stdin: Some(true), stdin_once: Some(true), ..Container::default() };
    PodSpec { termination_grace_period_seconds: Some(1), restart_policy: Some("Never".into()), containers: vec![container], ..PodSpec::default() }
}

/// The code and reason of a refusal.
fn refusal<T>(r: Result<T, Error>) -> (u16, String) {
    match r {
        Err(Error::Api(status)) => (status.code, status.reason.clone()),
        Err(other) => panic!("not a Status: {other}"),
        Ok(_) => panic!("not refused"),
    }
}

async fn crud(ns: &str, client: Client) {
    let api: Api<ConfigMap> = Api::namespaced(client, ns);
    let (post, patch) = (PostParams::default(), PatchParams::default());
    let mut made = api.create(&post, &config_map("a", "1")).await.expect("created");
    assert_eq!(refusal(api.create(&post, &config_map("a", "1")).await), (409, "AlreadyExists".into()));
    made.data.get_or_insert_default().insert("k".into(), "2".into());
    api.replace("a", &post, &made).await.expect("replaced");
    assert_eq!(refusal(api.replace("a", &post, &made).await), (409, "Conflict".into()));
    let merged = api.patch("a", &patch, &Patch::Merge(json!({"data": {"m": "3"}}))).await.expect("merged");
    assert_eq!(merged.data.map(|d| d.len()), Some(2));
    let strategic = api.patch("a", &patch, &Patch::Strategic(json!({"data": {"m": null}}))).await.expect("merged");
    assert_eq!(strategic.data.map(|d| d.len()), Some(1));
    let applied = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "5"}});
    assert_eq!(refusal(api.patch("a", &PatchParams::apply("rs"), &Patch::Apply(&applied)).await), (409, "Conflict".into()));
    let forced = api.patch("a", &PatchParams::apply("rs").force(), &Patch::Apply(&applied)).await.expect("applied");
    let managers: Vec<_> = forced.metadata.managed_fields.into_iter().flatten().filter(|m| m.operation.as_deref() == Some("Apply")).filter_map(|m| m.manager).collect();
    assert_eq!(managers, ["rs"]);
    let metadata = api.get_metadata("a").await.expect("only metadata");
    assert_eq!(metadata.metadata.name.as_deref(), Some("a"));
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    api.create(&dry, &config_map("dry", "1")).await.expect("tried");
    assert!(api.get_opt("dry").await.expect("asked").is_none());
    assert!(api.delete("a", &DeleteParams::default()).await.expect("deleted").right().is_some_and(|s| s.is_success()));
    assert_eq!(refusal(api.get("a").await), (404, "NotFound".into()));
}

async fn pages_and_watches(ns: &str, client: Client) {
    let api: Api<ConfigMap> = Api::namespaced(client, ns);
    let start = api.list(&ListParams::default()).await.expect("a list").metadata.resource_version.expect("a revision");
    for i in 0..5 {
        api.create(&PostParams::default(), &config_map(&format!("p{i}"), "1")).await.expect("created");
    }
    let (mut names, mut token) = (Vec::new(), None::<String>);
    loop {
        let mut page = ListParams::default().limit(2);
        page.continue_token = token;
        let page = api.list(&page).await.expect("a page");
        names.extend(page.items.into_iter().filter_map(|c| c.metadata.name).filter(|n| n.starts_with('p')));
        token = page.metadata.continue_.filter(|t| !t.is_empty());
        if token.is_none() {
            break;
        }
    }
    assert_eq!(names, ["p0", "p1", "p2", "p3", "p4"]);
    api.delete("p4", &DeleteParams::default()).await.expect("deleted");
    let mut events = api.watch(&WatchParams::default(), &start).await.expect("a watch").boxed();
    let (mut added, mut deleted) = (0, false);
    while !deleted {
        match events.try_next().await.expect("an event").expect("the watch stands") {
            WatchEvent::Added(c) => added += usize::from(c.metadata.name.is_some_and(|n| n.starts_with('p'))),
            WatchEvent::Deleted(c) => deleted = c.metadata.name.as_deref() == Some("p4"),
            _ => {}
        }
    }
    assert_eq!(added, 5);
}

/// By list and watch, and by the streaming list.
async fn a_reflector_follows(ns: &str, client: Client) {
    for (name, config) in [("listed", watcher::Config::default()), ("streamed", watcher::Config::default().streaming_lists())] {
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), ns);
        let (reader, writer) = reflector::store();
        let mut stream = reflector(writer, watcher(api.clone(), config)).boxed();
        api.create(&PostParams::default(), &config_map(name, "1")).await.expect("created");
        while !reader.state().iter().any(|c| c.metadata.name.as_deref() == Some(name)) {
            stream.try_next().await.expect("an event").expect("the stream stands");
        }
    }
}

async fn workloads(ns: &str, client: Client) {
    let labels = || Some([("app".to_owned(), "d".to_owned())].into());
    let template =
        PodTemplateSpec { metadata: Some(ObjectMeta { labels: labels(), ..ObjectMeta::default() }), spec: Some(PodSpec { restart_policy: None, ..pod_spec(&["sleep", "1000"]) }) };
    let spec = DeploymentSpec { replicas: Some(1), selector: LabelSelector { match_labels: labels(), ..LabelSelector::default() }, template, ..DeploymentSpec::default() };
    let api: Api<Deployment> = Api::namespaced(client.clone(), ns);
    api.create(&PostParams::default(), &Deployment { metadata: named("d"), spec: Some(spec), ..Deployment::default() }).await.expect("created");
    await_condition(api.clone(), "d", conditions::is_deployment_completed()).await.expect("rolls out");
    let scale: Scale = api.get_scale("d").await.expect("a scale");
    assert_eq!(scale.status.and_then(|s| s.selector).as_deref(), Some("app=d"));
    api.patch_scale("d", &PatchParams::default(), &Patch::Merge(json!({"spec": {"replicas": 2}}))).await.expect("scaled");
    await_condition(api.clone(), "d", |d: Option<&Deployment>| d.and_then(|d| d.status.as_ref()).and_then(|s| s.ready_replicas) == Some(2)).await.expect("two are ready");
    let pods: Api<Pod> = Api::namespaced(client, ns);
    let one = pods.list(&ListParams::default().labels("app=d")).await.expect("pods").items.swap_remove(0).metadata;
    let (name, uid) = (one.name.expect("a name"), one.uid.expect("a uid"));
    assert!(pods.evict(&name, &EvictParams::default()).await.expect("evicted").is_success());
    await_condition(pods, &name, conditions::is_deleted(&uid)).await.expect("goes");
    api.restart("d").await.expect("restarts");
    api.delete("d", &DeleteParams::foreground()).await.expect("deleted");
}

async fn inside(ns: &str, client: Client) {
    let pods: Api<Pod> = Api::namespaced(client, ns);
    for (name, command) in [("web", &[][..]), ("cat", &["sh", "-c", "read x; echo got $x"])] {
        pods.create(&PostParams::default(), &Pod { metadata: named(name), spec: Some(pod_spec(command)), ..Pod::default() }).await.expect("created");
        await_condition(pods.clone(), name, conditions::is_pod_running()).await.expect("runs");
    }
    let mut exec = pods.exec("web", ["sh", "-c", "read x; echo got $x; exit 3"], &AttachParams::default().stdin(true).stderr(false)).await.expect("an exec");
    exec.stdin().expect("asked for").write_all(b"words\n").await.expect("written");
    let (mut out, status) = (String::new(), exec.take_status().expect("a status"));
    exec.stdout().expect("asked for").read_to_string(&mut out).await.expect("read");
    let status = status.await.expect("an end");
    let code = status.details.and_then(|d| d.causes).and_then(|c| c.into_iter().find(|c| c.reason.as_deref() == Some("ExitCode"))).and_then(|c| c.message);
    assert_eq!((out.as_str(), code.as_deref()), ("got words\n", Some("3")));

    let mut forward = pods.portforward("web", &[8000]).await.expect("a port-forward");
    let mut stream = forward.take_stream(8000).expect("the port");
    stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").await.expect("asked");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    assert!(answer.ends_with("v1 web\n"), "{answer}");

    let mut lines = pods.log_stream("web", &LogParams { follow: true, ..LogParams::default() }).await.expect("logs").lines();
    assert_eq!(lines.try_next().await.expect("a line").as_deref(), Some("serving v1"));

    let mut attached = pods.attach("cat", &AttachParams::default().stdin(true).stderr(false)).await.expect("attached");
    attached.stdin().expect("asked for").write_all(b"this\n").await.expect("written");
    let mut heard = String::new();
    attached.stdout().expect("asked for").read_to_string(&mut heard).await.expect("read");
    assert!(heard.contains("got this"), "{heard}");
}

async fn custom_resources(ns: &str, client: Client) {
    let (group, plural) = (format!("{ns}.keles.dev"), "widgets");
    let name = format!("{plural}.{group}");
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {"size": {"type": "integer", "minimum": 1}}}, "status": {"type": "object", "properties": {"size": {"type": "integer"}}}}});
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": name}, "spec": {
        "group": group, "scope": "Namespaced", "names": {"plural": plural, "kind": "Widget"},
        "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}}, "schema": {"openAPIV3Schema": schema}}]}});
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    definitions.patch(&name, &PatchParams::apply("rs"), &Patch::Apply(definition)).await.expect("applied");
    await_condition(definitions.clone(), &name, conditions::is_crd_established()).await.expect("established");
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(&group, "v1", "Widget"), plural);
    let api: Api<DynamicObject> = Api::namespaced_with(client, ns, &resource);
    let widget = |size: i64| json!({"apiVersion": format!("{group}/v1"), "kind": "Widget", "metadata": {"name": "w"}, "spec": {"size": size}});
    let made = api.patch("w", &PatchParams::apply("rs"), &Patch::Apply(widget(2))).await.expect("applied");
    assert_eq!(made.metadata.generation, Some(1));
    assert_eq!(refusal(api.patch("w", &PatchParams::apply("rs"), &Patch::Apply(widget(0))).await), (422, "Invalid".into()));
    let status = api.patch_status("w", &PatchParams::default(), &Patch::Merge(json!({"status": {"size": 2}}))).await.expect("patched");
    assert_eq!((&status.data["status"]["size"], status.metadata.generation), (&json!(2), Some(1)));
    definitions.delete(&name, &DeleteParams::default()).await.expect("deleted");
}

/// Every kind that can be listed is listed by what discovery says of it.
async fn discovery(client: Client) {
    let found = Discovery::new(client.clone()).run_aggregated().await.expect("discovery");
    let mut listed = 0;
    for group in found.groups() {
        for (resource, capabilities) in group.recommended_resources() {
            // Definitions of other flows come and go.
            if !capabilities.supports_operation(verbs::LIST) || resource.group.ends_with("keles.dev") {
                continue;
            }
            Api::<DynamicObject>::all_with(client.clone(), &resource).list(&ListParams::default().limit(1)).await.unwrap_or_else(|e| panic!("{resource:?}: {e}"));
            listed += 1;
        }
    }
    assert!(listed > 50, "{listed}");
}
