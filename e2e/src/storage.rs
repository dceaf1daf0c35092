//! A provisioner in the super cluster: local-path-provisioner, unmodified, started as upstream's manifests do, on real nodes. Volumes are
//! folders of the node.

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::ListParams};
use serde_json::{Value, json};

use crate::{
    bed::Bed,
    images::{LOCAL_PATH_PROVISIONER, TOOLS},
    manifests::install_one,
    story::{PATIENCE, is_running},
    wait::{Seen, eventually},
};

/// Where upstream's manifests put it, and its ServiceAccount.
const NAMESPACE: &str = "local-path-storage";
const ACCOUNT: &str = "local-path-provisioner-service-account";
const CONFIG: &str = "local-path-config";

/// What calls itself so in a `StorageClass`.
pub const PROVISIONER: &str = "rancher.io/local-path";

/// Where the volumes are on a node: each machine has a `/var/lib` of its own.
pub const FOLDER: &str = "/var/lib/local-path";

/// Installs the provisioner in the super cluster and waits until it is ready.
///
/// # Caveats
/// The nodes must know the image [`LOCAL_PATH_PROVISIONER`].
pub async fn install(bed: &Bed) -> anyhow::Result<()> {
    let client = bed.sup.client();
    for object in rights().into_iter().chain(provisioner()) {
        install_one(&object, &client).await?;
    }
    let pods: Api<Pod> = Api::namespaced(client, NAMESPACE);
    eventually("the provisioner runs", PATIENCE, async || {
        let found = pods.list(&ListParams::default().labels("app=local-path-provisioner")).await?.items;
        Ok(Seen::when(found.len() == 1 && found.iter().all(is_running), found))
    })
    .await
    .map(drop)
}

fn rights() -> [Value; 6] {
    let (group, name) = ("rbac.authorization.k8s.io", "local-path-provisioner");
    let version = format!("{group}/v1");
    let within = json!({ "name": name, "namespace": NAMESPACE });
    let everywhere = json!({ "name": name });
    let subjects = json!([{ "kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE }]);
    let bound = |kind: &str, of: &str, metadata: &Value| {
        json!({ "apiVersion": version, "kind": kind, "metadata": metadata, "subjects": subjects,
            "roleRef": { "apiGroup": group, "kind": of, "name": name } })
    };
    [
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } }),
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": ACCOUNT, "namespace": NAMESPACE } }),
        json!({ "apiVersion": version, "kind": "Role", "metadata": within, "rules": [
            { "apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch", "create", "patch", "update", "delete"] },
        ] }),
        json!({ "apiVersion": version, "kind": "ClusterRole", "metadata": everywhere, "rules": [
            { "apiGroups": [""], "resources": ["nodes", "persistentvolumeclaims", "configmaps", "pods", "pods/log"], "verbs": ["get", "list", "watch"] },
            { "apiGroups": [""], "resources": ["persistentvolumes"], "verbs": ["get", "list", "watch", "create", "patch", "update", "delete"] },
            { "apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"] },
            { "apiGroups": ["storage.k8s.io"], "resources": ["storageclasses"], "verbs": ["get", "list", "watch"] },
        ] }),
        bound("RoleBinding", "Role", &within),
        bound("ClusterRoleBinding", "ClusterRole", &everywhere),
    ]
}

fn provisioner() -> [Value; 2] {
    let helper = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "helper-pod" },
        "spec": { "containers": [{ "name": "helper-pod", "image": TOOLS, "imagePullPolicy": "IfNotPresent" }] },
    });
    let paths = json!({ "nodePathMap": [{ "node": "DEFAULT_PATH_FOR_NON_LISTED_NODES", "paths": [FOLDER] }] });
    let data = json!({
        "config.json": paths.to_string(),
        "setup": "#!/bin/sh\nset -eu\nmkdir -m 0777 -p \"$VOL_DIR\"\n",
        "teardown": "#!/bin/sh\nset -eu\nrm -rf \"$VOL_DIR\"\n",
        // JSON is YAML.
        "helperPod.yaml": helper.to_string(),
    });
    let labels = json!({ "app": "local-path-provisioner" });
    let container = json!({
        "name": "local-path-provisioner", "image": LOCAL_PATH_PROVISIONER,
        "args": ["--debug", "start", "--config", "/etc/config/config.json", "--helper-image", TOOLS],
        "volumeMounts": [{ "name": "config-volume", "mountPath": "/etc/config/" }],
        "env": [
            { "name": "POD_NAMESPACE", "valueFrom": { "fieldRef": { "fieldPath": "metadata.namespace" } } },
            { "name": "CONFIG_MOUNT_PATH", "value": "/etc/config/" },
        ],
    });
    let pod = json!({
        "serviceAccountName": ACCOUNT, "containers": [container],
        "volumes": [{ "name": "config-volume", "configMap": { "name": CONFIG } }],
    });
    [
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": CONFIG, "namespace": NAMESPACE }, "data": data }),
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "local-path-provisioner", "namespace": NAMESPACE },
            "spec": { "replicas": 1, "selector": { "matchLabels": labels }, "template": { "metadata": { "labels": labels }, "spec": pod } },
        }),
    ]
}
