//! What a request is about, read from method, path and query: [`RequestInfo`]. No table of routes.
//!
//! Source of the rules: k8s.io/apiserver/pkg/endpoints/request/requestinfo.go. Segments are percent-decoded one by one.

use http::Method;
use keles_registry::Query;

/// A parsed request line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// The kubernetes verb: `get`, `list`, `watch`, …; the lower-case method for paths that are no resource.
    pub verb: &'static str,
    pub is_resource: bool,
    pub group: String,
    pub version: String,
    /// As upstream counts it: a namespace is in itself.
    pub namespace: String,
    pub resource: String,
    pub subresource: String,
    pub name: String,
    /// What follows a subresource (`proxy/…`), with its leading slash; empty otherwise.
    pub rest: String,
    /// Written as `/api/v1/watch/…`.
    pub watch_path: bool,
    /// Segments that no route has (`/api/v1/pods/a/b/c/d`).
    pub overlong: bool,
}

/// Paths like `/api/v1/namespaces/x/status` are about the namespace itself.
const NAMESPACE_SUBRESOURCES: &[&str] = &["status", "finalize"];

impl RequestInfo {
    pub fn parse(method: &Method, path: &str, query: &Query) -> RequestInfo {
        let mut info = RequestInfo { verb: lower(method), ..RequestInfo::default() };
        let parts: Vec<String> = path.trim_matches('/').split('/').map(decode).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let rest = match parts.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => {
                info.version = (*version).into();
                rest
            }
            ["apis", group, version, rest @ ..] if !rest.is_empty() => {
                info.group = (*group).into();
                info.version = (*version).into();
                rest
            }
            _ => return info,
        };
        info.is_resource = true;
        info.verb = match *method {
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            Method::GET | Method::HEAD => "get",
            _ => "",
        };
        let rest = match rest {
            ["watch", rest @ ..] if !rest.is_empty() => {
                info.watch_path = true;
                rest
            }
            _ => rest,
        };
        info.fill(rest);
        if info.watch_path {
            info.verb = "watch";
        } else if info.name.is_empty() && info.verb == "get" {
            info.verb = if query.flag("watch") { "watch" } else { "list" };
        } else if info.name.is_empty() && info.verb == "delete" {
            info.verb = "deletecollection";
        }
        if info.name.is_empty() && matches!(info.verb, "list" | "watch" | "deletecollection") {
            info.name = name_selected(query.text("fieldSelector")).unwrap_or_default();
        }
        info
    }

    fn fill(&mut self, parts: &[&str]) {
        let own = match parts {
            ["namespaces", name, rest @ ..] => {
                self.namespace = (*name).into();
                let about_itself = rest.is_empty() || NAMESPACE_SUBRESOURCES.contains(&rest[0]);
                if about_itself { parts } else { rest }
            }
            _ => parts,
        };
        let at = |i: usize| own.get(i).copied().unwrap_or_default().to_owned();
        (self.resource, self.name, self.subresource) = (at(0), at(1), at(2));
        if own.len() > 3 {
            self.rest = format!("/{}", own[3..].join("/"));
            self.overlong = self.subresource != "proxy";
        }
    }

    /// The namespace of an object in it; empty for namespaces themselves and for what has none.
    pub fn object_namespace(&self) -> &str {
        if self.resource == "namespaces" && self.group.is_empty() { "" } else { &self.namespace }
    }
    /// Whether the name comes from a field selector rather than the path.
    pub fn is_collection(&self) -> bool {
        matches!(self.verb, "list" | "watch" | "deletecollection")
    }
}

/// The value of `metadata.name=x` when a field selector demands exactly one name.
fn name_selected(selector: &str) -> Option<String> {
    selector.split(',').find_map(|term| {
        let (field, value) = term.split_once("==").or_else(|| term.split_once('='))?;
        (field == "metadata.name" && !field.ends_with('!') && !value.is_empty()).then(|| value.to_owned())
    })
}

fn lower(method: &Method) -> &'static str {
    match *method {
        Method::GET => "get",
        Method::HEAD => "head",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::OPTIONS => "options",
        _ => "",
    }
}

fn decode(segment: &str) -> String {
    if !segment.contains('%') {
        return segment.to_owned();
    }
    let b = segment.as_bytes();
    let digit = |i: usize| b.get(i).and_then(|c| (*c as char).to_digit(16));
    let mut out = Vec::with_capacity(b.len());
    let mut i = 0;
    while i < b.len() {
        match (b[i], digit(i + 1), digit(i + 2)) {
            (b'%', Some(h), Some(l)) => {
                out.push((h * 16 + l) as u8);
                i += 3;
            }
            (c, ..) => {
                out.push(c);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: Method, uri: &str) -> RequestInfo {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        RequestInfo::parse(&method, path, &Query::parse(query))
    }
    fn brief(method: Method, uri: &str) -> String {
        let i = parse(method, uri);
        format!("{} {}/{} {}/{} {} {}", i.verb, i.group, i.version, i.resource, i.subresource, i.namespace, i.name)
    }

    #[test]
    fn paths_say_verb_and_resource() {
        for (method, uri, want) in [
            (Method::GET, "/api/v1/pods", "list /v1 pods/  "),
            (Method::GET, "/api/v1/namespaces/a/pods/", "list /v1 pods/ a "),
            (Method::GET, "/api/v1/namespaces/a/pods/p", "get /v1 pods/ a p"),
            (Method::GET, "/api/v1/namespaces/a/pods/p/log", "get /v1 pods/log a p"),
            (Method::POST, "/apis/apps/v1/namespaces/a/deployments", "create apps/v1 deployments/ a "),
            (Method::PUT, "/api/v1/namespaces/a/status", "update /v1 namespaces/status a a"),
            (Method::PUT, "/api/v1/namespaces/a/finalize", "update /v1 namespaces/finalize a a"),
            (Method::GET, "/api/v1/namespaces/a", "get /v1 namespaces/ a a"),
            (Method::DELETE, "/api/v1/namespaces/a/pods", "deletecollection /v1 pods/ a "),
            (Method::GET, "/api/v1/watch/namespaces/a/pods", "watch /v1 pods/ a "),
            (Method::GET, "/api/v1/watch/namespaces/a/pods/p", "watch /v1 pods/ a p"),
            (Method::GET, "/api/v1/nodes?fieldSelector=metadata.name%3Dn1&watch=true", "watch /v1 nodes/  n1"),
            (Method::GET, "/apis/apps/v1", "get / /  "),
            (Method::GET, "/api/v1/namespaces/a/services/http:web:80/proxy/x/y", "get /v1 services/proxy a http:web:80"),
        ] {
            assert_eq!(brief(method, uri), want, "{uri}");
        }
        assert_eq!(parse(Method::GET, "/api/v1/namespaces/a/services/web/proxy/x/y").rest, "/x/y");
        assert!(!parse(Method::GET, "/apis/apps/v1/").is_resource);
    }

    #[test]
    fn watch_is_true_for_every_value_but_zero_and_false() {
        for (q, verb) in [
            ("watch=1", "watch"),
            ("watch=", "watch"),
            ("watch", "watch"),
            ("watch=t", "watch"),
            ("watch=true", "watch"),
            ("watch=0", "list"),
            ("watch=false", "list"),
            ("", "list"),
        ] {
            assert_eq!(parse(Method::GET, &format!("/api/v1/pods?{q}")).verb, verb, "{q}");
        }
    }
}
