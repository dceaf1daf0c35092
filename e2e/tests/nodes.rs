//! vNodes: the tenant sees the nodes that its Pods run on, alive and usable, whatever its own controllers think of Nodes.

use std::time::Duration;

use anyhow::Context as _;
use common::keys;
use e2e::{
    bed::virtual_clusters,
    nodes::NodeOptions,
    port::Port,
    process::{Process, Spec},
    story::{Actor, PATIENCE, Plot, Story, chapter, is_running, pod, uid_of},
    wait::{Seen, eventually, never, never_seen},
};
use futures::future::try_join_all;
use jiff::Timestamp;
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Binding, Node, Pod},
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

/// Many times what a node-lifecycle controller waits for a heartbeat (50 s).
const LONG: Duration = Duration::from_mins(10);
/// A vNode without Pods stays for a minute.
const LINGERS: Duration = Duration::from_mins(2);

#[tokio::test(flavor = "multi_thread")]
async fn tenants_see_the_nodes_that_their_pods_run_on() {
    let story = Story::play(Plot { nodes: NodeOptions::new(3), ..Plot::new("nodes", 2) }).await.unwrap();
    // The second tenant cares for Nodes itself.
    let _controller = lifecycle_controller(&story, 1).unwrap();
    let (without, with) = (story.tenant(0).unwrap(), story.tenant(1).unwrap());
    for tenant in [without, with] {
        tenant.apply(&on_node("stays", "node-0")).await.unwrap();
    }
    without.apply(&on_node("leaves", "node-1")).await.unwrap();
    for (tenant, name) in [(without, "stays"), (without, "leaves"), (with, "stays")] {
        tenant.sees("the Pod runs", "default", name, is_running).await.unwrap();
    }
    let chapters = vec![
        chapter("a vNode shows what a tenant may know, and no more", looks(&story)),
        chapter("it goes after its last Pod", goes(&story)),
        chapter("a Pod bound by the tenant's own hand is refused and left alone", bound_by_hand(&story)),
        chapter("a Pod that names a vNode runs there", named(without)),
        chapter("a node that takes no new Pods, or is not ready, is shown as that, and as well again", ailing(&story)),
    ];
    story.tell(chapters).await.unwrap();
    story.tell(vec![chapter("one that the tenant deletes is made again", deleted(with))]).await.unwrap();
    let told = [without, with].map(|tenant| chapter("one that somebody declares dead is alive again", declared_dead(tenant)));
    story.tell(told.into()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vnode_stays_ready_for_ten_minutes() {
    let story = Story::play(Plot::new("nodes-stay", 3).flag("--tenant-watch-silence").flag("15s")).await.unwrap();
    let _controllers = [1, 2].map(|tenant| lifecycle_controller(&story, tenant).unwrap());
    let (without, with, paused) = (story.tenant(0).unwrap(), story.tenant(1).unwrap(), story.tenant(2).unwrap());
    for tenant in [without, with, paused] {
        tenant.apply(&on_node("stays", "node-0")).await.unwrap();
        tenant.sees("the Pod runs", "default", "stays", is_running).await.unwrap();
    }
    let standing = story.standing(2).unwrap();
    standing.change(&json!({ "spec": { "paused": true } })).await.unwrap();
    standing.says("Ready", "False", "Paused").await.unwrap();
    let chapters = vec![
        chapter("without a node-lifecycle controller it stays Ready and untainted, and has no heartbeat", async {
            let before = heartbeats(without).await?;
            stays_ready(without).await?;
            let after = heartbeats(without).await?;
            anyhow::ensure!(before == after && after.0.is_none(), "something was renewed: {before:?}, then {after:?}");
            Ok(())
        }),
        chapter("with one, too, by a heartbeat, and nothing is evicted", async {
            stays_ready(with).await?;
            // Where there is none the controller waits for 50 s.
            let (renewed, now) = (heartbeats(with).await?.0.context("its Lease was never renewed")?, Timestamp::now());
            let ago = now.duration_since(renewed);
            anyhow::ensure!(ago.as_secs() < 40, "its Lease was renewed {ago:#} ago");
            // Only that controller sets it: it was there all the time.
            let node: Node = Api::all(with.client()).get("node-0").await?;
            anyhow::ensure!(node.labels().contains_key("beta.kubernetes.io/os"), "no controller looked at it: {:?}", node.labels());
            Ok(())
        }),
        chapter("with one in a tenant that is paused, too", stays_ready(paused)),
        chapter("a tenant in which nothing happens stays as it is: Ready, or Paused", quiet(&story)),
    ];
    story.tell(chapters).await.unwrap();
}

/// When a vNode's Lease was renewed, and when its conditions say that a kubelet was heard of.
async fn heartbeats(tenant: &Actor) -> anyhow::Result<(Option<Timestamp>, Vec<Option<Timestamp>>)> {
    let leases: Api<Lease> = Api::namespaced(tenant.client(), "kube-node-lease");
    let lease = leases.get_opt("node-0").await?;
    let renewed = lease.and_then(|lease| lease.spec?.renew_time).map(|time| time.0);
    let node: Node = Api::all(tenant.client()).get("node-0").await?;
    let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
    Ok((renewed, conditions.into_iter().map(|condition| condition.last_heartbeat_time.map(|time| time.0)).collect()))
}

fn on_node(name: &str, node: &str) -> serde_json::Value {
    pod(name, &json!({ "app": name }), &json!({ "nodeSelector": { "kubernetes.io/hostname": node }, "terminationGracePeriodSeconds": 1 }))
}

/// The controllers that a tenant of the bed runs without: what declares Nodes dead, taints them and evicts from them.
fn lifecycle_controller(story: &Story, i: usize) -> anyhow::Result<(Process, Port)> {
    let dir = story.bed.dir().join(story.bed.tenant(i)?.name());
    let (own, port) = (dir.join("controller-manager.kubeconfig").display().to_string(), Port::claim()?);
    let args = [
        format!("--kubeconfig={own}"),
        format!("--authentication-kubeconfig={own}"),
        format!("--authorization-kubeconfig={own}"),
        "--leader-elect=false".to_owned(),
        "--use-service-account-credentials=true".to_owned(),
        "--controllers=node-lifecycle-controller,taint-eviction-controller".to_owned(),
        format!("--secure-port={}", port.number()),
        "--bind-address=127.0.0.1".to_owned(),
    ];
    let spec = Spec::new("node-lifecycle", &story.bed.programs().kube_controller_manager(), args, &dir);
    Ok((Process::start(spec)?, port))
}

/// What is wrong with a vNode as the tenant sees it, if anything.
async fn flaw(tenant: &Actor, name: &str) -> anyhow::Result<Option<String>> {
    let node = Api::<Node>::all(tenant.client()).get_opt(name).await?;
    Ok(node.map_or_else(|| Some("there is none".to_owned()), |node| flaw_of(&node)))
}

/// The same of one that was seen.
fn flaw_of(node: &Node) -> Option<String> {
    let taints: Vec<_> = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).collect();
    let ready = ready(node);
    (ready != Some("True") || !taints.is_empty()).then(|| format!("Ready is {ready:?}, the taints are {taints:?}"))
}

/// What the Ready condition of a Node says.
fn ready(node: &Node) -> Option<&str> {
    let mut conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.find(|condition| condition.type_ == "Ready").map(|condition| condition.status.as_str())
}

async fn stays_ready(tenant: &Actor) -> anyhow::Result<()> {
    eventually(format!("{}: the vNode is as it should be", tenant.name), Duration::from_secs(30), async || {
        Ok(flaw(tenant, "node-0").await?.map_or(Seen::Done(()), Seen::NotYet))
    })
    .await?;
    let before: Pod = tenant.above("default").get("stays").await?;
    let nodes: Api<Node> = Api::all(tenant.client());
    never_seen(format!("{}: the vNode is not as it should be", tenant.name), LONG, nodes, "node-0", flaw_of).await?;
    let after: Pod = tenant.above("default").get("stays").await?;
    anyhow::ensure!(is_running(&after) && uid_of(&after) == uid_of(&before), "the Pod did not stay: {:?}", after.status);
    Ok(())
}

/// An API server need not say anything on a watch while nothing happens; connections that are silent for long are opened anew.
async fn quiet(story: &Story) -> anyhow::Result<()> {
    let same = async |tenant: &Actor| {
        let api = virtual_clusters(&tenant.name, story.bed.sup.client());
        let conditions = |object: &DynamicObject| object.data.pointer("/status/conditions").cloned();
        let before = conditions(&api.get(&tenant.name).await?);
        never_seen(format!("{} is not as it was", tenant.name), LONG, api, &tenant.name, |object| {
            let now = conditions(object);
            (now != before).then(|| format!("{now:?}, but before {before:?}"))
        })
        .await
    };
    try_join_all(story.tenants.iter().map(same)).await.map(drop)
}

async fn looks(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let own: Node = Api::all(tenant.client()).get("node-0").await?;
    let sup: Node = Api::all(story.bed.sup.client()).get("node-0").await?;
    anyhow::ensure!(own.labels().contains_key(keys::VIRTUAL_NODE), "{:?}", own.labels());
    let addresses = |node: &Node, kind: &str| -> Vec<String> {
        let all = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
        all.filter(|address| address.type_ == kind).map(|address| address.address.clone()).collect()
    };
    anyhow::ensure!(addresses(&own, "InternalIP") == addresses(&sup, "InternalIP"), "{:?}", own.status);
    anyhow::ensure!(addresses(&own, "Hostname").is_empty(), "an API server would dial the name");
    let info = own.status.and_then(|status| status.node_info).context("no node info")?;
    let secret = [info.machine_id, info.system_uuid, info.boot_id];
    anyhow::ensure!(secret.iter().all(String::is_empty), "the machine is known: {secret:?}");
    let nodes = Api::<Node>::all(story.tenant(1)?.client()).list(&ListParams::default()).await?;
    let names: Vec<_> = nodes.iter().map(kube::ResourceExt::name_any).collect();
    anyhow::ensure!(names == ["node-0"], "the other tenant sees {names:?}");
    Ok(())
}

async fn goes(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let nodes: Api<Node> = Api::all(tenant.client());
    nodes.get("node-1").await?;
    tenant.above::<Pod>("default").delete("leaves", &DeleteParams::default()).await?;
    tenant.gone_everywhere::<Pod>("default", "leaves").await?;
    eventually("the vNode goes", LINGERS, async || Ok(Seen::when(nodes.get_opt("node-1").await?.is_none(), "there"))).await?;
    nodes.get("node-0").await?;
    Api::<Node>::all(story.bed.sup.client()).get("node-1").await?;
    Ok(())
}

/// The tenant has a Node of its own making and puts Pods on it: by a binding, and by name.
async fn bound_by_hand(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    tenant.apply(&json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "mine" } })).await?;
    let pods: Api<Pod> = tenant.above("default");
    // The syncer sees the Pod only once it is bound.
    story.syncer.process.pause()?;
    let bound = async {
        let made = tenant.apply(&pod("by-hand", &json!({}), &json!({}))).await?;
        let binding = json!({ "metadata": { "name": "by-hand" }, "target": { "apiVersion": "v1", "kind": "Node", "name": "mine" } });
        let binding: Binding = serde_json::from_value(binding)?;
        let _: serde_json::Value = pods.create_subresource("binding", "by-hand", &PostParams::default(), &binding).await?;
        anyhow::Ok(made)
    }
    .await;
    story.syncer.process.resume()?;
    let named = tenant.apply(&pod("by-name", &json!({}), &json!({ "nodeName": "mine" }))).await?;
    for made in [bound?, named] {
        let event = tenant.warned("default", &uid_of(&made), "spec.nodeName").await?;
        anyhow::ensure!(event.reason.is_some(), "{event:?}");
        // What was made below before the binding was seen ends.
        let below: Api<Pod> = tenant.below("default");
        let name = made.name_any();
        eventually("nothing runs for it", PATIENCE, async || Ok(Seen::when(below.get_opt(&name).await?.is_none(), "there"))).await?;
        never("the Pod is deleted, or runs", Duration::from_secs(3), async || {
            let above = pods.get_opt(&name).await?;
            let kept = above.as_ref().is_some_and(|pod| uid_of(pod) == uid_of(&made) && pod.metadata.deletion_timestamp.is_none());
            let below = below.get_opt(&name).await?;
            Ok((!kept || below.is_some()).then(|| format!("above {above:?}, below {below:?}")))
        })
        .await?;
    }
    Ok(())
}

async fn named(tenant: &Actor) -> anyhow::Result<()> {
    tenant.apply(&pod("chosen", &json!({ "app": "chosen" }), &json!({ "nodeName": "node-0" }))).await?;
    tenant.sees("it runs", "default", "chosen", is_running).await?;
    let below: Pod = tenant.below("default").get("chosen").await?;
    let node = below.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    anyhow::ensure!(node == Some("node-0"), "it runs on {node:?}");
    Ok(())
}

async fn deleted(tenant: &Actor) -> anyhow::Result<()> {
    let nodes: Api<Node> = Api::all(tenant.client());
    let before = nodes.get("node-0").await?;
    nodes.delete("node-0", &DeleteParams::default()).await?;
    eventually("it is made again", Duration::from_secs(30), async || {
        let new = nodes.get_opt("node-0").await?.is_some_and(|node| uid_of(&node) != uid_of(&before));
        let flaw = flaw(tenant, "node-0").await?;
        Ok(Seen::when(new && flaw.is_none(), (new, flaw)))
    })
    .await?;
    tenant.sees("the Pod still runs", "default", "stays", is_running).await.map(drop)
}

/// Somebody in the tenant puts the taint of a new Node back, and says that nobody has heard of its kubelet.
async fn declared_dead(tenant: &Actor) -> anyhow::Result<()> {
    let nodes: Api<Node> = Api::all(tenant.client());
    let before = nodes.get("node-0").await?;
    let taint = json!({ "spec": { "taints": [{ "key": "node.kubernetes.io/not-ready", "effect": "NoSchedule" }] } });
    let tainted = nodes.patch("node-0", &PatchParams::default(), &Patch::Merge(&taint)).await?;
    let condition = json!({ "type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown", "message": "no kubelet was heard of" });
    let patch = Patch::Strategic(json!({ "status": { "conditions": [condition] } }));
    let silent = nodes.patch_status("node-0", &PatchParams::default(), &patch).await?;
    anyhow::ensure!(flaw_of(&tainted).is_some() && ready(&silent) == Some("Unknown"), "nobody did: {tainted:?}, then {silent:?}");
    eventually(format!("{}: the vNode is as it should be", tenant.name), Duration::from_secs(30), async || {
        Ok(flaw(tenant, "node-0").await?.map_or(Seen::Done(()), Seen::NotYet))
    })
    .await?;
    let after = nodes.get("node-0").await?;
    anyhow::ensure!(uid_of(&after) == uid_of(&before), "it was made anew");
    // Who sees that takes it for a node-lifecycle controller's work, which waits for heartbeats from then on.
    eventually(format!("{}: its Lease is renewed", tenant.name), Duration::from_secs(30), async || {
        let renewed = heartbeats(tenant).await?.0;
        Ok(Seen::when(renewed.is_some(), renewed))
    })
    .await?;
    tenant.sees("the Pod still runs", "default", "stays", is_running).await.map(drop)
}

/// Somebody cordons a node of the super cluster; later its kubelet says that it is not ready.
async fn ailing(story: &Story) -> anyhow::Result<()> {
    const NODE: &str = "node-2";
    let sup: Api<Node> = Api::all(story.bed.sup.client());
    for tenant in &story.tenants {
        tenant.apply(&on_node("ails", NODE)).await?;
    }
    for tenant in &story.tenants {
        tenant.sees("the Pod runs", "default", "ails", is_running).await?;
    }
    for cordoned in [true, false] {
        let patch = json!({ "spec": { "unschedulable": cordoned } });
        sup.patch(NODE, &PatchParams::default(), &Patch::Merge(&patch)).await?;
        shows(story, NODE, &format!("cordoned: {cordoned}"), |node| {
            node.spec.as_ref().is_some_and(|spec| spec.unschedulable.unwrap_or_default() == cordoned)
        })
        .await?;
    }
    for status in ["False", "True"] {
        let condition = json!({ "type": "Ready", "status": status, "reason": "Story", "message": "as the story wants it" });
        let patch = json!({ "status": { "conditions": [condition] } });
        sup.patch_status(NODE, &PatchParams::default(), &Patch::Strategic(&patch)).await?;
        shows(story, NODE, &format!("Ready: {status}"), |node| ready(node) == Some(status)).await?;
    }
    for tenant in &story.tenants {
        let what = format!("{}: the vNode is as it should be", tenant.name);
        eventually(what, PATIENCE, async || Ok(flaw(tenant, NODE).await?.map_or(Seen::Done(()), Seen::NotYet))).await?;
    }
    Ok(())
}

/// Waits until every tenant sees the node so.
async fn shows(story: &Story, node: &str, what: &str, look: impl Fn(&Node) -> bool) -> anyhow::Result<()> {
    for tenant in &story.tenants {
        let nodes: Api<Node> = Api::all(tenant.client());
        eventually(format!("{}: {node} is {what}", tenant.name), PATIENCE, async || {
            let found = nodes.get(node).await?;
            Ok(Seen::when(look(&found), found))
        })
        .await?;
    }
    Ok(())
}
