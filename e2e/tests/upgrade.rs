//! An earlier vc-syncer with its manifests, this one in its place, and the earlier one again: what runs goes on as if nothing had been, and each
//! does the work of its time.
//!
//! The earlier one is built by `cargo xtask upgrade`, which runs this.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use common::keys;
use e2e::audit::Mark;
use e2e::bed::apply;
use e2e::story::{Actor, Holdings, Inventory, Ledger, PATIENCE, Plot, Story, chapter, difference, quiet, uid_of};
use e2e::syncer::{SyncerOptions, SyncerProcess};
use e2e::{env, manifests};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::{Api, ResourceExt as _, api::ListParams};
use serde_json::{Value, json};

/// Nothing is written for so long, and the syncer counts as done.
const CALM: Duration = Duration::from_secs(4);

/// Pods of each tenant at first.
const MANY: usize = 10;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_runs_notices_an_upgrade_or_that_it_is_undone() {
    let Some(earlier) = env::var(env::EARLIER).map(PathBuf::from) else {
        eprintln!("skipped: {} names no earlier vc-syncer", env::EARLIER);
        return;
    };
    let there = earlier.join("manifests");
    let syncer = |name| SyncerOptions { program: Some(earlier.join("vc-syncer")), ..Plot::syncer(name) };
    let plot = Plot { manifests: there.clone(), syncer: syncer("earlier"), ..Plot::new("upgrade", 2) };
    let mut story = Story::play(plot).await.unwrap();
    disks(&story).await.unwrap();
    story.tell(vec![chapter("the earlier one runs Pods with all that they need", make(&story, "first", MANY))]).await.unwrap();

    let before = Standing::take(&story).await.unwrap();
    assert_eq!(before.pods.len(), 2 * 2 * MANY, "two tenants, each of whose Pods is on both sides");
    replace(&mut story, &manifests::folder(), Plot::syncer("this")).await.unwrap();
    story.tell(vec![chapter("upgraded: what runs goes on", before.goes_on(&story, &[]))]).await.unwrap();
    story.tell(vec![chapter("this one does the same for what is new", make(&story, "second", 1))]).await.unwrap();
    story.tell(vec![chapter("and all that was goes on", before.goes_on(&story, &["second"]))]).await.unwrap();

    let between = Standing::take(&story).await.unwrap();
    replace(&mut story, &there, syncer("earlier-again")).await.unwrap();
    story.tell(vec![chapter("undone: what runs goes on, that of this one too", between.goes_on(&story, &[]))]).await.unwrap();
    story.tell(vec![chapter("the earlier one does the same for what is new", make(&story, "third", 1))]).await.unwrap();
    let chapters = vec![
        chapter("and all that was goes on", before.goes_on(&story, &["second", "third"])),
        chapter("also that of between", between.goes_on(&story, &["third"])),
    ];
    story.tell(chapters).await.unwrap();
}

/// What an administrator does: the manifests first, then the other program in the place of the one that runs.
async fn replace(story: &mut Story, folder: &Path, options: SyncerOptions) -> anyhow::Result<()> {
    let ledger = Ledger::open(&story.bed);
    manifests::install_from(folder, &story.bed.sup.client()).await?;
    story.syncer.process.stop().await?;
    story.syncer = SyncerProcess::start_installed(&story.bed, options).await?;
    story.syncer.wait_ready(PATIENCE).await?;
    for i in 0..story.tenants.len() {
        story.standing(i)?.is_ready().await?;
    }
    quiet(&story.bed, CALM, PATIENCE).await?;
    let writes = ledger.writes(&story.bed)?;
    eprintln!("    {} writes:\n{writes}", writes.len());
    Ok(())
}

/// A published class, and a disk for each claim.
async fn disks(story: &Story) -> anyhow::Result<()> {
    let sup = story.bed.sup.client();
    let class = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": { "name": "disks", "labels": { keys::PUBLIC: "true" } },
        "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer",
    });
    apply(&Api::<StorageClass>::all(sup.clone()), "disks", &class).await?;
    for n in 0..3 * story.tenants.len() {
        let name = format!("disk-{n}");
        let spec = json!({
            "accessModes": ["ReadWriteOnce"], "capacity": { "storage": "1Gi" }, "storageClassName": "disks",
            "persistentVolumeReclaimPolicy": "Retain", "hostPath": { "path": format!("/srv/{name}") },
        });
        let volume = json!({ "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": name }, "spec": spec });
        apply(&Api::<PersistentVolume>::all(sup.clone()), &name, &volume).await?;
    }
    Ok(())
}

/// Each tenant makes a Deployment of so many Pods with a `ConfigMap`, a Secret, a Service and a claim, and sees them run and all of it below.
async fn make(story: &Story, stage: &'static str, pods: usize) -> anyhow::Result<()> {
    for tenant in &story.tenants {
        for object in objects(stage, pods) {
            tenant.apply(&object).await?;
        }
    }
    for tenant in &story.tenants {
        tenant.running("default", &format!("app={stage}"), pods).await?;
        tenant.holds_below::<ConfigMap>("the ConfigMap is there", "default", stage, |_| true).await?;
        tenant.holds_below::<Secret>("the Secret is there", "default", stage, |_| true).await?;
        tenant.holds_below::<Service>("the Service is there", "default", stage, |_| true).await?;
        let bound = |claim: &PersistentVolumeClaim| claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
        tenant.sees("the claim is bound", "default", stage, bound).await?;
    }
    quiet(&story.bed, CALM, PATIENCE).await
}

fn objects(stage: &str, pods: usize) -> Vec<Value> {
    let labels = json!({ "app": stage });
    let claim = json!({ "accessModes": ["ReadWriteOnce"], "storageClassName": "disks", "resources": { "requests": { "storage": "1Gi" } } });
    let container = json!({
        "name": "main", "image": "web", "envFrom": [{ "configMapRef": { "name": stage } }],
        "volumeMounts": [{ "name": "secret", "mountPath": "/secret" }, { "name": "data", "mountPath": "/data" }],
    });
    let volumes = json!([
        { "name": "secret", "secret": { "secretName": stage } },
        { "name": "data", "persistentVolumeClaim": { "claimName": stage } },
    ]);
    let template = json!({ "metadata": { "labels": labels }, "spec": { "containers": [container], "volumes": volumes } });
    vec![
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": stage }, "data": { "stage": stage } }),
        json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": stage }, "stringData": { "stage": stage } }),
        json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": stage }, "spec": claim }),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": stage },
            "spec": { "selector": labels, "ports": [{ "port": 80 }] },
        }),
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": stage },
            "spec": { "replicas": pods, "selector": { "matchLabels": labels }, "template": template },
        }),
    ]
}

/// What was at a moment, and from where on the audit logs tell what happened to it.
struct Standing {
    /// Objects of each tenant below, by UID.
    below: Vec<Holdings>,
    /// Pods on both sides, and how often their containers have started.
    pods: BTreeMap<String, Vec<(String, i32)>>,
    sup: Mark,
    tenants: Vec<Mark>,
}

impl Standing {
    async fn take(story: &Story) -> anyhow::Result<Self> {
        let inventory = Inventory::take(&story.bed.sup.client()).await?;
        Ok(Self {
            below: story.tenants.iter().map(|tenant| inventory.of(&tenant.id)).collect(),
            pods: pods(story).await?,
            sup: story.bed.sup.audit().mark(),
            tenants: story.bed.tenants.iter().map(|tenant| tenant.audit().mark()).collect(),
        })
    }

    /// Everything that was is still the same, and nobody has deleted anything; new Pods are those of the stages alone.
    async fn goes_on(&self, story: &Story, stages: &[&str]) -> anyhow::Result<()> {
        let now = Self::take(story).await?;
        for (before, after) in self.below.iter().zip(&now.below) {
            let lost: Vec<_> = difference(before, after).into_iter().filter(|line| !line.starts_with("new: ")).collect();
            anyhow::ensure!(lost.is_empty(), "of what was below:\n{}", lost.join("\n"));
        }
        for (uid, starts) in &self.pods {
            anyhow::ensure!(now.pods.get(uid) == Some(starts), "Pod {uid}: {starts:?}, now {:?}", now.pods.get(uid));
        }
        let is_new = |name: &str| stages.iter().any(|stage| name.starts_with(stage));
        let tenants = story.bed.tenants.iter().zip(&self.tenants).map(|(tenant, mark)| tenant.audit().since(*mark));
        for calls in std::iter::once(story.bed.sup.audit().since(self.sup)).chain(tenants) {
            let calls = calls?.filter(|call| call.is_write() && call.is_successful()).without_leases();
            let ends = calls.filter(|call| call.verb.starts_with("delete") && call.resource != "events");
            anyhow::ensure!(ends.is_empty(), "deleted: {:?}", ends.0);
            // A Pod of a Deployment is created without a name, which the log then does not tell.
            let anew = calls.filter(|call| call.verb == "create" && call.resource == "pods" && call.subresource.is_empty());
            let strange: BTreeSet<_> =
                anew.0.iter().map(|call| call.name.as_str()).filter(|name| !name.is_empty() && !is_new(name)).collect();
            anyhow::ensure!(strange.is_empty() && (anew.is_empty() || !stages.is_empty()), "created anew: {:?}", anew.0);
        }
        Ok(())
    }
}

/// All Pods of the tenants on both sides, by UID.
async fn pods(story: &Story) -> anyhow::Result<BTreeMap<String, Vec<(String, i32)>>> {
    let mut all = BTreeMap::new();
    for tenant in &story.tenants {
        for api in [tenant.above::<Pod>("default"), tenant.below::<Pod>("default")] {
            for pod in api.list(&ListParams::default()).await? {
                all.insert(uid_of(&pod), starts(tenant, &pod)?);
            }
        }
    }
    Ok(all)
}

fn starts(tenant: &Actor, pod: &Pod) -> anyhow::Result<Vec<(String, i32)>> {
    let status = pod.status.as_ref().with_context(|| format!("{}: {} has no status", tenant.name, pod.name_any()))?;
    let containers = status.container_statuses.iter().flatten();
    Ok(containers.map(|one| (one.container_id.clone().unwrap_or_default(), one.restart_count)).collect())
}
