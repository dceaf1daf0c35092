//! Pods end on either side, and the other side sees it: nothing is run again behind the tenant's back, and nothing runs twice.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Context as _;
use e2e::{
    nodes::NodeOptions,
    plane::client_that_asks_once,
    story::{Actor, NO_PATROL, PATIENCE, Plot, Story, Witness, chapter, is_running, pod, uid_of},
    wait::{Seen, eventually, never},
};
use k8s_openapi::api::{
    core::v1::{Node, Pod},
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, EvictParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

const REPLICAS: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_ends_on_one_side_ends_on_the_other() {
    // Slow enough that an ending can be looked at.
    let nodes = NodeOptions { stop_delay: Duration::from_millis(1500), ..NodeOptions::new(2) };
    let story = Story::play(Plot { nodes, ..Plot::new("deletion", 1).flag(NO_PATROL) }).await.unwrap();
    let witness = Witness::start(story.bed.sup.client());
    let tenant = story.tenant(0).unwrap();
    for name in ["deleted", "evicted"] {
        tenant.apply(&deployment(name)).await.unwrap();
    }
    let chapters = vec![
        chapter("deleted in the super cluster: the tenant's controller replaces it", replaced(tenant, "deleted", End::Delete)),
        chapter("evicted in the super cluster: the same", replaced(tenant, "evicted", End::Evict)),
        chapter("a Pod that nobody replaces is gone in both", nobody_replaces(tenant)),
        chapter("deleted by the tenant: it ends in peace, then goes in both", graceful(tenant)),
        chapter("evicted by the tenant: the same", evicted_above(tenant)),
        chapter("a budget of the tenant's holds evictions below, as long as it is there", protected(&story)),
        chapter("deleted by force: the tenant need not wait, and below it ends", forced(tenant)),
    ];
    story.tell(chapters).await.unwrap();
    story.tell(vec![chapter("a node is drained: all its Pods come up elsewhere", drained(&story))]).await.unwrap();
    same_pods(tenant).await.unwrap();
    witness.nothing_ran_twice().unwrap();
    assert!(witness.count() >= 2 * REPLICAS + 2, "the witness saw {} Pods only", witness.count());
}

fn deployment(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name },
        "spec": { "replicas": REPLICAS, "selector": { "matchLabels": { "app": name } }, "template": {
            "metadata": { "labels": { "app": name } },
            "spec": { "terminationGracePeriodSeconds": 20, "containers": [{ "name": "web", "image": "web" }] },
        } },
    })
}

#[derive(Clone, Copy)]
enum End {
    Delete,
    Evict,
}

async fn replaced(tenant: &Actor, app: &str, end: End) -> anyhow::Result<()> {
    let selector = format!("app={app}");
    let before = tenant.running("default", &selector, REPLICAS).await?;
    let victim = before.first().context("no Pod")?;
    let below: Api<Pod> = tenant.below("default");
    match end {
        End::Delete => drop(below.delete(&victim.name_any(), &DeleteParams::default()).await?),
        End::Evict => drop(below.evict(&victim.name_any(), &EvictParams::default()).await?),
    }
    let above: Api<Pod> = tenant.above("default");
    eventually("the tenant sees it end, with the grace that it has", PATIENCE, async || {
        let found = above.get_opt(&victim.name_any()).await?;
        let ending = found.as_ref().is_none_or(|pod| pod.metadata.deletion_timestamp.is_some());
        let grace = found.as_ref().and_then(|pod| pod.metadata.deletion_grace_period_seconds);
        Ok(Seen::when(ending && grace.is_none_or(|grace| (1..=20).contains(&grace)), grace))
    })
    .await?;
    tenant.running_without("default", &selector, REPLICAS, &[uid_of(victim)]).await?;
    tenant.gone_everywhere::<Pod>("default", &victim.name_any()).await
}

async fn nobody_replaces(tenant: &Actor) -> anyhow::Result<()> {
    tenant.apply(&pod("alone", &json!({}), &json!({ "terminationGracePeriodSeconds": 2 }))).await?;
    tenant.sees("it runs", "default", "alone", is_running).await?;
    tenant.below::<Pod>("default").delete("alone", &DeleteParams::default()).await?;
    tenant.gone_everywhere::<Pod>("default", "alone").await?;
    never("it comes back", Duration::from_secs(3), async || {
        let below = tenant.below::<Pod>("default").get_opt("alone").await?;
        Ok(below.map(|pod| format!("{:?}", pod.status)))
    })
    .await
}

/// Waits until both copies are ending, and gives their grace periods.
async fn ending(tenant: &Actor, name: &str) -> anyhow::Result<(Option<i64>, Option<i64>)> {
    let (above, below): (Api<Pod>, Api<Pod>) = (tenant.above("default"), tenant.below("default"));
    eventually(format!("{name} ends in both"), PATIENCE, async || {
        let (above, below) = (above.get(name).await?.metadata, below.get(name).await?.metadata);
        let ends = above.deletion_timestamp.is_some() && below.deletion_timestamp.is_some();
        Ok(Seen::when(ends, (above.deletion_grace_period_seconds, below.deletion_grace_period_seconds)))
    })
    .await
}

async fn graceful(tenant: &Actor) -> anyhow::Result<()> {
    tenant.apply(&pod("patient", &json!({}), &json!({ "terminationGracePeriodSeconds": 60 }))).await?;
    tenant.sees("it runs", "default", "patient", is_running).await?;
    tenant.above::<Pod>("default").delete("patient", &DeleteParams::default().grace_period(40)).await?;
    let graces = ending(tenant, "patient").await?;
    anyhow::ensure!(graces == (Some(40), Some(40)), "the grace periods are {graces:?}");
    tenant.gone_everywhere::<Pod>("default", "patient").await
}

async fn evicted_above(tenant: &Actor) -> anyhow::Result<()> {
    tenant.apply(&pod("asked", &json!({}), &json!({ "terminationGracePeriodSeconds": 30 }))).await?;
    tenant.sees("it runs", "default", "asked", is_running).await?;
    tenant.above::<Pod>("default").evict("asked", &EvictParams::default()).await?;
    ending(tenant, "asked").await?;
    tenant.gone_everywhere::<Pod>("default", "asked").await
}

/// The budget selects by a label that has another key in the super cluster, where its controller must have counted the Pod.
async fn protected(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let labels = json!({ "team.example/role": "guarded" });
    tenant
        .apply(&json!({
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": { "name": "guard" },
            "spec": { "minAvailable": 1, "selector": { "matchLabels": labels } },
        }))
        .await?;
    tenant.apply(&pod("guarded", &labels, &json!({ "terminationGracePeriodSeconds": 2 }))).await?;
    tenant.sees("it runs", "default", "guarded", is_running).await?;
    let budgets: Api<PodDisruptionBudget> = tenant.below("default");
    eventually("the super cluster's controller counts the Pod", PATIENCE, async || {
        let status = budgets.get("guard").await?.status.unwrap_or_default();
        Ok(Seen::when((status.current_healthy, status.desired_healthy) == (Some(1), Some(1)), status))
    })
    .await?;
    let once: Api<Pod> = Api::namespaced(client_that_asks_once(story.bed.sup.kubeconfig()).await?, &tenant.namespace_below("default"));
    match once.evict("guarded", &EvictParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 429 && status.message.contains("disruption budget") => {}
        other => anyhow::bail!("the eviction was answered with {other:?}"),
    }
    tenant.above::<PodDisruptionBudget>("default").delete("guard", &DeleteParams::default()).await?;
    tenant.gone_everywhere::<PodDisruptionBudget>("default", "guard").await?;
    once.evict("guarded", &EvictParams::default()).await?;
    tenant.gone_everywhere::<Pod>("default", "guarded").await
}

async fn forced(tenant: &Actor) -> anyhow::Result<()> {
    tenant.apply(&pod("forced", &json!({}), &json!({}))).await?;
    tenant.sees("it runs", "default", "forced", is_running).await?;
    tenant.above::<Pod>("default").delete("forced", &DeleteParams::default().grace_period(0)).await?;
    tenant.gone_everywhere::<Pod>("default", "forced").await
}

/// As `kubectl drain` does: no new Pods, then each is evicted.
async fn drained(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let mut before = tenant.running("default", "app=deleted", REPLICAS).await?;
    before.extend(tenant.running("default", "app=evicted", REPLICAS).await?);
    let node = node_of(before.first().context("no Pod")?);
    let cordon = json!({ "spec": { "unschedulable": true } });
    Api::<Node>::all(story.bed.sup.client()).patch(&node, &PatchParams::default(), &Patch::Merge(&cordon)).await?;
    let below: Api<Pod> = tenant.below("default");
    let mut gone = Vec::new();
    for pod in before.iter().filter(|pod| node_of(pod) == node) {
        below.evict(&pod.name_any(), &EvictParams::default()).await?;
        gone.push(uid_of(pod));
    }
    for selector in ["app=deleted", "app=evicted"] {
        for pod in tenant.running_without("default", selector, REPLICAS, &gone).await? {
            anyhow::ensure!(node_of(&pod) != node, "{} runs on the drained node", pod.name_any());
        }
    }
    let vnodes: Api<Node> = Api::all(tenant.client());
    eventually("the tenant sees that the node takes no Pods, or sees it no more", PATIENCE, async || {
        let found = vnodes.get_opt(&node).await?;
        let cordoned = found.as_ref().is_none_or(|node| node.spec.as_ref().is_some_and(|spec| spec.unschedulable == Some(true)));
        Ok(Seen::when(cordoned, found))
    })
    .await
    .map(drop)
}

fn node_of(pod: &Pod) -> String {
    pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default()
}

/// Waits until both clusters hold the same Pods.
async fn same_pods(tenant: &Actor) -> anyhow::Result<()> {
    let names = async |api: &Api<Pod>| -> anyhow::Result<BTreeSet<String>> {
        Ok(api.list(&ListParams::default()).await?.iter().map(kube::ResourceExt::name_any).collect())
    };
    let (above, below): (Api<Pod>, Api<Pod>) = (tenant.above("default"), tenant.below("default"));
    eventually("both hold the same Pods", PATIENCE, async || {
        let (above, below) = (names(&above).await?, names(&below).await?);
        Ok(Seen::when(above == below && above.len() == 2 * REPLICAS, (above, below)))
    })
    .await
    .map(drop)
}
