//! The overlay: facts that neither source crate has, one a line. `schema-diff` prints such lines.
//!
//! `type NAME key=value…` (`gvk=group/version/kind`, `map=atomic`, `scalar=a`), `drop NAME`, `field NAME:FIELD key=value…` (`ty=`,
//! `required=`, `list=`, `keys=`, `merge=`, `strategy=`, `map=`, `presence=`, `default=JSON`, `number=`), `drop NAME:FIELD`,
//! `text NAME[:FIELD] JSON`, `pointer|nullable|always|omitempty NAME FIELD,FIELD`. Values hold no spaces, except JSON at the end of a line. `#` starts a comment line.

use crate::model::{Field, Model, Presence, Ty};

pub fn apply(text: &str, model: &mut Model) -> Result<(), String> {
    for (n, line) in text.lines().enumerate() {
        let line = line.trim();
        if !line.is_empty() && !line.starts_with('#') {
            fact(line, model).map_err(|e| format!("overlay line {}: {e}", n + 1))?;
        }
    }
    Ok(())
}

fn fact(line: &str, model: &mut Model) -> Result<(), String> {
    let (word, rest) = line.split_once(' ').ok_or("needs a word and a name")?;
    let (name, facts) = rest.split_once(' ').unwrap_or((rest, ""));
    match word {
        "type" => type_facts(name, facts, model),
        "field" => field_facts(name, facts, model),
        // `pointer NAME field,field`
        "pointer" | "nullable" | "always" | "omitempty" => {
            for f in facts.split(',') {
                field_facts(&format!("{name}:{f}"), &format!("presence={word}"), model)?;
            }
            Ok(())
        }
        "text" => {
            let d: String = serde_json::from_str(facts).map_err(|e| e.to_string())?;
            match split(name) {
                (t, Some(f)) => field(t, f, model)?.description = d,
                (t, None) => model.entry(t.to_owned()).or_default().description = d,
            }
            Ok(())
        }
        "drop" => {
            match split(name) {
                (t, Some(f)) => drop(model.get_mut(t).and_then(|t| t.fields.remove(f))),
                (t, None) => drop(model.remove(t)),
            }
            Ok(())
        }
        _ => Err(format!("word {word:?} is not known")),
    }
}

/// `io.k8s.api.core.v1.Pod:spec` to type and field.
fn split(name: &str) -> (&str, Option<&str>) {
    match name.split_once(':') {
        Some((t, f)) => (t, Some(f)),
        None => (name, None),
    }
}

fn field<'m>(t: &str, f: &str, model: &'m mut Model) -> Result<&'m mut Field, String> {
    model.get_mut(t).ok_or_else(|| format!("no type {t}"))?.fields.get_mut(f).ok_or_else(|| format!("no field {t}:{f}"))
}

fn type_facts(name: &str, facts: &str, model: &mut Model) -> Result<(), String> {
    let t = model.entry(name.to_owned()).or_default();
    let mut gvks = Vec::new();
    for (k, v) in facts.split(' ').filter_map(|f| f.split_once('=')) {
        match k {
            "map" => t.map_type = v.to_owned(),
            "scalar" => t.scalar = v.chars().next(),
            "gvk" => {
                let mut p = v.splitn(3, '/').map(str::to_owned);
                gvks.push((p.next().unwrap_or_default(), p.next().unwrap_or_default(), p.next().unwrap_or_default()));
            }
            _ => return Err(format!("fact {k:?} is not known")),
        }
    }
    if !gvks.is_empty() {
        t.gvks = gvks;
    }
    Ok(())
}

fn field_facts(name: &str, facts: &str, model: &mut Model) -> Result<(), String> {
    let (t, Some(f)) = split(name) else { return Err(format!("{name} names no field")) };
    let t = model.get_mut(t).ok_or_else(|| format!("no type {t}"))?;
    if !t.fields.contains_key(f) && !facts.contains("ty=") {
        return Err(format!("no field {name}"));
    }
    let f = t.fields.entry(f.to_owned()).or_default();
    let (facts, default) = match facts.split_once("default=") {
        Some((a, d)) => (a, Some(d)),
        None => (facts, None),
    };
    if let Some(d) = default {
        f.default = if d == "-" { None } else { Some(serde_json::from_str(d).map_err(|e| e.to_string())?) };
    }
    for (k, v) in facts.split(' ').filter_map(|f| f.split_once('=')) {
        match k {
            "ty" => f.ty = Ty::parse(v)?,
            "required" => f.required = v == "true",
            "list" => f.list_type = v.to_owned(),
            "keys" => f.map_keys = v.split(',').filter(|k| !k.is_empty()).map(str::to_owned).collect(),
            "merge" => f.merge_key = v.to_owned(),
            "strategy" => f.strategy = v.to_owned(),
            "map" => f.map_type = v.to_owned(),
            "number" => f.number = v.parse().map_err(|_| format!("number {v:?}"))?,
            "presence" => {
                f.presence = match v {
                    "always" => Presence::Always,
                    "omitempty" => Presence::OmitEmpty,
                    "pointer" => Presence::Pointer,
                    "nullable" => Presence::Nullable,
                    _ => return Err(format!("presence {v:?}")),
                }
            }
            _ => return Err(format!("fact {k:?} is not known")),
        }
    }
    Ok(())
}
