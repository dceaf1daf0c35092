//! The tenant's own controllers do their work as they do anywhere: rollouts, ordered sets, jobs.

use std::collections::BTreeSet;

use anyhow::Context as _;
use e2e::{
    story::{NO_PATROL, PATIENCE, Plot, Story, Witness, chapter, condition, pod, uid_of},
    wait::{Seen, eventually},
};
use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    batch::v1::Job,
    core::v1::Pod,
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn the_tenants_own_controllers_do_their_work() {
    let story = Story::play(Plot::new("workloads", 1).flag(NO_PATROL)).await.unwrap();
    let witness = Witness::start(story.bed.sup.client());
    let chapters = vec![
        chapter("a Deployment rolls out a new image and back to fewer Pods", rollout(&story)),
        chapter("a StatefulSet comes up in order, and a name comes back as another Pod", stateful_set(&story)),
        chapter("a Job completes, and one that cannot fails", jobs(&story)),
        chapter("a readiness gate of the tenant's own holds a Pod back, on both sides, until the tenant opens it", gate(&story)),
    ];
    story.tell(chapters).await.unwrap();
    witness.nothing_ran_twice().unwrap();
    assert!(witness.count() >= 14, "the witness saw {} Pods only", witness.count());
}

fn deployment(replicas: usize, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": "web" } },
            "strategy": { "rollingUpdate": { "maxUnavailable": 1, "maxSurge": 1 } },
            "template": {
                "metadata": { "labels": { "app": "web" } },
                "spec": { "terminationGracePeriodSeconds": 1, "containers": [{ "name": "web", "image": image }] },
            },
        },
    })
}

async fn rollout(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    tenant.apply(&deployment(3, "web:1")).await?;
    let old: Vec<_> = tenant.running("default", "app=web", 3).await?.iter().map(uid_of).collect();
    tenant.apply(&deployment(3, "web:2")).await?;
    tenant
        .sees("the rollout is done", "default", "web", |deployment: &Deployment| {
            let status = deployment.status.clone().unwrap_or_default();
            let counts = [status.replicas, status.updated_replicas, status.available_replicas];
            status.observed_generation == deployment.metadata.generation && counts == [Some(3); 3]
        })
        .await?;
    let new = tenant.running_without("default", "app=web", 3, &old).await?;
    for pod in &new {
        let below: Pod = tenant.below("default").get(&pod.name_any()).await?;
        let image = below.spec.as_ref().and_then(|spec| spec.containers.first()?.image.clone());
        anyhow::ensure!(image.as_deref() == Some("web:2"), "{} runs {image:?}", below.name_any());
    }
    tenant.apply(&deployment(1, "web:2")).await?;
    tenant.running("default", "app=web", 1).await?;
    let below: Api<Pod> = tenant.below("default");
    eventually("the super cluster holds one Pod of it", PATIENCE, async || {
        let names: Vec<_> = below.list(&ListParams::default().labels("app=web")).await?.iter().map(kube::ResourceExt::name_any).collect();
        Ok(Seen::when(names.len() == 1, names))
    })
    .await
    .map(drop)
}

async fn stateful_set(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "db" },
        "spec": { "clusterIP": "None", "selector": { "app": "db" }, "ports": [{ "port": 5432 }] },
    });
    tenant.apply(&service).await?;
    let set = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": "db" },
        "spec": { "serviceName": "db", "replicas": 3, "selector": { "matchLabels": { "app": "db" } }, "template": {
            "metadata": { "labels": { "app": "db" } },
            "spec": { "terminationGracePeriodSeconds": 1, "containers": [{ "name": "db", "image": "db" }] },
        } },
    });
    tenant.apply(&set).await?;
    let pods = tenant.running("default", "app=db", 3).await?;
    let names: BTreeSet<_> = pods.iter().map(kube::ResourceExt::name_any).collect();
    anyhow::ensure!(names == ["db-0", "db-1", "db-2"].map(str::to_owned).into(), "{names:?}");
    let created = |name: &str| pods.iter().find(|pod| pod.name_any() == name).and_then(kube::ResourceExt::creation_timestamp);
    anyhow::ensure!(created("db-0") <= created("db-1") && created("db-1") <= created("db-2"), "not in order");

    let before: Pod = tenant.below("default").get("db-1").await?;
    let above = pods.iter().find(|pod| pod.name_any() == "db-1").context("no db-1")?;
    tenant.above::<Pod>("default").delete("db-1", &DeleteParams::default()).await?;
    tenant.running_without("default", "app=db", 3, &[uid_of(above)]).await?;
    let after: Pod = tenant.below("default").get("db-1").await?;
    anyhow::ensure!(uid_of(&after) != uid_of(&before), "the super Pod is the old one");
    tenant
        .sees("the set is whole", "default", "db", |set: &StatefulSet| {
            set.status.as_ref().is_some_and(|status| status.ready_replicas == Some(3))
        })
        .await
        .map(drop)
}

fn job(name: &str, command: &str, completions: u32) -> Value {
    json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": name },
        "spec": { "completions": completions, "parallelism": 2, "backoffLimit": 0, "template": { "spec": {
            "restartPolicy": "Never", "containers": [{ "name": "work", "image": "work", "command": [command] }],
        } } },
    })
}

async fn jobs(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    tenant.apply(&job("good", "true", 3)).await?;
    tenant.apply(&job("bad", "false", 1)).await?;
    let has = |job: &Job, kind: &str| {
        let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.into_iter().any(|condition| condition.type_ == kind && condition.status == "True")
    };
    let good = tenant.sees("the Job is complete", "default", "good", |job: &Job| has(job, "Complete")).await?;
    anyhow::ensure!(good.status.and_then(|status| status.succeeded) == Some(3), "not all completions are counted");
    tenant.sees("the other Job failed", "default", "bad", |job: &Job| has(job, "Failed")).await?;
    let pods: Api<Pod> = tenant.above("default");
    let ended = pods.list(&ListParams::default().labels("batch.kubernetes.io/job-name=bad")).await?;
    let code = ended.iter().find_map(|pod| {
        let state = pod.status.as_ref()?.container_statuses.as_ref()?.first()?.state.as_ref()?;
        Some(state.terminated.as_ref()?.exit_code)
    });
    anyhow::ensure!(code == Some(1), "the tenant sees the exit code {code:?}");
    Ok(())
}

async fn gate(story: &Story) -> anyhow::Result<()> {
    const GATE: &str = "example.com/serving";
    let tenant = story.tenant(0)?;
    tenant.apply(&pod("gated", &json!({}), &json!({ "readinessGates": [{ "conditionType": GATE }] }))).await?;
    let held = |pod: &Pod| condition(pod, "ContainersReady") == Some("True") && condition(pod, "Ready") == Some("False");
    tenant.sees("the Pod runs and is not ready", "default", "gated", held).await?;
    let opened = json!({ "status": { "conditions": [{ "type": GATE, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z" }] } });
    let above: Api<Pod> = tenant.above("default");
    above.patch_status("gated", &PatchParams::default(), &Patch::Strategic(opened)).await?;
    let open = |pod: &Pod| condition(pod, GATE) == Some("True") && condition(pod, "Ready") == Some("True");
    tenant.holds_below("the gate is open below, and the Pod ready", "default", "gated", open).await?;
    tenant.sees("the tenant's condition stays, and the Pod is ready", "default", "gated", open).await.map(drop)
}
