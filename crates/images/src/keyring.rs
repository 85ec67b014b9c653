//! Credentials by image name, as docker's `config.json` and pull secrets give them.
//!
//! Entry points: [`Keyring::add`] and [`Keyring::lookup`]. Keys match as the kubelet matches them: a host, each of whose parts may have `*`,
//! `?` and `[…]`, a port, and the beginning of a path; longer keys are tried first; `index.docker.io` stands for Docker Hub when nothing
//! else fits. Schemes and the paths `/v1/` and `/v2/` of a key say nothing.

use crate::registry::{Auth, decoded};
use keles_oci::Reference;
use serde::Deserialize;
use std::collections::BTreeMap;

/// The key under which docker writes Docker Hub's credentials.
const HUB_KEY: &str = "index.docker.io";

#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    #[error("it is not valid JSON of its kind: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the credential for {registry:?} is not user:password in base64")]
    Auth { registry: String },
}

#[derive(Deserialize)]
struct ConfigFile {
    #[serde(default)]
    auths: Option<BTreeMap<String, Entry>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    username: Option<String>,
    password: Option<String>,
    auth: Option<String>,
    #[serde(rename = "identitytoken")]
    identity_token: Option<String>,
    #[serde(rename = "registrytoken")]
    registry_token: Option<String>,
}

/// Credentials, each with where it came from.
#[derive(Clone, Debug)]
pub struct Keyring<S> {
    entries: Vec<(String, Auth, S)>,
}

impl<S> Default for Keyring<S> {
    fn default() -> Self {
        Keyring { entries: Vec::new() }
    }
}

impl<S: Clone> Keyring<S> {
    /// A `config.json`: what a secret has under `.dockerconfigjson`.
    pub fn add_config(&mut self, json: &[u8], source: S) -> Result<(), KeyringError> {
        let file: ConfigFile = serde_json::from_slice(json)?;
        self.add_all(file.auths.unwrap_or_default(), source)
    }

    /// The older `.dockercfg`: the table alone.
    pub fn add_legacy(&mut self, json: &[u8], source: S) -> Result<(), KeyringError> {
        self.add_all(serde_json::from_slice(json)?, source)
    }

    fn add_all(&mut self, table: BTreeMap<String, Entry>, source: S) -> Result<(), KeyringError> {
        // All or nothing, as upstream reads them.
        let read: Result<Vec<_>, KeyringError> = table.into_iter().map(|(registry, entry)| auth(&registry, entry).map(|a| (registry, a))).collect();
        for (registry, auth) in read? {
            self.add(&registry, auth, source.clone());
        }
        Ok(())
    }

    /// One credential under a key; its own `registry` no longer matters, since the key says for whom it is.
    pub fn add(&mut self, key: &str, auth: Auth, source: S) {
        self.entries.push((normal(key), Auth { registry: String::new(), ..auth }, source));
    }

    /// The credentials for an image, best first.
    pub fn lookup(&self, image: &Reference) -> Vec<(Auth, S)> {
        let name = image.name();
        let mut found: Vec<&(String, Auth, S)> = self.entries.iter().filter(|(key, ..)| is_match(key, &name)).collect();
        // Longer keys are greater; credentials of one key keep their order.
        found.sort_by(|a, b| b.0.cmp(&a.0));
        if found.is_empty() && image.registry == "docker.io" {
            found = self.entries.iter().filter(|(key, ..)| key == HUB_KEY).collect();
        }
        found.into_iter().map(|(_, auth, source)| (auth.clone(), source.clone())).collect()
    }
}

fn auth(registry: &str, entry: Entry) -> Result<Auth, KeyringError> {
    let (username, password) = match entry.auth.filter(|a| !a.is_empty()) {
        Some(text) => decoded(&text).ok_or_else(|| KeyringError::Auth { registry: registry.to_owned() })?,
        None => (entry.username.unwrap_or_default(), entry.password.unwrap_or_default()),
    };
    Ok(Auth { registry: String::new(), username, password, identity_token: entry.identity_token.unwrap_or_default(), registry_token: entry.registry_token.unwrap_or_default() })
}

/// A key without scheme, query, and the paths that say nothing.
fn normal(key: &str) -> String {
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let (host, path) = bare.split_once('/').map_or((bare, String::new()), |(host, path)| (host, format!("/{path}")));
    let path = path.strip_prefix("/v1/").or_else(|| path.strip_prefix("/v2/")).map_or(path.clone(), |rest| format!("/{rest}"));
    if path == "/" { host.to_owned() } else { format!("{host}{path}") }
}

/// Whether a key, or a pattern of `matchImages`, fits an image's name without its tag: the same port, as many parts of the host and each
/// fitting, and a path that begins with the key's.
pub fn is_match(pattern: &str, image: &str) -> bool {
    let (pattern, image) = (split(pattern), split(image));
    pattern.port == image.port
        && pattern.host.split('.').count() == image.host.split('.').count()
        && pattern.host.split('.').zip(image.host.split('.')).all(|(glob, part)| fits(glob.as_bytes(), part.as_bytes()))
        && image.path.starts_with(pattern.path)
}

struct Parts<'a> {
    host: &'a str,
    port: &'a str,
    path: &'a str,
}

fn split(text: &str) -> Parts<'_> {
    let bare = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(text);
    let (authority, path) = bare.find('/').map_or((bare, ""), |at| bare.split_at(at));
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (authority, ""),
    };
    Parts { host, port, path }
}

/// Go's `filepath.Match` within one part: `*`, `?`, `[a-z]`, `[^a]`, `\` before what stands for itself. A broken pattern fits nothing.
/// Patterns come out of users' secrets: no recursion, and only the last `*` is tried again, so that none takes long.
fn fits(mut glob: &[u8], mut text: &[u8]) -> bool {
    let mut last_star: Option<(&[u8], &[u8])> = None;
    loop {
        if let [b'*', rest @ ..] = glob {
            last_star = Some((rest, text));
            glob = rest;
            continue;
        }
        let Some((first, others)) = text.split_first() else { return glob.is_empty() };
        if let Some(rest) = after_one(glob, *first) {
            (glob, text) = (rest, others);
        } else {
            let Some((rest, [_, others @ ..])) = last_star else { return false };
            last_star = Some((rest, others));
            (glob, text) = (rest, others);
        }
    }
}

/// What follows the first element of a pattern, if that element fits a character.
fn after_one(glob: &[u8], wanted: u8) -> Option<&[u8]> {
    match glob {
        [] => None,
        [b'?', rest @ ..] => Some(rest),
        [b'[', rest @ ..] => class(rest, wanted).and_then(|(inside, after)| inside.then_some(after)),
        [b'\\', literal, rest @ ..] | [literal, rest @ ..] => (*literal == wanted).then_some(rest),
    }
}

/// Whether a character is in the class that begins after `[`, and what follows the class.
fn class(mut glob: &[u8], wanted: u8) -> Option<(bool, &[u8])> {
    let negated = glob.first() == Some(&b'^');
    if negated {
        glob = &glob[1..];
    }
    let mut inside = false;
    let mut first = true;
    loop {
        match glob {
            [b']', rest @ ..] if !first => return Some((inside != negated, rest)),
            [low, b'-', high, rest @ ..] if *high != b']' => {
                inside |= (*low..=*high).contains(&wanted);
                glob = rest;
            }
            [one, rest @ ..] => {
                inside |= *one == wanted;
                glob = rest;
            }
            [] => return None,
        }
        first = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyring(keys: &[&str]) -> Keyring<usize> {
        let mut ring = Keyring::default();
        keys.iter().enumerate().for_each(|(at, key)| ring.add(key, Auth { username: (*key).into(), ..Auth::default() }, at));
        ring
    }

    fn users(keys: &[&str], image: &str) -> Vec<String> {
        keyring(keys).lookup(&Reference::parse(image).expect("good")).into_iter().map(|(auth, _)| auth.username).collect()
    }

    #[test]
    fn no_pattern_takes_long() {
        assert!(!is_match(&"*a".repeat(50_000), &"a".repeat(200)));
        assert!(!is_match(&"*".repeat(50_000), "a.io"));
    }

    #[test]
    fn keys_match_by_host_port_and_path() {
        for (pattern, image, expected) in [
            ("r.example", "r.example/a/b", true),
            ("r.example/a", "r.example/a/b", true),
            ("r.example/c", "r.example/a/b", false),
            ("r.example:5000", "r.example/a", false),
            ("r.example", "r.example:5000/a", false),
            ("r.example:5000", "r.example:5000/a", true),
            ("*.example", "r.example/a", true),
            ("*.example", "a.r.example/a", false),
            ("*.*.example", "a.r.example/a", true),
            ("r?.ex*le", "r1.example/a", true),
            ("r[0-3].example", "r2.example/a", true),
            ("r[^0-3].example", "r2.example/a", false),
            ("r[.example", "r[.example/a", false),
            ("https://r.example/v1/", "r.example/a", false),
        ] {
            assert_eq!(is_match(pattern, image), expected, "{pattern} {image}");
        }
    }

    #[test]
    fn longer_keys_come_first_and_the_hub_has_a_name_of_its_own() {
        let keys = ["r.example", "r.example/team", "*.example", "https://r.example/v2/", "other.example"];
        assert_eq!(users(&keys, "r.example/team/app"), ["r.example/team", "r.example", "https://r.example/v2/", "*.example"]);
        assert_eq!(users(&["https://index.docker.io/v1/", "r.example"], "nginx"), ["https://index.docker.io/v1/"]);
        assert_eq!(users(&["https://index.docker.io/v1/", "docker.io"], "nginx"), ["docker.io"], "what fits wins over the default");
        assert!(users(&["https://index.docker.io/v1/"], "ghcr.io/nginx").is_empty());
    }

    #[test]
    fn both_forms_of_a_docker_configuration_are_read() {
        let mut ring = Keyring::default();
        ring.add_config(
            br#"{"auths": {"https://index.docker.io/v1/": {"auth": "bWU6cGE6c3M="}, "r.example:5000": {"username": "u", "password": "p", "auth": ""}}, "credsStore": "x"}"#,
            'a',
        )
        .expect("good");
        ring.add_legacy(br#"{"s.example": {"username": "v", "password": "q", "email": "e"}}"#, 'b').expect("good");
        ring.add_config(b"{}", 'c').expect("says nothing");
        let found = |image: &str| ring.lookup(&Reference::parse(image).expect("good")).into_iter().map(|(a, s)| (a.username, a.password, s)).collect::<Vec<_>>();
        let one = |u: &str, p: &str, s| vec![(u.to_owned(), p.to_owned(), s)];
        assert_eq!(found("nginx"), one("me", "pa:ss", 'a'));
        assert_eq!(found("r.example:5000/x"), one("u", "p", 'a'));
        assert_eq!(found("s.example/x"), one("v", "q", 'b'));
        assert!(matches!(ring.add_config(br#"{"auths": {"x": {"auth": "!"}}}"#, 'd'), Err(KeyringError::Auth { .. })));
        assert!(matches!(ring.add_legacy(b"[]", 'd'), Err(KeyringError::Json(_))));
    }
}
