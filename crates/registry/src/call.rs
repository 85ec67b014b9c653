//! What goes into a pipeline ([`Call`]) and what comes out ([`Answer`]).
//!
//! The API server authenticates, authorizes, splits path and query, negotiates the representation, and hands all of it over as one
//! [`Call`]. Options in the query are parsed by the pipeline that uses them (see [`crate::options`]), since their errors depend on the verb.

use crate::kind::Request;
use bytes::Bytes;
use futures::stream::BoxStream;
use keles_api::Status;
use keles_api::decode::Format;

/// The pairs of the URL's query, decoded, in order.
#[derive(Clone, Debug, Default)]
pub struct Query(pub Vec<(String, String)>);

impl Query {
    /// Splits and decodes `a=b&c=%2F`; what does not decode is kept as it stands.
    pub fn parse(raw: &str) -> Self {
        Query(raw.split('&').filter(|p| !p.is_empty()).map(|p| p.split_once('=').unwrap_or((p, ""))).map(|(k, v)| (percent_decode(k), percent_decode(v))).collect())
    }
    /// The first value of `name`; Go's `url.Values.Get` without its "" for absent.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }
    /// The first value, `""` when absent.
    pub fn text(&self, name: &str) -> &str {
        self.get(name).unwrap_or("")
    }
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.0.iter().filter(move |(k, _)| k == name).map(|(_, v)| v.as_str())
    }
    /// Upstream's booleans: absent, `0` and `false` are false, everything else (even empty) is true (lessons.md 23).
    pub fn flag(&self, name: &str) -> bool {
        self.opt_flag(name).unwrap_or(false)
    }
    /// Tri-state boolean: `None` when absent.
    pub fn opt_flag(&self, name: &str) -> Option<bool> {
        self.get(name).map(|v| !(v == "0" || v.eq_ignore_ascii_case("false")))
    }
}

fn percent_decode(s: &str) -> String {
    let b = s.as_bytes();
    let mut out = Vec::with_capacity(b.len());
    let mut i = 0;
    while i < b.len() {
        match b[i] {
            b'+' => out.push(b' '),
            b'%' if i + 2 < b.len() && hex(b[i + 1]).is_some() && hex(b[i + 2]).is_some() => {
                out.push(hex(b[i + 1]).unwrap_or(0) << 4 | hex(b[i + 2]).unwrap_or(0));
                i += 2;
            }
            c => out.push(c),
        }
        i += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn hex(c: u8) -> Option<u8> {
    (c as char).to_digit(16).map(|d| d as u8)
}

/// What a client wants objects turned into (`as=` of Accept).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Form {
    #[default]
    Object,
    /// `as=Table;g=meta.k8s.io;v=…`
    Table(MetaVersion),
    /// `as=PartialObjectMetadata` and `as=PartialObjectMetadataList`.
    Partial(MetaVersion),
}

/// Version of the group meta.k8s.io.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MetaVersion {
    #[default]
    V1,
    V1beta1,
}

impl MetaVersion {
    pub fn api_version(self) -> &'static str {
        match self {
            MetaVersion::V1 => "meta.k8s.io/v1",
            MetaVersion::V1beta1 => "meta.k8s.io/v1beta1",
        }
    }
}

/// How objects are written; everything else (Status, Tables) leaves the pipelines as JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Wire {
    #[default]
    Json,
    /// Not for Tables, which have no such form.
    Protobuf,
}

/// Content type of a PATCH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    Json,
    Merge,
    Strategic,
    /// Server-side apply (YAML); answered 415-like until it is built.
    Apply,
}

impl PatchType {
    /// By media type only, never because a fieldManager is there (lessons.md 48).
    pub fn of(media_type: &str) -> Option<Self> {
        Some(match media_type {
            "application/json-patch+json" => PatchType::Json,
            "application/merge-patch+json" => PatchType::Merge,
            "application/strategic-merge-patch+json" => PatchType::Strategic,
            "application/apply-patch+yaml" => PatchType::Apply,
            _ => return None,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
}

/// One request, after the layers above have done their part.
///
/// `request.version`, `plural`, `subresource`, `namespace`, `name`, `user`, `now` come from the path and the layers above;
/// `dry_run` and `field_manager` are filled by the pipeline from the query.
#[derive(Clone, Debug, Default)]
pub struct Call {
    pub request: Request,
    pub query: Query,
    pub form: Form,
    pub wire: Wire,
    pub body: Bytes,
    pub body_format: Format,
    /// Only looked at by PATCH.
    pub patch_type: Option<PatchType>,
    /// For the manager name of managedFields when no fieldManager is given.
    pub user_agent: String,
}

/// A good answer. Bad ones are a [`Status`] (its `code` is the HTTP code).
pub struct Answer {
    pub code: u16,
    pub body: Body,
    /// Texts of `Warning: 299 - "…"` headers.
    pub warnings: Vec<String>,
}

impl Answer {
    pub fn ok(body: impl Into<Body>) -> Self {
        Answer { code: 200, body: body.into(), warnings: Vec::new() }
    }
    /// A Status as a *good* answer (deletes).
    pub fn status(s: &Status) -> Self {
        Answer { code: if s.code == 0 { 200 } else { s.code }, body: Body::Bytes(s.to_json().into()), warnings: Vec::new() }
    }
}

/// JSON unless said otherwise. Other encodings are made from it by the API server.
pub enum Body {
    Bytes(Bytes),
    /// A long list in pieces of about 64 KiB, made as they are asked for (no lasting memory).
    Chunks(Box<dyn Iterator<Item = Bytes> + Send>),
    /// An object in protobuf, in its envelope.
    Message(Bytes),
    /// A list in protobuf, in pieces.
    Protobuf(Box<dyn Iterator<Item = Bytes> + Send>),
    /// Watch events, one JSON document a line, or protobuf frames when the call asked for them; an item holds one or more whole ones. Ends when the watch ends.
    /// The first item comes at once (maybe empty of events: then it is an empty `Bytes`, to be taken as "send the headers").
    Watch(BoxStream<'static, Bytes>),
}

impl Body {
    /// Everything in one buffer; a watch has none.
    pub fn collect(self) -> Bytes {
        match self {
            Body::Bytes(b) | Body::Message(b) => b,
            Body::Chunks(c) | Body::Protobuf(c) => c.flat_map(|b| b.to_vec()).collect::<Vec<u8>>().into(),
            Body::Watch(_) => Bytes::new(),
        }
    }
}

impl<B: Into<Bytes>> From<B> for Body {
    fn from(json: B) -> Self {
        Body::Bytes(json.into())
    }
}
