//! An API object as a JSON tree, with its metadata by name.
//!
//! The pipelines work on this tree; rules of a kind read it through a typed `k8s-openapi` view ([`Object::typed`]).
//! Invariant: the root is a JSON object, and `metadata`, where present, is one too (the decoder guarantees it).

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use std::fmt;

/// `apps/v1`, or `v1` for the core group.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupVersion {
    pub group: String,
    pub version: String,
}

impl GroupVersion {
    pub fn new(group: &str, version: &str) -> Self {
        GroupVersion { group: group.into(), version: version.into() }
    }
    /// Splits an `apiVersion` string.
    pub fn parse(api_version: &str) -> Self {
        match api_version.split_once('/') {
            Some((g, v)) => GroupVersion::new(g, v),
            None => GroupVersion::new("", api_version),
        }
    }
    pub fn kind(&self, kind: &str) -> GroupVersionKind {
        GroupVersionKind { group: self.group.clone(), version: self.version.clone(), kind: kind.into() }
    }
}

impl fmt::Display for GroupVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group.is_empty() { f.write_str(&self.version) } else { write!(f, "{}/{}", self.group, self.version) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupVersionKind {
    pub group: String,
    pub version: String,
    pub kind: String,
}

impl GroupVersionKind {
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }
}

/// An API object (or any other top-level API document) as a tree.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Object(pub Value);

static NULL: Value = Value::Null;

impl Object {
    /// An empty object of this apiVersion and kind.
    pub fn new(api_version: &str, kind: &str) -> Self {
        Object(serde_json::json!({"apiVersion": api_version, "kind": kind, "metadata": {}}))
    }
    /// The typed view. Null-tolerant as Go is, since the decoder has dropped nulls.
    pub fn typed<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        T::deserialize(&self.0)
    }
    pub fn from_typed<T: Serialize>(t: &T) -> Self {
        Object(serde_json::to_value(t).expect("k8s-openapi types always encode"))
    }
    pub fn root(&self) -> &Map<String, Value> {
        self.0.as_object().expect("the decoder admits only JSON objects as roots")
    }
    pub fn root_mut(&mut self) -> &mut Map<String, Value> {
        self.0.as_object_mut().expect("the decoder admits only JSON objects as roots")
    }
    /// The value at a path of field names, or JSON null.
    pub fn at(&self, path: &[&str]) -> &Value {
        path.iter().try_fold(&self.0, |v, k| v.get(k)).unwrap_or(&NULL)
    }
    /// The value at a path of field names, where there is one.
    pub fn at_mut(&mut self, path: &[&str]) -> Option<&mut Value> {
        below_mut(&mut self.0, path)
    }
    pub fn str_at(&self, path: &[&str]) -> &str {
        self.at(path).as_str().unwrap_or("")
    }
    pub fn api_version(&self) -> &str {
        self.str_at(&["apiVersion"])
    }
    pub fn kind(&self) -> &str {
        self.str_at(&["kind"])
    }
    pub fn gvk(&self) -> GroupVersionKind {
        GroupVersion::parse(self.api_version()).kind(self.kind())
    }
    pub fn set_type(&mut self, api_version: &str, kind: &str) {
        let root = self.root_mut();
        root.insert("apiVersion".into(), api_version.into());
        root.insert("kind".into(), kind.into());
    }

    // --- metadata ---
    pub fn meta(&self, field: &str) -> &Value {
        self.at(&["metadata", field])
    }
    pub fn meta_str(&self, field: &str) -> &str {
        self.meta(field).as_str().unwrap_or("")
    }
    /// The metadata map, made when absent.
    pub fn meta_mut(&mut self) -> &mut Map<String, Value> {
        let m = self.root_mut().entry("metadata").or_insert_with(|| Value::Object(Map::new()));
        if !m.is_object() {
            *m = Value::Object(Map::new());
        }
        m.as_object_mut().expect("made an object just above")
    }
    /// Sets a metadata field, or removes it when `v` is null or an empty string.
    pub fn set_meta(&mut self, field: &str, v: impl Into<Value>) {
        let v = v.into();
        if v.is_null() || v.as_str() == Some("") {
            self.meta_mut().remove(field);
        } else {
            self.meta_mut().insert(field.into(), v);
        }
    }
    pub fn name(&self) -> &str {
        self.meta_str("name")
    }
    pub fn namespace(&self) -> &str {
        self.meta_str("namespace")
    }
    pub fn uid(&self) -> &str {
        self.meta_str("uid")
    }
    pub fn resource_version(&self) -> &str {
        self.meta_str("resourceVersion")
    }
    pub fn generation(&self) -> i64 {
        self.meta("generation").as_i64().unwrap_or(0)
    }
    pub fn deletion_timestamp(&self) -> Option<&str> {
        self.meta("deletionTimestamp").as_str()
    }
    pub fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        str_map(self.meta("labels"))
    }
    pub fn label(&self, key: &str) -> Option<&str> {
        self.meta("labels").get(key).and_then(Value::as_str)
    }
    pub fn annotations(&self) -> impl Iterator<Item = (&str, &str)> {
        str_map(self.meta("annotations"))
    }
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.meta("annotations").get(key).and_then(Value::as_str)
    }
    pub fn finalizers(&self) -> Vec<&str> {
        self.meta("finalizers").as_array().map(|a| a.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
    }
    pub fn owner_references(&self) -> &[Value] {
        self.meta("ownerReferences").as_array().map(Vec::as_slice).unwrap_or(&[])
    }
}

fn str_map(v: &Value) -> impl Iterator<Item = (&str, &str)> {
    v.as_object().into_iter().flatten().filter_map(|(k, v)| Some((k.as_str(), v.as_str()?)))
}
/// What lies at the end of a path of field names. (`Value::pointer_mut` reads its path as a text at every call.)
pub fn below_mut<'v>(v: &'v mut Value, path: &[&str]) -> Option<&'v mut Value> {
    path.iter().try_fold(v, |v, name| v.get_mut(*name))
}
