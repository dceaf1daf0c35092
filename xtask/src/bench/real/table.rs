//! What was measured, as Markdown.

use std::fmt;
use std::time::Duration;

use e2e::audit::Calls;

use super::observe::Latencies;

/// One phase of the measurement.
pub(super) struct Phase {
    pub(super) name: &'static str,
    pub(super) pods: usize,
    pub(super) took: Duration,
    pub(super) cpu_seconds: f64,
    /// Updates on either side that changed nothing, as the syncer counts them by the version in the answer.
    pub(super) vain: f64,
    pub(super) latencies: Latencies,
    pub(super) sup: Calls,
    pub(super) tenants: Calls,
}

/// Everything.
#[derive(Default)]
pub(super) struct Table {
    memory: Vec<(&'static str, u64)>,
    phases: Vec<Phase>,
    idle_share: f64,
}

impl Table {
    pub(super) fn memory(&mut self, when: &'static str, bytes: u64) {
        self.memory.push((when, bytes));
    }

    pub(super) fn phase(&mut self, phase: Phase) {
        self.phases.push(phase);
    }

    pub(super) fn idle(&mut self, share: f64) {
        self.idle_share = share;
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn ratio(part: usize, whole: usize) -> f64 {
    part as f64 / whole.max(1) as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "an index into a short list")]
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let at = ((sorted.len().saturating_sub(1)) as f64 * share).round() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n| measured | {} |",
            self.phases.iter().map(|p| format!("{} ({} Pods)", p.name, p.pods)).collect::<Vec<_>>().join(" | ")
        )?;
        writeln!(f, "| --- | {} |", self.phases.iter().map(|_| "---").collect::<Vec<_>>().join(" | "))?;
        let row = |f: &mut fmt::Formatter<'_>, name: &str, value: &dyn Fn(&Phase) -> String| {
            writeln!(f, "| {name} | {} |", self.phases.iter().map(value).collect::<Vec<_>>().join(" | "))
        };
        row(f, "until all run in their tenants", &|p| format!("{:.1} s", p.took.as_secs_f64()))?;
        row(f, "syncer CPU a Pod", &|p| format!("{:.2} ms", p.cpu_seconds * 1000.0 * ratio(1, p.pods)))?;
        row(f, "super API: writes a Pod", &|p| format!("{:.2}", ratio(p.sup.writes().len(), p.pods)))?;
        row(f, "super API: reads a Pod", &|p| format!("{:.2}", ratio(p.sup.reads().len(), p.pods)))?;
        row(f, "tenant API: writes a Pod, Events apart", &|p| {
            format!("{:.2}", ratio(p.tenants.writes().filter(|c| c.resource != "events").len(), p.pods))
        })?;
        row(f, "tenant API: tokens a Pod", &|p| format!("{:.2}", ratio(p.tenants.tokens().len(), p.pods)))?;
        row(f, "tenant API: Events a Pod", &|p| format!("{:.2}", ratio(p.tenants.filter(|c| c.resource == "events").len(), p.pods)))?;
        row(f, "tenant API: reads a Pod", &|p| format!("{:.2}", ratio(p.tenants.reads().len(), p.pods)))?;
        row(f, "writes that changed nothing", &|p| format!("{:.0}", p.vain))?;
        for (name, pick) in [("down", 0), ("up", 1), ("in all", 2)] {
            row(f, &format!("{name}, p50 / p99"), &|p| {
                let spans = match pick {
                    0 => &p.latencies.down,
                    1 => &p.latencies.up,
                    _ => &p.latencies.total,
                };
                format!("{:.1} / {:.1} ms", percentile(spans, 0.5), percentile(spans, 0.99))
            })?;
        }
        writeln!(
            f,
            "\nresident memory: {}",
            self.memory.iter().map(|(when, bytes)| format!("{when}: {:.1} MB", megabytes(*bytes))).collect::<Vec<_>>().join(", ")
        )?;
        writeln!(f, "CPU when idle: {:.2} % of a core", self.idle_share * 100.0)?;
        for phase in &self.phases {
            writeln!(f, "\nall calls of phase {}: super {:?}\ntenants {:?}", phase.name, phase.sup.counts(), phase.tenants.counts())?;
        }
        Ok(())
    }
}

#[expect(clippy::cast_precision_loss, reason = "memory sizes are far below 2^52")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
