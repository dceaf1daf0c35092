//! Custom resources by configuration: definitions of cert-manager and of the snapshotter, of which the tenants hold different versions, go down
//! without a restart and without code, in the version that both sides serve.

use anyhow::Context as _;
use common::{
    api::{ConditionType, SyncedResource, condition},
    keys,
};
use e2e::{
    bed::apply,
    definitions::{CERT_MANAGER, CERT_MANAGER_OLDER, SNAPSHOTTER, SNAPSHOTTER_OLDER, SNAPSHOTTER_OLDEST},
    manifests,
    story::{Actor, PATIENCE, Plot, Story, chapter, owner_of, uid_of},
    wait::{Seen, eventually},
};
use kube::{
    Api, ResourceExt as _,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams},
    core::GroupVersionKind,
};
use serde_json::{Value, json};

const CERTIFICATES: &str = "certificates.cert-manager.io";
const SNAPSHOTS: &str = "volumesnapshots.snapshot.storage.k8s.io";
/// The files of their definitions.
const CERTIFICATES_FILE: &str = "crd-certificates.yaml";
const SNAPSHOTS_FILE: &str = "snapshot.storage.k8s.io_volumesnapshots.yaml";

#[tokio::test(flavor = "multi_thread")]
async fn custom_resources_go_down_by_configuration() {
    let story = Story::play(Plot::new("synced", 2).flag("--patrol-interval").flag("2s")).await.unwrap();
    story
        .tell(vec![chapter("each tenant meets the super cluster in the version that both serve, or it is said", met(&story))])
        .await
        .unwrap();
    let chapters = vec![
        chapter("an object goes down field by field, and its status comes back in the tenant's names", served(&story)),
        chapter("what leads out of the tenant's namespace is refused, with the field", refused(&story)),
        chapter("a writer writes them with its tenant's record alone", fenced(&story)),
    ];
    story.tell(chapters).await.unwrap();
    story.tell(vec![chapter("a version that is served later is followed from then on", later(&story))]).await.unwrap();
    story
        .tell(vec![chapter("what is configured no more is held, and made up for when it is configured again", held(&story))])
        .await
        .unwrap();
    story.tell(vec![chapter("a definition that a tenant deletes takes its objects below along", undefined(&story))]).await.unwrap();
    story.tell(vec![chapter("no write of all these changed nothing", story.syncer.wrote_nothing_in_vain())]).await.unwrap();
}

fn resource(api_version: &str, kind: &str) -> ApiResource {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

fn certificates() -> ApiResource {
    resource("cert-manager.io/v1", "Certificate")
}

fn above(tenant: &Actor, resource: &ApiResource) -> Api<DynamicObject> {
    Api::namespaced_with(tenant.client(), "default", resource)
}

fn below(story: &Story, tenant: &Actor, resource: &ApiResource) -> Api<DynamicObject> {
    Api::namespaced_with(story.bed.sup.client(), &tenant.namespace_below("default"), resource)
}

async fn is(what: &str, api: &Api<DynamicObject>, name: &str, look: impl Fn(Option<&DynamicObject>) -> bool) -> anyhow::Result<()> {
    eventually(what.to_owned(), PATIENCE, async || {
        let found = api.get_opt(name).await?;
        Ok(Seen::when(look(found.as_ref()), found))
    })
    .await
    .map(drop)
}

/// Waits until the `SyncedResource` says this reason, words of this in its message, and so many tenants in each version.
async fn stands(story: &Story, name: &str, reason: &str, said: &str, versions: &[(&str, i32)]) -> anyhow::Result<()> {
    let api: Api<SyncedResource> = Api::all(story.bed.sup.client());
    eventually(format!("{name}: {reason}"), PATIENCE, async || {
        let status = api.get(name).await?.status.unwrap_or_default();
        let found = condition(&status.conditions, ConditionType::Ready);
        let has: Vec<_> = status.versions.iter().map(|one| (one.version.as_str(), one.tenants)).collect();
        let is_said = found.is_some_and(|condition| condition.reason == reason && condition.message.contains(said));
        Ok(Seen::when(is_said && has == versions, format!("{status:?}")))
    })
    .await
    .map(drop)
}

fn certificate(name: &str, change: &Value) -> Value {
    let mut spec = json!({"dnsNames": ["web.example.com"], "secretName": "web-tls", "issuerRef": {"name": "own", "kind": "Issuer"}});
    if let (Some(spec), Some(change)) = (spec.as_object_mut(), change.as_object()) {
        spec.extend(change.clone());
    }
    json!({"apiVersion": "cert-manager.io/v1", "kind": "Certificate", "metadata": {"name": name, "labels": {"team.example/a": "b"}}, "spec": spec})
}

/// A certificate that says that it is a tenant's.
fn labeled(name: &str, tenant: &Actor) -> Value {
    let mut certificate = certificate(name, &json!({}));
    if let Some(labels) = certificate.pointer_mut("/metadata/labels") {
        *labels = json!({keys::TENANT: tenant.id.as_str()});
    }
    certificate
}

fn names(certificate: &Value) -> Option<&Value> {
    certificate.pointer("/spec/dnsNames")
}

fn snapshot(name: &str, version: &str) -> Value {
    json!({
        "apiVersion": format!("snapshot.storage.k8s.io/{version}"), "kind": "VolumeSnapshot", "metadata": {"name": name},
        "spec": {"source": {"persistentVolumeClaimName": "data"}},
    })
}

async fn met(story: &Story) -> anyhow::Result<()> {
    let sup = story.bed.sup.client();
    let (first, second) = (story.tenant(0)?, story.tenant(1)?);
    // The syncer runs already. The definitions come before and after what says that they are followed.
    CERT_MANAGER.install(CERTIFICATES_FILE, &sup).await?;
    CERT_MANAGER.install(CERTIFICATES_FILE, &first.client()).await?;
    manifests::install_sample("synced-resources.yaml", &[], &sup).await?;
    stands(story, SNAPSHOTS, "NotServed", "no such CustomResourceDefinition", &[]).await?;
    SNAPSHOTTER.install(SNAPSHOTS_FILE, &sup).await?;
    SNAPSHOTTER_OLDER.install(SNAPSHOTS_FILE, &first.client()).await?;
    CERT_MANAGER_OLDER.install(CERTIFICATES_FILE, &second.client()).await?;
    SNAPSHOTTER_OLDEST.install(SNAPSHOTS_FILE, &second.client()).await?;
    stands(story, CERTIFICATES, "Followed", "", &[("v1", 2)]).await?;
    let alone = format!("{} ({}) serves v1beta1", second.name, second.id.as_str());
    stands(story, SNAPSHOTS, "NoCommonVersion", &alone, &[("v1", 1)]).await
}

async fn served(story: &Story) -> anyhow::Result<()> {
    let resource = certificates();
    for tenant in &story.tenants {
        let made = tenant.apply(&certificate("web", &json!({}))).await?;
        let (above, below) = (above(tenant, &resource), below(story, tenant, &resource));
        is("it is below", &below, "web", |found| found.is_some()).await?;
        let sup = below.get("web").await?;
        let owner = owner_of(&sup)?;
        anyhow::ensure!(owner.uid.to_string() == uid_of(&made) && owner.name.as_str() == "web", "{owner:?}");
        anyhow::ensure!(sup.data.get("spec") == made.data.get("spec"), "{} instead of {}", sup.data, made.data);
        anyhow::ensure!(sup.labels().keys().all(|key| !key.starts_with("team.example/")), "{:?}", sup.labels());
        // As a controller of the super cluster says it.
        let message = format!("the Secret {}/web-tls is up to date", sup.namespace().unwrap_or_default());
        let ready = json!({"type": "Ready", "status": "True", "reason": "Ready", "message": message, "observedGeneration": 1,
            "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let status = json!({"status": {"notAfter": "2027-01-01T00:00:00Z", "conditions": [ready]}});
        below.patch_status("web", &PatchParams::default(), &Patch::Merge(&status)).await?;
        is("the tenant sees it", &above, "web", |found| {
            let message = found.and_then(|found| found.data.pointer("/status/conditions/0/message")).and_then(Value::as_str);
            message == Some("the Secret default/web-tls is up to date")
        })
        .await?;
        let change = json!({"spec": {"dnsNames": ["web.example.com", "www.example.com"]}});
        above.patch("web", &PatchParams::default(), &Patch::Merge(&change)).await?;
        is("a change is followed", &below, "web", |found| {
            found.is_some_and(|found| names(&found.data) == names(&change) && found.data.get("status").is_some())
        })
        .await?;
        above.delete("web", &DeleteParams::default()).await?;
        is("it goes below too", &below, "web", |found| found.is_none()).await?;
    }
    Ok(())
}

async fn refused(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let hostile = [
        ("cluster-wide", json!({"issuerRef": {"name": "platform", "kind": "ClusterIssuer"}}), "spec.issuerRef.kind"),
        ("copied", json!({"secretTemplate": {"annotations": {"copy.example/to": "kube-system"}}}), "spec.secretTemplate.annotations"),
        ("unnamed", json!({"keystores": {"jks": {"create": false, "alias": "a"}}}), "spec.keystores"),
    ];
    for (name, change, field) in hostile {
        let made = tenant.apply(&certificate(name, &change)).await?;
        tenant.warned("default", &uid_of(&made), field).await?;
        let below = below(story, tenant, &certificates()).get_opt(name).await?;
        anyhow::ensure!(below.is_none(), "{name} went down: {below:?}");
        above(tenant, &certificates()).delete(name, &DeleteParams::default()).await?;
    }
    // What is labelled as ours in the tenant is its own there.
    tenant.apply(&labeled("marked", story.tenant(1)?)).await?;
    let api = below(story, tenant, &certificates());
    is("it is below", &api, "marked", |found| {
        found.is_some_and(|found| found.labels().get(keys::TENANT).map(String::as_str) == Some(tenant.id.as_str()))
    })
    .await?;
    above(tenant, &certificates()).delete("marked", &DeleteParams::default()).await?;
    is("it goes", &api, "marked", |found| found.is_none()).await
}

async fn later(story: &Story) -> anyhow::Result<()> {
    let (first, second) = (story.tenant(0)?, story.tenant(1)?);
    first.apply(&snapshot("daily", "v1")).await?;
    second.apply(&snapshot("daily", "v1beta1")).await?;
    let now = resource("snapshot.storage.k8s.io/v1", "VolumeSnapshot");
    is("it is below", &below(story, first, &now), "daily", |found| found.is_some()).await?;
    anyhow::ensure!(
        below(story, second, &now).get_opt("daily").await?.is_none(),
        "it went down in a version that the tenant does not serve"
    );
    SNAPSHOTTER_OLDER.install(SNAPSHOTS_FILE, &story.bed.sup.client()).await?;
    stands(story, SNAPSHOTS, "Followed", "", &[("v1", 1), ("v1beta1", 1)]).await?;
    is("it is below too", &below(story, second, &now), "daily", |found| found.is_some()).await?;
    let below = below(story, second, &resource("snapshot.storage.k8s.io/v1beta1", "VolumeSnapshot"));
    below.patch_status("daily", &PatchParams::default(), &Patch::Merge(&json!({"status": {"readyToUse": true}}))).await?;
    let above = above(second, &resource("snapshot.storage.k8s.io/v1beta1", "VolumeSnapshot"));
    is("the tenant sees that it is ready", &above, "daily", |found| {
        found.is_some_and(|found| found.data.pointer("/status/readyToUse") == Some(&json!(true)))
    })
    .await
}

async fn held(story: &Story) -> anyhow::Result<()> {
    let (tenant, resource) = (story.tenant(0)?, certificates());
    let (above, below) = (above(tenant, &resource), below(story, tenant, &resource));
    for name in ["kept", "dropped"] {
        tenant.apply(&certificate(name, &json!({}))).await?;
        is("it is below", &below, name, |found| found.is_some()).await?;
    }
    let configured: Api<SyncedResource> = Api::all(story.bed.sup.client());
    let mut again = configured.get(CERTIFICATES).await?;
    let before = below.get("kept").await?.uid().context("it has no UID")?;
    configured.delete(CERTIFICATES, &DeleteParams::default()).await?;
    eventually("nobody follows it".to_owned(), PATIENCE, async || {
        let log = std::fs::read_to_string(story.syncer.process.log_path())?;
        let left = log.lines().filter(|line| line.contains("a kind of custom resources is left") && line.contains("Certificate")).count();
        Ok(Seen::when(left > 0, left))
    })
    .await?;
    above.patch("kept", &PatchParams::default(), &Patch::Merge(&json!({"spec": {"dnsNames": ["moved.example.com"]}}))).await?;
    above.delete("dropped", &DeleteParams::default()).await?;
    is("it is gone in the tenant", &above, "dropped", |found| found.is_none()).await?;
    // What is written after it goes down first, were it heard.
    tenant.apply(&certificate("unheard", &json!({}))).await?;
    tenant.apply(&snapshot("later", "v1")).await?;
    let snapshots = resource_below(story, tenant);
    is("what is followed goes down", &snapshots, "later", |found| found.is_some()).await?;
    anyhow::ensure!(below.get_opt("unheard").await?.is_none(), "it went down");
    anyhow::ensure!(names(&below.get("kept").await?.data) == Some(&json!(["web.example.com"])), "it was changed");
    anyhow::ensure!(below.get("dropped").await?.metadata.deletion_timestamp.is_none(), "it went");
    again.metadata = kube::api::ObjectMeta { name: Some(CERTIFICATES.to_owned()), ..Default::default() };
    again.status = None;
    apply(&configured, CERTIFICATES, &serde_json::to_value(&again)?).await?;
    is("what is gone goes", &below, "dropped", |found| found.is_none()).await?;
    let moved = above.get("kept").await?.data;
    is("what moved follows, and is the same", &below, "kept", |found| {
        found.is_some_and(|found| names(&found.data) == names(&moved) && found.uid().as_ref() == Some(&before))
    })
    .await
}

fn resource_below(story: &Story, tenant: &Actor) -> Api<DynamicObject> {
    below(story, tenant, &resource("snapshot.storage.k8s.io/v1", "VolumeSnapshot"))
}

/// What the super cluster's own policies keep of a writer, whatever the syncer is made to do.
async fn fenced(story: &Story) -> anyhow::Result<()> {
    let (tenant, other) = (story.tenant(0)?, story.tenant(1)?);
    let writer = format!("system:serviceaccount:{}:{}", keys::WRITERS_NAMESPACE, tenant.id.writer());
    let path = |whose: &Actor| format!("/apis/cert-manager.io/v1/namespaces/{}/certificates?dryRun=All", whose.namespace_below("default"));
    let (bare, labeled) = (certificate("bare", &json!({})), labeled("bare", tenant));
    for (what, whose, object, part) in [
        ("without a label", tenant, &bare, "carries that tenant's label"),
        ("without a record", tenant, &labeled, "carries its record"),
        ("for another", other, &labeled, "is forbidden"),
    ] {
        let request = http::Request::post(path(whose)).header("content-type", "application/json").header("impersonate-user", &writer);
        let answer = story.bed.sup.client().request::<Value>(request.body(object.to_string().into_bytes())?).await;
        let refused = answer.as_ref().is_err_and(|error| error.to_string().contains(part));
        anyhow::ensure!(refused, "{what}: {answer:?}");
    }
    Ok(())
}

async fn undefined(story: &Story) -> anyhow::Result<()> {
    let (tenant, resource) = (story.tenant(0)?, certificates());
    let below = below(story, tenant, &resource);
    is("it is below", &below, "kept", |found| found.is_some()).await?;
    let definitions = self::resource("apiextensions.k8s.io/v1", "CustomResourceDefinition");
    let definitions: Api<DynamicObject> = Api::all_with(tenant.client(), &definitions);
    definitions.delete(CERTIFICATES, &DeleteParams::default()).await?;
    is("it goes", &below, "kept", |found| found.is_none()).await?;
    stands(story, CERTIFICATES, "Followed", "", &[("v1", 1)]).await?;
    // Or while nobody looks.
    let tenant = story.tenant(1)?;
    let below = resource_below(story, tenant);
    is("it is below", &below, "daily", |found| found.is_some()).await?;
    let definitions = self::resource("apiextensions.k8s.io/v1", "CustomResourceDefinition");
    let definitions: Api<DynamicObject> = Api::all_with(tenant.client(), &definitions);
    story.syncer.process.stop().await?;
    definitions.delete(SNAPSHOTS, &DeleteParams::default()).await?;
    is("its definition is gone", &definitions, SNAPSHOTS, |found| found.is_none()).await?;
    story.syncer.process.start_again()?;
    is("it goes too", &below, "daily", |found| found.is_none()).await?;
    is("that of the other tenant stays", &resource_below(story, story.tenant(0)?), "daily", |found| found.is_some()).await
}
