//! Every authenticator over real sockets: tokens of files, Secrets, issuers and webhooks, front proxies, the anonymous.

use crate::world::peer::Peer;
use crate::world::{Client, World};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::StatusCode;
use keles_auth::authenticators::config::Oidc;
use keles_auth::authenticators::legacy_service_account::LegacyClaims;
use keles_auth::authenticators::webhook;
use keles_pki::SigningKey;
use serde_json::{Value, json};
use std::time::Duration;

async fn who(c: &Client) -> Value {
    c.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &json!({})).await.json()["status"]["userInfo"].clone()
}

async fn review(w: &World, token: &str) -> Value {
    w.admin().post("/apis/authentication.k8s.io/v1/tokenreviews", &json!({"spec": {"token": token}})).await.json()["status"].clone()
}

#[tokio::test]
async fn a_static_token_is_its_user_and_reviews_know_it_too() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "s3cret,jane,7,\"dev,ops\"\n").unwrap();
    let w = World::with(|c| c.authentication.token_file = Some(file.path().into())).await;
    let me = who(&w.bearer("s3cret")).await;
    assert_eq!(me, json!({"username": "jane", "uid": "7", "groups": ["dev", "ops", "system:authenticated"]}));
    let r = review(&w, "s3cret").await;
    assert_eq!((&r["authenticated"], &r["user"]["username"]), (&json!(true), &json!("jane")));
    assert_eq!(r["audiences"], json!(["https://kubernetes.default.svc.cluster.local"]));
    assert_eq!(review(&w, "nobody's").await, json!({"user": {}, "error": "invalid bearer token"}));
    assert_eq!(w.bearer("nobody's").get("/version").await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_bootstrap_token_lives_as_long_as_its_secret() {
    let w = World::with(|c| c.authentication.bootstrap_tokens = true).await;
    const TOKEN: &str = "abcdef.0123456789abcdef";
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bootstrap-token-abcdef", "namespace": "kube-system"}, "type": "bootstrap.kubernetes.io/token",
        "stringData": {"token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true", "auth-extra-groups": "system:bootstrappers:workers"}});
    assert_eq!(w.bearer(TOKEN).get("/version").await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(w.admin().post("/api/v1/namespaces/kube-system/secrets", &secret).await.status, StatusCode::CREATED);
    let me = who(&w.bearer(TOKEN)).await;
    assert_eq!(me, json!({"username": "system:bootstrap:abcdef", "groups": ["system:bootstrappers", "system:bootstrappers:workers", "system:authenticated"]}));
    w.admin().send(http::Method::DELETE, "/api/v1/namespaces/kube-system/secrets/bootstrap-token-abcdef", "application/json", vec![]).await;
    assert_eq!(w.bearer(TOKEN).get("/version").await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_legacy_token_is_good_while_its_secret_holds_it() {
    let w = World::start().await;
    let admin = w.admin();
    let account = admin.post("/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "bot"}, "apiVersion": "v1", "kind": "ServiceAccount"})).await.json();
    let claims = LegacyClaims::new("default", "bot-token", "bot", account["metadata"]["uid"].as_str().unwrap());
    // The server's own key must be made first: the token request waits for it.
    admin.post("/api/v1/namespaces/default/serviceaccounts/bot/token", &json!({"spec": {}})).await;
    let folder = w.folder().to_owned();
    let token = tokio::task::spawn_blocking(move || {
        let key = SigningKey::open(&folder).unwrap();
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256"}"#), URL_SAFE_NO_PAD.encode(serde_json::to_vec(&claims).unwrap()));
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()).unwrap()))
    });
    let token = token.await.unwrap();
    let bot = w.bearer(&token);
    assert_eq!(bot.get("/version").await.status, StatusCode::UNAUTHORIZED, "no Secret holds it");
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bot-token", "annotations": {"kubernetes.io/service-account.name": "bot"}},
        "type": "kubernetes.io/service-account-token", "data": {"token": STANDARD.encode(&token)}});
    let made = admin.post("/api/v1/namespaces/default/secrets", &secret).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
    assert_eq!(who(&bot).await["username"], "system:serviceaccount:default:bot");
    admin.send(http::Method::DELETE, "/api/v1/namespaces/default/secrets/bot-token", "application/json", vec![]).await;
    assert_eq!(bot.get("/version").await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_front_proxy_says_who_asks_and_nobody_else_does() {
    let w = World::start().await;
    let named = |c: Client| c.with_header("x-remote-user", "jane").with_header("x-remote-group", "dev").with_header("x-remote-extra-scope", "a");
    assert_eq!(who(&named(w.front_proxy())).await, json!({"username": "jane", "groups": ["dev", "system:authenticated"], "extra": {"scope": ["a"]}}));
    assert_eq!(who(&named(w.admin())).await["username"], "kubernetes-admin", "headers of others count for nothing");
    assert_eq!(w.front_proxy().get("/version").await.status, StatusCode::UNAUTHORIZED, "a proxy that names nobody");
    assert_eq!(named(w.stranger()).get("/api/v1/secrets").await.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn the_anonymous_reach_what_the_configuration_opens() {
    let config = tempfile::NamedTempFile::new().unwrap();
    let text = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\nanonymous: {enabled: true, conditions: [{path: /livez}]}\n";
    std::fs::write(config.path(), text).unwrap();
    let w = World::with(|c| c.authentication.config_file = Some(config.path().into())).await;
    assert_eq!(w.stranger().get("/livez").await.status, StatusCode::OK);
    assert_eq!(w.stranger().get("/readyz").await.status, StatusCode::UNAUTHORIZED);
    let w = World::with(|c| c.authentication.anonymous = false).await;
    assert_eq!(w.stranger().get("/livez").await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_webhook_reviews_tokens_and_its_answers_are_kept() {
    let hook = Peer::start(|_, path, said| {
        assert_eq!(path, "/review");
        let good = said["spec"]["token"] == "good";
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": {"authenticated": good, "user": {"username": "jane", "groups": ["dev"], "extra": {"k": ["v"]}}}})
    })
    .await;
    let kubeconfig = hook.kubeconfig("/review");
    let w = World::with(|c| c.authentication.webhook = Some(webhook::Options { kubeconfig, version: "v1".into(), cache_ttl: Duration::from_secs(60) })).await;
    let jane = w.bearer("good");
    assert_eq!(who(&jane).await, json!({"username": "jane", "groups": ["dev", "system:authenticated"], "extra": {"k": ["v"]}}));
    assert_eq!(who(&jane).await["username"], "jane");
    assert_eq!(w.bearer("bad").get("/version").await.status, StatusCode::UNAUTHORIZED);
    let said = hook.heard();
    assert_eq!(said.len(), 2, "one question a token");
    assert_eq!((&said[0]["apiVersion"], &said[0]["spec"]["audiences"]), (&json!("authentication.k8s.io/v1"), &json!(["https://kubernetes.default.svc.cluster.local"])));
}

/// An issuer with one RSA key.
struct Issuer {
    peer: Peer,
    key: SigningKey,
    _folder: tempfile::TempDir,
}

impl Issuer {
    async fn start() -> Issuer {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("pki")).unwrap();
        let key = SigningKey::open(folder.path()).unwrap();
        let k = key.clone();
        let jwks: Value = tokio::task::spawn_blocking(move || serde_json::from_str(&k.public().unwrap().jwks()).unwrap()).await.unwrap();
        let signs = key.clone();
        let peer = Peer::start(move |url, path, _| match path {
            "/.well-known/openid-configuration" => json!({"issuer": url, "jwks_uri": format!("{url}/keys")}),
            "/claims" => Issuer::signed(&signs, url, json!({"groups": ["far"]})).into(),
            _ => jwks.clone(),
        })
        .await;
        Issuer { peer, key, _folder: folder }
    }
    fn token(&self, more: Value) -> String {
        Issuer::signed(&self.key, &self.peer.url, more)
    }
    fn signed(key: &SigningKey, url: &str, more: Value) -> String {
        let mut claims = json!({"iss": url, "aud": "app", "exp": jiff::Timestamp::now().as_second() + 600, "sub": "jane", "groups": ["dev"], "hd": "example.com"});
        for (k, v) in more.as_object().unwrap() {
            claims[k] = v.clone();
        }
        let header = json!({"alg": "RS256", "kid": key.public().unwrap().id});
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()).unwrap()))
    }
}

#[tokio::test]
async fn openid_connect_tokens_of_the_issuer_count_by_flags() {
    let issuer = Issuer::start().await;
    let oidc = Oidc {
        issuer_url: issuer.peer.url.clone(),
        client_id: "app".into(),
        ca_file: Some(issuer.peer.file("ca.crt", &issuer.peer.ca_pem())),
        username_claim: "sub".into(),
        groups_claim: "groups".into(),
        groups_prefix: "oidc:".into(),
        signing_algs: vec!["RS256".into()],
        required_claims: vec!["hd=example.com".into()],
        ..Oidc::default()
    };
    let w = World::with(|c| c.authentication.oidc = Some(oidc)).await;
    let me = who(&w.bearer(&issuer.token(json!({"jti": "x"})))).await;
    assert_eq!(me["username"], format!("{}#jane", issuer.peer.url));
    assert_eq!(me["groups"], json!(["oidc:dev", "system:authenticated"]));
    assert_eq!(me["extra"]["authentication.kubernetes.io/credential-id"], json!(["JTI=x"]));
    assert_eq!(issuer.peer.heard().len(), 2, "the discovery document and the keys, once");
    for (why, token) in [
        ("expired", issuer.token(json!({"exp": 1000}))),
        ("for others", issuer.token(json!({"aud": "else"}))),
        ("another domain", issuer.token(json!({"hd": "evil.example"}))),
        ("of another issuer", issuer.token(json!({"iss": "https://evil.example"}))),
        ("changed", issuer.token(json!({})).replacen('.', ".e30", 1)),
    ] {
        assert_eq!(w.bearer(&token).get("/version").await.status, StatusCode::UNAUTHORIZED, "{why}");
    }
    let r = review(&w, &issuer.token(json!({"exp": 1000}))).await;
    assert!(r["error"].as_str().unwrap().contains("token is expired"), "{r}");
}

#[tokio::test]
async fn structured_configuration_maps_claims_by_expressions() {
    let issuer = Issuer::start().await;
    let ca: String = issuer.peer.ca_pem().lines().map(|l| format!("      {l}\n")).collect();
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n- issuer:\n    url: {}\n    audiences: [app, other]\n    audienceMatchPolicy: MatchAny\n    certificateAuthority: |\n{ca}  \
         claimValidationRules:\n  - {{expression: \"claims.hd == 'example.com'\", message: the domain is not ours}}\n  claimMappings:\n    username: {{expression: \"claims.sub + '@' + claims.hd\"}}\n    \
         groups: {{expression: \"claims.groups.map(g, 'g:' + g)\"}}\n    uid: {{claim: sub}}\n    extra: [{{key: example.com/hd, valueExpression: claims.hd}}]\n  \
         userValidationRules:\n  - {{expression: \"!user.username.startsWith('system:')\", message: reserved}}\n",
        issuer.peer.url
    );
    let config = issuer.peer.file("authn.yaml", &text);
    let w = World::with(|c| c.authentication.config_file = Some(config)).await;
    let me = who(&w.bearer(&issuer.token(json!({})))).await;
    assert_eq!(me, json!({"username": "jane@example.com", "uid": "jane", "groups": ["g:dev", "system:authenticated"], "extra": {"example.com/hd": ["example.com"]}}));
    assert_eq!(w.bearer(&issuer.token(json!({"hd": "evil.example"}))).get("/version").await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(w.bearer(&issuer.token(json!({"sub": "system:admin"}))).get("/version").await.status, StatusCode::UNAUTHORIZED, "a rule about users");
}

#[tokio::test]
async fn an_impersonated_user_is_whole() {
    let w = World::start().await;
    let jane = w.admin().with_header("impersonate-user", "jane").with_header("impersonate-uid", "u1").with_header("impersonate-extra-example.com%2fscope", "a");
    assert_eq!(who(&jane).await, json!({"username": "jane", "uid": "u1", "groups": ["system:authenticated"], "extra": {"example.com/scope": ["a"]}}));
    let account = w.admin().with_header("impersonate-user", "system:serviceaccount:shop:bot");
    assert_eq!(who(&account).await["groups"], json!(["system:serviceaccounts", "system:serviceaccounts:shop", "system:authenticated"]));
}

/// Keys of elliptic curves sign and check tokens as RSA keys do, and the published set has each.
#[tokio::test]
async fn tokens_of_elliptic_curve_keys_count_and_are_published() {
    let dir = tempfile::tempdir().unwrap();
    let make = |curve: &str, name: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, private_key(curve)).unwrap();
        path
    };
    let (old, new) = (make("P-384", "old.key"), make("P-256", "new.key"));
    let w = World::with(|c| c.service_accounts.signing_key_file = Some(old.clone())).await;
    w.admin().post("/api/v1/namespaces/default/serviceaccounts", &json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "bot"}})).await;
    let token = async |w: &World| {
        let a = w.admin().post("/api/v1/namespaces/default/serviceaccounts/bot/token", &json!({"spec": {}})).await;
        a.json()["status"]["token"].as_str().expect("a token").to_owned()
    };
    let first = token(&w).await;
    assert_eq!(who(&w.bearer(&first)).await["username"], "system:serviceaccount:default:bot");
    let folder = w.stop().await;
    // The key is rotated: the old one still counts, the new one signs.
    let w = World::configured(
        folder,
        |c| {
            c.service_accounts.signing_key_file = Some(new);
            c.service_accounts.key_files = vec![old];
        },
        None,
    )
    .await;
    let second = token(&w).await;
    for t in [&first, &second] {
        assert_eq!(who(&w.bearer(t)).await["username"], "system:serviceaccount:default:bot");
    }
    let swapped = format!("{}.{}", first.rsplit_once('.').unwrap().0, second.rsplit_once('.').unwrap().1);
    assert_eq!(w.bearer(&swapped).get("/version").await.status, StatusCode::UNAUTHORIZED, "the signature of another");
    let keys = w.admin().get("/openid/v1/jwks").await.json()["keys"].clone();
    let told: Vec<_> = keys.as_array().unwrap().iter().map(|k| (k["kty"].as_str().unwrap(), k["crv"].as_str().unwrap(), k["alg"].as_str().unwrap())).collect();
    assert_eq!(told, [("EC", "P-256", "ES256"), ("EC", "P-384", "ES384")]);
    let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(second.split('.').next().unwrap()).unwrap()).unwrap();
    assert_eq!(header, json!({"alg": "ES256", "kid": keys[0]["kid"]}));
    assert_eq!(w.admin().get("/.well-known/openid-configuration").await.json()["id_token_signing_alg_values_supported"], json!(["ES256", "ES384"]));
}

/// A private key in PKCS#8.
fn private_key(curve: &str) -> &'static str {
    match curve {
        "P-256" => {
            "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQglKQkfFTkHCLeB+3M\nFCUFNEZqeIe9EeYXt0OMPnmdq+GhRANCAATs9ePfbhTNZwwM35kSleXRMknOzfm+\nN5p6LsWKU2Hd7CBzDhUOlLggvO7lhZf50SB95v6HPpg/rfKoyrk6uPIa\n-----END PRIVATE KEY-----\n"
        }
        _ => {
            "-----BEGIN PRIVATE KEY-----\nMIG2AgEAMBAGByqGSM49AgEGBSuBBAAiBIGeMIGbAgEBBDAtpWj4/HgJgkrXrxTv\n6qEV/4z6aqmrq0uE/LFLMeXSOjTo8adY31Dk+V22CAlc/zChZANiAARxIEIyoo3L\nFkRv8DJkJBHLJHoAKbYjJPQuBsl6jdUqOotvEWAjh816QDnGAIxxzRHwUTqTft77\n3XsJ0ilt18DFiJdWFEYzvCpITGDaxt2/65K4BCaW56dK/19l+aItQ5s=\n-----END PRIVATE KEY-----\n"
        }
    }
}

/// A proxy by HTTP CONNECT that counts what goes through it.
async fn proxy() -> (std::net::SocketAddr, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, count) = (listener.local_addr().unwrap(), std::sync::Arc::<std::sync::atomic::AtomicUsize>::default());
    let counted = count.clone();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let counted = counted.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(near.read_u8().await.expect("a request"));
                }
                let head = String::from_utf8(head).unwrap();
                let to = head.strip_prefix("CONNECT ").and_then(|r| r.split(' ').next()).expect("CONNECT").to_owned();
                let mut far = tokio::net::TcpStream::connect(to).await.unwrap();
                near.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    (address, count)
}

#[tokio::test]
async fn a_webhook_is_reached_as_its_kubeconfig_says() {
    let hook = Peer::start(|_, _, said| {
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": {"authenticated": said["spec"]["token"] == "good", "user": {"username": "jane"}}})
    })
    .await;
    let (proxy, through) = proxy().await;
    let ca = STANDARD.encode(hook.ca_pem());
    let ran = hook.file("ran", "");
    let script = format!("echo x >> {}; echo '{{\"kind\":\"ExecCredential\",\"apiVersion\":\"client.authentication.k8s.io/v1\",\"status\":{{\"token\":\"t\"}}}}'", ran.display());
    let exec = json!({"apiVersion": "client.authentication.k8s.io/v1", "command": "sh", "args": ["-c", script], "interactiveMode": "Never"});
    for (name, cluster, user, good) in [
        ("insecure", json!({"server": hook.url, "insecure-skip-tls-verify": true}), json!({}), true),
        ("nobody's authority", json!({"server": hook.url}), json!({}), false),
        ("proxy", json!({"server": hook.url, "certificate-authority-data": ca, "proxy-url": format!("http://{proxy}")}), json!({}), true),
        ("server name", json!({"server": hook.url, "certificate-authority-data": ca, "tls-server-name": "localhost"}), json!({}), true),
        ("another name", json!({"server": hook.url, "certificate-authority-data": ca, "tls-server-name": "other.example"}), json!({}), false),
        ("exec", json!({"server": hook.url, "certificate-authority-data": ca}), json!({"exec": exec}), true),
    ] {
        let text = json!({"current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}], "clusters": [{"name": "k", "cluster": cluster}], "users": [{"name": "u", "user": user}]});
        let kubeconfig = hook.file("webhook.kubeconfig", &text.to_string());
        let w = World::with(|c| c.authentication.webhook = Some(webhook::Options { kubeconfig, version: "v1".into(), cache_ttl: Duration::ZERO })).await;
        let status = w.bearer("good").get("/version").await.status;
        assert_eq!(status, if good { StatusCode::OK } else { StatusCode::UNAUTHORIZED }, "{name}");
    }
    assert_eq!(through.load(std::sync::atomic::Ordering::SeqCst), 1, "one connection went through the proxy");
    assert_eq!(std::fs::read_to_string(&ran).unwrap(), "x\n", "the program ran once");
    let both = json!({"current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "k"}}], "clusters": [{"name": "k", "cluster": {"server": hook.url, "insecure-skip-tls-verify": true, "certificate-authority-data": ca}}]});
    let why = keles_auth::outbound::Endpoint::from_kubeconfig(&hook.file("both", &both.to_string())).unwrap_err().to_string();
    assert!(why.contains("with the insecure flag is not allowed"), "{why}");
}

/// OpenID Connect Core 1.0, 5.6.2: groups that the token points to are fetched, of the same issuer or of another.
#[tokio::test]
async fn groups_that_a_token_points_to_are_fetched_and_checked() {
    let (issuer, far) = (Issuer::start().await, Issuer::start().await);
    let both = format!("{}{}", issuer.peer.ca_pem(), far.peer.ca_pem());
    let oidc = Oidc {
        issuer_url: issuer.peer.url.clone(),
        client_id: "app".into(),
        ca_file: Some(issuer.peer.file("ca.crt", &both)),
        username_claim: "sub".into(),
        username_prefix: "-".into(),
        groups_claim: "groups".into(),
        signing_algs: vec!["RS256".into()],
        ..Oidc::default()
    };
    let w = World::with(|c| c.authentication.oidc = Some(oidc)).await;
    let pointing = |sources: Value| {
        let mut claims = json!({"iss": issuer.peer.url, "aud": "app", "exp": jiff::Timestamp::now().as_second() + 600, "sub": "jane", "_claim_names": {"groups": "s"}, "_claim_sources": sources});
        if claims["_claim_sources"].is_null() {
            claims.as_object_mut().unwrap().remove("_claim_sources");
        }
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(json!({"alg": "RS256"}).to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(issuer.key.sign(signed.as_bytes()).unwrap()))
    };
    for at in [&issuer.peer.url, &far.peer.url] {
        let me = who(&w.bearer(&pointing(json!({"s": {"endpoint": format!("{at}/claims"), "access_token": "t"}})))).await;
        assert_eq!(me, json!({"username": "jane", "groups": ["far", "system:authenticated"]}), "{at}");
    }
    let aggregated = who(&w.bearer(&pointing(json!({"s": {"JWT": "x"}})))).await;
    assert_eq!(aggregated["groups"], json!(["system:authenticated"]), "what stands in the token itself is not looked at");
    for (sources, words) in [
        (json!(null), "no claim sources"),
        (json!({"other": {}}), "contained a source s missing in _claims_sources"),
        (json!({"s": {"endpoint": format!("{}/keys", far.peer.url)}}), "malformed jwt"),
    ] {
        let r = review(&w, &pointing(sources)).await;
        assert!(r["error"].as_str().unwrap_or_default().contains(words), "{words}: {r}");
    }
}
