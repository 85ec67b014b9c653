//! Sub-paths of volumes that are written atomically.

use keles_e2e::api::{World, shell, with};
use keles_e2e::conformance::{Case, case};
use serde_json::{Value, json};

pub fn cases() -> Vec<Case> {
    vec![
        case("Subpath Atomic writer volumes should support subpaths with configmap pod", |w| atomic(w, json!({"name": "v", "configMap": {"name": "m"}}), "key", "/sub", "value")),
        case("Subpath Atomic writer volumes should support subpaths with configmap pod with mountPath of existing file", |w| {
            atomic(w, json!({"name": "v", "configMap": {"name": "m"}}), "key", "/etc/group", "value")
        }),
        case("Subpath Atomic writer volumes should support subpaths with secret pod", |w| atomic(w, json!({"name": "v", "secret": {"secretName": "s"}}), "key", "/sub", "hidden")),
        case("Subpath Atomic writer volumes should support subpaths with downward pod", |w| {
            atomic(w, json!({"name": "v", "downwardAPI": {"items": [{"path": "key", "fieldRef": {"fieldPath": "metadata.name"}}]}}), "key", "/sub", "p")
        }),
        case("Subpath Atomic writer volumes should support subpaths with projected pod", |w| {
            let items = json!([{"key": "key", "path": "dir/key"}]);
            atomic(w, json!({"name": "v", "projected": {"sources": [{"configMap": {"name": "m", "items": items}}]}}), "dir", "/sub", "value")
        }),
    ]
}

/// The sub-path is what the container sees, and as often as it looks.
async fn atomic(w: World, volume: Value, sub_path: &str, at: &str, says: &str) {
    w.config_map("m", json!({"key": "value"})).await;
    w.secret("s", json!({"key": "hidden"})).await;
    let file = if sub_path == "dir" { format!("{at}/key") } else { at.to_owned() };
    let script = format!("for i in 1 2 3 4 5; do cat {file} || exit 1; echo; sleep 0.2; done");
    let container = with(shell(&script), json!({"volumeMounts": [{"name": "v", "mountPath": at, "subPath": sub_path, "readOnly": true}]}));
    let log = w.output(json!({"containers": [container], "volumes": [volume]})).await;
    assert_eq!(log, format!("{says}\n").repeat(5));
}
