//! Pods: what a tenant's Pod asks of a node of the super cluster, and what became of it.
//!
//! Down: every leaf of the spec has a [verdict](verdicts); what refers to objects, namespaces, names or addresses is rewritten to what
//! they are in the super cluster, and what the Pod reads of itself is served with the tenant's values. Up: the status, scrubbed.
//!
//! *Guarantees*: the same Pod asks for the same before and after our binding, and whatever we wrote to the tenant's copy.

mod affinity;
mod amend;
mod dns;
mod env;
mod ephemeral;
mod mounts;
mod names;
mod node;
mod policy;
mod resize;
mod status;
pub mod verdicts;
mod volumes;

use std::collections::BTreeMap;

use common::name::is_label;
use common::{InSuper, InTenant, Uid, keys};
use serde_json::{Map, Value};

use crate::cx::Cx;
use crate::hold::Hold;
use crate::kind::{Addition, Downward, Hearsay, Reference, Report, Resource};
use crate::metadata::{TOPOLOGY_LABELS, annotations_down, labels_down};
use crate::mounts::Mounts;
use crate::object::{Content, Object, items};
use crate::shape::{Table, carry_spec};
use crate::size;

/// The kind.
pub struct Pod;

impl Downward for Pod {
    fn resource(&self) -> Resource {
        Resource { group: "", version: "v1", api_version: "v1", kind: "Pod", plural: "pods", namespaced: true, status: true }
    }

    fn fields(&self) -> &'static [(&'static str, &'static Table)] {
        &[("spec", verdicts::SPEC), ("spec.ephemeralContainers[]", verdicts::EPHEMERAL_CONTAINER)]
    }

    fn returns(&self) -> &'static str {
        "The node, as a binding; and the status, with messages scrubbed of what is the super cluster's. Fields of the status that no table names are carried."
    }

    fn returned(&self) -> &'static [(&'static str, &'static Table)] {
        &[("status", verdicts::STATUS)]
    }

    fn down(&self, tenant: &InTenant<Object>, cx: &Cx<'_>) -> Result<InSuper<Content>, Hold> {
        let own = Own::of(tenant, cx)?;
        let mut spec = carry_spec(tenant, verdicts::SPEC, cx.policy.pass_unknown_fields)?;
        let mut labels = labels_down(&tenant.meta.labels, cx.policy);
        if tenant.text("/spec/nodeName").is_some() {
            // Its own API server's; the super cluster's has its own.
            for key in TOPOLOGY_LABELS {
                labels.remove(key);
            }
        }
        let mut annotations = annotations_down(&tenant.meta.annotations, cx.policy);
        annotations.insert(keys::CONTAINERS.to_owned(), first_names(tenant)?.join(","));
        annotations.insert(keys::GENERATION.to_owned(), tenant.meta.generation.to_string());

        policy::apply(&mut spec, tenant, cx)?;
        volumes::mount_claims(&mut spec, own.name);
        names::down(&mut spec)?;
        node::apply(&mut spec, tenant, cx)?;
        affinity::apply(&mut spec, &own, cx)?;
        dns::apply(&mut spec, &own, cx)?;
        env::apply(&mut spec, &own, Some(&mut annotations), cx);
        mounts::apply(&mut spec, own.uid, cx)?;
        volumes::apply(&mut spec, &own, &mut annotations);
        spec.insert("automountServiceAccountToken".to_owned(), Value::Bool(false));
        policy::cap_size(&spec, &annotations)?;

        let body = Map::from_iter([("spec".to_owned(), Value::Object(spec))]);
        size::cap(Content { labels, annotations, body, ..Content::default() }, policy::MAX_POD_BYTES).map(InSuper)
    }

    fn unread(&self, tenant: &InTenant<Object>, cx: &Cx<'_>) -> Option<Reference> {
        policy::unread(tenant, cx)
    }

    fn amend(&self, asked: InSuper<Content>, current: &InSuper<Object>, cx: &Cx<'_>) -> InSuper<Content> {
        InSuper(amend::amend(asked.0, current, cx.policy))
    }

    fn up(&self, sup: &InSuper<Object>, tenant: Option<&InTenant<Object>>, cx: &Cx<'_>) -> Result<Option<InTenant<Report>>, Hold> {
        let tenant = tenant.filter(|_| self.report_needs_tenant(sup));
        let node = sup.text("/spec/nodeName").map(str::to_owned);
        Ok(Some(InTenant(Report { node, status: status::up(sup, tenant, cx) })))
    }

    fn additions(&self, tenant: &InTenant<Object>, sup: &InSuper<Object>, cx: &Cx<'_>) -> (Vec<Addition>, Option<Hold>) {
        let (containers, refused) = ephemeral::missing(tenant, sup, cx);
        let resized = if resize::is_possible(tenant) { resize::asked(tenant, sup, cx) } else { None };
        (resized.into_iter().chain(containers).collect(), refused)
    }

    fn adds(&self, tenant: &InTenant<Object>) -> bool {
        resize::is_possible(tenant) || tenant.at("/spec/ephemeralContainers").and_then(Value::as_array).is_some_and(|list| !list.is_empty())
    }

    fn report_follows(&self, tenant: &InTenant<Object>) -> bool {
        tenant.at("/spec/readinessGates").is_some()
    }

    fn report_needs_tenant(&self, sup: &InSuper<Object>) -> bool {
        !status::gates(sup).is_empty()
    }

    fn conditions_down(&self, tenant: &InTenant<Object>, sup: &InSuper<Object>) -> Option<InSuper<Value>> {
        status::conditions_down(tenant, sup).map(InSuper)
    }

    fn refers(&self) -> bool {
        true
    }

    fn references(&self, tenant: &InTenant<Object>) -> Vec<Reference> {
        tenant.body.get("spec").map(names::references).unwrap_or_default()
    }

    fn mounts(&self, tenant: &InTenant<Object>) -> Mounts {
        tenant.body.get("spec").map(mounts::of).unwrap_or_default()
    }

    fn hearsay(&self) -> Hearsay {
        Hearsay::Message
    }

    fn graceful(&self) -> bool {
        true
    }
}

type Fields = Map<String, Value>;

/// What a Pod is in its tenant, which is what it reads of itself.
struct Own<'a> {
    namespace: &'a str,
    name: &'a str,
    uid: Uid,
    service_account: &'a str,
    labels: &'a BTreeMap<String, String>,
    annotations: BTreeMap<&'a str, &'a str>,
}

impl<'a> Own<'a> {
    fn of(tenant: &'a InTenant<Object>, cx: &Cx<'a>) -> Result<Self, Hold> {
        let namespace = cx.namespace.ok_or(Hold::Malformed("a Pod has a namespace".into()))?;
        // What we wrote to the tenant's copy must not change what it asks for.
        let annotations = tenant.meta.annotations.iter().filter(|(key, _)| !crate::metadata::is_ours(key));
        Ok(Self {
            namespace,
            name: &tenant.meta.name,
            uid: tenant.meta.uid,
            service_account: service_account(tenant.body.get("spec")),
            labels: &tenant.meta.labels,
            annotations: annotations.map(|(key, value)| (key.as_str(), value.as_str())).collect(),
        })
    }
}

fn service_account(spec: Option<&Value>) -> &str {
    let named = |key| spec.and_then(|spec| spec.get(key)).and_then(Value::as_str).filter(|name| !name.is_empty());
    named("serviceAccountName").or_else(|| named("serviceAccount")).unwrap_or("default")
}

/// The lists of containers that go down, in the order in which they start.
const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", ephemeral::LIST];

/// Each container with its place, whichever list it stands in.
fn containers_mut(spec: &mut Fields) -> impl Iterator<Item = (String, &mut Fields)> {
    spec.iter_mut().filter(|(key, _)| CONTAINER_LISTS.contains(&key.as_str())).flat_map(|(list, containers)| {
        let containers = containers.as_array_mut().into_iter().flatten().enumerate();
        containers.filter_map(move |(i, container)| Some((format!("spec.{list}[{i}]"), container.as_object_mut()?)))
    })
}

/// The lists of containers that a Pod begins with.
const FIRST_LISTS: [&str; 2] = ["initContainers", "containers"];

/// The names of all containers in these lists.
fn container_names<'a>(pod: &'a Object, lists: &[&str]) -> Vec<&'a str> {
    let spec = pod.body.get("spec").and_then(Value::as_object);
    lists
        .iter()
        .flat_map(|list| spec.into_iter().flat_map(|spec| objects(spec, list)))
        .filter_map(|container| text(container, "name"))
        .collect()
}

/// The names of the containers that the tenant's Pod begins with.
fn first_names(tenant: &Object) -> Result<Vec<&str>, Hold> {
    let spec = tenant.body.get("spec").and_then(Value::as_object);
    let placed = |list| spec.into_iter().flat_map(move |spec| objects(spec, list)).enumerate().map(move |(i, one)| (list, i, one));
    FIRST_LISTS.into_iter().flat_map(placed).map(|(list, i, container)| own_name(container, list, i)).collect()
}

/// The name of a container of the tenant's, whose API server may let anything pass for one.
///
/// *Guarantees*: what the list [`keys::CONTAINERS`] takes for one name is one.
fn own_name<'a>(container: &'a Fields, list: &str, i: usize) -> Result<&'a str, Hold> {
    let refused = || {
        let message = "a container's name is an RFC 1123 label: small letters, digits and hyphens, at most 63; choose such a name";
        Hold::refuse("InvalidName", format!("spec.{list}[{i}].name"), message)
    };
    text(container, "name").filter(|name| is_label(name)).ok_or_else(refused)
}

/// The objects of a list field.
fn objects<'a>(fields: &'a Fields, key: &str) -> impl Iterator<Item = &'a Fields> + use<'a> {
    items(fields.get(key)).filter_map(Value::as_object)
}

/// The objects of a list field, to be changed.
fn objects_mut<'a>(fields: &'a mut Fields, key: &str) -> impl Iterator<Item = &'a mut Fields> + use<'a> {
    fields.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

/// The objects of a list field with their places.
fn placed_mut<'a>(fields: &'a mut Fields, key: &'a str, at: &'a str) -> impl Iterator<Item = (String, &'a mut Fields)> + use<'a> {
    objects_mut(fields, key).enumerate().map(move |(i, item)| (format!("{at}.{key}[{i}]"), item))
}

/// An object field.
fn object<'a>(fields: &'a Fields, key: &str) -> Option<&'a Fields> {
    fields.get(key).and_then(Value::as_object)
}

/// An object field, to be changed.
fn object_mut<'a>(fields: &'a mut Fields, key: &str) -> Option<&'a mut Fields> {
    fields.get_mut(key).and_then(Value::as_object_mut)
}

/// A string field that is not empty.
fn text<'a>(fields: &'a Fields, key: &str) -> Option<&'a str> {
    fields.get(key).and_then(Value::as_str).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests;
