//! Watches: one stream of etcd's each, over a connection of its own, made anew after the last revision that was told when it breaks.
//!
//! The whole of etcd is watched, not the prefix: every revision has a change somewhere, so the order of one watcher tells by itself how far a
//! watch has come, and progress needs no asking and no waiting (docs/decisions/2026-11-22-etcd.md: progress that is asked for may overtake changes
//! before etcd 3.4.31 and 3.5.13). What lies elsewhere is dropped here and told as progress. Only what is polled reads: a slow
//! watcher's changes wait in etcd. Invariant: a revision's changes come together, once, in order; nothing follows an error.

use super::Shared;
use super::client::Failed;
use super::messages::{DELETE, Event, RANGE, RangeRequest, RangeResponse, WATCH, WatchCreateRequest, WatchRequest, WatchResponse};
use crate::{Change, Revision, StoreError, Watched};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{BoxStream, unfold};
use keles_grpc::{Code, Status, Streaming};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Between tries to come back, growing from the first to the second.
const RETRY_MIN: Duration = Duration::from_millis(100);
/// Well below what a read waits for the caches: while this sleeps they stand still.
const RETRY_MAX: Duration = Duration::from_secs(1);
/// For a watch that must fail at once.
const SOON: Duration = Duration::from_secs(10);
/// All keys from the first possible one on, in etcd's way of saying it.
const EVERYTHING: &[u8] = b"\0";

/// A stream of etcd's. The sender is held so that etcd does not see the requests end, which would end the watch.
struct Connection {
    answers: Streaming<WatchResponse>,
    _requests: futures::channel::mpsc::UnboundedSender<WatchRequest>,
    member: usize,
}

impl Connection {
    async fn open(shared: &Shared, start: Revision, all: bool) -> Result<Connection, (usize, Status)> {
        let (member, channel) = shared.members.apart();
        let (requests, stream) = futures::channel::mpsc::unbounded();
        let range_end = Bytes::from_static(if all { EVERYTHING } else { b"" });
        let create = WatchCreateRequest { key: Bytes::from_static(EVERYTHING), range_end, start_revision: start as i64, fragment: true };
        // The receiver is in this function's hands.
        let _ = requests.unbounded_send(WatchRequest { create: Some(create) });
        let opened = tokio::time::timeout(SOON, channel.duplex(WATCH, stream)).await;
        let answers = opened.unwrap_or_else(|_| Err(Status::new(Code::DeadlineExceeded, "the watch was not confirmed in time"))).map_err(|status| (member, status))?;
        Ok(Connection { answers, _requests: requests, member })
    }

    async fn next(&mut self) -> Result<WatchResponse, Status> {
        self.answers.message().await?.ok_or_else(|| Status::new(Code::Unavailable, "etcd ended the watch"))
    }
}

struct Cursor {
    shared: Arc<Shared>,
    /// With the root.
    prefix: Bytes,
    /// Everything up to here is told.
    position: Revision,
    connection: Option<Connection>,
    /// Changes of the revision that may not be whole yet: the answer came in parts.
    held: Vec<Event>,
    told: VecDeque<Watched>,
    retry: Duration,
    ended: bool,
}

pub async fn watch(shared: &Arc<Shared>, prefix: Bytes, after: Revision) -> Result<BoxStream<'static, Result<Watched, StoreError>>, StoreError> {
    match shared.check_revision(after).await {
        // The first revision wanted is there, or was a delete, which is found out when it is begun.
        Err(StoreError::Compacted { oldest, .. }) if oldest == after + 1 => {}
        checked => checked?,
    }
    // Who follows hears at once from where.
    let told = VecDeque::from([Watched::Progress(after)]);
    let cursor = Cursor { shared: shared.clone(), prefix, position: after, connection: None, held: Vec::new(), told, retry: RETRY_MIN, ended: false };
    Ok(unfold(cursor, next).boxed())
}

async fn next(mut cursor: Cursor) -> Option<(Result<Watched, StoreError>, Cursor)> {
    if cursor.ended {
        return None;
    }
    let closed = cursor.shared.closed.clone();
    let told = match closed.run_until_cancelled(cursor.step()).await {
        Some(told) => told,
        None => Err(StoreError::Closed),
    };
    cursor.ended = told.is_err();
    Some((told, cursor))
}

impl Cursor {
    /// The next thing to tell.
    async fn step(&mut self) -> Result<Watched, StoreError> {
        loop {
            if self.shared.closed.is_cancelled() {
                return Err(StoreError::Closed);
            }
            if let Some(told) = self.told.pop_front() {
                return Ok(told);
            }
            let Some(connection) = &mut self.connection else {
                self.open().await?;
                continue;
            };
            match connection.next().await {
                Ok(answer) => self.take(answer).await?,
                Err(status) => {
                    let member = connection.member;
                    self.lost(member, &status).await;
                }
            }
        }
    }

    async fn open(&mut self) -> Result<(), StoreError> {
        match Connection::open(&self.shared, self.position + 1, true).await {
            Ok(connection) => self.connection = Some(connection),
            Err((member, status)) => {
                self.lost(member, &status).await;
                return Ok(());
            }
        }
        match self.check_kept().await {
            // It is away again: the stream will say so too.
            Err(StoreError::Unavailable { .. }) => {
                self.connection = None;
                self.pause().await;
                Ok(())
            }
            checked => checked,
        }
    }

    /// Whether nothing after the position is forgotten. etcd tells of a watch from before its compaction itself, but not when the first revision
    /// wanted is the compacted one and was a delete, which (up to 3.5.15) is forgotten with it.
    async fn check_kept(&self) -> Result<(), StoreError> {
        let start = self.position + 1;
        match self.shared.check_revision(self.position).await {
            Err(StoreError::Compacted { oldest, .. }) if oldest == start => {}
            checked => return checked,
        }
        let end = super::read::end_of(&self.prefix);
        let only = RangeRequest {
            key: super::read::first_of(&self.prefix),
            range_end: end,
            limit: 1,
            revision: start as i64,
            min_mod_revision: start as i64,
            max_mod_revision: start as i64,
            count_only: false,
        };
        let found: RangeResponse = match self.shared.members.read(RANGE, &only).await {
            Ok(found) => found,
            Err(failed) => return Err(self.shared.failed_at(start, failed).await),
        };
        // One change a revision is all that is ever written here: if it was this put, it was no delete.
        if found.kvs.is_empty() { Err(StoreError::Compacted { asked: self.position, oldest: start + 1 }) } else { Ok(()) }
    }

    async fn lost(&mut self, member: usize, status: &Status) {
        tracing::warn!(store = %self.shared.name(), position = self.position, why = %status.message, "the watch of etcd broke; going on from there");
        self.shared.members.turn_from(member);
        self.connection = None;
        self.held.clear();
        self.pause().await;
    }

    async fn pause(&mut self) {
        tokio::time::sleep(self.retry).await;
        self.retry = (self.retry * 2).min(RETRY_MAX);
    }

    async fn take(&mut self, answer: WatchResponse) -> Result<(), StoreError> {
        if answer.compact_revision > 0 {
            return Err(StoreError::Compacted { asked: self.position, oldest: answer.compact_revision as u64 });
        }
        if answer.canceled {
            // Rights do not come back by asking again.
            if answer.cancel_reason.contains("permission denied") {
                return Err(StoreError::Refused { store: self.shared.name(), why: answer.cancel_reason });
            }
            let member = self.connection.as_ref().map_or(0, |c| c.member);
            self.lost(member, &Status::new(Code::Canceled, answer.cancel_reason)).await;
            return Ok(());
        }
        if answer.created {
            return Ok(());
        }
        self.retry = RETRY_MIN;
        self.held.extend(answer.events);
        self.tell_whole(answer.fragment);
        Ok(())
    }

    /// Tells what is held, but for the last revision where more of it may follow.
    fn tell_whole(&mut self, more: bool) {
        let Some(last) = self.held.last().map(revision_of) else { return };
        let whole = if more { self.held.iter().position(|e| revision_of(e) == last).unwrap_or(0) } else { self.held.len() };
        let events: Vec<Event> = self.held.drain(..whole).collect();
        let Some(reached) = events.last().map(revision_of) else { return };
        // After a reconnection nothing comes twice, whatever etcd sends.
        let news = events.into_iter().filter(|e| revision_of(e) > self.position);
        let changes: Vec<Change> = news.filter_map(|e| change(e, &self.prefix, self.shared.root.len())).collect();
        if !changes.is_empty() {
            self.told.push_back(Watched::Changes(Arc::new(changes)));
        }
        if reached > self.position {
            self.reach(reached);
        }
    }

    fn reach(&mut self, revision: Revision) {
        self.position = revision;
        self.told.push_back(Watched::Progress(revision));
    }
}

fn revision_of(event: &Event) -> Revision {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision as u64)
}

/// The event as watchers see it; `None` where it is of another prefix. `root` bytes of its key are not the caller's.
fn change(event: Event, prefix: &[u8], root: usize) -> Option<Change> {
    let kv = event.kv.filter(|kv| kv.key.starts_with(prefix))?;
    Some(Change { entry: super::read::entry(kv, root), deleted: event.kind == DELETE, unreadable: None })
}

impl Shared {
    /// The oldest revision that can be read, when `asked` is known to be older. Only a watch is told which that is.
    pub async fn oldest(&self, asked: Revision) -> Result<Revision, StoreError> {
        let told = async {
            let mut connection = Connection::open(self, asked.max(1), false).await.map_err(|(_, status)| status)?;
            loop {
                let answer = connection.next().await?;
                if answer.compact_revision > 0 {
                    return Ok(answer.compact_revision as u64);
                }
                if answer.canceled {
                    return Err(Status::new(Code::Canceled, answer.cancel_reason));
                }
            }
        };
        let late = |_| Err(Status::new(Code::DeadlineExceeded, "etcd did not say what it has compacted"));
        tokio::time::timeout(SOON, told).await.unwrap_or_else(late).map_err(|status| self.failed(Failed::Away(status)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::messages::KeyValue;
    use crate::etcd::{Etcd, Options};

    fn event(key: &str, revision: i64) -> Event {
        Event { kind: 0, kv: Some(KeyValue { key: key.to_owned().into(), mod_revision: revision, create_revision: revision, ..KeyValue::default() }) }
    }

    fn cursor() -> Cursor {
        let store = Etcd::new(Options::of("http://127.0.0.1:1").expect("an endpoint"));
        Cursor { shared: store.shared.clone(), prefix: "a/".into(), position: 4, connection: None, held: Vec::new(), told: VecDeque::new(), retry: RETRY_MIN, ended: false }
    }

    fn told(c: &mut Cursor) -> Vec<String> {
        let text = |w| match w {
            Watched::Changes(all) => all.iter().map(|c| format!("{}@{}", String::from_utf8_lossy(&c.entry.key), c.entry.modified)).collect::<Vec<_>>().join(" "),
            Watched::Progress(at) => format!("progress {at}"),
        };
        c.told.drain(..).map(text).collect()
    }

    #[tokio::test]
    async fn parts_of_an_answer_are_told_by_whole_revisions() {
        let mut c = cursor();
        let answer = |events: Vec<Event>, fragment| WatchResponse { events, fragment, ..WatchResponse::default() };
        c.take(answer(vec![event("a/1", 5), event("b/1", 6), event("a/2", 7)], true)).await.expect("no error");
        assert_eq!(told(&mut c), ["a/1@5", "progress 6"]);
        c.take(answer(vec![event("a/3", 7)], true)).await.expect("no error");
        assert!(told(&mut c).is_empty(), "revision 7 may have more");
        c.take(answer(vec![event("a/4", 7), event("a/1", 8)], false)).await.expect("no error");
        assert_eq!(told(&mut c), ["a/2@7 a/3@7 a/4@7 a/1@8", "progress 8"]);
    }

    #[tokio::test]
    async fn other_prefixes_are_progress_and_nothing_comes_twice() {
        let mut c = cursor();
        let answer = |events: Vec<Event>| WatchResponse { events, ..WatchResponse::default() };
        c.take(answer(vec![event("b", 5), event("b", 6)])).await.expect("no error");
        assert_eq!(told(&mut c), ["progress 6"]);
        c.take(answer(vec![event("a/1", 6), event("a/1", 7)])).await.expect("no error");
        assert_eq!(told(&mut c), ["a/1@7", "progress 7"]);
        // An answer that says how far etcd is does not say how far the watch is.
        c.take(WatchResponse { header: Some(super::super::messages::Header { revision: 9, ..Default::default() }), ..WatchResponse::default() }).await.expect("no error");
        assert!(told(&mut c).is_empty());
        let compacted = c.take(WatchResponse { compact_revision: 12, canceled: true, ..WatchResponse::default() }).await;
        assert!(matches!(compacted, Err(StoreError::Compacted { asked: 7, oldest: 12 })));
    }
}
