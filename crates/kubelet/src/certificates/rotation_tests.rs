use super::*;
use keles_pki::{Names, Subject};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).expect("a time")
}

fn leaf(node: &str, names: Names, not_before: Timestamp, not_after: Timestamp) -> Leaf {
    let subject = Subject { common_name: format!("system:node:{node}"), organizations: vec!["system:nodes".into()] };
    Leaf { subject, names, not_before, not_after }
}

#[test]
fn a_certificate_is_renewed_between_70_and_90_percent_of_its_life() {
    let leaf = leaf("n1", Names::default(), at(1_000), at(2_000));
    assert_eq!(deadline(&leaf, 0.0), at(1_700));
    assert_eq!(deadline(&leaf, 0.5), at(1_800));
    assert!(deadline(&leaf, 0.999) < at(1_900));
}

#[test]
fn pauses_double_up_to_half_a_minute() {
    let pauses: Vec<u64> = (0..7).map(|failures| back_off(failures).as_secs()).collect();
    assert_eq!(pauses, [2, 4, 8, 16, 32, 32, 32]);
    assert_eq!(back_off(u32::MAX), MAX_RETRY);
}

fn rotation(dir: &std::path::Path, wanted: Wanted, leaf: Option<Leaf>) -> Rotation {
    let client = keles_client::in_process(tower::service_fn(|_| async { Ok::<_, std::convert::Infallible>(http::Response::new(kube::client::Body::empty())) }));
    let pair = leaf.map(|leaf| Pair { certified: keles_pki::self_signed("n1", &Names::default()).expect("made"), leaf });
    Rotation::serving(Store::open(dir, "kubelet-server").expect("opens"), wanted, client, pair)
}

#[tokio::test]
async fn what_is_missing_or_not_what_is_wanted_is_renewed_at_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let names = Names { dns: vec!["n1".into()], ips: vec![[10, 0, 0, 1].into()] };
    let wanted = Wanted::serving("n1", names.clone());
    let pause = |wanted: &Wanted, leaf: Option<Leaf>| rotation(dir.path(), wanted.clone(), leaf).pause(at(1_000), 0.5);
    assert_eq!(pause(&wanted, None), Duration::ZERO);
    assert_eq!(pause(&wanted, Some(leaf("n1", names.clone(), at(1_000), at(2_000)))), Duration::from_secs(800));
    assert_eq!(pause(&wanted, Some(leaf("n1", names.clone(), at(0), at(1_100)))), Duration::ZERO, "its time has come");
    let moved = Wanted::serving("n1", Names { ips: vec![[10, 0, 0, 2].into()], ..names.clone() });
    assert_eq!(pause(&moved, Some(leaf("n1", names.clone(), at(1_000), at(2_000)))), Duration::ZERO, "another address");
    assert_eq!(pause(&wanted, Some(leaf("n2", names.clone(), at(1_000), at(2_000)))), Duration::ZERO, "another node");
    let mut given = rotation(dir.path(), wanted, Some(leaf("n1", names, at(1_000), at(2_000))));
    given.is_due = true;
    assert_eq!((given.pause(at(1_000), 0.5), given.pause(at(1_000), 0.5)), (Duration::ZERO, Duration::from_secs(800)), "once");
}
