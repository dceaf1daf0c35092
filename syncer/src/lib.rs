//! vc-syncer, the shell around `mirror`: watches, queues, writes, retries, patrols.
//!
//! ```text
//! informer (a kind on a side) ──► index (facts, bodies in passing) ──► fair queue ──► engine ──► mirror::plan ──► writer
//! ```

pub mod brake;
pub mod engine;
pub mod index;
pub mod informer;
pub mod remote;
pub mod tenant;
pub mod tokens;
pub mod work;
pub mod writer;
pub mod args;
pub mod gc;
pub mod metrics;
pub mod virtual_cluster;
pub mod program;
pub mod events;
pub mod nodes;
