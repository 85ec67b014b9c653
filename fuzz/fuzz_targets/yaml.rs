#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| keles_fuzz::yaml(data));
