//! RuntimeClass: which runtime runs a pod (node.k8s.io/v1).

use crate::core::pod::warnings::deprecated_label;
use crate::core::pod::{resources, scheduling};
use crate::field::{Field, immutable, invalid_each, same};
use crate::labels;
use crate::table::{self, AGE, NAME, column};
use keles_api::{Object, Problem, ProblemKind, Problems, names};
use keles_registry::kind::{Column, Info, Kind, Scope, Served};
use serde_json::json;

pub struct RuntimeClass;

const COLUMNS: &[Column<Object>] = &[NAME, column("Handler", "string", "", |o, _| table::str_cell(o, &["handler"])), AGE];

impl Kind for RuntimeClass {
    type Object = Object;
    const INFO: Info = Info {
        kind: "RuntimeClass",
        plural: "runtimeclasses",
        singular: "runtimeclass",
        scope: Scope::Cluster,
        served: &[Served { group: "node.k8s.io", version: "v1", schema: "io.k8s.api.node.v1.RuntimeClass" }],
        create_on_update: true,
        unconditional_update: false,
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "sample"}, "handler": "runc"}))
    }

    fn validate(o: &Object, p: &mut Problems) {
        let root = Field::root(o);
        let handler = root.str("handler");
        match handler {
            "" => p.required(&root.at("handler"), ""),
            name => invalid_each(p, &root.at("handler"), name, names::dns_label(name, false)),
        }
        resources::overhead(&root.get("overhead").get("podFixed"), &root.at("overhead"), p);
        let scheduling = root.get("scheduling");
        labels::labels(p, &scheduling.get("nodeSelector"));
        let tolerations = scheduling.items("tolerations");
        scheduling::tolerations(&tolerations, p);
        for (i, t) in tolerations.iter().enumerate() {
            if tolerations[..i].iter().any(|earlier| same(earlier.value(), t.value())) {
                p.push(same_toleration(t));
            }
        }
    }

    /// Upstream names the selector, not the label in it.
    fn warnings(new: &Object, _: Option<&Object>, w: &mut Vec<String>) {
        let selector = Field::root(new).get("scheduling");
        let found = selector.map("nodeSelector").filter_map(|(label, _)| deprecated_label(label));
        w.extend(found.map(|text| format!("{}: {text}", selector.at("nodeSelector"))));
    }

    fn validate_update(new: &Object, old: &Object, p: &mut Problems) {
        let (now, before) = (Field::root(new), Field::root(old));
        immutable(p, &now.get("handler"), &before.get("handler"));
        Self::validate(new, p);
    }
}

/// Upstream prints the toleration here, with the names of its Go fields.
fn same_toleration(t: &Field) -> Problem {
    let text = |name: &str| json!(t.str(name));
    let (key, operator, value, effect) = (text("key"), text("operator"), text("value"), text("effect"));
    let seconds = t.get("tolerationSeconds").value().clone();
    let detail = format!("{{\"Key\":{key},\"Operator\":{operator},\"Value\":{value},\"Effect\":{effect},\"TolerationSeconds\":{seconds}}}");
    Problem { kind: ProblemKind::Duplicate, field: t.path().as_str().into(), value: None, detail }
}
