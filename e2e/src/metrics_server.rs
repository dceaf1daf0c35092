//! A tenant's metrics-server: unmodified, a Deployment of the tenant's own, started as upstream's manifests do, on real nodes.
//!
//! It asks what it takes for kubelets, which are the vn-agents of the nodes, and shows them the tenant's certificate for metrics.

use std::path::PathBuf;

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::{
    agents::{authority, issue},
    bed::Bed,
    images::METRICS_SERVER,
    story::Actor,
};

/// Where upstream's manifests put it, and what they call all that belongs to it.
const PLACE: (&str, &str) = ("kube-system", "metrics-server");

/// What metrics-server is told beside upstream's flags: what the vNode says, the tenant's certificate, the CA of vn-agents.
const FLAGS: [&str; 8] = [
    "--cert-dir=/tmp",
    "--secure-port=10250",
    "--kubelet-preferred-address-types=InternalIP",
    "--kubelet-use-node-status-port",
    "--metric-resolution=15s",
    "--kubelet-client-certificate=/etc/agent/client/tls.crt",
    "--kubelet-client-key=/etc/agent/client/tls.key",
    "--kubelet-certificate-authority=/etc/agent/ca/ca.crt",
];

/// The tenant's certificate for metrics and stats alone: this, with `.crt` and `.key`.
pub fn leaf(bed: &Bed, tenant: &Actor) -> PathBuf {
    bed.dir().join("agents").join(format!("{}-metrics", tenant.name))
}

/// Issues that certificate, installs metrics-server in the tenant and waits until it is ready.
///
/// # Caveats
/// The nodes must know the image [`METRICS_SERVER`].
pub async fn install(bed: &Bed, tenant: &Actor) -> anyhow::Result<()> {
    let (out, ca, uid) = (leaf(bed, tenant).display().to_string(), authority(bed.dir()).display().to_string(), tenant.id.uid().to_string());
    issue(&["tenant", "--uid", &uid, "--metrics", "--ca", &ca, "--out", &out]).await?;
    let read = |path: String| std::fs::read_to_string(&path).with_context(|| format!("could not read {path}"));
    tenant.takes_pods(PLACE.0).await?;
    let secret = json!({ "tls.crt": read(format!("{out}.crt"))?, "tls.key": read(format!("{out}.key"))? });
    let named = json!({ "name": "agent-client", "namespace": PLACE.0 });
    tenant
        .apply(&json!({ "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": named, "stringData": secret }))
        .await?;
    let named = json!({ "name": "agent-ca", "namespace": PLACE.0 });
    let config = json!({ "ca.crt": read(format!("{ca}.crt"))? });
    tenant.apply(&json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": named, "data": config })).await?;
    for object in rights().into_iter().chain(server()) {
        tenant.apply(&object).await?;
    }
    tenant.running(PLACE.0, "k8s-app=metrics-server", 1).await?;
    Ok(())
}

/// What it may, and who may read what it says.
fn rights() -> [Value; 6] {
    let (space, name) = PLACE;
    let group = "rbac.authorization.k8s.io";
    let version = format!("{group}/v1");
    let role = |name: &str, rules: Value, labels: Value| json!({ "apiVersion": version, "kind": "ClusterRole", "metadata": { "name": name, "labels": labels }, "rules": rules });
    let binding = |kind: &str, metadata: Value, of: (&str, &str)| {
        json!({
            "apiVersion": version, "kind": kind, "metadata": metadata,
            "roleRef": { "apiGroup": group, "kind": of.0, "name": of.1 },
            "subjects": [{ "kind": "ServiceAccount", "name": name, "namespace": space }],
        })
    };
    let everywhere = |name: &str, role: &str| binding("ClusterRoleBinding", json!({ "name": name }), ("ClusterRole", role));
    let to = |aggregate: &str| format!("{group}/aggregate-to-{aggregate}");
    let readers = json!([{ "apiGroups": ["metrics.k8s.io"], "resources": ["pods", "nodes"], "verbs": ["get", "list", "watch"] }]);
    let own = json!([
        { "apiGroups": [""], "resources": ["nodes/metrics"], "verbs": ["get"] },
        { "apiGroups": [""], "resources": ["pods", "nodes"], "verbs": ["get", "list", "watch"] },
    ]);
    [
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": name, "namespace": space } }),
        role("system:aggregated-metrics-reader", readers, json!({ to("admin"): "true", to("edit"): "true", to("view"): "true" })),
        role("system:metrics-server", own, json!({})),
        binding(
            "RoleBinding",
            json!({ "name": "metrics-server-auth-reader", "namespace": space }),
            ("Role", "extension-apiserver-authentication-reader"),
        ),
        everywhere("metrics-server:system:auth-delegator", "system:auth-delegator"),
        everywhere("system:metrics-server", "system:metrics-server"),
    ]
}

/// The server itself, and the API that it serves.
fn server() -> [Value; 3] {
    let (space, name) = PLACE;
    let labels = json!({ "k8s-app": name });
    let probe =
        |path: &str, seconds: u8| json!({ "httpGet": { "path": path, "port": "https", "scheme": "HTTPS" }, "periodSeconds": seconds });
    let container = json!({
        "name": name, "image": METRICS_SERVER, "args": FLAGS,
        "ports": [{ "name": "https", "containerPort": 10250, "protocol": "TCP" }],
        "readinessProbe": probe("/readyz", 2), "livenessProbe": probe("/livez", 10),
        "resources": { "requests": { "cpu": "100m", "memory": "200Mi" } },
        "securityContext": {
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "runAsNonRoot": true, "runAsUser": 1000,
            "capabilities": { "drop": ["ALL"] }, "seccompProfile": { "type": "RuntimeDefault" },
        },
        "volumeMounts": [
            { "name": "tmp-dir", "mountPath": "/tmp" },
            { "name": "client", "mountPath": "/etc/agent/client", "readOnly": true },
            { "name": "ca", "mountPath": "/etc/agent/ca", "readOnly": true },
        ],
    });
    let pod = json!({
        "serviceAccountName": name, "containers": [container],
        "volumes": [
            { "name": "tmp-dir", "emptyDir": {} },
            { "name": "client", "secret": { "secretName": "agent-client" } },
            { "name": "ca", "configMap": { "name": "agent-ca" } },
        ],
    });
    let named = json!({ "name": name, "namespace": space, "labels": labels });
    [
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": named,
            "spec": { "selector": { "matchLabels": labels }, "template": { "metadata": { "labels": labels }, "spec": pod } },
        }),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": named,
            "spec": { "selector": labels, "ports": [{ "name": "https", "port": 443, "protocol": "TCP", "targetPort": "https" }] },
        }),
        json!({
            "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": { "name": "v1beta1.metrics.k8s.io" },
            "spec": {
                "group": "metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": 100, "versionPriority": 100,
                "insecureSkipTLSVerify": true, "service": { "name": name, "namespace": space },
            },
        }),
    ]
}
