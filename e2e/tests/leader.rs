//! Two syncers, one lease: the leader is killed, the next one is stopped in time and wakes up too late.
//!
//! *Sources*: rows R39 and R41 of the reliability matrix; invariants I10 and I12.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use e2e::{
    audit::Calls,
    bed::TENANT_USER,
    story::{Crowd, Ledger, Plot, Story, Witness, chapter, quiet},
    syncer::{SyncerOptions, SyncerProcess},
    wait::{Seen, eventually},
};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use serde_json::Value;
use tokio::time::sleep;

/// Pods that come while leaders fall.
const BURST: usize = 90;
const CALM: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_mins(2);
/// How long one that woke up too late is listened to.
const LISTEN: Duration = Duration::from_secs(10);
const LEASE: [&str; 2] = ["--lease-duration=12s", "--renew-deadline=10s"];

#[tokio::test(flavor = "multi_thread")]
async fn of_two_syncers_one_writes_whoever_falls_or_sleeps() {
    let plot = LEASE.iter().fold(Plot::new("leader", 1), |plot, flag| plot.flag(flag));
    let story = Story::play(plot).await.unwrap();
    let second = second(&story).await.unwrap();
    let witness = Witness::start(story.bed.sup.client());
    story.tell(vec![chapter("one stands by, is ready, and writes nothing", stands_by(&story, &second))]).await.unwrap();
    story.tell(vec![chapter("the leader is killed in a burst: the other finishes it", killed(&story, &second))]).await.unwrap();
    story
        .tell(vec![chapter("the leader sleeps past its lease in a burst and wakes up: it writes nothing", asleep(&story, &second))])
        .await
        .unwrap();
    witness.nothing_ran_twice().unwrap();
}

/// Another replica, with a token of its own: by that the audit log tells the two apart.
async fn second(story: &Story) -> anyhow::Result<SyncerProcess> {
    let options = SyncerOptions {
        name: "second".to_owned(),
        args: LEASE.map(str::to_owned).to_vec(),
        log: Some("info,syncer=debug,vc_syncer=debug".to_owned()),
        ..SyncerOptions::default()
    };
    let second = SyncerProcess::start_installed(&story.bed, options).await?;
    second.wait_ready(PATIENCE).await?;
    Ok(second)
}

async fn stands_by(story: &Story, second: &SyncerProcess) -> anyhow::Result<()> {
    let ledger = Ledger::open(&story.bed);
    let crowd = Crowd::new(story.tenant(0)?, "first");
    crowd.comes(0..BURST / 3).await?;
    crowd.runs(BURST / 3).await?;
    second.wait_ready(PATIENCE).await?;
    let calls = ledger.calls(&story.bed)?;
    let its = calls.sup.with(&credentials(story, "second")?);
    anyhow::ensure!(!its.is_empty() && its.writes().is_empty(), "the second wrote while the first led:\n{its}");
    anyhow::ensure!(its.filter(|call| call.resource == "pods").is_empty(), "one that stands by reads Pods:\n{its}");
    Ok(())
}

async fn killed(story: &Story, second: &SyncerProcess) -> anyhow::Result<()> {
    let crowd = Crowd::new(story.tenant(0)?, "killed");
    let kill = async {
        crowd.below(BURST / 3).await?;
        story.syncer.process.kill()
    };
    futures::future::try_join(crowd.comes(0..BURST), kill).await?;
    crowd.runs(BURST).await?;
    let holder = holder(story).await?;
    anyhow::ensure!(second.process.is_running(), "the second has ended; {holder} leads");
    quiet(&story.bed, CALM, PATIENCE).await
}

async fn asleep(story: &Story, second: &SyncerProcess) -> anyhow::Result<()> {
    story.syncer.process.start_again()?;
    story.syncer.wait_ready(PATIENCE).await?;
    let (before, crowd) = (holder(story).await?, Crowd::new(story.tenant(0)?, "asleep"));
    let pause = async {
        crowd.below(BURST / 3).await?;
        second.process.pause()
    };
    futures::future::try_join(crowd.comes(0..BURST), pause).await?;
    // From here on the two have different credentials in the tenant too: the sleeper does not hear of the new ones.
    let plane = story.bed.tenant(0)?;
    let old = plane.audit().since(e2e::audit::Mark::default())?.by(TENANT_USER).credentials();
    story.bed.put_kubeconfig(&story.tenant(0)?.name, &plane.kubeconfig_for(TENANT_USER, Some("system:masters"))?).await?;
    crowd.runs(BURST).await?;
    anyhow::ensure!(holder(story).await? != before, "nobody took over");
    quiet(&story.bed, CALM, PATIENCE).await?;
    // More to do, so that the sleeper too sees something that it would like to do.
    crowd.goes(0..BURST / 3).await?;

    let ledger = Ledger::open(&story.bed);
    second.process.resume()?;
    sleep(LISTEN).await;
    let calls = ledger.calls(&story.bed)?;
    let stale = credentials(story, "second")?;
    // A request that was half sent when it fell asleep is cut when it wakes up: the server notes a 500, and nothing was written.
    let whole = |calls: Calls| calls.writes().filter(|call| call.code < 500);
    let (below, above) = (whole(calls.sup.with(&stale)), whole(calls.tenants.first().context("no tenant")?.with(&old)));
    anyhow::ensure!(below.is_empty() && above.is_empty(), "the stale one wrote:\n{below}{above}");
    let ended = eventually("the stale one has ended", PATIENCE, async || {
        Ok(second.process.exit_status().map_or_else(|| Seen::NotYet("it runs".to_owned()), Seen::Done))
    });
    anyhow::ensure!(!ended.await?.success(), "the stale one ended as if all were well");
    crowd.runs(BURST - BURST / 3).await.map(drop)
}

/// Who leads, as the Lease says.
async fn holder(story: &Story) -> anyhow::Result<String> {
    let leases: Api<Lease> = Api::namespaced(story.bed.sup.client(), "vc-system");
    let spec = leases.get("vc-syncer").await?.spec.unwrap_or_default();
    spec.holder_identity.context("nobody holds the lease")
}

/// What a syncer shows in the super cluster: its own token, and those of the tenants' writers that it was given with it.
fn credentials(story: &Story, name: &str) -> anyhow::Result<BTreeSet<String>> {
    let path = story.bed.dir().join(format!("{name}.kubeconfig"));
    let config: Value = serde_json::from_str(&std::fs::read_to_string(path)?)?;
    let token = config.pointer("/users/0/user/token").and_then(Value::as_str).context("no token")?;
    let own = BTreeSet::from([format!("JTI={}", token_id(token)?)]);
    let calls: Calls = story.bed.sup.audit().since(e2e::audit::Mark::default())?.with(&own);
    Ok(own.into_iter().chain(calls.credentials()).collect())
}

/// The claim `jti` of a token.
fn token_id(token: &str) -> anyhow::Result<String> {
    let claims = token.split('.').nth(1).context("not a token")?;
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims)?)?;
    claims.get("jti").and_then(Value::as_str).map(str::to_owned).context("the token has no id")
}
