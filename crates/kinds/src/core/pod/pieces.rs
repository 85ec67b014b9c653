//! What the subresources `ephemeralcontainers` and `resize` may change of a pod, and how.

use crate::field::{Field, remove, same, set};
use keles_api::{Object, Problems};
use keles_rules::qos;
use serde_json::Value;

pub const EPHEMERAL: &str = "ephemeralcontainers";
pub const RESIZE: &str = "resize";
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Resources that a running container can be given more or less of.
const RESIZABLE: &[&str] = &["cpu", "memory"];
const SIZES: &[&str] = &["limits", "requests"];

fn items<'o>(o: &'o Object, list: &str) -> &'o [Value] {
    o.at(&["spec", list]).as_array().map_or(&[], Vec::as_slice)
}

/// The old pod with the new ephemeral containers.
pub fn take_ephemeral(new: &mut Object, old: &Object) {
    let given = new.at(&["spec", "ephemeralContainers"]).clone();
    *new = old.clone();
    let Some(spec) = new.0.get_mut("spec") else { return };
    match given {
        Value::Null => remove(spec, "ephemeralContainers"),
        given => set(spec, "ephemeralContainers", given),
    }
}

/// Ephemeral containers are only ever added.
pub fn check_ephemeral(new: &Object, old: &Object, p: &mut Problems) {
    let at = Field::root(new).get("spec").at("ephemeralContainers");
    if old.annotation(MIRROR).is_some() {
        p.forbidden(&keles_api::Path::new(""), "static pods do not support ephemeral containers");
    }
    for had in items(old, "ephemeralContainers") {
        let name = had["name"].as_str().unwrap_or_default();
        match items(new, "ephemeralContainers").iter().find(|c| c["name"] == had["name"]) {
            None => p.forbidden(&at, format!("existing ephemeral containers {name:?} may not be removed\n")),
            Some(c) if !same(c, had) => p.forbidden(&at, format!("existing ephemeral containers {name:?} may not be changed\n")),
            Some(_) => {}
        }
    }
}

/// The old pod with the new resources, of containers and of the pod as a whole (KEP-5419), and resize policies; containers that were added or moved stay, for [`check_resize`] to refuse.
pub fn take_resize(new: &mut Object, old: &Object) {
    let lists = ["containers", "initContainers"];
    if lists.iter().any(|l| items(new, l).len() != items(old, l).len()) {
        return;
    }
    let taken = lists.map(|l| {
        let kept = items(old, l).iter().zip(items(new, l)).map(|(had, given)| {
            if had["name"] != given["name"] {
                return given.clone();
            }
            let mut c = had.clone();
            for f in ["resources", "resizePolicy"] {
                match given.get(f) {
                    Some(v) => set(&mut c, f, v.clone()),
                    None => remove(&mut c, f),
                }
            }
            c
        });
        (l, kept.collect::<Vec<_>>())
    });
    let of_pod = new.at(&["spec", "resources"]).clone();
    *new = old.clone();
    if let Some(spec) = new.0.get_mut("spec") {
        match of_pod {
            Value::Null => remove(spec, "resources"),
            given => set(spec, "resources", given),
        }
        taken.into_iter().filter(|(_, list)| !list.is_empty()).for_each(|(l, list)| set(spec, l, Value::from(list)));
    }
}

/// Only CPU and memory, only changed, never taken away, and the QoS class stays.
pub fn check_resize(new: &Object, old: &Object, p: &mut Problems) {
    if old.annotation(MIRROR).is_some() {
        return p.forbidden(&keles_api::Path::new(""), "static pods cannot be resized");
    }
    let spec = Field::root(new).get("spec");
    let class = qos::class(new.at(&["spec"])).as_str();
    if class != qos::class(old.at(&["spec"])).as_str() {
        p.invalid(spec.path(), class, "Pod QOS Class may not change as a result of resizing");
    }
    check_sizes(&spec, old.at(&["spec"]), p);
    for list in ["containers", "initContainers"] {
        let (given, had) = (spec.items(list), items(old, list));
        if given.len() != had.len() {
            p.forbidden(&spec.at(list), "containers may not be added or removed on resize");
            continue;
        }
        for (c, had) in given.iter().zip(had) {
            if c.value()["name"] != had["name"] {
                p.forbidden(&c.at("name"), "containers may not be renamed or reordered on resize");
                continue;
            }
            check_sizes(c, had, p);
        }
    }
}

/// `resources` of a container, or of the spec.
fn check_sizes(holder: &Field, had: &Value, p: &mut Problems) {
    let resources = holder.get("resources");
    for kind in SIZES {
        let (given, before) = (&holder.value()["resources"][*kind], &had["resources"][*kind]);
        for name in RESIZABLE.iter().filter(|n| before.get(**n).is_some() && given.get(**n).is_none()) {
            p.forbidden(&resources.get(kind).at(name), format!("resource {kind} cannot be removed"));
        }
        let rest = |v: &Value| v.as_object().into_iter().flatten().filter(|(k, _)| !RESIZABLE.contains(&k.as_str())).map(|(k, v)| (k.clone(), v.clone())).collect::<Vec<_>>();
        if rest(given) != rest(before) {
            p.forbidden(&keles_api::Path::new("spec"), "only cpu and memory resources are mutable\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(cpu: &str) -> Object {
        Object(
            json!({"metadata": {"name": "a", "labels": {"l": "1"}}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]}}),
        )
    }
    fn problems(check: fn(&Object, &Object, &mut Problems), new: &Object, old: &Object) -> Vec<String> {
        let mut p = Problems::new();
        check(new, old, &mut p);
        p.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_resize_changes_resources_and_nothing_else() {
        let (old, mut new) = (pod("1"), pod("2"));
        new.0["spec"]["containers"][0]["image"] = "other".into();
        new.0["metadata"]["labels"] = json!({});
        take_resize(&mut new, &old);
        assert_eq!(new, pod("2"));
        assert!(problems(check_resize, &new, &old).is_empty());
    }

    #[test]
    fn a_resize_of_the_pod_as_a_whole_changes_its_amounts_and_takes_none_away() {
        let of_pod = |resources: Value| {
            let mut pod = pod("1");
            pod.0["spec"]["resources"] = resources;
            pod
        };
        let old = of_pod(json!({"requests": {"cpu": "2"}, "limits": {"cpu": "3", "hugepages-2Mi": "2Mi"}}));
        let mut new = of_pod(json!({"requests": {"cpu": "3"}, "limits": {"cpu": "4", "hugepages-2Mi": "2Mi"}}));
        let wanted = new.clone();
        take_resize(&mut new, &old);
        assert_eq!(new, wanted);
        assert_eq!(problems(check_resize, &new, &old), [] as [String; 0]);
        let less = of_pod(json!({"requests": {"cpu": "2"}, "limits": {"hugepages-2Mi": "4Mi"}}));
        let found = problems(check_resize, &less, &old);
        assert!(found[0].contains("spec.resources.limits.cpu") && found[0].contains("resource limits cannot be removed"), "{found:?}");
        assert!(found[1].contains("only cpu and memory resources are mutable"), "{found:?}");
    }

    #[test]
    fn a_resize_may_not_change_the_class_nor_take_a_request_away() {
        let old = pod("1");
        let mut new = old.clone();
        new.0["spec"]["containers"][0]["resources"] = json!({});
        let found = problems(check_resize, &new, &old);
        assert!(found[0].contains("Pod QOS Class may not change as a result of resizing"), "{found:?}");
        assert!(found[1].contains("resource requests cannot be removed"), "{found:?}");
    }

    #[test]
    fn ephemeral_containers_are_only_added() {
        let old = pod("1");
        let mut new = old.clone();
        new.0["spec"]["ephemeralContainers"] = json!([{"name": "debug", "image": "i"}]);
        new.0["spec"]["nodeName"] = "other".into();
        take_ephemeral(&mut new, &old);
        assert_eq!((new.str_at(&["spec", "nodeName"]), items(&new, "ephemeralContainers").len()), ("n", 1));
        assert!(problems(check_ephemeral, &new, &old).is_empty());
        assert!(problems(check_ephemeral, &old, &new)[0].contains("existing ephemeral containers \"debug\" may not be removed"));
    }

    #[test]
    fn a_pod_that_runs_takes_ephemeral_containers_where_one_that_is_made_does_not() {
        use crate::core::pod::Pod;
        use keles_registry::kind::Kind;
        let mut old = Pod::example();
        Pod::set_defaults(&mut old);
        let mut new = old.clone();
        new.0["spec"]["ephemeralContainers"] = json!([{"name": "debug", "image": "i", "terminationMessagePolicy": "File", "imagePullPolicy": "Always"}]);
        assert_eq!(problems(|new, old, p| Pod::validate_piece(new, old, EPHEMERAL, p), &new, &old), [] as [String; 0]);
        assert!(problems(|new, _, p| Pod::validate(new, p), &new, &old)[0].contains("cannot be set on create"));
    }
}
