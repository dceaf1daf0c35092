//! Somebody's hand in the super cluster: what is ours is mended, what is not ours is never touched.

use std::time::Duration;

use common::keys;
use e2e::{
    bed::apply,
    story::{Plot, Story, chapter, is_running, pod, uid_of},
    wait::never,
};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn drift_is_repaired_and_foreign_objects_are_left_alone() {
    let story = Story::play(Plot::new("drift", 1).flag("--patrol-interval").flag("2s")).await.unwrap();
    begin(&story).await.unwrap();
    let chapters = vec![
        chapter("a Service is what its tenant asked for", service(&story)),
        chapter("a ConfigMap, too, and one that is gone is made again", config_map(&story)),
        chapter("a Secret, too, though nobody watches Secrets", secret(&story)),
        chapter("a Pod's labels and record, too", labels(&story)),
        chapter("what the super cluster adds stays", additions(&story)),
        chapter("a foreign object of the same name is never touched, and the tenant is told", foreign(&story)),
    ];
    story.tell(chapters).await.unwrap();
}

async fn begin(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    for name in ["web", "gone"] {
        tenant.apply(&map(name)).await?;
    }
    tenant.apply(&json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "web" }, "stringData": { "is": "right" } })).await?;
    for name in ["web", "gone"] {
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
            "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80 }] },
        });
        tenant.apply(&service).await?;
    }
    let from = |name: &str| json!({ "configMapRef": { "name": name } });
    let mounts = json!({
        "containers": [{ "name": "main", "image": "web", "envFrom": [from("web"), from("gone")] }],
        "volumes": [{ "name": "s", "secret": { "secretName": "web" } }],
    });
    tenant.apply(&pod("web", &json!({ "app": "web" }), &mounts)).await?;
    tenant.sees("the Pod runs", "default", "web", is_running).await?;
    Ok(())
}

fn map(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": { "is": "right" } })
}

/// A change by an administrator.
async fn edit<K>(api: &Api<K>, name: &str, change: Value) -> anyhow::Result<()>
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    api.patch(name, &PatchParams::default(), &Patch::Merge(&change)).await?;
    Ok(())
}

async fn service(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let below: Api<Service> = tenant.below("default");
    tenant.holds_below::<Service>("the Service is there", "default", "web", |_| true).await?;
    edit(&below, "web", json!({ "spec": { "selector": { "app": "evil" }, "ports": [{ "port": 81 }], "externalIPs": ["192.0.2.1"] } }))
        .await?;
    tenant
        .holds_below("it is as it was", "default", "web", |service: &Service| {
            let spec = service.spec.clone().unwrap_or_default();
            let port = spec.ports.iter().flatten().map(|port| port.port).collect::<Vec<_>>();
            spec.selector.is_some_and(|selector| selector.get("app").is_some_and(|app| app == "web"))
                && port == [80]
                && spec.external_ips.is_none_or(|ips| ips.is_empty())
        })
        .await?;
    let before = tenant.holds_below::<Service>("the other is there", "default", "gone", |_| true).await?;
    below.delete("gone", &DeleteParams::default()).await?;
    let after = tenant.holds_below("it is made again", "default", "gone", |service: &Service| uid_of(service) != uid_of(&before)).await?;
    let address = |service: &Service| service.spec.as_ref().and_then(|spec| spec.cluster_ip.clone());
    anyhow::ensure!(address(&after) == address(&before), "its address is {:?} and was {:?}", address(&after), address(&before));
    Ok(())
}

async fn config_map(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let below: Api<ConfigMap> = tenant.below("default");
    let right = |map: &ConfigMap| map.data.as_ref().is_some_and(|data| data.len() == 1 && data.get("is").is_some_and(|is| is == "right"));
    edit(&below, "web", json!({ "data": { "is": "wrong", "more": "x" } })).await?;
    tenant.holds_below("it is as it was", "default", "web", right).await?;
    let before = uid_of(&below.get("gone").await?);
    below.delete("gone", &DeleteParams::default()).await?;
    tenant.holds_below("it is made again", "default", "gone", |map: &ConfigMap| uid_of(map) != before && right(map)).await?;
    Ok(())
}

async fn secret(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    edit(&tenant.below::<Secret>("default"), "web", json!({ "stringData": { "is": "wrong" } })).await?;
    let right = |secret: &Secret| secret.data.as_ref().is_some_and(|data| data.get("is").is_some_and(|is| is.0 == b"right"));
    tenant.holds_below("it is as it was", "default", "web", right).await?;
    Ok(())
}

async fn labels(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let below: Api<Pod> = tenant.below("default");
    let before = below.get("web").await?;
    let built = before.annotations().get(keys::GENERATION).cloned();
    let change = json!({ "metadata": { "labels": { "app": "evil", "more": "x" }, "annotations": { keys::GENERATION: "99" } } });
    edit(&below, "web", change).await?;
    tenant
        .holds_below("it is as it was", "default", "web", |pod: &Pod| {
            pod.labels().get("app").is_some_and(|app| app == "web")
                && !pod.labels().contains_key("more")
                && pod.annotations().get(keys::GENERATION) == built.as_ref()
        })
        .await?;
    let after = below.get("web").await?;
    anyhow::ensure!(uid_of(&after) == uid_of(&before), "the Pod was made anew");
    Ok(())
}

/// Labels and annotations of other domains belong to the super cluster's own machinery.
async fn additions(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let below: Api<ConfigMap> = tenant.below("default");
    let mark = json!({ "metadata": { "annotations": { "backup.example/last": "today" }, "labels": { "mesh.example/injected": "yes" } } });
    edit(&below, "web", mark).await?;
    never("the marks are taken away", Duration::from_secs(5), async || {
        let map = below.get("web").await?;
        let kept = map.annotations().contains_key("backup.example/last") && map.labels().contains_key("mesh.example/injected");
        Ok((!kept).then(|| format!("{:?} {:?}", map.annotations(), map.labels())))
    })
    .await
}

/// The super cluster has objects of its own in the place where the tenant's would be.
async fn foreign(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let theirs = pod("theirs", &json!({ "app": "theirs", keys::TENANT: tenant.id.as_str() }), &json!({}));
    let before: Pod = apply(&tenant.below("default"), "theirs", &theirs).await?;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "theirs" },
        "spec": { "selector": { "app": "theirs" }, "ports": [{ "port": 7 }] },
    });
    let service_before: Service = apply(&tenant.below("default"), "theirs", &service).await?;
    let own = tenant.apply(&pod("theirs", &json!({ "app": "own" }), &json!({}))).await?;
    let mut service = service.clone();
    if let Some(port) = service.pointer_mut("/spec/ports/0/port") {
        *port = json!(8);
    }
    let own_service = tenant.apply(&service).await?;
    for made in [&own, &own_service] {
        let event = tenant.warned("default", &uid_of(made), "metadata.name").await?;
        anyhow::ensure!(event.reason.as_deref() == Some("NameTaken"), "{event:?}");
    }
    never("the foreign object is touched, or reported", Duration::from_secs(6), async || {
        let below = tenant.below::<Pod>("default").get("theirs").await?;
        let ours =
            below.metadata.managed_fields.iter().flatten().any(|entry| entry.manager.as_deref().is_some_and(|by| by.contains("vc-syncer")));
        let same = uid_of(&below) == uid_of(&before) && below.metadata.deletion_timestamp.is_none() && !ours;
        let other = tenant.below::<Service>("default").get("theirs").await?;
        let above = tenant.above::<Pod>("default").get("theirs").await?;
        let reported =
            above.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()) || above.status.is_some_and(|status| status.pod_ip.is_some());
        let fine = same && other.resource_version() == service_before.resource_version() && !reported;
        Ok((!fine).then(|| format!("{below:?} {other:?}, reported: {reported}")))
    })
    .await?;
    // The tenant takes its own back; the other stays.
    tenant.above::<Pod>("default").delete("theirs", &DeleteParams::default()).await?;
    tenant.above::<Service>("default").delete("theirs", &DeleteParams::default()).await?;
    e2e::wait::eventually("the tenant's is gone", e2e::story::PATIENCE, async || {
        let found = tenant.above::<Pod>("default").get_opt("theirs").await?;
        Ok(e2e::wait::Seen::when(found.is_none(), found))
    })
    .await?;
    let after = tenant.below::<Pod>("default").get("theirs").await?;
    anyhow::ensure!(uid_of(&after) == uid_of(&before) && after.metadata.deletion_timestamp.is_none(), "the foreign Pod went: {after:?}");
    tenant.below::<Service>("default").get("theirs").await?;
    Ok(())
}
