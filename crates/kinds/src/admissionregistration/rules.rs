//! What webhook configurations and admission policies share: which requests they are about, conditions, webhooks themselves.
//!
//! What expressions may speak of is in `expressions`.

use crate::admissionregistration::expressions::{Names, Wanted};
use crate::field::{Field, child_mut, default_pointer, invalid_each, items_mut, one_of, same};
use crate::formats;
use crate::labels;
use keles_api::{Path, Problems, names};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const REVIEW_VERSIONS: &[&str] = &["v1", "v1beta1"];
const CONDITIONS_MAX_COUNT: usize = 64;
const TIMEOUT_MAX_SECONDS: i64 = 30;
const TIMEOUT_SECONDS: i64 = 10;
const HTTPS_PORT: i64 = 443;
const URL_FORM: &str = "desired format: https://host[/path]";

pub fn default_webhooks(o: &mut Value, reinvoked: bool) {
    for hook in items_mut(o, "webhooks") {
        default_pointer(hook, "failurePolicy", "Fail");
        default_pointer(hook, "matchPolicy", "Equivalent");
        default_pointer(hook, "namespaceSelector", json!({}));
        default_pointer(hook, "objectSelector", json!({}));
        default_pointer(hook, "timeoutSeconds", TIMEOUT_SECONDS);
        if reinvoked {
            default_pointer(hook, "reinvocationPolicy", "Never");
        }
        if let Some(service) = crate::field::below_mut(hook, &["clientConfig", "service"]).filter(|s| s.is_object()) {
            default_pointer(service, "port", HTTPS_PORT);
        }
        items_mut(hook, "rules").for_each(|rule| default_pointer(rule, "scope", "*"));
    }
}

/// `matchConstraints` of a policy, `matchResources` of a binding.
pub fn default_match(owner: &mut Value, name: &str) {
    let Some(m) = owner.get_mut(name).filter(|m| m.is_object()) else { return };
    default_pointer(m, "matchPolicy", "Equivalent");
    default_pointer(m, "namespaceSelector", json!({}));
    default_pointer(m, "objectSelector", json!({}));
    for list in ["resourceRules", "excludeResourceRules"] {
        items_mut(m, list).for_each(|rule| default_pointer(rule, "scope", "*"));
    }
}

pub fn default_policy(o: &mut Value) {
    if let Some(spec) = child_mut(o, "spec") {
        default_pointer(spec, "failurePolicy", "Fail");
        default_match(spec, "matchConstraints");
    }
}

/// What webhooks may not do unless those before them did: rules came one by one, and what was stored must stay changeable.
struct Strictness {
    side_effects: &'static [&'static str],
    known_version: bool,
    unique_names: bool,
    conditions: bool,
}

impl Strictness {
    fn of(root: &Field, old: Option<&Field>) -> Self {
        const NONE: &[&str] = &["None", "NoneOnDryRun"];
        let Some(old) = old else { return Strictness { side_effects: NONE, known_version: true, unique_names: true, conditions: true } };
        let (now, before) = (root.items("webhooks"), old.items("webhooks"));
        let known = |h: &Field| h.list("admissionReviewVersions").is_empty() || h.strings("admissionReviewVersions").iter().any(|v| REVIEW_VERSIONS.contains(v));
        let mut seen = BTreeSet::new();
        Strictness {
            side_effects: if before.iter().all(|h| NONE.contains(&h.str("sideEffects"))) { NONE } else { &["None", "NoneOnDryRun", "Some", "Unknown"] },
            known_version: before.iter().all(known),
            unique_names: before.iter().all(|h| seen.insert(h.str("name"))),
            conditions: now.len() != before.len() || now.iter().zip(&before).any(|(n, o)| !same(n.get("matchConditions").value(), o.get("matchConditions").value())),
        }
    }
}

/// `old`: the configuration that is updated.
pub fn webhooks(root: &Field, old: Option<&Field>, reinvoked: bool, p: &mut Problems) {
    let strict = Strictness::of(root, old);
    let mut seen = BTreeSet::new();
    for hook in root.items("webhooks") {
        webhook(&hook, &strict, reinvoked, p);
        if strict.unique_names && !hook.str("name").is_empty() && !seen.insert(hook.str("name")) {
            p.duplicate(&hook.at("name"), hook.str("name"));
        }
    }
}

fn webhook(hook: &Field, strict: &Strictness, reinvoked: bool, p: &mut Problems) {
    qualified_domain(hook, p);
    review_versions(hook, strict.known_version, p);
    for rule in hook.items("rules") {
        match_rule(&rule, p);
    }
    optional_enum(hook, "failurePolicy", &["Fail", "Ignore"], p);
    optional_enum(hook, "matchPolicy", &["Equivalent", "Exact"], p);
    match hook.opt_str("sideEffects") {
        None => p.required(&hook.at("sideEffects"), format!("must specify one of {}", strict.side_effects.join(", "))),
        Some(value) => one_of(p, &hook.at("sideEffects"), value, strict.side_effects),
    }
    if let Some(seconds) = hook.opt_int("timeoutSeconds").filter(|s| !(1..=TIMEOUT_MAX_SECONDS).contains(s)) {
        p.invalid(&hook.at("timeoutSeconds"), seconds, format!("the timeout value must be between 1 and {TIMEOUT_MAX_SECONDS} seconds"));
    }
    labels::selector(p, &hook.get("namespaceSelector"));
    labels::selector(p, &hook.get("objectSelector"));
    if reinvoked {
        optional_enum(hook, "reinvocationPolicy", &["IfNeeded", "Never"], p);
    }
    client(&hook.get("clientConfig"), p);
    if strict.conditions {
        conditions(hook, false, p);
    }
}

fn optional_enum(of: &Field, name: &str, allowed: &[&str], p: &mut Problems) {
    if let Some(value) = of.opt_str(name) {
        one_of(p, &of.at(name), value, allowed);
    }
}

/// Webhooks are named like hosts: three parts at least.
fn qualified_domain(hook: &Field, p: &mut Problems) {
    let (name, at) = (hook.str("name"), hook.at("name"));
    if name.is_empty() {
        p.required(&at, "");
        return;
    }
    let bad = names::dns_subdomain(name, false);
    if bad.is_empty() && name.split('.').count() < 3 {
        p.invalid(&at, name, "should be a domain with at least three segments separated by dots");
    }
    invalid_each(p, &at, name, bad);
}

fn review_versions(hook: &Field, known: bool, p: &mut Problems) {
    let (all, at) = (hook.items("admissionReviewVersions"), hook.at("admissionReviewVersions"));
    if all.is_empty() {
        p.required(&at, "must specify one of v1, v1beta1");
        return;
    }
    let mut seen = BTreeSet::new();
    for version in &all {
        if !seen.insert(version.text()) {
            p.invalid(version.path(), version.text(), "duplicate version");
            continue;
        }
        invalid_each(p, version.path(), version.text(), names::dns1035_label(version.text(), false));
    }
    if known && !all.iter().any(|v| REVIEW_VERSIONS.contains(&v.text())) {
        p.invalid(&at, hook.get("admissionReviewVersions").value().clone(), "must include at least one of v1, v1beta1");
    }
}

/// Which requests a webhook or policy is about.
pub fn match_rule(rule: &Field, p: &mut Problems) {
    let whole = |name: &str| rule.get(name).value().clone();
    let operations = rule.items("operations");
    if operations.is_empty() {
        p.required(&rule.at("operations"), "");
    }
    if operations.len() > 1 && operations.iter().any(|o| o.text() == "*") {
        p.invalid(&rule.at("operations"), whole("operations"), "if '*' is present, must not specify other operations");
    }
    for operation in &operations {
        one_of(p, operation.path(), operation.text(), OPERATIONS);
    }
    for (name, what) in [("apiGroups", "API groups"), ("apiVersions", "API versions")] {
        let all = rule.items(name);
        if all.is_empty() {
            p.required(&rule.at(name), "");
        }
        if all.len() > 1 && all.iter().any(|g| g.text() == "*") {
            p.invalid(&rule.at(name), whole(name), format!("if '*' is present, must not specify other {what}"));
        }
        if name == "apiVersions" {
            all.iter().filter(|v| v.text().is_empty()).for_each(|v| p.required(v.path(), ""));
        }
    }
    resources(rule, p);
    optional_enum(rule, "scope", &["*", "Cluster", "Namespaced"], p);
}

fn resources(rule: &Field, p: &mut Problems) {
    let all = rule.items("resources");
    if all.is_empty() {
        p.required(&rule.at("resources"), "");
    }
    let texts = rule.strings("resources");
    // The last name without a subresource decides, as upstream has it.
    let plain = texts.iter().filter(|t| !t.is_empty() && !t.contains('/')).next_back().is_some_and(|t| *t != "*");
    let (mut all_subs_of, mut of_all): (BTreeSet<&str>, BTreeSet<&str>) = (BTreeSet::new(), BTreeSet::new());
    for r in &all {
        let text = r.text();
        if text.is_empty() {
            p.required(r.path(), "");
        }
        let Some((main, sub)) = text.split_once('/') else { continue };
        if all_subs_of.contains(main) {
            p.invalid(r.path(), text, format!("if '{main}/*' is present, must not specify {text}"));
        }
        if of_all.contains(sub) {
            p.invalid(r.path(), text, format!("if '*/{sub}' is present, must not specify {text}"));
        }
        if sub == "*" {
            all_subs_of.insert(main);
        }
        if main == "*" {
            of_all.insert(sub);
        }
    }
    let shown = || rule.get("resources").value().clone();
    if texts.len() > 1 && texts.contains(&"*/*") {
        p.invalid(&rule.at("resources"), shown(), "if '*/*' is present, must not specify other resources");
    }
    if texts.contains(&"*") && plain {
        p.invalid(&rule.at("resources"), shown(), "if '*' is present, must not specify other resources without subresources");
    }
}

/// As [`match_rule`], of policies, which may name objects.
fn named_rule(rule: &Field, p: &mut Problems) {
    let mut seen = BTreeSet::new();
    for name in rule.items("resourceNames") {
        invalid_each(p, name.path(), name.text(), names::path_segment(name.text(), false));
        if !seen.insert(name.text()) {
            p.duplicate(name.path(), name.text());
        }
    }
    match_rule(rule, p);
}

/// How a webhook is reached.
pub fn client(c: &Field, p: &mut Problems) {
    match (c.opt_str("url"), c.has("service")) {
        (Some(_), true) | (None, false) => p.required(c.path(), "exactly one of url or service is required"),
        (Some(url), false) => https_url(&c.at("url"), url, p),
        (None, true) => service(&c.get("service"), p),
    }
}

fn https_url(at: &Path, url: &str, p: &mut Problems) {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let authority = if scheme.is_empty() { "" } else { authority };
    if scheme != "https" {
        p.invalid(at, scheme, format!("'https' is the only allowed URL scheme; {URL_FORM}"));
    }
    let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(u, h)| (Some(u), h));
    if host.is_empty() {
        p.invalid(at, host, format!("host must be specified; {URL_FORM}"));
    }
    if let Some(user) = user {
        p.invalid(at, user, "user information is not permitted in the URL");
    }
    if let Some((_, fragment)) = tail.split_once('#').filter(|f| !f.1.is_empty()) {
        p.invalid(at, fragment, "fragments are not permitted in the URL");
    }
    if let Some((_, query)) = tail.split('#').next().unwrap_or("").split_once('?').filter(|q| !q.1.is_empty()) {
        p.invalid(at, query, "query parameters are not permitted in the URL");
    }
}

fn service(s: &Field, p: &mut Problems) {
    // Upstream hands the two names over in the wrong order, so each is missed under the other's name.
    for (found, named) in [("namespace", "name"), ("name", "namespace")] {
        if s.str(found).is_empty() {
            p.required(&s.at(named), "");
        }
    }
    port(s, p);
    let Some(path) = s.opt_str("path") else { return };
    let at = s.at("path");
    if path == "/" || path.is_empty() {
        return;
    }
    if path == "//" {
        p.invalid(&at, path, "segment[0] may not be empty");
        return;
    }
    if !path.starts_with('/') {
        p.invalid(&at, path, "must start with a '/'");
    }
    let trimmed = path.strip_prefix('/').unwrap_or(path);
    let trimmed = trimmed.strip_suffix('/').unwrap_or(trimmed);
    for (i, step) in trimmed.split('/').enumerate() {
        if step.is_empty() {
            p.invalid(&at, path, format!("segment[{i}] may not be empty"));
            continue;
        }
        for message in names::dns_subdomain(step, false) {
            p.invalid(&at, path, format!("segment[{i}]: {message}"));
        }
    }
}

/// The port of a service that is called.
pub fn port(s: &Field, p: &mut Problems) {
    let n = s.int("port");
    for message in formats::port_number(n) {
        p.invalid(&s.at("port"), n, format!("port is not valid: {message}"));
    }
}

/// `params`: whether the conditions may speak of a policy's parameters.
pub fn conditions(owner: &Field, params: bool, p: &mut Problems) {
    let names_there = Names::of_requests(params);
    let all = owner.items("matchConditions");
    if all.len() > CONDITIONS_MAX_COUNT {
        p.too_many(&owner.at("matchConditions"), all.len(), CONDITIONS_MAX_COUNT);
    }
    let mut seen = BTreeSet::new();
    for c in all {
        match c.str("expression").trim() {
            "" => p.required(&c.at("expression"), ""),
            _ => {
                names_there.check_trimmed(&c, "expression", Wanted::Bool, p);
            }
        }
        match c.str("name") {
            "" => p.required(&c.at("name"), ""),
            name => {
                invalid_each(p, &c.at("name"), name, names::qualified_name(name));
                if !seen.insert(name) {
                    p.duplicate(&c.at("name"), name);
                }
            }
        }
    }
}

/// What policies of both kinds hold: what they are about, parameters, conditions, variables. Returns what their expressions may speak of.
/// `old`: the policy that is updated; its conditions are not looked at again.
pub fn policy(spec: &Field, old: Option<&Field>, names_there: Names, p: &mut Problems) -> Names {
    let all = spec.items("variables");
    let mut names_there = names_there.with_variables(!all.is_empty());
    optional_enum(spec, "failurePolicy", &["Fail", "Ignore"], p);
    if spec.has("paramKind") {
        param_kind(&spec.get("paramKind"), p);
    }
    let m = spec.get("matchConstraints");
    match m.is_set() {
        false => p.required(m.path(), ""),
        true => {
            matches(&m, p);
            if m.list("resourceRules").is_empty() {
                p.required(&m.at("resourceRules"), "");
            }
        }
    }
    let unchanged = |name: &str| old.is_some_and(|o| same(o.get(name).value(), spec.get(name).value()));
    if !(unchanged("matchConditions") && unchanged("paramKind")) {
        conditions(spec, spec.has("paramKind"), p);
    }
    for v in all {
        variable(&v, &mut names_there, p);
    }
    names_there
}

pub fn matches(m: &Field, p: &mut Problems) {
    optional_enum(m, "matchPolicy", &["Equivalent", "Exact"], p);
    labels::selector(p, &m.get("namespaceSelector"));
    labels::selector(p, &m.get("objectSelector"));
    for list in ["resourceRules", "excludeResourceRules"] {
        m.items(list).iter().for_each(|rule| named_rule(rule, p));
    }
}

fn param_kind(k: &Field, p: &mut Problems) {
    let version = k.str("apiVersion");
    match version {
        "" => p.required(&k.at("apiVersion"), ""),
        _ if version.matches('/').count() > 1 => p.invalid(&k.at("apiVersion"), version, format!("unexpected GroupVersion string: {version}")),
        _ => {
            let (group, version_part) = version.split_once('/').unwrap_or(("", version));
            if !group.is_empty() {
                joined(p, &k.at("apiVersion"), group, "", names::dns_subdomain(group, false));
            }
            match version_part {
                "" => p.invalid(&k.at("apiVersion"), version, "version must be specified"),
                _ => joined(p, &k.at("apiVersion"), version_part, "", names::dns1035_label(version_part, false)),
            }
        }
    }
    match k.str("kind") {
        "" => p.required(&k.at("kind"), ""),
        kind => joined(p, &k.at("kind"), kind, "may have mixed case, but should otherwise match: ", names::dns1035_label(&kind.to_lowercase(), false)),
    }
}

/// All that is wrong with a value, in one problem.
fn joined(p: &mut Problems, at: &Path, value: &str, before: &str, found: Vec<String>) {
    if !found.is_empty() {
        p.invalid(at, value, format!("{before}{}", found.join(",")));
    }
}

fn variable(v: &Field, names_there: &mut Names, p: &mut Problems) {
    match v.str("name") {
        "" => p.required(&v.at("name"), "name is not specified"),
        name if !keles_cel::types::is_identifier(name) => p.invalid(&v.at("name"), name, "must be a valid CEL identifier"),
        _ => {}
    }
    match v.str("expression").trim() {
        "" => p.required(&v.at("expression"), "expression is not specified"),
        _ => names_there.define(v, p),
    }
}

/// A binding of either kind of policy.
pub fn binding(spec: &Field, p: &mut Problems) {
    match spec.str("policyName") {
        "" => p.required(&spec.at("policyName"), ""),
        name => invalid_each(p, &spec.at("policyName"), name, names::dns_subdomain(name, false)),
    }
    if spec.has("paramRef") {
        let param = spec.get("paramRef");
        let (name, has_selector) = (param.str("name"), param.has("selector"));
        if !name.is_empty() {
            invalid_each(p, &param.at("name"), name, names::path_segment(name, false));
        }
        labels::selector(p, &param.get("selector"));
        match (name.is_empty(), has_selector) {
            (true, false) => p.required(param.path(), "one of name or selector must be specified"),
            (false, true) => ["name", "selector"].iter().for_each(|f| p.forbidden(&param.at(f), "name and selector are mutually exclusive")),
            _ => {}
        }
        match param.str("parameterNotFoundAction") {
            "" => p.required(&param.at("parameterNotFoundAction"), ""),
            action => one_of(p, &param.at("parameterNotFoundAction"), action, &["Deny", "Allow"]),
        }
    }
    if spec.has("matchResources") {
        matches(&spec.get("matchResources"), p);
    }
}
