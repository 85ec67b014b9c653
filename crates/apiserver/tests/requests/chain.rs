//! The whole chain over real sockets: TLS, authentication, authorization, negotiation, discovery, watch, service addresses, tokens.

use crate::world::{Client, World};
use http::{Method, StatusCode};
use serde_json::{Value, json};

const POD: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i"}]}}"#;

#[tokio::test]
async fn strangers_reach_health_and_version_only() {
    let w = World::start().await;
    let nobody = w.stranger();
    for path in ["/healthz", "/livez", "/readyz", "/version"] {
        assert_eq!(nobody.get(path).await.status, StatusCode::OK, "{path}");
    }
    for path in ["/api", "/apis", "/apis/apps/v1", "/metrics", "/openapi/v3", "/api/v1/secrets", "/api/v1/namespaces/default/pods/x/exec?command=sh"] {
        let a = nobody.get(path).await;
        assert_eq!((a.status, a.json()["reason"].as_str()), (StatusCode::FORBIDDEN, Some("Forbidden")), "{path}");
    }
    let a = nobody.get("/api/v1/secrets").await;
    assert_eq!(a.json()["message"], "secrets is forbidden: User \"system:anonymous\" cannot list resource \"secrets\" in API group \"\" at the cluster scope");
}

#[tokio::test]
async fn bad_credentials_are_401() {
    let w = World::start().await;
    let a = w.stranger().with_header("authorization", "Bearer x.y.z").get("/version").await;
    assert_eq!((a.status, a.json()["message"].as_str()), (StatusCode::UNAUTHORIZED, Some("Unauthorized")));
    assert_eq!(w.foreign_certificate().get("/version").await.status, StatusCode::UNAUTHORIZED, "a certificate of another CA");
}

#[tokio::test]
async fn every_answer_has_an_audit_id_and_errors_are_statuses() {
    let w = World::start().await;
    let a = w.admin().get("/api/v1/namespaces/default/pods/absent").await;
    assert_eq!(a.status, StatusCode::NOT_FOUND);
    assert_eq!(a.json()["message"], "pods \"absent\" not found");
    assert_eq!(a.header("audit-id").len(), 36);
    let a = w.admin().with_header("audit-id", "mine").get("/version").await;
    assert_eq!(a.header("audit-id"), "mine");
    let a = w.admin().get("/apis/nothing.example/v1/things").await;
    assert_eq!((a.status, a.text().as_str()), (StatusCode::NOT_FOUND, "404 page not found\n"));
}

#[tokio::test]
async fn methods_that_a_path_has_not_are_405() {
    let w = World::start().await;
    let admin = w.admin();
    for (method, path) in [
        (Method::POST, "/api/v1/pods"),
        (Method::DELETE, "/api/v1/configmaps"),
        (Method::POST, "/api/v1/namespaces/default/configmaps/x"),
        (Method::PUT, "/api/v1/namespaces/default/configmaps"),
        (Method::POST, "/version"),
    ] {
        let a = admin.send(method, path, "application/json", b"{}".to_vec()).await;
        assert_eq!((a.status.as_u16(), a.json()["reason"].as_str()), (405, Some("MethodNotAllowed")), "{path}");
    }
    for path in ["/api/v1/namespaces/default/nodes", "/api/v1/namespaces/default/pods/p/nothing", "/api/v1/namespaces/default/pods/a/b/c/d"] {
        assert_eq!(admin.get(path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn negotiation_refuses_what_it_cannot_read_or_write() {
    let w = World::start().await;
    let admin = w.admin();
    let a = admin.send(Method::POST, "/api/v1/namespaces/default/configmaps", "application/cbor", b"x".to_vec()).await;
    assert_eq!(a.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let a = admin.clone().with_header("accept", "application/cbor").get("/api/v1/namespaces").await;
    assert_eq!(a.status, StatusCode::NOT_ACCEPTABLE);
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    assert_eq!(admin.clone().with_header("accept", table).get("/api/v1/namespaces").await.json()["kind"], "Table");
    let a = admin.clone().with_header("accept", table).send(Method::POST, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "application/json", b"{}".to_vec()).await;
    assert_eq!(a.status, StatusCode::NOT_ACCEPTABLE, "reviews have no table");
    let yaml = admin.clone().with_header("accept", "application/yaml").get("/api/v1/namespaces/default").await;
    assert!(yaml.text().contains("kind: Namespace\n"), "{}", yaml.text());
    let a = admin.send(Method::POST, "/api/v1/namespaces/default/configmaps", "application/yaml", b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: in-yaml}\n".to_vec()).await;
    assert_eq!(a.status, StatusCode::CREATED);
}

#[tokio::test]
async fn bodies_over_3_mib_are_refused_and_nothing_is_kept() {
    let w = World::start().await;
    let big = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "big"}, "data": {"x": "y".repeat(3 << 20)}});
    let a = w.admin().post("/api/v1/namespaces/default/configmaps", &big).await;
    assert_eq!((a.status.as_u16(), a.json()["reason"].as_str()), (413, Some("RequestEntityTooLarge")));
    assert_eq!(w.admin().get("/api/v1/namespaces/default/configmaps/big").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn large_answers_are_compressed_when_asked_for() {
    let w = World::start().await;
    let data = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "big"}, "data": {"x": "y".repeat(300 << 10)}});
    assert_eq!(w.admin().post("/api/v1/namespaces/default/configmaps", &data).await.status, StatusCode::CREATED);
    for path in ["/api/v1/namespaces/default/configmaps/big", "/api/v1/namespaces/default/configmaps"] {
        let plain = w.admin().get(path).await;
        let a = w.admin().with_header("accept-encoding", "gzip").get(path).await;
        assert_eq!(a.header("content-encoding"), "gzip", "{path}");
        assert!(a.body.len() < plain.body.len() / 10);
        let mut text = String::new();
        std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&a.body[..]), &mut text).unwrap();
        // The list's own revision moves on with what the server writes at its start.
        let without_revision = |mut v: Value| v.get_mut("items").map(Value::take).unwrap_or(v);
        assert!(without_revision(serde_json::from_str(&text).unwrap()) == without_revision(plain.json()), "{path}");
    }
}

#[tokio::test]
async fn discovery_answers_with_and_without_a_trailing_slash() {
    let w = World::start().await;
    let admin = w.admin();
    for path in ["/api", "/apis", "/api/v1", "/apis/apps", "/apis/apps/v1"] {
        assert_eq!(admin.get(path).await.json(), admin.get(&format!("{path}/")).await.json(), "{path}");
    }
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let a = admin.clone().with_header("accept", accept).get("/apis").await;
    assert_eq!(a.json()["kind"], "APIGroupDiscoveryList");
    assert!(a.header("content-type").contains("as=APIGroupDiscoveryList"));
    let again = admin.clone().with_header("accept", accept).with_header("if-none-match", &a.header("etag")).get("/apis").await;
    assert_eq!(again.status, StatusCode::NOT_MODIFIED);
}

#[tokio::test]
async fn a_watch_sends_its_first_events_at_once_and_ends_after_its_timeout() {
    let w = World::start().await;
    for path in ["/api/v1/namespaces?watch=1&timeoutSeconds=1", "/api/v1/watch/namespaces?timeoutSeconds=1", "/api/v1/namespaces?watch=&timeoutSeconds=1"] {
        let a = w.admin().get(path).await;
        let names: Vec<String> = a
            .text()
            .lines()
            .map(|l| serde_json::from_str::<Value>(l).unwrap())
            .map(|e| format!("{} {}", e["type"].as_str().unwrap(), e["object"]["metadata"]["name"].as_str().unwrap()))
            .collect();
        assert!(names.contains(&"ADDED default".to_owned()), "{path}: {names:?}");
    }
}

#[tokio::test]
async fn http2_carries_many_watches_on_one_connection() {
    let w = World::start().await;
    const WATCHES: usize = 300;
    let answers = w.admin().many_over_http2("/api/v1/namespaces?watch=1&timeoutSeconds=1", WATCHES).await;
    assert_eq!(answers.len(), WATCHES);
    for a in answers {
        assert!(a.contains("kube-system"));
    }
}

#[tokio::test]
async fn http2_is_chosen_when_offered_and_has_no_connection_header() {
    let w = World::start().await;
    let admin = w.admin();
    assert_eq!(admin.chosen_protocol(&[b"http/1.1", b"h2"]).await.as_deref(), Some(&b"h2"[..]));
    assert_eq!(admin.chosen_protocol(&[b"http/1.1"]).await.as_deref(), Some(&b"http/1.1"[..]));
    // `many_over_http2` asserts that the header is absent
    for path in ["/version", "/api/v1/namespaces", "/api/v1/namespaces/absent", "/nothing", "/api/v1/namespaces?watch=1&timeoutSeconds=1"] {
        let answers = admin.many_over_http2(path, 2).await;
        assert!(answers.iter().all(|a| !a.is_empty()), "{path}");
    }
}

#[tokio::test]
async fn pods_get_what_admission_gives_every_pod() {
    let w = World::start().await;
    let admin = w.admin();
    let refused = admin.send(Method::POST, "/api/v1/namespaces/absent/pods", "application/json", POD.into()).await;
    assert_eq!((refused.status, refused.json()["message"].as_str()), (StatusCode::NOT_FOUND, Some("namespaces \"absent\" not found")));
    admin
        .post(
            "/api/v1/namespaces/default/serviceaccounts",
            &json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}, "imagePullSecrets": [{"name": "pull"}]}),
        )
        .await;
    let pod = admin.send(Method::POST, "/api/v1/namespaces/default/pods", "application/json", POD.into()).await.json();
    let spec = &pod["spec"];
    assert_eq!(spec["serviceAccountName"], "default");
    assert_eq!(spec["imagePullSecrets"][0]["name"], "pull");
    assert!(spec["volumes"][0]["name"].as_str().unwrap().starts_with("kube-api-access-"));
    assert_eq!(spec["containers"][0]["volumeMounts"][0]["mountPath"], "/var/run/secrets/kubernetes.io/serviceaccount");
    assert_eq!(spec["tolerations"].as_array().unwrap().len(), 2);
    assert_eq!((spec["priority"].as_i64(), spec["preemptionPolicy"].as_str()), (Some(0), Some("PreemptLowerPriority")));
    let unknown = POD.replace(r#""spec":{"#, r#""spec":{"priorityClassName":"nope","#).replace(r#""p""#, r#""p2""#);
    let a = admin.send(Method::POST, "/api/v1/namespaces/default/pods", "application/json", unknown.into()).await;
    assert_eq!((a.status, a.json()["message"].as_str()), (StatusCode::FORBIDDEN, Some("pods \"p2\" is forbidden: no PriorityClass with name nope was found")));
    let a = admin.send(Method::DELETE, "/api/v1/namespaces/default", "application/json", vec![]).await;
    assert_eq!((a.status, a.json()["message"].as_str()), (StatusCode::FORBIDDEN, Some("namespaces \"default\" is forbidden: this namespace may not be deleted")));
}

fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn service_addresses_are_given_once_and_given_back() {
    let w = World::start().await;
    let admin = w.admin();
    let at = "/api/v1/namespaces/default/services";
    let a = admin.post(at, &service("a", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}))).await.json();
    let ip = a["spec"]["clusterIP"].as_str().unwrap().to_owned();
    assert!(ip.starts_with("10.43."), "{a}");
    assert_eq!(a["spec"]["ports"][0]["nodePort"], 30080);

    let taken = admin.post(at, &service("b", json!({"clusterIP": ip, "ports": [{"port": 80}]}))).await;
    assert_eq!(taken.status.as_u16(), 422);
    assert!(taken.json()["message"].as_str().unwrap().ends_with(&format!("failed to allocate IP {ip}: provided IP is already allocated")), "{}", taken.text());
    let taken = admin.post(at, &service("b", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}))).await;
    assert_eq!(taken.json()["message"], "Service \"b\" is invalid: spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated");
    let outside = admin.post(at, &service("b", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]}))).await;
    assert_eq!(
        outside.json()["message"],
        "Service \"b\" is invalid: spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767"
    );

    assert_eq!(admin.send(Method::DELETE, &format!("{at}/a"), "application/json", vec![]).await.status, StatusCode::OK);
    let again = admin.post(at, &service("c", json!({"type": "NodePort", "clusterIP": ip, "ports": [{"port": 80, "nodePort": 30080}]}))).await;
    assert_eq!(again.status, StatusCode::CREATED, "{}", again.text());
    let dry = admin.post(&format!("{at}?dryRun=All"), &service("d", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30081}]}))).await;
    assert_eq!(dry.status, StatusCode::CREATED);
    assert_eq!(admin.post(at, &service("e", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30081}]}))).await.status, StatusCode::CREATED, "a dry run holds nothing");
}

#[tokio::test]
async fn service_type_changes_allocate_and_clear() {
    let w = World::start().await;
    let admin = w.admin();
    let at = "/api/v1/namespaces/default/services";
    let mut s = admin.post(at, &service("a", json!({"ports": [{"port": 80}]}))).await.json();
    let ip = s["spec"]["clusterIP"].clone();
    s["spec"]["type"] = "NodePort".into();
    s["spec"].as_object_mut().unwrap().remove("clusterIP");
    s["spec"].as_object_mut().unwrap().remove("clusterIPs");
    let mut s = admin.put(&format!("{at}/a"), &s).await.json();
    assert_eq!(s["spec"]["clusterIP"], ip, "an update that leaves it out keeps it: {s}");
    assert!(s["spec"]["ports"][0]["nodePort"].as_u64().is_some_and(|p| (30000..=32767).contains(&p)));
    s["spec"]["type"] = "ClusterIP".into();
    let mut s = admin.put(&format!("{at}/a"), &s).await.json();
    assert!(s["spec"]["ports"][0]["nodePort"].is_null(), "{s}");
    s["spec"]["type"] = "ExternalName".into();
    s["spec"]["externalName"] = "example.org".into();
    let s = admin.put(&format!("{at}/a"), &s).await.json();
    assert!(s["spec"]["clusterIP"].is_null() && s["spec"]["clusterIPs"].is_null(), "{s}");
    let other = admin.post(at, &service("b", json!({"clusterIP": ip, "ports": [{"port": 80}]}))).await;
    assert_eq!(other.status, StatusCode::CREATED, "the address is free again: {}", other.text());
}

#[tokio::test]
async fn service_addresses_survive_a_restart() {
    let w = World::start().await;
    let at = "/api/v1/namespaces/default/services";
    let ip = w.admin().post(at, &service("a", json!({"ports": [{"port": 80}]}))).await.json()["spec"]["clusterIP"].clone();
    let w = w.restart().await;
    let taken = w.admin().post(at, &service("b", json!({"clusterIP": ip, "ports": [{"port": 80}]}))).await;
    assert_eq!(taken.status.as_u16(), 422, "{}", taken.text());
    assert_eq!(w.admin().get("/api/v1/namespaces/default/services/kubernetes").await.json()["spec"]["clusterIP"], "10.43.0.1");
}

async fn token(admin: &Client, account: &str, spec: Value) -> crate::world::Reply {
    admin
        .post(&format!("/api/v1/namespaces/default/serviceaccounts/{account}/token"), &json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}))
        .await
}

#[tokio::test]
async fn tokens_authenticate_until_their_account_is_gone() {
    let w = World::start().await;
    let admin = w.admin();
    admin.post("/api/v1/namespaces/default/serviceaccounts", &json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "bot"}})).await;
    let made = token(&admin, "bot", json!({})).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
    let jwt = made.json()["status"]["token"].as_str().unwrap().to_owned();
    let bot = w.stranger().with_header("authorization", &format!("Bearer {jwt}"));
    let me = bot.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &json!({})).await.json();
    assert_eq!(me["status"]["userInfo"]["username"], "system:serviceaccount:default:bot");
    let refused = bot.get("/api/v1/namespaces/default/pods").await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    admin.post("/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", &json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "b"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}, "subjects": [{"kind": "ServiceAccount", "name": "bot", "namespace": "default"}]})).await;
    assert_eq!(bot.get("/api/v1/namespaces/default/pods").await.status, StatusCode::OK, "a new binding counts at once");
    assert_eq!(bot.get("/api/v1/namespaces/kube-system/pods").await.status, StatusCode::FORBIDDEN);

    let reviewed = admin.post("/apis/authentication.k8s.io/v1/tokenreviews", &json!({"spec": {"token": jwt}})).await.json();
    assert_eq!((reviewed["status"]["authenticated"].as_bool(), reviewed["status"]["user"]["username"].as_str()), (Some(true), Some("system:serviceaccount:default:bot")));
    let short = token(&admin, "bot", json!({"expirationSeconds": 10})).await;
    assert!(short.json()["message"].as_str().unwrap().contains("may not specify a duration less than 10 minutes"));
    let other = token(&admin, "bot", json!({"audiences": ["vault"]})).await.json();
    let stranger = w.stranger().with_header("authorization", &format!("Bearer {}", other["status"]["token"].as_str().unwrap()));
    assert_eq!(stranger.get("/version").await.status, StatusCode::UNAUTHORIZED, "a token for others is no token for us");

    let keys = w.admin().get("/openid/v1/jwks").await.json();
    assert_eq!(keys["keys"][0]["alg"], "RS256");
    assert_eq!(w.admin().get("/.well-known/openid-configuration").await.json()["issuer"], "https://kubernetes.default.svc.cluster.local");

    admin.send(Method::DELETE, "/api/v1/namespaces/default/serviceaccounts/bot", "application/json", vec![]).await;
    let w = w.restart().await; // a checked token counts for ten seconds more; a new process remembers none
    let bot = w.stranger().with_header("authorization", &format!("Bearer {jwt}"));
    assert_eq!(bot.get("/version").await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn impersonation_needs_the_permission_and_takes_its_place() {
    let w = World::start().await;
    let admin = w.admin();
    let jane = admin.clone().with_header("impersonate-user", "jane").with_header("impersonate-group", "dev");
    let me = jane.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &json!({})).await.json();
    assert_eq!(me["status"]["userInfo"], json!({"username": "jane", "groups": ["dev", "system:authenticated"]}));
    assert_eq!(jane.get("/api/v1/secrets").await.status, StatusCode::FORBIDDEN);
    let a = w.stranger().with_header("impersonate-user", "admin").get("/version").await;
    assert_eq!(a.json()["message"], "forbidden: User \"system:anonymous\" cannot impersonate-on:user-info:get path \"/version\"");
}

#[tokio::test]
async fn access_reviews_answer_through_the_same_authorizer() {
    let w = World::start().await;
    let ask = |user: &str, verb: &str| json!({"spec": {"user": user, "resourceAttributes": {"verb": verb, "resource": "nodes"}}});
    let at = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let yes = w.admin().post(at, &ask("system:kube-scheduler", "list")).await;
    assert_eq!(yes.status, StatusCode::CREATED);
    assert_eq!(yes.json()["status"]["allowed"], true, "{}", yes.text());
    assert_eq!(w.admin().post(at, &ask("jane", "list")).await.json()["status"], json!({"allowed": false}));
    let own = w.admin().post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &json!({"spec": {"resourceAttributes": {"verb": "*", "resource": "*"}}})).await;
    assert_eq!(own.json()["status"]["allowed"], true);
    let rules = w.admin().post("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", &json!({"spec": {"namespace": "default"}})).await.json();
    assert_eq!(rules["status"]["resourceRules"][0]["verbs"], json!(["*"]));
}

#[tokio::test]
async fn nobody_grants_what_they_do_not_hold() {
    let w = World::start().await;
    let admin = w.admin();
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    admin.post(&format!("{rbac}/rolebindings"), &json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "jane"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"}, "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}]})).await;
    let jane = admin.clone().with_header("impersonate-user", "jane");
    let role = |name: &str, resource: &str| json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": name}, "rules": [{"apiGroups": [""], "resources": [resource], "verbs": ["get"]}]});
    assert_eq!(jane.post(&format!("{rbac}/roles"), &role("a", "pods")).await.status, StatusCode::CREATED);
    let refused = jane.post(&format!("{rbac}/roles"), &role("b", "nodes")).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert!(
        refused.json()["message"]
            .as_str()
            .unwrap()
            .contains("is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"nodes\"], Verbs:[\"get\"]}"),
        "{}",
        refused.text()
    );
}

#[tokio::test]
async fn parts_of_this_process_have_users_and_rbac_holds_for_them() {
    use tower::ServiceExt;
    let w = World::start().await;
    let ask = |user: keles_auth::User, path: &str| {
        let request = http::Request::get(path).header("impersonate-nothing", "x").body(http_body_util::Full::new(bytes::Bytes::new())).unwrap();
        w.server().service_for(user).oneshot(request)
    };
    let scheduler = || keles_auth::user("system:kube-scheduler", &[]);
    assert_eq!(ask(scheduler(), "/api/v1/nodes").await.unwrap().status(), StatusCode::OK);
    assert_eq!(ask(scheduler(), "/api/v1/secrets").await.unwrap().status(), StatusCode::FORBIDDEN);
    assert_eq!(ask(keles_auth::user("system:node:n1", &["system:nodes"]), "/api/v1/namespaces/default/secrets/x").await.unwrap().status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn health_names_its_checks() {
    let w = World::start().await;
    let nobody = w.stranger();
    assert_eq!(nobody.get("/readyz").await.text(), "ok");
    let verbose = nobody.get("/readyz?verbose").await.text();
    assert!(verbose.starts_with("[+]ping ok\n") && verbose.ends_with("readyz check passed\n"), "{verbose}");
    assert_eq!(w.admin().get("/readyz/ping").await.text(), "ok");
    assert_eq!(w.admin().get("/readyz/nothing").await.status, StatusCode::NOT_FOUND);
    let metrics = w.admin().get("/metrics").await.text();
    assert!(metrics.contains("apiserver_request_total{") && metrics.contains("process_resident_memory_bytes "), "{metrics}");
}

#[tokio::test]
async fn logs_and_execs_say_what_is_wrong() {
    let w = World::start().await;
    let admin = w.admin();
    admin.post("/api/v1/namespaces/default/serviceaccounts", &json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}})).await;
    admin.send(Method::POST, "/api/v1/namespaces/default/pods", "application/json", POD.into()).await;
    let at = "/api/v1/namespaces/default/pods/p";
    assert_eq!(admin.get(&format!("{at}/log")).await.text(), "", "a pod that has no node has no log");
    let a = admin.get(&format!("{at}/log?container=x")).await;
    assert_eq!((a.status, a.json()["message"].as_str()), (StatusCode::BAD_REQUEST, Some("container x is not valid for pod p")));
    let a = admin.send(Method::POST, &format!("{at}/exec?command=sh&stdout=1"), "application/json", vec![]).await;
    assert_eq!((a.status, a.json()["message"].as_str()), (StatusCode::BAD_REQUEST, Some("pod p does not have a host assigned")));
}

#[tokio::test]
async fn component_statuses_say_how_the_parts_are_in_all_forms() {
    let w = World::start().await;
    let admin = w.admin();
    let at = "/api/v1/componentstatuses";
    let (scheduler, controllers) = (keles_apiserver::component_status::scheduler_present(), keles_apiserver::component_status::controllers_present());
    let a = admin.get(at).await;
    assert_eq!((a.status, a.header("warning").as_str()), (StatusCode::OK, "299 - \"v1 ComponentStatus is deprecated in v1.19+\""));
    let healthy = |name: &str| json!({"metadata": {"name": name}, "conditions": [{"type": "Healthy", "status": "True", "message": "ok"}]});
    let all: Vec<_> = ["scheduler", "controller-manager", "etcd-0"].iter().map(|n| healthy(n)).collect();
    assert_eq!(a.json(), json!({"kind": "ComponentStatusList", "apiVersion": "v1", "metadata": {}, "items": all}));
    let one = admin.get(&format!("{at}/etcd-0")).await.json();
    assert_eq!((&one["kind"], &one["apiVersion"], &one["conditions"]), (&json!("ComponentStatus"), &json!("v1"), &healthy("")["conditions"]));
    let table = admin.clone().with_header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io").get(at).await.json();
    let names: Vec<_> = table["columnDefinitions"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names, ["Name", "Status", "Message", "Error"]);
    assert_eq!(table["rows"][0]["cells"], json!(["scheduler", "Healthy", "ok", ""]));
    let message = admin.clone().with_header("accept", "application/vnd.kubernetes.protobuf").get(at).await;
    assert!(message.status == StatusCode::OK && message.body.starts_with(b"k8s\0"), "{}", message.text());
    let a = admin.get(&format!("{at}/x")).await;
    assert_eq!((a.status.as_u16(), a.json()["message"].as_str()), (500, Some("Component not found: x")));
    assert_eq!(admin.send(Method::DELETE, &format!("{at}/etcd-0"), "application/json", vec![]).await.status, StatusCode::METHOD_NOT_ALLOWED);
    drop((scheduler, controllers));
}

#[tokio::test]
async fn shutdown_ends_watches_cleanly() {
    let w = World::start().await;
    let admin = w.admin();
    let watch = tokio::spawn(async move { admin.get("/api/v1/namespaces?watch=1&timeoutSeconds=600").await });
    let open = async {
        let series = "apiserver_longrunning_requests{component=\"apiserver\",group=\"\",resource=\"namespaces\",scope=\"cluster\",subresource=\"\",verb=\"WATCH\",version=\"v1\"} ";
        while !w.admin().get("/metrics").await.text().lines().any(|l| l.strip_prefix(series).is_some_and(|n| n != "0")) {
            tokio::task::yield_now().await;
        }
    };
    let limit = std::time::Duration::from_secs(60);
    tokio::time::timeout(limit, open).await.expect("the watch is counted while it is open");
    let _w = tokio::time::timeout(limit, w.restart()).await.expect("a watch of ten minutes is not waited for");
    let seen = watch.await.unwrap().text();
    assert!(seen.lines().count() >= 4 && seen.ends_with('\n'), "whole events, then the end: {seen}");
}

#[tokio::test]
async fn noise_on_the_port_harms_nobody() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let w = World::start().await;
    for _ in 0..3 {
        let mut tcp = tokio::net::TcpStream::connect(w.address()).await.unwrap();
        tcp.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut rest = Vec::new();
        let _ = tcp.read_to_end(&mut rest).await;
        assert!(!rest.starts_with(b"HTTP"), "no plain HTTP on the TLS port");
    }
    assert_eq!(w.stranger().get("/version").await.status, StatusCode::OK);
    let long = "x".repeat(2 << 20);
    assert!(w.stranger().with_header("x-long", &long).try_get("/version").await.is_none_or(|r| r.status.is_client_error()), "headers have a limit");
    assert_eq!(w.stranger().get("/version").await.status, StatusCode::OK);
}

#[tokio::test]
async fn history_is_forgotten_while_the_server_runs() {
    let brief = |c: &mut keles_apiserver::Config| c.compaction_interval = std::time::Duration::from_millis(20);
    let w = World::with(brief).await;
    let store = w.store();
    let first = store.revision().await.unwrap();
    let forgotten = async {
        // Each write moves the revision on, as in any cluster that lives; the loop ends with the answer.
        for i in 0.. {
            match store.range(b"", None, 1, Some(first)).await {
                Err(keles_store::StoreError::Compacted { .. }) => return,
                read => drop(read.unwrap()),
            }
            let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("c{i}")}});
            assert_eq!(w.admin().post("/api/v1/namespaces/default/configmaps", &map).await.status, StatusCode::CREATED);
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), forgotten).await.expect("a store that never forgets only grows");
}
