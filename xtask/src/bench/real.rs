//! `cargo xtask bench real`: what a Pod costs, measured on real API servers and printed as a table.
//!
//! Four tenants, 400 Pods at once, then ten Pods a second for a minute. CPU and memory are the syncer's own, from `/proc`; calls are
//! counted by the API servers' audit logs; latencies by observers that share one monotonic clock.

mod observe;
mod table;

use std::time::Duration;

use e2e::audit::{Calls, Mark};
use e2e::bed::{Bed, BedOptions};
use e2e::nodes::{FakeNodes, NodeOptions};
use e2e::programs::Programs;
use e2e::shipped::SYNCER;
use e2e::syncer::{SyncerOptions, SyncerProcess};
use e2e::wait::{Seen, eventually};
use indicatif::MultiProgress;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PostParams};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use observe::Observer;
use table::{Phase, Table};

use crate::program::{self, Build};

const TENANTS: usize = 4;
const BURST: usize = 400;
const RATE_PER_SECOND: u64 = 10;
const STREAM: Duration = Duration::from_mins(1);
const PATIENCE: Duration = Duration::from_mins(5);
/// What the syncer is left alone for before memory and idle CPU are read.
const QUIET: Duration = Duration::from_secs(10);

/// Counts updates that changed nothing.
const VAIN: &str = "vc_vain_writes_total";

/// Measures on real API servers.
pub(crate) async fn run() -> anyhow::Result<()> {
    Programs::locate_or_build(&MultiProgress::new()).await?;
    let program = program::build(&SYNCER, Build::Release).await?;
    let bed = Bed::start(BedOptions::new("bench", TENANTS)).await?;
    let _nodes = FakeNodes::start(bed.sup.client(), NodeOptions { events: false, ..NodeOptions::new(4) }).await?;
    let syncer = SyncerProcess::start(&bed, SyncerOptions { program: Some(program), ..SyncerOptions::default() }).await?;
    syncer.wait_ready(PATIENCE).await?;
    for (index, plane) in bed.tenants.iter().enumerate() {
        bed.register(index, plane.name(), plane.name()).await?;
    }
    warm_up(&bed).await?;
    println!("warm; now {BURST} Pods at once over {TENANTS} tenants, then {RATE_PER_SECOND} Pods/s for {} s", STREAM.as_secs());

    let mut table = Table::default();
    tokio::time::sleep(QUIET).await;
    table.memory("0 Pods", syncer.rss_bytes());
    let idle = syncer.cpu_seconds();
    tokio::time::sleep(QUIET).await;
    let idle_share = (syncer.cpu_seconds() - idle) / QUIET.as_secs_f64();

    let burst = measure(&bed, &syncer, "burst", BURST, Pace::AtOnce).await?;
    tokio::time::sleep(QUIET).await;
    table.memory("400 Pods", syncer.rss_bytes());
    table.phase(burst);
    let count = usize::try_from(RATE_PER_SECOND * STREAM.as_secs())?;
    table.phase(measure(&bed, &syncer, "stream", count, Pace::Steady).await?);
    table.memory("1000 Pods", syncer.rss_bytes());
    table.memory("peak", syncer.process.peak_rss_bytes());
    table.idle(idle_share);
    println!("{table}");
    Ok(())
}

#[derive(Clone, Copy)]
enum Pace {
    AtOnce,
    Steady,
}

/// One Pod in each tenant on each node, so that namespaces, vNodes and writers are there before anything is counted.
async fn warm_up(bed: &Bed) -> anyhow::Result<()> {
    for (tenant, plane) in bed.tenants.iter().enumerate() {
        let api: Api<Pod> = Api::namespaced(plane.client(), "default");
        eventually("the tenant has its ServiceAccount", PATIENCE, async || {
            for i in 0..8 {
                match api.create(&PostParams::default(), &pod(&format!("warm-{tenant}-{i}"))?).await {
                    Ok(_) => {}
                    Err(kube::Error::Api(status)) if status.code == 409 => {}
                    Err(error) => return Ok(Seen::NotYet(error.to_string())),
                }
            }
            Ok(Seen::Done(()))
        })
        .await?;
    }
    for plane in &bed.tenants {
        let api: Api<Pod> = Api::namespaced(plane.client(), "default");
        eventually("the first Pods run", PATIENCE, async || {
            let running = api.list(&kube::api::ListParams::default()).await?.items.iter().filter(|pod| observe::is_running(pod)).count();
            Ok(Seen::when(running >= 8, running.to_string()))
        })
        .await?;
    }
    Ok(())
}

fn pod(name: &str) -> anyhow::Result<Pod> {
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"app": "bench"}},
        "spec": {"containers": [{"name": "main", "image": "registry.example/app:1", "env": [{"name": "A", "value": "b"}]}], "terminationGracePeriodSeconds": 1},
    }))?)
}

async fn measure(bed: &Bed, syncer: &SyncerProcess, name: &'static str, count: usize, pace: Pace) -> anyhow::Result<Phase> {
    let observer = Observer::start(bed, name, count).await?;
    let marks: Vec<Mark> = bed.tenants.iter().map(|plane| plane.audit().mark()).collect();
    let super_mark = bed.sup.audit().mark();
    let vain = syncer.metric(VAIN, "").await?;
    let (cpu, begin) = (syncer.cpu_seconds(), Instant::now());
    create(bed, &observer, name, count, pace).await?;
    observer.wait(count, PATIENCE).await?;
    let took = begin.elapsed();
    // What trails behind belongs to these Pods too.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let cpu = syncer.cpu_seconds() - cpu;
    let vain = syncer.metric(VAIN, "").await? - vain;
    let mut tenants = Vec::new();
    for (plane, mark) in bed.tenants.iter().zip(marks) {
        tenants.extend(plane.audit().since(mark)?.by("vc-syncer").0);
    }
    let sup = bed.sup.audit().since(super_mark)?.by("vc-").without_leases();
    Ok(Phase {
        name,
        pods: count,
        took,
        cpu_seconds: cpu,
        vain,
        latencies: observer.latencies(),
        sup,
        tenants: Calls(tenants).without_leases(),
    })
}

async fn create(bed: &Bed, observer: &Observer, name: &'static str, count: usize, pace: Pace) -> anyhow::Result<()> {
    let mut ticks = interval(Duration::from_millis(1000 / RATE_PER_SECOND));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut posts = JoinSet::new();
    for i in 0..count {
        match pace {
            Pace::Steady => drop(ticks.tick().await),
            // So many requests under way as a busy controller has.
            Pace::AtOnce if posts.len() >= 16 => {
                if let Some(done) = posts.join_next().await {
                    done??;
                }
            }
            Pace::AtOnce => {}
        }
        let tenant = i % bed.tenants.len();
        let api: Api<Pod> = Api::namespaced(bed.tenant(tenant)?.client(), "default");
        let (full, times) = (format!("{name}-{i}"), observer.times());
        posts.spawn(async move {
            api.create(&PostParams::default(), &pod(&full)?).await?;
            times.posted(&full);
            anyhow::Ok(())
        });
    }
    while let Some(done) = posts.join_next().await {
        done??;
    }
    Ok(())
}
