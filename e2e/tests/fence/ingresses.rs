//! What a writer's Ingresses may have: a class, a host in each rule, plain paths, and nothing that configures a controller.

use serde_json::{Value, json};

use super::tenant::{Tenant, annotated, merged};
use super::{
    Fence,
    Verdict::{Allowed, Policy},
    Who,
};

const SNIPPET: &str = "nginx.ingress.kubernetes.io/configuration-snippet";

/// S23, S24: past the syncer.
pub(crate) async fn ingresses_lead_from_hosts_and_plain_paths_to_services(a: &Tenant, fence: &mut Fence<'_>) {
    let list = format!("/apis/networking.k8s.io/v1/namespaces/{}/ingresses", a.namespace);
    let service = json!({"service": {"name": "web", "port": {"number": 80}}});
    let rule = |path: &str| json!({"host": "www.acme.example.com", "http": {"paths": [{"path": path, "pathType": "ImplementationSpecific", "backend": service}]}});
    let usual = || json!({"spec": {"ingressClassName": "public", "rules": [rule("/")], "tls": [{"hosts": ["www.acme.example.com"], "secretName": "tls"}]}});
    let nameless = json!({"http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": service}]}});
    let bucket = json!({"resource": {"apiGroup": "k8s.example.com", "kind": "Bucket", "name": "a"}});
    let stored = json!({"host": "www.acme.example.com", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": bucket}]}});
    for (what, change, verdict) in [
        ("without a class", json!({"spec": {"ingressClassName": null}}), Policy("names a class")),
        ("with a class by annotation", annotated("kubernetes.io/ingress.class", json!("public")), Policy("configures no controller")),
        ("for what is nobody's", json!({"spec": {"defaultBackend": service}}), Policy("no default backend")),
        ("without a host", json!({"spec": {"rules": [nameless]}}), Policy("names a host in each rule")),
        ("with one rule more, without a host", json!({"spec": {"rules": [rule("/"), nameless]}}), Policy("names a host in each rule")),
        ("with a certificate for all", json!({"spec": {"tls": [{"secretName": "tls"}]}}), Policy("names a host in each rule")),
        ("that leads elsewhere", json!({"spec": {"rules": [stored]}}), Policy("from plain paths to Services")),
        ("with a pattern", json!({"spec": {"rules": [rule("/(.*)")]}}), Policy("from plain paths to Services")),
        ("with a line of its own", json!({"spec": {"rules": [rule("/a\n}")]}}), Policy("from plain paths to Services")),
        ("with a block of its own", json!({"spec": {"rules": [rule("/a{return 200;}")]}}), Policy("from plain paths to Services")),
        ("with a snippet", annotated(SNIPPET, json!("return 200;")), Policy("configures no controller")),
        ("with any annotation", annotated("note", json!("a")), Policy("configures no controller")),
        ("with a class, hosts and plain paths", json!({"metadata": {"name": "plain"}}), Allowed),
    ] {
        let body = a.object("networking.k8s.io/v1", "Ingress", "web", merged(usual(), change));
        fence.attempt(&format!("A makes an Ingress {what}"), Who::WriterA, "POST", &list, &body, verdict).await;
    }
    let one = format!("{list}/plain");
    let patch = |spec: Value| json!({"spec": spec});
    fence.admin_patches(&one, &annotated("controller.example/synced", json!("yes"))).await;
    for (what, change, verdict) in [
        ("takes the class away", patch(json!({"ingressClassName": null})), Policy("names a class")),
        ("takes the host away", patch(json!({"rules": [nameless]})), Policy("names a host in each rule")),
        ("adds a default backend", patch(json!({"defaultBackend": service})), Policy("no default backend")),
        ("adds a snippet", annotated(SNIPPET, json!("return 200;")), Policy("configures no controller")),
        ("changes what a controller said", annotated("controller.example/synced", json!("no")), Policy("configures no controller")),
        ("changes a path, and leaves what a controller said", patch(json!({"rules": [rule("/v2")]})), Allowed),
    ] {
        fence.attempt(&format!("A {what} of an Ingress"), Who::WriterA, "PATCH", &one, &change, verdict).await;
    }
}
