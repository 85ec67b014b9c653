//! What a Service says in vain, or in an unusual way.

use super::validate::{TOPOLOGY_HINTS, TOPOLOGY_MODE};
use crate::field::Field;
use crate::ip;
use keles_api::Object;

pub fn service(o: &Object, w: &mut Vec<String>) {
    let root = Field::root(o);
    let spec = root.get("spec");
    if root.get("metadata").get("annotations").has(TOPOLOGY_HINTS) {
        w.push(format!("annotation {TOPOLOGY_HINTS} is deprecated, please use {TOPOLOGY_MODE} instead"));
    }
    let headless = spec.str("type") == "ClusterIP" && spec.str("clusterIP") == "None";
    let has_external = !spec.list("externalIPs").is_empty();
    let named = spec.str("type") == "ExternalName";
    if !named && !matches!(spec.str("clusterIP"), "" | "None") {
        spec.items("clusterIPs").iter().for_each(|one| ip::warn(w, one.path(), one.text()));
    }
    let mut say = |when: bool, text: &str| {
        if when {
            w.push(text.to_owned());
        }
    };
    say(headless && !spec.str("loadBalancerIP").is_empty(), "spec.loadBalancerIP is ignored for headless services");
    say(headless && has_external, "spec.externalIPs is ignored for headless services");
    say(headless && spec.str("sessionAffinity") != "None", "spec.SessionAffinity is ignored for headless services");
    spec.items("externalIPs").iter().for_each(|one| ip::warn(w, one.path(), one.text()));
    if has_external && !headless && !named {
        w.push("spec.externalIPs is deprecated and may no longer be implemented in some clusters".into());
    }
    if !spec.str("loadBalancerIP").is_empty() {
        ip::warn(w, &spec.at("loadBalancerIP"), spec.str("loadBalancerIP"));
    }
    spec.items("loadBalancerSourceRanges").iter().for_each(|one| ip::warn_cidr(w, one.path(), one.text()));
    if named && has_external {
        w.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".into());
    }
    if !named && !spec.str("externalName").is_empty() {
        w.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".into());
    }
    if spec.str("trafficDistribution") == "PreferClose" {
        w.push("spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".into());
    }
}

/// What is odd about the addresses that a load balancer has given.
pub fn status(o: &Object, w: &mut Vec<String>) {
    for one in Field::root(o).get("status").get("loadBalancer").items("ingress") {
        ip::warn(w, one.path(), one.str("ip"));
    }
}
