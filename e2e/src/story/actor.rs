//! A tenant of a story: what it writes, what it sees, and what the super cluster holds for it.

use std::fmt::Debug;

use anyhow::{Context as _, ensure};
use common::{Namespace, Owner, TenantId, Uid, keys};
use k8s_openapi::api::core::v1::{Event, Pod, ServiceAccount};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{ApiResource, DynamicObject, ListParams, LogParams},
    core::{GroupVersionKind, NamespaceResourceScope},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::PATIENCE;
use crate::{
    bed::{Bed, apply, virtual_clusters},
    wait::{Seen, eventually},
};

/// Kinds that stories write and that have no namespace.
const CLUSTER_SCOPED: [&str; 7] = ["APIService", "ClusterRole", "ClusterRoleBinding", "Namespace", "Node", "PriorityClass", "RuntimeClass"];

/// A tenant as registered.
pub struct Actor {
    /// Its name: that of its control plane, of its `VirtualCluster`, and of the namespace that this lies in.
    pub name: String,
    /// Who it is in the super cluster.
    pub id: TenantId,
    tenant: Client,
    sup: Client,
}

impl Actor {
    /// Registers tenant `i` of the bed under the name of its control plane.
    pub async fn register(bed: &Bed, i: usize) -> anyhow::Result<Self> {
        let name = bed.tenant(i)?.name();
        let made = bed.register(i, name, name).await?;
        Self::of(bed, i, &made)
    }

    /// Tenant `i` as it is registered by now: one that was deleted and recreated is another.
    pub async fn registered(bed: &Bed, i: usize) -> anyhow::Result<Self> {
        let name = bed.tenant(i)?.name();
        let found = virtual_clusters(name, bed.sup.client()).get(name).await.with_context(|| format!("{name} is not registered"))?;
        Self::of(bed, i, &found)
    }

    /// Who a `VirtualCluster` is whose control plane is that of tenant `i`.
    pub fn of(bed: &Bed, i: usize, virtual_cluster: &DynamicObject) -> anyhow::Result<Self> {
        let (plane, name) = (bed.tenant(i)?, virtual_cluster.name_any());
        let uid = Uid::parse(&uid_of(virtual_cluster))?;
        Ok(Self { id: TenantId::new(uid, &name), name, tenant: plane.client(), sup: bed.sup.client() })
    }

    /// A client of its API server, with every right.
    pub fn client(&self) -> Client {
        self.tenant.clone()
    }

    /// Objects as the tenant sees them.
    pub fn above<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.tenant.clone(), namespace)
    }

    /// What the super cluster holds for that namespace of the tenant's.
    pub fn below<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.sup.clone(), &self.namespace_below(namespace))
    }

    /// What a namespace of the tenant's is called in the super cluster. A name that is none gives one that nobody has.
    pub fn namespace_below(&self, namespace: &str) -> String {
        Namespace::parse(namespace).map_or_else(|_| "none".to_owned(), |namespace| self.id.namespace(&namespace).to_string())
    }

    /// The tenant writes an object, into `default` if it names no namespace.
    pub async fn apply(&self, object: &Value) -> anyhow::Result<DynamicObject> {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (group, version) = text("/apiVersion").rsplit_once('/').unwrap_or(("", text("/apiVersion")));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, text("/kind")));
        let api: Api<DynamicObject> = if CLUSTER_SCOPED.contains(&text("/kind")) {
            Api::all_with(self.tenant.clone(), &resource)
        } else {
            let namespace = text("/metadata/namespace");
            Api::namespaced_with(self.tenant.clone(), if namespace.is_empty() { "default" } else { namespace }, &resource)
        };
        apply(&api, text("/metadata/name"), object).await.with_context(|| format!("{} may not write {}", self.name, text("/kind")))
    }

    /// The tenant makes a namespace and waits until it takes Pods.
    pub async fn make_namespace(&self, name: &str) -> anyhow::Result<()> {
        self.apply(&json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } })).await?;
        self.takes_pods(name).await
    }

    /// Waits until the tenant's own controllers have made what every Pod needs.
    pub async fn takes_pods(&self, namespace: &str) -> anyhow::Result<()> {
        let accounts: Api<ServiceAccount> = self.above(namespace);
        eventually(format!("{}: {namespace} takes Pods", self.name), PATIENCE, async || Ok(Seen::Done(accounts.get("default").await?)))
            .await
            .map(drop)
    }

    /// Waits until the tenant sees exactly `count` Pods of a selector, all Running and Ready.
    pub async fn running(&self, namespace: &str, selector: &str, count: usize) -> anyhow::Result<Vec<Pod>> {
        self.running_without(namespace, selector, count, &[]).await
    }

    /// As [`Actor::running`], and none of the Pods has one of the UIDs in `gone`.
    pub async fn running_without(&self, namespace: &str, selector: &str, count: usize, gone: &[String]) -> anyhow::Result<Vec<Pod>> {
        let api: Api<Pod> = self.above(namespace);
        let what = format!("{}: {count} Pods {selector} run in {namespace}", self.name);
        eventually(what, PATIENCE, async || {
            let pods = api.list(&ListParams::default().labels(selector)).await?.items;
            let fine = |pod: &Pod| is_running(pod) && !gone.contains(&uid_of(pod));
            if pods.len() == count && pods.iter().all(fine) {
                return Ok(Seen::Done(pods));
            }
            Ok(Seen::NotYet(format!("{:?}", pods.iter().map(brief).collect::<Vec<_>>())))
        })
        .await
    }

    /// Waits until one object of the super cluster satisfies `look`.
    pub async fn holds_below<K>(&self, what: &str, namespace: &str, name: &str, look: impl Fn(&K) -> bool) -> anyhow::Result<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let api: Api<K> = self.below(namespace);
        eventually(format!("{}: {what}", self.name), PATIENCE, async || {
            let found = api.get_opt(name).await?;
            Ok(match found {
                Some(object) if look(&object) => Seen::Done(object),
                other => Seen::NotYet(format!("{other:?}")),
            })
        })
        .await
    }

    /// Waits until the tenant sees an object that satisfies `look`.
    pub async fn sees<K>(&self, what: &str, namespace: &str, name: &str, look: impl Fn(&K) -> bool) -> anyhow::Result<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let api: Api<K> = self.above(namespace);
        eventually(format!("{}: {what}", self.name), PATIENCE, async || {
            let found = api.get_opt(name).await?;
            Ok(match found {
                Some(object) if look(&object) => Seen::Done(object),
                other => Seen::NotYet(format!("{other:?}")),
            })
        })
        .await
    }

    /// Runs a Pod of one container to its end on a real node; what it wrote.
    ///
    /// # Errors
    /// If it fails.
    pub async fn output(&self, pod: &Value) -> anyhow::Result<String> {
        let name = pod.pointer("/metadata/name").and_then(Value::as_str).context("the Pod has no name")?;
        self.apply(pod).await?;
        let phase = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.clone());
        let ended = |pod: &Pod| matches!(phase(pod).as_deref(), Some("Succeeded" | "Failed"));
        let pod = self.sees("it ended", "default", name, ended).await?;
        let said = self.below::<Pod>("default").logs(name, &LogParams::default()).await.context("the kubelet gives no logs")?;
        ensure!(phase(&pod).as_deref() == Some("Succeeded"), "{name} failed: {said}");
        Ok(said)
    }

    /// Waits until an object of that name is in neither cluster.
    pub async fn gone_everywhere<K>(&self, namespace: &str, name: &str) -> anyhow::Result<()>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        gone(format!("{}: {name} is gone in the tenant", self.name), &self.above::<K>(namespace), name).await?;
        self.gone_below::<K>(namespace, name).await
    }

    /// Waits until the super cluster holds no object of that name.
    pub async fn gone_below<K>(&self, namespace: &str, name: &str) -> anyhow::Result<()>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        gone(format!("{}: {name} is gone in the super cluster", self.name), &self.below::<K>(namespace), name).await
    }

    /// Waits for a warning about the object of that UID whose message contains `text`.
    pub async fn warned(&self, namespace: &str, uid: &str, text: &str) -> anyhow::Result<Event> {
        let api: Api<Event> = self.above(namespace);
        eventually(format!("{}: a warning about {uid} that says {text:?}", self.name), PATIENCE, async || {
            let events = api.list(&ListParams::default().fields(&format!("involvedObject.uid={uid}"))).await?.items;
            let seen: Vec<_> = events.iter().map(|event| format!("{:?} {:?}", event.reason, event.message)).collect();
            let found = events.into_iter().find(|event| {
                event.type_.as_deref() == Some("Warning") && event.message.as_deref().is_some_and(|message| message.contains(text))
            });
            Ok(found.map_or_else(|| Seen::NotYet(format!("{seen:?}")), Seen::Done))
        })
        .await
    }
}

async fn gone<K>(what: String, api: &Api<K>, name: &str) -> anyhow::Result<()>
where
    K: Clone + DeserializeOwned + Debug,
{
    eventually(what, PATIENCE, async || {
        let found = api.get_opt(name).await?;
        Ok(Seen::when(found.is_none(), found))
    })
    .await
    .map(drop)
}

/// A Pod with these labels and one container; `change` is merged into its spec.
pub fn pod(name: &str, labels: &Value, change: &Value) -> Value {
    let mut spec = json!({ "containers": [{ "name": "main", "image": "web" }] });
    if let (Some(spec), Some(change)) = (spec.as_object_mut(), change.as_object()) {
        spec.extend(change.clone());
    }
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "labels": labels }, "spec": spec })
}

/// The same object in a namespace of this name.
#[must_use]
pub fn within(namespace: &str, mut object: Value) -> Value {
    if let Some(meta) = object.pointer_mut("/metadata").and_then(Value::as_object_mut) {
        meta.insert("namespace".to_owned(), json!(namespace));
    }
    object
}

/// The UID of an object, or nothing.
pub fn uid_of(object: &impl kube::ResourceExt) -> String {
    object.uid().unwrap_or_default()
}

/// Whose an object of the super cluster is, by its record.
pub fn owner_of(object: &impl kube::ResourceExt) -> anyhow::Result<Owner> {
    let (label, record) = (object.labels().get(keys::TENANT), object.annotations().get(keys::OWNER));
    Owner::read(label.map(String::as_str), record.map(String::as_str)).with_context(|| format!("{} has no record", object.name_any()))
}

/// Whether the Pod is Running and Ready and nobody wants it gone.
pub fn is_running(pod: &Pod) -> bool {
    let running = pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running"));
    running && condition(pod, "Ready") == Some("True") && pod.metadata.deletion_timestamp.is_none()
}

/// The status of a Pod's condition.
pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a str> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind).map(|condition| condition.status.as_str())
}

fn brief(pod: &Pod) -> (String, Option<String>, bool) {
    (pod.name_any(), pod.status.as_ref().and_then(|status| status.phase.clone()), pod.metadata.deletion_timestamp.is_some())
}
