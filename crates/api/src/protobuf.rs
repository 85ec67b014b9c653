//! Kubernetes protobuf bodies into JSON trees, by the field numbers of the schema table. Reading only; answers go out as JSON.
//!
//! Entry point: [`decode`]. Form: the bytes `k8s\0`, then `runtime.Unknown{1 typeMeta, 2 raw, 3 contentEncoding, 4 contentType}`. The tree is
//! what Go's JSON encoder would have written for the same object. A field number above 255 is a field of an inlined struct: outer * 256 + inner.
//! A field without a known number is refused, never dropped. Deliberately absent: encoding, and types that are an object or something
//! else on the wire (JSONSchemaPropsOrBool and its like).

use crate::schema::{FieldRef, ObjectRef, Presence, Scalar, Shape, TypeRef};
use base64::Engine;
use serde_json::{Map, Value, json};

pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
const MAGIC: &[u8] = b"k8s\0";
const DEPTH_MAX: usize = 64;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ProtobufError {
    #[error("the body does not begin with the mark of a Kubernetes protobuf object")]
    Magic,
    #[error("the protobuf body ends early or is malformed")]
    Malformed,
    #[error("no kind {kind:?} of {api_version:?} is known")]
    UnknownKind { api_version: String, kind: String },
    #[error("field {number} of {name} is not known here; send the object as JSON")]
    UnknownField { name: String, number: u64 },
    #[error("the protobuf form of {name} is not supported; send the object as JSON")]
    Unsupported { name: String },
    #[error("the protobuf body is nested deeper than {DEPTH_MAX}")]
    TooDeep,
}

type Result<T> = std::result::Result<T, ProtobufError>;

/// One field on the wire.
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or(ProtobufError::Malformed)?;
            self.0 = rest;
            if shift < 64 {
                value |= u64::from(byte & 0x7f) << shift;
            }
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(ProtobufError::Malformed)
    }
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n).ok_or(ProtobufError::Malformed)?;
        self.0 = rest;
        Ok(head)
    }
    fn next(&mut self) -> Result<Option<(u64, Wire<'a>)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let wire = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.take(8)?.try_into().map_err(|_| ProtobufError::Malformed)?)),
            2 => {
                let n = usize::try_from(self.varint()?).map_err(|_| ProtobufError::Malformed)?;
                Wire::Bytes(self.take(n)?)
            }
            5 => Wire::Fixed32(u32::from_le_bytes(self.take(4)?.try_into().map_err(|_| ProtobufError::Malformed)?)),
            _ => return Err(ProtobufError::Malformed),
        };
        Ok(Some((key >> 3, wire)))
    }
}

impl<'a> Wire<'a> {
    fn bytes(self) -> Result<&'a [u8]> {
        match self {
            Wire::Bytes(b) => Ok(b),
            _ => Err(ProtobufError::Malformed),
        }
    }
    fn text(self) -> Result<String> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| ProtobufError::Malformed)
    }
    fn number(self) -> Result<i64> {
        match self {
            Wire::Varint(v) => Ok(v as i64),
            _ => Err(ProtobufError::Malformed),
        }
    }
}

/// The object of a request body, with the apiVersion and kind it says it is.
pub fn decode(body: &[u8]) -> Result<Value> {
    let mut envelope = Reader(body.strip_prefix(MAGIC).ok_or(ProtobufError::Magic)?);
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    while let Some((number, wire)) = envelope.next()? {
        match number {
            1 => {
                let mut meta = Reader(wire.bytes()?);
                while let Some((number, wire)) = meta.next()? {
                    match number {
                        1 => api_version = wire.text()?,
                        2 => kind = wire.text()?,
                        _ => {}
                    }
                }
            }
            2 => raw = wire.bytes()?,
            _ => {}
        }
    }
    let ty = find(&api_version, &kind).ok_or_else(|| ProtobufError::UnknownKind { api_version: api_version.clone(), kind: kind.clone() })?;
    let mut tree = message(raw, ty, 0)?;
    if let Some(root) = tree.as_object_mut() {
        root.insert("apiVersion".into(), api_version.into());
        root.insert("kind".into(), kind.into());
    }
    Ok(tree)
}

fn find(api_version: &str, kind: &str) -> Option<TypeRef<'static>> {
    let schema = crate::schema::builtin();
    if kind == "DeleteOptions" {
        return schema.get("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions");
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    schema.of_kind(group, version, kind)
}

fn message(bytes: &[u8], ty: TypeRef<'_>, depth: usize) -> Result<Value> {
    if depth > DEPTH_MAX {
        return Err(ProtobufError::TooDeep);
    }
    match ty.shape() {
        Shape::Object(o) => {
            let mut out = Map::new();
            object(bytes, o, 0, &mut out, depth)?;
            Ok(Value::Object(out))
        }
        Shape::Scalar(s) => scalar_message(bytes, s, ty.name()),
        // A named list (ExtraValue) is a message of its items.
        Shape::List(l) => {
            let mut items = Vec::new();
            let mut r = Reader(bytes);
            while let Some((number, wire)) = r.next()? {
                if number == 1 {
                    append(&mut items, wire, l.item, depth)?;
                }
            }
            Ok(Value::Array(items))
        }
        Shape::Map(_) => Err(ProtobufError::Unsupported { name: ty.name().into() }),
    }
}

/// Reads fields into `out`; `outer` is the number of the inlined struct they are in.
fn object(bytes: &[u8], o: ObjectRef<'_>, outer: u64, out: &mut Map<String, Value>, depth: usize) -> Result<()> {
    let mut r = Reader(bytes);
    while let Some((number, wire)) = r.next()? {
        let full = outer * 256 + number;
        if let Some(f) = o.fields().find(|f| f.number().map(u64::from) == Some(full)) {
            field(f, wire, out, depth)?;
        } else if outer == 0 && o.fields().any(|f| f.number().is_some_and(|n| u64::from(n) / 256 == number)) {
            object(wire.bytes()?, o, number, out, depth + 1)?;
        } else {
            return Err(ProtobufError::UnknownField { name: o.name().into(), number: full });
        }
    }
    Ok(())
}

fn field(f: FieldRef<'_>, wire: Wire<'_>, out: &mut Map<String, Value>, depth: usize) -> Result<()> {
    let slot = f.name();
    match f.ty().shape() {
        Shape::List(l) => {
            let list = out.entry(slot).or_insert_with(|| Value::Array(Vec::new())).as_array_mut().ok_or(ProtobufError::Malformed)?;
            append(list, wire, l.item, depth)
        }
        Shape::Map(m) => {
            let (mut key, mut value) = (String::new(), None);
            let mut r = Reader(wire.bytes()?);
            while let Some((number, wire)) = r.next()? {
                match number {
                    1 => key = wire.text()?,
                    2 => value = Some(single(wire, m.value, depth + 1)?),
                    _ => {}
                }
            }
            let value = value.unwrap_or_else(|| zero(m.value));
            out.entry(slot).or_insert_with(|| Value::Object(Map::new())).as_object_mut().ok_or(ProtobufError::Malformed)?.insert(key, value);
            Ok(())
        }
        _ => {
            let v = single(wire, f.ty(), depth + 1)?;
            // Go's encoder writes zero values of plain fields; its JSON leaves them out.
            let kept = f.presence() != Presence::OmitEmpty || !is_zero(&v);
            if kept && !v.is_null() {
                out.insert(slot.into(), v);
            }
            Ok(())
        }
    }
}

fn append(list: &mut Vec<Value>, wire: Wire<'_>, item: TypeRef<'_>, depth: usize) -> Result<()> {
    let numeric = matches!(item.shape(), Shape::Scalar(Scalar::Int32 | Scalar::Int64 | Scalar::Bool));
    match wire {
        // Packed numbers, which other encoders may send.
        Wire::Bytes(b) if numeric => {
            let mut r = Reader(b);
            while !r.0.is_empty() {
                let v = r.varint()?;
                list.push(single(Wire::Varint(v), item, depth)?);
            }
        }
        wire => list.push(single(wire, item, depth + 1)?),
    }
    Ok(())
}

fn single(wire: Wire<'_>, ty: TypeRef<'_>, depth: usize) -> Result<Value> {
    let Shape::Scalar(s) = ty.shape() else { return message(wire.bytes()?, ty, depth) };
    Ok(match s {
        Scalar::String => wire.text()?.into(),
        Scalar::Bytes => base64::engine::general_purpose::STANDARD.encode(wire.bytes()?).into(),
        Scalar::Bool => (wire.number()? != 0).into(),
        Scalar::Int32 => (wire.number()? as i32).into(),
        Scalar::Int64 => wire.number()?.into(),
        Scalar::Double => match wire {
            Wire::Fixed64(v) => f64::from_bits(v).into(),
            Wire::Fixed32(v) => f64::from(f32::from_bits(v)).into(),
            _ => return Err(ProtobufError::Malformed),
        },
        _ => scalar_message(wire.bytes()?, s, ty.name())?,
    })
}

/// Leaves that are messages of their own on the wire.
fn scalar_message(bytes: &[u8], s: Scalar, name: &str) -> Result<Value> {
    let (mut first, mut second, mut text) = (0i64, 0i64, None);
    let mut r = Reader(bytes);
    while let Some((number, wire)) = r.next()? {
        match (number, wire) {
            (1, Wire::Varint(v)) => first = v as i64,
            (2, Wire::Varint(v)) => second = v as i64,
            (1 | 3, Wire::Bytes(b)) => text = Some(b),
            _ => return Err(ProtobufError::UnknownField { name: name.into(), number }),
        }
    }
    let utf8 = |b: Option<&[u8]>| String::from_utf8(b.unwrap_or_default().to_vec()).map_err(|_| ProtobufError::Malformed);
    Ok(match s {
        Scalar::Time | Scalar::MicroTime if first == 0 && second == 0 => Value::Null,
        Scalar::Time => crate::time::format(crate::time::Moment { seconds: first, micros: 0 }).into(),
        Scalar::MicroTime => crate::time::format_micro(crate::time::Moment { seconds: first, micros: (second / 1000) as u32 }).into(),
        Scalar::Quantity => utf8(text)?.into(),
        Scalar::IntOrString if first == 1 => utf8(text)?.into(),
        Scalar::IntOrString => (second as i32).into(),
        Scalar::Any if !name.contains("JSONSchemaPropsOr") => match text {
            None => Value::Null,
            Some(raw) => serde_json::from_slice(raw).map_err(|_| ProtobufError::Malformed)?,
        },
        _ => return Err(ProtobufError::Unsupported { name: name.into() }),
    })
}

fn is_zero(v: &Value) -> bool {
    match v {
        Value::String(s) => s.is_empty(),
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::Null => true,
        Value::Array(_) | Value::Object(_) => false,
    }
}

fn zero(ty: TypeRef<'_>) -> Value {
    match ty.shape() {
        Shape::Scalar(Scalar::String | Scalar::Bytes) => json!(""),
        Shape::Scalar(Scalar::Quantity) => json!("0"),
        Shape::List(_) => json!([]),
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What kubectl sends for `kubectl create configmap a --from-literal=x=y`.
    #[test]
    fn a_config_map_of_kubectl_reads_as_its_json() {
        let hex = "6b3873000a0f0a0276311209436f6e6669674d6170121b0a110a016112001a0022002a00320038004200\
                   12060a01781201791a002200";
        let body: Vec<u8> = (0..hex.replace(' ', "").len() / 2).map(|i| u8::from_str_radix(&hex.replace(' ', "")[2 * i..2 * i + 2], 16).unwrap()).collect();
        let got = decode(&body).unwrap();
        assert_eq!(got, json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"x": "y"}}));
    }

    #[test]
    fn cut_bodies_are_errors_at_every_byte() {
        let body = b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x05\x0a\x03\x0a\x01a";
        assert!(decode(body).is_ok());
        for n in 0..body.len() - 1 {
            // A cut between two fields of the envelope is a whole, smaller message.
            if n != 4 && n != 21 {
                assert!(decode(&body[..n]).is_err(), "{n}");
            }
        }
        assert_eq!(decode(b"{}"), Err(ProtobufError::Magic));
    }

    /// Every object of upstream's own test data that has a protobuf form reads as its JSON form, where the data is at hand.
    #[test]
    fn upstream_test_data_reads_as_its_json() {
        let Ok(files) = std::fs::read_dir("/work/shared/reference/api-testdata") else { return };
        let (mut same, mut wrong) = (0, Vec::new());
        for f in files.flatten().filter(|f| f.path().extension().is_some_and(|e| e == "pb")) {
            let Ok(body) = std::fs::read(f.path()) else { continue };
            let want: Value = serde_json::from_slice(&std::fs::read(f.path().with_extension("json")).unwrap()).unwrap();
            match decode(&body) {
                Ok(got) if got == want => same += 1,
                Ok(got) => wrong.push(format!("{:?}: {}", f.file_name(), first_difference(&want, &got, ""))),
                // Kinds and fields this server does not have at all.
                Err(ProtobufError::UnknownKind { .. }) => {}
                Err(e) => wrong.push(format!("{:?}: {e}", f.file_name())),
            }
        }
        for w in &wrong {
            eprintln!("{w}");
        }
        eprintln!("{same} the same, {} not", wrong.len());
        assert!(same > 50, "{same} the same");
    }

    fn first_difference(want: &Value, got: &Value, at: &str) -> String {
        match (want, got) {
            (Value::Object(w), Value::Object(g)) => {
                let keys: std::collections::BTreeSet<&String> = w.keys().chain(g.keys()).collect();
                keys.into_iter()
                    .map(|k| first_difference(&w.get(k).cloned().unwrap_or_default(), &g.get(k).cloned().unwrap_or_default(), &format!("{at}.{k}")))
                    .find(|d| !d.is_empty())
                    .unwrap_or_default()
            }
            (Value::Array(w), Value::Array(g)) if w.len() == g.len() => {
                w.iter().zip(g).map(|(w, g)| first_difference(w, g, &format!("{at}[]"))).find(|d| !d.is_empty()).unwrap_or_default()
            }
            _ if want == got => String::new(),
            _ => format!("{at}: {got} instead of {want}"),
        }
    }
}
