//! What a hostile tenant asks for and does not get: each is answered by an Event that names the field, and nothing goes down.
//!
//! Rows S01–S21, S26 and S28 of `docs/threats.md`, where the tenant's own API server lets the object in.

use std::collections::BTreeSet;

use anyhow::Context as _;
use common::keys;
use e2e::story::{Actor, PATIENCE, Story, chapter, is_running, pod, uid_of};
use e2e::wait::{Seen, eventually};
use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret, Service, ServiceSpec};
use kube::{
    Api, ResourceExt as _,
    api::{DynamicObject, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn hostile_objects_are_refused_or_tamed() {
    // Two, because a tenant is told of twenty refusals at once and then of one every few seconds.
    let story = Story::begin("refusals", 2).await.unwrap();
    for tenant in &story.tenants {
        prepare(tenant).await.unwrap();
    }
    let chapters = vec![
        chapter("Pods that ask for what they may not have are refused", refused_pods(story.tenant(0).unwrap())),
        chapter("volumes, Services and the rest, too", refused_others(story.tenant(1).unwrap())),
        chapter("what is only a wish is left out", tamed(&story)),
        chapter("a container that the platform refuses is not counted as the tenant's", unlisted(&story)),
        chapter("a Secret cannot make a controller of the super cluster act", secrets(story.tenant(1).unwrap())),
        chapter("metadata steers nothing below", metadata(&story)),
    ];
    story.tell(chapters).await.unwrap();
    for tenant in &story.tenants {
        nothing_below(tenant).await.unwrap();
    }
}

/// What the tenants' own API servers want to be there.
async fn prepare(tenant: &Actor) -> anyhow::Result<()> {
    tenant
        .apply(&json!({ "apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": { "name": "weak" }, "handler": "weak" }))
        .await?;
    let class =
        json!({ "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": { "name": "mine" }, "value": 1_000_000 });
    tenant.apply(&class).await?;
    tenant.apply(&json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "robot" } })).await?;
    Ok(())
}

/// A container with more to it.
fn container(change: &Value) -> Value {
    let mut container = json!({ "name": "main", "image": "web" });
    if let (Some(container), Some(change)) = (container.as_object_mut(), change.as_object()) {
        container.extend(change.clone());
    }
    container
}

/// A Pod's spec whose container has this.
fn with(change: &Value) -> Value {
    json!({ "containers": [container(change)] })
}

/// A Pod's spec whose init container has this.
fn with_init(change: &Value) -> Value {
    let mut init = container(change);
    if let Some(fields) = init.as_object_mut() {
        fields.insert("name".to_owned(), json!("init"));
    }
    json!({ "initContainers": [init] })
}

/// A Pod's spec that mounts this.
fn volume(source: &str, body: &Value) -> Value {
    json!({ "volumes": [{ "name": "v", source: body }] })
}

/// Row of the threat model, name of the Pod, what it asks for, and the field that the Event names.
type Row = (&'static str, &'static str, Value, &'static str);

fn pod_rows() -> Vec<Row> {
    let main = |field: &str| -> &'static str { Box::leak(format!("spec.containers[0].{field}").into_boxed_str()) };
    let get = json!({ "httpGet": { "host": "169.254.169.254", "port": 80 } });
    let role = json!({ "nodeSelectorTerms": [{ "matchExpressions": [{ "key": "node-role.kubernetes.io/control-plane", "operator": "Exists" }] }] });
    vec![
        ("S01", "host-network", json!({ "hostNetwork": true }), "spec.hostNetwork"),
        ("S01", "host-pid", json!({ "hostPID": true }), "spec.hostPID"),
        ("S01", "host-ipc", json!({ "hostIPC": true }), "spec.hostIPC"),
        ("S01", "privileged", with(&json!({ "securityContext": { "privileged": true } })), main("securityContext.privileged")),
        (
            "S01",
            "init",
            with_init(&json!({ "securityContext": { "privileged": true } })),
            "spec.initContainers[0].securityContext.privileged",
        ),
        (
            "S01",
            "capability",
            with(&json!({ "securityContext": { "capabilities": { "add": ["SYS_ADMIN"] } } })),
            main("securityContext.capabilities.add[0]"),
        ),
        (
            "S01",
            "seccomp",
            json!({ "securityContext": { "seccompProfile": { "type": "Unconfined" } } }),
            "spec.securityContext.seccompProfile.type",
        ),
        (
            "S01",
            "apparmor",
            with(&json!({ "securityContext": { "appArmorProfile": { "type": "Unconfined" } } })),
            main("securityContext.appArmorProfile.type"),
        ),
        (
            "S01",
            "selinux",
            with(&json!({ "securityContext": { "seLinuxOptions": { "type": "spc_t" } } })),
            main("securityContext.seLinuxOptions.type"),
        ),
        (
            "S01",
            "sysctl",
            json!({ "securityContext": { "sysctls": [{ "name": "kernel.msgmax", "value": "1" }] } }),
            "spec.securityContext.sysctls[0]",
        ),
        ("S03", "host-port", with(&json!({ "ports": [{ "containerPort": 80, "hostPort": 80 }] })), main("ports[0].hostPort")),
        (
            "S03",
            "init-host-port",
            with_init(&json!({ "ports": [{ "containerPort": 80, "hostPort": 80 }] })),
            "spec.initContainers[0].ports[0].hostPort",
        ),
        ("S03", "host-ip", with(&json!({ "ports": [{ "containerPort": 80, "hostIP": "10.0.0.1" }] })), main("ports[0].hostIP")),
        ("S04", "node-name", json!({ "nodeName": "control-plane" }), "spec.nodeName"),
        ("S05", "role-selector", json!({ "nodeSelector": { "node-role.kubernetes.io/control-plane": "" } }), "spec.nodeSelector"),
        (
            "S05",
            "role-affinity",
            json!({ "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": role } } }),
            "spec.affinity.nodeAffinity",
        ),
        ("S07", "runtime-class", json!({ "runtimeClassName": "weak" }), "spec.runtimeClassName"),
        ("S08", "gates", json!({ "schedulingGates": [{ "name": "shop.example/wait" }] }), "spec.schedulingGates"),
        ("S15", "probe", with(&json!({ "livenessProbe": get })), main("livenessProbe.httpGet.host")),
        ("S15", "hook", with(&json!({ "lifecycle": { "postStart": get } })), main("lifecycle.postStart.httpGet.host")),
    ]
}

fn volume_rows() -> Vec<Row> {
    vec![
        ("S02", "host-path", volume("hostPath", &json!({ "path": "/" })), "spec.volumes[0].hostPath"),
        ("S02", "nfs", volume("nfs", &json!({ "server": "10.0.0.1", "path": "/" })), "spec.volumes[0].nfs"),
        (
            "S02",
            "iscsi",
            volume("iscsi", &json!({ "targetPortal": "10.0.0.1:3260", "iqn": "iqn.2001-04.com.example:a", "lun": 0 })),
            "spec.volumes[0].iscsi",
        ),
        ("S02", "rbd", volume("rbd", &json!({ "monitors": ["10.0.0.1"], "image": "a" })), "spec.volumes[0].rbd"),
        ("S02", "csi", volume("csi", &json!({ "driver": "evil.example" })), "spec.volumes[0].csi"),
        ("S02", "flex", volume("flexVolume", &json!({ "driver": "evil.example/x" })), "spec.volumes[0].flexVolume"),
        ("S02", "image", volume("image", &json!({ "reference": "evil" })), "spec.volumes[0].image"),
        ("S08", "claims", json!({ "resourceClaims": [{ "name": "gpu", "resourceClaimName": "gpu" }] }), "spec.resourceClaims"),
    ]
}

fn service_rows() -> Vec<Row> {
    let ports = json!([{ "port": 80 }]);
    let class = json!({ "ports": ports, "type": "LoadBalancer", "loadBalancerClass": "evil.example/x" });
    vec![("S21", "class", class, "spec.loadBalancerClass")]
}

/// Services that go down without what they ask for.
fn address_rows() -> Vec<Row> {
    let ports = json!([{ "port": 80 }]);
    vec![
        ("S19", "external-ips", json!({ "ports": ports, "externalIPs": ["192.0.2.1"] }), "spec.externalIPs[0]"),
        ("S19", "balancer-ip", json!({ "ports": ports, "type": "LoadBalancer", "loadBalancerIP": "192.0.2.1" }), "spec.loadBalancerIP"),
    ]
}

/// S20: of this nobody is told, since it means nothing outside the tenant.
const ALIAS: &str = "alias";

async fn refused_pods(tenant: &Actor) -> anyhow::Result<()> {
    refused(tenant, pods(pod_rows())).await
}

async fn refused_others(tenant: &Actor) -> anyhow::Result<()> {
    let service = |name: &str, spec: Value| json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name }, "spec": spec });
    tenant.apply(&service(ALIAS, json!({ "type": "ExternalName", "externalName": "kubernetes.default.svc.cluster.local" }))).await?;
    let services = service_rows().into_iter().chain(address_rows());
    let mut rows = pods(volume_rows());
    rows.extend(services.map(|(row, name, spec, field)| (row, service(name, spec), field)));
    refused(tenant, rows).await?;
    for (_, name, ..) in address_rows() {
        let claims_nothing = |spec: &ServiceSpec| spec.external_ips.as_ref().is_none_or(Vec::is_empty) && spec.load_balancer_ip.is_none();
        let claims_nothing = |service: &Service| service.spec.as_ref().is_some_and(claims_nothing);
        tenant.holds_below("it is there without the address", "default", name, claims_nothing).await?;
    }
    Ok(())
}

fn pods(rows: Vec<Row>) -> Vec<(&'static str, Value, &'static str)> {
    rows.into_iter().map(|(row, name, spec, field)| (row, pod(name, &json!({ "app": name }), &spec), field)).collect()
}

/// Writes all, then waits until the tenant was told of each; gives all that went wrong.
async fn refused(tenant: &Actor, rows: Vec<(&'static str, Value, &'static str)>) -> anyhow::Result<()> {
    let mut made: Vec<(&str, DynamicObject, &str)> = Vec::new();
    for (row, object, field) in rows {
        let written = tenant.apply(&object).await.with_context(|| format!("{row} {field}"))?;
        made.push((row, written, field));
    }
    let mut wrong = Vec::new();
    for (row, object, field) in made {
        match tenant.warned("default", &uid_of(&object), field).await {
            Ok(event) => {
                let mend = event.message.as_deref().and_then(|message| message.strip_prefix(field)?.strip_prefix(": ").map(str::len));
                if mend.is_none_or(|length| length < 20) || event.reason.is_none() {
                    wrong.push(format!("{row} {}: {:?} {:?}", object.name_any(), event.reason, event.message));
                }
            }
            Err(error) => wrong.push(format!("{row} {}: {error:#}", object.name_any())),
        }
    }
    anyhow::ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// Neither a Pod nor a Service that was refused is in the super cluster.
async fn nothing_below(tenant: &Actor) -> anyhow::Result<()> {
    let rows = pod_rows().into_iter().chain(volume_rows()).chain(service_rows());
    let refused: BTreeSet<_> = rows.map(|(_, name, _, _)| name.to_owned()).chain([ALIAS.to_owned()]).collect();
    let pods = tenant.below::<Pod>("default").list(&ListParams::default()).await?;
    let services = tenant.below::<Service>("default").list(&ListParams::default()).await?;
    let names = pods.iter().map(kube::ResourceExt::name_any).chain(services.iter().map(kube::ResourceExt::name_any));
    let found: Vec<_> = names.filter(|name| refused.contains(name)).collect();
    anyhow::ensure!(found.is_empty(), "{}: {found:?} went down", tenant.name);
    Ok(())
}

/// S60: who may enter a container goes by the list on its Pod, so what was never added does not stand there.
async fn unlisted(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let name = "no-intruders";
    let policy = json!({
        "matchConstraints": { "resourceRules": [
            { "apiGroups": [""], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["pods/ephemeralcontainers"] },
        ] },
        "validations": [{ "expression": "object.spec.ephemeralContainers.all(c, c.name != 'intruder')" }],
    });
    let binding = json!({ "policyName": name, "validationActions": ["Deny"] });
    let sup = story.bed.sup.client();
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(sup.clone());
    let policy: ValidatingAdmissionPolicy = serde_json::from_value(json!({ "metadata": { "name": name }, "spec": policy }))?;
    policies.create(&PostParams::default(), &policy).await?;
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(sup);
    let binding: ValidatingAdmissionPolicyBinding = serde_json::from_value(json!({ "metadata": { "name": name }, "spec": binding }))?;
    bindings.create(&PostParams::default(), &binding).await?;

    let made = tenant.apply(&pod("entered", &json!({}), &json!({ "containers": [container(&json!({}))] }))).await?;
    tenant.sees("it runs", "default", "entered", is_running).await?;
    let late = |name: &str| Patch::Strategic(json!({ "spec": { "ephemeralContainers": [{ "name": name, "image": "debug" }] } }));
    let below: Api<Pod> = tenant.below("default");
    let dry = PatchParams { dry_run: true, ..PatchParams::default() };
    eventually("the policy holds", PATIENCE, async || {
        let refused = below.patch_subresource("ephemeralcontainers", "entered", &dry, &late("intruder")).await.is_err();
        Ok(Seen::when(refused, ()))
    })
    .await?;
    let above: Api<Pod> = tenant.above("default");
    above.patch_subresource("ephemeralcontainers", "entered", &PatchParams::default(), &late("intruder")).await?;
    tenant.warned("default", &uid_of(&made), "a policy of the super cluster does not allow it").await?;
    let pod = below.get("entered").await?;
    let listed = pod.annotations().get(keys::CONTAINERS).map(String::as_str);
    anyhow::ensure!(listed == Some("main"), "the tenant's containers are {listed:?}");
    Ok(())
}

/// S05, S06, S08, S09, S10, S13, S14, S21: asked for, and not what the super cluster is told.
async fn tamed(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let asks = json!({
        "containers": [container(&json!({ "env": [
            { "name": "NAMESPACE", "valueFrom": { "fieldRef": { "fieldPath": "metadata.namespace" } } },
            { "name": "UID", "valueFrom": { "fieldRef": { "fieldPath": "metadata.uid" } } },
        ] }))],
        "priorityClassName": "mine",
        "tolerations": [{ "operator": "Exists" }, { "key": "node.kubernetes.io/unschedulable", "operator": "Exists" }],
        "serviceAccountName": "robot",
        "volumes": [{ "name": "kube-api-access-mine", "emptyDir": {} }],
    });
    let made = tenant.apply(&pod("tamed", &json!({ "app": "tamed" }), &asks)).await?;
    tenant.sees("it runs", "default", "tamed", is_running).await?;
    let debugger =
        json!({ "spec": { "ephemeralContainers": [{ "name": "debug", "image": "debug", "securityContext": { "privileged": true } }] } });
    let above: Api<Pod> = tenant.above("default");
    above.patch_subresource("ephemeralcontainers", "tamed", &PatchParams::default(), &Patch::Strategic(&debugger)).await?;
    let uid = made.uid().unwrap_or_default();
    tenant.warned("default", &uid, "spec.ephemeralContainers[0].securityContext.privileged").await?;
    let label = json!({ "metadata": { "labels": { "seen": "yes" } } });
    above.patch("tamed", &PatchParams::default(), &Patch::Merge(&label)).await?;
    let below = tenant.holds_below("a later change went down", "default", "tamed", |pod: &Pod| pod.labels().contains_key("seen")).await?;
    let spec = below.spec.context("no spec")?;
    anyhow::ensure!(spec.priority.unwrap_or_default() == 0 && spec.priority_class_name.is_none(), "priority {:?}", spec.priority);
    let kept = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
    let tolerates = spec.tolerations.iter().flatten().any(|toleration| !kept.contains(&toleration.key.as_deref().unwrap_or_default()));
    anyhow::ensure!(!tolerates, "it tolerates more than it may: {:?}", spec.tolerations);
    anyhow::ensure!(spec.service_account_name.as_deref() == Some("default"), "it runs as {:?}", spec.service_account_name);
    anyhow::ensure!(spec.automount_service_account_token == Some(false), "a token of the super cluster is mounted");
    anyhow::ensure!(spec.ephemeral_containers.is_none_or(|list| list.is_empty()), "a privileged container came later");
    let env = spec.containers.into_iter().next().and_then(|container| container.env).unwrap_or_default();
    let value = |name: &str| env.iter().find(|variable| variable.name == name).and_then(|variable| variable.value.clone());
    anyhow::ensure!(value("NAMESPACE").as_deref() == Some("default"), "{env:?}");
    anyhow::ensure!(value("UID") == made.uid(), "{env:?}");

    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "ports" },
        "spec": { "type": "NodePort", "selector": { "app": "tamed" }, "ports": [{ "port": 80, "nodePort": 30123 }] },
    });
    // The same port in both: one of them would not get it.
    for tenant in &story.tenants {
        tenant.apply(&service).await?;
    }
    for tenant in &story.tenants {
        let below = tenant.holds_below::<Service>("the Service is there", "default", "ports", |_| true).await?;
        let port = below.spec.and_then(|spec| spec.ports?.first()?.node_port);
        anyhow::ensure!(port.is_some_and(|port| port != 30123), "the node port is {port:?}");
    }
    Ok(())
}

/// S11: a Secret of the type that the token controller fills, and one that would let a node join.
async fn secrets(tenant: &Actor) -> anyhow::Result<()> {
    let typed = |name: &str, kind: &str| {
        json!({ "apiVersion": "v1", "kind": "Secret", "type": kind, "stringData": { "mine": "x" },
            "metadata": { "name": name, "annotations": { "kubernetes.io/service-account.name": "default" } } })
    };
    tenant.apply(&typed("token", "kubernetes.io/service-account-token")).await?;
    let boot = tenant.apply(&typed("boot", "bootstrap.kubernetes.io/token")).await?;
    let mounts = json!({ "volumes": [
        { "name": "t", "secret": { "secretName": "token" } }, { "name": "b", "secret": { "secretName": "boot", "optional": true } }
    ] });
    tenant.apply(&pod("mounts", &json!({ "app": "mounts" }), &mounts)).await?;
    tenant.sees("it runs", "default", "mounts", is_running).await?;
    let held = tenant.holds_below::<Secret>("the Secret is there", "default", "token", |_| true).await?;
    anyhow::ensure!(held.type_.as_deref() == Some("Opaque"), "its type is {:?}", held.type_);
    let own = tenant.above::<Secret>("default").get("token").await?;
    let token = |secret: &Secret| secret.data.as_ref().and_then(|data| data.get("token").map(|bytes| bytes.0.clone()));
    anyhow::ensure!(
        token(&own).is_none() || token(&held).is_none() || token(&held) == token(&own),
        "it holds a token of the super cluster"
    );
    tenant.warned("default", &uid_of(&boot), "type").await?;
    anyhow::ensure!(tenant.below::<Secret>("default").get_opt("boot").await?.is_none(), "the bootstrap token went down");
    Ok(())
}

/// S26, S28: labels and annotations of a namespace, finalizers and owners of objects.
async fn metadata(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let labels = json!({ "pod-security.kubernetes.io/enforce": "privileged", "istio-injection": "enabled", keys::TENANT: "x" });
    let annotations = json!({ "scheduler.alpha.kubernetes.io/node-selector": "a=b", keys::OWNER: "{}", keys::INCARNATION: "x" });
    tenant.apply(&json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "sly", "labels": labels, "annotations": annotations } })).await?;
    tenant.takes_pods("sly").await?;
    // The tenant's own collector would delete what belongs to nothing.
    let space = Api::<Namespace>::all(tenant.client()).get("sly").await?;
    let owner = json!([{ "apiVersion": "v1", "kind": "Namespace", "name": "sly", "uid": uid_of(&space) }]);
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "sly", "namespace": "sly", "finalizers": ["evil.example/stay"], "ownerReferences": owner, "annotations": annotations },
    });
    tenant.apply(&map).await?;
    let mut made = pod("sly", &json!({ keys::TENANT: "x" }), &json!({ "volumes": [{ "name": "c", "configMap": { "name": "sly" } }] }));
    let fields = made.pointer_mut("/metadata").and_then(Value::as_object_mut).context("no metadata")?;
    fields.insert("namespace".to_owned(), json!("sly"));
    fields.insert("annotations".to_owned(), annotations);
    tenant.apply(&made).await?;
    let below = tenant.holds_below("the Pod is there", "sly", "sly", is_running).await?;
    let map = tenant.holds_below::<ConfigMap>("the ConfigMap is there", "sly", "sly", |_| true).await?;
    let space = Api::<Namespace>::all(story.bed.sup.client()).get(&tenant.namespace_below("sly")).await?;
    for meta in [&below.metadata, &map.metadata, &space.metadata] {
        let label = meta.labels.as_ref().and_then(|labels| labels.get(keys::TENANT)).map(String::as_str);
        anyhow::ensure!(label == Some(tenant.id.as_str()), "the record is {label:?}");
        let strange: Vec<_> = meta.annotations.iter().flatten().filter(|(key, _)| !key.starts_with(keys::GROUP)).collect();
        anyhow::ensure!(strange.is_empty(), "{strange:?} went down");
        anyhow::ensure!(meta.finalizers.is_none() && meta.owner_references.is_none(), "{:?} {:?}", meta.finalizers, meta.owner_references);
    }
    anyhow::ensure!(space.annotations().get(keys::INCARNATION).is_none_or(|uid| uid != "x"), "the incarnation is the tenant's word");
    let level = space.labels().get("pod-security.kubernetes.io/enforce").map(String::as_str);
    anyhow::ensure!(level == Some("baseline") && !space.labels().contains_key("istio-injection"), "{:?}", space.labels());
    Ok(())
}
