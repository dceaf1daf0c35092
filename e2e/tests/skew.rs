//! A super cluster and tenants of two minor versions: a field that one side does not know is carried as far as it can be, and its tenant is told.
//!
//! Each test is for one direction, and its name begins with that: `cargo xtask skew` runs it, and the tests of what both versions know.

use std::time::Duration;

use e2e::{
    bed::BedOptions,
    programs::Release,
    story::{Ledger, PATIENCE, Plot, Story, chapter, is_running, pod, quiet, uid_of},
};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::{
    Api,
    api::{DynamicObject, ListParams, Patch, PatchParams},
    core::{ApiResource, GroupVersionKind},
};
use serde_json::{Value, json};

/// Nothing is written for so long, and it counts as done.
const CALM: Duration = Duration::from_secs(3);

/// Fields of Pods that are new in 1.37, whose API server keeps them only so.
const NEW_IN_SPECS: &str = "--feature-gates=EmptyDirVolumeMode=true,VolumeBindMountOptions=true,GRPCContainerProbeTLS=true";

/// The same of their status.
const NEW_IN_STATUS: &str = "--feature-gates=CSIVolumeHealth=true";

#[tokio::test(flavor = "multi_thread")]
async fn tenant_newer_a_field_that_the_super_cluster_does_not_keep_is_told() {
    let plot = Plot::new("skew-tenant-newer", 1);
    let bed = BedOptions {
        super_release: Release::Older,
        tenant_release: Release::Newest,
        tenant_args: vec![NEW_IN_SPECS.to_owned()],
        ..plot.bed.clone()
    };
    let story = Story::play(Plot { bed, ..plot }).await.unwrap();
    story.tell(vec![chapter("a Pod of new fields runs, and its tenant is told of each of them", told(&story))]).await.unwrap();
    story.tell(vec![chapter("once: nothing is written anew, not after a restart either", once(&story))]).await.unwrap();
    story.tell(vec![chapter("a Pod of known fields is not spoken of", unspoken(&story))]).await.unwrap();
    story.tell(vec![chapter("no write of all these changed nothing", story.syncer.wrote_nothing_in_vain())]).await.unwrap();
}

/// What asks for the new fields, and where they stand.
fn new_fields() -> (Value, [&'static str; 3]) {
    let spec = json!({
        "volumes": [{ "name": "scratch", "emptyDir": { "mode": 448 } }],
        "containers": [{
            "name": "main", "image": "web",
            "volumeMounts": [{ "name": "scratch", "mountPath": "/scratch", "bindMountOptions": ["noexec"] }],
            "livenessProbe": { "grpc": { "port": 8443, "mode": "TLS" } },
        }],
    });
    let fields = [
        "spec.volumes[0].emptyDir.mode",
        "spec.containers[0].volumeMounts[0].bindMountOptions",
        "spec.containers[0].livenessProbe.grpc.mode",
    ];
    (spec, fields)
}

/// As its API server has it: with fields that no struct of ours may know.
fn raw(api: &Api<Pod>) -> Api<DynamicObject> {
    let namespace = api.namespace().unwrap_or("default");
    Api::namespaced_with(api.clone().into_client(), namespace, &ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "Pod")))
}

fn at(path: &str) -> String {
    format!("/{}", path.replace('[', "/").replace(']', "").replace('.', "/"))
}

async fn told(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let (spec, fields) = new_fields();
    let made = tenant.apply(&pod("newer", &json!({ "app": "newer" }), &spec)).await?;
    for field in fields {
        anyhow::ensure!(made.data.pointer(&at(field)).is_some(), "the tenant's own API server does not keep {field}: {:?}", made.data);
    }
    let event = tenant.warned("default", &uid_of(&made), "emptyDir.mode").await?;
    let said = event.message.unwrap_or_default();
    let missing: Vec<_> = fields.iter().filter(|field| !said.contains(*field)).collect();
    anyhow::ensure!(missing.is_empty() && event.reason.as_deref() == Some("FieldNotKept"), "{missing:?} are not in {said:?}");
    tenant.sees("it runs all the same", "default", "newer", is_running).await?;
    let below = raw(&tenant.below("default")).get("newer").await?;
    let kept: Vec<_> = fields.iter().filter(|field| below.data.pointer(&at(field)).is_some()).collect();
    anyhow::ensure!(kept.is_empty(), "the super cluster knows {kept:?}: this is no test of skew");
    let above = raw(&tenant.above("default")).get("newer").await?;
    anyhow::ensure!(
        fields.iter().all(|field| above.data.pointer(&at(field)).is_some()),
        "the tenant's own Pod lost some: {:?}",
        above.data
    );
    Ok(())
}

async fn once(story: &Story) -> anyhow::Result<()> {
    quiet(&story.bed, CALM, PATIENCE).await?;
    let ledger = Ledger::open(&story.bed);
    story.syncer.process.restart().await?;
    story.syncer.wait_ready(PATIENCE).await?;
    quiet(&story.bed, CALM, PATIENCE).await?;
    let pods = ledger.writes(&story.bed)?.map(|calls| calls.filter(|call| call.resource == "pods"));
    anyhow::ensure!(pods.is_empty(), "after a restart:\n{pods}");
    Ok(())
}

async fn unspoken(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let made = tenant.apply(&pod("plain", &json!({ "app": "plain" }), &json!({}))).await?;
    tenant.sees("it runs", "default", "plain", is_running).await?;
    let events: Api<Event> = tenant.above("default");
    let events = events.list(&ListParams::default().fields(&format!("involvedObject.uid={}", uid_of(&made)))).await?.items;
    let said: Vec<_> = events.iter().filter(|event| event.type_.as_deref() == Some("Warning")).collect();
    anyhow::ensure!(said.is_empty(), "{said:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn super_newer_a_status_that_the_tenant_does_not_know_keeps_nothing_else_from_it() {
    let story = play("skew-super-newer", Release::Older).await.unwrap();
    story.tell(vec![chapter("of a status with a new field comes up what the tenant knows", reported(&story, false))]).await.unwrap();
    story.tell(vec![chapter("what it lacks is counted, and not written again and again", counted(&story))]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn super_newer_a_new_field_of_a_status_comes_up_where_the_tenant_has_been_upgraded_too() {
    let story = play("skew-upgraded", Release::Newest).await.unwrap();
    story.tell(vec![chapter("a new field of the status comes up", reported(&story, true))]).await.unwrap();
    story.tell(vec![chapter("no write of all these changed nothing", story.syncer.wrote_nothing_in_vain())]).await.unwrap();
}

async fn play(name: &str, tenant_release: Release) -> anyhow::Result<Story> {
    let plot = Plot::new(name, 1);
    let flags = vec![NEW_IN_STATUS.to_owned()];
    // The older one does not know the gate either.
    let tenant_args = if tenant_release == Release::Newest { flags.clone() } else { Vec::new() };
    let bed = BedOptions { super_release: Release::Newest, tenant_release, super_args: flags, tenant_args, ..plot.bed.clone() };
    Story::play(Plot { bed, ..plot }).await
}

/// A kubelet says something new of a Pod, beside something old.
async fn reported(story: &Story, carried: bool) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let spec = json!({ "volumes": [{ "name": "disk", "emptyDir": {} }] });
    tenant.apply(&pod("ill", &json!({ "app": "ill" }), &spec)).await?;
    tenant.sees("it runs", "default", "ill", is_running).await?;
    let health = json!([{ "name": "disk", "healthConditions": [{ "status": "Degraded", "reason": "Slow" }] }]);
    let status = Patch::Merge(json!({ "status": { "volumeHealth": health, "message": "the disk is slow" } }));
    let below = raw(&tenant.below("default"));
    let patched = below.patch_status("ill", &PatchParams::default(), &status).await?;
    anyhow::ensure!(
        patched.data.pointer("/status/volumeHealth/0/name").is_some(),
        "the super cluster does not keep it: {:?}",
        patched.data
    );
    let says = |pod: &Pod| pod.status.as_ref().and_then(|status| status.message.as_deref()) == Some("the disk is slow");
    tenant.sees("the message came up", "default", "ill", says).await?;
    let above = raw(&tenant.above("default")).get("ill").await?;
    let seen = above.data.pointer("/status/volumeHealth/0/healthConditions/0/reason").and_then(Value::as_str);
    anyhow::ensure!(seen == carried.then_some("Slow"), "{:?}", above.data.pointer("/status"));
    Ok(())
}

async fn counted(story: &Story) -> anyhow::Result<()> {
    quiet(&story.bed, CALM, PATIENCE).await?;
    let lost = story.syncer.metric("vc_fields_not_kept_total", r#"side="tenant""#).await?;
    anyhow::ensure!(lost > 0.0, "not counted:\n{}", story.syncer.metrics().await?);
    story.syncer.wrote_nothing_in_vain().await
}
