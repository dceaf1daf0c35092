//! Acquiring, renewing and releasing the Lease.

use std::{future::Future, time::Duration};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{Config, Held, LeaseLost, LeaseStore, StoreError};
use crate::log::{Chain, Escaped};

/// One who would like to lead.
#[derive(Debug)]
pub struct Candidate<S> {
    store: S,
    config: Config,
    /// The record as last seen to change, and when, on our own clock.
    seen: Option<Seen>,
}

#[derive(Debug)]
struct Seen {
    spec: LeaseSpec,
    at: Instant,
}

impl<S: LeaseStore> Candidate<S> {
    /// A candidate that has seen nothing yet.
    pub fn new(store: S, config: Config) -> Self {
        Self { store, config, seen: None }
    }

    /// Waits until the lease is ours; errors of the store are waited out. Cancel by dropping.
    pub async fn acquire(mut self) -> Term<S> {
        loop {
            match self.attempt().await {
                Ok(Some((lease, held))) => {
                    info!(epoch = held.epoch(), identity = %Escaped(&self.config.identity), "lease acquired");
                    return Term { store: self.store, config: self.config, lease, held };
                }
                Ok(None) | Err(StoreError::Conflict | StoreError::Missing) => debug!("lease is held by another"),
                Err(error) => warn!(error = %Chain(&error), "lease could not be acquired"),
            }
            sleep(self.config.pause()).await;
        }
    }

    /// One look at the record, and one write if it is free.
    async fn attempt(&mut self) -> Result<Option<(Lease, Held)>, StoreError> {
        let limit = self.config.call_timeout();
        let found = in_time(limit, self.store.get(&self.config.name)).await?;
        if let Some(lease) = &found {
            self.observe(lease.spec.clone().unwrap_or_default());
        }
        if !self.is_free() {
            return Ok(None);
        }
        let started = Instant::now();
        let lease = if let Some(lease) = found {
            let ours = taken(&self.config, lease);
            in_time(limit, self.store.replace(&self.config.name, &ours)).await?
        } else {
            in_time(limit, self.store.create(&first(&self.config, self.seen.as_ref()))).await?
        };
        let held = Held::new(epoch(&lease), started + self.config.renew_deadline, slack(&self.config));
        Ok(held.check().is_ok().then_some((lease, held)))
    }

    /// Notes a change of the record; the moment is ours, after the answer came.
    fn observe(&mut self, spec: LeaseSpec) {
        let before = self.seen.as_ref().map(|seen| &seen.spec);
        if before == Some(&spec) {
            return;
        }
        if before.map(holder) != Some(holder(&spec)) {
            info!(holder = %Escaped(holder(&spec)), "lease has a new holder");
        }
        self.seen = Some(Seen { spec, at: Instant::now() });
    }

    /// Nobody's, our own, or unchanged for as long as its holder may rely on it. An object that went away is free
    /// no earlier than it would have been: its holder may not have noticed yet.
    fn is_free(&self) -> bool {
        let Some(seen) = &self.seen else { return true };
        let holder = holder(&seen.spec);
        let promised = seen.spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let wait = self.config.lease_duration.max(Duration::from_secs(promised.unwrap_or_default()));
        holder.is_empty() || holder == self.config.identity || seen.at.elapsed() >= wait
    }
}

/// A time of leading: renews the lease until it is released or lost. Dropping it voids the token at once.
#[derive(Debug)]
pub struct Term<S> {
    store: S,
    config: Config,
    /// The object as we last wrote or read it.
    lease: Lease,
    held: Held,
}

impl<S> Drop for Term<S> {
    fn drop(&mut self) {
        self.held.fence();
    }
}

impl<S: LeaseStore> Term<S> {
    /// The token to check before each write.
    pub fn held(&self) -> Held {
        self.held.clone()
    }

    /// Renews until `stop`, then releases, so that a successor takes over at once; cancel `stop` only after the last
    /// write has ended.
    ///
    /// # Errors
    /// [`LeaseLost`] when the lease could not be renewed in time or is another's: the token is void by then.
    pub async fn keep(mut self, stop: CancellationToken) -> Result<(), LeaseLost> {
        loop {
            let next = Instant::now() + self.config.pause();
            tokio::select! {
                () = stop.cancelled() => return self.release().await,
                () = sleep_until(next.min(self.void_at())) => {}
            }
            self.held.check().inspect_err(|_| warn!("lease was not renewed in time"))?;
            self.renew().await?;
        }
    }

    /// The moment at which the token goes void.
    fn void_at(&self) -> Instant {
        Instant::now() + self.held.remaining()
    }

    /// One renewal; a failure that leaves time for another is only logged. After a conflict with ourselves it is
    /// tried once more with the version that was read.
    async fn renew(&mut self) -> Result<(), LeaseLost> {
        let mut outcome = self.extend().await;
        if matches!(outcome, Err(StoreError::Conflict)) {
            outcome = match self.reread().await? {
                Ok(()) => self.extend().await,
                Err(error) => Err(error),
            };
        }
        match outcome {
            Ok(extended) => extended,
            Err(StoreError::Missing) => {
                warn!("lease object was deleted");
                Err(self.held.fence())
            }
            Err(error @ (StoreError::Failed(_) | StoreError::Conflict)) => {
                warn!(error = %Chain(&error), remaining = ?self.held.remaining(), "lease could not be renewed");
                Ok(())
            }
        }
    }

    /// Writes a new time into the record and, if that succeeded, moves the end of the token: counted from before the
    /// call, since nobody can have seen the change earlier.
    async fn extend(&mut self) -> Result<Result<(), LeaseLost>, StoreError> {
        let started = Instant::now();
        let mut ours = self.lease.clone();
        let spec = ours.spec.get_or_insert_default();
        spec.renew_time = Some(stamp(spec.renew_time.as_ref()));
        self.lease = timely(self.call_end(), self.store.replace(&self.config.name, &ours)).await?;
        Ok(self.held.extend(started + self.config.renew_deadline))
    }

    /// After a conflict: our own renewal whose answer got lost, a stranger's label, or another holder. Reading renews
    /// nothing.
    async fn reread(&mut self) -> Result<Result<(), StoreError>, LeaseLost> {
        match timely(self.call_end(), self.store.get(&self.config.name)).await {
            Ok(Some(lease)) if self.is_ours(&lease) => {
                self.lease = lease;
                Ok(Ok(()))
            }
            Ok(other) => {
                let spec = other.and_then(|lease| lease.spec).unwrap_or_default();
                warn!(holder = %Escaped(holder(&spec)), "lease was taken by another");
                Err(self.held.fence())
            }
            Err(error) => Ok(Err(error)),
        }
    }

    /// When a call that starts now is given up: never later than the token goes void.
    fn call_end(&self) -> Instant {
        self.void_at().min(Instant::now() + self.config.call_timeout())
    }

    fn is_ours(&self, lease: &Lease) -> bool {
        let holder = lease.spec.as_ref().map(holder);
        holder == Some(self.config.identity.as_str()) && epoch(lease) == self.held.epoch()
    }

    /// Voids the token, then says in the record that nobody holds it. A failure costs the successor its wait.
    async fn release(mut self) -> Result<(), LeaseLost> {
        self.held.check()?;
        self.held.fence();
        let mut free = self.lease.clone();
        let spec = free.spec.get_or_insert_default();
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(stamp(spec.renew_time.as_ref()));
        let limit = self.config.call_timeout();
        match in_time(limit, self.store.replace(&self.config.name, &free)).await {
            Ok(lease) => {
                self.lease = lease;
                info!(epoch = self.held.epoch(), "lease released");
            }
            Err(error) => warn!(error = %Chain(&error), "lease could not be released"),
        }
        Ok(())
    }
}

/// The record of a Lease that did not exist; goes on counting where we saw the last one.
fn first(config: &Config, seen: Option<&Seen>) -> Lease {
    let metadata = ObjectMeta { name: Some(config.name.clone()), ..ObjectMeta::default() };
    taken(config, Lease { metadata, spec: seen.map(|seen| seen.spec.clone()) })
}

/// The same object held by us, one epoch on.
fn taken(config: &Config, mut lease: Lease) -> Lease {
    let spec = lease.spec.get_or_insert_default();
    let now = stamp(spec.renew_time.as_ref());
    let epoch = spec.lease_transitions.unwrap_or(0).saturating_add(1);
    spec.holder_identity = Some(config.identity.clone());
    spec.lease_duration_seconds = Some(config.lease_seconds());
    spec.lease_transitions = Some(epoch);
    spec.acquire_time = Some(now.clone());
    spec.renew_time = Some(now);
    lease
}

/// The time of day, for people who look. Never the same as before, since a change is what others watch for, also
/// where this clock was set back or stands still.
fn stamp(before: Option<&MicroTime>) -> MicroTime {
    let micros = Timestamp::now().as_microsecond();
    let micros = match before {
        Some(MicroTime(before)) if before.as_microsecond() == micros => micros.saturating_add(1),
        _ => micros,
    };
    MicroTime(Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH))
}

fn holder(spec: &LeaseSpec) -> &str {
    spec.holder_identity.as_deref().unwrap_or_default()
}

fn epoch(lease: &Lease) -> u64 {
    let transitions = lease.spec.as_ref().and_then(|spec| spec.lease_transitions);
    transitions.and_then(|count| u64::try_from(count).ok()).unwrap_or_default()
}

/// Between our last write and the first of a successor.
fn slack(config: &Config) -> Duration {
    config.lease_duration.saturating_sub(config.renew_deadline)
}

async fn in_time<T>(limit: Duration, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    timeout(limit, call).await.unwrap_or_else(|late| Err(StoreError::Failed(Box::new(late))))
}

async fn timely<T>(until: Instant, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    timeout_at(until, call).await.unwrap_or_else(|late| Err(StoreError::Failed(Box::new(late))))
}
