//! How much may be written to the log at a caller's will.
//!
//! *Guarantees*: refusals of one tenant, its pages and its logs, and whoever has no certificate, add a bounded number of lines in a time, and
//! take none of another tenant's. Refusals that are left out are counted in the next line, and all of them in the metrics. Sessions are never
//! left out: those without a line of their own are merged into one for their tenant and verb.
//!
//! *Caveats*: each exec, attach and port-forward has a line of its own: who entered a container, and when, is what somebody looks for
//! afterwards. How many those may be is bounded where they begin, by [`crate::pace`].

use std::collections::HashMap;

use common::Uid;
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::info;

/// Lines that may be written at once.
const MOST: u64 = 20;

/// The same of sessions, each of which somebody may look for: who reads the logs of all its Pods on a node, or asks in a test, is told of one by one.
const MOST_SESSIONS: u64 = 100;

/// Buckets of tenants that are held: more than there are tenants with something to tell at one time.
const MOST_TENANTS: usize = 1024;

/// Lines of one kind: so many at once, then one a second.
#[derive(Debug)]
pub struct Bucket(Mutex<Lines>);

/// Lines of tenants, each its own, and of callers that nobody knows.
#[derive(Debug)]
pub struct Quiet {
    strangers: Bucket,
    refusals: Buckets,
    sessions: Buckets,
    merged: Mutex<HashMap<(Uid, &'static str), Merged>>,
}

/// A session that is over, of a kind that may be merged.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// Of which tenant.
    pub tenant: Uid,
    /// What it was.
    pub verb: &'static str,
    /// Whether it came to its own end.
    pub is_ok: bool,
    /// Bytes from the caller.
    pub sent: u64,
    /// Bytes to it.
    pub received: u64,
}

/// Several of them.
#[derive(Debug, Default)]
struct Merged {
    sessions: u64,
    not_ok: u64,
    sent: u64,
    received: u64,
}

/// Lines of one kind of tenants.
#[derive(Debug)]
struct Buckets {
    /// How many may be written at once.
    most: u64,
    all: Mutex<HashMap<Uid, Lines>>,
}

#[derive(Debug)]
struct Lines {
    /// How many may be written at once.
    most: u64,
    /// How many may still be written, as of `since`.
    left: u64,
    since: Instant,
    left_out: u64,
}

impl Default for Bucket {
    fn default() -> Self {
        Self(Mutex::new(Lines::new(MOST)))
    }
}

impl Default for Quiet {
    fn default() -> Self {
        let (refusals, sessions) = (Buckets::new(MOST), Buckets::new(MOST_SESSIONS));
        Self { strangers: Bucket::default(), refusals, sessions, merged: Mutex::default() }
    }
}

impl Bucket {
    /// Whether a line may be written now: then how many were left out before it.
    pub fn line(&self) -> Option<u64> {
        self.0.lock().take(Instant::now())
    }
}

impl Quiet {
    /// Whether a line about a caller may be written whom no certificate names.
    pub fn about_a_stranger(&self) -> Option<u64> {
        self.strangers.line()
    }

    /// Whether a line about something that this tenant was refused may be written.
    pub fn about(&self, tenant: Uid) -> Option<u64> {
        self.refusals.ask(tenant, Lines::take)
    }

    /// Whether a session may have a line of its own. If not, it is in what [`Self::tell_merged`] writes next.
    pub fn has_a_line(&self, ended: Ended) -> bool {
        // Those that are left out are counted in what is merged.
        if self.sessions.ask(ended.tenant, Lines::may) {
            return true;
        }
        let mut merged = self.merged.lock();
        let all = merged.entry((ended.tenant, ended.verb)).or_default();
        all.sessions += 1;
        all.not_ok += u64::from(!ended.is_ok);
        all.sent = all.sent.saturating_add(ended.sent);
        all.received = all.received.saturating_add(ended.received);
        false
    }

    /// Writes of the sessions that had no line of their own.
    pub fn tell_merged(&self) {
        let merged = std::mem::take(&mut *self.merged.lock());
        for ((tenant, verb), Merged { sessions, not_ok, sent, received }) in merged {
            info!(%tenant, verb, sessions, not_ok, sent_bytes = sent, received_bytes = received, "more sessions");
        }
    }
}

impl Buckets {
    fn new(most: u64) -> Self {
        Self { most, all: Mutex::default() }
    }

    fn ask<T>(&self, tenant: Uid, ask: impl FnOnce(&mut Lines, Instant) -> T) -> T {
        let now = Instant::now();
        let mut tenants = self.all.lock();
        if tenants.len() >= MOST_TENANTS && !tenants.contains_key(&tenant) {
            tenants.retain(|_, lines| !lines.is_as_new(now));
        }
        ask(tenants.entry(tenant).or_insert_with(|| Lines::new(self.most)), now)
    }
}

impl Lines {
    fn new(most: u64) -> Self {
        Self { most, left: most, since: Instant::now(), left_out: 0 }
    }

    /// Whether a line may be written: then how many were left out before it.
    fn take(&mut self, now: Instant) -> Option<u64> {
        if self.may(now) {
            return Some(std::mem::take(&mut self.left_out));
        }
        self.left_out += 1;
        None
    }

    /// Whether a line may be written, where nobody is told how many are left out.
    fn may(&mut self, now: Instant) -> bool {
        let seconds = now.saturating_duration_since(self.since).as_secs();
        if seconds > 0 {
            self.left = self.left.saturating_add(seconds).min(self.most);
            self.since = now;
        }
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }

    fn is_as_new(&self, now: Instant) -> bool {
        self.left_out == 0 && self.left + now.saturating_duration_since(self.since).as_secs() >= self.most
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn so_many_lines_at_once_then_one_a_second_which_counts_the_rest() {
        let quiet = Quiet::default();
        let (a, b) = (Uid::from_bits(1), Uid::from_bits(2));
        let written = |n: usize| (0..n).filter_map(|_| quiet.about(a)).collect::<Vec<_>>();
        assert_eq!(written(1000), vec![0; 20]);
        assert_eq!((quiet.about(b), quiet.about_a_stranger()), (Some(0), Some(0)), "others have their own");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(written(1000), vec![980]);
        tokio::time::advance(Duration::from_hours(1)).await;
        let later = written(1000);
        assert_eq!((later.len(), later.first()), (20, Some(&999)));
    }

    #[tokio::test(start_paused = true)]
    async fn tenants_of_whom_nothing_is_left_out_are_forgotten() {
        let quiet = Quiet::default();
        for tenant in 0..MOST_TENANTS as u128 {
            quiet.about(Uid::from_bits(tenant)).unwrap();
        }
        tokio::time::advance(Duration::from_secs(2)).await;
        quiet.about(Uid::from_bits(u128::MAX)).unwrap();
        assert_eq!(quiet.refusals.all.lock().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_without_a_line_of_their_own_are_merged_and_told_once() {
        let quiet = Quiet::default();
        let (a, b) = (Uid::from_bits(1), Uid::from_bits(2));
        let ended = |tenant, verb| Ended { tenant, verb, is_ok: verb == "logs", sent: 1, received: 10 };
        assert_eq!((0..110).filter(|_| quiet.has_a_line(ended(a, "logs"))).count(), 100);
        assert_eq!((0..5).filter(|_| quiet.has_a_line(ended(a, "pods"))).count(), 0);
        assert!(quiet.has_a_line(ended(b, "pods")) && quiet.about(a).is_some(), "others and refusals have their own");
        let merged = |verb| quiet.merged.lock().get(&(a, verb)).map(|all| (all.sessions, all.not_ok, all.sent, all.received));
        assert_eq!((merged("logs"), merged("pods")), (Some((10, 0, 10, 100)), Some((5, 5, 5, 50))));
        quiet.tell_merged();
        assert!(quiet.merged.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn tenants_whose_sessions_were_merged_are_forgotten() {
        let quiet = Quiet::default();
        let ended = |tenant| Ended { tenant: Uid::from_bits(tenant), verb: "logs", is_ok: true, sent: 0, received: 0 };
        for tenant in 0..MOST_TENANTS as u128 {
            while quiet.has_a_line(ended(tenant)) {}
        }
        tokio::time::advance(Duration::from_secs(MOST_SESSIONS)).await;
        assert!(quiet.has_a_line(ended(u128::MAX)));
        assert_eq!(quiet.sessions.all.lock().len(), 1);
    }
}
