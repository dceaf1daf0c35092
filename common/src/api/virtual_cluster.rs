//! `VirtualCluster`: one tenant.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::condition::Condition;

/// What is asked for a tenant.
#[expect(clippy::duplicated_attributes, reason = "two columns may be of the same type; the lint does not see where one ends")]
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "tenancy.x-k8s.io",
    version = "v1alpha1",
    kind = "VirtualCluster",
    plural = "virtualclusters",
    shortname = "vc",
    namespaced,
    status = "VirtualClusterStatus",
    derive = "PartialEq",
    doc = "VirtualCluster is a tenant: a Kubernetes control plane of its own whose Pods run in this cluster.",
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "Pods", type_ = "integer", json_path = ".status.pods"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Cluster-Version", type_ = "string", json_path = ".spec.clusterVersionName", priority = 1),
    printcolumn(name = "Cluster-Namespace", type_ = "string", json_path = ".status.clusterNamespace", priority = 1)
)]
#[serde(rename_all = "camelCase")]
pub struct VirtualClusterSpec {
    /// Name of the `ClusterVersion` to make the control plane from. Leave it out for a control plane that you bring yourself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_version_name: Option<String>,

    /// DNS domain of the tenant: what its Pods search and what its API server's certificate names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_domain: Option<String>,

    /// Days for which certificates of the control plane are valid. For whoever makes the control plane; this version makes none, so this
    /// is accepted and not acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pki_expire_days: Option<i64>,

    /// Label and annotation keys that start so are shown to the tenant as the super cluster has them. Accepted and not acted on by this
    /// version: nothing that the super cluster adds is shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub transparent_meta_prefixes: Vec<String>,

    /// Label and annotation keys that start so live in the super cluster alone: not taken from the tenant, not shown to it. Accepted and
    /// not acted on by this version: which keys pass is the same for all tenants, and said by the syncer's flags.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub opaque_meta_prefixes: Vec<String>,

    /// The range that the tenant's Services have their addresses from; of a dual-stack control plane two, one of each family with a comma between, as
    /// its `--service-cluster-ip-range` has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_cidr: Option<String>,

    /// Hosts that the tenant's Ingresses may publish under: `app.example.com` is exactly that host, `*.team-a.example.com` every name below that, at any
    /// depth, and the wildcard itself. Of what two VirtualClusters register the older one has it. Without any, no Ingress goes down.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), inner(length(max = 253), regex(pattern = HOST)), extend("x-kubernetes-list-type" = "set"))]
    pub ingress_hosts: Vec<String>,

    /// Ranges outside the cluster of which the tenant's Services may claim addresses (`externalIPs`, `loadBalancerIP`): `192.0.2.16/28`,
    /// `2001:db8::7/128` for one. Of what two VirtualClusters register the older one has it. Without any, none is claimed. The ConfigMap
    /// `vc-system/vc-external-addresses` must hold them, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), inner(length(max = 43), regex(pattern = RANGE)), extend("x-kubernetes-list-type" = "set"))]
    pub external_addresses: Vec<String>,

    /// Share of the syncer's attention when tenants compete, relative to the others'.
    #[serde(default = "default_weight")]
    #[schemars(with = "i32", range(min = 1, max = 100))]
    pub weight: u8,

    /// While true nothing is written for the tenant, in either direction, but the heartbeats of vNodes; what runs goes on running.
    #[serde(default)]
    pub paused: bool,

    /// Which nodes the tenant sees.
    #[serde(default)]
    pub nodes: Nodes,

    /// What becomes of the tenant's objects in the super cluster when this object is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

impl Default for VirtualClusterSpec {
    fn default() -> Self {
        Self {
            cluster_version_name: None,
            cluster_domain: None,
            pki_expire_days: None,
            transparent_meta_prefixes: Vec::new(),
            opaque_meta_prefixes: Vec::new(),
            service_cidr: None,
            ingress_hosts: Vec::new(),
            external_addresses: Vec::new(),
            weight: default_weight(),
            paused: false,
            nodes: Nodes::default(),
            deletion_policy: DeletionPolicy::default(),
        }
    }
}

/// As `mirror::host::Host` reads it: at least two labels beside a star, the last of which begins with a letter, since what ends in a number is an address.
const HOST: &str = r"^(\*\.)?([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\.)+[a-z]([-a-z0-9]{0,61}[a-z0-9])?$";

/// The form of a range: whether it is one, the syncer says.
const RANGE: &str = r"^[0-9A-Fa-f:.]+/[0-9]{1,3}$";

/// Everybody alike.
const fn default_weight() -> u8 {
    1
}

/// Which nodes of the super cluster a tenant sees.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self.mode == 'mirrored' || !has(self.selector)", "message": "a selector needs mode mirrored"},
]))]
pub struct Nodes {
    /// `onDemand`: the nodes that its Pods run on. `mirrored`: all that the selector picks too, whether Pods run there or not.
    #[serde(default)]
    pub mode: NodeMode,

    /// Picks the nodes to mirror by their labels in the super cluster; without one, all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// How nodes come to be seen by a tenant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum NodeMode {
    /// While a Pod of the tenant runs there.
    #[default]
    OnDemand,
    /// While it exists and is picked, too.
    Mirrored,
}

/// What becomes of a deleted tenant's objects in the super cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// They go.
    #[default]
    Delete,
    /// They stay and run on, ownerless.
    Orphan,
}

/// What was made of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualClusterStatus {
    /// `Pending`, `Running`, `Error`: written by whoever makes the control plane; the syncer neither needs nor awaits it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,

    /// The namespace that holds the control plane and its kubeconfig.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_namespace: Option<String>,

    /// The last thing that the maker of the control plane said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,

    /// One word for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,

    /// The ranges recorded for the tenant's Services, as in the spec: an address is taken over only from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_cidr: Option<String>,

    /// How many Pods of the tenant are in the super cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<i64>,

    /// What holds now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub conditions: Vec<Condition>,
}

#[cfg(test)]
mod tests {
    use kube::CustomResourceExt;
    use serde_json::{Value, json};

    use super::*;

    fn schema() -> Value {
        let crd = serde_json::to_value(VirtualCluster::crd()).unwrap();
        crd["spec"]["versions"][0].clone()
    }

    #[test]
    fn a_sample_of_the_original_is_read() {
        let read: VirtualCluster = serde_json::from_value(json!({
            "apiVersion": "tenancy.x-k8s.io/v1alpha1",
            "kind": "VirtualCluster",
            "metadata": {"name": "vc-sample-1"},
            "spec": {
                "clusterDomain": "cluster.local",
                "clusterVersionName": "cv-sample-np",
                "pkiExpireDays": 365,
                "opaqueMetaPrefixes": ["tenancy.x-k8s.io"],
                "transparentMetaPrefixes": ["k8s.net.status"],
            },
            "status": {"phase": "Running", "conditions": [{"status": "True", "reason": "TenantControlPlaneRunning"}]},
        }))
        .unwrap();
        assert_eq!(read.spec.weight, 1);
        assert_eq!(read.spec.nodes.mode, NodeMode::OnDemand);
        assert_eq!(read.spec.deletion_policy, DeletionPolicy::Delete);
        assert_eq!(read.status.unwrap().conditions[0].type_, "");
    }

    #[test]
    fn nothing_is_required_but_the_spec() {
        let schema = schema();
        let root = &schema["schema"]["openAPIV3Schema"];
        assert_eq!(root["required"], json!(["spec"]));
        for part in ["spec", "status"] {
            assert_eq!(root["properties"][part]["required"], Value::Null, "{part}");
        }
        let conditions = &root["properties"]["status"]["properties"]["conditions"];
        assert_eq!(conditions["items"]["required"], Value::Null);
        assert_eq!(conditions["x-kubernetes-list-type"], "atomic");
        assert_eq!(schema["subresources"], json!({"status": {}}));
    }

    #[test]
    fn hosts_have_a_form_and_a_number() {
        let hosts = &schema()["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["ingressHosts"];
        assert_eq!(
            (&hosts["maxItems"], &hosts["items"]["maxLength"], &hosts["items"]["pattern"]),
            (&json!(100), &json!(253), &json!(HOST))
        );
        assert_eq!(hosts["x-kubernetes-list-type"], "set");
    }

    #[test]
    fn a_weight_lies_between_1_and_100() {
        let weight = &schema()["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["weight"];
        assert_eq!((&weight["minimum"], &weight["maximum"], &weight["default"]), (&json!(1.0), &json!(100.0), &json!(1)));
    }
}
