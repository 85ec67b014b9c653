//! Whom a caller wants to act as (`Impersonate-*`), and whether they may.
//!
//! Entry point: [`Inner::impersonate`]. Two ways lead there. Constrained (KEP-5284, the gate `ConstrainedImpersonation`): one right to be somebody
//! (`impersonate:MODE` on users, groups, uids, userextras, serviceaccounts or nodes of authentication.k8s.io) and one to do there what is asked
//! (`impersonate-on:MODE:VERB` on what is asked); one row of [`MODES`] a mode. And the way of old, verb `impersonate`, which is good for
//! everything. The first mode that allows counts; where none does, the first refusal is the answer.

use crate::features::Feature;
use crate::server::Inner;
use http::HeaderMap;
use keles_api::{Status, names};
use keles_auth::authenticators::request_header::unescape;
use keles_auth::{ANONYMOUS, AUTHENTICATED, Attributes, MASTERS, NODE_PREFIX, NODES, UNAUTHENTICATED, User, service_account_names};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

const GROUP: &str = "authentication.k8s.io";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
/// From so many groups or extra values on, a right to all of them is looked for first; upstream's figure.
const MANY: usize = 4;

/// A way to impersonate.
struct Mode {
    /// The right to be somebody, also what audit notes.
    verb: &'static str,
    /// What stands before the verb of the request in the right to do it.
    on: &'static str,
    concerns: fn(&User, &User) -> bool,
}

const ASSOCIATED_NODE: usize = 0;

static MODES: [Mode; 4] = [
    Mode { verb: "impersonate:associated-node", on: "impersonate-on:associated-node:", concerns: |wanted, by| named_alone(wanted) && is_on_node(by, wanted) },
    Mode { verb: "impersonate:arbitrary-node", on: "impersonate-on:arbitrary-node:", concerns: |wanted, _| named_alone(wanted) && node(&wanted.name).is_some() },
    Mode { verb: "impersonate:serviceaccount", on: "impersonate-on:serviceaccount:", concerns: |wanted, _| named_alone(wanted) && service_account_names(&wanted.name).is_some() },
    Mode { verb: "impersonate:user-info", on: "impersonate-on:user-info:", concerns: |wanted, _| node(&wanted.name).is_none() && service_account_names(&wanted.name).is_none() },
];
/// The way of old, in [`LastModes`].
const LEGACY: usize = MODES.len();

/// Groups, uid and extra of nodes and service accounts are nobody's to choose.
fn named_alone(u: &User) -> bool {
    u.groups.is_empty() && u.uid.is_empty() && u.extra.is_empty()
}

fn node(user: &str) -> Option<&str> {
    user.strip_prefix(NODE_PREFIX).filter(|n| names::dns_subdomain(n, false).is_empty())
}

/// Whether a service account's token is bound to the node that is wanted.
fn is_on_node(by: &User, wanted: &User) -> bool {
    let bound = by.extra.get(NODE_NAME).filter(|v| v.len() == 1).map(|v| v[0].as_str());
    service_account_names(&by.name).is_some() && bound.is_some() && bound == node(&wanted.name)
}

/// In which mode a user was let through last, which is tried first: most users know one.
#[derive(Default)]
pub struct LastModes(Mutex<HashMap<String, usize>>);

impl LastModes {
    const USERS_MAX: usize = 1024;

    fn of(&self, user: &str) -> Option<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(user).copied()
    }
    fn set(&self, user: &str, mode: usize) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= Self::USERS_MAX && !all.contains_key(user) {
            all.clear();
        }
        all.insert(user.into(), mode);
    }
}

/// Somebody a caller acts as.
pub struct Impersonated {
    pub user: Arc<User>,
    /// By which right, when it was a constrained one.
    pub constraint: Option<&'static str>,
}

/// Whom the headers name, as they name them; the headers are taken off.
fn wanted(headers: &mut HeaderMap) -> Result<Option<User>, User> {
    let text = |v: &http::HeaderValue| v.to_str().unwrap_or_default().to_owned();
    let mut user = User {
        name: headers.get("impersonate-user").map(text).unwrap_or_default(),
        groups: headers.get_all("impersonate-group").iter().map(text).collect(),
        uid: headers.get("impersonate-uid").map(text).unwrap_or_default(),
        ..User::default()
    };
    for (k, v) in headers.iter() {
        if let Some(key) = k.as_str().strip_prefix("impersonate-extra-") {
            user.extra.entry(unescape(key)).or_default().push(text(v));
        }
    }
    if user.name.is_empty() {
        return if named_alone(&user) { Ok(None) } else { Err(user) };
    }
    let used: Vec<http::HeaderName> = headers.keys().filter(|k| k.as_str().starts_with("impersonate-")).cloned().collect();
    for k in used {
        headers.remove(k);
    }
    Ok(Some(user))
}

impl Inner {
    /// The user that the headers name, each part allowed; `None` when they name nobody. `asked` is the request, by the caller.
    pub async fn impersonate(&self, asked: &Attributes<'_>, headers: &mut HeaderMap) -> Result<Option<Impersonated>, Status> {
        let constrained = self.config.features.on(Feature::ConstrainedImpersonation);
        let wanted = match wanted(headers) {
            Ok(None) => return Ok(None),
            Ok(Some(wanted)) => wanted,
            Err(nobody) if constrained => return Err(Status::bad_request(format!("requested {} without impersonating a user name", go_dump(&nobody)))),
            Err(_) => return Err(Status::internal("requested impersonation without impersonating a user")),
        };
        let first = if constrained { self.last_modes.of(&asked.user.name) } else { Some(LEGACY) };
        let others = (0..=LEGACY).filter(|m| constrained && Some(*m) != first);
        let mut refused = None;
        for at in first.into_iter().chain(others) {
            match self.through(at, &wanted, asked).await {
                None => {}
                Some(Err(s)) => {
                    refused.get_or_insert(s);
                }
                Some(Ok(user)) => {
                    if constrained {
                        self.last_modes.set(&asked.user.name, at);
                    }
                    return Ok(Some(Impersonated { user: Arc::new(user), constraint: MODES.get(at).map(|m| m.verb) }));
                }
            }
        }
        Err(refused.unwrap_or_else(|| Status::internal("all impersonation modes failed")))
    }

    /// What one mode says; `None` when it does not concern whom is wanted.
    async fn through(&self, at: usize, wanted: &User, asked: &Attributes<'_>) -> Option<Result<User, Status>> {
        let Some(mode) = MODES.get(at) else { return Some(Check { server: self, by: asked.user, verb: "impersonate", mode: at }.all(wanted).await) };
        if !(mode.concerns)(wanted, asked.user) {
            return None;
        }
        // A right of the account on all its nodes: which of them it is on is settled, and the rest of its extra counts for nothing.
        let anywhere = (at == ASSOCIATED_NODE).then(|| {
            let keys = asked.user.extra.keys().cloned().collect();
            User { extra: BTreeMap::from([("authentication.kubernetes.io/associated-node-keys".to_owned(), keys)]), ..asked.user.clone() }
        });
        let by = anywhere.as_ref().unwrap_or(asked.user);
        let verb = format!("{}{}", mode.on, asked.verb);
        if let Err(s) = self.authorize(&Attributes { user: by, verb: &verb, ..*asked }).await {
            return Some(Err(s));
        }
        Some(Check { server: self, by, verb: mode.verb, mode: at }.all(wanted).await)
    }
}

/// The right to be each part of somebody.
struct Check<'a> {
    server: &'a Inner,
    by: &'a User,
    verb: &'static str,
    mode: usize,
}

impl Check<'_> {
    fn constrained(&self) -> bool {
        self.mode != LEGACY
    }
    fn about<'q>(&'q self, group: &'q str, resource: &'q str, name: &'q str) -> Attributes<'q> {
        Attributes { verb: self.verb, group, version: "v1", resource, name, ..Attributes::of(self.by) }
    }
    async fn may(&self, a: Attributes<'_>) -> Result<(), Status> {
        self.server.authorize(&a).await.map(|_| ())
    }
    /// Users and groups are of the core group in the way of old.
    fn group(&self) -> &'static str {
        if self.constrained() { GROUP } else { "" }
    }

    async fn all(&self, wanted: &User) -> Result<User, Status> {
        let mut user = wanted.clone();
        self.name(wanted, &mut user).await?;
        if !wanted.uid.is_empty() {
            self.may(self.about(GROUP, "uids", &wanted.uid)).await?;
        }
        self.groups(&wanted.groups).await?;
        self.extra(&wanted.extra).await?;
        let ensured = match user.name == ANONYMOUS {
            true => Some(UNAUTHENTICATED),
            false => (!user.groups.iter().any(|g| g == UNAUTHENTICATED)).then_some(AUTHENTICATED),
        };
        if let Some(group) = ensured.filter(|e| !user.groups.iter().any(|g| g == e)) {
            user.groups.push(group.into());
        }
        Ok(user)
    }

    async fn name(&self, wanted: &User, user: &mut User) -> Result<(), Status> {
        if let Some(name) = node(&wanted.name).filter(|_| self.constrained()) {
            user.groups = vec![NODES.into()];
            return self.may(self.about(GROUP, "nodes", if self.mode == ASSOCIATED_NODE { "*" } else { name })).await;
        }
        let Some((namespace, name)) = service_account_names(&wanted.name) else { return self.may(self.about(self.group(), "users", &wanted.name)).await };
        if wanted.groups.is_empty() {
            user.groups = keles_auth::service_account(namespace, name, "").groups;
            user.groups.retain(|g| g != AUTHENTICATED);
        }
        self.may(Attributes { namespace, ..self.about(self.group(), "serviceaccounts", name) }).await
    }

    async fn groups(&self, groups: &[String]) -> Result<(), Status> {
        if self.constrained() {
            if groups.iter().any(String::is_empty) {
                return Err(self.about(GROUP, "groups", "").forbidden("impersonating the empty string group is not allowed"));
            }
            if groups.iter().any(|g| g == MASTERS) {
                return Err(self.about(GROUP, "groups", MASTERS).forbidden("impersonating the system:masters group is not allowed"));
            }
            if groups.len() >= MANY && self.may(self.about(GROUP, "groups", "*")).await.is_ok() {
                return Ok(());
            }
        }
        for g in groups {
            self.may(self.about(self.group(), "groups", g)).await?;
        }
        Ok(())
    }

    async fn extra(&self, extra: &BTreeMap<String, Vec<String>>) -> Result<(), Status> {
        if self.constrained() {
            if let Some(why) = extra.iter().find_map(|(k, values)| bad_extra(k, values)) {
                return Err(self.about(GROUP, "userextras", "").forbidden(&why));
            }
            let all = Attributes { subresource: "*", ..self.about(GROUP, "userextras", "*") };
            if extra.values().map(Vec::len).sum::<usize>() >= MANY && self.may(all).await.is_ok() {
                return Ok(());
            }
        }
        for (key, values) in extra {
            for value in values {
                self.may(Attributes { subresource: key, ..self.about(GROUP, "userextras", value) }).await?;
            }
        }
        Ok(())
    }
}

/// What is wrong with an extra value, where the way of old would take it.
fn bad_extra(key: &str, values: &[String]) -> Option<String> {
    if key.is_empty() {
        return Some("impersonating the empty string key in extra is not allowed".into());
    }
    let prefixed = key.split_once('/').is_some_and(|(domain, path)| names::dns_subdomain(domain, false).is_empty() && !path.is_empty());
    if !prefixed {
        return Some(format!("impersonating an invalid key in extra is not allowed: extra.key: Invalid value: {key:?}: must be a domain-prefixed path (such as \"acme.io/foo\")"));
    }
    if key != key.to_lowercase() {
        return Some(format!("impersonating a non-lowercase key in extra is not allowed: {key:?}"));
    }
    values.iter().any(String::is_empty).then(|| "impersonating the empty string value in extra is not allowed".into())
}

/// A user as Go prints the struct.
fn go_dump(u: &User) -> String {
    let list = |v: &[String]| format!("[]string{{{}}}", v.iter().map(|s| format!("{s:?}")).collect::<Vec<_>>().join(", "));
    let groups = if u.groups.is_empty() { "[]string(nil)".to_owned() } else { list(&u.groups) };
    let pairs: Vec<String> = u.extra.iter().map(|(k, v)| format!("{k:?}:{}", list(v))).collect();
    let extra = if pairs.is_empty() { "map[string][]string(nil)".to_owned() } else { format!("map[string][]string{{{}}}", pairs.join(", ")) };
    format!("&user.DefaultInfo{{Name:{:?}, UID:{:?}, Groups:{groups}, Extra:{extra}}}", u.name, u.uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> User {
        User { name: name.into(), ..User::default() }
    }
    fn modes(wanted: &User, by: &User) -> Vec<&'static str> {
        MODES.iter().filter(|m| (m.concerns)(wanted, by)).map(|m| m.verb.trim_start_matches("impersonate:")).collect()
    }

    #[test]
    fn who_is_wanted_says_which_modes_there_are() {
        let mut agent = user("system:serviceaccount:kube-system:agent");
        agent.extra.insert(NODE_NAME.into(), vec!["n1".into()]);
        assert_eq!(modes(&user("jane"), &agent), ["user-info"]);
        assert_eq!(modes(&user("system:node:n1"), &agent), ["associated-node", "arbitrary-node"]);
        assert_eq!(modes(&user("system:node:n2"), &agent), ["arbitrary-node"]);
        assert_eq!(modes(&user("system:node:n1"), &User { name: "jane".into(), ..agent.clone() }), ["arbitrary-node"], "a person is on no node");
        assert_eq!(modes(&user("system:serviceaccount:a:b"), &agent), ["serviceaccount"]);
        let grouped = |name: &str| User { groups: vec!["g".into()], ..user(name) };
        assert!(modes(&grouped("system:node:n1"), &agent).is_empty() && modes(&grouped("system:serviceaccount:a:b"), &agent).is_empty());
        assert_eq!(modes(&user("system:node:Not_A_Name"), &agent), ["user-info"], "what cannot be a node's name is a user's");
    }

    #[test]
    fn what_the_way_of_old_lets_pass_is_looked_at_here() {
        let value = |v: &str| vec![v.to_owned()];
        assert_eq!(bad_extra("example.com/scope", &value("a")), None);
        assert!(bad_extra("scopes", &value("a")).is_some_and(|e| e.ends_with("must be a domain-prefixed path (such as \"acme.io/foo\")")));
        assert!(bad_extra("", &value("a")).is_some() && bad_extra("example.com/scope", &value("")).is_some());
    }

    #[test]
    fn headers_without_a_name_are_told_back() {
        let mut h = HeaderMap::new();
        h.insert("impersonate-group", "dev".parse().unwrap());
        h.insert("impersonate-extra-a.io%2fb", "c".parse().unwrap());
        let nobody = wanted(&mut h).expect_err("no name");
        assert_eq!(go_dump(&nobody), "&user.DefaultInfo{Name:\"\", UID:\"\", Groups:[]string{\"dev\"}, Extra:map[string][]string{\"a.io/b\":[]string{\"c\"}}}");
        h.insert("impersonate-user", "jane".parse().unwrap());
        assert_eq!(wanted(&mut h).unwrap().unwrap().groups, ["dev"]);
        assert!(h.is_empty(), "nobody further down sees them");
    }
}
