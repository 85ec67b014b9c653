//! The uses: rules on schemas, policies with variables, request types, devices; values read by their declarations.

mod common;

use keles_cel::{Activation, Budget, Decl, Environment, EvalError, Program, Type, Value, uses, uses::Admission};
use serde_json::{Value as Json, json};
use std::sync::Arc;

fn eval(program: &Program, names: &Activation<'_>) -> Result<Json, String> {
    program.eval(names, &mut Budget::default()).map(|v| v.to_json().unwrap()).map_err(|e| e.to_string())
}

fn schema() -> Json {
    json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {
            "replicas": {"type": "integer"}, "ratio": {"type": "number"}, "when": {"type": "string", "format": "date-time"}, "day": {"type": "string", "format": "date"},
            "wait": {"type": "string", "format": "duration"}, "data": {"type": "string", "format": "byte"}, "port": {"x-kubernetes-int-or-string": true},
            "a-b.c/d": {"type": "string"}, "namespace": {"type": "string"}, "x__y": {"type": "integer"},
            "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "properties": {"name": {"type": "string"}, "port": {"type": "integer"}}}},
            "plain": {"type": "array", "items": {"type": "integer"}},
            "empty": {"type": "string", "nullable": true},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "anything": {"x-kubernetes-preserve-unknown-fields": true},
            "template": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}
        }}
    }})
}

fn object() -> Json {
    json!({"apiVersion": "e/v1", "kind": "E", "metadata": {"name": "n", "labels": {"a": "b"}}, "spec": {
        "empty": null, "replicas": 3, "ratio": 2, "when": "2023-01-02T03:04:05Z", "day": "2023-01-02", "wait": "1h", "data": "aGk=", "port": "80%", "a-b.c/d": "escaped", "namespace": "ns", "x__y": 7,
        "tags": ["a", "b"], "ports": [{"name": "x", "port": 1}, {"name": "y", "port": 2}], "plain": [1, 2], "free": {"z": 1}, "template": {"kind": "Pod", "metadata": {"name": "p"}}
    }})
}

#[test]
fn values_are_read_by_their_schema() {
    let decl = Decl::from_json_schema(&schema(), true).unwrap();
    let (new, mut old) = (object(), object());
    old["spec"]["tags"] = json!(["b", "a"]);
    old["spec"]["ports"] = json!([{"name": "y", "port": 2}, {"name": "x", "port": 1}]);
    old["spec"]["plain"] = json!([2, 1]);
    let names = Activation::new().bind("self", Value::typed(&new, &decl)).bind("oldSelf", Value::typed(&old, &decl));
    let env = uses::validation_rule(&decl, false);
    for text in [
        "self.spec.replicas == 3 && self.metadata.name == 'n' && self.kind == 'E' && self.apiVersion == 'e/v1'",
        "self.spec.ratio == 2.0 && self.spec.ratio / 4.0 == 0.5",
        "self.spec.when > timestamp('2023-01-01T00:00:00Z') && self.spec.day.getDate() == 2",
        "self.spec.wait == duration('60m')",
        "self.spec.data == b'hi'",
        "type(self.spec.port) == string && self.spec.port.endsWith('%')",
        "self.spec.a__dash__b__dot__c__slash__d == 'escaped' && self.spec.__namespace__ == 'ns' && self.spec.x__underscores__y == 7",
        "self.spec.tags == oldSelf.spec.tags && self.spec.ports == oldSelf.spec.ports && self.spec.plain != oldSelf.spec.plain",
        "self.spec.tags + ['a', 'c'] == ['a', 'b', 'c']",
        "(self.spec.ports + oldSelf.spec.ports).size() == 2",
        "self.spec.template.kind == 'Pod' && self.spec.template.metadata.name == 'p'",
        "!has(self.spec.empty) && self.spec.?empty.orValue('none') == 'none'",
        "has(self.spec.free) && !has(oldSelf.spec.template.metadata.generateName)",
    ] {
        let program = env.compile(text).unwrap_or_else(|e| panic!("{e}"));
        assert!(program.returns(&Type::Bool), "{text}");
        assert_eq!(eval(&program, &names), Ok(json!(true)), "{text}");
    }
    for (text, column) in [("self.spec.free.z == 1", 15), ("self.metadata.labels['a'] == 'b'", 14), ("self.spec.anything == 1", 10), ("self.spec.a-b == 1", 10), ("self.nope", 5)] {
        assert!(env.compile(text).unwrap_err().to_string().starts_with(&format!("ERROR: <input>:1:{column}: undefined field")), "{text}");
    }
}

#[test]
fn transition_rules_read_the_old_self() {
    let decl = Decl::from_json_schema(&json!({"type": "integer"}), false).unwrap();
    let rule = uses::validation_rule(&decl, false).compile("self >= oldSelf").unwrap();
    assert!(rule.uses("oldSelf") && !uses::validation_rule(&decl, false).compile("self > 1").unwrap().uses("oldSelf"));
    let optional = uses::validation_rule(&decl, true).compile("!oldSelf.hasValue() || self >= oldSelf.value()").unwrap();
    let (old, new) = (json!(5), json!(4));
    let names = |old| Activation::new().bind("self", Value::typed(&new, &decl)).bind("oldSelf", old);
    assert_eq!(eval(&optional, &names(Value::NONE)), Ok(json!(true)));
    assert_eq!(eval(&optional, &names(Value::some(Value::typed(&old, &decl)))), Ok(json!(false)));
    assert_eq!(eval(&rule, &names(Value::typed(&old, &decl))), Ok(json!(false)));
}

#[test]
fn schemas_without_structure_have_no_declaration() {
    for schema in [json!({"x-kubernetes-preserve-unknown-fields": true}), json!({"type": "array"}), json!({"type": "object", "additionalProperties": {"type": "array"}})] {
        assert!(Decl::from_json_schema(&schema, false).is_none(), "{schema}");
    }
    assert_eq!(Decl::from_json_schema(&json!({"type": "object", "additionalProperties": {"type": "string"}}), false).unwrap().ty.to_string(), "map(string, string)");
}

#[test]
fn built_in_types_are_declared_from_the_table() {
    let ty = |name: &str| Type::from_schema(keles_api::schema::builtin().get(name).unwrap());
    let env = Environment::new().variable("object", ty("io.k8s.api.apps.v1.Deployment"));
    assert!(env.compile("object.spec.replicas > 1 && object.spec.template.spec.containers.all(c, c.image != '' && c.ports.exists(p, p.containerPort > 1))").is_ok());
    assert_eq!(env.compile("object.spec.replica > 1").unwrap_err().to_string(), "ERROR: <input>:1:12: undefined field 'replica'\n | object.spec.replica > 1\n | ...........^");
    assert_eq!(
        env.compile("object.spec.replicas > 'a'").unwrap_err().to_string(),
        "ERROR: <input>:1:22: found no matching overload for '_>_' applied to '(int, string)'\n | object.spec.replicas > 'a'\n | .....................^"
    );
    // Types that hold themselves end somewhere.
    ty("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition");
}

#[test]
fn variables_of_policies_are_evaluated_when_read_and_once() {
    let base = Admission { variables: Some(&[]), ..Admission::default() };
    let bad = base.environment().compile("object.missing.deeper").unwrap();
    let costly = base.environment().compile("object.list.map(v, v + 1)").unwrap();
    let known = [("bad".to_owned(), bad.result().clone()), ("costly".to_owned(), costly.result().clone())];
    let env = Admission { variables: Some(&known), ..base }.environment();
    let chained = env.compile("variables.costly.size()").unwrap();
    let known = [known[0].clone(), known[1].clone(), ("chained".to_owned(), chained.result().clone())];
    let env = Admission { variables: Some(&known), ..base }.environment();
    let object = json!({"list": [1, 2, 3]});
    let all = vec![("bad".to_owned(), bad), ("costly".to_owned(), costly), ("chained".to_owned(), chained)];
    let names = Activation::new().bind("object", Value::json(&object)).variables(all);
    let cost = |text: &str| {
        let mut budget = Budget::default();
        let result = env.compile(text).unwrap_or_else(|e| panic!("{e}")).eval(&names, &mut budget);
        (result.map(|v| v.to_json().unwrap()).map_err(|e| e.to_string()), budget.spent)
    };
    assert_eq!(cost("variables.chained").0, Ok(json!(3)));
    let once = cost("variables.costly.size() == 3");
    assert_eq!(once, (Ok(json!(true)), 2 + 1 + 1), "what it cost was paid at the first reading");
    assert_eq!(cost("variables.bad == 1").0, Err("composited variable \"bad\" fails to evaluate: no such key: missing".into()));
    assert_eq!(cost("true || variables.bad == 1").0, Ok(json!(true)));
    assert_eq!(cost("has(variables.bad) && variables.costly[0] == 2").0, Ok(json!(true)));
    let refused = env.compile("variables.other").unwrap_err().to_string();
    assert_eq!(refused, "ERROR: <input>:1:10: undefined field 'other'\n | variables.other\n | .........^");
}

#[test]
fn admission_variables_are_typed_and_only_there_when_declared() {
    let env = Admission::default().environment();
    let request = json!({"operation": "UPDATE", "namespace": "ns", "userInfo": {"username": "u", "groups": ["g"], "extra": {"k": ["v"]}}, "kind": {"group": "", "kind": "Pod"}, "dryRun": false});
    let namespace = json!({"metadata": {"name": "ns", "labels": {"env": "prod"}, "creationTimestamp": "2020-01-01T00:00:00Z"}});
    let names = Activation::new()
        .bind("object", Value::Null)
        .bind("oldObject", Value::Null)
        .bind("request", Value::typed(&request, &uses::admission_request()))
        .bind("namespaceObject", Value::typed(&namespace, &uses::namespace()));
    for text in [
        "request.operation == 'UPDATE' && request.namespace == 'ns' && 'g' in request.userInfo.groups && request.kind.kind == 'Pod'",
        "request.userInfo.extra['k'].exists(v, v == 'v') && !request.dryRun && !has(request.subResource)",
        "namespaceObject.metadata.labels['env'] == 'prod' && namespaceObject.metadata.creationTimestamp.getFullYear() == 2020",
        "object == null && oldObject == null",
    ] {
        assert_eq!(eval(&env.compile(text).unwrap_or_else(|e| panic!("{e}")), &names), Ok(json!(true)), "{text}");
    }
    for (text, error) in [
        ("params.x", "undeclared reference to 'params' (in container '')"),
        ("authorizer.path('/')", "undeclared reference to 'authorizer' (in container '')"),
        ("variables.x", "undeclared reference to 'variables' (in container '')"),
        ("request.operations", "undefined field 'operations'"),
        ("Object{}", "undeclared reference to 'Object' (in container '')"),
    ] {
        let found = env.compile(text).unwrap_err();
        assert_eq!(found.issues[0].message, error, "{text}");
    }
    let env = Admission::MATCH_CONDITION.environment();
    assert!(env.compile("authorizer.requestResource.check('get').allowed() && object.metadata.name != ''").is_ok());
    let program = env.compile("object.spec.x == 1").unwrap();
    let object = json!({"spec": {}});
    let error = program.eval(&Activation::new().bind("object", Value::json(&object)), &mut Budget::default()).unwrap_err();
    assert_eq!(error, EvalError::Runtime("no such key: x".into()));
}

#[test]
fn devices_have_a_map_for_every_domain() {
    let device = json!({"attributes": {"model": {"string": "a"}, "other.example/version": {"version": "1.2.3"}, "n": {"int": 3}, "ok": {"bool": true}}, "capacity": {"mem": {"value": "2Gi"}}});
    let names = Activation::new().bind("device", uses::device("d.example", &device));
    for (text, want) in [
        ("device.driver == 'd.example'", Ok(true)),
        ("device.attributes['d.example'].model == 'a' && device.attributes['d.example'].n == 3 && device.attributes['d.example'].ok", Ok(true)),
        ("device.attributes['other.example'].version.isGreaterThan(semver('1.0.0'))", Ok(true)),
        ("device.capacity['d.example'].mem.compareTo(quantity('2Gi')) == 0", Ok(true)),
        ("'x' in device.attributes['unknown.example']", Ok(false)),
        ("'unknown.example' in device.attributes", Ok(false)),
        ("device.attributes['unknown.example'].x == 1", Err("no such key: x")),
        ("has(device.attributes['unknown.example'].x)", Ok(false)),
    ] {
        let program = uses::device_selector().compile(text).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(eval(&program, &names), want.map(|b| json!(b)).map_err(str::to_owned), "{text}");
    }
}

#[test]
fn authentication_and_authorization_name_their_variables() {
    assert!(uses::authentication_claims().compile("claims.sub + ':' + claims.?aud.orValue('x')").is_ok());
    let user = uses::authentication_user();
    assert!(user.compile("!user.username.startsWith('system:') && user.groups.all(g, g != '')").unwrap().returns(&Type::Bool));
    assert!(user.compile("user.name").is_err());
    assert!(uses::authorization_request().compile("has(request.resourceAttributes) && request.resourceAttributes.verb == 'get' && 'g' in request.groups").is_ok());
    let decl = Arc::new(Decl::from(Type::Bool));
    assert!(Environment::new().declare("x", decl).compile("x").unwrap().returns(&Type::Bool));
}
