//! Secret: bytes that pods read and people should not (v1).

use crate::core::config_data;
use crate::field::{Field, child_mut, default, immutable, set};
use crate::selectable;
use crate::table::{self, AGE, NAME, column};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use keles_api::{Object, Path, Problems, meta, names};
use keles_registry::kind::{Column, Info, Kind, Selectable, Served, UnknownSelector};
use serde_json::{Value, json};

pub struct Secret;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column(
        "Type",
        "string",
        "Used to facilitate programmatic handling of secret data. More info: https://kubernetes.io/docs/concepts/configuration/secret/#secret-types",
        |o, _| table::str_cell(o, &["type"]),
    ),
    column(
        "Data",
        "string",
        "Data contains the secret data. Each key must consist of alphanumeric characters, '-', '_' or '.'. The serialized form of the secret data is a base64 encoded string, representing the arbitrary (possibly non-string) data value here. Described in https://tools.ietf.org/html/rfc4648#section-4",
        |o, _| table::len_cell(o, &["data"]),
    ),
    AGE,
];

impl Kind for Secret {
    type Object = Object;
    const INFO: Info = Info {
        kind: "Secret",
        plural: "secrets",
        singular: "secret",
        served: &[Served { group: "", version: "v1", schema: "io.k8s.api.core.v1.Secret" }],
        selectable: &[Selectable { path: "type", value: |o| selectable::text(o, &["type"]) }],
        unknown_selector: UnknownSelector::NotSupported,
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "sample", "namespace": "default"}, "type": "Opaque", "data": {"a": "aGVsbG8="}}))
    }

    fn set_defaults(o: &mut Object) {
        default(&mut o.0, "type", "Opaque");
        fold_string_data(o);
    }

    fn validate(o: &Object, p: &mut Problems) {
        let root = Field::root(o);
        let mut bytes = 0;
        for (key, value) in root.map("data") {
            config_data::key(p, &root, "data", key);
            bytes += config_data::decoded_bytes(value);
        }
        if bytes > config_data::MAX_BYTES {
            p.too_long(&root.at("data"), config_data::MAX_BYTES);
        }
        of_type(&root, p);
    }

    fn validate_update(new: &Object, old: &Object, p: &mut Problems) {
        let (now, before) = (Field::root(new), Field::root(old));
        immutable(p, &now.get("type"), &before.get("type"));
        config_data::only_if_mutable(&now, &before, &["data"], p);
        meta::validate_create(new, true, names::dns_subdomain, &Path::new("metadata"), p);
        Self::validate(new, p);
    }
}

/// `stringData` is for writing only: its entries become data.
fn fold_string_data(o: &mut Object) {
    let Some(Value::Object(plain)) = o.root_mut().remove("stringData") else { return };
    if plain.is_empty() {
        return;
    }
    let Some(data) = child_mut(&mut o.0, "data") else { return };
    for (key, value) in plain {
        set(data, &key, BASE64.encode(value.as_str().unwrap_or("")));
    }
}

/// What each type of Secret must hold.
fn of_type(root: &Field, p: &mut Problems) {
    let data = root.get("data");
    let need = |p: &mut Problems, key: &str| {
        if !data.has(key) {
            p.required(&data.path().key(key), "");
        }
    };
    match root.str("type") {
        "kubernetes.io/service-account-token" => {
            let account = "kubernetes.io/service-account.name";
            if root.get("metadata").get("annotations").str(account).is_empty() {
                p.required(&root.get("metadata").at("annotations").key(account), "");
            }
        }
        "kubernetes.io/dockercfg" => docker_config(&data, ".dockercfg", p),
        "kubernetes.io/dockerconfigjson" => docker_config(&data, ".dockerconfigjson", p),
        "kubernetes.io/basic-auth" if !data.has("username") && !data.has("password") => {
            need(p, "username");
            need(p, "password");
        }
        "kubernetes.io/ssh-auth" if data.str("ssh-privatekey").is_empty() => p.required(&data.path().key("ssh-privatekey"), ""),
        "kubernetes.io/tls" => {
            need(p, "tls.crt");
            need(p, "tls.key");
        }
        _ => {}
    }
}

fn docker_config(data: &Field, key: &str, p: &mut Problems) {
    let at = data.path().key(key);
    let Some(text) = data.opt_str(key) else {
        p.required(&at, "");
        return;
    };
    let bytes = BASE64.decode(text).unwrap_or_default();
    if let Some(why) = go_json_error(&bytes) {
        p.invalid(&at, "<secret contents redacted>", why);
    }
}

/// Why bytes are no JSON map, as Go's decoder says it; it reads bytes as Latin-1 when it quotes one.
fn go_json_error(bytes: &[u8]) -> Option<String> {
    let kind = match serde_json::from_slice::<Value>(bytes) {
        Ok(Value::Object(_) | Value::Null) => return None,
        Ok(Value::String(_)) => "string",
        Ok(Value::Number(_)) => "number",
        Ok(Value::Bool(_)) => "bool",
        Ok(Value::Array(_)) => "array",
        Err(error) => return Some(why_not_json(bytes, &error)),
    };
    Some(format!("json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}"))
}

fn why_not_json(bytes: &[u8], error: &serde_json::Error) -> String {
    if let Some(why) = std::str::from_utf8(bytes).ok().and_then(keles_api::decode::explain_json) {
        return why;
    }
    if error.is_eof() {
        return "unexpected end of JSON input".into();
    }
    let first = bytes.iter().copied().find(|b| !b.is_ascii_whitespace()).unwrap_or(b' ');
    format!("invalid character '{}' looking for beginning of value", char::from(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn string_data_becomes_data() {
        let mut o = Object(json!({"data": {"a": "MQ=="}, "stringData": {"a": "2", "b": "3"}}));
        Secret::set_defaults(&mut o);
        assert_eq!(o.0, json!({"type": "Opaque", "data": {"a": "Mg==", "b": "Mw=="}}));
    }

    #[test]
    fn a_docker_config_is_a_json_map() {
        for (text, why) in
            [("", Some("unexpected end of JSON input")), ("{}", None), ("\"x\"", Some("json: cannot unmarshal string into Go value of type map[string]interface {}"))]
        {
            assert_eq!(go_json_error(text.as_bytes()).as_deref(), why, "{text}");
        }
        assert_eq!(go_json_error(&[0xc7, 0x20]).as_deref(), Some("invalid character '\u{c7}' looking for beginning of value"));
    }
}
