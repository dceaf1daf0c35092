//! The token that every writer consults before a write.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

/// The lease is not ours any more, or may not be; nothing may be written in this term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the lease of epoch {epoch} is lost")]
pub struct LeaseLost {
    /// The term that ended.
    pub epoch: u64,
}

/// Proof, good until a moment on the monotonic clock, that we are the one who writes. Clones are one token.
///
/// # Guarantees
/// Void strictly before another candidate can hold the lease, and never valid again once it was seen void.
#[derive(Debug, Clone)]
pub struct Held(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    epoch: u64,
    /// Between the moment this token goes void and the moment another candidate can win.
    slack: Duration,
    until: Mutex<Until>,
    lost: watch::Sender<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    /// Valid before this moment.
    Moment(Instant),
    /// Valid for ever: nobody else is allowed to run.
    Always,
    /// Void for good.
    Lost,
}

impl Held {
    /// The token of a term that is valid before `until`.
    pub(crate) fn new(epoch: u64, until: Instant, slack: Duration) -> Self {
        Self::with(epoch, Until::Moment(until), slack)
    }

    /// The token where leader election is switched off: never lost, epoch 0.
    pub fn always() -> Self {
        Self::with(0, Until::Always, Duration::ZERO)
    }

    fn with(epoch: u64, until: Until, slack: Duration) -> Self {
        Self(Arc::new(Shared { epoch, slack, until: Mutex::new(until), lost: watch::Sender::new(false) }))
    }

    /// The number of this term; grows with every term of the same Lease object.
    pub fn epoch(&self) -> u64 {
        self.0.epoch
    }

    /// Whether a write may start now. Call it right before each.
    pub fn check(&self) -> Result<(), LeaseLost> {
        self.judge(|_| ())
    }

    /// How long until the token goes void unless renewed; zero when it is. The longest duration there is without
    /// leader election.
    pub fn remaining(&self) -> Duration {
        self.judge(|left| left).unwrap_or_default()
    }

    /// How long a write that starts now may take: it must have ended before another candidate can win.
    pub fn write_limit(&self) -> Result<Duration, LeaseLost> {
        self.judge(|left| left.saturating_add(self.0.slack))
    }

    /// Waits until the term is lost.
    pub async fn lost(&self) -> LeaseLost {
        let mut lost = self.0.lost.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _ = lost.wait_for(|lost| *lost).await;
        self.error()
    }

    /// Moves the end of validity, unless the token has gone void.
    pub(super) fn extend(&self, until: Instant) -> Result<(), LeaseLost> {
        let mut current = self.0.until.lock();
        self.expire(&mut current)?;
        *current = Until::Moment(until);
        Ok(())
    }

    /// Makes the token void now and for good.
    pub(super) fn fence(&self) -> LeaseLost {
        *self.0.until.lock() = Until::Lost;
        self.0.lost.send_replace(true);
        self.error()
    }

    fn judge<T>(&self, answer: impl FnOnce(Duration) -> T) -> Result<T, LeaseLost> {
        self.expire(&mut self.0.until.lock()).map(answer)
    }

    /// The time that is left; makes a lapse permanent, so that a late renewal cannot revive what a writer saw void.
    fn expire(&self, until: &mut Until) -> Result<Duration, LeaseLost> {
        let left = match *until {
            Until::Always => Duration::MAX,
            Until::Moment(moment) => moment.saturating_duration_since(Instant::now()),
            Until::Lost => Duration::ZERO,
        };
        if left.is_zero() {
            *until = Until::Lost;
            self.0.lost.send_replace(true);
            return Err(self.error());
        }
        Ok(left)
    }

    fn error(&self) -> LeaseLost {
        LeaseLost { epoch: self.0.epoch }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn the_token_is_void_from_the_moment_itself() {
        let held = Held::new(7, Instant::now() + 10 * SECOND, 5 * SECOND);
        assert_eq!(held.remaining(), 10 * SECOND);
        assert_eq!(held.write_limit(), Ok(15 * SECOND));
        tokio::time::advance(Duration::from_nanos(9_999_999_999)).await;
        assert_eq!(held.check(), Ok(()));
        tokio::time::advance(Duration::from_nanos(1)).await;
        assert_eq!(held.check(), Err(LeaseLost { epoch: 7 }));
        assert_eq!(held.remaining(), Duration::ZERO);
        assert_eq!(held.write_limit(), Err(LeaseLost { epoch: 7 }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_renewal_does_not_revive_a_void_token() {
        let held = Held::new(1, Instant::now() + SECOND, SECOND);
        tokio::time::advance(SECOND).await;
        assert_eq!(held.extend(Instant::now() + 10 * SECOND), Err(LeaseLost { epoch: 1 }));
        assert!(held.check().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_is_told_when_any_clone_sees_the_loss() {
        let held = Held::new(3, Instant::now() + SECOND, SECOND);
        let writer = held.clone();
        let (lost, ()) = tokio::join!(held.lost(), async {
            tokio::time::advance(SECOND).await;
            assert!(writer.check().is_err());
        });
        assert_eq!(lost.epoch, 3);
        assert_eq!(held.lost().await.epoch, 3, "also whoever asks later");
    }

    #[tokio::test(start_paused = true)]
    async fn without_election_the_token_is_valid_for_ever() {
        let held = Held::always();
        tokio::time::advance(Duration::from_secs(1_000_000_000)).await;
        assert_eq!(held.check(), Ok(()));
        assert_eq!(held.write_limit(), Ok(Duration::MAX));
    }
}
