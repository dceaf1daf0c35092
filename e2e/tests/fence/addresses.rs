//! What a writer's Services may claim from outside: addresses of the ranges that the administrator lists, and nothing where the list is missing.

use std::time::Duration;

use e2e::wait::{Seen, eventually};
use serde_json::{Value, json};

use super::tenant::Tenant;
use super::{
    Fence,
    Verdict::{Allowed, Policy},
    Who,
};

const LIST: &str = "/api/v1/namespaces/vc-system/configmaps/vc-external-addresses";

/// S19: past the syncer.
pub(crate) async fn services_claim_addresses_that_are_listed(a: &Tenant, fence: &mut Fence<'_>) {
    let ports = json!([{"port": 80}]);
    let service = |spec: Value| a.object("v1", "Service", "claims", json!({"spec": spec}));
    let listing = |list: &[&str]| service(json!({"ports": ports, "externalIPs": list}));
    let balanced = |address: &str| service(json!({"ports": ports, "type": "LoadBalancer", "loadBalancerIP": address}));
    let path = a.path("services?dryRun=All");
    for (what, body) in [("an address", listing(&["192.0.2.1"])), ("an address of a load balancer", balanced("192.0.2.1"))] {
        let verdict = Policy("no address from outside");
        fence.attempt(&format!("A claims {what} while none is listed"), Who::WriterA, "POST", &path, &body, verdict).await;
    }
    fence.admin_patches(LIST, &json!({"data": {"a": "192.0.2.0/28", "b": "2001:db8::/64", "c": "nonsense"}})).await;
    until(fence, &path, &listing(&["192.0.2.1"]), true).await;
    for (what, body, verdict) in [
        ("an address of each range", listing(&["192.0.2.15", "2001:db8::7"]), Allowed),
        ("an address beside it", listing(&["192.0.2.16"]), Policy("no address from outside")),
        ("one more beside it", listing(&["192.0.2.1", "8.8.8.8"]), Policy("no address from outside")),
        ("an address of a load balancer", balanced("192.0.2.2"), Allowed),
        ("another load balancer's", balanced("192.0.2.16"), Policy("no address from outside")),
        ("no address", service(json!({"ports": ports})), Allowed),
    ] {
        fence.attempt(&format!("A claims {what}"), Who::WriterA, "POST", &path, &body, verdict).await;
    }
    // Without the list nothing of a tenant's is written, and all else goes on.
    fence.attempt("the list is deleted", Who::Admin, "DELETE", LIST, &json!({}), Allowed).await;
    until(fence, &path, &service(json!({"ports": ports})), false).await;
    let mine = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "mine"}, "spec": {"ports": ports, "externalIPs": ["192.0.2.1"]}});
    let elsewhere = "/api/v1/namespaces/innocent/services?dryRun=All";
    fence.attempt("the platform claims an address", Who::Platform, "POST", elsewhere, &mine, Allowed).await;
    let list = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "vc-external-addresses"}});
    fence.admin_makes("/api/v1/namespaces/vc-system/configmaps", &list).await;
    until(fence, &path, &service(json!({"ports": ports})), true).await;
}

/// Policies hear of the list a moment after it has changed.
async fn until(fence: &Fence<'_>, path: &str, body: &Value, passes: bool) {
    let tried = eventually(format!("the list counts: {passes}"), Duration::from_secs(30), async || {
        let answer = fence.send(Who::WriterA, "POST", path, body, "application/json", None).await;
        Ok(Seen::when(answer.is_ok() == passes, format!("{answer:?}")))
    });
    tried.await.unwrap();
}
