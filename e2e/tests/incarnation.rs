//! A tenant's storage comes back old, or empty: nothing in the super cluster is deleted for that before a person says so.
//!
//! *Sources*: rows R18 and R20 of the reliability matrix; invariant I4.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Context as _;
use common::keys;
use e2e::{
    bed::BedOptions,
    story::{Crowd, Holdings, Inventory, Ledger, Plot, Standing, Story, Witness, chapter, difference, quiet, time_to_run},
};
use serde_json::json;
use tokio::time::sleep;

/// Pods of before the backup, and of after it: the control plane forgets these. Fewer than the mass-change brake stops.
const KEPT: usize = 5;
const FORGOTTEN: usize = 15;
/// What else the tenant writes after the backup: many more versions than its own controllers make when it is back.
const WRITES: usize = 150;
/// How long nothing may happen while somebody has to decide.
const HELD: Duration = Duration::from_secs(8);
const CALM: Duration = Duration::from_secs(4);
const PATIENCE: Duration = Duration::from_mins(2);

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_forgot_is_held_until_a_person_releases_it() {
    let plot = Plot::new("incarnation", 2).flag("--lease-duration=12s").flag("--renew-deadline=10s");
    let plot = Plot { bed: BedOptions { separate_etcd: true, ..plot.bed }, ..plot };
    let story = Story::play(plot).await.unwrap();
    let witness = Witness::start(story.bed.sup.client());
    story.tell_alive(vec![chapter("an older backup: held, then followed where a person says so", restored(&story))]).await.unwrap();
    story
        .tell_alive(vec![chapter("an empty storage: held, also over a restart, then started anew where a person says so", emptied(&story))])
        .await
        .unwrap();
    witness.nothing_ran_twice().unwrap();
}

async fn restored(story: &Story) -> anyhow::Result<()> {
    let (tenant, plane) = (story.tenant(0)?, story.bed.tenant(0)?);
    let (kept, forgotten) = (Crowd::new(tenant, "kept"), Crowd::new(tenant, "forgotten"));
    kept.comes(0..KEPT).await?;
    let kept_uids = kept.runs(KEPT).await?;
    let backup = plane.back_up().await?;
    forgotten.comes(0..FORGOTTEN / 2).await?;
    for i in 0..WRITES {
        let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "written" }, "data": { "i": i.to_string() } });
        tenant.apply(&map).await?;
    }
    forgotten.comes(FORGOTTEN / 2..FORGOTTEN).await?;
    forgotten.runs(FORGOTTEN).await?;
    story.standing(0)?.is_ready().await?;
    quiet(&story.bed, CALM, PATIENCE).await?;
    let before = holdings(story).await?;
    let ledger = Ledger::open(&story.bed);

    plane.go_back(&backup).await?;
    let message = story.standing(0)?.says("Held", "True", "ControlPlaneRestored").await?;
    stays_held(story, &before, &ledger).await?;

    accept(&message, &story.standing(0)?).await?;
    story.standing(0)?.is_ready().await?;
    for i in 0..FORGOTTEN {
        tenant.gone_everywhere::<k8s_openapi::api::core::v1::Pod>("default", &format!("forgotten-{i}")).await?;
    }
    anyhow::ensure!(kept.runs(KEPT).await? == kept_uids, "the tenant's older Pods are others now");
    let pods = |holdings: &Holdings| -> Holdings {
        holdings
            .iter()
            .filter(|(place, _)| place.starts_with("pods/") && place.contains("/kept-"))
            .map(|(a, b)| (a.clone(), b.clone()))
            .collect()
    };
    let changed = difference(&pods(&before), &pods(&holdings(story).await?));
    anyhow::ensure!(changed.is_empty(), "Pods that the backup knew changed in the super cluster: {changed:?}");
    time_to_run(tenant, "after-restore").await.map(drop)
}

async fn emptied(story: &Story) -> anyhow::Result<()> {
    let (tenant, plane) = (story.tenant(0)?, story.bed.tenant(0)?);
    quiet(&story.bed, CALM, PATIENCE).await?;
    let before = holdings(story).await?;
    let ledger = Ledger::open(&story.bed);

    plane.wipe().await?;
    let message = story.standing(0)?.says("Held", "True", "ControlPlaneReplaced").await?;
    stays_held(story, &before, &ledger).await?;
    story.syncer.process.kill()?;
    story.syncer.process.start_again()?;
    story.syncer.wait_ready(PATIENCE).await?;
    story.standing(1)?.is_ready().await?;
    time_to_run(story.tenant(1)?, "beside-the-held").await?;
    stays_held(story, &before, &ledger).await?;
    story.standing(0)?.says("Held", "True", "ControlPlaneReplaced").await?;

    accept(&message, &story.standing(0)?).await?;
    story.standing(0)?.is_ready().await?;
    tenant.takes_pods("default").await?;
    time_to_run(tenant, "after-all").await?;
    let old: BTreeSet<_> = before.values().collect();
    let left: Vec<_> =
        holdings(story).await?.into_iter().filter(|(place, uid)| old.contains(uid) && !place.contains(keys::WRITERS_NAMESPACE)).collect();
    anyhow::ensure!(left.is_empty(), "the earlier life has left: {left:?}");
    Ok(())
}

/// What the super cluster holds for the tenant.
async fn holdings(story: &Story) -> anyhow::Result<Holdings> {
    Ok(Inventory::take(&story.bed.sup.client()).await?.of(&story.tenant(0)?.id))
}

/// Nothing of the tenant's is touched in the super cluster, nothing is written to the tenant; the other one goes on.
async fn stays_held(story: &Story, before: &Holdings, ledger: &Ledger) -> anyhow::Result<()> {
    time_to_run(story.tenant(1)?, &format!("beside-{}", before.len())).await?;
    sleep(HELD).await;
    let changed = difference(before, &holdings(story).await?);
    anyhow::ensure!(changed.is_empty(), "held, and yet: {changed:?}");
    let writes = ledger.writes(&story.bed)?;
    let id = &story.tenant(0)?.id;
    let own = writes.sup.filter(|call| {
        call.user.contains(id.as_str())
            || before.keys().any(|place| place.ends_with(&format!("/{}", call.namespace)) && place.starts_with("namespaces/"))
    });
    let up = writes.tenants.first().context("there is no tenant")?;
    anyhow::ensure!(own.is_empty() && up.is_empty(), "held, and yet written:\n{own}{up}\nall writes:\n{writes}");
    Ok(())
}

/// A person does what the message says.
async fn accept(message: &str, standing: &Standing) -> anyhow::Result<()> {
    let (_, command) = message.rsplit_once(": kubectl ").with_context(|| format!("no command in {message:?}"))?;
    let told = format!("{}=", keys::ACCEPT_INCARNATION);
    let (_, value) = command.split_once(&told).with_context(|| format!("no annotation in {command:?}"))?;
    standing.change(&json!({ "metadata": { "annotations": { keys::ACCEPT_INCARNATION: value } } })).await
}
