//! The requests about one vNode, each fenced.

use common::{Uid, keys};
use jiff::Timestamp;
use mirror::object::Content;
use serde_json::{Value, json};

use super::decide::Wanted;
use super::seen::{NOT_READY, Seen};
use super::sup::{is_cordoned, resource, was_cordoned};
use crate::remote::{CallError, Patch};
use crate::tenant::Attached;
use crate::writer::Fence;

/// How long a Lease is good for, in seconds; the kubelet's own value.
const LEASE_SECONDS: u32 = 40;
/// Where nodes renew their Leases.
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

/// Asked before each write: the lease, and whether the tenant is halted.
fn may_write(attached: &Attached, fence: &Fence) -> Result<(), CallError> {
    fence.check()?;
    if attached.is_halted() { Err(unavailable("the tenant is halted")) } else { Ok(()) }
}

/// The same for Leases, which are renewed while a tenant is paused.
fn may_beat(attached: &Attached, fence: &Fence) -> Result<(), CallError> {
    fence.check()?;
    if attached.is_trusted() { Ok(()) } else { Err(unavailable("the tenant is halted")) }
}

/// Something is not there yet: worth another try after a while.
pub(super) fn unavailable(message: impl Into<String>) -> CallError {
    CallError::Status { side: "tenant", code: 503, reason: "NotYet".into(), message: message.into(), retry_after: None }
}

fn path(node: &str) -> String {
    format!("/api/v1/nodes/{node}")
}

pub(super) fn read_seen(bytes: &[u8]) -> Result<Seen, CallError> {
    let unreadable = |error| CallError::Unreadable { side: "tenant", source: serde::de::Error::custom(error) };
    Seen::of(bytes).map(|(_, seen)| seen).map_err(unreadable)
}

/// A control plane that came back empty has lost its vNodes like all else: they are made in the one that is attached, and in no other.
async fn is_same_life(attached: &Attached) -> Result<(), CallError> {
    let unreadable = |source| CallError::Unreadable { side: "tenant", source };
    let system = attached.remote.get("/api/v1/namespaces/kube-system", None).await?;
    let uid = mirror::facts::Seen::of(&system).map_err(unreadable)?.facts.uid;
    if uid == attached.incarnation { Ok(()) } else { Err(unavailable("another control plane answers")) }
}

/// Makes the vNode with its status, or finds the one that is there.
pub(super) async fn make(
    attached: &Attached,
    fence: &Fence,
    node: &str,
    mut content: Content,
    wanted: &Wanted,
) -> Result<(Seen, bool), CallError> {
    is_same_life(attached).await?;
    may_write(attached, fence)?;
    let resource = resource().ok_or_else(|| unavailable("no kind Node"))?;
    content.annotations.insert(keys::NODE_BUILT.to_owned(), wanted.built.clone());
    let created = attached.remote.create(&resource.collection(None), content.to_create(&resource, None, node), None).await;
    match created {
        Ok(bytes) => Ok((read_seen(&bytes)?, true)),
        Err(error) if error.is_already_exists() => {
            let seen = read_seen(&attached.remote.get(&path(node), None).await?)?;
            match (seen.ours, &seen.built) {
                (true, _) => Ok((seen, false)),
                // Our label was taken off one that we made.
                (false, Some(_)) => Ok((relabel(attached, fence, node, &seen).await?, false)),
                (false, None) => Err(taken(node)),
            }
        }
        Err(error) => Err(error),
    }
}

/// Gives a vNode its label back, by which it is watched.
async fn relabel(attached: &Attached, fence: &Fence, node: &str, seen: &Seen) -> Result<Seen, CallError> {
    may_write(attached, fence)?;
    let metadata = json!({"uid": seen.uid.to_string(), "labels": {keys::VIRTUAL_NODE: "true"}});
    read_seen(&attached.remote.patch(&path(node), Patch::Merge, &json!({"metadata": metadata}), None).await?)
}

fn taken(node: &str) -> CallError {
    let message = format!(
        "a Pod runs on the node {node}, but the node list has a Node of this name that is not a virtual node; delete it, or give it the label {}=true",
        keys::VIRTUAL_NODE
    );
    CallError::Status { side: "tenant", code: 422, reason: "NodeTaken".into(), message, retry_after: None }
}

/// Takes the not-ready taint away, if it still stands where it was seen.
pub(super) async fn untaint(attached: &Attached, fence: &Fence, node: &str, seen: &Seen) -> Result<Seen, CallError> {
    may_write(attached, fence)?;
    let Some(at) = seen.not_ready else { return Ok(seen.clone()) };
    let patch = json!([
        {"op": "test", "path": "/metadata/uid", "value": seen.uid.to_string()},
        {"op": "test", "path": format!("/spec/taints/{at}/key"), "value": NOT_READY},
        {"op": "test", "path": format!("/spec/taints/{at}/effect"), "value": "NoSchedule"},
        {"op": "remove", "path": format!("/spec/taints/{at}")},
    ]);
    read_seen(&attached.remote.patch(&path(node), Patch::Json, &patch, None).await?)
}

/// Writes what the super Node says now: a change of its cordon first, then in one request the status, the labels and the hash.
pub(super) async fn rewrite(
    attached: &Attached,
    fence: &Fence,
    node: &str,
    seen: &Seen,
    content: &Content,
    wanted: &Wanted,
) -> Result<Seen, CallError> {
    let cordoned = is_cordoned(content);
    if cordoned != was_cordoned(seen.built.as_deref()) || (cordoned && !seen.cordoned) {
        may_write(attached, fence)?;
        let patch = json!([
            {"op": "test", "path": "/metadata/uid", "value": seen.uid.to_string()},
            {"op": "add", "path": "/spec/unschedulable", "value": cordoned},
        ]);
        attached.remote.patch(&path(node), Patch::Json, &patch, None).await?;
    }
    may_write(attached, fence)?;
    let patch = rewrite_patch(seen, content, wanted);
    read_seen(&attached.remote.patch(&format!("{}/status", path(node)), Patch::Json, &patch, None).await?)
}

fn rewrite_patch(seen: &Seen, content: &Content, wanted: &Wanted) -> Value {
    let mut steps = vec![json!({"op": "test", "path": "/metadata/uid", "value": seen.uid.to_string()})];
    if let Some(status) = content.body.get("status") {
        steps.push(json!({"op": "add", "path": "/status", "value": status}));
    }
    steps.extend(
        content
            .labels
            .iter()
            .map(|(key, value)| json!({"op": "add", "path": format!("/metadata/labels/{}", escaped(key)), "value": value})),
    );
    if seen.annotated {
        steps.push(json!({"op": "add", "path": format!("/metadata/annotations/{}", escaped(keys::NODE_BUILT)), "value": wanted.built}));
    } else {
        steps.push(json!({"op": "add", "path": "/metadata/annotations", "value": {keys::NODE_BUILT: wanted.built}}));
    }
    Value::Array(steps)
}

/// A key as one step of a JSON pointer (RFC 6901).
fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// Deletes this vNode and no other of its name.
pub(super) async fn delete(attached: &Attached, fence: &Fence, node: &str, uid: Uid) -> Result<(), CallError> {
    may_write(attached, fence)?;
    match attached.remote.delete(&path(node), uid, None, None).await {
        Err(error) if error.is_not_found() => Ok(()),
        other => other.map(|_| ()),
    }
}

/// Renews the vNode's Lease, or makes it.
pub(super) async fn beat(attached: &Attached, fence: &Fence, node: &str, uid: Uid) -> Result<(), CallError> {
    may_beat(attached, fence)?;
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
    let spec = json!({"holderIdentity": node, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now});
    match attached.remote.patch(&format!("{LEASES}/{node}"), Patch::Merge, &json!({"spec": spec}), None).await {
        Err(error) if error.is_not_found() => {}
        other => return other.map(|_| ()),
    }
    may_beat(attached, fence)?;
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": node, "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": node, "uid": uid.to_string()}]},
        "spec": spec,
    });
    attached.remote.create(LEASES, lease.to_string().into_bytes(), None).await.map(|_| ())
}
