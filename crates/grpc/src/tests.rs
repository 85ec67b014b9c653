use crate::{Channel, Code, Server, Settings, Status};
use futures::StreamExt;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

const SOON: Duration = Duration::from_secs(60);

#[derive(Clone, PartialEq, prost::Message)]
struct Text {
    #[prost(string, tag = "1")]
    text: String,
}

fn text(text: impl Into<String>) -> Text {
    Text { text: text.into() }
}

struct World {
    dir: tempfile::TempDir,
    cancel: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

impl World {
    fn socket(&self) -> PathBuf {
        self.dir.path().join("s.sock")
    }
}

fn server() -> Server {
    Server::new()
        .unary("/t.T/Echo", |q: Text| async move { if q.text == "fail" { Err(Status::new(Code::NotFound, "no Käse: 100 %")) } else { Ok(text(q.text)) } })
        .unary("/t.T/Never", |_: Text| std::future::pending::<Result<Text, Status>>())
        .server_streaming("/t.T/Count", |q: Text| async move {
            let n: u32 = q.text.parse().map_err(|_| Status::new(Code::InvalidArgument, "no number"))?;
            let last = if n > 100 { Err(Status::new(Code::OutOfRange, "too many")) } else { Ok(text("end")) };
            Ok(futures::stream::iter((0..n.min(100)).map(|i| Ok(text(i.to_string()))).chain([last])).boxed())
        })
}

fn world() -> World {
    let dir = tempfile::tempdir().expect("a folder");
    let cancel = CancellationToken::new();
    let listener = UnixListener::bind(dir.path().join("s.sock")).expect("bound");
    let serving = tokio::spawn(server().serve_unix(listener, cancel.clone()));
    World { dir, cancel, serving }
}

async fn echo(c: &Channel, said: &str) -> Result<Text, Status> {
    c.unary("/t.T/Echo", &text(said), SOON).await
}

#[tokio::test]
async fn a_call_is_answered_and_a_failure_has_its_code_and_any_text() {
    let w = world();
    let c = Channel::unix(w.socket());
    assert_eq!(echo(&c, "hello").await, Ok(text("hello")));
    assert_eq!(echo(&c, "").await, Ok(text("")), "an empty message is a message");
    let large = "x".repeat(3 << 20);
    assert_eq!(echo(&c, &large).await, Ok(text(large)), "larger than the window");
    let failed = echo(&c, "fail").await.expect_err("fails");
    assert_eq!((failed.code, failed.to_string().as_str()), (Code::NotFound, "rpc error: code = NotFound desc = no Käse: 100 %"));
    let unknown: Result<Text, Status> = c.unary("/t.T/Nothing", &text(""), SOON).await;
    assert_eq!(unknown.expect_err("unknown").code, Code::Unimplemented);
}

#[tokio::test]
async fn streams_end_well_or_with_their_failure() {
    let w = world();
    let c = Channel::unix(w.socket());
    let count = async |n: &str| {
        let mut answers = c.server_streaming::<Text, Text>("/t.T/Count", &text(n)).await?;
        let mut seen = 0;
        while answers.message().await?.is_some() {
            seen += 1;
        }
        Ok::<usize, Status>(seen)
    };
    assert_eq!(count("7").await, Ok(8));
    assert_eq!(count("1000").await, Err(Status::new(Code::OutOfRange, "too many")));
    assert_eq!(count("x").await, Err(Status::new(Code::InvalidArgument, "no number")));
}

#[tokio::test]
async fn a_call_has_its_limit_and_a_peer_that_comes_back_is_found() {
    let w = world();
    let c = Channel::unix(w.socket());
    let late: Result<Text, Status> = c.unary("/t.T/Never", &text(""), Duration::from_millis(20)).await;
    assert_eq!(late.expect_err("late").code, Code::DeadlineExceeded);
    assert_eq!(echo(&c, "still").await, Ok(text("still")), "one call's end is not the connection's");
    w.cancel.cancel();
    w.serving.await.expect("ends");
    std::fs::remove_file(w.dir.path().join("s.sock")).expect("removed");
    assert_eq!(echo(&c, "gone").await.expect_err("gone").code, Code::Unavailable);
    let listener = UnixListener::bind(w.dir.path().join("s.sock")).expect("bound");
    let _serving = tokio::spawn(server().serve_unix(listener, CancellationToken::new()));
    assert_eq!(echo(&c, "back").await, Ok(text("back")));
}

#[tokio::test]
async fn the_end_of_a_connection_is_told() {
    let w = world();
    let c = Channel::unix(w.socket());
    let ended = c.connected().await.expect("connected");
    echo(&c, "hello").await.expect("over the same one");
    assert!(!ended.is_cancelled());
    w.cancel.cancel();
    w.serving.await.expect("ends");
    std::fs::remove_file(w.dir.path().join("s.sock")).expect("removed");
    tokio::time::timeout(SOON, ended.cancelled()).await.expect("it is told");
    c.connected().await.expect_err("nobody is there any more");
}

#[tokio::test]
async fn requests_may_come_as_a_stream() {
    let w = world();
    let c = Channel::unix(w.socket());
    // They do not end: the answers do.
    let requests = futures::stream::iter([text("3")]).chain(futures::stream::pending());
    let mut answers = c.duplex::<Text, Text>("/t.T/Count", requests).await.expect("a first answer");
    let mut seen = Vec::new();
    while let Some(t) = answers.message().await.expect("no failure") {
        seen.push(t.text);
    }
    assert_eq!(seen, ["0", "1", "2", "end"]);
}

#[tokio::test]
async fn a_channel_has_its_own_limit_of_answers_and_of_connecting() {
    let w = world();
    let c = Channel::unix(w.socket()).with(Settings { message_bytes_max: 16, ..Settings::default() });
    assert_eq!(echo(&c, "short").await, Ok(text("short")));
    assert_eq!(echo(&c, "longer than it may be").await.expect_err("too long").code, Code::ResourceExhausted);
    // It listens and never shakes hands.
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let roots = tokio_rustls::rustls::RootCertStore::empty();
    let provider = std::sync::Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let tls = tokio_rustls::rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("ring has them").with_root_certificates(roots);
    let settings = Settings { connect_timeout: Duration::from_millis(50), ..Settings::default() };
    let c = Channel::tls(mute.local_addr().expect("an address").to_string(), tls.with_no_client_auth()).with(settings);
    let refused = c.ready().await.expect_err("no handshake");
    assert!(refused.code == Code::Unavailable && refused.message.contains("50ms"), "{refused}");
}

#[tokio::test]
async fn a_peer_that_speaks_something_else_is_an_error() {
    let dir = tempfile::tempdir().expect("a folder");
    let listener = UnixListener::bind(dir.path().join("s.sock")).expect("bound");
    tokio::spawn(async move {
        let (mut io, _) = listener.accept().await.expect("accepted");
        let _ = tokio::io::AsyncWriteExt::write_all(&mut io, b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    });
    assert_eq!(echo(&Channel::unix(dir.path().join("s.sock")), "x").await.expect_err("no gRPC").code, Code::Unavailable);
}
