//! What the administrator and the Pod Security Standards say, where a table of fields cannot say it.
//!
//! *Sources*: Kubernetes "Pod Security Standards", profile baseline, as `pod-security-admission` v1.37 checks it.

use std::collections::BTreeMap;

use common::InTenant;
use serde_json::Value;

use super::{Fields, containers_mut, object, objects, text};
use crate::cx::{Cx, Handler};
use crate::hold::Hold;
use crate::kind::Reference;
use crate::object::Object;
use crate::size::printed_bytes;

/// Capabilities that the baseline lets a container add: those that container runtimes give anyway.
const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Kernel parameters that concern the Pod's own namespaces only.
const SYSCTLS: [&str; 14] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_notsent_lowat",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_slow_start_after_idle",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

const SE_LINUX_TYPES: [&str; 4] = ["container_t", "container_init_t", "container_kvm_t", "container_engine_t"];

/// The largest spec that goes down, in bytes as an API server prints it: half of what etcd stores in one entry (1.5 MiB), since status is
/// still to come.
const MAX_BYTES: usize = 768 * 1024;

/// The largest Pod that goes down, labels and annotations included.
pub(super) const MAX_POD_BYTES: usize = MAX_BYTES + MAX_ANNOTATION_BYTES + 64 * 1024;

/// What all annotations of one object may hold, in bytes; the API server's own limit (256 KiB).
const MAX_ANNOTATION_BYTES: usize = 256 * 1024;

/// Holds the spec against the policy, and forces what the policy forces.
pub(super) fn apply(spec: &mut Fields, tenant: &InTenant<Object>, cx: &Cx<'_>) -> Result<(), Hold> {
    runtime_class(spec, tenant, cx)?;
    priority_class(spec, tenant, cx);
    grace(spec, cx);
    if cx.policy.allow_privileged {
        return Ok(());
    }
    pod_security(spec)?;
    containers(spec, cx)
}

/// Refuses containers that may do more than Pod Security "baseline" lets them, in every list that is there.
pub(super) fn containers(spec: &mut Fields, cx: &Cx<'_>) -> Result<(), Hold> {
    if cx.policy.allow_privileged {
        return Ok(());
    }
    for (at, container) in containers_mut(spec) {
        container_security(container, &at)?;
        ports_and_mounts(container, &at)?;
    }
    Ok(())
}

const RUNTIME_CLASS: &str = "RuntimeClass";

/// The administrator's; or a published one, by its name, or by the handler of the tenant's own class of the name.
fn runtime_class(spec: &mut Fields, tenant: &InTenant<Object>, cx: &Cx<'_>) -> Result<(), Hold> {
    spec.remove("runtimeClassName");
    match (&cx.policy.runtime_class, tenant.text("/spec/runtimeClassName")) {
        (Some(forced), _) => {
            spec.insert("runtimeClassName".to_owned(), Value::String(forced.clone()));
            Ok(())
        }
        (None, None) => Ok(()),
        (None, Some(asked)) if cx.published.is_published(RUNTIME_CLASS, asked) => {
            spec.insert("runtimeClassName".to_owned(), Value::String(asked.to_owned()));
            Ok(())
        }
        (None, Some(asked)) => {
            let class = match cx.handlers.handler(asked) {
                Handler::Named(handler) => cx.published.published_with(RUNTIME_CLASS, "handler", &handler),
                Handler::Missing | Handler::Unread => None,
            };
            let class = class.ok_or_else(|| {
                let message = "no RuntimeClass of this name is published, and none with the handler that your own class of the name has; remove the \
                               field, or ask the administrator of the super cluster";
                Hold::refuse("NotSupported", "spec.runtimeClassName", message)
            })?;
            spec.insert("runtimeClassName".to_owned(), Value::String(class));
            Ok(())
        }
    }
}

/// The class of the tenant's own that a Pod names, if what it stands for decides.
pub(super) fn unread(tenant: &InTenant<Object>, cx: &Cx<'_>) -> Option<Reference> {
    let decides = |class: &&str| !cx.published.is_published(RUNTIME_CLASS, class) && cx.handlers.handler(class) == Handler::Unread;
    let class = tenant.text("/spec/runtimeClassName").filter(|_| cx.policy.runtime_class.is_none()).filter(decides)?;
    Some(Reference { kind: RUNTIME_CLASS, name: class.to_owned() })
}

/// Among tenants only those classes count that all of them have. Without one the Pod has the priority that the super cluster gives to all.
fn priority_class(spec: &mut Fields, tenant: &InTenant<Object>, cx: &Cx<'_>) {
    spec.remove("priorityClassName");
    if let Some(asked) = tenant.text("/spec/priorityClassName").filter(|asked| cx.published.is_published("PriorityClass", asked)) {
        spec.insert("priorityClassName".to_owned(), Value::String(asked.to_owned()));
    }
}

fn grace(spec: &mut Fields, cx: &Cx<'_>) {
    let most = i64::from(cx.policy.max_grace_seconds);
    if let Some(seconds) = spec.get_mut("terminationGracePeriodSeconds")
        && seconds.as_i64().is_some_and(|asked| asked > most)
    {
        *seconds = Value::from(most);
    }
}

fn pod_security(spec: &Fields) -> Result<(), Hold> {
    let Some(context) = object(spec, "securityContext") else {
        return Ok(());
    };
    let at = "spec.securityContext";
    for (i, sysctl) in objects(context, "sysctls").enumerate() {
        let name = text(sysctl, "name").unwrap_or_default();
        if !SYSCTLS.contains(&name) {
            return deny(format!("{at}.sysctls[{i}]"), format!("only these kernel parameters are allowed: {}", SYSCTLS.join(", ")));
        }
    }
    profiles(context, at)
}

fn container_security(container: &Fields, at: &str) -> Result<(), Hold> {
    let Some(context) = object(container, "securityContext") else {
        return Ok(());
    };
    let at = format!("{at}.securityContext");
    if context.get("privileged").and_then(Value::as_bool) == Some(true) {
        return deny(format!("{at}.privileged"), "privileged containers are not allowed; remove the field");
    }
    if !matches!(text(context, "procMount"), None | Some("Default")) {
        return deny(format!("{at}.procMount"), "only the value Default is allowed");
    }
    let added = object(context, "capabilities").and_then(|capabilities| capabilities.get("add")).and_then(Value::as_array);
    for (i, capability) in added.into_iter().flatten().enumerate() {
        if !capability.as_str().is_some_and(|name| CAPABILITIES.contains(&name)) {
            return deny(
                format!("{at}.capabilities.add[{i}]"),
                format!("only these capabilities are allowed: {}", CAPABILITIES.join(", ")),
            );
        }
    }
    profiles(context, &at)
}

fn profiles(context: &Fields, at: &str) -> Result<(), Hold> {
    for profile in ["seccompProfile", "appArmorProfile"] {
        if object(context, profile).is_some_and(|profile| !matches!(text(profile, "type"), None | Some("RuntimeDefault" | "Localhost"))) {
            return deny(format!("{at}.{profile}.type"), "only the values RuntimeDefault and Localhost are allowed");
        }
    }
    let Some(options) = object(context, "seLinuxOptions") else {
        return Ok(());
    };
    for part in ["user", "role"] {
        if text(options, part).is_some() {
            return deny(format!("{at}.seLinuxOptions.{part}"), "it is the node's to choose; remove the field");
        }
    }
    match text(options, "type") {
        Some(kind) if !SE_LINUX_TYPES.contains(&kind) => {
            deny(format!("{at}.seLinuxOptions.type"), format!("only these types are allowed: {}", SE_LINUX_TYPES.join(", ")))
        }
        _ => Ok(()),
    }
}

fn ports_and_mounts(container: &Fields, at: &str) -> Result<(), Hold> {
    for (i, port) in objects(container, "ports").enumerate() {
        if port.get("hostPort").is_some_and(|port| port.as_i64() != Some(0)) {
            return deny(format!("{at}.ports[{i}].hostPort"), "ports of the node are not the tenant's; remove the field and use a Service");
        }
    }
    for (i, mount) in objects(container, "volumeMounts").enumerate() {
        if text(mount, "mountPropagation") == Some("Bidirectional") {
            return deny(format!("{at}.volumeMounts[{i}].mountPropagation"), "mounts must not reach the node; use None or HostToContainer");
        }
    }
    Ok(())
}

fn deny(field: String, message: impl Into<std::borrow::Cow<'static, str>>) -> Result<(), Hold> {
    Err(Hold::refuse("PodSecurity", field, message))
}

/// Refuses what the super cluster could not store.
pub(super) fn cap_size(spec: &Fields, annotations: &BTreeMap<String, String>) -> Result<(), Hold> {
    let bytes: usize = annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
    // The record and the hash come on top.
    if bytes + 2048 > MAX_ANNOTATION_BYTES {
        return Err(Hold::refuse(
            "TooLarge",
            "metadata.annotations",
            format!("annotations and labels that the Pod reads through the downward API must fit into {MAX_ANNOTATION_BYTES} bytes"),
        ));
    }
    let spec_bytes = printed_bytes(spec);
    if spec_bytes > MAX_BYTES {
        return Err(Hold::refuse("TooLarge", "spec", format!("the spec has {spec_bytes} bytes; at most {MAX_BYTES} go down")));
    }
    Ok(())
}

/// Refuses ephemeral containers that would make their Pod too large to be listed by its node: they come on top of a spec that was counted.
pub(super) fn cap_ephemeral(bytes: usize, i: usize) -> Result<(), Hold> {
    if bytes > MAX_BYTES {
        let message = format!("with it the ephemeral containers of the Pod have {bytes} bytes; at most {MAX_BYTES} go down");
        return Err(Hold::refuse("TooLarge", format!("spec.ephemeralContainers[{i}]"), message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(spec: &Value) -> Option<String> {
        let mut spec = spec.as_object().cloned().unwrap();
        let outcome = pod_security(&spec).and_then(|()| {
            containers_mut(&mut spec).try_for_each(|(at, container)| {
                container_security(container, &at)?;
                ports_and_mounts(container, &at)
            })
        });
        match outcome {
            Err(Hold::Refused(refusal)) => Some(refusal.field),
            Err(other) => Some(other.to_string()),
            Ok(()) => None,
        }
    }

    fn container(context: &Value) -> Value {
        json!({"containers": [{"name": "a"}], "initContainers": [{"name": "b", "securityContext": context}]})
    }

    #[test]
    fn what_reaches_the_node_is_refused_in_every_list_of_containers() {
        let cases = [
            (json!({"privileged": true}), "privileged"),
            (json!({"procMount": "Unmasked"}), "procMount"),
            (json!({"capabilities": {"add": ["CHOWN", "SYS_ADMIN"]}}), "capabilities.add[1]"),
            (json!({"seccompProfile": {"type": "Unconfined"}}), "seccompProfile.type"),
            (json!({"appArmorProfile": {"type": "Unconfined"}}), "appArmorProfile.type"),
            (json!({"seLinuxOptions": {"type": "spc_t"}}), "seLinuxOptions.type"),
            (json!({"seLinuxOptions": {"user": "u"}}), "seLinuxOptions.user"),
        ];
        for (context, field) in cases {
            assert_eq!(refused(&container(&context)), Some(format!("spec.initContainers[0].securityContext.{field}")));
        }
        for allowed in [
            json!({"privileged": false, "procMount": "Default", "runAsUser": 0}),
            json!({"capabilities": {"add": ["NET_BIND_SERVICE"], "drop": ["ALL"]}}),
            json!({"seccompProfile": {"type": "RuntimeDefault"}, "seLinuxOptions": {"level": "s0:c1,c2", "type": "container_t"}}),
        ] {
            assert_eq!(refused(&container(&allowed)), None);
        }
    }

    #[test]
    fn s33_a_spec_counts_as_an_api_server_prints_it() {
        let with = |text: &str| {
            let spec = json!({"a": text.repeat(MAX_BYTES / 6)});
            cap_size(spec.as_object().unwrap(), &BTreeMap::new())
        };
        assert_eq!(with("a"), Ok(()));
        assert!(matches!(with("<"), Err(Hold::Refused(refusal)) if refusal.reason == "TooLarge"));
    }

    #[test]
    fn only_safe_kernel_parameters_pass() {
        let with = |name: &str| refused(&json!({"securityContext": {"sysctls": [{"name": name, "value": "1"}]}}));
        assert_eq!(with("net.ipv4.tcp_syncookies"), None);
        assert_eq!(with("kernel.msgmax"), Some("spec.securityContext.sysctls[0]".to_owned()));
    }
}
