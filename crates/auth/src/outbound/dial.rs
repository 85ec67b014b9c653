//! Connections to others: straight, or through the proxy that a kubeconfig names (`proxy-url`).
//!
//! Proxies by HTTP CONNECT (`http://`) and SOCKS 5 (`socks5://`), with user and password when the URL has them. Deliberately absent, and
//! refused: proxies that are spoken to over TLS themselves.

use super::OutboundError;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{HeaderValue, Uri};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::rt::TokioIo;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::net::TcpStream;
use tower::Service;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How a connection comes about.
#[derive(Clone)]
pub enum Dial {
    Straight(HttpConnector),
    Tunnel(Tunnel<HttpConnector>),
    Socks(SocksV5<HttpConnector>),
}

impl Dial {
    /// Through `proxy`, or straight without one.
    pub fn through(proxy: Option<&str>) -> Result<Dial, OutboundError> {
        let mut http = HttpConnector::new();
        http.set_nodelay(true);
        http.enforce_http(false);
        let Some(text) = proxy.filter(|p| !p.is_empty()) else { return Ok(Dial::Straight(http)) };
        let bad = |why: &str| OutboundError::Proxy { url: without_password(text), why: why.into() };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| bad("a proxy is http://… or socks5://…"))?;
        let (login, host) = rest.rsplit_once('@').map_or((None, rest), |(l, h)| (Some(l), h));
        let (user, password) = login.map(|l| l.split_once(':').unwrap_or((l, ""))).unzip();
        let at = |scheme: &str| format!("{scheme}://{}", host.trim_end_matches('/')).parse::<Uri>().map_err(|_| bad("it is not a URL"));
        match scheme {
            "http" => {
                let tunnel = Tunnel::new(at("http")?, http);
                let Some(user) = user else { return Ok(Dial::Tunnel(tunnel)) };
                let basic = format!("Basic {}", BASE64.encode(format!("{user}:{}", password.unwrap_or_default())));
                Ok(Dial::Tunnel(tunnel.with_auth(HeaderValue::from_str(&basic).map_err(|_| bad("user and password are no header value"))?)))
            }
            "socks5" => {
                let socks = SocksV5::new(at("http")?, http);
                Ok(Dial::Socks(match user {
                    Some(user) => socks.with_auth(user.into(), password.unwrap_or_default().into()),
                    None => socks,
                }))
            }
            "https" => Err(bad("proxies over TLS are not supported here: give one over http:// or socks5://")),
            _ => Err(bad("unsupported scheme: a proxy is http://… or socks5://…")),
        }
    }
}

fn without_password(url: &str) -> String {
    url.rsplit_once('@').map_or_else(|| url.to_owned(), |(_, host)| format!("…@{host}"))
}

impl Service<Uri> for Dial {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // All three are ready always.
        Poll::Ready(Ok(()))
    }
    fn call(&mut self, to: Uri) -> Self::Future {
        match self {
            Dial::Straight(c) => {
                let dialled = c.call(to);
                Box::pin(async move { dialled.await.map_err(Into::into) })
            }
            Dial::Tunnel(c) => {
                let dialled = c.call(to);
                Box::pin(async move { dialled.await.map_err(Into::into) })
            }
            Dial::Socks(c) => {
                let dialled = c.call(to);
                Box::pin(async move { dialled.await.map_err(Into::into) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_of_a_known_kind_and_its_password_stands_in_no_error() {
        assert!(matches!(Dial::through(None), Ok(Dial::Straight(_))));
        assert!(matches!(Dial::through(Some("http://u:p@proxy.example:3128/")), Ok(Dial::Tunnel(_))));
        assert!(matches!(Dial::through(Some("socks5://proxy.example:1080")), Ok(Dial::Socks(_))));
        let why = Dial::through(Some("https://u:secret@proxy.example")).err().unwrap().to_string();
        assert!(why.contains("…@proxy.example") && why.contains("over TLS") && !why.contains("secret"), "{why}");
        assert!(Dial::through(Some("ftp://x")).is_err() && Dial::through(Some("proxy:3128")).is_err());
    }
}
