//! One active process: leader election on a `coordination.k8s.io/v1` Lease, with a token that stops writes in time.
//!
//! ```text
//! Candidate::acquire ──► Term ──keep(stop)──► Ok: released, a successor takes over at once
//!                         │                └► Err(LeaseLost): fenced, the process should end
//!                         └ held(): Held, checked before each write
//! ```
//!
//! # Guarantees
//! - Every change of the Lease is a create, or a replace with the resourceVersion that was judged: two candidates
//!   cannot both win.
//! - A candidate takes over only after it has itself seen the record unchanged for the whole lease duration, on
//!   the monotonic clock. No timestamp written by anybody is ever read.
//! - [`Held::check`] fails from `renew_deadline` after the *start* of the last renewal that succeeded. A successor
//!   waits `lease_duration` from a later moment, so the token is void before anybody else can hold the lease, also
//!   when this process was stopped (SIGSTOP) in between, and with clocks whose rates differ by less than
//!   `lease_duration / renew_deadline`. Once void, a term never becomes valid again.
//! - The epoch (`leaseTransitions`) grows with every term.
//!
//! # Caveats
//! A request that was on its way when the lease was lost may still be applied by the API server: give each write no
//! more time than [`Held::write_limit`], and a precondition (UID, resourceVersion). The monotonic clock of Linux
//! stands still while a machine is suspended; preconditions are what protects then.
//!
//! # Sources
//! client-go `tools/leaderelection`; kube-rs/kube#485 (nothing of the kind in kube).

mod candidate;
mod held;
mod store;
#[cfg(test)]
mod tests;

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;

pub use self::{
    candidate::{Candidate, Term},
    held::{Held, LeaseLost},
    store::{LeaseStore, StoreError},
};
use crate::args;

/// Flags of leader election.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Leader election")]
pub struct LeaseArgs {
    /// Work only while holding a Lease, so that several replicas can run
    #[arg(long, env = "VC_LEADER_ELECT", default_value_t = true, action = clap::ArgAction::Set,
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub leader_elect: bool,

    /// Namespace of the Lease [default: the namespace of this Pod]
    #[arg(long, env = "VC_LEASE_NAMESPACE", value_name = "NAMESPACE")]
    pub lease_namespace: Option<String>,

    /// Name of the Lease [default: the name of this program]
    #[arg(long, env = "VC_LEASE_NAME", value_name = "NAME")]
    pub lease_name: Option<String>,

    /// How long a candidate sees the Lease unchanged before it takes over
    #[arg(long, env = "VC_LEASE_DURATION", value_name = "DURATION", default_value = "15s", value_parser = args::duration)]
    pub lease_duration: Duration,

    /// How long the leader works on after the last renewal that succeeded; less than the lease duration
    #[arg(long, env = "VC_RENEW_DEADLINE", value_name = "DURATION", default_value = "10s", value_parser = args::duration)]
    pub renew_deadline: Duration,

    /// Time between two attempts to acquire or renew
    #[arg(long, env = "VC_RETRY_PERIOD", value_name = "DURATION", default_value = "2s", value_parser = args::duration)]
    pub retry_period: Duration,
}

impl LeaseArgs {
    /// What a candidate needs to know; `program` names the Lease where no flag does.
    pub fn config(&self, program: &str) -> Result<Config, ConfigError> {
        let config = Config {
            name: self.lease_name.clone().unwrap_or_else(|| program.to_owned()),
            identity: unique_identity(),
            lease_duration: self.lease_duration,
            renew_deadline: self.renew_deadline,
            retry_period: self.retry_period,
        };
        config.validate()?;
        Ok(config)
    }

    /// The Leases of the namespace asked for, else of the client's own.
    pub fn api(&self, client: kube::Client) -> Api<Lease> {
        match &self.lease_namespace {
            Some(namespace) => Api::namespaced(client, namespace),
            None => Api::default_namespaced(client),
        }
    }
}

/// What a [`Candidate`] needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Name of the Lease object.
    pub name: String,
    /// Who we are in `holderIdentity`: unique to this run of the process.
    pub identity: String,
    /// How long others wait without seeing a change before they take over; whole seconds.
    pub lease_duration: Duration,
    /// How long we work on after the start of the last renewal that succeeded.
    pub renew_deadline: Duration,
    /// Time between two attempts.
    pub retry_period: Duration,
}

/// Why the flags of leader election do not fit together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The Lease counts in whole seconds.
    #[error("--lease-duration must be whole seconds, at least 1s")]
    WholeSeconds,
    /// The leader must stop before others may start.
    #[error("--renew-deadline must be less than --lease-duration")]
    DeadlineTooLong,
    /// At least two renewals must fit before the deadline.
    #[error("--retry-period must be more than zero and less than half of --renew-deadline")]
    RetryTooLong,
}

impl Config {
    fn validate(&self) -> Result<(), ConfigError> {
        if self.lease_duration.subsec_nanos() != 0 || self.lease_seconds() < 1 {
            return Err(ConfigError::WholeSeconds);
        }
        if self.renew_deadline >= self.lease_duration {
            return Err(ConfigError::DeadlineTooLong);
        }
        if self.retry_period.is_zero() || self.retry_period >= self.renew_deadline / 2 {
            return Err(ConfigError::RetryTooLong);
        }
        Ok(())
    }

    /// As the Lease has it.
    fn lease_seconds(&self) -> i32 {
        i32::try_from(self.lease_duration.as_secs()).unwrap_or(i32::MAX)
    }

    /// One call may take this long: after one that hangs, a second attempt must fit before the deadline.
    fn call_timeout(&self) -> Duration {
        self.renew_deadline / 3
    }

    /// A renewal period spread by a fifth either way, so that candidates do not meet.
    fn pause(&self) -> Duration {
        self.retry_period.mul_f64(rand::random_range(0.8..1.2))
    }
}

/// Host name and random digits: a restarted container of the same Pod is another candidate.
fn unique_identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = match host.trim() {
        "" => "unknown",
        name => name,
    };
    format!("{host}_{:016x}", rand::random::<u64>())
}
