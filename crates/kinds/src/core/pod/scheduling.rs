//! Where and when a pod may run, and how it resolves names: tolerations, topology spread, gates, DNS, host aliases.

use crate::field::{Field, NOT_POSITIVE, invalid_each, one_of};
use crate::formats;
use crate::labels;
use keles_api::{Path, Problems, names};
use std::collections::BTreeSet;

pub const TAINT_EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];
const NAMESERVERS_MAX_COUNT: usize = 3;
const SEARCHES_MAX_COUNT: usize = 32;
const SEARCHES_MAX_BYTES: usize = 2048;

pub fn tolerations(all: &[Field], p: &mut Problems) {
    for t in all {
        let (key, operator, value, effect) = (t.str("key"), t.str("operator"), t.str("value"), t.str("effect"));
        if !key.is_empty() {
            labels::key(p, &t.at("key"), key);
        }
        if key.is_empty() && operator != "Exists" {
            p.invalid(&t.at("operator"), operator, "operator must be Exists when `key` is empty, which means \"match all values and all keys\"");
        }
        if t.has("tolerationSeconds") && effect != "NoExecute" {
            p.invalid(&t.at("effect"), effect, "effect must be 'NoExecute' when `tolerationSeconds` is set");
        }
        match operator {
            "Equal" | "" => {
                let bad = names::label_value(value);
                if !bad.is_empty() {
                    p.invalid(&t.at("operator"), value, bad.join(";"));
                }
            }
            "Exists" if !value.is_empty() => p.invalid(&t.at("operator"), value, "value must be empty when `operator` is 'Exists'"),
            "Exists" => {}
            // Comparisons need a feature that is off; upstream names them to who asks for one.
            other @ ("Lt" | "Gt") => p.not_supported(&t.at("operator"), other, &["Equal", "Exists", "Lt", "Gt"]),
            other => p.not_supported(&t.at("operator"), other, &["Equal", "Exists"]),
        }
        if !effect.is_empty() {
            one_of(p, &t.at("effect"), effect, TAINT_EFFECTS);
        }
    }
}

pub fn topology_spread(spec: &Field, p: &mut Problems) {
    let all = spec.items("topologySpreadConstraints");
    for (i, c) in all.iter().enumerate() {
        if c.int("maxSkew") <= 0 {
            p.invalid(&c.at("maxSkew"), c.int("maxSkew"), NOT_POSITIVE);
        }
        let (key, action) = (c.str("topologyKey"), c.str("whenUnsatisfiable"));
        if key.is_empty() {
            p.required(&c.at("topologyKey"), "can not be empty");
        }
        one_of(p, &c.at("whenUnsatisfiable"), action, &["DoNotSchedule", "ScheduleAnyway"]);
        // Of two equal ones the first is named.
        if all[i + 1..].iter().any(|later| (later.str("topologyKey"), later.str("whenUnsatisfiable")) == (key, action)) {
            p.duplicate(&c.at("{topologyKey, whenUnsatisfiable}"), format!("{{{key}, {action}}}"));
        }
        min_domains(c, action, p);
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            if let Some(value) = c.opt_str(policy) {
                one_of(p, &c.at(policy), value, &["Honor", "Ignore"]);
            }
        }
        spread_label_keys(c, p);
        labels::selector(p, &c.get("labelSelector"));
    }
}

fn min_domains(c: &Field, action: &str, p: &mut Problems) {
    let Some(n) = c.opt_int("minDomains") else { return };
    if n <= 0 {
        p.invalid(&c.at("minDomains"), n, NOT_POSITIVE);
    }
    if action != "DoNotSchedule" {
        p.invalid(&c.at("minDomains"), n, format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}"));
    }
}

fn spread_label_keys(c: &Field, p: &mut Problems) {
    let keys = c.items("matchLabelKeys");
    if !keys.is_empty() && !c.has("labelSelector") {
        return p.forbidden(&c.at("matchLabelKeys"), "must not be specified when labelSelector is not set");
    }
    for key in keys {
        labels::key(p, key.path(), key.text());
    }
    super::affinity::keys_of_both(c, p);
}

pub fn readiness_gates(spec: &Field, p: &mut Problems) {
    for gate in spec.items("readinessGates") {
        invalid_each(p, &gate.at("conditionType"), gate.str("conditionType"), names::qualified_name(gate.str("conditionType")));
    }
}

pub fn gates(spec: &Field, p: &mut Problems) {
    let mut seen = BTreeSet::new();
    for gate in spec.items("schedulingGates") {
        invalid_each(p, gate.path(), gate.str("name"), names::qualified_name(gate.str("name")));
        if !seen.insert(gate.str("name")) {
            p.duplicate(gate.path(), gate.str("name"));
        }
    }
}

pub fn host_aliases(spec: &Field, p: &mut Problems) {
    for alias in spec.items("hostAliases") {
        invalid_each(p, &alias.at("ip"), alias.str("ip"), formats::ip(alias.str("ip")));
        for name in alias.items("hostnames") {
            invalid_each(p, name.path(), name.text(), names::dns_subdomain(name.text(), false));
        }
    }
}

pub fn dns(spec: &Field, p: &mut Problems) {
    let config = spec.get("dnsConfig");
    if spec.str("dnsPolicy") == "None" {
        if !config.is_set() {
            p.required(config.path(), "must provide `dnsConfig` when `dnsPolicy` is None");
            return;
        }
        if config.list("nameservers").is_empty() {
            p.required(&config.at("nameservers"), "must provide at least one DNS nameserver when `dnsPolicy` is None");
            return;
        }
    }
    let servers = config.items("nameservers");
    if servers.len() > NAMESERVERS_MAX_COUNT {
        p.invalid(&config.at("nameservers"), config.get("nameservers").value().clone(), format!("must not have more than {NAMESERVERS_MAX_COUNT} nameservers"));
    }
    for server in servers {
        invalid_each(p, server.path(), server.text(), formats::ip(server.text()));
    }
    searches(&config, p);
    for option in config.items("options") {
        if option.str("name").is_empty() {
            p.required(option.path(), "must not be empty");
        }
    }
}

fn searches(config: &Field, p: &mut Problems) {
    let (at, all) = (config.at("searches"), config.items("searches"));
    let whole = || config.get("searches").value().clone();
    if all.len() > SEARCHES_MAX_COUNT {
        p.invalid(&at, whole(), format!("must not have more than {SEARCHES_MAX_COUNT} search paths"));
    }
    if config.strings("searches").join(" ").len() > SEARCHES_MAX_BYTES {
        p.invalid(&at, whole(), format!("must not have more than {SEARCHES_MAX_BYTES} characters (including spaces) in the search list"));
    }
    for search in all {
        search_path(p, search.path(), search.text());
    }
}

/// A domain that may end in a dot and may hold names with underscores (SRV records); `.` alone is the root.
fn search_path(p: &mut Problems, at: &Path, search: &str) {
    if search == "." {
        return;
    }
    let domain = search.strip_suffix('.').unwrap_or(search);
    invalid_each(p, at, domain, formats::dns_subdomain_with_underscores(domain));
}
