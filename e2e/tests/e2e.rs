//! Real nodes, real containers, real clients; one module a feature. One binary: linking each of them would take longer than most of them run.
//!
//! They share the machine's ports, bridges and control groups, so they run one after another: `make e2e`, or
//! `cargo test --workspace --test e2e -- --test-threads=1 csi::`.

mod certificates;
mod containerd;
mod cri;
mod csi;
mod debugging;
mod devices;
mod dra;
mod errors;
mod etcd;
mod faults;
mod javascript;
mod kube_rs;
mod kubectl;
mod kubelet_api;
mod misfortunes;
mod node;
mod parts;
mod pod_cases;
mod pod_lifecycle;
mod python;
mod restart;
mod sig_node;
mod sig_storage;
mod volumes;
mod workloads;
