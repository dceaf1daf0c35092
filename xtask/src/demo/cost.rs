//! How long a Pod takes, and what the syncer costs.

use std::time::Duration;

use anyhow::Context as _;
use e2e::{agents::AgentProcess, audit::Calls, bed::apply, metrics};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::DeleteParams,
    runtime::wait::{await_condition, conditions},
};
use serde_json::json;
use tokio::time::{Instant, timeout};

use super::{
    stage::{Stage, Tenant},
    tell,
};

/// How many single Pods are timed.
const SAMPLES: usize = 5;

/// Times single Pods and tells what all of it took.
pub(super) async fn show(stage: &Stage) -> anyhow::Result<()> {
    let whose = if stage.agent().is_some() { "vc-syncer and vn-agent cost" } else { "the syncer costs" };
    tell::scene(&format!("How long a Pod takes, and what {whose}"));
    let tenant = stage.tenants.first().context("there is no tenant")?;
    let mut took = Vec::new();
    for sample in 0..SAMPLES {
        took.push(one(&format!("timed-{sample}"), tenant, stage).await?);
    }
    took.sort_unstable();
    let median = took.get(SAMPLES / 2).context("no samples")?.as_millis();
    let nodes = if stage.agent().is_some() { "with real containers" } else { "the nodes take 50 ms of it by design" };
    tell::so(&format!("from asking for a Pod to seeing it Running, in the tenant: {median} ms (median of {SAMPLES}; {nodes})"));
    let pods = pods(stage)?;
    anyhow::ensure!(pods > 0, "the audit logs show no Pod");
    let (below, above) = (calls_below(stage)?, calls_above(stage)?);
    let per_pod = |calls: Calls| format!("{:.1} a Pod", f64::from(u32::try_from(calls.len()).unwrap_or(u32::MAX)) / f64::from(pods));
    tell::line(&format!("    for {pods} Pods, and for all that comes before the first (namespaces, writers, lists):"));
    let mebibytes = stage.syncer.rss_bytes() >> 20;
    let row = |what: &str, sup: String, tenants: String| vec![what.to_owned(), sup, tenants];
    tell::table(&[
        row("CPU time", format!("{:.2} s", stage.syncer.cpu_seconds()), String::new()),
        row("memory", format!("{mebibytes} MiB"), String::new()),
        row("calls", "super cluster".to_owned(), "tenants".to_owned()),
        row("  writes", per_pod(below.writes()), per_pod(above.writes())),
        row("  tokens", per_pod(below.tokens()), per_pod(above.tokens())),
        row("  reads", per_pod(below.reads()), per_pod(above.reads())),
    ]);
    tell::so("counted by the API servers' own audit logs and the kernel");
    match stage.agent() {
        Some(agent) => of_agent(agent).await,
        None => Ok(()),
    }
}

/// What vn-agent counted, and what the kernel counted of it.
async fn of_agent(agent: &AgentProcess) -> anyhow::Result<()> {
    let counted = agent.metrics().await?;
    let bytes = |direction: &str| metrics::sum(&counted, "vc_agent_bytes_total", &format!("direction=\"{direction}\""));
    let sessions = metrics::sum(&counted, "vc_agent_sessions_total", "");
    anyhow::ensure!(sessions > 0.0 && bytes("sent") > 0.0 && bytes("received") > 0.0, "vn-agent counted nothing:\n{counted}");
    let row = |what: &str, value: String| vec![what.to_owned(), value];
    tell::line("    vn-agent, for all that was shown (a debug build):");
    tell::table(&[
        row("sessions", format!("{sessions}")),
        row("bytes from callers", format!("{:.1} KiB", bytes("sent") / 1024.0)),
        row("bytes to callers", format!("{:.1} KiB", bytes("received") / 1024.0)),
        row("CPU time", format!("{:.2} s", agent.process.cpu().as_secs_f64())),
        row("memory", format!("{} MiB", agent.process.rss_bytes() >> 20)),
    ]);
    tell::so("counted by its own /metrics and the kernel");
    Ok(())
}

/// From the request to the sight of a running Pod.
async fn one(name: &str, tenant: &Tenant, stage: &Stage) -> anyhow::Result<Duration> {
    let pods: Api<Pod> = stage.above(tenant)?;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
        "spec": { "terminationGracePeriodSeconds": 1, "containers": [{ "name": "main", "image": stage.image() }] },
    });
    let begin = Instant::now();
    apply(&pods, name, &pod).await?;
    let running = await_condition(pods.clone(), name, conditions::is_pod_running());
    timeout(stage.patience, running).await.with_context(|| format!("{name} is not Running"))??;
    let took = begin.elapsed();
    pods.delete(name, &DeleteParams::default()).await?;
    Ok(took)
}

/// How many Pods the tenants' users and controllers made.
fn pods(stage: &Stage) -> anyhow::Result<u32> {
    let made = calls_below(stage)?.filter(|call| call.verb == "create" && call.resource == "pods" && call.subresource.is_empty());
    Ok(u32::try_from(made.filter(e2e::audit::Call::is_successful).len())?)
}

fn calls_below(stage: &Stage) -> anyhow::Result<Calls> {
    Ok(stage.bed.sup.audit().since(stage.mark)?.by("vc-").without_leases())
}

fn calls_above(stage: &Stage) -> anyhow::Result<Calls> {
    let mut all = Calls::default();
    for tenant in &stage.tenants {
        all.0.extend(stage.plane(tenant)?.audit().since(tenant.mark)?.by("vc-").without_leases().0);
    }
    Ok(all)
}
