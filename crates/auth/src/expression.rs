//! CEL expressions of configuration files: compiled at the start, where a mistake refuses it with the field's path.

use keles_cel::{Activation, Budget, Environment, Program, Type, limits, uses};
use serde_json::Value;

#[derive(Debug, Clone, thiserror::Error)]
#[error("{path}: Invalid value: {text:?}: compilation failed: {why}")]
pub struct ExpressionError {
    /// Field path in the configuration.
    pub path: String,
    pub text: String,
    pub why: String,
}

/// What an expression may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// `claims` of a token, a map.
    Claims,
    /// `user`, as mapped.
    User,
    /// `request`, the spec of a SubjectAccessReview.
    Request,
}

impl Over {
    fn variable(self) -> &'static str {
        match self {
            Over::Claims => "claims",
            Over::User => "user",
            Over::Request => "request",
        }
    }
    fn environment(self) -> Environment {
        match self {
            Over::Claims => uses::authentication_claims(),
            Over::User => uses::authentication_user(),
            Over::Request => uses::authorization_request(),
        }
    }
}

/// A compiled expression.
#[derive(Clone)]
pub struct Expression {
    over: Over,
    program: Program,
}

impl std::fmt::Debug for Expression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Expression({:?})", self.over)
    }
}

impl Expression {
    /// Compiles `text`, found at `path`.
    pub fn compile(path: &str, text: &str, over: Over) -> Result<Expression, ExpressionError> {
        let failed = |why: String| ExpressionError { path: path.into(), text: text.into(), why };
        let program = over.environment().compile(text).map_err(|e| failed(e.to_string()))?;
        Ok(Expression { over, program })
    }
    /// The same, for an expression that must say yes or no.
    pub fn compile_condition(path: &str, text: &str, over: Over) -> Result<Expression, ExpressionError> {
        let e = Expression::compile(path, text, over)?;
        if e.program.returns(&Type::Bool) {
            return Ok(e);
        }
        Err(ExpressionError { path: path.into(), text: text.into(), why: "must evaluate to bool".into() })
    }
    /// The value over what it may name.
    pub fn evaluate(&self, value: &Value) -> Result<Value, String> {
        let names = Activation::new().bind(self.over.variable(), keles_cel::Value::json(value));
        let made = self.program.eval(&names, &mut Budget::new(limits::MATCH_CONDITIONS_COST_BUDGET)).map_err(|e| e.to_string())?;
        made.to_json().ok_or_else(|| format!("the result is a {}, which is no JSON", made.type_name()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn expressions_read_what_they_are_over_and_nothing_else() {
        let e = Expression::compile("f", "'x:' + claims.sub", Over::Claims).expect("good");
        assert_eq!(e.evaluate(&json!({"sub": "jane"})), Ok(json!("x:jane")));
        assert!(e.evaluate(&json!({})).is_err_and(|e| e.contains("no such key")));
        let e = Expression::compile("jwt[0].x", "user.name", Over::Claims).expect_err("another variable").to_string();
        assert!(e.starts_with("jwt[0].x: Invalid value") && e.contains("undeclared reference"), "{e}");
        assert!(Expression::compile_condition("f", "1 + 1", Over::User).is_err_and(|e| e.why == "must evaluate to bool"));
        let e = Expression::compile_condition("f", "!user.username.startsWith('system:')", Over::User).expect("good");
        assert_eq!(e.evaluate(&json!({"username": "system:x", "groups": [], "uid": "", "extra": {}})), Ok(json!(false)));
    }
}
