//! Laws of PATCH.

use crate::world::*;
use keles_registry::PatchType;

#[tokio::test]
async fn the_three_patches_change_an_object() {
    let w = World::new().await;
    w.req("deployments").create(&deployment("d")).await.unwrap();
    let d = || w.req("deployments").named("d");
    d().patch(PatchType::Merge, r#"{"metadata":{"labels":{"a":"1"}}}"#).await.unwrap();
    d().patch(PatchType::Json, r#"[{"op":"add","path":"/metadata/labels/b","value":"2"}]"#).await.unwrap();
    let o = d().patch(PatchType::Strategic, r#"{"spec":{"template":{"spec":{"containers":[{"name":"e","image":"j"}]}}}}"#).await.unwrap();
    assert_eq!((o.label("a"), o.label("b")), (Some("1"), Some("2")));
    assert_eq!(o.at(&["spec", "template", "spec", "containers"]).as_array().unwrap().len(), 2, "containers merge by name");
}

#[tokio::test]
async fn apply_is_chosen_by_content_type_alone() {
    let w = World::new().await;
    w.req("configmaps").create(&config("a", "1")).await.unwrap();
    assert_eq!(PatchType::of("application/apply-patch+yaml"), Some(PatchType::Apply));
    let o = w.req("configmaps").named("a").query("fieldManager=me").merge(r#"{"data":{"t":"2"}}"#).await.unwrap();
    assert_eq!(o.str_at(&["data", "t"]), "2", "a fieldManager makes no apply of it");
    assert_eq!(o.meta("managedFields")[1]["operation"], "Update", "a fieldManager makes no apply of it");
}

#[tokio::test]
async fn a_patch_that_names_a_revision_is_held_to_it() {
    let w = World::new().await;
    let a = w.req("configmaps").create(&config("a", "1")).await.unwrap();
    let p = format!(r#"{{"metadata":{{"resourceVersion":"{}"}},"data":{{"t":"2"}}}}"#, a.resource_version());
    w.req("configmaps").named("a").merge(&p).await.unwrap();
    let e = w.req("configmaps").named("a").merge(&p.replace("\"2\"", "\"3\"")).await.unwrap_err();
    assert_eq!((e.code, e.reason.as_str()), (409, "Conflict"));
}

#[tokio::test]
async fn a_patch_of_nothing_is_404() {
    let w = World::new().await;
    let e = w.req("configmaps").named("absent").merge("{}").await.unwrap_err();
    assert_eq!((e.code, e.message.as_str()), (404, "configmaps \"absent\" not found"));
}

#[tokio::test]
async fn a_patch_that_breaks_the_type_is_422_about_the_patch() {
    let w = World::new().await;
    w.req("configmaps").create(&config("a", "1")).await.unwrap();
    let e = w.req("configmaps").named("a").merge(r#"{"data":{"t":7}}"#).await.unwrap_err();
    assert_eq!(e.code, 422);
    assert!(e.message.starts_with(" \"\" is invalid: patch: Invalid value: \"{"), "{}", e.message);
    let cause = &e.details.unwrap().causes[0];
    assert_eq!((cause.field.as_str(), cause.reason.as_str()), ("patch", "FieldValueInvalid"));
}
