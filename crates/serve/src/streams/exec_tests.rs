use super::*;
use futures::{SinkExt, StreamExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

const ALL: Wants = Wants { stdin: true, stdout: true, stderr: true, tty: false };

async fn pair(wants: Wants) -> (WebSocketStream<tokio::io::DuplexStream>, ExecSession) {
    let (a, b) = tokio::io::duplex(1 << 20);
    let client = WebSocketStream::from_raw_socket(a, Role::Client, None).await;
    (client, accept_websocket(b, Encoding::Binary, true, wants).await.expect("accepts"))
}

#[tokio::test]
async fn the_status_follows_the_last_output_and_the_close_is_coded() {
    let (mut client, mut session) = pair(ALL).await;
    client.send(Message::binary([&[0u8][..], b"typed"].concat())).await.expect("sends");
    client.send(Message::binary(vec![255, 0])).await.expect("closes stdin");
    let mut typed = String::new();
    session.stdin.take().expect("asked for").read_to_string(&mut typed).await.expect("ends with the v5 close");
    assert_eq!(typed, "typed");
    session.stdout.as_mut().expect("asked for").write_all(b"out").await.expect("writes");
    session.finish(Outcome::Exited(7)).await;
    let mut seen = Vec::new();
    while let Some(Ok(m)) = client.next().await {
        match m {
            Message::Binary(b) => seen.push((b[0], String::from_utf8_lossy(&b[1..]).into_owned())),
            Message::Close(f) => seen.push((99, format!("{:?}", f.expect("coded").code))),
            _ => {}
        }
    }
    assert_eq!(seen[0], (1, String::new()), "the empty first message");
    assert_eq!(seen[1], (1, "out".into()));
    assert!(seen[2].0 == 3 && seen[2].1.contains(r#"{"message":"7","reason":"ExitCode"}"#), "{seen:?}");
    assert_eq!(seen[3], (99, "Normal".into()));
}

#[tokio::test]
async fn sizes_reach_the_terminal() {
    let (mut client, mut session) = pair(Wants { tty: true, ..ALL }).await;
    assert!(session.stderr.is_none(), "a terminal has no stderr of its own");
    client.send(Message::binary([&[4u8][..], br#"{"Width":80,"Height":24}"#].concat())).await.expect("sends");
    assert_eq!(session.resize.recv().await, Some(Size { width: 80, height: 24 }));
}

#[test]
fn an_upgrade_with_no_known_protocol_is_refused() {
    let mut r = Request::builder().header("upgrade", "websocket").header("sec-websocket-key", "x").header("sec-websocket-protocol", "v9.channel.k8s.io").body(()).expect("builds");
    assert!(matches!(upgrade(&mut r, ALL), Err(StreamError::Protocol { .. })));
    let mut plain = Request::new(());
    assert!(matches!(upgrade(&mut plain, ALL), Err(StreamError::NotAnUpgrade)));
}
