//! Admission of streams and proxied requests: plugins see the options as an object, under the operation CONNECT.

use crate::chain::now;
use crate::path::RequestInfo;
use crate::server::Inner;
use keles_api::{Object, Status};
use keles_auth::User;
use keles_registry::{Query, Request};
use serde_json::Value;

/// Fields of the options, by what they hold.
const FLAGS: &[&str] = &["stdin", "stdout", "stderr", "tty"];
const TEXTS: &[&str] = &["container", "path"];
const LISTS: &[&str] = &["command"];
const NUMBERS: &[&str] = &["ports"];

/// Asks every plugin; the warnings they give are logged, since a stream's answer has no room for them.
pub async fn admit(server: &Inner, user: &User, i: &RequestInfo, query: &Query) -> Result<(), Status> {
    let request = Request {
        user: user.clone(),
        group: i.group.clone(),
        version: i.version.clone(),
        plural: i.resource.clone(),
        subresource: i.subresource.clone(),
        namespace: i.namespace.clone(),
        // A proxied name may carry scheme and port.
        name: if i.subresource == "proxy" { i.name.split(':').nth(usize::from(i.name.matches(':').count() == 2)).unwrap_or(&i.name).to_owned() } else { i.name.clone() },
        now: now(),
        ..Request::default()
    };
    for warning in server.registry.connect(&request, |kind| options(kind, query)).await? {
        tracing::info!(warning, name = request.name, subresource = request.subresource, "admission warns of a stream");
    }
    Ok(())
}

fn options(kind: &str, q: &Query) -> Object {
    let mut o = Object(serde_json::json!({"kind": kind, "apiVersion": "v1"}));
    let root = o.root_mut();
    for f in FLAGS.iter().filter(|f| q.flag(f)) {
        root.insert((*f).into(), true.into());
    }
    for f in TEXTS.iter().filter(|f| !q.text(f).is_empty()) {
        root.insert((*f).into(), q.text(f).into());
    }
    for f in LISTS {
        let all: Vec<Value> = q.all(f).map(Value::from).collect();
        if !all.is_empty() {
            root.insert((*f).into(), all.into());
        }
    }
    for f in NUMBERS {
        let all: Vec<Value> = q.all(f).filter_map(|n| n.parse::<i64>().ok()).map(Value::from).collect();
        if !all.is_empty() {
            root.insert((*f).into(), all.into());
        }
    }
    o
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_come_from_the_query() {
        let o = options("PodExecOptions", &Query::parse("command=ls&command=-l&stdin=true&tty=false&container=c"));
        assert_eq!(serde_json::json!(o.0), serde_json::json!({"apiVersion": "v1", "kind": "PodExecOptions", "command": ["ls", "-l"], "stdin": true, "container": "c"}));
    }
}
