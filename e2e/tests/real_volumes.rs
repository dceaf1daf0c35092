//! Volumes that a provisioner makes in the super cluster, on a real node: what a tenant writes is there for its next Pod, for nobody else, and
//! gone from the node with the claim.

use anyhow::Context as _;
use common::keys;
use e2e::{
    bed::apply,
    images::{LOCAL_PATH_PROVISIONER, TOOLS},
    machine, storage,
    story::{Actor, PATIENCE, Plot, Story, chapter, pod, reveals_nothing},
    wait::{Seen, eventually},
};
use k8s_openapi::api::{
    core::v1::{Event, PersistentVolume, PersistentVolumeClaim, Pod},
    storage::v1::StorageClass,
};
use kube::{
    Api,
    api::{DeleteParams, ListParams},
};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn what_a_tenant_writes_stays_with_its_claim() {
    if machine::skipped() {
        return;
    }
    let mut plot = Plot::real("real-volumes", 2, 1);
    plot.real.as_mut().unwrap().images = vec![LOCAL_PATH_PROVISIONER];
    let story = Story::play(plot).await.unwrap();
    publish(&story).await.unwrap();
    story.tell(vec![chapter("each tenant writes to its own claim of one name", written(&story))]).await.unwrap();
    story.tell(vec![chapter("another Pod reads what was written, and no other tenant does", read(&story))]).await.unwrap();
    let reveals = reveals_nothing(&story, &[storage::FOLDER, "local-path-storage"]);
    story.tell(vec![chapter("where it is shows nowhere in a tenant", reveals)]).await.unwrap();
    story.tell(vec![chapter("a claim that is deleted takes its data with it", deleted(&story))]).await.unwrap();
    story.tell(vec![chapter("no write of all these changed nothing", story.syncer.wrote_nothing_in_vain())]).await.unwrap();
}

async fn publish(story: &Story) -> anyhow::Result<()> {
    storage::install(&story.bed).await?;
    let class = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": { "name": "local-path", "labels": { keys::PUBLIC: "true" } },
        "provisioner": storage::PROVISIONER, "volumeBindingMode": "WaitForFirstConsumer", "reclaimPolicy": "Delete",
    });
    apply(&Api::<StorageClass>::all(story.bed.sup.client()), "local-path", &class).await.map(drop)
}

/// Runs a script in a Pod that mounts the claim at `/data`, to its end; what it wrote.
async fn run(tenant: &Actor, name: &str, script: &str) -> anyhow::Result<String> {
    let container = json!({ "name": "main", "image": TOOLS, "command": ["sh", "-c", script], "volumeMounts": [{ "name": "data", "mountPath": "/data" }] });
    let volumes = json!([{ "name": "data", "persistentVolumeClaim": { "claimName": "data" } }]);
    let spec = json!({ "restartPolicy": "Never", "containers": [container], "volumes": volumes });
    let said = tenant.output(&pod(name, &json!({}), &spec)).await?;
    tenant.above::<Pod>("default").delete(name, &DeleteParams::default().grace_period(1)).await?;
    Ok(said)
}

async fn written(story: &Story) -> anyhow::Result<()> {
    for tenant in &story.tenants {
        let spec = json!({ "accessModes": ["ReadWriteOnce"], "storageClassName": "local-path", "resources": { "requests": { "storage": "64Mi" } } });
        tenant.apply(&json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "data" }, "spec": spec })).await?;
        run(tenant, "writer", &format!("ls -A /data; echo {} > /data/whose", tenant.name)).await?;
        let bound = |claim: &PersistentVolumeClaim| claim.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Bound"));
        tenant.sees("the claim is bound", "default", "data", bound).await?;
        let events: Api<Event> = tenant.above("default");
        let (said, by) = ("ProvisioningSucceeded", ListParams::default().fields("involvedObject.kind=PersistentVolumeClaim"));
        eventually(format!("{}: the provisioner says that it is made", tenant.name), PATIENCE, async || {
            let seen: Vec<_> = events.list(&by).await?.into_iter().map(|event| (event.reason, event.message)).collect();
            Ok(Seen::when(seen.iter().any(|(reason, _)| reason.as_deref() == Some(said)), seen))
        })
        .await?;
        let volumes = Api::<PersistentVolume>::all(tenant.client()).list(&ListParams::default()).await?.items;
        let [volume] = volumes.as_slice() else { anyhow::bail!("{} sees {} volumes", tenant.name, volumes.len()) };
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        anyhow::ensure!(phase == Some("Bound"), "the tenant's volume is {phase:?}");
    }
    Ok(())
}

async fn read(story: &Story) -> anyhow::Result<()> {
    for tenant in &story.tenants {
        tenant.gone_everywhere::<Pod>("default", "writer").await?;
        let said = run(tenant, "reader", "ls -A /data; cat /data/whose").await?;
        anyhow::ensure!(said == format!("whose\n{}\n", tenant.name), "{} reads {said:?}", tenant.name);
    }
    let folders = folders(story)?;
    anyhow::ensure!(folders.len() == story.tenants.len(), "on the node there are {folders:?}");
    Ok(())
}

/// The volumes on the node.
fn folders(story: &Story) -> anyhow::Result<Vec<String>> {
    let node = story.real.first().context("there is no node")?;
    let within = node.machine.dir().join("lib").join(storage::FOLDER.trim_start_matches("/var/lib/"));
    let entries = std::fs::read_dir(&within).with_context(|| format!("could not look into {}", within.display()))?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
}

async fn deleted(story: &Story) -> anyhow::Result<()> {
    let (tenant, other) = (story.tenant(0)?, story.tenant(1)?);
    for tenant in &story.tenants {
        tenant.gone_everywhere::<Pod>("default", "reader").await?;
    }
    tenant.above::<PersistentVolumeClaim>("default").delete("data", &DeleteParams::default()).await?;
    tenant.gone_everywhere::<PersistentVolumeClaim>("default", "data").await?;
    for (whose, client, left) in [("the tenant", tenant.client(), 0), ("the super cluster", story.bed.sup.client(), 1)] {
        let volumes: Api<PersistentVolume> = Api::all(client);
        eventually(format!("{whose} has {left} volumes"), PATIENCE, async || {
            let seen = volumes.list(&ListParams::default()).await?.items;
            Ok(Seen::when(seen.len() == left, seen))
        })
        .await?;
    }
    eventually("the data of one is gone from the node", PATIENCE, async || {
        let seen = folders(story)?;
        Ok(Seen::when(seen.len() == 1, seen))
    })
    .await?;
    let said = run(other, "again", "cat /data/whose").await?;
    anyhow::ensure!(said == format!("{}\n", other.name), "{} reads {said:?}", other.name);
    Ok(())
}
