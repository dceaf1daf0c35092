//! vNodes by the administrator's choice: a tenant sees the nodes that a selector picks, whether its Pods run there or not.

use std::time::Duration;

use common::keys;
use e2e::{
    nodes::NodeOptions,
    story::{Actor, Ledger, PATIENCE, Plot, Story, chapter, is_running, pod, quiet},
    wait::{Seen, eventually, never},
};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

/// A vNode that nobody needs any more stays for a minute.
const LINGERS: Duration = Duration::from_mins(2);
/// The controllers of a cluster collect the Pods of a Node that is gone after 40 s, and look for them every 20 s.
const COLLECTED: Duration = Duration::from_mins(3);
/// How long nobody may write for the system to count as quiet.
const CALM: Duration = Duration::from_secs(5);
/// How long nothing is written after a restart: longer than a lease takes to run out and everything to be listed.
const WATCHED: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn tenants_see_the_nodes_that_their_administrator_picks() {
    let plot = Plot { nodes: NodeOptions::new(3), ..Plot::new("nodes-mirrored", 2) };
    let story = Story::play(plot.flag("--lease-duration=12s").flag("--renew-deadline=10s")).await.unwrap();
    story.tell(vec![chapter("all nodes, ready and untainted, before any Pod; another tenant sees none", shown(&story))]).await.unwrap();
    let chapters = vec![
        chapter("a DaemonSet runs on each", daemons(&story)),
        chapter("those that the selector picks, as their labels change", picked(&story)),
    ];
    story.tell(chapters).await.unwrap();
    let chapters = vec![
        chapter("what happens to a node shows, and what the tenant does to it is undone", followed(&story)),
        chapter("on demand again: what no Pod needs goes", on_demand(&story)),
    ];
    story.tell(chapters).await.unwrap();
    story.tell(vec![chapter("heartbeats and a restart write nothing", unwritten(&story))]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemonset_follows_the_nodes_that_its_tenant_sees() {
    let story = Story::play(Plot::new("nodes-daemons", 1)).await.unwrap();
    asks(&story, 0, &json!({ "mode": "mirrored" })).await.unwrap();
    let tenant = story.tenant(0).unwrap();
    sees(tenant, &["node-0", "node-1"], PATIENCE).await.unwrap();
    tenant.apply(&daemon_set()).await.unwrap();
    story.tell(vec![chapter("one Pod on each", daemons_on(tenant, &["node-0", "node-1"], PATIENCE))]).await.unwrap();
    story.tell(vec![chapter("what the tenant edits is mended, and what is its own stays", edited(tenant))]).await.unwrap();
    story.tell(vec![chapter("a node that leaves the super cluster takes its Pod along, and gets another", lost(&story))]).await.unwrap();
    let title = "where a Pod runs is shown without being picked, and the DaemonSet runs there too";
    story.tell(vec![chapter(title, strayed(&story))]).await.unwrap();
}

async fn asks(story: &Story, i: usize, nodes: &Value) -> anyhow::Result<()> {
    story.standing(i)?.change(&json!({ "spec": { "nodes": nodes } })).await
}

/// Waits until the tenant sees just these nodes, each Ready and without a taint.
async fn sees(tenant: &Actor, names: &[&str], patience: Duration) -> anyhow::Result<()> {
    let nodes: Api<Node> = Api::all(tenant.client());
    eventually(format!("{} sees {names:?}", tenant.name), patience, async || {
        let list = nodes.list(&ListParams::default()).await?;
        let seen: Vec<_> = list.iter().map(|node| (node.name_any(), is_well(node))).collect();
        let wanted = seen.iter().map(|(name, _)| name.as_str()).eq(names.iter().copied()) && seen.iter().all(|(_, well)| *well);
        Ok(Seen::when(wanted, seen))
    })
    .await
    .map(drop)
}

fn is_well(node: &Node) -> bool {
    let mut conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).count();
    taints == 0 && conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

async fn shown(story: &Story) -> anyhow::Result<()> {
    asks(story, 0, &json!({ "mode": "mirrored" })).await?;
    sees(story.tenant(0)?, &["node-0", "node-1", "node-2"], PATIENCE).await?;
    sees(story.tenant(1)?, &[], PATIENCE).await
}

fn daemon_set() -> Value {
    let labels = json!({ "app": "everywhere" });
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": { "name": "everywhere" },
        "spec": {
            "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": { "containers": [{ "name": "main", "image": "web" }] } },
        },
    })
}

async fn daemons(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    tenant.apply(&daemon_set()).await?;
    let pods = tenant.running("default", "app=everywhere", 3).await?;
    for pod in pods {
        let below: Pod = tenant.below("default").get(&pod.name_any()).await?;
        let node = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        anyhow::ensure!(node(&pod).is_some() && node(&pod) == node(&below), "{:?} below {:?}", node(&pod), node(&below));
    }
    Ok(())
}

/// Gives a node of the super cluster a label, or takes it.
async fn labeled(story: &Story, node: &str, pool: Option<&str>) -> anyhow::Result<()> {
    let patch = json!({ "metadata": { "labels": { "pool": pool } } });
    Api::<Node>::all(story.bed.sup.client()).patch(node, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    Ok(())
}

async fn picked(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(1)?;
    asks(story, 1, &json!({ "mode": "mirrored", "selector": { "matchLabels": { "pool": "a" } } })).await?;
    labeled(story, "node-1", Some("a")).await?;
    labeled(story, "node-2", Some("a")).await?;
    sees(tenant, &["node-1", "node-2"], PATIENCE).await?;
    labeled(story, "node-1", Some("b")).await?;
    sees(tenant, &["node-2"], LINGERS).await?;
    asks(
        story,
        1,
        &json!({ "mode": "mirrored", "selector": { "matchExpressions": [{ "key": "pool", "operator": "Exists" }], "matchLabels": null } }),
    )
    .await?;
    sees(tenant, &["node-1", "node-2"], PATIENCE).await?;
    asks(story, 1, &json!({ "selector": { "matchExpressions": [{ "key": "pool", "operator": "Is" }] } })).await?;
    story.standing(1)?.says("Ready", "True", "NodeSelectorInvalid").await?;
    asks(story, 1, &json!({ "selector": { "matchExpressions": [{ "key": "pool", "operator": "Exists" }] } })).await?;
    story.standing(1)?.says("Ready", "True", "Synced").await?;
    sees(tenant, &["node-1", "node-2"], PATIENCE).await
}

async fn followed(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(1)?;
    let (sup, own): (Api<Node>, Api<Node>) = (Api::all(story.bed.sup.client()), Api::all(tenant.client()));
    for cordoned in [true, false] {
        let patch = json!({ "spec": { "unschedulable": cordoned } });
        sup.patch("node-1", &PatchParams::default(), &Patch::Merge(&patch)).await?;
        eventually(format!("cordoned: {cordoned}"), PATIENCE, async || {
            let spec = own.get("node-1").await?.spec.unwrap_or_default();
            Ok(Seen::when(spec.unschedulable.unwrap_or_default() == cordoned, spec))
        })
        .await?;
    }
    own.delete("node-1", &DeleteParams::default()).await?;
    sees(tenant, &["node-1", "node-2"], PATIENCE).await?;
    // A node that comes into the super cluster is seen, and goes with it.
    let made: Node = serde_json::from_value(json!({ "metadata": { "name": "node-9", "labels": { "pool": "c" } } }))?;
    sup.create(&PostParams::default(), &made).await?;
    eventually("the new node is seen", PATIENCE, async || Ok(Seen::when(own.get_opt("node-9").await?.is_some(), "absent"))).await?;
    sup.delete("node-9", &DeleteParams::default()).await?;
    sees(tenant, &["node-1", "node-2"], LINGERS).await
}

async fn on_demand(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let elsewhere = json!({ "spec": { "template": { "spec": { "nodeSelector": { "kubernetes.io/hostname": "node-0" } } } } });
    let daemons: Api<k8s_openapi::api::apps::v1::DaemonSet> = Api::namespaced(tenant.client(), "default");
    daemons.patch("everywhere", &PatchParams::default(), &Patch::Merge(&elsewhere)).await?;
    asks(story, 0, &json!({ "mode": "onDemand" })).await?;
    sees(tenant, &["node-0"], LINGERS).await?;
    tenant.running("default", "app=everywhere", 1).await?.iter().try_for_each(|pod| {
        anyhow::ensure!(is_running(pod), "{:?}", pod.status);
        Ok(())
    })
}

async fn unwritten(story: &Story) -> anyhow::Result<()> {
    story.syncer.kept_alive(quiet(&story.bed, CALM, PATIENCE)).await?;
    let ledger = Ledger::open(&story.bed);
    story.syncer.process.kill()?;
    story.syncer.process.start_again()?;
    story.syncer.wait_ready(PATIENCE).await?;
    never("something is written after a restart", WATCHED, async || {
        let writes = ledger.writes(&story.bed)?;
        Ok((!writes.is_empty()).then(|| format!("{writes}")))
    })
    .await
}

/// Waits until the DaemonSet has one running Pod on each of these nodes and no other, each below on that very node.
async fn daemons_on(tenant: &Actor, nodes: &[&str], patience: Duration) -> anyhow::Result<()> {
    let (above, below): (Api<Pod>, Api<Pod>) = (tenant.above("default"), tenant.below("default"));
    let node = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    eventually(format!("the DaemonSet runs on {nodes:?}"), patience, async || {
        let pods = above.list(&ListParams::default().labels("app=everywhere")).await?.items;
        let mut placed: Vec<_> = pods.iter().filter(|pod| is_running(pod)).filter_map(node).collect();
        placed.sort();
        if pods.len() != nodes.len() || placed != nodes {
            return Ok(Seen::NotYet(format!("{placed:?} of {}", pods.len())));
        }
        for pod in &pods {
            let there = below.get_opt(&pod.name_any()).await?.as_ref().and_then(node);
            anyhow::ensure!(there == node(pod), "{} runs on {there:?} and says {:?}", pod.name_any(), node(pod));
        }
        Ok(Seen::Done(()))
    })
    .await
}

async fn edited(tenant: &Actor) -> anyhow::Result<()> {
    let nodes: Api<Node> = Api::all(tenant.client());
    let before = nodes.get("node-0").await?;
    let labels = json!({ "kubernetes.io/os": "plan9", "tier": "own", keys::VIRTUAL_NODE: null });
    nodes.patch("node-0", &PatchParams::default(), &Patch::Merge(&json!({ "metadata": { "labels": labels } }))).await?;
    let amounts = json!({ "status": { "capacity": { "cpu": "1" }, "allocatable": { "pods": "1" } } });
    nodes.patch_status("node-0", &PatchParams::default(), &Patch::Merge(&amounts)).await?;
    let of = |node: &Node| {
        let amounts = node.status.clone().map(|status| (status.capacity, status.allocatable));
        let labels = ["kubernetes.io/os", keys::VIRTUAL_NODE].map(|key| node.labels().get(key).cloned());
        (amounts, labels)
    };
    eventually("it says again what it said", PATIENCE, async || {
        let now = nodes.get("node-0").await?;
        Ok(Seen::when(of(&now) == of(&before), of(&now)))
    })
    .await?;
    let after = nodes.get("node-0").await?;
    anyhow::ensure!(after.uid() == before.uid(), "it was made anew");
    anyhow::ensure!(after.labels().get("tier").is_some_and(|tier| tier == "own"), "its own label went: {:?}", after.labels());
    daemons_on(tenant, &["node-0", "node-1"], PATIENCE).await
}

async fn lost(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    Api::<Node>::all(story.bed.sup.client()).delete("node-1", &DeleteParams::default()).await?;
    sees(tenant, &["node-0"], PATIENCE).await?;
    daemons_on(tenant, &["node-0"], COLLECTED).await?;
    story.nodes.rejoin("node-1").await?;
    sees(tenant, &["node-0", "node-1"], PATIENCE).await?;
    daemons_on(tenant, &["node-0", "node-1"], PATIENCE).await
}

async fn strayed(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    labeled(story, "node-0", Some("a")).await?;
    tenant.above::<k8s_openapi::api::apps::v1::DaemonSet>("default").delete("everywhere", &DeleteParams::default()).await?;
    asks(story, 0, &json!({ "mode": "mirrored", "selector": { "matchLabels": { "pool": "a" } } })).await?;
    sees(tenant, &["node-0"], LINGERS).await?;
    let there = json!({ "nodeSelector": { "kubernetes.io/hostname": "node-1" } });
    tenant.apply(&pod("strays", &json!({}), &there)).await?;
    tenant.sees("it runs", "default", "strays", is_running).await?;
    sees(tenant, &["node-0", "node-1"], PATIENCE).await?;
    tenant.apply(&daemon_set()).await?;
    daemons_on(tenant, &["node-0", "node-1"], PATIENCE).await
}
