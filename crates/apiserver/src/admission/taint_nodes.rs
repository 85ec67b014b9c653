//! TaintNodesByCondition: a new node takes no pods until the node lifecycle controller has seen it Ready.

use super::{is, list, list_mut};
use async_trait::async_trait;
use keles_api::{Object, Status};
use keles_registry::{Admission, Attributes, Operation};
use serde_json::json;

pub struct TaintNodesByCondition;

const NOT_READY: &str = "node.kubernetes.io/not-ready";

#[async_trait]
impl Admission for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }
    fn handles(&self, a: &Attributes<'_>) -> bool {
        a.operation == Operation::Create && is(a, "", "nodes")
    }
    fn mutates(&self) -> bool {
        true
    }
    async fn mutate(&self, _: &Attributes<'_>, node: &mut Object, _: &mut Vec<String>) -> Result<(), Status> {
        let tainted = list(node.at(&["spec", "taints"])).any(|t| t["key"] == NOT_READY && t["effect"] == "NoSchedule");
        if !tainted {
            list_mut(&mut node.0["spec"], "taints").push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
        }
        Ok(())
    }
}
