//! Values of the fields that field selectors may name, as selectors compare them: a missing field is its zero value
//! (a selector `spec.unschedulable=false` must match nodes that never had the field).

use keles_api::Object;
use std::borrow::Cow;

pub fn text<'a>(o: &'a Object, path: &[&str]) -> Cow<'a, str> {
    o.str_at(path).into()
}

pub fn boolean<'a>(o: &'a Object, path: &[&str]) -> Cow<'a, str> {
    if o.at(path).as_bool().unwrap_or(false) { "true".into() } else { "false".into() }
}

pub fn number<'a>(o: &'a Object, path: &[&str]) -> Cow<'a, str> {
    o.at(path).as_i64().unwrap_or(0).to_string().into()
}
