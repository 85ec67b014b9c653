//! How the binary is linked.

fn main() {
    // At a fixed address: as a position-independent executable each process, every pod's shim too, would write 93,000 relocations into
    // 1.6 MB of pages of its own before main (docs/decisions). Go's binaries, upstream's kubelet and runc among them, are linked so too.
    println!("cargo::rustc-link-arg-bins=-no-pie");
    println!("cargo::rerun-if-changed=build.rs");
}
