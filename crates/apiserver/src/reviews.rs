//! Questions to the authorizer and authenticator: access reviews, rules reviews, token reviews, self reviews; and `bindings`.

use crate::chain::{Asked, method_not_allowed};
use crate::negotiate::{self, Forms};
use crate::respond::{self, Style};
use crate::server::Inner;
use crate::token_request::body_tree;
use http::Response;
use keles_api::Status;
use keles_auth::rbac::Rule;
use keles_auth::{Attributes, User};
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
    let style = Style::new(negotiate::accept(&parts.headers, Forms::Plain)?, &parts.headers, &asked.query);
    let mut review = body_tree(&parts.headers, body).await?;
    if !review.is_object() {
        return Err(Status::bad_request("the body is not an object"));
    }
    let namespace = asked.info.namespace.as_str();
    match asked.info.resource.as_str() {
        "bindings" => return binding(server, &asked.info.namespace, &asked.user, &asked.query, review, &style).await,
        "selfsubjectaccessreviews" => review["status"] = self_access(server, &asked.user, &review)?,
        "subjectaccessreviews" => review["status"] = subject_access(server, &review, None)?,
        "localsubjectaccessreviews" => review["status"] = subject_access(server, &review, Some(namespace))?,
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
    subresource: String,
    name: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct PathAttributes {
    path: String,
    verb: String,
}

fn access_spec(review: &Value) -> Result<AccessSpec, Status> {
    let spec: Option<AccessSpec> = Option::deserialize(&review["spec"]).map_err(|e| Status::bad_request(format!("spec is not readable: {e}")))?;
    let spec = spec.unwrap_or_default();
    if spec.resource_attributes.is_some() == spec.non_resource_attributes.is_some() {
        return Err(Status::bad_request("spec: Invalid value: exactly one of nonResourceAttributes or resourceAttributes must be specified"));
    }
    Ok(spec)
}

fn decide(server: &Inner, user: &User, spec: &AccessSpec) -> Value {
    let reason = match (&spec.resource_attributes, &spec.non_resource_attributes) {
        (Some(r), _) => server.decide(&Attributes {
            user,
            verb: &r.verb,
            group: &r.group,
            resource: &r.resource,
            subresource: &r.subresource,
            namespace: &r.namespace,
            name: &r.name,
            path: "",
        }),
        (None, Some(p)) => server.decide(&Attributes { user, verb: &p.verb, group: "", resource: "", subresource: "", namespace: "", name: "", path: &p.path }),
        (None, None) => None,
    };
    let mut status = Map::from_iter([("allowed".to_owned(), json!(reason.is_some()))]);
    if let Some(text) = reason.map(|r| r.to_string()).filter(|t| !t.is_empty()) {
        status.insert("reason".into(), text.into());
    }
    Value::Object(status)
}

fn self_access(server: &Inner, user: &User, review: &Value) -> Result<Value, Status> {
    Ok(decide(server, user, &access_spec(review)?))
}

fn subject_access(server: &Inner, review: &Value, namespace: Option<&str>) -> Result<Value, Status> {
    let spec = access_spec(review)?;
    if spec.user.is_empty() && spec.groups.as_ref().is_none_or(Vec::is_empty) {
        return Err(Status::bad_request("spec.user: Invalid value: \"\": at least one of user or group must be specified"));
    }
    if let (Some(ns), Some(r)) = (namespace, &spec.resource_attributes)
        && r.namespace != ns
    {
        return Err(Status::bad_request(format!("spec.resourceAttributes.namespace: Invalid value: {:?}: must match metadata.namespace", r.namespace)));
    }
    let user = User { name: spec.user.clone(), uid: spec.uid.clone(), groups: spec.groups.clone().unwrap_or_default(), extra: spec.extra.clone().unwrap_or_default() };
    Ok(decide(server, &user, &spec))
}

fn self_rules(server: &Inner, user: &User, review: &Value) -> Result<Value, Status> {
    let namespace = review["spec"]["namespace"].as_str().unwrap_or_default();
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let (urls, resources): (Vec<Rule>, Vec<Rule>) = server.authorizer.rules(user, namespace).into_iter().partition(|r| !r.non_resource_urls.is_empty());
    Ok(json!({"resourceRules": resources, "nonResourceRules": urls, "incomplete": false}))
}

fn user_info(u: &User) -> Value {
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
    Ok(match server.check_token(token.to_owned(), audiences).await {
        Ok((user, audiences)) => json!({"authenticated": true, "user": user_info(&user), "audiences": audiences}),
        Err(e) => json!({"user": {}, "error": format!("[invalid bearer token, {e}]")}),
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
