//! The order of groups and versions in discovery: what upstream gives each built-in group-version, and the rule for all others.
//!
//! Source: kubernetes pkg/controlplane/apiserver/aggregator.go and cmd/kube-apiserver/app/aggregator.go, shown by `kubectl get apiservices`.

use std::cmp::Reverse;

/// Of custom kinds: upstream's crdregistration controller.
const CUSTOM: (i64, i64) = (1000, 100);
/// The group of APIServices themselves comes first and has no APIService.
const FIRST: (i64, i64) = (20_000, 100);

struct Row {
    group: &'static str,
    /// `groupPriorityMinimum`.
    priority: i64,
    /// With their `versionPriority`.
    versions: &'static [(&'static str, i64)],
}

const fn row(group: &'static str, priority: i64, versions: &'static [(&'static str, i64)]) -> Row {
    Row { group, priority, versions }
}

const ROWS: &[Row] = &[
    row("", 18_000, &[("v1", 1)]),
    row("apps", 17_800, &[("v1", 15)]),
    row("events.k8s.io", 17_750, &[("v1", 15)]),
    row("authentication.k8s.io", 17_700, &[("v1", 15)]),
    row("authorization.k8s.io", 17_600, &[("v1", 15)]),
    row("autoscaling", 17_500, &[("v1", 15), ("v2", 30)]),
    row("batch", 17_400, &[("v1", 15)]),
    row("certificates.k8s.io", 17_300, &[("v1", 15), ("v1beta1", 9), ("v1alpha1", 1)]),
    row("networking.k8s.io", 17_200, &[("v1", 15), ("v1beta1", 9)]),
    row("policy", 17_100, &[("v1", 15)]),
    row("rbac.authorization.k8s.io", 17_000, &[("v1", 15)]),
    row("storage.k8s.io", 16_800, &[("v1", 15), ("v1beta1", 9)]),
    row("admissionregistration.k8s.io", 16_700, &[("v1", 15), ("v1beta1", 12), ("v1alpha1", 9)]),
    row("apiextensions.k8s.io", 16_700, &[("v1", 15)]),
    row("scheduling.k8s.io", 16_600, &[("v1", 15), ("v1alpha2", 9)]),
    row("coordination.k8s.io", 16_500, &[("v1", 15), ("v1beta1", 13), ("v1alpha2", 12)]),
    row("node.k8s.io", 16_300, &[("v1", 15)]),
    row("discovery.k8s.io", 16_200, &[("v1", 15)]),
    row("resource.k8s.io", 16_200, &[("v1", 20), ("v1beta2", 15), ("v1beta1", 9), ("v1alpha3", 1)]),
    row("flowcontrol.apiserver.k8s.io", 16_100, &[("v1", 21)]),
    row("internal.apiserver.k8s.io", 16_000, &[("v1alpha1", 9)]),
    row("storagemigration.k8s.io", 15_800, &[("v1beta1", 9)]),
    // A handler of our own, with the figures that metrics-server ships.
    row("metrics.k8s.io", 100, &[("v1beta1", 100)]),
];

/// `groupPriorityMinimum` and `versionPriority` of a group-version without an APIService that says otherwise.
pub fn of(group: &str, version: &str) -> (i64, i64) {
    if group == super::GROUP {
        return FIRST;
    }
    let found = ROWS.iter().find(|r| r.group == group).and_then(|r| Some((r.priority, r.versions.iter().find(|(v, _)| *v == version)?.1)));
    found.unwrap_or(CUSTOM)
}

/// Every built-in group-version that has an APIService.
pub fn built_in() -> impl Iterator<Item = (&'static str, &'static str)> {
    keles_kinds::GROUPS.iter().filter(|(g, _)| *g != super::GROUP).flat_map(|(g, versions)| versions.iter().map(|v| (*g, *v)))
}

/// Puts groups and their versions into discovery's order: by priority, then groups by name and versions by level and number.
pub fn sort(groups: &mut [(String, Vec<String>)], of: impl Fn(&str, &str) -> (i64, i64)) {
    for (g, versions) in groups.iter_mut() {
        versions.sort_by_cached_key(|v| (Reverse(of(g, v).1), keles_custom::priority(v)));
    }
    // The core group has a path of its own.
    let key = |(g, versions): &(String, Vec<String>)| {
        let priority = versions.iter().map(|v| of(g, v).0).max().unwrap_or_default();
        (!g.is_empty(), g != super::GROUP, Reverse(priority), g.clone())
    };
    groups.sort_by_cached_key(key);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_priorities_give_upstreams_order_and_know_every_group() {
        let built_in: Vec<(String, Vec<String>)> = keles_kinds::GROUPS.iter().map(|(g, vs)| ((*g).to_owned(), vs.iter().map(|v| (*v).to_owned()).collect())).collect();
        let mut sorted = built_in.clone();
        sorted.reverse();
        sorted.iter_mut().for_each(|(_, versions)| versions.reverse());
        sort(&mut sorted, of);
        assert_eq!(sorted, built_in);
        let unknown: Vec<_> = super::built_in().filter(|(g, v)| of(g, v) == CUSTOM).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }

    #[test]
    fn a_group_stands_where_its_highest_version_puts_it() {
        let mut groups = vec![("a.example".to_owned(), vec!["v1".to_owned()]), ("b.example".to_owned(), vec!["v1".to_owned(), "v2".to_owned()])];
        sort(&mut groups, |g, v| if (g, v) == ("b.example", "v2") { (2000, 5) } else { (1000, 10) });
        assert_eq!(groups[0], ("b.example".to_owned(), vec!["v1".to_owned(), "v2".to_owned()]), "the group by its best, the versions by their own");
    }
}
