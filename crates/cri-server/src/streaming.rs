//! `Exec`, `Attach` and `PortForward`: a URL that is good once and for a while, and the server behind it, which joins the client's streams with the
//! runtime's over WebSocket or SPDY.

use crate::{Cri, faults};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use keles_cri::{AttachRequest, AttachResponse, ExecRequest, ExecResponse, PortForwardRequest, PortForwardResponse};
use keles_grpc::{Code, Status};
use keles_runtime::api::{ContainerState, ContainerStatus, NamespaceMode};
use keles_serve::streams::StreamError;
use keles_serve::streams::exec::Wants;
use keles_serve::{Body, Limits, body};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// How long a URL is good, as upstream's runtimes have it.
const GOOD_FOR: Duration = Duration::from_secs(60);
/// URLs that nobody came for yet.
const OPEN_MAX: usize = 1000;
const TOKEN_BYTES: usize = 16;

/// What a URL stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ticket {
    Exec { container: String, args: Vec<String>, wants: Wants },
    Attach { container: String, wants: Wants },
    PortForward { sandbox: String, ports: Vec<u16> },
}

impl Ticket {
    fn path(&self) -> &'static str {
        match self {
            Ticket::Exec { .. } => "exec",
            Ticket::Attach { .. } => "attach",
            Ticket::PortForward { .. } => "portforward",
        }
    }
}

pub struct Tickets {
    address: SocketAddr,
    open: Mutex<HashMap<String, (Instant, Ticket)>>,
}

impl Tickets {
    pub fn new(address: SocketAddr) -> Tickets {
        Tickets { address, open: Mutex::default() }
    }

    fn issue(&self, ticket: Ticket, now: Instant) -> Result<String, Status> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, (until, _)| *until > now);
        if open.len() >= OPEN_MAX {
            return Err(Status::new(Code::ResourceExhausted, format!("{OPEN_MAX} streaming URLs are unused; use them or wait {GOOD_FOR:?}")));
        }
        let token = hex::encode(rand::random::<[u8; TOKEN_BYTES]>());
        let url = format!("http://{}/{}/{token}", self.address, ticket.path());
        open.insert(token, (now + GOOD_FOR, ticket));
        Ok(url)
    }

    /// For `/KIND/TOKEN`, once.
    fn take(&self, path: &str, now: Instant) -> Option<Ticket> {
        let (kind, token) = path.strip_prefix('/')?.split_once('/')?;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.get(token).filter(|(_, ticket)| ticket.path() == kind)?;
        open.remove(token).filter(|(until, _)| *until > now).map(|(_, ticket)| ticket)
    }
}

/// The streams that a client may ask for together.
fn checked(wants: Wants) -> Result<Wants, Status> {
    if wants.tty && wants.stderr {
        return Err(faults::invalid("tty and stderr cannot both be true"));
    }
    if !(wants.stdin || wants.stdout || wants.stderr) {
        return Err(faults::invalid("one of stdin, stdout or stderr must be set"));
    }
    Ok(wants)
}

impl Cri {
    async fn running(&self, id: &str) -> Result<ContainerStatus, Status> {
        let container = self.container(id).await?;
        if container.state == ContainerState::Running {
            return Ok(container);
        }
        Err(Status::new(Code::FailedPrecondition, format!("container {} is not running: {:?}", container.id, container.state)))
    }

    pub async fn exec(&self, r: ExecRequest) -> Result<ExecResponse, Status> {
        let wants = checked(Wants { stdin: r.stdin, stdout: r.stdout, stderr: r.stderr, tty: r.tty })?;
        if r.cmd.is_empty() {
            return Err(faults::invalid("cmd is empty"));
        }
        let container = self.running(&r.container_id).await?.id;
        Ok(ExecResponse { url: self.streams.issue(Ticket::Exec { container, args: r.cmd, wants }, Instant::now())? })
    }

    pub async fn attach(&self, r: AttachRequest) -> Result<AttachResponse, Status> {
        let wants = checked(Wants { stdin: r.stdin, stdout: r.stdout, stderr: r.stderr, tty: r.tty })?;
        let container = self.running(&r.container_id).await?.id;
        Ok(AttachResponse { url: self.streams.issue(Ticket::Attach { container, wants }, Instant::now())? })
    }

    pub async fn port_forward(&self, r: PortForwardRequest) -> Result<PortForwardResponse, Status> {
        let sandbox = self.sandbox(&r.pod_sandbox_id).await?;
        if !sandbox.ready {
            return Err(Status::new(Code::FailedPrecondition, format!("sandbox {} is not running", sandbox.id)));
        }
        debug_assert!(sandbox.netns.is_some() || sandbox.config.network == NamespaceMode::Node);
        let ports: Result<Vec<u16>, Status> = r.port.iter().map(|port| u16::try_from(*port).map_err(|_| faults::invalid(format!("{port} is no port")))).collect();
        Ok(PortForwardResponse { url: self.streams.issue(Ticket::PortForward { sandbox: sandbox.id, ports: ports? }, Instant::now())? })
    }
}

/// Answers until `stop`.
pub async fn serve(cri: Arc<Cri>, listener: TcpListener, stop: CancellationToken) {
    let connect = move |_| {
        let cri = cri.clone();
        move |request| {
            let answer = answer(&cri, request);
            std::future::ready(answer)
        }
    };
    keles_serve::run_plain(listener, Limits::default(), connect, stop).await;
}

fn said(code: StatusCode, text: &str) -> Response<Body> {
    let mut answer = Response::new(body::full(format!("{text}\n")));
    *answer.status_mut() = code;
    answer
}

fn answer(cri: &Arc<Cri>, mut request: Request<Incoming>) -> Response<Body> {
    let Some(ticket) = cri.streams.take(request.uri().path(), Instant::now()) else {
        return said(StatusCode::NOT_FOUND, "this URL is unknown, was used, or is too old; ask for another");
    };
    let runtime = cri.runtime.clone();
    let joined = match ticket {
        Ticket::Exec { container, args, wants } => keles_streaming::exec(runtime, container, args, wants, &mut request),
        Ticket::Attach { container, wants } => keles_streaming::attach(runtime, container, wants, &mut request),
        Ticket::PortForward { sandbox, ports } => {
            let ports = if ports.is_empty() { of_query(request.uri().query().unwrap_or_default()) } else { ports };
            keles_streaming::port_forward(runtime, sandbox, &ports, &mut request)
        }
    };
    joined.unwrap_or_else(|error: StreamError| said(error.code(), &error.to_string()))
}

/// `port=80&ports=81,82`, which plain WebSocket clients name.
fn of_query(query: &str) -> Vec<u16> {
    let values = query.split('&').filter_map(|pair| pair.strip_prefix("port=").or_else(|| pair.strip_prefix("ports=")));
    values.flat_map(|list| list.split(',')).filter_map(|port| port.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tickets() -> Tickets {
        Tickets::new(SocketAddr::from(([127, 0, 0, 1], 7)))
    }

    fn ticket() -> Ticket {
        Ticket::PortForward { sandbox: "s".into(), ports: vec![80] }
    }

    #[test]
    fn a_url_is_good_once_for_its_own_use_and_a_minute() {
        let (tickets, now) = (tickets(), Instant::now());
        let issue = || tickets.issue(ticket(), now).ok().and_then(|url| url.strip_prefix("http://127.0.0.1:7").map(str::to_owned)).expect("a URL of the server");
        let path = issue();
        assert_eq!(tickets.take(&path.replace("portforward", "exec"), now), None);
        assert_eq!(tickets.take(&path, now), Some(ticket()));
        assert_eq!(tickets.take(&path, now), None);
        assert_eq!(tickets.take(&issue(), now + GOOD_FOR), None);
    }

    #[test]
    fn urls_that_nobody_uses_have_a_limit_and_make_room_in_time() {
        let (tickets, now) = (tickets(), Instant::now());
        (0..OPEN_MAX).for_each(|_| drop(tickets.issue(ticket(), now).ok().expect("room")));
        assert_eq!(tickets.issue(ticket(), now).err().map(|status| status.code), Some(Code::ResourceExhausted));
        assert!(tickets.issue(ticket(), now + GOOD_FOR).is_ok());
    }

    #[test]
    fn streams_that_cannot_be_together_are_refused() {
        assert!(checked(Wants { tty: true, stderr: true, ..Wants::default() }).is_err());
        assert!(checked(Wants { tty: true, ..Wants::default() }).is_err());
        assert!(checked(Wants { tty: true, stdout: true, ..Wants::default() }).is_ok());
        assert_eq!(of_query("a=1&port=80&ports=81,x,82"), [80, 81, 82]);
    }
}
