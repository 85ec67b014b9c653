//! `/healthz`, `/livez`, `/readyz`: outcomes of checks as text. Nothing here knows HTTP but its codes.
//!
//! Source: k8s.io/apiserver/pkg/server/healthz.

/// The outcome of one check.
pub struct Check {
    pub name: &'static str,
    pub failure: Option<String>,
}

/// The answer for `/<endpoint>` and `/<endpoint>/<check>`: HTTP code and text. `excluded` and `verbose` are the query's. `None`: no such check.
pub fn answer(endpoint: &str, check: &str, checks: &[Check], excluded: &[&str], verbose: bool) -> Option<(u16, String)> {
    if !check.is_empty() {
        let c = checks.iter().find(|c| c.name == check)?;
        return Some(match &c.failure {
            None => (200, "ok".into()),
            Some(why) => (500, format!("internal server error: {why}\n")),
        });
    }
    let mut lines = String::new();
    let mut failed = false;
    for c in checks {
        lines.push_str(&if excluded.contains(&c.name) {
            format!("[+]{} excluded: ok\n", c.name)
        } else if c.failure.is_some() {
            failed = true;
            format!("[-]{} failed: reason withheld\n", c.name)
        } else {
            format!("[+]{} ok\n", c.name)
        });
    }
    for unknown in excluded.iter().filter(|e| !checks.iter().any(|c| c.name == **e)) {
        lines.push_str(&format!("warn: some health checks cannot be excluded: no matches for \"{unknown}\"\n"));
    }
    Some(match (failed, verbose) {
        (true, _) => (500, format!("{lines}{endpoint} check failed\n")),
        (false, true) => (200, format!("{lines}{endpoint} check passed\n")),
        (false, false) => (200, "ok".into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_told_whole_one_by_one_or_left_out() {
        let checks = [Check { name: "ping", failure: None }, Check { name: "disk", failure: Some("full".into()) }];
        let of = |check: &str, excluded: &[&str]| answer("healthz", check, &checks, excluded, true);
        assert_eq!(of("", &[]), Some((500, "[+]ping ok\n[-]disk failed: reason withheld\nhealthz check failed\n".into())));
        assert_eq!(of("", &["disk"]), Some((200, "[+]ping ok\n[+]disk excluded: ok\nhealthz check passed\n".into())));
        assert_eq!(of("disk", &[]), Some((500, "internal server error: full\n".into())));
        assert_eq!((of("ping", &[]), of("other", &[])), (Some((200, "ok".into())), None));
    }
}
