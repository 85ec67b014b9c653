//! The rules of a CustomResourceDefinition's spec and stored versions.
//!
//! Upstream checks an internal form in which what all versions share (schema, subresources, columns, selectable fields) stands once
//! beside them; problems name the fields of that form. [`Shared`] is that step.

use crate::admissionregistration::rules as webhooks;
use crate::apiextensions::structural::schema_in;
use crate::apiextensions::{internal, schema, selectable};
use crate::field::{Field, IMMUTABLE, NULL, required_one_of, same};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use keles_api::{Object, Path, Problems, names};
use serde_json::Value;
use std::collections::BTreeSet;

const COLUMN_TYPES: &str = "boolean,date,integer,number,string";
const COLUMN_FORMATS: &str = "byte,date,date-time,double,float,int32,int64,password";
const SELECTABLE_MAX_COUNT: usize = 8;
const WARNING_MAX_BYTES: usize = 256;
const REVIEW_VERSIONS: &[&str] = &["v1", "v1beta1"];
const APPROVED: &str = "api-approved.kubernetes.io";
const APPROVAL_PAGE: &str = "https://github.com/kubernetes/enhancements/pull/1111";

/// A part of all versions: at one place when they are the same, else at each version's own.
enum Shared<'a> {
    Once(Field<'a>),
    Each(Vec<Field<'a>>),
}

impl<'a> Shared<'a> {
    fn of(spec: &Field<'a>, versions: &[Field<'a>], name: &str, moved_to: &str) -> Self {
        let all: Vec<Field> = versions.iter().map(|v| v.get(name)).collect();
        let first = all.first().map_or(&NULL, Field::value);
        match all.iter().all(|f| same(f.value(), first)) {
            true => Shared::Once(Field::new(first, spec.at(moved_to))),
            false => Shared::Each(all),
        }
    }
    fn once(&self) -> Option<&Field<'a>> {
        match self {
            Shared::Once(f) => Some(f),
            Shared::Each(_) => None,
        }
    }
    /// The part of version `i` when versions differ.
    fn own(&self, i: usize) -> Option<&Field<'a>> {
        match self {
            Shared::Once(_) => None,
            Shared::Each(all) => all.get(i),
        }
    }
    fn of_version(&self, i: usize) -> Option<&Field<'a>> {
        self.once().or(self.own(i))
    }
}

struct Spec<'a> {
    spec: Field<'a>,
    versions: Vec<Field<'a>>,
    schemas: Shared<'a>,
    subresources: Shared<'a>,
    columns: Shared<'a>,
    selectable: Shared<'a>,
}

impl<'a> Spec<'a> {
    fn new(spec: Field<'a>) -> Self {
        let versions = spec.items("versions");
        let shared = |name, moved_to| Shared::of(&spec, &versions, name, moved_to);
        let (schemas, subresources) = (shared("schema", "validation"), shared("subresources", "subresources"));
        let (columns, selectable) = (shared("additionalPrinterColumns", "additionalPrinterColumns"), shared("selectableFields", "selectableFields"));
        Spec { versions, schemas, subresources, columns, selectable, spec }
    }

    /// The versions as upstream prints them.
    fn shown(&self) -> String {
        let all = [("schema", &self.schemas), ("subresources", &self.subresources), ("additionalPrinterColumns", &self.columns), ("selectableFields", &self.selectable)];
        let moved: Vec<&str> = all.iter().filter(|(_, s)| s.once().is_some()).map(|(name, _)| *name).collect();
        internal::versions(&self.spec.get("versions"), &moved)
    }

    fn has_status(&self, i: usize) -> bool {
        self.subresources.of_version(i).is_some_and(|s| s.has("status"))
    }
}

/// Everything of `spec`. `bundle_checked`: a certificate bundle that cannot be read is refused.
pub fn spec(o: &Object, bundle_checked: bool, p: &mut Problems) {
    let s = Spec::new(Field::root(o).get("spec"));
    group(&s.spec, p);
    required_one_of(p, &s.spec.at("scope"), s.spec.str("scope"), &["Cluster", "Namespaced"]);
    schemas_there(&s, p);
    versions(&s, p);
    all_names(&s.spec, p);
    if let Some(validation) = s.schemas.once() {
        let any_status = (0..s.versions.len()).any(|i| s.has_status(i));
        schema::check(validation, any_status, p);
    }
    if let Some(all) = s.subresources.once() {
        subresources(all, p);
    }
    if let Some(all) = s.columns.once() {
        columns(all, p);
    }
    if let Some(all) = s.selectable.once() {
        selectable_fields(all, s.schemas.once(), "may only be set when validations.schema is included", p);
    }
    conversion(&s.spec, bundle_checked, p);
}

fn joined(p: &mut Problems, at: &Path, value: &str, before: &str, found: Vec<String>) {
    if !found.is_empty() {
        p.invalid(at, value, format!("{before}{}", found.join(",")));
    }
}

fn group(spec: &Field, p: &mut Problems) {
    let (group, at) = (spec.str("group"), spec.at("group"));
    let bad = names::dns_subdomain(group, false);
    match group {
        "" => p.required(&at, ""),
        _ if bad.is_empty() && !group.contains('.') => p.invalid(&at, group, "should be a domain with at least one dot"),
        _ => joined(p, &at, group, "", bad),
    }
}

fn schemas_there(s: &Spec, p: &mut Problems) {
    for (i, v) in s.versions.iter().enumerate() {
        if s.schemas.of_version(i).is_none_or(|f| schema_in(f, "openAPIV3Schema").is_none()) {
            p.required(&v.get("schema").at("openAPIV3Schema"), "");
        }
    }
}

fn versions(s: &Spec, p: &mut Problems) {
    let mut seen = BTreeSet::new();
    let mut unique = true;
    for (i, v) in s.versions.iter().enumerate() {
        unique &= seen.insert(v.str("name"));
        joined(p, &v.at("name"), v.str("name"), "", names::dns1035_label(v.str("name"), false));
        deprecation(v, p);
        if let Some(own) = s.schemas.own(i) {
            schema::check(own, s.has_status(i), p);
        }
        if let Some(own) = s.subresources.own(i) {
            subresources(own, p);
        }
        if let Some(own) = s.columns.own(i) {
            columns(own, p);
        }
        if let Some(own) = s.selectable.own(i) {
            selectable_fields(own, s.schemas.own(i), "selectableFields may only be set when version.schema.openAPIV3Schema is not included", p);
        }
    }
    let at = s.spec.at("versions");
    if !unique {
        p.push(internal::invalid(&at, &s.shown(), "must contain unique version names"));
    }
    if s.versions.iter().filter(|v| v.bool("storage")).count() != 1 {
        p.push(internal::invalid(&at, &s.shown(), "must have exactly one version marked as storage version"));
    }
    // Upstream's internal form holds the first version's name once more.
    let first = s.versions.first().map_or("", |v| v.str("name"));
    if !first.is_empty() {
        joined(p, &s.spec.at("version"), first, "", names::dns1035_label(first, false));
    }
}

fn deprecation(v: &Field, p: &mut Problems) {
    let Some(warning) = v.opt_str("deprecationWarning") else { return };
    let at = v.at("deprecationWarning");
    if !v.bool("deprecated") {
        p.invalid(&at, warning, "can only be set for deprecated versions");
        return;
    }
    if warning.len() > WARNING_MAX_BYTES {
        p.invalid(&at, warning, format!("must be <= {WARNING_MAX_BYTES} characters long"));
    }
    if warning.is_empty() {
        p.invalid(&at, warning, "must not be an empty string");
    }
    let unprintable = |c: char| c.is_control() || (c.is_whitespace() && c != ' ') || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{2064}' | '\u{feff}');
    if let Some((i, _)) = warning.char_indices().find(|(_, c)| unprintable(*c)) {
        p.invalid(&at, warning, format!("must only contain printable UTF-8 characters; non-printable character found at index {i}"));
    }
}

fn all_names(spec: &Field, p: &mut Problems) {
    let all = spec.get("names");
    for name in ["plural", "singular", "kind", "listKind"].iter().filter(|n| all.str(n).is_empty()) {
        p.required(&all.at(name), "");
    }
    given_names(&all, p);
}

/// `spec.names`, and `status.acceptedNames`, which may lack some.
pub fn given_names(all: &Field, p: &mut Problems) {
    for name in ["plural", "singular"] {
        let text = all.str(name);
        if !text.is_empty() {
            joined(p, &all.at(name), text, "", names::dns1035_label(text, false));
        }
    }
    for name in ["kind", "listKind"] {
        let text = all.str(name);
        if !text.is_empty() {
            joined(p, &all.at(name), text, "may have mixed case, but should otherwise match: ", names::dns1035_label(&text.to_lowercase(), false));
        }
    }
    let labels = |list: &str, p: &mut Problems| all.items(list).iter().for_each(|one| joined(p, one.path(), one.text(), "", names::dns1035_label(one.text(), false)));
    labels("shortNames", p);
    if !all.str("kind").is_empty() && all.str("kind") == all.str("listKind") {
        p.invalid(&all.at("listKind"), all.str("listKind"), "kind and listKind may not be the same");
    }
    labels("categories", p);
}

fn subresources(s: &Field, p: &mut Problems) {
    let scale = s.get("scale");
    if !scale.is_set() {
        return;
    }
    for (name, below, detail) in [("specReplicasPath", ".spec.", "should be a json path under .spec"), ("statusReplicasPath", ".status.", "should be a json path under .status")] {
        let path = scale.str(name);
        match path {
            "" => p.required(&scale.at(name), ""),
            _ if !simple_path(&scale.at(name), path, p) => {}
            _ if !path.starts_with(below) => p.invalid(&scale.at(name), path, detail),
            _ => {}
        }
    }
    let path = scale.str("labelSelectorPath");
    let at = scale.at("labelSelectorPath");
    if !path.is_empty() && simple_path(&at, path, p) && !path.starts_with(".spec.") && !path.starts_with(".status.") {
        p.invalid(&at, path, "should be a json path under either .spec or .status");
    }
}

fn simple_path(at: &Path, path: &str, p: &mut Problems) -> bool {
    let good = path.starts_with('.');
    if !good {
        p.invalid(at, path, "must be a simple json path starting with .");
    }
    good
}

fn columns(all: &Field, p: &mut Problems) {
    for (i, c) in all.value().as_array().into_iter().flatten().enumerate() {
        let c = Field::new(c, all.path().index(i));
        if c.str("name").is_empty() {
            p.required(&c.at("name"), "");
        }
        match c.str("type") {
            "" => p.required(&c.at("type"), format!("must be one of {COLUMN_TYPES}")),
            kind if !COLUMN_TYPES.split(',').any(|t| t == kind) => p.invalid(&c.at("type"), kind, format!("must be one of {COLUMN_TYPES}")),
            _ => {}
        }
        let format = c.str("format");
        if !format.is_empty() && !COLUMN_FORMATS.split(',').any(|f| f == format) {
            p.invalid(&c.at("format"), format, format!("must be one of {COLUMN_FORMATS}"));
        }
        match c.str("jsonPath") {
            "" => p.required(&c.at("JSONPath"), ""),
            path => {
                simple_path(&c.at("JSONPath"), path, p);
            }
        }
    }
}

fn selectable_fields(all: &Field, validation: Option<&Field>, missing: &str, p: &mut Problems) {
    let list = all.value().as_array().map(Vec::as_slice).unwrap_or(&[]);
    if list.is_empty() {
        return;
    }
    // Upstream ends in a crash where a version has a validation without a schema; this says the same as without a validation.
    let Some(schema) = validation.and_then(|v| schema_in(v, "openAPIV3Schema")) else {
        p.invalid(all.path(), "", missing);
        return;
    };
    let mut seen = BTreeSet::new();
    for (i, one) in list.iter().enumerate() {
        let one = Field::new(one, all.path().index(i));
        let (path, at) = (one.str("jsonPath"), one.at("jsonPath"));
        if path.is_empty() {
            p.required(&at, "");
            continue;
        }
        let found = match selectable::find(path, schema.value(), false) {
            Ok(found) => found,
            Err(why) => {
                p.invalid(&at, path, format!("is an invalid path: {why}"));
                continue;
            }
        };
        if found.path.first().is_some_and(|f| f == "metadata") {
            p.invalid(&at, path, "must not point to fields in metadata");
        }
        if !matches!(found.schema["type"].as_str(), Some("string" | "boolean" | "integer")) {
            p.invalid(&at, path, "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.");
        }
        if !seen.insert(found.path) {
            p.duplicate(&at, path);
        }
    }
    if seen.len() > SELECTABLE_MAX_COUNT {
        p.too_many(all.path(), seen.len(), SELECTABLE_MAX_COUNT);
    }
}

fn conversion(spec: &Field, bundle_checked: bool, p: &mut Problems) {
    let c = spec.get("conversion");
    if !c.is_set() {
        return;
    }
    if spec.bool("preserveUnknownFields") && c.str("strategy") != "None" {
        p.invalid(&c.at("strategy"), c.str("strategy"), "must be None if spec.preserveUnknownFields is true");
    }
    required_one_of(p, &c.at("strategy"), c.str("strategy"), &["None", "Webhook"]);
    let client = Field::new(c.get("webhook").get("clientConfig").value(), c.at("webhookClientConfig"));
    let reviews = Field::new(c.get("webhook").get("conversionReviewVersions").value(), c.at("conversionReviewVersions"));
    if c.str("strategy") != "Webhook" {
        if client.is_set() {
            p.forbidden(client.path(), "should not be set when strategy is not set to Webhook");
        }
        if reviews.value().as_array().is_some_and(|l| !l.is_empty()) {
            p.forbidden(reviews.path(), "should not be set when strategy is not set to Webhook");
        }
        return;
    }
    if client.is_set() {
        webhooks::client(&client, p);
        if bundle_checked && !bundle_readable(&client) {
            p.invalid(&client.at("caBundle"), client.get("caBundle").value().clone(), "unable to load root certificates: unable to parse bytes as PEM block");
        }
    } else {
        p.required(client.path(), "required when strategy is set to Webhook");
    }
    review_versions(&reviews, p);
}

/// Whether the bundle that a webhook is trusted by is absent or holds certificates.
pub fn bundle_readable(client: &Field) -> bool {
    let text = client.str("caBundle");
    let holds = |bytes: Vec<u8>| bytes.windows(PEM_HEAD.len()).any(|w| w == PEM_HEAD);
    text.is_empty() || BASE64.decode(text).is_ok_and(holds)
}

const PEM_HEAD: &[u8] = b"-----BEGIN CERTIFICATE-----";

fn review_versions(all: &Field, p: &mut Problems) {
    let list = all.value().as_array().map(Vec::as_slice).unwrap_or(&[]);
    if list.is_empty() {
        p.required(all.path(), "");
        return;
    }
    let mut seen = BTreeSet::new();
    for (i, version) in list.iter().map(|v| v.as_str().unwrap_or("")).enumerate() {
        let at = all.path().index(i);
        if !seen.insert(version) {
            p.invalid(&at, version, "duplicate version");
            continue;
        }
        crate::field::invalid_each(p, &at, version, names::dns1035_label(version, false));
    }
    if !REVIEW_VERSIONS.iter().any(|v| seen.contains(v)) {
        p.invalid(all.path(), all.value().clone(), "must include at least one of v1, v1beta1");
    }
}

/// `spec` and `status` of a changed definition against the old one.
pub fn change(new: &Object, old: &Object, established: bool, p: &mut Problems) {
    let (now, before) = (Field::root(new).get("spec"), Field::root(old).get("spec"));
    let kept = |p: &mut Problems, now: &Field, before: &Field, name: &str| {
        if now.str(name) != before.str(name) {
            p.invalid(&now.at(name), now.str(name), IMMUTABLE);
        }
    };
    if established {
        kept(p, &now, &before, "scope");
        kept(p, &now.get("names"), &before.get("names"), "kind");
    }
    kept(p, &now, &before, "group");
    kept(p, &now.get("names"), &before.get("names"), "plural");
}

/// Versions that objects may be stored in must be there until a migration removed them.
pub fn stored_versions(o: &Object, p: &mut Problems) {
    let root = Field::root(o);
    let status = root.get("status");
    let (stored, versions) = (status.strings("storedVersions"), root.get("spec").items("versions"));
    let (at, shown) = (status.at("storedVersions"), status.get("storedVersions").value());
    if stored.is_empty() {
        p.invalid(&at, shown.clone(), "must have at least one stored version");
        return;
    }
    let mut seen = BTreeSet::new();
    // A name that stands there twice counts once, as upstream has it.
    for v in versions.iter().filter(|v| !(seen.insert(v.str("name")) && stored.contains(&v.str("name"))) && v.bool("storage")) {
        p.invalid(&at, shown.clone(), format!("must have the storage version {}", v.str("name")));
    }
    for (i, name) in stored.iter().enumerate().filter(|(_, name)| !versions.iter().any(|v| v.str("name") == **name)) {
        let detail = format!(
            "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
        );
        p.invalid(&at.index(i), *name, detail);
    }
}

#[derive(PartialEq, Eq)]
enum Approval {
    Missing,
    Invalid,
    Bypassed,
    Approved,
}

fn approval(o: &Object) -> Approval {
    let text = o.at(&["metadata", "annotations", APPROVED]).as_str().unwrap_or("");
    let host = text.split_once("://").map(|(scheme, rest)| (scheme, rest.split(['/', '?', '#']).next().unwrap_or("")));
    match (text, host) {
        ("", _) => Approval::Missing,
        _ if text.starts_with("unapproved") => Approval::Bypassed,
        (_, Some((scheme, host))) if !scheme.is_empty() && !host.is_empty() => Approval::Approved,
        _ => Approval::Invalid,
    }
}

/// Groups of the Kubernetes community need the community's word (KEP-1111).
pub fn approved(new: &Object, old: Option<&Object>, p: &mut Problems) {
    let group = new.str_at(&["spec", "group"]);
    let protected = ["k8s.io", "kubernetes.io"].iter().any(|g| group == *g || group.ends_with(&format!(".{g}")));
    let state = approval(new);
    if !protected || old.is_some_and(|o| approval(o) == state) {
        return;
    }
    let at = Path::new("metadata").child("annotations").key(APPROVED);
    match state {
        Approval::Missing => p.required(&at, format!("protected groups must have approval annotation \"{APPROVED}\", see {APPROVAL_PAGE}")),
        Approval::Invalid => {
            let detail = format!("protected groups must have approval annotation \"{APPROVED}\" with either a URL or a reason starting with \"unapproved\", see {APPROVAL_PAGE}");
            p.invalid(&at, new.at(&["metadata", "annotations", APPROVED]).clone(), detail);
        }
        Approval::Bypassed | Approval::Approved => {}
    }
}

/// Keeping what the schema does not name is a thing of schemas, except where it was set before v1.
pub fn preserve_unknown(new: &Object, old: Option<&Object>, p: &mut Problems) {
    let set = |o: &Object| o.at(&["spec", "preserveUnknownFields"]) == &Value::Bool(true);
    if set(new) && !old.is_some_and(set) {
        let at = Path::new("spec").child("preserveUnknownFields");
        p.invalid(&at, true, "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead");
    }
}
