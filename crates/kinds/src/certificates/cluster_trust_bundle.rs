//! ClusterTrustBundle: certificates that pods trust (certificates.k8s.io/v1beta1, certificates.k8s.io/v1alpha1).

use crate::selectable;
use crate::table::{self, NAME, column};
use keles_api::Object;
use keles_registry::kind::{Column, Info, Kind, NameRule, Scope, Selectable, Served};
use serde_json::json;

pub struct ClusterTrustBundle;

const COLUMNS: &[Column<Object>] =
    &[NAME, column("SignerName", "string", "signerName indicates the associated signer, if any.", |o, _| table::str_cell(o, &["spec", "signerName"]))];

impl Kind for ClusterTrustBundle {
    type Object = Object;
    const INFO: Info = Info {
        kind: "ClusterTrustBundle",
        plural: "clustertrustbundles",
        singular: "clustertrustbundle",
        scope: Scope::Cluster,
        served: &[
            Served { group: "certificates.k8s.io", version: "v1beta1", schema: "io.k8s.api.certificates.v1beta1.ClusterTrustBundle" },
            Served { group: "certificates.k8s.io", version: "v1alpha1", schema: "io.k8s.api.certificates.v1alpha1.ClusterTrustBundle" },
        ],
        selectable: &[Selectable { path: "spec.signerName", value: |o| selectable::text(o, &["spec", "signerName"]) }],
        unconditional_update: false,
        name_rule: NameRule::Own,
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "certificates.k8s.io/v1beta1",
            "kind": "ClusterTrustBundle",
            "metadata": {"name": "sample"},
            "spec": {"trustBundle": "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"}
        }))
    }
}
