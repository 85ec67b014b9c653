//! The laws of `laws/` on random bytes, and on the bytes kept in `fuzz/corpus` (those that broke something once, and some of each kind).

mod laws;

use laws::LAWS;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::path::Path;

/// Random inputs a law.
const CASES: u32 = 512;
const BYTES_MAX: usize = 400;

fn holds(name: &str) {
    let (_, law) = LAWS.iter().find(|(n, _)| *n == name).expect("a law of this name");
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
    let mut tried = 0;
    for file in std::fs::read_dir(&kept).unwrap_or_else(|e| panic!("{}: {e}", kept.display())) {
        let path = file.expect("a readable folder").path();
        eprintln!("{}", path.display());
        law(&std::fs::read(&path).expect("a readable file"));
        tried += 1;
    }
    assert!(tried > 0, "{} holds inputs", kept.display());
    let config = Config { cases: CASES, failure_persistence: None, max_shrink_iters: 2000, ..Config::default() };
    // The generator's seed is fixed: a failure comes back. New inputs are the fuzzer's business.
    let mut runner = TestRunner::new_with_rng(config, proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha));
    runner
        .run(&proptest::collection::vec(any::<u8>(), 0..BYTES_MAX), |bytes| {
            law(&bytes);
            Ok(())
        })
        .unwrap_or_else(|e| panic!("{name}: {e}"));
}

macro_rules! tests {
    ($($test:ident: $law:literal,)*) => {
        $(#[test]
        fn $test() {
            holds($law);
        })*
        #[test]
        fn every_law_has_a_test_and_a_target() {
            let mut tested = vec![$($law),*];
            tested.sort_unstable();
            let laws: Vec<&str> = LAWS.iter().map(|(name, _)| *name).collect();
            assert_eq!(tested, laws);
            let mut targets: Vec<String> = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/fuzz_targets")).expect("the targets")
                .map(|f| f.expect("a readable folder").path().file_stem().expect("a name").to_string_lossy().into_owned()).collect();
            targets.sort_unstable();
            assert_eq!(targets, laws);
        }
    };
}

tests! {
    what_is_applied_twice_changes_nothing: "apply",
    what_is_written_as_cbor_is_read_as_it_was: "cbor",
    expressions_end_within_their_cost: "cel",
    objects_of_any_definition_are_checked: "custom_objects",
    what_is_decoded_from_json_is_a_fixed_point: "json",
    json_patches_leave_what_can_be_read: "json_patch",
    any_jsonpath_is_read_or_refused: "jsonpath",
    every_kind_is_checked_whatever_it_holds: "kinds",
    merge_patches_leave_what_can_be_read: "merge_patch",
    accepted_definitions_can_be_published: "openapi",
    what_is_written_as_protobuf_is_read_as_it_was: "protobuf",
    canonical_scalars_are_fixed_points: "scalars",
    any_selector_is_read_or_refused: "selectors",
    strategic_patches_leave_what_can_be_read: "strategic_patch",
    any_definition_is_accepted_or_refused: "structural_schema",
    what_is_written_as_yaml_is_read_as_it_was: "yaml",
}
