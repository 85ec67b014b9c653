use super::*;
use bytes::Bytes;

/// A client that speaks frames by hand.
struct Client {
    io: DuplexStream,
    encoder: Encoder,
    decoder: Decoder,
    buf: BytesMut,
}

impl Client {
    fn new(io: DuplexStream) -> Self {
        Client { io, encoder: Encoder::new(), decoder: Decoder::new(), buf: BytesMut::new() }
    }
    async fn send(&mut self, f: Frame) {
        let mut out = BytesMut::new();
        self.encoder.encode(&f, &mut out);
        self.io.write_all(&out).await.expect("the server reads");
    }
    async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(f) = self.decoder.decode(&mut self.buf).expect("valid frames") {
                return Some(f);
            }
            if self.io.read_buf(&mut self.buf).await.expect("readable") == 0 {
                return None;
            }
        }
    }
}

fn open(stream: u32, kind: &str) -> Frame {
    Frame::SynStream { stream, fin: false, headers: vec![("streamtype".into(), kind.into())] }
}

#[tokio::test]
async fn a_stream_echoes_and_all_output_leaves_before_the_close() {
    let (a, b) = tokio::io::duplex(1 << 20);
    let (mut client, mut session) = (Client::new(a), Session::start(b));
    client.send(open(1, "data")).await;
    let mut s = session.accept().await.expect("opened");
    assert_eq!(s.header("streamtype"), "data");
    client.send(Frame::Data { stream: 1, fin: true, bytes: Bytes::from_static(b"ping") }).await;
    let mut got = Vec::new();
    s.io.read_to_end(&mut got).await.expect("reads to the FIN");
    assert_eq!(got, b"ping");
    s.io.write_all(&vec![7; 200_000]).await.expect("writes");
    drop(s);
    let (mut received, mut fin) = (0, false);
    while !fin {
        if let Some(Frame::Data { bytes, fin: f, .. }) =
            client.next().await.map(|f| if let Frame::Data { .. } = f { f } else { Frame::Settings }).filter(|f| matches!(f, Frame::Data { .. }))
        {
            received += bytes.len();
            fin = f;
        }
    }
    assert_eq!(received, 200_000);
    session.close().await;
    let mut last = None;
    while let Some(f) = client.next().await {
        last = Some(f);
    }
    assert_eq!(last, Some(Frame::GoAway { last_stream: 0, status: 0 }));
}

#[tokio::test]
async fn a_ping_is_answered_and_a_lost_connection_ends_the_session() {
    let (a, b) = tokio::io::duplex(1 << 16);
    let (mut client, mut session) = (Client::new(a), Session::start(b));
    client.send(Frame::Ping { id: 9 }).await;
    assert_eq!(client.next().await, Some(Frame::Ping { id: 9 }));
    drop(client);
    assert!(session.accept().await.is_none());
}
