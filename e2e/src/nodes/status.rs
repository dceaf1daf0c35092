//! What a kubelet would say about a Pod: pure.

use std::{collections::HashMap, net::Ipv4Addr};

use common::name::hash26;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use serde_json::{Value, json};

use super::second;

/// How far a Pod has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Not all that it mounts is there, or it is too early.
    Creating,
    /// Its containers run.
    Running,
    /// Its containers ended by themselves with this exit code, or were ended by us (0).
    Ended(i32),
}

/// What stays the same over a Pod's life.
#[derive(Clone, Debug)]
pub(super) struct Life {
    pub(super) node: Ipv4Addr,
    pub(super) address: Ipv4Addr,
    pub(super) begun: Timestamp,
    /// When each condition last changed, and to what.
    pub(super) transitions: HashMap<&'static str, (bool, Timestamp)>,
}

/// The status to write, complete but for conditions that others own.
pub(super) fn status(stage: Stage, pod: &Pod, life: &mut Life, now: Timestamp) -> Value {
    let phase = match stage {
        Stage::Creating => "Pending",
        Stage::Running => "Running",
        Stage::Ended(0) => "Succeeded",
        Stage::Ended(_) => "Failed",
    };
    let spec = pod.spec.as_ref();
    let containers = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let inits = spec.and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
    let at = |container: &Container| container_status(container, stage, life.begun, pod);
    let containers: Vec<_> = containers.iter().map(at).collect();
    let inits: Vec<_> = inits.iter().map(|container| init_status(container, stage, life.begun, pod)).collect();
    let mut status = json!({
        "phase": phase,
        "observedGeneration": pod.metadata.generation,
        "hostIP": life.node,
        "hostIPs": [{ "ip": life.node }],
        "startTime": second(life.begun),
        "containerStatuses": containers,
        "conditions": conditions(stage, pod, life, now),
    });
    let Some(fields) = status.as_object_mut() else { return status };
    if !inits.is_empty() {
        fields.insert("initContainerStatuses".to_owned(), json!(inits));
    }
    if stage != Stage::Creating {
        let own_network = spec.and_then(|spec| spec.host_network) != Some(true);
        let address = if own_network { life.address } else { life.node };
        fields.insert("podIP".to_owned(), json!(address));
        fields.insert("podIPs".to_owned(), json!([{ "ip": address }]));
    }
    status
}

/// With what exit code the Pod ends by itself; `None` if it runs on.
pub(super) fn ending(pod: &Pod) -> Option<i32> {
    let spec = pod.spec.as_ref()?;
    let again = spec.restart_policy.as_deref().unwrap_or("Always");
    let codes = spec.containers.iter().map(|container| match container.command.as_deref() {
        Some([only]) if only == "true" && again != "Always" => Some(0),
        Some([only]) if only == "false" && again == "Never" => Some(1),
        _ => None,
    });
    codes.collect::<Option<Vec<_>>>()?.into_iter().max()
}

/// What a Pod can't start without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Needed {
    Secret(String),
    ConfigMap(String),
}

/// The Secrets and `ConfigMaps` that must be there: volumes, and environment variables, unless optional.
pub(super) fn needed(pod: &Pod) -> Vec<Needed> {
    let Some(spec) = pod.spec.as_ref() else { return Vec::new() };
    let mut needed = Vec::new();
    for volume in spec.volumes.iter().flatten() {
        if let Some(source) = &volume.secret
            && source.optional != Some(true)
        {
            needed.extend(source.secret_name.clone().map(Needed::Secret));
        }
        if let Some(source) = &volume.config_map
            && source.optional != Some(true)
        {
            needed.push(Needed::ConfigMap(source.name.clone()));
        }
        for source in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
            let secret = source.secret.as_ref().filter(|source| source.optional != Some(true));
            needed.extend(secret.map(|source| Needed::Secret(source.name.clone())));
            let map = source.config_map.as_ref().filter(|source| source.optional != Some(true));
            needed.extend(map.map(|source| Needed::ConfigMap(source.name.clone())));
        }
    }
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        needed.extend(needed_by_env(container));
    }
    needed
}

fn needed_by_env(container: &Container) -> Vec<Needed> {
    let mut needed = Vec::new();
    for source in container.env.iter().flatten().filter_map(|env| env.value_from.as_ref()) {
        let secret = source.secret_key_ref.as_ref().filter(|key| key.optional != Some(true));
        needed.extend(secret.map(|key| Needed::Secret(key.name.clone())));
        let map = source.config_map_key_ref.as_ref().filter(|key| key.optional != Some(true));
        needed.extend(map.map(|key| Needed::ConfigMap(key.name.clone())));
    }
    for source in container.env_from.iter().flatten() {
        let secret = source.secret_ref.as_ref().filter(|source| source.optional != Some(true));
        needed.extend(secret.map(|source| Needed::Secret(source.name.clone())));
        let map = source.config_map_ref.as_ref().filter(|source| source.optional != Some(true));
        needed.extend(map.map(|source| Needed::ConfigMap(source.name.clone())));
    }
    needed
}

fn conditions(stage: Stage, pod: &Pod, life: &mut Life, now: Timestamp) -> Vec<Value> {
    let gates = gates_open(pod);
    let running = stage == Stage::Running;
    let not_running = match stage {
        Stage::Creating => "ContainersNotReady",
        Stage::Running => "",
        Stage::Ended(_) => "PodCompleted",
    };
    let ready = if running && !gates { "ReadinessGatesNotReady" } else { not_running };
    let all = [
        ("PodReadyToStartContainers", running, ""),
        ("Initialized", stage != Stage::Creating, if stage == Stage::Creating { "ContainersNotInitialized" } else { "" }),
        ("ContainersReady", running, not_running),
        ("Ready", running && gates, ready),
    ];
    let conditions = all.into_iter().map(|(kind, holds, reason)| {
        let last = life.transitions.entry(kind).or_insert((holds, now));
        if last.0 != holds {
            *last = (holds, now);
        }
        let mut condition = json!({
            "type": kind,
            "status": if holds { "True" } else { "False" },
            "lastProbeTime": null,
            "lastTransitionTime": second(last.1),
            "observedGeneration": pod.metadata.generation,
        });
        if let (false, Some(fields)) = (reason.is_empty(), condition.as_object_mut()) {
            fields.insert("reason".to_owned(), json!(reason));
        }
        condition
    });
    conditions.collect()
}

/// Whether every readiness gate of the Pod has its condition.
fn gates_open(pod: &Pod) -> bool {
    let given = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let given: Vec<_> = given.filter(|condition| condition.status == "True").map(|condition| &condition.type_).collect();
    let mut gates = pod.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten());
    gates.all(|gate| given.contains(&&gate.condition_type))
}

fn container_status(container: &Container, stage: Stage, begun: Timestamp, pod: &Pod) -> Value {
    let now = match stage {
        Stage::Creating => json!({ "waiting": { "reason": "ContainerCreating" } }),
        Stage::Running => json!({ "running": { "startedAt": second(begun) } }),
        Stage::Ended(code) => terminated(container, code, begun, pod),
    };
    let running = stage == Stage::Running;
    with_state(container, &now, running, running, pod)
}

fn init_status(container: &Container, stage: Stage, begun: Timestamp, pod: &Pod) -> Value {
    if container.restart_policy.as_deref() == Some("Always") {
        return container_status(container, stage, begun, pod);
    }
    match stage {
        Stage::Creating => with_state(container, &json!({ "waiting": { "reason": "PodInitializing" } }), false, false, pod),
        Stage::Running | Stage::Ended(_) => with_state(container, &terminated(container, 0, begun, pod), true, false, pod),
    }
}

fn terminated(container: &Container, code: i32, begun: Timestamp, pod: &Pod) -> Value {
    json!({ "terminated": {
        "exitCode": code,
        "reason": if code == 0 { "Completed" } else { "Error" },
        "startedAt": second(begun),
        "finishedAt": second(begun),
        "containerID": container_id(container, pod),
    } })
}

fn with_state(container: &Container, state: &Value, ready: bool, started: bool, pod: &Pod) -> Value {
    let waiting = state.get("waiting").is_some();
    let image = container.image.clone().unwrap_or_default();
    let mut status = json!({
        "name": container.name,
        "image": image,
        "imageID": if waiting { String::new() } else { format!("fake://{image}") },
        "lastState": {},
        "ready": ready,
        "started": started,
        "restartCount": 0,
        "state": state,
    });
    if let (false, Some(fields)) = (waiting, status.as_object_mut()) {
        fields.insert("containerID".to_owned(), json!(container_id(container, pod)));
    }
    status
}

/// As that of a real runtime, it gives no name or UID away.
fn container_id(container: &Container, pod: &Pod) -> String {
    format!("fake://{}", hash26(&["container", pod.metadata.uid.as_deref().unwrap_or_default(), &container.name]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: &Value) -> Pod {
        serde_json::from_value(json!({ "metadata": { "name": "a", "uid": "u" }, "spec": spec })).unwrap()
    }

    fn life() -> Life {
        let node = Ipv4Addr::new(10, 250, 0, 1);
        Life { node, address: Ipv4Addr::new(10, 200, 0, 1), begun: Timestamp::UNIX_EPOCH, transitions: HashMap::new() }
    }

    #[test]
    fn a_pod_is_ready_only_once_its_gates_are_open() {
        let mut gated = pod(&json!({ "containers": [{ "name": "c" }], "readinessGates": [{ "conditionType": "g" }] }));
        let ready = |pod: &Pod| {
            let status = status(Stage::Running, pod, &mut life(), Timestamp::UNIX_EPOCH);
            status.pointer("/conditions/3/status").unwrap().clone()
        };
        assert_eq!(ready(&gated), "False");
        gated.status = serde_json::from_value(json!({ "conditions": [{ "type": "g", "status": "True" }] })).unwrap();
        assert_eq!(ready(&gated), "True");
    }

    #[test]
    fn only_pods_that_may_end_end() {
        let with = |restart: &str, command: &str| {
            ending(&pod(&json!({ "restartPolicy": restart, "containers": [{ "name": "c", "command": [command] }] })))
        };
        assert_eq!(with("Never", "true"), Some(0));
        assert_eq!(with("OnFailure", "true"), Some(0));
        assert_eq!(with("Never", "false"), Some(1));
        assert_eq!(with("Always", "true"), None);
        assert_eq!(with("Never", "sleep"), None);
    }

    #[test]
    fn optional_sources_are_not_needed() {
        let pod = pod(&json!({
            "containers": [{ "name": "c", "envFrom": [{ "configMapRef": { "name": "e" } }] }],
            "volumes": [
                { "name": "a", "secret": { "secretName": "s" } },
                { "name": "b", "secret": { "secretName": "o", "optional": true } },
                { "name": "c", "projected": { "sources": [{ "configMap": { "name": "m" } }] } },
            ],
        }));
        let expected = [Needed::Secret("s".into()), Needed::ConfigMap("m".into()), Needed::ConfigMap("e".into())];
        assert_eq!(needed(&pod), expected);
    }
}
