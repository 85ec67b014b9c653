//! The OCI runtime alone, for tests of this crate and for measuring; users run `keles oci`.
fn main() {
    keles_runtime::oci_main(std::env::args_os().skip(1));
}
