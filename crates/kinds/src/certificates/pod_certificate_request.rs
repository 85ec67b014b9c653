//! PodCertificateRequest: a wish for a certificate of a pod (certificates.k8s.io/v1beta1).

use crate::field::clear_status;
use crate::selectable;
use crate::subresource::status;
use crate::table::{self, AGE, NAME, column, text};
use keles_api::Object;
use keles_registry::kind::{Column, Info, Kind, Request, Selectable, Served};
use serde_json::json;

pub struct PodCertificateRequest;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("PodName", "string", "podName is the name of the pod into which the certificate will be mounted.", |o, _| table::str_cell(o, &["spec", "podName"])),
    column("ServiceAccountName", "string", "serviceAccountName is the name of the service account the pod is running as.", |o, _| {
        table::str_cell(o, &["spec", "serviceAccountName"])
    }),
    column("NodeName", "string", "nodeName is the name of the node the pod is assigned to.", |o, _| table::str_cell(o, &["spec", "nodeName"])),
    column("SignerName", "string", "signerName indicates the requested signer.", |o, _| table::str_cell(o, &["spec", "signerName"])),
    column("State", "string", "The state of the request.", |o, _| text(state(o))),
    AGE,
];

impl Kind for PodCertificateRequest {
    type Object = Object;
    const INFO: Info = Info {
        kind: "PodCertificateRequest",
        plural: "podcertificaterequests",
        singular: "podcertificaterequest",
        served: &[Served { group: "certificates.k8s.io", version: "v1beta1", schema: "io.k8s.api.certificates.v1beta1.PodCertificateRequest" }],
        subresources: &[status("PodCertificateRequest")],
        selectable: &[
            Selectable { path: "spec.signerName", value: |o| selectable::text(o, &["spec", "signerName"]) },
            Selectable { path: "spec.podName", value: |o| selectable::text(o, &["spec", "podName"]) },
            Selectable { path: "spec.nodeName", value: |o| selectable::text(o, &["spec", "nodeName"]) },
        ],
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "certificates.k8s.io/v1beta1",
            "kind": "PodCertificateRequest",
            "metadata": {"name": "sample", "namespace": "default"},
            "spec": {
                "signerName": "example.com/s",
                "podName": "p",
                "podUID": "u",
                "serviceAccountName": "s",
                "serviceAccountUID": "u",
                "nodeName": "n",
                "nodeUID": "u",
                "pkixPublicKey": "AA==",
                "proofOfPossession": "AA=="
            }
        }))
    }

    fn prepare_create(o: &mut Object, _: &Request) {
        clear_status(o);
    }
}

fn state(o: &Object) -> &'static str {
    ["Issued", "Denied", "Failed"].into_iter().find(|s| table::condition_true(o, s)).unwrap_or("Pending")
}
