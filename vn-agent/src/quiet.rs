//! How much may be written to the log at a caller's will.
//!
//! *Guarantees*: what one tenant does, or whoever has no certificate, adds a bounded number of lines in a time, and takes none of another
//! tenant's. What is left out is counted in the next line, and all of it in the metrics.

use std::collections::HashMap;

use common::Uid;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Lines that may be written at once.
const MOST: u64 = 20;

/// Buckets of tenants that are held: more than there are tenants with something to tell at one time.
const MOST_TENANTS: usize = 1024;

/// Lines of one kind: so many at once, then one a second.
#[derive(Debug, Default)]
pub struct Bucket(Mutex<Lines>);

/// Lines of tenants, each its own, and of callers that nobody knows.
#[derive(Debug, Default)]
pub struct Quiet {
    strangers: Bucket,
    tenants: Mutex<HashMap<Uid, Lines>>,
}

#[derive(Debug)]
struct Lines {
    /// How many may still be written, as of `since`.
    left: u64,
    since: Instant,
    left_out: u64,
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

    /// Whether a line about this tenant may be written.
    pub fn about(&self, tenant: Uid) -> Option<u64> {
        let now = Instant::now();
        let mut tenants = self.tenants.lock();
        if tenants.len() >= MOST_TENANTS && !tenants.contains_key(&tenant) {
            tenants.retain(|_, lines| !lines.is_as_new(now));
        }
        tenants.entry(tenant).or_default().take(now)
    }
}

impl Default for Lines {
    fn default() -> Self {
        Self { left: MOST, since: Instant::now(), left_out: 0 }
    }
}

impl Lines {
    fn take(&mut self, now: Instant) -> Option<u64> {
        let seconds = now.saturating_duration_since(self.since).as_secs();
        if seconds > 0 {
            self.left = self.left.saturating_add(seconds).min(MOST);
            self.since = now;
        }
        if self.left == 0 {
            self.left_out += 1;
            return None;
        }
        self.left -= 1;
        Some(std::mem::take(&mut self.left_out))
    }

    fn is_as_new(&self, now: Instant) -> bool {
        self.left_out == 0 && self.left + now.saturating_duration_since(self.since).as_secs() >= MOST
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
        assert_eq!(quiet.tenants.lock().len(), 1);
    }
}
