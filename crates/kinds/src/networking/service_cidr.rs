//! ServiceCIDR: where cluster addresses come from (networking.k8s.io/v1, networking.k8s.io/v1beta1).

use crate::field::clear_status;
use crate::field::{Field, IMMUTABLE};
use crate::ip;
use crate::subresource::status;
use crate::table::{self, AGE, NAME, column, text};
use keles_api::{Object, Problems};
use keles_registry::kind::{Column, Info, Kind, Request, Scope, Served};
use serde_json::json;
use std::collections::BTreeSet;

pub struct ServiceCIDR;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("CIDRs", "string", "CIDRs defines the IP blocks in CIDR notation (e.g. \"192.168.0.0/24\" or \"2001:db8::/64\") from which to assign service cluster IPs.", |o, _| {
        text(table::list(o.at(&["spec", "cidrs"])).iter().filter_map(|c| c.as_str()).collect::<Vec<_>>().join(","))
    }),
    AGE,
];

impl Kind for ServiceCIDR {
    type Object = Object;
    const INFO: Info = Info {
        kind: "ServiceCIDR",
        plural: "servicecidrs",
        singular: "servicecidr",
        scope: Scope::Cluster,
        served: &[
            Served { group: "networking.k8s.io", version: "v1", schema: "io.k8s.api.networking.v1.ServiceCIDR" },
            Served { group: "networking.k8s.io", version: "v1beta1", schema: "io.k8s.api.networking.v1beta1.ServiceCIDR" },
        ],
        subresources: &[status("ServiceCIDR")],
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "sample"}, "spec": {"cidrs": ["192.0.2.0/24"]}}))
    }

    fn prepare_create(o: &mut Object, _: &Request) {
        clear_status(o);
    }

    fn validate(o: &Object, p: &mut Problems) {
        let spec = Field::root(o).get("spec");
        let all = spec.items("cidrs");
        if all.is_empty() {
            p.required(&spec.at("cidrs"), "at least one CIDR required");
            return;
        }
        if all.len() > 2 {
            // The whole spec is shown, with the name of its Go field.
            p.invalid(&spec.at("cidrs"), json!({"CIDRs": spec.get("cidrs").value()}), "may only hold up to 2 values");
            return;
        }
        for cidr in &all {
            ip::canonical_cidr(p, cidr.path(), cidr.text());
        }
        let families: BTreeSet<bool> = all.iter().filter_map(|c| ip::parse_cidr_sloppy(c.text())).map(|(ip, _)| ip.is_ipv4()).collect();
        if all.len() == 2 && families.len() == 1 && all.iter().all(|c| ip::parse_cidr_sloppy(c.text()).is_some()) {
            p.invalid(&spec.at("cidrs"), spec.get("cidrs").value().clone(), "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64");
        }
    }

    /// The ranges stay, but a second one may join the first.
    fn validate_update(new: &Object, old: &Object, p: &mut Problems) {
        let (spec, before) = (Field::root(new).get("spec"), Field::root(old).get("spec"));
        let (now, was) = (spec.items("cidrs"), before.strings("cidrs"));
        if now.len() != was.len() && (was.len(), now.len()) != (1, 2) {
            p.invalid(&spec.at("cidrs"), spec.get("cidrs").value().clone(), IMMUTABLE);
            return;
        }
        for (cidr, before) in now.iter().zip(&was) {
            if cidr.text() != *before {
                p.invalid(cidr.path(), cidr.text(), IMMUTABLE);
            }
        }
        if now.len() > was.len() {
            Self::validate(new, p);
        }
    }
}
