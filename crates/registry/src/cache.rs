//! The watch cache of one resource: a persistent map of encoded objects, and the recent events.
//!
//! Entry points: [`WatchCache::apply`] (the feeder), [`WatchCache::snapshot`] and [`WatchCache::snapshot_at`] (lists), [`WatchCache::after`]
//! (watchers). Objects are held as bytes only. An object's bytes are a slice of the watch line that announced it, so an event costs
//! watchers no copy. A snapshot is a pointer; an earlier one is made by undoing events, so no history of maps is kept.
//! Invariants: events are in revision order without gap above `floor`; the map is the state after the last event.
//! Deliberately absent: the store (see [`crate::registry`]) and what a watcher wants to see (see [`crate::watch`]).

use crate::encode::{Head, put_with_revision};
use crate::kind::AnyKind;
use crate::unreadable::Unreadable;
use bytes::{BufMut, Bytes, BytesMut};
use imbl::OrdMap;
use keles_api::Object;
use keles_api::json::Entries;
use std::collections::{BTreeMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, RwLock};
use tokio::sync::watch;

/// Events kept however large they are.
const EVENTS_MIN: usize = 256;
/// Events kept however small they are.
const EVENTS_MAX: usize = 8192;
/// Bytes of objects that only the events may hold, once there are `EVENTS_MIN` of them.
const EVENTS_MAX_BYTES: usize = 8 << 20;
/// Trees of a resource kept for those who ask again.
const TREES: usize = 16;
/// Encodings of one event kept for sharing (forms and versions beside the natural one).
const SHARED_LINES_MAX: usize = 8;

/// `namespace/name`, or `name` of a cluster-scoped object. Sorts as the store's keys do.
pub type Key = Arc<str>;

/// One state of one object.
pub struct Cached {
    pub key: Key,
    /// `{"type":…,"object":OBJECT}\n`
    line: Bytes,
    start: usize,
    /// Length of `{"kind":…,"apiVersion":…,`, and of the object up to the end of its metadata.
    type_len: usize,
    meta_end: usize,
    pub revision: u64,
    labels: Box<[(Box<str>, Box<str>)]>,
    pub deleting: bool,
    /// Whether the store holds just this; else a write that changes nothing still writes (that is how objects reach a new storage version).
    faithful: bool,
    fields: OnceLock<Box<[Box<str>]>>,
    /// The object in protobuf, from the first time it was asked for so.
    message: OnceLock<Bytes>,
    /// The place of its version among the kind's; not 0 only for kinds that are converted outside.
    version: u8,
    /// The object in other versions, for those kinds.
    turned: OnceLock<Box<Turned>>,
}

/// Versions that were asked for, by their place.
type Turned = Mutex<Vec<(u8, Arc<Cached>)>>;

impl Cached {
    /// From stored bytes. `event` is the type of the line to make: `ADDED`, `MODIFIED`.
    pub fn new(key: &str, stored: &[u8], revision: u64, head: &Head, event: &str) -> Self {
        let version = head.version_of(stored);
        let own = head.in_version(version);
        let rewritten = match head.restore.as_ref().and_then(|restore| restore(stored)) {
            Some(o) => Some(crate::encode::stored(&o, own)),
            None => (!stored.starts_with(&own.bytes)).then(|| rewrite(stored, own)),
        };
        let (faithful, stored) = (rewritten.is_none() && version == 0, rewritten.as_deref().unwrap_or(stored));
        Cached { faithful, ..Self::laid_out(key, stored, revision, own, version, event) }
    }

    fn laid_out(key: &str, stored: &[u8], revision: u64, head: &Head, version: u8, event: &str) -> Self {
        let start = crate::encode::event_start(event);
        let mut line = BytesMut::with_capacity(start.len() + stored.len() + 48);
        line.put_slice(start.as_bytes());
        put_with_revision(&mut line, stored, head.bytes.len(), revision);
        line.put_slice(b"}\n");
        Self::of_line(key, line.freeze(), start.len(), head, version, revision)
    }

    /// The same state of the object in another version, whose head is given.
    pub fn turned(&self, o: &Object, head: &Head, version: u8) -> Self {
        Cached { faithful: false, ..Self::laid_out(&self.key, &crate::encode::stored(o, head), self.revision, head, version, "ADDED") }
    }
    /// The place of its version among the kind's.
    pub fn version(&self) -> u8 {
        self.version
    }
    /// The object in a version, if that is known.
    pub fn known_in(self: &Arc<Self>, version: u8) -> Option<Arc<Cached>> {
        if self.version == version {
            return Some(self.clone());
        }
        let all = self.turned.get()?.lock().unwrap_or_else(|e| e.into_inner());
        all.iter().find(|(v, _)| *v == version).map(|(_, o)| o.clone())
    }
    /// Remembers the object in another version.
    pub fn keep(&self, version: u8, o: Arc<Cached>) {
        let mut all = self.turned.get_or_init(Box::default).lock().unwrap_or_else(|e| e.into_inner());
        if !all.iter().any(|(v, _)| *v == version) {
            all.push((version, o));
        }
    }

    pub fn of_line(key: &str, line: Bytes, start: usize, head: &Head, version: u8, revision: u64) -> Self {
        let meta_start = start + head.bytes.len() - 1;
        let mut metadata = Entries::of(&line[meta_start..]);
        let (mut labels, mut deleting) = (Box::default(), false);
        for (name, value) in metadata.by_ref() {
            match name {
                b"labels" => labels = serde_json::from_slice::<BTreeMap<_, _>>(value).unwrap_or_default().into_iter().collect(),
                b"deletionTimestamp" => deleting = value != b"null",
                _ => {}
            }
        }
        let meta_end = meta_start + metadata.end() - start;
        Cached {
            key: key.into(),
            start,
            type_len: head.type_len,
            meta_end,
            revision,
            labels,
            deleting,
            faithful: true,
            fields: OnceLock::new(),
            message: OnceLock::new(),
            version,
            turned: OnceLock::new(),
            line,
        }
    }

    /// The last state of a deleted object, at the revision of the delete; its line is `DELETED`.
    fn deleted(&self, revision: u64, head: &Head) -> Self {
        self.at("DELETED", revision, head)
    }

    /// The same object as an event of another type shows it, at another revision.
    pub fn at(&self, event: &str, revision: u64, head: &Head) -> Self {
        Self::of_line(&self.key, self.line_at(event, revision, head), crate::encode::event_start(event).len(), head.in_version(self.version), self.version, revision)
    }

    /// A line of another type, at another revision: an object leaving a selector.
    pub fn line_at(&self, event: &str, revision: u64, head: &Head) -> Bytes {
        let head = head.in_version(self.version);
        let object = self.slice();
        let start = crate::encode::event_start(event);
        let mut line = BytesMut::with_capacity(object.len() + start.len() + 24);
        line.put_slice(start.as_bytes());
        line.put_slice(&object[..head.bytes.len()]);
        line.put_slice(b"\"resourceVersion\":\"");
        line.put_slice(revision.to_string().as_bytes());
        let old = b"\"resourceVersion\":\"".len() + self.revision.to_string().len();
        line.put_slice(&object[head.bytes.len() + old..]);
        line.put_slice(b"}\n");
        line.freeze()
    }

    /// Whether these are the bytes that were stored.
    pub fn is_stored_as(&self, stored: &[u8], head: &Head) -> bool {
        let (object, at) = (self.slice(), head.bytes.len());
        let revision = b"\"resourceVersion\":\"".len() + self.revision.to_string().len() + 2;
        self.faithful && stored.len() >= at && stored[..at] == object[..at] && object.get(at + revision..).is_some_and(|rest| rest == &stored[at..])
    }

    /// The natural watch line.
    pub fn line(&self) -> Bytes {
        self.line.clone()
    }
    fn slice(&self) -> &[u8] {
        &self.line[self.start..self.line.len() - 2]
    }
    /// The whole object.
    pub fn object(&self) -> Bytes {
        self.line.slice(self.start..self.line.len() - 2)
    }
    /// The object without kind and apiVersion and without its opening brace: `"metadata":{…},…}`.
    pub fn untyped(&self) -> &[u8] {
        &self.slice()[self.type_len..]
    }
    /// `{…}` of metadata.
    pub fn metadata(&self) -> &[u8] {
        &self.slice()[self.type_len + b"\"metadata\":".len()..self.meta_end]
    }
    pub fn len(&self) -> usize {
        self.line.len()
    }
    pub fn is_empty(&self) -> bool {
        self.line.is_empty()
    }
    pub fn tree(&self) -> Object {
        Object(serde_json::from_slice(self.slice()).expect("the cache holds what the pipelines encoded"))
    }
    pub fn namespace(&self) -> &str {
        self.key.split_once('/').map_or("", |(ns, _)| ns)
    }
    pub fn name(&self) -> &str {
        self.key.rsplit_once('/').map_or(&self.key, |(_, n)| n)
    }
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(k, _)| &**k == key).map(|(_, v)| &**v)
    }
    /// The object's protobuf message, made once for all who ask; an error is not kept.
    pub fn message<E>(&self, make: impl FnOnce() -> Result<Vec<u8>, E>) -> Result<Bytes, E> {
        if let Some(m) = self.message.get() {
            return Ok(m.clone());
        }
        let made = Bytes::from(make()?);
        Ok(self.message.get_or_init(|| made).clone())
    }
    /// The value of a selectable field, computed once for all who ask.
    pub fn field(&self, name: &str, kind: &dyn AnyKind) -> &str {
        match name {
            "metadata.name" => return self.name(),
            "metadata.namespace" => return self.namespace(),
            _ => {}
        }
        let selectable = kind.info().selectable;
        let Some(i) = selectable.iter().position(|s| s.path == name) else { return "" };
        let fields = self.fields.get_or_init(|| {
            let tree = self.tree();
            selectable.iter().map(|s| kind.field_value(&tree, s).into()).collect()
        });
        &fields[i]
    }
}

/// Stored bytes of an older layout, brought into today's.
fn rewrite(stored: &[u8], head: &Head) -> Bytes {
    match serde_json::from_slice::<serde_json::Value>(stored) {
        Ok(v) if v.is_object() => crate::encode::stored(&Object(v), head),
        _ => {
            tracing::error!(bytes = stored.len(), "a stored object is not JSON; it is shown without content");
            crate::encode::stored(&Object(serde_json::json!({})), head)
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    Added,
    Modified,
    Deleted,
}

impl EventType {
    pub fn text(self) -> &'static str {
        match self {
            EventType::Added => "ADDED",
            EventType::Modified => "MODIFIED",
            EventType::Deleted => "DELETED",
        }
    }
}

/// One change, shared by all watchers.
pub struct Event {
    pub kind: EventType,
    pub revision: u64,
    /// The new state; the last one (at the revision of the delete) when deleted.
    pub object: Arc<Cached>,
    pub old: Option<Arc<Cached>>,
    lines: Mutex<Vec<(u64, Bytes)>>,
}

impl Event {
    /// A line in an unusual encoding, made once for all watchers who want the same (`what` identifies it).
    pub fn shared_line(&self, what: u64, make: impl FnOnce() -> Bytes) -> Bytes {
        let mut lines = self.lines.lock().expect("no holder panics");
        if let Some((_, l)) = lines.iter().find(|(k, _)| *k == what) {
            return l.clone();
        }
        let l = make();
        if lines.len() < SHARED_LINES_MAX {
            lines.push((what, l.clone()));
        }
        l
    }
}

/// A change of the store, keyed within the resource.
pub struct Incoming {
    pub key: Key,
    /// `None`: deleted.
    pub value: Option<Bytes>,
    pub revision: u64,
    pub created: u64,
    /// Why the state cannot be read; there is no value then.
    pub unreadable: Option<String>,
}

pub type Map = OrdMap<Key, Arc<Cached>>;

struct State {
    map: Map,
    events: VecDeque<Arc<Event>>,
    /// Sequence number of `events[0]`.
    first: u64,
    /// All events with a greater revision are in `events`.
    floor: u64,
    last: u64,
    bytes: usize,
}

pub struct WatchCache {
    pub head: Head,
    pub unreadable: Unreadable,
    state: RwLock<State>,
    /// The trees last asked for or written, by what their keys hash to: plugins look at the same few objects at every write.
    trees: [Mutex<Option<(Arc<Cached>, Arc<Object>)>>; TREES],
    /// Revision of the last event; watchers wait on it.
    changed: watch::Sender<u64>,
}

/// What a watcher finds when it looks for news.
pub enum News {
    /// Events from the asked sequence number on, and the next number.
    Events(Vec<Arc<Event>>, u64),
    /// The watcher was too slow: its events are gone.
    Lost,
}

impl WatchCache {
    pub fn new(head: Head) -> Self {
        let state = State { map: Map::new(), events: VecDeque::new(), first: 0, floor: 0, last: 0, bytes: 0 };
        WatchCache { head, unreadable: Unreadable::default(), state: RwLock::new(state), trees: Default::default(), changed: watch::Sender::new(0) }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.state.read().expect("no holder panics")
    }

    /// Fills the empty cache with what is stored at `revision`. Watches may start there.
    pub fn fill(&self, entries: impl Iterator<Item = Incoming>, revision: u64) {
        let mut s = self.state.write().expect("no holder panics");
        let readable = entries.filter_map(|mut e| match e.unreadable.take() {
            Some(why) => {
                self.unreadable.insert(e.key, why);
                None
            }
            None => Some(e),
        });
        s.map = readable.filter_map(|e| e.value.map(|v| (e.key.clone(), Arc::new(Cached::new(&e.key, &v, e.revision, &self.head, "ADDED"))))).collect();
        s.floor = revision;
        s.last = revision;
    }

    /// Applies changes in revision order. All of one revision must come in one call.
    pub fn apply(&self, changes: Vec<Incoming>) {
        let mut s = self.state.write().expect("no holder panics");
        for mut c in changes {
            if let Some(why) = c.unreadable.take() {
                s.map.remove(&*c.key);
                s.forget(c.revision);
                self.unreadable.insert(c.key, why);
                continue;
            }
            self.unreadable.remove(&c.key);
            let old = s.map.get(&*c.key).cloned();
            let (kind, object) = match (c.value, &old) {
                (Some(v), old) => {
                    let kind = if old.is_none() || c.created == c.revision { EventType::Added } else { EventType::Modified };
                    let object = Arc::new(Cached::new(&c.key, &v, c.revision, &self.head, kind.text()));
                    s.map.insert(c.key, object.clone());
                    (kind, object)
                }
                (None, Some(old)) => {
                    s.map.remove(&*c.key);
                    (EventType::Deleted, Arc::new(old.deleted(c.revision, &self.head)))
                }
                (None, None) => continue,
            };
            s.last = s.last.max(c.revision);
            s.push(Event { kind, revision: c.revision, object, old, lines: Mutex::default() });
        }
        let last = s.last;
        drop(s);
        self.changed.send_replace(last);
    }

    /// What could not be read can be read again: watchers begin anew, since no event tells of it.
    pub fn recover(&self, c: Incoming) {
        let mut s = self.state.write().expect("no holder panics");
        if let (Some(v), None) = (c.value, s.map.get(&*c.key)) {
            s.map.insert(c.key.clone(), Arc::new(Cached::new(&c.key, &v, c.revision, &self.head, "ADDED")));
            let last = s.last;
            s.forget(last);
        }
        self.unreadable.remove(&c.key);
        let last = s.last;
        drop(s);
        self.changed.send_replace(last);
    }

    pub fn get(&self, key: &str) -> Option<Arc<Cached>> {
        self.read().map.get(key).cloned()
    }

    /// The object as a tree, made once for those who ask again soon.
    pub fn tree(&self, o: &Arc<Cached>) -> Arc<Object> {
        let mut place = self.place(o);
        match &*place {
            Some((of, tree)) if Arc::ptr_eq(of, o) => tree.clone(),
            _ => place.insert((o.clone(), Arc::new(o.tree()))).1.clone(),
        }
    }

    /// The object as a tree where that is made already.
    pub fn tree_at_hand(&self, o: &Cached) -> Option<Arc<Object>> {
        self.place(o).as_ref().filter(|(of, _)| std::ptr::eq(&**of, o)).map(|(_, tree)| tree.clone())
    }

    /// The trees of all objects that are wanted. Those of a few are kept for those who ask again.
    pub fn trees(&self, wanted: impl Fn(&Cached) -> bool) -> Vec<Arc<Object>> {
        let all = self.present();
        let wanted: Vec<&Arc<Cached>> = all.values().filter(|c| wanted(c)).collect();
        let few = wanted.len() <= TREES;
        wanted.into_iter().map(|c| if few { self.tree(c) } else { Arc::new(c.tree()) }).collect()
    }

    /// Keeps the tree of what was just written: who writes an object is often followed by who changes it next.
    pub fn keep_tree(&self, key: &str, revision: u64, tree: Object) {
        // Bytes that are read as something else than was written (an older layout, another version) make their own tree.
        let Some(o) = self.get(key).filter(|o| o.revision == revision && o.faithful) else { return };
        debug_assert_eq!(tree, o.tree(), "what was written and what its bytes say");
        *self.place(&o) = Some((o.clone(), Arc::new(tree)));
    }

    fn place(&self, o: &Cached) -> MutexGuard<'_, Option<(Arc<Cached>, Arc<Object>)>> {
        let mut hash = std::hash::DefaultHasher::new();
        o.key.hash(&mut hash);
        self.trees[hash.finish() as usize % TREES].lock().expect("no holder panics")
    }

    /// Revision of the last change.
    pub fn last_change(&self) -> u64 {
        self.read().last
    }

    /// How many objects there are.
    pub fn count(&self) -> usize {
        self.read().map.len()
    }
    /// How many wait for changes of the resource.
    pub fn watchers(&self) -> usize {
        self.changed.receiver_count()
    }

    /// Wakes when the resource changes.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The present state, the revision it is good for (at least `seen`), and the number of the next event.
    pub fn snapshot(&self, seen: u64) -> (Map, u64, u64) {
        let s = self.read();
        (s.map.clone(), seen.max(s.last), s.first + s.events.len() as u64)
    }

    /// The state at an earlier revision, made by undoing events; `None` when they do not reach back so far.
    pub fn snapshot_at(&self, revision: u64) -> Option<Map> {
        let (mut map, undo) = {
            let s = self.read();
            if revision < s.floor {
                return None;
            }
            (s.map.clone(), s.events.iter().rev().take_while(|e| e.revision > revision).cloned().collect::<Vec<_>>())
        };
        for e in undo {
            match &e.old {
                Some(old) => map.insert(old.key.clone(), old.clone()),
                None => map.remove(&*e.object.key),
            };
        }
        Some(map)
    }

    /// The number of the first event after `revision`; `Err` holds the oldest revision to watch from.
    pub fn position(&self, revision: u64) -> Result<u64, u64> {
        let s = self.read();
        if revision < s.floor {
            return Err(s.floor);
        }
        let older = s.events.partition_point(|e| e.revision <= revision);
        Ok(s.first + older as u64)
    }

    /// At most `max` events from number `from` on.
    pub fn after(&self, from: u64, max: usize) -> News {
        let s = self.read();
        if from < s.first {
            return News::Lost;
        }
        let skip = (from - s.first) as usize;
        let events: Vec<_> = s.events.iter().skip(skip).take(max).cloned().collect();
        let next = from + events.len() as u64;
        News::Events(events, next)
    }

    /// All present states and revisions, to compare with the store after a gap.
    pub fn present(&self) -> Map {
        self.read().map.clone()
    }
}

impl State {
    /// Ends what watchers can follow: the map changes at `revision` in a way that no event tells.
    fn forget(&mut self, revision: u64) {
        self.first += self.events.len() as u64 + 1;
        self.events.clear();
        self.bytes = 0;
        self.last = self.last.max(revision);
        self.floor = self.last;
    }
    fn push(&mut self, e: Event) {
        self.bytes += e.object.len();
        self.events.push_back(Arc::new(e));
        while self.events.len() > EVENTS_MAX || self.events.len() > EVENTS_MIN && self.bytes > EVENTS_MAX_BYTES {
            let Some(gone) = self.events.pop_front() else { break };
            self.first += 1;
            self.bytes -= gone.object.len();
            self.floor = gone.revision;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> WatchCache {
        WatchCache::new(Head::new("ConfigMap", "v1"))
    }
    fn put(key: &str, text: &str, revision: u64, created: u64) -> Incoming {
        let name = key.rsplit('/').next().unwrap();
        let value = format!(r#"{{"kind":"ConfigMap","apiVersion":"v1","metadata":{{"name":"{name}","labels":{{"a":"{text}"}}}},"data":{{"t":"{text}"}}}}"#);
        Incoming { key: key.into(), value: Some(value.into()), revision, created, unreadable: None }
    }
    fn del(key: &str, revision: u64) -> Incoming {
        Incoming { key: key.into(), value: None, revision, created: 0, unreadable: None }
    }
    fn lines(c: &WatchCache, from: u64) -> Vec<String> {
        match c.after(from, 100) {
            News::Events(e, _) => e.iter().map(|e| String::from_utf8(e.object.line().to_vec()).unwrap()).collect(),
            News::Lost => panic!("lost"),
        }
    }

    #[test]
    fn a_deleted_event_carries_the_last_state_with_the_revision_of_the_delete() {
        let c = cache();
        c.apply(vec![put("n/a", "x", 5, 5), del("n/a", 9)]);
        assert_eq!(
            lines(&c, 1),
            [
                "{\"type\":\"DELETED\",\"object\":{\"kind\":\"ConfigMap\",\"apiVersion\":\"v1\",\"metadata\":{\"resourceVersion\":\"9\",\"name\":\"a\",\"labels\":{\"a\":\"x\"}},\"data\":{\"t\":\"x\"}}}\n"
            ]
        );
    }

    #[test]
    fn the_parts_of_an_object_are_found_without_parsing_it() {
        let c = cache();
        c.apply(vec![put("n/a", "x", 5, 5)]);
        let o = c.get("n/a").unwrap();
        assert_eq!(o.metadata(), br#"{"resourceVersion":"5","name":"a","labels":{"a":"x"}}"#);
        assert_eq!(o.untyped(), br#""metadata":{"resourceVersion":"5","name":"a","labels":{"a":"x"}},"data":{"t":"x"}}"#);
        assert_eq!((o.label("a"), o.label("b"), o.name(), o.namespace()), (Some("x"), None, "a", "n"));
    }

    #[test]
    fn the_stored_bytes_are_recognised() {
        let c = cache();
        let i = put("n/a", "x", 5, 5);
        let stored = i.value.clone().unwrap();
        c.apply(vec![i]);
        let o = c.get("n/a").unwrap();
        assert!(o.is_stored_as(&stored, &c.head));
        assert!(!o.is_stored_as(&put("n/a", "y", 6, 5).value.unwrap(), &c.head));
        assert!(!o.is_stored_as(b"{}", &c.head));
    }

    #[test]
    fn what_cannot_be_read_is_no_part_of_the_state_and_ends_what_watchers_follow() {
        let c = cache();
        c.apply(vec![put("n/a", "x", 5, 5), put("n/b", "x", 6, 6)]);
        c.apply(vec![Incoming { value: None, unreadable: Some("no key".into()), ..put("n/a", "y", 7, 5) }]);
        assert!(c.get("n/a").is_none() && c.get("n/b").is_some() && c.unreadable.status("n/a").is_some());
        assert!(matches!(c.after(2, 10), News::Lost), "a watcher lists again, and is told");
        assert_eq!((c.position(6), c.snapshot_at(6).is_none()), (Err(7), true));
        c.recover(put("n/a", "y", 7, 5));
        assert!(c.get("n/a").is_some_and(|o| o.label("a") == Some("y")) && c.unreadable.keys().is_empty());
        c.apply(vec![put("n/a", "z", 8, 5)]);
        let from = c.position(7).expect("what comes later can be followed");
        assert_eq!(lines(&c, from).len(), 1);
    }

    #[test]
    fn added_or_modified_follows_from_the_create_revision() {
        let c = cache();
        c.apply(vec![put("n/a", "x", 5, 5), put("n/a", "y", 6, 5), put("n/a", "z", 7, 7)]);
        let kinds: Vec<_> = lines(&c, 0).iter().map(|l| l.split('"').nth(3).unwrap().to_owned()).collect();
        assert_eq!(kinds, ["ADDED", "MODIFIED", "ADDED"], "a state whose create revision is its own is a new object");
    }

    #[test]
    fn an_earlier_state_is_made_by_undoing_events() {
        let c = cache();
        c.fill([put("n/old", "o", 3, 3)].into_iter(), 4);
        c.apply(vec![put("n/a", "x", 5, 5), put("n/a", "y", 6, 5), del("n/old", 7)]);
        let at = |r| c.snapshot_at(r).map(|m| m.values().map(|o| format!("{}@{}", o.key, o.revision)).collect::<Vec<_>>().join(" "));
        assert_eq!(at(4).unwrap(), "n/old@3");
        assert_eq!(at(5).unwrap(), "n/a@5 n/old@3");
        assert_eq!(at(6).unwrap(), "n/a@6 n/old@3");
        assert_eq!(at(7).unwrap(), "n/a@6");
        assert!(at(3).is_none(), "before the fill nothing is known");
    }

    #[test]
    fn the_ring_is_bounded_and_a_slow_watcher_is_told() {
        let c = cache();
        for i in 0..(EVENTS_MAX as u64 + 10) {
            c.apply(vec![put("n/a", "x", i + 1, 1)]);
        }
        assert!(matches!(c.after(0, 10), News::Lost));
        assert_eq!(c.position(5), Err(10), "the oldest revision to watch from is the last one dropped");
        assert_eq!(c.position(10), Ok(10));
    }
}
