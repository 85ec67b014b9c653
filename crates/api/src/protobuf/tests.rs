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
                Ok(e) if e == body => same += 1,
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
