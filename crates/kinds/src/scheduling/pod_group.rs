//! PodGroup: one group of a Workload (scheduling.k8s.io/v1alpha2).

use crate::conditions::conditions;
use crate::field::{Field, clear_status, immutable};
use crate::gates;
use crate::scheduling::policy;
use crate::subresource::status;
use crate::table::{AGE, NAME};
use keles_api::{Object, Problems};
use keles_registry::gates::GatedAt;
use keles_registry::kind::{Column, Info, Kind, Request, Served};
use serde_json::json;

pub struct PodGroup;

const COLUMNS: &[Column<Object>] = &[NAME, AGE];

impl Kind for PodGroup {
    type Object = Object;
    const INFO: Info = Info {
        kind: "PodGroup",
        plural: "podgroups",
        singular: "podgroup",
        served: &[Served { group: "scheduling.k8s.io", version: "v1alpha2", schema: "io.k8s.api.scheduling.v1alpha2.PodGroup" }],
        subresources: &[status("PodGroup")],
        ..Info::BASE
    };

    const GATED: &'static [GatedAt] = &[(&[], gates::POD_GROUP)];

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "scheduling.k8s.io/v1alpha2",
            "kind": "PodGroup",
            "metadata": {"name": "sample", "namespace": "default"},
            "spec": {"schedulingPolicy": {"basic": {}}}
        }))
    }

    fn prepare_create(o: &mut Object, _: &Request) {
        clear_status(o);
    }

    fn validate(o: &Object, p: &mut Problems) {
        policy::scheduling(&Field::root(o).get("spec").get("schedulingPolicy"), p);
    }

    fn validate_update(new: &Object, old: &Object, p: &mut Problems) {
        immutable(p, &Field::root(new).get("spec"), &Field::root(old).get("spec"));
    }

    fn validate_status(new: &Object, _: &Object, p: &mut Problems) {
        conditions(&Field::root(new).get("status"), usize::MAX, p);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keles_registry::gates::take_away;

    #[test]
    fn what_is_switched_off_goes_unless_the_group_had_it() {
        let basic = PodGroup::example();
        let mut full = basic.clone();
        full.0["spec"]["priority"] = 5.into();
        full.0["spec"]["resourceClaims"] = json!([{"name": "a", "resourceClaimName": "a"}]);
        full.0["status"] = json!({"resourceClaimStatuses": [{"name": "a"}]});
        let mut made = full.clone();
        take_away(&mut made, None, PodGroup::GATED);
        assert_eq!((&made.0["spec"], &made.0["status"]), (&basic.0["spec"], &json!({})));
        let mut changed = full.clone();
        take_away(&mut changed, Some(&full), PodGroup::GATED);
        assert_eq!(changed, full);
    }
}
