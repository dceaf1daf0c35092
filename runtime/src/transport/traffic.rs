//! What went over the wire, counted.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one [`super::Transport`] since it was made; sizes are those of bodies, in bytes.
#[derive(Debug, Default)]
pub struct Traffic {
    calls: AtomicU64,
    watches: AtomicU64,
    lines: AtomicU64,
    bytes_sent: AtomicU64,
    bytes_received: AtomicU64,
    connections: AtomicU64,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TrafficSnapshot {
    /// Calls begun, lists among them.
    pub calls: u64,
    /// Watches begun.
    pub watches: u64,
    /// Whole lines of watches handed out.
    pub lines: u64,
    /// Bytes of request bodies.
    pub bytes_sent: u64,
    /// Bytes of response bodies.
    pub bytes_received: u64,
    /// Connections opened.
    pub connections: u64,
}

impl Traffic {
    /// Reads all counters.
    pub fn snapshot(&self) -> TrafficSnapshot {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        TrafficSnapshot {
            calls: read(&self.calls),
            watches: read(&self.watches),
            lines: read(&self.lines),
            bytes_sent: read(&self.bytes_sent),
            bytes_received: read(&self.bytes_received),
            connections: read(&self.connections),
        }
    }

    pub(super) fn call(&self, bytes: usize) {
        add(&self.calls, 1);
        add(&self.bytes_sent, bytes);
    }

    pub(super) fn watch(&self) {
        add(&self.watches, 1);
    }

    pub(super) fn line(&self) {
        add(&self.lines, 1);
    }

    pub(super) fn received(&self, bytes: usize) {
        add(&self.bytes_received, bytes);
    }

    pub(super) fn connection(&self) {
        add(&self.connections, 1);
    }
}

fn add(counter: &AtomicU64, amount: usize) {
    counter.fetch_add(u64::try_from(amount).unwrap_or(u64::MAX), Ordering::Relaxed);
}
