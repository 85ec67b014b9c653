//! Reads the sources of `k8s-openapi`: the JSON schemas inside its `json_schema!` blocks, and the group, version and kind of resources.
//!
//! The blocks are JSON except for three things: trailing commas, Rust string escapes, and calls of `subschema_for`, alone or with a description.

use crate::model::{Field, Model, Ty, Type, scalar_letter};
use serde_json::{Map, Value};
use std::path::Path;

pub fn read(root: &Path) -> Result<Model, String> {
    let mut model = Model::new();
    let mut dirs = vec![root.join("src/v1_36")];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))? {
            let path = entry.map_err(|e| e.to_string())?.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
                read_file(&text, &mut model).map_err(|e| format!("{}: {e}", path.display()))?;
            }
        }
    }
    Ok(model)
}

fn read_file(text: &str, model: &mut Model) -> Result<(), String> {
    let Some(at) = text.find("fn schema_name()") else { return Ok(()) };
    let rest = &text[at..];
    let name = rest.split('"').nth(1).ok_or("no schema name")?;
    if name.starts_with("io.k8s.List") || name.contains("{") {
        return Ok(());
    }
    let block = rest.find("json_schema!(").ok_or("no json_schema block")? + "json_schema!(".len();
    let schema = Parser { s: &rest.as_bytes()[block..], i: 0 }.value()?;
    let mut t = type_of(name, &schema);
    if let (Some(g), Some(v), Some(k)) = (constant(text, "GROUP"), constant(text, "VERSION"), constant(text, "KIND")) {
        t.gvks.push((g, v, k));
    }
    model.insert(name.to_owned(), t);
    Ok(())
}

fn constant(text: &str, name: &str) -> Option<String> {
    let at = text.find(&format!("const {name}: &'static str = \""))?;
    text[at..].split('"').nth(1).map(str::to_owned)
}

/// A type from a JSON schema; shared with the reading of OpenAPI documents.
pub fn type_of(name: &str, schema: &Value) -> Type {
    let text = |v: &Value, k: &str| v.get(k).and_then(Value::as_str).unwrap_or("").to_owned();
    let mut t = Type { description: text(schema, "description"), map_type: text(schema, "x-kubernetes-map-type"), scalar: scalar_letter(name), ..Type::default() };
    let required: Vec<&str> = schema.get("required").and_then(Value::as_array).map(|a| a.iter().filter_map(Value::as_str).collect()).unwrap_or_default();
    for (p, s) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let keys = s.get("x-kubernetes-list-map-keys").and_then(Value::as_array).map(|a| a.iter().filter_map(|k| k.as_str().map(str::to_owned)).collect()).unwrap_or_default();
        let f = Field {
            description: text(s, "description"),
            ty: Ty::of_schema(s),
            required: required.contains(&p.as_str()),
            list_type: text(s, "x-kubernetes-list-type"),
            map_keys: keys,
            merge_key: text(s, "x-kubernetes-patch-merge-key"),
            strategy: text(s, "x-kubernetes-patch-strategy"),
            map_type: text(s, "x-kubernetes-map-type"),
            default: s.get("default").cloned(),
            ..Field::default()
        };
        t.fields.insert(p.clone(), f);
    }
    t
}

/// `crate::api::core::v1::Pod` to `io.k8s.api.core.v1.Pod`.
pub fn upstream_name(path: &str) -> String {
    let dotted = path.trim_start_matches("crate::").replace("::", ".").replace("apiextensions_apiserver", "apiextensions-apiserver").replace("kube_aggregator", "kube-aggregator");
    format!("io.k8s.{dotted}")
}

struct Parser<'a> {
    s: &'a [u8],
    i: usize,
}

impl Parser<'_> {
    fn skip(&mut self) {
        while self.s.get(self.i).is_some_and(u8::is_ascii_whitespace) {
            self.i += 1;
        }
    }
    fn peek(&mut self) -> u8 {
        self.skip();
        self.s.get(self.i).copied().unwrap_or(0)
    }
    fn eat(&mut self, text: &str) -> bool {
        self.skip();
        let hit = self.s[self.i..].starts_with(text.as_bytes());
        if hit {
            self.i += text.len();
        }
        hit
    }
    fn want(&mut self, text: &str) -> Result<(), String> {
        if self.eat(text) {
            return Ok(());
        }
        Err(format!("wanted {text:?} at {:?}", String::from_utf8_lossy(&self.s[self.i..(self.i + 40).min(self.s.len())])))
    }
    fn value(&mut self) -> Result<Value, String> {
        match self.peek() {
            b'{' => self.object(),
            b'[' => self.array(),
            b'"' => Ok(Value::String(self.string()?)),
            b'(' | b'_' => self.reference(),
            _ if self.eat("true") => Ok(Value::Bool(true)),
            _ if self.eat("false") => Ok(Value::Bool(false)),
            _ => Err(self.want("a value").expect_err("no source holds the words 'a value' outside strings")),
        }
    }
    fn object(&mut self) -> Result<Value, String> {
        self.want("{")?;
        let mut m = Map::new();
        while !self.eat("}") {
            let k = self.string()?;
            self.want(":")?;
            m.insert(k, self.value()?);
            self.eat(",");
        }
        Ok(Value::Object(m))
    }
    fn array(&mut self) -> Result<Value, String> {
        self.want("[")?;
        let mut a = Vec::new();
        while !self.eat("]") {
            a.push(self.value()?);
            self.eat(",");
        }
        Ok(Value::Array(a))
    }
    fn reference(&mut self) -> Result<Value, String> {
        let wrapped = self.eat("(");
        let described = self.eat("{");
        if described {
            self.want("let mut schema_obj =")?;
        }
        self.want("__gen.subschema_for::<")?;
        let end = self.s[self.i..].iter().position(|&c| c == b'>').ok_or("no end of a type path")?;
        let path = String::from_utf8_lossy(&self.s[self.i..self.i + end]).into_owned();
        self.i += end;
        self.want(">()")?;
        let mut m = Map::from_iter([("$ref".to_owned(), Value::String(upstream_name(&path)))]);
        if described {
            self.want(";")?;
            self.want("schema_obj.ensure_object().insert(\"description\".into(),")?;
            m.insert("description".into(), Value::String(self.string()?));
            for t in [".into());", "schema_obj", "}"] {
                self.want(t)?;
            }
        }
        if wrapped {
            self.want(")")?;
        }
        Ok(Value::Object(m))
    }
    fn string(&mut self) -> Result<String, String> {
        self.want("\"")?;
        let mut out = Vec::new();
        loop {
            let c = *self.s.get(self.i).ok_or("unfinished string")?;
            self.i += 1;
            match c {
                b'"' => return String::from_utf8(out).map_err(|e| e.to_string()),
                b'\\' => self.escape(&mut out)?,
                c => out.push(c),
            }
        }
    }
    fn escape(&mut self, out: &mut Vec<u8>) -> Result<(), String> {
        let c = *self.s.get(self.i).ok_or("unfinished escape")?;
        self.i += 1;
        match c {
            b'n' => out.push(b'\n'),
            b't' => out.push(b'\t'),
            b'r' => out.push(b'\r'),
            b'u' => {
                let end = self.s[self.i..].iter().position(|&c| c == b'}').ok_or("unfinished \\u")?;
                let hex = String::from_utf8_lossy(&self.s[self.i + 1..self.i + end]).into_owned();
                self.i += end + 1;
                let ch = u32::from_str_radix(&hex, 16).ok().and_then(char::from_u32).ok_or("bad \\u")?;
                out.extend(ch.to_string().as_bytes());
            }
            other => out.push(other),
        }
        Ok(())
    }
}
