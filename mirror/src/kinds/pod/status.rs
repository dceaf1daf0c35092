//! What became of a Pod: the status of the super copy as its tenant may see it, and the tenant's readiness gates on their way down.

use std::collections::BTreeSet;

use common::{InSuper, InTenant, Owner, keys};
use serde_json::Value;

use super::{Fields, objects, objects_mut, text, verdicts};
use crate::cx::Cx;
use crate::object::Object;
use crate::observed::{OBSERVED, Observed};
use crate::scrub::Scrub;
use crate::shape::Verdict;

/// Conditions that Kubernetes itself sets; a readiness gate of such a name gives the tenant no say in it.
///
/// *Sources*: `PodConditionType` in Kubernetes `core/v1`, v1.37.
const BUILT_IN: [&str; 9] = [
    "AllContainersRestarting",
    "ContainersReady",
    "DisruptionTarget",
    "Initialized",
    "PodReadyToStartContainers",
    "PodResizeInProgress",
    "PodResizePending",
    "PodScheduled",
    "Ready",
];

const CONTAINER_STATUSES: [&str; 3] = ["containerStatuses", "ephemeralContainerStatuses", "initContainerStatuses"];

/// The tenant's status. `tenant` is needed only where there are readiness gates.
pub(super) fn up(sup: &InSuper<Object>, tenant: Option<&InTenant<Object>>, cx: &Cx<'_>) -> Value {
    let mut status = sup.body.get("status").and_then(Value::as_object).cloned().unwrap_or_default();
    status.retain(|key, _| !left_out(key));
    own_containers(&mut status, sup);
    conditions(&mut status, sup, tenant);
    let observed = Observed::of(sup);
    observed.apply(&mut status);
    for condition in objects_mut(&mut status, "conditions") {
        observed.apply(condition);
    }
    scrub_of(sup, cx).messages(&mut status);
    Value::Object(status)
}

fn left_out(key: &str) -> bool {
    verdicts::STATUS.iter().any(|(name, verdict)| *name == key && matches!(verdict, Verdict::Force(_)))
}

fn scrub_of<'a>(sup: &'a Object, cx: &Cx<'a>) -> Scrub<'a> {
    let label = sup.meta.labels.get(keys::TENANT).map(String::as_str);
    let owner = Owner::read(label, sup.meta.annotations.get(keys::OWNER).map(String::as_str)).ok();
    Scrub::new(cx).with_uid(sup.meta.uid, owner.map(|owner| owner.uid)).with_node(sup.text("/spec/nodeName"))
}

/// Keeps the states of containers that the tenant asked for. Sidecars that the super cluster injected are not its.
fn own_containers(status: &mut Fields, sup: &Object) {
    let names: BTreeSet<&str> = sup.meta.annotations.get(keys::CONTAINERS).map(|names| names.split(',').collect()).unwrap_or_default();
    for list in CONTAINER_STATUSES {
        let Some(Value::Array(containers)) = status.get_mut(list) else {
            continue;
        };
        containers.retain(|container| container.get("name").and_then(Value::as_str).is_some_and(|name| names.contains(name)));
        let empty = containers.is_empty();
        for container in objects_mut(status, list) {
            container.remove("allocatedResourcesStatus");
        }
        if empty {
            status.remove(list);
        }
    }
}

/// The types of a Pod's readiness gates, but for those that Kubernetes sets itself.
pub(super) fn gates(pod: &Object) -> BTreeSet<&str> {
    let spec = pod.body.get("spec").and_then(Value::as_object);
    let types = spec.into_iter().flat_map(|spec| objects(spec, "readinessGates")).filter_map(|gate| text(gate, "conditionType"));
    types.filter(|kind| !BUILT_IN.contains(kind)).collect()
}

fn conditions_of(pod: &Object) -> impl Iterator<Item = &Fields> {
    pod.body.get("status").and_then(Value::as_object).into_iter().flat_map(|status| objects(status, "conditions"))
}

/// Conditions of readiness gates are the tenant's to say; those of gates that only the super cluster has are its own affair.
fn conditions(status: &mut Fields, sup: &Object, tenant: Option<&InTenant<Object>>) {
    let foreign = gates(sup);
    if foreign.is_empty() {
        return;
    }
    let own = tenant.map(|tenant| gates(tenant)).unwrap_or_default();
    let mut list: Vec<Value> = objects(status, "conditions")
        .filter(|c| text(c, "type").is_none_or(|kind| !foreign.contains(kind)))
        .cloned()
        .map(Value::Object)
        .collect();
    let theirs = tenant.into_iter().flat_map(|tenant| conditions_of(tenant));
    list.extend(theirs.filter(|c| text(c, "type").is_some_and(|kind| own.contains(kind))).cloned().map(Value::Object));
    status.insert("conditions".to_owned(), Value::Array(list));
}

/// The whole new list of the super copy's conditions, if the tenant's readiness gates say something new.
pub(super) fn conditions_down(tenant: &InTenant<Object>, sup: &InSuper<Object>) -> Option<Value> {
    let shared: BTreeSet<&str> = gates(tenant).intersection(&gates(sup)).copied().collect();
    if shared.is_empty() {
        return None;
    }
    let mine = |pod| -> Vec<Fields> {
        let gated = conditions_of(pod).filter(|c| text(c, "type").is_some_and(|kind| shared.contains(kind)));
        let mut gated: Vec<Fields> = gated.map(stated).collect();
        gated.sort_by(|a, b| text(a, "type").cmp(&text(b, "type")));
        gated
    };
    let wanted = mine(tenant);
    if wanted == mine(sup) {
        return None;
    }
    let others = conditions_of(sup).filter(|c| text(c, "type").is_none_or(|kind| !shared.contains(kind))).cloned();
    Some(Value::Array(others.chain(wanted).map(Value::Object).collect()))
}

/// What a condition states, without the generation that its writer saw.
fn stated(condition: &Fields) -> Fields {
    let stated = condition.iter().filter(|(key, value)| *key != OBSERVED && !value.is_null() && value.as_str() != Some(""));
    stated.map(|(key, value)| (key.clone(), value.clone())).collect()
}
