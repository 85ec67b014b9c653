//! How objects are laid out as bytes: in the store, in the watch cache, on the wire.
//!
//! A stored object starts with a *head*, `{"kind":K,"apiVersion":V,"metadata":{`, and holds no resourceVersion (it is the store's revision).
//! So putting the resourceVersion in, taking the type out (items of a list) and finding the metadata need no parsing.

use bytes::{BufMut, Bytes, BytesMut};
use keles_api::{Object, json};
use serde_json::Value;
use std::sync::Arc;

/// The order in which metadata is written; what is not named follows.
const META_ORDER: [&str; 14] = [
    "name",
    "generateName",
    "namespace",
    "selfLink",
    "uid",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "labels",
    "annotations",
    "ownerReferences",
    "finalizers",
    "managedFields",
];

/// Brings stored bytes to what its kind shows today (defaults that came later, another storage version); `None`: they are that already.
pub type Restore = Arc<dyn Fn(&[u8]) -> Option<Object> + Send + Sync>;

/// The fixed beginning of every object of one kind and version.
#[derive(Clone)]
pub struct Head {
    /// `{"kind":"Pod","apiVersion":"v1","metadata":{`
    pub bytes: Bytes,
    /// Length of `{"kind":"Pod","apiVersion":"v1",`.
    pub type_len: usize,
    /// Only custom resources have it.
    pub restore: Option<Restore>,
    /// The heads of all versions of a kind that is converted outside, the storage version's first; such objects are cached as they are stored.
    pub others: Arc<[Head]>,
}

impl Head {
    pub fn new(kind: &str, api_version: &str) -> Self {
        let start = format!("{{\"kind\":{},\"apiVersion\":{},", quoted(kind), quoted(api_version));
        Head { type_len: start.len(), bytes: Bytes::from(format!("{start}\"metadata\":{{")), restore: None, others: Arc::new([]) }
    }
    /// The head of a version of the kind, by its place.
    pub fn in_version(&self, at: u8) -> &Head {
        self.others.get(usize::from(at)).unwrap_or(self)
    }
    /// The version in which bytes were stored, by its place.
    pub fn version_of(&self, stored: &[u8]) -> u8 {
        self.others.iter().position(|h| stored.starts_with(&h.bytes)).and_then(|i| u8::try_from(i).ok()).unwrap_or(0)
    }
}

pub fn quoted(s: &str) -> String {
    Value::from(s).to_string()
}

fn field(out: &mut Vec<u8>, name: &str, v: &Value) {
    if !matches!(out.last(), Some(b'{')) {
        out.push(b',');
    }
    json::write_entry(out, name, v);
}

/// The object as it is stored: head, metadata in a fixed order without resourceVersion, then the rest.
pub fn stored(o: &Object, head: &Head) -> Bytes {
    let mut out = Vec::with_capacity(1024);
    out.extend_from_slice(&head.bytes);
    if let Some(meta) = o.at(&["metadata"]).as_object() {
        for name in META_ORDER {
            if let Some(v) = meta.get(name) {
                field(&mut out, name, v);
            }
        }
        for (name, v) in meta.iter().filter(|(n, _)| *n != "resourceVersion" && !META_ORDER.contains(&n.as_str())) {
            field(&mut out, name, v);
        }
    }
    out.push(b'}');
    for (name, v) in o.root().iter().filter(|(n, _)| !matches!(n.as_str(), "kind" | "apiVersion" | "metadata")) {
        field(&mut out, name, v);
    }
    out.push(b'}');
    out.into()
}

/// A whole object on the wire, resourceVersion included when it has one.
pub fn whole(o: &Object, head: &Head) -> Bytes {
    let rv: u64 = o.resource_version().parse().unwrap_or(0);
    let s = stored(o, head);
    let mut out = BytesMut::with_capacity(s.len() + 32);
    put_with_revision(&mut out, &s, head.bytes.len(), rv);
    out.freeze()
}

/// Appends stored bytes with the resourceVersion put in place; none at revision 0 (what a dry run would have made).
pub fn put_with_revision(out: &mut BytesMut, stored: &[u8], head_len: usize, revision: u64) {
    if revision == 0 {
        return out.put_slice(stored);
    }
    out.put_slice(&stored[..head_len]);
    out.put_slice(b"\"resourceVersion\":\"");
    out.put_slice(revision.to_string().as_bytes());
    out.put_slice(if stored.get(head_len) == Some(&b'}') { b"\"" } else { b"\"," });
    out.put_slice(&stored[head_len..]);
}

/// `{"type":"ADDED","object":`
pub fn event_start(kind: &str) -> String {
    format!("{{\"type\":\"{kind}\",\"object\":")
}

/// One line of a watch.
pub fn event(kind: &str, object: &[u8]) -> Bytes {
    let start = event_start(kind);
    let mut out = BytesMut::with_capacity(start.len() + object.len() + 2);
    out.put_slice(start.as_bytes());
    out.put_slice(object);
    out.put_slice(b"}\n");
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_resource_version_is_put_in_place_without_parsing() {
        let head = Head::new("ConfigMap", "v1");
        let o = Object(json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","resourceVersion":"9"},"data":{"k":"v"}}));
        let s = stored(&o, &head);
        assert_eq!(s, r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a"},"data":{"k":"v"}}"#);
        let mut out = BytesMut::new();
        put_with_revision(&mut out, &s, head.bytes.len(), 42);
        assert_eq!(out, r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"resourceVersion":"42","name":"a"},"data":{"k":"v"}}"#);
        assert_eq!(whole(&o, &head), r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"resourceVersion":"9","name":"a"},"data":{"k":"v"}}"#);
    }
}
