//! `dra_*` of the agent's `/metrics`. Source: kubernetes pkg/kubelet/metrics/metrics.go, pkg/kubelet/cm/dra/claiminfo.go.

use super::Dra;
use keles_observe::metrics::{Collect, Described, Exposition, HistogramVec, Shape, alpha};

/// Upper bounds in seconds: 15 from 0.1 to 40, each the same factor larger; a call ends after 45.
const BOUNDS: &[f64] = &[
    0.1,
    0.1534127404634391,
    0.23535468936502524,
    0.36106407876409946,
    0.5539182980610752,
    0.8497812409839363,
    1.303672689737678,
    1.9999999999999993,
    3.068254809268781,
    4.707093787300503,
    7.221281575281985,
    11.0783659612215,
    16.995624819678717,
    26.07345379475355,
    39.99999999999997,
];

pub static OPERATIONS: HistogramVec<2> = HistogramVec::new(
    alpha(
        "dra_operations_duration_seconds",
        "Latency histogram in seconds for the duration of handling all ResourceClaims referenced by a pod when the pod starts or stops. Identified by the name of the operation (PrepareResources or UnprepareResources) and separated by the success of the operation. The number of failed operations is provided through the histogram's overall count.",
    ),
    ["is_error", "operation_name"],
    BOUNDS,
);
pub static CALLS: HistogramVec<3> =
    HistogramVec::new(alpha("dra_grpc_operations_duration_seconds", "Duration in seconds of the DRA gRPC operations"), ["driver_name", "grpc_status_code", "method_name"], BOUNDS);

const IN_USE: Described = alpha(
    "dra_resource_claims_in_use",
    "The number of ResourceClaims that are currently in use on the node, by driver name (driver_name label value) and across all drivers (special value <any> for driver_name). Note that the sum of all by-driver counts is not the total number of in-use ResourceClaims because the same ResourceClaim might use devices from different drivers. Instead, use the count for the <any> driver_name.",
);

/// How many claims pods use, counted when asked.
impl Collect for Dra {
    fn collect(&self, to: &mut Exposition) {
        let (all, by_driver) = self.in_use();
        to.family(&IN_USE, Shape::Gauge, |w| {
            w.gauge(&["driver_name"], &["<any>"], all as f64);
            for (driver, count) in by_driver {
                w.gauge(&["driver_name"], &[driver], count as f64);
            }
        });
    }
}
