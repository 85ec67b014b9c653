//! Paths and operations of a resource.
//!
//! What all operations of a path share as parameters stands at the path, the rest at the operation, as upstream's builder lays it out.

use super::{META, Resource, Subresource};
use serde_json::{Map, Value, json};

const TYPES: [&str; 3] = ["application/json", "application/vnd.kubernetes.protobuf", "application/yaml"];
const STREAMS: [&str; 2] = ["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];
const PATCHES: [&str; 4] = ["application/apply-patch+yaml", "application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json"];

/// Kinds whose delete answers the object, by group.
const ANSWERS_DELETED: &[(&str, &[&str])] = &[
    ("", &["PersistentVolume", "PersistentVolumeClaim", "Pod", "PodTemplate", "ResourceQuota", "Service", "ServiceAccount"]),
    ("resource.k8s.io", &["DeviceClass", "DeviceTaintRule", "ResourceClaim", "ResourceClaimTemplate", "ResourcePoolStatusRequest", "ResourceSlice"]),
    ("storage.k8s.io", &["CSIDriver", "CSINode", "StorageClass", "VolumeAttachment", "VolumeAttributesClass"]),
];

type Query = (&'static str, &'static str, &'static str);

const PRETTY: Query = ("pretty", "string", "If 'true', then the output is pretty printed.");
const DRY_RUN: Query = ("dryRun", "string", "When present, indicates that modifications should not be persisted. Valid values are: - All: all dry run stages will be processed");
const FIELD_MANAGER: Query = ("fieldManager", "string", "The name of the actor or entity that makes these changes; at most 128 printable characters. Required for apply requests.");
const FIELD_VALIDATION: Query = (
    "fieldValidation",
    "string",
    "What the server does with unknown or duplicate fields in the body: Ignore drops them silently, Warn (the default) drops them with a warning, Strict refuses the request.",
);
const FORCE: Query = ("force", "boolean", "Force \"forces\" apply requests: the caller takes conflicting fields from other managers. Must not be set on other patches.");
const WRITE: [Query; 3] = [DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION];
const LIST: [Query; 11] = [
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
const DELETE: [Query; 5] = [
    DRY_RUN,
    ("gracePeriodSeconds", "integer", "The duration in seconds before the object should be deleted."),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean", "Deletes an object that cannot be read from storage."),
    ("orphanDependents", "boolean", "Deprecated: use propagationPolicy."),
    ("propagationPolicy", "string", "Whether and how garbage collection will be performed: Orphan, Background or Foreground."),
];
const CONTAINER: Query = ("container", "string", "The name of the container; may be left out when there is only one.");
const STDERR: Query = ("stderr", "boolean", "Whether the standard error stream is redirected for this call.");
const STDIN: Query = ("stdin", "boolean", "Whether the standard input stream is redirected for this call.");
const STDOUT: Query = ("stdout", "boolean", "Whether the standard output stream is redirected for this call.");
const TTY: Query = ("tty", "boolean", "Whether a terminal is allocated for this call.");
const PROXY_PATH: Query = ("path", "string", "The path (with its query) that the request is sent on to.");

/// Query parameters of subresources that are no objects.
const OPTIONS: &[(&str, &[Query])] = &[
    ("attach", &[CONTAINER, STDERR, STDIN, STDOUT, TTY]),
    ("exec", &[("command", "string", "The command to execute, not within a shell; given once an argument."), CONTAINER, STDERR, STDIN, STDOUT, TTY]),
    (
        "log",
        &[
            CONTAINER,
            ("follow", "boolean", "Follow the log stream of the pod."),
            ("insecureSkipTLSVerifyBackend", "boolean", "The serving certificate of the node is not verified."),
            ("limitBytes", "integer", "The number of bytes to read before the log ends."),
            ("previous", "boolean", "Logs of the terminated container before."),
            ("sinceSeconds", "integer", "Seconds before now from which to show logs."),
            ("stream", "string", "Which of the container's streams: All, Stdout or Stderr."),
            ("tailLines", "integer", "The number of lines from the end of the logs to show."),
            ("timestamps", "boolean", "Each line starts with its time, RFC 3339."),
        ],
    ),
    ("portforward", &[("ports", "integer", "The ports to forward; required with WebSockets.")]),
    ("proxy", &[PROXY_PATH]),
];
/// Methods of subresources that pass requests on.
const STREAMED: &[&str] = &["get", "post"];
const PROXIED: &[&str] = &["delete", "get", "head", "options", "patch", "post", "put"];

pub(super) fn add(r: &Resource, out: &mut Map<String, Value>) {
    let base = base_path(&r.group, &r.version);
    let within = |prefix: &str| if r.namespaced { format!("{base}{prefix}/namespaces/{{namespace}}/{}", r.plural) } else { format!("{base}{prefix}/{}", r.plural) };
    let collection = within("");
    let has = |v: &str| r.verbs.iter().any(|x| x == v);
    let mut item = Item::new(r);
    if has("list") {
        item.list(false);
    }
    if has("create") {
        item.write("post", "create", &r.schema, &WRITE);
    }
    if has("deletecollection") {
        let o = item.operation("delete", "deletecollection", item.id("delete", "Collection", ""), format!("delete collection of {}", r.kind));
        o.query(&DELETE).query(&LIST[1..10]).asks("*/*", &format!("{META}.DeleteOptions"), false).answers(&["200"], &TYPES, &format!("{META}.Status"));
    }
    item.put(&collection, out);
    if r.namespaced && has("list") {
        let mut everywhere = Item::new(r);
        everywhere.everywhere = true;
        everywhere.list(false);
        everywhere.put(&format!("{base}/{}", r.plural), out);
    }
    let mut item = Item::new(r);
    item.named = true;
    item.verbs(&r.verbs, &r.schema);
    item.put(&format!("{collection}/{{name}}"), out);
    for s in &r.subresources {
        add_subresource(r, s, &format!("{collection}/{{name}}/{}", s.name), out);
    }
    if has("watch") {
        let mut item = Item::new(r);
        item.list(true);
        item.put(&within("/watch"), out);
        let mut item = Item::new(r);
        item.named = true;
        item.watch_one();
        item.put(&format!("{}/{{name}}", within("/watch")), out);
        if r.namespaced {
            let mut item = Item::new(r);
            item.everywhere = true;
            item.list(true);
            item.put(&format!("{base}/watch/{}", r.plural), out);
        }
    }
}

fn add_subresource(r: &Resource, s: &Subresource, path: &str, out: &mut Map<String, Value>) {
    let item = || {
        let mut item = Item::new(r);
        item.named = true;
        item.subresource = Some(s);
        item
    };
    let options = OPTIONS.iter().find(|(n, _)| *n == s.name).map(|(_, o)| *o);
    let mut one = item();
    match (s.name.as_str(), options) {
        ("log", Some(options)) => {
            one.operation("get", "get", one.id("read", "", ""), format!("read log of the specified {}", r.kind)).query(options).answers_text(&[
                "application/json",
                "application/vnd.kubernetes.protobuf",
                "application/yaml",
                "text/plain",
            ]);
        }
        (name, Some(options)) => {
            let methods = if name == "proxy" { PROXIED } else { STREAMED };
            one.connect(methods, options, false);
            if name == "proxy" {
                let mut deep = item();
                deep.connect(methods, options, true);
                deep.put(&format!("{path}/{{path}}"), out);
            }
        }
        _ => one.verbs(&s.verbs, if s.schema.is_empty() { &r.schema } else { &s.schema }),
    }
    one.put(path, out);
}

/// `/apis/apps/v1`
pub(super) fn base_path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") }
}

/// A path whose only operation describes it: discovery, the version.
pub(super) fn describing(path: &str, id: &str, tag: &str, text: &str, types: &[&str], schema: &str, out: &mut Map<String, Value>) {
    let mut o = Operation { parameters: Vec::new(), json: json!({"description": text, "operationId": id, "tags": [tag]}) };
    o.answers(&["200"], types, schema);
    out.insert(path.to_owned(), json!({"get": o.json}));
}

/// The resources of a group-version at its own path.
pub(super) fn add_root(group: &str, version: &str, out: &mut Map<String, Value>) {
    let (word, base) = (format!("{}{}", capital(&short_group(group)), capital(version)), base_path(group, version));
    let tag = format!("{}_{version}", short_group(group));
    describing(&format!("{base}/"), &format!("get{word}APIResources"), &tag, "get available resources", &TYPES, &format!("{META}.APIResourceList"), out);
}

/// The path of a group: `""` for `/api/`.
pub(super) fn add_group(group: &str, out: &mut Map<String, Value>) {
    if group.is_empty() {
        return describing("/api/", "getCoreAPIVersions", "core", "get available API versions", &TYPES, &format!("{META}.APIVersions"), out);
    }
    let short = short_group(group);
    describing(&format!("/apis/{group}/"), &format!("get{}APIGroup", capital(&short)), &short, "get information of a group", &TYPES, &format!("{META}.APIGroup"), out);
}

/// The path of all groups.
pub(super) fn add_groups(out: &mut Map<String, Value>) {
    describing("/apis/", "getAPIVersions", "apis", "get available API versions", &TYPES, &format!("{META}.APIGroupList"), out);
}

struct Operation {
    parameters: Vec<Value>,
    json: Value,
}

impl Operation {
    fn query(&mut self, all: &[Query]) -> &mut Self {
        self.parameters.extend(all.iter().map(|(n, t, d)| parameter("query", n, t, d)));
        self
    }
    fn asks(&mut self, media: &str, schema: &str, required: bool) -> &mut Self {
        self.json["requestBody"]["content"][media] = json!({"schema": reference(schema)});
        if required {
            self.json["requestBody"]["required"] = true.into();
        }
        self
    }
    fn answers(&mut self, codes: &[&str], types: &[&str], schema: &str) -> &mut Self {
        let content: Map<String, Value> = types.iter().map(|t| ((*t).to_owned(), json!({"schema": reference(schema)}))).collect();
        self.answer(codes, content.into())
    }
    fn answers_text(&mut self, types: &[&str]) -> &mut Self {
        let content: Map<String, Value> = types.iter().map(|t| ((*t).to_owned(), json!({"schema": {"type": "string"}}))).collect();
        self.answer(&["200"], content.into())
    }
    fn answer(&mut self, codes: &[&str], content: Value) -> &mut Self {
        for code in codes {
            let text = match *code {
                "201" => "Created",
                "202" => "Accepted",
                _ => "OK",
            };
            self.json["responses"][*code] = json!({"description": text, "content": content});
        }
        self.json["responses"]["401"] = json!({"description": "Unauthorized"});
        self
    }
}

/// A path item in the making.
struct Item<'a> {
    r: &'a Resource,
    named: bool,
    everywhere: bool,
    subresource: Option<&'a Subresource>,
    operations: Vec<(&'static str, Operation)>,
}

impl<'a> Item<'a> {
    fn new(r: &'a Resource) -> Self {
        Item { r, named: false, everywhere: false, subresource: None, operations: Vec::new() }
    }

    fn operation(&mut self, method: &'static str, action: &str, id: String, text: String) -> &mut Operation {
        let (group, version, kind) = match self.subresource {
            Some(s) if !s.kind.is_empty() => {
                (if s.version.is_empty() { &self.r.group } else { &s.group }, if s.version.is_empty() { &self.r.version } else { &s.version }, &s.kind)
            }
            _ => (&self.r.group, &self.r.version, &self.r.kind),
        };
        let json = json!({
            "description": text, "operationId": id, "tags": [tag(self.r)],
            "x-kubernetes-action": action, "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": kind},
        });
        let mut parameters = Vec::new();
        if action != "connect" {
            parameters.push(parameter("query", PRETTY.0, PRETTY.1, PRETTY.2));
        }
        if self.named {
            parameters.push(path_parameter("name", &format!("name of the {}", self.subject())));
        }
        if self.r.namespaced && !self.everywhere {
            parameters.push(path_parameter("namespace", "object name and auth scope, such as for teams and projects"));
        }
        self.operations.push((method, Operation { parameters, json }));
        &mut self.operations.last_mut().expect("pushed just above").1
    }

    /// The kind that the name in the path names.
    fn subject(&self) -> &'a str {
        self.subresource.map_or(&self.r.kind, |s| if s.kind.is_empty() { &self.r.kind } else { &s.kind })
    }
    /// `scale of `, for a subresource.
    fn of(&self) -> String {
        self.subresource.map(|s| format!("{} of ", s.name)).unwrap_or_default()
    }

    fn list(&mut self, watch: bool) {
        let kind = &self.r.kind;
        let types = [&TYPES[..], &STREAMS[..]].concat();
        if watch {
            let text = format!("watch individual changes to a list of {kind}. deprecated: use the 'watch' parameter with a list operation instead.");
            self.operation("get", "watchlist", self.id("watch", "", "List"), text).query(&LIST).answers(&["200"], &types, &format!("{META}.WatchEvent"));
        } else {
            let schema = format!("{}List", self.r.schema);
            self.operation("get", "list", self.id("list", "", ""), format!("list or watch objects of kind {kind}")).query(&LIST).answers(&["200"], &types, &schema);
        }
    }

    fn watch_one(&mut self) {
        let text = format!(
            "watch changes to an object of kind {}. deprecated: use the 'watch' parameter with a list operation instead, filtered to a single item with the 'fieldSelector' parameter.",
            self.r.kind
        );
        let types = [&TYPES[..], &STREAMS[..]].concat();
        self.operation("get", "watch", self.id("watch", "", ""), text).query(&LIST).answers(&["200"], &types, &format!("{META}.WatchEvent"));
    }

    fn write(&mut self, method: &'static str, word: &str, schema: &str, query: &[Query]) {
        let (of, kind) = (self.of(), &self.r.kind);
        let text = if word == "create" { format!("create {of}a {}", kind) } else { format!("{word} {of}the specified {kind}") };
        let codes: &[&str] = if method == "post" { &["200", "201", "202"] } else { &["200", "201"] };
        self.operation(method, method, self.id(word, "", ""), text).query(query).asks("*/*", schema, true).answers(codes, &TYPES, schema);
    }

    fn verbs(&mut self, verbs: &[String], schema: &str) {
        let (of, kind) = (self.of(), &self.r.kind);
        for verb in verbs {
            match verb.as_str() {
                "get" => {
                    self.operation("get", "get", self.id("read", "", ""), format!("read {of}the specified {kind}")).answers(&["200"], &TYPES, schema);
                }
                "update" => self.write("put", "replace", schema, &WRITE),
                "patch" => {
                    let o = self.operation("patch", "patch", self.id("patch", "", ""), format!("partially update {of}the specified {kind}"));
                    o.query(&WRITE).query(&[FORCE]).answers(&["200", "201"], &TYPES, schema);
                    for media in PATCHES {
                        o.asks(media, &format!("{META}.Patch"), true);
                    }
                }
                "delete" => {
                    let whole = ANSWERS_DELETED.iter().any(|(g, kinds)| *g == self.r.group && kinds.contains(&kind.as_str()));
                    let answer = if whole { schema.to_owned() } else { format!("{META}.Status") };
                    let o = self.operation("delete", "delete", self.id("delete", "", ""), format!("delete {of}a {kind}"));
                    o.query(&DELETE).asks("*/*", &format!("{META}.DeleteOptions"), false).answers(&["200", "202"], &TYPES, &answer);
                }
                "create" if self.subresource.is_some() => self.write("post", "create", schema, &WRITE),
                _ => {}
            }
        }
    }

    fn connect(&mut self, methods: &[&'static str], options: &[Query], with_path: bool) {
        let name = self.subresource.map(|s| s.name.as_str()).unwrap_or_default();
        for method in methods {
            let id = self.id("connect", &capital(method), if with_path { "WithPath" } else { "" });
            let text = format!("connect {} requests to {name} of {}", method.to_uppercase(), self.r.kind);
            let o = self.operation(method, "connect", id, text);
            o.query(options).answers_text(&["*/*"]);
            if with_path {
                o.parameters.push(path_parameter("path", "path to the resource"));
            }
        }
    }

    /// `listAppsV1NamespacedDeployment`: `before` stands before the scope, `after` at the end.
    fn id(&self, word: &str, before: &str, after: &str) -> String {
        let scope = if self.r.namespaced && !self.everywhere { "Namespaced" } else { "" };
        let sub = self.subresource.map(|s| capital(&s.name)).unwrap_or_default();
        let all = if self.everywhere { "ForAllNamespaces" } else { "" };
        format!("{word}{}{}{before}{scope}{}{sub}{after}{all}", capital(&short_group(&self.r.group)), capital(&self.r.version), self.r.kind)
    }

    fn put(self, path: &str, out: &mut Map<String, Value>) {
        let Some((_, first)) = self.operations.first() else { return };
        let mut common: Vec<Value> = first.parameters.iter().filter(|p| self.operations.iter().all(|(_, o)| o.parameters.contains(p))).cloned().collect();
        sort(&mut common);
        let mut item = Map::new();
        for (method, mut o) in self.operations {
            o.parameters.retain(|p| !common.contains(p));
            sort(&mut o.parameters);
            if !o.parameters.is_empty() {
                o.json["parameters"] = o.parameters.into();
            }
            item.insert(method.to_owned(), o.json);
        }
        if !common.is_empty() {
            item.insert("parameters".into(), common.into());
        }
        out.insert(path.to_owned(), item.into());
    }
}

fn sort(parameters: &mut [Value]) {
    parameters.sort_by_cached_key(|p| (p["name"].as_str().unwrap_or_default().to_owned(), p["in"].as_str().unwrap_or_default().to_owned()));
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

fn capital(s: &str) -> String {
    let mut c = s.chars();
    c.next().map(|f| f.to_uppercase().chain(c).collect()).unwrap_or_default()
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
