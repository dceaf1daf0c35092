//! How long a Pod takes, and what the syncer costs.

use std::time::Duration;

use anyhow::Context as _;
use e2e::{audit::Calls, bed::apply};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::DeleteParams,
    runtime::wait::{await_condition, conditions},
};
use serde_json::json;
use tokio::time::{Instant, timeout};

use super::{
    stage::{PATIENCE, Stage, Tenant},
    tell,
};

/// How many single Pods are timed.
const SAMPLES: usize = 5;

/// Times single Pods and tells what all of it took.
pub(super) async fn show(stage: &Stage) -> anyhow::Result<()> {
    tell::scene("How long a Pod takes, and what the syncer costs");
    let tenant = stage.tenants.first().context("there is no tenant")?;
    let mut took = Vec::new();
    for sample in 0..SAMPLES {
        took.push(one(&format!("timed-{sample}"), tenant, stage).await?);
    }
    took.sort_unstable();
    let median = took.get(SAMPLES / 2).context("no samples")?.as_millis();
    tell::so(&format!(
        "from asking for a Pod to seeing it Running, in the tenant: {median} ms (median of {SAMPLES}; the nodes take 50 ms of it by design)"
    ));
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
    Ok(())
}

/// From the request to the sight of a running Pod.
async fn one(name: &str, tenant: &Tenant, stage: &Stage) -> anyhow::Result<Duration> {
    let pods: Api<Pod> = stage.above(tenant)?;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
        "spec": { "containers": [{ "name": "main", "image": "main" }] },
    });
    let begin = Instant::now();
    apply(&pods, name, &pod).await?;
    let running = await_condition(pods.clone(), name, conditions::is_pod_running());
    timeout(PATIENCE, running).await.with_context(|| format!("{name} is not Running"))??;
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
