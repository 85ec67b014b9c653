use super::*;
use crate::{from_kubeconfig, from_kubeconfig_as};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// An authority, two certificates of it, and a server that answers with which of them a connection showed.
struct World {
    dir: tempfile::TempDir,
    leaves: [(Vec<u8>, String); 2],
    /// Rung when the server has a request that it does not answer.
    hanging: Arc<Notify>,
}

impl World {
    async fn new() -> World {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&key).expect("an authority");
        let issuer = Issuer::new(params, key);
        let leaf = |name: &str| {
            let key = KeyPair::generate().expect("a key");
            let made = CertificateParams::new(vec![name.to_owned()]).expect("a name").signed_by(&key, &issuer).expect("signed");
            (made.der().to_vec(), format!("{}{}", made.pem(), key.serialize_pem()))
        };
        let (server, leaves) = (leaf("localhost"), [leaf("one"), leaf("two")]);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let dir = tempfile::tempdir().expect("a folder");
        let at = |file: &str| dir.path().join(file);
        std::fs::write(at("ca.pem"), ca.pem()).expect("written");
        std::fs::write(at("pair.pem"), &leaves[0].1).expect("written");
        let kubeconfig = format!(
            "clusters: [{{name: c, cluster: {{server: 'https://localhost:{port}', certificate-authority: ca.pem}}}}]\n\
             users: [{{name: u, user: {{client-certificate: pair.pem, client-key: pair.pem}}}}]\n\
             contexts: [{{name: x, context: {{cluster: c, user: u}}}}]\ncurrent-context: x\n"
        );
        std::fs::write(at("kubeconfig"), kubeconfig).expect("written");
        let mut roots = RootCertStore::empty();
        roots.add(ca.der().clone()).expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().expect("a verifier");
        let private = PrivateKeyDer::from_pem_slice(server.1.as_bytes()).expect("a key");
        let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
        let config = config.with_client_cert_verifier(verifier).with_single_cert(vec![server.0.into()], private).expect("settings");
        let (known, hanging) = (leaves.clone().map(|(der, _)| der), Arc::new(Notify::new()));
        let ring = hanging.clone();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                tokio::spawn(serve(tokio_rustls::TlsAcceptor::from(Arc::new(config.clone())), tcp, known.clone(), ring.clone()));
            }
        });
        World { dir, leaves, hanging }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    /// As who renews a certificate does it: whole.
    fn renew(&self, text: &str) {
        std::fs::write(self.path("new"), text).expect("written");
        std::fs::rename(self.path("new"), self.path("pair.pem")).expect("moved");
    }

    async fn client(&self) -> (kube::Client, Arc<ClientCertificate>) {
        let certificate = ClientCertificate::open(&self.path("pair.pem"), &self.path("pair.pem")).expect("a pair");
        (from_kubeconfig_as(self.path("kubeconfig"), certificate.clone()).await.expect("a client"), certificate)
    }
}

/// Answers every request of the connection but those for `/hang`.
async fn serve(acceptor: tokio_rustls::TlsAcceptor, tcp: TcpStream, known: [Vec<u8>; 2], hanging: Arc<Notify>) {
    let Ok(mut tls) = acceptor.accept(tcp).await else { return };
    let shown = tls.get_ref().1.peer_certificates().expect("a certificate")[0].to_vec();
    let which = known.iter().position(|der| *der == shown).expect("a known one");
    let mut asked = Vec::new();
    while let Ok(byte) = tls.read_u8().await {
        asked.push(byte);
        if asked.ends_with(b"\r\n\r\n") {
            if asked.starts_with(b"GET /hang") {
                hanging.notify_one();
            } else {
                tls.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{which}").as_bytes()).await.expect("written");
            }
            asked.clear();
        }
    }
}

async fn get(client: &kube::Client, path: &str) -> Result<String, kube::Error> {
    client.request_text(http::Request::get(path).body(Vec::new()).expect("a request")).await
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_at_once_and_what_hangs_on_the_old_one_ends() {
    let world = World::new().await;
    let (client, certificate) = world.client().await;
    assert_eq!(get(&client, "/").await.expect("an answer"), "0");
    let renew = async {
        world.hanging.notified().await;
        world.renew(&world.leaves[1].1);
        certificate.reload();
        get(&client, "/").await
    };
    let (hung, answered) = tokio::join!(get(&client, "/hang"), renew);
    hung.expect_err("its connection ended");
    assert_eq!(answered.expect("an answer"), "1");
}

#[tokio::test]
async fn a_connection_made_later_shows_what_the_files_hold_and_torn_files_leave_what_was_there() {
    let world = World::new().await;
    let client = from_kubeconfig(world.path("kubeconfig")).await.expect("a client");
    world.renew(&world.leaves[1].1);
    assert_eq!(get(&client, "/").await.expect("an answer"), "1", "no connection was there before");
    let (client, certificate) = world.client().await;
    world.renew("torn");
    certificate.reload();
    assert_eq!(get(&client, "/").await.expect("an answer"), "1");
}

#[tokio::test]
async fn a_pair_that_does_not_fit_is_refused_by_name() {
    let world = World::new().await;
    let (one, two) = (&world.leaves[0].1, &world.leaves[1].1);
    world.renew(&format!("{}{}", &one[..one.find("-----BEGIN PRIVATE").expect("a key")], &two[two.find("-----BEGIN PRIVATE").expect("a key")..]));
    let refused = from_kubeconfig(world.path("kubeconfig")).await.err().expect("refused");
    assert!(format!("{refused} {:?}", std::error::Error::source(&refused)).contains("Mismatch"), "{refused}");
    let certificate = ClientCertificate::open(&world.path("ca.pem"), &world.path("ca.pem"));
    assert!(matches!(certificate, Err(CertificateError::NoKey(_))));
}
