use super::*;
use crate::schema::builtin;
use serde_json::json;

fn pod(body: &str, v: FieldValidation) -> Result<Decoded, Status> {
    decode(body.as_bytes(), Format::Json, builtin().get("io.k8s.api.core.v1.Pod").unwrap(), "Pod", v)
}
fn message(body: &str) -> String {
    pod(body, FieldValidation::Strict).unwrap_err().message
}

#[test]
fn unknown_and_duplicate_fields_are_all_reported_in_document_order() {
    let body = r#"{"apiVersion":"v1","kind":"Pod","spec":{"zz":{"a":1,"a":2},"nodeName":"a","nodeName":"b","containers":[{"name":"c","bogus":1}]},"aa":1}"#;
    assert_eq!(
        message(body),
        r#"Pod in version "v1" cannot be handled as a Pod: strict decoding error: unknown field "spec.zz", duplicate field "spec.nodeName", unknown field "spec.containers[0].bogus", unknown field "aa""#
    );
    let warned = pod(body, FieldValidation::Warn).unwrap();
    assert_eq!(warned.warnings.len(), 4);
    assert_eq!(warned.object.str_at(&["spec", "nodeName"]), "b");
    assert!(warned.object.root().get("aa").is_none());
    assert!(pod(body, FieldValidation::Ignore).unwrap().warnings.is_empty());
}

#[test]
fn strict_findings_stop_at_their_limit() {
    let many: String = (0..300).map(|i| format!(",\"x{i}\":1")).collect();
    let got = pod(&format!("{{\"kind\":\"Pod\"{many}}}"), FieldValidation::Warn).unwrap();
    assert_eq!(got.warnings.len(), STRICT_ERRORS_MAX);
}

#[test]
fn wrong_types_are_refused_in_gos_words() {
    assert_eq!(
        message(r#"{"apiVersion":"v1","spec":{"tolerations":[{"value":7}]}}"#),
        r#"Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal number into Go struct field Toleration.spec.tolerations.value of type string"#
    );
    for body in [r#"{"spec":{"priority":1.5}}"#, r#"{"spec":{"priority":99999999999}}"#, r#"{"spec":{"containers":{}}}"#, r#"{"spec":[]}"#, r#"{"spec":{"hostNetwork":"yes"}}"#] {
        assert!(message(body).contains("json: cannot unmarshal"), "{body}");
    }
    let quantity = r#"{"spec":{"containers":[{"name":"c","resources":{"limits":{"cpu":"x"}}}]}}"#;
    assert!(message(quantity).ends_with("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"));
    assert!(message(r#"{"metadata":{"deletionTimestamp":"x"}}"#).ends_with(r#"parsing time "x" as "2006-01-02T15:04:05Z07:00": cannot parse "x" as "2006""#));
}

#[test]
fn bad_base64_is_refused_at_gos_offset() {
    let secret = builtin().get("io.k8s.api.core.v1.Secret").unwrap();
    let at = |v: &str| decode(format!("{{\"data\":{{\"a\":\"{v}\"}}}}").as_bytes(), Format::Json, secret, "Secret", FieldValidation::Strict).unwrap_err().message;
    assert!(at("x!").ends_with("illegal base64 data at input byte 1"), "{}", at("x!"));
    assert!(at("abc").ends_with("illegal base64 data at input byte 0"));
    assert!(at("abcdx").ends_with("illegal base64 data at input byte 4"));
}

#[test]
fn null_means_absent_everywhere() {
    let got = pod(r#"{"metadata":{"name":"a","labels":null},"spec":{"nodeName":null,"containers":null,"nodeSelector":{"a":null}}}"#, FieldValidation::Strict).unwrap();
    assert_eq!(got.object.0, json!({"metadata":{"name":"a"},"spec":{"containers":null,"nodeSelector":{"a":""}},"status":{}}));
}

#[test]
fn names_match_by_case() {
    assert_eq!(pod(r#"{"Spec":{}}"#, FieldValidation::Warn).unwrap().warnings, ["unknown field \"Spec\""]);
}

#[test]
fn int_or_string_keeps_its_json_type() {
    let service = builtin().get("io.k8s.api.core.v1.Service").unwrap();
    for port in [json!(80), json!("80")] {
        let body = json!({"spec":{"ports":[{"port":1,"targetPort":port}]}}).to_string();
        let got = decode(body.as_bytes(), Format::Json, service, "Service", FieldValidation::Strict).unwrap();
        assert_eq!(got.object.0.pointer("/spec/ports/0/targetPort"), Some(&port));
    }
}

#[test]
fn text_that_is_not_json_is_refused_in_gos_words() {
    for (body, want) in [
        ("", "unexpected end of JSON input (<empty>)"),
        ("{", "unexpected end of JSON input ({)"),
        ("{x}", "invalid character 'x' looking for beginning of object key string ({x})"),
        ("{\"a\" 1}", "invalid character '1' after object key ({\"a\" 1})"),
        ("{} x", "invalid character 'x' after top-level value ({} x)"),
        ("nul", "unexpected end of JSON input (6e756c)"),
    ] {
        assert_eq!(message(body), format!("the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: {want}"));
    }
    assert!(message("[]").contains("cannot unmarshal array into Go value"));
}

#[test]
fn nesting_is_limited() {
    let deep = format!("{}{}", "{\"a\":".repeat(500), "1");
    assert!(parse_json(deep.as_bytes()).unwrap_err().message.contains("exceeded max depth"));
}

#[test]
fn yaml_is_read_with_the_same_checks() {
    let ty = builtin().get("io.k8s.api.core.v1.Pod").unwrap();
    let body = b"apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\nspec:\n  bogus: 1\n  nodeName: x\n  nodeName: z\n  containers:\n  - name: c\n";
    let got = decode(body, Format::Yaml, ty, "Pod", FieldValidation::Warn).unwrap();
    assert_eq!(got.object.name(), "a");
    assert_eq!(got.warnings, ["yaml: unmarshal errors:\n  line 8: key \"nodeName\" already set in map", "unknown field \"spec.bogus\""]);
}

#[test]
fn a_plain_yes_in_yaml_is_no_text_and_octal_modes_are_numbers() {
    let ty = builtin().get("io.k8s.api.core.v1.ConfigMap").unwrap();
    let why = decode(b"data:\n  a: yes\n", Format::Yaml, ty, "ConfigMap", FieldValidation::Warn).unwrap_err().message;
    assert!(why.contains("cannot unmarshal bool into Go struct field ConfigMap.data"), "{why}");
    let ty = builtin().get("io.k8s.api.core.v1.SecretVolumeSource").unwrap();
    assert_eq!(decode(b"defaultMode: 0644\n", Format::Yaml, ty, "Secret", FieldValidation::Warn).unwrap().object.0, json!({"defaultMode": 420}));
}

#[test]
fn json_schemas_may_be_objects_booleans_or_lists() {
    let ty = builtin().get("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps").unwrap();
    let body = json!({"items": {"type": "string", "bogus": 1}, "additionalProperties": false, "allOf": [{"minLength": 0}], "default": {"any": null}}).to_string();
    let got = decode(body.as_bytes(), Format::Json, ty, "JSONSchemaProps", FieldValidation::Warn).unwrap();
    // Types that read themselves are not strict in upstream; what is unknown is dropped all the same.
    assert_eq!(got.warnings, [] as [&str; 0]);
    assert_eq!(got.object.0, json!({"items": {"type": "string"}, "additionalProperties": false, "allOf": [{"minLength": 0}], "default": {"any": null}}));
}

#[test]
fn what_is_neither_schema_nor_list_is_an_empty_one_and_what_is_no_boolean_is_refused() {
    let ty = builtin().get("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps").unwrap();
    let read = |body: &str| decode(body.as_bytes(), Format::Json, ty, "JSONSchemaProps", FieldValidation::Warn);
    assert_eq!(read("{\"items\": \"x\"}").unwrap().object.0, json!({"items": []}));
    for wrong in ["{\"additionalProperties\": \"x\"}", "{\"additionalProperties\": []}"] {
        assert!(read(wrong).unwrap_err().message.ends_with("boolean or JSON schema expected"), "{wrong}");
    }
}

#[test]
fn null_is_an_object_with_nothing_in_it_and_other_roots_are_refused() {
    let ty = builtin().get("io.k8s.api.core.v1.ConfigMap").unwrap();
    for (body, format) in [("null", Format::Json), ("", Format::Yaml), ("~", Format::Yaml)] {
        let read = decode(body.as_bytes(), format, ty, "ConfigMap", FieldValidation::Strict).unwrap();
        assert_eq!(read.object.0, decode(b"{}", Format::Json, ty, "ConfigMap", FieldValidation::Strict).unwrap().object.0);
    }
    for body in ["[]", "[{}]", "\"x\"", "1", "true", "1e400", ""] {
        let s = decode(body.as_bytes(), Format::Json, ty, "ConfigMap", FieldValidation::Ignore).unwrap_err();
        assert!(
            s.code == 400 && s.message.starts_with("the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: "),
            "{body}: {}",
            s.message
        );
    }
}

#[test]
fn any_number_becomes_what_go_makes_of_it() {
    for (given, want) in [("9.0", "9"), ("1.50", "1.5"), ("-3.0e2", "-300"), ("9223372036854775807", "9223372036854775807"), ("0.1", "0.1")] {
        assert_eq!(parse_json(given.as_bytes()).unwrap().to_string(), want);
    }
    assert!(parse_json(b"18446744073709551615").unwrap().is_f64());
}
