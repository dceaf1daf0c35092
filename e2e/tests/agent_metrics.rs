//! Metrics of a tenant's Pods in real containers, through vn-agent: an unmodified metrics-server of the tenant's own, `kubectl top`, an
//! autoscaler, and the pages themselves, held against what the kubelet says unasked by vn-agent.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use e2e::{
    images::{KUBECTL, METRICS_SERVER, TOOLS},
    kubectl::Kubectl,
    machine, metrics_server,
    story::{Actor, OF_THE_PLATFORM, Plot, Story, chapter, is_running, platform, platform_pod, pod},
    wait::{Seen, eventually},
};
use futures::future::try_join_all;
use k8s_openapi::api::{autoscaling::v2::HorizontalPodAutoscaler, core::v1::Pod};
use kube::{Api, api::ListParams};
use serde_json::{Value, json};

use crate::pages;

/// For a figure to come: two rounds of metrics-server, which begin some time after a container has.
const MEASURED: Duration = Duration::from_mins(4);

/// For the autoscaler to act: it looks every 15 s, at figures of the last round.
const SCALED: Duration = Duration::from_mins(4);

/// How much more the first tenant's Pod holds than anybody else's, in MiB.
const HELD_MIB: u32 = 40;

#[tokio::test(flavor = "multi_thread")]
async fn metrics_work_through_vn_agent() {
    if machine::skipped() {
        return;
    }
    let mut plot = Plot::with_agents("agent-metrics", 2, 1);
    plot.real.as_mut().unwrap().images = vec![METRICS_SERVER, KUBECTL];
    let story = Story::play(plot).await.unwrap();
    people(&story).await.unwrap();
    try_join_all(story.tenants.iter().map(|tenant| metrics_server::install(&story.bed, tenant))).await.unwrap();
    let chapters = vec![
        chapter("kubectl top shows each tenant its own Pods, and figures that can be true", top(&story)),
        chapter("an autoscaler scales by them, up and down again", scaled(&story)),
        chapter("each page has all that is the tenant's, and nothing else", pages::compared(&story)),
    ];
    story.tell(chapters).await.unwrap();
}

/// Pods of one name in both tenants, one that only the second has, and one that is the platform's.
async fn people(story: &Story) -> anyhow::Result<()> {
    let (first, second) = (story.tenant(0)?, story.tenant(1)?);
    let hold = format!("dd if=/dev/zero of=/dev/shm/held bs=1M count={HELD_MIB} && exec sleep 1000000");
    let container = |name: &str, image: &str, command: &str| {
        json!({
            "name": name, "image": image, "command": ["sh", "-c", command],
            "readinessProbe": { "exec": { "command": ["true"] }, "periodSeconds": 2 },
        })
    };
    let idle = "exec sleep 1000000";
    let twins = [json!([container("main", TOOLS, &hold), container("side", TOOLS, idle)]), json!([container("main", TOOLS, idle)])];
    for (tenant, containers) in story.tenants.iter().zip(twins) {
        tenant.apply(&pod("twin", &json!({}), &json!({ "containers": containers }))).await?;
    }
    second.apply(&pod("only-of-second", &json!({}), &json!({ "containers": [container("quiet", KUBECTL, idle)] }))).await?;
    platform(story.bed.sup.client()).await?;
    platform_pod(story.bed.sup.client(), OF_THE_PLATFORM, "plumbing", &container("pipe", KUBECTL, idle)).await?;
    first.sees("it runs", "default", "twin", is_running).await?;
    second.sees("it runs", "default", "twin", is_running).await?;
    second.sees("it runs", "default", "only-of-second", is_running).await.map(drop)
}

/// What `kubectl top pod --containers` says of the Pods in `default`: CPU in thousandths of a core and memory in MiB, by Pod and container.
async fn figures(kubectl: &Kubectl) -> anyhow::Result<BTreeMap<(String, String), (u32, u32)>> {
    let said = kubectl.says(&["top", "pod", "--containers", "--no-headers"]).await?;
    let mut found = BTreeMap::new();
    for line in said.lines() {
        let [pod, container, cpu, memory] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            anyhow::bail!("kubectl top says {line:?}");
        };
        let number = |text: &str, unit: &str| -> anyhow::Result<u32> {
            Ok(text.strip_suffix(unit).with_context(|| format!("{text:?} is not in {unit}"))?.parse()?)
        };
        found.insert((pod.to_owned(), container.to_owned()), (number(cpu, "m")?, number(memory, "Mi")?));
    }
    Ok(found)
}

async fn top(story: &Story) -> anyhow::Result<()> {
    let own =
        |rows: &[(&str, &str)]| rows.iter().map(|(pod, container)| ((*pod).to_owned(), (*container).to_owned())).collect::<BTreeSet<_>>();
    let expected = [own(&[("twin", "main"), ("twin", "side")]), own(&[("twin", "main"), ("only-of-second", "quiet")])];
    let mut all = Vec::new();
    for (i, expected) in expected.iter().enumerate() {
        let kubectl = story.kubectl(i)?;
        let found = eventually(format!("tenant {i} has figures of its Pods"), MEASURED, async || {
            let found = figures(&kubectl).await?;
            // Those of the autoscaler's story come and go.
            let found: BTreeMap<_, _> = found.into_iter().filter(|((pod, _), _)| !pod.starts_with("busy-")).collect();
            Ok(Seen::when(found.keys().cloned().collect::<BTreeSet<_>>() == *expected, found))
        })
        .await?;
        ensure!(found.values().all(|(cpu, memory)| *cpu < 2000 && *memory < 500), "tenant {i}: {found:?}");
        all.push(found);
    }
    let memory = |i: usize, pod: &str, container: &str| {
        all.get(i).and_then(|found| found.get(&(pod.to_owned(), container.to_owned()))).map_or(0, |(_, memory)| *memory)
    };
    let (holds, does_not) = (memory(0, "twin", "main"), [memory(0, "twin", "side"), memory(1, "twin", "main")]);
    ensure!(holds >= HELD_MIB && does_not.iter().all(|memory| *memory < HELD_MIB / 2), "{holds} MiB and {does_not:?} MiB: {all:?}");
    eprintln!("    kubectl top pod --containers: {all:?}");
    let mut nodes = Vec::new();
    for (i, tenant) in story.tenants.iter().enumerate() {
        everywhere(&story.kubectl(i)?, tenant).await?;
        nodes.push(node(&story.kubectl(i)?, story.real.first().context("there is no node")?.name()).await?);
    }
    eprintln!("    kubectl top node: {nodes:?} MiB");
    let [first, second] = nodes[..] else { anyhow::bail!("there are not two tenants") };
    ensure!(first >= second + HELD_MIB / 2 && (HELD_MIB..500).contains(&first), "{first} MiB and {second} MiB");
    Ok(())
}

/// Whatever has a figure is a Pod that the tenant has.
async fn everywhere(kubectl: &Kubectl, tenant: &Actor) -> anyhow::Result<()> {
    let list = kubectl.says(&["get", "--raw", "/apis/metrics.k8s.io/v1beta1/pods"]).await?;
    let list: Value = serde_json::from_str(&list)?;
    let pods: Api<Pod> = Api::all(tenant.client());
    let known = pods.list(&ListParams::default()).await?.items;
    let known: BTreeSet<_> = known.into_iter().filter_map(|pod| Some((pod.metadata.namespace?, pod.metadata.name?))).collect();
    let text = |item: &Value, pointer: &str| item.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let items = list.pointer("/items").and_then(Value::as_array).context("there is no list")?;
    let measured: BTreeSet<_> = items.iter().map(|item| (text(item, "/metadata/namespace"), text(item, "/metadata/name"))).collect();
    // The autoscaler's Pods end while this is told; metrics-server forgets them in its next round.
    let strange: Vec<_> = measured.difference(&known).filter(|(_, name)| !name.starts_with("busy-")).collect();
    ensure!(strange.is_empty() && measured.len() >= 2, "{}: {strange:?} are measured; it has {known:?}", tenant.name);
    Ok(())
}

/// How much a node has to do is nothing that a tenant may know: it is told what its own Pods use of it.
async fn node(kubectl: &Kubectl, node: &str) -> anyhow::Result<u32> {
    let said = kubectl.says(&["top", "node", "--no-headers"]).await?;
    let rows: Vec<Vec<&str>> = said.lines().map(|line| line.split_whitespace().collect()).collect();
    let [[name, _, _, memory, _]] = rows.iter().map(Vec::as_slice).collect::<Vec<_>>()[..] else {
        anyhow::bail!("kubectl top node says {said:?}")
    };
    ensure!(*name == node, "it is about {name}");
    Ok(memory.strip_suffix("Mi").with_context(|| format!("{memory} is not in MiB"))?.parse()?)
}

async fn scaled(story: &Story) -> anyhow::Result<()> {
    let (tenant, kubectl) = (story.tenant(0)?, story.kubectl(0)?);
    let labels = json!({ "app": "busy" });
    let work = "while :; do if [ -e /rest ]; then sleep 1; else n=0; while [ $n -lt 3000 ]; do n=$((n+1)); done; usleep 20000; fi; done";
    let container = json!({
        "name": "busy", "image": TOOLS, "command": ["sh", "-c", work],
        "resources": { "requests": { "cpu": "20m" }, "limits": { "cpu": "200m" } },
    });
    let spec = json!({ "replicas": 1, "selector": { "matchLabels": labels }, "template": { "metadata": { "labels": labels }, "spec": { "containers": [container] } } });
    tenant.apply(&json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "busy" }, "spec": spec })).await?;
    let at_once = json!({ "stabilizationWindowSeconds": 0 });
    tenant
        .apply(&json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": { "name": "busy" },
            "spec": {
                "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "busy" }, "minReplicas": 1, "maxReplicas": 2,
                "metrics": [{ "type": "Resource", "resource": { "name": "cpu", "target": { "type": "Utilization", "averageUtilization": 60 } } }],
                "behavior": { "scaleDown": at_once, "scaleUp": at_once },
            },
        }))
        .await?;
    let scalers: Api<HorizontalPodAutoscaler> = tenant.above("default");
    let reaches = async |what: &str, wanted: i32| {
        eventually(format!("the autoscaler {what}"), SCALED, async || {
            let status = scalers.get("busy").await?.status.context("it has no status")?;
            Ok(Seen::when(status.desired_replicas == wanted && status.current_metrics.is_some(), status))
        })
        .await
    };
    let up = reaches("wants two", 2).await?;
    eprintln!("    the autoscaler sees {:?}", up.current_metrics);
    let pods = tenant.running("default", "app=busy", 2).await?;
    for pod in &pods {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        kubectl.says(&["exec", name, "--", "touch", "/rest"]).await?;
    }
    reaches("wants one again", 1).await?;
    tenant.running("default", "app=busy", 1).await?;
    Ok(())
}
