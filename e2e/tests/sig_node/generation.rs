//! metadata.generation and status.observedGeneration.

use keles_e2e::WEB2;
use keles_e2e::api::{World, eventually, shell};
use keles_e2e::conformance::{Case, case};
use serde_json::{Value, json};

pub fn cases() -> Vec<Case> {
    vec![
        case("Pods Extended (pod generation) Pod Generation issue 500 podspec updates", five_hundred),
        case("Pods Extended (pod generation) Pod Generation pod generation should start at 1", counts),
        case("Pods Extended (pod generation) Pod Generation custom-set generation on new pods and graceful delete", custom_and_delete),
    ]
}

async fn observed(w: &World, generation: u64) {
    let pod = w.pods().becomes("p", &format!("observed at {generation}"), |p| p["status"]["observedGeneration"] == generation).await;
    assert_eq!(pod["metadata"]["generation"], generation);
}

async fn counts(w: World) {
    w.pod("p", json!({"restartPolicy": "Always", "containers": [shell("sleep 600")], "activeDeadlineSeconds": 5000})).await;
    assert_eq!(w.pods().ready("p").await["metadata"]["generation"], 1, "binding does not count");
    observed(&w, 1).await;
    let mut expected = 1;
    let changes: [(&str, Value, bool); 6] = [
        ("p", json!({}), false),
        ("p", json!({"metadata": {"labels": {"l": "v"}, "annotations": {"a": "v"}, "generation": 77}}), false),
        ("p", json!({"spec": {"tolerations": [{"key": "k", "operator": "Exists", "effect": "NoSchedule"}]}}), true),
        ("p", json!({"spec": {"activeDeadlineSeconds": 4000}}), true),
        ("p", json!({"spec": {"containers": [{"name": "c", "image": WEB2}]}}), true),
        ("p/ephemeralcontainers", json!({"spec": {"ephemeralContainers": [{"name": "e", "image": WEB2, "command": ["true"]}]}}), true),
    ];
    for (of, change, counts) in changes {
        // Tolerations have no merge key: what is there is told again.
        let change = match change["spec"]["tolerations"].as_array() {
            Some(more) => {
                let have = w.pods().get("p").await["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
                json!({"spec": {"tolerations": have.into_iter().chain(more.iter().cloned()).collect::<Vec<_>>()}})
            }
            None => change,
        };
        let pod = w.pods().patch_strategically(of, change.clone()).await;
        expected += u64::from(counts);
        assert_eq!(pod["metadata"]["generation"], expected, "{change}");
        observed(&w, expected).await;
    }
}

async fn five_hundred(w: World) {
    const UPDATES: u64 = 499;
    w.pod("p", json!({"containers": [shell("sleep 600")], "activeDeadlineSeconds": 5000})).await;
    w.pods().ready("p").await;
    for n in 1..=UPDATES {
        w.pods().patch("p", json!({"spec": {"activeDeadlineSeconds": 5000 - n}})).await;
    }
    observed(&w, UPDATES + 1).await;
}

async fn custom_and_delete(w: World) {
    let spec = json!({"terminationGracePeriodSeconds": 3, "containers": [shell("trap '' TERM; sleep 600 & wait; sleep 600")]});
    let made = w.labelled_pod("p", json!({"generation": 100, "finalizers": ["e2e.example.com/hold"]}), spec).await;
    assert_eq!(made["metadata"]["generation"], 1);
    w.pods().ready("p").await;
    observed(&w, 1).await;
    w.pods().delete("p").await;
    let deleted =
        eventually("the deletion", || async { Some(w.pods().get("p").await).filter(|p| p["metadata"]["deletionTimestamp"].is_string()).ok_or_else(|| "not yet".to_owned()) }).await;
    assert_eq!(deleted["metadata"]["generation"], 2);
    observed(&w, 2).await;
    w.pods().patch("p", json!({"metadata": {"finalizers": null}})).await;
    w.pods().gone("p").await;
}
