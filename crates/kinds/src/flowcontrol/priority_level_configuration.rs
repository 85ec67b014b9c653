//! PriorityLevelConfiguration: how many requests run at once (flowcontrol.apiserver.k8s.io/v1).

use crate::field::clear_status;
use crate::field::{Field, child_mut, default_nonzero, default_pointer, same, set};
use crate::flowcontrol::{bootstrap, flow_schema};
use crate::subresource::status;
use crate::table::{self, AGE, NAME, column, text};
use keles_api::{Object, Problems};
use keles_registry::kind::{Column, Info, Kind, MetadataChecks, Request, Scope, Served};
use serde_json::{Value, json};

pub struct PriorityLevelConfiguration;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column(
        "Type",
        "string",
        "`type` indicates whether this priority level is subject to limitation on request execution.  A value of `\"Exempt\"` means that requests of this priority level are not subject to a limit (and thus are never queued) and do not detract from the capacity made available to other priority levels.  A value of `\"Limited\"` means that (a) requests of this priority level _are_ subject to limits and (b) some of the server's limited capacity is made available exclusively to this priority level. Required.",
        |o, _| table::str_cell(o, &["spec", "type"]),
    ),
    column(
        "NominalConcurrencyShares",
        "string",
        "`nominalConcurrencyShares` (NCS) contributes to the computation of the NominalConcurrencyLimit (NominalCL) of this level. This is the number of execution seats available at this priority level. This is used both for requests dispatched from this priority level as well as requests dispatched from other priority levels borrowing seats from this level. The server's concurrency limit (ServerCL) is divided among the Limited priority levels in proportion to their NCS values:\n\nNominalCL(i)  = ceil( ServerCL * NCS(i) / sum_ncs ) sum_ncs = sum[priority level k] NCS(k)\n\nBigger numbers mean a larger nominal concurrency limit, at the expense of every other priority level.\n\nIf not specified, this field defaults to a value of 30.\n\nSetting this field to zero supports the construction of a \"jail\" for this priority level that is used to hold some request(s)",
        |o, _| number(o, &["spec", "limited", "nominalConcurrencyShares"]),
    ),
    column(
        "Queues",
        "string",
        "`queues` is the number of queues for this priority level. The queues exist independently at each apiserver. The value must be positive.  Setting it to 1 effectively precludes shufflesharding and thus makes the distinguisher method of associated flow schemas irrelevant.  This field has a default value of 64.",
        |o, _| number(o, &["spec", "limited", "limitResponse", "queuing", "queues"]),
    ),
    column(
        "HandSize",
        "string",
        "`handSize` is a small positive number that configures the shuffle sharding of requests into queues.  When enqueuing a request at this priority level the request's flow identifier (a string pair) is hashed and the hash value is used to shuffle the list of queues and deal a hand of the size specified here.  The request is put into one of the shortest queues in that hand. `handSize` must be no larger than `queues`, and should be significantly smaller (so that a few heavy flows do not saturate most of the queues).  See the user-facing documentation for more extensive guidance on setting this field.  This field has a default value of 8.",
        |o, _| number(o, &["spec", "limited", "limitResponse", "queuing", "handSize"]),
    ),
    column(
        "QueueLengthLimit",
        "string",
        "`queueLengthLimit` is the maximum number of requests allowed to be waiting in a given queue of this priority level at a time; excess requests are rejected.  This value must be positive.  If not specified, it will be defaulted to 50.",
        |o, _| number(o, &["spec", "limited", "limitResponse", "queuing", "queueLengthLimit"]),
    ),
    AGE,
];

impl Kind for PriorityLevelConfiguration {
    type Object = Object;
    const INFO: Info = Info {
        kind: "PriorityLevelConfiguration",
        plural: "prioritylevelconfigurations",
        singular: "prioritylevelconfiguration",
        scope: Scope::Cluster,
        served: &[Served { group: "flowcontrol.apiserver.k8s.io", version: "v1", schema: "io.k8s.api.flowcontrol.v1.PriorityLevelConfiguration" }],
        subresources: &[status("PriorityLevelConfiguration")],
        generation: true,
        unconditional_update: false,
        metadata_checks: MetadataChecks { status: 2, ..MetadataChecks::USUAL },
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "flowcontrol.apiserver.k8s.io/v1",
            "kind": "PriorityLevelConfiguration",
            "metadata": {"name": "sample"},
            "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 10, "limitResponse": {"type": "Reject"}}}
        }))
    }

    fn prepare_create(o: &mut Object, _: &Request) {
        clear_status(o);
    }

    fn set_defaults(o: &mut Object) {
        let Some(spec) = child_mut(&mut o.0, "spec") else { return };
        if spec["type"] == "Exempt" {
            child_mut(spec, "exempt");
        }
        if let Some(exempt) = spec.get_mut("exempt").filter(|e| e.is_object()) {
            default_pointer(exempt, "nominalConcurrencyShares", 0);
            default_pointer(exempt, "lendablePercent", 0);
        }
        let Some(limited) = spec.get_mut("limited").filter(|l| l.is_object()) else { return };
        default_pointer(limited, "nominalConcurrencyShares", 30);
        default_pointer(limited, "lendablePercent", 0);
        if let Some(queuing) = crate::field::below_mut(limited, &["limitResponse", "queuing"]).filter(|q| q.is_object()) {
            default_nonzero(queuing, "handSize", 8);
            default_nonzero(queuing, "queues", 64);
            default_nonzero(queuing, "queueLengthLimit", 50);
        }
    }

    fn validate_status(new: &Object, _: &Object, p: &mut Problems) {
        flow_schema::conditions(new, p);
    }

    fn validate(o: &Object, p: &mut Problems) {
        let spec = Field::root(o).get("spec");
        let (limited, exempt) = (spec.get("limited"), spec.get("exempt"));
        fixed(o.name(), &spec, p);
        if (o.name() == bootstrap::EXEMPT) != (spec.str("type") == "Exempt") {
            p.invalid(&spec.at("type"), spec.str("type"), "type must be 'Exempt' if and only if name is 'exempt'");
        }
        match spec.str("type") {
            "Exempt" => {
                if limited.is_set() {
                    p.forbidden(limited.path(), "must be nil if the type is not Limited");
                }
                shares(&exempt, p);
            }
            "Limited" => {
                if exempt.is_set() {
                    p.forbidden(exempt.path(), "must be nil if the type is Limited");
                }
                match limited.is_set() {
                    true => limits(&limited, p),
                    false => p.required(limited.path(), "must not be empty when type is Limited"),
                }
            }
            other => p.not_supported(&spec.at("type"), other, &["Exempt", "Limited"]),
        }
    }
}

/// The mandatory levels stay as they are, but for the shares of the exempt one.
fn fixed(name: &str, spec: &Field, p: &mut Problems) {
    let Some(mut wanted) = bootstrap::fixed_level(name) else { return };
    let is_exempt = name == bootstrap::EXEMPT;
    if is_exempt {
        set(&mut wanted, "exempt", spec.get("exempt").value().clone());
    }
    if !same(spec.value(), &wanted) {
        let but = if is_exempt { " except the 'spec.exempt' field" } else { "" };
        p.invalid(spec.path(), spec.value().clone(), format!("spec of '{name}'{but} must equal the fixed value"));
    }
}

fn number(o: &Object, path: &[&str]) -> Value {
    match o.at(path) {
        Value::Null => text("<none>"),
        n => n.clone(),
    }
}

const QUEUES_MAX_COUNT: i64 = 10_000_000;
/// Bits of a flow's hash that dealing a hand of queues may use up.
const HASH_MAX_BITS: f64 = 60.0;

fn limits(l: &Field, p: &mut Problems) {
    shares(l, p);
    if let Some(n) = l.opt_int("borrowingLimitPercent").filter(|n| *n < 0) {
        p.invalid(&l.at("borrowingLimitPercent"), n, "if specified, must be a non-negative integer");
    }
    let response = l.get("limitResponse");
    let queuing = response.get("queuing");
    match response.str("type") {
        "Reject" if queuing.is_set() => p.forbidden(queuing.path(), "must be nil if limited.limitResponse.type is not Limited"),
        "Reject" => {}
        "Queue" if !queuing.is_set() => p.required(queuing.path(), "must not be empty if limited.limitResponse.type is Limited"),
        "Queue" => queues(&queuing, p),
        other => p.not_supported(&response.at("type"), other, &["Queue", "Reject"]),
    }
}

/// Shares of the server's concurrency, of a limited or exempt level.
fn shares(l: &Field, p: &mut Problems) {
    if l.int("nominalConcurrencyShares") < 0 {
        p.invalid(&l.at("nominalConcurrencyShares"), l.int("nominalConcurrencyShares"), "must be a non-negative integer");
    }
    if let Some(n) = l.opt_int("lendablePercent").filter(|n| !(0..=100).contains(n)) {
        p.invalid(&l.at("lendablePercent"), n, "must be between 0 and 100, inclusive");
    }
}

fn queues(q: &Field, p: &mut Problems) {
    let (limit, queues, hand) = (q.int("queueLengthLimit"), q.int("queues"), q.int("handSize"));
    let bits = (queues.max(1) as f64).log2() * hand as f64;
    if limit <= 0 {
        p.invalid(&q.at("queueLengthLimit"), limit, "must be positive");
    }
    match queues {
        n if n <= 0 => p.invalid(&q.at("queues"), n, "must be positive"),
        n if n > QUEUES_MAX_COUNT => p.invalid(&q.at("queues"), n, format!("must not be greater than {QUEUES_MAX_COUNT}")),
        _ => {}
    }
    match hand {
        n if n <= 0 => p.invalid(&q.at("handSize"), n, "must be positive"),
        n if n > queues => p.invalid(&q.at("handSize"), n, format!("should not be greater than queues ({queues})")),
        n if bits.ceil() > HASH_MAX_BITS => {
            p.invalid(&q.at("handSize"), n, format!("required entropy bits of deckSize {queues} and handSize {n} should not be greater than {HASH_MAX_BITS}"));
        }
        _ => {}
    }
}
