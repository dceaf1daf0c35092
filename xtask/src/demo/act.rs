//! The scenes: each does something, waits until it shows, and tells what was seen.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use e2e::{
    bed::apply,
    story::is_running,
    wait::{Seen, eventually},
};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Node, Pod, Secret, Service, ServiceAccount},
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams},
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    stage::{Stage, Tenant},
    tell,
};

/// The Pods of the Deployment that every tenant applies.
const REPLICAS: usize = 2;

/// What their container does where containers run: serves the ConfigMap's greeting.
const SERVE: &str = r#"mkdir /www; echo "$greeting from $(hostname)" | tee /www/index.html; exec httpd -f -p 80 -h /www"#;

/// Every tenant applies the same objects under the same names.
pub(super) async fn apply_the_same(stage: &Stage) -> anyhow::Result<()> {
    tell::scene("Every tenant applies the same: Deployment, Service, ConfigMap and Secret, all called web");
    let begin = Instant::now();
    for tenant in &stage.tenants {
        let accounts: Api<ServiceAccount> = stage.above(tenant)?;
        let there = async || Ok(Seen::Done(accounts.get("default").await?));
        eventually("the tenant's controllers made the default account", stage.patience, there).await?;
        apply::<ConfigMap>(&stage.above(tenant)?, "web", &config_map("hello")).await?;
        apply::<Secret>(&stage.above(tenant)?, "web", &secret()).await?;
        apply::<Service>(&stage.above(tenant)?, "web", &service()).await?;
        apply::<Deployment>(&stage.above(tenant)?, "web", &deployment(stage)).await?;
    }
    for tenant in &stage.tenants {
        running(stage, tenant, &[]).await?;
    }
    let count = REPLICAS * stage.tenants.len();
    tell::so(&format!(
        "all {count} Pods are Running and Ready in their tenants, {:.1} s after the first was asked for",
        begin.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// Pods with their nodes and addresses, and a Service with an address of the tenant's own range.
pub(super) async fn what_tenants_see(stage: &Stage) -> anyhow::Result<()> {
    tell::scene("What the tenants see: an ordinary cluster of their own");
    for tenant in &stage.tenants {
        let pods = running(stage, tenant, &[]).await?;
        tell::line(&format!("    {}", tenant.name));
        tell::table(&pods.iter().map(row).collect::<Vec<_>>());
        let nodes = Api::<Node>::all(stage.plane(tenant)?.client());
        for pod in &pods {
            let node = node_of(pod);
            let found = nodes.get(node).await.with_context(|| format!("{} sees no node {node}", tenant.name))?;
            anyhow::ensure!(is_ready(&found), "{} sees node {node} not Ready", tenant.name);
        }
    }
    tell::so("every Pod stands on a node that its tenant can look at, and that is Ready");
    for tenant in &stage.tenants {
        let (address, range) = (address(&stage.above(tenant)?).await?, stage.plane(tenant)?.service_cidr());
        let start = range.rsplit_once('.').map(|(start, _)| format!("{start}.")).unwrap_or_default();
        anyhow::ensure!(address.starts_with(&start), "{}: {address} is not in {range}", tenant.name);
        tell::so(&format!("{}: Service web has {address}, of the tenant's own range {range}", tenant.name));
    }
    Ok(())
}

/// One namespace a tenant's namespace, and in it the same objects under the same names.
pub(super) async fn what_the_super_cluster_holds(stage: &Stage) -> anyhow::Result<()> {
    tell::scene("What the super cluster holds: where it all runs");
    for tenant in &stage.tenants {
        let (above, below) = eventually("the same Pods stand in both", stage.patience, async || {
            let above = names(&stage.above(tenant)?).await?;
            let below = names(&stage.below(tenant)).await?;
            Ok(Seen::when(above == below && above.len() == REPLICAS, (above, below)))
        })
        .await?;
        tell::line(&format!("    {}'s namespace default is {}", tenant.name, tenant.below));
        tell::table(&pods(&stage.below(tenant)).await?.iter().map(row).collect::<Vec<_>>());
        anyhow::ensure!(above == below, "{}: Pods differ", tenant.name);
        let (mine, held) = (address(&stage.above(tenant)?).await?, address(&stage.below(tenant)).await?);
        anyhow::ensure!(mine == held, "{}: Service web has {held} below and {mine} above", tenant.name);
        let secret: Secret = stage.below::<Secret>(tenant).get("web").await?;
        let password = secret.data.and_then(|data| data.get("password").map(|bytes| bytes.0.clone()));
        anyhow::ensure!(password.as_deref() == Some(b"secret"), "{}: the Secret differs", tenant.name);
        anyhow::ensure!(greeting(&stage.below(tenant)).await? == "hello", "{}: the ConfigMap differs", tenant.name);
    }
    tell::so("Pods, Service address, ConfigMap and Secret are the tenant's, under the tenant's names");
    Ok(())
}

/// A change of one tenant stays with it.
pub(super) async fn they_do_not_meet(stage: &Stage) -> anyhow::Result<()> {
    tell::scene("The tenants do not meet, though all names are the same");
    let spaces: BTreeSet<_> = stage.tenants.iter().map(|tenant| &tenant.below).collect();
    anyhow::ensure!(spaces.len() == stage.tenants.len(), "two tenants share a super namespace");
    let mut owners = BTreeMap::new();
    for tenant in &stage.tenants {
        for pod in pods(&stage.below(tenant)).await? {
            let owner = pod.labels().get(common::keys::TENANT).cloned().context("a Pod without the record of its tenant")?;
            owners.insert(owner, tenant.name.clone());
        }
    }
    anyhow::ensure!(owners.len() == stage.tenants.len(), "the records of ownership mix: {owners:?}");
    tell::so("each has super namespaces of its own, and every object in them says whose it is");
    let (first, others) = stage.tenants.split_first().context("there is no tenant")?;
    apply::<ConfigMap>(&stage.above(first)?, "web", &config_map("changed")).await?;
    let begin = Instant::now();
    let below: Api<ConfigMap> = stage.below(first);
    eventually("the change went down", stage.patience, async || {
        let greeting = greeting(&below).await?;
        Ok(Seen::when(greeting == "changed", greeting))
    })
    .await?;
    let took = begin.elapsed().as_millis();
    for other in others {
        let (above, below) = (greeting(&stage.above(other)?).await?, greeting(&stage.below(other)).await?);
        anyhow::ensure!(above == "hello" && below == "hello", "{}: the ConfigMap is now {above} above, {below} below", other.name);
    }
    tell::so(&format!("{} changes its ConfigMap: in the super cluster after {took} ms, and no other tenant's copy moved", first.name));
    if others.is_empty() {
        tell::line("    (with one tenant there is nobody to meet; try --tenants 2)");
    }
    Ok(())
}

/// An administrator of the super cluster deletes a Pod; the tenant sees that, and its own controllers replace it.
pub(super) async fn a_pod_is_deleted_below(stage: &Stage) -> anyhow::Result<()> {
    tell::scene("Somebody deletes a Pod in the super cluster");
    let tenant = stage.tenants.first().context("there is no tenant")?;
    let before = running(stage, tenant, &[]).await?;
    let victim = before.first().context("there is no Pod")?;
    let (name, uid) = (victim.name_any(), victim.uid().unwrap_or_default());
    let begin = Instant::now();
    stage.below::<Pod>(tenant).delete(&name, &DeleteParams::default()).await?;
    let api: Api<Pod> = stage.above(tenant)?;
    eventually("the tenant sees its Pod end", stage.patience, async || {
        let found = api.get_opt(&name).await?;
        Ok(Seen::when(found.is_none_or(|pod| pod.uid().as_deref() != Some(uid.as_str())), "still there"))
    })
    .await?;
    tell::so(&format!("{}: {name} is gone in the tenant too, after {} ms", tenant.name, begin.elapsed().as_millis()));
    let after = running(stage, tenant, &[uid]).await?;
    let known: BTreeSet<_> = before.iter().map(kube::ResourceExt::name_any).collect();
    let new = after.iter().map(kube::ResourceExt::name_any).find(|name| !known.contains(name)).context("no new Pod")?;
    tell::so(&format!("the tenant's own ReplicaSet controller made {new}: Running after {} ms", begin.elapsed().as_millis()));
    let below = eventually("the super cluster holds the same Pods", stage.patience, async || {
        let (above, below) = (names(&stage.above(tenant)?).await?, names(&stage.below(tenant)).await?);
        Ok(Seen::when(above == below, below))
    })
    .await?;
    anyhow::ensure!(!below.contains(&name), "{name} runs again in the super cluster");
    tell::so("nothing runs twice: the super cluster holds exactly the tenant's Pods");
    Ok(())
}

/// Waits until the tenant sees its Deployment's Pods Running and Ready, none of them one of `gone`.
async fn running(stage: &Stage, tenant: &Tenant, gone: &[String]) -> anyhow::Result<Vec<Pod>> {
    let api: Api<Pod> = stage.above(tenant)?;
    let what = format!("{REPLICAS} Pods of {} are Running and Ready", tenant.name);
    eventually(what, stage.patience, async || {
        let pods = pods(&api).await?;
        let fine = |pod: &Pod| is_running(pod) && !gone.contains(&pod.uid().unwrap_or_default());
        if pods.len() == REPLICAS && pods.iter().all(fine) {
            return Ok(Seen::Done(pods));
        }
        Ok(Seen::NotYet(format!("{:?}", pods.iter().map(row).collect::<Vec<_>>())))
    })
    .await
}

pub(super) async fn pods(api: &Api<Pod>) -> anyhow::Result<Vec<Pod>> {
    Ok(api.list(&ListParams::default().labels("app=web")).await?.items)
}

async fn names(api: &Api<Pod>) -> anyhow::Result<BTreeSet<String>> {
    let pods = pods(api).await?;
    Ok(pods.iter().map(kube::ResourceExt::name_any).collect())
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

fn row(pod: &Pod) -> Vec<String> {
    let status = pod.status.clone().unwrap_or_default();
    let phase = if pod.metadata.deletion_timestamp.is_some() { "Terminating" } else { status.phase.as_deref().unwrap_or("-") };
    vec![pod.name_any(), phase.to_owned(), status.pod_ip.unwrap_or_default(), node_of(pod).to_owned()]
}

async fn address(services: &Api<Service>) -> anyhow::Result<String> {
    let service = services.get("web").await?;
    service.spec.and_then(|spec| spec.cluster_ip).context("Service web has no address")
}

async fn greeting(maps: &Api<ConfigMap>) -> anyhow::Result<String> {
    let map = maps.get("web").await?;
    map.data.and_then(|data| data.get("greeting").cloned()).context("the ConfigMap has no greeting")
}

fn config_map(greeting: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "web" }, "data": { "greeting": greeting } })
}

fn secret() -> Value {
    json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "web" }, "stringData": { "password": "secret" } })
}

fn service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" },
        "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80 }] },
    })
}

fn deployment(stage: &Stage) -> Value {
    let mut spec = json!({
        "containers": [{
            "name": "web",
            "image": stage.image(),
            "envFrom": [{ "configMapRef": { "name": "web" } }],
            "volumeMounts": [{ "name": "secret", "mountPath": "/secret" }],
        }],
        "volumes": [{ "name": "secret", "secret": { "secretName": "web" } }],
        // A shell that became a server does not heed SIGTERM.
        "terminationGracePeriodSeconds": 1,
    });
    if stage.agent().is_some()
        && let Some(container) = spec.pointer_mut("/containers/0").and_then(Value::as_object_mut)
    {
        container.insert("command".to_owned(), json!(["sh", "-c", SERVE]));
        container.insert("readinessProbe".to_owned(), json!({ "tcpSocket": { "port": 80 }, "periodSeconds": 1 }));
    }
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" },
        "spec": {
            "replicas": REPLICAS,
            "selector": { "matchLabels": { "app": "web" } },
            "template": { "metadata": { "labels": { "app": "web" } }, "spec": spec },
        },
    })
}
