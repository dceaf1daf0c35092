//! The nodes of the super cluster, as small as a vNode needs them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use common::InSuper;
use kube::core::{Selector, SelectorExt as _};
use mirror::cx::Policy;
use mirror::kind::{Kind, KindId, Resource};
use mirror::kinds::node::shown;
use mirror::object::{Content, Object};
use parking_lot::RwLock;
use serde_json::{Value, json};

use super::decide::Wanted;
use super::seen::{Ready, ready};
use crate::tenant::Attached;

/// Parts of a status that no vNode shows, the largest ones first.
const DROPPED: [&str; 6] = ["images", "volumesAttached", "volumesInUse", "config", "features", "runtimeHandlers"];

/// One node of the super cluster, without what changes at each beat.
pub(super) struct SuperNode {
    /// The JSON of what is kept of it.
    kept: Box<[u8]>,
    /// What its Ready condition says.
    pub(super) ready: Ready,
    /// All of its labels: what it is chosen by.
    labels: BTreeMap<String, String>,
    epoch: u32,
}

impl SuperNode {
    /// Whether a selector picks it.
    pub(super) fn is_picked_by(&self, selector: &Selector) -> bool {
        selector.matches(&self.labels)
    }
}

/// All nodes of the super cluster.
#[derive(Default)]
pub(super) struct SuperNodes {
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    nodes: HashMap<Box<str>, Arc<SuperNode>>,
    epoch: u32,
    listing: bool,
    /// Whether all of them were listed once.
    is_listed: bool,
    /// Moves with each change.
    generation: u64,
}

/// Whom a change of the super nodes concerns.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    /// Nobody.
    None,
    /// Whoever shows this node.
    Of(String),
    /// Everybody: a list is complete.
    All,
}

impl SuperNodes {
    pub(super) fn get(&self, name: &str) -> Option<Arc<SuperNode>> {
        self.state.read().nodes.get(name).cloned()
    }

    /// Whether a node that is not known does not exist.
    pub(super) fn is_listed(&self) -> bool {
        self.state.read().is_listed
    }

    /// Whether this node is known not to exist.
    pub(super) fn is_lost(&self, name: &str) -> bool {
        let state = self.state.read();
        state.is_listed && !state.nodes.contains_key(name)
    }

    /// Another one whenever any node has come, gone or changed.
    pub(super) fn generation(&self) -> u64 {
        self.state.read().generation
    }

    /// The names of those that a selector picks.
    pub(super) fn picked_by(&self, selector: &Selector) -> Vec<Box<str>> {
        let state = self.state.read();
        state.nodes.iter().filter(|(_, node)| node.is_picked_by(selector)).map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn list_begins(&self) {
        let mut state = self.state.write();
        state.epoch += 1;
        state.listing = true;
    }

    pub(super) fn list_ends(&self) -> News {
        let mut state = self.state.write();
        let epoch = state.epoch;
        state.nodes.retain(|_, node| node.epoch == epoch);
        (state.listing, state.is_listed) = (false, true);
        state.generation += 1;
        News::All
    }

    pub(super) fn gone(&self, bytes: &Bytes) -> News {
        let Ok(object) = Object::parse(bytes) else { return News::None };
        let mut state = self.state.write();
        state.nodes.remove(object.meta.name.as_str());
        state.generation += 1;
        News::Of(object.meta.name)
    }

    pub(super) fn seen(&self, bytes: &Bytes) -> News {
        let Ok(object) = Object::parse(bytes) else { return News::None };
        let (name, ready, labels) = (object.meta.name.clone(), ready(&object), object.meta.labels.clone());
        let kept = kept(object);
        let mut state = self.state.write();
        let epoch = state.epoch;
        let known = state.nodes.get(name.as_str()).is_some_and(|known| *known.kept == *kept && known.epoch == epoch);
        if known {
            return News::None;
        }
        let same = state.nodes.get(name.as_str()).is_some_and(|known| *known.kept == *kept);
        let listing = state.listing;
        state.nodes.insert(name.as_str().into(), Arc::new(SuperNode { kept, ready, labels, epoch }));
        state.generation += u64::from(!same);
        if same || listing { News::None } else { News::Of(name) }
    }
}

fn kept(mut object: Object) -> Box<[u8]> {
    if let Some(Value::Object(status)) = object.body.get_mut("status") {
        status.retain(|key, _| !DROPPED.contains(&key.as_str()));
        let conditions = status.get_mut("conditions").and_then(Value::as_array_mut);
        for condition in conditions.into_iter().flatten().filter_map(Value::as_object_mut) {
            condition.remove("lastHeartbeatTime");
        }
    }
    let metadata = json!({"name": object.meta.name, "uid": object.meta.uid.to_string(), "labels": object.meta.labels});
    object.body.insert("metadata".to_owned(), metadata);
    Value::Object(object.body).to_string().into_bytes().into()
}

/// How Nodes are called.
pub(super) fn resource() -> Option<Resource> {
    Some(KindId::named("Node")?.kind().resource())
}

/// A node of the super cluster as this tenant sees it.
pub(super) fn project(sup: &SuperNode, attached: &Attached, policy: &Policy) -> Option<(Content, Wanted)> {
    let Kind::Up(kind) = KindId::named("Node")?.kind() else { return None };
    let object = InSuper(Object::parse(&sup.kept).ok()?);
    let (_, content) = attached.with_cx(policy, |cx| kind.up(&object, None, &cx)).ok()?.0;
    let wanted =
        Wanted { built: built(&content), ready: sup.ready, shown: shown(&content.labels, &content.body), cordoned: is_cordoned(&content) };
    Some((content, wanted))
}

/// Stands behind the hash where the vNode was written as unschedulable, so that a cordon of the tenant's own is told from ours.
const CORDONED: &str = "/unschedulable";

fn built(content: &Content) -> String {
    let mark = if is_cordoned(content) { CORDONED } else { "" };
    format!("{:032x}{mark}", content.hash())
}

/// Whether the vNode is to be unschedulable.
pub(super) fn is_cordoned(content: &Content) -> bool {
    content.body.get("spec").and_then(|spec| spec.get("unschedulable")) == Some(&Value::Bool(true))
}

/// Whether the vNode was last written as unschedulable.
pub(super) fn was_cordoned(built: Option<&str>) -> bool {
    built.is_some_and(|built| built.ends_with(CORDONED))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(heartbeat: &str, ready: &str) -> Bytes {
        let node = json!({
            "metadata": {"name": "n1", "uid": "00000000-0000-4000-8000-000000000001", "labels": {"kubernetes.io/os": "linux"}, "annotations": {"a": heartbeat}},
            "spec": {},
            "status": {"images": [{"names": [heartbeat]}], "conditions": [{"type": "Ready", "status": ready, "lastHeartbeatTime": heartbeat}]},
        });
        node.to_string().into_bytes().into()
    }

    #[test]
    fn a_heartbeat_is_no_news() {
        let nodes = SuperNodes::default();
        nodes.list_begins();
        assert_eq!(nodes.seen(&node("1", "True")), News::None);
        assert_eq!(nodes.list_ends(), News::All);
        assert_eq!(nodes.seen(&node("2", "True")), News::None);
        assert_eq!(nodes.seen(&node("3", "False")), News::Of("n1".into()));
    }

    #[test]
    fn what_a_list_does_not_name_is_gone() {
        let nodes = SuperNodes::default();
        assert!(!nodes.is_lost("n1"), "nobody can say before the first list");
        nodes.list_begins();
        nodes.seen(&node("1", "True"));
        nodes.list_ends();
        nodes.list_begins();
        nodes.seen(&node("2", "True"));
        nodes.list_ends();
        assert!(nodes.get("n1").is_some());
        assert!(!nodes.is_lost("n1"));
        nodes.list_begins();
        nodes.list_ends();
        assert!(nodes.get("n1").is_none() && nodes.is_lost("n1"));
    }
}
