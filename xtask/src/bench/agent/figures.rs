//! What was measured, as Markdown.

use std::time::Duration;
use std::{fmt, fs};

use anyhow::Context as _;

use super::scenes::Side;

/// The same done both ways, pair by pair.
#[derive(Default)]
pub(super) struct Pairs {
    direct: Vec<f64>,
    through: Vec<f64>,
}

impl Pairs {
    pub(super) fn add(&mut self, side: Side, took: Duration) {
        let times = match side {
            Side::Direct => &mut self.direct,
            Side::Through => &mut self.through,
        };
        times.push(took.as_secs_f64());
    }

    /// What the way through vn-agent took more, pair by pair.
    fn added(&self) -> Vec<f64> {
        self.through.iter().zip(&self.direct).map(|(through, direct)| through - direct).collect()
    }
}

/// Resident memory in bytes, and descriptors.
type Held = (u64, usize);

/// What a measurement cost.
pub(super) struct Cost {
    /// CPU time of vn-agent.
    pub(super) agent: Duration,
    /// The share of all cores' time in which they did anything.
    pub(super) busy: f64,
}

/// What all cores have done since the machine's start, in ticks.
#[derive(Clone, Copy)]
pub(super) struct MachineTime {
    idle: u64,
    all: u64,
}

impl MachineTime {
    /// See `/proc/stat` in proc(5): user, nice, system, idle, iowait, irq, softirq, steal; guests are in user already.
    pub(super) fn now() -> anyhow::Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("could not read /proc/stat")?;
        let line = text.lines().next().context("/proc/stat is empty")?;
        let ticks = line.split_whitespace().skip(1).take(8).map(str::parse).collect::<Result<Vec<u64>, _>>()?;
        Ok(Self { idle: ticks.iter().skip(3).take(2).sum(), all: ticks.iter().sum() })
    }

    pub(super) fn busy_since(self, before: Self) -> f64 {
        1.0 - memory(self.idle - before.idle) / memory(self.all - before.all)
    }
}

struct Stream {
    what: &'static str,
    bytes: usize,
    pairs: Pairs,
    cost: Cost,
}

/// Everything.
#[derive(Default)]
pub(super) struct Table {
    parts: Vec<(&'static str, Vec<f64>)>,
    latencies: Vec<(&'static str, Pairs)>,
    streams: Vec<Stream>,
    sessions: Option<(usize, [Held; 3])>,
}

impl Table {
    /// Times in seconds of something that the kubelet does by itself.
    pub(super) fn part(&mut self, what: &'static str, times: Vec<f64>) {
        self.parts.push((what, times));
    }

    pub(super) fn latency(&mut self, what: &'static str, pairs: Pairs) {
        println!("  {what}");
        self.latencies.push((what, pairs));
    }

    pub(super) fn stream(&mut self, what: &'static str, bytes: usize, pairs: Pairs, cost: Cost) {
        println!("  {what}");
        self.streams.push(Stream { what, bytes, pairs, cost });
    }

    pub(super) fn sessions(&mut self, count: usize, before: Held, with: Held, after: Held) {
        self.sessions = Some((count, [before, with, after]));
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cell = |times: &[f64]| format!("{:.2} / {:.2}", percentile(times, 0.5) * 1e3, percentile(times, 0.99) * 1e3);
        writeln!(f, "\n| of the kubelet alone, ms | p50 / p99 |\n| --- | --- |")?;
        for (what, times) in &self.parts {
            writeln!(f, "| {what} ({}) | {} |", times.len(), cell(times))?;
        }
        writeln!(f, "\n| latency, ms | direct p50 / p99 | through vn-agent p50 / p99 | added, median of pairs |")?;
        writeln!(f, "| --- | --- | --- | --- |")?;
        for (what, pairs) in &self.latencies {
            let added = percentile(&pairs.added(), 0.5) * 1e3;
            writeln!(f, "| {what} ({}) | {} | {} | {added:.2} |", pairs.direct.len(), cell(&pairs.direct), cell(&pairs.through))?;
        }
        writeln!(f, "\n| throughput, MB/s | direct | through vn-agent | ratio, median of pairs | vn-agent's CPU a GB | cores busy |")?;
        writeln!(f, "| --- | --- | --- | --- | --- | --- |")?;
        for Stream { what, bytes, pairs, cost } in &self.streams {
            let megabytes = real(*bytes) / 1e6;
            let rate = |times: &[f64]| megabytes / percentile(times, 0.5);
            let ratios: Vec<f64> = pairs.direct.iter().zip(&pairs.through).map(|(direct, through)| direct / through).collect();
            let cpu = cost.agent.as_secs_f64() / (megabytes / 1e3 * real(pairs.through.len()));
            writeln!(
                f,
                "| {what} ({} of {megabytes:.0} MB) | {:.0} | {:.0} | {:.2} | {cpu:.2} s | {:.0} % |",
                pairs.direct.len(),
                rate(&pairs.direct),
                rate(&pairs.through),
                percentile(&ratios, 0.5),
                cost.busy * 100.0,
            )?;
        }
        if let Some((count, [before, with, after])) = &self.sessions {
            writeln!(f, "\n| vn-agent | before | with {count} sessions | after |\n| --- | --- | --- | --- |")?;
            let cells = |pick: &dyn Fn(&Held) -> String| format!("{} | {} | {}", pick(before), pick(with), pick(after));
            writeln!(f, "| resident memory, MB | {} |", cells(&|held| format!("{:.1}", memory(held.0) / 1e6)))?;
            writeln!(f, "| descriptors | {} |", cells(&|held| held.1.to_string()))?;
            let each = (memory(with.0) - memory(before.0)) / real(*count) / 1024.0;
            writeln!(f, "\nmemory a session: {each:.1} KiB")?;
        }
        Ok(())
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts and sizes far below 2^52")]
fn real(count: usize) -> f64 {
    count as f64
}

#[expect(clippy::cast_precision_loss, reason = "bytes and ticks are far below 2^52")]
fn memory(bytes: u64) -> f64 {
    bytes as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "an index into a short list")]
fn percentile(times: &[f64], share: f64) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = ((sorted.len().saturating_sub(1)) as f64 * share).round() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}
