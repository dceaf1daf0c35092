//! Fuzz target: see `vn_agent::fuzz::pods_page`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vn_agent::fuzz::pods_page(data));
