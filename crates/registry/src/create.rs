//! Create: decode, default, mutate, prepare, validate, store.

use crate::admission::{Ending, Operation};
use crate::call::{Answer, Body};
use crate::exchange::Exchange;
use crate::facts;
use crate::kind::GenerationKept;
use crate::options::WriteOptions;
use crate::write::{Outcome, Refused};
use keles_api::{Object, Path, Problems, Status, meta};
use keles_store::Expect;

/// How often another suffix is tried when a generated name is taken.
const GENERATE_TRIES: usize = 8;
/// Length of the random suffix of a generated name, and of what may stand before it.
const SUFFIX_LEN: usize = 5;
const BASE_MAX_LEN: usize = 63 - SUFFIX_LEN;
/// No vowels and no look-alikes, as upstream.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

pub fn generate_name(base: &str) -> String {
    let mut end = base.len().min(BASE_MAX_LEN);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let suffix = (0..SUFFIX_LEN).map(|_| ALPHABET[rand::random_range(0..ALPHABET.len())] as char);
    base[..end].chars().chain(suffix).collect()
}

impl Exchange<'_> {
    pub async fn create(mut self) -> Result<Answer, Status> {
        let options = WriteOptions::parse(&self.call.query, "CreateOptions")?;
        let (object, warnings) = self.decode(options.field_validation)?;
        self.create_object(object, &options, warnings).await
    }

    /// Creates an object of the client's version: 201. With a generated name that is taken, other names are tried.
    pub async fn create_object(&mut self, mut o: Object, options: &WriteOptions, mut warnings: Vec<String>) -> Result<Answer, Status> {
        self.settle_namespace(&mut o)?;
        self.internalize(&mut o)?;
        self.request.dry_run = options.dry_run;
        self.request.field_manager = options.field_manager.clone();
        let generated = o.name().is_empty() && !o.meta_str("generateName").is_empty();
        let mut tries = if generated { GENERATE_TRIES } else { 1 };
        loop {
            let mut o = if tries > 1 { o.clone() } else { std::mem::replace(&mut o, Object::new("", "")) };
            if generated {
                let name = generate_name(o.meta_str("generateName"));
                o.set_meta("name", name);
            }
            tries -= 1;
            let mut w = warnings.clone();
            match self.create_once(o, &mut w).await {
                Err(s) if s.reason == "AlreadyExists" && generated && tries > 0 => continue,
                Err(s) if s.reason == "AlreadyExists" && generated => return Err(exhausted(s)),
                Err(s) => return Err(s),
                Ok(body) => {
                    warnings = w;
                    return Ok(Answer { code: 201, body, warnings });
                }
            }
        }
    }

    async fn create_once(&mut self, mut o: Object, w: &mut Vec<String>) -> Result<Body, Status> {
        self.request.name = o.name().to_owned();
        let key = self.resource.key(&self.request.namespace, o.name());
        let made = self.create_attempt(&key, &mut o, w).await;
        let ending = match &made {
            Ok(_) if !self.request.dry_run => Ending::Stored,
            Ok(_) => Ending::Nothing,
            Err(s) => Ending::of_failure(s),
        };
        self.ended(Operation::Create, Some(&o), None, ending).await;
        let outcome = made?;
        self.keep_tree(&key, &outcome, o);
        self.outcome(&key, outcome).await
    }

    async fn create_attempt(&mut self, key: &str, o: &mut Object, w: &mut Vec<String>) -> Result<Outcome, Status> {
        self.registry.catch_up().await?;
        self.resource.kind.set_defaults(o)?;
        self.track(o, None).await?;
        self.mutate(Operation::Create, o, None, w).await?;
        self.fill_system_metadata(o);
        let revision_given = !matches!(o.resource_version(), "" | "0") && !self.applied;
        let (mut found, mut rules) = (Problems::new(), Problems::new());
        self.resource.kind.create(o, &self.request, &mut rules, w)?;
        if rules.is_empty() || !self.resource.kind.metadata_checks(&self.request).last {
            meta::validate_create_with(o, self.resource.namespaced(), self.name_check(), facts::finalizers(&*self.resource.kind), &Path::new("metadata"), &mut found);
        }
        rules.into_vec().into_iter().for_each(|p| found.push(p));
        if !found.is_empty() {
            return Err(Status::invalid(self.resource.group(), self.resource.info().kind, o.name(), &found));
        }
        w.iter().for_each(|w| self.heard.warn(w.as_str()));
        self.admit(Operation::Create, Some(o), None, w).await?;
        if revision_given && !self.request.dry_run {
            return Err(Status::failure(500, "", "resourceVersion should not be set on objects to be created"));
        }
        let stored = self.encode(o).await?;
        match self.store_new(key, stored, o.name()).await {
            Err(s) if crate::write::shrinks(&s, o) => {
                let stored = self.encode(o).await?;
                self.store_new(key, stored, o.name()).await
            }
            other => other,
        }
    }

    /// What the server decides: uid, time, the first generation; nothing of deletion.
    fn fill_system_metadata(&self, o: &mut Object) {
        o.set_meta("uid", uuid::Uuid::new_v4().to_string());
        o.set_meta("creationTimestamp", self.request.now.as_str());
        for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
            o.set_meta(field, serde_json::Value::Null);
        }
        let info = self.resource.info();
        if info.generation && info.generation_kept != GenerationKept::OnUpdate {
            o.set_meta("generation", 1);
        }
    }

    async fn store_new(&self, key: &str, stored: bytes::Bytes, name: &str) -> Result<Outcome, Status> {
        let exists = || Status::already_exists(self.served.group, self.resource.info().plural, name);
        if self.request.dry_run {
            self.registry.fresh(None).await?;
            return if self.resource.cache.get(key).is_some() || self.resource.cache.unreadable.status(key).is_some() { Err(exists()) } else { Ok(Outcome::Wrote(stored, 0)) };
        }
        match self.store_put(key, stored.clone(), Expect::Absent).await {
            Ok(revision) => Ok(Outcome::Wrote(stored, revision)),
            Err(Refused::Conflict(_)) => Err(exists()),
            Err(Refused::Failed(s)) => Err(s),
        }
    }
}

/// 409 when no free name was found.
fn exhausted(mut s: Status) -> Status {
    s.message += ", the server was not able to generate a unique name for the object";
    s.details.get_or_insert_default().retry_after_seconds = 1;
    s
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_name_keeps_its_base_and_fits_a_label() {
        let n = generate_name("web-");
        assert!(n.starts_with("web-") && n.len() == 9, "{n}");
        assert_eq!(generate_name(&"x".repeat(80)).len(), 63);
    }
}
