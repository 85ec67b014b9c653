//! The Node authorizer: a node may do what the role `system:node` says, to its own objects and to what its pods need.

use crate::rbac::{Reason, Rule};
use crate::{Attributes, NODE_PREFIX, NODES, User, bootstrap};
use std::sync::Arc;

/// What the authorizer must know of pods.
pub trait PodReferences: Send + Sync + 'static {
    /// Whether a pod bound to `node` refers to this object (`secrets`, `configmaps`, `persistentvolumeclaims`, `serviceaccounts`, `resourceclaims`).
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

    /// Why a node may; `None` when it may not, or when the user is no node.
    pub fn allows(&self, a: &Attributes<'_>) -> Option<Reason> {
        let node = node_name(a.user)?;
        let allowed = self.rules.iter().any(|r| r.allows(a)) && self.is_its_own(node, a);
        allowed.then_some(Reason::Node)
    }

    fn is_its_own(&self, node: &str, a: &Attributes<'_>) -> bool {
        let reads = matches!(a.verb, "get" | "list" | "watch");
        match (a.group, a.resource) {
            ("", "secrets" | "configmaps" | "persistentvolumeclaims") | ("resource.k8s.io", "resourceclaims") => {
                reads && !a.name.is_empty() && self.pods.needed(node, a.resource, a.namespace, a.name)
            }
            ("", "serviceaccounts") if a.subresource == "token" => self.pods.needed(node, a.resource, a.namespace, a.name),
            ("", "nodes") => reads || a.verb == "create" || a.name == node,
            ("coordination.k8s.io", "leases") => a.namespace == "kube-node-lease" && (a.verb == "create" || a.name == node),
            ("storage.k8s.io", "csinodes") => a.verb == "create" || a.name == node,
            _ => true,
        }
    }
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
        let may = |verb, group, resource, namespace, name| n.allows(&Attributes { user: &user, verb, group, resource, subresource: "", namespace, name, path: "" }).is_some();
        assert!(may("get", "", "secrets", "shop", "key"));
        assert!(!may("get", "", "secrets", "shop", "other"));
        assert!(!may("list", "", "secrets", "", ""));
        assert!(may("update", "coordination.k8s.io", "leases", "kube-node-lease", "n1"));
        assert!(!may("update", "coordination.k8s.io", "leases", "kube-node-lease", "n2"));
        assert!(!may("update", "coordination.k8s.io", "leases", "kube-system", "n1"));
        assert!(may("list", "", "pods", "", ""));
        assert!(!may("delete", "apps", "deployments", "shop", "x"));
        let stranger = crate::user("system:node:n1", &[]);
        assert!(n.allows(&Attributes { user: &stranger, verb: "list", group: "", resource: "pods", subresource: "", namespace: "", name: "", path: "" }).is_none());
    }
}
