//! Fake nodes: a small node agent that registers Nodes and lives the life of the Pods placed on them, without containers.
//!
//! One watch of all placed Pods feeds one `worker` a Pod, as in a kubelet. What a worker writes is made by `status`, which is pure.

mod status;
mod worker;

use std::{
    collections::{HashMap, HashSet},
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use futures::{StreamExt as _, future::try_join_all};
use jiff::Timestamp;
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Node, Pod},
};
use kube::{
    Api, Client, ResourceExt as _,
    api::ListParams,
    runtime::{WatchStreamExt as _, watcher},
};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet, time};

use crate::{
    bed::apply,
    wait::{Seen, eventually},
};

/// Addresses of nodes, from the first.
const NODES: Ipv4Addr = Ipv4Addr::new(10, 250, 0, 1);
/// Addresses of Pods, from the first.
const PODS: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 1);
/// As a kubelet renews its Lease.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// How the nodes behave.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// How many.
    pub count: usize,
    /// Start of their names; a number follows.
    pub prefix: String,
    /// From a Pod's being seen to its running.
    pub start_delay: Duration,
    /// From a deletion's being seen to the Pod's end, or the Pod's grace period if that is shorter.
    pub stop_delay: Duration,
    /// Whether they write an Event when a Pod starts and when something that it mounts is missing.
    pub events: bool,
}

impl NodeOptions {
    /// `count` quick nodes.
    pub fn new(count: usize) -> Self {
        Self {
            count,
            prefix: "node-".to_owned(),
            start_delay: Duration::from_millis(50),
            stop_delay: Duration::from_millis(50),
            events: true,
        }
    }
}

/// Running node agents; they stop when dropped, and the Nodes stay.
///
/// # Guarantees
/// A Pod runs once all that it mounts is there; its status is written as a kubelet does, once for each state that it goes
/// through: `ContainerCreating`, running, ended. Containers with the command `["true"]` end well and those with `["false"]` badly,
/// unless the Pod restarts always; all others run until the Pod is deleted.
pub struct FakeNodes {
    names: Vec<String>,
    agent: Arc<Agent>,
    _tasks: JoinSet<()>,
}

/// What all workers share.
struct Agent {
    client: Client,
    options: NodeOptions,
    /// Address by name.
    nodes: HashMap<String, Ipv4Addr>,
    pods: AtomicU32,
}

impl FakeNodes {
    /// Registers the nodes, waits until Pods can be placed on them, and starts to run what is placed.
    pub async fn start(client: Client, options: NodeOptions) -> anyhow::Result<Self> {
        let names: Vec<_> = (0..options.count).map(|i| format!("{}{i}", options.prefix)).collect();
        let addresses = (0_u32..).map(|i| Ipv4Addr::from(u32::from(NODES) + i));
        let nodes: HashMap<_, _> = names.iter().cloned().zip(addresses).collect();
        try_join_all(nodes.iter().map(|(name, address)| register(name, *address, &client))).await?;
        let agent = Arc::new(Agent { client: client.clone(), options, nodes, pods: AtomicU32::new(0) });
        let mut tasks = JoinSet::new();
        tasks.spawn(heartbeat(Arc::clone(&agent)));
        tasks.spawn(run(Arc::clone(&agent)));
        placeable(&names, &client).await?;
        Ok(Self { names, agent, _tasks: tasks })
    }

    /// The nodes' names.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Registers one of them once more, whose Node was deleted.
    pub async fn rejoin(&self, name: &str) -> anyhow::Result<()> {
        let address = self.agent.nodes.get(name).with_context(|| format!("no node is called {name}"))?;
        register(name, *address, &self.agent.client).await
    }
}

impl Agent {
    fn next_pod_address(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(PODS) + self.pods.fetch_add(1, Ordering::Relaxed))
    }
}

async fn register(name: &str, address: Ipv4Addr, client: &Client) -> anyhow::Result<()> {
    let nodes = Api::<Node>::all(client.clone());
    let version = client.apiserver_version().await.context("the API server does not say its version")?.git_version;
    let status = json!({ "apiVersion": "v1", "kind": "Node", "status": node_status(name, address, &version) });
    apply(&nodes, name, &node(name)).await?;
    // The API server makes the namespace of the leases itself, a moment after it is ready.
    eventually(format!("the lease of {name} is written"), Duration::from_secs(30), async || renew(name, client).await.map(Seen::Done))
        .await?;
    let params = kube::api::PatchParams::default();
    let patched = nodes.patch_status(name, &params, &kube::api::Patch::Merge(&status)).await;
    patched.map(drop).with_context(|| format!("could not write the status of {name}"))
}

fn node(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": name, "labels": {
            "kubernetes.io/hostname": name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
            "topology.kubernetes.io/zone": "zone-a",
        } },
    })
}

/// `version` is that of its kubelet: none is newer than its API server.
fn node_status(name: &str, address: Ipv4Addr, version: &str) -> Value {
    let room = json!({ "cpu": "64", "memory": "256Gi", "pods": "1000", "ephemeral-storage": "1Ti" });
    let now = Timestamp::now();
    let condition = |kind: &str, status: &str, reason: &str| {
        json!({ "type": kind, "status": status, "reason": reason, "message": "",
            "lastHeartbeatTime": second(now), "lastTransitionTime": second(now) })
    };
    json!({
        "capacity": room,
        "allocatable": room,
        "addresses": [{ "type": "InternalIP", "address": address }, { "type": "Hostname", "address": name }],
        "daemonEndpoints": { "kubeletEndpoint": { "Port": 10250 } },
        "conditions": [
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory"),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure"),
            condition("PIDPressure", "False", "KubeletHasSufficientPID"),
            condition("Ready", "True", "KubeletReady"),
        ],
        "nodeInfo": {
            "architecture": "amd64", "operatingSystem": "linux", "osImage": "none", "kernelVersion": "none",
            "containerRuntimeVersion": "fake://1", "kubeletVersion": version, "kubeProxyVersion": "",
            "machineID": name, "systemUUID": name, "bootID": name,
        },
    })
}

/// A time as Kubernetes writes it where seconds are enough.
fn second(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

async fn renew(name: &str, client: &Client) -> anyhow::Result<()> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": { "name": name },
        "spec": { "holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": now },
    });
    apply(&leases, name, &lease).await.map(drop)
}

async fn heartbeat(agent: Arc<Agent>) {
    let mut ticks = time::interval(HEARTBEAT);
    loop {
        ticks.tick().await;
        for name in agent.nodes.keys() {
            // A missed one is made up for by the next; four may be missed.
            let _ = time::timeout(HEARTBEAT, renew(name, &agent.client)).await;
        }
    }
}

/// Waits until the super cluster's controllers took the taint of a new Node away.
async fn placeable(names: &[String], client: &Client) -> anyhow::Result<()> {
    let nodes = Api::<Node>::all(client.clone());
    eventually("the nodes take Pods", Duration::from_mins(1), async || {
        let list = nodes.list(&ListParams::default()).await?;
        let tainted = |node: &Node| node.spec.as_ref().is_some_and(|spec| spec.taints.iter().flatten().next().is_some());
        let waiting: Vec<_> = list.iter().filter(|node| tainted(node)).map(kube::ResourceExt::name_any).collect();
        let there = list.iter().filter(|node| names.contains(&node.name_any())).count();
        Ok(Seen::when(waiting.is_empty() && there == names.len(), waiting))
    })
    .await
    .map(drop)
}

/// Hands every state of every Pod on our nodes to the Pod's own worker.
async fn run(agent: Arc<Agent>) {
    let pods = Api::<Pod>::all(agent.client.clone());
    let placed = watcher::Config::default().fields("spec.nodeName!=");
    let mut events = std::pin::pin!(watcher(pods, placed).default_backoff());
    let mut workers = JoinSet::new();
    let mut inboxes: HashMap<String, watch::Sender<Arc<Pod>>> = HashMap::new();
    let mut listed: HashSet<String> = HashSet::new();
    while let Some(event) = events.next().await {
        while workers.try_join_next().is_some() {}
        match event {
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitApply(pod)) => {
                listed.insert(uid(&pod));
                deliver(pod, &mut inboxes, &mut workers, &agent);
            }
            Ok(watcher::Event::InitDone) => inboxes.retain(|uid, _| listed.contains(uid)),
            Ok(watcher::Event::Apply(pod)) => deliver(pod, &mut inboxes, &mut workers, &agent),
            Ok(watcher::Event::Delete(pod)) => drop(inboxes.remove(&uid(&pod))),
            // The watcher comes back by itself.
            Err(_) => {}
        }
    }
}

fn deliver(pod: Pod, inboxes: &mut HashMap<String, watch::Sender<Arc<Pod>>>, workers: &mut JoinSet<()>, agent: &Arc<Agent>) {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
    let Some(address) = agent.nodes.get(node) else { return };
    let (uid, pod) = (uid(&pod), Arc::new(pod));
    if let Some(inbox) = inboxes.get(&uid) {
        inbox.send_replace(pod);
        return;
    }
    let (inbox, states) = watch::channel(Arc::clone(&pod));
    inboxes.insert(uid, inbox);
    workers.spawn(worker::run(states, *address, Arc::clone(agent)));
}

fn uid(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}
