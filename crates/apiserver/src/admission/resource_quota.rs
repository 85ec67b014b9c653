//! ResourceQuota: what is created in a namespace is charged to its quotas first, and refused when one would be exceeded.
//!
//! The charge is a compare-and-swap of the quota's status before the object is stored, one request of a namespace at a time, so that no two
//! slip through together. A charge whose object is refused later is given back when the quota controller counts again, as upstream.

use async_trait::async_trait;
use keles_api::{Object, Quantity, Status};
use keles_registry::{Admission, Attributes, Call, Operation, Request, Scope, User, Verb};
use keles_rules::quota;
use keles_rules::requests::{Amounts, tree};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// How often a charge is tried again when the quota controller wrote in between.
const TRIES: usize = 10;

#[derive(Default)]
pub struct ResourceQuota {
    /// A lock a namespace that is being charged.
    charging: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// Kinds whose updates may use more than before; (group, plural, subresource).
const GROW: &[(&str, &str, &str)] = &[("", "services", ""), ("", "persistentvolumeclaims", ""), ("", "pods", "resize"), ("resource.k8s.io", "resourceclaims", "")];

#[async_trait]
impl Admission for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }
    fn handles(&self, a: &Attributes<'_>) -> bool {
        let r = a.request;
        match a.operation {
            Operation::Create => a.info.scope == Scope::Namespaced && r.subresource.is_empty(),
            Operation::Update => GROW.contains(&(r.group.as_str(), r.plural.as_str(), r.subresource.as_str())),
            _ => false,
        }
    }
    async fn validate(&self, a: &Attributes<'_>, o: Option<&Object>, _: &mut Vec<String>) -> Result<(), Status> {
        let Some(o) = o else { return Ok(()) };
        if a.registry.read_few("", "resourcequotas", &a.request.namespace).is_empty() {
            return Ok(());
        }
        let asked = Asked::new(a, o);
        let lock = self.lock(&a.request.namespace);
        let result = {
            let _charging = lock.lock().await;
            charge(a, &asked).await
        };
        self.unlock(&a.request.namespace, &lock);
        result
    }
}

impl ResourceQuota {
    fn lock(&self, namespace: &str) -> Arc<tokio::sync::Mutex<()>> {
        self.charging.lock().expect("no holder panics").entry(namespace.to_owned()).or_default().clone()
    }
    /// Forgets a lock that nobody else holds.
    fn unlock(&self, namespace: &str, lock: &Arc<tokio::sync::Mutex<()>>) {
        let mut all = self.charging.lock().expect("no holder panics");
        // One count is the map's, one this request's.
        if Arc::strong_count(lock) == 2 {
            all.remove(namespace);
        }
    }
}

/// What a request adds, whatever the quotas.
struct Asked<'a> {
    object: &'a Object,
    group: &'a str,
    plural: &'a str,
    more: Amounts,
}

impl<'a> Asked<'a> {
    fn new(a: &'a Attributes<'_>, object: &'a Object) -> Self {
        let (group, plural) = (a.info.served[0].group, a.info.plural);
        let now = a.request.now.parse::<jiff::Timestamp>().map_or(0, |t| t.as_second());
        let mut more = quota::usage(group, plural, &object.0, now);
        for (name, before) in a.old.map(|old| quota::usage(group, plural, &old.0, now)).unwrap_or_default() {
            let left = more.get(&name).map_or(before.neg(), |q| q.sub(before));
            more.insert(name, left);
        }
        more.retain(|_, q| q.sign() > 0);
        Asked { object, group: &a.request.group, plural: &a.request.plural, more }
    }
    fn refused(&self, why: String) -> Status {
        Status::forbidden(self.group, self.plural, self.object.name(), why)
    }
}

/// Charges every quota that counts the object, or none.
async fn charge(a: &Attributes<'_>, asked: &Asked<'_>) -> Result<(), Status> {
    for _ in 0..TRIES {
        a.registry.fresh(None).await?;
        let mut charges = Vec::new();
        for q in a.registry.read_few("", "resourcequotas", &a.request.namespace) {
            charges.extend(charged(a, asked, (*q).clone())?);
        }
        if a.request.dry_run {
            return Ok(());
        }
        let mut overtaken = false;
        for q in charges {
            match store(a, &q).await {
                Err(s) if s.reason == "Conflict" => overtaken = true,
                // A quota that is gone limits nothing.
                Err(s) if s.reason == "NotFound" => {}
                other => other?,
            }
            if overtaken {
                break;
            }
        }
        if !overtaken {
            return Ok(());
        }
    }
    Err(Status::conflict(asked.group, asked.plural, asked.object.name(), "the namespace's quotas changed too often to be charged; try again"))
}

/// The quota with the object's usage added; `None` when it does not count it.
fn charged(a: &Attributes<'_>, asked: &Asked<'_>, mut q: Object) -> Result<Option<Object>, Status> {
    // What the controller took note of counts, not what the spec asks: a quota that it has not seen yet limits nothing, as upstream.
    let hard = tree(q.at(&["status", "hard"]));
    let spec = q.at(&["spec"]);
    if !quota::in_scope(spec, a.info.served[0].group, asked.plural, &asked.object.0) {
        return Ok(None);
    }
    let is_pod = a.info.plural == "pods" && a.info.served[0].group.is_empty();
    if is_pod && let Some(why) = quota::unstated(asked.object.at(&["spec"]), hard.keys().map(String::as_str)) {
        return Err(asked.refused(format!("failed quota: {}: {why}", q.name())));
    }
    let counted: Amounts = asked.more.iter().filter(|(name, _)| hard.contains_key(*name)).map(|(n, q)| (n.clone(), *q)).collect();
    if counted.is_empty() {
        return Ok(None);
    }
    let mut used = tree(q.at(&["status", "used"]));
    let unknown: Vec<&str> = counted.keys().filter(|n| !used.contains_key(*n)).map(String::as_str).collect();
    if !unknown.is_empty() {
        return Err(asked.refused(format!("status unknown for quota: {}, resources: {}", q.name(), unknown.join(","))));
    }
    let over: Vec<&String> = counted.iter().filter(|(n, more)| used[*n].add(**more) > hard[*n]).map(|(n, _)| n).collect();
    if !over.is_empty() {
        let shown = |of: &Amounts| over.iter().map(|n| format!("{n}={}", of[*n])).collect::<Vec<_>>().join(",");
        return Err(asked.refused(format!("exceeded quota: {}, requested: {}, used: {}, limited: {}", q.name(), shown(&counted), shown(&used), shown(&hard))));
    }
    for (name, more) in counted {
        let sum: Quantity = used[&name].add(more);
        used.insert(name, sum);
    }
    let used: serde_json::Map<String, Value> = used.into_iter().map(|(n, v)| (n, v.to_string().into())).collect();
    q.0["status"]["used"] = used.into();
    Ok(Some(q))
}

/// Writes a quota's status where nobody wrote since it was read.
async fn store(a: &Attributes<'_>, q: &Object) -> Result<(), Status> {
    let user = User { name: "system:apiserver".into(), groups: vec!["system:masters".into()], ..User::default() };
    let request = Request {
        user,
        version: "v1".into(),
        plural: "resourcequotas".into(),
        subresource: "status".into(),
        namespace: q.namespace().into(),
        name: q.name().into(),
        now: a.request.now.clone(),
        ..Request::default()
    };
    let mut body = q.clone();
    body.set_type("v1", "ResourceQuota");
    let body = json!(body.0).to_string();
    a.registry.serve(Verb::Update, Call { request, body: body.into(), user_agent: "apiserver".into(), ..Call::default() }).await.map(drop)
}
