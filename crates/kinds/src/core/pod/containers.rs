//! Containers of a pod: regular, init and ephemeral ones, their ports, mounts and policies.

use super::{env, handlers, mounts, resources, security};
use crate::field::{Field, invalid_each, one_of, required_one_of};
use crate::formats;
use keles_api::{Problems, names};
use std::collections::BTreeSet;

pub const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
const RESTART_RULES_MAX_COUNT: usize = 20;
const EXIT_CODES_MAX_COUNT: usize = 255;

/// What a container's checks need to know of its pod.
pub struct Scope<'a> {
    /// Good volumes by name; a mount of a bad one is not found, as upstream has it.
    volumes: Vec<Field<'a>>,
    claims: BTreeSet<&'a str>,
    restart_policy: &'a str,
    grace_seconds: i64,
    host_users: bool,
}

impl<'a> Scope<'a> {
    pub fn of(spec: &Field<'a>, volumes: Vec<Field<'a>>, claims: BTreeSet<&'a str>) -> Self {
        Scope {
            volumes,
            claims,
            restart_policy: spec.str("restartPolicy"),
            grace_seconds: spec.int("terminationGracePeriodSeconds"),
            host_users: spec.opt_bool("hostUsers").unwrap_or(true),
        }
    }
}

/// Every container: init, regular, ephemeral.
pub fn all<'a>(spec: &Field<'a>) -> Vec<Field<'a>> {
    ["initContainers", "containers", "ephemeralContainers"].iter().flat_map(|l| spec.items(l)).collect()
}

pub fn regular(spec: &Field, scope: &Scope, p: &mut Problems) {
    let all = spec.items("containers");
    if all.is_empty() {
        p.required(&spec.at("containers"), "");
        return;
    }
    let mut seen = BTreeSet::new();
    for c in &all {
        common(c, scope, p);
        if !seen.insert(c.str("name")) {
            p.duplicate(&c.at("name"), c.str("name"));
        }
        long_running(c, scope, p);
        restart(c, p);
    }
    unique_host_ports(&all, p);
}

/// Lifecycle hooks and probes, which run-to-completion containers have not.
fn long_running(c: &Field, scope: &Scope, p: &mut Problems) {
    handlers::lifecycle(c, scope.grace_seconds, p);
    handlers::liveness(c, "livenessProbe", scope.grace_seconds, p);
    handlers::readiness(c, scope.grace_seconds, p);
    handlers::liveness(c, "startupProbe", scope.grace_seconds, p);
}

pub fn init(spec: &Field, scope: &Scope, p: &mut Problems) {
    let mut seen: BTreeSet<&str> = spec.list("containers").iter().filter_map(|c| c["name"].as_str()).collect();
    for c in spec.items("initContainers") {
        common(&c, scope, p);
        let restarts = c.str("restartPolicy") == "Always";
        restart(&c, p);
        if !c.str("name").is_empty() && !seen.insert(c.str("name")) {
            p.duplicate(&c.at("name"), c.str("name"));
        }
        unique_host_ports(std::slice::from_ref(&c), p);
        if restarts {
            long_running(&c, scope, p);
        } else {
            only_for_sidecars(&c, p);
            for policy in c.items("resizePolicy").iter().filter(|policy| policy.str("restartPolicy") == "RestartContainer") {
                p.invalid(&policy.at("restartPolicy"), "RestartContainer", "must not be set to 'RestartContainer' for non-sidecar initContainers");
            }
        }
    }
}

/// The container's own policy, and rules by exit code beside it.
fn restart(c: &Field, p: &mut Problems) {
    let rules = c.items("restartPolicyRules");
    match c.opt_str("restartPolicy") {
        Some(policy) => one_of(p, &c.at("restartPolicy"), policy, &["Always", "Never", "OnFailure"]),
        None if !rules.is_empty() => p.required(&c.at("restartPolicy"), "must specify restartPolicy when restart rules are used"),
        None => {}
    }
    if rules.len() > RESTART_RULES_MAX_COUNT {
        p.too_many(&c.at("restartPolicyRules"), rules.len(), RESTART_RULES_MAX_COUNT);
    }
    for rule in rules {
        one_of(p, &rule.at("action"), rule.str("action"), &["Restart", "RestartAllContainers"]);
        let codes = rule.get("exitCodes");
        if !codes.is_set() {
            p.required(codes.path(), "must be specified");
            continue;
        }
        one_of(p, &codes.at("operator"), codes.str("operator"), &["In", "NotIn"]);
        if codes.list("values").len() > EXIT_CODES_MAX_COUNT {
            p.too_many(&codes.at("values"), codes.list("values").len(), EXIT_CODES_MAX_COUNT);
        }
    }
}

fn only_for_sidecars(c: &Field, p: &mut Problems) {
    for name in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        if c.has(name) {
            p.forbidden(&c.at(name), "may not be set for init containers without restartPolicy=Always");
        }
    }
}

/// Fields an ephemeral container may not have.
const NOT_EPHEMERAL: &[&str] = &["ports", "livenessProbe", "readinessProbe", "startupProbe", "resources", "lifecycle", "resizePolicy", "restartPolicy", "restartPolicyRules"];

pub fn ephemeral(spec: &Field, scope: &Scope, p: &mut Problems) {
    let others = ["containers", "initContainers"].iter().flat_map(|l| spec.list(l)).filter_map(|c| c["name"].as_str());
    let mut seen: BTreeSet<&str> = others.collect();
    for c in spec.items("ephemeralContainers") {
        common(&c, scope, p);
        if !seen.insert(c.str("name")) {
            p.duplicate(&c.at("name"), c.str("name"));
        }
        if c.str("image").trim() != c.str("image") {
            p.invalid(&c.at("image"), c.str("image"), "must not have leading or trailing whitespace");
        }
        let target = c.str("targetContainerName");
        let of_target = |x: &serde_json::Value| x["name"].as_str() == Some(target);
        if !target.is_empty() && !spec.list("containers").iter().chain(spec.list("initContainers")).any(of_target) {
            p.not_found(&c.at("targetContainerName"), target);
        }
        for name in NOT_EPHEMERAL.iter().filter(|n| !crate::field::same(c.get(n).value(), &serde_json::Value::Null)) {
            p.forbidden(&c.at(name), "cannot be set for an Ephemeral Container");
        }
        for m in c.items("volumeMounts") {
            for sub in ["subPath", "subPathExpr"].iter().filter(|s| !m.str(s).is_empty()) {
                p.forbidden(&m.at(sub), "cannot be set for an Ephemeral Container");
            }
        }
    }
}

/// What holds for every container.
fn common(c: &Field, scope: &Scope, p: &mut Problems) {
    match c.str("name") {
        "" => p.required(&c.at("name"), ""),
        name => invalid_each(p, &c.at("name"), name, names::dns_label(name, false)),
    }
    if c.str("image").is_empty() {
        p.required(&c.at("image"), "");
    }
    required_one_of(p, &c.at("terminationMessagePolicy"), c.str("terminationMessagePolicy"), &["File", "FallbackToLogsOnError"]);
    ports(c, p);
    env::variables(c, p);
    env::sources(c, p);
    mounts::mounts(c, &scope.volumes, p);
    mounts::devices(c, &scope.volumes, p);
    required_one_of(p, &c.at("imagePullPolicy"), c.str("imagePullPolicy"), PULL_POLICIES);
    resources::container(&c.get("resources"), &scope.claims, p);
    resize_policy(c, scope.restart_policy, p);
    security::container(&c.get("securityContext"), scope.host_users, p);
}

fn ports(c: &Field, p: &mut Problems) {
    let mut seen = BTreeSet::new();
    for port in c.items("ports") {
        let name = port.str("name");
        if !name.is_empty() {
            let bad = formats::port_name(name);
            if bad.is_empty() && !seen.insert(name) {
                p.duplicate(&port.at("name"), name);
            }
            invalid_each(p, &port.at("name"), name, bad);
        }
        match port.int("containerPort") {
            0 => p.required(&port.at("containerPort"), ""),
            n => formats::port_number(n).into_iter().for_each(|m| p.invalid(&port.at("containerPort"), n, m)),
        }
        let host = port.int("hostPort");
        if host != 0 {
            formats::port_number(host).into_iter().for_each(|m| p.invalid(&port.at("hostPort"), host, m));
        }
        required_one_of(p, &port.at("protocol"), port.str("protocol"), &["SCTP", "TCP", "UDP"]);
    }
}

/// No two containers may take the same port of the same host address.
fn unique_host_ports(containers: &[Field], p: &mut Problems) {
    let mut seen = BTreeSet::new();
    for port in containers.iter().flat_map(|c| c.items("ports")).filter(|port| port.int("hostPort") != 0) {
        let key = format!("{}/{}/{}", port.str("protocol"), port.str("hostIP"), port.int("hostPort"));
        if !seen.insert(key.clone()) {
            p.duplicate(&port.at("hostPort"), key);
        }
    }
}

/// On the host's network a container port is the host's port; in a template the host's may be left to the pod's defaults.
pub fn host_network_ports(spec: &Field, is_pod: bool, p: &mut Problems) {
    if !spec.bool("hostNetwork") {
        return;
    }
    for port in spec.items("containers").iter().flat_map(|c| c.items("ports")) {
        let host = port.int("hostPort");
        if (is_pod || host != 0) && host != port.int("containerPort") {
            p.invalid(&port.at("hostPort"), host, "must match `containerPort` when `hostNetwork` is true");
        }
    }
}

fn resize_policy(c: &Field, pod_restart_policy: &str, p: &mut Problems) {
    let at = c.at("resizePolicy");
    let mut seen = BTreeSet::new();
    for policy in c.items("resizePolicy") {
        let (resource, restart) = (policy.str("resourceName"), policy.str("restartPolicy"));
        if !seen.insert(resource) {
            p.duplicate(policy.path(), resource);
        }
        required_one_of(p, &at, resource, &["cpu", "memory"]);
        required_one_of(p, &at, restart, &["NotRequired", "RestartContainer"]);
        if pod_restart_policy == "Never" && restart != "NotRequired" {
            p.invalid(&at, restart, "must be 'NotRequired' when pod `restartPolicy` is 'Never'");
        }
    }
}
