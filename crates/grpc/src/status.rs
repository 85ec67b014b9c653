//! How a call ended, if not well.

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use std::fmt;

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Source: google.rpc.Code, without OK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    Canceled = 1,
    Unknown,
    InvalidArgument,
    DeadlineExceeded,
    NotFound,
    AlreadyExists,
    PermissionDenied,
    ResourceExhausted,
    FailedPrecondition,
    Aborted,
    OutOfRange,
    Unimplemented,
    Internal,
    Unavailable,
    DataLoss,
    Unauthenticated,
}

impl Code {
    const ALL: [Code; 16] = [
        Code::Canceled,
        Code::Unknown,
        Code::InvalidArgument,
        Code::DeadlineExceeded,
        Code::NotFound,
        Code::AlreadyExists,
        Code::PermissionDenied,
        Code::ResourceExhausted,
        Code::FailedPrecondition,
        Code::Aborted,
        Code::OutOfRange,
        Code::Unimplemented,
        Code::Internal,
        Code::Unavailable,
        Code::DataLoss,
        Code::Unauthenticated,
    ];

    /// Numbers that are not known are [`Code::Unknown`].
    fn of(number: &str) -> Code {
        let at = number.parse::<usize>().ok().and_then(|n| n.checked_sub(1));
        at.and_then(|i| Code::ALL.get(i).copied()).unwrap_or(Code::Unknown)
    }
}

/// A call that failed. Shown as Go's clients show it, which tests and users of upstream look for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub code: Code,
    pub message: String,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rpc error: code = {:?} desc = {}", self.code, self.message)
    }
}

impl std::error::Error for Status {}

impl Status {
    pub fn new(code: Code, message: impl Into<String>) -> Status {
        Status { code, message: message.into() }
    }

    /// What headers or trailers say of the end; `None` when they say nothing.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Result<(), Status>> {
        let number = headers.get(&STATUS)?.to_str().unwrap_or_default();
        if number == "0" {
            return Some(Ok(()));
        }
        let message = headers.get(&MESSAGE).map(|m| unescaped(m.as_bytes())).unwrap_or_default();
        Some(Err(Status { code: Code::of(number), message }))
    }

    /// Trailers that say so.
    pub(crate) fn trailers(end: Result<(), &Status>) -> HeaderMap {
        let mut out = HeaderMap::with_capacity(2);
        let (number, message) = end.err().map_or((0, ""), |s| (s.code as u16, s.message.as_str()));
        out.insert(STATUS, number.into());
        if let Ok(m) = HeaderValue::from_str(&escaped(message))
            && !message.is_empty()
        {
            out.insert(MESSAGE, m);
        }
        out
    }
}

/// Percent-encoded but for what may stand in a header.
fn escaped(message: &str) -> String {
    message.bytes().fold(String::with_capacity(message.len()), |mut out, b| {
        match b {
            b' '..=b'~' if b != b'%' => out.push(b.into()),
            _ => out.push_str(&format!("%{b:02X}")),
        }
        out
    })
}

fn unescaped(message: &[u8]) -> String {
    let mut out = Vec::with_capacity(message.len());
    let mut rest = message;
    while let Some((&b, more)) = rest.split_first() {
        let coded = (b == b'%').then(|| more.get(..2)).flatten().and_then(|d| std::str::from_utf8(d).ok()).and_then(|d| u8::from_str_radix(d, 16).ok());
        out.push(coded.unwrap_or(b));
        rest = if coded.is_some() { &more[2..] } else { more };
    }
    String::from_utf8_lossy(&out).into_owned()
}
