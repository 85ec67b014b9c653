//! Every `sig-storage` entry of the conformance list, one case each.

mod api_objects;
mod downward;
mod empty_dir;
mod objects;
mod sub_path;

use keles_e2e::conformance;

#[tokio::test(flavor = "multi_thread")]
async fn every_sig_storage_entry_holds() {
    let cases = [objects::cases(), downward::cases(), sub_path::cases(), empty_dir::cases(), api_objects::cases()];
    conformance::run("sig-storage", cases.into_iter().flatten().collect(), &[]).await;
}
