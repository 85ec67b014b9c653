//! Fields of features that upstream has switched off by default: they are taken out of what a client writes, unless the object had them before.
//!
//! A kind says so in [`crate::Kind::GATED`]: where in the object the rows count from, and the rows. The pipelines take the fields away after
//! defaulting and before the kind's own preparation, as upstream's `dropDisabledFields` do. Deliberately absent: features that are on, and
//! gates that only change a check.

use keles_api::Object;
use serde_json::Value;

/// The fields of one feature gate that is off in v1.36.
#[derive(Clone, Copy, Debug)]
pub struct Gated {
    /// Upstream's name of the gate.
    pub gate: &'static str,
    /// Where the fields stand: names, `[]` for each entry of a list, `{}` for each value of a map: `["containers", "[]", "lifecycle", "stopSignal"]`.
    pub paths: &'static [&'static [&'static str]],
    /// Whether the struct that held a field goes too when nothing else is left in it.
    pub empties: bool,
}

/// Rows, and the place in the object that their paths count from.
pub type GatedAt = (&'static [&'static str], &'static [Gated]);

/// Takes away what is switched off and was not in use before.
pub fn take_away(new: &mut Object, old: Option<&Object>, all: &[GatedAt]) {
    for (place, rows) in all {
        let Some(new) = new.at_mut(place) else { continue };
        let before = old.map(|o| o.at(place));
        for row in rows.iter().filter(|row| !before.is_some_and(|b| in_use(b, row))) {
            for path in row.paths {
                remove(new, path, row.empties);
            }
        }
    }
}

fn in_use(v: &Value, row: &Gated) -> bool {
    row.paths.iter().any(|path| found(v, path))
}

fn found(v: &Value, path: &[&str]) -> bool {
    match path {
        [] => !v.is_null(),
        ["[]", rest @ ..] => v.as_array().into_iter().flatten().any(|v| found(v, rest)),
        ["{}", rest @ ..] => v.as_object().into_iter().flat_map(|m| m.values()).any(|v| found(v, rest)),
        [name, rest @ ..] => v.get(name).is_some_and(|v| found(v, rest)),
    }
}

/// `true` when something went and nothing is left at this place.
fn remove(v: &mut Value, path: &[&str], empties: bool) -> bool {
    match path {
        [] => false,
        ["[]", rest @ ..] => {
            for v in v.as_array_mut().into_iter().flatten() {
                remove(v, rest, empties);
            }
            false
        }
        ["{}", rest @ ..] => {
            for v in v.as_object_mut().into_iter().flat_map(|m| m.values_mut()) {
                remove(v, rest, empties);
            }
            false
        }
        [last] => v.as_object_mut().is_some_and(|m| m.remove(*last).is_some() && m.is_empty()),
        [name, rest @ ..] => {
            let emptied = v.get_mut(*name).is_some_and(|below| remove(below, rest, empties));
            if emptied && empties {
                v.as_object_mut().into_iter().for_each(|m| drop(m.remove(*name)));
            }
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const ROWS: &[GatedAt] = &[(
        &["spec"],
        &[
            Gated { gate: "Signals", paths: &[&["list", "[]", "hooks", "signal"]], empties: true },
            Gated { gate: "Attributes", paths: &[&["map", "{}", "ints"], &["map", "{}", "texts"]], empties: false },
        ],
    )];

    fn left(spec: Value, old: Option<Value>) -> Value {
        let object = |spec: Value| Object(json!({"spec": spec}));
        let mut new = object(spec);
        take_away(&mut new, old.map(object).as_ref(), ROWS);
        new.0["spec"].clone()
    }

    #[test]
    fn fields_that_are_off_go_and_what_held_nothing_else_with_them_where_the_row_says_so() {
        let given = json!({"list": [{"hooks": {"signal": "x"}}, {"hooks": {"signal": "x", "other": 1}}, {}], "map": {"a": {"ints": [1]}, "b": {"plain": 1}}});
        assert_eq!(left(given, None), json!({"list": [{}, {"hooks": {"other": 1}}, {}], "map": {"a": {}, "b": {"plain": 1}}}));
    }

    #[test]
    fn a_feature_in_use_keeps_all_its_fields_and_no_other_feature_does() {
        let given = json!({"list": [{"hooks": {"signal": "x"}}], "map": {"a": {"ints": [1], "texts": ["t"]}}});
        let used = json!({"map": {"z": {"texts": []}}});
        assert_eq!(left(given, Some(used)), json!({"list": [{}], "map": {"a": {"ints": [1], "texts": ["t"]}}}));
    }
}
