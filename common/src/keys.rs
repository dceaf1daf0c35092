//! Every label, annotation and reserved-name string of the project, each with its meaning and an example.

/// The group of our custom resources, and the domain of our keys.
pub const GROUP: &str = "tenancy.x-k8s.io";

/// Label on every super object that is a tenant's: the 26-character [`TenantId`](crate::TenantId). Informers select by it.
/// Example: `tenancy.x-k8s.io/tenant: 5wqfy3j2m6u7k2v4c5q3n6x7ya`.
pub const TENANT: &str = "tenancy.x-k8s.io/tenant";

/// Annotation on every super object that is a tenant's: the versioned record [`Owner`](crate::Owner), as JSON.
pub const OWNER: &str = "tenancy.x-k8s.io/owner";

/// Annotation on every super object that is a tenant's: `<tenant resourceVersion>/<128-bit hash of what was asked, hex>`.
pub const BUILT: &str = "tenancy.x-k8s.io/built";

/// Annotation on super Pods: the names of the tenant's own containers, comma-separated: those that it was made with, and the ephemeral ones
/// that were added since. What the super cluster injects is not among them, whatever the tenant's spec says later.
pub const CONTAINERS: &str = "tenancy.x-k8s.io/containers";

/// Annotation on super Pods: the `metadata.generation` of the tenant's Pod that was asked for, so that `observedGeneration` can be told in
/// the tenant's numbers without its body.
pub const GENERATION: &str = "tenancy.x-k8s.io/generation";

/// Prefix of annotations on super Pods that serve the tenant's own metadata to downward API files.
/// Example: `tenancy.x-k8s.io/downward.namespace: default`.
pub const DOWNWARD_PREFIX: &str = "tenancy.x-k8s.io/downward.";

/// Annotation on super namespaces: the UID of the tenant's `kube-system`, which tells one life of a control plane from the next.
pub const INCARNATION: &str = "tenancy.x-k8s.io/incarnation";

/// Annotation on a tenant's Pod: set by our Binding (or our first status write); "this Pod was ours and ran".
/// Value: the name of the node.
pub const PLACED: &str = "tenancy.x-k8s.io/placed";

/// Annotation on a token Secret: when its earliest token expires, RFC 3339.
pub const TOKEN_EXPIRES: &str = "tenancy.x-k8s.io/token-expires";

/// Annotation on a token Secret: when its earliest token was issued, RFC 3339. Renewal goes by the share of its life.
pub const TOKEN_ISSUED: &str = "tenancy.x-k8s.io/token-issued";

/// Label on an object of the super cluster that every tenant may see and use (the original's), and on the tenants' copies of it.
/// Example: `tenancy.x-k8s.io/super.public: "true"`.
pub const PUBLIC: &str = "tenancy.x-k8s.io/super.public";

/// Label on a tenant's `PersistentVolume` that stands for one of the super cluster's. Example: `tenancy.x-k8s.io/virtualvolume: "true"`.
pub const VIRTUAL_VOLUME: &str = "tenancy.x-k8s.io/virtualvolume";

/// Label on a vNode in the tenant. Example: `tenancy.x-k8s.io/virtualnode: "true"`.
pub const VIRTUAL_NODE: &str = "tenancy.x-k8s.io/virtualnode";

/// Annotation on a vNode: the hash of what we wrote, so that a restart writes nothing.
pub const NODE_BUILT: &str = "tenancy.x-k8s.io/node-built";

/// Annotation on a VirtualCluster: the tenant's admin kubeconfig, base64 (the original's; needs a flag).
pub const ADMIN_KUBECONFIG: &str = "tenancy.x-k8s.io/admin-kubeconfig";

/// Annotation on a VirtualCluster: the name of the Secret (key `value`) with the tenant's admin kubeconfig.
pub const ADMIN_KUBECONFIG_SECRET: &str = "tenancy.x-k8s.io/secret.admin-kubeconfig";

/// Name and data key of the Secret that holds a tenant's admin kubeconfig.
pub const ADMIN_KUBECONFIG_NAME: &str = "admin-kubeconfig";

/// Annotation on a root namespace: the UID of its VirtualCluster (the original's).
pub const ROOT_NAMESPACE_OF: &str = "tenancy.x-k8s.io/vcuid";

/// Annotation on a `VirtualCluster`: the serial numbers, in hexadecimal, of certificates for vn-agent that count no more, separated by commas.
pub const REVOKED_CERTIFICATES: &str = "tenancy.x-k8s.io/revoked-certificates";

/// Annotation on a VirtualCluster: the `kube-system` UID that a person has accepted after the control plane was emptied or restored.
pub const ACCEPT_INCARNATION: &str = "tenancy.x-k8s.io/accept-incarnation";

/// Annotation on super namespaces: `Orphan` where they are to outlive their VirtualCluster, so that whoever finds them without one leaves
/// them alone. Absent otherwise.
pub const DELETION_POLICY: &str = "tenancy.x-k8s.io/deletion-policy";

/// Type of a condition on a tenant's Service: `False` where its node ports are not those of the super cluster, since the tenant's API server
/// does not take them.
pub const NODE_PORTS: &str = "tenancy.x-k8s.io/NodePorts";

/// Type of a condition on a tenant's Service: `False` where its address is not that of the super cluster, since the tenant's API server does not take it.
pub const ADDRESS: &str = "tenancy.x-k8s.io/Address";

/// Annotation of a Service in the super cluster: the addresses from outside that it claims for its tenant, by commas.
pub const CLAIMS: &str = "tenancy.x-k8s.io/claims";

/// Annotation of a tenant's Service while its address is changed: the type that it is to have again.
pub const ADDRESS_CHANGES: &str = "tenancy.x-k8s.io/address-changes";

/// Annotation of the Secret that a Pod mounts: when other certificates are to be asked for, as RFC 3339, if it has any.
pub const REFRESH_CERTIFICATES: &str = "tenancy.x-k8s.io/refresh-certificates";

/// Annotation of the Secret that a Pod mounts: hash of the trust bundles in it, if it has any, as 16 hexadecimal digits.
pub const TRUST_BUNDLES: &str = "tenancy.x-k8s.io/trust-bundles";

/// Prefix of hashed label keys: a tenant's label key with a domain that is not allow-listed becomes `<prefix><26-character hash>`.
pub const HASHED_LABEL_PREFIX: &str = "t.tenancy.x-k8s.io/";

/// Prefix of object names in super namespaces that are ours; a tenant's name that starts so is escaped.
pub const RESERVED_NAME_PREFIX: &str = "vc.";

/// Prefix of the names of the Secrets that Pods mount their tenant's tokens from.
pub const TOKEN_SECRET_PREFIX: &str = "vc.token.";

/// The ConfigMap that each controller-manager publishes in each namespace, with its own cluster's CA bundle.
pub const ROOT_CA_CONFIG_MAP: &str = "kube-root-ca.crt";

/// The namespace that holds the writers' ServiceAccounts and nothing else.
pub const WRITERS_NAMESPACE: &str = "vc-writers";

/// The namespace of the syncer itself.
pub const SYSTEM_NAMESPACE: &str = "vc-system";

/// The ServiceAccount that the syncer runs as.
pub const SYNCER: &str = "vc-syncer";

/// The namespace of vn-agent, whose Pods mount files of their nodes.
pub const AGENTS_NAMESPACE: &str = "vc-agents";

/// The ServiceAccount that vn-agent runs as.
pub const AGENT: &str = "vn-agent";

/// The one ClusterRole that writers are bound to, and the name of the RoleBinding in each super namespace.
pub const WRITER_ROLE: &str = "vc-tenant-writer";

/// Label on a ClusterRole of the super cluster whose rules the syncer gets: to see the objects of a `SyncedResource`. Value: `"true"`.
pub const AGGREGATE_TO_SYNCER: &str = "tenancy.x-k8s.io/aggregate-to-syncer";

/// Label on a ClusterRole of the super cluster whose rules tenants' writers get, each in its tenant's namespaces. Value: `"true"`.
pub const AGGREGATE_TO_WRITER: &str = "tenancy.x-k8s.io/aggregate-to-writer";

/// Key prefix of the built-in label domain that passes unhashed.
pub const APP_LABEL_PREFIX: &str = "app.kubernetes.io/";
