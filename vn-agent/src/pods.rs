//! Which Pods of this node are whose: by the record that each carries, never by the shape of a name.
//!
//! Read off a list of Pods as a kubelet or an API server gives it. What carries no record, or one that does not belong where it stands,
//! is nobody's and is not kept.

use std::collections::{BTreeSet, HashMap, HashSet};

use common::{Namespace, Owner, Tenant, TenantId, Uid, keys};
use serde::Deserialize;

use crate::filter::Unreadable;
use crate::filter::elements::{Elements, Part};
use crate::route::{Container, Place, PodRef};

/// A tenant's Pod in the super cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuperPod {
    /// Its namespace in the super cluster.
    pub namespace: String,
    /// Its name there.
    pub name: String,
    /// Its UID there.
    pub uid: Uid,
    /// Whose it is: tenant, and the tenant's namespace, name and UID of it.
    pub owner: Owner,
    /// The namespace in the tenant.
    pub tenant_namespace: Namespace<Tenant>,
    /// The containers that stand in the tenant's own spec.
    pub containers: BTreeSet<String>,
}

impl SuperPod {
    /// Where it is.
    pub fn place(&self) -> Place<'_> {
        Place { namespace: &self.namespace, name: &self.name, uid: self.uid }
    }

    /// Whether a container of this name stands in the tenant's own spec.
    pub fn has(&self, container: &Container) -> bool {
        self.containers.contains(container.as_str())
    }

    /// Reads one off the metadata of a Pod; nothing if it is nobody's.
    fn read(meta: Metadata) -> Option<Self> {
        let get = |map: &HashMap<String, String>, key: &str| map.get(key).cloned();
        let owner = Owner::read(get(&meta.labels, keys::TENANT).as_deref(), get(&meta.annotations, keys::OWNER).as_deref()).ok()?;
        let tenant_namespace = owner.namespace.clone()?;
        // A copied record counts only in the place that follows from it.
        let is_in_place =
            TenantId::is_namespace_of(owner.tenant, tenant_namespace.as_str(), &meta.namespace) && owner.name.same().as_str() == meta.name;
        if !is_in_place {
            return None;
        }
        let containers = get(&meta.annotations, keys::CONTAINERS).unwrap_or_default();
        Some(Self {
            uid: Uid::parse(&meta.uid).ok()?,
            containers: containers.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect(),
            namespace: meta.namespace,
            name: meta.name,
            owner,
            tenant_namespace,
        })
    }
}

/// Why a caller's Pod was not found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotFound {
    /// No Pod of the caller on this node has that name.
    #[error("this tenant has no Pod of that name on this node")]
    Absent,
    /// One has the name and another UID.
    #[error("the Pod of that name on this node is another one than was asked for")]
    Uid,
    /// Two have the name.
    #[error("two Pods on this node carry that name in their records")]
    Ambiguous,
}

/// The tenants' Pods on this node at one moment.
#[derive(Debug, Default)]
pub struct Pods {
    all: Vec<SuperPod>,
    by_name: HashMap<(Uid, String, String), usize>,
    by_place: HashMap<(String, String), usize>,
    ambiguous: HashSet<(Uid, String, String)>,
}

impl Pods {
    /// Reads a list of Pods, JSON. Of each only the metadata is kept, and only if it is a tenant's.
    pub fn read(json: &[u8]) -> Result<Self, Unreadable> {
        let mut reader = PodsReader::default();
        reader.push(json)?;
        reader.finish()
    }

    /// Reads one Pod, JSON.
    pub fn read_one(json: &[u8]) -> Result<Self, serde_json::Error> {
        let item: Item = serde_json::from_slice(json)?;
        let mut pods = Self::default();
        if let Some(pod) = SuperPod::read(item.metadata) {
            pods.add(pod);
        }
        Ok(pods)
    }

    fn add(&mut self, pod: SuperPod) {
        let at = self.all.len();
        let name = (pod.owner.tenant, pod.tenant_namespace.to_string(), pod.owner.name.to_string());
        let place = (pod.namespace.clone(), pod.name.clone());
        if self.by_name.insert(name.clone(), at).is_some() {
            self.ambiguous.insert(name);
        }
        self.by_place.insert(place, at);
        self.all.push(pod);
    }

    /// The Pod that a caller names.
    pub fn find(&self, tenant: Uid, pod: &PodRef) -> Result<&SuperPod, NotFound> {
        let name = (tenant, pod.namespace.to_string(), pod.name.to_string());
        if self.ambiguous.contains(&name) {
            return Err(NotFound::Ambiguous);
        }
        let found = self.by_name.get(&name).and_then(|at| self.all.get(*at)).ok_or(NotFound::Absent)?;
        if pod.uid.is_some_and(|uid| uid != found.owner.uid) { Err(NotFound::Uid) } else { Ok(found) }
    }

    /// The Pod at a place of the super cluster, if it is this tenant's.
    pub fn at(&self, tenant: Uid, namespace: &str, name: &str) -> Option<&SuperPod> {
        let at = self.by_place.get(&(namespace.to_owned(), name.to_owned()))?;
        self.all.get(*at).filter(|pod| pod.owner.tenant == tenant)
    }

    /// Whether this very Pod is still there, with the same owner.
    pub fn still_has(&self, pod: &SuperPod) -> bool {
        let name = (pod.owner.tenant, pod.tenant_namespace.to_string(), pod.owner.name.to_string());
        let found = self.by_name.get(&name).and_then(|at| self.all.get(*at));
        !self.ambiguous.contains(&name) && found.is_some_and(|found| found.uid == pod.uid && found.owner == pod.owner)
    }

    /// The UIDs of the Pods that were there before, with the same owner: what was said of them in between was said of them.
    pub fn since(&self, before: &Self) -> HashSet<Uid> {
        before.all.iter().filter(|pod| self.still_has(pod)).map(|pod| pod.uid).collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}

/// Reads a list of Pods, JSON, as it comes. Of each only the metadata is kept, and only if it is a tenant's.
pub struct PodsReader {
    elements: Elements,
    pods: Pods,
}

impl Default for PodsReader {
    fn default() -> Self {
        Self { elements: Elements::new("items", ""), pods: Pods::default() }
    }
}

impl PodsReader {
    /// Takes the next bytes.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), Unreadable> {
        let pods = &mut self.pods;
        self.elements.push(bytes, |part| {
            let Part::Element(json) = part else { return Ok(()) };
            let item: Item = serde_json::from_slice(json).map_err(|_| Unreadable)?;
            if let Some(pod) = SuperPod::read(item.metadata) {
                pods.add(pod);
            }
            Ok(())
        })
    }

    /// The list, if that was all of it.
    pub fn finish(self) -> Result<Pods, Unreadable> {
        self.elements.finish().map(|()| self.pods)
    }
}

#[derive(Deserialize)]
struct Item {
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    namespace: String,
    name: String,
    uid: String,
    labels: HashMap<String, String>,
    annotations: HashMap<String, String>,
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use common::Name;
    use serde_json::{Value, json};

    use super::*;

    /// A tenant for tests.
    pub(crate) fn tenant(number: u128) -> TenantId {
        TenantId::new(Uid::from_bits(number), "acme")
    }

    /// A Pod as the syncer makes it.
    pub(crate) fn super_pod(tenant: &TenantId, namespace: &str, name: &str, uid: u128, containers: &str) -> Value {
        let tenant_namespace = Namespace::parse(namespace).unwrap();
        let name = Name::parse(name).unwrap();
        let super_name = name.same().to_string();
        let owner = Owner { tenant: tenant.uid(), namespace: Some(tenant_namespace.clone()), name, uid: Uid::from_bits(1000 + uid) };
        let (mut labels, mut annotations) = (BTreeMap::new(), BTreeMap::new());
        owner.write(tenant, &mut labels, &mut annotations);
        annotations.insert(keys::CONTAINERS.to_owned(), containers.to_owned());
        let namespace = tenant.namespace(&tenant_namespace).to_string();
        json!({"metadata": {"namespace": namespace, "name": super_name, "uid": Uid::from_bits(uid).to_string(),
               "labels": labels, "annotations": annotations}, "spec": {"containers": [{"name": "app"}]}})
    }

    /// Pods as a kubelet lists them.
    pub(crate) fn pods(items: &[Value]) -> Pods {
        Pods::read(json!({"kind": "PodList", "items": items}).to_string().as_bytes()).unwrap()
    }

    fn asked(namespace: &str, name: &str, uid: Option<u128>) -> PodRef {
        PodRef { namespace: Namespace::parse(namespace).unwrap(), name: Name::parse(name).unwrap(), uid: uid.map(Uid::from_bits) }
    }

    #[test]
    fn a_pod_is_found_by_its_tenants_names_and_nobody_elses() {
        let (a, b) = (tenant(1), tenant(2));
        let pods = pods(&[super_pod(&a, "default", "web", 7, "app,init"), super_pod(&b, "default", "web", 8, "app")]);
        assert_eq!(pods.find(a.uid(), &asked("default", "web", None)).unwrap().uid, Uid::from_bits(7));
        assert_eq!(pods.find(b.uid(), &asked("default", "web", None)).unwrap().uid, Uid::from_bits(8));
        assert_eq!(pods.find(Uid::from_bits(3), &asked("default", "web", None)), Err(NotFound::Absent));
        assert_eq!(pods.find(a.uid(), &asked("other", "web", None)), Err(NotFound::Absent));
        let namespace = a.namespace(&Namespace::parse("default").unwrap()).to_string();
        assert_eq!(
            pods.find(a.uid(), &asked(&namespace, "web", None)),
            Err(NotFound::Absent),
            "no name of the super cluster means anything"
        );
    }

    #[test]
    fn s59_a_uid_that_is_named_must_be_the_tenants_own() {
        let a = tenant(1);
        let pods = pods(&[super_pod(&a, "default", "web", 7, "app")]);
        assert!(pods.find(a.uid(), &asked("default", "web", Some(1007))).is_ok());
        assert_eq!(pods.find(a.uid(), &asked("default", "web", Some(7))), Err(NotFound::Uid), "the UID of the super cluster is no name");
        assert_eq!(pods.find(a.uid(), &asked("default", "web", Some(1008))), Err(NotFound::Uid));
    }

    #[test]
    fn s59_a_pod_that_was_made_anew_under_its_name_is_another() {
        let a = tenant(1);
        let before = pods(&[super_pod(&a, "default", "web", 7, "app")]);
        let pod = before.find(a.uid(), &asked("default", "web", None)).unwrap();
        assert!(pods(&[super_pod(&a, "default", "web", 7, "app")]).still_has(pod));
        assert!(!pods(&[super_pod(&a, "default", "web", 8, "app")]).still_has(pod));
        assert!(!pods(&[]).still_has(pod));
        let mut platform = super_pod(&a, "default", "web", 7, "app");
        platform["metadata"]["annotations"] = json!({});
        assert!(!pods(&[platform]).still_has(pod));
    }

    #[test]
    fn s54_s60_a_record_counts_only_where_it_was_made() {
        let a = tenant(1);
        let good = super_pod(&a, "default", "web", 7, "app");
        let strays = [
            ("namespace", json!("kube-system")),
            ("namespace", json!(tenant(2).namespace(&Namespace::parse("default").unwrap()).to_string())),
            ("name", json!("another")),
            ("labels", json!({})),
            ("annotations", json!({})),
            ("uid", json!("0123456789abcdef0123456789abcdef")),
        ];
        for (field, value) in strays {
            let mut stray = good.clone();
            stray["metadata"][field] = value.clone();
            assert!(pods(&[stray]).is_empty(), "{field}: {value}");
        }
    }

    #[test]
    fn s60_only_containers_of_the_tenants_own_spec_are_its() {
        let a = tenant(1);
        let pods = pods(&[super_pod(&a, "default", "web", 7, "app,init")]);
        let pod = pods.find(a.uid(), &asked("default", "web", None)).unwrap();
        for (container, has) in [("app", true), ("init", true), ("istio-proxy", false), ("ap", false)] {
            assert_eq!(pod.has(&Container::parse(container).unwrap()), has, "{container}");
        }
        let mut bare = super_pod(&a, "default", "bare", 8, "");
        bare["metadata"]["annotations"].as_object_mut().unwrap().remove(keys::CONTAINERS);
        let bare = self::pods(&[bare]);
        let pod = bare.find(a.uid(), &asked("default", "bare", None)).unwrap();
        assert!(!pod.has(&Container::parse("app").unwrap()), "without the annotation no container is the tenant's");
    }

    #[test]
    fn two_pods_of_one_name_are_none() {
        let a = tenant(1);
        let mut twin = super_pod(&a, "default", "web", 8, "app");
        twin["metadata"]["namespace"] =
            json!(TenantId::new(a.uid(), "renamed").namespace(&Namespace::parse("default").unwrap()).to_string());
        let pods = pods(&[super_pod(&a, "default", "web", 7, "app"), twin]);
        assert_eq!(pods.find(a.uid(), &asked("default", "web", None)), Err(NotFound::Ambiguous));
    }

    #[test]
    fn a_list_that_go_left_empty_is_empty_and_a_broken_one_is_an_error() {
        assert!(Pods::read(br#"{"kind":"PodList","items":null}"#).unwrap().is_empty());
        assert!(Pods::read(b"{}").unwrap().is_empty());
        assert!(Pods::read(b"<html>").is_err());
    }
}
