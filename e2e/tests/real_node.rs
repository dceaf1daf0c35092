//! Pods in real containers on a real node: they run, they are reachable, and what they find inside is their tenant's.

use std::collections::BTreeSet;

use anyhow::Context as _;
use e2e::{
    dns,
    images::{COREDNS, KUBECTL, TOOLS},
    machine,
    story::{Actor, Plot, Story, chapter, condition, is_running, pod},
};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{
    Api, ResourceExt as _,
    api::{LogParams, Patch, PatchParams},
};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_pods_run_in_containers() {
    if machine::skipped() {
        return;
    }
    let story = Story::play(Plot::real("real-node", 2, 1)).await.unwrap();
    let chapters = vec![
        chapter("a Deployment runs in real containers, behind a Service", deployment(&story)),
        chapter("a client in a container finds its own API server, and no other takes its token", client(&story)),
        chapter("an ephemeral container runs, and one that may do too much does not", debug(&story)),
    ];
    story.tell(chapters).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_on_two_nodes_find_each_other_by_name() {
    if machine::skipped() {
        return;
    }
    let mut plot = Plot::real("real-nodes", 1, 2);
    plot.real.as_mut().unwrap().images = vec![COREDNS];
    let story = Story::play(plot).await.unwrap();
    let tenant = story.tenant(0).unwrap();
    dns::install(tenant, story.bed.tenant(0).unwrap().service_cidr()).await.unwrap();
    story.tell(vec![chapter("each of two nodes runs one, and both answer to the name", spread(&story))]).await.unwrap();
    story.tell(vec![chapter("a kubelet that comes again finds its containers as they were", kubelet_again(&story))]).await.unwrap();
}

/// A Pod that does something and ends; what it wrote.
async fn output(tenant: &Actor, name: &str, image: &str, script: &str) -> anyhow::Result<String> {
    let container = json!({ "name": "main", "image": image, "command": ["sh", "-c", script] });
    tenant.output(&pod(name, &json!({}), &json!({ "restartPolicy": "Never", "containers": [container] }))).await
}

async fn deployment(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    tenant
        .apply(&json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" },
            "spec": { "replicas": 2, "selector": { "matchLabels": { "app": "web" } }, "template": {
                "metadata": { "labels": { "app": "web" } },
                "spec": { "containers": [{
                    "name": "web", "image": TOOLS, "command": ["sh", "-c", "mkdir /www; hostname > /www/index.html; httpd -f -p 8080 -h /www"],
                    "readinessProbe": { "tcpSocket": { "port": 8080 }, "periodSeconds": 1 },
                }] },
            } },
        }))
        .await?;
    let ports = json!([{ "port": 80, "targetPort": 8080 }]);
    let service = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" }, "spec": { "selector": { "app": "web" }, "ports": ports } });
    tenant.apply(&service).await?;
    let pods = tenant.running("default", "app=web", 2).await?;
    for pod in &pods {
        let address = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref()).unwrap_or_default();
        anyhow::ensure!(address.starts_with("10.245."), "the tenant sees the address {address:?}");
    }
    let own: Service = tenant.above("default").get("web").await?;
    let address = own.spec.and_then(|spec| spec.cluster_ip).context("the Service has no address")?;
    let ask = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {address} 80");
    let script = format!("for n in 1 2 3 4 5 6 7 8 9 10; do {ask} && exit 0; sleep 1; done; exit 1");
    let answer = output(tenant, "asks-web", TOOLS, &script).await?;
    anyhow::ensure!(pods.iter().any(|pod| answer.contains(&pod.name_any())), "the Service answers {answer:?}");
    Ok(())
}

async fn spread(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let labels = json!({ "app": "everywhere" });
    let apart = json!([{ "labelSelector": { "matchLabels": labels }, "topologyKey": "kubernetes.io/hostname" }]);
    let serve = "mkdir /www; hostname > /www/index.html; httpd -f -p 80 -h /www";
    for name in ["one", "two"] {
        let spec = json!({
            "affinity": { "podAntiAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": apart } },
            "containers": [{
                "name": "main", "image": TOOLS, "command": ["sh", "-c", serve],
                "readinessProbe": { "tcpSocket": { "port": 80 }, "periodSeconds": 1 },
            }],
        });
        tenant.apply(&pod(name, &labels, &spec)).await?;
    }
    let service = json!({ "selector": labels, "clusterIP": "None", "ports": [{ "port": 80 }] });
    tenant.apply(&json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "everywhere" }, "spec": service })).await?;
    let pods = tenant.running("default", "app=everywhere", 2).await?;
    let nodes: BTreeSet<_> = pods.iter().filter_map(|pod| pod.spec.as_ref()?.node_name.clone()).collect();
    anyhow::ensure!(nodes.len() == 2, "they run on {nodes:?}");
    // Endpoints and the name server's cache follow the Pods.
    let script = r#"
        for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
            found=$(nslookup everywhere.default.svc.cluster.local)
            ips=$(echo "$found" | grep -o '10[.]245[.][0-9.]*' | sort -u)
            [ $(echo $ips | wc -w) = 2 ] && break
            sleep 1
        done
        cat /etc/resolv.conf; echo "$found"
        for ip in $ips; do printf 'GET / HTTP/1.0\r\n\r\n' | nc -w 5 $ip 80; done"#;
    let said = output(tenant, "asks-both", TOOLS, script).await?;
    let answered = |name: &str| said.lines().any(|line| line.trim() == name);
    let mut states = Vec::new();
    for name in ["one", "two"] {
        let (above, below) = (tenant.above::<Pod>("default").get(name).await?, tenant.below::<Pod>("default").get(name).await?);
        states.push((name, condition(&above, "Ready").map(str::to_owned), condition(&below, "Ready").map(str::to_owned)));
    }
    anyhow::ensure!(answered("one") && answered("two"), "Ready above and below: {states:?}; by the name it finds: {said}");
    Ok(())
}

async fn kubelet_again(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    tenant.apply(&pod("steady", &json!({ "app": "steady" }), &json!({ "containers": [{ "name": "main", "image": TOOLS }] }))).await?;
    let before = tenant.sees("it runs", "default", "steady", is_running).await?;
    for node in &story.real {
        node.kubelet.restart().await?;
        node.wait_ready(&story.bed).await?;
    }
    let label = json!({ "metadata": { "labels": { "seen": "yes" } } });
    tenant.above::<Pod>("default").patch("steady", &PatchParams::default(), &Patch::Merge(&label)).await?;
    let after = tenant.sees("it still runs", "default", "steady", |pod: &Pod| is_running(pod) && pod.labels().contains_key("seen")).await?;
    let containers = |pod: &Pod| {
        let all = pod.status.iter().flat_map(|status| status.container_statuses.clone().unwrap_or_default());
        all.map(|status| (status.container_id, status.restart_count)).collect::<Vec<_>>()
    };
    anyhow::ensure!(containers(&before) == containers(&after), "before {:?}, after {:?}", containers(&before), containers(&after));
    Ok(())
}

async fn client(story: &Story) -> anyhow::Result<()> {
    let (tenant, other) = (story.tenant(0)?, story.tenant(1)?);
    other.apply(&pod("of-another", &json!({}), &json!({ "containers": [{ "name": "main", "image": TOOLS }] }))).await?;
    tenant
        .apply(&json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": { "name": "looks" },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view" },
            "subjects": [{ "kind": "ServiceAccount", "name": "default", "namespace": "default" }],
        }))
        .await?;
    // The endpoints of the API server go their own way; clients in containers try again, and so does this one.
    let script = format!(
        "for n in 1 2 3 4 5 6 7 8 9 10; do kubectl get pods --all-namespaces -o name && break; sleep 1; done; \
         kubectl --server={} --insecure-skip-tls-verify --token=$(cat /var/run/secrets/kubernetes.io/serviceaccount/token) get pods 2>&1; \
         exit 0",
        story.bed.sup.server()
    );
    let said = output(tenant, "asks-its-server", KUBECTL, &script).await?;
    anyhow::ensure!(said.contains("pod/asks-its-server"), "it does not find itself: {said}");
    anyhow::ensure!(!said.contains("of-another"), "it sees another tenant's Pod: {said}");
    anyhow::ensure!(said.contains("You must be logged in to the server"), "the super API server does not answer 401: {said}");
    Ok(())
}

async fn debug(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    tenant.apply(&pod("ailing", &json!({}), &json!({ "containers": [{ "name": "main", "image": TOOLS }] }))).await?;
    tenant.sees("it runs", "default", "ailing", is_running).await?;
    let above: Api<Pod> = tenant.above("default");
    let add = async |container: Value| {
        let change = json!({ "spec": { "ephemeralContainers": [container] } });
        above.patch_subresource("ephemeralcontainers", "ailing", &PatchParams::default(), &Patch::Strategic(&change)).await
    };
    // Not the debugger's own first process: that of the container that it looks at.
    let script = "tr '\\0' ' ' < /proc/1/cmdline; echo here as $(hostname)";
    let made = add(json!({ "name": "debug", "image": TOOLS, "targetContainerName": "main", "command": ["sh", "-c", script] })).await?;
    let ended = |pod: &Pod| {
        let all = pod.status.iter().flat_map(|status| status.ephemeral_container_statuses.iter().flatten());
        all.into_iter().any(|one| one.name == "debug" && one.state.as_ref().is_some_and(|state| state.terminated.is_some()))
    };
    tenant.sees("the debugger ran", "default", "ailing", ended).await?;
    let below: Api<Pod> = tenant.below("default");
    let said = below.logs("ailing", &LogParams { container: Some("debug".to_owned()), ..LogParams::default() }).await?;
    anyhow::ensure!(said.contains("here as ailing") && said.contains("sleep"), "the debugger says {said:?}");
    // API servers put the newest first.
    add(json!({ "name": "breaks-out", "image": TOOLS, "securityContext": { "privileged": true } })).await?;
    tenant.warned("default", &made.uid().unwrap_or_default(), "spec.ephemeralContainers[0].securityContext.privileged").await?;
    let list = below.get("ailing").await?.spec.and_then(|spec| spec.ephemeral_containers).unwrap_or_default();
    let names: Vec<_> = list.into_iter().map(|container| container.name).collect();
    anyhow::ensure!(names == ["debug"], "the super Pod has {names:?}");
    Ok(())
}
