//! Observers: when a Pod was asked for, created below, running below, and seen running above, by one clock.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use e2e::bed::Bed;
use e2e::wait::{Seen, eventually};
use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// What happened to one Pod, as far as seen.
#[derive(Clone, Copy, Debug, Default)]
struct Seens {
    posted: Option<Instant>,
    created: Option<Instant>,
    ran: Option<Instant>,
    shown: Option<Instant>,
}

/// The clock of all observers.
#[derive(Clone, Default)]
pub(super) struct Times(Arc<Mutex<HashMap<String, Seens>>>);

impl Times {
    /// The tenant's API server has answered the request.
    pub(super) fn posted(&self, name: &str) {
        self.0.lock().entry(name.to_owned()).or_default().posted = Some(Instant::now());
    }

    fn below(&self, pod: &Pod) {
        let (now, mut all) = (Instant::now(), self.0.lock());
        let seen = all.entry(pod.name_any()).or_default();
        seen.created.get_or_insert(now);
        if is_running(pod) {
            seen.ran.get_or_insert(now);
        }
    }

    fn above(&self, pod: &Pod) {
        if is_running(pod) {
            self.0.lock().entry(pod.name_any()).or_default().shown.get_or_insert(Instant::now());
        }
    }
}

/// Whether a Pod's status says that it runs.
pub(super) fn is_running(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
}

/// Watches the super cluster and all tenants while it lives.
pub(super) struct Observer {
    times: Times,
    prefix: String,
    _tasks: JoinSet<()>,
}

/// Down: from the tenant's answer to the super copy. Up: from running below to running above. In milliseconds, sorted.
#[derive(Clone, Debug, Default)]
pub(super) struct Latencies {
    pub(super) down: Vec<f64>,
    pub(super) up: Vec<f64>,
    pub(super) total: Vec<f64>,
}

impl Observer {
    /// Starts watching Pods whose names begin with `prefix`.
    pub(super) async fn start(bed: &Bed, prefix: &str, _count: usize) -> anyhow::Result<Self> {
        let times = Times::default();
        let mut tasks = JoinSet::new();
        let prefix = format!("{prefix}-");
        let (clock, start) = (times.clone(), prefix.clone());
        tasks.spawn(follow(bed.sup.client(), start, move |pod| clock.below(pod)));
        for plane in &bed.tenants {
            let (clock, start) = (times.clone(), prefix.clone());
            tasks.spawn(follow(plane.client(), start, move |pod| clock.above(pod)));
        }
        // The watches are there before the first Pod is.
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok(Self { times, prefix, _tasks: tasks })
    }

    /// The clock.
    pub(super) fn times(&self) -> Times {
        self.times.clone()
    }

    /// Waits until `count` Pods have been seen running by their tenants.
    pub(super) async fn wait(&self, count: usize, patience: Duration) -> anyhow::Result<()> {
        eventually(format!("{count} Pods {}* run", self.prefix), patience, async || {
            let shown = self.times.0.lock().values().filter(|seen| seen.shown.is_some()).count();
            Ok(Seen::when(shown >= count, shown.to_string()))
        })
        .await
        .map(drop)
    }

    /// What was seen. A watcher that heard late of one end may make a span look negative; it counts as zero.
    pub(super) fn latencies(&self) -> Latencies {
        let all = self.times.0.lock();
        let span = |from: fn(&Seens) -> Option<Instant>, to: fn(&Seens) -> Option<Instant>| {
            let mut spans: Vec<f64> =
                all.values().filter_map(|seen| Some(to(seen)?.saturating_duration_since(from(seen)?).as_secs_f64() * 1000.0)).collect();
            spans.sort_by(f64::total_cmp);
            spans
        };
        Latencies { down: span(|s| s.posted, |s| s.created), up: span(|s| s.ran, |s| s.shown), total: span(|s| s.posted, |s| s.shown) }
    }
}

async fn follow(client: Client, prefix: String, see: impl Fn(&Pod)) {
    let api: Api<Pod> = Api::all(client);
    let stream = watcher(api, watcher::Config::default()).default_backoff().applied_objects();
    let told = stream.try_for_each(|pod| {
        if pod.name_any().starts_with(&prefix) {
            see(&pod);
        }
        std::future::ready(Ok(()))
    });
    if let Err(error) = told.await {
        println!("an observer ended: {error}");
    }
}
