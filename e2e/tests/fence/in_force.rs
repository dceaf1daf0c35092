//! Policies take effect some time after they are created, in any order: each is seen to refuse something once.

use std::{collections::BTreeSet, time::Duration};

use common::{Namespace, keys};
use e2e::wait::{Seen, eventually};
use serde_json::{Value, json};

use super::tenant::{ROLE_BINDINGS, Tenant, labeled, merged};
use super::{Fence, Who};

/// What one policy refuses and no other does.
struct Probe {
    policy: &'static str,
    who: Who,
    method: &'static str,
    path: String,
    body: Value,
}

/// Waits until each policy that is there has refused what is probed for it.
pub(crate) async fn each_policy(fence: &mut Fence<'_>) -> anyhow::Result<()> {
    let tenant = Tenant::new("5d0c2f52-7f0e-4d5c-9d33-8a4be6c0d503", "probe");
    fence.admin_makes("/api/v1/namespaces", &tenant.space()).await;
    fence.wait_for_account(&tenant.namespace).await?;
    fence.admin_makes(&tenant.path("pods"), &tenant.pod("there", json!({}))).await;
    let user = format!("system:serviceaccount:{}:{}", keys::WRITERS_NAMESPACE, tenant.id.writer());
    let probes: Vec<_> = of_everyone(&tenant).into_iter().chain(of_writers(&tenant)).collect();
    let known: BTreeSet<_> = probes.iter().map(|probe| probe.policy.to_owned()).collect();
    anyhow::ensure!(known == fence.policies().await?, "these are probed: {known:?}");
    for Probe { policy, who, method, path, body } in probes {
        let content = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        // A writer by name, with every right of RBAC.
        let play = (who == Who::WriterA).then_some((user.as_str(), "system:masters"));
        let who = if play.is_some() { Who::Admin } else { who };
        eventually(format!("{policy} is in force"), Duration::from_secs(30), async || {
            let answer = fence.send(who, method, &path, &body, content, play).await;
            let refused = answer.as_ref().is_err_and(|text| text.contains(&format!("ValidatingAdmissionPolicy '{policy}'")));
            Ok(Seen::when(refused, format!("{answer:?}")))
        })
        .await?;
    }
    Ok(())
}

/// What is said of everyone, and of the syncer.
fn of_everyone(tenant: &Tenant) -> Vec<Probe> {
    let spaces = || "/api/v1/namespaces?dryRun=All".to_owned();
    let named = |kind: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "probe"}});
    let other = tenant.id.namespace(&Namespace::parse("other").unwrap()).to_string();
    let space = merged(tenant.space(), json!({"metadata": {"name": other}}));
    let insecure = merged(space.clone(), labeled("pod-security.kubernetes.io/enforce", Value::Null));
    let among_writers = |plural: &str| format!("/api/v1/namespaces/{}/{plural}?dryRun=All", keys::WRITERS_NAMESPACE);
    let bindings = format!("{ROLE_BINDINGS}/{}/rolebindings?dryRun=All", tenant.namespace);
    let admin = tenant.binding(&tenant.namespace, json!({"metadata": {"name": "other"}}));
    let probe = |policy, who, path, body| Probe { policy, who, method: "POST", path, body };
    vec![
        probe("vc-namespace-record", Who::Platform, spaces(), space),
        probe("vc-syncer-namespaces", Who::Syncer, spaces(), named("Namespace")),
        probe("vc-syncer-pod-security", Who::Syncer, spaces(), insecure),
        probe("vc-syncer-rolebindings", Who::Syncer, bindings, admin),
        probe("vc-syncer-serviceaccounts", Who::Syncer, among_writers("serviceaccounts"), named("ServiceAccount")),
        probe("vc-writers-namespace", Who::Platform, among_writers("secrets"), named("Secret")),
    ]
}

/// What is said of writers: but for the first, in a namespace of the writer's own, of objects with its record.
fn of_writers(tenant: &Tenant) -> Vec<Probe> {
    let home = |api: &str, plural: &str| format!("{api}/namespaces/{}/{plural}?dryRun=All", tenant.namespace);
    let probe = |policy, path, body| Probe { policy, who: Who::WriterA, method: "POST", path, body };
    let object = |version: &str, kind: &str, rest: Value| tenant.object(version, kind, "probe", rest);
    let ports = json!([{"port": 80}]);
    let claim = json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
    let rule = json!({"host": "www.example.com", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}});
    let slice = json!({"addressType": "IPv4", "endpoints": [{"addresses": ["192.0.2.1"]}]});
    let elsewhere = "/api/v1/namespaces/innocent/configmaps?dryRun=All".to_owned();
    vec![
        probe("vc-tenant-writers", elsewhere, object("v1", "ConfigMap", json!({}))),
        probe("vc-tenant-writers-connect", tenant.path("pods/there/exec?command=id"), json!({})),
        probe(
            "vc-tenant-writer-pods",
            home("/api/v1", "pods"),
            tenant.pod("probe", json!({"spec": {"automountServiceAccountToken": true}})),
        ),
        Probe {
            method: "PATCH",
            ..probe("vc-tenant-writer-pod-status", home("/api/v1", "pods/there/status"), json!({"status": {"phase": "Failed"}}))
        },
        probe(
            "vc-tenant-writer-secrets",
            home("/api/v1", "secrets"),
            object("v1", "Secret", json!({"type": "bootstrap.kubernetes.io/token"})),
        ),
        probe(
            "vc-tenant-writer-services",
            home("/api/v1", "services"),
            object("v1", "Service", json!({"spec": {"type": "ExternalName", "externalName": "a.example"}})),
        ),
        probe(
            "vc-tenant-writer-addresses",
            home("/api/v1", "services"),
            object("v1", "Service", json!({"spec": {"ports": ports, "externalIPs": ["192.0.2.1"]}})),
        ),
        probe("vc-tenant-writer-claims", home("/api/v1", "persistentvolumeclaims"), object("v1", "PersistentVolumeClaim", claim)),
        probe(
            "vc-tenant-writer-ingresses",
            home("/apis/networking.k8s.io/v1", "ingresses"),
            object("networking.k8s.io/v1", "Ingress", json!({"spec": {"rules": [rule]}})),
        ),
        probe(
            "vc-tenant-writer-endpointslices",
            home("/apis/discovery.k8s.io/v1", "endpointslices"),
            object("discovery.k8s.io/v1", "EndpointSlice", slice),
        ),
    ]
}
