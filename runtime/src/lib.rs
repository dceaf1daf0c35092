//! What every program has: flags, logs, metrics, probes, tasks with an owner, an orderly end, leader election, and the
//! HTTP transport to API servers.

pub mod address;
pub mod args;
pub mod kubeconfig;
pub mod lease;
pub mod limit;
pub mod log;
pub mod metrics;
pub mod serve;
pub mod shutdown;
pub mod task;
pub mod transport;
