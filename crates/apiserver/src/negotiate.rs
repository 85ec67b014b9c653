//! Which representation goes out and which came in: Accept and Content-Type.
//!
//! JSON, YAML and protobuf go both ways; watches are streams of JSON or protobuf. Tables have no protobuf form, objects of custom
//! resources neither (their metadata alone does). CBOR is upstream's alpha, off by default ([`Media`]): 406 and 415 here as there; where
//! it is on, everything has it.
//! Source of the rules: k8s.io/apiserver/pkg/endpoints/handlers/negotiation.

use bytes::Bytes;
use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE};
use keles_api::Status;
use keles_api::cbor;
use keles_api::decode::Format;
use keles_api::openapi::gnostic;
use keles_api::protobuf;
use keles_registry::{Form, MetaVersion, PatchType, Wire};

pub const JSON: &str = "application/json";
pub const YAML: &str = "application/yaml";
/// What is known, that of the alpha last.
const MEDIA_TYPES: &[&str] = &[JSON, YAML, protobuf::MEDIA_TYPE, cbor::MEDIA_TYPE];
const STREAM_TYPES: &[&str] = &["application/json;stream=watch", protobuf::WATCH_MEDIA_TYPE, cbor::WATCH_MEDIA_TYPE];
const APPLY_CBOR: &str = "application/apply-patch+cbor";
const PATCH_TYPES: &[&str] = &["application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml", APPLY_CBOR];

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    #[default]
    Json,
    Yaml,
    Protobuf,
    Cbor,
}

impl Encoding {
    pub fn media_type(self) -> &'static str {
        match self {
            Encoding::Json => JSON,
            Encoding::Yaml => YAML,
            Encoding::Protobuf => protobuf::MEDIA_TYPE,
            Encoding::Cbor => cbor::MEDIA_TYPE,
        }
    }
}

/// What the client wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    pub encoding: Encoding,
    pub form: Form,
}

impl Accepted {
    /// How lists and watches are to leave the pipelines.
    pub fn wire(&self) -> Wire {
        if self.encoding == Encoding::Protobuf { Wire::Protobuf } else { Wire::Json }
    }
}

/// Which forms a resource can give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forms {
    /// The object as it is.
    Plain,
    /// Also Table and PartialObjectMetadata.
    All,
    /// As `All`, the object itself not in protobuf: custom resources.
    Custom,
}

/// One entry of an Accept header.
struct Clause<'a> {
    media: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
    quality: f32,
}

impl Clause<'_> {
    fn get(&self, name: &str) -> &str {
        self.parameters.iter().find(|(k, _)| *k == name).map_or("", |(_, v)| v)
    }
    /// The encodings that the media type covers, ours first.
    fn encodings(&self) -> &'static [Encoding] {
        match self.media {
            "*/*" | "*" | "application/*" => &[Encoding::Json, Encoding::Yaml, Encoding::Protobuf],
            JSON => &[Encoding::Json],
            YAML => &[Encoding::Yaml],
            protobuf::MEDIA_TYPE => &[Encoding::Protobuf],
            cbor::MEDIA_TYPE | cbor::WATCH_MEDIA_TYPE => &[Encoding::Cbor],
            _ => &[],
        }
    }
    /// Named types go before patterns.
    fn patterns(&self) -> usize {
        self.media.matches('*').count()
    }
}

/// Clauses in the client's order of preference (q-values honoured, named types before patterns, stable otherwise).
fn clauses(header: &str) -> Vec<Clause<'_>> {
    let mut all: Vec<Clause<'_>> = header
        .split(',')
        .filter_map(|c| {
            let mut parts = c.split(';').map(str::trim);
            let media = parts.next().filter(|m| !m.is_empty())?;
            let parameters: Vec<_> = parts.filter_map(|p| p.split_once('=')).map(|(k, v)| (k.trim(), v.trim().trim_matches('"'))).collect();
            let quality = parameters.iter().find(|(k, _)| *k == "q").and_then(|(_, v)| v.parse().ok()).unwrap_or(1.0);
            Some(Clause { media, parameters, quality })
        })
        .filter(|c| c.quality > 0.0)
        .collect();
    all.sort_by(|a, b| b.quality.total_cmp(&a.quality).then(a.patterns().cmp(&b.patterns())));
    all
}

/// Which representations this server speaks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Media {
    pub cbor: bool,
}

impl Media {
    /// Those of a table whose last one is CBOR's.
    fn of(self, all: &'static [&'static str]) -> &'static [&'static str] {
        if self.cbor { all } else { &all[..all.len() - 1] }
    }

    /// The best the client accepts and we can give, or 406.
    pub fn accept(self, headers: &HeaderMap, forms: Forms) -> Result<Accepted, Status> {
        self.negotiate(headers, forms, false).ok_or_else(|| Status::not_acceptable(self.of(MEDIA_TYPES)))
    }

    /// As [`Media::accept`], for a watch: YAML has no streams.
    pub fn accept_stream(self, headers: &HeaderMap, forms: Forms) -> Result<Accepted, Status> {
        self.negotiate(headers, forms, true).ok_or_else(|| Status::not_acceptable(self.of(STREAM_TYPES)))
    }

    fn negotiate(self, headers: &HeaderMap, forms: Forms, stream: bool) -> Option<Accepted> {
        let Some(header) = headers.get(ACCEPT).and_then(|v| v.to_str().ok()).filter(|v| !v.trim().is_empty()) else {
            return Some(Accepted::default());
        };
        let clauses = clauses(header);
        let mut offers = clauses.iter().flat_map(|c| c.encodings().iter().map(move |e| (c, *e)));
        offers.find_map(|(c, encoding)| {
            let streams = if stream { encoding != Encoding::Yaml } else { c.media != cbor::WATCH_MEDIA_TYPE };
            let asks_stream = c.get("stream");
            let form = form(c, forms)?;
            let fits = match (encoding, form) {
                (Encoding::Protobuf, Form::Table(_)) => false,
                (Encoding::Protobuf, Form::Object) => forms != Forms::Custom,
                (Encoding::Cbor, _) => self.cbor,
                _ => true,
            };
            (streams && fits && (asks_stream.is_empty() || asks_stream == "watch" && encoding != Encoding::Yaml)).then_some(Accepted { encoding, form })
        })
    }

    /// A body of POST, PUT or DELETE as the pipelines read it, or 415. CBOR becomes the JSON of the same object here.
    pub fn body(self, headers: &HeaderMap, body: Bytes) -> Result<(Bytes, Format), Status> {
        match media_type(headers) {
            None | Some("" | JSON) => Ok((body, Format::Json)),
            _ if body.is_empty() => Ok((body, Format::Json)),
            Some(YAML) => Ok((body, Format::Yaml)),
            Some(protobuf::MEDIA_TYPE) => Ok((body, Format::Protobuf)),
            Some(cbor::MEDIA_TYPE) if self.cbor => Ok((from_cbor(&body)?, Format::Json)),
            Some(other) => Err(Status::unsupported_media_type(other, self.of(MEDIA_TYPES))),
        }
    }

    /// The kind of a PATCH, or 415.
    pub fn patch_type(self, headers: &HeaderMap) -> Result<PatchType, Status> {
        let media = media_type(headers).unwrap_or_default();
        match PatchType::of(media) {
            None if self.cbor && media == APPLY_CBOR => Ok(PatchType::Apply),
            known => known.ok_or_else(|| Status::unsupported_media_type(media, self.of(PATCH_TYPES))),
        }
    }
}

/// The body of a PATCH whose type is known: an apply in CBOR becomes the JSON of the same configuration.
pub fn patch_body(headers: &HeaderMap, body: Bytes) -> Result<Bytes, Status> {
    if media_type(headers) == Some(APPLY_CBOR) { from_cbor(&body) } else { Ok(body) }
}

fn from_cbor(body: &[u8]) -> Result<Bytes, Status> {
    cbor::decode(body).map(|tree| json(&tree)).map_err(|e| Status::bad_request(e.to_string()))
}

fn json(tree: &serde_json::Value) -> Bytes {
    serde_json::to_vec(tree).expect("a JSON tree always encodes").into()
}

fn form(c: &Clause<'_>, forms: Forms) -> Option<Form> {
    let wanted = c.get("as");
    if wanted.is_empty() {
        return Some(Form::Object);
    }
    if forms == Forms::Plain || c.get("g") != "meta.k8s.io" {
        return None;
    }
    let version = match c.get("v") {
        "v1" => MetaVersion::V1,
        "v1beta1" => MetaVersion::V1beta1,
        _ => return None,
    };
    match wanted {
        "Table" => Some(Form::Table(version)),
        "PartialObjectMetadata" | "PartialObjectMetadataList" => Some(Form::Partial(version)),
        _ => None,
    }
}

fn media_type(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next().unwrap_or_default().trim())
}

/// Group version of an aggregated discovery document that the client asks for first: `v2` or `v2beta1`.
pub fn aggregated_discovery(headers: &HeaderMap) -> Option<&'static str> {
    let header = headers.get(ACCEPT)?.to_str().ok()?;
    for c in clauses(header) {
        match (c.get("as"), c.get("g"), c.get("v")) {
            ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") if c.media == JSON => return Some("v2"),
            ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2beta1") if c.media == JSON => return Some("v2beta1"),
            ("", ..) if !c.encodings().is_empty() => return None,
            _ => {}
        }
    }
    None
}

/// Whether `/openapi/v2` is wanted in binary; `None` when the client accepts neither form.
pub fn swagger(headers: &HeaderMap) -> Option<bool> {
    let Some(header) = headers.get(ACCEPT).and_then(|v| v.to_str().ok()).filter(|v| !v.trim().is_empty()) else { return Some(false) };
    clauses(header).iter().find_map(|c| match c.media {
        gnostic::ASKED | gnostic::ANSWERED => Some(true),
        JSON | "application/*" | "*/*" | "*" => Some(false),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: http::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }
    fn accepted(value: &str, forms: Forms) -> Result<Accepted, u16> {
        Media::default().accept(&headers(ACCEPT, value), forms).map_err(|s| s.code)
    }

    #[test]
    fn the_first_acceptable_clause_wins_and_q_values_count() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(accepted(table, Forms::All).unwrap().form, Form::Table(MetaVersion::V1));
        assert_eq!(accepted(table, Forms::Plain).unwrap().form, Form::Object);
        assert_eq!(accepted("application/vnd.kubernetes.protobuf,application/json", Forms::All).unwrap().encoding, Encoding::Protobuf);
        assert_eq!(accepted("application/vnd.kubernetes.protobuf,application/json", Forms::Custom).unwrap().encoding, Encoding::Json);
        assert_eq!(accepted("*/*, application/yaml", Forms::All).unwrap().encoding, Encoding::Yaml, "a named type goes before a pattern");
        assert_eq!(accepted("application/json;q=0.5, application/yaml", Forms::All).unwrap().encoding, Encoding::Yaml);
        assert_eq!(accepted("*/*", Forms::All).unwrap(), Accepted::default());
    }

    #[test]
    fn what_cannot_be_given_is_406_and_what_cannot_be_read_is_415() {
        assert_eq!(accepted("application/vnd.kubernetes.protobuf", Forms::Custom), Err(406));
        assert_eq!(accepted("application/cbor", Forms::All), Err(406), "alpha upstream, and off");
        assert_eq!(accepted("application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io", Forms::All), Err(406), "tables have no protobuf form");
        assert_eq!(accepted("text/*", Forms::All), Err(406));
        assert_eq!(accepted("application/json;as=Table;v=v1;g=meta.k8s.io", Forms::Plain), Err(406), "reviews have no table");
        assert_eq!(accepted("application/json;as=Table;v=v9;g=meta.k8s.io", Forms::All), Err(406));
        let sent = |media: &str| Media::default().body(&headers(CONTENT_TYPE, media), Bytes::from_static(b"x"));
        assert_eq!(sent("application/cbor").unwrap_err().code, 415);
        assert_eq!(sent("application/vnd.kubernetes.protobuf").unwrap().1, Format::Protobuf, "read where the type is known");
        assert_eq!(sent("application/yaml; charset=utf-8").unwrap().1, Format::Yaml);
        assert_eq!(Media::default().patch_type(&headers(CONTENT_TYPE, "application/json")).unwrap_err().code, 415);
    }

    #[test]
    fn metadata_alone_goes_out_in_protobuf_even_of_custom_resources() {
        let partial = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
        assert_eq!(accepted(partial, Forms::Custom).unwrap(), Accepted { encoding: Encoding::Protobuf, form: Form::Partial(MetaVersion::V1) });
    }

    #[test]
    fn a_watch_is_a_stream_of_json_or_protobuf() {
        let streamed = |v: &str| Media::default().accept_stream(&headers(ACCEPT, v), Forms::All).map(|a| a.encoding).map_err(|s| s.message);
        assert_eq!(streamed("application/vnd.kubernetes.protobuf;stream=watch"), Ok(Encoding::Protobuf));
        assert_eq!(streamed("application/json"), Ok(Encoding::Json));
        assert_eq!(
            streamed("application/yaml").unwrap_err(),
            "only the following media types are accepted: application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch"
        );
        assert_eq!(accepted("application/yaml;stream=watch", Forms::All), Err(406));
    }

    #[test]
    fn cbor_is_there_once_it_is_switched_on() {
        let on = Media { cbor: true };
        let accepted = |v: &str, forms| on.accept(&headers(ACCEPT, v), forms).map(|a| a.encoding).map_err(|s| s.message);
        assert_eq!(accepted("application/cbor, application/json;q=0.9", Forms::Custom), Ok(Encoding::Cbor));
        assert_eq!(accepted("*/*", Forms::All), Ok(Encoding::Json));
        let all = "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf, application/cbor";
        assert_eq!(accepted("application/cbor-seq", Forms::All).unwrap_err(), all, "a sequence is a watch's");
        for v in ["application/cbor", "application/cbor-seq"] {
            assert_eq!(on.accept_stream(&headers(ACCEPT, v), Forms::All).unwrap().encoding, Encoding::Cbor);
        }
        let sent = |media: &str, bytes: &'static [u8]| on.body(&headers(CONTENT_TYPE, media), Bytes::from_static(bytes)).map(|b| b.0).map_err(|s| s.code);
        assert_eq!(sent("application/cbor", b"\xa1\x41a\x01"), Ok(r#"{"a":1}"#.into()));
        assert_eq!(sent("application/cbor", b"\xa1"), Err(400));
        assert_eq!(on.patch_type(&headers(CONTENT_TYPE, "application/apply-patch+cbor")).unwrap(), PatchType::Apply);
        assert_eq!(Media::default().patch_type(&headers(CONTENT_TYPE, "application/apply-patch+cbor")).unwrap_err().code, 415);
        assert_eq!(patch_body(&headers(CONTENT_TYPE, "application/apply-patch+cbor"), Bytes::from_static(b"\x80")).unwrap(), "[]");
    }

    #[test]
    fn apply_is_chosen_by_content_type_only() {
        assert_eq!(Media::default().patch_type(&headers(CONTENT_TYPE, "application/apply-patch+yaml")).unwrap(), PatchType::Apply);
        assert_eq!(Media::default().patch_type(&headers(CONTENT_TYPE, "application/merge-patch+json")).unwrap(), PatchType::Merge);
    }

    #[test]
    fn swagger_is_json_or_gnostics_binary() {
        let wanted = |v: &str| swagger(&headers(ACCEPT, v));
        assert_eq!(wanted("application/com.github.proto-openapi.spec.v2@v1.0+protobuf"), Some(true));
        assert_eq!((wanted("application/json"), wanted("*/*"), swagger(&HeaderMap::new())), (Some(false), Some(false), Some(false)));
        assert_eq!(wanted("application/com.github.proto-openapi.spec.v3@v1.0+protobuf"), None);
    }

    #[test]
    fn discovery_follows_the_order_of_preference() {
        let aggregated =
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        assert_eq!(aggregated_discovery(&headers(ACCEPT, aggregated)), Some("v2"));
        assert_eq!(aggregated_discovery(&headers(ACCEPT, "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json")), Some("v2beta1"));
        assert_eq!(aggregated_discovery(&headers(ACCEPT, "application/json")), None);
        assert_eq!(
            aggregated_discovery(&headers(ACCEPT, &format!("application/vnd.kubernetes.protobuf;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,{aggregated}"))),
            Some("v2")
        );
    }
}
