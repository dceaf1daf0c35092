//! What the syncer counts: writes, decisions, refusals, failures, and how long a pair takes to agree.
//!
//! No metric has a tenant's name among its labels: there may be thousands.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// All metrics of the syncer. Clones count together.
#[derive(Clone)]
pub struct SyncMetrics {
    writes: Family<WriteLabels, Counter>,
    vain_writes: Family<SideKindLabels, Counter>,
    fields_not_kept: Family<SideKindLabels, Counter>,
    plans: Family<PlanLabels, Counter>,
    refusals: Family<KindLabels, Counter>,
    failures: Family<FailureLabels, Counter>,
    events_told: Family<EventLabels, Counter>,
    vnode_writes: Family<StepLabels, Counter>,
    token_renewals: Family<OutcomeLabels, Counter>,
    relists: Family<SideKindLabels, Counter>,
    watch_failures: Family<SideKindLabels, Counter>,
    unreadable: Family<SideKindLabels, Counter>,
    unserved: Family<SideKindLabels, Counter>,
    pair_seconds: Family<KindLabels, Histogram, fn() -> Histogram>,
    queue: Gauge,
    pairs: Gauge,
    left_out: Gauge,
    tenants: Family<TenantLabels, Gauge>,
    attaches: Counter,
    status_writes: Family<OutcomeLabels, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WriteLabels {
    side: &'static str,
    kind: &'static str,
    step: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PlanLabels {
    kind: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    kind: &'static str,
    class: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabels {
    origin: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StepLabels {
    step: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SideKindLabels {
    side: &'static str,
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TenantLabels {
    state: &'static str,
}

/// Upper bounds in seconds: from one round trip on a quiet machine to what somebody would call broken.
const PAIR_BUCKETS_SECONDS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];

fn pair_histogram() -> Histogram {
    Histogram::new(PAIR_BUCKETS_SECONDS)
}

fn outcome(ok: bool) -> &'static str {
    if ok { "ok" } else { "failed" }
}

impl Default for SyncMetrics {
    fn default() -> Self {
        Self {
            writes: Family::default(),
            vain_writes: Family::default(),
            fields_not_kept: Family::default(),
            plans: Family::default(),
            refusals: Family::default(),
            failures: Family::default(),
            events_told: Family::default(),
            vnode_writes: Family::default(),
            token_renewals: Family::default(),
            relists: Family::default(),
            watch_failures: Family::default(),
            unreadable: Family::default(),
            unserved: Family::default(),
            pair_seconds: Family::new_with_constructor(pair_histogram),
            queue: Gauge::default(),
            pairs: Gauge::default(),
            left_out: Gauge::default(),
            tenants: Family::default(),
            attaches: Counter::default(),
            status_writes: Family::default(),
        }
    }
}

impl SyncMetrics {
    /// Metrics that `registry` shows.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("writes", "Requests that were to change something", metrics.writes.clone());
        registry.register("vain_writes", "Updates that changed nothing, by the version in the answer", metrics.vain_writes.clone());
        registry.register(
            "fields_not_kept",
            "Writes of which an API server left fields out, by its answer",
            metrics.fields_not_kept.clone(),
        );
        registry.register("plans", "Decisions on a pair of copies", metrics.plans.clone());
        registry.register("refusals", "Objects of tenants that were refused", metrics.refusals.clone());
        registry.register("failures", "Requests that failed, by what is done about it", metrics.failures.clone());
        registry.register("events_told", "Events for tenants: whose they are, and what became of them", metrics.events_told.clone());
        registry.register("vnode_writes", "Writes of vNodes and of their Leases", metrics.vnode_writes.clone());
        registry.register("token_renewals", "Service account tokens renewed", metrics.token_renewals.clone());
        registry.register("relists", "Whole lists begun", metrics.relists.clone());
        registry.register("watch_failures", "Lists and watches that ended in an error", metrics.watch_failures.clone());
        registry.register("unreadable", "Objects and lines of watches that could not be read", metrics.unreadable.clone());
        registry.register("unserved", "Times that a kind was asked for which an API server does not serve", metrics.unserved.clone());
        registry.register("pair_seconds", "From an event to both copies agreeing", metrics.pair_seconds.clone());
        registry.register("queue_length", "Keys that wait or are worked on", metrics.queue.clone());
        registry.register("pairs", "Pairs of copies that are known", metrics.pairs.clone());
        registry.register(
            "objects_left_out",
            "Tenants' objects that are not followed because there are too many",
            metrics.left_out.clone(),
        );
        registry.register("tenants", "Tenants, by the reason of their condition Ready", metrics.tenants.clone());
        registry.register("attaches", "Tenants' control planes attached, anew or again", metrics.attaches.clone());
        registry.register("status_writes", "Status of VirtualClusters written", metrics.status_writes.clone());
        metrics
    }

    /// A request that was to change something has ended.
    pub fn wrote(&self, side: &'static str, kind: &'static str, step: &'static str, ok: bool) {
        self.writes.get_or_create(&WriteLabels { side, kind, step, outcome: outcome(ok) }).inc();
    }

    /// The API server of `side` did not keep fields of what it was asked for.
    pub fn not_kept(&self, side: &'static str, kind: &'static str) {
        self.fields_not_kept.get_or_create(&SideKindLabels { side, kind }).inc();
    }

    /// An update has changed nothing.
    pub fn wrote_in_vain(&self, side: &'static str, kind: &'static str) {
        self.vain_writes.get_or_create(&SideKindLabels { side, kind }).inc();
    }

    /// The planner has decided.
    pub fn planned(&self, kind: &'static str, outcome: &'static str) {
        self.plans.get_or_create(&PlanLabels { kind, outcome }).inc();
    }

    /// A tenant's object was refused.
    pub fn refused(&self, kind: &'static str) {
        self.refusals.get_or_create(&KindLabels { kind }).inc();
    }

    /// A request about a pair failed; `class` says what is done about it.
    pub fn failed(&self, kind: &'static str, class: &'static str) {
        self.failures.get_or_create(&FailureLabels { kind, class }).inc();
    }

    /// An Event for a tenant, of our own or of the super cluster's, was created, counted up, put off since the tenant does
    /// not answer, dropped for want of room, or failed.
    pub fn told_event(&self, origin: &'static str, outcome: &'static str) {
        self.events_told.get_or_create(&EventLabels { origin, outcome }).inc();
    }

    /// A vNode or its Lease was written, or could not be.
    pub fn wrote_vnode(&self, step: &'static str, ok: bool) {
        self.vnode_writes.get_or_create(&StepLabels { step, outcome: outcome(ok) }).inc();
    }

    /// A token was renewed, or could not be.
    pub fn renewed_token(&self, ok: bool) {
        self.token_renewals.get_or_create(&OutcomeLabels { outcome: outcome(ok) }).inc();
    }

    /// A whole list of a kind has begun.
    pub fn relisted(&self, side: &'static str, kind: &'static str) {
        self.relists.get_or_create(&SideKindLabels { side, kind }).inc();
    }

    /// A list or watch of a kind ended in an error.
    pub fn watch_failed(&self, side: &'static str, kind: &'static str) {
        self.watch_failures.get_or_create(&SideKindLabels { side, kind }).inc();
    }

    /// An object or a line of a watch could not be read, and was left out.
    pub fn unreadable(&self, side: &'static str, kind: &'static str) {
        self.unreadable.get_or_create(&SideKindLabels { side, kind }).inc();
    }

    /// A kind was asked for that the API server of `side` does not serve.
    pub fn unserved(&self, side: &'static str, kind: &'static str) {
        self.unserved.get_or_create(&SideKindLabels { side, kind }).inc();
    }

    /// A pair agrees, this long after the event that moved it.
    pub fn agreed(&self, kind: &'static str, after: Duration) {
        self.pair_seconds.get_or_create(&KindLabels { kind }).observe(after.as_secs_f64());
    }

    /// How many keys wait or are worked on, how many pairs are known, and how many objects are not followed.
    pub fn show_load(&self, queue: usize, pairs: usize, left_out: usize) {
        self.left_out.set(i64::try_from(left_out).unwrap_or(i64::MAX));
        self.queue.set(i64::try_from(queue).unwrap_or(i64::MAX));
        self.pairs.set(i64::try_from(pairs).unwrap_or(i64::MAX));
    }

    /// A tenant has gone from one state to another; `None` before the first and after the last.
    pub fn tenant_moved(&self, from: Option<&'static str>, to: Option<&'static str>) {
        if let Some(state) = from {
            self.tenants.get_or_create(&TenantLabels { state }).dec();
        }
        if let Some(state) = to {
            self.tenants.get_or_create(&TenantLabels { state }).inc();
        }
    }

    /// A tenant's control plane was attached.
    pub fn attached(&self) {
        self.attaches.inc();
    }

    /// The status of a VirtualCluster was written, or could not be.
    pub fn wrote_status(&self, ok: bool) {
        self.status_writes.get_or_create(&OutcomeLabels { outcome: outcome(ok) }).inc();
    }
}

impl std::fmt::Debug for SyncMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SyncMetrics").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_counted_is_shown() {
        let mut registry = Registry::default();
        let metrics = SyncMetrics::register(&mut registry);
        metrics.wrote("super", "Pod", "create", true);
        metrics.wrote_in_vain("tenant", "Pod");
        metrics.planned("Pod", "settled");
        metrics.told_event("syncer", "dropped");
        metrics.wrote_vnode("beat", false);
        metrics.not_kept("super", "Pod");
        metrics.relisted("tenant", "Pod");
        metrics.unreadable("tenant", "Pod");
        metrics.unserved("super", "Pod");
        metrics.show_load(1, 2, 3);
        metrics.agreed("Pod", Duration::from_millis(7));
        metrics.tenant_moved(None, Some("Starting"));
        metrics.tenant_moved(Some("Starting"), Some("Synced"));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            r#"writes_total{side="super",kind="Pod",step="create",outcome="ok"} 1"#,
            r#"vain_writes_total{side="tenant",kind="Pod"} 1"#,
            r#"fields_not_kept_total{side="super",kind="Pod"} 1"#,
            r#"plans_total{kind="Pod",outcome="settled"} 1"#,
            r#"events_told_total{origin="syncer",outcome="dropped"} 1"#,
            r#"vnode_writes_total{step="beat",outcome="failed"} 1"#,
            r#"relists_total{side="tenant",kind="Pod"} 1"#,
            r#"unreadable_total{side="tenant",kind="Pod"} 1"#,
            r#"unserved_total{side="super",kind="Pod"} 1"#,
            "objects_left_out 3",
            r#"tenants{state="Starting"} 0"#,
            r#"tenants{state="Synced"} 1"#,
            r#"pair_seconds_bucket{le="0.01",kind="Pod"} 1"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }
}
