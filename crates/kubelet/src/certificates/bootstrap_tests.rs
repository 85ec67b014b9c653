use super::*;
use crate::certificates::Pair;
use keles_pki::Pki;
use std::os::unix::fs::PermissionsExt;

struct World {
    dir: tempfile::TempDir,
    pki: Pki,
}

impl World {
    fn new() -> World {
        let dir = tempfile::tempdir().expect("a folder");
        let pki = Pki::open(dir.path()).expect("opens");
        let token = keles_pki::kubeconfig("https://127.0.0.1:1", pki.ca_pem(), &keles_pki::KubeconfigUser::Token("abcdef.0123456789abcdef"));
        std::fs::write(dir.path().join("bootstrap"), token).expect("written");
        World { dir, pki }
    }

    fn at(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    async fn ensure(&self, now: Timestamp) -> Result<(), BootstrapError> {
        ensure(&Bootstrap { kubeconfig: &self.at("kubeconfig"), bootstrap_kubeconfig: &self.at("bootstrap"), certificates: &self.at("certificates"), node: "n1" }, now).await
    }
}

#[tokio::test]
async fn a_kubeconfig_in_its_time_is_left_alone() {
    let world = World::new();
    let node = world.pki.node("n1").expect("made");
    let text = keles_pki::kubeconfig("https://127.0.0.1:1", world.pki.ca_pem(), &keles_pki::KubeconfigUser::Certificate(&node));
    std::fs::write(world.at("kubeconfig"), &text).expect("written");
    world.ensure(Timestamp::now()).await.expect("nothing to do");
    assert_eq!(std::fs::read_to_string(world.at("kubeconfig")).expect("reads"), text);
    let end = Pair::of(node).expect("a pair").leaf.not_after;
    assert!(!is_valid(&world.at("kubeconfig"), end + jiff::SignedDuration::from_secs(1)).expect("reads"), "expired");
    assert!(!is_valid(&world.at("bootstrap"), Timestamp::now()).expect("reads"), "a token is no certificate");
    std::fs::write(world.at("kubeconfig"), "torn: [").expect("written");
    assert!(!is_valid(&world.at("kubeconfig"), Timestamp::now()).expect("reads"));
}

#[tokio::test]
async fn a_certificate_in_force_is_named_by_a_new_kubeconfig() {
    let world = World::new();
    let node = world.pki.node("n1").expect("made");
    let store = Store::open(&world.at("certificates"), CLIENT_PREFIX).expect("opens");
    store.update(&node.certificate_pem, &node.key_pem, Timestamp::now()).expect("written");
    world.ensure(Timestamp::now()).await.expect("no request is needed");
    assert_eq!(std::fs::metadata(world.at("kubeconfig")).expect("a file").permissions().mode() & 0o777, 0o600);
    let made = Kubeconfig::read_from(world.at("kubeconfig")).expect("a kubeconfig");
    let auth = made.auth_infos[0].auth_info.as_ref().expect("a user");
    assert_eq!(auth.client_certificate.as_deref(), Some(&*store.current_path().display().to_string()));
    assert!(auth.token.is_none(), "the bootstrap credentials stay where they are");
    let cluster = made.clusters[0].cluster.as_ref().expect("a cluster");
    assert_eq!(cluster.server.as_deref(), Some("https://127.0.0.1:1"));
    assert!(cluster.certificate_authority_data.is_some());
    assert!(is_valid(&world.at("kubeconfig"), Timestamp::now()).expect("reads"));
    let shown = client_pair(&world.at("kubeconfig")).expect("a pair");
    assert_eq!(Pair::of(shown).expect("fits").leaf.subject.common_name, "system:node:n1");
}

#[test]
fn the_key_of_a_waiting_request_is_found_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join(WAITING_KEY);
    let first = kept_key(&path).expect("made").pem();
    assert_eq!(std::fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
    assert_eq!(kept_key(&path).expect("read").pem(), first);
    std::fs::write(&path, "torn").expect("written");
    assert_ne!(kept_key(&path).expect("made").pem(), first);
}

#[test]
fn a_bootstrap_kubeconfig_without_a_cluster_is_refused_by_name() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("b");
    std::fs::write(&path, "clusters: []\nusers: []\ncontexts: []\ncurrent-context: x\n").expect("written");
    let error = kubeconfig(&path, Path::new("/p")).expect_err("no cluster");
    assert!(error.to_string().contains("names no cluster"), "{error}");
}
