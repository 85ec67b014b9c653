use super::*;
use keles_pki::self_signed;
use std::future::Future;

const PATIENCE: Duration = Duration::from_secs(20);

fn made(name: &str) -> Certified {
    self_signed(name, &Names { dns: vec![name.into()], ips: vec![] }).expect("made")
}

fn tls(certificate: ServingCertificate) -> ServerTls {
    ServerTls { certificate, client_ca_pem: made("ca").certificate_pem }
}

#[test]
fn until_a_certificate_is_issued_there_is_none_and_then_it_is_shown_at_the_next_start() {
    let dir = tempfile::tempdir().expect("a folder");
    let requested = tls(ServingCertificate::Requested { dir: dir.path().into() });
    assert_eq!(first(&requested).expect("opens").settings.current().err(), Some(NONE_YET));
    let issued = made("n1");
    Store::open(dir.path(), PREFIX).expect("opens").update(&issued.certificate_pem, &issued.key_pem, jiff::Timestamp::now()).expect("written");
    first(&requested).expect("opens").settings.current().expect("a certificate");
}

#[test]
fn a_given_certificate_must_be_usable() {
    first(&tls(ServingCertificate::Given(made("n1")))).expect("usable");
    let torn = Certified { key_pem: made("other").key_pem, ..made("n1") };
    assert!(matches!(first(&tls(ServingCertificate::Given(torn))), Err(KubeletError::Tls(_))));
}

async fn soon(what: impl Future<Output = ()>) {
    tokio::time::timeout(PATIENCE, what).await.expect("in time");
}

#[tokio::test]
async fn files_that_change_are_taken_anew_and_torn_ones_leave_what_was_there() {
    let dir = tempfile::tempdir().expect("a folder");
    let (certificate, key) = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
    let write = |pair: &Certified| {
        std::fs::write(&certificate, &pair.certificate_pem).expect("written");
        std::fs::write(&key, &pair.key_pem).expect("written");
    };
    write(&made("one"));
    let shown = first(&tls(ServingCertificate::Files { certificate: certificate.clone(), key: key.clone() })).expect("usable");
    let now = || shown.settings.current().expect("a certificate");
    let changed = async |before| {
        while Arc::ptr_eq(&now(), &before) {
            tokio::task::yield_now().await;
        }
    };
    let before = now();
    let stop = CancellationToken::new();
    let following = tokio::spawn(stop.clone().run_until_cancelled_owned(follow(certificate.clone(), key.clone(), shown.clone())));
    soon(changed(before)).await;
    let first_taken = now();
    std::fs::write(&certificate, "torn").expect("written");
    write(&made("two"));
    soon(changed(first_taken)).await;
    stop.cancel();
    following.await.expect("ends");
}
