//! The sessions that a vn-agent has had, by its own log, and whether its metrics agree.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, ensure};
use serde::{Deserialize, de::DeserializeOwned};

use super::AgentProcess;
use crate::{
    metrics,
    wait::{Seen, eventually},
};

/// How long a session may outlive its kubectl.
const SETTLED: Duration = Duration::from_secs(20);

/// What vn-agent logs when a session has ended.
#[derive(Clone, Debug, Deserialize)]
pub struct SessionLine {
    /// The UID of the tenant's `VirtualCluster`.
    pub tenant: String,
    /// `logs`, `exec`, `attach`, `portforward`.
    pub verb: String,
    /// Namespace and name in the tenant.
    pub pod: String,
    /// UID in the super cluster.
    pub uid: String,
    /// The container, or nothing.
    pub container: String,
    /// Bytes from the caller.
    pub sent_bytes: u64,
    /// Bytes to the caller.
    pub received_bytes: u64,
    /// How long it took.
    pub duration_ms: u64,
    /// How it ended.
    pub outcome: String,
}

impl SessionLine {
    /// Whether it ended as one does that went well. API servers and kubelets close a stream that they are done with as they like, also
    /// without a word.
    pub fn is_fine(&self) -> bool {
        self.outcome == "ok" || (self.outcome == "cut" && self.verb != "logs")
    }
}

/// What it logs of logs and pages that had no line of their own.
#[derive(Debug, Deserialize)]
struct MoreLine {
    verb: String,
    sessions: u64,
    not_ok: u64,
    sent_bytes: u64,
    received_bytes: u64,
}

impl AgentProcess {
    /// The sessions that have ended, as logged by all runs.
    pub fn sessions(&self) -> anyhow::Result<Vec<SessionLine>> {
        self.lines("session")
    }

    /// Lines of the log with this message.
    fn lines<T: DeserializeOwned>(&self, message: &str) -> anyhow::Result<Vec<T>> {
        #[derive(Deserialize)]
        struct Line {
            message: String,
        }
        let log = std::fs::read_to_string(self.process.log_path()).context("vn-agent has no log")?;
        let is_asked_for = |line: &&str| serde_json::from_str::<Line>(line).is_ok_and(|line| line.message == message);
        log.lines()
            .filter(is_asked_for)
            .map(|line| serde_json::from_str(line).with_context(|| format!("not a whole {message}: {line}")))
            .collect()
    }

    /// Waits until no session runs and all are told of, and gives those with a line of their own; its metrics, of this run, tell of the same ones,
    /// the same outcomes and the same bytes.
    pub async fn settled(&self) -> anyhow::Result<Vec<SessionLine>> {
        let (text, sessions, more) = eventually("no session runs, and all are in the log", SETTLED, async || {
            let text = self.metrics().await?;
            let running = metrics::sum(&text, "vc_agent_sessions_running", "");
            let (sessions, more) = (self.sessions()?, self.lines::<MoreLine>("more sessions")?);
            let (ended, told) =
                (metrics::sum(&text, "vc_agent_sessions_total", ""), sessions.len() as u64 + merged(&more, |one| one.sessions));
            let is_settled = is_same(running, 0.0) && is_same(ended, whole(told));
            Ok(if is_settled {
                Seen::Done((text, sessions, more))
            } else {
                Seen::NotYet(format!("{running} do, {ended} have ended, the log tells of {told}"))
            })
        })
        .await?;
        outcomes_agree(&text, &sessions, &more)?;
        let bytes = |of: fn(&SessionLine) -> u64| sessions.iter().map(of).sum::<u64>();
        for (direction, logged) in [
            ("sent", bytes(|one| one.sent_bytes) + merged(&more, |one| one.sent_bytes)),
            ("received", bytes(|one| one.received_bytes) + merged(&more, |one| one.received_bytes)),
        ] {
            let counted = metrics::sum(&text, "vc_agent_bytes_total", direction);
            let logged = whole(logged);
            ensure!(is_same(counted, logged), "{logged} bytes {direction} by the log, {counted} by the metrics");
        }
        Ok(sessions)
    }
}

/// Whether the metrics tell of as many sessions of each verb and outcome. Of those that were merged it is known how many went well.
fn outcomes_agree(text: &str, sessions: &[SessionLine], more: &[MoreLine]) -> anyhow::Result<()> {
    let mut by_outcome = BTreeMap::<_, u64>::new();
    for session in sessions {
        *by_outcome.entry((&session.verb, &session.outcome)).or_default() += 1;
    }
    for ((verb, outcome), count) in by_outcome {
        let counted = metrics::sum(text, "vc_agent_sessions_total", &format!("verb=\"{verb}\",outcome=\"{outcome}\""));
        let of_verb = || more.iter().filter(|one| one.verb == *verb);
        let (least, most) = if outcome == "ok" {
            let ok = count + of_verb().map(|one| one.sessions - one.not_ok).sum::<u64>();
            (ok, ok)
        } else {
            (count, count + of_verb().map(|one| one.not_ok).sum::<u64>())
        };
        let agrees = (whole(least) - 0.5..whole(most) + 0.5).contains(&counted);
        ensure!(agrees, "{least} to {most} {verb} {outcome} by the log, {counted} by the metrics");
    }
    Ok(())
}

fn merged(more: &[MoreLine], of: fn(&MoreLine) -> u64) -> u64 {
    more.iter().map(of).sum()
}

#[expect(clippy::cast_precision_loss, reason = "less than 2^53")]
fn whole(number: u64) -> f64 {
    number as f64
}

/// Both are whole.
fn is_same(a: f64, b: f64) -> bool {
    (a - b).abs() < 0.5
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agree(merged: &str, counted: &str) -> bool {
        let session = |verb: &str, outcome: &str| SessionLine {
            tenant: String::new(),
            verb: verb.to_owned(),
            pod: String::new(),
            uid: String::new(),
            container: String::new(),
            sent_bytes: 0,
            received_bytes: 0,
            duration_ms: 0,
            outcome: outcome.to_owned(),
        };
        let sessions = [session("exec", "ok"), session("logs", "ok"), session("logs", "idle")];
        let more = MoreLine { verb: merged.to_owned(), sessions: 3, not_ok: 1, sent_bytes: 0, received_bytes: 0 };
        let labelled = |(labels, count): (&str, &str)| {
            let (verb, outcome) = labels.split_once(' ').unwrap();
            format!("vc_agent_sessions_total{{verb=\"{verb}\",outcome=\"{outcome}\"}} {count}\n")
        };
        let text: String = ["exec ok", "logs ok", "logs idle"].into_iter().zip(counted.split(' ')).map(labelled).collect();
        outcomes_agree(&text, &sessions, &[more]).is_ok()
    }

    #[test]
    fn only_of_a_verb_that_was_merged_more_may_be_counted_than_logged() {
        assert!(agree("logs", "1 3 1") && agree("logs", "1 3 2") && agree("exec", "3 1 1"));
        for counted in ["2 3 1", "0 3 1", "1 2 1", "1 4 1", "1 3 0", "1 3 3"] {
            assert!(!agree("logs", counted), "{counted}");
        }
    }
}
