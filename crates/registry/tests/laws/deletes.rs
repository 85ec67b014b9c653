//! Laws of delete and deletecollection.

use crate::world::*;
use keles_api::decode::Format;
use keles_api::{Object, protobuf};
use keles_registry::Verb;
use serde_json::{Value, json};

#[tokio::test]
async fn a_delete_answers_with_a_status_that_names_what_is_gone() {
    let w = World::new().await;
    let a = w.req("configmaps").create(&config("a", "1")).await.unwrap();
    let s = w.req("configmaps").named("a").delete("").await.unwrap();
    assert_eq!(s.0, json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": {"name": "a", "kind": "configmaps", "uid": a.uid()}}));
    assert_eq!(w.req("configmaps").named("a").delete("").await.unwrap_err().message, "configmaps \"a\" not found");
}

#[tokio::test]
async fn preconditions_guard_a_delete() {
    let w = World::new().await;
    let a = w.req("configmaps").create(&config("a", "1")).await.unwrap();
    let e = w.req("configmaps").named("a").delete(r#"{"apiVersion":"v1","kind":"DeleteOptions","preconditions":{"uid":"nope"}}"#).await.unwrap_err();
    let why = "the UID in the precondition (nope) does not match the UID in record";
    assert_eq!(e.message, format!("Operation cannot be fulfilled on ConfigMap \"a\": {why} ({}). The object might have been deleted and then recreated", a.uid()));
    assert_eq!((e.code, e.details.unwrap().kind.as_str()), (409, "ConfigMap"));
    let e = w.req("configmaps").named("a").delete(r#"{"apiVersion":"v1","kind":"DeleteOptions","preconditions":{"resourceVersion":"1"}}"#).await.unwrap_err();
    assert!(e.code == 409 && e.message.contains("the ResourceVersion in the precondition (1) does not match"), "{}", e.message);
    let ok = format!(r#"{{"apiVersion":"v1","kind":"DeleteOptions","preconditions":{{"uid":"{}"}}}}"#, a.uid());
    w.req("configmaps").named("a").delete(&ok).await.unwrap();
}

#[tokio::test]
async fn a_body_of_another_kind_deletes_nothing() {
    let w = World::new().await;
    w.req("configmaps").create(&config("a", "1")).await.unwrap();
    let unknown =
        |kind: &str, version: &str| format!("no kind \"{kind}\" is registered for version \"{version}\" in scheme \"pkg/apis/meta/internalversion/scheme/register.go:27\"");
    for (body, why) in [
        (config("a", "1"), unknown("ConfigMap", "v1")),
        (r#"{"kind":"fixed"}"#.into(), unknown("fixed", "meta.k8s.io/v1")),
        (r#"{"kind":"Status","apiVersion":"v1"}"#.into(), "converting (v1.Status) to (v1.DeleteOptions): unknown conversion".into()),
        (r#"{"gracePeriodSeconds":"1"}"#.into(), "json: cannot unmarshal string into Go struct field DeleteOptions.gracePeriodSeconds of type int64".into()),
    ] {
        for all in [false, true] {
            let r = if all { w.req("configmaps") } else { w.req("configmaps").named("a") };
            let s = if all { r.delete_all(&body).await.unwrap_err() } else { r.delete(&body).await.unwrap_err() };
            assert_eq!((s.code, s.reason.as_str(), &s.message), (400, "BadRequest", &why), "{body}");
        }
    }
    for format in [Format::Yaml, Format::Protobuf] {
        let mut r = w.req("configmaps").named("a");
        r.call.body_format = format;
        r.call.body = if format == Format::Yaml { "kind: ConfigMap\napiVersion: v1\n".into() } else { protobuf::encode(config("a", "1").as_bytes()).unwrap().into() };
        assert_eq!(r.serve(Verb::Delete).await.err().unwrap().message, unknown("ConfigMap", "v1"), "{format:?}");
    }
    for options in ["", r#"{"apiVersion":"batch/v1","kind":"DeleteOptions","dryRun":["All"]}"#] {
        w.req("configmaps").named("a").query("dryRun=All").delete(options).await.unwrap();
    }
    // With a body the query says nothing.
    w.req("configmaps").named("a").query("dryRun=All").delete("{}").await.unwrap();
    assert_eq!(w.req("configmaps").named("a").get().await.unwrap_err().code, 404);
}

#[tokio::test]
async fn a_finalizer_holds_an_object_until_it_is_taken_away() {
    let w = World::new().await;
    let start = w.revision().await;
    w.req("configmaps").create(&config("a", "1").replace("\"name\"", "\"finalizers\":[\"x.example/f\"],\"name\"")).await.unwrap();
    let marked = w.req("configmaps").named("a").delete("").await.unwrap();
    assert_eq!((marked.deletion_timestamp(), marked.meta("deletionGracePeriodSeconds")), (Some(NOW), &json!(0)));
    let again = w.req("configmaps").named("a").delete("").await.unwrap();
    assert_eq!(again, marked, "a second delete adds nothing");
    let e = w.req("configmaps").named("a").merge(r#"{"metadata":{"finalizers":["x.example/f","y.example/g"]}}"#).await.unwrap_err();
    assert!(e.code == 422 && e.message.contains("no new finalizers can be added if the object is being deleted"), "{}", e.message);
    let kept = w.req("configmaps").named("a").merge(r#"{"metadata":{"deletionTimestamp":null},"data":{"t":"2"}}"#).await.unwrap();
    assert_eq!(kept.deletion_timestamp(), Some(NOW), "a deletion cannot be taken back");
    w.req("configmaps").named("a").merge(r#"{"metadata":{"finalizers":null}}"#).await.unwrap();
    assert_eq!(w.req("configmaps").named("a").get().await.unwrap_err().code, 404);
    let mut s = w.req("configmaps").query(&format!("watch=1&resourceVersion={start}")).watch().await;
    assert_eq!(s.shorts(4).await, ["ADDED a 1", "MODIFIED a 1", "MODIFIED a 2", "DELETED a 2"]);
}

#[tokio::test]
async fn propagation_policies_become_finalizers() {
    let w = World::new().await;
    for (query, finalizer) in [("propagationPolicy=Foreground", "foregroundDeletion"), ("propagationPolicy=Orphan", "orphan"), ("orphanDependents=true", "orphan")] {
        let name = query.to_lowercase().replace('=', "-");
        w.req("deployments").create(&deployment(&name)).await.unwrap();
        let d = w.req("deployments").named(&name).query(query).delete("").await.unwrap();
        assert_eq!((d.finalizers(), d.deletion_timestamp(), d.generation()), (vec![finalizer], Some(NOW), 2), "{query}");
    }
    w.req("deployments").create(&deployment("b")).await.unwrap();
    w.req("deployments").named("b").query("propagationPolicy=Background").delete("").await.unwrap();
    assert_eq!(w.req("deployments").named("b").get().await.unwrap_err().code, 404);
}

#[tokio::test]
async fn a_bound_pod_goes_gracefully_and_the_period_only_shrinks() {
    let w = World::new().await;
    let body = pod("p").replace("\"containers\"", "\"nodeName\":\"n\",\"containers\"");
    w.req("pods").create(&body).await.unwrap();
    let one = w.req("pods").named("p").delete("").await.unwrap();
    assert_eq!((one.deletion_timestamp(), one.meta("deletionGracePeriodSeconds"), one.generation()), (Some("2026-11-21T06:00:30Z"), &json!(30), 2));
    let longer = w.req("pods").named("p").delete(r#"{"gracePeriodSeconds":60}"#).await.unwrap();
    assert_eq!(longer, one, "never longer");
    let shorter = w.req("pods").named("p").query("gracePeriodSeconds=5").delete("").await.unwrap();
    assert_eq!((shorter.deletion_timestamp(), shorter.meta("deletionGracePeriodSeconds")), (Some("2026-11-21T06:00:05Z"), &json!(5)));
    w.req("pods").named("p").delete(r#"{"gracePeriodSeconds":0}"#).await.unwrap();
    assert_eq!(w.req("pods").named("p").get().await.unwrap_err().code, 404, "zero deletes at once");
}

#[tokio::test]
async fn a_pod_without_a_node_goes_at_once() {
    let w = World::new().await;
    w.req("pods").create(&pod("p")).await.unwrap();
    let gone = w.req("pods").named("p").delete("").await.unwrap();
    assert_eq!(gone.kind(), "Pod", "pods answer with themselves");
    assert_eq!(w.req("pods").named("p").get().await.unwrap_err().code, 404);
}

#[tokio::test]
async fn an_eviction_deletes_the_pod() {
    let w = World::new().await;
    w.req("pods").create(&pod("p")).await.unwrap();
    let s = w.req("pods").named("p").sub("eviction").create(r#"{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"p"}}"#).await.unwrap();
    assert_eq!(s.str_at(&["status"]), "Success");
    assert_eq!(w.req("pods").named("p").get().await.unwrap_err().code, 404);
}

#[tokio::test]
async fn a_disruption_budget_gives_leave_to_evict_as_often_as_its_status_says() {
    let w = World::new().await;
    let evict = |name: &str| w.req("pods").named(name).sub("eviction").create(r#"{"apiVersion":"policy/v1","kind":"Eviction"}"#);
    for name in ["p", "q"] {
        w.req("pods").create(&pod(name).replace("\"metadata\":{", "\"metadata\":{\"labels\":{\"app\":\"x\"},\"finalizers\":[\"x.example/held\"],")).await.unwrap();
        let status = r#"{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}"#;
        w.req("pods").named(name).sub("status").merge(status).await.unwrap();
    }
    let budget = r#"{"apiVersion":"policy/v1","kind":"PodDisruptionBudget","metadata":{"name":"b"},"spec":{"minAvailable":1,"selector":{"matchLabels":{"app":"x"}}}}"#;
    w.req("poddisruptionbudgets").create(budget).await.unwrap();
    let e = evict("p").await.unwrap_err();
    let d = e.details.unwrap();
    assert_eq!((e.code, d.retry_after_seconds, d.causes[0].reason.as_str()), (429, 10, "DisruptionBudget"), "its controller has not seen it yet");
    let b = || w.req("poddisruptionbudgets").named("b");
    b().sub("status").merge(r#"{"status":{"observedGeneration":1,"disruptionsAllowed":1,"desiredHealthy":1,"currentHealthy":2,"expectedPods":2}}"#).await.unwrap();
    evict("p").await.unwrap();
    let p = w.req("pods").named("p").get().await.unwrap();
    assert!(p.deletion_timestamp().is_some() && p.at(&["status", "conditions"]).as_array().unwrap().iter().any(|c| c["type"] == "DisruptionTarget"));
    let left = b().get().await.unwrap();
    assert_eq!((left.at(&["status", "disruptionsAllowed"]), &left.at(&["status", "disruptedPods"])["p"]), (&json!(0), &json!(NOW)));
    let e = evict("q").await.unwrap_err();
    assert_eq!((e.code, e.message.as_str()), (429, "Cannot evict pod as it would violate the pod's disruption budget."));
    assert_eq!(e.details.unwrap().causes[0].message, "The disruption budget b needs 1 healthy pods and has 2 currently");
    assert!(w.req("pods").named("q").get().await.unwrap().deletion_timestamp().is_none());
}

#[tokio::test]
async fn a_namespace_terminates_and_stays_until_it_is_finalized() {
    let w = World::new().await;
    let ns = w.req("namespaces").named("other").delete("").await.unwrap();
    assert_eq!((ns.kind(), ns.str_at(&["status", "phase"]), ns.deletion_timestamp()), ("Namespace", "Terminating", Some(NOW)));
    let again = w.req("namespaces").named("other").delete("").await.unwrap();
    assert_eq!(again, ns);
    let mut done = again.clone();
    done.0["spec"]["finalizers"] = json!([]);
    w.req("namespaces").named("other").put(&done).await.unwrap();
    let still = w.req("namespaces").named("other").get().await.unwrap();
    assert_eq!(still, ns, "the main resource cannot finalize");
}

#[tokio::test]
async fn the_finalize_subresource_changes_finalizers_only_and_completes_the_delete() {
    let w = World::new().await;
    w.req("namespaces").named("other").delete("").await.unwrap();
    let mut ns = w.req("namespaces").named("other").get().await.unwrap();
    ns.0["spec"]["finalizers"] = json!([]);
    ns.0["status"]["phase"] = "Active".into();
    let done = w.req("namespaces").named("other").sub("finalize").put(&ns).await.unwrap();
    assert_eq!(done.str_at(&["status", "phase"]), "Terminating");
    assert_eq!(w.req("namespaces").named("other").get().await.unwrap_err().code, 404);
}

#[tokio::test]
async fn the_default_namespace_stays() {
    let w = World::new().await;
    let e = w.req("namespaces").named("default").delete("").await.unwrap_err();
    assert_eq!((e.code, e.message.as_str()), (403, "namespaces \"default\" is forbidden: this namespace may not be deleted"));
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector_and_shown() {
    let w = World::new().await;
    for (n, t) in [("a", "x"), ("b", "y"), ("c", "x")] {
        w.req("configmaps").create(&config(n, t)).await.unwrap();
    }
    let shown: Value = w.req("configmaps").query("labelSelector=t=x").delete_all("").await.unwrap();
    assert_eq!((shown["kind"].as_str(), names(&shown)), (Some("ConfigMapList"), vec!["a".to_owned(), "c".to_owned()]));
    assert_eq!(names(&w.req("configmaps").list().await.unwrap()), ["b"]);
}

#[tokio::test]
async fn a_recreated_object_is_another_object() {
    let w = World::new().await;
    let start = w.revision().await;
    let a = w.req("configmaps").create(&config("a", "1")).await.unwrap();
    w.req("configmaps").named("a").delete("").await.unwrap();
    let b: Object = w.req("configmaps").create(&config("a", "2")).await.unwrap();
    assert_ne!(a.uid(), b.uid());
    let mut s = w.req("configmaps").query(&format!("watch=1&resourceVersion={start}")).watch().await;
    assert_eq!(s.shorts(3).await, ["ADDED a 1", "DELETED a 1", "ADDED a 2"]);
}
