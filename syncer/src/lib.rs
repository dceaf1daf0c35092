//! vc-syncer, the shell around `mirror`: watches, queues, writes, retries, patrols.
//!
//! ```text
//! informer (a kind on a side) ──► index (facts, bodies in passing) ──► fair queue ──► engine ──► mirror::plan ──► writer
//! ```

pub mod engine;
pub mod index;
pub mod informer;
pub mod remote;
pub mod tenant;
pub mod tokens;
pub mod work;
pub mod writer;
