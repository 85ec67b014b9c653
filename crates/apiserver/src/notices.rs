//! Warnings that hang on the request rather than on the object: deprecated APIs, deletes with a surprising default.

use crate::path::RequestInfo;
use keles_api::decode::Format;
use keles_registry::Query;

/// (group, version, plural, text) of APIs that are deprecated.
const DEPRECATED: &[(&str, &str, &str, &str)] = &[
    ("", "v1", "endpoints", "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
    ("", "v1", "componentstatuses", "v1 ComponentStatus is deprecated in v1.19+"),
];

const JOB_DELETE: &str =
    "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning";

/// The warning of a deprecated API.
pub fn deprecation(info: &RequestInfo) -> Option<&'static str> {
    DEPRECATED.iter().find(|(g, v, p, _)| info.is_resource && info.subresource.is_empty() && info.group == *g && info.version == *v && info.resource == *p).map(|row| row.3)
}

/// The warning of a delete that does not say what becomes of a Job's pods.
pub fn orphaning_delete(info: &RequestInfo, query: &Query, options: &[u8], format: Format) -> Option<&'static str> {
    if info.group != "batch" || info.resource != "jobs" || !info.subresource.is_empty() || !matches!(info.verb, "delete" | "deletecollection") {
        return None;
    }
    let options = keles_api::decode::parse(options, format).unwrap_or_default();
    let said = ["propagationPolicy", "orphanDependents"].iter().any(|f| query.get(f).is_some() || !options[*f].is_null());
    (!said).then_some(JOB_DELETE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;

    #[test]
    fn deletes_of_jobs_warn_until_they_say_what_becomes_of_the_pods() {
        let info = RequestInfo::parse(&Method::DELETE, "/apis/batch/v1/namespaces/a/jobs/j", &Query::default());
        assert!(orphaning_delete(&info, &Query::default(), b"", Format::Json).is_some());
        assert!(orphaning_delete(&info, &Query::default(), br#"{"propagationPolicy":"Background"}"#, Format::Json).is_none());
        assert!(orphaning_delete(&info, &Query::parse("propagationPolicy=Orphan"), b"", Format::Json).is_none());
        let endpoints = RequestInfo::parse(&Method::GET, "/api/v1/endpoints", &Query::default());
        assert!(deprecation(&endpoints).is_some_and(|w| w.starts_with("v1 Endpoints is deprecated")));
    }
}
