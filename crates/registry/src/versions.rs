//! Objects in other versions, where making them takes somebody outside: custom resources whose definition names a conversion webhook.
//!
//! Entry points: [`Resource::in_version`] for reads, [`Resource::turned`] for writes, [`Conversions`] for rules that cannot wait.
//! Conversions go out in batches, and what came back is kept with the cached object, so that it is asked for once an object and version,
//! as upstream's watch cache of each version does. Reads of the version in which an object is stored never come here.
//! Deliberately absent: who converts, and how ([`crate::AnyKind::convert_outside`]).

use crate::cache::{Cached, Map};
use crate::exchange::Exchange;
use crate::kind::Served;
use crate::resource::{Resource, api_version};
use keles_api::{Object, Status};
use serde_json::Value;
use std::ops::Bound;
use std::sync::{Arc, Mutex};

/// Objects and bytes that go out in one request; a larger object goes alone.
const BATCH_OBJECTS: usize = 500;
const BATCH_BYTES: usize = 1 << 20;

impl Resource {
    /// The place of a served version, which is what [`Cached::version`] says.
    pub fn index_of(&self, s: &Served) -> u8 {
        self.info().served.iter().position(|o| o == s).and_then(|i| u8::try_from(i).ok()).unwrap_or(0)
    }

    /// Objects as a version shows them, in the order given. Kinds that convert by themselves do so where the bytes are made.
    pub async fn in_version(&self, items: Vec<Arc<Cached>>, to: &Served) -> Result<Vec<Arc<Cached>>, Status> {
        if !self.kind.converts_outside() {
            return Ok(items);
        }
        let at = self.index_of(to);
        let mut waiting: Vec<Arc<Cached>> = Vec::new();
        let mut bytes = 0;
        for o in items.iter().filter(|o| o.known_in(at).is_none()) {
            if !waiting.is_empty() && (waiting.len() == BATCH_OBJECTS || bytes + o.len() > BATCH_BYTES) {
                self.fetch(&std::mem::take(&mut waiting), to, at).await?;
                bytes = 0;
            }
            bytes += o.len();
            waiting.push(o.clone());
        }
        self.fetch(&waiting, to, at).await?;
        Ok(items.into_iter().map(|o| o.known_in(at).unwrap_or(o)).collect())
    }

    async fn fetch(&self, objects: &[Arc<Cached>], to: &Served, at: u8) -> Result<(), Status> {
        if objects.is_empty() {
            return Ok(());
        }
        let head = self.cache.head.in_version(at);
        let converted = self.kind.convert_outside(objects.iter().map(|o| o.tree()).collect(), to).await?;
        for (from, o) in objects.iter().zip(converted) {
            from.keep(at, Arc::new(from.turned(&self.kind.conform(to, o), head, at)));
        }
        Ok(())
    }

    /// Every object of a map below a prefix, as a version shows it.
    pub async fn map_in(&self, map: Map, prefix: &str, to: &Served) -> Result<Map, Status> {
        if !self.kind.converts_outside() {
            return Ok(map);
        }
        let items =
            map.range::<(Bound<&str>, Bound<&str>), str>((Bound::Included(prefix), Bound::Unbounded)).take_while(|(k, _)| k.starts_with(prefix)).map(|(_, o)| o.clone()).collect();
        Ok(self.in_version(items, to).await?.into_iter().map(|o| (o.key.clone(), o)).collect())
    }

    /// An object of the version `from` in another one, without the form that is stored.
    pub async fn turned(&self, mut o: Object, from: &Served, to: &Served) -> Result<Object, Status> {
        if from == to {
            return Ok(o);
        }
        if !self.kind.converts_outside() {
            self.convert(&mut o, from, to);
            return Ok(self.kind.conform(to, o));
        }
        let converted = self.kind.convert_outside(vec![o], to).await?.pop();
        converted.map(|o| self.kind.conform(to, o)).ok_or_else(|| Status::internal("a conversion gave no object"))
    }
}

impl Exchange<'_> {
    /// An object of the cache as the client's version shows it.
    pub async fn shown(&self, o: Arc<Cached>) -> Result<Arc<Cached>, Status> {
        if !self.resource.kind.converts_outside() {
            return Ok(o);
        }
        Ok(self.resource.in_version(vec![o.clone()], &self.served).await?.pop().unwrap_or(o))
    }

    /// An object of the cache in the version that rules work on.
    pub async fn working_tree(&self, o: &Arc<Cached>) -> Result<Arc<Object>, Status> {
        if self.resource.kind.converts_outside() {
            return Ok(Arc::new(self.resource.in_version(vec![o.clone()], &self.working).await?.pop().map_or_else(|| o.tree(), |o| o.tree())));
        }
        Ok(if self.working == self.resource.storage() { self.resource.cache.tree(o) } else { Arc::new(self.resource.tree_in(o, &self.working)) })
    }

    /// Runs a rule that may need conversions; what it needs is fetched, and it is run again with them.
    pub async fn with_conversions<T>(&self, mut rule: impl FnMut() -> Result<T, Status>) -> Result<T, Status> {
        loop {
            let made = rule();
            if !self.conversions.fulfil(&self.resource).await? {
                return made;
            }
        }
    }
}

/// Conversions that rules asked for in the course of one request, and those that they will get when they ask again.
#[derive(Default)]
pub struct Conversions(Mutex<Asked>);

#[derive(Default)]
struct Asked {
    wanted: Vec<(Value, Served)>,
    /// Document, version, and the document in it.
    made: Vec<(Value, Served, Value)>,
}

impl Conversions {
    fn lock(&self) -> std::sync::MutexGuard<'_, Asked> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The document in a version; where that is not known yet it is fetched later and the document comes back as it is.
    pub fn ask(&self, doc: &Value, to: &Served) -> Value {
        if doc.get("apiVersion").and_then(Value::as_str) == Some(&api_version(to)) {
            return doc.clone();
        }
        let mut asked = self.lock();
        if let Some((.., made)) = asked.made.iter().find(|(d, s, _)| s == to && d == doc) {
            return made.clone();
        }
        asked.wanted.push((doc.clone(), *to));
        doc.clone()
    }

    /// Fetches what was asked for; false when nothing was.
    async fn fulfil(&self, resource: &Resource) -> Result<bool, Status> {
        let wanted = std::mem::take(&mut self.lock().wanted);
        for (doc, to) in &wanted {
            let made = resource.turned(Object(doc.clone()), &resource.version_of(doc), to).await?;
            self.lock().made.push((doc.clone(), *to, made.0));
        }
        Ok(!wanted.is_empty())
    }
}

impl Resource {
    /// The version a document names; the storage version where it names none of the kind's.
    pub fn version_of(&self, doc: &Value) -> Served {
        let named = doc.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
        self.info().served.iter().find(|s| api_version(s) == named).copied().unwrap_or_else(|| self.storage())
    }
}
