//! API servers go away and come back: the super cluster's for minutes, a tenant's while others go on; and lines are cut.
//!
//! *Sources*: rows R35 to R38 of the reliability matrix; invariants I6 and I10.
#![expect(clippy::unwrap_used, reason = "a test may fail so, its helpers too")]

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context as _;
use common::keys;
use e2e::{
    audit::Calls,
    bed::TENANT_USER,
    between::Between,
    story::{
        Actor, Crowd, Inventory, Ledger, Plot, Story, Witness, chapter, difference, is_running, owner_of, pod, quiet, time_to_run, uid_of,
    },
    syncer::{SyncerOptions, SyncerProcess},
    wait::{Seen, eventually},
};
use k8s_openapi::api::core::v1::{Event, Pod, Secret};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, PostParams},
};
use serde_json::json;
use tokio::time::sleep;

/// How long the super cluster's API server is away: the syncer loses its lease and comes back several times in it.
const AWAY: Duration = Duration::from_mins(2);
/// How long one stands still with its connections open.
const STILL: Duration = Duration::from_secs(15);
/// Pods that run before, and Pods that come while the super cluster is away.
const BEFORE: usize = 20;
const MEANWHILE: usize = 30;
/// How long a Pod may take where nothing is wrong, on a busy machine.
const PROMPT: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_mins(2);
/// Pods that come while lines are cut, and how often they are.
const CUT_OFF: usize = 30;
const BETWEEN_CUTS: Duration = Duration::from_millis(400);
const CALM: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_is_away_is_waited_for_and_the_other_does_not_notice() {
    let (story, witness) = begin("outage-tenant").await;
    story
        .tell(vec![chapter("a tenant's API server is down: the other does not notice, its own Pods run on", tenant_down(&story))])
        .await
        .unwrap();
    story.tell(vec![chapter("a tenant's API server stands still: the other does not notice", tenant_still(&story))]).await.unwrap();
    story
        .tell(vec![chapter(
            "writes that took place and whose answers were lost: nothing is there twice, nothing is missing",
            ambiguous(&story),
        )])
        .await
        .unwrap();
    witness.nothing_ran_twice().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_super_cluster_that_is_away_is_waited_for_and_tenants_are_untouched() {
    let (story, witness) = begin("outage-super").await;
    story.tell(vec![chapter("the super cluster's API server is down for minutes: all is made up for", sup_down(&story))]).await.unwrap();
    story.tell(vec![chapter("the super cluster's stands still past the lease: all is made up for", sup_still(&story))]).await.unwrap();
    witness.nothing_ran_twice().unwrap();
}

/// Two tenants whose Pods run.
async fn begin(name: &str) -> (Story, Witness) {
    let story = Story::play(Plot::new(name, 2)).await.unwrap();
    // On a machine that is busy with other beds the super API server may be silent past a lease, before anything here has begun.
    let arrive = async {
        for tenant in &story.tenants {
            Crowd::new(tenant, "before").comes(0..BEFORE).await?;
            Crowd::new(tenant, "before").runs(BEFORE).await?;
        }
        Ok(())
    };
    story.syncer.kept_alive(arrive).await.unwrap();
    let witness = Witness::start(story.bed.sup.client());
    (story, witness)
}

async fn tenant_down(story: &Story) -> anyhow::Result<()> {
    let (plane, other) = (story.bed.tenant(0)?, story.tenant(1)?);
    let before = below(story, 0).await?;
    plane.stop().await?;
    let word = "said while nobody listened";
    let about = said_below(story.tenant(0)?, "before-0", word).await?;
    let said = story.standing(0)?.says("ControlPlaneReachable", "False", "").await?;
    anyhow::ensure!(!said.is_empty(), "the condition says nothing");
    prompt("other-down", other).await?;
    // In its place somebody takes every connection and never answers.
    let mute = Between::mute(plane.server()).await?;
    eventually("the syncer tries to connect", PATIENCE, async || Ok(Seen::when(mute.taken() > 0, mute.taken()))).await?;
    let said = story.standing(0)?.says("ControlPlaneReachable", "False", "Unreachable").await?;
    anyhow::ensure!(!said.is_empty(), "the condition says nothing");
    prompt("other-mute", other).await?;
    Crowd::new(other, "beside").comes(0..MEANWHILE).await?;
    Crowd::new(other, "beside").runs(MEANWHILE).await?;
    story.standing(1)?.is_ready().await?;
    same(&before, &below(story, 0).await?)?;

    drop(mute);
    eventually("the Event was tried for long enough to be put off", Duration::from_mins(5), async || {
        let put_off = story.syncer.metric("vc_events_told_total", r#"origin="super",outcome="put_off""#).await?;
        Ok(Seen::when(put_off > 0.5, put_off))
    })
    .await?;
    plane.start_again().await?;
    story.standing(0)?.is_ready().await?;
    same(&before, &below(story, 0).await?)?;
    story.tenant(0)?.warned("default", &about, word).await?;
    // Who was away for long is asked again at a growing distance, up to half a minute.
    time_to_run(story.tenant(0)?, "own-back").await.map(drop)
}

/// The super cluster says something about a tenant's Pod; the UID that the Pod has in the tenant.
async fn said_below(tenant: &Actor, name: &str, text: &str) -> anyhow::Result<String> {
    let pod: Pod = tenant.below("default").get(name).await?;
    let namespace = tenant.namespace_below("default");
    let event = json!({
        "metadata": { "generateName": format!("{name}."), "namespace": namespace },
        "involvedObject": { "apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": name, "uid": uid_of(&pod) },
        "type": "Warning", "reason": "Told", "message": text, "count": 1, "source": { "component": "kubelet", "host": "node-0" },
    });
    tenant.below::<Event>("default").create(&PostParams::default(), &serde_json::from_value(event)?).await?;
    Ok(owner_of(&pod)?.uid.to_string())
}

async fn tenant_still(story: &Story) -> anyhow::Result<()> {
    let (plane, other) = (story.bed.tenant(0)?, story.tenant(1)?);
    let before = below(story, 0).await?;
    plane.api_server.pause()?;
    // What happens to its Pods meanwhile must be told to it, and cannot: that is what occupies the syncer.
    let pods: Api<Pod> = story.tenant(0)?.below("default");
    for i in 0..3 {
        pods.delete(&format!("before-{i}"), &kube::api::DeleteParams::default()).await?;
    }
    prompt("other-still", other).await?;
    sleep(STILL).await;
    prompt("other-still-too", other).await?;
    story.standing(1)?.is_ready().await?;
    plane.api_server.resume()?;

    story.standing(0)?.is_ready().await?;
    for i in 0..3 {
        story.tenant(0)?.gone_everywhere::<Pod>("default", &format!("before-{i}")).await?;
    }
    let gone = difference(&before, &below(story, 0).await?);
    let lost: Vec<_> =
        gone.iter().filter(|line| line.contains("pods/") && !(0..3).any(|i| line.ends_with(&format!("/before-{i}")))).collect();
    anyhow::ensure!(lost.is_empty(), "Pods changed in the super cluster: {lost:?}");
    time_to_run(story.tenant(0)?, "own-resumed").await.map(drop)
}

async fn sup_down(story: &Story) -> anyhow::Result<()> {
    quiet(&story.bed, CALM, PATIENCE).await?;
    let (tenant, other) = (story.tenant(0)?, story.tenant(1)?);
    let before = [below(story, 0).await?, below(story, 1).await?];
    let objects = [seen(story, 0).await?, seen(story, 1).await?];
    let ledger = Ledger::open(&story.bed);
    story.bed.sup.stop().await?;
    let away = async {
        // What tenants ask for meanwhile is taken by their own API servers and waits.
        Crowd::new(tenant, "meanwhile").comes(0..MEANWHILE).await?;
        Crowd::new(other, "before").goes(0..5).await?;
        sleep(AWAY).await;
        anyhow::Ok(())
    };
    story.syncer.kept_alive(away).await?;
    let writes = ledger.writes(&story.bed)?;
    anyhow::ensure!(writes.is_empty(), "tenants were written to while the super cluster was away:\n{writes}");
    let changed: Vec<_> = (0..2).zip(&objects).map(async |(i, before)| anyhow::Ok(same_pods(before, &seen(story, i).await?))).collect();
    let changed = futures::future::try_join_all(changed).await?.concat();
    anyhow::ensure!(changed.is_empty(), "Pods of tenants changed while the super cluster was away: {changed:?}");

    let ledger = Ledger::open(&story.bed);
    let back = async {
        story.bed.sup.start_again().await?;
        Crowd::new(tenant, "meanwhile").runs(MEANWHILE).await?;
        for i in 0..5 {
            other.gone_everywhere::<Pod>("default", &format!("before-{i}")).await?;
        }
        story.standing(0)?.is_ready().await?;
        story.standing(1)?.is_ready().await?;
        quiet(&story.bed, CALM, PATIENCE).await
    };
    story.syncer.kept_alive(back).await?;
    let calls = ledger.calls(&story.bed)?.sup;
    no_storm(&calls)?;
    for (i, before) in (0..2).zip(&before) {
        let changed = difference(before, &below(story, i).await?);
        let wrong: Vec<_> = changed.iter().filter(|line| !is_wanted(line)).collect();
        anyhow::ensure!(wrong.is_empty(), "what had nothing to do with it changed: {wrong:?}");
    }
    Ok(())
}

async fn sup_still(story: &Story) -> anyhow::Result<()> {
    quiet(&story.bed, CALM, PATIENCE).await?;
    let tenant = story.tenant(0)?;
    let before = below(story, 1).await?;
    story.bed.sup.api_server.pause()?;
    let away = async {
        tenant.apply(&pod("still", &json!({}), &json!({}))).await?;
        sleep(STILL).await;
        story.bed.sup.api_server.resume()?;
        tenant.sees::<Pod>("the Pod runs", "default", "still", is_running).await?;
        anyhow::Ok(())
    };
    story.syncer.kept_alive(away).await?;
    story.standing(0)?.is_ready().await?;
    same(&before, &below(story, 1).await?)
}

/// What the super cluster holds for tenant `i`, by UID.
async fn below(story: &Story, i: usize) -> anyhow::Result<BTreeMap<String, String>> {
    Ok(Inventory::take(&story.bed.sup.client()).await?.of(&story.tenant(i)?.id))
}

fn same(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> anyhow::Result<()> {
    let changed = difference(before, after);
    anyhow::ensure!(changed.is_empty(), "objects in the super cluster changed: {changed:?}");
    Ok(())
}

/// The versions of the Pods that tenant `i` sees.
async fn seen(story: &Story, i: usize) -> anyhow::Result<BTreeMap<String, String>> {
    let pods: Api<Pod> = story.tenant(i)?.above("default");
    let pods = pods.list(&ListParams::default()).await?.items;
    Ok(pods.iter().map(|pod| (pod.name_any(), pod.resource_version().unwrap_or_default())).collect())
}

/// The Pods of `before` that are others now; those that the tenant deleted itself apart.
fn same_pods(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<String> {
    let changed = before.iter().filter(|(name, version)| after.get(*name) != Some(version));
    changed.map(|(name, _)| name.clone()).filter(|name| !(0..5).any(|i| *name == format!("before-{i}"))).collect()
}

/// What the chapter itself brought about: Pods that come and go, with the Secrets of their tokens.
fn is_wanted(line: &str) -> bool {
    let comes = line.starts_with("new: ") && line.contains("/meanwhile-");
    let goes = line.starts_with("gone: ") && (0..5).any(|i| line.ends_with(&format!("/before-{i}")));
    comes || goes || line.contains(" secrets/")
}

/// Pods come while lines are cut at the worst of moments: a request was acted on, and nobody heard the answer.
async fn ambiguous(story: &Story) -> anyhow::Result<()> {
    let (tenant, plane) = (story.tenant(0)?, story.bed.tenant(0)?);
    story.syncer.process.stop().await?;
    let (down, up) = (Between::start(story.bed.sup.server()).await?, Between::start(plane.server()).await?);
    let kubeconfig = plane.kubeconfig_for(TENANT_USER, Some("system:masters"))?.replace(plane.server(), up.server());
    story.bed.put_kubeconfig(&tenant.name, &kubeconfig).await?;
    let options = SyncerOptions { server: Some(down.server().to_owned()), ..Plot::syncer("cut-off") };
    let syncer = SyncerProcess::start_installed(&story.bed, options).await?;
    syncer.wait_ready(PATIENCE).await?;
    story.standing(0)?.is_ready().await?;
    time_to_run(tenant, "before-the-cuts").await?;
    let ledger = Ledger::open(&story.bed);
    let crowd = Crowd::new(tenant, "cut");
    let all = async {
        crowd.comes(0..CUT_OFF).await?;
        crowd.runs(CUT_OFF).await
    };
    let lines = [&down, &up];
    let uids = tokio::select! {
        uids = syncer.kept_alive(all) => uids?,
        () = cut_on_and_on(&lines) => anyhow::bail!("the lines are whole"),
    };
    syncer.kept_alive(quiet(&story.bed, CALM, PATIENCE)).await?;
    anyhow::ensure!(down.cuts() >= 3 && up.cuts() >= 3, "only {} and {} lines were cut", down.cuts(), up.cuts());
    let again = ledger.calls(&story.bed)?.sup.filter(|call| call.verb == "create" && call.resource == "pods" && call.code == 409);
    eprintln!("    {} and {} answers lost, {} Pods created a second time in vain", down.cuts(), up.cuts(), again.len());
    let pods = tenant.below::<Pod>("default").list_metadata(&ListParams::default()).await?.items;
    let ours: Vec<_> = pods.iter().filter(|pod| pod.name_any().starts_with("cut-")).collect();
    let tokens = tenant.below::<Secret>("default").list_metadata(&ListParams::default()).await?.items;
    let tokens = tokens.iter().filter(|secret| secret.annotations().contains_key(keys::TOKEN_EXPIRES)).count();
    anyhow::ensure!(ours.len() == CUT_OFF && uids.len() == CUT_OFF, "{} Pods below, {} above", ours.len(), uids.len());
    anyhow::ensure!(tokens == pods.len(), "{} Pods have {tokens} Secrets with tokens", pods.len());
    Ok(())
}

async fn cut_on_and_on(lines: &[&Between]) {
    loop {
        sleep(BETWEEN_CUTS).await;
        for line in lines {
            line.cut();
        }
    }
}

/// The super cluster, back after minutes, is asked for what is new, and each list once, or once more where it was not ready yet.
fn no_storm(calls: &Calls) -> anyhow::Result<()> {
    let lists = calls.filter(|call| matches!(call.verb.as_str(), "list" | "watch"));
    let mut by_kind = BTreeMap::<String, usize>::new();
    lists.0.iter().for_each(|call| *by_kind.entry(format!("{} {}", call.verb, call.resource)).or_default() += 1);
    let most = by_kind.iter().max_by_key(|(_, count)| **count);
    anyhow::ensure!(most.is_none_or(|(_, count)| *count <= 4), "a kind was listed again and again: {by_kind:?}");
    // Each copy that was there is read once at most: what was changed while nobody saw it is found so.
    let reads = calls.filter(|call| call.verb == "get").without_leases();
    anyhow::ensure!(reads.len() <= MEANWHILE + BEFORE * 2, "{} reads for {MEANWHILE} Pods:\n{reads}", reads.len());
    let writes = calls.writes().without_leases();
    let (failed, done) = (writes.filter(|call| !call.is_successful()).len(), writes.filter(e2e::audit::Call::is_successful).len());
    // A Pod and the Secret of its token, and some room: five deletions, conditions.
    anyhow::ensure!(done <= MEANWHILE * 2 + 20, "{done} writes for {MEANWHILE} Pods:\n{writes}");
    anyhow::ensure!(failed <= 10, "{failed} writes were refused:\n{writes}");
    Ok(())
}

/// A new Pod of this tenant runs as soon as ever.
async fn prompt(name: &str, tenant: &e2e::story::Actor) -> anyhow::Result<()> {
    let took = time_to_run(tenant, name).await.with_context(|| format!("{name} of {}", tenant.name))?;
    anyhow::ensure!(took < PROMPT, "{name} of {} took {took:?}", tenant.name);
    Ok(())
}
