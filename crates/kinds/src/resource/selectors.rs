//! Selectors of devices: CEL expressions over `device`.

use crate::field::Field;
use crate::resource::identifiers::each;
use keles_api::{Path, Problems};
use keles_cel::types::Shape;
use keles_cel::{Decl, Environment, Type};
use std::sync::{Arc, OnceLock};

pub const SELECTORS_MAX: usize = 32;
const EXPRESSION_MAX_BYTES: usize = 10 << 10;
const COST_MAX: u64 = 1_000_000;
/// Attributes and capacities of a device.
const PROPERTIES_MAX: u64 = 32;

/// `stored`: the expressions are those that the object had, so they are not looked at again.
pub fn validate(of: &Field, stored: bool, p: &mut Problems) {
    each(p, of, "selectors", SELECTORS_MAX, |s, p| {
        let cel = s.get("cel");
        if !cel.is_set() {
            p.required(cel.path(), "");
        } else if !stored {
            expression(p, &cel.at("expression"), cel.str("expression"));
        }
    });
}

fn expression(p: &mut Problems, at: &Path, text: &str) {
    if text.len() > EXPRESSION_MAX_BYTES {
        return p.too_long(at, EXPRESSION_MAX_BYTES);
    }
    match environment().compile(text) {
        Err(issues) => p.invalid(at, text, format!("compilation failed: {issues}")),
        Ok(program) if !program.returns(&Type::Bool) => p.invalid(at, text, format!("must evaluate to bool or the unknown type, not {}", program.result())),
        Ok(program) if program.cost().max > COST_MAX => p.forbidden(at, "too complex, exceeds cost limit"),
        Ok(_) => {}
    }
}

/// `device.driver`, `device.attributes["d.example"].x`, `device.capacity["d.example"].mem`.
fn environment() -> &'static Environment {
    static ENVIRONMENT: OnceLock<Environment> = OnceLock::new();
    ENVIRONMENT.get_or_init(|| {
        let by_domain = |value: Type| map(map(Decl::from(value)));
        let device = Decl::object(
            "kubernetes.DRADevice",
            [
                ("driver", Decl::string()),
                ("attributes", by_domain(Type::Dyn)),
                ("capacity", by_domain(Type::Opaque("kubernetes.Quantity"))),
                ("allowMultipleAllocations", Decl::from(Type::Bool)),
            ],
        );
        Environment::new().with_extensions().declare("device", Arc::new(device))
    })
}

fn map(value: Decl) -> Decl {
    let ty = Type::map(value.ty.clone());
    Decl { max_elements: PROPERTIES_MAX, shape: Shape::Map(Arc::new(value)), ..Decl::from(ty) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Vec<String> {
        let mut p = Problems::new();
        expression(&mut p, &Path::new("e"), text);
        p.iter().map(|p| p.detail.clone()).collect()
    }

    #[test]
    fn selectors_are_compiled() {
        for good in [
            "device.driver == 'd.example'",
            "device.attributes['d.example'].x == 1",
            "device.capacity['d.example'].mem.compareTo(quantity('1Gi')) >= 0",
            "device.allowMultipleAllocations",
        ] {
            assert!(said(good).is_empty(), "{good}: {:?}", said(good));
        }
        assert_eq!(said("1"), ["must evaluate to bool or the unknown type, not int"]);
        assert!(said("other")[0].starts_with("compilation failed: ERROR: <input>:1:1: undeclared reference to 'other'"));
    }
}
