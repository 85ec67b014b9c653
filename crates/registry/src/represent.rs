//! Representations: the object itself, a Table of it, its metadata alone; single, in lists, and in watch lines; in any served version.
//!
//! Entry point: [`View`], made once a request. The plain object in its storage version is copied from the cache's bytes; metadata alone is
//! cut out of them; only Tables and other versions need a tree.

use crate::cache::{Cached, EventType};
use crate::call::{Answer, Body, Call, Form, MetaVersion, Wire};
use crate::encode::{self, Head, put_with_revision};
use crate::facts;
use crate::kind::{Cells, Served};
use crate::resource::{Resource, api_version};
use bytes::{BufMut, Bytes, BytesMut};
use keles_api::Status;
use keles_api::status::ListMeta;
use serde_json::{Value, json};
use std::sync::Arc;

/// Size of the pieces of a long list, in bytes.
const CHUNK_BYTES: usize = 64 << 10;

/// `includeObject` of Tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Include {
    None,
    Metadata,
    Object,
}

/// How one request wants objects shown.
#[derive(Clone)]
pub struct View {
    pub resource: Arc<Resource>,
    pub served: Served,
    pub form: Form,
    pub include: Include,
    pub wire: Wire,
    head: Head,
    /// The place of `served` among the kind's versions.
    version: u8,
    now_unix_seconds: i64,
}

impl View {
    pub fn new(resource: &Arc<Resource>, served: Served, call: &Call) -> Result<Self, Status> {
        let include = match call.query.text("includeObject") {
            "" | "Metadata" => Include::Metadata,
            "None" => Include::None,
            "Object" => Include::Object,
            other => return Err(Status::bad_request(format!("unrecognized includeObject value: {other:?}"))),
        };
        let storage = resource.storage();
        let head = if served == storage { resource.cache.head.clone() } else { Head::new(resource.info().kind, &api_version(&served)) };
        let now_unix_seconds = call.request.now.parse::<jiff::Timestamp>().map_or(0, |t| t.as_second());
        Ok(View { resource: resource.clone(), version: resource.index_of(&served), served, form: call.form, include, wire: call.wire, head, now_unix_seconds })
    }

    pub(crate) fn is_storage(&self) -> bool {
        self.served == self.resource.storage()
    }

    /// The whole object in the asked version.
    fn whole(&self, o: &Cached) -> Bytes {
        if o.version() == self.version { o.object() } else { encode::whole(&self.resource.tree_in(o, &self.served), &self.head) }
    }

    /// What is shown of an object, unless that is a Table.
    pub(crate) fn shown_json(&self, o: &Cached) -> Bytes {
        match self.form {
            Form::Partial(v) => self.partial(o, v).into(),
            _ => self.whole(o),
        }
    }

    /// One object as the answer to get, create, update, patch.
    pub fn object(&self, o: &Cached) -> Result<Body, Status> {
        Ok(match self.form {
            Form::Object | Form::Partial(_) if self.wire == Wire::Protobuf => Body::Message(self.enveloped(o)?),
            Form::Object => self.whole(o).into(),
            Form::Partial(v) => self.partial(o, v).into(),
            Form::Table(v) => {
                let meta = ListMeta { resource_version: o.revision.to_string(), ..ListMeta::default() };
                self.table(v, &[self.row(o, v)?], &meta, true).into()
            }
        })
    }

    /// What a write made: stored bytes and their revision (0 when nothing was stored).
    pub fn written(&self, key: &str, stored: &Bytes, revision: u64) -> Result<Body, Status> {
        let head = &self.resource.cache.head;
        if self.form == Form::Object && self.is_storage() && self.wire == Wire::Json {
            let mut out = BytesMut::with_capacity(stored.len() + 48);
            put_with_revision(&mut out, stored, head.bytes.len(), revision);
            return Ok(out.freeze().into());
        }
        // The cache has it by now, but for dry runs: what is made for this answer serves watchers and readers too.
        if let Some(known) = self.resource.cache.get(key).filter(|o| o.revision == revision && o.is_stored_as(stored, head)) {
            return self.object(&known);
        }
        self.object(&Cached::new(key, stored, revision, head, EventType::Added.text()))
    }

    pub fn list(&self, items: Vec<Arc<Cached>>, meta: &ListMeta) -> Result<Answer, Status> {
        let body = match self.form {
            Form::Object | Form::Partial(_) if self.wire == Wire::Protobuf => self.protobuf_list(&items, meta)?,
            Form::Object => self.object_list(items, meta),
            Form::Partial(v) => self.partial_list(&items, v, meta),
            Form::Table(v) => {
                let rows = items.iter().map(|o| self.row(o, v)).collect::<Result<Vec<_>, _>>()?;
                Body::Bytes(self.table(v, &rows, meta, true))
            }
        };
        Ok(Answer { code: 200, body, warnings: Vec::new() })
    }

    fn object_list(&self, items: Vec<Arc<Cached>>, meta: &ListMeta) -> Body {
        let kind = self.resource.kind.list_kind();
        let start = format!("{{\"kind\":{},\"apiVersion\":{},\"metadata\":{},\"items\":[", encode::quoted(&kind), encode::quoted(&api_version(&self.served)), json!(meta));
        Body::Chunks(Box::new(ListChunks { view: self.clone(), start: Some(start), items: items.into_iter(), first: true, done: false }))
    }

    fn partial_list(&self, items: &[Arc<Cached>], v: MetaVersion, meta: &ListMeta) -> Body {
        let start = format!("{{\"kind\":\"PartialObjectMetadataList\",\"apiVersion\":\"{}\",\"metadata\":{},\"items\":", v.api_version(), json!(meta));
        let mut out = Vec::from(start);
        // Upstream has a nil slice here when nothing matched.
        if items.is_empty() {
            out.extend_from_slice(b"null}");
            return Body::Bytes(out.into());
        }
        for (i, o) in items.iter().enumerate() {
            out.push(if i == 0 { b'[' } else { b',' });
            out.extend_from_slice(&self.partial(o, v));
        }
        out.extend_from_slice(b"]}");
        Body::Bytes(out.into())
    }

    fn partial(&self, o: &Cached, v: MetaVersion) -> Vec<u8> {
        let mut out = format!("{{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"{}\",\"metadata\":", v.api_version()).into_bytes();
        match facts::versioned_annotations(self.resource.info()) {
            [] => out.extend_from_slice(o.metadata()),
            hidden => out.extend_from_slice(&without_annotations(o.metadata(), hidden)),
        }
        out.push(b'}');
        out
    }

    fn item(&self, o: &Cached, out: &mut BytesMut) {
        if self.resource.kind.items_carry_type() || !self.is_storage() {
            let whole = self.whole(o);
            let skip = if self.resource.kind.items_carry_type() { 0 } else { self.head.type_len };
            if skip > 0 {
                out.put_u8(b'{');
            }
            out.put_slice(&whole[skip..]);
            return;
        }
        out.put_u8(b'{');
        out.put_slice(o.untyped());
    }

    fn row(&self, o: &Cached, v: MetaVersion) -> Result<Value, Status> {
        let tree = o.tree();
        let cells = self.resource.kind.cells_of(&self.served, &tree, &Cells { now_unix_seconds: self.now_unix_seconds })?;
        let mut row = json!({ "cells": cells });
        let conditions = self.resource.kind.row_conditions(&tree)?;
        if !conditions.is_empty() {
            row["conditions"] = conditions.into();
        }
        let object = match self.include {
            Include::None => return Ok(row),
            Include::Metadata => serde_json::from_slice(&self.partial(o, v)),
            Include::Object => serde_json::from_slice(&self.whole(o)),
        };
        row["object"] = object.map_err(Status::internal)?;
        Ok(row)
    }

    /// `columns` is false for all but the first table of a watch.
    fn table(&self, v: MetaVersion, rows: &[Value], meta: &ListMeta, columns: bool) -> Bytes {
        let columns = columns.then(|| {
            let all = self.resource.kind.columns_of(&self.served);
            all.iter().map(|c| json!({"name": c.name, "type": c.kind, "format": c.format, "description": c.description, "priority": c.priority})).collect::<Vec<_>>()
        });
        let t = json!({"kind": "Table", "apiVersion": v.api_version(), "metadata": meta, "columnDefinitions": columns, "rows": rows});
        serde_json::to_vec(&t).expect("a JSON tree always encodes").into()
    }

    /// Identifies the encoding of a shared line; `None`: the natural line fits.
    pub fn line_id(&self, event: EventType) -> u64 {
        let form = match self.form {
            Form::Object => 0,
            Form::Partial(MetaVersion::V1) => 1,
            Form::Partial(MetaVersion::V1beta1) => 2,
            Form::Table(MetaVersion::V1) => 3,
            Form::Table(MetaVersion::V1beta1) => 4,
        };
        let version = self.resource.info().served.iter().position(|s| *s == self.served).unwrap_or(0) as u64;
        form | (self.include as u64) << 4 | version << 8 | (event as u64) << 16 | (self.wire as u64) << 24
    }

    /// Whether the cache's own lines are what this view shows.
    pub fn natural(&self) -> bool {
        self.form == Form::Object && self.is_storage() && self.wire == Wire::Json && !self.resource.kind.converts_outside()
    }

    /// The object in the asked version, where somebody outside made it; else as it is.
    pub fn seen(&self, o: &Arc<Cached>) -> Arc<Cached> {
        o.known_in(self.version).unwrap_or_else(|| o.clone())
    }
    /// Whether the object can be shown at once.
    pub fn knows(&self, o: &Arc<Cached>) -> bool {
        !self.resource.kind.converts_outside() || o.known_in(self.version).is_some()
    }

    /// One watch line (or frame) of an object. `first`: a Table names its columns.
    pub fn line(&self, event: EventType, o: &Cached, first: bool) -> Bytes {
        if self.wire == Wire::Protobuf {
            return self.object_frame(event.text(), o).unwrap_or_else(|s| self.event("ERROR", &s.to_json()));
        }
        let object = match self.form {
            Form::Object => self.whole(o),
            Form::Partial(v) => self.partial(o, v).into(),
            Form::Table(v) => match self.row(o, v) {
                Ok(row) => self.table(v, &[row], &ListMeta { resource_version: o.revision.to_string(), ..ListMeta::default() }, first),
                Err(s) => return encode::event("ERROR", &s.to_json()),
            },
        };
        encode::event(event.text(), &object)
    }

    /// One watch line (or frame) of any document.
    pub fn event(&self, event: &str, json: &[u8]) -> Bytes {
        match self.wire {
            Wire::Json => encode::event(event, json),
            Wire::Protobuf => crate::protobuf::frame(event, json),
        }
    }

    /// A bookmark at `revision`, marked as the end of the initial events or not.
    pub fn bookmark(&self, revision: u64, initial_end: bool) -> Bytes {
        let mut meta = json!({"resourceVersion": revision.to_string()});
        if initial_end {
            meta["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.form {
            Form::Object => json!({"kind": self.resource.info().kind, "apiVersion": api_version(&self.served), "metadata": meta}),
            Form::Partial(v) => json!({"kind": "PartialObjectMetadata", "apiVersion": v.api_version(), "metadata": meta}),
            Form::Table(v) => {
                let row = json!({"cells": [], "object": {"kind": "PartialObjectMetadata", "apiVersion": v.api_version(), "metadata": meta}});
                json!({"kind": "Table", "apiVersion": v.api_version(), "metadata": {"resourceVersion": revision.to_string()}, "columnDefinitions": null, "rows": if initial_end { json!([row]) } else { json!([]) }})
            }
        };
        self.event("BOOKMARK", object.to_string().as_bytes())
    }
}

/// Encoded metadata without some annotations.
fn without_annotations(metadata: &[u8], hidden: &[&str]) -> Vec<u8> {
    let Ok(Value::Object(mut all)) = serde_json::from_slice(metadata) else { return metadata.to_vec() };
    if let Some(Value::Object(annotations)) = all.get_mut("annotations") {
        annotations.retain(|key, _| !hidden.contains(&key.as_str()));
        if annotations.is_empty() {
            all.remove("annotations");
        }
    }
    Value::Object(all).to_string().into_bytes()
}

/// A list, encoded piece by piece as the client reads.
struct ListChunks {
    view: View,
    start: Option<String>,
    items: std::vec::IntoIter<Arc<Cached>>,
    first: bool,
    done: bool,
}

impl Iterator for ListChunks {
    type Item = Bytes;
    fn next(&mut self) -> Option<Bytes> {
        if self.done {
            return None;
        }
        let mut out = BytesMut::with_capacity(if self.items.len() < 8 { 4 << 10 } else { CHUNK_BYTES + (8 << 10) });
        if let Some(start) = self.start.take() {
            out.put_slice(start.as_bytes());
        }
        while out.len() < CHUNK_BYTES {
            let Some(o) = self.items.next() else {
                out.put_slice(b"]}");
                self.done = true;
                break;
            };
            if !std::mem::replace(&mut self.first, false) {
                out.put_u8(b',');
            }
            self.view.item(&o, &mut out);
        }
        Some(out.freeze())
    }
}
