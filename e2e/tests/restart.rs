//! The syncer is killed at the worst of times, and restarted when nothing is to do.
//!
//! *Sources*: rows R01 to R04, R11 and R58 of the reliability matrix; invariants I2, I3 and I10.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Context as _;
use common::keys;
use e2e::{
    audit::Calls,
    story::{Actor, Crowd, Entries, Ledger, Plot, Story, Witness, chapter, owner_of, pod, quiet, time_to_run, uid_of},
    syncer::{SyncerOptions, SyncerProcess},
    wait::{Seen, eventually},
};
use k8s_openapi::api::{
    core::v1::{Pod, Secret},
    discovery::v1::EndpointSlice,
};
use kube::{Api, Resource, ResourceExt as _, api::ListParams};
use serde_json::json;
use tokio::time::sleep;

/// How many Pods come at once.
const BURST: usize = 200;
/// So many of them go again while no syncer runs.
const LEAVERS: usize = 20;
/// How long nobody may write for the system to count as quiet, and how long it may take to become so.
const CALM: Duration = Duration::from_secs(6);
const PATIENCE: Duration = Duration::from_mins(2);
/// How long a restarted syncer is watched: longer than a passing state is kept from a `VirtualCluster`'s status.
const WATCHED: Duration = Duration::from_secs(25);
/// So many Pods of the first tenant are compared in depth in that time, at least: half of them or more.
const COMPARED: usize = 100;

#[tokio::test(flavor = "multi_thread")]
async fn a_syncer_killed_in_a_burst_finishes_what_it_began_and_a_quiet_one_writes_nothing() {
    // A killed one gives its lease back to nobody: the next waits for it to run out.
    let plot = Plot::new("restart", 2).flag("--lease-duration=12s").flag("--renew-deadline=10s");
    let story = Story::play(plot).await.unwrap();
    story
        .tell(vec![chapter("killed twice and stopped once in a burst of 200 Pods: each runs once, none is left over", burst(&story))])
        .await
        .unwrap();
    story
        .tell(vec![chapter("restarted in a quiet system: not one write, on no side, also on patrol", quiet_restart(&story))])
        .await
        .unwrap();
}

async fn burst(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let crowd = Crowd::new(tenant, "burst");
    let witness = Witness::start(story.bed.sup.client());
    let kills = async {
        for count in [BURST / 10, BURST / 3] {
            crowd.below(count).await?;
            kill_and_start(story)?;
        }
        crowd.below(BURST * 2 / 3).await?;
        stopped(story).await
    };
    futures::future::try_join(crowd.comes(0..BURST), kills).await?;
    crowd.goes(0..LEAVERS).await?;
    story.syncer.process.start_again()?;

    let uids = story.syncer.kept_alive(crowd.runs(BURST - LEAVERS)).await?;
    for i in 0..LEAVERS {
        tenant.gone_everywhere::<Pod>("default", &format!("burst-{i}")).await?;
    }
    story.syncer.kept_alive(quiet(&story.bed, CALM, PATIENCE)).await?;
    let pods = owners(&tenant.below::<Pod>("default")).await?;
    anyhow::ensure!(pods.len() == BURST - LEAVERS, "there are {} Pods in the super cluster", pods.len());
    anyhow::ensure!(pods.iter().cloned().collect::<BTreeSet<_>>() == uids, "the Pods in the super cluster are others' than the tenant's");
    // A Pod that nobody runs any more leaves no token either.
    let tokens = tenant.below::<Secret>("default").list_metadata(&ListParams::default()).await?.items;
    let tokens = tokens.iter().filter(|secret| secret.annotations().contains_key(keys::TOKEN_EXPIRES)).count();
    anyhow::ensure!(tokens == pods.len(), "{} Pods have {tokens} Secrets with tokens", pods.len());
    witness.nothing_ran_twice()
}

/// Asked to end in the middle of its work, it finishes what it is at, gives its lease back and says that all is well.
async fn stopped(story: &Story) -> anyhow::Result<()> {
    story.syncer.process.stop().await?;
    let (status, said) = (story.syncer.process.exit_status(), story.syncer.process.log_tail(20));
    anyhow::ensure!(status.is_some_and(|status| status.success()) && said.contains("lease released"), "it ended with {status:?}:\n{said}");
    Ok(())
}

fn kill_and_start(story: &Story) -> anyhow::Result<()> {
    story.syncer.process.kill()?;
    story.syncer.process.start_again()
}

/// The UIDs of the tenant's objects that these super objects were made for, with repetitions.
async fn owners<K>(api: &Api<K>) -> anyhow::Result<Vec<String>>
where
    K: Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let found = api.list_metadata(&ListParams::default().labels(keys::TENANT)).await?.items;
    found.iter().map(|object| Ok(owner_of(object)?.uid.to_string())).collect()
}

/// Waits until the `VirtualCluster` says how many Pods there are: that is written once a minute at most.
async fn counted(story: &Story, i: usize) -> anyhow::Result<()> {
    let pods = story.tenant(i)?.below::<Pod>("default").list_metadata(&ListParams::default()).await?.items.len();
    eventually(format!("tenant {i} says that it has {pods} Pods"), PATIENCE, async || {
        let said = story.standing(i)?.object().await?.data.pointer("/status/pods").cloned().unwrap_or_default();
        Ok(Seen::when(said == pods, said))
    })
    .await
    .map(drop)
}

/// Something of each kind and of what is written in a way of its own: choices of the super cluster, objects that are referred to, gates, refusals.
async fn variety(tenant: &Actor) -> anyhow::Result<()> {
    let data =
        |kind: &str, field: &str| json!({ "apiVersion": "v1", "kind": kind, "metadata": { "name": "variety" }, field: { "a": "b" } });
    tenant.apply(&data("ConfigMap", "data")).await?;
    tenant.apply(&data("Secret", "stringData")).await?;
    let container = |name: &str| json!({ "name": name, "image": "web", "envFrom": [{ "configMapRef": { "name": "variety" } }] });
    let spec = json!({
        "initContainers": [container("first"), { "name": "beside", "image": "web", "restartPolicy": "Always" }],
        "containers": [container("main")],
        "readinessGates": [{ "conditionType": "variety.example/open" }],
        "volumes": [{ "name": "s", "secret": { "secretName": "variety" } }],
    });
    let labels = json!({ "app": "variety" });
    tenant.apply(&pod("variety", &labels, &spec)).await?;
    let runs = |pod: &Pod| pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running"));
    let running: Pod = tenant.sees("it runs", "default", "variety", runs).await?;
    let address = running.status.and_then(|status| status.pod_ip).context("it has no address")?;
    for (name, kind) in [("inside", "ClusterIP"), ("outside", "NodePort"), ("balanced", "LoadBalancer")] {
        let spec = json!({ "type": kind, "selector": labels, "ports": [{ "port": 80 }] });
        tenant.apply(&json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name }, "spec": spec })).await?;
    }
    tenant
        .apply(&json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "manual" }, "spec": { "ports": [{ "port": 80 }] } }))
        .await?;
    tenant
        .apply(&json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": { "name": "manual-1", "labels": { "kubernetes.io/service-name": "manual" } },
            "endpoints": [{ "addresses": [address] }, { "addresses": ["192.0.2.1"] }], "ports": [{ "port": 80 }],
        }))
        .await?;
    tenant
        .apply(&json!({
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": { "name": "variety" },
            "spec": { "minAvailable": 0, "selector": { "matchLabels": labels } },
        }))
        .await?;
    let refused = tenant.apply(&pod("refused", &labels, &json!({ "hostNetwork": true }))).await?;
    tenant.warned("default", &uid_of(&refused), "hostNetwork").await?;
    let is_there = |slice: &EndpointSlice| slice.endpoints.as_ref().is_some_and(|all| all.len() == 1);
    tenant.holds_below("one of its endpoints is the tenant's", "default", "manual-1", is_there).await.map(drop)
}

async fn quiet_restart(story: &Story) -> anyhow::Result<()> {
    variety(story.tenant(1)?).await?;
    let settled = futures::future::try_join(counted(story, 0), counted(story, 1));
    story.syncer.kept_alive(settled).await?;
    story.syncer.kept_alive(quiet(&story.bed, CALM, PATIENCE)).await?;
    let ledger = Ledger::open(&story.bed);
    story.syncer.process.stop().await?;
    let said = story.syncer.process.log_tail(20);
    anyhow::ensure!(said.contains("lease released"), "the next one has to wait for the lease to run out:\n{said}");
    let patrol = ["--patrol-interval=2s", "--lease-duration=12s", "--renew-deadline=10s"].map(str::to_owned).to_vec();
    let syncer = SyncerProcess::start_installed(&story.bed, SyncerOptions { args: patrol, ..Plot::syncer("on-patrol") }).await?;
    writes_nothing(story, &syncer, &ledger).await.context("after a stop")?;
    let ledger = Ledger::open(&story.bed);
    syncer.process.kill()?;
    syncer.process.start_again()?;
    writes_nothing(story, &syncer, &ledger).await.context("after a kill")?;
    // It was quiet because nothing was to do, not because it slept.
    let took = syncer.kept_alive(time_to_run(story.tenant(1)?, "after-all")).await?;
    anyhow::ensure!(took < Duration::from_secs(10), "a Pod took {took:?} after the restart");
    Ok(())
}

/// It looks at everything: what it lists, and both copies of pairs that agree. It has nothing to write.
async fn writes_nothing(story: &Story, syncer: &SyncerProcess, ledger: &Ledger) -> anyhow::Result<()> {
    let watched = async {
        syncer.wait_ready(PATIENCE).await?;
        sleep(WATCHED).await;
        anyhow::Ok(())
    };
    syncer.kept_alive(watched).await?;
    let writes = ledger.writes(&story.bed)?;
    anyhow::ensure!(writes.is_empty(), "{} writes after a restart:\n{writes}", writes.len());
    let calls = ledger.calls(&story.bed)?;
    no_tokens_of_pods(story, &calls.map(Calls::tokens))?;
    let up = calls.tenants.first().context("no tenant")?;
    let reads = [&calls.sup, up].map(|calls| calls.filter(|call| call.verb == "get" && call.resource == "pods").len());
    anyhow::ensure!(reads.iter().all(|reads| *reads >= COMPARED), "only so many Pods were compared in depth: {reads:?}");
    anyhow::ensure!(!calls.sup.filter(|call| call.verb == "list" && call.resource == "secrets").is_empty(), "no Secrets were listed");
    Ok(())
}

/// What Pods mount stays good. A process has no writer's token when it starts, since that stands nowhere: it asks for those.
fn no_tokens_of_pods(story: &Story, tokens: &Entries) -> anyhow::Result<()> {
    let writers: BTreeSet<_> = story.tenants.iter().map(|tenant| tenant.id.writer()).collect();
    let strange = tokens.map(|calls| calls.filter(|call| call.namespace != keys::WRITERS_NAMESPACE || !writers.contains(&call.name)));
    anyhow::ensure!(strange.is_empty(), "tokens were asked for after a restart:\n{strange}");
    eprintln!("    {} tokens of {} writers were asked for", tokens.len(), writers.len());
    Ok(())
}
