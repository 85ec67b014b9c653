//! DefaultTolerationSeconds: pods stay five minutes on a node that is not ready or out of reach, unless they say otherwise.

use super::{is, list, list_mut};
use async_trait::async_trait;
use keles_api::{Object, Status};
use keles_registry::{Admission, Attributes, Operation};
use serde_json::json;

pub struct DefaultTolerationSeconds;

const SECONDS: i64 = 300;
const KEYS: &[&str] = &["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

#[async_trait]
impl Admission for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }
    fn handles(&self, a: &Attributes<'_>) -> bool {
        matches!(a.operation, Operation::Create | Operation::Update) && is(a, "", "pods")
    }
    fn mutates(&self) -> bool {
        true
    }
    async fn mutate(&self, _: &Attributes<'_>, pod: &mut Object, _: &mut Vec<String>) -> Result<(), Status> {
        for key in KEYS {
            let text = |t: &serde_json::Value, f: &str| t[f].as_str().unwrap_or_default().to_owned();
            let tolerated =
                list(pod.at(&["spec", "tolerations"])).any(|t| (text(t, "key").is_empty() || text(t, "key") == *key) && matches!(text(t, "effect").as_str(), "" | "NoExecute"));
            if !tolerated && pod.0["spec"].is_object() {
                list_mut(&mut pod.0["spec"], "tolerations").push(json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS}));
            }
        }
        Ok(())
    }
}
