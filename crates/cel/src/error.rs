//! Why an evaluation gave no value.

use std::sync::Arc;

/// The text is cel-go's, without a position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// The expression's own: no such key, division by zero, … `||` and `&&` may absorb it.
    #[error("{0}")]
    Runtime(Arc<str>),
    /// One evaluation cost more than one may.
    #[error("operation cancelled: actual cost limit exceeded")]
    CostExceeded,
    /// All evaluations together cost more than the budget; no further expression is to be evaluated.
    #[error("validation failed due to running out of cost budget, no further validation rules will be run")]
    BudgetExhausted,
    /// The caller's flag was set.
    #[error("operation interrupted")]
    Interrupted,
}

impl EvalError {
    pub fn new(message: impl AsRef<str>) -> Self {
        EvalError::Runtime(message.as_ref().into())
    }
    pub(crate) fn no_overload() -> Self {
        EvalError::new("no such overload")
    }
    /// The evaluation as a whole is over; nothing absorbs it.
    pub fn is_fatal(&self) -> bool {
        !matches!(self, EvalError::Runtime(_))
    }
}

pub(crate) type Result<T> = std::result::Result<T, EvalError>;
