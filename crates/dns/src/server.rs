//! UDP and TCP, and the way upstream.

use crate::zone::{Directory, Found, Zone};
use hickory_proto::op::{Edns, Message, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, Name};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// RFC 1035, section 4.2.1: what every client takes over UDP.
const PLAIN_UDP_BYTES: usize = 512;
/// What we announce and send to clients with EDNS; fits a 1,500-byte packet (DNS flag day 2020).
const EDNS_UDP_BYTES: u16 = 1232;
const MAX_MESSAGE_BYTES: usize = 65_535;
/// Queries under way upstream; more are answered SERVFAIL at once.
const MAX_FORWARDED: usize = 1024;
const MAX_TCP_CLIENTS: usize = 256;
const UPSTREAM_TIMEOUT: Duration = Duration::from_secs(2);
const TCP_IDLE: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    #[error("cannot listen on {address} for DNS: {source}; free the port or turn cluster DNS off with --disable dns")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("{0:?} is not a domain name")]
    Domain(String),
}

#[derive(Clone, Debug)]
pub struct Options {
    pub listen: SocketAddr,
    /// `cluster.local`
    pub domain: String,
    /// Asked in order for names outside the cluster; none: such names are refused.
    pub upstreams: Vec<SocketAddr>,
}

/// The resolvers of the node's resolv.conf.
pub fn node_resolvers(resolv_conf: &Path) -> Vec<SocketAddr> {
    let text = std::fs::read_to_string(resolv_conf).unwrap_or_default();
    text.lines().filter_map(|l| l.strip_prefix("nameserver")).filter_map(|ip| ip.trim().parse::<IpAddr>().ok()).map(|ip| SocketAddr::new(ip, 53)).collect()
}

pub struct Server {
    udp: Arc<UdpSocket>,
    tcp: TcpListener,
    answerer: Arc<Answerer>,
}

struct Answerer {
    zone: Zone,
    directory: Arc<dyn Directory>,
    upstreams: Vec<SocketAddr>,
    forwarded: Arc<Semaphore>,
}

/// What to do with a query.
enum Step {
    Reply(Vec<u8>),
    Forward,
    /// Not even a header to answer to.
    Ignore,
}

impl Server {
    pub async fn bind(options: Options, directory: Arc<dyn Directory>) -> Result<Server, DnsError> {
        let mut domain = Name::from_utf8(&options.domain).map_err(|_| DnsError::Domain(options.domain.clone()))?;
        domain.set_fqdn(true);
        let failed = |source| DnsError::Listen { address: options.listen, source };
        let udp = Arc::new(UdpSocket::bind(options.listen).await.map_err(failed)?);
        let tcp = TcpListener::bind(udp.local_addr().map_err(failed)?).await.map_err(failed)?;
        let answerer = Answerer { zone: Zone::new(domain.to_lowercase()), directory, upstreams: options.upstreams, forwarded: Arc::new(Semaphore::new(MAX_FORWARDED)) };
        Ok(Server { udp, tcp, answerer: Arc::new(answerer) })
    }
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.udp.local_addr()
    }
    pub async fn run(self, stop: CancellationToken) {
        let udp = serve_udp(self.udp, self.answerer.clone());
        let tcp = serve_tcp(self.tcp, self.answerer);
        tokio::select! {
            () = udp => {}
            () = tcp => {}
            () = stop.cancelled() => {}
        }
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, answerer: Arc<Answerer>) {
    let mut buf = vec![0; MAX_MESSAGE_BYTES];
    loop {
        // An error here is a client's ICMP answer to an earlier reply, not the end of the socket.
        let Ok((n, from)) = socket.recv_from(&mut buf).await else { continue };
        match answerer.step(&buf[..n], true) {
            Step::Reply(reply) => drop(socket.send_to(&reply, from).await),
            Step::Ignore => {}
            Step::Forward => {
                let Ok(permit) = answerer.forwarded.clone().try_acquire_owned() else {
                    drop(socket.send_to(&failure(&buf[..n], ResponseCode::ServFail), from).await);
                    continue;
                };
                let (socket, answerer, query) = (socket.clone(), answerer.clone(), buf[..n].to_vec());
                tokio::spawn(async move {
                    let reply = answerer.forward(&query, false).await;
                    let _ = socket.send_to(&reply, from).await;
                    drop(permit);
                });
            }
        }
    }
}

async fn serve_tcp(listener: TcpListener, answerer: Arc<Answerer>) {
    let clients = Arc::new(Semaphore::new(MAX_TCP_CLIENTS));
    loop {
        let permit = clients.clone().acquire_owned().await.expect("the semaphore is never closed");
        let Ok((stream, _)) = listener.accept().await else { continue };
        let answerer = answerer.clone();
        tokio::spawn(async move {
            let _ = serve_client(stream, &answerer).await;
            drop(permit);
        });
    }
}

async fn serve_client(mut stream: TcpStream, answerer: &Answerer) -> std::io::Result<()> {
    loop {
        let query = tokio::time::timeout(TCP_IDLE, read_message(&mut stream)).await.map_err(|_| std::io::ErrorKind::TimedOut)??;
        let reply = match answerer.step(&query, false) {
            Step::Reply(r) => r,
            Step::Forward => answerer.forward(&query, true).await,
            Step::Ignore => return Ok(()),
        };
        write_message(&mut stream, &reply).await?;
    }
}

async fn read_message(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut message = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_message(stream: &mut TcpStream, message: &[u8]) -> std::io::Result<()> {
    let mut framed = (message.len() as u16).to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    stream.write_all(&framed).await
}

/// A bare answer with this code, from the query's own header and question.
fn failure(query: &[u8], code: ResponseCode) -> Vec<u8> {
    let Ok(m) = Message::from_vec(query) else { return Vec::new() };
    let mut r = Message::error_msg(m.metadata.id, m.metadata.op_code, code);
    r.metadata.recursion_desired = m.metadata.recursion_desired;
    r.queries = m.queries;
    r.to_vec().unwrap_or_default()
}

impl Answerer {
    fn step(&self, query: &[u8], udp: bool) -> Step {
        let Ok(m) = Message::from_vec(query) else {
            // RFC 1035: a header that can be read is answered FORMERR, anything shorter is noise.
            return match query {
                [a, b, flags, ..] if query.len() >= 12 && flags & 0x80 == 0 => {
                    Step::Reply(Message::error_msg(u16::from_be_bytes([*a, *b]), OpCode::Query, ResponseCode::FormErr).to_vec().unwrap_or_default())
                }
                _ => Step::Ignore,
            };
        };
        if m.metadata.message_type == hickory_proto::op::MessageType::Response {
            return Step::Ignore;
        }
        let [question] = m.queries.as_slice() else { return Step::Reply(failure(query, ResponseCode::FormErr)) };
        if m.metadata.op_code != OpCode::Query || question.query_class != DNSClass::IN {
            return Step::Reply(failure(query, ResponseCode::NotImp));
        }
        let found = self.zone.find(&*self.directory, &question.name, question.query_type);
        // Before everything is known a missing name may only be late: have the client ask again.
        if found == Found::Nothing && !self.directory.synced() {
            return Step::Reply(failure(query, ResponseCode::ServFail));
        }
        match found {
            Found::Elsewhere => Step::Forward,
            found => Step::Reply(self.reply(&m, found, udp)),
        }
    }

    fn reply(&self, query: &Message, found: Found, udp: bool) -> Vec<u8> {
        let mut r = Message::response(query.metadata.id, query.metadata.op_code);
        r.metadata.authoritative = true;
        r.metadata.recursion_desired = query.metadata.recursion_desired;
        r.metadata.recursion_available = !self.upstreams.is_empty();
        r.queries = query.queries.clone();
        match found {
            Found::Records { answers, additionals } => (r.answers, r.additionals) = (answers, additionals),
            Found::Nothing | Found::Elsewhere => r.metadata.response_code = ResponseCode::NXDomain,
        }
        if r.answers.is_empty() {
            r.authorities = vec![self.zone.soa()];
        }
        let mut limit_bytes = if udp { PLAIN_UDP_BYTES } else { MAX_MESSAGE_BYTES };
        if let Some(edns) = &query.edns {
            let mut ours = Edns::new();
            ours.set_max_payload(EDNS_UDP_BYTES).set_version(0);
            r.set_edns(ours);
            if udp {
                limit_bytes = usize::from(edns.max_payload().clamp(PLAIN_UDP_BYTES as u16, EDNS_UDP_BYTES));
            }
        }
        let bytes = r.to_vec().unwrap_or_default();
        if bytes.len() <= limit_bytes {
            return bytes;
        }
        r.additionals.clear();
        match r.to_vec() {
            Ok(b) if b.len() <= limit_bytes => b,
            _ => r.truncate().to_vec().unwrap_or_default(),
        }
    }

    /// The answer of the first upstream that gives one, byte for byte.
    async fn forward(&self, query: &[u8], tcp: bool) -> Vec<u8> {
        for upstream in &self.upstreams {
            let asked = async { if tcp { ask_tcp(*upstream, query).await } else { ask_udp(*upstream, query).await } };
            match tokio::time::timeout(UPSTREAM_TIMEOUT, asked).await {
                Ok(Ok(reply)) => return reply,
                Ok(Err(e)) => tracing::debug!("resolver {upstream}: {e}"),
                Err(_) => tracing::debug!("resolver {upstream} did not answer within {UPSTREAM_TIMEOUT:?}"),
            }
        }
        failure(query, if self.upstreams.is_empty() { ResponseCode::Refused } else { ResponseCode::ServFail })
    }
}

/// One socket a query: the kernel picks a fresh port, which with the id is what makes forging an answer hard.
async fn ask_udp(upstream: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let any: SocketAddr = if upstream.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { (std::net::Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(upstream).await?;
    socket.send(query).await?;
    let mut buf = vec![0; MAX_MESSAGE_BYTES];
    loop {
        let n = socket.recv(&mut buf).await?;
        if n >= 12 && query.len() >= 2 && buf[..2] == query[..2] {
            buf.truncate(n);
            return Ok(buf);
        }
    }
}

async fn ask_tcp(upstream: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(upstream).await?;
    write_message(&mut stream, query).await?;
    read_message(&mut stream).await
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
