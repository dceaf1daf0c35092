//! The right to write, which ends with the lease.

use runtime::lease::Held;
use tokio::sync::watch;

use crate::remote::CallError;

/// The right to write, for as long as the lease is held. Cheap to clone.
#[derive(Clone)]
pub struct Fence(watch::Receiver<Option<Held>>);

impl Fence {
    /// Follows what leader election says; `None` means another process leads.
    pub fn new(held: watch::Receiver<Option<Held>>) -> Self {
        Self(held)
    }

    /// Asked before each write.
    pub fn check(&self) -> Result<(), CallError> {
        self.0.borrow().as_ref().ok_or(CallError::Fenced)?.check().map_err(|_| CallError::Fenced)
    }

    /// Runs a write, and gives it up where it would not end before another process can lead. The clock is looked at before the write is,
    /// so that one of a process that was stopped meanwhile goes no further.
    pub async fn hold<T>(&self, write: impl Future<Output = T>) -> Result<T, CallError> {
        let limit = self.0.borrow().as_ref().ok_or(CallError::Fenced)?.write_limit().map_err(|_| CallError::Fenced)?;
        tokio::select! {
            biased;
            () = tokio::time::sleep(limit) => Err(CallError::Fenced),
            done = write => Ok(done),
        }
    }
}

/// A lease that nobody else asks for.
#[cfg(test)]
pub(crate) mod lease {
    use std::time::Duration;

    use k8s_openapi::api::coordination::v1::Lease;
    use runtime::lease::{Candidate, Config, LeaseStore, StoreError, Term};

    /// How long others wait before they take it over.
    pub(crate) const DURATION: Duration = Duration::from_secs(15);
    /// How long a write may begin, where it is not renewed.
    pub(crate) const DEADLINE: Duration = Duration::from_secs(10);
    /// How long one goes on that begins at the last moment.
    pub(crate) const SLACK: Duration = Duration::from_secs(5);

    /// Keeps nothing: whoever asks is the first.
    pub(crate) struct Nobodys;

    impl LeaseStore for Nobodys {
        async fn get(&self, _: &str) -> Result<Option<Lease>, StoreError> {
            Ok(None)
        }

        async fn create(&self, lease: &Lease) -> Result<Lease, StoreError> {
            Ok(lease.clone())
        }

        async fn replace(&self, _: &str, lease: &Lease) -> Result<Lease, StoreError> {
            Ok(lease.clone())
        }
    }

    /// A term that begins now and is not renewed.
    pub(crate) async fn term() -> Term<Nobodys> {
        let config = Config {
            name: "a".to_owned(),
            identity: "me".to_owned(),
            lease_duration: DURATION,
            renew_deadline: DEADLINE,
            retry_period: Duration::from_secs(2),
        };
        Candidate::new(Nobodys, config).acquire().await
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::time::Duration;

    use tokio::time::{Instant, advance, sleep};

    use super::lease::{DEADLINE, DURATION, SLACK};
    use super::*;

    /// Just before no write may begin any more.
    const LATE: Duration = Duration::from_secs(9);

    #[tokio::test]
    async fn who_does_not_lead_does_not_even_begin_a_write() {
        let (held, follows) = watch::channel(Some(Held::always()));
        let fence = Fence::new(follows);
        assert!(matches!(fence.hold(async { 1 }).await, Ok(1)));
        held.send_replace(None);
        let write = async { panic!("a write after the end of the lease") };
        assert!(matches!(fence.hold::<()>(write).await, Err(CallError::Fenced)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_under_way_is_given_up_when_another_can_lead() {
        let (begun, term) = (Instant::now(), lease::term().await);
        let (_held, follows) = watch::channel(Some(term.held()));
        let fence = Fence::new(follows);
        advance(LATE).await;
        assert!(matches!(fence.hold(pending::<()>()).await, Err(CallError::Fenced)));
        assert_eq!(begun.elapsed().as_secs(), DURATION.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_ends_before_another_can_lead_is_not_disturbed() {
        let (begun, term) = (Instant::now(), lease::term().await);
        let (_held, follows) = watch::channel(Some(term.held()));
        let fence = Fence::new(follows);
        advance(LATE).await;
        let write = async {
            sleep(SLACK).await;
            7
        };
        assert!(matches!(fence.hold(write).await, Ok(7)));
        // The next one would not even begin.
        assert!(begun.elapsed() >= DEADLINE && fence.check().is_err());
        let write = async { panic!("a write after the end of the lease") };
        assert!(matches!(fence.hold::<()>(write).await, Err(CallError::Fenced)));
    }
}
