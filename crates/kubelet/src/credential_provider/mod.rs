//! Credential provider plugins (KEP-2133): programs that the node asks for credentials of an image, by the exec protocol
//! `credentialprovider.kubelet.k8s.io`: a CredentialProviderRequest on standard input, a CredentialProviderResponse on standard output.
//!
//! Entry points: [`Providers::read`] and [`Providers::provide`]. What a plugin says is kept for as long as it says, by image, by registry or
//! for all images, and for a service account or its token where the plugin is given one (`account`, KEP-4412).

mod account;

pub use account::Accounts;

use crate::image_credentials::Source;
use account::{Account, Asks, TokenAttributes};
use k8s_openapi::api::core::v1::Pod;
use keles_images::{Auth, Keyring, is_match};
use keles_oci::Reference;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const CONFIG_VERSIONS: [&str; 3] = ["kubelet.config.k8s.io/v1", "kubelet.config.k8s.io/v1beta1", "kubelet.config.k8s.io/v1alpha1"];
const PROTOCOL_VERSIONS: [&str; 3] = ["credentialprovider.kubelet.k8s.io/v1", "credentialprovider.kubelet.k8s.io/v1beta1", "credentialprovider.kubelet.k8s.io/v1alpha1"];
/// How long a plugin may take (upstream's figure).
const EXEC_LIMIT: Duration = Duration::from_secs(60);
const ANSWER_LIMIT_BYTES: u64 = 1 << 20;
/// Answers kept of one plugin.
const KEPT_LIMIT: usize = 1024;
/// The key of what is for all images; no image has this name.
const GLOBAL: &str = "*";

#[derive(Debug, thiserror::Error)]
pub enum ProvidersError {
    #[error("cannot read {path}: {source}")]
    Read { path: String, source: std::io::Error },
    #[error("{path} is not a valid CredentialProviderConfig: {source}")]
    Yaml { path: String, source: serde_yaml_ng::Error },
    #[error("{path}: {what}")]
    Invalid { path: String, what: String },
    #[error("{path}: plugin {name:?} is not a file in {folder}")]
    Absent { path: String, name: String, folder: String },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Config {
    api_version: String,
    kind: String,
    #[serde(default)]
    providers: Vec<ProviderConfig>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ProviderConfig {
    name: String,
    #[serde(default)]
    match_images: Vec<String>,
    #[serde(deserialize_with = "duration")]
    default_cache_duration: Duration,
    api_version: String,
    #[serde(default)]
    args: Option<Vec<String>>,
    #[serde(default)]
    env: Option<Vec<Variable>>,
    #[serde(default)]
    token_attributes: Option<TokenAttributes>,
}

#[derive(Clone, Deserialize)]
struct Variable {
    name: String,
    #[serde(default)]
    value: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    kind: &'static str,
    api_version: &'a str,
    image: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_account_token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_account_annotations: Option<&'a BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    api_version: String,
    kind: String,
    cache_key_type: CacheKey,
    #[serde(default, deserialize_with = "maybe_duration")]
    cache_duration: Option<Duration>,
    #[serde(default)]
    auth: Option<BTreeMap<String, Login>>,
}

#[derive(Clone, Copy, Deserialize)]
enum CacheKey {
    Image,
    Registry,
    Global,
}

#[derive(Clone, Deserialize)]
struct Login {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
}

#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("it cannot be run: {0}")]
    Run(#[from] std::io::Error),
    #[error("it did not answer within {} s", EXEC_LIMIT.as_secs())]
    Late,
    #[error("it ended with {status}: {message}")]
    Failed { status: std::process::ExitStatus, message: String },
    #[error("its answer is not a CredentialProviderResponse: {0}")]
    Json(#[from] serde_json::Error),
    #[error("it answered {kind} of {version}, asked was CredentialProviderResponse of {wanted}")]
    Version { kind: String, version: String, wanted: String },
    #[error("no token of the pod's service account: {0}")]
    Account(#[from] keles_volumes::VolumeError),
    #[error("it gave the service account's token back as the password, which only cacheType Token allows")]
    Echo,
}

/// The plugins of a node.
#[derive(Default)]
pub struct Providers {
    all: Vec<Provider>,
}

struct Provider {
    name: String,
    path: PathBuf,
    config: ProviderConfig,
    /// What it said. Held while it runs: pods that ask the same meanwhile get that answer.
    kept: tokio::sync::Mutex<HashMap<String, Kept>>,
}

struct Kept {
    until: Instant,
    auth: BTreeMap<String, Login>,
}

impl Providers {
    /// The configuration's plugins, which lie in `folder`.
    pub fn read(path: &Path, folder: &Path) -> Result<Providers, ProvidersError> {
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| ProvidersError::Read { path: shown.clone(), source })?;
        let config: Config = serde_yaml_ng::from_str(&text).map_err(|source| ProvidersError::Yaml { path: shown.clone(), source })?;
        check(&config).map_err(|what| ProvidersError::Invalid { path: shown.clone(), what })?;
        let provider = |config: ProviderConfig| {
            let path = folder.join(&config.name);
            if !path.is_file() {
                return Err(ProvidersError::Absent { path: shown.clone(), name: config.name, folder: folder.display().to_string() });
            }
            Ok(Provider { name: config.name.clone(), path, config, kept: tokio::sync::Mutex::default() })
        };
        Ok(Providers { all: config.providers.into_iter().map(provider).collect::<Result<_, _>>()? })
    }

    /// What all plugins that are for this image say of it to this pod; one that fails is passed over with a line in the log.
    pub async fn provide(&self, image: &Reference, pod: &Pod, accounts: &dyn Accounts) -> Keyring<Source> {
        let (name, mut ring) = (image.name(), Keyring::default());
        for provider in self.all.iter().filter(|p| p.config.match_images.iter().any(|pattern| is_match(pattern, &name))) {
            match provider.provide(image, pod, accounts).await {
                Ok((found, source)) => {
                    found.into_iter().for_each(|(key, l)| ring.add(&key, Auth { username: l.username, password: l.password, ..Auth::default() }, source.clone()));
                }
                Err(error) => tracing::warn!(%error, plugin = provider.name, image = name, "a credential provider plugin gave nothing"),
            }
        }
        ring
    }
}

fn check(config: &Config) -> Result<(), String> {
    if config.kind != "CredentialProviderConfig" || !CONFIG_VERSIONS.contains(&config.api_version.as_str()) {
        return Err(format!("{} of {} is not CredentialProviderConfig of {}", config.kind, config.api_version, CONFIG_VERSIONS[0]));
    }
    if config.providers.is_empty() {
        return Err("at least 1 item in providers is required".into());
    }
    let mut names = std::collections::HashSet::new();
    for provider in &config.providers {
        let name = &provider.name;
        let problem = match () {
            () if name.is_empty() || name == "." || name == ".." || name.contains(['/', ' ']) => Some("its name must be that of a file"),
            () if !names.insert(name) => Some("its name is there twice"),
            () if provider.match_images.is_empty() => Some("matchImages must not be empty"),
            () if !PROTOCOL_VERSIONS.contains(&provider.api_version.as_str()) => Some("apiVersion must be one of credentialprovider.kubelet.k8s.io: v1, v1beta1, v1alpha1"),
            () => None,
        };
        let problem = problem.map_or(Ok(()), |problem| Err(problem.to_owned()));
        let problem = problem.and_then(|()| provider.token_attributes.as_ref().map_or(Ok(()), |attributes| attributes.check(&provider.api_version)));
        problem.map_err(|problem| format!("provider {name:?}: {problem}"))?;
    }
    Ok(())
}

impl Provider {
    /// What it says of the image, and whose that is.
    async fn provide(&self, image: &Reference, pod: &Pod, accounts: &dyn Accounts) -> Result<(BTreeMap<String, Login>, Source), AskError> {
        let asks = match &self.config.token_attributes {
            Some(attributes) => attributes.account(pod, accounts).await?,
            None => Asks::Without,
        };
        let account = match asks {
            Asks::With(account) => Some(account),
            Asks::Without => None,
            Asks::Not => return Ok((BTreeMap::new(), Source::Node)),
        };
        let of_account = |a: &Account| Source::ServiceAccount { namespace: a.namespace.clone(), name: a.name.clone(), uid: a.uid.clone() };
        let source = account.as_ref().map_or(Source::Node, of_account);
        Ok((self.credentials(image, account.as_ref()).await?, source))
    }

    async fn credentials(&self, image: &Reference, account: Option<&Account>) -> Result<BTreeMap<String, Login>, AskError> {
        let name = image.name();
        let kept_as = |base: &str| account.map_or_else(|| base.to_owned(), |account| account.kept_as(base));
        let now = Instant::now();
        // Not held while the plugin runs: one that hangs must not hold up what is known, nor other pods.
        let found = {
            let kept = self.kept.lock().await;
            [name.as_str(), image.registry.as_str(), GLOBAL].iter().find_map(|base| kept.get(&kept_as(base)).filter(|k| k.until > now).map(|k| k.auth.clone()))
        };
        if let Some(auth) = found {
            return Ok(auth);
        }
        let answer = self.ask(&name, account).await?;
        let auth = answer.auth.unwrap_or_default();
        if account.is_some_and(|account| auth.values().any(|login| account.forbids(&login.password))) {
            return Err(AskError::Echo);
        }
        let key = match answer.cache_key_type {
            CacheKey::Image => kept_as(&name),
            CacheKey::Registry => kept_as(&image.registry),
            CacheKey::Global => kept_as(GLOBAL),
        };
        let mut kept = self.kept.lock().await;
        let lasts = answer.cache_duration.unwrap_or(self.config.default_cache_duration);
        if let Some(until) = Instant::now().checked_add(lasts).filter(|_| !lasts.is_zero()) {
            if kept.len() >= KEPT_LIMIT {
                kept.retain(|_, k| k.until > now);
            }
            if kept.len() < KEPT_LIMIT {
                kept.insert(key, Kept { until, auth: auth.clone() });
            }
        }
        Ok(auth)
    }

    async fn ask(&self, image: &str, account: Option<&Account>) -> Result<Answer, AskError> {
        let wanted = self.config.api_version.as_str();
        let request = Request {
            kind: "CredentialProviderRequest",
            api_version: wanted,
            image,
            service_account_token: account.map(|account| account.token.as_str()),
            service_account_annotations: account.map(|account| &account.annotations).filter(|annotations| !annotations.is_empty()),
        };
        let request = serde_json::to_vec(&request)?;
        let output = tokio::time::timeout(EXEC_LIMIT, self.run(&request)).await.map_err(|_| AskError::Late)??;
        let answer: Answer = serde_json::from_slice(&output)?;
        if answer.kind != "CredentialProviderResponse" || answer.api_version != wanted {
            return Err(AskError::Version { kind: answer.kind, version: answer.api_version, wanted: wanted.to_owned() });
        }
        Ok(answer)
    }

    async fn run(&self, request: &[u8]) -> Result<Vec<u8>, AskError> {
        let env = self.config.env.iter().flatten().map(|v| (&v.name, &v.value));
        let mut command = tokio::process::Command::new(&self.path);
        command.args(self.config.args.iter().flatten()).envs(env).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let (mut input, output, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let write = async {
            if let Some(mut input) = input.take() {
                // A plugin need not read what it is asked.
                let _ = input.write_all(request).await;
            }
        };
        let (mut said, mut complained) = (Vec::new(), Vec::new());
        let read = async {
            if let Some(output) = output {
                output.take(ANSWER_LIMIT_BYTES).read_to_end(&mut said).await?;
            }
            Ok::<_, std::io::Error>(())
        };
        let read_errors = async {
            if let Some(errors) = errors {
                errors.take(ANSWER_LIMIT_BYTES).read_to_end(&mut complained).await?;
            }
            Ok::<_, std::io::Error>(())
        };
        let ((), read, _) = tokio::join!(write, read, read_errors);
        read?;
        let status = child.wait().await?;
        if !status.success() {
            return Err(AskError::Failed { status, message: String::from_utf8_lossy(&complained).trim().chars().take(500).collect() });
        }
        Ok(said)
    }
}

fn duration<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(d)?;
    keles_auth::durations::parse(&text).map_err(serde::de::Error::custom)
}

fn maybe_duration<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
    let text = Option::<String>::deserialize(d)?;
    text.map(|text| keles_auth::durations::parse(&text).map_err(serde::de::Error::custom)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ServiceAccount;
    use keles_volumes::{Token, TokenAsk};
    use std::os::unix::fs::PermissionsExt;

    /// A plugin that answers with `answer` and writes down what it was asked.
    fn world(answer: &str, more: &str) -> (tempfile::TempDir, Result<Providers, ProvidersError>) {
        let dir = tempfile::tempdir().expect("a folder");
        let script = format!("#!/bin/sh\ncat >> {0}/asked\necho \"$1 $WHO\" >> {0}/asked\ncat {0}/answer\n", dir.path().display());
        std::fs::write(dir.path().join("answer"), answer).expect("writable");
        // Written by another process and renamed: a file that this one held open for writing could not be run (ETXTBSY) while another test forks.
        let written = std::process::Command::new("sh")
            .args(["-c", "printf %s \"$0\" > plugin.new && chmod 755 plugin.new && mv plugin.new plugin", &script])
            .current_dir(dir.path())
            .status();
        assert!(written.expect("a shell").success());
        assert!(dir.path().join("plugin").metadata().expect("there").permissions().mode() & 0o100 != 0);
        let config = format!(
            "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n- name: plugin\n  matchImages: [\"*.example:5000/team\"]\n  defaultCacheDuration: 1h\n  apiVersion: credentialprovider.kubelet.k8s.io/v1\n  args: [get]\n  env: [{{name: WHO, value: me}}]\n{more}"
        );
        std::fs::write(dir.path().join("config.yaml"), config).expect("writable");
        let read = Providers::read(&dir.path().join("config.yaml"), dir.path());
        (dir, read)
    }

    fn answer(more: &str) -> String {
        format!(
            r#"{{"kind": "CredentialProviderResponse", "apiVersion": "credentialprovider.kubelet.k8s.io/v1", "auth": {{"*.example:5000": {{"username": "u", "password": "p"}}}}, {more}}}"#
        )
    }

    /// Service accounts: `tagged` has an annotation, `plain` none; a token names account, audience, and the pod it is bound to.
    struct OfTest;

    #[async_trait::async_trait]
    impl Accounts for OfTest {
        async fn account(&self, namespace: &str, name: &str) -> keles_volumes::Result<Option<ServiceAccount>> {
            let annotations = if name == "tagged" { serde_json::json!({"team": "blue", "other": "x"}) } else { serde_json::json!({}) };
            let account = serde_json::json!({"metadata": {"namespace": namespace, "name": name, "uid": format!("u-{name}"), "annotations": annotations}});
            Ok((name != "gone").then(|| serde_json::from_value(account).expect("an account")))
        }
        async fn account_token(&self, ask: &TokenAsk) -> keles_volumes::Result<Token> {
            let token = format!("{}/{}/{}", ask.service_account, ask.audience.clone().unwrap_or_default(), ask.pod_name);
            Ok(Token { token, expires_at: jiff::Timestamp::MAX, lifetime_seconds: ask.expiration_seconds })
        }
    }

    fn pod(name: &str, account: &str) -> Pod {
        serde_json::from_value(serde_json::json!({"metadata": {"namespace": "n", "name": name, "uid": name}, "spec": {"serviceAccountName": account, "containers": []}}))
            .expect("a pod")
    }

    async fn provided(providers: &Providers, pod: &Pod) -> Vec<(String, Source)> {
        let image = Reference::parse("r.example:5000/team/app").expect("good");
        providers.provide(&image, pod, &OfTest).await.lookup(&image).into_iter().map(|(auth, source)| (auth.username, source)).collect()
    }

    async fn users(providers: &Providers, image: &str) -> Vec<String> {
        let image = Reference::parse(image).expect("good");
        providers.provide(&image, &pod("p", ""), &OfTest).await.lookup(&image).into_iter().map(|(auth, _)| auth.username).collect()
    }

    fn asked(dir: &tempfile::TempDir) -> String {
        std::fs::read_to_string(dir.path().join("asked")).unwrap_or_default()
    }

    #[tokio::test]
    async fn a_plugin_is_asked_for_images_it_is_for_and_its_answer_is_kept() {
        let (dir, providers) = world(&answer(r#""cacheKeyType": "Registry""#), "");
        let providers = providers.expect("valid");
        assert!(users(&providers, "r.example:5000/other/app").await.is_empty() && asked(&dir).is_empty(), "not for this image");
        assert_eq!(users(&providers, "r.example:5000/team/app:v1").await, ["u"]);
        assert_eq!(asked(&dir), "{\"kind\":\"CredentialProviderRequest\",\"apiVersion\":\"credentialprovider.kubelet.k8s.io/v1\",\"image\":\"r.example:5000/team/app\"}get me\n");
        assert_eq!(users(&providers, "r.example:5000/team/second").await, ["u"]);
        assert_eq!(asked(&dir).lines().count(), 1, "kept for the registry");
        assert_eq!(users(&providers, "s.example:5000/team/app").await, ["u"]);
        assert_eq!(asked(&dir).lines().count(), 2);
    }

    #[tokio::test]
    async fn an_answer_says_how_long_it_lasts_and_for_what() {
        let (dir, providers) = world(&answer(r#""cacheKeyType": "Image", "cacheDuration": "0s""#), "");
        let providers = providers.expect("valid");
        for _ in 0..2 {
            assert_eq!(users(&providers, "r.example:5000/team/app").await, ["u"]);
        }
        assert_eq!(asked(&dir).lines().count(), 2, "not kept");
        let (dir, providers) = world(&answer(r#""cacheKeyType": "Global", "cacheDuration": "10m""#), "");
        let providers = providers.expect("valid");
        for image in ["r.example:5000/team/app", "s.example:5000/team/app"] {
            assert_eq!(users(&providers, image).await, ["u"]);
        }
        assert_eq!(asked(&dir).lines().count(), 1, "for all images");
    }

    fn attributes(cache: &str, more: &str) -> String {
        format!("  tokenAttributes: {{serviceAccountTokenAudience: reg, cacheType: {cache}, {more}}}\n")
    }

    #[tokio::test]
    async fn a_plugin_gets_a_token_of_the_pods_account_and_its_answer_is_the_accounts() {
        let required = attributes("ServiceAccount", "requireServiceAccount: true, requiredServiceAccountAnnotationKeys: [team], optionalServiceAccountAnnotationKeys: [absent]");
        let (dir, providers) = world(&answer(r#""cacheKeyType": "Image""#), &required);
        let providers = providers.expect("valid");
        for unfit in ["", "plain", "gone"] {
            assert!(provided(&providers, &pod("p", unfit)).await.is_empty() && asked(&dir).is_empty(), "not asked for {unfit:?}");
        }
        let of_account = Source::ServiceAccount { namespace: "n".into(), name: "tagged".into(), uid: "u-tagged".into() };
        for name in ["p", "q"] {
            assert_eq!(provided(&providers, &pod(name, "tagged")).await, [("u".to_owned(), of_account.clone())]);
        }
        let first = r#"{"kind":"CredentialProviderRequest","apiVersion":"credentialprovider.kubelet.k8s.io/v1","image":"r.example:5000/team/app","serviceAccountToken":"tagged/reg/p","serviceAccountAnnotations":{"team":"blue"}}get me"#;
        assert_eq!(asked(&dir), format!("{first}\n"), "kept for the account's other pods");
    }

    #[tokio::test]
    async fn what_is_kept_for_a_token_is_for_its_pod_alone_and_a_pod_without_an_account_may_be_served() {
        let (dir, providers) = world(&answer(r#""cacheKeyType": "Global""#), &attributes("Token", "requireServiceAccount: false"));
        let providers = providers.expect("valid");
        for (pod, calls) in [(pod("p", "plain"), 1), (pod("p", "plain"), 1), (pod("q", "plain"), 2), (pod("r", ""), 3), (pod("s", ""), 3)] {
            let found = provided(&providers, &pod).await;
            assert_eq!((found.len(), asked(&dir).lines().count()), (1, calls));
            assert_eq!(found[0].1 == Source::Node, pod.spec.expect("spec").service_account_name.as_deref() == Some(""));
        }
        assert!(asked(&dir).lines().nth(2).is_some_and(|line| !line.contains("serviceAccount")), "{}", asked(&dir));
    }

    #[tokio::test]
    async fn a_token_that_comes_back_as_the_password_is_taken_only_where_it_is_kept_for_the_token() {
        let echo = answer(r#""cacheKeyType": "Image""#).replace(r#""password": "p""#, r#""password": "plain/reg/p""#);
        for (cache, taken) in [("ServiceAccount", 0), ("Token", 1)] {
            let (_dir, providers) = world(&echo, &attributes(cache, "requireServiceAccount: true"));
            assert_eq!(provided(&providers.expect("valid"), &pod("p", "plain")).await.len(), taken, "{cache}");
        }
    }

    #[tokio::test]
    async fn a_plugin_that_answers_something_else_gives_nothing() {
        for wrong in ["no JSON", r#"{"kind": "Pod", "apiVersion": "v1", "cacheKeyType": "Image"}"#, ""] {
            let (_dir, providers) = world(wrong, "");
            assert!(users(&providers.expect("valid"), "r.example:5000/team/app").await.is_empty(), "{wrong}");
        }
    }

    #[test]
    fn what_is_wrong_in_the_configuration_is_named() {
        let error = |more: &str| world("", more).1.map(drop).expect_err("wrong").to_string();
        assert!(error("  tokenAttributes: {serviceAccountTokenAudience: x}\n").contains("cacheType is required"));
        assert!(error("  tokenAttributes: {cacheType: Token}\n").contains("serviceAccountTokenAudience is required"));
        assert!(error(&attributes("Never", "requireServiceAccount: true")).contains("Never"));
        assert!(error(&attributes("Token", "")).contains("requireServiceAccount is required"));
        let keys = |required: &str, optional: &str| {
            let lists = format!("requiredServiceAccountAnnotationKeys: [{required}], optionalServiceAccountAnnotationKeys: [{optional}]");
            error(&attributes("Token", &format!("requireServiceAccount: true, {lists}")))
        };
        assert!(keys("a", "b, a").contains("both required and optional") && keys("a, a", "").contains("twice") && keys("a b", "").contains("\"a b\""));
        assert!(error(&attributes("Token", "requireServiceAccount: false, requiredServiceAccountAnnotationKeys: [a]")).contains("requireServiceAccount cannot be false"));
        let second = |text: &str| error(&format!("- {{name: {text}}}\n"));
        let rest = "defaultCacheDuration: 0s, apiVersion: credentialprovider.kubelet.k8s.io/v1, matchImages: [a]";
        assert!(second(&format!("plugin, {rest}")).contains("twice"));
        assert!(second(&format!("../x, {rest}")).contains("that of a file"));
        assert!(second(&format!("absent, {rest}")).contains("\"absent\" is not a file"));
        assert!(second(&format!("plugin2, {}", rest.replace("0s", "soon"))).contains("soon"));
        assert!(second(&format!("plugin2, {}", rest.replace("[a]", "[]"))).contains("matchImages"));
        assert!(second(&format!("plugin2, {}", rest.replace("/v1", "/v9"))).contains("apiVersion"));
    }
}
