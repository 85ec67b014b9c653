//! Every `sig-node` entry of the conformance list, one case each.

mod api_objects;
mod containers;
mod environment;
mod generation;
mod grpc_health;
mod lifecycle;
mod pods;
mod probes;
mod resize;
mod runtime_class;
mod security;
mod streams;
mod taints;

use keles_e2e::conformance;

/// Entries without a case here, and why.
const ELSEWHERE: &[(&str, &str)] = &[];

#[tokio::test(flavor = "multi_thread")]
async fn every_sig_node_entry_holds() {
    let cases = [
        probes::cases(),
        taints::cases(),
        lifecycle::cases(),
        environment::cases(),
        generation::cases(),
        resize::cases(),
        containers::cases(),
        pods::cases(),
        security::cases(),
        runtime_class::cases(),
        streams::cases(),
        api_objects::cases(),
    ];
    conformance::run("sig-node", cases.into_iter().flatten().collect(), ELSEWHERE).await;
}
