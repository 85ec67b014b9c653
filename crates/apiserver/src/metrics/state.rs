//! Figures that are read off the server when somebody asks for them.

use crate::server::Inner;
use keles_observe::metrics::{Collect, Exposition, Shape, alpha, beta, stable};

/// The server as a family of figures.
pub struct State<'a>(pub &'a Inner);

impl Collect for State<'_> {
    fn collect(&self, to: &mut Exposition) {
        let registry = &self.0.registry;
        let kinds = registry.kinds();
        let mut counts: Vec<(String, String, usize)> = kinds
            .iter()
            .map(|k| {
                let i = k.info();
                let group = i.served.first().map_or("", |s| s.group);
                (group.to_owned(), i.plural.to_owned(), registry.peek_all(group, i.plural).len())
            })
            .collect();
        counts.sort();
        to.family(&stable("apiserver_storage_objects", "[DEPRECATED, consider using apiserver_resource_objects instead] Objects stored, by resource."), Shape::Gauge, |w| {
            let mut rows: Vec<(String, usize)> = counts.iter().map(|(g, r, n)| (if g.is_empty() { r.clone() } else { format!("{r}.{g}") }, *n)).collect();
            rows.sort();
            for (resource, n) in rows {
                w.gauge(&["resource"], &[resource], n as f64);
            }
        });
        to.family(&alpha("apiserver_resource_objects", "Objects stored, by group and resource."), Shape::Gauge, |w| {
            for (group, resource, n) in &counts {
                w.gauge(&["group", "resource"], &[group, resource], *n as f64);
            }
        });
        to.family(&alpha("apiserver_watch_cache_resource_version", "Revision of the last change of a resource that its watch cache has seen."), Shape::Gauge, |w| {
            for (group, resource, _) in &counts {
                w.gauge(&["group", "resource"], &[group, resource], registry.changed(group, resource) as f64);
            }
        });
        if let Some(bytes) = registry.store_size_bytes() {
            to.family(&stable("apiserver_storage_size_bytes", "Size of the store's files in bytes, by the store's name."), Shape::Gauge, |w| {
                w.gauge(&["storage_cluster_id"], &["etcd-0"], bytes as f64);
            });
        }
        to.family(&beta("kubernetes_feature_enabled", "Whether a feature is on: 1, or 0."), Shape::Gauge, |w| {
            for f in self.0.config.features.all() {
                w.gauge(&["name", "stage"], &[f.name, f.stage], if f.on { 1.0 } else { 0.0 });
            }
        });
        let version = crate::paths::GIT_VERSION;
        to.family(&alpha("kubernetes_build_info", "1, labelled with what this build is."), Shape::Gauge, |w| {
            let labels = ["build_date", "compiler", "git_commit", "git_tree_state", "git_version", "go_version", "major", "minor", "platform"];
            w.gauge(&labels, &["1970-01-01T00:00:00Z", "rustc", "", "clean", version, "", "1", "36", "linux/amd64"], 1.0);
        });
    }
}
