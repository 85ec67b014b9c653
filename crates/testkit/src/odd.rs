//! Documents that nobody would write: of a type, but odd; and good documents with something wrong in them.
//!
//! Entry points: [`value`], [`any`] and [`mutate`]. All choices are read from a byte string, so that a fuzzer steers them, proptest shrinks
//! them, and the same bytes make the same document. Invariant: a used-up string always chooses the smallest thing, so everything ends.

use keles_api::TypeRef;
use keles_api::schema::{Scalar, Shape};
use serde_json::{Map, Number, Value, json};

/// Levels of what is made up.
const DEPTH_MAX: usize = 12;

/// Choices, read from bytes.
pub struct Source<'b>(&'b [u8]);

impl<'b> Source<'b> {
    pub fn new(bytes: &'b [u8]) -> Self {
        Source(bytes)
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }
    /// A number below `n`; 0 when `n` is.
    pub fn below(&mut self, n: usize) -> usize {
        let mut x = self.byte() as usize;
        if n > 256 {
            x = x << 8 | self.byte() as usize;
        }
        if n == 0 { 0 } else { x % n }
    }
    /// True once in `n` times, never at the end of the bytes.
    pub fn chance(&mut self, n: usize) -> bool {
        !self.is_empty() && self.below(n) == n - 1
    }
    pub fn pick<'t, T: ?Sized>(&mut self, all: &[&'t T]) -> &'t T {
        all[self.below(all.len())]
    }
    /// A text that some parser trips over, or a few bytes of the source as they are.
    pub fn text(&mut self) -> String {
        match self.below(8) {
            0..4 => self.pick(TEXTS).to_owned(),
            4 => format!("{}{}", self.pick(TEXTS), self.pick(TEXTS)),
            5 => self.pick(TEXTS).repeat(1 + self.below(70)),
            _ => {
                let n = self.below(24).min(self.0.len());
                let (taken, rest) = self.0.split_at(n);
                self.0 = rest;
                String::from_utf8_lossy(taken).into_owned()
            }
        }
    }
    pub fn number(&mut self) -> Number {
        match self.below(16) {
            i @ 0..14 => INTEGERS[i].into(),
            14 => Number::from_f64([0.5, 1e300, -1e-300, 1.5e9][self.below(4)]).expect("a finite number"),
            _ => u64::MAX.into(),
        }
    }
    /// What is left, as it is.
    pub fn rest(self) -> &'b [u8] {
        self.0
    }
}

const INTEGERS: [i64; 14] = [0, 1, -1, 2, 80, 443, 65_535, 65_536, i32::MAX as i64, i32::MIN as i64, i32::MAX as i64 + 1, i64::MAX, i64::MIN, 1_000_000_000_000];

/// Edges of the formats that the API has: names, quantities, times, durations, addresses, versions, expressions, paths.
const TEXTS: &[&str] = &[
    "",
    "a",
    "x",
    "A",
    "-",
    ".",
    "/",
    "a/b",
    "a.b/c",
    "kubernetes.io/hostname",
    "example.com/x",
    "*",
    "$(A)",
    "..",
    "a..b",
    "é",
    "😀",
    "\0",
    "\u{feff}",
    "\n",
    " ",
    "%",
    "%5",
    "0",
    "1",
    "-1",
    "1.5",
    "00",
    "0x10",
    "1e3",
    "1e99999",
    "1E-9999",
    "100m",
    "1Gi",
    "-1Ki",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "1n",
    "0.1n",
    "99999999999999999999Ei",
    "50%",
    "100%",
    "-5%",
    "999999999999%",
    "2026-01-01T00:00:00Z",
    "0000-01-01T00:00:00Z",
    "9999-12-31T23:59:59.999999999+23:59",
    "2026-02-30T00:00:00Z",
    "2026-01-01T00:00:60Z",
    "2016-12-31T23:59:60Z",
    "2026-01-01T00:00:00.000001-08:00",
    "1s",
    "1h1m1s",
    "2562047h47m16.854775807s",
    "-1ns",
    "1d",
    "10.0.0.1",
    "10.0.0.0/8",
    "10.0.0.0/33",
    "::1",
    "::/0",
    "::ffff:1.2.3.4",
    "fe80::1%eth0",
    "256.0.0.1",
    "01.2.3.4",
    "1.2.3.0/24",
    "v1",
    "v1beta1",
    "apps/v1",
    "v9999999999999",
    "TCP",
    "UDP",
    "SCTP",
    "Always",
    "Never",
    "OnFailure",
    "ClusterIP",
    "None",
    "ExternalName",
    "NodePort",
    "LoadBalancer",
    "RollingUpdate",
    "Recreate",
    "OnDelete",
    "IPv4",
    "IPv6",
    "DualStack",
    "PreferDualStack",
    "RequireDualStack",
    "In",
    "NotIn",
    "Exists",
    "DoesNotExist",
    "Gt",
    "Lt",
    "Equals",
    "NoSchedule",
    "Linux",
    "windows",
    "linux",
    "Resource",
    "Pods",
    "Object",
    "External",
    "ContainerResource",
    "Utilization",
    "AverageValue",
    "Value",
    "*/5 * * * *",
    "@every 1s",
    "@hourly",
    "CRON_TZ=UTC * * * * *",
    "TZ=Mars/Olympus 0 0 * * *",
    "60 * * * *",
    "* * 31 2 *",
    "1-0 * * * *",
    "*/0 * * * *",
    "Indexed",
    "NonIndexed",
    "FailJob",
    "FailIndex",
    "Count",
    "Ignore",
    "^(a+)+$",
    "(",
    "[",
    "a{1000000}",
    "(?P<n>a)",
    "\\",
    "\\p{L}",
    ".spec.x",
    ".spec.list[0]",
    "{.a[*].b}",
    "$.x['y']",
    ".metadata.name",
    "self == oldSelf",
    "self.x.all(y, y > 0)",
    "object.spec",
    "has(self.x)",
    "true",
    "false",
    "null",
    "yes",
    "~",
    "https://a:99999/x?y#z",
    "https://[::1]:443",
    "http://user@host",
    "file:///etc",
    "unix:///run/x",
    "string",
    "object",
    "array",
    "integer",
    "number",
    "boolean",
    "date-time",
    "int-or-string",
    "Fail",
    "Namespaced",
    "Cluster",
    "kube-system",
    "default",
    "0-5",
    "0-9999999999",
    "1,3-2",
    "system:masters",
    "kubernetes.io/kube-apiserver-client",
    "YWJj",
    "YQ",
    "!!!!",
    "sha256:00",
    "name",
    "spec",
    "status",
];

/// A value of a type, most of the time.
pub fn value(s: &mut Source, ty: TypeRef) -> Value {
    typed(s, ty, 0)
}

fn typed(s: &mut Source, ty: TypeRef, depth: usize) -> Value {
    if s.is_empty() {
        return least(ty);
    }
    if depth > DEPTH_MAX || s.chance(40) {
        return scrap(s);
    }
    match ty.branch(true).shape() {
        Shape::Object(o) => {
            let all: Vec<_> = o.fields().collect();
            let mut out = Map::new();
            for f in all.iter().filter(|f| f.required()) {
                out.insert(f.name().to_owned(), typed(s, f.ty(), depth + 1));
            }
            for _ in 0..s.below(5) {
                if let Some(f) = all.get(s.below(all.len())) {
                    out.insert(f.name().to_owned(), typed(s, f.ty(), depth + 1));
                }
            }
            Value::Object(out)
        }
        Shape::List(l) => (0..s.below(4)).map(|_| typed(s, l.item, depth + 1)).collect(),
        Shape::Map(m) => (0..s.below(4)).map(|_| (s.text(), typed(s, m.value, depth + 1))).collect::<Map<_, _>>().into(),
        Shape::Scalar(x) => scalar(s, x, depth),
    }
}

fn scalar(s: &mut Source, x: Scalar, depth: usize) -> Value {
    match x {
        Scalar::Bool => (s.below(2) == 1).into(),
        Scalar::Int32 | Scalar::Int64 | Scalar::Double => s.number().into(),
        Scalar::IntOrString if s.below(2) == 0 => s.number().into(),
        Scalar::Any => any_below(s, depth + 1),
        _ => s.text().into(),
    }
}

/// What a type has when nothing chooses.
fn least(ty: TypeRef) -> Value {
    match ty.branch(true).shape() {
        Shape::Object(_) | Shape::Map(_) => json!({}),
        Shape::List(_) => json!([]),
        Shape::Scalar(Scalar::Bool) => false.into(),
        Shape::Scalar(Scalar::Int32 | Scalar::Int64 | Scalar::Double) => 0.into(),
        Shape::Scalar(Scalar::Any) => Value::Null,
        Shape::Scalar(_) => "".into(),
    }
}

/// Any JSON.
pub fn any(s: &mut Source) -> Value {
    any_below(s, 0)
}

fn any_below(s: &mut Source, depth: usize) -> Value {
    if depth > DEPTH_MAX || s.is_empty() {
        return scrap(s);
    }
    match s.below(8) {
        0 | 1 => (0..s.below(4)).map(|_| (s.text(), any_below(s, depth + 1))).collect::<Map<_, _>>().into(),
        2 => (0..s.below(4)).map(|_| any_below(s, depth + 1)).collect(),
        3 | 4 => s.text().into(),
        5 => s.number().into(),
        _ => scrap(s),
    }
}

/// A small value of some type.
fn scrap(s: &mut Source) -> Value {
    match s.below(7) {
        0 => Value::Null,
        1 => json!({}),
        2 => json!([]),
        3 => "".into(),
        4 => true.into(),
        5 => json!([null]),
        _ => json!({"": null}),
    }
}

/// Changes some places of a document of a type: at least one while there are bytes.
pub fn mutate(s: &mut Source, v: &mut Value, ty: TypeRef) {
    for _ in 0..1 + s.below(4) {
        place(s, v, Some(ty), 0);
    }
}

/// Goes down from `v` and changes what it comes to.
fn place(s: &mut Source, v: &mut Value, ty: Option<TypeRef>, depth: usize) {
    if s.is_empty() || (depth > 0 && s.chance(6)) {
        return change(s, v, ty);
    }
    let ty = ty.map(|t| t.branch(v.is_object()));
    match v {
        Value::Object(m) => {
            let object = ty.and_then(|t| t.object());
            // A field that the document does not have yet.
            if let Some(o) = object.filter(|_| s.below(3) == 0) {
                let all: Vec<_> = o.fields().collect();
                if let Some(f) = all.get(s.below(all.len())) {
                    let new = typed(s, f.ty(), depth);
                    match m.get_mut(f.name()).filter(|_| s.below(2) == 0) {
                        Some(had) => place(s, had, Some(f.ty()), depth + 1),
                        None => drop(m.insert(f.name().to_owned(), new)),
                    }
                    return;
                }
            }
            let at = s.below(m.len());
            let Some(key) = m.keys().nth(at).cloned() else { return change(s, v, ty) };
            if s.chance(8) {
                m.remove(&key);
                return;
            }
            let below = match ty.map(|t| t.shape()) {
                Some(Shape::Object(o)) => o.field(&key).map(|f| f.ty()),
                Some(Shape::Map(m)) => Some(m.value),
                _ => None,
            };
            place(s, m.get_mut(&key).expect("a key of the map"), below, depth + 1);
        }
        Value::Array(a) if !a.is_empty() => {
            let item = ty.and_then(|t| t.list()).map(|l| l.item);
            let at = s.below(a.len());
            match s.below(8) {
                0 => drop(a.remove(at)),
                1 => a.push(a[at].clone()),
                2 => a.swap(0, at),
                3 => a.push(match item {
                    Some(t) => typed(s, t, depth),
                    None => scrap(s),
                }),
                _ => place(s, &mut a[at], item, depth + 1),
            }
        }
        _ => change(s, v, ty),
    }
}

fn change(s: &mut Source, v: &mut Value, ty: Option<TypeRef>) {
    *v = match (s.below(4), ty) {
        (0, _) => scrap(s),
        (1, _) => any(s),
        (_, Some(ty)) => typed(s, ty, 0),
        _ => any(s),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_bytes_make_the_same_document_and_other_bytes_another() {
        let ty = keles_api::schema::builtin().get("io.k8s.api.core.v1.Pod").expect("the table holds pods");
        let bytes = |seed: u64| {
            (0..200)
                .scan(seed, |x, _| {
                    *x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    Some((*x >> 33) as u8)
                })
                .collect::<Vec<_>>()
        };
        let made = |seed| value(&mut Source::new(&bytes(seed)), ty).to_string();
        assert_eq!(made(7), made(7));
        assert!((1..50).map(made).collect::<std::collections::BTreeSet<_>>().len() > 20);
    }
    #[test]
    fn a_used_up_source_ends_everything() {
        for ty in keles_api::schema::builtin().types() {
            assert!(!value(&mut Source::new(&[]), ty).is_null() || ty.object().is_none());
            mutate(&mut Source::new(&[]), &mut json!({}), ty);
        }
    }
}
