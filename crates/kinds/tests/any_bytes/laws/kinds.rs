//! The rules of every built-in kind hold out against any object that decodes.

use super::object;
use keles_api::decode::{FieldValidation, Format};
use keles_api::{Object, Path, Problems, canonical, meta, names};
use keles_registry::kind::{AnyKind, Cells, Request, STATUS};
use keles_testkit::odd::{self, Source};

fn decoded(k: &dyn AnyKind, body: &str) -> Option<Object> {
    let served = k.info().served[0];
    let mut o = k.decode(&served, body.as_bytes(), Format::Json, FieldValidation::Warn).ok()?.object;
    o.set_type(k.example().api_version(), k.info().kind);
    k.static_defaults(&served, &mut o);
    Some(o)
}

pub fn any_object(data: &[u8]) {
    let mut s = Source::new(data);
    let (k, ty, first) = object(&mut s);
    let served = k.info().served[0];
    let request = Request { group: served.group.into(), version: served.version.into(), plural: k.info().plural.into(), now: "2026-01-01T00:00:00Z".into(), ..Request::default() };
    let Some(mut o) = decoded(k, &first.to_string()) else { return };

    let mut once = o.clone();
    k.set_defaults(&mut once).expect("it was decoded");
    let mut twice = once.clone();
    k.set_defaults(&mut twice).expect("it was decoded");
    assert_eq!(once, twice, "defaults of {}", k.info().kind);

    let mut p = Problems::new();
    meta::validate_create(&o, false, names::dns_subdomain, &Path::new("metadata"), &mut p);
    k.set_defaults(&mut o).expect("a tree");
    k.create(&mut o, &request, &mut p, &mut Vec::new()).expect("it was decoded");
    p.aggregate();
    k.cells(&o, &Cells { now_unix_seconds: 1_767_225_600 }).expect("it was decoded");
    for field in k.info().selectable {
        k.field_value(&o, field);
    }
    for other in &k.info().served[1..] {
        let version = keles_api::GroupVersion::new(other.group, other.version).to_string();
        let mut there = o.clone();
        there.set_type(&version, k.info().kind);
        k.convert(&mut there, k.example().api_version(), &version);
        let mut back = k.conform(other, there);
        back.set_type(k.example().api_version(), k.info().kind);
        k.convert(&mut back, &version, k.example().api_version());
    }

    // A sound object, or this one, changed.
    let mut old = if s.below(2) == 0 { k.example() } else { o };
    k.set_defaults(&mut old).expect("a tree");
    k.create(&mut old, &request, &mut Problems::new(), &mut Vec::new()).expect("it was decoded");
    canonical::canonicalise(&mut old.0, ty);
    let mut changed = old.clone();
    odd::mutate(&mut s, &mut changed.0, ty);
    let Some(new) = decoded(k, &changed.0.to_string()) else { return };
    let mut p = Problems::new();
    meta::validate_update(&new, &old, &Path::new("metadata"), &mut p);
    k.update(&mut new.clone(), &old, &request, &mut p, &mut Vec::new()).expect("it was decoded");
    if k.info().subresources.iter().any(|x| x.name == STATUS) {
        k.update_status(&mut new.clone(), &old, &Request { subresource: STATUS.into(), ..request.clone() }, &mut p).expect("it was decoded");
    }
    for piece in k.pieces() {
        let mut new = new.clone();
        let request = Request { subresource: (*piece).into(), ..request.clone() };
        k.take_piece(&mut new, &old, &request).expect("it was decoded");
        k.validate_piece(&new, &old, piece, &mut p).expect("it was decoded");
    }
    let _ = k.grace_seconds(&old, Some(s.below(3) as i64 - 1));
    k.prepare_delete(&mut old, &request).expect("it was decoded");
    p.aggregate();
}
