//! The verdict on every leaf of a Pod's spec.
//!
//! *Sources*: Pod Security Standards "baseline"; what a shared node can give without giving other tenants away.

use crate::shape::Table;
use crate::shape::Verdict::{Copy, Force, List, Object, Refuse, Rewrite};

/// `PodSpec`.
pub const SPEC: &Table = &[
    ("activeDeadlineSeconds", Copy),
    ("affinity", Object(AFFINITY)),
    ("automountServiceAccountToken", Force("false: the tenant's token is mounted as a volume, the super cluster's never")),
    ("containers", List(CONTAINER)),
    ("dnsConfig", Object(DNS_CONFIG)),
    ("dnsPolicy", Rewrite("the tenant's name server")),
    ("enableServiceLinks", Copy),
    ("ephemeralContainers", Force("they go by their subresource, see `EPHEMERAL_CONTAINER`")),
    ("evictionResponders", Refuse("eviction responders are not supported; remove them")),
    ("hostAliases", List(&[("hostnames", Copy), ("ip", Copy)])),
    ("hostIPC", Refuse("sharing the IPC namespace of the node is not allowed; remove the field")),
    ("hostNetwork", Refuse("using the network of the node is not allowed; remove the field and use a Service")),
    ("hostPID", Refuse("sharing the process namespace of the node is not allowed; remove the field")),
    ("hostUsers", Copy),
    ("hostname", Copy),
    ("hostnameOverride", Copy),
    ("imagePullSecrets", List(LOCAL_NAME)),
    ("initContainers", List(CONTAINER)),
    ("nodeName", Force("a node of the tenant's becomes node affinity; our own binding is no wish")),
    ("nodeSelector", Rewrite("refused for node-role.kubernetes.io/")),
    ("os", Object(&[("name", Copy)])),
    ("overhead", Force("the super cluster's runtime class sets it")),
    ("preemptionPolicy", Force("the priority class says it")),
    ("priority", Force("the priority class says it")),
    ("priorityClassName", Rewrite("one that is published, else left out: priorities of a tenant mean nothing among tenants")),
    ("readinessGates", List(&[("conditionType", Copy)])),
    ("resourceClaims", Refuse("dynamic resource claims are not supported yet; use resources.limits")),
    ("resources", Object(RESOURCES)),
    ("restartPolicy", Copy),
    (
        "runtimeClassName",
        Rewrite("the administrator's, or one that is published: by its name, or by the handler of the tenant's own; else refused"),
    ),
    ("schedulerName", Force("the super cluster's scheduler")),
    ("schedulingGates", Refuse("the Pod is created in the super cluster once its scheduling gates are removed")),
    ("schedulingGroup", Refuse("gang scheduling is not supported; remove the field")),
    ("securityContext", Object(POD_SECURITY)),
    ("serviceAccount", Force("no ServiceAccount of the super cluster is the tenant's")),
    ("serviceAccountName", Force("no ServiceAccount of the super cluster is the tenant's")),
    ("setHostnameAsFQDN", Rewrite("an override with the tenant's domain")),
    ("shareProcessNamespace", Copy),
    ("subdomain", Rewrite("left out, since the node would make the name of the super namespace of it")),
    ("terminationGracePeriodSeconds", Rewrite("capped")),
    ("tolerations", List(TOLERATION)),
    ("topologySpreadConstraints", List(SPREAD)),
    ("volumes", List(VOLUME)),
];

/// `PodStatus` on its way up, by its own fields; below them, messages are scrubbed wherever they stand. A field that is not here is carried.
pub const STATUS: &Table = &[
    ("allocatedResources", Copy),
    ("conditions", Rewrite("the tenant's readiness gates in place of the super cluster's")),
    ("containerStatuses", Rewrite("the tenant's own containers only")),
    ("ephemeralContainerStatuses", Rewrite("the tenant's own containers only")),
    ("extendedResourceClaimStatus", Force("names of objects of the super cluster")),
    ("hostIP", Copy),
    ("hostIPs", Copy),
    ("initContainerStatuses", Rewrite("the tenant's own containers only")),
    ("message", Rewrite("scrubbed")),
    ("nodeAllocatableResourceClaimStatuses", Force("names of objects of the super cluster")),
    ("nominatedNodeName", Force("a node that the tenant may never see")),
    ("observedGeneration", Rewrite("the tenant's generation")),
    ("phase", Copy),
    ("podIP", Copy),
    ("podIPs", Copy),
    ("qosClass", Copy),
    ("reason", Copy),
    ("resize", Copy),
    ("resourceClaimStatuses", Force("names of objects of the super cluster")),
    ("resources", Copy),
    ("startTime", Copy),
    ("volumeHealth", Rewrite("scrubbed")),
];

/// `Container`, the same for init containers.
const CONTAINER: &Table = &[
    ("args", Copy),
    ("command", Copy),
    ("env", List(ENV)),
    ("envFrom", List(ENV_FROM)),
    ("image", Copy),
    ("imagePullPolicy", Copy),
    ("lifecycle", Object(&[("postStart", Object(HANDLER)), ("preStop", Object(HANDLER)), ("stopSignal", Copy)])),
    ("livenessProbe", Object(PROBE)),
    ("name", Copy),
    ("ports", List(PORT)),
    ("readinessProbe", Object(PROBE)),
    ("resizePolicy", List(&[("resourceName", Copy), ("restartPolicy", Copy)])),
    ("resources", Object(RESOURCES)),
    ("restartPolicy", Copy),
    ("restartPolicyRules", List(&[("action", Copy), ("exitCodes", Object(&[("operator", Copy), ("values", Copy)]))])),
    ("securityContext", Object(CONTAINER_SECURITY)),
    ("startupProbe", Object(PROBE)),
    ("stdin", Copy),
    ("stdinOnce", Copy),
    ("terminationMessagePath", Copy),
    ("terminationMessagePolicy", Copy),
    ("tty", Copy),
    ("volumeDevices", List(&[("devicePath", Copy), ("name", Copy)])),
    ("volumeMounts", List(MOUNT)),
    ("workingDir", Copy),
];

/// `EphemeralContainer`: API servers allow no others of the fields of a container.
pub const EPHEMERAL_CONTAINER: &Table = &[
    ("args", Copy),
    ("command", Copy),
    ("env", List(ENV)),
    ("envFrom", List(ENV_FROM)),
    ("image", Copy),
    ("imagePullPolicy", Copy),
    ("lifecycle", Refuse(NOT_EPHEMERAL)),
    ("livenessProbe", Refuse(NOT_EPHEMERAL)),
    ("name", Copy),
    ("ports", Refuse(NOT_EPHEMERAL)),
    ("readinessProbe", Refuse(NOT_EPHEMERAL)),
    ("resizePolicy", Force("API servers set it, and let nobody else")),
    ("resources", Refuse(NOT_EPHEMERAL)),
    ("restartPolicy", Refuse(NOT_EPHEMERAL)),
    ("restartPolicyRules", Refuse(NOT_EPHEMERAL)),
    ("securityContext", Object(CONTAINER_SECURITY)),
    ("startupProbe", Refuse(NOT_EPHEMERAL)),
    ("stdin", Copy),
    ("stdinOnce", Copy),
    ("targetContainerName", Copy),
    ("terminationMessagePath", Copy),
    ("terminationMessagePolicy", Copy),
    ("tty", Copy),
    ("volumeDevices", List(&[("devicePath", Copy), ("name", Copy)])),
    ("volumeMounts", List(MOUNT)),
    ("workingDir", Copy),
];

const NOT_EPHEMERAL: &str = "an ephemeral container has no such field; remove it";

const ENV: &Table = &[("name", Copy), ("value", Copy), ("valueFrom", Object(ENV_SOURCE))];

const ENV_SOURCE: &Table = &[
    ("configMapKeyRef", Object(KEY_OF)),
    ("fieldRef", Object(FIELD_REF)),
    ("fileKeyRef", Object(&[("key", Copy), ("optional", Copy), ("path", Copy), ("volumeName", Copy)])),
    ("resourceFieldRef", Object(RESOURCE_REF)),
    ("secretKeyRef", Object(KEY_OF)),
];

const ENV_FROM: &Table = &[("configMapRef", Object(MAYBE_NAME)), ("prefix", Copy), ("secretRef", Object(MAYBE_NAME))];

const LOCAL_NAME: &Table = &[("name", Rewrite("the name in the super namespace"))];
const MAYBE_NAME: &Table = &[("name", Rewrite("the name in the super namespace")), ("optional", Copy)];
const KEY_OF: &Table = &[("key", Copy), ("name", Rewrite("the name in the super namespace")), ("optional", Copy)];
const FIELD_REF: &Table = &[("apiVersion", Copy), ("fieldPath", Rewrite("the tenant's value, where it has one"))];
const RESOURCE_REF: &Table = &[("containerName", Copy), ("divisor", Copy), ("resource", Copy)];

const HOST: &str = "the node must not be sent to other hosts; remove the field, so that the Pod itself is asked";

const HTTP_GET: &Table = &[
    ("host", Refuse(HOST)),
    ("httpHeaders", List(&[("name", Copy), ("value", Copy)])),
    ("path", Copy),
    ("port", Copy),
    ("protocol", Copy),
    ("scheme", Copy),
];

const TCP_SOCKET: &Table = &[("host", Refuse(HOST)), ("port", Copy)];

const HANDLER: &Table = &[
    ("exec", Object(&[("command", Copy)])),
    ("httpGet", Object(HTTP_GET)),
    ("sleep", Object(&[("seconds", Copy)])),
    ("tcpSocket", Object(TCP_SOCKET)),
];

const PROBE: &Table = &[
    ("exec", Object(&[("command", Copy)])),
    ("failureThreshold", Copy),
    ("grpc", Object(&[("mode", Copy), ("port", Copy), ("service", Copy)])),
    ("httpGet", Object(HTTP_GET)),
    ("initialDelaySeconds", Copy),
    ("periodSeconds", Copy),
    ("successThreshold", Copy),
    ("tcpSocket", Object(TCP_SOCKET)),
    ("terminationGracePeriodSeconds", Copy),
    ("timeoutSeconds", Copy),
];

const PORT: &Table = &[
    ("containerPort", Copy),
    ("hostIP", Refuse("addresses of the node are not the tenant's; remove the field")),
    ("hostPort", Rewrite("refused unless the administrator allows it")),
    ("name", Copy),
    ("protocol", Copy),
];

const RESOURCES: &Table =
    &[("claims", Refuse("dynamic resource claims are not supported yet; use limits")), ("limits", Copy), ("requests", Copy)];

const MOUNT: &Table = &[
    ("bindMountOptions", Copy),
    ("mountPath", Copy),
    ("mountPropagation", Rewrite("Bidirectional refused")),
    ("name", Copy),
    ("readOnly", Copy),
    ("recursiveReadOnly", Copy),
    ("subPath", Copy),
    ("subPathExpr", Copy),
];

const POD_SECURITY: &Table = &[
    ("appArmorProfile", Object(PROFILE)),
    ("fsGroup", Copy),
    ("fsGroupChangePolicy", Copy),
    ("runAsGroup", Copy),
    ("runAsNonRoot", Copy),
    ("runAsUser", Copy),
    ("seLinuxChangePolicy", Copy),
    ("seLinuxOptions", Object(SE_LINUX)),
    ("seccompProfile", Object(PROFILE)),
    ("supplementalGroups", Copy),
    ("supplementalGroupsPolicy", Copy),
    ("sysctls", List(&[("name", Rewrite("safe ones only")), ("value", Copy)])),
    ("windowsOptions", Object(WINDOWS)),
];

const CONTAINER_SECURITY: &Table = &[
    ("allowPrivilegeEscalation", Copy),
    ("appArmorProfile", Object(PROFILE)),
    ("capabilities", Object(&[("add", Rewrite("the baseline's only")), ("drop", Copy)])),
    ("privileged", Rewrite("refused unless the administrator allows it")),
    ("procMount", Rewrite("Default only")),
    ("readOnlyRootFilesystem", Copy),
    ("runAsGroup", Copy),
    ("runAsNonRoot", Copy),
    ("runAsUser", Copy),
    ("seLinuxOptions", Object(SE_LINUX)),
    ("seccompProfile", Object(PROFILE)),
    ("windowsOptions", Object(WINDOWS)),
];

const PROFILE: &Table = &[("localhostProfile", Copy), ("type", Rewrite("Unconfined refused"))];

const SE_LINUX: &Table = &[
    ("level", Copy),
    ("role", Rewrite("refused unless the administrator allows it")),
    ("type", Rewrite("the baseline's only")),
    ("user", Rewrite("refused unless the administrator allows it")),
];

const WINDOWS: &Table = &[
    ("gmsaCredentialSpec", Copy),
    ("gmsaCredentialSpecName", Refuse("credential specs of the super cluster are not the tenant's; give the spec itself")),
    ("hostProcess", Refuse("processes of the node are not allowed; remove the field")),
    ("runAsUserName", Copy),
];

const DNS_CONFIG: &Table = &[
    ("nameservers", Rewrite("the tenant's name server first")),
    ("options", List(&[("name", Copy), ("value", Copy)])),
    ("searches", Rewrite("the tenant's domains first")),
];

const TOLERATION: &Table = &[
    ("effect", Copy),
    ("key", Rewrite("dropped for node-role.kubernetes.io/ and for all keys at once")),
    ("operator", Copy),
    ("tolerationSeconds", Copy),
    ("value", Copy),
];

const SPREAD: &Table = &[
    ("labelSelector", Object(SELECTOR)),
    ("matchLabelKeys", Rewrite("merged into the selector")),
    ("maxSkew", Copy),
    ("minDomains", Copy),
    ("nodeAffinityPolicy", Copy),
    ("nodeTaintsPolicy", Copy),
    ("topologyKey", Copy),
    ("whenUnsatisfiable", Copy),
];

const SELECTOR: &Table = &[
    ("matchExpressions", List(&[("key", Rewrite("the super label")), ("operator", Copy), ("values", Copy)])),
    ("matchLabels", Rewrite("the super labels")),
];

const REQUIREMENT: &Table = &[("key", Rewrite("refused for node-role.kubernetes.io/")), ("operator", Copy), ("values", Copy)];

const NODE_TERM: &Table = &[("matchExpressions", List(REQUIREMENT)), ("matchFields", List(REQUIREMENT))];

const POD_TERM: &Table = &[
    ("labelSelector", Object(SELECTOR)),
    ("matchLabelKeys", Rewrite("merged into the selector")),
    ("mismatchLabelKeys", Rewrite("merged into the selector")),
    ("namespaceSelector", Rewrite("the tenant's own namespaces alone; keys as labels of namespaces have them in the super cluster")),
    ("namespaces", Rewrite("the super namespaces")),
    ("topologyKey", Copy),
];

const POD_AFFINITY: &Table = &[
    ("preferredDuringSchedulingIgnoredDuringExecution", List(&[("podAffinityTerm", Object(POD_TERM)), ("weight", Copy)])),
    ("requiredDuringSchedulingIgnoredDuringExecution", List(POD_TERM)),
];

const AFFINITY: &Table = &[
    (
        "nodeAffinity",
        Object(&[
            ("preferredDuringSchedulingIgnoredDuringExecution", List(&[("preference", Object(NODE_TERM)), ("weight", Copy)])),
            ("requiredDuringSchedulingIgnoredDuringExecution", Object(&[("nodeSelectorTerms", List(NODE_TERM))])),
        ]),
    ),
    ("podAffinity", Object(POD_AFFINITY)),
    ("podAntiAffinity", Object(POD_AFFINITY)),
];

const NO_VOLUME: &str =
    "volumes of this type are not allowed; use emptyDir, configMap, secret, downwardAPI, projected or a PersistentVolumeClaim";

const VOLUME: &Table = &[
    ("awsElasticBlockStore", Refuse(NO_VOLUME)),
    ("azureDisk", Refuse(NO_VOLUME)),
    ("azureFile", Refuse(NO_VOLUME)),
    ("cephfs", Refuse(NO_VOLUME)),
    ("cinder", Refuse(NO_VOLUME)),
    (
        "configMap",
        Object(&[
            ("defaultMode", Copy),
            ("defaultUser", Copy),
            ("items", List(KEY_TO_PATH)),
            ("name", Rewrite("the name in the super namespace")),
            ("optional", Copy),
        ]),
    ),
    ("csi", Refuse(NO_VOLUME)),
    ("downwardAPI", Object(&[("defaultMode", Copy), ("defaultUser", Copy), ("items", List(DOWNWARD_FILE))])),
    ("emptyDir", Object(&[("medium", Copy), ("mode", Copy), ("sizeLimit", Copy)])),
    ("ephemeral", Rewrite("the claim that the tenant's own controller makes for it, as persistentVolumeClaim")),
    ("fc", Refuse(NO_VOLUME)),
    ("flexVolume", Refuse(NO_VOLUME)),
    ("flocker", Refuse(NO_VOLUME)),
    ("gcePersistentDisk", Refuse(NO_VOLUME)),
    ("gitRepo", Refuse(NO_VOLUME)),
    ("glusterfs", Refuse(NO_VOLUME)),
    (
        "hostPath",
        Refuse(
            "files of the node are not the tenant's; use emptyDir, configMap, secret, downwardAPI, projected or a PersistentVolumeClaim",
        ),
    ),
    ("image", Refuse(NO_VOLUME)),
    ("iscsi", Refuse(NO_VOLUME)),
    ("name", Copy),
    ("nfs", Refuse(NO_VOLUME)),
    ("persistentVolumeClaim", Object(&[("claimName", Rewrite("the name in the super namespace")), ("readOnly", Copy)])),
    ("photonPersistentDisk", Refuse(NO_VOLUME)),
    ("portworxVolume", Refuse(NO_VOLUME)),
    ("projected", Object(&[("defaultMode", Copy), ("defaultUser", Copy), ("sources", List(PROJECTION))])),
    ("quobyte", Refuse(NO_VOLUME)),
    ("rbd", Refuse(NO_VOLUME)),
    ("scaleIO", Refuse(NO_VOLUME)),
    (
        "secret",
        Object(&[
            ("defaultMode", Copy),
            ("defaultUser", Copy),
            ("items", List(KEY_TO_PATH)),
            ("optional", Copy),
            ("secretName", Rewrite("the name in the super namespace")),
        ]),
    ),
    ("storageos", Refuse(NO_VOLUME)),
    ("vsphereVolume", Refuse(NO_VOLUME)),
];

const KEY_TO_PATH: &Table = &[("key", Copy), ("mode", Copy), ("path", Copy), ("user", Copy)];

const DOWNWARD_FILE: &Table =
    &[("fieldRef", Object(FIELD_REF)), ("mode", Copy), ("path", Copy), ("resourceFieldRef", Object(RESOURCE_REF)), ("user", Copy)];

const NAMED_ITEMS: &Table = &[("items", List(KEY_TO_PATH)), ("name", Rewrite("the name in the super namespace")), ("optional", Copy)];

const PROJECTION: &Table = &[
    ("clusterTrustBundle", Rewrite("the tenant's bundles, from a Secret")),
    ("configMap", Object(NAMED_ITEMS)),
    ("downwardAPI", Object(&[("items", List(DOWNWARD_FILE))])),
    ("podCertificate", Rewrite("one that a signer of the tenant's issues, with its key from a Secret; no RSA keys")),
    ("secret", Object(NAMED_ITEMS)),
    ("serviceAccountToken", Rewrite("a token of the tenant's, from a Secret")),
];

/// Rewritten as a whole by the kind: a token source becomes a Secret's, a selector of namespaces is `{}` or refused.
#[cfg(test)]
pub(crate) const OPAQUE: [&str; 8] = [
    "affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution[].podAffinityTerm.namespaceSelector",
    "affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[].namespaceSelector",
    "affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[].podAffinityTerm.namespaceSelector",
    "affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[].namespaceSelector",
    "volumes[].ephemeral",
    "volumes[].projected.sources[].clusterTrustBundle",
    "volumes[].projected.sources[].podCertificate",
    "volumes[].projected.sources[].serviceAccountToken",
];

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{
        ClusterTrustBundleProjection, EphemeralContainer, PodCertificateProjection, PodSpec, PodStatus, ServiceAccountTokenProjection,
    };
    use schemars::{Schema, schema_for};

    use super::*;
    use crate::schema::every_leaf_has_a_verdict;

    #[test]
    fn every_leaf_of_the_spec_has_a_verdict() {
        every_leaf_has_a_verdict::<PodSpec>(SPEC, &OPAQUE);
    }

    #[test]
    fn every_leaf_of_an_ephemeral_container_has_a_verdict() {
        every_leaf_has_a_verdict::<EphemeralContainer>(EPHEMERAL_CONTAINER, &[]);
    }

    fn fields(schema: &Schema) -> Vec<&str> {
        schema.get("properties").and_then(|properties| properties.as_object()).unwrap().keys().map(String::as_str).collect()
    }

    #[test]
    fn every_field_of_the_status_has_a_verdict() {
        let named: Vec<&str> = STATUS.iter().map(|(name, _)| *name).collect();
        assert_eq!(fields(&schema_for!(PodStatus)), named);
    }

    /// These become other sources. A field that Kubernetes adds to one is to be decided on in `mounts.rs` first.
    #[test]
    fn every_field_of_a_source_that_becomes_another_is_read() {
        assert_eq!(fields(&schema_for!(ServiceAccountTokenProjection)), ["audience", "expirationSeconds", "path", "user"]);
        assert_eq!(fields(&schema_for!(ClusterTrustBundleProjection)), ["labelSelector", "name", "optional", "path", "signerName", "user"]);
        assert_eq!(
            fields(&schema_for!(PodCertificateProjection)),
            [
                "certificateChainPath",
                "credentialBundlePath",
                "keyPath",
                "keyType",
                "maxExpirationSeconds",
                "signerName",
                "user",
                "userAnnotations"
            ]
        );
    }
}
