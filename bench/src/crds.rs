//! Many definitions: start-up and memory with 2,000 of them, and lists of custom objects beside lists of built-in ones.

use crate::Error;
use crate::process::{Server, http_get};
use futures::StreamExt;
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::time::Duration;

const DEFINITIONS: usize = 2_000;
/// Kinds a group has, as large operators have them.
const KINDS_A_GROUP: usize = 20;
/// Fields of a schema; with their texts they make about 10 KB of it.
const FIELDS: usize = 60;
const OBJECTS: usize = 10_000;
const LISTS: usize = 20;
const IN_FLIGHT: usize = 16;
/// What brings an object to about 1 KB.
const NOTE_BYTES: usize = 700;
/// After the start, before memory is read.
const SETTLE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(50);
const ESTABLISH_LIMIT: Duration = Duration::from_secs(120);

fn names(i: usize) -> (String, String) {
    (format!("group{}.bench.example", i / KINDS_A_GROUP), format!("things{i}"))
}

/// A definition as operators write them: texts, formats, enums, defaults, lists with keys, a rule.
fn definition(i: usize) -> Value {
    let (group, plural) = names(i);
    let mut fields = Map::new();
    for f in 0..FIELDS {
        let text = format!("Field {f} says how the controller of this resource is to treat part {f} of what it makes. It may be changed at any time and is looked at again then.");
        let field = match f % 5 {
            0 => json!({"type": "string", "description": text, "maxLength": 63, "pattern": "^[a-z0-9-]*$"}),
            1 => json!({"type": "integer", "format": "int32", "description": text, "minimum": 0, "default": f}),
            2 => json!({"type": "object", "description": text, "additionalProperties": {"type": "string"}}),
            3 => json!({"type": "array", "description": text, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "value": {"type": "string"}}}}),
            _ => json!({"type": "string", "description": text, "enum": ["Always", "Never", "IfNeeded"]}),
        };
        fields.insert(format!("field{f}"), field);
    }
    let spec = json!({"type": "object", "properties": fields, "x-kubernetes-validations": [{"rule": "!has(self.field1) || self.field1 < 1000", "message": "field1 is too large"}]});
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": format!("{plural}.{group}")}, "spec": {
        "group": group, "scope": "Namespaced", "names": {"plural": plural, "singular": format!("thing{i}"), "kind": format!("Thing{i}"), "listKind": format!("Thing{i}List")},
        "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec, "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}}]}})
}

pub async fn run(keles: PathBuf) -> Result<String, Error> {
    let s = Server::start(&keles, "apiserver").await?;
    let schema_bytes = definition(0).to_string().len();
    let (mut last, began) = (s.cpu_seconds(), std::time::Instant::now());
    post_all(&s, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", DEFINITIONS, definition).await?;
    let (group, plural) = names(DEFINITIONS - 1);
    let path = format!("/apis/{group}/v1/namespaces/default/{plural}");
    while s.client.request_text(http_get(&path)).await.is_err() {
        if began.elapsed() > ESTABLISH_LIMIT {
            return Err("the last definition is not served".into());
        }
        tokio::time::sleep(POLL).await;
    }
    let install = (s.cpu_seconds() - last) / DEFINITIONS as f64;
    let note = "x".repeat(NOTE_BYTES);
    let custom = |i: usize| {
        json!({"apiVersion": format!("{group}/v1"), "kind": format!("Thing{}", DEFINITIONS - 1), "metadata": {"name": format!("o{i}")},
            "spec": {"field0": "a", "field2": {"note": note}}})
    };
    post_all(&s, &path, OBJECTS, custom).await?;
    post_all(&s, "/api/v1/namespaces/default/configmaps", OBJECTS, |i| json!({"metadata": {"name": format!("o{i}")}, "data": {"field0": "a", "note": note}})).await?;
    let mut list = async |path: &str| -> Result<(f64, usize), Error> {
        last = s.cpu_seconds();
        let mut bytes = 0;
        for _ in 0..LISTS {
            bytes = s.client.request_text(http_get(path)).await?.len();
        }
        Ok(((s.cpu_seconds() - last) / LISTS as f64, bytes))
    };
    let (of_custom, custom_bytes) = list(&path).await?;
    let (of_maps, map_bytes) = list("/api/v1/namespaces/default/configmaps").await?;
    let s = s.restart(&keles).await?;
    s.client.request_text(http_get(&path)).await?;
    let served = s.started.elapsed();
    tokio::time::sleep(SETTLE).await;
    let (resident, cpu) = (s.resident_mib(), s.cpu_seconds());
    let began = std::time::Instant::now();
    s.client.request_text(http_get("/openapi/v2")).await?;
    let openapi = began.elapsed();
    Ok(format!(
        "{DEFINITIONS} definitions of {:.0} KB installed for {:.1} ms of CPU each; started with them and {} objects: ready {:.2} s, custom objects listed after {:.2} s, {resident:.0} MiB resident, {cpu:.1} s of CPU; \
         list of {OBJECTS} custom objects ({:.1} MB) {:.1} ms of CPU, of ConfigMaps ({:.1} MB) {:.1} ms; OpenAPI v2 of all after {:.1} s, then {:.0} MiB",
        schema_bytes as f64 / 1e3,
        install * 1e3,
        2 * OBJECTS,
        s.ready_after.as_secs_f64(),
        served.as_secs_f64(),
        custom_bytes as f64 / 1e6,
        of_custom * 1e3,
        map_bytes as f64 / 1e6,
        of_maps * 1e3,
        openapi.as_secs_f64(),
        s.resident_mib()
    ))
}

/// Creates `count` objects, a few at a time.
async fn post_all(s: &Server, path: &str, count: usize, object: impl Fn(usize) -> Value) -> Result<(), Error> {
    let requests = (0..count).map(|i| {
        let body = object(i).to_string().into_bytes();
        let request = http::Request::post(path).header("content-type", "application/json").body(body);
        let client = s.client.clone();
        async move { Ok::<_, Error>(client.request_text(request?).await.map(|_| ())?) }
    });
    let mut done = futures::stream::iter(requests).buffer_unordered(IN_FLIGHT);
    while let Some(r) = done.next().await {
        r?;
    }
    Ok(())
}
