//! Volumes of ConfigMaps and Secrets, plain and projected: the same rows for each of the four.

use keles_e2e::api::{World, eventually, shell, with};
use keles_e2e::conformance::{Case, case};
use serde_json::{Value, json};

/// What fills the volume.
#[derive(Clone, Copy)]
enum Source {
    ConfigMap,
    Secret,
    ProjectedConfigMap,
    ProjectedSecret,
}
use Source::{ConfigMap, ProjectedConfigMap, ProjectedSecret, Secret};

impl Source {
    fn resource(self) -> &'static str {
        match self {
            ConfigMap | ProjectedConfigMap => "v1/configmaps",
            Secret | ProjectedSecret => "v1/secrets",
        }
    }
    /// A volume of the object; `items` and `optional` go to the source, `defaultMode` to the volume.
    fn volume(self, volume: &str, object: &str, source: Value, default_mode: Option<u32>) -> Value {
        let mode = default_mode.map_or(json!({}), |m| json!({"defaultMode": m}));
        match self {
            ConfigMap => json!({"name": volume, "configMap": with(with(json!({"name": object}), source), mode)}),
            Secret => json!({"name": volume, "secret": with(with(json!({"secretName": object}), source), mode)}),
            ProjectedConfigMap => json!({"name": volume, "projected": with(json!({"sources": [{"configMap": with(json!({"name": object}), source)}]}), mode)}),
            ProjectedSecret => json!({"name": volume, "projected": with(json!({"sources": [{"secret": with(json!({"name": object}), source)}]}), mode)}),
        }
    }
    async fn object(self, w: &World, name: &str) {
        match self {
            ConfigMap | ProjectedConfigMap => w.config_map(name, json!({"data-1": "value-1", "data-2": "value-2", "data-3": "value-3"})).await,
            Secret | ProjectedSecret => w.secret(name, json!({"data-1": "value-1", "data-2": "value-2", "data-3": "value-3"})).await,
        }
    }
    /// A merge patch that sets this key.
    fn change(self, key: &str, value: &str) -> Value {
        match self {
            ConfigMap | ProjectedConfigMap => json!({"data": {key: value}}),
            Secret | ProjectedSecret => json!({"stringData": {key: value}}),
        }
    }
}

pub fn cases() -> Vec<Case> {
    let mut all = vec![
        // First what waits for the agent's next look at the objects.
        case("ConfigMap optional updates should be reflected in volume", |w| optional_updates(w, ConfigMap)),
        case("Secrets optional updates should be reflected in volume", |w| optional_updates(w, Secret)),
        case("Projected configMap optional updates should be reflected in volume", |w| optional_updates(w, ProjectedConfigMap)),
        case("Projected secret optional updates should be reflected in volume", |w| optional_updates(w, ProjectedSecret)),
        case("ConfigMap updates should be reflected in volume", |w| updates(w, ConfigMap)),
        case("Projected configMap updates should be reflected in volume", |w| updates(w, ProjectedConfigMap)),
        case("ConfigMap binary data should be reflected in volume", binary_data),
        case("ConfigMap should be immutable if `immutable` field is set", |w| immutable(w, ConfigMap)),
        case("Secrets should be immutable if `immutable` field is set", |w| immutable(w, Secret)),
        case("Secrets should be able to mount in a volume regardless of a different secret existing with same name in different namespace", same_name_elsewhere),
        case("Projected combined should project all components that make up the projection API", combined),
    ];
    all.extend([
        case("ConfigMap should be consumable from pods in volume", |w| consumable(w, ConfigMap, None, None, None)),
        case("ConfigMap should be consumable from pods in volume as non-root", |w| consumable(w, ConfigMap, None, None, non_root(None))),
        case("ConfigMap should be consumable from pods in volume with defaultMode set", |w| consumable(w, ConfigMap, None, Some(0o400), None)),
        case("ConfigMap should be consumable from pods in volume with mappings", |w| consumable(w, ConfigMap, mapped(None), None, None)),
        case("ConfigMap should be consumable from pods in volume with mappings and Item mode set", |w| consumable(w, ConfigMap, mapped(Some(0o400)), None, None)),
        case("ConfigMap should be consumable from pods in volume with mappings as non-root", |w| consumable(w, ConfigMap, mapped(None), None, non_root(None))),
        case("ConfigMap should be consumable in multiple volumes in the same pod", |w| several_volumes(w, ConfigMap)),
        case("Projected configMap should be consumable from pods in volume", |w| consumable(w, ProjectedConfigMap, None, None, None)),
        case("Projected configMap should be consumable from pods in volume as non-root", |w| consumable(w, ProjectedConfigMap, None, None, non_root(None))),
        case("Projected configMap should be consumable from pods in volume with defaultMode set", |w| consumable(w, ProjectedConfigMap, None, Some(0o400), None)),
        case("Projected configMap should be consumable from pods in volume with mappings", |w| consumable(w, ProjectedConfigMap, mapped(None), None, None)),
        case("Projected configMap should be consumable from pods in volume with mappings and Item mode set", |w| {
            consumable(w, ProjectedConfigMap, mapped(Some(0o400)), None, None)
        }),
        case("Projected configMap should be consumable from pods in volume with mappings as non-root", |w| consumable(w, ProjectedConfigMap, mapped(None), None, non_root(None))),
        case("Projected configMap should be consumable in multiple volumes in the same pod", |w| several_volumes(w, ProjectedConfigMap)),
        case("Secrets should be consumable from pods in volume", |w| consumable(w, Secret, None, None, None)),
        case("Secrets should be consumable from pods in volume as non-root with defaultMode and fsGroup set", |w| consumable(w, Secret, None, Some(0o440), non_root(Some(1001)))),
        case("Secrets should be consumable from pods in volume with defaultMode set", |w| consumable(w, Secret, None, Some(0o400), None)),
        case("Secrets should be consumable from pods in volume with mappings", |w| consumable(w, Secret, mapped(None), None, None)),
        case("Secrets should be consumable from pods in volume with mappings and Item Mode set", |w| consumable(w, Secret, mapped(Some(0o400)), None, None)),
        case("Secrets should be consumable in multiple volumes in a pod", |w| several_volumes(w, Secret)),
        case("Projected secret should be consumable from pods in volume", |w| consumable(w, ProjectedSecret, None, None, None)),
        case("Projected secret should be consumable from pods in volume as non-root with defaultMode and fsGroup set", |w| {
            consumable(w, ProjectedSecret, None, Some(0o440), non_root(Some(1001)))
        }),
        case("Projected secret should be consumable from pods in volume with defaultMode set", |w| consumable(w, ProjectedSecret, None, Some(0o400), None)),
        case("Projected secret should be consumable from pods in volume with mappings", |w| consumable(w, ProjectedSecret, mapped(None), None, None)),
        case("Projected secret should be consumable from pods in volume with mappings and Item Mode set", |w| consumable(w, ProjectedSecret, mapped(Some(0o400)), None, None)),
        case("Projected secret should be consumable in multiple volumes in a pod", |w| several_volumes(w, ProjectedSecret)),
    ]);
    all
}

/// `data-2` at a path of its own, with this mode.
fn mapped(mode: Option<u32>) -> Option<Value> {
    let mode = mode.map_or(json!({}), |m| json!({"mode": m}));
    Some(json!({"items": [with(json!({"key": "data-2", "path": "path/to/data-2"}), mode)]}))
}

fn non_root(fs_group: Option<u32>) -> Option<Value> {
    Some(json!({"runAsUser": 1000, "runAsNonRoot": true, "fsGroup": fs_group}))
}

/// Octal digits and words as `stat` prints them.
fn mode_text(mode: u32) -> String {
    format!("{mode:o}")
}

async fn consumable(w: World, source: Source, items: Option<Value>, default_mode: Option<u32>, security: Option<Value>) {
    source.object(&w, "o").await;
    let (path, value, item_mode) = match &items {
        Some(i) => ("path/to/data-2", "value-2", i["items"][0]["mode"].as_u64().map(|m| u32::try_from(m).expect("a mode"))),
        None => ("data-1", "value-1", None),
    };
    let volume = source.volume("v", "o", items.clone().unwrap_or(json!({})), default_mode);
    let script = format!("cat /etc/vol/{path}; echo; stat -L -c '%a %g' /etc/vol/{path}; find -L /etc/vol -type f -not -path '*/..*' | wc -l");
    let container = with(shell(&script), json!({"volumeMounts": [{"name": "v", "mountPath": "/etc/vol", "readOnly": true}]}));
    let fs_group = security.as_ref().and_then(|s| s["fsGroup"].as_u64());
    let log = w.output(json!({"securityContext": security, "containers": [container], "volumes": [volume]})).await;
    let mut mode = item_mode.or(default_mode).unwrap_or(0o644);
    if fs_group.is_some() {
        mode |= 0o440;
    }
    let files = if items.is_some() { 1 } else { 3 };
    assert_eq!(log, format!("{value}\n{} {}\n{files}\n", mode_text(mode), fs_group.unwrap_or(0)));
}

async fn several_volumes(w: World, source: Source) {
    source.object(&w, "o").await;
    let volumes = [source.volume("v", "o", json!({}), None), source.volume("w", "o", json!({}), None)];
    let container = with(shell("cat /v/data-1 /w/data-1"), json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}, {"name": "w", "mountPath": "/w"}]}));
    assert_eq!(w.output(json!({"containers": [container], "volumes": volumes})).await, "value-1value-1");
}

/// Waits until `cat` of a file in the running pod prints exactly this (errors included).
async fn shows(w: &World, file: &str, wanted: &str) {
    eventually(&format!("{file} says {wanted:?}"), || async {
        let said = w.exec("p", "c", &["cat", file]).await;
        if said.contains(wanted) { Ok(()) } else { Err(said) }
    })
    .await;
}

async fn updates(w: World, source: Source) {
    source.object(&w, "o").await;
    let container = with(shell("sleep 3600"), json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}));
    w.pod("p", json!({"containers": [container], "volumes": [source.volume("v", "o", json!({}), None)]})).await;
    w.pods().ready("p").await;
    shows(&w, "/v/data-1", "value-1").await;
    w.of(source.resource()).patch("o", source.change("data-1", "changed-1")).await;
    shows(&w, "/v/data-1", "changed-1").await;
}

/// One object goes, one changes, one that is optional comes.
async fn optional_updates(w: World, source: Source) {
    for name in ["goes", "changes"] {
        source.object(&w, name).await;
    }
    let names = ["goes", "changes", "comes"];
    let volumes = names.map(|n| source.volume(n, n, json!({"optional": true}), None));
    let mounts = names.map(|n| json!({"name": n, "mountPath": format!("/{n}")}));
    w.pod("p", json!({"containers": [with(shell("sleep 3600"), json!({"volumeMounts": mounts}))], "volumes": volumes})).await;
    w.pods().ready("p").await;
    shows(&w, "/goes/data-1", "value-1").await;
    shows(&w, "/comes/data-1", "No such file").await;
    let all = w.of(source.resource());
    all.delete("goes").await;
    all.patch("changes", source.change("data-3", "changed-3")).await;
    source.object(&w, "comes").await;
    tokio::join!(shows(&w, "/goes/data-1", "No such file"), shows(&w, "/changes/data-3", "changed-3"), shows(&w, "/comes/data-1", "value-1"));
}

async fn binary_data(w: World) {
    // Bytes that are no UTF-8: de ca fe ba d0 fe ff.
    w.of("v1/configmaps").create(&json!({"metadata": {"name": "o"}, "data": {"text": "value-1"}, "binaryData": {"dump.bin": "3sr+utD+/w=="}})).await;
    let container = with(shell("cat /v/text; echo; hexdump -v -e '/1 \"%02x\"' /v/dump.bin"), json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}));
    let log = w.output(json!({"containers": [container], "volumes": [ConfigMap.volume("v", "o", json!({}), None)]})).await;
    assert_eq!(log, "value-1\ndecafebad0feff");
}

async fn immutable(w: World, source: Source) {
    let all = w.of(source.resource());
    source.object(&w, "o").await;
    all.patch("o", source.change("data-4", "value-4")).await;
    all.patch("o", json!({"immutable": true})).await;
    for refused in [source.change("data-5", "value-5"), json!({"immutable": false}), json!({"immutable": null})] {
        let e = all.try_patch("o", &refused).await.expect_err("it is immutable");
        assert!(e.code == 422 && e.message.contains("field is immutable when `immutable` is set"), "{refused}: {e:?}");
    }
    assert_eq!(all.patch("o", json!({"metadata": {"labels": {"l": "v"}}})).await["metadata"]["labels"]["l"], "v");
    all.delete("o").await;
    all.gone("o").await;
}

async fn same_name_elsewhere(w: World) {
    let other = World { namespace: format!("{}-other", w.namespace), ..w.clone() };
    w.cluster("v1/namespaces").create(&json!({"metadata": {"name": other.namespace}})).await;
    other.secret("o", json!({"data-1": "of the other namespace"})).await;
    consumable(w, Secret, None, None, None).await;
}

async fn combined(w: World) {
    w.config_map("m", json!({"configmap-data": "configmap-value"})).await;
    w.secret("s", json!({"secret-data": "secret-value"})).await;
    let sources = json!([
        {"configMap": {"name": "m", "items": [{"key": "configmap-data", "path": "cm-data"}]}},
        {"secret": {"name": "s", "items": [{"key": "secret-data", "path": "secret-data"}]}},
        {"downwardAPI": {"items": [{"path": "podname", "fieldRef": {"fieldPath": "metadata.name"}}]}},
    ]);
    let container = with(shell("cd /all; cat podname; echo; cat secret-data; echo; cat cm-data"), json!({"volumeMounts": [{"name": "v", "mountPath": "/all"}]}));
    let log = w.output(json!({"containers": [container], "volumes": [{"name": "v", "projected": {"sources": sources}}]})).await;
    assert_eq!(log, "p\nsecret-value\nconfigmap-value");
}
