//! Classes that the administrator publishes are in every tenant, as they are in the super cluster, and Pods may name them.

use std::fmt::Debug;

use anyhow::Context as _;
use common::keys;
use e2e::{
    bed::apply,
    story::{Actor, PATIENCE, Plot, Story, chapter, is_running, pod, uid_of},
    wait::{Seen, eventually},
};
use k8s_openapi::api::{core::v1::Pod, node::v1::RuntimeClass, scheduling::v1::PriorityClass, storage::v1::VolumeAttributesClass};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_is_in_every_tenant() {
    let story = Story::play(Plot::new("classes", 2).flag("--patrol-interval").flag("2s")).await.unwrap();
    story.tell(vec![chapter("both tenants see what is published and nothing else", published(&story))]).await.unwrap();
    let chapters = vec![
        chapter("a Pod of a published class has its priority and its runtime below; of a class of the tenant's own, none", used(&story)),
        chapter("what a tenant changes is changed back, what it deletes comes again", undone(&story)),
    ];
    story.tell(chapters).await.unwrap();
    story.tell(vec![chapter("what the administrator changes, tenants follow", followed(&story))]).await.unwrap();
    story.tell(vec![chapter("what is published no longer goes, and what runs goes on", withdrawn(&story))]).await.unwrap();
    story.tell(vec![chapter("no write of all these changed nothing", story.syncer.wrote_nothing_in_vain())]).await.unwrap();
}

fn priority(name: &str, value: i32, labels: &Value) -> Value {
    json!({
        "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": { "name": name, "labels": labels },
        "value": value, "description": format!("{name} of {value}"),
    })
}

fn runtime(name: &str, handler: &str) -> Value {
    json!({ "apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": { "name": name, "labels": public() }, "handler": handler })
}

fn attributes(name: &str, driver: &str) -> Value {
    json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttributesClass", "metadata": { "name": name, "labels": public() },
        "driverName": driver, "parameters": { "pool": "ssd-7" },
    })
}

fn public() -> Value {
    json!({ keys::PUBLIC: "true" })
}

/// Waits until a tenant's class is as expected, or gone.
async fn sees<K>(tenant: &Actor, what: &str, name: &str, is_right: impl Fn(Option<&K>) -> bool) -> anyhow::Result<()>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::ClusterResourceScope> + Clone + DeserializeOwned + Debug,
{
    let api: Api<K> = Api::all(tenant.client());
    eventually(format!("{}: {what}", tenant.name), PATIENCE, async || {
        let found = api.get_opt(name).await?;
        Ok(Seen::when(is_right(found.as_ref()), found))
    })
    .await
    .map(drop)
}

async fn published(story: &Story) -> anyhow::Result<()> {
    let sup = story.bed.sup.client();
    let own = Api::<PriorityClass>::all(story.tenant(0)?.client());
    apply(&own, "silver", &priority("silver", 7, &json!({}))).await?;
    let classes: Api<PriorityClass> = Api::all(sup.clone());
    for (name, value, labels) in [("gold", 1000, public()), ("silver", 500, public()), ("hidden", 2000, json!({}))] {
        apply(&classes, name, &priority(name, value, &labels)).await?;
    }
    apply(&Api::<RuntimeClass>::all(sup.clone()), "sandbox", &runtime("sandbox", "runsc")).await?;
    apply(&Api::<VolumeAttributesClass>::all(sup), "quick", &attributes("quick", "csi.example")).await?;
    for tenant in &story.tenants {
        sees::<PriorityClass>(tenant, "gold is there", "gold", |class| {
            class.is_some_and(|class| class.value == Some(1000) && class.description.as_deref() == Some("gold of 1000"))
        })
        .await?;
        sees::<RuntimeClass>(tenant, "sandbox is there", "sandbox", |class| class.is_some_and(|class| class.handler == "runsc")).await?;
        sees::<VolumeAttributesClass>(tenant, "quick is there, without what its driver is told", "quick", |class| {
            class.is_some_and(|class| class.driver_name == "csi.example" && !format!("{class:?}").contains("ssd-7"))
        })
        .await?;
        anyhow::ensure!(Api::<PriorityClass>::all(tenant.client()).get_opt("hidden").await?.is_none(), "what is not published is there");
    }
    // What a tenant had before stays its own; who had none gets it.
    let has = |value: i32| move |class: Option<&PriorityClass>| class.is_some_and(|class| class.value == Some(value));
    sees(story.tenant(1)?, "silver is there", "silver", has(500)).await?;
    sees(story.tenant(0)?, "its own silver is there", "silver", has(7)).await
}

async fn used(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    apply(&Api::<PriorityClass>::all(tenant.client()), "mine", &priority("mine", 900_000, &json!({}))).await?;
    let below = async |name: &str, spec: Value| -> anyhow::Result<(Option<String>, Option<i32>, Option<String>)> {
        tenant.apply(&pod(name, &json!({}), &spec)).await?;
        tenant.sees("the Pod runs", "default", name, is_running).await?;
        let spec = tenant.below::<Pod>("default").get(name).await?.spec.context("no spec")?;
        Ok((spec.priority_class_name, spec.priority, spec.runtime_class_name))
    };
    let golden = below("golden", json!({ "priorityClassName": "gold", "runtimeClassName": "sandbox" })).await?;
    anyhow::ensure!(golden == (Some("gold".into()), Some(1000), Some("sandbox".into())), "{golden:?}");
    let classes: Api<RuntimeClass> = Api::all(tenant.client());
    for (name, handler) in [("my-sandbox", "runsc"), ("my-host", "runc")] {
        apply(&classes, name, &runtime(name, handler)).await?;
    }
    let by_handler = below("by-handler", json!({ "runtimeClassName": "my-sandbox" })).await?;
    anyhow::ensure!(by_handler.2.as_deref() == Some("sandbox"), "{by_handler:?}");
    let above = tenant.above::<Pod>("default").get("by-handler").await?.spec.and_then(|spec| spec.runtime_class_name);
    anyhow::ensure!(above.as_deref() == Some("my-sandbox"), "in its own cluster it has {above:?}");
    tenant.apply(&pod("unpublished", &json!({}), &json!({ "runtimeClassName": "my-host" }))).await?;
    let unpublished = tenant.above::<Pod>("default").get("unpublished").await?;
    tenant.warned("default", &uid_of(&unpublished), "spec.runtimeClassName").await?;
    let mine = below("mine", json!({ "priorityClassName": "mine" })).await?;
    anyhow::ensure!(mine == (None, Some(0), None), "{mine:?}");
    let above = tenant.above::<Pod>("default").get("mine").await?.spec.and_then(|spec| spec.priority);
    anyhow::ensure!(above == Some(900_000), "in its own cluster it has {above:?}");
    Ok(())
}

async fn undone(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(1)?;
    let classes: Api<PriorityClass> = Api::all(tenant.client());
    let change = json!({ "description": "mine now", "globalDefault": true, "metadata": { "labels": { "team": "a" } } });
    classes.patch("gold", &PatchParams::default(), &Patch::Merge(&change)).await?;
    sees::<PriorityClass>(tenant, "gold is as it was, and keeps its label", "gold", |class| {
        class.is_some_and(|class| {
            class.description.as_deref() == Some("gold of 1000")
                && class.global_default != Some(true)
                && class.labels().contains_key("team")
        })
    })
    .await?;
    let before = classes.get("gold").await?.uid();
    classes.delete("gold", &DeleteParams::default()).await?;
    sees::<PriorityClass>(tenant, "gold is there again", "gold", |class| class.is_some_and(|class| class.uid() != before)).await
}

async fn followed(story: &Story) -> anyhow::Result<()> {
    let sup = story.bed.sup.client();
    let change = json!({ "description": "what must not wait" });
    Api::<PriorityClass>::all(sup.clone()).patch("gold", &PatchParams::default(), &Patch::Merge(&change)).await?;
    // A handler cannot change, so it is another class of the same name.
    let classes: Api<RuntimeClass> = Api::all(sup);
    classes.delete("sandbox", &DeleteParams::default()).await?;
    apply(&classes, "sandbox", &runtime("sandbox", "kata")).await?;
    // Nor can a driver.
    let classes: Api<VolumeAttributesClass> = Api::all(story.bed.sup.client());
    classes.delete("quick", &DeleteParams::default()).await?;
    eventually("the class is gone", PATIENCE, async || {
        let seen = classes.get_opt("quick").await?;
        Ok(Seen::when(seen.is_none(), seen))
    })
    .await?;
    apply(&classes, "quick", &attributes("quick", "csi.other")).await?;
    for tenant in &story.tenants {
        sees::<PriorityClass>(tenant, "gold says it", "gold", |class| {
            class.is_some_and(|class| class.description.as_deref() == Some("what must not wait"))
        })
        .await?;
        sees::<RuntimeClass>(tenant, "sandbox is the new one", "sandbox", |class| class.is_some_and(|class| class.handler == "kata"))
            .await?;
        sees::<VolumeAttributesClass>(tenant, "quick is the new one", "quick", |class| {
            class.is_some_and(|class| class.driver_name == "csi.other")
        })
        .await?;
    }
    Ok(())
}

async fn withdrawn(story: &Story) -> anyhow::Result<()> {
    let classes: Api<PriorityClass> = Api::all(story.bed.sup.client());
    for name in ["gold", "silver"] {
        let change = json!({ "metadata": { "labels": { keys::PUBLIC: null } } });
        classes.patch(name, &PatchParams::default(), &Patch::Merge(&change)).await?;
    }
    let change = json!({ "metadata": { "labels": { keys::PUBLIC: null } } });
    let attributes: Api<VolumeAttributesClass> = Api::all(story.bed.sup.client());
    attributes.patch("quick", &PatchParams::default(), &Patch::Merge(&change)).await?;
    for tenant in &story.tenants {
        sees::<PriorityClass>(tenant, "gold is gone", "gold", |class| class.is_none()).await?;
        sees::<VolumeAttributesClass>(tenant, "quick is gone", "quick", |class| class.is_none()).await?;
    }
    sees::<PriorityClass>(story.tenant(1)?, "silver is gone", "silver", |class| class.is_none()).await?;
    let (tenant, own) = (story.tenant(0)?, Api::<PriorityClass>::all(story.tenant(0)?.client()));
    anyhow::ensure!(
        own.get("silver").await?.value == Some(7) && own.get("mine").await?.value == Some(900_000),
        "the tenant lost one of its own"
    );
    tenant.sees("the Pod runs on", "default", "golden", is_running).await?;
    anyhow::ensure!(tenant.below::<Pod>("default").get("golden").await?.metadata.deletion_timestamp.is_none(), "it ends");
    Ok(())
}
