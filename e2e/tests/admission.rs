//! The rights that `manifests/` gives, and the policies that fence them, tried on a real API server.
//!
//! Each try is one request of one identity. A try that must fail must fail for the reason stated: by RBAC, or by the message of
//! the rule that is there for it, never by luck. Rows of `docs/threats.md`: X8, X9, S04, S09–S11, S19, S20, S23, S24, S60, S62, S63, S65.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail so, its helpers too")]

use crate::fence::{
    self, Fence,
    Verdict::{Allowed, Invalid, Policy, Rbac},
    Who, addresses, ingresses, pods,
    tenant::{ROLE_BINDINGS, Tenant, annotated, labeled, merged},
};
use common::keys;
use e2e::bed::{Bed, BedOptions};
use serde_json::{Value, json};

const WRITERS: &str = "/api/v1/namespaces/vc-writers/serviceaccounts";

/// Says whose hands a slice is in.
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";

#[tokio::test(flavor = "multi_thread")]
async fn every_hole_in_the_fence_is_closed_and_every_right_use_passes() {
    let bed = Bed::start(BedOptions::new("admission", 0)).await.unwrap();
    let a = Tenant::new("6f9b1c1e-6a55-4e0c-8a8e-3a1d5c0b7f01", "alpha");
    let b = Tenant::new("0b8f6d0a-2a2c-4f0e-9a57-a1f6f7f0c902", "beta");
    let mut fence = Fence::start(&bed).await.unwrap();

    what_the_manifests_ship_is_accepted(&mut fence).await;
    the_syncer_makes_namespaces_with_a_record_and_touches_no_others(&a, &b, &mut fence).await;
    the_syncer_binds_one_role_to_the_right_writer(&a, &b, &mut fence).await;
    the_syncer_makes_and_speaks_for_writers_only(&a, &b, &mut fence).await;
    fence.learn(Who::WriterA, &a.id.writer()).await.unwrap();
    fence.learn(Who::WriterB, &b.id.writer()).await.unwrap();
    the_syncer_has_no_right_beyond_its_own(&a, &mut fence).await;
    a_writer_writes_in_its_own_namespaces_only(&a, &b, &mut fence).await;
    a_writer_writes_only_what_carries_its_record(&a, &b, &mut fence).await;
    a_writer_has_no_right_beyond_the_kinds_that_go_down(&a, &mut fence).await;
    secrets_and_services_stay_what_tenants_may_have(&a, &mut fence).await;
    addresses::services_claim_addresses_that_are_listed(&a, &mut fence).await;
    ingresses::ingresses_lead_from_hosts_and_plain_paths_to_services(&a, &mut fence).await;
    pods::pods_stay_harmless_where_pod_security_does_not_look(&a, &mut fence).await;
    pods::nobody_elses_pod_is_resized(&a, &mut fence).await;
    pods::the_list_of_a_tenants_containers_takes_in_none_of_others(&a, &mut fence).await;
    pods::the_status_of_a_pod_stays_its_nodes(&a, &mut fence).await;
    the_record_of_a_namespace_is_beyond_everybody(&a, &mut fence).await;
    the_writers_namespace_holds_nothing_else(&mut fence).await;
    fence.grant_everything(&[&a.id.writer(), "imposter"]).await.unwrap();
    the_fence_holds_where_rbac_does_not(&a, &b, &mut fence).await;

    fence.finish();
}

/// The Deployment's Pod passes Pod Security restricted, the original's sample applies, and the definition refuses nonsense.
async fn what_the_manifests_ship_is_accepted(fence: &mut Fence<'_>) {
    let deployment = fence::manifest("deployment.yaml", "Deployment");
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": deployment["spec"]["template"]["spec"]});
    fence.attempt("the syncer's Pod", Who::Admin, "POST", "/api/v1/namespaces/vc-system/pods?dryRun=All", &pod, Allowed).await;
    let list = "/apis/tenancy.x-k8s.io/v1alpha1/namespaces/innocent/virtualclusters";
    let sample = merged(fence::manifest("samples/virtualcluster.yaml", "VirtualCluster"), json!({"metadata": {"namespace": "innocent"}}));
    fence.attempt("the original's sample", Who::Admin, "POST", list, &sample, Allowed).await;
    let original = json!({"status": {"phase": "Running", "conditions": [{"status": "True", "reason": "TenantControlPlaneRunning"}]}});
    let status = format!("{list}/vc-sample-1/status");
    fence.attempt("the original's status", Who::Syncer, "PATCH", &status, &original, Allowed).await;
    let one = format!("{list}/vc-sample-1");
    for (what, spec, verdict) in [
        ("weight 0", json!({"weight": 0}), Invalid("spec.weight")),
        ("weight 101", json!({"weight": 101}), Invalid("spec.weight")),
        ("weight 100", json!({"weight": 100}), Allowed),
        ("a selector of nodes on demand", json!({"nodes": {"selector": {}}}), Invalid("a selector needs mode mirrored")),
        ("mirrored nodes", json!({"nodes": {"mode": "mirrored", "selector": {"matchLabels": {"pool": "a"}}}}), Allowed),
        ("a host of a letter and a dot too many", json!({"ingressHosts": ["App.example.com."]}), Invalid("spec.ingressHosts[0]")),
        ("every host", json!({"ingressHosts": ["*"]}), Invalid("spec.ingressHosts[0]")),
        ("every host of a country", json!({"ingressHosts": ["*.example"]}), Invalid("spec.ingressHosts[0]")),
        ("an address for a host", json!({"ingressHosts": ["192.0.2.1"]}), Invalid("spec.ingressHosts[0]")),
        ("a host twice", json!({"ingressHosts": ["app.example.com", "app.example.com"]}), Invalid("spec.ingressHosts[1]")),
        ("hosts", json!({"ingressHosts": ["app.example.com", "*.xn--bcher-kva.example.com"]}), Allowed),
        ("an address that is no range", json!({"externalAddresses": ["192.0.2.1"]}), Invalid("spec.externalAddresses[0]")),
        ("a name for a range", json!({"externalAddresses": ["lb.example/32"]}), Invalid("spec.externalAddresses[0]")),
        ("addresses", json!({"externalAddresses": ["192.0.2.0/28", "2001:db8::/64"]}), Allowed),
        ("another deletion policy", json!({"deletionPolicy": "Retain"}), Invalid("spec.deletionPolicy")),
        ("orphaning", json!({"deletionPolicy": "Orphan"}), Allowed),
    ] {
        fence.attempt(&format!("a tenant with {what}"), Who::Admin, "PATCH", &one, &json!({"spec": spec}), verdict).await;
    }
    let bundle = json!({"spec": {"etcd": {"metadata": {"name": "etcd"}, "statefulset": {"spec": {"replicas": 1}}, "service": {}}}});
    let version = merged(json!({"apiVersion": "tenancy.x-k8s.io/v1alpha1", "kind": "ClusterVersion", "metadata": {"name": "cv"}}), bundle);
    fence.attempt("a template", Who::Admin, "POST", "/apis/tenancy.x-k8s.io/v1alpha1/clusterversions", &version, Allowed).await;
}

async fn the_syncer_makes_namespaces_with_a_record_and_touches_no_others(a: &Tenant, b: &Tenant, fence: &mut Fence<'_>) {
    const SPACES: &str = "/api/v1/namespaces";
    let odd = |change: Value| merged(a.space(), change);
    for (what, body, verdict) in [
        ("without a label", odd(labeled(keys::TENANT, Value::Null)), Policy("without a tenant's label")),
        ("with a label that is no id", odd(labeled(keys::TENANT, json!("UPPER"))), Policy("without a tenant's label")),
        ("without a record", odd(annotated(keys::OWNER, Value::Null)), Policy("without a tenant's record")),
        ("of another name", odd(json!({"metadata": {"name": "team-a"}})), Policy("named vc-<hint>-<hash>")),
        ("without Pod Security", odd(labeled("pod-security.kubernetes.io/enforce", Value::Null)), Policy("Pod Security baseline")),
        ("for privileged Pods", odd(labeled("pod-security.kubernetes.io/enforce", json!("privileged"))), Policy("Pod Security baseline")),
        ("with the record", a.space(), Allowed),
        ("of a second tenant", b.space(), Allowed),
    ] {
        fence.attempt(&format!("syncer makes a namespace {what}"), Who::Syncer, "POST", SPACES, &body, verdict).await;
    }
    let own = format!("{SPACES}/{}", a.namespace);
    let immutable = |key: &'static str| {
        Policy(if key == keys::TENANT {
            "tenancy.x-k8s.io/tenant of a namespace cannot"
        } else {
            "tenancy.x-k8s.io/owner of a namespace cannot"
        })
    };
    for (what, path, change, verdict) in [
        ("notes the incarnation", own.as_str(), annotated(keys::INCARNATION, json!("x")), Allowed),
        ("gives its namespace to another tenant", &own, labeled(keys::TENANT, json!(b.id.as_str())), immutable(keys::TENANT)),
        ("rewrites a namespace's record", &own, annotated(keys::OWNER, json!("{}")), immutable(keys::OWNER)),
        ("lowers Pod Security", &own, labeled("pod-security.kubernetes.io/enforce", json!("privileged")), Policy("Pod Security baseline")),
        ("labels a foreign namespace", "/api/v1/namespaces/innocent", labeled("x", json!("y")), Policy("without a tenant's label")),
        ("takes over a foreign namespace", "/api/v1/namespaces/innocent", a.record_patch(), Policy("tenant")),
        ("labels kube-system", "/api/v1/namespaces/kube-system", labeled("x", json!("y")), Policy("without a tenant's label")),
    ] {
        fence.attempt(&format!("syncer {what}"), Who::Syncer, "PATCH", path, &change, verdict).await;
    }
    // The label alone is not enough: who restores a backup can forget the record.
    fence.admin_makes(SPACES, &a.half()).await;
    without_a_record("syncer", a, fence).await;
    for name in ["innocent", "vc-system", "vc-writers"] {
        let path = format!("{SPACES}/{name}");
        fence
            .attempt(&format!("syncer deletes {name}"), Who::Syncer, "DELETE", &path, &json!({}), Policy("without a tenant's label"))
            .await;
    }
}

/// Neither changed nor deleted, and no record written.
async fn without_a_record(who: &str, a: &Tenant, fence: &mut Fence<'_>) {
    let path = format!("/api/v1/namespaces/{}", a.half_name());
    let verdict = Policy("without a tenant's record");
    fence.attempt(&format!("{who} labels one without a record"), Who::Syncer, "PATCH", &path, &labeled("x", json!("y")), verdict).await;
    fence.attempt(&format!("{who} deletes one without a record"), Who::Syncer, "DELETE", &path, &json!({}), verdict).await;
    // Two policies refuse this, in either order.
    let verdict = Policy("a namespace");
    fence.attempt(&format!("{who} completes it"), Who::Syncer, "PATCH", &path, &a.record_patch(), verdict).await;
}

async fn the_syncer_binds_one_role_to_the_right_writer(a: &Tenant, b: &Tenant, fence: &mut Fence<'_>) {
    let bindings = |namespace: &str| format!("{ROLE_BINDINGS}/{namespace}/rolebindings");
    let here = bindings(&a.namespace);
    let odd = |change: Value| a.binding(&a.namespace, change);
    let role = |kind: &str, name: &str| json!({"roleRef": {"kind": kind, "name": name}});
    let subject = |change: Value| json!({"subjects": [merged(a.subject(), change)]});
    let person = |kind: &str| json!({"subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": a.id.writer()}]});
    for (what, body, verdict) in [
        ("under another name", odd(json!({"metadata": {"name": "other"}})), Policy("is called vc-tenant-writer")),
        ("of a role it holds itself", odd(role("ClusterRole", "vc-syncer")), Policy("ClusterRole vc-tenant-writer and no other")),
        ("of cluster-admin", odd(role("ClusterRole", "cluster-admin")), Rbac),
        ("of view", odd(role("ClusterRole", "view")), Rbac),
        ("for another tenant's writer", odd(json!({"subjects": [b.subject()]})), Policy("the namespace's own tenant")),
        ("for itself", odd(subject(json!({"name": "vc-syncer", "namespace": "vc-system"}))), Policy("the namespace's own tenant")),
        ("for a namesake elsewhere", odd(subject(json!({"namespace": "innocent"}))), Policy("the namespace's own tenant")),
        ("for one more", odd(json!({"subjects": [a.subject(), b.subject()]})), Policy("the namespace's own tenant")),
        ("for a user", odd(person("User")), Policy("the namespace's own tenant")),
        ("for a group", odd(person("Group")), Policy("the namespace's own tenant")),
        ("as it should", odd(json!({})), Allowed),
    ] {
        fence.attempt(&format!("syncer makes a binding {what}"), Who::Syncer, "POST", &here, &body, verdict).await;
    }
    for namespace in ["innocent", "kube-system", "vc-system", "vc-writers"] {
        let body = a.binding(namespace, json!({}));
        let verdict = Policy("only in namespaces with a tenant's record");
        fence.attempt(&format!("syncer makes a binding in {namespace}"), Who::Syncer, "POST", &bindings(namespace), &body, verdict).await;
    }
    let one = format!("{here}/vc-tenant-writer");
    let widened = odd(json!({"subjects": [a.subject(), b.subject()]}));
    fence.attempt("syncer widens its binding", Who::Syncer, "PUT", &one, &widened, Policy("the namespace's own tenant")).await;
    fence.attempt("syncer patches its binding", Who::Syncer, "PATCH", &one, &json!({"subjects": [b.subject()]}), Rbac).await;
    let foreign = format!("{}/vc-tenant-writer", bindings("innocent"));
    let verdict = Policy("only in namespaces with a tenant's record");
    fence.attempt("syncer deletes a foreign binding", Who::Syncer, "DELETE", &foreign, &json!({}), verdict).await;
    fence.attempt("syncer deletes a binding of another name", Who::Syncer, "DELETE", &format!("{here}/other"), &json!({}), Rbac).await;
    fence.attempt("syncer deletes its binding", Who::Syncer, "DELETE", &one, &json!({}), Allowed).await;
    fence.attempt("syncer makes its binding anew", Who::Syncer, "POST", &here, &odd(json!({})), Allowed).await;
    let theirs = b.binding(&b.namespace, json!({}));
    fence.attempt("syncer binds the second writer", Who::Syncer, "POST", &bindings(&b.namespace), &theirs, Allowed).await;
}

async fn the_syncer_makes_and_speaks_for_writers_only(a: &Tenant, b: &Tenant, fence: &mut Fence<'_>) {
    let account = |name: &str| json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}});
    for (name, verdict) in [
        (a.id.writer(), Allowed),
        (b.id.writer(), Allowed),
        ("other".to_owned(), Policy("named w-<tenant id> only")),
        ("w-short".to_owned(), Policy("named w-<tenant id> only")),
    ] {
        fence.attempt(&format!("syncer makes the account {name}"), Who::Syncer, "POST", WRITERS, &account(&name), verdict).await;
    }
    let token = |name: &str| format!("{WRITERS}/{name}/token");
    fence.attempt("syncer speaks for a writer", Who::Syncer, "POST", &token(&a.id.writer()), &request, Allowed).await;
    fence.attempt("syncer speaks for another", Who::Syncer, "POST", &token("imposter"), &request, Policy("named w-<tenant id> only")).await;
    fence
        .attempt(
            "syncer deletes another",
            Who::Syncer,
            "DELETE",
            &format!("{WRITERS}/imposter"),
            &json!({}),
            Policy("named w-<tenant id> only"),
        )
        .await;
    for namespace in ["kube-system", "vc-system", "innocent", &a.namespace] {
        let accounts = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
        fence
            .attempt(&format!("syncer makes an account in {namespace}"), Who::Syncer, "POST", &accounts, &account(&a.id.writer()), Rbac)
            .await;
        fence
            .attempt(
                &format!("syncer speaks for one in {namespace}"),
                Who::Syncer,
                "POST",
                &format!("{accounts}/default/token"),
                &request,
                Rbac,
            )
            .await;
    }
}

async fn the_syncer_has_no_right_beyond_its_own(a: &Tenant, fence: &mut Fence<'_>) {
    let empty = json!({});
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "x"}, "rules": []});
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "x"}});
    let vc = "/apis/tenancy.x-k8s.io/v1alpha1/namespaces/innocent/virtualclusters";
    for (what, method, path, body, verdict) in [
        ("lists all Secrets", "GET", "/api/v1/secrets".to_owned(), &empty, Rbac),
        ("lists a tenant's Secrets", "GET", a.path("secrets"), &empty, Rbac),
        ("reads some Secret", "GET", "/api/v1/namespaces/innocent/secrets/password".to_owned(), &empty, Rbac),
        ("reads a kubeconfig", "GET", "/api/v1/namespaces/innocent/secrets/admin-kubeconfig".to_owned(), &empty, Allowed),
        ("sees Pods", "GET", "/api/v1/pods".to_owned(), &empty, Allowed),
        ("sees nodes", "GET", "/api/v1/nodes".to_owned(), &empty, Allowed),
        ("makes a Pod", "POST", a.path("pods"), &a.pod("x", json!({})), Rbac),
        ("makes a ConfigMap", "POST", a.path("configmaps"), &a.object("v1", "ConfigMap", "x", json!({})), Rbac),
        ("makes a node", "POST", "/api/v1/nodes".to_owned(), &node, Rbac),
        ("makes an Event", "POST", a.path("events"), &a.object("v1", "Event", "x", json!({})), Rbac),
        ("makes a role", "POST", "/apis/rbac.authorization.k8s.io/v1/clusterroles".to_owned(), &role, Rbac),
        ("changes the writers' role", "PATCH", "/apis/rbac.authorization.k8s.io/v1/clusterroles/vc-tenant-writer".to_owned(), &empty, Rbac),
        (
            "removes the fence",
            "DELETE",
            "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/vc-tenant-writers".to_owned(),
            &empty,
            Rbac,
        ),
        ("sees the tenants", "GET", "/apis/tenancy.x-k8s.io/v1alpha1/virtualclusters".to_owned(), &empty, Allowed),
        ("changes a tenant's spec", "PATCH", format!("{vc}/alpha"), &json!({"spec": {"paused": true}}), Rbac),
        ("reports on a tenant", "PATCH", format!("{vc}/alpha/status"), &json!({"status": {"pods": 1}}), Allowed),
    ] {
        fence.attempt(&format!("syncer {what}"), Who::Syncer, method, &path, body, verdict).await;
    }
    let path = "/api/v1/namespaces/kube-system/secrets";
    fence.attempt_as("syncer plays an admin", Who::Syncer, "system:masters", "GET", path, Rbac).await;
}

async fn a_writer_writes_in_its_own_namespaces_only(a: &Tenant, b: &Tenant, fence: &mut Fence<'_>) {
    let map = |tenant: &Tenant| tenant.object("v1", "ConfigMap", "settings", json!({"data": {"k": "v"}}));
    fence.attempt("A writes at home", Who::WriterA, "POST", &a.path("configmaps"), &map(a), Allowed).await;
    fence.attempt("B writes at home", Who::WriterB, "POST", &b.path("configmaps"), &map(b), Allowed).await;
    fence.attempt("A reads at home", Who::WriterA, "GET", &a.path("configmaps/settings"), &json!({}), Allowed).await;
    fence.attempt("A lists Secrets at home", Who::WriterA, "GET", &a.path("secrets"), &json!({}), Allowed).await;
    for kind in ["configmaps", "secrets", "services", "pods"] {
        let list = b.path(kind);
        let one = format!("{list}/settings");
        let body = a.object("v1", "ConfigMap", "settings", json!({}));
        for (method, path) in
            [("GET", &list), ("POST", &list), ("GET", &one), ("PUT", &one), ("PATCH", &one), ("DELETE", &one), ("DELETE", &list)]
        {
            fence.attempt(&format!("A in B's home: {method} {kind}"), Who::WriterA, method, path, &body, Rbac).await;
        }
    }
    for path in [
        "/api/v1/configmaps",
        "/api/v1/pods",
        "/api/v1/secrets",
        "/api/v1/namespaces",
        "/api/v1/nodes",
        "/api/v1/namespaces/innocent/configmaps",
    ] {
        fence.attempt(&format!("A looks at {path}"), Who::WriterA, "GET", path, &json!({}), Rbac).await;
    }
}

async fn a_writer_writes_only_what_carries_its_record(a: &Tenant, b: &Tenant, fence: &mut Fence<'_>) {
    let maps = a.path("configmaps");
    let odd = |change: Value| a.object("v1", "ConfigMap", "odd", change);
    for (what, body, verdict) in [
        ("without a label", odd(labeled(keys::TENANT, Value::Null)), Policy("carries that tenant's label")),
        ("with B's label", odd(labeled(keys::TENANT, json!(b.id.as_str()))), Policy("carries that tenant's label")),
        ("without a record", odd(annotated(keys::OWNER, Value::Null)), Policy("carries its record")),
    ] {
        fence.attempt(&format!("A makes an object {what}"), Who::WriterA, "POST", &maps, &body, verdict).await;
    }
    let (own, foreign) = (format!("{maps}/settings"), format!("{maps}/platform"));
    for (what, method, path, body, verdict) in [
        ("changes its object", "PATCH", &own, json!({"data": {"k": "w"}}), Allowed),
        ("gives its object to B", "PATCH", &own, labeled(keys::TENANT, json!(b.id.as_str())), Policy("carries that tenant's label")),
        ("takes its label off", "PATCH", &own, labeled(keys::TENANT, Value::Null), Policy("carries that tenant's label")),
        ("rewrites the record", "PATCH", &own, annotated(keys::OWNER, json!("{}")), Policy("cannot change")),
        ("takes the record off", "PATCH", &own, annotated(keys::OWNER, Value::Null), Policy("carries its record")),
        ("takes over a foreign object", "PATCH", &foreign, a.record_patch(), Policy("not the tenant's")),
        ("deletes a foreign object", "DELETE", &foreign, json!({}), Policy("not the tenant's")),
        ("deletes all at once", "DELETE", &maps, json!({}), Rbac),
        ("deletes its object", "DELETE", &own, json!({}), Allowed),
    ] {
        if path == &foreign && method == "PATCH" {
            fence.admin_makes(&maps, &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "platform"}})).await;
        }
        fence.attempt(&format!("A {what}"), Who::WriterA, method, path, &body, verdict).await;
    }
}

async fn a_writer_has_no_right_beyond_the_kinds_that_go_down(a: &Tenant, fence: &mut Fence<'_>) {
    let none = json!({});
    let evict = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "x"}});
    let bind = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "x"}, "target": {"kind": "Node", "name": "n"}});
    let rbac = format!("{ROLE_BINDINGS}/{}/rolebindings", a.namespace);
    for (what, method, path, body) in [
        ("watches", "GET", a.path("pods?watch=true"), &none),
        ("evicts", "POST", a.path("pods/x/eviction"), &evict),
        ("binds a Pod", "POST", a.path("pods/x/binding"), &bind),
        ("runs a command", "POST", a.path("pods/x/exec?command=id"), &none),
        ("reads logs", "GET", a.path("pods/x/log"), &none),
        ("asks for a token", "POST", a.path("serviceaccounts/default/token"), &none),
        ("makes an account", "POST", a.path("serviceaccounts"), &a.object("v1", "ServiceAccount", "x", json!({}))),
        ("binds a role", "POST", rbac, &a.binding(&a.namespace, json!({}))),
        ("reads its namespace", "GET", format!("/api/v1/namespaces/{}", a.namespace), &none),
        ("deletes its namespace", "DELETE", format!("/api/v1/namespaces/{}", a.namespace), &none),
        ("makes a namespace", "POST", "/api/v1/namespaces".to_owned(), &a.space()),
        ("makes endpoints", "POST", a.path("endpoints"), &a.object("v1", "Endpoints", "x", json!({}))),
        ("reads nodes", "GET", "/api/v1/nodes".to_owned(), &none),
    ] {
        fence.attempt(&format!("A {what}"), Who::WriterA, method, &path, body, Rbac).await;
    }
}

async fn secrets_and_services_stay_what_tenants_may_have(a: &Tenant, fence: &mut Fence<'_>) {
    let kind = |type_: &str| json!({"type": type_, "metadata": {"annotations": {"kubernetes.io/service-account.name": "default"}}});
    for (what, rest, verdict) in [
        ("with a token of the super cluster", kind("kubernetes.io/service-account-token"), Policy("controllers of the super cluster")),
        ("to join machines with", kind("bootstrap.kubernetes.io/token"), Policy("controllers of the super cluster")),
        ("of no special type", kind("Opaque"), Allowed),
        (
            "with a key pair",
            merged(kind("kubernetes.io/tls"), json!({"metadata": {"name": "tls"}, "stringData": {"tls.crt": "", "tls.key": ""}})),
            Allowed,
        ),
    ] {
        let body = a.object("v1", "Secret", "password", rest);
        fence.attempt(&format!("A makes a Secret {what}"), Who::WriterA, "POST", &a.path("secrets"), &body, verdict).await;
    }
    let ports = json!([{"port": 80}]);
    for (what, spec, verdict) in [
        ("with an external address", json!({"ports": ports, "externalIPs": ["192.0.2.1"]}), Policy("no address from outside")),
        (
            "with a load balancer's address",
            json!({"ports": ports, "type": "LoadBalancer", "loadBalancerIP": "192.0.2.1"}),
            Policy("no address from outside"),
        ),
        ("that is an alias", json!({"type": "ExternalName", "externalName": "kubernetes.default.svc"}), Policy("no alias")),
        ("with ports", json!({"ports": ports}), Allowed),
    ] {
        let body = a.object("v1", "Service", "web", json!({"spec": spec}));
        fence.attempt(&format!("A makes a Service {what}"), Who::WriterA, "POST", &a.path("services"), &body, verdict).await;
    }
    for (what, rest, verdict) in [
        (
            "that a controller would take for its own",
            json!({"metadata": {"labels": {(MANAGED_BY): "endpointslice-controller.k8s.io"}}}),
            Policy("managed by"),
        ),
        ("of names", json!({"addressType": "FQDN", "endpoints": [{"addresses": ["a.example"]}]}), Policy("not names")),
        ("of a node", json!({"endpoints": [{"addresses": ["192.0.2.1"], "nodeName": "n"}]}), Policy("no Pod and no node")),
        ("of another Service", json!({"metadata": {"name": "web", "labels": {"kubernetes.io/service-name": "web"}}}), Allowed),
        ("of its API server", json!({}), Allowed),
    ] {
        let usual = json!({"metadata": {"labels": {"kubernetes.io/service-name": "kubernetes", (MANAGED_BY): "vc-syncer"}}, "addressType": "IPv4",
            "endpoints": [{"addresses": ["192.0.2.1"]}], "ports": [{"port": 6443}]});
        let body = a.object("discovery.k8s.io/v1", "EndpointSlice", "kubernetes", merged(usual, rest));
        let path = format!("/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices", a.namespace);
        fence.attempt(&format!("A makes an EndpointSlice {what}"), Who::WriterA, "POST", &path, &body, verdict).await;
    }
    claims_are_for_new_volumes(a, fence).await;
    let change = json!({"spec": {"externalIPs": ["192.0.2.1"]}});
    fence
        .attempt("A adds an external address", Who::WriterA, "PATCH", &a.path("services/web"), &change, Policy("no address from outside"))
        .await;
}

async fn claims_are_for_new_volumes(a: &Tenant, fence: &mut Fence<'_>) {
    let usual =
        json!({"spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "fast", "resources": {"requests": {"storage": "1Gi"}}}});
    let snapshot = json!({"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "others"});
    let custom = json!({"apiGroup": "populator.example", "kind": "PersistentVolumeClaim", "name": "data"});
    for (what, rest, verdict) in [
        ("without a class", json!({"spec": {"storageClassName": null}}), Policy("names a class")),
        ("for what is there", json!({"spec": {"storageClassName": ""}}), Policy("names a class")),
        ("for a certain volume", json!({"spec": {"volumeName": "pv-1"}}), Policy("asks for a new volume")),
        ("for a labelled volume", json!({"spec": {"selector": {"matchLabels": {"team": "b"}}}}), Policy("asks for a new volume")),
        ("with what a snapshot holds", json!({"spec": {"dataSource": snapshot}}), Policy("a clone of another in its own namespace")),
        ("with what a populator fills in", json!({"spec": {"dataSourceRef": custom}}), Policy("a clone of another in its own namespace")),
        ("that says that it is bound", annotated("pv.kubernetes.io/bind-completed", json!("yes")), Policy("by no annotation")),
        ("with a class by annotation", annotated("volume.beta.kubernetes.io/storage-class", json!("gold")), Policy("by no annotation")),
        ("on a node", annotated("volume.kubernetes.io/selected-node", json!("n")), Policy("by no annotation")),
        ("with what another of its own holds", json!({"spec": {"dataSource": {"kind": "PersistentVolumeClaim", "name": "data"}}}), Allowed),
        ("for a new volume", json!({"metadata": {"name": "new"}}), Allowed),
    ] {
        let body = a.object("v1", "PersistentVolumeClaim", "data", merged(usual.clone(), rest));
        fence.attempt(&format!("A makes a claim {what}"), Who::WriterA, "POST", &a.path("persistentvolumeclaims"), &body, verdict).await;
    }
    let path = a.path("persistentvolumeclaims/new");
    let change = json!({"spec": {"volumeName": "pv-1"}});
    fence
        .attempt("A has its claim bound to a certain volume", Who::WriterA, "PATCH", &path, &change, Policy("asks for a new volume"))
        .await;
    let change = annotated("volume.kubernetes.io/selected-node", json!("n"));
    fence.attempt("A has its claim made on a node", Who::WriterA, "PATCH", &path, &change, Policy("by no annotation")).await;
}

async fn the_record_of_a_namespace_is_beyond_everybody(a: &Tenant, fence: &mut Fence<'_>) {
    let own = format!("/api/v1/namespaces/{}", a.namespace);
    for who in [Who::Admin, Who::Platform] {
        for path in [own.clone(), format!("{own}/status")] {
            let take = labeled(keys::TENANT, Value::Null);
            fence.attempt(&format!("{who:?} takes the label off {path}"), who, "PATCH", &path, &take, Policy("cannot be added")).await;
            let change = annotated(keys::OWNER, json!("{}"));
            fence.attempt(&format!("{who:?} rewrites the record of {path}"), who, "PATCH", &path, &change, Policy("cannot be added")).await;
        }
        let bare =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": a.namespace}, "spec": {"finalizers": ["kubernetes"]}});
        let finalize = format!("{own}/finalize");
        fence.attempt(&format!("{who:?} finalizes it without"), who, "PUT", &finalize, &bare, Policy("cannot be added")).await;
        let adopt = a.record_patch();
        fence
            .attempt(
                &format!("{who:?} puts a record on innocent"),
                who,
                "PATCH",
                "/api/v1/namespaces/innocent",
                &adopt,
                Policy("cannot be added"),
            )
            .await;
    }
    let forged = merged(a.space(), json!({"metadata": {"name": "forged"}}));
    fence.attempt("Platform forges a record", Who::Platform, "POST", "/api/v1/namespaces", &forged, Policy("only vc-syncer makes")).await;
    let free = labeled("team", json!("x"));
    fence.attempt("Platform labels a tenant's namespace", Who::Platform, "PATCH", &own, &free, Allowed).await;
}

async fn the_writers_namespace_holds_nothing_else(fence: &mut Fence<'_>) {
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {
        "securityContext": {"runAsNonRoot": true, "runAsUser": 1, "seccompProfile": {"type": "RuntimeDefault"}},
        "automountServiceAccountToken": false,
        "containers": [{"name": "x", "image": "x", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}],
    }});
    for (kind, body) in [("secrets", secret), ("pods", pod)] {
        let path = format!("/api/v1/namespaces/vc-writers/{kind}");
        fence
            .attempt(
                &format!("Platform makes {kind} among the writers"),
                Who::Platform,
                "POST",
                &path,
                &body,
                Policy("act as a tenant's writer"),
            )
            .await;
    }
}

/// The same identities with every right of RBAC: a mistake in a role is not yet a hole.
async fn the_fence_holds_where_rbac_does_not(a: &Tenant, b: &Tenant, fence: &mut Fence<'_>) {
    let none = json!({});
    let map = |tenant: &Tenant| tenant.object("v1", "ConfigMap", "late", json!({}));
    let innocent = "/api/v1/namespaces/innocent/configmaps".to_owned();
    let role = a.object("rbac.authorization.k8s.io/v1", "ClusterRole", "x", json!({"rules": []}));
    let own = format!("/api/v1/namespaces/{}", a.namespace);
    let half = format!("/api/v1/namespaces/{}/configmaps", a.half_name());
    let evict = merged(a.object("policy/v1", "Eviction", "web", json!({})), json!({}));
    for (what, method, path, body, verdict) in [
        ("writes in B's home", "POST", b.path("configmaps"), &map(a), Policy("whose record is its own tenant's")),
        ("deletes B's object", "DELETE", b.path("configmaps/settings"), &none, Policy("whose record is its own tenant's")),
        ("writes elsewhere", "POST", innocent.clone(), &map(a), Policy("whose record is its own tenant's")),
        (
            "writes cluster-wide",
            "POST",
            "/apis/rbac.authorization.k8s.io/v1/clusterroles".to_owned(),
            &role,
            Policy("no cluster-wide object"),
        ),
        ("writes where the record is missing", "POST", half, &map(a), Policy("whose record is its own tenant's")),
        ("takes over a foreign object", "PATCH", a.path("configmaps/platform"), &a.record_patch(), Policy("not the tenant's")),
        ("deletes a foreign object", "DELETE", a.path("configmaps/platform"), &none, Policy("not the tenant's")),
        ("deletes all at once", "DELETE", a.path("configmaps"), &none, Policy("not the tenant's")),
        ("changes its namespace", "PATCH", own.clone(), &labeled("x", json!("y")), Policy("no Namespace")),
        ("deletes its namespace", "DELETE", own, &none, Policy("no Namespace")),
        ("makes a namespace", "POST", "/api/v1/namespaces".to_owned(), &a.space(), Policy("amespace")),
        ("evicts", "POST", a.path("pods/web/eviction"), &evict, Policy("ephemeral containers and resources, nothing else")),
        ("runs a command", "POST", a.path("pods/web/exec?command=id"), &none, Policy("opens no stream")),
        ("asks for a token", "POST", a.path("serviceaccounts/default/token"), &none, Policy("nothing else")),
        ("writes at home still", "POST", a.path("configmaps"), &map(a), Allowed),
    ] {
        fence.attempt(&format!("A with every right {what}"), Who::WriterA, method, &path, body, verdict).await;
    }
    let imposter = Policy("not named w-<tenant id> write nothing");
    fence.attempt("an imposter writes at A's", Who::Imposter, "POST", &a.path("configmaps"), &map(a), imposter).await;
    fence.attempt("an imposter writes elsewhere", Who::Imposter, "POST", &innocent, &map(a), imposter).await;
    fence.grant_everything(&["vc-syncer"]).await.unwrap();
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": a.id.writer()}});
    let ask = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let here = "only in vc-writers";
    for (what, path, body) in [
        ("makes an account elsewhere", "/api/v1/namespaces/innocent/serviceaccounts", &account),
        ("speaks for one elsewhere", "/api/v1/namespaces/kube-system/serviceaccounts/default/token", &ask),
    ] {
        fence.attempt(&format!("syncer with every right {what}"), Who::Syncer, "POST", path, body, Policy(here)).await;
    }
    let admin = a.binding(&a.namespace, json!({"metadata": {"name": "other"}, "roleRef": {"name": "cluster-admin"}}));
    let bindings = format!("{ROLE_BINDINGS}/{}/rolebindings", a.namespace);
    fence.attempt("syncer with every right binds cluster-admin", Who::Syncer, "POST", &bindings, &admin, Policy("vc-tenant-writer")).await;
    let (one, other) = (format!("{bindings}/vc-tenant-writer"), json!({"subjects": [b.subject()]}));
    let whose = Policy("the namespace's own tenant");
    fence.attempt("syncer with every right patches its binding", Who::Syncer, "PATCH", &one, &other, whose).await;
    without_a_record("syncer with every right", a, fence).await;
}
