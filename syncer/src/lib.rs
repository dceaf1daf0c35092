//! vc-syncer, the shell around `mirror`: watches, queues, writes, retries, patrols.
//!
//! ```text
//! informer (a kind on a side) ──► index (facts, bodies in passing) ──► fair queue ──► engine ──► mirror::plan ──► writer
//! ```

pub mod args;
pub mod bounds;
pub mod brake;
pub mod breaker;
pub mod bucket;
pub mod denials;
pub mod engine;
pub mod events;
pub mod gc;
pub mod handlers;
pub mod index;
pub mod informer;
pub mod metrics;
pub mod mounts;
pub mod nodes;
pub mod pod_addresses;
pub mod program;
pub mod remote;
pub mod repeat;
mod service_ranges;
pub mod shown;
pub mod tenant;
pub mod throttle;
mod turn;
pub mod virtual_cluster;
pub mod work;
pub mod writer;
