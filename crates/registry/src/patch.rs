//! PATCH: JSON patch, merge patch, strategic merge patch, on the client's version of the object; the result is an update.

use crate::call::{Answer, Body, PatchType};
use crate::exchange::Exchange;
use crate::options::WriteOptions;
use crate::update::Part;
use keles_api::{Object, Status};
use keles_patch::PatchKind;

/// The kind of patch by its content type; apply is refused clearly until it is built.
pub fn patch_kind(t: Option<PatchType>) -> Result<PatchKind, Status> {
    const KNOWN: [&str; 4] = ["application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml"];
    match t {
        Some(PatchType::Json) => Ok(PatchKind::Json),
        Some(PatchType::Merge) => Ok(PatchKind::Merge),
        Some(PatchType::Strategic) => Ok(PatchKind::Strategic),
        Some(PatchType::Apply) => {
            let mut s = Status::not_implemented("server-side apply (application/apply-patch+yaml)");
            s.code = 415;
            s.reason = "UnsupportedMediaType".into();
            Err(s)
        }
        None => Err(Status::unsupported_media_type("", &KNOWN)),
    }
}

impl Exchange<'_> {
    pub async fn patch(mut self, part: Part) -> Result<Answer, Status> {
        let options = WriteOptions::parse(&self.call.query, "PatchOptions")?;
        let kind = patch_kind(self.call.patch_type)?;
        self.request.dry_run = options.dry_run;
        self.request.field_manager = options.field_manager.clone();
        let mut warnings = Vec::new();
        let outcome = self.modify(part, &mut warnings, &mut |old| self.patched(kind, old, &options)).await?;
        let body = self.outcome(&self.own_key(), outcome)?;
        Ok(Answer { code: 200, body: Body::Bytes(body), warnings })
    }

    /// Old state in, new state out, both in the storage version; the patch meets the client's version (lessons.md 51).
    fn patched(&self, patch: PatchKind, old: &Object, options: &WriteOptions) -> Result<Object, Status> {
        let mut doc = old.clone();
        self.resource.convert(&mut doc, &self.resource.storage(), &self.served);
        doc = self.resource.fitted(doc, &self.served);
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
