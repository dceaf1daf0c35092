//! What vn-agent counts: sessions, bytes, refusals by hop, and what it knows.
//!
//! No metric has a tenant's name among its labels: there may be thousands.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// All metrics of vn-agent. Clones count together.
#[derive(Clone, Debug)]
pub struct AgentMetrics {
    running: Family<VerbLabels, Gauge>,
    sessions: Family<SessionLabels, Counter>,
    bytes: Family<BytesLabels, Counter>,
    failures: Family<FailureLabels, Counter>,
    handshakes: Family<OutcomeLabels, Counter>,
    reloads: Family<OutcomeLabels, Counter>,
    lists: Family<OutcomeLabels, Counter>,
    first_byte_seconds: Family<VerbLabels, Histogram, fn() -> Histogram>,
    connections: Gauge,
    pods: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerbLabels {
    verb: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SessionLabels {
    verb: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BytesLabels {
    direction: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    hop: &'static str,
    code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

/// Upper bounds in seconds: from a node that is at hand to a kubelet that hangs.
const FIRST_BYTE_SECONDS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.0, 10.0, 30.0];

fn histogram() -> Histogram {
    Histogram::new(FIRST_BYTE_SECONDS)
}

fn outcome(ok: bool) -> OutcomeLabels {
    OutcomeLabels { outcome: if ok { "ok" } else { "failed" } }
}

impl Default for AgentMetrics {
    fn default() -> Self {
        Self {
            running: Family::default(),
            sessions: Family::default(),
            bytes: Family::default(),
            failures: Family::default(),
            handshakes: Family::default(),
            reloads: Family::default(),
            lists: Family::default(),
            first_byte_seconds: Family::new_with_constructor(histogram),
            connections: Gauge::default(),
            pods: Gauge::default(),
        }
    }
}

impl AgentMetrics {
    /// Metrics that `registry` shows.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("agent");
        registry.register("sessions_running", "Sessions that run", metrics.running.clone());
        registry.register("sessions", "Sessions that have ended, by how", metrics.sessions.clone());
        registry.register("bytes", "Bytes of sessions, from callers and to them", metrics.bytes.clone());
        registry.register("failures", "Requests that were not served, by where they failed", metrics.failures.clone());
        registry.register("handshakes", "TLS handshakes of callers", metrics.handshakes.clone());
        registry.register("reloads", "Certificate files that changed and were read again", metrics.reloads.clone());
        registry.register("pod_lists", "Lists of the node's Pods", metrics.lists.clone());
        registry.register("first_byte_seconds", "From a request to the head of the answer that passed", metrics.first_byte_seconds.clone());
        registry.register("connections", "Connections that are open of callers who are known", metrics.connections.clone());
        registry.register("pods", "Pods of tenants on this node", metrics.pods.clone());
        metrics
    }

    pub(crate) fn session_began(&self, verb: &'static str) {
        self.running.get_or_create(&VerbLabels { verb }).inc();
    }

    pub(crate) fn session_answered(&self, verb: &'static str, after: Duration) {
        self.first_byte_seconds.get_or_create(&VerbLabels { verb }).observe(after.as_secs_f64());
    }

    pub(crate) fn session_ended(&self, verb: &'static str, outcome: &'static str, sent: u64, received: u64) {
        self.sessions.get_or_create(&SessionLabels { verb, outcome }).inc();
        self.bytes.get_or_create(&BytesLabels { direction: "sent" }).inc_by(sent);
        self.bytes.get_or_create(&BytesLabels { direction: "received" }).inc_by(received);
        // Last: who reads that none runs any more finds all of them counted.
        self.running.get_or_create(&VerbLabels { verb }).dec();
    }

    pub(crate) fn failed(&self, hop: &'static str, code: u16) {
        self.failures.get_or_create(&FailureLabels { hop, code }).inc();
    }

    pub(crate) fn shook_hands(&self, ok: bool) {
        self.handshakes.get_or_create(&outcome(ok)).inc();
    }

    pub(crate) fn reloaded(&self, ok: bool) {
        self.reloads.get_or_create(&outcome(ok)).inc();
    }

    pub(crate) fn listed(&self, ok: bool) {
        self.lists.get_or_create(&outcome(ok)).inc();
    }

    pub(crate) fn connections(&self, open: usize) {
        self.connections.set(i64::try_from(open).unwrap_or(i64::MAX));
    }

    pub(crate) fn pods(&self, known: usize) {
        self.pods.set(i64::try_from(known).unwrap_or(i64::MAX));
    }
}
