//! Claims of tenants: made by a class that is published, bound on both sides to volumes of their own, grown, and gone with their volume.
//!
//! The volumes are made beforehand, as administrators do without a provisioner; one that makes them is in `real_volumes.rs`.

use std::collections::BTreeSet;

use anyhow::Context as _;
use common::keys;
use e2e::{
    bed::apply,
    story::{Actor, PATIENCE, Plot, Story, chapter, is_running, pod, reveals_nothing, uid_of},
    wait::{Seen, eventually},
};
use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim, Pod},
    storage::v1::{StorageClass, VolumeAttributesClass},
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn claims_get_volumes_of_their_own() {
    let story = Story::play(Plot::new("volumes", 2).flag("--patrol-interval").flag("2s")).await.unwrap();
    prepare(&story).await.unwrap();
    let chapters = vec![
        chapter("the same claim in two tenants, and each has a volume of its own", twins(&story)),
        chapter("the claims of a StatefulSet, of the default class", stateful(&story)),
    ];
    story.tell(chapters).await.unwrap();
    let chapters = vec![
        chapter("a volume that lives as long as its Pod", ephemeral(story.tenant(0).unwrap())),
        chapter("what asks for what is there, or for another class, is refused", refused(&story)),
        chapter("a claim grows, and its tenant hears how far that is", grown(&story)),
        chapter("a claim names other attributes, and its tenant hears how far that is", attributed(&story)),
    ];
    story.tell(chapters).await.unwrap();
    story
        .tell(vec![chapter("nothing of the super cluster's shows in what tenants read", reveals_nothing(&story, &["/srv/"]))])
        .await
        .unwrap();
    story.tell(vec![chapter("a claim that is deleted is gone, and its volume is shown no longer", deleted(&story))]).await.unwrap();
    story.tell(vec![chapter("no write of all these changed nothing", story.syncer.wrote_nothing_in_vain())]).await.unwrap();
}

/// A published class, one that is not, and disks.
async fn prepare(story: &Story) -> anyhow::Result<()> {
    let sup = story.bed.sup.client();
    let classes: Api<StorageClass> = Api::all(sup.clone());
    for (name, labels, default) in [("disks", json!({ keys::PUBLIC: "true" }), "true"), ("platform", json!({}), "false")] {
        let class = json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
            "metadata": { "name": name, "labels": labels, "annotations": { "storageclass.kubernetes.io/is-default-class": default } },
            "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer", "allowVolumeExpansion": true,
        });
        apply(&classes, name, &class).await?;
    }
    for (name, labels) in [("calm", json!({ keys::PUBLIC: "true" })), ("quick", json!({ keys::PUBLIC: "true" })), ("platform", json!({}))] {
        let class = json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttributesClass", "metadata": { "name": name, "labels": labels },
            "driverName": "csi.example", "parameters": { "pool": "/srv/pool" },
        });
        apply(&Api::<VolumeAttributesClass>::all(sup.clone()), name, &class).await?;
    }
    let blocks = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": { "name": "blocks", "labels": { keys::PUBLIC: "true" } },
        "provisioner": "kubernetes.io/no-provisioner",
    });
    apply(&classes, "blocks", &blocks).await?;
    let volumes: Api<PersistentVolume> = Api::all(sup);
    let spec = json!({
        "accessModes": ["ReadWriteOnce"], "capacity": { "storage": "1Gi" }, "storageClassName": "blocks", "volumeAttributesClassName": "calm",
        "csi": { "driver": "csi.example", "volumeHandle": "/srv/block" },
    });
    apply(&volumes, "block", &json!({ "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": "block" }, "spec": spec }))
        .await?;
    for n in 1..=6 {
        let name = format!("disk-{n}");
        let spec = json!({
            "accessModes": ["ReadWriteOnce"], "capacity": { "storage": "1Gi" }, "storageClassName": "disks",
            "persistentVolumeReclaimPolicy": "Retain", "hostPath": { "path": format!("/srv/{name}") },
        });
        apply(&volumes, &name, &json!({ "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": name }, "spec": spec }))
            .await?;
    }
    for tenant in &story.tenants {
        let classes: Api<StorageClass> = Api::all(tenant.client());
        let class = eventually(format!("{}: the class is there", tenant.name), PATIENCE, async || {
            Ok(classes.get_opt("disks").await?.map_or_else(|| Seen::NotYet("none".to_owned()), Seen::Done))
        })
        .await?;
        let default = class.annotations().get("storageclass.kubernetes.io/is-default-class").map(String::as_str);
        anyhow::ensure!(default == Some("true") && class.provisioner == "kubernetes.io/no-provisioner", "{class:?}");
        anyhow::ensure!(classes.get_opt("platform").await?.is_none(), "{} sees what is not published", tenant.name);
    }
    Ok(())
}

fn claim(name: &str, change: &Value) -> Value {
    let mut spec =
        json!({ "accessModes": ["ReadWriteOnce"], "storageClassName": "disks", "resources": { "requests": { "storage": "1Gi" } } });
    if let (Some(spec), Some(change)) = (spec.as_object_mut(), change.as_object()) {
        spec.extend(change.clone());
    }
    json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": name }, "spec": spec })
}

/// A Pod that mounts a claim.
fn mounting(name: &str, claim: &str) -> Value {
    pod(name, &json!({}), &json!({ "volumes": [{ "name": "data", "persistentVolumeClaim": { "claimName": claim } }] }))
}

fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    claim.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Bound"))
}

/// Waits until a claim is bound in the tenant; its volume there, and what it has in the super cluster.
async fn bound(tenant: &Actor, name: &str) -> anyhow::Result<(PersistentVolume, String)> {
    let own = tenant.sees("the claim is bound", "default", name, is_bound).await?;
    let below = tenant.below::<PersistentVolumeClaim>("default").get(name).await?;
    let volume_name = |claim: PersistentVolumeClaim| claim.spec.and_then(|spec| spec.volume_name).context("it names no volume");
    let (volume, disk) = (volume_name(own.clone())?, volume_name(below)?);
    anyhow::ensure!(volume == format!("pvc-{}", uid_of(&own)), "the tenant's volume is called {volume:?}");
    let volume = Api::<PersistentVolume>::all(tenant.client()).get(&volume).await?;
    let claim = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()).context("it names no claim")?;
    anyhow::ensure!(claim.uid == own.uid() && claim.namespace.as_deref() == Some("default"), "{claim:?}");
    Ok((volume, disk))
}

async fn twins(story: &Story) -> anyhow::Result<()> {
    let mut disks = BTreeSet::new();
    for tenant in &story.tenants {
        tenant.apply(&claim("data", &json!({}))).await?;
        tenant.apply(&mounting("db", "data")).await?;
    }
    for tenant in &story.tenants {
        tenant.sees("the Pod runs", "default", "db", is_running).await?;
        let (volume, disk) = bound(tenant, "data").await?;
        let spec = volume.spec.context("no spec")?;
        anyhow::ensure!(spec.host_path.is_none() && spec.node_affinity.is_none(), "the tenant is told where it is: {spec:?}");
        anyhow::ensure!(spec.capacity.is_some_and(|capacity| capacity.get("storage").is_some_and(|size| size.0 == "1Gi")), "no size");
        disks.insert(disk);
    }
    anyhow::ensure!(disks.len() == story.tenants.len(), "they share one: {disks:?}");
    Ok(())
}

async fn stateful(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let labels = json!({ "app": "ledger" });
    let template = json!({ "metadata": { "name": "data" }, "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } } });
    let container = json!({ "name": "main", "image": "web", "volumeMounts": [{ "name": "data", "mountPath": "/data" }] });
    tenant
        .apply(&json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": "ledger" },
            "spec": {
                "serviceName": "ledger", "replicas": 2, "selector": { "matchLabels": labels }, "volumeClaimTemplates": [template],
                "template": { "metadata": { "labels": labels }, "spec": { "containers": [container] } },
            },
        }))
        .await?;
    tenant.running("default", "app=ledger", 2).await?;
    let (first, second) = (bound(tenant, "data-ledger-0").await?.1, bound(tenant, "data-ledger-1").await?.1);
    anyhow::ensure!(first != second, "both are on {first}");
    Ok(())
}

async fn ephemeral(tenant: &Actor) -> anyhow::Result<()> {
    let spec = claim("", &json!({}));
    let volumes = json!([{ "name": "scratch", "ephemeral": { "volumeClaimTemplate": { "spec": spec.get("spec") } } }]);
    tenant.apply(&pod("worker", &json!({}), &json!({ "volumes": volumes, "terminationGracePeriodSeconds": 1 }))).await?;
    tenant.sees("the Pod runs", "default", "worker", is_running).await?;
    bound(tenant, "worker-scratch").await?;
    tenant.above::<Pod>("default").delete("worker", &DeleteParams::default()).await?;
    tenant.gone_everywhere::<PersistentVolumeClaim>("default", "worker-scratch").await
}

/// S17, S18: what would reach a volume that is there.
async fn refused(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(1)?;
    let disk = json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": "disk-1" },
        "spec": { "accessModes": ["ReadWriteOnce"], "capacity": { "storage": "1Gi" }, "storageClassName": "own", "hostPath": { "path": "/etc" } },
    });
    apply(&Api::<PersistentVolume>::all(tenant.client()), "disk-1", &disk).await?;
    for (name, change, field) in [
        ("platform", json!({ "storageClassName": "platform" }), "spec.storageClassName"),
        ("old", json!({ "storageClassName": "" }), "spec.storageClassName"),
        ("own", json!({ "storageClassName": "own", "volumeName": "disk-1" }), "spec.storageClassName"),
        ("favored", json!({ "volumeAttributesClassName": "platform" }), "spec.volumeAttributesClassName"),
        ("labelled", json!({ "selector": { "matchLabels": { "team": "a" } } }), "spec.selector"),
        (
            "snapshot",
            json!({ "dataSource": { "apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "a" } }),
            "spec.dataSource",
        ),
    ] {
        let made = tenant.apply(&claim(name, &change)).await?;
        tenant.warned("default", &uid_of(&made), field).await?;
        let below = tenant.below::<PersistentVolumeClaim>("default").get_opt(name).await?;
        anyhow::ensure!(below.is_none(), "{name} went down: {below:?}");
    }
    // Which volume it gets is not asked.
    tenant.apply(&claim("picky", &json!({ "volumeName": "disk-6" }))).await?;
    let below = tenant.holds_below::<PersistentVolumeClaim>("the claim is there", "default", "picky", |_| true).await?;
    anyhow::ensure!(below.spec.is_some_and(|spec| spec.volume_name.is_none()), "it asks for a certain volume");
    let disk = Api::<PersistentVolume>::all(story.bed.sup.client()).get("disk-1").await?;
    anyhow::ensure!(
        disk.spec.and_then(|spec| spec.host_path).is_some_and(|path| path.path == "/srv/disk-1"),
        "a tenant's volume went down"
    );
    Ok(())
}

async fn grown(story: &Story) -> anyhow::Result<()> {
    let (tenant, sup) = (story.tenant(0)?, story.bed.sup.client());
    let (_, disk) = bound(tenant, "data").await?;
    let more = json!({ "spec": { "resources": { "requests": { "storage": "2Gi" } } } });
    tenant.above::<PersistentVolumeClaim>("default").patch("data", &PatchParams::default(), &Patch::Merge(&more)).await?;
    let asked = |claim: &PersistentVolumeClaim| {
        let requests = claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?;
        requests.get("storage").map(|size| size.0.clone())
    };
    tenant.holds_below("more is asked for", "default", "data", |claim| asked(claim).as_deref() == Some("2Gi")).await?;
    // What the resizer of a driver does.
    let size = json!({ "spec": { "capacity": { "storage": "2Gi" } } });
    Api::<PersistentVolume>::all(sup.clone()).patch(&disk, &PatchParams::default(), &Patch::Merge(&size)).await?;
    let below: Api<PersistentVolumeClaim> = tenant.below("default");
    let now = "2026-01-01T00:00:00Z";
    let waits = json!({ "status": { "conditions": [{ "type": "FileSystemResizePending", "status": "True", "lastTransitionTime": now, "message": "waits for its Pod" }] } });
    below.patch_status("data", &PatchParams::default(), &Patch::Merge(&waits)).await?;
    let conditions = |claim: &PersistentVolumeClaim| claim.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    tenant
        .sees("it hears of what is still to be done", "default", "data", |claim: &PersistentVolumeClaim| {
            conditions(claim).iter().any(|condition| condition.type_ == "FileSystemResizePending") && is_bound(claim)
        })
        .await?;
    let done = json!({ "status": { "capacity": { "storage": "2Gi" }, "conditions": [] } });
    below.patch_status("data", &PatchParams::default(), &Patch::Merge(&done)).await?;
    let capacity = |claim: &PersistentVolumeClaim| claim.status.as_ref()?.capacity.as_ref()?.get("storage").map(|size| size.0.clone());
    tenant
        .sees("it has grown", "default", "data", |claim: &PersistentVolumeClaim| {
            capacity(claim).as_deref() == Some("2Gi")
                && is_bound(claim)
                && !conditions(claim).iter().any(|condition| condition.type_ == "FileSystemResizePending")
        })
        .await?;
    let (volume, _) = bound(tenant, "data").await?;
    let volumes: Api<PersistentVolume> = Api::all(tenant.client());
    eventually("the tenant's volume has grown", PATIENCE, async || {
        let seen = volumes.get(&volume.name_any()).await?.spec.and_then(|spec| spec.capacity).unwrap_or_default();
        Ok(Seen::when(seen.get("storage").is_some_and(|size| size.0 == "2Gi"), seen))
    })
    .await
    .map(drop)
}

/// What the resizer of a driver writes is written by hand.
async fn attributed(story: &Story) -> anyhow::Result<()> {
    let (tenant, sup) = (story.tenant(1)?, story.bed.sup.client());
    let (above, below) = (tenant.above::<PersistentVolumeClaim>("default"), tenant.below::<PersistentVolumeClaim>("default"));
    let current = |claim: &PersistentVolumeClaim| claim.status.as_ref()?.current_volume_attributes_class_name.clone();
    let under_way = |claim: &PersistentVolumeClaim| claim.status.as_ref()?.modify_volume_status.clone();
    let asked = |claim: &PersistentVolumeClaim| claim.spec.as_ref()?.volume_attributes_class_name.clone();
    let ask = async |class: &str| {
        let change = json!({ "spec": { "volumeAttributesClassName": class } });
        above.patch("attributed", &PatchParams::default(), &Patch::Merge(&change)).await
    };
    let made = tenant.apply(&claim("attributed", &json!({ "storageClassName": "blocks", "volumeAttributesClassName": "calm" }))).await?;
    let is_calm = |claim: &PersistentVolumeClaim| is_bound(claim) && current(claim).as_deref() == Some("calm");
    tenant.sees("it has what it asked for", "default", "attributed", is_calm).await?;
    let (volume, disk) = bound(tenant, "attributed").await?;
    anyhow::ensure!(disk == "block", "it has {disk}");
    ask("quick").await?;
    tenant.holds_below("other attributes are asked for", "default", "attributed", |claim| asked(claim).as_deref() == Some("quick")).await?;
    let begun = json!({ "status": { "modifyVolumeStatus": { "targetVolumeAttributesClassName": "quick", "status": "InProgress" } } });
    below.patch_status("attributed", &PatchParams::default(), &Patch::Merge(&begun)).await?;
    tenant
        .sees("it hears that they are on their way", "default", "attributed", |claim| {
            is_calm(claim) && under_way(claim).is_some_and(|status| status.status == "InProgress")
        })
        .await?;
    let changed = json!({ "spec": { "volumeAttributesClassName": "quick" } });
    Api::<PersistentVolume>::all(sup).patch(&disk, &PatchParams::default(), &Patch::Merge(&changed)).await?;
    let done = json!({ "status": { "currentVolumeAttributesClassName": "quick", "modifyVolumeStatus": null } });
    below.patch_status("attributed", &PatchParams::default(), &Patch::Merge(&done)).await?;
    tenant
        .sees("it has them", "default", "attributed", |claim| {
            is_bound(claim) && current(claim).as_deref() == Some("quick") && under_way(claim).is_none()
        })
        .await?;
    let volumes: Api<PersistentVolume> = Api::all(tenant.client());
    eventually("so has the tenant's volume", PATIENCE, async || {
        let seen = volumes.get(&volume.name_any()).await?.spec.and_then(|spec| spec.volume_attributes_class_name);
        Ok(Seen::when(seen.as_deref() == Some("quick"), seen))
    })
    .await?;
    ask("platform").await?;
    tenant.warned("default", &uid_of(&made), "spec.volumeAttributesClassName").await?;
    let below = below.get("attributed").await?;
    anyhow::ensure!(asked(&below).as_deref() == Some("quick"), "it asks for {:?}", asked(&below));
    Ok(())
}

async fn deleted(story: &Story) -> anyhow::Result<()> {
    let (tenant, other) = (story.tenant(0)?, story.tenant(1)?);
    let (volume, disk) = bound(tenant, "data").await?;
    let above: Api<PersistentVolumeClaim> = tenant.above("default");
    above.delete("data", &DeleteParams::default()).await?;
    // As in every cluster: a claim stays while a Pod mounts it.
    let going = above.get("data").await?;
    anyhow::ensure!(going.metadata.deletion_timestamp.is_some(), "it is not going");
    let below = tenant.below::<PersistentVolumeClaim>("default").get("data").await?;
    anyhow::ensure!(below.metadata.deletion_timestamp.is_none(), "it goes below while its Pod runs");
    tenant.above::<Pod>("default").delete("db", &DeleteParams::default().grace_period(1)).await?;
    tenant.gone_everywhere::<PersistentVolumeClaim>("default", "data").await?;
    let volumes: Api<PersistentVolume> = Api::all(tenant.client());
    eventually("its volume is shown no longer", PATIENCE, async || {
        let seen = volumes.get_opt(&volume.name_any()).await?;
        Ok(Seen::when(seen.is_none(), seen))
    })
    .await?;
    let kept = Api::<PersistentVolume>::all(story.bed.sup.client()).get(&disk).await?;
    let phase = kept.status.and_then(|status| status.phase);
    anyhow::ensure!(phase.as_deref() == Some("Released"), "the administrator's disk is {phase:?}");
    bound(other, "data").await?;
    let shown =
        Api::<PersistentVolume>::all(other.client()).list(&ListParams::default().labels(&format!("{}=true", keys::VIRTUAL_VOLUME))).await?;
    anyhow::ensure!(shown.items.len() == 2, "the other tenant, which has two, sees {} volumes", shown.items.len());
    Ok(())
}
