//! The arithmetic of rolling: how many more, how many fewer.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

pub const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
pub const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";

pub fn replicas(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}
pub fn is_rolling(deployment: &Deployment) -> bool {
    let kind = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref()).and_then(|strategy| strategy.type_.as_deref());
    kind != Some("Recreate")
}
/// maxSurge (rounded up) and maxUnavailable (rounded down); both zero would never move, so one may then be missing.
fn fences(deployment: &Deployment) -> (i32, i32) {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref()).and_then(|strategy| strategy.rolling_update.as_ref());
    let quarter = IntOrString::String("25%".into());
    let of = |value: Option<&IntOrString>, up: bool| resolve(value.unwrap_or(&quarter), replicas(deployment), up);
    let surge = of(strategy.and_then(|s| s.max_surge.as_ref()), true);
    let unavailable = of(strategy.and_then(|s| s.max_unavailable.as_ref()), false);
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}
fn resolve(value: &IntOrString, total: i32, up: bool) -> i32 {
    match value {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let scaled = percent * i64::from(total);
            let rounded = if up { (scaled + 99).div_euclid(100) } else { scaled.div_euclid(100) };
            i32::try_from(rounded).unwrap_or(i32::MAX)
        }
    }
}
pub fn max_surge(deployment: &Deployment) -> i32 {
    if is_rolling(deployment) { fences(deployment).0 } else { 0 }
}
pub fn max_unavailable(deployment: &Deployment) -> i32 {
    if !is_rolling(deployment) || replicas(deployment) == 0 {
        return 0;
    }
    fences(deployment).1.min(replicas(deployment))
}

/// How large the newest set may be now, given the pods of all sets.
pub fn new_set_size(deployment: &Deployment, all_pods: i32, new_pods: i32) -> i32 {
    let wanted = replicas(deployment);
    if !is_rolling(deployment) {
        return wanted;
    }
    let room = wanted + max_surge(deployment) - all_pods;
    if room <= 0 { new_pods } else { new_pods + room.min(wanted - new_pods) }
}

/// The share of a set in a change of `to_add` pods, of which `added` are given away already.
pub fn proportion(deployment: &Deployment, set: &ReplicaSet, to_add: i32, added: i32) -> i32 {
    let size = crate::replicaset::replicas(set);
    if size == 0 || to_add == 0 || to_add == added {
        return 0;
    }
    let (share, allowed) = (fraction(deployment, set, size), to_add - added);
    if to_add > 0 { share.min(allowed) } else { share.max(allowed) }
}
fn fraction(deployment: &Deployment, set: &ReplicaSet, size: i32) -> i32 {
    if replicas(deployment) == 0 {
        return -size;
    }
    let now = f64::from(replicas(deployment) + max_surge(deployment));
    let status = deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or(0);
    let before = annotated(set, MAX_REPLICAS).filter(|max| *max != 0).unwrap_or(status);
    if before == 0 {
        return 0;
    }
    (f64::from(size) * now / f64::from(before)).round() as i32 - size
}
/// A count that an earlier run noted on the set.
pub fn annotated(set: &ReplicaSet, key: &str) -> Option<i32> {
    set.metadata.annotations.as_ref()?.get(key)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment(replicas: i32, surge: serde_json::Value, unavailable: serde_json::Value) -> Deployment {
        let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}});
        serde_json::from_value(json!({"metadata": {}, "spec": {"replicas": replicas, "selector": {}, "template": {}, "strategy": strategy}})).expect("a deployment")
    }

    #[test]
    fn surge_rounds_up_unavailable_rounds_down_and_both_zero_gives_way() {
        for (replicas, surge, unavailable, expected) in [
            (10, json!("25%"), json!("25%"), (3, 2)),
            (1, json!("25%"), json!("25%"), (1, 0)),
            (3, json!(0), json!("10%"), (0, 1)),
            (2, json!(1), json!(5), (1, 2)),
            (0, json!("50%"), json!(1), (0, 0)),
        ] {
            let d = deployment(replicas, surge, unavailable);
            assert_eq!((max_surge(&d), max_unavailable(&d)), expected, "{replicas} replicas");
        }
    }

    #[test]
    fn the_new_set_grows_into_the_surge_and_no_further_than_wanted() {
        let d = deployment(10, json!(2), json!(0));
        assert_eq!(new_set_size(&d, 10, 0), 2);
        assert_eq!(new_set_size(&d, 12, 2), 2);
        assert_eq!(new_set_size(&d, 9, 9), 10);
    }
}
