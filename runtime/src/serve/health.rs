//! What the probes ask: named conditions for readiness, heartbeats for liveness.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::log::Escaped;

/// The conditions and heartbeats of a process. Clones are one.
///
/// ```
/// use runtime::serve::Health;
/// let health = Health::default();
/// let lease = health.condition("lease");
/// assert!(!health.is_ready());
/// lease.set_ready();
/// assert!(health.is_ready());
/// ```
#[derive(Debug, Clone, Default)]
pub struct Health(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Why a condition is not met, by name.
    conditions: Mutex<BTreeMap<&'static str, Option<String>>>,
    heartbeats: Mutex<BTreeMap<&'static str, Pulse>>,
}

#[derive(Debug, Clone, Copy)]
struct Pulse {
    last: Instant,
    limit: Duration,
}

/// One line of a probe's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) problem: Option<String>,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.problem {
            None => write!(f, "[+]{} ok", self.name),
            Some(problem) => write!(f, "[-]{} failed: {}", self.name, Escaped(problem)),
        }
    }
}

impl Health {
    /// A condition of readiness, not met at first. A name stands for one condition.
    pub fn condition(&self, name: &'static str) -> Condition {
        let condition = Condition { name, health: self.clone() };
        condition.set_not_ready("not yet");
        condition
    }

    /// A sign of life that must come again within `limit`, the first time from now.
    pub fn heartbeat(&self, name: &'static str, limit: Duration) -> Heartbeat {
        self.0.heartbeats.lock().insert(name, Pulse { last: Instant::now(), limit });
        Heartbeat { name, health: self.clone() }
    }

    /// Whether all conditions are met.
    pub fn is_ready(&self) -> bool {
        self.0.conditions.lock().values().all(Option::is_none)
    }

    /// Whether all heartbeats came in time.
    pub fn is_alive(&self) -> bool {
        self.alive().iter().all(|check| check.problem.is_none())
    }

    pub(super) fn ready(&self) -> Vec<Check> {
        let conditions = self.0.conditions.lock();
        conditions.iter().map(|(name, problem)| Check { name, problem: problem.clone() }).collect()
    }

    pub(super) fn alive(&self) -> Vec<Check> {
        let heartbeats = self.0.heartbeats.lock();
        heartbeats.iter().map(|(name, pulse)| Check { name, problem: pulse.problem() }).collect()
    }
}

impl Pulse {
    fn problem(&self) -> Option<String> {
        let silent = self.last.elapsed();
        (silent > self.limit).then(|| format!("no sign of life for {} s, limit {} s", silent.as_secs(), self.limit.as_secs()))
    }
}

/// A handle on one condition of readiness. Dropped, the condition is not met: whoever watched over it is gone.
#[derive(Debug)]
pub struct Condition {
    name: &'static str,
    health: Health,
}

impl Condition {
    /// The condition is met.
    pub fn set_ready(&self) {
        self.set(None);
    }

    /// The condition is not met, and why, for a person.
    pub fn set_not_ready(&self, reason: impl Into<String>) {
        self.set(Some(reason.into()));
    }

    /// Takes the condition off the list.
    pub fn retire(self) {
        let (health, name) = (self.health.clone(), self.name);
        drop(self);
        health.0.conditions.lock().remove(name);
    }

    fn set(&self, problem: Option<String>) {
        self.health.0.conditions.lock().insert(self.name, problem);
    }
}

impl Drop for Condition {
    fn drop(&mut self) {
        self.set_not_ready("its owner has ended");
    }
}

/// A handle on one sign of life. Dropped, it stays on the list, and the process is held dead after the limit.
#[derive(Debug)]
pub struct Heartbeat {
    name: &'static str,
    health: Health,
}

impl Heartbeat {
    /// Gives a sign of life.
    pub fn touch(&self) {
        if let Some(pulse) = self.health.0.heartbeats.lock().get_mut(self.name) {
            pulse.last = Instant::now();
        }
    }

    /// Takes it off the list: what it stood for has ended as it should.
    pub fn retire(self) {
        self.health.0.heartbeats.lock().remove(self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_process_without_conditions_is_ready_and_alive() {
        let health = Health::default();
        assert!(health.is_ready() && health.is_alive());
    }

    #[test]
    fn one_condition_that_is_not_met_is_named() {
        let health = Health::default();
        let (cache, lease) = (health.condition("cache"), health.condition("lease"));
        cache.set_ready();
        lease.set_not_ready("waiting\nfor the leader");
        let lines: Vec<String> = health.ready().iter().map(ToString::to_string).collect();
        assert_eq!(lines, ["[+]cache ok", r"[-]lease failed: waiting\nfor the leader"]);
        assert!(!health.is_ready());
        lease.set_ready();
        assert!(health.is_ready());
    }

    #[test]
    fn a_dropped_condition_is_not_met_and_a_retired_one_is_gone() {
        let health = Health::default();
        let condition = health.condition("one");
        condition.set_ready();
        drop(condition);
        assert!(!health.is_ready());
        health.condition("one").retire();
        assert!(health.is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn a_heartbeat_must_come_within_its_limit() {
        let health = Health::default();
        let heartbeat = health.heartbeat("engine", 30 * SECOND);
        tokio::time::advance(30 * SECOND).await;
        assert!(health.is_alive());
        heartbeat.touch();
        tokio::time::advance(31 * SECOND).await;
        assert!(!health.is_alive());
        assert_eq!(health.alive()[0].to_string(), "[-]engine failed: no sign of life for 31 s, limit 30 s");
        heartbeat.touch();
        assert!(health.is_alive());
        drop(heartbeat);
        tokio::time::advance(31 * SECOND).await;
        assert!(!health.is_alive(), "its owner is gone without a word");
        health.heartbeat("engine", SECOND).retire();
        assert!(health.is_alive());
    }
}
