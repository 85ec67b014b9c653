//! Watches: a cursor over the shared events of a resource.
//!
//! A watcher owns no buffer: it holds the number of the next event and reads shared lines from the cache's ring. Many events become one
//! piece of body. A watcher that falls behind the ring is ended, as upstream ends slow watchers; the client resumes at its last revision.
//! Invariant: a bookmark's revision is sent only after every event up to it.

use crate::cache::{Cached, Event, EventType, News, WatchCache};
use crate::call::{Answer, Body};
use crate::encode;
use crate::exchange::Exchange;
use crate::metrics;
use crate::options::ListOptions;
use crate::read::Filter;
use crate::represent::View;
use bytes::{Bytes, BytesMut};
use futures::stream;
use keles_api::Status;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How often an idle watch is told the revision.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// Shortest time between two pieces of live events, a watcher of the resource. An event after a pause goes out at once; in a burst, those
/// that follow are put together, which costs a watcher this much and saves a TLS record and a system call an event. A round over all
/// watchers takes time in proportion to their number anyway, so the pause grows with it, between these bounds.
const COALESCE_A_WATCHER: Duration = Duration::from_micros(100);
const COALESCE: std::ops::RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_millis(10);
/// Events looked at in one go.
const BATCH_EVENTS: usize = 512;
/// Lines put together into one piece of body, in bytes.
const BATCH_BYTES: usize = 64 << 10;

impl Exchange<'_> {
    pub async fn watch(&self) -> Result<Answer, Status> {
        let options = ListOptions::parse(&self.call.query, true)?;
        let filter = Filter::new(self, &options)?;
        let watcher = self.watcher(&options, filter).await?;
        let lines = stream::unfold(watcher, |mut w| async move { w.next().await.map(|b| (b, w)) });
        Ok(Answer { code: 200, body: Body::Watch(Box::pin(lines)), warnings: Vec::new() })
    }

    async fn watcher(&self, o: &ListOptions, filter: Filter) -> Result<Watcher, Status> {
        let revision = o.revision.unwrap_or(0);
        let start = match o.send_initial_events {
            Some(true) => Start::Snapshot { marked: true },
            Some(false) if revision == 0 => Start::Now,
            None if revision == 0 => Start::Snapshot { marked: false },
            _ => Start::After(revision),
        };
        // A snapshot must hold the caller's own writes; "0" is content with what is there.
        if !matches!(start, Start::After(_)) {
            self.registry.fresh(o.revision).await?;
        }
        let changed = self.resource.cache.subscribe();
        let (map, seen, next) = self.resource.cache.snapshot(self.registry.seen());
        let mut w = Watcher {
            view: self.view.clone(),
            filter,
            changed,
            seen: self.registry.subscribe_seen(),
            closing: self.registry.subscribe_closing(&self.resource),
            next,
            skip_until: 0,
            initial: Vec::new().into_iter(),
            end_mark: None,
            bookmarks: o.bookmarks,
            bookmark_at: Instant::now() + BOOKMARK_EVERY,
            bookmarked: seen,
            deadline: Instant::now() + self.registry.lifetimes().watch(o.timeout_seconds),
            columns_sent: false,
            sent: Instant::now(),
            opened: false,
            phase: Phase::Live,
        };
        match start {
            Start::Now => {}
            Start::Snapshot { marked } => {
                self.resource.cache.unreadable.under(w.filter.prefix())?;
                let map = self.resource.map_in(map, w.filter.prefix(), &self.served).await?;
                let kind = &*self.resource.kind;
                w.initial = map.values().filter(|c| w.filter.matches(c, kind)).cloned().collect::<Vec<_>>().into_iter();
                w.end_mark = marked.then_some(seen);
                w.phase = Phase::Initial;
            }
            Start::After(revision) => match self.resource.cache.position(revision) {
                Ok(next) => {
                    w.next = next;
                    w.skip_until = revision;
                    w.bookmarked = revision;
                }
                Err(oldest) => {
                    tracing::info!(resource = self.resource.info().plural, revision, oldest, "a watch asks for events that are gone");
                    let s = Status::expired(format!("too old resource version: {revision} ({oldest})"));
                    w.phase = Phase::Last(w.view.event("ERROR", &s.to_json()));
                }
            },
        }
        Ok(w)
    }
}

/// How long a watcher that has just been sent something waits for more.
fn pause(watchers: usize) -> Duration {
    (COALESCE_A_WATCHER * u32::try_from(watchers).unwrap_or(u32::MAX).min(1 << 16)).clamp(*COALESCE.start(), *COALESCE.end())
}

enum Start {
    /// All present objects as ADDED first; `marked`: then a bookmark that says so.
    Snapshot {
        marked: bool,
    },
    Now,
    After(u64),
}

enum Woken {
    News,
    Closing,
    Time,
}

enum Phase {
    Initial,
    Live,
    /// One more piece, then the end.
    Last(Bytes),
    Ended,
}

struct Watcher {
    view: View,
    filter: Filter,
    changed: watch::Receiver<u64>,
    seen: watch::Receiver<u64>,
    closing: watch::Receiver<bool>,
    /// Number of the next event to look at.
    next: u64,
    /// Events up to this revision are known to the client (it may lie in the future).
    skip_until: u64,
    initial: std::vec::IntoIter<Arc<Cached>>,
    /// Revision of the bookmark that ends the initial events.
    end_mark: Option<u64>,
    bookmarks: bool,
    bookmark_at: Instant,
    bookmarked: u64,
    deadline: Instant,
    columns_sent: bool,
    /// When live events were last sent.
    sent: Instant,
    opened: bool,
    phase: Phase,
}

/// Several lines on their way into one piece of body; a single one is passed on uncopied.
#[derive(Default)]
struct Piece {
    one: Option<Bytes>,
    many: BytesMut,
    lines: u64,
}

impl Piece {
    fn push(&mut self, line: Bytes) {
        self.lines += 1;
        if let Some(one) = self.one.take() {
            self.many.extend_from_slice(&one);
        } else if self.many.is_empty() {
            self.one = Some(line);
            return;
        }
        self.many.extend_from_slice(&line);
    }
    fn len(&self) -> usize {
        self.many.len() + self.one.as_ref().map_or(0, Bytes::len)
    }
    fn take(self) -> Option<Bytes> {
        self.one.or_else(|| (!self.many.is_empty()).then(|| self.many.freeze()))
    }
}

impl Watcher {
    fn cache(&self) -> &WatchCache {
        &self.view.resource.cache
    }

    async fn next(&mut self) -> Option<Bytes> {
        let opened = std::mem::replace(&mut self.opened, true);
        loop {
            let ready = match std::mem::replace(&mut self.phase, Phase::Ended) {
                Phase::Ended => return None,
                Phase::Last(piece) => return Some(piece),
                Phase::Initial => self.initial_piece(),
                Phase::Live => match self.prepare().await {
                    Ok(()) => {
                        self.phase = Phase::Live;
                        self.live_piece()
                    }
                    // What follows cannot be shown without this: the client has to start again.
                    Err(s) => return Some(self.view.event("ERROR", &s.to_json())),
                },
            };
            match ready {
                Some(piece) => return Some(piece),
                None if matches!(self.phase, Phase::Live) && !opened => return Some(Bytes::new()),
                None if matches!(self.phase, Phase::Live) => {
                    if let Some(piece) = self.wait().await {
                        return Some(piece);
                    }
                }
                None => {}
            }
        }
    }

    /// The next piece of the snapshot; the phase stays until it is empty.
    fn initial_piece(&mut self) -> Option<Bytes> {
        let mut piece = Piece::default();
        while piece.len() < BATCH_BYTES {
            let Some(o) = self.initial.next() else {
                self.phase = Phase::Live;
                if let Some(revision) = self.end_mark.take() {
                    piece.push(self.view.bookmark(revision, true));
                }
                return piece.take();
            };
            let line = if self.view.natural() {
                encode::event("ADDED", &o.object())
            } else {
                let first = self.first_table();
                self.view.line(EventType::Added, &o, first)
            };
            piece.push(line);
        }
        self.phase = Phase::Initial;
        self.count(&piece);
        piece.take()
    }

    /// Counts what goes out.
    fn count(&self, piece: &Piece) {
        if piece.lines > 0 {
            let served = &self.view.served;
            let labels = [served.group, self.view.resource.info().plural, served.version];
            metrics::WATCH_EVENTS.with(labels).add(piece.lines);
            metrics::WATCH_EVENT_SIZES.with(labels).observe((piece.len() as u64 / piece.lines) as f64);
        }
    }

    fn first_table(&mut self) -> bool {
        !std::mem::replace(&mut self.columns_sent, true)
    }

    /// Fetches the versions of the next events that somebody outside makes.
    async fn prepare(&self) -> Result<(), Status> {
        if !self.view.resource.kind.converts_outside() {
            return Ok(());
        }
        let News::Events(events, _) = self.cache().after(self.next, BATCH_EVENTS) else { return Ok(()) };
        let states = events.iter().flat_map(|e| std::iter::once(&e.object).chain(&e.old)).cloned().collect();
        self.view.resource.in_version(states, &self.view.served).await.map(|_| ())
    }

    /// What has happened since; `None` when nothing that passes the filter has.
    fn live_piece(&mut self) -> Option<Bytes> {
        let mut piece = Piece::default();
        while piece.len() < BATCH_BYTES {
            match self.cache().after(self.next, BATCH_EVENTS) {
                // Their versions are still to be fetched.
                News::Events(events, _) if !events.iter().all(|e| self.view.knows(&e.object)) => break,
                News::Lost => {
                    tracing::info!(resource = self.view.resource.info().plural, "a watcher was too slow and is ended");
                    self.phase = Phase::Ended;
                    break;
                }
                News::Events(events, next) => {
                    if events.is_empty() {
                        break;
                    }
                    self.next = next;
                    for e in events.iter().filter(|e| e.revision > self.skip_until) {
                        if let Some(line) = line_of(&self.view, &self.filter, &mut self.columns_sent, e) {
                            piece.push(line);
                        }
                        self.bookmarked = e.revision;
                    }
                }
            }
        }
        self.count(&piece);
        let piece = piece.take();
        if piece.is_some() {
            self.sent = Instant::now();
        }
        piece
    }

    /// Sleeps until there is something to do; a piece when that is a bookmark.
    async fn wait(&mut self) -> Option<Bytes> {
        let until = if self.bookmarks { self.deadline.min(self.bookmark_at) } else { self.deadline };
        // On a busy resource there is always news: time must not wait for a pause.
        if *self.closing.borrow() {
            self.close();
            return None;
        }
        if Instant::now() >= until {
            return self.on_time(until);
        }
        let woken = tokio::select! {
            biased;
            changed = self.changed.changed() => if changed.is_ok() { Woken::News } else { Woken::Closing },
            _ = self.closing.wait_for(|c| *c) => Woken::Closing,
            () = tokio::time::sleep_until(until) => Woken::Time,
        };
        match woken {
            Woken::News => {
                let earliest = self.sent + pause(self.cache().watchers());
                if Instant::now() < earliest {
                    tokio::time::sleep_until(earliest).await;
                }
                None
            }
            Woken::Closing => {
                self.close();
                None
            }
            Woken::Time => self.on_time(until),
        }
    }

    /// The end, after what happened before it.
    fn close(&mut self) {
        self.phase = self.live_piece().map_or(Phase::Ended, Phase::Last);
    }

    fn on_time(&mut self, until: Instant) -> Option<Bytes> {
        // Read before the events are: everything up to it is then in the piece or was sent.
        let seen = *self.seen.borrow();
        let mut piece = Piece::default();
        if let Some(p) = self.live_piece() {
            piece.push(p);
        }
        let caught_up = matches!(self.cache().after(self.next, 1), News::Events(e, _) if e.is_empty());
        if self.bookmarks && caught_up && seen > self.bookmarked && seen > self.skip_until {
            self.bookmarked = seen;
            piece.push(self.view.bookmark(seen, false));
        }
        self.bookmark_at = until + BOOKMARK_EVERY;
        let piece = piece.take();
        if until >= self.deadline {
            self.phase = piece.map_or(Phase::Ended, Phase::Last);
            return None;
        }
        piece
    }
}

/// What an event is to a watcher: selectors turn changes into ADDED and DELETED where objects enter and leave them.
fn line_of(view: &View, filter: &Filter, columns_sent: &mut bool, e: &Event) -> Option<Bytes> {
    let kind = &*view.resource.kind;
    let (new, old) = (view.seen(&e.object), e.old.as_ref().map(|o| view.seen(o)));
    let now = e.kind != EventType::Deleted && filter.matches(&new, kind);
    let before = match (&old, e.kind) {
        (_, EventType::Deleted) => filter.matches(&new, kind),
        (Some(old), _) => filter.matches(old, kind),
        (None, _) => false,
    };
    let (event, leaving) = match (before, now) {
        (_, true) if e.kind == EventType::Added => (EventType::Added, false),
        (true, true) => (EventType::Modified, false),
        (false, true) => (EventType::Added, false),
        (true, false) => (EventType::Deleted, e.kind != EventType::Deleted),
        (false, false) => return None,
    };
    if view.natural() && !leaving && event == e.kind {
        return Some(e.object.line());
    }
    let gone;
    let object = match (&old, leaving) {
        (Some(old), true) => {
            // The last state the watcher knew, at the revision of the change.
            let line = old.line_at("DELETED", e.revision, &view.resource.cache.head);
            if view.natural() {
                return Some(line);
            }
            gone = old.at("DELETED", e.revision, &view.resource.cache.head);
            &gone
        }
        _ => &*new,
    };
    let first = !std::mem::replace(columns_sent, true);
    if first {
        return Some(view.line(event, object, true));
    }
    let id = view.line_id(event) | u64::from(leaving) << 20;
    Some(e.shared_line(id, || view.line(event, object, false)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_between_pieces_grows_with_the_watchers_between_its_bounds() {
        let ms = |n| pause(n).as_millis();
        assert_eq!((ms(1), ms(50), ms(100), ms(usize::MAX)), (1, 5, 10, 10));
    }
}
