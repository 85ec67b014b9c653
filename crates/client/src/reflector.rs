//! List and watch: keeps one cache equal to what the server holds.
//!
//! A state machine: with no revision it fetches everything (one streaming watch with `sendInitialEvents`, or pages where the server refuses
//! that), then watches from the revision reached; 410 Expired goes back to fetching, every other fault resumes at the revision after a back-off.

use crate::informer::Shared;
use crate::watched::Watched;
use futures::{Stream, StreamExt};
use http::Request;
use kube::core::WatchEvent;
use rand::Rng;
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;

const PAGE_OBJECTS: u32 = 500;
const BACK_OFF_MIN: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(10);
/// Like client-go: watches end by themselves after 5 to 10 minutes, so that they spread over several servers.
const WATCH_SECONDS: std::ops::Range<u64> = 300..600;
/// A watch that outlives its own time by this much is dead.
const WATCHDOG_SECONDS: u64 = 20;
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";
const FIRST_BAD_REQUEST: u16 = 400;
const EXPIRED: u16 = 410;

/// Why a session with the server ended early.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("listing")]
    List(#[source] kube::Error),
    #[error("starting the watch")]
    Watch(#[source] kube::Error),
    #[error("watching")]
    Stream(#[source] kube::Error),
    #[error("the watch was silent beyond its time")]
    Silent,
    #[error("the server ended the watch: {0}")]
    Refused(#[source] Box<kube::core::Status>),
    #[error("the initial events ended without their bookmark")]
    Incomplete,
}

impl SessionError {
    fn code(&self) -> Option<u16> {
        match self {
            SessionError::List(kube::Error::Api(status)) | SessionError::Watch(kube::Error::Api(status)) | SessionError::Refused(status) => Some(status.code),
            _ => None,
        }
    }
}

/// A list whose items carry metadata and whose own metadata carries the revision.
#[derive(Deserialize)]
#[serde(bound = "")]
struct Page<K: Watched> {
    #[serde(default)]
    metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta,
    #[serde(default = "Vec::new")]
    items: Vec<K>,
}

pub(crate) struct Reflector<K: Watched> {
    pub client: kube::Client,
    /// `/api/v1/pods`
    pub path: String,
    /// Selectors, already encoded (`&labelSelector=…`), or empty.
    pub selectors: String,
    pub shared: Arc<Shared<K>>,
}

impl<K: Watched> Reflector<K> {
    /// Runs until the informer is stopped.
    pub async fn run(self) {
        let stop = self.shared.stop.clone();
        stop.run_until_cancelled(self.follow()).await;
    }

    async fn follow(&self) {
        let mut resume: Option<String> = None;
        let mut streaming = true;
        let mut back_off = BACK_OFF_MIN;
        loop {
            let before = resume.clone();
            match self.session(&mut resume, streaming).await {
                Ok(()) => tracing::trace!(path = self.path, "watch ended, resuming"),
                Err(error) if error.code() == Some(EXPIRED) => {
                    tracing::debug!(path = self.path, "revision expired, listing again");
                    resume = None;
                }
                Err(SessionError::Watch(kube::Error::Api(status))) if streaming && resume.is_none() && refuses_streaming(&status) => {
                    streaming = false;
                    continue;
                }
                Err(error) => tracing::debug!(path = self.path, error = &error as &dyn std::error::Error, "watch failed, retrying"),
            }
            if resume.is_some() && resume != before {
                back_off = BACK_OFF_MIN;
            }
            let pause = back_off.mul_f64(rand::rng().random_range(0.5..1.0));
            tokio::time::sleep(pause).await;
            back_off = (back_off * 2).min(BACK_OFF_MAX);
        }
    }

    async fn session(&self, resume: &mut Option<String>, streaming: bool) -> Result<(), SessionError> {
        if resume.is_none() && streaming {
            let watch = self.watch("&sendInitialEvents=true&resourceVersionMatch=NotOlderThan").await?;
            return self.consume(watch, resume, true).await;
        }
        if resume.is_none() {
            let (objects, revision) = self.list().await?;
            self.shared.replace(objects, number(&revision));
            *resume = Some(revision);
        }
        let from = resume.as_deref().unwrap_or_default();
        let watch = self.watch(&format!("&resourceVersion={from}")).await?;
        self.consume(watch, resume, false).await
    }

    async fn consume(&self, mut watch: impl Stream<Item = kube::Result<WatchEvent<K>>> + Unpin, resume: &mut Option<String>, initial: bool) -> Result<(), SessionError> {
        let mut collecting = initial.then(Vec::new);
        let limit = Duration::from_secs(WATCH_SECONDS.end + WATCHDOG_SECONDS);
        while let Some(event) = tokio::time::timeout(limit, watch.next()).await.map_err(|_| SessionError::Silent)? {
            match event {
                Ok(WatchEvent::Error(status)) => return Err(SessionError::Refused(status)),
                Ok(WatchEvent::Bookmark(bookmark)) => {
                    let revision = bookmark.metadata.resource_version;
                    if bookmark.metadata.annotations.contains_key(INITIAL_EVENTS_END)
                        && let Some(objects) = collecting.take()
                    {
                        self.shared.replace(objects, number(&revision));
                    }
                    self.shared.reached(number(&revision));
                    if collecting.is_none() {
                        *resume = Some(revision);
                    }
                }
                Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) => match &mut collecting {
                    Some(objects) => objects.push(self.shared.slim(object)),
                    None => {
                        resume_at(resume, &object);
                        self.shared.apply(object);
                    }
                },
                Ok(WatchEvent::Deleted(object)) => {
                    if collecting.is_none() {
                        resume_at(resume, &object);
                        self.shared.delete(object);
                    }
                }
                // One object that cannot be read must not hide all others.
                Err(kube::Error::SerdeError(error)) => tracing::error!(path = self.path, %error, "skipping an object that cannot be decoded"),
                Err(error) => return Err(SessionError::Stream(error)),
            }
        }
        if collecting.is_some() { Err(SessionError::Incomplete) } else { Ok(()) }
    }

    async fn watch(&self, start: &str) -> Result<impl Stream<Item = kube::Result<WatchEvent<K>>> + Unpin + use<K>, SessionError> {
        let seconds = rand::rng().random_range(WATCH_SECONDS);
        let uri = format!("{}?watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}{start}{}", self.path, self.selectors);
        let stream = self.client.request_events::<K>(self.request(&uri)).await.map_err(SessionError::Watch)?;
        Ok(Box::pin(stream))
    }

    async fn list(&self) -> Result<(Vec<K>, String), SessionError> {
        let mut objects = Vec::new();
        let mut token = String::new();
        loop {
            let uri = format!("{}?limit={PAGE_OBJECTS}{token}{}", self.path, self.selectors);
            let page: Page<K> = self.client.request(self.request(&uri)).await.map_err(SessionError::List)?;
            objects.extend(page.items.into_iter().map(|object| self.shared.slim(object)));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(next) => token = format!("&continue={}", encode(&next)),
                None => return Ok((objects, page.metadata.resource_version.unwrap_or_default())),
            }
        }
    }

    fn request(&self, uri: &str) -> Request<Vec<u8>> {
        Request::get(uri).header(http::header::ACCEPT, K::ACCEPT).body(Vec::new()).expect("paths and encoded queries make a valid URI")
    }
}

/// Servers before 1.27 or without the feature answer 400 or 422.
fn refuses_streaming(status: &kube::core::Status) -> bool {
    status.code == FIRST_BAD_REQUEST || status.code == 422
}

fn resume_at<K: Watched>(resume: &mut Option<String>, object: &K) {
    if let Some(revision) = &object.metadata().resource_version {
        *resume = Some(revision.clone());
    }
}

fn number(revision: &str) -> u64 {
    revision.parse().unwrap_or(0)
}

/// Percent-encodes a query value.
pub(crate) fn encode(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte as char),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
