//! The Node authorizer: a node may do what the role `system:node` says, to its own objects and to what its pods need.

use crate::authorizers::Decision;
use crate::rbac::{Reason, Rule};
use crate::{Attributes, NODE_PREFIX, NODES, User, bootstrap};
use std::sync::Arc;

/// What the authorizer must know of pods.
pub trait PodReferences: Send + Sync + 'static {
    /// Whether the object belongs to `node` (`pods`, `volumeattachments`, `resourceslices`) or a pod bound to it needs it (`secrets`,
    /// `configmaps`, `persistentvolumeclaims`, `persistentvolumes`, `serviceaccounts`, `resourceclaims`).
    fn needed(&self, node: &str, resource: &str, namespace: &str, name: &str) -> bool;
}

pub struct NodeAuthorizer {
    rules: Vec<Rule>,
    pods: Arc<dyn PodReferences>,
}

/// The node a user is, if it is one.
pub fn node_name(user: &User) -> Option<&str> {
    user.name.strip_prefix(NODE_PREFIX).filter(|n| !n.is_empty() && user.groups.iter().any(|g| g == NODES))
}

impl NodeAuthorizer {
    pub fn new(pods: Arc<dyn PodReferences>) -> Self {
        NodeAuthorizer { rules: bootstrap::cluster_role("system:node"), pods }
    }

    /// No opinion on users that are no nodes; otherwise allowed, or the reason that ends up in the refusal.
    pub fn decide(&self, a: &Attributes<'_>) -> Decision {
        if !a.user.groups.iter().any(|g| g == NODES) {
            return Decision::NoOpinion(String::new());
        }
        let Some(node) = node_name(a.user) else {
            return Decision::NoOpinion(if a.user.name.starts_with(NODE_PREFIX) { format!("unknown node for user {:?}", a.user.name) } else { String::new() });
        };
        let own = if a.is_resource() { self.own(node, a) } else { Own::Rules };
        match own {
            Own::Yes => Decision::Allow(Reason::Node),
            Own::No(why) => Decision::NoOpinion(why),
            Own::Rules if self.rules.iter().any(|r| r.allows(a)) => Decision::Allow(Reason::Node),
            Own::Rules => Decision::NoOpinion(String::new()),
        }
    }

    /// What upstream's node authorizer says of the resources it knows by name (kubernetes plugin/pkg/auth/authorizer/node).
    fn own(&self, node: &str, a: &Attributes<'_>) -> Own {
        match (a.group, a.resource) {
            ("", "secrets" | "configmaps") => self.related(node, a, &["get", "list", "watch"], "can only read namespaced object of this type"),
            ("", "persistentvolumeclaims") if a.subresource == "status" => match a.verb {
                "update" | "patch" => self.related_object(node, a),
                _ => no("can only update PVC status"),
            },
            ("", "persistentvolumeclaims" | "persistentvolumes") | ("resource.k8s.io", "resourceclaims") | ("storage.k8s.io", "volumeattachments") => {
                self.related(node, a, &["get"], "can only get individual resources of this type")
            }
            ("", "serviceaccounts") if a.subresource == "token" => match a.verb {
                "create" => self.related_object(node, a),
                _ => no("can only create tokens for individual service accounts"),
            },
            ("", "serviceaccounts") => self.related(node, a, &["get"], "can only get individual resources of this type"),
            ("coordination.k8s.io", "leases") => match a.verb {
                _ if a.namespace != "kube-node-lease" => no("can only access leases in the \"kube-node-lease\" system namespace"),
                "get" | "create" | "update" | "patch" | "delete" if a.verb == "create" || a.name == node => Own::Yes,
                "get" | "update" | "patch" | "delete" => no("can only access node lease with the same name as the requesting node"),
                _ => no("can only get, create, update, patch, or delete a node lease"),
            },
            ("storage.k8s.io", "csinodes") => match a.verb {
                _ if !a.subresource.is_empty() => no("cannot authorize CSINode subresources"),
                "get" | "create" | "update" | "patch" | "delete" if a.verb == "create" || a.name == node => Own::Yes,
                "get" | "update" | "patch" | "delete" => no("can only access CSINode with the same name as the requesting node"),
                _ => no("can only get, create, update, patch, or delete a CSINode"),
            },
            ("resource.k8s.io", "resourceslices") => match a.verb {
                _ if !a.subresource.is_empty() => no("cannot authorize ResourceSlice subresources"),
                // Admission holds a node to its own slices when it creates them.
                "create" => Own::Yes,
                "list" | "watch" | "deletecollection" if a.selectors.is_some_and(|s| s.demands("spec.nodeName", node)) => Own::Yes,
                "list" | "watch" | "deletecollection" => no("can only list/watch/deletecollection resourceslices with spec.nodeName field selector"),
                "get" | "update" | "patch" | "delete" => self.related_object(node, a),
                _ => no("can only access resourceslices by known verbs"),
            },
            // The role has this only where the gate ClusterTrustBundle is on; it is what serves the kind, which here is always served.
            ("certificates.k8s.io", "clustertrustbundles") => match a.verb {
                "get" | "list" | "watch" if a.subresource.is_empty() => Own::Yes,
                _ => no("can only get, list and watch ClusterTrustBundles"),
            },
            ("", "nodes") => match (a.subresource, a.verb) {
                ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Own::Yes,
                ("", "get" | "list" | "watch") if a.name == node => Own::Yes,
                ("", "get" | "list" | "watch") if a.name.is_empty() => Own::No(format!("node '{node}' cannot read all nodes, only its own Node object")),
                ("", "get" | "list" | "watch") => Own::No(format!("node '{node}' cannot read '{}', only its own Node object", a.name)),
                _ => Own::No(String::new()),
            },
            ("", "pods") => match (a.subresource, a.verb) {
                ("", "get") => self.related_object(node, a),
                ("", "list" | "watch") if a.selectors.is_some_and(|s| s.demands("spec.nodeName", node)) => Own::Yes,
                ("", "list" | "watch") => no("can only list/watch pods with spec.nodeName field selector"),
                // Admission holds a node to its own pods.
                ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Own::Yes,
                _ => Own::No(String::new()),
            },
            _ => Own::Rules,
        }
    }

    fn related(&self, node: &str, a: &Attributes<'_>, verbs: &[&str], otherwise: &str) -> Own {
        match a {
            _ if !verbs.contains(&a.verb) || a.name.is_empty() => no(otherwise),
            _ if !a.subresource.is_empty() => no("cannot get subresource"),
            _ => self.related_object(node, a),
        }
    }
    fn related_object(&self, node: &str, a: &Attributes<'_>) -> Own {
        if a.name.is_empty() {
            return no("No Object name found");
        }
        if self.pods.needed(node, a.resource, a.namespace, a.name) { Own::Yes } else { Own::No(format!("no relationship found between node '{node}' and this object")) }
    }
}

/// Whether a request is about what belongs to a node.
enum Own {
    Yes,
    No(String),
    /// The role `system:node` alone decides.
    Rules,
}

fn no(why: &str) -> Own {
    Own::No(why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct OneSecret;
    impl PodReferences for OneSecret {
        fn needed(&self, node: &str, resource: &str, namespace: &str, name: &str) -> bool {
            (node, resource, namespace, name) == ("n1", "secrets", "shop", "key")
        }
    }

    #[test]
    fn a_node_reaches_its_own_objects_and_what_its_pods_need() {
        let n = NodeAuthorizer::new(Arc::new(OneSecret));
        let user = crate::user("system:node:n1", &[NODES]);
        let ask = |verb, group, resource, namespace, name| n.decide(&Attributes { verb, group, resource, namespace, name, ..Attributes::of(&user) });
        let may = |verb, group, resource, namespace, name| matches!(ask(verb, group, resource, namespace, name), Decision::Allow(_));
        assert!(may("get", "", "secrets", "shop", "key"));
        let Decision::NoOpinion(why) = ask("get", "", "secrets", "shop", "other") else { panic!("not its secret") };
        assert_eq!(why, "no relationship found between node 'n1' and this object");
        assert!(!may("list", "", "secrets", "", ""));
        assert!(may("update", "coordination.k8s.io", "leases", "kube-node-lease", "n1"));
        assert!(!may("update", "coordination.k8s.io", "leases", "kube-node-lease", "n2"));
        assert!(!may("update", "coordination.k8s.io", "leases", "kube-system", "n1"));
        assert!(may("list", "", "services", "", ""), "by the role");
        assert!(["get", "list", "watch"].iter().all(|verb| may(verb, "certificates.k8s.io", "clustertrustbundles", "", "x")), "what pods trust");
        assert!(!may("update", "certificates.k8s.io", "clustertrustbundles", "", "x"));
        assert!(!may("delete", "apps", "deployments", "shop", "x"));
        assert!(may("get", "", "nodes", "", "n1") && !may("get", "", "nodes", "", "n2") && !may("list", "", "nodes", "", ""));
        let stranger = crate::user("system:node:n1", &[]);
        assert!(matches!(n.decide(&Attributes { verb: "get", resource: "nodes", name: "n1", ..Attributes::of(&stranger) }), Decision::NoOpinion(w) if w.is_empty()));
    }

    #[test]
    fn a_node_lists_the_pods_bound_to_it_only() {
        let n = NodeAuthorizer::new(Arc::new(OneSecret));
        let user = crate::user("system:node:n1", &[NODES]);
        let may = |fields: &str| {
            let selectors = crate::Selectors::parse(fields, "");
            matches!(n.decide(&Attributes { verb: "list", resource: "pods", selectors: selectors.as_ref(), ..Attributes::of(&user) }), Decision::Allow(_))
        };
        assert!(may("spec.nodeName=n1") && may("spec.nodeName=n1,status.phase!=Failed"));
        assert!(!may("") && !may("spec.nodeName=n2") && !may("spec.nodeName!=n1"));
    }
}
