//! Fuzz target: see `vn_agent::fuzz::certificate`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vn_agent::fuzz::certificate(data));
