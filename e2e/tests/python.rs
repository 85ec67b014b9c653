//! The Python client (PyPI `kubernetes`): `clients/python/flows.py` against a cluster.

use keles_e2e::{Cluster, clients, play, skip_without};
use std::path::Path;
use std::process::Command;

#[test]
fn the_python_client_works() {
    let python = clients().join("python/bin/python");
    if skip_without(&[(&clients().join("python/complete"), "the Python client is not installed (make deps; it needs a package index)")]) {
        return;
    }
    let c = Cluster::start();
    let mut flows = Command::new(python);
    flows.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/python/flows.py")).arg(c.kubeconfig());
    play(flows);
}
