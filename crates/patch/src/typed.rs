//! Documents as the schema divides them among owners: where a value is one thing, and where it is fields or keyed items.
//!
//! Entry points: [`view`] (one step down), [`merge`] (what an apply makes of a live object), [`check`] (whether a document fits its type at
//! all). Below what a custom schema leaves open (`x-kubernetes-preserve-unknown-fields`) the value itself decides: objects divide, lists do
//! not. Source: sigs.k8s.io/structured-merge-diff (typed, schema).

use crate::fieldset::{beside, show_element};
use keles_api::TypeRef;
use keles_api::schema::{FieldRef, ListType, MapType, Presence, Scalar, Shape};
use serde_json::{Map, Value};

/// The type of a value, with what the field that holds it says about it.
#[derive(Clone, Copy)]
pub(crate) enum Ty<'a> {
    Of(TypeRef<'a>, MapType),
    /// Whatever the value is.
    Deduced,
}

impl<'a> Ty<'a> {
    pub(crate) fn whole(ty: TypeRef<'a>) -> Self {
        Ty::Of(ty, MapType::Unset)
    }
    pub(crate) fn is_container(self) -> bool {
        match self {
            Ty::Of(t, _) => !matches!(t.shape(), Shape::Scalar(_)),
            Ty::Deduced => false,
        }
    }
}

/// A value's children as the schema sees them.
pub(crate) enum View<'v, 'a> {
    /// One owner for the whole: scalars, atomic lists and maps.
    Leaf,
    Fields(&'v Map<String, Value>, Fields<'a>),
    /// Items by path element, in order.
    Items(Vec<(String, &'v Value)>, Ty<'a>),
}

/// What the children of an object or map are.
#[derive(Clone, Copy)]
pub(crate) enum Fields<'a> {
    Named(TypeRef<'a>),
    Any(TypeRef<'a>),
    Deduced,
}

pub(crate) struct Child<'a> {
    pub ty: Ty<'a>,
    /// Of a struct; none for the values of a map.
    pub field: Option<FieldRef<'a>>,
}

impl<'a> Fields<'a> {
    /// A child's type; none for a field that the type does not have.
    pub(crate) fn child(self, name: &str) -> Option<Child<'a>> {
        Some(match self {
            Fields::Named(t) => match t.field(name) {
                Some(f) => Child { ty: Ty::Of(f.ty(), f.map_type()), field: Some(f) },
                None if t.object().is_some_and(|o| o.preserve_unknown()) => Child { ty: Ty::Deduced, field: None },
                None => return None,
            },
            Fields::Any(t) => Child { ty: Ty::whole(t), field: None },
            Fields::Deduced => Child { ty: Ty::Deduced, field: None },
        })
    }
    pub(crate) fn is_named(self) -> bool {
        matches!(self, Fields::Named(_))
    }
}

/// How a value of a type divides among owners. `Err`: an item of a keyed list that can have no key.
pub(crate) fn view<'v, 'a>(v: &'v Value, ty: Ty<'a>) -> Result<View<'v, 'a>, String> {
    let Ty::Of(ty, over) = ty else {
        return Ok(v.as_object().map_or(View::Leaf, |m| View::Fields(m, Fields::Deduced)));
    };
    Ok(match (ty.shape(), v) {
        (Shape::Object(o), Value::Object(m)) if over == MapType::Granular || (over == MapType::Unset && !o.atomic()) => View::Fields(m, Fields::Named(ty)),
        (Shape::Map(map), Value::Object(m)) if over != MapType::Atomic && map.map_type != MapType::Atomic => View::Fields(m, Fields::Any(map.value)),
        (Shape::List(l), Value::Array(a)) if matches!(l.list_type, ListType::Set | ListType::Map) => {
            let element = |(i, item)| Ok((item_element(item, ty).map_err(|why| format!("element {i}: {why}"))?, item));
            View::Items(a.iter().enumerate().map(element).collect::<Result<_, String>>()?, Ty::whole(l.item))
        }
        _ => View::Leaf,
    })
}

fn item_element(item: &Value, list: TypeRef) -> Result<String, String> {
    let l = list.list().expect("called for lists only");
    if l.list_type == ListType::Set {
        return if item.is_object() || item.is_array() {
            Err(format!("associative list without keys has an element that's {} type", if item.is_object() { "a map" } else { "a list" }))
        } else {
            Ok(format!("v:{item}"))
        };
    }
    match item {
        Value::Object(_) => {}
        Value::Null => return Err("associative list with keys may not have a null element".into()),
        _ => return Err("associative list with keys may not have non-map elements".into()),
    }
    let mut keys: Vec<&str> = l.map_keys.iter().map(|k| k.as_ref()).collect();
    keys.sort_unstable();
    let mut out = String::with_capacity(40);
    out.push_str("k:{");
    for key in keys {
        let field = l.item.field(key);
        let zero;
        let value = match item.get(key).filter(|v| !v.is_null()).or_else(|| field.and_then(|f| f.default())) {
            Some(v) => v,
            // A key that Go always writes is its zero value when it is not there.
            None if field.is_some_and(|f| f.presence() == Presence::Always) => {
                let text = matches!(field.map(|f| f.ty().shape()), Some(Shape::Scalar(Scalar::String)));
                zero = if text { Value::from("") } else { Value::from(0) };
                &zero
            }
            None => return Err(format!("associative list with keys has an element that omits key field {} (and doesn't have default value)", Value::from(key))),
        };
        if out.len() > 3 {
            out.push(',');
        }
        out.push('"');
        out.push_str(key);
        out.push_str("\":");
        match value {
            Value::String(s) if s.bytes().all(|b| b >= b' ' && b != b'"' && b != b'\\') => {
                out.push('"');
                out.push_str(s);
                out.push('"');
            }
            v => out.push_str(&v.to_string()),
        }
    }
    out.push('}');
    Ok(out)
}

/// Whether Go's encoder leaves a field with this value out.
pub(crate) fn is_absent(v: &Value, f: Option<FieldRef>) -> bool {
    match f.map(|f| f.presence()) {
        Some(Presence::OmitEmpty) => match v {
            Value::Null => true,
            Value::Bool(b) => !b,
            Value::Number(n) => n.as_f64() == Some(0.0),
            Value::String(s) => s.is_empty(),
            Value::Array(a) => a.is_empty(),
            Value::Object(o) => o.is_empty(),
        },
        Some(Presence::Pointer) => v.is_null(),
        _ => false,
    }
}

/// `live` with what `applied` says; items of lists keep the order of `applied` where it says one.
pub(crate) fn merge(live: &Value, applied: &Value, ty: Ty) -> Result<Value, String> {
    match (view(live, ty)?, view(applied, ty)?) {
        (View::Fields(a, f), View::Fields(b, _)) => {
            let mut out = Map::new();
            for (k, had, said) in beside(Some(a), Some(b)) {
                let merged = match (had, said, f.child(k)) {
                    (Some(had), Some(said), Some(c)) => merge(had, said, c.ty)?,
                    (had, said, _) => said.or(had).cloned().unwrap_or_default(),
                };
                out.insert(k.to_owned(), merged);
            }
            Ok(Value::Object(out))
        }
        (View::Items(a, item), View::Items(b, _)) => merge_items(&a, &b, item).map(Value::Array),
        _ => Ok(applied.clone()),
    }
}

fn merge_items(a: &[(String, &Value)], b: &[(String, &Value)], item: Ty) -> Result<Vec<Value>, String> {
    let in_a = |k: &str| a.iter().find(|(x, _)| x == k);
    let in_b = |k: &str| b.iter().any(|(x, _)| x == k);
    let mut shared = b.iter().filter(|(k, _)| in_a(k).is_some()).map(|(k, _)| k).peekable();
    let (mut out, mut i, mut j) = (Vec::new(), 0, 0);
    while i < a.len() || j < b.len() {
        if i < a.len() {
            let (k, v) = &a[i];
            if !in_b(k) {
                out.push((*v).clone());
                i += 1;
                continue;
            }
            if shared.peek() != Some(&k) {
                // It comes where `applied` has it.
                i += 1;
                continue;
            }
        }
        if j < b.len() {
            let (k, v) = &b[j];
            out.push(match in_a(k) {
                Some((_, had)) => merge(had, v, item)?,
                None => (*v).clone(),
            });
            if shared.peek() == Some(&k) {
                shared.next();
                if i < a.len() && a[i].0 == *k {
                    i += 1;
                }
            }
            j += 1;
        }
    }
    Ok(out)
}

/// What in an applied document cannot be of its type, in upstream's words; all of it, in document order. Types of leaves are checked only
/// as far as ownership needs it: text, number or boolean.
pub(crate) fn check(v: &Value, ty: TypeRef) -> Result<(), String> {
    let mut check = Check { at: Vec::new(), found: Vec::new() };
    check.value(v, Ty::whole(ty));
    match check.found.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => Err(format!("errors:\n  {}", many.join("\n  "))),
    }
}

/// One element of the path to a value; shown only when something is wrong there.
enum Step<'v> {
    Field(&'v str),
    Element(String),
}

struct Check<'v> {
    at: Vec<Step<'v>>,
    found: Vec<String>,
}

impl<'v> Check<'v> {
    fn show(&self) -> String {
        let show = |step: &Step| match step {
            Step::Field(name) => show_element(&crate::fieldset::field(name)),
            Step::Element(e) => show_element(e),
        };
        self.at.iter().map(show).collect()
    }
    fn say(&mut self, why: String) {
        self.found.push(if self.at.is_empty() { why } else { format!("{}: {why}", self.show()) });
    }
    fn below(&mut self, step: Step<'v>, child: &'v Value, ty: Ty) {
        self.at.push(step);
        self.value(child, ty);
        self.at.pop();
    }
    fn value(&mut self, v: &'v Value, ty: Ty) {
        let Ty::Of(t, _) = ty else { return };
        if v.is_null() || self.at.len() > crate::fieldset::DEPTH_MAX {
            return;
        }
        match (t.shape(), v) {
            (Shape::Scalar(s), v) => {
                if let Some(why) = misfit(v, s) {
                    self.say(why);
                }
            }
            (Shape::List(l), Value::Array(items)) => {
                let keyed = matches!(l.list_type, ListType::Set | ListType::Map);
                let mut seen = std::collections::HashSet::new();
                for (i, item) in items.iter().enumerate() {
                    let element = match keyed.then(|| item_element(item, t)) {
                        Some(Ok(e)) => e,
                        Some(Err(why)) => return self.say(format!("element {i}: {why}")),
                        None => format!("i:{i}"),
                    };
                    if keyed && !seen.insert(element.clone()) {
                        self.say(format!("duplicate entries for key {}", show_element(&element)));
                    }
                    self.below(Step::Element(element), item, Ty::whole(l.item));
                }
            }
            (Shape::List(_), v) => self.say(format!("expected list, got &{{{}}}", crate::go_print(v))),
            (shape, Value::Object(m)) => {
                let fields = if let Shape::Map(map) = shape { Fields::Any(map.value) } else { Fields::Named(t) };
                for (k, child) in m {
                    match fields.child(k) {
                        Some(c) => self.below(Step::Field(k), child, c.ty),
                        None => {
                            self.at.push(Step::Field(k));
                            let at = self.show();
                            self.at.pop();
                            // Upstream looks no further in this object.
                            return self.found.push(format!("{at}: field not declared in schema"));
                        }
                    }
                }
            }
            (_, v) => self.say(format!("expected map, got &{{{}}}", crate::go_print(v))),
        }
    }
}

/// Go's `%#v` of what upstream holds values in.
fn go_value(v: &Value) -> String {
    format!("&value.valueUnstructured{{Value:{}}}", if v.is_object() || v.is_array() { crate::go_print(v) } else { v.to_string() })
}

fn misfit(v: &Value, s: Scalar) -> Option<String> {
    let (fits, wanted) = match s {
        Scalar::String | Scalar::Bytes => (v.is_string(), "expected string, got "),
        Scalar::Bool => (v.is_boolean(), "expected boolean, got "),
        Scalar::Int32 | Scalar::Int64 | Scalar::Double if !v.is_number() => {
            let go_type = match v {
                Value::String(_) => "string",
                Value::Bool(_) => "bool",
                Value::Array(_) => "[]interface {}",
                _ => "map[string]interface {}",
            };
            return Some(format!("expected numeric (int or float), got {go_type}"));
        }
        _ => (true, ""),
    };
    (!fits).then(|| format!("{wanted}{}", go_value(v)))
}
