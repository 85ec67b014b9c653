//! The JavaScript client (npm `@kubernetes/client-node`): `clients/javascript/flows.mjs` against a cluster.

use keles_e2e::{Cluster, clients, play, skip_without};
use std::path::Path;
use std::process::Command;

#[test]
fn the_javascript_client_works() {
    let modules = clients().join("javascript");
    if skip_without(&[(&modules.join("complete"), "the JavaScript client is not installed (make deps; it needs node, npm and a registry)")]) {
        return;
    }
    let c = Cluster::start();
    let mut flows = Command::new("node");
    flows.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/javascript/flows.mjs")).arg(c.kubeconfig()).arg(modules);
    play(flows);
}
