//! The sessions that a vn-agent has had, by its own log, and whether its metrics agree.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, ensure};
use serde::Deserialize;

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

impl AgentProcess {
    /// The sessions that have ended, as logged by all runs.
    pub fn sessions(&self) -> anyhow::Result<Vec<SessionLine>> {
        #[derive(Deserialize)]
        struct Line {
            message: String,
        }
        let log = std::fs::read_to_string(self.process.log_path()).context("vn-agent has no log")?;
        let is_session = |line: &&str| serde_json::from_str::<Line>(line).is_ok_and(|line| line.message == "session");
        log.lines()
            .filter(is_session)
            .map(|line| serde_json::from_str(line).with_context(|| format!("not a whole session: {line}")))
            .collect()
    }

    /// Waits until no session runs, and gives all; its metrics, of this run, tell of the same ones, the same outcomes and the same bytes.
    pub async fn settled(&self) -> anyhow::Result<Vec<SessionLine>> {
        let text = eventually("no session runs", SETTLED, async || {
            let text = self.metrics().await?;
            let running = metrics::sum(&text, "vc_agent_sessions_running", "");
            Ok(if is_same(running, 0.0) { Seen::Done(text) } else { Seen::NotYet(format!("{running} do")) })
        })
        .await?;
        let sessions = self.sessions()?;
        let mut by_outcome = BTreeMap::<_, f64>::new();
        for session in &sessions {
            *by_outcome.entry((&session.verb, &session.outcome)).or_default() += 1.0;
        }
        let total = metrics::sum(&text, "vc_agent_sessions_total", "");
        ensure!(is_same(total, by_outcome.values().sum()), "the log tells of {by_outcome:?}, the metrics of {total} sessions");
        for ((verb, outcome), count) in &by_outcome {
            let counted = metrics::sum(&text, "vc_agent_sessions_total", &format!("verb=\"{verb}\",outcome=\"{outcome}\""));
            ensure!(is_same(counted, *count), "{count} {verb} {outcome} by the log, {counted} by the metrics");
        }
        let bytes = |of: fn(&SessionLine) -> u64| sessions.iter().map(of).sum::<u64>();
        for (direction, logged) in [("sent", bytes(|one| one.sent_bytes)), ("received", bytes(|one| one.received_bytes))] {
            let counted = metrics::sum(&text, "vc_agent_bytes_total", direction);
            #[expect(clippy::cast_precision_loss, reason = "less than 2^53 bytes")]
            let logged = logged as f64;
            ensure!(is_same(counted, logged), "{logged} bytes {direction} by the log, {counted} by the metrics");
        }
        Ok(sessions)
    }
}

/// Both are whole.
fn is_same(a: f64, b: f64) -> bool {
    (a - b).abs() < 0.5
}
