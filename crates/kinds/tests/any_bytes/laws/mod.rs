//! Laws that hold for any bytes. The tests beside this folder try them on random bytes and on those kept in `fuzz/corpus`; the targets of
//! `fuzz/` let libFuzzer look for bytes that break them. A function a law; each panics when it is broken.
//!
//! Most laws read a document out of the bytes by `keles_testkit::odd` rather than parse them, so that a fuzzer need not learn JSON.

mod codecs;
mod custom;
mod expressions;
mod kinds;
mod patches;

pub use codecs::{cbor, json, protobuf, yaml};
pub use custom::{custom_objects, openapi, structural_schema};
pub use expressions::{cel, jsonpath, scalars, selectors};
pub use kinds::any_object;
pub use patches::{apply, json_patch, merge_patch, strategic_patch};

use keles_api::TypeRef;
use keles_api::schema::builtin;
use keles_registry::AnyKind;
use keles_testkit::odd::{self, Source};
use serde_json::Value;

/// A name, as of its target, and the law.
pub type Law = (&'static str, fn(&[u8]));

/// Every law. A new one is a function, a row here, and a target in `fuzz/`.
pub const LAWS: &[Law] = &[
    ("apply", apply),
    ("cbor", cbor),
    ("cel", cel),
    ("custom_objects", custom_objects),
    ("json", json),
    ("json_patch", json_patch),
    ("jsonpath", jsonpath),
    ("kinds", any_object),
    ("merge_patch", merge_patch),
    ("openapi", openapi),
    ("protobuf", protobuf),
    ("scalars", scalars),
    ("selectors", selectors),
    ("strategic_patch", strategic_patch),
    ("structural_schema", structural_schema),
    ("yaml", yaml),
];

/// A kind and the type of the version it is stored in.
fn kind(s: &mut Source) -> (&'static dyn AnyKind, TypeRef<'static>) {
    let all = keles_kinds::all();
    let k = all[s.below(all.len())];
    (k, builtin().get(k.info().served[0].schema).expect("every kind has a type"))
}

/// The example of a kind with something wrong in it.
fn object(s: &mut Source) -> (&'static dyn AnyKind, TypeRef<'static>, Value) {
    let (k, ty) = kind(s);
    let mut o = k.example().0;
    odd::mutate(s, &mut o, ty);
    (k, ty, o)
}
