//! Selectors of devices: CEL expressions over `device`.

use crate::field::Field;
use crate::resource::identifiers::each;
use keles_api::Problems;

pub const SELECTORS_MAX: usize = 32;
const EXPRESSION_MAX_BYTES: usize = 10 << 10;

/// `stored`: the expressions are those that the object had, so they are not looked at again.
pub fn validate(of: &Field, stored: bool, p: &mut Problems) {
    each(p, of, "selectors", SELECTORS_MAX, |s, p| {
        let cel = s.get("cel");
        if !cel.is_set() {
            p.required(cel.path(), "");
        } else if !stored && cel.str("expression").len() > EXPRESSION_MAX_BYTES {
            p.too_long(&cel.at("expression"), EXPRESSION_MAX_BYTES);
        }
    });
}
