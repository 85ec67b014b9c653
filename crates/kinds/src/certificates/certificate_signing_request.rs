//! CertificateSigningRequest: a wish for a certificate (certificates.k8s.io/v1).

use crate::field::clear_status;
use crate::selectable;
use crate::subresource::status;
use crate::table::{self, AGE, NAME, column, text};
use keles_api::Object;
use keles_registry::kind::{Column, Info, Kind, NameRule, Request, Scope, Selectable, Served, Subresource, UnknownSelector};
use serde_json::json;

pub struct CertificateSigningRequest;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    AGE,
    column("SignerName", "string", "signerName indicates the requested signer, and is a qualified name.", |o, _| table::str_cell(o, &["spec", "signerName"])),
    column("Requestor", "string", "username contains the name of the user that created the CertificateSigningRequest.", |o, _| table::str_cell(o, &["spec", "username"])),
    column("RequestedDuration", "string", "expirationSeconds is the requested duration of validity of the issued certificate.", |o, _| text(requested(o))),
    column("Condition", "string", "conditions applied to the request.", |o, _| text(conditions(o))),
];

impl Kind for CertificateSigningRequest {
    type Object = Object;
    const INFO: Info = Info {
        kind: "CertificateSigningRequest",
        plural: "certificatesigningrequests",
        singular: "certificatesigningrequest",
        short_names: &["csr"],
        scope: Scope::Cluster,
        served: &[Served { group: "certificates.k8s.io", version: "v1", schema: "io.k8s.api.certificates.v1.CertificateSigningRequest" }],
        subresources: &[
            Subresource { name: "approval", kind: "CertificateSigningRequest", group: "", version: "", verbs: &["get", "patch", "update"] },
            status("CertificateSigningRequest"),
        ],
        selectable: &[Selectable { path: "spec.signerName", value: |o| selectable::text(o, &["spec", "signerName"]) }],
        unknown_selector: UnknownSelector::NotSupported,
        name_rule: NameRule::Own,
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "certificates.k8s.io/v1",
            "kind": "CertificateSigningRequest",
            "metadata": {"name": "sample"},
            "spec": {
                "request": "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlIUk1Ib0NBUUF3R0RFS01BZ0dBMVVFQXd3QmRURUtNQWdHQTFVRUNnd0JaekJaTUJNR0J5cUdTTTQ5QWdFRwpDQ3FHU000OUF3RUhBMElBQkFkWkdYeUxGNEN5em83dW0xcmdLY1E5NGZNaVNhYkJhdmpEOXUwK2FqcUlUM1NMCmxFU09WcUkxcFk1UTJWV2FGVEtuc2ZidFlVVEFoMU9CeWRjMHdKT2dBREFLQmdncWhrak9QUVFEQWdOSEFEQkUKQWlBMHZwZ3QwOW9LRzVBRnNITEJqZDJkZXB0Sit1VW5PMzNNdDVLRDZkaWNwUUlnSTlxYk5DTDZQR25ySFNEdwpUQjQ2SVNNV1VHRDlwM3ltby9CTEF2RUE2UTQ9Ci0tLS0tRU5EIENFUlRJRklDQVRFIFJFUVVFU1QtLS0tLQo=",
                "signerName": "example.com/s",
                "usages": ["client auth"]
            }
        }))
    }

    fn prepare_create(o: &mut Object, _: &Request) {
        clear_status(o);
    }
}

fn requested(o: &Object) -> String {
    o.at(&["spec", "expirationSeconds"]).as_i64().map_or("<none>".into(), table::duration)
}

/// `Approved,Issued`
fn conditions(o: &Object) -> String {
    let all = table::list(o.at(&["status", "conditions"]));
    let has = |kind: &str| all.iter().any(|c| c["type"] == kind);
    let mut shown = if has("Denied") {
        "Denied"
    } else if has("Approved") {
        "Approved"
    } else {
        "Pending"
    }
    .to_owned();
    if has("Failed") {
        shown.push_str(",Failed");
    }
    if !o.str_at(&["status", "certificate"]).is_empty() {
        shown.push_str(",Issued");
    }
    shown
}
