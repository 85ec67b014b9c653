//! A page server of one file, without dependencies: says which pod answers, and a greeting from its configuration.
//!
//! `/` is the page, `/healthz` answers ok. It has no handler for SIGTERM, which PID 1 therefore does not see: its Deployment
//! grants two seconds.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

const PORT: u16 = 8000;
/// A client that sends nothing must not hold its thread for ever.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_HEADER_LINES: usize = 100;

fn variable(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

fn page() -> String {
    format!(
        "{}\n\nThis page comes from pod {} on node {}, address {}.\n",
        variable("GREETING", "Hello from Keles!"),
        variable("POD_NAME", "?"),
        variable("NODE_NAME", "?"),
        variable("POD_IP", "?")
    )
}

fn answer(mut client: TcpStream) -> std::io::Result<()> {
    client.set_read_timeout(Some(READ_TIMEOUT))?;
    let mut lines = BufReader::new(client.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    for line in lines.take(MAX_HEADER_LINES) {
        if line?.is_empty() {
            break;
        }
    }
    let (status, body) = match request.split(' ').nth(1) {
        Some("/") => ("200 OK", page()),
        Some("/healthz") => ("200 OK", "ok\n".to_owned()),
        _ => ("404 Not Found", "no such page\n".to_owned()),
    };
    println!("{request} -> {status}");
    write!(client, "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", PORT))?;
    println!("serving on port {PORT} as {}", variable("POD_NAME", "?"));
    for client in listener.incoming() {
        let client = client?;
        std::thread::spawn(move || answer(client));
    }
    Ok(())
}
