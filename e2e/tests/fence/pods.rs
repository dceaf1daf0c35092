//! What a writer's Pods may have: nothing that reaches the node, whatever Pod Security says of their namespace.

use common::{Namespace, keys};
use serde_json::{Value, json};

use super::tenant::{ROLE_BINDINGS, Tenant, annotated, merged};
use super::{
    Fence,
    Verdict::{self, Allowed, Policy},
    Who,
};

/// In a namespace without Pod Security, as if that line of defense were not there.
pub(crate) async fn pods_stay_harmless_where_pod_security_does_not_look(a: &Tenant, fence: &mut Fence<'_>) {
    let bare = a.id.namespace(&Namespace::parse("bare").unwrap()).to_string();
    let space = merged(a.space(), json!({"metadata": {"name": bare, "labels": {"pod-security.kubernetes.io/enforce": "privileged"}}}));
    fence.admin_makes("/api/v1/namespaces", &space).await;
    let bindings = format!("{ROLE_BINDINGS}/{bare}/rolebindings");
    fence.attempt("syncer binds the writer there", Who::Syncer, "POST", &bindings, &a.binding(&bare, json!({})), Allowed).await;
    fence.wait_for_account(&bare).await.unwrap();
    let pods = format!("/api/v1/namespaces/{bare}/pods");
    let mut tries: Vec<(String, Value, Verdict)> = Vec::new();
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        tries.push((field.to_owned(), json!({"spec": {field: true}}), Policy("does not share the node's")));
    }
    tries.push(("nodeName".into(), json!({"spec": {"nodeName": "n"}}), Policy("never by nodeName")));
    tries.push(("automount".into(), json!({"spec": {"automountServiceAccountToken": true}}), Policy("no identity in the super cluster")));
    tries.push((
        "automount left out".into(),
        json!({"spec": {"automountServiceAccountToken": null}}),
        Policy("no identity in the super cluster"),
    ));
    for (source, value) in [
        ("hostPath", json!({"path": "/"})),
        ("nfs", json!({"server": "s", "path": "/"})),
        ("csi", json!({"driver": "d"})),
        ("gitRepo", json!({"repository": "r"})),
        ("flexVolume", json!({"driver": "a/b"})),
        ("iscsi", json!({"targetPortal": "1.2.3.4", "iqn": "iqn.2001-04.com.example:storage", "lun": 0})),
        ("image", json!({"reference": "r"})),
        ("ephemeral", claim_template()),
    ] {
        tries.push((source.into(), json!({"spec": {"volumes": [{"name": "v", source: value}]}}), Policy("volumes only")));
    }
    for (source, value) in [("serviceAccountToken", json!({"path": "token"})), ("clusterTrustBundle", json!({"name": "x", "path": "ca"}))] {
        let volume = json!({"name": "kube-api-access-x", "projected": {"sources": [{source: value}]}});
        tries.push((source.into(), json!({"spec": {"volumes": [volume]}}), Policy("projected into it")));
    }
    for list in ["containers", "initContainers"] {
        let with = |field: &str, value: Value| {
            let plain = json!({"name": "main", "image": "web"});
            let odd = json!({"name": "odd", "image": "web", field: value});
            let spec = if list == "containers" { json!({"containers": [plain, odd]}) } else { json!({list: [odd]}) };
            json!({"spec": spec})
        };
        tries.push((format!("privileged {list}"), with("securityContext", json!({"privileged": true})), Policy("is not privileged")));
        tries.push((
            format!("unmasked /proc of {list}"),
            merged(with("securityContext", json!({"procMount": "Unmasked"})), json!({"spec": {"hostUsers": false}})),
            Policy("is not privileged"),
        ));
        tries.push((
            format!("capabilities of {list}"),
            with("securityContext", json!({"capabilities": {"add": ["SYS_ADMIN"]}})),
            Policy("no capability beyond"),
        ));
        tries.push((
            format!("ports of {list}"),
            with("ports", json!([{"containerPort": 80, "hostPort": 80}])),
            Policy("no port of the node"),
        ));
    }
    tries.push(("priority".into(), json!({"spec": {"priorityClassName": "system-node-critical"}}), Policy("no priority of the system's")));
    tries.push((
        "devices".into(),
        json!({"spec": {"resourceClaims": [{"name": "c", "resourceClaimName": "c"}]}}),
        Policy("claims no device"),
    ));
    let static_one = merged(annotated("kubernetes.io/config.mirror", json!("x")), json!({"spec": {"nodeName": "n", "volumes": []}}));
    tries.push(("the look of a static one".into(), static_one, Policy("never by nodeName")));
    let host_process = json!({"hostNetwork": true, "securityContext": {"windowsOptions": {"hostProcess": true}}});
    tries.push(("host processes".into(), json!({"spec": host_process}), Policy("does not share the node's")));
    tries.push(("nothing odd".into(), json!({}), Allowed));
    for (what, change, verdict) in tries {
        let body = a.pod("web", change);
        fence.attempt(&format!("A makes a Pod with {what}"), Who::WriterA, "POST", &pods, &body, verdict).await;
    }
    let late = format!("{pods}/web/ephemeralcontainers");
    for (what, context, verdict) in [
        ("a privileged container", json!({"privileged": true}), Policy("is not privileged")),
        ("capabilities", json!({"capabilities": {"add": ["SYS_PTRACE"]}}), Policy("no capability beyond")),
        ("nothing odd", json!({}), Allowed),
    ] {
        let change = json!({"spec": {"ephemeralContainers": [{"name": "late", "image": "web", "securityContext": context}]}});
        fence.attempt_strategic(&format!("A adds {what} later"), Who::WriterA, &late, &change, verdict).await;
    }
    let sized = |cpu: &str| json!({"spec": {"containers": [{"name": "main", "image": "web", "resources": {"requests": {"cpu": cpu}}}]}});
    fence.attempt("A makes a Pod that asks for a CPU", Who::WriterA, "POST", &pods, &a.pod("sized", sized("10m")), Allowed).await;
    let resized = json!({"spec": {"containers": [{"name": "main", "resources": {"requests": {"cpu": "20m"}}}]}});
    fence.attempt_strategic("A resizes it", Who::WriterA, &format!("{pods}/sized/resize"), &resized, Allowed).await;
}

fn claim_template() -> Value {
    json!({"volumeClaimTemplate": {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}})
}

/// A Pod of the super cluster's own stays as large as it is, whoever's namespace it lies in.
pub(crate) async fn nobody_elses_pod_is_resized(a: &Tenant, fence: &mut Fence<'_>) {
    let container = json!({"name": "main", "image": "web", "resources": {"requests": {"cpu": "10m"}}});
    let spec = json!({"automountServiceAccountToken": false, "containers": [container]});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "theirs"}, "spec": spec});
    fence.admin_makes(&a.path("pods"), &pod).await;
    let resized = json!({"spec": {"containers": [{"name": "main", "resources": {"requests": {"cpu": "20m"}}}]}});
    let path = a.path("pods/theirs/resize");
    fence.attempt_strategic("A resizes what is not its", Who::WriterA, &path, &resized, Policy("its writer leaves it alone")).await;
}

/// Who may enter a container goes by the list on its Pod, so no container that others put there is added to it.
pub(crate) async fn the_list_of_a_tenants_containers_takes_in_none_of_others(a: &Tenant, fence: &mut Fence<'_>) {
    fence.wait_for_account(&a.namespace).await.unwrap();
    let containers = |list: &str| {
        let (main, agent) = (json!({"name": "main", "image": "web"}), json!({"name": "agent", "image": "agent"}));
        if list == "containers" { json!({list: [main, agent]}) } else { json!({"containers": [main], list: [agent]}) }
    };
    let listed = |names: &str| annotated(keys::CONTAINERS, json!(names));
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        let name = format!("listed-{}", list.to_lowercase());
        let late = list == "ephemeralContainers";
        let spec = if late { json!({}) } else { json!({"spec": containers(list)}) };
        let body = a.pod(&name, merged(listed("main"), spec));
        fence.attempt(&format!("A makes a Pod with other {list}"), Who::WriterA, "POST", &a.path("pods"), &body, Allowed).await;
        let path = a.path(&format!("pods/{name}"));
        if late {
            fence.admin_patches(&format!("{path}/ephemeralcontainers"), &json!({"spec": containers(list)})).await;
        }
        for (what, names, verdict) in [
            ("the other", "main,agent", Policy("lists no container that others put")),
            ("the other in place of its own", "agent", Policy("lists no container that others put")),
            ("one that is to come", "main,debug", Allowed),
            ("what it listed before", "main", Allowed),
        ] {
            fence.attempt(&format!("A lists {what} among {list}"), Who::WriterA, "PATCH", &path, &listed(names), verdict).await;
        }
    }
}

pub(crate) async fn the_status_of_a_pod_stays_its_nodes(a: &Tenant, fence: &mut Fence<'_>) {
    fence.wait_for_account(&a.namespace).await.unwrap();
    let body = a.pod("web", json!({}));
    fence.attempt("A makes a Pod at home", Who::WriterA, "POST", &a.path("pods"), &body, Allowed).await;
    let status = a.path("pods/web/status");
    let running = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}], "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]}});
    fence.admin_patches(&status, &running).await;
    let address = json!({"status": {"podIP": "10.0.0.9", "podIPs": [{"ip": "10.0.0.9"}]}});
    fence.attempt("A says another address", Who::WriterA, "PATCH", &status, &address, Policy("at which address")).await;
    let condition = |type_: &str| json!({"status": {"conditions": [{"type": type_, "status": "True"}]}});
    for (what, change, verdict) in [
        ("another phase", json!({"status": {"phase": "Succeeded"}}), Policy("how far it is")),
        ("that it is Ready", condition("Ready"), Policy("readiness gates only")),
        (
            "what its containers do",
            json!({"status": {"containerStatuses": [{"name": "main", "image": "web", "imageID": "", "ready": true, "restartCount": 0}]}}),
            Policy("containers do"),
        ),
        ("that the tenant's gate is open", condition("example.com/gate"), Allowed),
    ] {
        fence.attempt_strategic(&format!("A says {what}"), Who::WriterA, &status, &change, verdict).await;
    }
}
