//! `cargo xtask bench`: what things cost, measured on the real bed and printed as tables. What was measured stands in `bench/README.md`.

pub(crate) mod agent;
pub(crate) mod real;
