//! Kubernetes protobuf against kubectl's bytes, upstream's test data and hostile input.

use super::*;
use serde_json::json;

/// What kubectl sends for `kubectl create configmap a --from-literal=x=y`.
#[test]
fn a_config_map_of_kubectl_reads_as_its_json() {
    let hex = "6b3873000a0f0a0276311209436f6e6669674d6170121b0a110a016112001a0022002a00320038004200\
               12060a01781201791a002200";
    let body: Vec<u8> = (0..hex.replace(' ', "").len() / 2).map(|i| u8::from_str_radix(&hex.replace(' ', "")[2 * i..2 * i + 2], 16).unwrap()).collect();
    let got = decode(&body).unwrap();
    assert_eq!(got, json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"x": "y"}}));
    assert_eq!(encode(&serde_json::to_vec(&got).unwrap()).unwrap(), body, "and is written as kubectl wrote it");
}

#[test]
fn what_most_writes_bring_is_settled_and_what_json_may_say_in_other_words_is_not() {
    let settled = |o: Value| decode_settled(&encode(&serde_json::to_vec(&o).unwrap()).unwrap()).unwrap().1.is_some();
    let owners = json!([{"manager": "m", "operation": "Update", "apiVersion": "v1", "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {".": {}, "f:x": {}}}}]);
    assert!(settled(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "managedFields": owners}, "data": {"x": "y"}})));
    let revision = |data: Value| json!({"apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": {"name": "a"}, "revision": 1, "data": data});
    assert!(settled(revision(json!({"spec": {}}))));
    for data in [json!({"spec": null}), json!({"n": 1.0}), json!([{}])] {
        assert!(!settled(revision(data.clone())), "{data}");
    }
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

/// Every object of upstream's own test data reads as its JSON form and is written as its protobuf form, where the data is at hand.
#[test]
fn upstream_test_data_round_trips_byte_for_byte() {
    let Ok(files) = std::fs::read_dir("/work/shared/reference/api-testdata") else { return };
    let (mut same, mut wrong) = (0, Vec::new());
    for f in files.flatten().filter(|f| f.path().extension().is_some_and(|e| e == "pb")) {
        let body = std::fs::read(f.path()).unwrap();
        let name = f.file_name().into_string().unwrap();
        let mut want: Value = serde_json::from_slice(&std::fs::read(f.path().with_extension("json")).unwrap()).unwrap();
        let got = match decode(&body) {
            Ok(got) => got,
            // Versions and kinds this server does not have at all.
            Err(ProtobufError::UnknownKind { .. }) => continue,
            Err(e) => {
                wrong.push(format!("{name}: {e}"));
                continue;
            }
        };
        for key in ["apiVersion", "kind"] {
            if want.get(key).is_none() {
                want[key] = got[key].clone();
            }
        }
        if got != want {
            wrong.push(format!("{name}: {}", first_difference(&want, &got, "")));
        } else {
            match encode(&serde_json::to_vec(&want).unwrap()) {
                Ok(e) if e == body => {
                    let (api_version, kind) = (want["apiVersion"].as_str().unwrap(), want["kind"].as_str().unwrap());
                    let of_tree = encoder(api_version, kind).unwrap().message_of(&want).map(|m| envelope(api_version, kind, &m));
                    assert!(of_tree.as_ref() == Ok(&body), "{name} of its tree");
                    same += 1;
                }
                Ok(e) => wrong.push(format!("{name}: written {} bytes, wanted {}; differs at {:?}", e.len(), body.len(), e.iter().zip(&body).position(|(a, b)| a != b))),
                Err(e) => wrong.push(format!("{name}: {e}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{same} the same, {} not:\n{}", wrong.len(), wrong.join("\n"));
    assert!(same > 90, "{same} the same");
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

/// A tag and its bytes.
fn bytes_of(number: u8, b: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    varint(&mut out, usize::from(number) << 3 | 2);
    varint(&mut out, b.len());
    out.extend_from_slice(b);
    out
}

#[test]
fn what_go_holds_by_value_is_written_when_absent_and_pointers_are_not() {
    let pod = decode(&encode(br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[{"name":"c","image":"i"}]}}"#).unwrap()).unwrap();
    assert_eq!(pod["spec"]["containers"][0], json!({"name": "c", "image": "i", "resources": {}}));
    assert_eq!(pod["spec"].get("securityContext"), None, "a pointer stays nil");
    assert_eq!(pod["spec"].get("terminationGracePeriodSeconds"), None, "so does one to a number");
    // The message of an empty container: every string and bool by value, `resources` as an empty message.
    let raw = encoder("v1", "Pod").unwrap().message(br#"{"spec":{"containers":[{}]}}"#).unwrap();
    let text = |n: u8| vec![n << 3 | 2, 0];
    let container = [text(1), text(2), text(5), text(8).to_vec(), text(13), text(14), vec![0x80, 1, 0, 0x88, 1, 0, 0x90, 1, 0], vec![0xa2, 1, 0]].concat();
    assert!(raw.windows(container.len()).any(|w| w == container), "{raw:02x?}");
}

#[test]
fn maps_are_written_by_sorted_key_and_escapes_are_undone() {
    let a = encode(br#"{"apiVersion":"v1","kind":"ConfigMap","data":{"b":"x\n\u00e9","a":"y"}}"#).unwrap();
    let b = encode("{\"data\":{\"a\":\"y\",\"b\":\"x\\né\"},\"kind\":\"ConfigMap\",\"apiVersion\":\"v1\"}".as_bytes()).unwrap();
    assert_eq!(a, b);
    assert_eq!(decode(&a).unwrap()["data"], json!({"a": "y", "b": "x\né"}));
}

#[test]
fn a_list_of_parts_is_the_list_written_whole() {
    let items: Vec<String> = (0..3).map(|i| format!(r#"{{"metadata":{{"name":"c{i}"}},"data":{{"k":"{}"}}}}"#, "v".repeat(i * 100))).collect();
    let whole = format!(r#"{{"apiVersion":"v1","kind":"ConfigMapList","metadata":{{"resourceVersion":"7"}},"items":[{}]}}"#, items.join(","));
    let mut e = encoder("v1", "ConfigMap").unwrap();
    let messages: Vec<Vec<u8>> = items.iter().map(|i| e.message(i.as_bytes()).unwrap()).collect();
    let mut out = list_start("v1", "ConfigMapList", br#"{"resourceVersion":"7"}"#, messages.iter().map(|m| item_len(m.len())).sum()).unwrap();
    for m in &messages {
        item_start(&mut out, m.len());
        out.extend_from_slice(m);
    }
    out.extend_from_slice(list_end());
    assert_eq!(out, encode(whole.as_bytes()).unwrap());
}

#[test]
fn a_watch_frame_says_its_length_its_type_and_its_object() {
    let object = encode(br#"{"apiVersion":"v1","kind":"Status","code":410}"#).unwrap();
    let frame = watch_frame("ERROR", &object);
    assert_eq!(u32::from_be_bytes(frame[..4].try_into().unwrap()) as usize, frame.len() - 4);
    assert_eq!(&frame[4..], [bytes_of(1, b"ERROR"), bytes_of(2, &bytes_of(1, &object))].concat());
}

#[test]
fn schema_props_are_read_and_written_in_all_their_forms() {
    let crd = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "a"},
        "spec": {"group": "g", "names": {"plural": "p", "kind": "K"}, "scope": "Namespaced", "versions": [{
            "name": "v1", "served": true, "storage": true,
            "schema": {"openAPIV3Schema": {
                "type": "object", "default": {"a": 1}, "enum": ["x", 1], "x-kubernetes-preserve-unknown-fields": true,
                "properties": {
                    "list": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
                    "tuple": {"items": [{"type": "string"}, {"type": "integer"}]},
                    "open": {"additionalProperties": true}, "closed": {"additionalProperties": false}, "typed": {"additionalProperties": {"type": "number", "maximum": 1.5}},
                    "needs": {"dependencies": {"a": ["b"], "c": {"type": "object"}}},
                },
            }},
        }]},
        "status": {"conditions": null, "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": null},
    });
    let mut want = crd.clone();
    want["status"] = json!({"acceptedNames": {"plural": "", "kind": ""}});
    let got = decode(&encode(&serde_json::to_vec(&crd).unwrap()).unwrap()).unwrap();
    assert_eq!(first_difference(&want, &got, ""), "");
}

#[test]
fn a_tree_is_written_as_its_text_and_refused_as_it() {
    let pod = |spec: Value| ("v1", "Pod", json!({"metadata": {"name": "é\n\"", "creationTimestamp": "2026-11-23T10:11:12Z", "labels": {"b": "2", "a": null}}, "spec": spec}));
    let schema = |schema: Value| ("apiextensions.k8s.io/v1", "CustomResourceDefinition", json!({"spec": {"versions": [{"schema": {"openAPIV3Schema": schema}}]}}));
    let documents = [
        pod(json!({"containers": [{"name": "c"}, null, {"livenessProbe": {"httpGet": {"port": 8080}, "tcpSocket": {"port": "web"}}}], "hostNetwork": true, "hostIPC": null})),
        pod(json!({"containers": [], "overhead": {"cpu": "1500m", "memory": 2048, "x": 0.5}, "activeDeadlineSeconds": 2.0, "priority": -1})),
        ("v1", "Secret", json!({"data": {"a": "aGFsbG8="}, "immutable": false})),
        ("v1", "Event", json!({"eventTime": "2026-11-23T10:11:12.123456Z", "metadata": {"managedFields": [{"fieldsV1": {"f:a": {".": {}, "k:{\"x\":1}": {}}}}]}})),
        ("apps/v1", "ControllerRevision", json!({"revision": 3, "data": {"kind": "X", "n": [1, -2.5, "é", null, true]}})),
        ("apps/v1", "ControllerRevision", json!({"data": "text"})),
        schema(json!({"maximum": 1.5, "minimum": 7, "items": [{"type": "string"}, {}], "additionalProperties": true, "default": {"a": [1e300]}})),
        schema(json!({"additionalProperties": {"type": "number"}, "dependencies": {"a": ["b"], "c": {}}})),
        // What does not fit.
        pod(json!({"containers": {"a": 1}})),
        pod(json!({"hostNetwork": "true"})),
        pod(json!({"activeDeadlineSeconds": 2.5})),
        pod(json!({"activeDeadlineSeconds": u64::MAX})),
        pod(json!({"nodeName": 1, "more": 1})),
        pod(json!([])),
        ("v1", "Pod", json!({"metadata": {"creationTimestamp": "yesterday"}})),
        ("v1", "Secret", json!({"data": {"a": "?"}})),
        ("v1", "Secret", json!(["data"])),
    ];
    let mut written = 0;
    for (api_version, kind, document) in documents {
        let mut e = encoder(api_version, kind).unwrap();
        let of_text = e.message(document.to_string().as_bytes());
        assert_eq!(e.message_of(&document), of_text, "{document}");
        written += usize::from(of_text.is_ok());
    }
    assert_eq!(written, 8);
}

#[test]
fn every_field_of_every_served_kind_has_a_number() {
    let mut bare = Vec::new();
    for m in &plan::builtin().messages {
        let ty = crate::schema::builtin().get(m.name);
        for f in ty.and_then(|t| t.object()).into_iter().flat_map(|o| o.fields()).filter(|f| !matches!(f.name(), "apiVersion" | "kind") && f.number().is_none()) {
            bare.push(format!("{}.{}", m.name, f.name()));
        }
    }
    // What `/version` answers has no protobuf form upstream either.
    bare.retain(|n| !n.contains("version.Info"));
    assert!(bare.is_empty(), "{bare:?}");
}

#[test]
fn hostile_bodies_are_refused_in_bounds() {
    let in_envelope = |kind: &str, raw: &[u8]| envelope("v1", kind, raw);
    // Objects in objects in objects: a RawExtension that holds a list that holds …
    let mut nested = in_envelope("ConfigMap", b"");
    for _ in 0..5000 {
        nested = in_envelope("List", &bytes_of(2, &bytes_of(1, &nested)));
        if nested.len() > 60_000 {
            break;
        }
    }
    assert!(matches!(decode(&nested), Err(ProtobufError::TooDeep | ProtobufError::UnknownKind { .. })));
    // Schemas in schemas.
    let mut props = Vec::new();
    for _ in 0..10_000 {
        props = bytes_of(28, &props); // `not`
    }
    let crd = bytes_of(2, &bytes_of(7, &bytes_of(4, &bytes_of(1, &props))));
    assert_eq!(decode(&envelope("apiextensions.k8s.io/v1", "CustomResourceDefinition", &crd)), Err(ProtobufError::TooDeep));
    // Lengths that lie, groups (wire type 3), varints without end, text that is not UTF-8.
    for (raw, want) in [
        (&b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"[..], ProtobufError::Malformed),
        (b"\x0b", ProtobufError::Malformed),
        (b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", ProtobufError::Malformed),
        (b"\x0a\x04\x0a\x02\xff\xfe", ProtobufError::Utf8),
    ] {
        assert_eq!(decode(&in_envelope("ConfigMap", raw)), Err(want), "{raw:02x?}");
    }
    assert!(matches!(decode(&in_envelope("ConfigMap", b"\xfa\x3f\x00")), Err(ProtobufError::UnknownField { number: 1023, .. })), "never dropped");
    // A time that no calendar has.
    let far = bytes_of(1, &bytes_of(8, b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\x7f"));
    assert_eq!(decode(&in_envelope("ConfigMap", &far)), Err(ProtobufError::Malformed));
    // A hundred thousand items are only that many.
    let many = bytes_of(2, b"").repeat(100_000);
    assert_eq!(decode(&in_envelope("ConfigMapList", &many)).unwrap()["items"].as_array().unwrap().len(), 100_000);
}

#[test]
fn documents_that_do_not_fit_are_refused_when_written() {
    let refused = |json: &str| encode(json.as_bytes()).unwrap_err();
    assert_eq!(refused("{"), ProtobufError::Json);
    assert_eq!(refused(r#"{"apiVersion":"v1","kind":"ConfigMap","data":{"a":1}}"#), ProtobufError::Value { name: "io.k8s.api.core.v1.ConfigMap.data".into() });
    assert_eq!(refused(r#"{"apiVersion":"v1","kind":"ConfigMap","more":1}"#), ProtobufError::Value { name: "io.k8s.api.core.v1.ConfigMap.more".into() });
    assert!(matches!(refused(r#"{"apiVersion":"meta.k8s.io/v1","kind":"Table"}"#), ProtobufError::UnknownKind { .. }));
    assert_eq!(refused(&"[".repeat(100_000)), ProtobufError::TooDeep);
    assert_eq!(encode(b"{\"kind\":\"\xff\"}"), Err(ProtobufError::Json), "not UTF-8");
    let many = format!(r#"{{"apiVersion":"v1","kind":"ConfigMapList","items":[{}{{}}]}}"#, "{},".repeat(99_999));
    assert_eq!(decode(&encode(many.as_bytes()).unwrap()).unwrap()["items"].as_array().unwrap().len(), 100_000);
}
