//! An event as one line of text: `--audit-log-format=legacy`.

use serde_json::Value;

/// Upstream's form, without the end of the line.
pub fn line(e: &Value) -> String {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let or = |v: &Value, none: &str| v.as_str().filter(|s| !s.is_empty()).unwrap_or(none).to_owned();
    let quoted = |v: &Value| v.as_array().map(|all| all.iter().map(|g| format!("{:?}", text(g))).collect::<Vec<_>>().join(","));
    let (user, other) = (&e["user"], &e["impersonatedUser"]);
    let groups = quoted(&user["groups"]).filter(|g| !g.is_empty() && user["username"].is_string()).unwrap_or_else(|| "<none>".into());
    let (as_user, as_groups) = match other.is_null() {
        true => ("<self>".to_owned(), "<lookup>".to_owned()),
        false => (text(&other["username"]), quoted(&other["groups"]).unwrap_or_else(|| "<lookup>".into())),
    };
    format!(
        "{} AUDIT: id={:?} stage={:?} ip={:?} method={:?} user={:?} groups={groups} as={as_user:?} asgroups={as_groups} user-agent={:?} namespace={:?} uri={:?} response=\"{}\"",
        nanoseconds(&text(&e["requestReceivedTimestamp"])),
        text(&e["auditID"]),
        text(&e["stage"]),
        or(&e["sourceIPs"][0], "<unknown>"),
        text(&e["verb"]),
        or(&user["username"], "<none>"),
        text(&e["userAgent"]),
        or(&e["objectRef"]["namespace"], "<none>"),
        text(&e["requestURI"]),
        e["responseStatus"]["code"].as_u64().map_or_else(|| "<deferred>".into(), |c| c.to_string()),
    )
}

/// Go's RFC3339Nano has no zeros at the end of the fraction.
fn nanoseconds(time: &str) -> String {
    let Some(bare) = time.strip_suffix('Z').filter(|t| t.contains('.')) else { return time.to_owned() };
    format!("{}Z", bare.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_line_has_upstreams_fields_in_upstreams_order() {
        let e = json!({
            "requestReceivedTimestamp": "2026-11-21T10:00:00.120000Z", "auditID": "a-1", "stage": "ResponseComplete", "sourceIPs": ["192.0.2.1"], "verb": "get",
            "user": {"username": "jane", "groups": ["dev", "ops"]}, "userAgent": "k/1", "objectRef": {"namespace": "shop"}, "requestURI": "/api?a=\"b\"", "responseStatus": {"code": 200},
        });
        let want = "2026-11-21T10:00:00.12Z AUDIT: id=\"a-1\" stage=\"ResponseComplete\" ip=\"192.0.2.1\" method=\"get\" user=\"jane\" groups=\"dev\",\"ops\" as=\"<self>\" \
             asgroups=<lookup> user-agent=\"k/1\" namespace=\"shop\" uri=\"/api?a=\\\"b\\\"\" response=\"200\"";
        assert_eq!(line(&e), want);
        let bare = line(&json!({"stage": "RequestReceived", "requestReceivedTimestamp": "2026-11-21T10:00:00.000000Z", "user": {}, "impersonatedUser": {"username": "bob"}}));
        assert!(
            bare.starts_with("2026-11-21T10:00:00Z AUDIT:") && bare.contains("ip=\"<unknown>\"") && bare.contains("user=\"<none>\" groups=<none> as=\"bob\" asgroups=<lookup>"),
            "{bare}"
        );
        assert!(bare.ends_with("namespace=\"<none>\" uri=\"\" response=\"<deferred>\""), "{bare}");
    }
}
