//! `registries.yaml` in k3s's form: which servers stand in for a registry (`mirrors`), and how a server is spoken to (`configs`).
//!
//! Entry points: [`Registries::read`] and [`Registries::endpoints`]. Checked when read: a node with a wrong file does not start. A registry's
//! mirrors are asked in their order, then the registry itself; `"*"` stands for registries that have no entry of their own. As in k3s,
//! rewrites change the repository's name at mirrors, never at the registry itself, and a mirror whose URL has a path of its own is
//! asked at that path. Plain HTTP is for loopback and for mirrors whose URL says `http`.

use super::Auth;
use super::connection::Tls;
use http::Uri;
use keles_oci::Reference;
use regex::Regex;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Stands for every registry or server without an entry of its own.
const ANY: &str = "*";
const DOCKER_HUB: &str = "docker.io";
/// Names under which people write down Docker Hub.
const DOCKER_HUB_HOSTS: [&str; 3] = [DOCKER_HUB, "index.docker.io", "registry-1.docker.io"];

#[derive(Debug, thiserror::Error)]
pub enum RegistriesError {
    #[error("cannot read {path}: {reason}")]
    Read { path: String, reason: std::io::Error },
    #[error("{path} is not a valid registries.yaml: {reason}")]
    Yaml { path: String, reason: serde_yaml_ng::Error },
    #[error("{path}: mirrors.{registry:?}: endpoint {endpoint:?} is not a URL with http or https")]
    Endpoint { path: String, registry: String, endpoint: String },
    #[error("{path}: mirrors.{registry:?}: rewrite {pattern:?} is not a regular expression: {reason}")]
    Rewrite { path: String, registry: String, pattern: String, reason: regex::Error },
    #[error("{path}: configs.{server:?}.tls: {reason}")]
    Tls { path: String, server: String, reason: String },
    #[error("{path}: configs.{server:?}.auth: {reason}")]
    Auth { path: String, server: String, reason: String },
}

/// A key without a value is an empty one.
fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    #[serde(deserialize_with = "null_is_default")]
    mirrors: BTreeMap<String, Option<MirrorEntry>>,
    #[serde(deserialize_with = "null_is_default")]
    configs: BTreeMap<String, Option<ConfigEntry>>,
    /// Old and without effect in k3s too.
    #[serde(deserialize_with = "null_is_default")]
    auths: Option<serde::de::IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct MirrorEntry {
    #[serde(alias = "endpoints", deserialize_with = "null_is_default")]
    endpoint: Vec<String>,
    #[serde(alias = "rewrites", deserialize_with = "null_is_default")]
    rewrite: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ConfigEntry {
    auth: Option<AuthEntry>,
    tls: Option<TlsEntry>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct AuthEntry {
    #[serde(deserialize_with = "null_is_default")]
    username: String,
    #[serde(deserialize_with = "null_is_default")]
    password: String,
    /// `username:password` in base64.
    #[serde(deserialize_with = "null_is_default")]
    auth: String,
    #[serde(alias = "identityToken", alias = "identitytoken", deserialize_with = "null_is_default")]
    identity_token: String,
}

/// How a server proves itself, and we to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsEntry {
    /// PEM; trusted besides the machine's own.
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    #[serde(deserialize_with = "null_is_default")]
    pub insecure_skip_verify: bool,
}

#[derive(Clone, Debug)]
struct Mirror {
    endpoints: Vec<Uri>,
    rewrites: Vec<(Regex, String)>,
}

#[derive(Clone, Debug)]
struct Server {
    auth: Option<Auth>,
    tls: Option<Tls>,
}

/// What a `registries.yaml` says.
#[derive(Clone, Debug, Default)]
pub struct Registries {
    mirrors: BTreeMap<String, Mirror>,
    servers: BTreeMap<String, Server>,
    machine: Tls,
}

/// A server to ask for an image, and how.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// `host` or `host:port`.
    pub host: String,
    /// `https://host/v2`, without a slash at the end.
    pub base: String,
    /// As this server knows it.
    pub repository: String,
    /// The registry that the server stands in for; absent for the registry itself.
    pub namespace: Option<String>,
    /// From `registries.yaml`.
    pub auth: Option<Auth>,
}

impl Endpoint {
    /// Whether what is sent there can be read or changed on its way.
    pub fn is_private(&self) -> bool {
        self.base.starts_with("https://") || is_loopback(&self.host)
    }
}

impl Registries {
    /// The file's content; an absent file says nothing.
    pub fn read(path: &Path) -> Result<Registries, RegistriesError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Registries::parse(&text, path),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Registries::default()),
            Err(reason) => Err(RegistriesError::Read { path: path.display().to_string(), reason }),
        }
    }

    /// `path` is for messages.
    pub fn parse(text: &str, path: &Path) -> Result<Registries, RegistriesError> {
        let path = path.display().to_string();
        let file: Option<File> = serde_yaml_ng::from_str(text).map_err(|reason| RegistriesError::Yaml { path: path.clone(), reason })?;
        let file = file.unwrap_or_default();
        if file.auths.is_some() {
            tracing::warn!(path, "registries.yaml: auths has no effect; use configs");
        }
        let mut read = Registries::default();
        for (registry, entry) in file.mirrors {
            let mirror = mirror(&path, &registry, entry.unwrap_or_default())?;
            read.mirrors.insert(canonical(&registry), mirror);
        }
        for (server, entry) in file.configs {
            let entry = entry.unwrap_or_default();
            let auth = entry.auth.map(auth).transpose().map_err(|reason| RegistriesError::Auth { path: path.clone(), server: server.clone(), reason })?;
            let tls = entry.tls.map(|tls| Tls::with(&tls)).transpose().map_err(|reason| RegistriesError::Tls { path: path.clone(), server: server.clone(), reason })?;
            read.servers.insert(canonical(&server), Server { auth, tls });
        }
        Ok(read)
    }

    /// Whom to ask for an image, in order; the registry itself is last, and never absent.
    pub fn endpoints(&self, reference: &Reference) -> Vec<Endpoint> {
        let mut found = Vec::new();
        if let Some(mirror) = self.mirrors.get(&canonical(&reference.registry)).or_else(|| self.mirrors.get(ANY)) {
            let repository = mirror.rewritten(&reference.repository);
            for endpoint in &mirror.endpoints {
                let host = endpoint.authority().map(|a| a.as_str().to_owned()).unwrap_or_default();
                let own = host == reference.host();
                found.push(Endpoint {
                    base: format!("{}://{host}{}", endpoint.scheme_str().unwrap_or("https"), api_path(endpoint)),
                    repository: repository.clone(),
                    namespace: (!own).then(|| reference.registry.clone()),
                    auth: self.server(&host).and_then(|s| s.auth.clone()),
                    host,
                });
            }
        }
        // A registry that is listed as its own mirror (how k3s is told of plain HTTP) is not asked a second time another way.
        if !found.iter().any(|e: &Endpoint| e.namespace.is_none() && e.repository == reference.repository) {
            let host = reference.host().to_owned();
            let scheme = if self.is_plain(&host) { "http" } else { "https" };
            let auth = self.server(&host).and_then(|s| s.auth.clone());
            found.push(Endpoint { base: format!("{scheme}://{host}/v2"), repository: reference.repository.clone(), namespace: None, auth, host });
        }
        found
    }

    /// How TLS with a server is done.
    pub fn tls(&self, host: &str) -> &Tls {
        self.server(host).and_then(|s| s.tls.as_ref()).unwrap_or(&self.machine)
    }

    /// Whether a server is spoken to by plain HTTP: loopback needs no TLS, as nobody is in between; what has a TLS entry wants it; and whose
    /// mirror URL says so.
    pub fn is_plain(&self, host: &str) -> bool {
        let configured = || self.mirrors.values().flat_map(|m| &m.endpoints).any(|e| e.scheme_str() == Some("http") && e.authority().is_some_and(|a| a.as_str() == host));
        let wants_tls = self.servers.get(&canonical(host)).is_some_and(|s| s.tls.is_some());
        configured() || (is_loopback(host) && !wants_tls && !host.ends_with(":443"))
    }

    /// The entry for `host:port`, for `host`, or for all.
    fn server(&self, host: &str) -> Option<&Server> {
        let name = without_port(host);
        [canonical(host).as_str(), canonical(name).as_str(), ANY].into_iter().find_map(|key| self.servers.get(key))
    }
}

impl Mirror {
    /// By the first expression that is found in the name; unchanged without one.
    fn rewritten(&self, repository: &str) -> String {
        let first = self.rewrites.iter().find(|(pattern, _)| pattern.is_match(repository));
        first.map_or_else(|| repository.to_owned(), |(pattern, with)| pattern.replace_all(repository, with.as_str()).into_owned())
    }
}

fn mirror(path: &str, registry: &str, entry: MirrorEntry) -> Result<Mirror, RegistriesError> {
    let endpoint = |text: &String| endpoint(text).ok_or_else(|| RegistriesError::Endpoint { path: path.into(), registry: registry.into(), endpoint: text.clone() });
    let rewrite = |(pattern, with): (String, String)| {
        let compiled = Regex::new(&pattern).map_err(|reason| RegistriesError::Rewrite { path: path.into(), registry: registry.into(), pattern, reason })?;
        Ok((compiled, with))
    };
    Ok(Mirror { endpoints: entry.endpoint.iter().map(endpoint).collect::<Result<_, _>>()?, rewrites: entry.rewrite.into_iter().map(rewrite).collect::<Result<_, _>>()? })
}

/// A URL; without a scheme HTTPS, or plain HTTP for this machine.
fn endpoint(text: &str) -> Option<Uri> {
    let whole = match text.contains("://") {
        true => text.to_owned(),
        false => format!("{}://{text}", if is_loopback(text.split('/').next().unwrap_or(text)) { "http" } else { "https" }),
    };
    let uri: Uri = whole.parse().ok()?;
    let good = matches!(uri.scheme_str(), Some("http" | "https")) && uri.authority().is_some_and(|a| !a.host().is_empty() && !a.as_str().contains('@'));
    good.then_some(uri)
}

/// `/v2`, unless the URL has a path of its own.
fn api_path(endpoint: &Uri) -> &str {
    match endpoint.path().trim_end_matches('/') {
        "" => "/v2",
        own => own,
    }
}

fn auth(entry: AuthEntry) -> Result<Auth, String> {
    let (username, password) = match entry.auth.is_empty() {
        true => (entry.username, entry.password),
        false => super::decoded(&entry.auth).ok_or("auth is not user:password in base64")?,
    };
    Ok(Auth { username, password, identity_token: entry.identity_token, ..Auth::default() })
}

/// One name for what has several, without scheme and path.
fn canonical(name: &str) -> String {
    let bare = name.split_once("://").map_or(name, |(_, rest)| rest);
    let bare = bare.split('/').next().unwrap_or(bare);
    if DOCKER_HUB_HOSTS.contains(&bare) { DOCKER_HUB.to_owned() } else { bare.to_owned() }
}

/// The host of `host:port`, without the brackets of IPv6.
pub fn without_port(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.rsplit_once(':').filter(|(h, p)| !h.contains(':') && p.bytes().all(|b| b.is_ascii_digit())).map_or(host, |(h, _)| h),
    }
}

fn is_loopback(host: &str) -> bool {
    let name = without_port(host);
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Registries, RegistriesError> {
        Registries::parse(text, Path::new("registries.yaml"))
    }

    fn asked(registries: &Registries, image: &str) -> Vec<String> {
        registries.endpoints(&Reference::parse(image).expect("a good name")).into_iter().map(|e| format!("{}/{}", e.base, e.repository)).collect()
    }

    #[test]
    fn mirrors_are_asked_in_order_and_the_registry_last() {
        let r = parse(
            "mirrors:\n  docker.io:\n    endpoint: [\"https://a.example\", \"http://b.example:5000/\", \"https://c.example/v2/hub\"]\n    rewrite:\n      \"^library/(.*)\": \"mine/$1\"\n  \"*\":\n    endpoint: [any.example]\n  quiet.example:\n",
        )
        .expect("valid");
        assert_eq!(
            asked(&r, "nginx"),
            ["https://a.example/v2/mine/nginx", "http://b.example:5000/v2/mine/nginx", "https://c.example/v2/hub/mine/nginx", "https://registry-1.docker.io/v2/library/nginx"]
        );
        assert_eq!(asked(&r, "ghcr.io/x/y"), ["https://any.example/v2/x/y", "https://ghcr.io/v2/x/y"]);
        assert_eq!(asked(&r, "quiet.example/x"), ["https://quiet.example/v2/x"], "an entry of its own, even an empty one, is not everybody's");
        assert_eq!(r.endpoints(&Reference::parse("nginx").expect("good"))[0].namespace.as_deref(), Some("docker.io"));
        assert_eq!(asked(&Registries::default(), "nginx"), ["https://registry-1.docker.io/v2/library/nginx"]);
    }

    #[test]
    fn plain_http_is_for_loopback_and_what_is_configured() {
        let none = Registries::default();
        for host in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.3.2.1", "[::1]:5000"] {
            assert!(none.is_plain(host), "{host}");
        }
        for host in ["docker.io", "localhost:443", "10.0.0.1:5000", "localhost.example.com", "127.0.0.1.example.com"] {
            assert!(!none.is_plain(host), "{host}");
        }
        let r = parse("mirrors:\n  reg.local:80:\n    endpoint: [\"http://reg.local:80\"]\nconfigs:\n  localhost:5000:\n    tls: {insecure_skip_verify: true}\n").expect("valid");
        assert_eq!(asked(&r, "reg.local:80/x"), ["http://reg.local:80/v2/x"], "its own mirror is not asked twice");
        assert!(r.is_plain("reg.local:80") && !r.is_plain("reg.local:81") && !r.is_plain("localhost:5000"));
    }

    #[test]
    fn credentials_belong_to_a_server_by_any_of_its_names() {
        let r =
            parse("configs:\n  docker.io:\n    auth: {username: u, password: p}\n  r.example:\n    auth: {auth: dTpwOnA=}\n  \"s.example:1\":\n    auth: {identity_token: t}\n")
                .expect("valid");
        let auth = |image: &str| r.endpoints(&Reference::parse(image).expect("good"))[0].auth.clone().map(|a| (a.username, a.password, a.identity_token));
        let words = |u: &str, p: &str, t: &str| Some((u.to_owned(), p.to_owned(), t.to_owned()));
        assert_eq!(auth("nginx"), words("u", "p", ""));
        assert_eq!(auth("r.example:5000/x"), words("u", "p:p", ""), "of the host, whatever the port");
        assert_eq!((auth("s.example:1/x"), auth("s.example:2/x")), (words("", "", "t"), None));
    }

    #[test]
    fn what_is_wrong_in_the_file_is_named() {
        let text = |yaml: &str| parse(yaml).map(drop).map_err(|e| e.to_string()).expect_err("wrong");
        assert!(text("mirrors: [x]").contains("registries.yaml"));
        assert!(text("mirorrs: {}").contains("mirorrs"));
        assert!(text("mirrors: {a: {endpoint: [\"ftp://x\"]}}").contains("ftp://x"));
        assert!(text("mirrors: {a: {endpoint: [\"https://u:p@x\"]}}").contains("endpoint"), "a password in a URL would be in every log");
        assert!(text("mirrors: {a: {rewrite: {\"(\": x}}}").contains("regular expression"));
        assert!(text("configs: {a: {tls: {ca_file: /nowhere/ca.pem}}}").contains("/nowhere/ca.pem"));
        assert!(text("configs: {a: {auth: {auth: \"!\"}}}").contains("base64"));
        assert!(parse("").is_ok() && parse("mirrors:\nconfigs:\n").is_ok());
    }
}
