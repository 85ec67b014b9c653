//! The one place where the pipelines keep `metadata.managedFields`: who owns which field, after every write (lessons.md 49).
//!
//! Entry point: [`Exchange::track`], called with the client's object and its defaults, before admission, so that what admission and the
//! kind's rules set later is nobody's. An apply settles its owners itself (see [`crate::patch`]). Writes of the pipelines' own (deletion
//! marks, bindings) keep the owners as they are, as upstream.

use crate::exchange::Exchange;
use crate::facts;
use crate::kind::Served;
use crate::resource::{Resource, api_version};
use crate::versions::Conversions;
use keles_api::{Object, Status, TypeRef};
use keles_patch::managed::{self, Versions, Writer};
use serde_json::Value;

/// Longest manager name taken from a user agent, in bytes.
const MANAGER_MAX_BYTES: usize = 128;

/// The manager of a write: `fieldManager`, else what the user agent starts with.
pub fn manager(field_manager: &str, user_agent: &str) -> String {
    if !field_manager.is_empty() {
        return field_manager.to_owned();
    }
    let mut out = String::new();
    for c in user_agent.split('/').next().unwrap_or_default().chars().filter(|c| !c.is_control()) {
        if out.len() + c.len_utf8() > MANAGER_MAX_BYTES {
            break;
        }
        out.push(c);
    }
    out
}

/// A kind's versions as ownership sees them.
pub struct KindVersions<'a>(pub &'a Resource, &'a Conversions);

impl KindVersions<'_> {
    fn served(&self, version: &str) -> Option<Served> {
        self.0.info().served.iter().find(|s| api_version(s) == version).copied()
    }
}

impl Versions for KindVersions<'_> {
    fn ty(&self, api_version: &str) -> Option<TypeRef<'_>> {
        // Of a version that is served no more nobody owns anything.
        let s = self.served(api_version).filter(|s| self.0.kind.serves(s) || *s == self.0.storage())?;
        self.0.kind.schema(&s)
    }
    fn convert(&self, doc: &Value, from: &str, to: &str) -> Value {
        let (Some(from), Some(to)) = (self.served(from), self.served(to)) else { return doc.clone() };
        if self.0.kind.converts_outside() {
            return self.1.ask(doc, &to);
        }
        let mut o = Object(doc.clone());
        self.0.convert(&mut o, &from, &to);
        if from == to { o.0 } else { self.0.kind.conform(&to, o).0 }
    }
}

impl Exchange<'_> {
    /// Who writes, for managedFields. `f` gets the writer and the kind's versions.
    pub fn as_writer<T>(&self, f: impl FnOnce(&Writer, &KindVersions) -> T) -> T {
        let manager = manager(&self.request.field_manager, &self.call.user_agent);
        let api_version = api_version(&self.served);
        let subresource = self.request.subresource.as_str();
        let reset = facts::reset(self.resource.info(), subresource);
        f(&Writer { manager: &manager, api_version: &api_version, subresource, reset, now: &self.request.now }, &KindVersions(&self.resource, &self.conversions))
    }

    /// Settles the owners of what a create (`old` absent), update or patch is about to store; both are in the version worked on
    /// and have their defaults.
    pub async fn track(&self, new: &mut Object, old: Option<&Object>) -> Result<(), Status> {
        if self.applied {
            return Ok(());
        }
        let working = self.working;
        let owners = |new: &Object| {
            self.as_writer(|w, versions| {
                if self.served == working {
                    return managed::update(old.map(|o| &o.0), &new.0, w, versions);
                }
                let here = |o: &Object| versions.convert(&o.0, &api_version(&working), w.api_version);
                managed::update(old.map(here).as_ref(), &here(new), w, versions)
            })
        };
        let managed = match self.with_conversions(|| Ok(owners(new))).await {
            Ok(managed) => managed,
            // Upstream loses track rather than the write.
            Err(error) => {
                tracing::warn!(%error, "owners of fields in another version are not known; they stay as they were");
                old.map_or(Value::Null, |o| o.meta("managedFields").clone())
            }
        };
        new.set_meta("managedFields", managed);
        Ok(())
    }
}

/// A write that would only move times of managedFields is none: takes the old times over. Both are canonical.
pub fn keep_times(new: &mut Object, old: &Object) {
    let (a, b) = (new.meta("managedFields"), old.meta("managedFields"));
    if a == b || !managed::same_but_times(a, b) {
        return;
    }
    let moved = new.meta("managedFields").clone();
    new.set_meta("managedFields", old.meta("managedFields").clone());
    if new != old {
        new.set_meta("managedFields", moved);
    }
}

#[cfg(test)]
mod tests {
    use super::manager;

    #[test]
    fn the_manager_is_named_or_the_start_of_the_user_agent() {
        assert_eq!(manager("me", "kubectl/v1.33"), "me");
        assert_eq!(manager("", "kubectl/v1.33 (linux/amd64)"), "kubectl");
        assert_eq!(manager("", &"é".repeat(100)).len(), 128);
    }
}
