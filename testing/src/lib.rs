//! What tests of several crates stand on: a server of canned bytes, certificates for it, and the peak of a process's memory.
//!
//! Of no use outside of tests: what is wrong here panics.

#![expect(clippy::unwrap_used, reason = "tests stand on it")]

pub mod http;
pub mod memory;
pub mod pki;
pub mod server;
