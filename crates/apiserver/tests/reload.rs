//! Files that change while the server runs: configurations of authentication and authorization, authorities, serving certificates.

mod world;

use http::StatusCode;
use keles_apiserver::NamedFiles;
use keles_pki::{Names, Pki};
use serde_json::{Value, json};
use std::path::Path;
use world::peer::Peer;
use world::{Client, World, until};

/// The value of a series on /metrics; none is 0.
async fn metric(w: &World, name: &str, label: &str) -> f64 {
    let text = w.admin().get("/metrics").await.text();
    text.lines().filter(|l| l.starts_with(name) && l.contains(label)).filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// Puts a file in place whole, as those who keep configurations do.
fn put(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

/// Signs nothing: a token of an issuer that is not trusted is not even looked up.
fn token(issuer: &str) -> String {
    use base64::Engine;
    let part = |v: Value| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(v.to_string());
    format!("{}.{}.AAAA", part(json!({"alg": "ES256"})), part(json!({"iss": issuer, "aud": "app", "exp": 4_000_000_000u64, "sub": "jane"})))
}

#[tokio::test]
async fn issuers_come_and_go_with_the_file_once_they_answer() {
    let issuer = Peer::start(|url, path, _| match path {
        "/.well-known/openid-configuration" => json!({"issuer": url, "jwks_uri": format!("{url}/keys")}),
        _ => json!({"keys": []}),
    })
    .await;
    const HEAD: &str = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n";
    let file = issuer.file("authn.yaml", HEAD);
    let path = file.clone();
    let w = World::with(|c| c.authentication.config_file = Some(path)).await;
    let why = async || {
        let review = json!({"spec": {"token": token(&issuer.url)}});
        w.admin().post("/apis/authentication.k8s.io/v1/tokenreviews", &review).await.json()["status"]["error"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(why().await, "invalid bearer token", "nobody knows the issuer");
    let (reloads, success) = ("apiserver_authentication_config_controller_automatic_reloads_total", "status=\"success\"");
    let before = metric(&w, reloads, success).await;
    let ca: String = issuer.ca_pem().lines().map(|l| format!("      {l}\n")).collect();
    put(
        &file,
        &format!(
            "{HEAD}jwt:\n- issuer:\n    url: {}\n    audiences: [app]\n    certificateAuthority: |\n{ca}  claimMappings: {{username: {{claim: sub, prefix: ''}}}}\n",
            issuer.url
        ),
    );
    until("the new issuer", async || why().await.contains("failed to verify signature")).await;
    assert!(issuer.heard().len() >= 2, "its keys were fetched before it counted");
    until("the count", async || metric(&w, reloads, success).await > before).await;
    assert!(metric(&w, "apiserver_authentication_config_controller_automatic_reload_last_timestamp_seconds", success).await > 0.0);
    assert!(metric(&w, "apiserver_authentication_config_controller_last_config_info", "hash=\"sha256:").await >= 1.0);
    let failures = metric(&w, reloads, "status=\"failure\"").await;
    put(&file, "kind: Nothing\n");
    until("the failure", async || metric(&w, reloads, "status=\"failure\"").await > failures).await;
    assert!(why().await.contains("failed to verify signature"), "what was there stays");
    put(&file, HEAD);
    until("no issuer again", async || why().await == "invalid bearer token").await;
}

#[tokio::test]
async fn webhooks_of_the_authorization_configuration_come_and_go_and_other_types_do_not() {
    let hook =
        Peer::start(|_, _, said| json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "status": {"allowed": said["spec"]["user"] == "jane"}})).await;
    const HEAD: &str = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers:\n- {type: RBAC, name: rbac}\n";
    let webhook = format!(
        "- type: Webhook\n  name: hook\n  webhook: {{timeout: 30s, subjectAccessReviewVersion: v1, matchConditionSubjectAccessReviewVersion: v1, failurePolicy: NoOpinion, authorizedTTL: 1s, unauthorizedTTL: 1s, \
         connectionInfo: {{type: KubeConfigFile, kubeConfigFile: {}}}}}\n",
        hook.kubeconfig("/access").display()
    );
    let file = hook.file("authz.yaml", HEAD);
    let path = file.clone();
    let w = World::with(|c| {
        c.authorization.modes = Vec::new();
        c.authorization.config_file = Some(path);
    })
    .await;
    let allowed = async || {
        let ask = json!({"spec": {"user": "jane", "resourceAttributes": {"verb": "list", "resource": "secrets"}}});
        w.admin().post("/apis/authorization.k8s.io/v1/subjectaccessreviews", &ask).await.json()["status"]["allowed"] == true
    };
    assert!(!allowed().await);
    put(&file, &format!("{HEAD}{webhook}"));
    until("the webhook", async || allowed().await).await;
    let name = "apiserver_authorization_config_controller_automatic_reloads_total";
    let failures = metric(&w, name, "status=\"failure\"").await;
    put(&file, &format!("{HEAD}- {{type: Node, name: node}}\n"));
    until("the refusal", async || metric(&w, name, "status=\"failure\"").await > failures).await;
    assert!(allowed().await, "what was there stays");
    put(&file, HEAD);
    until("the end of the webhook", async || !allowed().await).await;
}

async fn who(c: &Client) -> Option<String> {
    let a = c.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &json!({})).await;
    (a.status == StatusCode::CREATED).then(|| a.json()["status"]["userInfo"]["username"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn authorities_of_clients_and_proxies_are_taken_anew_on_open_connections_too() {
    let folder = tempfile::tempdir().unwrap();
    let authority = |name: &str| Pki::open(&folder.path().join(name)).expect("an authority");
    let (first, second) = (authority("first"), authority("second"));
    let (clients, proxies) = (folder.path().join("clients.pem"), folder.path().join("proxies.pem"));
    put(&clients, first.ca_pem());
    put(&proxies, first.front_proxy_ca_pem());
    let (client_ca, proxy_ca) = (clients.clone(), proxies.clone());
    let w = World::with(|c| {
        c.authentication.client_ca_file = Some(client_ca);
        c.authentication.request_header.ca_file = Some(proxy_ca);
    })
    .await;
    let client = |pki: &Pki| w.client_of(Some(pki.client("jane", "jane", None).unwrap()), None);
    let proxy = |pki: &Pki| w.client_of(Some(pki.front_proxy_client().unwrap()), None).with_header("x-remote-user", "bob");
    assert_eq!((who(&client(&first)).await.as_deref(), who(&client(&second)).await), (Some("jane"), None));
    assert_eq!((who(&proxy(&first)).await.as_deref(), who(&proxy(&second)).await), (Some("bob"), None));
    // One connection from before to after.
    let (mut open, _connection) = client(&first).http2().await;
    let mut version = async || {
        let request = http::Request::get("https://localhost/version").body(http_body_util::Full::new(bytes::Bytes::new())).unwrap();
        open.send_request(request).await.expect("an answer").status()
    };
    assert_eq!(version().await, StatusCode::OK);

    put(&clients, second.ca_pem());
    put(&proxies, second.front_proxy_ca_pem());
    until("the new authorities", async || who(&client(&second)).await.as_deref() == Some("jane") && who(&proxy(&second)).await.as_deref() == Some("bob")).await;
    assert_eq!((who(&client(&first)).await, who(&proxy(&first)).await), (None, None));
    assert_eq!(version().await, StatusCode::UNAUTHORIZED, "the open connection is judged anew");
    assert_eq!(who(&w.admin()).await.as_deref(), Some("kubernetes-admin"), "the cluster's own authority counts always");
    let told = async || {
        let map = w.admin().get("/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication").await.json();
        let has = |key: &str, pem: &str| map["data"][key].as_str().is_some_and(|t| t.contains(pem.trim()));
        has("client-ca-file", second.ca_pem()) && has("requestheader-client-ca-file", second.front_proxy_ca_pem())
    };
    until("what aggregated servers are told", told).await;
}

#[tokio::test]
async fn serving_certificates_are_chosen_by_name_and_taken_anew() {
    let folder = tempfile::tempdir().unwrap();
    let authority = |name: &str| Pki::open(&folder.path().join(name)).expect("an authority");
    let (first, second) = (authority("first"), authority("second"));
    let names = |dns: &str| Names { dns: vec![dns.into()], ips: Vec::new() };
    let write = |pki: &Pki, name: &str, dns: &str| {
        let c = pki.kubelet_server("node", &names(dns)).unwrap();
        let files = NamedFiles { certificate: folder.path().join(format!("{name}.crt")), key: folder.path().join(format!("{name}.key")), names: Vec::new() };
        put(&files.key, &c.key_pem);
        put(&files.certificate, &c.certificate_pem);
        files
    };
    let default = write(&first, "default", "api.example");
    let by_name = NamedFiles { names: vec!["*.shop.example".into()], ..write(&second, "shop", "www.shop.example") };
    let w = World::with(|c| {
        c.serving = Some(default);
        c.serving_by_name = vec![by_name];
    })
    .await;
    let trusts = async |pki: &Pki, name: &str| w.client_of(None, Some(pki.ca_der())).by_name(name).shake_hands().await.is_ok();
    assert!(trusts(&first, "api.example").await && trusts(&first, "127.0.0.1").await, "the default, for addresses too");
    assert!(trusts(&second, "www.shop.example").await && !trusts(&first, "www.shop.example").await);
    assert!(who(&w.admin()).await.is_some(), "by the cluster's names ours is shown");
    write(&second, "default", "api.example");
    until("the new certificate", async || trusts(&second, "api.example").await).await;
    assert!(!trusts(&first, "api.example").await);
}
