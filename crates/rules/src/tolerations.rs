//! Taints and tolerations.

use k8s_openapi::api::core::v1::{Taint, Toleration};

/// Whether this toleration tolerates this taint: an empty key with `Exists` tolerates everything, an empty effect every effect.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or("");
    let key = toleration.key.as_deref().unwrap_or("");
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    let (want, have) = (toleration.value.as_deref().unwrap_or(""), taint.value.as_deref().unwrap_or(""));
    match toleration.operator.as_deref().unwrap_or("") {
        "" | "Equal" => !key.is_empty() && want == have,
        "Exists" => true,
        "Lt" => number(have).zip(number(want)).is_some_and(|(have, want)| have < want),
        "Gt" => number(have).zip(number(want)).is_some_and(|(have, want)| have > want),
        _ => false,
    }
}
/// The first taint, among those `relevant`, that no toleration tolerates.
pub fn untolerated<'t>(taints: &'t [Taint], tolerations: &[Toleration], relevant: impl Fn(&Taint) -> bool) -> Option<&'t Taint> {
    taints.iter().filter(|taint| relevant(taint)).find(|taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint)))
}

fn number(text: &str) -> Option<i64> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_toleration_matches_by_key_operator_value_and_effect() {
        let taint = |key: &str, value: &str, effect: &str| Taint { key: key.into(), value: Some(value.into()), effect: effect.into(), time_added: None };
        let toleration = |key: &str, operator: &str, value: &str, effect: &str| Toleration {
            key: Some(key.into()),
            operator: Some(operator.into()),
            value: Some(value.into()),
            effect: Some(effect.into()),
            toleration_seconds: None,
        };
        for (toleration, taint, expected) in [
            (toleration("k", "Equal", "v", "NoSchedule"), taint("k", "v", "NoSchedule"), true),
            (toleration("k", "", "v", ""), taint("k", "v", "NoExecute"), true),
            (toleration("k", "Equal", "w", ""), taint("k", "v", "NoSchedule"), false),
            (toleration("k", "Exists", "", "NoExecute"), taint("k", "v", "NoSchedule"), false),
            (toleration("", "Exists", "", ""), taint("anything", "v", "NoExecute"), true),
            (toleration("other", "Exists", "", ""), taint("k", "v", "NoSchedule"), false),
        ] {
            assert_eq!(tolerates(&toleration, &taint), expected, "{toleration:?} {taint:?}");
        }
    }
}
