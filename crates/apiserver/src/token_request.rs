//! `serviceaccounts/NAME/token`: makes a token, bound to a pod, secret or node when asked.
//!
//! Rules and texts: kubernetes pkg/registry/core/serviceaccount/storage/token.go and pkg/apis/authentication/validation.

use crate::chain::{Asked, method_not_allowed, read};
use crate::negotiate::{Forms, Media};
use crate::respond::{self, Style};
use crate::server::Inner;
use http::Response;
use keles_api::{GroupVersion, Object, Path, Problems, Status};
use keles_auth::tokens::{Bindings, Claims, Reference};
use keles_registry::{Answer, Request as About};
use keles_serve::Body;
use serde::Deserialize;
use serde_json::{Value, json};

const DEFAULT_SECONDS: i64 = 3600;
const MIN_SECONDS: i64 = 600;
const MAX_SECONDS: i64 = 1 << 32;
/// What kubelets ask for: a token of this life lives a year, and warns after it (KEP-1205's safe rotation).
const ROTATED_SECONDS: i64 = 3607;
const EXTENDED_SECONDS: i64 = 365 * 24 * 3600;

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    audiences: Option<Vec<String>>,
    expiration_seconds: Option<i64>,
    bound_object_ref: Option<Bound>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Bound {
    api_version: String,
    kind: String,
    name: String,
    uid: String,
}

/// The body of a request as a tree.
pub async fn body_tree(media: Media, headers: &http::HeaderMap, body: Body) -> Result<Value, Status> {
    let (bytes, format) = media.body(headers, read(body).await?)?;
    keles_api::decode::parse(&bytes, format)
}

pub async fn serve(server: &Inner, asked: Asked) -> Result<Response<Body>, Status> {
    if asked.info.verb != "create" {
        return Err(method_not_allowed());
    }
    let (parts, body) = asked.request.into_parts();
    let style = Style::new(server.media().accept(&parts.headers, Forms::Plain)?, &parts.headers, &asked.query);
    let mut posted = Object(body_tree(server.media(), &parts.headers, body).await?);
    let about = About {
        user: (*asked.user).clone(),
        version: "v1".into(),
        plural: asked.info.resource.clone(),
        subresource: asked.info.subresource.clone(),
        namespace: asked.info.namespace.clone(),
        name: asked.info.name.clone(),
        now: crate::chain::now(),
        ..About::default()
    };
    let mut warnings = server.registry.admit_posted(&about, &mut posted).await?;
    let tree = posted.0;
    let spec: Spec = Option::deserialize(&tree["spec"])
        .map_err(|e| Status::bad_request(format!("TokenRequest in version \"v1\" cannot be handled as a TokenRequest: {e}")))?
        .unwrap_or_default();
    let (namespace, name) = (asked.info.namespace.as_str(), asked.info.name.as_str());
    server.registry.catch_up().await?;
    let account = server.registry.read("", "serviceaccounts", namespace, name).ok_or_else(|| Status::not_found("", "serviceaccounts", name))?;
    let asked_seconds = spec.expiration_seconds.unwrap_or(DEFAULT_SECONDS);
    check(&spec, asked_seconds)?;
    let options = &server.config.service_accounts;
    let seconds = options.max_expiration.map_or(asked_seconds, |most| asked_seconds.min(most.as_secs() as i64));

    let now = jiff::Timestamp::now().as_second();
    let mut kubernetes = Bindings { namespace: namespace.into(), serviceaccount: reference(&account), ..Bindings::default() };
    if let Some(b) = &spec.bound_object_ref {
        bind(server, namespace, &account, b, &mut kubernetes)?;
    }
    let audiences = spec.audiences.filter(|a| !a.is_empty()).unwrap_or_else(|| server.tokens.audiences().to_vec());
    let extend = !options.no_extension && seconds == ROTATED_SECONDS && kubernetes.pod.is_some() && audiences == server.tokens.audiences();
    if extend {
        kubernetes.warnafter = Some(now + seconds);
    }
    let claims = Claims {
        aud: audiences.clone(),
        exp: now + if extend { EXTENDED_SECONDS } else { seconds },
        iat: now,
        iss: server.tokens.issuer().into(),
        jti: uuid::Uuid::new_v4().to_string(),
        kubernetes,
        nbf: now,
        sub: format!("{}{namespace}:{name}", keles_auth::SERVICE_ACCOUNT_PREFIX),
    };
    let tokens = server.tokens.clone();
    // Signing takes a millisecond, and waits for the key on a first start: off the event loop.
    let token = tokio::task::spawn_blocking(move || tokens.sign(&claims)).await.map_err(Status::internal)?.map_err(Status::internal)?;
    let expires = jiff::Timestamp::from_second(now + seconds).map_err(Status::internal)?.to_string();
    let mut answer = tree;
    answer["apiVersion"] = "authentication.k8s.io/v1".into();
    answer["kind"] = "TokenRequest".into();
    answer["metadata"] = json!({"name": name, "namespace": namespace, "creationTimestamp": crate::chain::now()});
    answer["spec"]["audiences"] = json!(audiences);
    answer["spec"]["expirationSeconds"] = json!(seconds);
    answer["spec"]["boundObjectRef"] = answer["spec"]["boundObjectRef"].take();
    answer["status"] = json!({"token": token, "expirationTimestamp": expires});
    warnings.extend((seconds < asked_seconds).then(|| format!("requested expiration of {asked_seconds} seconds shortened to {seconds} seconds")));
    let made = Answer { code: 201, warnings, ..Answer::ok(serde_json::to_vec(&answer).expect("a JSON tree always encodes")) };
    Ok(respond::answer(made, &style, &server.stops))
}

fn reference(o: &Object) -> Reference {
    Reference { name: o.name().into(), uid: o.uid().into() }
}

fn check(spec: &Spec, seconds: i64) -> Result<(), Status> {
    let mut p = Problems::new();
    let at = Path::new("spec").child("expirationSeconds");
    if seconds < MIN_SECONDS {
        p.invalid(&at, seconds, "may not specify a duration less than 10 minutes");
    }
    if seconds > MAX_SECONDS {
        p.invalid(&at, seconds, "may not specify a duration larger than 2^32 seconds");
    }
    let _ = spec;
    if p.is_empty() { Ok(()) } else { Err(Status::invalid("authentication.k8s.io", "TokenRequest", "", &p)) }
}

/// Binds to an object that exists now, of the uid given.
fn bind(server: &Inner, namespace: &str, account: &Object, b: &Bound, k: &mut Bindings) -> Result<(), Status> {
    // The version plays no part, as upstream.
    let version = GroupVersion::parse(&b.api_version);
    let (plural, of) = match (version.group.as_str(), b.kind.as_str()) {
        ("", "Pod") => ("pods", namespace),
        ("", "Secret") => ("secrets", namespace),
        ("", "Node") => ("nodes", ""),
        _ => return Err(Status::bad_request(format!("cannot bind token to object of type {}/{}, Kind={}", version.group, version.version, b.kind))),
    };
    let o = server.registry.read("", plural, of, &b.name).ok_or_else(|| Status::not_found("", plural, &b.name))?;
    if !b.uid.is_empty() && b.uid != o.uid() {
        return Err(Status::conflict(
            "",
            plural,
            &b.name,
            format!("the UID in the bound object reference ({}) does not match the UID in record. The object might have been deleted and then recreated", b.uid),
        ));
    }
    match plural {
        "pods" => {
            if o.str_at(&["spec", "serviceAccountName"]) != account.name() {
                return Err(Status::bad_request(format!("cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.", account.name())));
            }
            let node = o.str_at(&["spec", "nodeName"]);
            if !node.is_empty() {
                let uid = server.registry.read("", "nodes", "", node).map(|n| n.uid().to_owned()).unwrap_or_default();
                k.node = Some(Reference { name: node.into(), uid });
            }
            k.pod = Some(reference(&o));
        }
        "secrets" => k.secret = Some(reference(&o)),
        _ => k.node = Some(reference(&o)),
    }
    Ok(())
}
