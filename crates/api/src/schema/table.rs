//! The committed table of built-in types, written by `cargo xtask codegen`.
//!
//! Text compressed with zstd, tab separated. `T name map-type scalar gvks` starts a type, `F name type flags default` adds a field. Type
//! expressions: `s` string, `b` bool, `i` int32, `l` int64, `d` double, `y` bytes, `a` any, `@7` the type of index 7, `[x` list, `{x` map.
//! Flags: `A` `O` `P` `N` presence, `r` required, `La` `Ls` `Lm` list type, `k=` map keys, `m=` merge key, `s=` patch strategies, `ma` `mg`
//! map type, `#` protobuf number. The unpacked text is kept for the life of the process: names borrow from it.

use super::build::{Builder, FieldSpec};
use super::{ListType, MapType, Node, Presence, Scalar, Schema, Strategies};
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::OnceLock;

static PACKED: &[u8] = include_bytes!("table.zst");

/// The schema of the built-in types.
pub fn builtin() -> &'static Schema {
    static SCHEMA: OnceLock<Schema> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let text = zstd::decode_all(PACKED).expect("the committed table is a zstd stream, which a test opens");
        load(String::from_utf8(text).expect("the committed table is UTF-8, which a test opens").leak())
    })
}

fn load(text: &'static str) -> Schema {
    let mut b = Builder::new();
    let types: Vec<Vec<&'static str>> = text.lines().filter_map(|l| l.strip_prefix('T')).map(|l| l.split('\t').collect()).collect();
    let ids: Vec<u32> = types.iter().map(|t| b.reserve(t[0])).collect();
    let mut loader = Loader { b, ids, seen: HashMap::new() };
    for (i, t) in types.iter().enumerate() {
        let id = loader.ids[i];
        let gvks = t[3].split(' ').filter(|g| !g.is_empty()).map(gvk).collect();
        loader.b.gvks(id, gvks);
        if let Some(node) = loader.named(t[0], t[2]) {
            loader.b.put(id, node);
        }
    }
    let mut next = 0;
    let mut current: Option<(usize, Vec<FieldSpec>)> = None;
    for line in text.lines() {
        if let Some(f) = line.strip_prefix('F') {
            let spec = loader.field(f);
            current.as_mut().expect("a field follows its type").1.push(spec);
        } else {
            loader.finish(current.take(), &types);
            current = Some((next, Vec::new()));
            next += 1;
        }
    }
    loader.finish(current, &types);
    loader.b.finish()
}

fn gvk(text: &'static str) -> [Cow<'static, str>; 3] {
    let mut p = text.splitn(3, '/').map(Cow::Borrowed);
    [p.next().unwrap_or_default(), p.next().unwrap_or_default(), p.next().unwrap_or_default()]
}

fn map_type(word: &str) -> MapType {
    match word {
        "atomic" | "ma" => MapType::Atomic,
        "granular" | "mg" => MapType::Granular,
        _ => MapType::Unset,
    }
}

struct Loader {
    b: Builder,
    ids: Vec<u32>,
    /// Scalars, lists and maps are shared: node by expression and the flags that belong to it.
    seen: HashMap<(&'static str, &'static str, &'static str, ListType, MapType), u32>,
}

impl Loader {
    fn named(&mut self, name: &'static str, letter: &'static str) -> Option<Node> {
        let name = Cow::Borrowed(name);
        let scalar = match letter {
            "" => return None,
            "q" => Scalar::Quantity,
            "p" => Scalar::IntOrString,
            "t" => Scalar::Time,
            "m" => Scalar::MicroTime,
            "D" => Scalar::Duration,
            "A" | "B" | "S" => {
                let props = self.ty("@JSONSchemaProps");
                let other = match letter {
                    "A" => self.b.list(props, ListType::Atomic, Vec::new(), None),
                    "B" => self.ty("b"),
                    _ => {
                        let text = self.ty("s");
                        self.b.list(text, ListType::Atomic, Vec::new(), None)
                    }
                };
                return Some(Node::Either { name, object: props, other });
            }
            _ => Scalar::Any,
        };
        Some(Node::Named { name, scalar })
    }

    fn finish(&mut self, done: Option<(usize, Vec<FieldSpec>)>, types: &[Vec<&'static str>]) {
        if let Some((i, fields)) = done {
            self.b.define(self.ids[i], map_type(types[i][1]), false, fields);
        }
    }

    fn ty(&mut self, expr: &'static str) -> u32 {
        self.node(expr, "", "", ListType::Unset, MapType::Unset)
    }

    fn node(&mut self, expr: &'static str, keys: &'static str, merge: &'static str, list: ListType, map: MapType) -> u32 {
        if expr == "@JSONSchemaProps" {
            return self.b.id_of("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps").expect("the table holds JSONSchemaProps");
        }
        if let Some(index) = expr.strip_prefix('@') {
            return self.ids[index.parse::<usize>().expect("xtask writes type references as indices")];
        }
        if let Some(&id) = self.seen.get(&(expr, keys, merge, list, map)) {
            return id;
        }
        let rest = &expr[1..];
        let id = match expr.as_bytes()[0] {
            b'[' => {
                let item = self.ty(rest);
                let keys_list = keys.split(',').filter(|k| !k.is_empty()).map(Cow::Borrowed).collect();
                self.b.list(item, list, keys_list, (!merge.is_empty()).then_some(Cow::Borrowed(merge)))
            }
            b'{' => {
                let value = self.ty(rest);
                self.b.map(value, map)
            }
            b's' => self.b.scalar(Scalar::String),
            b'b' => self.b.scalar(Scalar::Bool),
            b'i' => self.b.scalar(Scalar::Int32),
            b'l' => self.b.scalar(Scalar::Int64),
            b'd' => self.b.scalar(Scalar::Double),
            b'y' => self.b.scalar(Scalar::Bytes),
            _ => self.b.scalar(Scalar::Any),
        };
        self.seen.insert((expr, keys, merge, list, map), id);
        id
    }

    fn field(&mut self, line: &'static str) -> FieldSpec {
        let mut p = line.splitn(4, '\t');
        let mut part = || p.next().unwrap_or_default();
        let (name, expr, flags, default) = (part(), part(), part(), part());
        let (mut keys, mut merge, mut list) = ("", "", ListType::Unset);
        let mut f = FieldSpec::new(name, 0);
        for flag in flags.split(' ') {
            match flag {
                "A" => f.presence = Presence::Always,
                "O" => f.presence = Presence::OmitEmpty,
                "P" => f.presence = Presence::Pointer,
                "N" => f.presence = Presence::Nullable,
                "r" => f.required = true,
                "La" => list = ListType::Atomic,
                "Ls" => list = ListType::Set,
                "Lm" => list = ListType::Map,
                "ma" | "mg" => f.map_type = map_type(flag),
                _ => match flag.split_at(flag.len().min(2)) {
                    ("k=", v) => keys = v,
                    ("m=", v) => merge = v,
                    ("s=", v) => f.strategy = strategies(v),
                    _ => f.number = flag.strip_prefix('#').and_then(|n| n.parse().ok()).unwrap_or(0),
                },
            }
        }
        f.ty = self.node(expr, keys, merge, list, f.map_type);
        f.default = if default.is_empty() { None } else { Some(serde_json::from_str(default).expect("xtask writes defaults as JSON")) };
        f
    }
}

fn strategies(text: &str) -> Strategies {
    let has = |w: &str| text.split(',').any(|s| s == w);
    Strategies { merge: has("merge"), replace: has("replace"), retain_keys: has("retainKeys") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_knows_how_pods_are_built() {
        let pod = builtin().get("io.k8s.api.core.v1.Pod").expect("pods are built in");
        assert_eq!(pod.object().unwrap().gvks().collect::<Vec<_>>(), [("", "v1", "Pod")]);
        let containers = pod.walk(&["spec"]).unwrap().field("containers").unwrap();
        assert!(containers.required());
        assert_eq!((containers.list_type(), containers.merge_key()), (ListType::Map, Some("name")));
        assert!(containers.strategies().merge);
        let ports = pod.walk(&["spec", "containers"]).unwrap().list().unwrap().item.field("ports").unwrap();
        assert_eq!(ports.map_keys(), ["containerPort", "protocol"]);
        assert_eq!(ports.ty().list().unwrap().item.field("protocol").unwrap().default(), Some(&"TCP".into()));
        assert!(matches!(pod.walk(&["spec", "containers", "resources", "limits", "cpu"]).unwrap().shape(), crate::schema::Shape::Scalar(Scalar::Quantity)));
    }

    #[test]
    fn the_packed_table_opens() {
        let text = String::from_utf8(zstd::decode_all(PACKED).unwrap()).unwrap();
        assert!(load(text.leak()).names.len() > 700);
    }
}
