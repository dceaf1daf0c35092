//! A tenant's name server: an unmodified `CoreDNS` that the tenant runs as a Deployment of its own, on real nodes.

use std::net::Ipv4Addr;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};

use crate::{images::COREDNS, story::Actor};

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

/// Installs `CoreDNS` in a tenant and waits until it is ready and Pods that are made from then on ask it.
///
/// # Caveats
/// The nodes must know the image [`COREDNS`]. `cidr` is the range of the tenant's Services; its tenth address is the name server's.
pub async fn install(tenant: &Actor, cidr: &str) -> anyhow::Result<()> {
    let network: Ipv4Addr = cidr.split('/').next().unwrap_or_default().parse().context("the range of Services is none")?;
    let address = Ipv4Addr::from(u32::from(network) + 10);
    tenant.takes_pods(NAME_SERVER.0).await?;
    for object in objects(address) {
        tenant.apply(&object).await?;
    }
    let (namespace, name) = NAME_SERVER;
    tenant
        .holds_below("the name server has its address", namespace, name, |service: &Service| {
            service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some(&address.to_string())
        })
        .await?;
    tenant.running(namespace, "k8s-app=kube-dns", 1).await?;
    Ok(())
}

fn objects(address: Ipv4Addr) -> [Value; 6] {
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
            "spec": { "selector": { "matchLabels": labels }, "template": { "metadata": { "labels": labels }, "spec": pod } },
        }),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": named(NAME_SERVER.1),
            "spec": { "selector": labels, "clusterIP": address, "ports": [
                { "name": "dns", "port": 53, "protocol": "UDP" }, { "name": "dns-tcp", "port": 53, "protocol": "TCP" },
            ] },
        }),
    ]
}
