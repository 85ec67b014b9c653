//! Image references, normalised as Docker does: `nginx` is `docker.io/library/nginx:latest`.
//!
//! The grammar and the messages are those of distribution/reference, which users know from `InvalidImageName` events.

use crate::digest::{Digest, is_hex_id};
use std::fmt;

const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";
const NAME_LIMIT: usize = 255;
const TAG_LIMIT: usize = 128;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    #[error("invalid reference format")]
    Format,
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    #[error("repository name must not be more than {NAME_LIMIT} characters")]
    NameTooLong,
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    HexName(String),
    #[error("unsupported digest algorithm")]
    DigestAlgorithm,
    #[error("invalid checksum digest format")]
    DigestFormat,
}

/// A normalised reference. At least one of tag and digest is there.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    /// `docker.io`, `localhost:5000`, …
    pub registry: String,
    /// `library/nginx`
    pub repository: String,
    pub tag: Option<String>,
    pub digest: Option<Digest>,
}

impl Reference {
    pub fn parse(text: &str) -> Result<Reference, ReferenceError> {
        if is_hex_id(text) {
            return Err(ReferenceError::HexName(text.to_string()));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(parse_digest(digest)?)),
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            // A colon before the last slash belongs to the registry's port.
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        let (registry, repository) = split_registry(name);
        check_registry(&registry)?;
        check_repository(&repository)?;
        if registry.len() + 1 + repository.len() > NAME_LIMIT {
            return Err(ReferenceError::NameTooLong);
        }
        if tag.is_some_and(|t| !is_tag(t)) {
            return Err(ReferenceError::Format);
        }
        let tag = match (tag, &digest) {
            (None, None) => Some(DEFAULT_TAG.to_string()),
            (tag, _) => tag.map(str::to_string),
        };
        Ok(Reference { registry, repository, tag, digest })
    }

    /// `docker.io/library/nginx`
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The name with its tag, without digest; absent when it has no tag.
    pub fn tagged(&self) -> Option<String> {
        self.tag.as_ref().map(|tag| format!("{}:{tag}", self.name()))
    }

    /// The name with a digest, as `repoDigests` show it.
    pub fn with_digest(&self, digest: &Digest) -> String {
        format!("{}@{digest}", self.name())
    }

    /// What to ask the registry for: the digest when there is one, which wins over the tag.
    pub fn wanted(&self) -> &str {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.as_str(),
            (None, tag) => tag.as_deref().unwrap_or(DEFAULT_TAG),
        }
    }

    /// The host that serves the registry's API.
    pub fn host(&self) -> &str {
        if self.registry == DEFAULT_REGISTRY { "registry-1.docker.io" } else { &self.registry }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl std::str::FromStr for Reference {
    type Err = ReferenceError;
    fn from_str(text: &str) -> Result<Reference, ReferenceError> {
        Reference::parse(text)
    }
}

fn parse_digest(text: &str) -> Result<Digest, ReferenceError> {
    match (Digest::parse(text), text.split_once(':')) {
        (Ok(digest), _) => Ok(digest),
        (Err(_), Some(("sha256", hex))) if hex.len() >= 32 && hex.bytes().all(|b| b.is_ascii_hexdigit()) => Err(ReferenceError::DigestFormat),
        (Err(_), Some((algorithm, hex))) if algorithm != "sha256" && !algorithm.is_empty() && hex.len() >= 32 => Err(ReferenceError::DigestAlgorithm),
        _ => Err(ReferenceError::Format),
    }
}

/// The first component is a registry when it looks like a host: a dot, a port, upper case, or `localhost`.
fn split_registry(name: &str) -> (String, String) {
    let (registry, repository) = match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase()) => (first, rest),
        _ => (DEFAULT_REGISTRY, name),
    };
    let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
    let repository = if registry == DEFAULT_REGISTRY && !repository.contains('/') { format!("library/{repository}") } else { repository.to_string() };
    (registry.to_string(), repository)
}

fn check_registry(registry: &str) -> Result<(), ReferenceError> {
    let (host, port) = match registry.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']').ok_or(ReferenceError::Format)?;
            address.parse::<std::net::Ipv6Addr>().map_err(|_| ReferenceError::Format)?;
            ("v6", if after.is_empty() { None } else { Some(after.strip_prefix(':').ok_or(ReferenceError::Format)?) })
        }
        None => registry.split_once(':').map_or((registry, None), |(host, port)| (host, Some(port))),
    };
    let label = |l: &str| !l.is_empty() && !l.starts_with('-') && !l.ends_with('-') && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let port_is_good = port.is_none_or(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()) && p.parse::<u16>().is_ok());
    if host.split('.').all(label) && port_is_good { Ok(()) } else { Err(ReferenceError::Format) }
}

fn check_repository(repository: &str) -> Result<(), ReferenceError> {
    if repository.split('/').all(is_component) {
        return Ok(());
    }
    if repository.bytes().any(|b| b.is_ascii_uppercase()) && repository.to_ascii_lowercase().split('/').all(is_component) {
        return Err(ReferenceError::Uppercase(repository.to_string()));
    }
    Err(ReferenceError::Format)
}

/// Runs of a-z and 0-9, joined by one dot, one or two underscores, or dashes.
fn is_component(component: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    let joins_are_good = component.split(|c: char| c.is_ascii() && alphanumeric(c as u8)).all(|join| matches!(join, "" | "." | "_" | "__") || join.bytes().all(|b| b == b'-'));
    alphanumeric(*first) && alphanumeric(*last) && joins_are_good
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let first_is_good = tag.bytes().next().is_some_and(word);
    first_is_good && tag.len() <= TAG_LIMIT && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        Reference::parse(text).map_or_else(|e| format!("error: {e}"), |r| r.to_string())
    }

    #[test]
    fn names_are_normalised_as_docker_does() {
        let hex = "a".repeat(64);
        for (input, expected) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27"),
            ("index.docker.io/nginx", "docker.io/library/nginx:latest"),
            ("user/app", "docker.io/user/app:latest"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/app:v1", "localhost:5000/app:v1"),
            ("127.0.0.1:5000/a/b/c", "127.0.0.1:5000/a/b/c:latest"),
            ("[::1]:5000/app", "[::1]:5000/app:latest"),
            ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10"),
            ("Host/app", "Host/app:latest"),
            ("a__b/c-d.e", "docker.io/a__b/c-d.e:latest"),
        ] {
            assert_eq!(shown(input), expected, "{input}");
        }
        assert_eq!(shown(&format!("app@sha256:{hex}")), format!("docker.io/library/app@sha256:{hex}"));
        let both = Reference::parse(&format!("app:v1@sha256:{hex}")).expect("valid");
        assert_eq!((both.wanted(), both.tagged().as_deref()), (format!("sha256:{hex}").as_str(), Some("docker.io/library/app:v1")));
    }

    #[test]
    fn bad_names_get_the_words_users_know() {
        for bad in [
            "",
            ":",
            "a:",
            "/a",
            "a//b",
            "a/",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a b",
            "a:b c",
            "a:-x",
            "a@sha256:12",
            "a@b",
            "host:x/a",
            "host:99999999/a",
            "[zz]/a",
            "https://docker.io/a",
        ] {
            assert_eq!(shown(bad), "error: invalid reference format", "{bad:?}");
        }
        assert_eq!(shown("Foo"), "error: invalid reference format: repository name (library/Foo) must be lowercase");
        assert!(shown(&"a".repeat(64)).contains("cannot specify 64-byte hexadecimal strings"));
        assert!(shown(&"ab/".repeat(100)).starts_with("error:"));
        assert_eq!(shown(&format!("a@sha512:{}", "0".repeat(128))), "error: unsupported digest algorithm");
        assert_eq!(shown(&format!("g/{}", "h".repeat(255))), "error: repository name must not be more than 255 characters");
    }
}
