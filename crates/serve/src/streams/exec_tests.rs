use super::*;
use futures::{SinkExt, StreamExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

const ALL: Wants = Wants { stdin: true, stdout: true, stderr: true, tty: false };

async fn pair(wants: Wants) -> (WebSocketStream<tokio::io::DuplexStream>, ExecSession) {
    pair_of("v5.channel.k8s.io", Encoding::Binary, wants).await
}

async fn pair_of(protocol: &str, encoding: Encoding, wants: Wants) -> (WebSocketStream<tokio::io::DuplexStream>, ExecSession) {
    let (a, b) = tokio::io::duplex(1 << 20);
    let client = WebSocketStream::from_raw_socket(a, Role::Client, None).await;
    (client, accept_websocket(b, encoding, Version::of(Some(protocol)), wants).await.expect("accepts"))
}

/// All that a client is sent to the end: (channel, text); 99 is the Close.
async fn seen(mut client: WebSocketStream<tokio::io::DuplexStream>) -> Vec<(u8, String)> {
    let mut seen = Vec::new();
    while let Some(Ok(m)) = client.next().await {
        match m {
            Message::Binary(b) => seen.push((b[0], String::from_utf8_lossy(&b[1..]).into_owned())),
            Message::Text(t) => seen.push((t.as_bytes()[0] - b'0', t[1..].to_owned())),
            Message::Close(f) => seen.push((99, format!("{:?}", f.expect("coded").code))),
            _ => {}
        }
    }
    seen
}

#[tokio::test]
async fn before_version_4_success_says_nothing_and_failure_is_plain_text() {
    for (protocol, encoding, out, failure) in [
        ("channel.k8s.io", Encoding::Binary, "out", "command terminated with non-zero exit code: exit status 7"),
        ("base64.channel.k8s.io", Encoding::Base64, "b3V0", "Y29tbWFuZCB0ZXJtaW5hdGVkIHdpdGggbm9uLXplcm8gZXhpdCBjb2RlOiBleGl0IHN0YXR1cyA3"),
    ] {
        for (code, error) in [(0, None), (7, Some(failure))] {
            let (client, mut session) = pair_of(protocol, encoding, ALL).await;
            session.stdout.as_mut().expect("asked for").write_all(b"out").await.expect("writes");
            session.finish(Outcome::Exited(code)).await;
            let mut wanted = vec![(STDOUT, String::new()), (STDOUT, out.to_owned())];
            wanted.extend(error.map(|e| (ERROR, e.to_owned())));
            wanted.push((99, "Normal".into()));
            assert_eq!(seen(client).await, wanted, "{protocol}, exit code {code}");
        }
    }
}

#[test]
fn a_client_gets_the_version_it_knows() {
    let switched = |header: &str, upgrade_to: &str, protocols: &str| {
        let mut r = Request::builder().header("upgrade", upgrade_to).header("sec-websocket-key", "x").header(header, protocols).body(()).expect("builds");
        let (answer, upgrade) = upgrade(&mut r, ALL).expect("switches");
        let version = match upgrade.carrier {
            Carrier::WebSocket { version, .. } | Carrier::Spdy { version } => version,
        };
        (answer.headers().get(header).map(|v| v.to_str().expect("text").to_owned()), version.0)
    };
    for (offered, chosen, version) in [
        ("v5.channel.k8s.io, v4.channel.k8s.io", "v5.channel.k8s.io", 5),
        ("v4.base64.channel.k8s.io", "v4.base64.channel.k8s.io", 4),
        ("channel.k8s.io", "channel.k8s.io", 1),
        ("base64.channel.k8s.io", "base64.channel.k8s.io", 1),
    ] {
        assert_eq!(switched("sec-websocket-protocol", "websocket", offered), (Some(chosen.into()), version), "{offered}");
    }
    for (offered, chosen, version) in [
        ("v4.channel.k8s.io,v3.channel.k8s.io", Some("v4.channel.k8s.io"), 4),
        ("v2.channel.k8s.io", Some("v2.channel.k8s.io"), 2),
        ("channel.k8s.io", Some("channel.k8s.io"), 1),
        ("", None, 1),
    ] {
        assert_eq!(switched("x-stream-protocol-version", "spdy/3.1", offered), (chosen.map(Into::into), version), "{offered}");
    }
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
    let seen = seen(client).await;
    assert_eq!(seen[0], (1, String::new()), "the empty first message");
    assert_eq!(seen[1], (1, "out".into()));
    assert!(seen[2].0 == 3 && seen[2].1.contains(r#"{"message":"7","reason":"ExitCode"}"#), "{seen:?}");
    assert_eq!(seen[3], (99, "Normal".into()));
}

#[tokio::test]
async fn nothing_is_sent_before_the_command_runs() {
    let (mut client, mut session) = pair(ALL).await;
    session.stdout.as_mut().expect("asked for").write_all(b"early").await.expect("writes");
    // Whatever the writer would do has been done once it was polled.
    tokio::task::yield_now().await;
    assert!(futures::poll!(client.next()).is_pending());
    session.established();
    session.finish(Outcome::Exited(0)).await;
    assert_eq!(seen(client).await[..2], [(1, String::new()), (1, "early".into())]);
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
