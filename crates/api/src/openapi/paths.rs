//! Paths and operations of a resource.

use super::{META, Resource, Subresource};
use serde_json::{Map, Value, json};

const BODIES: [&str; 4] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf", "application/cbor"];
const PATCHES: [&str; 5] =
    ["application/apply-patch+cbor", "application/apply-patch+yaml", "application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json"];

const PRETTY: (&str, &str, &str) = ("pretty", "string", "If 'true', then the output is pretty printed.");
const DRY_RUN: (&str, &str, &str) =
    ("dryRun", "string", "When present, indicates that modifications should not be persisted. Valid values are: - All: all dry run stages will be processed");
const FIELD_MANAGER: (&str, &str, &str) =
    ("fieldManager", "string", "The name of the actor or entity that makes these changes; at most 128 printable characters. Required for apply requests.");
const FIELD_VALIDATION: (&str, &str, &str) = (
    "fieldValidation",
    "string",
    "What the server does with unknown or duplicate fields in the body: Ignore drops them silently, Warn (the default) drops them with a warning, Strict refuses the request.",
);
const FORCE: (&str, &str, &str) =
    ("force", "boolean", "Force \"forces\" apply requests: the caller takes conflicting fields from other managers. Must not be set on other patches.");
const LIST: [(&str, &str, &str); 11] = [
    ("allowWatchBookmarks", "boolean", "Requests watch events of type \"BOOKMARK\"."),
    ("continue", "string", "Continues a list from the token a previous page gave."),
    ("fieldSelector", "string", "A selector to restrict the list of returned objects by their fields. Defaults to everything."),
    ("labelSelector", "string", "A selector to restrict the list of returned objects by their labels. Defaults to everything."),
    ("limit", "integer", "The maximum number of objects of a page."),
    ("resourceVersion", "string", "Constrains what resource versions a request may be served from."),
    ("resourceVersionMatch", "string", "How resourceVersion is applied to list calls."),
    ("sendInitialEvents", "boolean", "With watch, starts the stream with the current objects and a bookmark."),
    ("shardSelector", "string", "Restricts the list to a shard of the objects."),
    ("timeoutSeconds", "integer", "Timeout for the list or watch call."),
    ("watch", "boolean", "Watch for changes to the described resources instead of listing them."),
];
const DELETE: [(&str, &str, &str); 5] = [
    DRY_RUN,
    ("gracePeriodSeconds", "integer", "The duration in seconds before the object should be deleted."),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean", "Deletes an object that cannot be read from storage."),
    ("orphanDependents", "boolean", "Deprecated: use propagationPolicy."),
    ("propagationPolicy", "string", "Whether and how garbage collection will be performed: Orphan, Background or Foreground."),
];

pub(super) fn add(r: &Resource, out: &mut Map<String, Value>) {
    let base = if r.group.is_empty() { format!("/api/{}", r.version) } else { format!("/apis/{}/{}", r.group, r.version) };
    let all = format!("{base}/{}", r.plural);
    let collection = if r.namespaced { format!("{base}/namespaces/{{namespace}}/{}", r.plural) } else { all.clone() };
    let one = format!("{collection}/{{name}}");
    let has = |v: &str| r.verbs.iter().any(|x| x == v);
    let list_schema = format!("{}List", r.schema);
    let mut item = Item::new(r, false);
    if has("list") {
        item.operation("get", "list", "list", &list_schema, &LIST);
    }
    if has("create") {
        item.operation("post", "post", "create", &r.schema, &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION]);
    }
    if has("deletecollection") {
        item.operation("delete", "deletecollection", "deletecollection", &format!("{META}.Status"), &[&DELETE[..], &LIST[1..10]].concat());
    }
    item.put(&collection, out);
    if r.namespaced && has("list") {
        let mut everywhere = Item::new(&Resource { namespaced: false, ..r.clone() }, false);
        everywhere.everywhere = true;
        everywhere.operation("get", "list", "list", &list_schema, &LIST);
        everywhere.put(&all, out);
    }
    let mut item = Item::new(r, true);
    item.verbs(&r.verbs, &r.schema);
    item.put(&one, out);
    for s in &r.subresources {
        let mut item = Item::new(r, true);
        item.subresource = Some(s);
        item.verbs(&s.verbs, if s.schema.is_empty() { &r.schema } else { &s.schema });
        item.put(&format!("{one}/{}", s.name), out);
    }
}

/// A path item in the making.
struct Item<'a> {
    r: Resource,
    named: bool,
    everywhere: bool,
    subresource: Option<&'a Subresource>,
    operations: Map<String, Value>,
}

impl Item<'_> {
    fn new(r: &Resource, named: bool) -> Self {
        Item { r: r.clone(), named, everywhere: false, subresource: None, operations: Map::new() }
    }

    fn verbs(&mut self, verbs: &[String], schema: &str) {
        let connect = self.subresource.is_some_and(|s| matches!(s.name.as_str(), "exec" | "attach" | "portforward" | "proxy"));
        for verb in verbs {
            match verb.as_str() {
                "get" => self.operation("get", if connect { "connect" } else { "get" }, "read", schema, &[]),
                "update" => self.operation("put", "put", "replace", schema, &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION]),
                "patch" => self.operation("patch", "patch", "patch", schema, &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION, FORCE]),
                "delete" => self.operation("delete", "delete", "delete", schema, &DELETE),
                "create" if self.subresource.is_some() => {
                    self.operation("post", if connect { "connect" } else { "post" }, "create", schema, &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION])
                }
                _ => {}
            }
        }
    }

    fn operation(&mut self, method: &str, action: &str, word: &str, schema: &str, query: &[(&str, &str, &str)]) {
        let (group, version, kind) = match self.subresource {
            Some(s) if !s.kind.is_empty() => {
                (if s.version.is_empty() { &self.r.group } else { &s.group }, if s.version.is_empty() { &self.r.version } else { &s.version }, &s.kind)
            }
            _ => (&self.r.group, &self.r.version, &self.r.kind),
        };
        let shown = if action == "delete" && schema == self.r.schema && self.subresource.is_none() && self.r.kind != "Pod" { format!("{META}.Status") } else { schema.to_owned() };
        let content: Map<String, Value> = BODIES.iter().map(|b| ((*b).to_owned(), json!({"schema": reference(&shown)}))).collect();
        let mut op = json!({
            "description": describe(word, &self.r.kind, self.subresource.map(|s| s.name.as_str())),
            "operationId": self.id(word),
            "tags": [tag(&self.r)],
            "responses": {"200": {"description": "OK", "content": content}, "401": {"description": "Unauthorized"}},
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": kind},
        });
        if !query.is_empty() {
            op["parameters"] = query.iter().map(|(n, t, d)| parameter("query", n, t, d)).collect();
        }
        match action {
            "post" | "put" => op["requestBody"] = json!({"content": {"*/*": {"schema": reference(schema)}}, "required": true}),
            "delete" | "deletecollection" => op["requestBody"] = json!({"content": {"*/*": {"schema": reference(&format!("{META}.DeleteOptions"))}}}),
            "patch" => {
                let content: Map<String, Value> = PATCHES.iter().map(|b| ((*b).to_owned(), json!({"schema": reference(&format!("{META}.Patch"))}))).collect();
                op["requestBody"] = json!({"content": content, "required": true});
            }
            _ => {}
        }
        self.operations.insert(method.to_owned(), op);
    }

    /// `listAppsV1NamespacedDeployment`
    fn id(&self, word: &str) -> String {
        let scope = if self.r.namespaced { "Namespaced" } else { "" };
        let (word, collection) = if word == "deletecollection" { ("delete", "Collection") } else { (word, "") };
        let tail = self.subresource.map(|s| capital(&s.name)).unwrap_or_default();
        let all = if self.everywhere { "ForAllNamespaces" } else { "" };
        format!("{word}{}{}{collection}{scope}{}{tail}{all}", capital(&short_group(&self.r.group)), capital(&self.r.version), self.r.kind)
    }

    fn put(self, path: &str, out: &mut Map<String, Value>) {
        if self.operations.is_empty() {
            return;
        }
        let mut parameters = Vec::new();
        if self.named {
            parameters.push(path_parameter("name", &format!("name of the {}", self.r.kind)));
        }
        if self.r.namespaced {
            parameters.push(path_parameter("namespace", "object name and auth scope, such as for teams and projects"));
        }
        parameters.push(parameter("query", PRETTY.0, PRETTY.1, PRETTY.2));
        let mut item = self.operations;
        item.insert("parameters".into(), parameters.into());
        out.insert(path.to_owned(), item.into());
    }
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

fn parameter(place: &str, name: &str, ty: &str, text: &str) -> Value {
    json!({"name": name, "in": place, "description": text, "schema": {"type": ty, "uniqueItems": true}})
}

fn path_parameter(name: &str, text: &str) -> Value {
    let mut p = parameter("path", name, "string", text);
    p["required"] = true.into();
    p
}

fn describe(word: &str, kind: &str, subresource: Option<&str>) -> String {
    let of = subresource.map(|s| format!("{s} of ")).unwrap_or_default();
    match word {
        "list" => format!("list or watch objects of kind {kind}"),
        "deletecollection" => format!("delete collection of {kind}"),
        "patch" => format!("partially update {of}the specified {kind}"),
        "create" | "delete" => format!("{word} {of}a {kind}"),
        other => format!("{other} {of}the specified {kind}"),
    }
}

fn capital(word: &str) -> String {
    let mut c = word.chars();
    c.next().map(|f| f.to_ascii_uppercase().to_string() + c.as_str()).unwrap_or_default()
}

/// `rbacAuthorization` of `rbac.authorization.k8s.io`.
fn short_group(group: &str) -> String {
    if group.is_empty() {
        return "core".into();
    }
    let mut parts = group.trim_end_matches(".k8s.io").split('.');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, p| all + &capital(p))
}

fn tag(r: &Resource) -> String {
    format!("{}_{}", short_group(&r.group), r.version)
}
