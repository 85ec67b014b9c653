//! NodeRestriction: a node changes only itself and pods bound to it.

use super::is;
use async_trait::async_trait;
use keles_api::{Object, Status};
use keles_auth::node::node_name;
use keles_registry::{Admission, Attributes, Operation};

pub struct NodeRestriction;

#[async_trait]
impl Admission for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }
    fn handles(&self, a: &Attributes<'_>) -> bool {
        node_name(&a.request.user).is_some() && a.info.served[0].group.is_empty() && matches!(a.info.plural, "pods" | "nodes")
    }
    async fn validate(&self, a: &Attributes<'_>, object: Option<&Object>, _: &mut Vec<String>) -> Result<(), Status> {
        let Some(node) = node_name(&a.request.user) else { return Ok(()) };
        let (plural, name) = (a.info.plural, object.map_or(a.request.name.as_str(), Object::name));
        let refuse = |why: String| Err(Status::forbidden("", plural, name, why));
        if is(a, "", "nodes") || plural == "nodes" {
            let own = object.map_or(a.request.name == node, |o| o.name() == node);
            return if own { Ok(()) } else { refuse(format!("node \"{node}\" is not allowed to modify node \"{name}\"")) };
        }
        match a.operation {
            Operation::Create if a.request.subresource.is_empty() => {
                let mirror = object.is_some_and(|o| o.annotation("kubernetes.io/config.mirror").is_some());
                if !mirror {
                    return refuse(format!("pod does not have \"kubernetes.io/config.mirror\" annotation, node \"{node}\" can only create mirror pods"));
                }
                bound(object, node).or_else(|()| refuse(format!("node \"{node}\" can only create pods with spec.nodeName set to itself")))
            }
            Operation::Delete => bound(a.old, node).or_else(|()| refuse(format!("node \"{node}\" can only delete pods with spec.nodeName set to itself"))),
            Operation::Update => bound(a.old, node).or_else(|()| refuse(format!("node \"{node}\" can only update pod status for pods with spec.nodeName set to itself"))),
            _ => Ok(()),
        }
    }
}

/// Whether the pod runs on this node. A pod that is not known here is left to the registry's own answer.
fn bound(pod: Option<&Object>, node: &str) -> Result<(), ()> {
    if pod.is_none_or(|p| p.str_at(&["spec", "nodeName"]) == node) { Ok(()) } else { Err(()) }
}
