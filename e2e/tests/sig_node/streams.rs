//! exec and logs over WebSocket.

use futures::StreamExt;
use http::Request;
use hyper_util::rt::TokioIo;
use keles_e2e::api::{World, eventually, shell};
use keles_e2e::conformance::{Case, case};
use kube::client::Body;
use serde_json::json;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

pub fn cases() -> Vec<Case> {
    vec![
        case("Pods should support remote command execution over websockets", |w| async move {
            w.pod("p", json!({"containers": [shell("sleep 600")]})).await;
            w.pods().ready("p").await;
            let said = over_websocket(&w, "exec?stdout=1&stderr=1&container=c&command=echo&command=remote%20execution%20test", "v4.channel.k8s.io").await;
            // Channel 1 is standard output, channel 3 the end.
            let of = |channel: u8| said.iter().filter(|m| m.first() == Some(&channel)).map(|m| String::from_utf8_lossy(&m[1..]).into_owned()).collect::<String>();
            assert_eq!(of(1), "remote execution test\n");
            assert!(of(3).contains("\"status\":\"Success\""), "{}", of(3));
        }),
        case("Pods should support retrieving logs from the container over websockets", |w| async move {
            w.pod("p", json!({"containers": [shell("echo container is alive; sleep 600")]})).await;
            w.pods().ready("p").await;
            // Ready says that it runs, not that it has said anything.
            eventually("its log", || async { Some(w.log("p", "").await).filter(|l| !l.is_empty()).ok_or_else(|| "nothing yet".to_owned()) }).await;
            for protocol in ["binary.k8s.io", ""] {
                let said = over_websocket(&w, "log?container=c", protocol).await;
                assert_eq!(String::from_utf8_lossy(&said.concat()), "container is alive\n", "{protocol:?}");
            }
            let said = over_websocket(&w, "log?container=c", "base64.binary.k8s.io").await;
            // "container is alive\n"
            assert_eq!(String::from_utf8_lossy(&said.concat()), "Y29udGFpbmVyIGlzIGFsaXZlCg==");
        }),
    ]
}

/// All messages of the connection that have something in them.
async fn over_websocket(w: &World, what: &str, protocol: &str) -> Vec<Vec<u8>> {
    let mut request = Request::get(format!("/api/v1/namespaces/{}/pods/p/{what}", w.namespace))
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    if !protocol.is_empty() {
        request = request.header("sec-websocket-protocol", protocol);
    }
    let answer = w.client.send(request.body(Body::empty()).expect("a request")).await.expect("an answer");
    assert_eq!((answer.status().as_u16(), answer.headers().get("sec-websocket-protocol").map(|v| v.to_str().expect("text"))), (101, Some(protocol).filter(|p| !p.is_empty())));
    let io = hyper::upgrade::on(answer).await.expect("switches");
    let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(io), Role::Client, None).await;
    let mut said = Vec::new();
    while let Some(message) = socket.next().await {
        match message.expect("a message") {
            Message::Binary(b) if !b.is_empty() => said.push(b.to_vec()),
            Message::Text(t) if !t.is_empty() => said.push(t.as_bytes().to_vec()),
            Message::Close(_) => break,
            _ => {}
        }
    }
    said
}
