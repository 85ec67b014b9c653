//! The writer thread: takes what waits, checks it against the index in order, commits it with one write and one fdatasync.

use super::Shared;
use super::index::{Place, State, Step};
use super::merge;
use super::queue::{Command, Refusal};
use super::record::{Frame, Kind, Record};
use super::segment::{self, Segment, disk_error};
use crate::{Change, Entry, Expect, Feed, Revision, StoreError, Write};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::oneshot;

/// Commands taken at once.
const BATCH_LIMIT: usize = 1024;
/// A frame is committed when it has grown to this, though more waits.
const FRAME_LIMIT_BYTES: usize = 8 << 20;
/// Watchers hear of foreign progress when the writer has been idle for this long.
const IDLE_PROGRESS: Duration = Duration::from_millis(50);
/// An expiry that the disk refused is tried again after this.
const EXPIRY_RETRY_MS: u64 = 1000;

type Reply = Option<oneshot::Sender<Result<Revision, Refusal>>>;

pub struct Writer {
    shared: Arc<Shared>,
    active: Arc<Segment>,
    active_bytes: u64,
    /// The file may be longer than `active_bytes`: an earlier failed write could not be cut off.
    untidy: bool,
    /// Keys that expire: (when, revision of the put) -> key.
    expiring: BTreeMap<(u64, Revision), Bytes>,
    frame: Frame,
    fed: Vec<Fed>,
    /// Held so that no other process opens the folder; released when the thread ends.
    _lock: File,
}

/// Somebody who is given changes by this thread.
pub struct Fed {
    pub prefix: Bytes,
    pub feed: Feed,
    /// Its other end is gone: nobody wants them any more.
    pub open: oneshot::Sender<std::convert::Infallible>,
}

/// A batch being checked: the index as it will be, and what to tell whom.
struct Draft {
    state: State,
    keys: Vec<Bytes>,
    values: Vec<(Revision, Bytes)>,
    expiring: Vec<((u64, Revision), Bytes)>,
    answers: Vec<(Reply, Result<Revision, Refusal>)>,
    record_bytes: u64,
}

pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

impl Writer {
    pub fn new(shared: Arc<Shared>, active: Arc<Segment>, active_bytes: u64, lock: File) -> Writer {
        let expiring = shared.state().keys.iter().filter(|(_, v)| !v.deleted && v.expires_ms > 0).map(|(k, v)| ((v.expires_ms, v.modified), k.clone())).collect();
        Writer { shared, active, active_bytes, untidy: false, expiring, frame: Frame::new(), fed: Vec::new(), _lock: lock }
    }

    pub fn run(mut self) {
        let mut idle_told = true;
        loop {
            let commands = self.shared.queue.take(BATCH_LIMIT, self.wait(idle_told));
            if commands.is_empty() && !idle_told {
                self.shared.watchers.tell_progress(self.shared.state().revision);
                idle_told = true;
            }
            let worked = !commands.is_empty();
            if !self.work(commands) {
                break;
            }
            idle_told &= !(self.expire() || worked);
        }
    }

    /// How long to wait for commands: until the next expiry, or until idleness is worth telling.
    fn wait(&self, idle_told: bool) -> Option<Duration> {
        let expiry = self.expiring.first_key_value().map(|((at, _), _)| Duration::from_millis(at.saturating_sub(now_ms())));
        let idle = (!idle_told).then_some(IDLE_PROGRESS);
        [expiry, idle].into_iter().flatten().min()
    }

    /// False when the store is to close.
    fn work(&mut self, commands: Vec<Command>) -> bool {
        let mut writes = Vec::new();
        let mut go_on = true;
        for command in commands {
            match command {
                Command::Write { write, reply } => writes.push((write, reply)),
                Command::Compact { before, reply } => {
                    self.commit_all(std::mem::take(&mut writes));
                    // The asker may be gone.
                    let _ = reply.send(self.compact(before));
                }
                Command::Feed { fed, after, reply } => {
                    self.commit_all(std::mem::take(&mut writes));
                    let _ = reply.send(self.begin_feeding(fed, after));
                }
                Command::Close => go_on = false,
            }
        }
        self.commit_all(writes);
        go_on
    }

    fn commit_all(&mut self, writes: Vec<(Write, Reply)>) {
        let mut waiting = writes.into_iter().peekable();
        while waiting.peek().is_some() {
            if let Err(e) = self.make_room() {
                for (_, reply) in waiting.by_ref() {
                    answer(reply, Err(Refusal::Failed(copy_of(&e))));
                }
                return;
            }
            let mut draft = Draft::new(State::clone(&self.shared.state()));
            self.frame.clear();
            while self.frame.len() < FRAME_LIMIT_BYTES {
                let Some((write, reply)) = waiting.next() else { break };
                let outcome = self.stage(&mut draft, write);
                draft.answers.push((reply, outcome));
            }
            self.commit(draft);
        }
    }

    /// Checks one write and adds it to frame and draft.
    fn stage(&mut self, draft: &mut Draft, write: Write) -> Result<Revision, Refusal> {
        let (key, value, expect, ttl) = match write {
            Write::Put { key, value, expect, ttl } => (key, Some(value), expect, ttl),
            Write::Delete { key, expect } => (key, None, Expect::Revision(expect), None),
        };
        let current = draft.state.keys.get_key_value(&key).filter(|(_, v)| !v.deleted);
        let as_expected = match expect {
            Expect::Absent => current.is_none(),
            Expect::Revision(r) => current.is_some_and(|(_, v)| v.modified == r),
        };
        if !as_expected {
            return Err(Refusal::Conflict(current.map(|(k, v)| (k.clone(), v.clone()))));
        }
        let revision = draft.state.revision + 1;
        let created = current.map_or(revision, |(_, v)| v.created);
        // Never 0, which says "no expiry".
        let expires_ms = ttl.map_or(0, |t| now_ms().saturating_add(t.as_millis() as u64).max(1));
        let deleted = value.is_none();
        let value = value.unwrap_or_default();
        let value_crc = crc32c::crc32c(&value);
        let kind = if deleted { Kind::Delete } else { Kind::Put };
        let before = self.frame.len();
        let value_at = self.frame.push(&Record { kind, revision, created, expires_ms, key: &key, value: &value, value_crc });
        draft.record_bytes += (self.frame.len() - before) as u64;
        let place = Place::new(self.active.id, self.active_bytes + value_at);
        draft.state.apply(Step { key: key.clone(), revision, created, expires_ms, value_bytes: value.len() as u32, value_crc, deleted, place });
        if expires_ms > 0 {
            draft.expiring.push(((expires_ms, revision), key.clone()));
        }
        draft.keys.push(key);
        draft.values.push((revision, value));
        Ok(revision)
    }

    /// Makes the draft durable, publishes it and answers. When the disk refuses nothing of it remains.
    fn commit(&mut self, draft: Draft) {
        if self.frame.is_empty() {
            draft.answers.into_iter().for_each(|(reply, outcome)| answer(reply, outcome));
            return;
        }
        if let Err(e) = self.append() {
            tracing::error!(error = %e, writes = draft.answers.len(), "the store cannot write");
            for (reply, _) in draft.answers {
                answer(reply, Err(Refusal::Failed(copy_of(&e))));
            }
            return;
        }
        let before = self.shared.state().revision;
        let now = draft.state.revision;
        self.feed(&draft, now);
        for (revision, value) in draft.values {
            self.shared.values.remember(revision, value);
        }
        self.shared.live_bytes.fetch_add(draft.record_bytes, Ordering::Relaxed);
        self.expiring.extend(draft.expiring);
        self.shared.publish(draft.state);
        self.shared.watchers.committed(&draft.keys, before, now);
        draft.answers.into_iter().for_each(|(reply, outcome)| answer(reply, outcome));
    }

    /// Tells who is fed of what has become durable.
    fn feed(&mut self, draft: &Draft, now: Revision) {
        self.fed.retain(|fed| !fed.open.is_closed());
        for fed in &self.fed {
            let mine = draft.values.iter().filter_map(|(revision, value)| {
                let (key, version) = draft.state.history.get(revision).filter(|(key, _)| key.starts_with(&fed.prefix))?;
                let entry = Entry { key: key.clone(), value: value.clone(), created: version.created, modified: *revision };
                Some(Change { entry, deleted: version.deleted, unreadable: None })
            });
            (fed.feed)(&mine.collect::<Vec<_>>(), now);
        }
    }

    /// Tells what happened since `after`, and from now on what happens.
    fn begin_feeding(&mut self, fed: Fed, after: Revision) -> Result<(), StoreError> {
        let state = self.shared.state();
        state.check_told_from(after)?;
        let missed = state.after(after, &fed.prefix).map(|(_, key, version)| self.shared.change(&key, &version)).collect::<Result<Vec<_>, _>>()?;
        (fed.feed)(&missed, state.revision);
        self.fed.push(fed);
        Ok(())
    }

    /// Writes the frame at the end of the active segment and syncs; cuts it off again on failure.
    fn append(&mut self) -> Result<(), StoreError> {
        self.tidy()?;
        let bytes = self.frame.finish();
        let length = bytes.len() as u64;
        let written = self.active.file.write_all_at(bytes, self.active_bytes).and_then(|()| self.active.file.sync_data());
        if let Err(e) = written {
            let e = disk_error(&self.active.path, &e);
            self.untidy = true;
            // Tried again before the next write if it fails now.
            let _ = self.tidy();
            return Err(e);
        }
        self.active_bytes += length;
        self.shared.log_bytes.fetch_add(length, Ordering::Relaxed);
        Ok(())
    }

    /// Cuts off what a failed write left. Synced, so that a frame that was refused cannot come back after a power cut.
    fn tidy(&mut self) -> Result<(), StoreError> {
        if self.untidy {
            self.active.file.set_len(self.active_bytes).and_then(|()| self.active.file.sync_all()).map_err(|e| disk_error(&self.active.path, &e))?;
            self.untidy = false;
        }
        Ok(())
    }

    /// Begins the next segment when the active one is full.
    fn make_room(&mut self) -> Result<(), StoreError> {
        if self.active_bytes >= self.shared.options.segment_bytes { self.rotate() } else { Ok(()) }
    }

    fn rotate(&mut self) -> Result<(), StoreError> {
        self.tidy()?;
        let next = Arc::new(segment::create(&self.shared.dir, self.shared.new_file_id(), self.active.last + 1)?);
        self.shared.values.add_file(next.clone());
        self.active = next;
        self.active_bytes = super::record::FILE_HEADER_BYTES as u64;
        self.shared.log_bytes.fetch_add(self.active_bytes, Ordering::Relaxed);
        Ok(())
    }

    fn compact(&mut self, before: Revision) -> Result<(), StoreError> {
        let published = self.shared.state();
        if before > published.revision {
            return Err(StoreError::Future { asked: before, current: published.revision });
        }
        if before <= published.floor {
            return Ok(());
        }
        self.frame.clear();
        self.frame.push(&Record { kind: Kind::Compact, revision: published.revision, created: before, expires_ms: 0, key: &[], value: &[], value_crc: 0 });
        self.append()?;
        let mut state = State::clone(&published);
        drop(published);
        // The floor shows before anything is cut: a reader that met a cut chain sees it when it looks again.
        self.shared.publish(State { floor: before, ..state.clone() });
        let dead = state.forget(before);
        self.shared.publish(state);
        let live = self.shared.live_bytes.load(Ordering::Relaxed);
        self.shared.live_bytes.store(live.saturating_sub(dead), Ordering::Relaxed);
        self.shared.watchers.wake_all();
        self.merge_if_due();
        Ok(())
    }

    fn merge_if_due(&mut self) {
        if !self.shared.merge_is_due() || self.shared.merging.swap(true, Ordering::AcqRel) {
            return;
        }
        let started = self.rotate().and_then(|()| merge::start(self.shared.clone(), self.active.id));
        if let Err(e) = started {
            tracing::warn!(error = %e, "the store's files cannot be merged now; tried again after the next compaction");
            self.shared.merging.store(false, Ordering::Release);
        }
    }

    /// Deletes what has expired, as ordinary writes. True when something was due.
    fn expire(&mut self) -> bool {
        let now = now_ms();
        let mut due = Vec::new();
        while let Some(entry) = self.expiring.first_entry().filter(|e| e.key().0 <= now) {
            let ((_, revision), key) = entry.remove_entry();
            due.push((revision, key));
        }
        if due.is_empty() {
            return false;
        }
        let deletes = due.iter().map(|(revision, key)| (Write::Delete { key: key.clone(), expect: *revision }, None)).collect();
        self.commit_all(deletes);
        let state = self.shared.state();
        for (revision, key) in due {
            // Still there: the disk refused. A newer put has its own expiry.
            if state.live(&key).is_some_and(|v| v.modified == revision) {
                self.expiring.insert((now + EXPIRY_RETRY_MS, revision), key);
            }
        }
        true
    }
}

impl Drop for Writer {
    /// Also after a panic: callers get `Closed` instead of waiting for a thread that is gone.
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Release);
        self.shared.queue.shut();
        self.shared.watchers.wake_all();
    }
}

impl Draft {
    fn new(state: State) -> Draft {
        Draft { state, keys: Vec::new(), values: Vec::new(), expiring: Vec::new(), answers: Vec::new(), record_bytes: 0 }
    }
}

fn answer(reply: Reply, outcome: Result<Revision, Refusal>) {
    if let Some(reply) = reply {
        // The caller may have gone away; the write stands.
        let _ = reply.send(outcome);
    }
}

/// One failed fsync answers many writers.
fn copy_of(e: &StoreError) -> StoreError {
    match e {
        StoreError::Disk { path, source } => disk_error(std::path::Path::new(path), source),
        _ => StoreError::Closed,
    }
}
