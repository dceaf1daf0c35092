//! VirtualClusters end: what was theirs goes, what was not stays.
//!
//! *Sources*: row R21 of the reliability matrix; invariants I1 and I2.

use std::time::Duration;

use anyhow::Context as _;
use common::keys;
use e2e::{
    bed::apply,
    story::{
        Actor, Crowd, Holdings, Inventory, Ledger, Plot, Standing, Story, Witness, chapter, difference, is_running, pod, quiet, time_to_run,
    },
    wait::{Seen, eventually, never},
};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Service};
use kube::{
    Api,
    api::{DeleteParams, ListParams},
};
use serde_json::json;
use tokio::time::sleep;

const PODS: usize = 8;
const CALM: Duration = Duration::from_secs(4);
const PATIENCE: Duration = Duration::from_mins(2);
/// How long one waits for what must not happen.
const NEVER: Duration = Duration::from_secs(7);

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_virtual_cluster_takes_all_that_is_its_and_nothing_else() {
    let plot = Plot::new("lifecycle", 3).flag("--lease-duration=12s").flag("--renew-deadline=10s");
    let story = Story::play(plot).await.unwrap();
    foreign(&story).await.unwrap();
    for tenant in &story.tenants {
        Crowd::new(tenant, "crowd").comes(0..PODS).await.unwrap();
        Crowd::new(tenant, "crowd").runs(PODS).await.unwrap();
    }
    let witness = Witness::start(story.bed.sup.client());
    story
        .tell_alive(vec![chapter("two on one control plane: the second is refused, the first goes on", two_on_one(&story))])
        .await
        .unwrap();
    story
        .tell_alive(vec![chapter("paused: nothing is written, also over a restart; then all is made up for", paused(&story))])
        .await
        .unwrap();
    story
        .tell_alive(vec![chapter(
            "deleted: all that is its goes, nothing else; recreated under the same name: nothing old shows",
            deleted(&story),
        )])
        .await
        .unwrap();
    story
        .tell(vec![chapter("deleted while no syncer runs: the same, and one that was recreated meanwhile is new", deleted_unseen(&story))])
        .await
        .unwrap();
    story
        .tell_alive(vec![chapter("deletionPolicy Orphan: what runs goes on running, also after a restart", orphaned(&story))])
        .await
        .unwrap();
    witness.nothing_ran_twice().unwrap();
}

/// What looks like a tenant's, and is somebody else's.
async fn foreign(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let client = story.bed.sup.client();
    let labelled = json!({ "name": "labelled", "labels": { keys::TENANT: tenant.id.as_str() } });
    let alike = json!({ "name": format!("vc-{}-default-0123456789", tenant.name) });
    for meta in [labelled, alike] {
        let name = meta.get("name").and_then(serde_json::Value::as_str).context("no name")?.to_owned();
        apply(&Api::<Namespace>::all(client.clone()), &name, &json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": meta })).await?;
        let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "kept", "labels": { keys::TENANT: tenant.id.as_str() } } });
        apply(&Api::<ConfigMap>::namespaced(client.clone(), &name), "kept", &map).await?;
    }
    let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> = Api::namespaced(client.clone(), "labelled");
    eventually("labelled takes Pods", PATIENCE, async || Ok(Seen::Done(accounts.get("default").await?))).await?;
    let object = pod("bystander", &json!({ keys::TENANT: tenant.id.as_str() }), &json!({}));
    apply(&Api::<Pod>::namespaced(client, "labelled"), "bystander", &object).await.map(drop)
}

async fn two_on_one(story: &Story) -> anyhow::Result<()> {
    let before = inventory(story).await?.of(&story.tenant(1)?.id);
    let sup = story.bed.sup.client();
    let made = story.bed.register(1, "copycat", "copycat").await?;
    let copycat = Standing::of("copycat", "copycat", sup.clone());
    let message = copycat.says("Ready", "False", "SameControlPlane").await?;
    anyhow::ensure!(message.contains(&story.standing(1)?.label), "the message does not name the first: {message}");
    let id = common::TenantId::new(common::Uid::parse(&made.metadata.uid.unwrap_or_default())?, "copycat");
    sleep(NEVER).await;
    anyhow::ensure!(inventory(story).await?.of(&id).is_empty(), "the second has something in the super cluster");
    time_to_run(story.tenant(1)?, "not-impressed").await?;
    story.standing(1)?.is_ready().await?;

    copycat.delete().await?;
    sleep(NEVER).await;
    let after = inventory(story).await?.of(&story.tenant(1)?.id);
    let gone: Vec<_> = difference(&before, &after).into_iter().filter(|line| !line.starts_with("new: ")).collect();
    anyhow::ensure!(gone.is_empty(), "the first lost something with the second: {gone:?}");
    time_to_run(story.tenant(1)?, "not-bereft").await.map(drop)
}

async fn paused(story: &Story) -> anyhow::Result<()> {
    let (tenant, standing) = (story.tenant(1)?, story.standing(1)?);
    quiet(&story.bed, CALM, PATIENCE).await?;
    standing.change(&json!({ "spec": { "paused": true } })).await?;
    standing.says("Ready", "False", "Paused").await?;
    let ledger = Ledger::open(&story.bed);
    // Something new, something deleted for good and something changed in the tenant; something deleted below.
    tenant.apply(&pod("while-paused", &json!({ "app": "while-paused" }), &json!({}))).await?;
    tenant.apply(&json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "while-paused" }, "spec": { "ports": [{ "port": 80 }] } })).await?;
    let now = DeleteParams::default().grace_period(0);
    tenant.above::<Pod>("default").delete("crowd-0", &now).await?;
    tenant.below::<Pod>("default").delete("crowd-1", &now).await?;
    story.syncer.process.restart().await?;
    standing.says("Ready", "False", "Paused").await?;
    // The others are served by the one that was started anew: it has looked at everything.
    time_to_run(story.tenant(2)?, "beside-a-paused").await?;
    let space = tenant.namespace_below("default");
    never("it is written while paused", NEVER, async || {
        let writes = ledger.writes(&story.bed)?;
        let (below, above) = (writes.sup.filter(|call| call.namespace == space), writes.tenants.get(1).context("no tenant")?);
        Ok((!below.is_empty() || !above.is_empty()).then(|| format!("below:\n{below}above:\n{above}")))
    })
    .await?;
    anyhow::ensure!(tenant.below::<Pod>("default").get_opt("crowd-0").await?.is_some(), "a Pod was deleted while paused");

    standing.change(&json!({ "spec": { "paused": false } })).await?;
    standing.is_ready().await?;
    tenant.sees("what came meanwhile runs", "default", "while-paused", is_running).await?;
    tenant.holds_below::<Service>("the Service is there", "default", "while-paused", |_| true).await?;
    for name in ["crowd-0", "crowd-1"] {
        tenant.gone_everywhere::<Pod>("default", name).await?;
    }
    Ok(())
}

async fn deleted(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    quiet(&story.bed, CALM, PATIENCE).await?;
    let before = inventory(story).await?;
    let ledger = Ledger::open(&story.bed);
    story.standing(0)?.delete().await?;
    gone(story, tenant).await?;
    others_untouched(story, &[tenant], &before).await?;
    let up = ledger.writes(&story.bed)?.tenants.first().cloned().unwrap_or_default();
    anyhow::ensure!(up.filter(|call| call.verb.starts_with("delete")).is_empty(), "something was deleted in the tenant:\n{up}");

    // The same name, another life. Its Pods of before were ended with it: they do not run a second time.
    let anew = Actor::register(&story.bed, 0).await?;
    anyhow::ensure!(anew.id.as_str() != tenant.id.as_str(), "the id is the same");
    starts_anew(story, tenant, &anew, &before).await
}

/// The VirtualCluster of the same name is another tenant: it works, and nothing of the earlier one shows.
async fn starts_anew(story: &Story, earlier: &Actor, anew: &Actor, before: &Inventory) -> anyhow::Result<()> {
    Standing::of(&anew.name, &anew.name, story.bed.sup.client()).is_ready().await?;
    time_to_run(anew, "anew").await?;
    quiet(&story.bed, CALM, PATIENCE).await?;
    let now = inventory(story).await?;
    let old = before.of(&earlier.id);
    let shown: Vec<_> = now.of(&anew.id).into_iter().filter(|(_, uid)| old.values().any(|old| old == uid)).collect();
    anyhow::ensure!(shown.is_empty(), "of the earlier one: {shown:?}");
    anyhow::ensure!(now.of(&earlier.id).is_empty(), "the earlier one has something again");
    let pods: Vec<_> = now.of(&anew.id).into_keys().filter(|place| place.starts_with("pods/")).collect();
    anyhow::ensure!(pods.len() == 1, "more than the new Pod runs: {pods:?}");
    let above: Api<Pod> = anew.above("default");
    eventually("the tenant sees no Pod any more that ended with the earlier one", PATIENCE, async || {
        let names: Vec<_> = above.list(&ListParams::default()).await?.iter().map(kube::ResourceExt::name_any).collect();
        Ok(Seen::when(names == ["anew"], names))
    })
    .await
    .map(drop)
}

/// Two end while no syncer runs: one for good, one that is there again under its name before anybody looks.
async fn deleted_unseen(story: &Story) -> anyhow::Result<()> {
    let (ended, earlier) = (Actor::registered(&story.bed, 0).await?, story.tenant(1)?);
    quiet(&story.bed, CALM, PATIENCE).await?;
    let before = inventory(story).await?;
    story.syncer.process.kill()?;
    for i in [0, 1] {
        story.standing(i)?.delete().await?;
    }
    let anew = Actor::register(&story.bed, 1).await?;
    story.syncer.process.start_again()?;
    story.syncer.wait_ready(PATIENCE).await?;
    gone(story, &ended).await?;
    gone(story, earlier).await?;
    starts_anew(story, earlier, &anew, &before).await?;

    others_untouched(story, &[&ended, earlier, &anew], &before).await
}

async fn orphaned(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(2)?;
    story.standing(2)?.change(&json!({ "spec": { "deletionPolicy": "Orphan" } })).await?;
    let namespace = Api::<Namespace>::all(story.bed.sup.client());
    eventually("the namespace is marked as to be left", PATIENCE, async || {
        let found = namespace.get(&tenant.namespace_below("default")).await?.metadata.annotations.unwrap_or_default();
        Ok(Seen::when(found.get(keys::DELETION_POLICY).is_some_and(|policy| policy == "Orphan"), found))
    })
    .await?;
    quiet(&story.bed, CALM, PATIENCE).await?;
    let before = inventory(story).await?.of(&tenant.id);
    story.standing(2)?.delete().await?;
    sleep(NEVER).await;
    stayed(story, tenant, &before).await?;
    story.syncer.process.restart().await?;
    story.syncer.wait_ready(PATIENCE).await?;
    sleep(NEVER).await;
    stayed(story, tenant, &before).await
}

async fn inventory(story: &Story) -> anyhow::Result<Inventory> {
    Inventory::take(&story.bed.sup.client()).await
}

/// Nothing of the tenant's is left, its writer among it.
async fn gone(story: &Story, tenant: &Actor) -> anyhow::Result<()> {
    eventually(format!("all of {} is gone", tenant.name), PATIENCE, async || {
        let left: Vec<_> = inventory(story).await?.of(&tenant.id).into_keys().collect();
        Ok(Seen::when(left.is_empty(), left))
    })
    .await
    .map(drop)
}

/// All that is not these tenants' is as it was; also what only bears a label of theirs.
async fn others_untouched(story: &Story, tenants: &[&Actor], before: &Inventory) -> anyhow::Result<()> {
    let ids: Vec<_> = tenants.iter().map(|tenant| &tenant.id).collect();
    let is_own = |line: &String| tenants.iter().any(|tenant| line.contains(&format!("{}/", tenant.name)));
    let changed = difference(&before.others(&ids), &inventory(story).await?.others(&ids));
    let changed: Vec<_> = changed.into_iter().filter(|line| !is_own(line)).collect();
    anyhow::ensure!(changed.is_empty(), "others' objects changed: {changed:?}");
    let bystander: Api<Pod> = Api::namespaced(story.bed.sup.client(), "labelled");
    anyhow::ensure!(bystander.get("bystander").await?.metadata.deletion_timestamp.is_none(), "the bystander is being deleted");
    Ok(())
}

/// What the tenant had is there; its writer, who has nothing to write any more, need not be.
async fn stayed(story: &Story, tenant: &Actor, before: &Holdings) -> anyhow::Result<()> {
    let changed = difference(before, &inventory(story).await?.of(&tenant.id));
    let lost: Vec<_> = changed.into_iter().filter(|line| !line.contains(keys::WRITERS_NAMESPACE)).collect();
    anyhow::ensure!(lost.is_empty(), "what was to be left changed: {lost:?}");
    Ok(())
}
