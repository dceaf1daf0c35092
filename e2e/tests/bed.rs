//! The bed itself: what it starts works, and nothing of it stays.
#![expect(clippy::unwrap_used, reason = "a test may fail so, its helpers too")]

use std::time::Duration;

use e2e::{
    bed::{Bed, BedOptions, apply},
    nodes::{FakeNodes, NodeOptions},
    wait::{Seen, eventually},
};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Namespace, Pod, Secret, ServiceAccount},
};
use kube::{Api, ResourceExt as _, api::ListParams};
use serde_json::json;

const SOON: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_in_the_super_cluster_runs_and_nothing_outlives_the_bed() {
    let bed = Bed::start(BedOptions::new("bed", 1)).await.unwrap();
    let nodes = FakeNodes::start(bed.sup.client(), NodeOptions::new(2)).await.unwrap();
    let mark = bed.sup.audit().mark();
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" },
        "spec": { "replicas": 3, "selector": { "matchLabels": { "app": "web" } }, "template": {
            "metadata": { "labels": { "app": "web" } },
            "spec": {
                "containers": [{ "name": "web", "image": "web" }],
                "volumes": [{ "name": "s", "secret": { "secretName": "late" } }],
            },
        } },
    });
    let client = bed.sup.client();
    let accounts: Api<ServiceAccount> = Api::default_namespaced(client.clone());
    eventually("the default account is there", SOON, async || Ok(Seen::Done(accounts.get("default").await?))).await.unwrap();
    apply::<Deployment>(&Api::default_namespaced(client.clone()), "web", &deployment).await.unwrap();

    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    wait_for_phase(&pods, "Pending", 3, true).await;
    let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "late" } });
    apply::<Secret>(&Api::default_namespaced(client.clone()), "late", &secret).await.unwrap();
    wait_for_phase(&pods, "Running", 3, true).await;
    let calls = bed.sup.audit().since(mark).unwrap();
    let statuses = calls.writes().filter(|call| call.resource == "pods" && call.subresource == "status").by("admin");
    assert_eq!(statuses.len(), 6, "creating and running, once each\n{calls}");

    let name = pods.list(&ListParams::default()).await.unwrap().items[0].name_any();
    pods.delete(&name, &kube::api::DeleteParams::default()).await.unwrap();
    eventually("the deleted Pod is gone", SOON, async || Ok(Seen::when(pods.get_opt(&name).await?.is_none(), ()))).await.unwrap();
    wait_for_phase(&pods, "Running", 3, false).await;

    let started: Vec<_> = processes(&bed).iter().map(|process| process.pid().unwrap()).collect();
    assert!(started.iter().all(|pid| alive(*pid)));
    drop((nodes, bed));
    assert!(!started.iter().any(|pid| alive(*pid)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_manifests_are_accepted_twice_and_a_tenant_can_be_registered() {
    let bed = Bed::start(BedOptions::new("manifests", 1)).await.unwrap();
    for _ in 0..2 {
        e2e::manifests::install(&bed.sup.client()).await.unwrap();
    }
    let made = bed.register(0, "acme", "tenants").await.unwrap();
    assert!(made.uid().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_goes_back_to_a_backup_or_to_nothing() {
    let bed = Bed::start(BedOptions { separate_etcd: true, ..BedOptions::new("backup", 1) }).await.unwrap();
    let tenant = bed.tenant(0).unwrap();
    let maps: Api<ConfigMap> = Api::default_namespaced(tenant.client());
    let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "new" } });
    let system = async || Api::<Namespace>::all(tenant.client()).get("kube-system").await.unwrap().uid();
    let (backup, before) = (tenant.back_up().await.unwrap(), system().await);
    apply(&maps, "new", &map).await.unwrap();

    tenant.go_back(&backup).await.unwrap();
    assert!(maps.get_opt("new").await.unwrap().is_none());
    assert_eq!(system().await, before);

    tenant.wipe().await.unwrap();
    assert_ne!(system().await, before);
}

fn processes(bed: &Bed) -> Vec<&e2e::process::Process> {
    let planes = bed.tenants.iter().chain([&bed.sup]);
    let servers = planes.flat_map(|plane| [&plane.api_server, &plane.controller_manager].into_iter().chain(&plane.scheduler));
    servers.chain([&bed.etcd.process]).collect()
}

fn alive(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

async fn wait_for_phase(pods: &Api<Pod>, phase: &str, count: usize, reported: bool) {
    eventually(format!("{count} Pods are {phase}"), SOON, async || {
        let list = pods.list(&ListParams::default()).await?;
        let seen: Vec<_> = list
            .iter()
            .map(|pod| pod.status.clone().unwrap_or_default())
            .map(|status| (status.phase.unwrap_or_default(), status.host_ip.is_some()))
            .collect();
        let done = seen.len() == count && seen.iter().all(|(is, on)| is == phase && (*on || !reported));
        Ok(Seen::when(done, seen))
    })
    .await
    .unwrap();
}
