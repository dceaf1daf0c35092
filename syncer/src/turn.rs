//! When the kinds of one tenant that are not watched are listed next: all its namespaces now and then, those that failed at their own pace.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

/// What is to be listed.
#[derive(Debug, PartialEq, Eq)]
pub enum What {
    /// All super namespaces of the tenant.
    All,
    /// Those that could not be listed before.
    These(Vec<Arc<str>>),
}

/// What could not be listed.
#[derive(Debug, Default)]
pub struct Left {
    /// The super namespaces.
    pub namespaces: Vec<Arc<str>>,
    /// How long the API server asks to wait.
    pub wait: Duration,
}

/// One tenant's turn. A tenant whose lists fail keeps only its own Pods waiting, and only those of the namespaces that failed.
#[derive(Debug, Default)]
pub struct Turn {
    /// Which attachment it is about, by its begin.
    since: Option<Instant>,
    /// When all is listed again; `None` before the first time.
    again: Option<Instant>,
    /// When what is left is tried again.
    retry: Option<Instant>,
    left: Vec<Arc<str>>,
    failures: u32,
    /// Super namespaces that were never listed.
    unlisted: HashSet<Arc<str>>,
    is_under_way: bool,
}

impl Turn {
    /// What of the attachment that began at `since` is to be listed now, and is from now on.
    pub fn begin(&mut self, since: Instant, now: Instant) -> Option<What> {
        if self.is_under_way {
            return None;
        }
        if self.since != Some(since) {
            *self = Self { since: Some(since), ..Self::default() };
        }
        let what = if self.again.is_none_or(|again| now >= again) {
            What::All
        } else if !self.left.is_empty() && self.retry.is_none_or(|retry| now >= retry) {
            What::These(self.left.clone())
        } else {
            return None;
        };
        self.is_under_way = true;
        Some(what)
    }

    /// This is left of what was to be listed. Said before anything is concluded from the rest.
    pub fn note(&mut self, left: &Left) {
        if self.again.is_none() {
            self.unlisted = left.namespaces.iter().cloned().collect();
        } else {
            self.unlisted.retain(|namespace| left.namespaces.contains(namespace));
        }
    }

    /// It has been listed, but for what is left. All comes again after `interval`, what is left after `backoff` of so many failures.
    pub fn end(&mut self, what: &What, left: Left, now: Instant, interval: Duration, backoff: impl FnOnce(u32) -> Duration) {
        self.is_under_way = false;
        if *what == What::All {
            self.again = Some(now + interval);
        }
        self.failures = if left.namespaces.is_empty() { 0 } else { self.failures.saturating_add(1) };
        self.retry = Some(now + backoff(self.failures).max(left.wait));
        self.left = left.namespaces;
    }

    /// Whether it is not known yet what is in this super namespace.
    pub fn waits(&self, namespace: &str) -> bool {
        self.unlisted.contains(namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_mins(10);

    fn left(namespaces: &[&str], wait: Duration) -> Left {
        Left { namespaces: namespaces.iter().map(|name| (*name).into()).collect(), wait }
    }

    #[test]
    fn r45_what_fails_is_tried_again_alone_and_ever_later() {
        let start = Instant::now();
        let mut turn = Turn::default();
        let end = |turn: &mut Turn, what: &What, namespaces: &[&str], wait, now| {
            let left = left(namespaces, wait);
            turn.note(&left);
            turn.end(what, left, now, INTERVAL, |failures| Duration::from_secs(u64::from(failures)));
        };
        assert_eq!(turn.begin(start, start), Some(What::All));
        assert_eq!(turn.begin(start, start), None, "it is under way");
        end(&mut turn, &What::All, &["b"], Duration::ZERO, start);
        assert!(turn.waits("b") && !turn.waits("a"));
        assert_eq!(turn.begin(start, start), None);
        let these = What::These(vec!["b".into()]);
        let mut now = start + Duration::from_secs(1);
        assert_eq!(turn.begin(start, now), Some(What::These(vec!["b".into()])));
        // As long as the API server asks for, if that is longer.
        end(&mut turn, &these, &["b"], Duration::from_secs(30), now);
        assert_eq!(turn.begin(start, now + Duration::from_secs(29)), None);
        now += Duration::from_secs(30);
        assert_eq!(turn.begin(start, now), Some(What::These(vec!["b".into()])));
        end(&mut turn, &these, &[], Duration::ZERO, now);
        assert!(!turn.waits("b"));
        assert_eq!(turn.begin(start, now + Duration::from_mins(1)), None);
        assert_eq!(turn.begin(start, start + INTERVAL), Some(What::All));
        // What was listed once keeps no Pod waiting.
        end(&mut turn, &What::All, &["b"], Duration::ZERO, start + INTERVAL);
        assert!(!turn.waits("b"));
        let other = start + Duration::from_secs(5);
        assert_eq!(turn.begin(other, start + INTERVAL), Some(What::All), "another attachment");
    }
}
