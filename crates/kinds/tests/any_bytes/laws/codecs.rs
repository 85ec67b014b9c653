//! What is decoded can be encoded, and decoded again to the same.

use super::{kind, object};
use keles_api::canonical::canonicalise;
use keles_api::decode::{self, FieldValidation, Format};
use keles_api::{cbor as cbor_documents, protobuf, yaml};
use keles_testkit::odd;
use keles_testkit::odd::Source;
use serde_json::Value;

/// Any tree that JSON gives.
fn any(data: &[u8]) -> Value {
    decode::parse_json(odd::any(&mut Source::new(data)).to_string().as_bytes()).expect("what we write is read")
}

fn text(data: &[u8], format: Format) {
    let mut s = Source::new(data);
    let (k, ty) = kind(&mut s);
    let body = s.rest();
    let name = k.info().kind;
    if let Ok(tree) = decode::parse(body, format) {
        let again = decode::parse_json(tree.to_string().as_bytes()).expect("what we write is read");
        assert_eq!(again, tree);
        let written = yaml::to_yaml(&tree);
        let back = decode::parse(written.as_bytes(), Format::Yaml).unwrap_or_else(|e| panic!("{}: {written}", e.message));
        assert_eq!(back, tree, "{written}");
    }
    let strict = decode::decode(body, format, ty, name, FieldValidation::Strict);
    let Ok(found) = decode::decode(body, format, ty, name, FieldValidation::Warn) else {
        assert!(strict.is_err());
        return;
    };
    assert_eq!(strict.is_ok(), found.warnings.is_empty());
    fixed(found.object.0, ty, name);
}

/// The decoded form is a fixed point, and so is the stored one.
fn fixed(decoded: Value, ty: keles_api::TypeRef, name: &str) {
    let again = decode::decode(decoded.to_string().as_bytes(), Format::Json, ty, name, FieldValidation::Strict).expect("what was decoded is of its type");
    assert_eq!(again.object.0, decoded);
    let mut stored = decoded.clone();
    canonicalise(&mut stored, ty);
    let mut twice = stored.clone();
    canonicalise(&mut twice, ty);
    assert_eq!(twice, stored);
    let read = decode::decode(stored.to_string().as_bytes(), Format::Json, ty, name, FieldValidation::Strict).expect("what is stored is of its type");
    let mut read = read.object.0;
    canonicalise(&mut read, ty);
    assert_eq!(read, stored);
}

pub fn json(data: &[u8]) {
    text(data, Format::Json);
    let (k, ty, o) = object(&mut Source::new(data));
    if let Ok(found) = decode::decode(o.to_string().as_bytes(), Format::Json, ty, k.info().kind, FieldValidation::Ignore) {
        fixed(found.object.0, ty, k.info().kind);
    }
}

pub fn yaml(data: &[u8]) {
    text(data, Format::Yaml);
    let tree = any(data);
    let written = yaml::to_yaml(&tree);
    let back = decode::parse(written.as_bytes(), Format::Yaml).unwrap_or_else(|e| panic!("{}: {written}", e.message));
    assert_eq!(back, tree, "{written}");
}

pub fn cbor(data: &[u8]) {
    if let Ok(tree) = cbor_documents::decode(data) {
        assert_eq!(cbor_documents::decode(&cbor_documents::encode(&tree)).as_ref(), Ok(&tree));
    }
    let tree = any(data);
    assert_eq!(cbor_documents::decode(&cbor_documents::encode(&tree)).as_ref(), Ok(&tree));
}

/// An odd first byte: the rest is a body. An even one: it chooses an object that is written and read.
pub fn protobuf(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    let tree = if first % 2 == 1 {
        let mut s = Source::new(rest);
        let (k, _) = kind(&mut s);
        let example = k.example();
        let Ok(tree) = protobuf::decode(&protobuf::envelope(example.api_version(), example.kind(), s.rest())) else { return };
        tree
    } else {
        let (k, ty, o) = object(&mut Source::new(rest));
        let Ok(found) = decode::decode(o.to_string().as_bytes(), Format::Json, ty, k.info().kind, FieldValidation::Ignore) else { return };
        let mut o = found.object;
        let example = k.example();
        o.set_type(example.api_version(), example.kind());
        canonicalise(&mut o.0, ty);
        let Ok(bytes) = protobuf::encode(o.0.to_string().as_bytes()) else { return };
        let tree = protobuf::decode(&bytes).unwrap_or_else(|e| panic!("{e}: {}", o.0));
        let mut read = tree.clone();
        canonicalise(&mut read, ty);
        assert_eq!(read, o.0);
        tree
    };
    // Bytes of one object may be many; those that we write are one.
    let Ok(written) = protobuf::encode(tree.to_string().as_bytes()) else { return };
    let again = protobuf::decode(&written).unwrap_or_else(|e| panic!("{e}: {tree}"));
    assert_eq!(protobuf::encode(again.to_string().as_bytes()).expect("it was written before"), written, "{tree}\n{again}");
}
