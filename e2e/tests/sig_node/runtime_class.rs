//! Runtime classes.

use keles_e2e::api::{Answer, World, condition, shell, stays};
use keles_e2e::conformance::{Case, case};
use serde_json::{Value, json};

pub fn cases() -> Vec<Case> {
    vec![
        case("RuntimeClass should reject a Pod requesting a deleted RuntimeClass", deleted),
        case("RuntimeClass should reject a Pod requesting a non-existent RuntimeClass", |w| async move {
            let e = asking(&w, "nonexistent").await.expect_err("there is no such class");
            assert!(e.code == 403 && e.reason == "Forbidden" && e.message.contains("nonexistent"), "{e:?}");
        }),
        case("RuntimeClass should schedule a Pod requesting a RuntimeClass and initialize its Overhead", |w| {
            scheduled(w, json!({"overhead": {"podFixed": {"cpu": "10m", "memory": "1Mi"}}}), json!({"cpu": "10m", "memory": "1Mi"}))
        }),
        case("RuntimeClass should schedule a Pod requesting a RuntimeClass without PodOverhead", |w| scheduled(w, json!({}), Value::Null)),
        case("RuntimeClass should support RuntimeClasses API operations", |w| async move {
            w.api_operations(CLASSES, false, |_| json!({"metadata": {}, "handler": "runc"})).await;
        }),
    ]
}

const CLASSES: &str = "node.k8s.io/v1/runtimeclasses";

async fn asking(w: &World, class: &str) -> Answer {
    let spec = json!({"runtimeClassName": class, "terminationGracePeriodSeconds": 1, "tolerations": stays(), "containers": [shell("sleep 600")]});
    w.pods().try_create(&json!({"metadata": {"name": "p"}, "spec": spec})).await
}

async fn deleted(w: World) {
    let (classes, name) = (w.cluster(CLASSES), w.namespace.as_str());
    classes.create(&json!({"metadata": {"name": name}, "handler": "runc"})).await;
    classes.delete(name).await;
    classes.gone(name).await;
    // The plugin reads classes from a cache and asks the server for one that is not in it; a cache may be behind a deletion.
    keles_e2e::api::eventually("the refusal", || async {
        match asking(&w, name).await {
            Err(e) if e.reason == "Forbidden" => Ok(()),
            other => {
                let _ = w.pods().try_delete("p").await;
                w.pods().gone("p").await;
                Err(format!("{other:?}"))
            }
        }
    })
    .await;
}

async fn scheduled(w: World, class: Value, overhead: Value) {
    let name = w.namespace.as_str();
    w.cluster(CLASSES).create(&keles_e2e::api::with(json!({"metadata": {"name": name}, "handler": "runc"}), class)).await;
    let made = asking(&w, name).await.expect("the class is there");
    assert_eq!(made["spec"]["overhead"], overhead);
    w.pods().becomes("p", "scheduled", |p| condition(p, "PodScheduled")["status"] == "True").await;
}
