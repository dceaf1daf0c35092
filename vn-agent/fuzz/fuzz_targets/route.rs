//! Fuzz target: see `vn_agent::fuzz::route`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vn_agent::fuzz::route(data));
