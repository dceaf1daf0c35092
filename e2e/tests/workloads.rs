//! The tenant's own controllers do their work as they do anywhere: rollouts, ordered sets, jobs.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Context as _;
use common::keys;
use e2e::{
    bed::{BedOptions, apply},
    story::{Actor, NO_PATROL, PATIENCE, Plot, Story, Witness, chapter, condition, is_running, pod, time_to_run, uid_of, within},
    syncer::{SyncerOptions, SyncerProcess},
    wait::{Seen, eventually, never},
};
use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    batch::v1::Job,
    core::v1::{ConfigMap, Namespace, Pod, Secret, Service},
    storage::v1::{StorageClass, VolumeAttributesClass},
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn the_tenants_own_controllers_do_their_work() {
    // Its Services' addresses are ones that the super cluster does not serve, and neither has classes that not every API server has.
    let plot = Plot::new("workloads", 1).flag(NO_PATROL);
    let lacks = vec!["--runtime-config=storage.k8s.io/v1/volumeattributesclasses=false".to_owned()];
    let bed = BedOptions { range: "172.30".to_owned(), super_args: lacks.clone(), tenant_args: lacks, ..plot.bed };
    let plot = Plot { bed, ..plot };
    let story = Story::play(plot).await.unwrap();
    let witness = Witness::start(story.bed.sup.client());
    let chapters = vec![
        chapter("a Deployment rolls out a new image and back to fewer Pods", rollout(&story)),
        chapter("a StatefulSet comes up in order, and a name comes back as another Pod", stateful_set(&story)),
        chapter("a Job completes, and one that cannot fails", jobs(&story)),
        chapter("a readiness gate of the tenant's own holds a Pod back, on both sides, until the tenant opens it", gate(&story)),
        chapter("init containers and sidecars are seen as they are", init_containers(&story)),
        chapter("what may still change in a Pod that runs goes down", changed(&story)),
        chapter("a claim cannot name a class of a kind that the super cluster does not serve", unserved(&story)),
        chapter("a Service whose address the super cluster does not serve gets another, and keeps it", address(&story)),
    ];
    story.tell(chapters).await.unwrap();
    story.tell(vec![chapter("no write of all these changed nothing", story.syncer.wrote_nothing_in_vain())]).await.unwrap();
    let flags = chapter("excluded namespaces are left as they are, and on demand all Secrets and ConfigMaps go down", flags(&story));
    story.tell(vec![flags]).await.unwrap();
    witness.nothing_ran_twice().unwrap();
    assert!(witness.count() >= 14, "the witness saw {} Pods only", witness.count());
}

async fn unserved(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let classes = Api::<VolumeAttributesClass>::all(story.bed.sup.client()).list(&ListParams::default()).await;
    anyhow::ensure!(matches!(&classes, Err(kube::Error::Api(status)) if status.code == 404), "they are served: {classes:?}");
    let looked = story.syncer.metric("vc_unserved_total", r#"side="super",kind="VolumeAttributesClass""#).await?;
    anyhow::ensure!(looked > 0.0, "nobody asked for them");
    let class = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "kubernetes.io/no-provisioner",
        "metadata": { "name": "disks", "labels": { keys::PUBLIC: "true" } },
    });
    apply(&Api::<StorageClass>::all(story.bed.sup.client()), "disks", &class).await?;
    eventually("what is served comes up", PATIENCE, async || {
        let seen = Api::<StorageClass>::all(tenant.client()).get_opt("disks").await?;
        Ok(Seen::when(seen.is_some(), seen))
    })
    .await?;
    let spec = json!({
        "accessModes": ["ReadWriteOnce"], "storageClassName": "disks", "volumeAttributesClassName": "gold",
        "resources": { "requests": { "storage": "1Gi" } },
    });
    let claim = json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "favored" }, "spec": spec });
    let made = tenant.apply(&claim).await?;
    tenant.warned("default", &uid_of(&made), "spec.volumeAttributesClassName").await.map(drop)
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

/// One that ends before the Pod's own begin, and one that goes on beside them.
async fn changed(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    tenant.apply(&pod("changes", &json!({ "step": "one" }), &json!({}))).await?;
    tenant.sees("it runs", "default", "changes", is_running).await?;
    let before: Pod = tenant.below("default").get("changes").await?;
    let container = before.spec.as_ref().and_then(|spec| spec.containers.first()).context("it has no container")?.name.clone();
    let change = json!({
        "metadata": { "labels": { "step": "two" } },
        "spec": { "activeDeadlineSeconds": 3600, "containers": [{ "name": container, "image": "another" }] },
    });
    tenant.above::<Pod>("default").patch("changes", &PatchParams::default(), &Patch::Strategic(&change)).await?;
    let is_changed = |pod: &Pod| {
        let spec = pod.spec.clone().unwrap_or_default();
        let image = spec.containers.first().and_then(|container| container.image.clone());
        let step = pod.metadata.labels.as_ref().and_then(|labels| labels.get("step").cloned());
        (spec.active_deadline_seconds, image.as_deref(), step.as_deref()) == (Some(3600), Some("another"), Some("two"))
    };
    let after = tenant.holds_below("all of it is there", "default", "changes", is_changed).await?;
    anyhow::ensure!(uid_of(&after) == uid_of(&before), "it is another Pod");
    tenant.sees("it runs on", "default", "changes", is_running).await.map(drop)
}

async fn init_containers(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let init = json!([
        { "name": "setup", "image": "setup" },
        { "name": "proxy", "image": "proxy", "restartPolicy": "Always" },
    ]);
    tenant.apply(&pod("initial", &json!({}), &json!({ "initContainers": init }))).await?;
    let above = tenant.sees("the Pod runs", "default", "initial", is_running).await?;
    let below: Pod = tenant.below("default").get("initial").await?;
    let seen = |pod: &Pod| pod.status.clone().and_then(|status| status.init_container_statuses).unwrap_or_default();
    let (seen, held) = (seen(&above), seen(&below));
    let states: Vec<_> = seen.iter().map(|container| (container.name.as_str(), container.state.clone().unwrap_or_default())).collect();
    let [("setup", setup), ("proxy", proxy)] = states.as_slice() else { anyhow::bail!("the tenant sees {states:?}") };
    anyhow::ensure!(setup.terminated.as_ref().is_some_and(|ended| ended.exit_code == 0) && proxy.running.is_some(), "{states:?}");
    anyhow::ensure!(seen == held, "above {seen:?}, below {held:?}");
    Ok(())
}

async fn address(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let service = |port: u16| {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": "elsewhere" },
            "spec": { "selector": { "app": "web" }, "ports": [{ "port": port }] },
        })
    };
    tenant.apply(&service(80)).await?;
    let address = |service: &Service| service.spec.as_ref().and_then(|spec| spec.cluster_ip.clone()).unwrap_or_default();
    let first = tenant.holds_below::<Service>("the Service is there", "default", "elsewhere", |_| true).await?;
    let own: Service = tenant.above("default").get("elsewhere").await?;
    anyhow::ensure!(
        address(&own).starts_with("172.30.0.") && address(&first).starts_with("10."),
        "{} and {}",
        address(&own),
        address(&first)
    );
    tenant.apply(&service(81)).await?;
    let moved = |service: &Service| service.spec.iter().flat_map(|spec| spec.ports.iter().flatten()).any(|port| port.port == 81);
    let second = tenant.holds_below("the port changed", "default", "elsewhere", moved).await?;
    anyhow::ensure!(address(&second) == address(&first), "it had {} and has {}", address(&first), address(&second));
    Ok(())
}

/// Another syncer takes over, which leaves out two namespaces and sends what no Pod refers to.
async fn flags(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    tenant.make_namespace("left").await?;
    let from = json!({ "containers": [{ "name": "main", "image": "web", "envFrom": [{ "configMapRef": { "name": "left" } }] }] });
    tenant.apply(&within("left", config_map("left", "first"))).await?;
    for name in ["left", "deleted"] {
        tenant.apply(&within("left", pod(name, &json!({}), &from))).await?;
        tenant.sees("the Pod runs", "left", name, is_running).await?;
    }
    story.syncer.process.stop().await?;
    let args = ["--exclude-namespaces=left,never", "--sync-unreferenced", "--patrol-interval=2s"].map(str::to_owned).to_vec();
    let syncer = SyncerProcess::start_installed(&story.bed, SyncerOptions { args, ..Plot::syncer("excluding") }).await?;
    let told = story.tell(vec![
        chapter("nothing goes down from an excluded namespace", excluded(story)),
        chapter("what was below already stays as it is, and is not reported on", left(story)),
        chapter("a ConfigMap and a Secret that no Pod refers to go down, change and go", unreferenced(tenant)),
    ]);
    syncer.kept_alive(told).await
}

fn config_map(name: &str, text: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": { "is": text } })
}

async fn excluded(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    tenant.make_namespace("never").await?;
    tenant.apply(&within("never", pod("web", &json!({}), &json!({})))).await?;
    tenant.apply(&within("never", config_map("web", "first"))).await?;
    let below = tenant.namespace_below("never");
    let spaces: Api<Namespace> = Api::all(story.bed.sup.client());
    // A patrol or two, and what comes later has come.
    never("something went down", Duration::from_secs(5), async || Ok(spaces.get_opt(&below).await?.map(|space| format!("{space:?}"))))
        .await?;
    time_to_run(tenant, "beside-the-excluded").await?;
    anyhow::ensure!(spaces.get_opt(&below).await?.is_none(), "the namespace went down");
    Ok(())
}

async fn left(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let (above, below): (Api<Pod>, Api<Pod>) = (tenant.above("left"), tenant.below("left"));
    let maps: Api<ConfigMap> = tenant.below("left");
    time_to_run(tenant, "beside-the-left").await?;
    let before = (above.get("left").await?, below.get("left").await?, below.get("deleted").await?, maps.get("left").await?);
    let status = json!({ "status": { "message": "nobody hears this" } });
    let after = below.patch_status("left", &PatchParams::default(), &Patch::Merge(&status)).await?;
    tenant.apply(&within("left", config_map("left", "second"))).await?;
    above.delete("deleted", &DeleteParams::default()).await?;
    tenant.apply(&within("left", pod("late", &json!({}), &json!({})))).await?;
    // Boxed: four whole objects are held across awaits.
    Box::pin(never("what is excluded moves", Duration::from_secs(6), async || {
        let now = (above.get("left").await?, below.get("left").await?, below.get("deleted").await?, maps.get("left").await?);
        let same = (&now.0, &now.2, &now.3) == (&before.0, &before.2, &before.3) && now.1.resource_version() == after.resource_version();
        let late = below.get_opt("late").await?;
        Ok((!same || late.is_some()).then(|| format!("{now:?}, but before {before:?}; {late:?}")))
    }))
    .await
}

async fn unreferenced(tenant: &Actor) -> anyhow::Result<()> {
    let secret =
        |text: &str| json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "alone" }, "stringData": { "is": text } });
    for text in ["first", "second"] {
        tenant.apply(&config_map("alone", text)).await?;
        tenant.apply(&secret(text)).await?;
        let map = |map: &ConfigMap| map.data.as_ref().is_some_and(|data| data.get("is").is_some_and(|is| is == text));
        tenant.holds_below("the ConfigMap is there", "default", "alone", map).await?;
        let secret = |secret: &Secret| secret.data.as_ref().is_some_and(|data| data.get("is").is_some_and(|is| is.0 == text.as_bytes()));
        tenant.holds_below("the Secret is there", "default", "alone", secret).await?;
    }
    tenant.above::<ConfigMap>("default").delete("alone", &DeleteParams::default()).await?;
    tenant.above::<Secret>("default").delete("alone", &DeleteParams::default()).await?;
    tenant.gone_everywhere::<ConfigMap>("default", "alone").await?;
    tenant.gone_everywhere::<Secret>("default", "alone").await
}
