//! PriorityClass: how important pods are (scheduling.k8s.io/v1).

use crate::field::{Field, default_pointer, immutable, required_one_of};
use crate::table::{self, AGE, NAME, column};
use keles_api::{Object, Problems};
use keles_registry::kind::{Column, GenerationKept, Info, Kind, Scope, Served};
use serde_json::json;

pub struct PriorityClass;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("Value", "integer", "value represents the integer value of this priority class.", |o, _| table::int_cell(o, &["value"])),
    column(
        "Global-Default",
        "boolean",
        "globalDefault specifies whether this PriorityClass should be considered as the default priority for pods that do not have any priority class.",
        |o, _| table::bool_cell(o, &["globalDefault"]),
    ),
    AGE,
    column("PreemptionPolicy", "string", "preemptionPolicy is the Policy for preempting pods with lower priority.", |o, _| table::str_cell(o, &["preemptionPolicy"])),
];

impl Kind for PriorityClass {
    type Object = Object;
    const INFO: Info = Info {
        kind: "PriorityClass",
        plural: "priorityclasses",
        singular: "priorityclass",
        short_names: &["pc"],
        scope: Scope::Cluster,
        served: &[Served { group: "scheduling.k8s.io", version: "v1", schema: "io.k8s.api.scheduling.v1.PriorityClass" }],
        generation: true,
        generation_kept: GenerationKept::OnCreate,
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "sample"}, "value": 1000}))
    }

    fn set_defaults(o: &mut Object) {
        default_pointer(&mut o.0, "preemptionPolicy", "PreemptLowerPriority");
    }

    fn validate(o: &Object, p: &mut Problems) {
        let root = Field::root(o);
        if o.name().starts_with("system-") {
            if let Err(why) = known_system_class(o.name(), &root) {
                p.forbidden(&root.get("metadata").at("name"), format!("priority class names with 'system-' prefix are reserved for system use only. error: {why}"));
            }
        } else if root.int("value") > USER_VALUE_MAX {
            p.forbidden(&root.at("value"), format!("maximum allowed value of a user defined priority is {USER_VALUE_MAX}"));
        }
        required_one_of(p, &root.at("preemptionPolicy"), root.str("preemptionPolicy"), &["PreemptLowerPriority", "Never"]);
    }

    fn validate_update(new: &Object, old: &Object, p: &mut Problems) {
        let (now, before) = (Field::root(new), Field::root(old));
        if now.int("value") != before.int("value") {
            p.forbidden(&now.at("value"), "may not be changed in an update.");
        }
        immutable(p, &now.get("preemptionPolicy"), &before.get("preemptionPolicy"));
    }
}

const USER_VALUE_MAX: i64 = 1_000_000_000;
const SYSTEM_CLASSES: &[(&str, i64)] = &[("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

fn known_system_class(name: &str, root: &Field) -> Result<(), String> {
    match SYSTEM_CLASSES.iter().find(|(known, _)| *known == name) {
        None => Err(format!("{name} is not a known system priority class")),
        Some((_, value)) if *value != root.int("value") => Err(format!("value of {name} PriorityClass must be {value}")),
        Some(_) if root.bool("globalDefault") => Err(format!("globalDefault of {name} PriorityClass must be false")),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_stays_what_it_was() {
        let old = PriorityClass::example();
        let mut new = old.clone();
        new.0["value"] = (Field::root(&old).int("value") + 1).into();
        let check = |new: &Object| {
            let mut p = Problems::default();
            PriorityClass::validate_update(new, &old, &mut p);
            p.aggregate()
        };
        assert_eq!(check(&new), "value: Forbidden: may not be changed in an update.");
        let mut described = old.clone();
        described.0["description"] = "new words".into();
        assert!(!check(&described).contains("Forbidden"), "{}", check(&described));
    }
}
