//! Query options of the verbs, parsed with upstream's errors.

use crate::call::Query;
use keles_api::decode::FieldValidation;
use keles_api::problems::ProblemKind;
use keles_api::{Object, Path, Problem, Problems, Status};

/// `resourceVersionMatch`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionMatch {
    Unset,
    Exact,
    NotOlderThan,
}

/// Options of list, watch, deletecollection and get.
#[derive(Clone, Debug)]
pub struct ListOptions {
    pub label_selector: String,
    pub field_selector: String,
    /// `None` is "" (the most recent), `Some(0)` is any.
    pub revision: Option<u64>,
    pub version_match: VersionMatch,
    /// 0 is no limit.
    pub limit: usize,
    pub continue_token: String,
    pub timeout_seconds: Option<u64>,
    pub bookmarks: bool,
    pub send_initial_events: Option<bool>,
}

const EXACT: &str = "Exact";
const NOT_OLDER_THAN: &str = "NotOlderThan";

/// An integer option; the error is Go's.
fn integer(q: &Query, name: &str) -> Result<Option<i64>, Status> {
    match q.get(name) {
        None | Some("") => Ok(None),
        Some(v) => v.parse().map(Some).map_err(|e: std::num::ParseIntError| {
            use std::num::IntErrorKind::{NegOverflow, PosOverflow};
            let why = if matches!(e.kind(), PosOverflow | NegOverflow) { "value out of range" } else { "invalid syntax" };
            Status::bad_request(format!("strconv.ParseInt: parsing {}: {why}", keles_api::problems::go_quote(v)))
        }),
    }
}

/// A resourceVersion of a query; the error is Go's.
pub fn revision(text: &str) -> Result<Option<u64>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    let why = if text.bytes().all(|b| b.is_ascii_digit()) { "value out of range" } else { "invalid syntax" };
    text.parse().map(Some).map_err(|_| {
        Status::bad_request(format!("invalid resource version: resourceVersion: Invalid value: {0}: strconv.ParseUint: parsing {0}: {why}", keles_api::problems::go_quote(text)))
    })
}

impl ListOptions {
    pub fn parse(q: &Query, watch: bool) -> Result<Self, Status> {
        let limit = integer(q, "limit")?.unwrap_or(0);
        let timeout_seconds = integer(q, "timeoutSeconds")?.and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0);
        let options = ListOptions {
            label_selector: q.text("labelSelector").into(),
            field_selector: q.text("fieldSelector").into(),
            revision: None,
            version_match: match q.text("resourceVersionMatch") {
                EXACT => VersionMatch::Exact,
                NOT_OLDER_THAN => VersionMatch::NotOlderThan,
                _ => VersionMatch::Unset,
            },
            limit: usize::try_from(limit).unwrap_or(0),
            continue_token: q.text("continue").into(),
            timeout_seconds,
            bookmarks: q.flag("allowWatchBookmarks"),
            send_initial_events: q.opt_flag("sendInitialEvents"),
        };
        let mut p = Problems::new();
        options.check(q, watch, &mut p);
        if !p.is_empty() {
            return Err(invalid_options("ListOptions", &p));
        }
        Ok(ListOptions { revision: revision(q.text("resourceVersion"))?, ..options })
    }

    /// The rules of `ValidateListOptions`, for lists and for watches.
    fn check(&self, q: &Query, watch: bool, p: &mut Problems) {
        let at = Path::new("resourceVersionMatch");
        let asked = q.text("resourceVersionMatch");
        if watch {
            if self.send_initial_events.is_some() && asked != NOT_OLDER_THAN {
                p.forbidden(&at, format!("sendInitialEvents requires setting resourceVersionMatch to {NOT_OLDER_THAN}"));
            }
            if !asked.is_empty() {
                if self.send_initial_events.is_none() {
                    p.forbidden(&at, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
                }
                if asked != NOT_OLDER_THAN {
                    p.not_supported(&at, asked, &[NOT_OLDER_THAN]);
                }
                if !self.continue_token.is_empty() {
                    p.forbidden(&at, "resourceVersionMatch is forbidden when continue is provided");
                }
            }
            return;
        }
        if !asked.is_empty() {
            if q.text("resourceVersion").is_empty() {
                p.forbidden(&at, "resourceVersionMatch is forbidden unless resourceVersion is provided");
            }
            if !self.continue_token.is_empty() {
                p.forbidden(&at, "resourceVersionMatch is forbidden when continue is provided");
            }
            if self.version_match == VersionMatch::Unset {
                p.not_supported(&at, asked, &[EXACT, NOT_OLDER_THAN, ""]);
            }
            if self.version_match == VersionMatch::Exact && q.text("resourceVersion") == "0" {
                p.forbidden(&at, "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
            }
        }
        if self.send_initial_events.is_some() {
            p.forbidden(&Path::new("sendInitialEvents"), "sendInitialEvents is forbidden for list");
        }
    }
}

fn invalid_options(kind: &str, p: &Problems) -> Status {
    Status::invalid("meta.k8s.io", kind, "", p)
}

/// Options of create, update and patch.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    pub dry_run: bool,
    pub field_validation: FieldValidation,
    pub field_manager: String,
    /// Of an apply: fields of other managers are taken.
    pub force: bool,
}

/// Longest fieldManager, in bytes.
const MANAGER_MAX_BYTES: usize = 128;

impl WriteOptions {
    /// `kind`: `CreateOptions`, `UpdateOptions`.
    pub fn parse(q: &Query, kind: &str) -> Result<Self, Status> {
        Self::check(q, kind, Problems::new())
    }

    /// PatchOptions; an apply needs a manager, and alone may be forced.
    pub fn parse_patch(q: &Query, apply: bool) -> Result<Self, Status> {
        let mut p = Problems::new();
        if apply && q.text("fieldManager").is_empty() {
            p.required(&Path::new("fieldManager"), "is required for apply patch");
        }
        if !apply && q.opt_flag("force").is_some() {
            p.forbidden(&Path::new("force"), "may not be specified for non-apply patch");
        }
        Self::check(q, "PatchOptions", p)
    }

    fn check(q: &Query, kind: &str, mut p: Problems) -> Result<Self, Status> {
        let manager = q.text("fieldManager");
        if manager.len() > MANAGER_MAX_BYTES {
            p.too_long(&Path::new("fieldManager"), MANAGER_MAX_BYTES);
        }
        for (i, c) in manager.char_indices().filter(|(_, c)| c.is_control()) {
            p.invalid(&Path::new("fieldManager"), manager, format!("invalid character U+{:04X} (at position {i})", c as u32));
        }
        let dry_run = dry_run(q.all("dryRun"), &mut p);
        let asked = q.text("fieldValidation");
        let field_validation = match asked {
            "Strict" => FieldValidation::Strict,
            "Ignore" => FieldValidation::Ignore,
            _ => FieldValidation::Warn,
        };
        if !matches!(asked, "" | "Strict" | "Ignore" | "Warn") {
            p.not_supported(&Path::new("fieldValidation"), asked, &["", "Ignore", "Strict", "Warn"]);
        }
        if !p.is_empty() {
            return Err(invalid_options(kind, &p));
        }
        Ok(WriteOptions { dry_run, field_validation, field_manager: manager.into(), force: q.flag("force") })
    }
}

fn dry_run<'a>(values: impl Iterator<Item = &'a str>, p: &mut Problems) -> bool {
    let values: Vec<&str> = values.filter(|v| !v.is_empty()).collect();
    if values.iter().any(|v| *v != "All") {
        let found = serde_json::Value::from(values.clone());
        p.push(Problem { kind: ProblemKind::NotSupported, field: "dryRun".into(), value: Some(found), detail: "supported values: \"All\"".into() });
    }
    !values.is_empty()
}

/// `propagationPolicy` and its forerunner `orphanDependents`, as asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Unset,
    Background,
    Foreground,
    Orphan,
}

/// DeleteOptions, from the body or else the query.
#[derive(Clone, Debug)]
pub struct DeleteOptions {
    pub dry_run: bool,
    pub grace_seconds: Option<i64>,
    pub propagation: Propagation,
    pub orphan_dependents: Option<bool>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
}

impl DeleteOptions {
    /// `body` is the decoded DeleteOptions, absent when the request had no body.
    pub fn parse(body: Option<&Object>, q: &Query) -> Result<Self, Status> {
        let mut p = Problems::new();
        let from_query = Object(serde_json::json!({
            "gracePeriodSeconds": integer(q, "gracePeriodSeconds")?,
            "propagationPolicy": q.get("propagationPolicy"),
            "orphanDependents": q.opt_flag("orphanDependents"),
            "dryRun": q.all("dryRun").collect::<Vec<_>>(),
        }));
        let o = body.unwrap_or(&from_query);
        let dry: Vec<&str> = o.at(&["dryRun"]).as_array().map(|a| a.iter().filter_map(|v| v.as_str()).collect()).unwrap_or_default();
        let orphan_dependents = o.at(&["orphanDependents"]).as_bool();
        let policy = o.at(&["propagationPolicy"]).as_str();
        let at = Path::new("propagationPolicy");
        if let Some(policy) = policy {
            if orphan_dependents.is_some() {
                p.invalid(&at, policy, "orphanDependents and deletionPropagation cannot be both set");
            }
            if !matches!(policy, "Foreground" | "Background" | "Orphan") {
                p.not_supported(&at, policy, &["Foreground", "Background", "Orphan", "nil"]);
            }
        }
        let dry_run = dry_run(dry.into_iter(), &mut p);
        if !p.is_empty() {
            return Err(invalid_options("DeleteOptions", &p));
        }
        Ok(DeleteOptions {
            dry_run,
            grace_seconds: o.at(&["gracePeriodSeconds"]).as_i64(),
            propagation: match policy {
                Some("Foreground") => Propagation::Foreground,
                Some("Background") => Propagation::Background,
                Some("Orphan") => Propagation::Orphan,
                _ => Propagation::Unset,
            },
            orphan_dependents,
            uid: o.at(&["preconditions", "uid"]).as_str().map(Into::into),
            resource_version: o.at(&["preconditions", "resourceVersion"]).as_str().map(Into::into),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(q: &str) -> Result<ListOptions, String> {
        ListOptions::parse(&Query::parse(q), false).map_err(|s| s.message)
    }

    #[test]
    fn a_version_match_needs_a_version() {
        assert_eq!(
            list("resourceVersionMatch=NotOlderThan").unwrap_err(),
            "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided"
        );
    }

    #[test]
    fn a_non_numeric_resource_version_is_a_bad_request() {
        assert_eq!(
            list("resourceVersion=abc").unwrap_err(),
            "invalid resource version: resourceVersion: Invalid value: \"abc\": strconv.ParseUint: parsing \"abc\": invalid syntax"
        );
    }

    #[test]
    fn a_negative_limit_is_no_limit() {
        assert_eq!(list("limit=-1").unwrap().limit, 0);
    }

    #[test]
    fn query_booleans_are_true_unless_absent_zero_or_false() {
        let q = Query::parse("a&b=&c=t&d=0&e=false&f=1");
        assert!(q.flag("a") && q.flag("b") && q.flag("c") && q.flag("f"));
        assert!(!q.flag("d") && !q.flag("e") && !q.flag("g"));
    }

    #[test]
    fn orphan_dependents_and_a_policy_exclude_each_other() {
        let e = DeleteOptions::parse(None, &Query::parse("orphanDependents=true&propagationPolicy=Foreground")).unwrap_err();
        assert!(e.message.ends_with("orphanDependents and deletionPropagation cannot be both set"), "{}", e.message);
    }
}
