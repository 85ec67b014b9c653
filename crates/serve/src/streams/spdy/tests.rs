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

#[tokio::test]
async fn an_old_client_opens_no_sizes_and_gets_no_status_of_success() {
    use crate::streams::exec::{Outcome, Version, Wants, accept_spdy};
    for (protocol, end) in [("v2.channel.k8s.io", ""), ("v4.channel.k8s.io", r#"{"metadata":{},"status":"Success"}"#)] {
        let (a, b) = tokio::io::duplex(1 << 20);
        let mut client = Client::new(a);
        let kinds: &[&str] = if end.is_empty() { &["error", "stdout"] } else { &["error", "stdout", "resize"] };
        for (i, kind) in kinds.iter().enumerate() {
            client.send(open(2 * i as u32 + 1, kind)).await;
        }
        let wants = Wants { stdout: true, tty: true, ..Wants::default() };
        let session = accept_spdy(b, Version::of(Some(protocol)), wants).await.expect("all streams are open");
        tokio::spawn(session.finish(Outcome::Exited(0)));
        let mut errors = Vec::new();
        while let Some(frame) = client.next().await {
            if let Frame::Data { stream: 1, bytes, .. } = frame {
                errors.extend_from_slice(&bytes);
            }
        }
        assert_eq!(String::from_utf8_lossy(&errors), end, "{protocol}");
    }
}

/// A client that goes on sending and reads nothing before the server has closed: what it then finds must be whole and in order.
#[tokio::test]
async fn the_end_of_a_command_arrives_over_a_socket_whose_client_still_sends() {
    use crate::streams::exec::{Outcome, Version, Wants, accept_spdy};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let there = tokio::net::TcpStream::connect(listener.local_addr().expect("an address"));
    let (there, here) = tokio::join!(there, listener.accept());
    let (mut there, here) = (there.expect("connects"), here.expect("accepted").0);
    let mut encoder = Encoder::new();
    let mut out = BytesMut::new();
    for (i, kind) in ["error", "stdin", "stdout"].iter().enumerate() {
        encoder.encode(&open(2 * i as u32 + 1, kind), &mut out);
    }
    there.write_all(&out).await.expect("the streams are opened");
    let mut session = accept_spdy(here, Version::of(Some("v4.channel.k8s.io")), Wants { stdin: true, stdout: true, ..Wants::default() }).await.expect("all streams are open");
    out.clear();
    encoder.encode(&Frame::Data { stream: 3, fin: false, bytes: Bytes::from(vec![1; 3 * STREAM_BUFFER_BYTES]) }, &mut out);
    there.write_all(&out).await.expect("more input than is ever read");
    session.stdout.take().expect("asked for").write_all(b"the answer").await.expect("fits the buffer");
    session.finish(Outcome::Exited(3)).await;
    let (mut decoder, mut buf, mut stdout, mut status, mut last) = (Decoder::new(), BytesMut::new(), Vec::new(), Vec::new(), None);
    while there.read_buf(&mut buf).await.expect("no reset") > 0 {
        while let Some(frame) = decoder.decode(&mut buf).expect("valid frames") {
            match &frame {
                Frame::Data { stream: 5, bytes, .. } => stdout.extend_from_slice(bytes),
                Frame::Data { stream: 1, bytes, .. } => status.extend_from_slice(bytes),
                _ => {}
            }
            last = Some(frame);
        }
    }
    assert_eq!(String::from_utf8_lossy(&stdout), "the answer");
    assert!(String::from_utf8_lossy(&status).contains("exit status 3"), "{status:?}");
    assert_eq!(last, Some(Frame::GoAway { last_stream: 0, status: 0 }), "the good-bye is the last frame");
}
