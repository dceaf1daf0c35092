//! vc-syncer.
fn main() {}
