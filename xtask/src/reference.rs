//! Reads a folder of OpenAPI v3 documents and prints what the model lacks, as overlay lines.
//!
//! The documents give presence away: upstream's generator enforces a default of `{}` on structs held by value and of `""`, `0`, `false`
//! on scalars without `omitempty`.

use crate::model::{Field, Model, Presence, Ty, Type};
use crate::openapi_source::type_of;
use serde_json::Value;
use std::fmt::Write;

pub fn read(dir: &str) -> Result<Model, String> {
    let mut model = Model::new();
    for entry in std::fs::read_dir(dir).map_err(|e| format!("{dir}: {e}"))? {
        let path = entry.map_err(|e| e.to_string())?.path();
        let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let doc: Value = serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
        for (name, schema) in doc["components"]["schemas"].as_object().into_iter().flatten() {
            let mut t = type_of(name, schema);
            for g in schema["x-kubernetes-group-version-kind"].as_array().into_iter().flatten() {
                let text = |k: &str| g[k].as_str().unwrap_or("").to_owned();
                t.gvks.push((text("group"), text("version"), text("kind")));
            }
            match model.get_mut(name) {
                Some(had) => merge_gvks(had, t.gvks),
                None => drop(model.insert(name.clone(), t)),
            }
        }
    }
    for t in model.values_mut() {
        t.fields.values_mut().for_each(settle);
    }
    Ok(model)
}

fn merge_gvks(t: &mut Type, more: Vec<(String, String, String)>) {
    for g in more {
        if !t.gvks.contains(&g) {
            t.gvks.push(g);
        }
    }
    t.gvks.sort();
}

/// Takes an enforced zero default for what it is: presence.
pub fn settle(f: &mut Field) {
    let zero = match (&f.ty, &f.default) {
        (_, None) => false,
        (Ty::Ref(_), Some(d)) => d.as_object().is_some_and(|o| o.is_empty()),
        (_, Some(Value::String(s))) => s.is_empty(),
        (_, Some(Value::Number(n))) => n.as_f64() == Some(0.0),
        (_, Some(Value::Bool(b))) => !b,
        _ => false,
    };
    if zero {
        f.default = None;
        f.presence = Presence::Always;
    } else if f.presence == Presence::Unknown {
        let scalar_ref = matches!(&f.ty, Ty::Ref(n) if crate::model::scalar_letter(n).is_some());
        match &f.ty {
            Ty::Ref(_) if !scalar_ref => f.presence = Presence::Pointer,
            Ty::Scalar(c) if *c != 'y' => f.presence = if f.required && f.default.is_none() { Presence::OmitEmpty } else { f.rule() },
            _ => f.presence = f.rule(),
        }
    }
}

pub fn diff(ours: &Model, theirs: &Model) -> String {
    let mut out = String::new();
    for (name, t) in theirs {
        let Some(o) = ours.get(name) else {
            type_line(&mut out, name, t);
            for (f, field) in &t.fields {
                field_line(&mut out, name, f, &Field::default(), field);
            }
            continue;
        };
        let mut sorted = o.gvks.clone();
        sorted.sort();
        let mut wanted = t.gvks.clone();
        wanted.sort();
        if sorted != wanted || o.map_type != t.map_type {
            type_line(&mut out, name, &Type { description: String::new(), ..t.clone() });
        }
        if o.description != t.description {
            let _ = writeln!(out, "text {name} {}", Value::from(t.description.as_str()));
        }
        for (f, field) in &t.fields {
            field_line(&mut out, name, f, o.fields.get(f).unwrap_or(&Field::default()), field);
        }
        for f in o.fields.keys().filter(|f| !t.fields.contains_key(*f)) {
            let _ = writeln!(out, "drop {name}:{f}");
        }
    }
    out
}

fn type_line(out: &mut String, name: &str, t: &Type) {
    let _ = write!(out, "type {name}");
    for (g, v, k) in &t.gvks {
        let _ = write!(out, " gvk={g}/{v}/{k}");
    }
    if !t.map_type.is_empty() {
        let _ = write!(out, " map={}", t.map_type);
    }
    if let Some(c) = t.scalar {
        let _ = write!(out, " scalar={c}");
    }
    let _ = writeln!(out);
    if !t.description.is_empty() {
        let _ = writeln!(out, "text {name} {}", Value::from(t.description.as_str()));
    }
}

fn field_line(out: &mut String, name: &str, f: &str, o: &Field, t: &Field) {
    let mut facts = String::new();
    let mut fact = |k: &str, ours: &str, theirs: &str| {
        if ours != theirs {
            let _ = write!(facts, " {k}={theirs}");
        }
    };
    fact("ty", &o.ty.to_string(), &t.ty.to_string());
    fact("required", &o.required.to_string(), &t.required.to_string());
    fact("list", &o.list_type, &t.list_type);
    fact("keys", &o.map_keys.join(","), &t.map_keys.join(","));
    fact("merge", &o.merge_key, &t.merge_key);
    fact("strategy", &o.strategy, &t.strategy);
    fact("map", &o.map_type, &t.map_type);
    let word = |f: &Field| match f.rule() {
        Presence::Always => "always",
        Presence::Pointer => "pointer",
        Presence::Nullable => "nullable",
        _ => "omitempty",
    };
    // Pointers to scalars cannot be told from values in the documents.
    let hidden = match t.ty {
        Ty::Scalar(_) => matches!(o.rule(), Presence::Pointer | Presence::Nullable) && t.rule() == Presence::OmitEmpty,
        Ty::Ref(_) => o.rule() == Presence::Nullable && t.rule() == Presence::Pointer,
        _ => t.rule() == Presence::OmitEmpty && o.rule() == Presence::Always,
    };
    let scalar_ref = matches!(&t.ty, Ty::Ref(n) if crate::model::scalar_letter(n).is_some()) && t.presence != Presence::Always;
    // A zero default may be a real one, which the overlay knows.
    let known_zero = t.rule() == Presence::Always && t.default.is_none() && o.default.as_ref().is_some_and(|d| matches!(d, Value::Bool(false)) || *d == 0 || *d == "");
    if !hidden && !scalar_ref && !known_zero {
        fact("presence", word(o), word(t));
    }
    if o.default != t.default && !known_zero {
        let _ = write!(facts, " default={}", t.default.as_ref().map_or("-".into(), Value::to_string));
    }
    if !facts.is_empty() {
        let _ = writeln!(out, "field {name}:{f}{facts}");
    }
    if o.description != t.description {
        let _ = writeln!(out, "text {name}:{f} {}", Value::from(t.description.as_str()));
    }
}
