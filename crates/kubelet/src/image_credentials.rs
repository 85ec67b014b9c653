//! With what the node may pull for a pod: the pod's pull secrets (its service account's are among them, admission put them there), then the
//! node's own docker configuration, and what its plugins say ([`crate::credential_provider`]).
//!
//! Entry point: [`credentials`].

use k8s_openapi::api::core::v1::Secret;
use keles_images::{Auth, Keyring, KeyringError};
use keles_oci::Reference;
use std::path::{Path, PathBuf};

/// Whose a credential is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Secret {
        namespace: String,
        name: String,
        uid: String,
    },
    /// What a plugin gave for a token of this account (KEP-4412).
    ServiceAccount {
        namespace: String,
        name: String,
        uid: String,
    },
    /// The node's: every pod may use it.
    Node,
}

/// The credentials for an image, best first: those of secrets, then the node's, then what its plugins said. What cannot be read is passed over
/// with a line in the log, as the pull may do without.
pub fn credentials(image: &Reference, secrets: &[Secret], data_dir: &Path, provided: &Keyring<Source>) -> Vec<(Auth, Source)> {
    let (mut by_pod, mut by_node) = (Keyring::default(), Keyring::default());
    for secret in secrets {
        if let Err(error) = add_secret(&mut by_pod, secret) {
            let (namespace, name) = (secret.metadata.namespace.as_deref().unwrap_or_default(), secret.metadata.name.as_deref().unwrap_or_default());
            tracing::warn!(%error, namespace, name, "an image pull secret cannot be read");
        }
    }
    add_node(&mut by_node, data_dir);
    [&by_pod, &by_node, provided].into_iter().flat_map(|ring| ring.lookup(image)).collect()
}

/// The type says which key counts.
fn add_secret(ring: &mut Keyring<Source>, secret: &Secret) -> Result<(), KeyringError> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let source = Source::Secret { namespace: text(&secret.metadata.namespace), name: text(&secret.metadata.name), uid: text(&secret.metadata.uid) };
    let data = |key: &str| secret.data.as_ref().and_then(|data| data.get(key)).filter(|bytes| !bytes.0.is_empty());
    match secret.type_.as_deref() {
        Some("kubernetes.io/dockerconfigjson") => data(".dockerconfigjson").map_or(Ok(()), |bytes| ring.add_config(&bytes.0, source)),
        Some("kubernetes.io/dockercfg") => data(".dockercfg").map_or(Ok(()), |bytes| ring.add_legacy(&bytes.0, source)),
        _ => Ok(()),
    }
}

/// The first file there is, as upstream: `config.json` in the data folder, in `$HOME/.docker` and in `/.docker`, then the older form.
fn add_node(ring: &mut Keyring<Source>, data_dir: &Path) {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let new = [data_dir.join("config.json"), home.join(".docker/config.json"), PathBuf::from("/.docker/config.json")];
    let old = [data_dir.join(".dockercfg"), home.join(".dockercfg"), PathBuf::from("/.dockercfg")];
    let Some((path, bytes, legacy)) =
        new.into_iter().map(|path| (path, false)).chain(old.into_iter().map(|path| (path, true))).find_map(|(path, old)| std::fs::read(&path).ok().map(|bytes| (path, bytes, old)))
    else {
        return;
    };
    let added = if legacy { ring.add_legacy(&bytes, Source::Node) } else { ring.add_config(&bytes, Source::Node) };
    if let Err(error) = added {
        tracing::warn!(%error, path = %path.display(), "the node's registry credentials cannot be read");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;

    fn secret(name: &str, type_: &str, key: &str, json: &str) -> Secret {
        let data = std::collections::BTreeMap::from([(key.to_string(), ByteString(json.as_bytes().to_vec()))]);
        let mut secret = Secret { type_: Some(type_.into()), data: Some(data), ..Default::default() };
        (secret.metadata.namespace, secret.metadata.name, secret.metadata.uid) = (Some("n".into()), Some(name.into()), Some("u".into()));
        secret
    }

    #[test]
    fn secrets_come_before_the_node_and_their_type_counts() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("config.json"), r#"{"auths": {"r.example:5000": {"username": "node", "password": "p"}}}"#).expect("writable");
        let config = r#"{"auths": {"r.example:5000": {"auth": "bWU6cGE6c3M="}}}"#;
        let secrets = [
            secret("broken", "kubernetes.io/dockerconfigjson", ".dockerconfigjson", "{"),
            secret("other", "Opaque", ".dockerconfigjson", config),
            secret("new", "kubernetes.io/dockerconfigjson", ".dockerconfigjson", config),
            secret("old", "kubernetes.io/dockercfg", ".dockercfg", r#"{"r.example:5000/team": {"username": "u", "password": "p"}}"#),
        ];
        let mut provided = Keyring::default();
        provided.add("r.example:5000/team/app", Auth { username: "plugin".into(), ..Auth::default() }, Source::Node);
        let found = credentials(&Reference::parse("r.example:5000/team/app").expect("good"), &secrets, dir.path(), &provided);
        let users: Vec<(&str, Source)> = found.iter().map(|(auth, source)| (auth.username.as_str(), source.clone())).collect();
        let of = |name: &str| Source::Secret { namespace: "n".into(), name: name.into(), uid: "u".into() };
        assert_eq!(users, [("u", of("old")), ("me", of("new")), ("node", Source::Node), ("plugin", Source::Node)]);
    }
}
