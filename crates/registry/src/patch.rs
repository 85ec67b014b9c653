//! PATCH: JSON patch, merge patch, strategic merge patch and server-side apply, on the client's version of the object; the result is an
//! update, or for an apply to a name that is free, a create.

use crate::call::{Answer, PatchType};
use crate::exchange::Exchange;
use crate::options::WriteOptions;
use crate::resource::api_version;
use crate::update::Part;
use keles_api::decode::{self, DecodeError, FieldValidation, Format};
use keles_api::{Object, Status};
use keles_patch::PatchKind;
use keles_patch::managed::{self, ApplyError, Versions};
use serde_json::Value;
use std::borrow::Cow;

/// How often an apply looks again when the object came or went meanwhile.
const APPLY_TRIES: usize = 5;

/// What a PATCH asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Patch(PatchKind),
    Apply,
}

/// By content type alone (lessons.md 48).
pub fn change_of(t: Option<PatchType>) -> Result<Change, Status> {
    const KNOWN: [&str; 4] = ["application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml"];
    match t {
        Some(PatchType::Json) => Ok(Change::Patch(PatchKind::Json)),
        Some(PatchType::Merge) => Ok(Change::Patch(PatchKind::Merge)),
        Some(PatchType::Strategic) => Ok(Change::Patch(PatchKind::Strategic)),
        Some(PatchType::Apply) => Ok(Change::Apply),
        None => Err(Status::unsupported_media_type("", &KNOWN)),
    }
}

/// The document of an apply.
pub struct Applied {
    pub object: Value,
    /// Fields that stand in it twice.
    pub duplicates: Vec<String>,
}

/// Reads the body of an apply: YAML, so also JSON.
pub fn read_apply(body: &[u8]) -> Result<Applied, Status> {
    let bad = |why: &str| Status::bad_request(format!("error decoding YAML: {}", why.trim_start_matches("couldn't get version/kind; json parse error: ")));
    let (mut object, duplicates) = decode::parse_strict(body, Format::Yaml).map_err(|e: DecodeError| bad(&e.to_string()))?;
    if object.is_null() {
        object = Value::Object(Default::default());
    }
    if !object.is_object() {
        let found = if object.is_array() { "array" } else { "string" };
        return Err(bad(&format!("error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {found} into Go value of type map[string]interface {{}}")));
    }
    if let Some(m) = object.get_mut("metadata").and_then(Value::as_object_mut).filter(|m| m.get("managedFields").is_some_and(Value::is_null)) {
        m.remove("managedFields");
    }
    Ok(Applied { object, duplicates })
}

impl Exchange<'_> {
    pub async fn patch(mut self, part: Part) -> Result<Answer, Status> {
        let change = change_of(self.call.patch_type)?;
        let options = WriteOptions::parse_patch(&self.call.query, change == Change::Apply)?;
        let Change::Patch(kind) = change else { return self.apply(part, options).await };
        self.request.dry_run = options.dry_run;
        self.request.field_manager = options.field_manager.clone();
        let mut warnings = Vec::new();
        let outcome = self.modify(part, &mut warnings, &mut |old| self.patched(kind, old, &options)).await?;
        let body = self.outcome(&self.own_key(), outcome).await?;
        Ok(Answer { code: 200, body, warnings })
    }

    /// Server-side apply: 201 when it creates.
    async fn apply(mut self, part: Part, options: WriteOptions) -> Result<Answer, Status> {
        let config = read_apply(&self.call.body)?;
        self.request.dry_run = options.dry_run;
        self.request.field_manager = options.field_manager.clone();
        self.applied = true;
        let mut missed = None;
        for _ in 0..APPLY_TRIES {
            let answered = if part == Part::Main && !self.exists().await? {
                let o = self.apply_to(None, &config, &options)?;
                self.create_applied(o, &options).await
            } else {
                let mut warnings = Vec::new();
                let outcome = self.modify(part, &mut warnings, &mut |live| self.apply_to(Some(live), &config, &options)).await;
                match outcome {
                    Ok(o) => self.outcome(&self.own_key(), o).await.map(|body| Answer { code: 200, body, warnings }),
                    Err(s) => Err(s),
                }
            };
            match answered {
                Err(s) if part == Part::Main && matches!(s.reason.as_str(), "AlreadyExists" | "NotFound") => missed = Some(s),
                other => return other,
            }
        }
        Err(missed.unwrap_or_else(|| Status::internal("the object could not be applied")))
    }

    async fn create_applied(&mut self, mut o: Object, options: &WriteOptions) -> Result<Answer, Status> {
        if !o.uid().is_empty() {
            let why = format!("uid mismatch: the provided object specified uid {}, and no existing object was found", o.uid());
            return Err(Status::conflict(self.served.group, self.resource.info().plural, &self.request.name, why));
        }
        o.set_meta("resourceVersion", serde_json::Value::Null);
        self.request.upsert = true;
        self.create_object(o, options, Vec::new()).await
    }

    /// What an apply makes of the live object (of the version worked on), with its owners; in the version worked on when there is one, else
    /// in the client's.
    fn apply_to(&self, live: Option<&Object>, config: &Applied, options: &WriteOptions) -> Result<Object, Status> {
        let (kind, working) = (&self.resource.kind, self.working);
        let mut o = self.as_writer(|w, versions| {
            let (version, name) = (w.api_version, self.resource.info().kind);
            let wrong = || ApplyError::WrongType(format!("invalid object type: {}", managed::show_kind(&config.object)));
            if config.object.get("apiVersion").and_then(Value::as_str) != Some(version) || config.object.get("kind").and_then(Value::as_str) != Some(name) {
                return Err(wrong().to_status());
            }
            let live = live.map(|l| if self.served == working { Cow::Borrowed(&l.0) } else { Cow::Owned(versions.convert(&l.0, &api_version(&working), version)) });
            let done = managed::apply(live.as_deref(), &config.object, options.force, w, versions).map_err(|e| e.to_status())?;
            let mut object = Object(done.object);
            let owners = object.meta_mut().remove("managedFields").unwrap_or_default();
            // Strict and duplicate findings are of the document, not of what came of it.
            object = kind.checked(&self.served, object.0)?;
            object.set_meta("managedFields", owners);
            Ok(object)
        })?;
        match options.field_validation {
            FieldValidation::Strict if !config.duplicates.is_empty() => {
                return Err(Status::bad_request(format!("error strict decoding YAML: {}", config.duplicates.join(", "))));
            }
            FieldValidation::Warn => config.duplicates.iter().for_each(|d| self.heard.warn(d.as_str())),
            _ => {}
        }
        self.settle_namespace(&mut o)?;
        self.check_name(&o)?;
        if live.is_some() {
            self.internalize(&mut o)?;
        }
        Ok(o)
    }

    /// Old state in, new state out, both in the version worked on; the patch meets the client's version (lessons.md 51).
    fn patched(&self, patch: PatchKind, old: &Object, options: &WriteOptions) -> Result<Object, Status> {
        let mut doc = old.clone();
        if self.working != self.served {
            self.resource.convert(&mut doc, &self.working, &self.served);
            doc = self.resource.fitted(doc, &self.served);
        }
        let d = self.resource.kind.patched(&self.served, patch, &doc, &self.call.body, options.field_validation)?;
        d.warnings.iter().for_each(|w| self.heard.warn(w.as_str()));
        let mut o = d.object;
        let kind = self.resource.info().kind;
        if o.api_version() != doc.api_version() || o.kind() != kind {
            return Err(Status::bad_request(format!(
                "The PATCH request changed apiVersion or kind from {} {kind} to {} {}; they cannot be patched",
                doc.api_version(),
                o.api_version(),
                o.kind()
            )));
        }
        self.settle_namespace(&mut o)?;
        self.internalize(&mut o)?;
        Ok(o)
    }
}
