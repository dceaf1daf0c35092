//! The table of kinds: a file and a row each.

pub mod pod;

use crate::kind::Kind;

/// Every kind that is kept consistent. Adding one is a file here, a `mod` line, a row, and a fixture.
pub const KINDS: &[Kind] = &[Kind::Down(&pod::Pod)];
