//! What webhooks and admission policies share: which requests a rule means, what is shown of a request, and conditions on it in CEL.
//!
//! Sources: the API of admissionregistration.k8s.io/v1 and admission.k8s.io/v1; KEP-3488, KEP-3716.

pub mod conditions;
pub mod rules;
pub mod subject;

/// Failure policy of a hook or policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    Fail,
    Ignore,
}

impl OnFailure {
    /// `failurePolicy`; upstream's default is Fail.
    pub fn parse(text: &str) -> Self {
        if text == "Ignore" { OnFailure::Ignore } else { OnFailure::Fail }
    }
}
