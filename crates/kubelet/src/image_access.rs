//! Who may use an image that is on the node already (KEP-2535, `KubeletEnsureSecretPulledImages`): an image that came by a pod's pull secret is
//! for pods with that secret, or with the same credential, one that came by a service account (KEP-4412) for pods of that account; others have to
//! show the registry a credential of their own by pulling. Images that came
//! without the agent (`keles load`) are for all, which is upstream's default policy NeverVerifyPreloadedImages.
//!
//! Entry point: [`Records`], a view of files under `image_manager`: `pulled/` one an image, `pulling/` one for each pull under way, so that an
//! image whose pull ended with the agent does not count as brought along. A record that cannot be read lets nobody in without a pull.

use crate::image_credentials::Source;
use keles_images::Auth;
use keles_oci::{Digest, Reference};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Secrets noted for an image; those that come later pull again.
const SECRETS_LIMIT: usize = 100;
/// Service accounts noted for an image, likewise.
const ACCOUNTS_LIMIT: usize = 100;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SecretRecord {
    uid: String,
    namespace: String,
    name: String,
    /// Of what was shown to the registry.
    credential_hash: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AccountRecord {
    uid: String,
    namespace: String,
    name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Access {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    node_pods_accessible: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kubernetes_secrets: Vec<SecretRecord>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kubernetes_service_accounts: Vec<AccountRecord>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pulled {
    kind: String,
    api_version: String,
    last_updated_time: String,
    /// The image's id.
    image_ref: String,
    /// By the image's name without tag and digest.
    #[serde(default)]
    credential_mapping: BTreeMap<String, Access>,
}

/// The records of a node.
pub struct Records {
    folder: PathBuf,
}

impl Records {
    pub fn new(data_dir: &Path) -> Records {
        Records { folder: data_dir.join("image_manager") }
    }

    /// The image is gone: what comes under its id later is judged anew.
    pub fn forget(&self, id: &str) {
        // Left behind it only makes pods ask the registry once more.
        let _ = std::fs::remove_file(self.pulled_file(id));
    }

    fn pulled_file(&self, id: &str) -> PathBuf {
        self.folder.join("pulled").join(Digest::of(id.as_bytes()).hex())
    }

    fn pulling_file(&self, image: &str) -> PathBuf {
        self.folder.join("pulling").join(Digest::of(image.as_bytes()).hex())
    }

    /// A pull begins.
    pub fn begin(&self, image: &str) -> io::Result<()> {
        let path = self.pulling_file(image);
        std::fs::create_dir_all(path.parent().expect("a file in a folder"))?;
        std::fs::write(&path, image)
    }

    /// A pull brought nothing.
    pub fn failed(&self, image: &str) {
        // Left behind it only makes pods ask the registry once more.
        let _ = std::fs::remove_file(self.pulling_file(image));
    }

    /// A pull brought the image with this id; `by`: the credential that the registry took, none when it asked for none.
    pub fn pulled(&self, image: &str, reference: &Reference, id: &str, by: Option<&(Auth, Source)>) -> io::Result<()> {
        self.change(id, |access| note(access, by), &reference.name())?;
        self.failed(image);
        Ok(())
    }

    /// Whether a pod with these credentials may use the image without asking the registry.
    pub fn may_use(&self, image: &str, reference: &Reference, id: &str, credentials: &[(Auth, Source)]) -> bool {
        let record = match self.read(id) {
            Ok(Some(record)) => record,
            Ok(None) => return !self.pulling_file(image).exists(),
            Err(error) => {
                tracing::warn!(%error, image, "the record of an image's pull cannot be read; the registry will be asked");
                return false;
            }
        };
        let Some(access) = record.credential_mapping.get(&reference.name()) else { return false };
        if access.node_pods_accessible {
            return true;
        }
        if credentials.iter().filter_map(account_record).any(|own| access.kubernetes_service_accounts.contains(&own)) {
            return true;
        }
        let shown: Vec<SecretRecord> = credentials.iter().filter_map(secret_record).collect();
        let same_place = |a: &SecretRecord, b: &SecretRecord| (&a.uid, &a.namespace, &a.name) == (&b.uid, &b.namespace, &b.name);
        let fitting = shown.iter().find(|own| access.kubernetes_secrets.iter().any(|known| known.credential_hash == own.credential_hash || same_place(known, own)));
        let Some(fitting) = fitting else { return false };
        // The same credential in another secret, or a secret's new credential: known from now on.
        if !access.kubernetes_secrets.contains(fitting)
            && let Err(error) = self.change(id, |access| add(access, fitting.clone()), &reference.name())
        {
            tracing::warn!(%error, image, "the record of an image's pull cannot be written");
        }
        true
    }

    fn read(&self, id: &str) -> io::Result<Option<Pulled>> {
        match std::fs::read(self.pulled_file(id)) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whole or not at all; pods that change the same record wait for each other.
    fn change(&self, id: &str, change: impl FnOnce(&mut Access), name: &str) -> io::Result<()> {
        let path = self.pulled_file(id);
        std::fs::create_dir_all(path.parent().expect("a file in a folder"))?;
        let lock = File::options().create(true).truncate(false).write(true).open(self.folder.join("lock"))?;
        lock.lock()?;
        // A damaged record is begun anew: it lets in who is in the new one.
        let mut record = self.read(id).ok().flatten().unwrap_or_else(|| Pulled {
            kind: "ImagePulledRecord".into(),
            api_version: "kubelet.config.k8s.io/v1beta1".into(),
            last_updated_time: String::new(),
            image_ref: id.into(),
            credential_mapping: BTreeMap::new(),
        });
        let access = record.credential_mapping.entry(name.into()).or_default();
        let before = access.clone();
        change(access);
        if *access == before && path.exists() {
            return Ok(());
        }
        record.last_updated_time = crate::machine::conditions::second(jiff::Timestamp::now()).0.to_string();
        let temporary = self.folder.join("new");
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec(&record).map_err(io::Error::other)?)?;
        file.sync_all()?;
        std::fs::rename(&temporary, &path)
    }
}

/// A credential of the node, or none, makes the image everybody's.
fn note(access: &mut Access, by: Option<&(Auth, Source)>) {
    match (by.and_then(secret_record), by.and_then(account_record)) {
        (None, None) => *access = Access { node_pods_accessible: true, ..Access::default() },
        _ if access.node_pods_accessible => {}
        (Some(secret), _) => add(access, secret),
        (None, Some(account)) => {
            let known = &mut access.kubernetes_service_accounts;
            if known.len() < ACCOUNTS_LIMIT && !known.contains(&account) {
                known.push(account);
            }
        }
    }
}

fn add(access: &mut Access, secret: SecretRecord) {
    access.kubernetes_secrets.retain(|known| (&known.uid, &known.namespace, &known.name) != (&secret.uid, &secret.namespace, &secret.name));
    if access.kubernetes_secrets.len() < SECRETS_LIMIT {
        access.kubernetes_secrets.push(secret);
    }
}

fn secret_record((auth, source): &(Auth, Source)) -> Option<SecretRecord> {
    let Source::Secret { namespace, name, uid } = source else { return None };
    // Lengths apart, so that no two credentials share their text.
    let shown = [&auth.username, &auth.password, &auth.identity_token, &auth.registry_token].map(|part| format!("{}:{part}", part.len())).concat();
    let credential_hash = Digest::of(shown.as_bytes()).hex().to_owned();
    Some(SecretRecord { uid: uid.clone(), namespace: namespace.clone(), name: name.clone(), credential_hash })
}

fn account_record((_, source): &(Auth, Source)) -> Option<AccountRecord> {
    let Source::ServiceAccount { namespace, name, uid } = source else { return None };
    Some(AccountRecord { uid: uid.clone(), namespace: namespace.clone(), name: name.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(name: &str, password: &str) -> (Auth, Source) {
        let auth = Auth { username: "me".into(), password: password.into(), ..Auth::default() };
        (auth, Source::Secret { namespace: "n".into(), name: name.into(), uid: format!("u-{name}") })
    }

    fn world() -> (tempfile::TempDir, Records, Reference) {
        let dir = tempfile::tempdir().expect("a folder");
        let records = Records::new(dir.path());
        (dir, records, Reference::parse("r.example/app:v1").expect("good"))
    }

    #[test]
    fn an_image_that_came_by_a_secret_is_for_pods_with_it() {
        let (_dir, records, reference) = world();
        let may = |credentials: &[(Auth, Source)]| records.may_use("r.example/app:v1", &reference, "sha256:1", credentials);
        assert!(may(&[]), "loaded, not pulled: everybody's");
        records.begin("r.example/app:v1").expect("writable");
        assert!(!may(&[]), "under way, or cut short");
        records.pulled("r.example/app:v1", &reference, "sha256:1", Some(&credential("a", "secret"))).expect("writable");
        assert!(may(&[credential("a", "secret")]));
        assert!(!may(&[]) && !may(&[credential("b", "guess")]));
        assert!(may(&[credential("b", "guess"), credential("c", "secret")]), "the same credential in another secret");
        assert!(may(&[credential("c", "rotated")]), "that secret is known now, whatever is in it");
        let other = Reference::parse("mirror.example/app:v1").expect("good");
        assert!(!records.may_use("mirror.example/app:v1", &other, "sha256:1", &[credential("a", "secret")]), "of another registry nothing is known");
        records.pulled("r.example/app:v1", &reference, "sha256:1", None).expect("writable");
        assert!(may(&[]), "the registry gave it to nobody in particular");
        records.pulled("r.example/app:v1", &reference, "sha256:1", Some(&credential("a", "secret"))).expect("writable");
        assert!(may(&[]), "and that stays");
    }

    #[test]
    fn an_image_that_came_by_a_service_account_is_for_pods_of_it() {
        let (_dir, records, reference) = world();
        let may = |credentials: &[(Auth, Source)]| records.may_use("r.example/app:v1", &reference, "sha256:1", credentials);
        let of = |uid: &str| {
            let source = Source::ServiceAccount { namespace: "n".into(), name: "sa".into(), uid: uid.into() };
            (Auth { username: "me".into(), password: "secret".into(), ..Auth::default() }, source)
        };
        records.begin("r.example/app:v1").expect("writable");
        records.pulled("r.example/app:v1", &reference, "sha256:1", Some(&of("1"))).expect("writable");
        assert!(may(&[of("1")]) && may(&[credential("a", "x"), of("1")]));
        assert!(!may(&[]) && !may(&[of("2")]), "an account of the same name that came later is another");
        assert!(!may(&[credential("a", "secret")]), "the same password in a secret says nothing of the account");
        records.pulled("r.example/app:v1", &reference, "sha256:1", Some(&credential("a", "secret"))).expect("writable");
        assert!(may(&[of("1")]) && may(&[credential("a", "secret")]));
    }

    #[test]
    fn a_failed_pull_and_a_damaged_record_open_nothing_and_close_nothing() {
        let (_dir, records, reference) = world();
        let may = |credentials: &[(Auth, Source)]| records.may_use("r.example/app:v1", &reference, "sha256:1", credentials);
        records.begin("r.example/app:v1").expect("writable");
        records.failed("r.example/app:v1");
        assert!(may(&[]), "still what was loaded");
        records.pulled("r.example/app:v1", &reference, "sha256:1", None).expect("writable");
        std::fs::write(records.pulled_file("sha256:1"), "{").expect("writable");
        assert!(!may(&[]));
        records.pulled("r.example/app:v1", &reference, "sha256:1", None).expect("begun anew");
        assert!(may(&[]));
    }
}
