//! PodCertificateRequest: a wish for a certificate of a pod (certificates.k8s.io/v1beta1).

use crate::certificates::signer;
use crate::field::{Field, child_mut, clear_status, default_nonzero, immutable, invalid_each, restore};
use crate::selectable;
use crate::subresource::status;
use crate::table::{self, AGE, NAME, column, text};
use keles_api::{Object, Problems, names};
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
        unconditional_update: false,
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

    fn set_defaults(o: &mut Object) {
        if let Some(spec) = child_mut(&mut o.0, "spec") {
            default_nonzero(spec, "maxExpirationSeconds", EXPIRATION_SECONDS);
        }
    }

    fn prepare_create(o: &mut Object, _: &Request) {
        clear_status(o);
    }

    fn prepare_status(new: &mut Object, old: &Object, _: &Request) {
        restore(new, old, "spec");
    }

    fn validate(o: &Object, p: &mut Problems) {
        let spec = Field::root(o).get("spec");
        signer::name(&spec.at("signerName"), spec.str("signerName"), p);
        for (name, uid) in [("podName", "podUID"), ("serviceAccountName", "serviceAccountUID"), ("nodeName", "nodeUID")] {
            invalid_each(p, &spec.at(name), spec.str(name), names::dns_subdomain(spec.str(name), false));
            if spec.str(uid).is_empty() {
                p.required(&spec.at(uid), "");
            } else if spec.str(uid).len() > UID_MAX_BYTES {
                p.too_long(&spec.at(uid), UID_MAX_BYTES);
            }
        }
        let own = spec.str("signerName").split('/').next().is_some_and(|d| d == "kubernetes.io" || d.ends_with(".kubernetes.io"));
        let max = if own { EXPIRATION_SECONDS } else { EXPIRATION_MAX_SECONDS };
        let seconds = spec.int("maxExpirationSeconds");
        if !(EXPIRATION_MIN_SECONDS..=max).contains(&seconds) {
            p.invalid(&spec.at("maxExpirationSeconds"), seconds, format!("must be in the range [{EXPIRATION_MIN_SECONDS}, {max}]"));
        }
    }

    /// A request is made once; only its status moves on.
    fn validate_update(new: &Object, old: &Object, p: &mut Problems) {
        immutable(p, &Field::root(new).get("spec"), &Field::root(old).get("spec"));
    }
}

const UID_MAX_BYTES: usize = 128;
const EXPIRATION_MIN_SECONDS: i64 = 3600;
/// A day: the default, and the most that signers of Kubernetes itself give.
const EXPIRATION_SECONDS: i64 = 86_400;
/// 91 days.
const EXPIRATION_MAX_SECONDS: i64 = 7_862_400;

fn state(o: &Object) -> &'static str {
    ["Issued", "Denied", "Failed"].into_iter().find(|s| table::condition_true(o, s)).unwrap_or("Pending")
}
