//! StatefulSet: pods with names and storage of their own, in order (apps/v1).

use crate::apps::workload;
use crate::core::persistent_volume_claim;
use crate::core::pod::template;
use crate::field::{Field, child_mut, default, default_pointer, invalid_each, items_mut, non_negative, one_of, same, set, without};
use crate::gates;
use crate::labels;
use crate::subresource::{SCALE, status};
use crate::table::{self, AGE, NAME, column, text, wide};
use keles_api::{Object, Problems, names};
use keles_registry::gates::GatedAt;
use keles_registry::kind::{Column, Info, Kind, NameRule, Request, Served};
use serde_json::{Value, json};

pub struct StatefulSet;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("Ready", "string", "Number of the pod with ready state", |o, _| text(ready(o))),
    AGE,
    wide("Containers", "string", "Names of each container in the template.", |o, _| table::containers(o.at(&["spec", "template", "spec"]))),
    wide("Images", "string", "Images referenced by each container in the template.", |o, _| table::images(o.at(&["spec", "template", "spec"]))),
];

impl Kind for StatefulSet {
    type Object = Object;
    const INFO: Info = Info {
        kind: "StatefulSet",
        plural: "statefulsets",
        singular: "statefulset",
        short_names: &["sts"],
        categories: &["all"],
        served: &[Served { group: "apps", version: "v1", schema: "io.k8s.api.apps.v1.StatefulSet" }],
        subresources: &[SCALE, status("StatefulSet")],
        generation: true,
        name_rule: NameRule::DnsLabel,
        ..Info::BASE
    };

    const GATED: &'static [GatedAt] = &[(&["spec", "template", "spec"], gates::POD_SPEC)];

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": {"name": "sample", "namespace": "default"},
            "spec": {
                "serviceName": "s",
                "selector": {"matchLabels": {"app": "x"}},
                "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
            }
        }))
    }

    fn set_defaults(o: &mut Object) {
        let Some(spec) = child_mut(&mut o.0, "spec") else { return };
        default(spec, "podManagementPolicy", "OrderedReady");
        default_pointer(spec, "replicas", 1);
        default_pointer(spec, "revisionHistoryLimit", 10);
        template::set_defaults(spec);
        if let Some(strategy) = child_mut(spec, "updateStrategy") {
            // Who names the strategy himself gets no parameters for it.
            if strategy["type"].as_str().unwrap_or("").is_empty() {
                set(strategy, "type", "RollingUpdate");
                child_mut(strategy, "rollingUpdate");
            }
            if strategy["type"] == "RollingUpdate"
                && let Some(rolling) = strategy.get_mut("rollingUpdate").filter(|r| r.is_object())
            {
                default_pointer(rolling, "partition", 0);
            }
        }
        if let Some(policy) = child_mut(spec, "persistentVolumeClaimRetentionPolicy") {
            default(policy, "whenDeleted", "Retain");
            default(policy, "whenScaled", "Retain");
        }
        for claim in items_mut(spec, "volumeClaimTemplates") {
            persistent_volume_claim::default_template(claim);
        }
    }

    fn prepare_create(o: &mut Object, _: &Request) {
        set(&mut o.0, "status", json!({"replicas": 0, "availableReplicas": 0}));
    }

    fn validate(o: &Object, p: &mut Problems) {
        let spec = Field::root(o).get("spec");
        always(&spec, p);
        let service = spec.str("serviceName");
        if !service.is_empty() {
            invalid_each(p, &spec.at("serviceName"), service, names::dns_label(service, false));
        }
        for claim in spec.items("volumeClaimTemplates") {
            persistent_volume_claim::validate_claim_spec(&claim.get("spec"), p);
        }
    }

    fn validate_update(new: &Object, old: &Object, p: &mut Problems) {
        let (spec, before) = (Field::root(new).get("spec"), Field::root(old).get("spec"));
        always(&spec, p);
        if !same(&without(spec.value(), MUTABLE), &without(before.value(), MUTABLE)) {
            p.forbidden(spec.path(), UPDATE_REFUSED);
        }
    }

    fn validate_status(new: &Object, old: &Object, p: &mut Problems) {
        let status = Field::root(new).get("status");
        let below = ["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"];
        let all = ["replicas", "readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas", "observedGeneration", "collisionCount"];
        workload::status_counts_saying(&status, &all, &below, "status.readyReplicas", p);
        workload::collisions_only_grow(&status, &Field::root(old).get("status"), p);
    }

    fn warnings(new: &Object, old: Option<&Object>, w: &mut Vec<String>) {
        let spec = Field::root(new).get("spec");
        workload::template_warnings(new, old, &["spec", "template"], w);
        for claim in spec.items("volumeClaimTemplates") {
            // Upstream leaves `spec` out of the place.
            persistent_volume_claim::spec_warnings(&Field::new(claim.get("spec").value(), claim.path().clone()), w);
        }
        if spec.int("revisionHistoryLimit") < 0 {
            w.push("spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended".into());
        }
    }
}

/// `2/3`
fn ready(o: &Object) -> String {
    let count = |path: &[&str]| o.at(path).as_i64().unwrap_or(0);
    format!("{}/{}", count(&["status", "readyReplicas"]), count(&["spec", "replicas"]))
}

const MUTABLE: &[&str] = &["replicas", "ordinals", "template", "updateStrategy", "revisionHistoryLimit", "persistentVolumeClaimRetentionPolicy", "minReadySeconds"];
const UPDATE_REFUSED: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";

/// What create and update check alike.
fn always(spec: &Field, p: &mut Problems) {
    match spec.str("podManagementPolicy") {
        "" => p.required(&spec.at("podManagementPolicy"), ""),
        "OrderedReady" | "Parallel" => {}
        other => p.invalid(&spec.at("podManagementPolicy"), other, "must be 'OrderedReady' or 'Parallel'"),
    }
    update_strategy(&spec.get("updateStrategy"), p);
    let retention = spec.get("persistentVolumeClaimRetentionPolicy");
    for name in ["whenDeleted", "whenScaled"].iter().filter(|_| retention.is_set()) {
        one_of(p, &retention.at(name), retention.str(name), &["Retain", "Delete"]);
    }
    for name in ["replicas", "minReadySeconds"] {
        non_negative(p, spec, name);
    }
    non_negative(p, &spec.get("ordinals"), "start");
    selector(spec, p);
}

fn update_strategy(strategy: &Field, p: &mut Problems) {
    let rolling = strategy.get("rollingUpdate");
    match strategy.str("type") {
        "" => p.required(strategy.path(), ""),
        "OnDelete" if rolling.is_set() => p.invalid(rolling.path(), rolling.value().clone(), "only allowed for updateStrategy 'RollingUpdate'"),
        "OnDelete" => {}
        "RollingUpdate" => {
            non_negative(p, &rolling, "partition");
            let unavailable = rolling.get("maxUnavailable");
            if unavailable.is_set() {
                workload::count_or_percent(p, unavailable.path(), unavailable.value());
                if workload::is_zero(unavailable.value()) {
                    p.invalid(unavailable.path(), unavailable.value().clone(), "cannot be 0");
                }
                workload::not_over_100_percent(p, unavailable.path(), unavailable.value());
            }
        }
        _ => p.invalid(strategy.path(), strategy.value().clone(), "must be 'RollingUpdate' or 'OnDelete'"),
    }
}

fn selector(spec: &Field, p: &mut Problems) {
    let selector = spec.get("selector");
    if selector.is_set() {
        labels::selector(p, &selector);
        if labels::is_empty(selector.value()) {
            p.invalid(selector.path(), selector.value().clone(), "empty selector is invalid for statefulset");
        }
    } else {
        p.required(selector.path(), "");
    }
    if workload::is_valid_selector(&selector) {
        workload::template_labels(spec, p);
        let with_claims = template_with_claims(spec);
        let t = Field::new(&with_claims, spec.at("template"));
        // Upstream looks at the labels of the template twice.
        labels::labels(p, &Field::new(t.get("metadata").get("labels").value(), t.at("labels")));
        template::validate(&t, p);
        workload::always_running(&t, "StatefulSet", p);
    } else {
        p.invalid(selector.path(), selector.value().clone(), "");
    }
}

/// The claims that each pod gets are volumes of its template.
fn template_with_claims(spec: &Field) -> Value {
    let mut t = spec.get("template").value().clone();
    let Some(pod) = child_mut(&mut t, "spec") else { return t };
    let own: Vec<Value> = pod["volumes"].as_array().cloned().unwrap_or_default();
    let names: Vec<&str> = spec.list("volumeClaimTemplates").iter().map(|c| c["metadata"]["name"].as_str().unwrap_or("")).collect();
    let kept = own.into_iter().filter(|v| v["name"].as_str().is_none_or(|n| n.is_empty() || !names.contains(&n)));
    let claims = names.iter().map(|n| json!({"name": n, "persistentVolumeClaim": {"claimName": n}}));
    let all: Vec<Value> = kept.chain(claims).collect();
    set(pod, "volumes", all);
    t
}
