//! Two tenants with the same names never meet: what each makes, changes and removes is its own, in both directions.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Context as _;
use common::{Uid, keys};
use e2e::{
    audit::Mark,
    bed::{TENANT_USER, apply},
    nodes::NodeOptions,
    story::{Actor, NO_PATROL, PATIENCE, Plot, Story, chapter, hides, owner_of, pod, reveals_nothing, uid_of, within},
    wait::{Seen, eventually},
};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Event, Namespace, Node, Pod, Secret, Service},
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

/// Nodes that no other text looks like; nothing is ever placed on the third.
const NODES: &str = "metal-";
/// On each of these only one tenant's Pods run.
const OWN_NODES: [&str; 2] = ["metal-3", "metal-4"];

#[tokio::test(flavor = "multi_thread")]
async fn two_tenants_with_identical_names_stay_apart() {
    let plot = Plot { nodes: NodeOptions { prefix: NODES.to_owned(), ..NodeOptions::new(5) }, ..Plot::new("apart", 2).flag(NO_PATROL) };
    let story = Story::play(plot).await.unwrap();
    for node in ["metal-2"].iter().chain(&OWN_NODES) {
        cordon(&story, node, true).await.unwrap();
    }
    for (tenant, node) in story.tenants.iter().zip(OWN_NODES) {
        alone(&story, tenant, node).await.unwrap();
    }
    let first = vec![
        chapter("the same names in both tenants are two things below", same_names(&story)),
        chapter("names of 63 characters that differ in the last are two", long_names(&story)),
    ];
    story.tell(first).await.unwrap();
    let second = vec![
        chapter("what one tenant changes, only its own copies show", changes(&story)),
        chapter("what happens below is seen by its tenant alone", upward(&story)),
    ];
    story.tell(second).await.unwrap();
    story.tell(vec![chapter("both sides change an object at once, and no change is lost", at_once(&story))]).await.unwrap();
    story
        .tell(vec![chapter("each was listed as its API server can: by WatchList, or page by page", async { listed(&story) })])
        .await
        .unwrap();
    story.tell(vec![chapter("nothing of the super cluster stands anywhere in a tenant", no_foreign_names(&story))]).await.unwrap();
    story.tell(vec![chapter("what one tenant deletes goes, and the other's stays", deletes(&story))]).await.unwrap();
    story.tell(vec![chapter("no write of all these changed nothing", story.syncer.wrote_nothing_in_vain())]).await.unwrap();
}

async fn cordon(story: &Story, node: &str, cordoned: bool) -> anyhow::Result<()> {
    let patch = json!({ "spec": { "unschedulable": cordoned } });
    Api::<Node>::all(story.bed.sup.client()).patch(node, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    Ok(())
}

/// The tenant has a Pod on a node where nobody else has.
async fn alone(story: &Story, tenant: &Actor, node: &str) -> anyhow::Result<()> {
    cordon(story, node, false).await?;
    let labels = json!({ "app": "alone" });
    tenant.apply(&pod("alone", &labels, &json!({ "nodeSelector": { "kubernetes.io/hostname": node } }))).await?;
    tenant.running("default", "app=alone", 1).await?;
    cordon(story, node, true).await
}

/// The second tenant of a bed serves no WatchList.
fn listed(story: &Story) -> anyhow::Result<()> {
    for i in [0, 1] {
        let calls = story.bed.tenant(i)?.audit().since(Mark::default())?.by(TENANT_USER);
        for resource in ["pods", "services", "configmaps"] {
            let count = |verb: &str| calls.filter(|call| call.verb == verb && call.resource == resource && call.is_successful()).0.len();
            let (lists, watches) = (count("list"), count("watch"));
            anyhow::ensure!(watches > 0 && (lists > 0) == (i == 1), "tenant {i}: {resource}: {lists} lists, {watches} watches");
        }
    }
    Ok(())
}

fn config_map(text: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "web" }, "data": { "owner": text } })
}

fn service(port: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" },
        "spec": { "type": "LoadBalancer", "selector": { "app": "web" }, "ports": [{ "port": port, "targetPort": 8080 }] },
    })
}

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" },
        "spec": { "replicas": 2, "selector": { "matchLabels": { "app": "web" } }, "template": {
            "metadata": { "labels": { "app": "web" } },
            "spec": {
                "containers": [{ "name": "web", "image": "web", "envFrom": [{ "configMapRef": { "name": "web" } }] }],
                "volumes": [{ "name": "s", "secret": { "secretName": "web" } }],
            },
        } },
    })
}

async fn same_names(story: &Story) -> anyhow::Result<()> {
    for tenant in &story.tenants {
        tenant.apply(&config_map(&tenant.name)).await?;
        let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "web" }, "stringData": { "owner": tenant.name } });
        tenant.apply(&secret).await?;
        tenant.apply(&service(80)).await?;
        tenant.apply(&deployment()).await?;
        // A name that looks like one of ours.
        tenant.apply(&json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "vc.odd" } })).await?;
        // The very same name, which a ReplicaSet would not give.
        let odd = json!({ "volumes": [{ "name": "odd", "configMap": { "name": "vc.odd" } }] });
        tenant.apply(&pod("twin", &json!({ "app": "twin" }), &odd)).await?;
    }
    for tenant in &story.tenants {
        let mut pods = tenant.running("default", "app=web", 2).await?;
        pods.extend(tenant.running("default", "app=twin", 1).await?);
        for pod in &pods {
            let below: Pod = tenant.below("default").get(&pod.name_any()).await?;
            is_of(tenant, &below, pod)?;
        }
        let map: ConfigMap = tenant.below("default").get("web").await?;
        anyhow::ensure!(map.data.unwrap_or_default().get("owner") == Some(&tenant.name), "{} has another's ConfigMap", tenant.name);
        let secret: Secret = tenant.below("default").get("web").await?;
        let owner = secret.data.unwrap_or_default().get("owner").map(|bytes| bytes.0.clone());
        anyhow::ensure!(owner.as_deref() == Some(tenant.name.as_bytes()), "{} has another's Secret", tenant.name);
        let service: Service = tenant.holds_below("the Service is there", "default", "web", |_| true).await?;
        let address = |service: Service| service.spec.and_then(|spec| spec.cluster_ip);
        let asked = tenant.above::<Service>("default").get("web").await?;
        anyhow::ensure!(address(service.clone()) == address(asked.clone()), "{}: {service:?}, but asked was {asked:?}", tenant.name);
    }
    let names: BTreeSet<_> = story.tenants.iter().map(|tenant| tenant.namespace_below("default")).collect();
    anyhow::ensure!(names.len() == 2, "both share {names:?}");
    Ok(())
}

/// Whether a super Pod's record says that it is this Pod of this tenant.
fn is_of(tenant: &Actor, below: &Pod, above: &Pod) -> anyhow::Result<()> {
    let owner = owner_of(below)?;
    let right = owner.tenant == tenant.id.uid() && owner.uid == Uid::parse(&uid_of(above))?;
    anyhow::ensure!(right, "{}: the record of {} is {owner:?}", tenant.name, below.name_any());
    Ok(())
}

/// Namespaces, Pods, `ConfigMaps` and Services whose names differ in the 63rd character only, in both tenants.
async fn long_names(story: &Story) -> anyhow::Result<()> {
    let ends = |stem: char| ["a", "b"].map(|end| format!("{}{end}", stem.to_string().repeat(62)));
    for tenant in &story.tenants {
        for namespace in &ends('n') {
            tenant.make_namespace(namespace).await?;
            for name in &ends('p') {
                let value = format!("{} {namespace} {name}", tenant.name);
                let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "namespace": namespace }, "data": { "is": value } });
                tenant.apply(&map).await?;
                let service = json!({
                    "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": namespace },
                    "spec": { "clusterIP": "None", "selector": { "app": name }, "ports": [{ "port": 80 }] },
                });
                tenant.apply(&service).await?;
                let from = json!({ "terminationGracePeriodSeconds": 1, "containers": [{ "name": "main", "image": "web", "envFrom": [{ "configMapRef": { "name": name } }] }] });
                tenant.apply(&within(namespace, pod(name, &json!({ "app": name }), &from))).await?;
            }
        }
    }
    for tenant in &story.tenants {
        for namespace in &ends('n') {
            for name in &ends('p') {
                let above = tenant.running(namespace, &format!("app={name}"), 1).await?;
                let below: Pod = tenant.below(namespace).get(name).await?;
                is_of(tenant, &below, above.first().context("no Pod")?)?;
                let value = format!("{} {namespace} {name}", tenant.name);
                let map: ConfigMap = tenant.below(namespace).get(name).await?;
                anyhow::ensure!(map.data.unwrap_or_default().get("is") == Some(&value), "the ConfigMap of {value} is another's");
                tenant.holds_below::<Service>("the Service is there", namespace, name, |_| true).await?;
            }
        }
    }
    Ok(())
}

async fn changes(story: &Story) -> anyhow::Result<()> {
    let (one, other) = (story.tenant(0)?, story.tenant(1)?);
    let before = (version::<ConfigMap>(other).await?, version::<Service>(other).await?);
    one.apply(&config_map("changed")).await?;
    one.apply(&service(81)).await?;
    let label = json!({ "metadata": { "labels": { "mood": "good", "app": null } } });
    one.above::<Pod>("default").patch("twin", &PatchParams::default(), &Patch::Merge(&label)).await?;
    one.holds_below("the ConfigMap changed", "default", "web", |map: &ConfigMap| {
        map.data.as_ref().is_some_and(|data| data.get("owner").is_some_and(|owner| owner == "changed"))
    })
    .await?;
    one.holds_below("the Service's port changed", "default", "web", |service: &Service| port(service) == Some(81)).await?;
    one.holds_below("the Pod's labels changed", "default", "twin", |pod: &Pod| {
        pod.labels().get("mood").is_some_and(|mood| mood == "good") && !pod.labels().contains_key("app")
    })
    .await?;
    let after = (version::<ConfigMap>(other).await?, version::<Service>(other).await?);
    anyhow::ensure!(before == after, "the other tenant's copies moved: {before:?}, now {after:?}");
    let twin: Pod = other.below("default").get("twin").await?;
    anyhow::ensure!(twin.labels().get("app").is_some_and(|app| app == "twin"), "the other tenant's Pod moved: {:?}", twin.labels());
    Ok(())
}

fn port(service: &Service) -> Option<i32> {
    Some(service.spec.as_ref()?.ports.as_ref()?.first()?.port)
}

async fn version<K>(tenant: &Actor) -> anyhow::Result<Option<String>>
where
    K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    Ok(tenant.below::<K>("default").get("web").await?.resource_version())
}

/// A load balancer's address and a Pod's state come up to their own tenant.
async fn upward(story: &Story) -> anyhow::Result<()> {
    let (one, other) = (story.tenant(0)?, story.tenant(1)?);
    let status = json!({ "status": { "loadBalancer": { "ingress": [{ "ip": "192.0.2.7" }] } } });
    one.below::<Service>("default").patch_status("web", &PatchParams::default(), &Patch::Merge(&status)).await?;
    one.sees("the load balancer has its address", "default", "web", |service: &Service| balancer(service).as_deref() == Some("192.0.2.7"))
        .await?;
    anyhow::ensure!(balancer(&other.above::<Service>("default").get("web").await?).is_none(), "the other tenant sees the address");
    let (mine, held): (Pod, Pod) = (one.above("default").get("twin").await?, one.below("default").get("twin").await?);
    let address = |pod: &Pod| pod.status.as_ref().and_then(|status| status.pod_ip.clone());
    anyhow::ensure!(address(&mine).is_some() && address(&mine) == address(&held), "{:?} above, {:?} below", address(&mine), address(&held));
    Ok(())
}

/// A tenant's change that falls between what the syncer read and what it writes must not be taken for seen.
async fn at_once(story: &Story) -> anyhow::Result<()> {
    let one = story.tenant(0)?;
    let (above, below): (Api<Service>, Api<Service>) = (one.above("default"), one.below("default"));
    let params = PatchParams::default();
    for round in 0..30_u16 {
        let (wanted, address) = (1000 + round, format!("192.0.2.{}", 10 + round));
        let ports = json!([{ "op": "replace", "path": "/spec/ports/0/port", "value": wanted }]);
        let ports: Patch<()> = Patch::Json(serde_json::from_value(ports)?);
        let status = Patch::Merge(json!({ "status": { "loadBalancer": { "ingress": [{ "ip": address }] } } }));
        let change = async {
            // Each round at another moment of the syncer's work.
            tokio::time::sleep(Duration::from_millis(u64::from(round))).await;
            above.patch("web", &params, &ports).await
        };
        tokio::try_join!(below.patch_status("web", &params, &status), change)?;
        eventually(format!("round {round}: both changes are seen"), Duration::from_secs(10), async || {
            let seen = (port(&below.get("web").await?), balancer(&above.get("web").await?));
            Ok(Seen::when(seen == (Some(i32::from(wanted)), Some(address.clone())), seen))
        })
        .await?;
    }
    Ok(())
}

fn balancer(service: &Service) -> Option<String> {
    service.status.as_ref()?.load_balancer.as_ref()?.ingress.as_ref()?.first()?.ip.clone()
}

/// Reads all that each tenant can read and looks for what it must not know.
async fn no_foreign_names(story: &Story) -> anyhow::Result<()> {
    let twin: Pod = story.tenant(0)?.below("default").get("twin").await?;
    gossip(story, &twin).await?;
    reveals_nothing(story, &["metal-2"]).await?;
    for (at, tenant) in story.tenants.iter().enumerate() {
        let others = OWN_NODES.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, node)| (*node).to_owned());
        hides(tenant, &others.collect()).await?;
    }
    Ok(())
}

/// Somebody in the super cluster says too much about a Pod: in an Event, and in its status.
async fn gossip(story: &Story, twin: &Pod) -> anyhow::Result<()> {
    let namespace = twin.namespace().unwrap_or_default();
    let other = story.tenant(1)?.below::<Pod>("default").get("twin").await?;
    let one = story.tenant(0)?;
    let said = format!(
        "gossip: {namespace}/twin({}) beside {}/twin({}), not on {}; mounts {}{}, and vc.e.odd",
        uid_of(twin),
        other.namespace().unwrap_or_default(),
        uid_of(&other),
        OWN_NODES[1],
        keys::RESERVED_NAME_PREFIX,
        keys::ROOT_CA_CONFIG_MAP,
    );
    let event = json!({
        "metadata": { "generateName": "twin.", "namespace": namespace },
        "involvedObject": { "apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": "twin", "uid": uid_of(twin) },
        "type": "Warning", "reason": "Gossip", "message": said, "count": 1, "source": { "component": "gossip", "host": "metal-2" },
        "reportingComponent": "gossip", "reportingInstance": "metal-2",
    });
    let events: Api<Event> = Api::namespaced(story.bed.sup.client(), &namespace);
    events.create(&PostParams::default(), &serde_json::from_value(event)?).await?;
    // An Event that names a Secret of tokens is told to nobody.
    let token = one.id.token_secret(owner_of(twin)?.uid);
    let status = json!({ "status": { "message": format!("{said}, with {token}") } });
    let pods: Api<Pod> = Api::namespaced(story.bed.sup.client(), &namespace);
    pods.patch_status("twin", &PatchParams::default(), &Patch::Merge(&status)).await?;
    let above: Pod = one.above("default").get("twin").await?;
    one.warned("default", &uid_of(&above), "gossip").await?;
    one.warned("default", &uid_of(&above), "and vc.odd").await?;
    let heard = |pod: &Pod| pod.status.as_ref().and_then(|status| status.message.as_deref()).is_some_and(|text| text.contains("gossip"));
    one.sees("the gossip came up", "default", "twin", heard).await?;
    Ok(())
}

async fn deletes(story: &Story) -> anyhow::Result<()> {
    let (one, other) = (story.tenant(0)?, story.tenant(1)?);
    let uids = async || -> anyhow::Result<BTreeSet<String>> {
        let pods = other.below::<Pod>("default").list(&ListParams::default()).await?;
        Ok(pods.iter().map(uid_of).collect())
    };
    let before = uids().await?;
    one.above::<Service>("default").delete("web", &DeleteParams::default()).await?;
    one.above::<Deployment>("default").delete("web", &DeleteParams::default()).await?;
    one.above::<Pod>("default").delete("twin", &DeleteParams::default()).await?;
    one.gone_everywhere::<Service>("default", "web").await?;
    one.gone_everywhere::<Pod>("default", "twin").await?;
    one.running("default", "app=web", 0).await?;
    // Nothing refers to them any more; the tenant keeps its own.
    one.gone_below::<ConfigMap>("default", "web").await?;
    one.gone_below::<Secret>("default", "web").await?;
    one.above::<ConfigMap>("default").get("web").await?;
    let spaces = ["a", "b"].map(|end| "n".repeat(62) + end);
    for namespace in &spaces {
        Api::<Namespace>::all(one.client()).delete(namespace, &DeleteParams::default()).await?;
    }
    for namespace in &spaces {
        one.gone_everywhere::<Pod>(namespace, &("p".repeat(62) + "a")).await?;
        let below = one.namespace_below(namespace);
        let api = Api::<Namespace>::all(story.bed.sup.client());
        eventually(format!("{below} is gone"), PATIENCE, async || {
            let found = api.get_opt(&below).await?;
            Ok(Seen::when(found.is_none(), found))
        })
        .await?;
    }
    other.below::<Service>("default").get("web").await?;
    other.running("default", "app=web", 2).await?;
    other.running(&("n".repeat(62) + "a"), &format!("app={}a", "p".repeat(62)), 1).await?;
    let after = uids().await?;
    anyhow::ensure!(before == after, "the other tenant's Pods are not the same: {before:?}, now {after:?}");
    apply::<ConfigMap>(&other.above("default"), "web", &config_map("still here")).await?;
    other
        .holds_below("the other tenant's changes still go down", "default", "web", |map: &ConfigMap| {
            map.data.as_ref().is_some_and(|data| data.get("owner").is_some_and(|owner| owner == "still here"))
        })
        .await?;
    Ok(())
}
