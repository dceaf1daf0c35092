//! Labels of every sort go down so that what selected what in the tenant selects it in the super cluster.

use std::collections::BTreeSet;

use anyhow::Context as _;
use common::keys;
use e2e::{
    story::{Actor, NO_PATROL, PATIENCE, Plot, Story, chapter, pod, uid_of, within},
    wait::{Seen, eventually},
};
use k8s_openapi::api::{
    core::v1::{Namespace, Pod, Service},
    discovery::v1::EndpointSlice,
    networking::v1::NetworkPolicy,
};
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn what_selects_what_stays() {
    let story = Story::play(Plot::new("labels", 1).flag(NO_PATROL).flag("--platform-ranges=10.244.0.0/16,10.96.0.0/12")).await.unwrap();
    story.tell(vec![chapter("Services find the Pods that they find in the tenant", services(&story))]).await.unwrap();
    story
        .tell(vec![chapter("NetworkPolicies select the Pods that they select in the tenant, and open no more", policies(&story))])
        .await
        .unwrap();
    let more = vec![
        chapter("a Pod that is labeled anew changes sides", relabeled(&story)),
        chapter("labels of ours that a tenant sets change nothing", smuggled(&story)),
        chapter("Pods that keep away from each other by a label with a domain do so", anti_affinity(&story)),
        chapter("a NetworkPolicy lets in the namespaces of a team, also after one changed teams", teams(&story)),
        chapter("a Pod runs beside one in a namespace with a label", near(&story)),
    ];
    story.tell(more).await.unwrap();
}

/// Pods with labels of every sort.
fn pods() -> Vec<(&'static str, Value)> {
    vec![
        ("plain", json!({ "app": "web" })),
        ("empty", json!({ "app": "web", "tier": "" })),
        ("known", json!({ "app.kubernetes.io/name": "web", "app.kubernetes.io/part-of": "shop" })),
        ("domain", json!({ "shop.example/tier": "front", "shop.example/zone": "a" })),
        ("domain-too", json!({ "shop.example/tier": "back", "app": "web" })),
        ("kubernetes", json!({ "kubernetes.io/metadata.name": "x", "pod-security.kubernetes.io/enforce": "privileged" })),
        ("long", json!({ format!("{}.example/{}", "d".repeat(63), "k".repeat(63)): "v".repeat(63), "shop.example/tier": "front" })),
        ("ours", json!({ keys::TENANT: "front", "t.tenancy.x-k8s.io/aaaaaaaaaaaaaaaaaaaaaaaaaa": "front" })),
        ("bare", json!({})),
    ]
}

/// Selectors, each of a Service.
fn selectors() -> Vec<(&'static str, Value)> {
    vec![
        ("by-app", json!({ "app": "web" })),
        ("by-two", json!({ "app": "web", "tier": "" })),
        ("by-known", json!({ "app.kubernetes.io/name": "web" })),
        ("by-domain", json!({ "shop.example/tier": "front" })),
        ("by-mixed", json!({ "shop.example/tier": "back", "app": "web" })),
        ("by-kubernetes", json!({ "kubernetes.io/metadata.name": "x" })),
        ("by-long", json!({ format!("{}.example/{}", "d".repeat(63), "k".repeat(63)): "v".repeat(63) })),
        ("by-ours", json!({ keys::TENANT: "front" })),
        ("by-hash", json!({ "t.tenancy.x-k8s.io/aaaaaaaaaaaaaaaaaaaaaaaaaa": "front" })),
        ("by-nothing", json!({ "shop.example/tier": "none" })),
    ]
}

async fn services(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    for (name, labels) in pods() {
        tenant.apply(&pod(name, &labels, &json!({}))).await?;
    }
    for (name, selector) in selectors() {
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "labels": selector },
            "spec": { "selector": selector, "ports": [{ "port": 80 }] },
        });
        tenant.apply(&service).await?;
    }
    for (name, _) in pods() {
        tenant.sees("the Pod runs", "default", name, e2e::story::is_running).await?;
    }
    agree(tenant).await
}

async fn policies(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let policy = |name: &str, spec: Value| json!({ "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": { "name": name }, "spec": spec });
    let below = async |name: &str| -> anyhow::Result<Value> {
        let found: NetworkPolicy = tenant.holds_below("the policy is there", "default", name, |_| true).await?;
        serde_json::to_value(found.spec).context("no spec")
    };
    for (name, selector) in selectors() {
        let rule = json!({ "from": [{ "namespaceSelector": {} }] });
        tenant.apply(&policy(name, json!({ "podSelector": { "matchLabels": selector }, "ingress": [rule] }))).await?;
        let spec = below(name).await?;
        let wanted = pods_of(&tenant.above("default"), &selector).await?;
        let found = pods_of(&tenant.below("default"), spec.pointer("/podSelector/matchLabels").context("it selects nothing")?).await?;
        anyhow::ensure!(found == wanted, "{name} selects {found:?}, not {wanted:?}");
        let own = spec.pointer("/ingress/0/from/0/namespaceSelector/matchLabels").context("it lets in everybody")?;
        anyhow::ensure!(*own == json!({ keys::TENANT: tenant.id.as_str() }), "{name} lets in {own}");
    }
    tenant.apply(&policy("open", json!({ "podSelector": {}, "policyTypes": ["Egress"], "egress": [{}] }))).await?;
    let spec = below("open").await?;
    let except = spec.pointer("/egress/0/to/1/ipBlock/except");
    anyhow::ensure!(except == Some(&json!(["10.244.0.0/16", "10.96.0.0/12"])), "S25: it opens what is the platform's: {spec}");
    let narrow =
        json!({ "podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{ "from": [{ "ipBlock": { "cidr": "10.244.7.0/24" } }] }] });
    let made = tenant.apply(&policy("others-pods", narrow)).await?;
    tenant.warned("default", &uid_of(&made), "spec.ingress[0].from[0].ipBlock").await?;
    let spec = below("others-pods").await?;
    anyhow::ensure!(
        spec.get("ingress").is_none_or(|rules| rules.as_array().is_some_and(Vec::is_empty)),
        "S25: it lets in others' Pods: {spec}"
    );
    Ok(())
}

/// Waits until each Service has the same Pods behind it in both clusters, as the controllers of each find them.
async fn agree(tenant: &Actor) -> anyhow::Result<()> {
    for (service, selector) in selectors() {
        let wanted: BTreeSet<_> = pods_of(&tenant.above("default"), &selector).await?;
        eventually(format!("{service} finds {wanted:?}"), PATIENCE, async || {
            let (above, below) = (behind(&tenant.above("default"), service).await?, behind(&tenant.below("default"), service).await?);
            Ok(Seen::when(above == wanted && below == wanted, (above, below)))
        })
        .await?;
    }
    Ok(())
}

/// The addresses of the Pods that the tenant's API server selects.
async fn pods_of(pods: &Api<Pod>, selector: &Value) -> anyhow::Result<BTreeSet<String>> {
    let fields = selector.as_object().context("no selector")?;
    let text: Vec<_> = fields.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    let list = pods.list(&ListParams::default().labels(&text.join(","))).await?;
    Ok(list.into_iter().filter_map(|pod| pod.status?.pod_ip).collect())
}

/// The addresses that a cluster's own controller found for a Service.
async fn behind(slices: &Api<EndpointSlice>, service: &str) -> anyhow::Result<BTreeSet<String>> {
    let list = slices.list(&ListParams::default().labels(&format!("kubernetes.io/service-name={service}"))).await?;
    Ok(list.into_iter().flat_map(|slice| slice.endpoints.unwrap_or_default()).flat_map(|endpoint| endpoint.addresses).collect())
}

async fn relabeled(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let pods: Api<Pod> = tenant.above("default");
    for (name, labels) in [
        ("domain", json!({ "shop.example/tier": "back", "app": "web" })),
        ("long", json!({ "shop.example/tier": null })),
        ("bare", json!({ "shop.example/tier": "front", "app.kubernetes.io/name": "web" })),
    ] {
        pods.patch(name, &PatchParams::default(), &Patch::Merge(&json!({ "metadata": { "labels": labels } }))).await?;
    }
    agree(tenant).await
}

/// The record is ours: a tenant's label of the same key lies beside it, hashed.
async fn smuggled(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let below: Pod = tenant.below("default").get("ours").await?;
    let label = below.labels().get(keys::TENANT).map(String::as_str);
    anyhow::ensure!(label == Some(tenant.id.as_str()), "the record is {label:?}");
    let hashed = below.labels().iter().filter(|(key, value)| key.starts_with(keys::HASHED_LABEL_PREFIX) && *value == "front").count();
    anyhow::ensure!(hashed == 2, "{:?}", below.labels());
    let below: Pod = tenant.below("default").get("kubernetes").await?;
    let level = below.labels().keys().find(|key| key.starts_with("pod-security.kubernetes.io") || key.starts_with("kubernetes.io"));
    anyhow::ensure!(level.is_none(), "{level:?} went down");
    Ok(())
}

/// Makes a namespace with this label, and something in it that goes down.
async fn namespace_of(tenant: &Actor, name: &str, team: &str) -> anyhow::Result<()> {
    tenant.apply(&json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": { "team": team } } })).await?;
    let service = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "a" }, "spec": { "ports": [{ "port": 80 }] } });
    tenant.apply(&within(name, service)).await?;
    tenant.holds_below("the Service is there", name, "a", |_: &Service| true).await.map(drop)
}

async fn teams(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    for (name, team) in [("red", "red"), ("crimson", "red"), ("blue", "blue")] {
        namespace_of(tenant, name, team).await?;
    }
    let selector = json!({ "matchLabels": { "team": "red" }, "matchExpressions": [{ "key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["crimson"] }] });
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": { "name": "reds" },
        "spec": { "podSelector": {}, "ingress": [{ "from": [{ "namespaceSelector": selector }] }] },
    });
    tenant.apply(&policy).await?;
    let found: NetworkPolicy = tenant.holds_below("the policy is there", "default", "reds", |_| true).await?;
    let peer =
        found.spec.and_then(|spec| spec.ingress?.into_iter().next()?.from?.into_iter().next()?.namespace_selector).context("no peer")?;
    let labels = peer.match_labels.unwrap_or_default().into_iter().map(|(key, value)| format!("{key}={value}"));
    let expressions = peer.match_expressions.unwrap_or_default().into_iter();
    let parts: Vec<_> =
        labels.chain(expressions.map(|e| format!("{} notin ({})", e.key, e.values.unwrap_or_default().join(",")))).collect();
    let selected = async |wanted: &str| {
        let below = tenant.namespace_below(wanted);
        eventually(format!("it lets in {wanted} alone"), PATIENCE, async || {
            let list = Api::<Namespace>::all(story.bed.sup.client()).list(&ListParams::default().labels(&parts.join(","))).await?;
            let names: Vec<_> = list.iter().map(ResourceExt::name_any).collect();
            Ok(Seen::when(names == [below.clone()], names))
        })
        .await
    };
    selected("red").await?;
    for (name, team) in [("red", "blue"), ("blue", "red")] {
        let patch = json!({ "metadata": { "labels": { "team": team } } });
        Api::<Namespace>::all(tenant.client()).patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    }
    selected("blue").await.map(drop)
}

async fn near(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    namespace_of(tenant, "harbour", "port").await?;
    tenant.takes_pods("harbour").await?;
    tenant.apply(&within("harbour", pod("anchor", &json!({ "app": "anchor" }), &json!({})))).await?;
    let anchor: Pod = tenant.sees("the anchor runs", "harbour", "anchor", e2e::story::is_running).await?;
    let beside = |team: &str| {
        json!({ "affinity": { "podAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [{
            "labelSelector": { "matchLabels": { "app": "anchor" } }, "namespaceSelector": { "matchLabels": { "team": team } },
            "topologyKey": "kubernetes.io/hostname",
        }] } } })
    };
    tenant.apply(&pod("ship", &json!({}), &beside("port"))).await?;
    tenant.apply(&pod("lost", &json!({}), &beside("nowhere"))).await?;
    let ship: Pod = tenant.sees("the Pod runs", "default", "ship", e2e::story::is_running).await?;
    let node = |pod: Pod| pod.spec.and_then(|spec| spec.node_name);
    anyhow::ensure!(node(ship) == node(anchor), "it runs elsewhere");
    let waits = |pod: &Pod| e2e::story::condition(pod, "PodScheduled") == Some("False");
    tenant.sees("nothing is there where no namespace is selected", "default", "lost", waits).await.map(drop)
}

async fn anti_affinity(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let labels = json!({ "shop.example/alone": "yes" });
    let apart = json!({ "affinity": { "podAntiAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [
        { "labelSelector": { "matchLabels": labels }, "topologyKey": "kubernetes.io/hostname" }
    ] } } });
    for name in ["alone-a", "alone-b", "alone-c"] {
        tenant.apply(&pod(name, &labels, &apart)).await?;
    }
    let pods: Api<Pod> = tenant.above("default");
    eventually("two of three run on a node each, and the third waits", PATIENCE, async || {
        let list = pods.list(&ListParams::default().labels("shop.example/alone=yes")).await?;
        let nodes: Vec<_> = list.iter().filter_map(|pod| pod.spec.as_ref()?.node_name.clone()).collect();
        let waits = list.iter().any(|pod| e2e::story::condition(pod, "PodScheduled") == Some("False"));
        Ok(Seen::when(nodes.len() == 2 && nodes.first() != nodes.last() && waits, (nodes, waits)))
    })
    .await
    .map(drop)
}
