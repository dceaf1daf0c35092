//! Events of the super cluster about a tenant's objects, upward.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{InSuper, InTenant, Namespace, Uid};
use dashmap::DashMap;
use mirror::cx::{Cx, Policy};
use mirror::kind::{self, Kind, KindId};
use mirror::object::{Content, Object};
use runtime::log::Chain;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::outbox::{Allowance, Outbox, Post};
use super::receipt::Slip;
use crate::bucket::Rate;
use crate::index::Slot;
use crate::informer::Told;
use crate::metrics::SyncMetrics;
use crate::nodes::Nodes;
use crate::tenant::{Attached, Tenants};
use crate::work::Lane;
use crate::writer::Fence;

/// Enough for a rollout of some tens of Pods at once (each brings about five Events), then what a busy tenant brings.
const ALLOWANCE: Allowance = Allowance { rate: Rate { burst: 50, refill: Duration::from_millis(100) }, waiting: 1000 };

/// Copies Events of the super cluster to the tenants whose objects they are about.
pub struct Copier {
    tenants: Tenants,
    policy: Arc<Policy>,
    nodes: Arc<Nodes>,
    outbox: Outbox,
    namespaces: DashMap<Arc<str>, (Lane, Arc<str>)>,
}

/// As much of an Event as says whose it is.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(rename = "involvedObject", borrow)]
    involved: Involved<'a>,
}

#[derive(Deserialize)]
struct Involved<'a> {
    #[serde(default)]
    kind: &'a str,
    #[serde(default)]
    namespace: &'a str,
    #[serde(default)]
    name: &'a str,
    #[serde(default)]
    uid: &'a str,
}

/// The tenant's object that an Event is about.
struct Found {
    attached: Arc<Attached>,
    namespace: Namespace<common::Tenant>,
    name: String,
    uid: Uid,
    node: Option<Box<str>>,
}

impl Copier {
    /// Copies to `tenants` while `fence` allows; `nodes` knows which nodes there are.
    pub fn new(tenants: Tenants, fence: Fence, policy: Arc<Policy>, nodes: Arc<Nodes>, metrics: Arc<SyncMetrics>) -> Self {
        Self { tenants, policy, nodes, outbox: Outbox::new(fence, ALLOWANCE, "super", metrics), namespaces: DashMap::new() }
    }

    /// A super namespace stands for this namespace of this tenant.
    pub fn learn_namespace(&self, super_namespace: &str, lane: &Lane, tenant_namespace: &str) {
        let known = self.namespaces.get(super_namespace).is_some_and(|known| known.0 == *lane && &*known.1 == tenant_namespace);
        if !known {
            self.namespaces.insert(super_namespace.into(), (lane.clone(), tenant_namespace.into()));
        }
    }

    /// A super namespace is gone.
    pub fn forget_namespace(&self, super_namespace: &str) {
        self.namespaces.remove(super_namespace);
    }

    /// Takes what the informer of the super cluster's Events tells. Those about nobody's objects are dropped before they are read whole.
    pub fn super_told(&self, told: Told) {
        match told {
            Told::Object(bytes) => self.event(&bytes),
            Told::Failed(error) => tracing::warn!(kind = "Event", error = %Chain(&error), "super informer failed"),
            Told::Opened | Told::ListBegins | Told::ListEnds(_) | Told::Gone(_) | Told::Unreadable(_) | Told::Unserved => {}
        }
    }

    /// Writes for ever; whoever owns the copier runs it.
    pub async fn run(&self) {
        self.outbox.run().await;
    }

    fn event(&self, bytes: &Bytes) {
        let Ok(head) = serde_json::from_slice::<Head<'_>>(bytes) else { return };
        let Some(found) = self.find(&head.involved) else { return };
        if !self.outbox.has_room(found.attached.id.as_str()) {
            return;
        }
        if let Some(post) = self.post(bytes, &found) {
            self.outbox.push(&found.attached, post);
        }
    }

    /// The tenant's object, if the Event is about the very super object that stands for it.
    fn find(&self, involved: &Involved<'_>) -> Option<Found> {
        let (lane, namespace) = self.namespaces.get(involved.namespace).map(|known| known.value().clone())?;
        let uid = Uid::parse(involved.uid).ok()?;
        let kind = KindId::named(involved.kind)?;
        let tenant = self.tenants.get(&lane)?;
        let attached = tenant.attached().filter(|attached| !attached.is_halted())?;
        let namespace = Namespace::parse(&namespace).ok()?;
        let index = tenant.index.lock();
        let key = index.by_super_name(kind, &namespace, involved.name)?;
        let entry = index.get(&key)?;
        let Slot::Here(sup, place) = &entry.sup else { return None };
        let Slot::Here(own, ()) = &entry.tenant else { return None };
        // Said of the copy of an earlier object of the name it is said of nobody.
        let is_of_this = sup.uid == uid && place.owner.uid == own.uid;
        if !is_of_this || &*place.namespace != involved.namespace || &*place.name != involved.name {
            return None;
        }
        Some(Found { attached: attached.clone(), namespace, name: key.name.as_str().to_owned(), uid: own.uid, node: sup.node.clone() })
    }

    fn post(&self, bytes: &Bytes, found: &Found) -> Option<Post> {
        let Kind::Up(kind) = KindId::named("Event")?.kind() else { return None };
        let sup = InSuper(Object::parse(bytes).ok()?);
        let attached = &found.attached;
        let super_namespace = attached.id.namespace(&found.namespace);
        let uid = found.uid.to_string();
        let about = kind::About { namespace: found.namespace.as_str(), name: &found.name, uid: &uid, node: found.node.as_deref() };
        let content = attached.with_cx(&self.policy, |cx| {
            let namespace = Some(found.namespace.as_str());
            let cx = Cx { namespace, super_namespace: Some(&super_namespace), super_nodes: &*self.nodes, ..cx };
            kind.up(&sup, Some(&about), &cx)
        });
        match content {
            Ok(InTenant((name, content))) => Some(post(&kind.resource(), found.namespace.as_str(), name, &content)),
            Err(hold) => {
                tracing::debug!(tenant = %attached.id, kind = "Event", reason = %hold, "an Event is not copied");
                None
            }
        }
    }
}

/// What of an Event moves when it happens again.
const MOVING: [&str; 4] = ["count", "lastTimestamp", "message", "series"];

fn post(resource: &kind::Resource, namespace: &str, name: String, content: &Content) -> Post {
    let mut event = serde_json::to_value(&content.body).unwrap_or_default();
    if let Some(fields) = event.as_object_mut() {
        fields.insert("apiVersion".into(), resource.api_version.into());
        fields.insert("kind".into(), resource.kind.into());
        fields.insert(
            "metadata".into(),
            serde_json::json!({"name": name, "namespace": namespace, "labels": content.labels, "annotations": content.annotations}),
        );
    }
    let news: Map<String, Value> = MOVING.iter().filter_map(|key| Some(((*key).to_owned(), content.body.get(*key)?.clone()))).collect();
    let event = event.to_string().into_bytes();
    Post { namespace: namespace.to_owned(), name, event, news: Value::Object(news), look_first: false, slip: Slip::default() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn whose_an_event_is_is_read_without_the_rest() {
        let text = r#"{"metadata":{"name":"a.1"},"involvedObject":{"kind":"Pod","namespace":"n","name":"a","uid":"u"},"message":"m\n"}"#;
        let head: Head<'_> = serde_json::from_str(text).unwrap();
        assert_eq!((head.involved.kind, head.involved.namespace, head.involved.name, head.involved.uid), ("Pod", "n", "a", "u"));
    }

    #[test]
    fn what_happens_again_moves_only_its_count() {
        let Value::Object(body) = json!({"reason": "Started", "count": 2, "lastTimestamp": "t", "involvedObject": {"name": "a"}}) else {
            unreachable!()
        };
        let resource = kind::Resource {
            group: "",
            version: "v1",
            api_version: "v1",
            kind: "Event",
            plural: "events",
            namespaced: true,
            status: false,
        };
        let post = post(&resource, "default", "a.1".into(), &Content { body, ..Content::default() });
        assert_eq!(post.news, json!({"count": 2, "lastTimestamp": "t"}));
        let event: Value = serde_json::from_slice(&post.event).unwrap();
        assert_eq!(event.pointer("/metadata/name"), Some(&json!("a.1")));
        assert_eq!(event.pointer("/reason"), Some(&json!("Started")));
    }
}
