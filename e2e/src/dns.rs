//! A tenant's name server: an unmodified `CoreDNS` that the tenant, or the super cluster, runs as a Deployment of its own, on real nodes.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::Context as _;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Service, ServiceAccount},
};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::{
    images::COREDNS,
    manifests,
    story::Actor,
    wait::{Seen, eventually},
};

/// As kubeadm and everybody else configures it, without forwarding: nobody out there is asked.
const COREFILE: &str = r"
.:53 {
    errors
    ready
    kubernetes cluster.local in-addr.arpa {
        pods insecure
    }
    cache 5
}
";

/// The Service that Pods ask, and where it lies.
const NAME_SERVER: (&str, &str) = ("kube-system", "kube-dns");

/// How long a name server may take to be there: an image, a first start, a probe.
const SOON: Duration = Duration::from_mins(2);

/// Installs `CoreDNS` in a tenant and waits until it is ready and Pods that are made from then on ask it.
///
/// # Caveats
/// The nodes must know the image [`COREDNS`]. `cidr` is the range of the tenant's Services; its tenth address is the name server's.
pub async fn install(tenant: &Actor, cidr: &str) -> anyhow::Result<()> {
    install_spread(&tenant.client(), cidr, 1).await?;
    let (namespace, name) = NAME_SERVER;
    let address = address(cidr)?.to_string();
    tenant
        .holds_below("the name server has its address", namespace, name, |service: &Service| {
            service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some(&address)
        })
        .await?;
    Ok(())
}

/// The name server's address in a range of Services: its tenth.
pub fn address(cidr: &str) -> anyhow::Result<Ipv4Addr> {
    let network: Ipv4Addr = cidr.split('/').next().unwrap_or_default().parse().context("the range of Services is none")?;
    Ok(Ipv4Addr::from(u32::from(network) + 10))
}

/// Installs that many of it in any cluster, no two on one node, and waits until all are ready.
pub async fn install_spread(client: &Client, cidr: &str, replicas: i32) -> anyhow::Result<()> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), NAME_SERVER.0);
    eventually("the name server's namespace takes Pods", SOON, async || Ok(Seen::Done(accounts.get("default").await?))).await?;
    for object in objects(address(cidr)?, replicas) {
        manifests::install_one(&object, client).await?;
    }
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAME_SERVER.0);
    eventually("the name server is ready", SOON, async || {
        let status = deployments.get("coredns").await?.status.unwrap_or_default();
        Ok(Seen::when(status.ready_replicas == Some(replicas), status))
    })
    .await
    .map(drop)
}

fn objects(address: Ipv4Addr, replicas: i32) -> [Value; 6] {
    let space = NAME_SERVER.0;
    let named = |name: &str| json!({ "name": name, "namespace": space });
    let rule = |group: &str, resources: &[&str]| json!({ "apiGroups": [group], "resources": resources, "verbs": ["list", "watch"] });
    let labels = json!({ "k8s-app": "kube-dns" });
    let container = json!({
        "name": "coredns", "image": COREDNS, "args": ["-conf", "/etc/coredns/Corefile"],
        "volumeMounts": [{ "name": "config", "mountPath": "/etc/coredns" }],
        "readinessProbe": { "httpGet": { "path": "/ready", "port": 8181 }, "periodSeconds": 1 },
    });
    let pod = json!({
        "serviceAccountName": "coredns", "dnsPolicy": "Default", "containers": [container],
        "affinity": { "podAntiAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [
            { "topologyKey": "kubernetes.io/hostname", "labelSelector": { "matchLabels": labels } },
        ] } },
        "volumes": [{ "name": "config", "configMap": { "name": "coredns" } }],
    });
    [
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": named("coredns") }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": { "name": "system:coredns" },
            "rules": [rule("", &["services", "pods", "namespaces"]), rule("discovery.k8s.io", &["endpointslices"])],
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": { "name": "system:coredns" },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:coredns" },
            "subjects": [{ "kind": "ServiceAccount", "name": "coredns", "namespace": space }],
        }),
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": named("coredns"), "data": { "Corefile": COREFILE } }),
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": named("coredns"),
            "spec": { "replicas": replicas, "selector": { "matchLabels": labels }, "template": { "metadata": { "labels": labels }, "spec": pod } },
        }),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": named(NAME_SERVER.1),
            "spec": { "selector": labels, "clusterIP": address, "ports": [
                { "name": "dns", "port": 53, "protocol": "UDP" }, { "name": "dns-tcp", "port": 53, "protocol": "TCP" },
            ] },
        }),
    ]
}
