use super::*;
use crate::zone::tests::cluster;
use hickory_proto::op::Query;
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record, RecordType};

fn query(name: &str) -> Message {
    let mut m = Message::query();
    m.metadata.id = 7;
    m.add_query(Query::query(Name::from_ascii(name).expect("a name"), RecordType::A));
    m
}

async fn server(upstreams: Vec<SocketAddr>, synced: bool) -> SocketAddr {
    let mut directory = cluster();
    directory.synced = synced;
    let s = Server::bind(Options { listen: ([127, 0, 0, 1], 0).into(), domain: "cluster.local".into(), upstreams }, Arc::new(directory)).await.expect("binds");
    let address = s.address().expect("bound");
    tokio::spawn(s.run(CancellationToken::new()));
    address
}

async fn ask(to: SocketAddr, name: &str) -> Message {
    let m = query(name).to_vec().expect("encodes");
    let udp = Message::from_vec(&ask_udp(to, &m).await.expect("answers")).expect("decodes");
    let tcp = Message::from_vec(&ask_tcp(to, &m).await.expect("answers over TCP")).expect("decodes");
    assert_eq!((udp.metadata.response_code, &udp.answers), (tcp.metadata.response_code, &tcp.answers));
    udp
}

/// A resolver that knows one address for every name, over UDP and TCP.
async fn upstream() -> SocketAddr {
    let udp = UdpSocket::bind("127.0.0.1:0").await.expect("binds");
    let address = udp.local_addr().expect("bound");
    let tcp = TcpListener::bind(address).await.expect("binds");
    let answer = |bytes: &[u8]| {
        let q = Message::from_vec(bytes).expect("a query");
        let mut r = Message::response(q.metadata.id, q.metadata.op_code);
        r.add_answer(Record::from_rdata(q.queries[0].name.clone(), 60, RData::A(A::new(192, 0, 2, 1))));
        r.queries = q.queries;
        r.to_vec().expect("encodes")
    };
    tokio::spawn(async move {
        let mut buf = [0; 512];
        while let Ok((n, from)) = udp.recv_from(&mut buf).await {
            let _ = udp.send_to(&answer(&buf[..n]), from).await;
        }
    });
    tokio::spawn(async move {
        while let Ok((mut s, _)) = tcp.accept().await {
            let m = read_message(&mut s).await.expect("a query");
            write_message(&mut s, &answer(&m)).await.expect("answers");
        }
    });
    address
}

#[tokio::test]
async fn cluster_names_are_answered_and_others_go_upstream() {
    let s = server(vec![upstream().await], true).await;
    let web = ask(s, "web.d.svc.cluster.local.").await;
    assert!(web.metadata.authoritative && web.answers[0].data.to_string() == "10.0.0.9");
    assert_eq!(ask(s, "example.org.").await.answers[0].data.to_string(), "192.0.2.1");
    let none = ask(s, "nope.d.svc.cluster.local.").await;
    assert_eq!((none.metadata.response_code, none.authorities.len()), (ResponseCode::NXDomain, 1));
}

#[tokio::test]
async fn without_a_resolver_names_outside_the_cluster_are_refused() {
    assert_eq!(ask(server(vec![], true).await, "example.org.").await.metadata.response_code, ResponseCode::Refused);
}

#[tokio::test]
async fn a_missing_name_is_not_denied_before_everything_is_known() {
    assert_eq!(ask(server(vec![], false).await, "nope.d.svc.cluster.local.").await.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn garbage_gets_a_format_error_or_silence_and_the_server_lives() {
    let s = server(vec![], true).await;
    let reply = ask_udp(s, &[0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xff, 0xff]).await.expect("answers");
    assert_eq!(Message::from_vec(&reply).expect("decodes").metadata.response_code, ResponseCode::FormErr);
    assert_eq!(ask(s, "web.d.svc.cluster.local.").await.answers.len(), 1);
}

#[test]
fn resolvers_are_read_from_resolv_conf() {
    let f = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(f.path(), "search x\nnameserver 192.0.2.53\n# nameserver 192.0.2.54\nnameserver fe80::1\n").expect("writes");
    assert_eq!(node_resolvers(f.path()), vec!["192.0.2.53:53".parse().expect("an address"), "[fe80::1]:53".parse().expect("an address")]);
}
