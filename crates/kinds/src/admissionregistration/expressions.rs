//! Expressions of webhooks and policies: what they may speak of, and what is wrong with one (KEP-3488, KEP-3716, KEP-3962).
//!
//! Entry points: [`Names`] by the place an expression stands at, [`Names::check`].

use crate::field::Field;
use keles_api::{Path, Problems};
use keles_cel::uses::Admission;
use keles_cel::{Program, Type};

/// What an expression must evaluate to.
#[derive(Clone, Copy)]
pub enum Wanted {
    Anything,
    Bool,
    Text,
    TextOrNull,
    /// `Object{…}`
    Object,
    /// A list of `JSONPatch{…}`
    Patches,
}

impl Wanted {
    fn fits(self, ty: &Type) -> bool {
        let named = |ty: &Type, name: &str| matches!(ty, Type::Object(o) if o.name == name);
        match self {
            Wanted::Anything => true,
            Wanted::Bool => ty == &Type::Bool,
            Wanted::Text => ty == &Type::String,
            Wanted::TextOrNull => ty == &Type::String || ty == &Type::Null,
            Wanted::Object => named(ty, "Object"),
            Wanted::Patches => matches!(ty, Type::List(item) if named(item, "JSONPatch")),
        }
    }
    fn text(self) -> &'static str {
        match self {
            Wanted::Anything => "",
            Wanted::Bool => "must evaluate to bool",
            Wanted::Text => "must evaluate to string",
            Wanted::TextOrNull => "must evaluate to one of [string null_type]",
            Wanted::Object => "must evaluate to Object",
            Wanted::Patches => "must evaluate to list(JSONPatch)",
        }
    }
}

/// The names of one place.
#[derive(Clone, Default)]
pub struct Names {
    params: bool,
    authorizer: bool,
    constructors: bool,
    /// Of the policy, in the order they stand there.
    variables: Option<Vec<(String, Type)>>,
}

impl Names {
    /// The request, its objects and the authorizer; `params` where a policy has a kind of them.
    pub fn of_requests(params: bool) -> Self {
        Names { params, authorizer: true, ..Names::default() }
    }
    /// With `variables`, which are there once a policy has any.
    pub fn with_variables(self, any: bool) -> Self {
        Names { variables: any.then(Vec::new), ..self }
    }
    /// With what mutations construct.
    pub fn with_constructors(self) -> Self {
        Names { constructors: true, ..self }
    }
    /// As messages see them.
    pub fn without_authorizer(self) -> Self {
        Names { authorizer: false, ..self }
    }

    /// Compiles the expression in a field, which is known to hold one.
    pub fn check(&self, of: &Field, name: &str, wanted: Wanted, p: &mut Problems) -> Option<Program> {
        self.compile(&of.at(name), of.str(name), wanted, p)
    }

    /// As [`Names::check`] of the expression without the space around it: so upstream compiles, and shows, conditions.
    pub fn check_trimmed(&self, of: &Field, name: &str, wanted: Wanted, p: &mut Problems) -> Option<Program> {
        self.compile(&of.at(name), of.str(name).trim(), wanted, p)
    }

    fn compile(&self, at: &Path, text: &str, wanted: Wanted, p: &mut Problems) -> Option<Program> {
        let there = Admission { params: self.params, authorizer: self.authorizer, constructors: self.constructors, variables: self.variables.as_deref() };
        match there.environment().compile(text) {
            Err(issues) => p.invalid(at, text, format!("compilation failed: {issues}")),
            Ok(program) if !wanted.fits(program.result()) => p.invalid(at, text, wanted.text()),
            Ok(program) => return Some(program),
        }
        None
    }

    /// A variable of a policy: later expressions may use it, whatever is wrong with it.
    pub fn define(&mut self, v: &Field, p: &mut Problems) {
        let program = self.check(v, "expression", Wanted::Anything, p);
        let ty = program.map_or(Type::Dyn, |program| program.result().clone());
        if let Some(all) = &mut self.variables {
            all.push((v.str("name").to_owned(), ty));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(names: &Names, text: &str, wanted: Wanted) -> String {
        let mut p = Problems::new();
        names.compile(&Path::new("e"), text, wanted, &mut p);
        if p.is_empty() { String::new() } else { p.aggregate() }
    }

    #[test]
    fn expressions_speak_of_the_request() {
        let names = Names::of_requests(false);
        for good in ["object.metadata.name != 'x'", "request.userInfo.username == 'a'", "authorizer.requestResource.check('get').allowed()", "has(namespaceObject.metadata.labels)"]
        {
            assert_eq!(said(&names, good, Wanted::Bool), "", "{good}");
        }
        assert!(said(&names, "params.x == 1", Wanted::Bool).contains("undeclared reference to 'params'"));
        assert!(said(&names, "request.nope == 1", Wanted::Bool).contains("undefined field 'nope'"));
        assert!(said(&names, "'a'", Wanted::Bool).ends_with("must evaluate to bool"));
        let (condition, mut p) = (serde_json::json!({"expression": "  other "}), Problems::new());
        names.check_trimmed(&Field::new(&condition, Path::new("c")), "expression", Wanted::Bool, &mut p);
        assert!(p.aggregate().starts_with("c.expression: Invalid value: \"other\": compilation failed: ERROR: <input>:1:1: undeclared reference"), "{}", p.aggregate());
        assert_eq!(said(&Names::of_requests(true), "params.x == 1", Wanted::Bool), "");
    }
}
