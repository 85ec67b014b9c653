//! The Common Expression Language as Kubernetes v1.36 has it: grammar, types, libraries, costs.
//!
//! Pure: no tokio, no IO, no clock. An [`Environment`] says what an expression may name, [`Environment::compile`] gives a [`Program`]
//! (parsed, checked, its cost estimated; cheap to clone, shared between threads, worth keeping), [`Program::eval`] runs it on an
//! [`Activation`] under a [`Budget`]. Values are views into `serde_json` trees. The texts of errors are cel-go's and upstream's, to the
//! letter: [`Issues`] displays as what follows `compilation failed: `, [`EvalError`] as what follows the expression in a Status.
//! Deliberately absent: when an expression is evaluated, and what its failure does; those are the callers' (the five uses below).
//!
//! # Validation rules of CustomResourceDefinitions
//!
//! A declaration of each schema that has rules, from its OpenAPI form; the limits are [`limits::ESTIMATED_COST_PER_RULE`] (the estimate
//! times how often the schema can occur: the product of the bounds of the lists and maps around it, or [`Decl::max_cardinality`] where one
//! has none) and [`limits::ESTIMATED_COST_PER_CRD`]; [`limits::exceeded`] is the message. At run time one budget of
//! [`limits::RUNTIME_COST_BUDGET`] goes through all rules of an object.
//!
//! ```
//! use keles_cel::{Activation, Budget, Decl, Type, Value, uses};
//! let schema = serde_json::json!({"type": "object", "properties": {"replicas": {"type": "integer"}, "my-name": {"type": "string", "maxLength": 10}}});
//! let decl = Decl::from_json_schema(&schema, false).expect("objects have declarations");
//! let rule = uses::validation_rule(&decl, false).compile("self.replicas >= oldSelf.replicas && self.my__dash__name != ''").unwrap();
//! assert!(rule.returns(&Type::Bool) && rule.uses("oldSelf") && rule.cost().max < 20);
//! let (old, new) = (serde_json::json!({"replicas": 2}), serde_json::json!({"replicas": 3, "my-name": "x"}));
//! let mut budget = Budget::default();
//! let names = Activation::new().bind("self", Value::typed(&new, &decl)).bind("oldSelf", Value::typed(&old, &decl));
//! assert_eq!(rule.eval(&names, &mut budget).unwrap().as_bool(), Some(true));
//! ```
//!
//! With `optionalOldSelf`, bind `oldSelf` to `Value::some(…)` or [`Value::NONE`].
//!
//! # ValidatingAdmissionPolicy
//!
//! [`uses::Admission`] makes the environment. Variables are compiled in order, each in an environment with those before it, and bound
//! with [`Activation::variables`]: each is evaluated when first read, at most once.
//!
//! ```
//! use keles_cel::{Activation, Budget, Type, Value, uses::{self, Admission}};
//! let first = Admission { params: true, authorizer: true, variables: Some(&[]), ..Admission::default() };
//! let limit = first.environment().compile("params.?max.orValue(5)").unwrap();
//! let known = [("limit".to_owned(), limit.result().clone())];
//! let policy = Admission { variables: Some(&known), ..first };
//! let rule = policy.environment().compile("object.spec.replicas <= variables.limit && request.operation == 'CREATE'").unwrap();
//! let (object, params, request) = (serde_json::json!({"spec": {"replicas": 4}}), serde_json::json!({}), serde_json::json!({"operation": "CREATE"}));
//! let names = Activation::new()
//!     .bind("object", Value::json(&object))
//!     .bind("oldObject", Value::Null)
//!     .bind("params", Value::json(&params))
//!     .bind("request", Value::typed(&request, &uses::admission_request()))
//!     .variables(vec![("limit".to_owned(), limit)]);
//! assert_eq!(rule.eval(&names, &mut Budget::default()).unwrap().as_bool(), Some(true));
//! ```
//!
//! `authorizer` is [`Value::authorizer`] of the caller's [`Authorizer`], `authorizer.requestResource` is [`Value::resource_check`].
//!
//! # MutatingAdmissionPolicy
//!
//! As above with [`uses::Admission::constructors`]. An apply configuration's result is a constructed object: check it with
//! [`Value::check_type_names`], then take [`Value::to_json`]. A JSON patch's is a list of `JSONPatch`; its JSON has `op`, `path`, and
//! `from` and `value` where set.
//!
//! ```
//! use keles_cel::{Activation, Budget, uses::Admission};
//! let policy = Admission { constructors: true, ..Admission::default() };
//! let apply = policy.environment().compile("Object{metadata: Object.metadata{labels: {'a': 'b'}}}").unwrap();
//! let made = apply.eval(&Activation::new(), &mut Budget::default()).unwrap();
//! made.check_type_names().unwrap();
//! assert_eq!(made.to_json().unwrap(), serde_json::json!({"metadata": {"labels": {"a": "b"}}}));
//! let patch = policy.environment().compile("[JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('a/b'), value: 'x'}]").unwrap();
//! let made = patch.eval(&Activation::new(), &mut Budget::default()).unwrap();
//! assert_eq!(made.to_json().unwrap()[0]["path"], "/metadata/labels/a~1b");
//! ```
//!
//! # Match conditions of webhooks
//!
//! [`uses::Admission::MATCH_CONDITION`], under one budget of [`limits::MATCH_CONDITIONS_COST_BUDGET`] for all of a webhook's. Authorization
//! webhooks have [`uses::authorization_request`].
//!
//! # Selectors of devices, and authentication configuration
//!
//! [`uses::device_selector`] with [`uses::device`], limits [`limits::DEVICE_SELECTOR_COST`] and [`limits::DEVICE_SELECTOR_BYTES`];
//! [`uses::authentication_claims`] and [`uses::authentication_user`].
//!
//! ```
//! use keles_cel::{Activation, Budget, uses};
//! let selector = uses::device_selector().compile("device.attributes['gpu.example'].model == 'a' && device.capacity['gpu.example'].memory.isGreaterThan(quantity('1Gi'))").unwrap();
//! let device = serde_json::json!({"attributes": {"model": {"string": "a"}}, "capacity": {"gpu.example/memory": {"value": "2Gi"}}});
//! let names = Activation::new().bind("device", uses::device("gpu.example", &device));
//! assert_eq!(selector.eval(&names, &mut Budget::default()).unwrap().as_bool(), Some(true));
//! ```

mod ast;
pub mod authorizer;
mod check;
mod cost;
mod environment;
mod error;
mod eval;
mod lexer;
mod library;
pub mod limits;
mod macros;
mod parser;
mod source;
pub mod types;
pub mod uses;
pub mod value;

pub use authorizer::{Authorizer, Check, Decision};
pub use cost::Estimate;
pub use environment::{Activation, Environment, Program};
pub use error::EvalError;
pub use limits::Budget;
pub use source::{Issue, Issues};
pub use types::{Decl, Type};
pub use value::Value;
