//! Questions to the authorizer and authenticator: access reviews, rules reviews, token reviews, self reviews; and `bindings`.

use crate::chain::{Asked, method_not_allowed};
use crate::negotiate::Forms;
use crate::respond::{self, Style};
use crate::server::Inner;
use crate::token_request::body_tree;
use http::Response;
use keles_api::selector::{FieldRequirement, FieldSelector, Operator, Requirement, Selector};
use keles_api::{Path, Problems, Status};
use keles_auth::authorizers::Decision;
use keles_auth::rbac::Rule;
use keles_auth::{Attributes, Selectors, User};
use keles_registry::{Answer, Call, Request as About, Verb};
use keles_serve::Body;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;

pub async fn serve(server: &Inner, asked: Asked) -> Result<Response<Body>, Status> {
    if asked.info.verb != "create" || !asked.info.name.is_empty() {
        return Err(method_not_allowed());
    }
    let (parts, body) = asked.request.into_parts();
    let style = Style::new(server.media().accept(&parts.headers, Forms::Plain)?, &parts.headers, &asked.query);
    let mut review = body_tree(server.media(), &parts.headers, body).await?;
    if !review.is_object() {
        return Err(Status::bad_request("the body is not an object"));
    }
    let namespace = asked.info.namespace.as_str();
    match asked.info.resource.as_str() {
        "bindings" => return binding(server, &asked.info.namespace, &asked.user, &asked.query, review, &style).await,
        "selfsubjectaccessreviews" => review["status"] = self_access(server, &asked.user, &review).await?,
        "subjectaccessreviews" => review["status"] = subject_access(server, &review, None).await?,
        "localsubjectaccessreviews" => review["status"] = subject_access(server, &review, Some(namespace)).await?,
        "selfsubjectrulesreviews" => review["status"] = self_rules(server, &asked.user, &review)?,
        "selfsubjectreviews" => review["status"] = json!({"userInfo": user_info(&asked.user)}),
        "tokenreviews" => review["status"] = token(server, &review).await?,
        other => return Err(Status::not_implemented(&format!("the resource {other}"))),
    }
    let v = keles_kinds::VIRTUAL.iter().find(|v| v.plural == asked.info.resource && v.group == asked.info.group);
    review["apiVersion"] = format!("{}/{}", asked.info.group, asked.info.version).into();
    review["kind"] = v.map_or("", |v| v.kind).into();
    if !review["metadata"].is_object() {
        review["metadata"] = json!({});
    }
    if review.get("spec").is_none_or(Value::is_null) {
        review.as_object_mut().expect("checked above").remove("spec");
        if !asked.info.resource.ends_with("selfsubjectreviews") {
            review["spec"] = json!({});
        }
    }
    let answer = Answer { code: 201, ..Answer::ok(serde_json::to_vec(&review).expect("a JSON tree always encodes")) };
    Ok(respond::answer(answer, &style, &server.stops))
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct AccessSpec {
    resource_attributes: Option<ResourceAttributes>,
    non_resource_attributes: Option<PathAttributes>,
    user: String,
    groups: Option<Vec<String>>,
    uid: String,
    extra: Option<std::collections::BTreeMap<String, Vec<String>>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ResourceAttributes {
    namespace: String,
    verb: String,
    group: String,
    resource: String,
    version: String,
    subresource: String,
    name: String,
    #[serde(rename = "fieldSelector")]
    field_selector: Option<SelectorAttributes>,
    #[serde(rename = "labelSelector")]
    label_selector: Option<SelectorAttributes>,
}

/// KEP-4601: as it stands in a query, or taken apart.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct SelectorAttributes {
    raw_selector: String,
    requirements: Option<Vec<SelectorRequirement>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct SelectorRequirement {
    key: String,
    operator: String,
    values: Option<Vec<String>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct PathAttributes {
    path: String,
    verb: String,
}

fn access_spec(review: &Value, problems: &mut Problems) -> Result<AccessSpec, Status> {
    let spec: Option<AccessSpec> = Option::deserialize(&review["spec"]).map_err(|e| Status::bad_request(format!("spec is not readable: {e}")))?;
    let spec = spec.unwrap_or_default();
    let at = Path::new("spec");
    match (&spec.resource_attributes, &spec.non_resource_attributes) {
        (Some(_), Some(_)) => {
            problems.invalid(&at.child("nonResourceAttributes"), review["spec"]["nonResourceAttributes"].clone(), "cannot be specified in combination with resourceAttributes")
        }
        (None, None) => problems.invalid(&at.child("resourceAttributes"), Value::Null, "exactly one of nonResourceAttributes or resourceAttributes must be specified"),
        _ => {}
    }
    Ok(spec)
}

fn check_selectors(spec: &AccessSpec, problems: &mut Problems) {
    let Some(r) = &spec.resource_attributes else { return };
    let at = Path::new("spec").child("resourceAttributes");
    for (field, s) in [("fieldSelector", &r.field_selector), ("labelSelector", &r.label_selector)] {
        let Some(s) = s else { continue };
        let at = at.child(field);
        let requirements = s.requirements.as_deref().unwrap_or_default();
        if !s.raw_selector.is_empty() && !requirements.is_empty() {
            problems.invalid(&at.child("rawSelector"), s.raw_selector.as_str(), "may not specified at the same time as requirements");
        }
        if s.raw_selector.is_empty() && requirements.is_empty() {
            problems.required(&at.child("requirements"), format!("when {} is specified, requirements or rawSelector is required", at));
        }
        for (i, q) in requirements.iter().enumerate() {
            let at = at.child("requirements").index(i);
            if q.key.is_empty() {
                problems.required(&at.child("key"), "must be specified");
            }
            let values = q.values.as_deref().unwrap_or_default();
            match q.operator.as_str() {
                "In" | "NotIn" if values.is_empty() => problems.required(&at.child("values"), "must be specified when `operator` is 'In' or 'NotIn'"),
                "Exists" | "DoesNotExist" if !values.is_empty() => problems.forbidden(&at.child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"),
                // Operators of the future are not refused: they limit nothing.
                _ => {}
            }
        }
    }
}

/// The selectors as the authorizers see them; what is not understood limits nothing.
fn selectors(r: &ResourceAttributes) -> Option<Selectors> {
    let mut out = Selectors::default();
    if let Some(f) = &r.field_selector {
        out.fields = FieldSelector::parse(&f.raw_selector).unwrap_or_default();
        for q in f.requirements.as_deref().unwrap_or_default() {
            let not = match q.operator.as_str() {
                "In" => false,
                "NotIn" => true,
                _ => continue,
            };
            if let [value] = q.values.as_deref().unwrap_or_default() {
                out.fields.requirements.push(FieldRequirement { field: q.key.clone(), value: value.clone(), not });
            }
        }
    }
    if let Some(l) = &r.label_selector {
        out.labels = Selector::parse(&l.raw_selector).unwrap_or_else(|_| Selector::everything());
        for q in l.requirements.as_deref().unwrap_or_default() {
            let operator = match q.operator.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                _ => continue,
            };
            out.labels.requirements.extend(Requirement::new(&q.key, operator, q.values.clone().unwrap_or_default(), &Path::new("labelSelector")));
        }
    }
    (r.field_selector.is_some() || r.label_selector.is_some()).then_some(out)
}

async fn decide(server: &Inner, user: &User, spec: &AccessSpec) -> Value {
    let none = ResourceAttributes::default();
    let r = spec.resource_attributes.as_ref().unwrap_or(&none);
    let selectors = selectors(r);
    let question = match &spec.non_resource_attributes {
        Some(p) => Attributes { verb: &p.verb, path: &p.path, ..Attributes::of(user) },
        None => Attributes {
            verb: &r.verb,
            group: &r.group,
            version: &r.version,
            resource: &r.resource,
            subresource: &r.subresource,
            namespace: &r.namespace,
            name: &r.name,
            selectors: selectors.as_ref(),
            ..Attributes::of(user)
        },
    };
    let (allowed, denied, reason) = match server.authorizers.ask(&question).await {
        Decision::Allow(reason) => (true, false, reason.to_string()),
        Decision::Deny(why) => (false, true, why),
        Decision::NoOpinion(why) => (false, false, why),
    };
    let mut status = Map::from_iter([("allowed".to_owned(), json!(allowed))]);
    if denied {
        status.insert("denied".into(), true.into());
    }
    if !reason.is_empty() {
        status.insert("reason".into(), reason.into());
    }
    Value::Object(status)
}

/// Upstream validates reviews after it took the kind off them: its message names the group alone.
fn refuse(problems: &Problems) -> Result<(), Status> {
    if problems.is_empty() { Ok(()) } else { Err(Status::invalid("authorization.k8s.io", "", "", problems)) }
}

async fn self_access(server: &Inner, user: &User, review: &Value) -> Result<Value, Status> {
    let mut problems = Problems::new();
    let spec = access_spec(review, &mut problems)?;
    check_selectors(&spec, &mut problems);
    refuse(&problems)?;
    Ok(decide(server, user, &spec).await)
}

async fn subject_access(server: &Inner, review: &Value, namespace: Option<&str>) -> Result<Value, Status> {
    let mut problems = Problems::new();
    let spec = access_spec(review, &mut problems)?;
    if spec.user.is_empty() && spec.groups.as_ref().is_none_or(Vec::is_empty) {
        problems.invalid(&Path::new("spec").child("user"), "", "at least one of user or group must be specified");
    }
    check_selectors(&spec, &mut problems);
    if let Some(ns) = namespace {
        match &spec.resource_attributes {
            Some(r) if r.namespace != ns => {
                problems.invalid(&Path::new("spec").child("resourceAttributes").child("namespace"), r.namespace.as_str(), "must match metadata.namespace")
            }
            _ => {}
        }
        if spec.non_resource_attributes.is_some() {
            problems.invalid(&Path::new("spec").child("nonResourceAttributes"), review["spec"]["nonResourceAttributes"].clone(), "disallowed on this kind of request");
        }
    }
    refuse(&problems)?;
    let user = User { name: spec.user.clone(), uid: spec.uid.clone(), groups: spec.groups.clone().unwrap_or_default(), extra: spec.extra.clone().unwrap_or_default() };
    Ok(decide(server, &user, &spec).await)
}

fn self_rules(server: &Inner, user: &User, review: &Value) -> Result<Value, Status> {
    let namespace = review["spec"]["namespace"].as_str().unwrap_or_default();
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let known = server.authorizers.rules(user, namespace);
    let (urls, resources): (Vec<Rule>, Vec<Rule>) = known.rules.into_iter().partition(|r| !r.non_resource_urls.is_empty());
    let mut status = json!({"resourceRules": resources, "nonResourceRules": urls, "incomplete": known.incomplete.is_some()});
    if let Some(why) = known.incomplete {
        status["evaluationError"] = why.into();
    }
    Ok(status)
}

/// A user as `UserInfo` of the API.
pub fn user_info(u: &User) -> Value {
    let mut o = Map::new();
    let mut put = |k: &str, v: Value, present: bool| present.then(|| o.insert(k.into(), v));
    put("username", json!(u.name), !u.name.is_empty());
    put("uid", json!(u.uid), !u.uid.is_empty());
    put("groups", json!(u.groups), !u.groups.is_empty());
    put("extra", json!(u.extra), !u.extra.is_empty());
    Value::Object(o)
}

async fn token(server: &Inner, review: &Value) -> Result<Value, Status> {
    let token = review["spec"]["token"].as_str().unwrap_or_default();
    if token.is_empty() {
        return Err(Status::bad_request("token is required for TokenReview in authentication"));
    }
    let audiences: Vec<String> = Option::deserialize(&review["spec"]["audiences"]).ok().flatten().unwrap_or_default();
    Ok(match server.authentication.tokens.authenticate(token, &audiences).await {
        Ok(a) => json!({"authenticated": true, "user": user_info(&a.user), "audiences": a.audiences}),
        Err(why) if why.is_empty() => json!({"user": {}, "error": "invalid bearer token"}),
        Err(why) => {
            let why: Vec<String> = why.iter().map(ToString::to_string).collect();
            json!({"user": {}, "error": format!("[invalid bearer token, {}]", why.join(", "))})
        }
    })
}

/// `POST …/bindings`: the old place of `pods/NAME/binding`, which the registry serves.
async fn binding(server: &Inner, namespace: &str, user: &Arc<User>, query: &keles_registry::Query, body: Value, style: &Style) -> Result<Response<Body>, Status> {
    let name = body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if name.is_empty() {
        return Err(Status::bad_request("name is required"));
    }
    let request = About {
        user: (**user).clone(),
        version: "v1".into(),
        plural: "pods".into(),
        subresource: "binding".into(),
        namespace: namespace.into(),
        name,
        now: crate::chain::now(),
        ..About::default()
    };
    let call = Call { request, query: query.clone(), body: serde_json::to_vec(&body).expect("a JSON tree always encodes").into(), ..Call::default() };
    Ok(respond::answer(server.registry.serve(Verb::Create, call).await?, style, &server.stops))
}
