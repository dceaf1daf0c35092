//! What a tenant leaves in the super cluster: found by the record on its namespaces, deleted by UID, and nothing else is touched.

use std::collections::BTreeMap;

use common::{Owner, Uid, keys};
use serde::Deserialize;
use serde_json::json;
use tracing::info;

use crate::engine::Engine;
use crate::remote::{CallError, ListMeta, Patch};

/// A namespace of the super cluster with a tenant's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: Uid,
    /// The UID of the VirtualCluster, by its record.
    pub tenant: Uid,
    /// The tenant's `kube-system` that it was made for.
    pub incarnation: Option<Uid>,
    /// Whether it outlives its VirtualCluster.
    pub orphan: bool,
    /// Whether it is being deleted.
    pub deleting: bool,
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    metadata: ListMeta,
    /// `null` in an empty list of metadata.
    #[serde(default)]
    items: Option<Vec<Item>>,
}

#[derive(Deserialize)]
struct Item {
    metadata: Meta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    name: String,
    uid: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    deletion_timestamp: Option<String>,
}

impl Meta {
    /// What is a tenant's, by label and record together; anything else is nobody's.
    fn owned(self) -> Option<Owned> {
        let label = self.labels.get(keys::TENANT).map(String::as_str);
        let owner = Owner::read(label, self.annotations.get(keys::OWNER).map(String::as_str)).ok()?;
        Some(Owned {
            uid: Uid::parse(&self.uid).ok()?,
            tenant: owner.tenant,
            incarnation: self.annotations.get(keys::INCARNATION).and_then(|text| Uid::parse(text).ok()),
            orphan: self.annotations.get(keys::DELETION_POLICY).is_some_and(|policy| policy == ORPHAN),
            deleting: self.deletion_timestamp.is_some(),
            name: self.name,
        })
    }
}

/// The value of [`keys::DELETION_POLICY`].
const ORPHAN: &str = "Orphan";

impl Engine {
    /// The namespaces with a record, of one tenant or of all (a quorum read).
    pub async fn owned_namespaces(&self, id: Option<&str>) -> Result<Vec<Owned>, CallError> {
        let selector = id.map_or_else(|| keys::TENANT.to_owned(), |id| format!("{}={id}", keys::TENANT));
        let items = self.list_metadata("/api/v1/namespaces", Some(&selector)).await?;
        Ok(items.into_iter().filter_map(|item| item.metadata.owned()).collect())
    }

    /// Deletes what is the tenant's in the super cluster, or leaves it there for good (`orphan`); true when nothing is left to do.
    ///
    /// *Guarantees*: only namespaces whose record names this tenant, each by its UID; then the tenant's writer.
    pub async fn remove_all(&self, tenant: Uid, id: &str, orphan: bool) -> Result<bool, CallError> {
        if orphan {
            self.mark_orphan(tenant, id, true).await?;
        } else if !self.remove_namespaces(tenant, id, |_| true).await? {
            return Ok(false);
        }
        self.remove_writer(id).await?;
        Ok(true)
    }

    /// Deletes what an earlier life of the tenant's control plane left; true when it is all gone.
    pub async fn remove_other_lives(&self, tenant: Uid, id: &str, keep: Uid) -> Result<bool, CallError> {
        self.remove_namespaces(tenant, id, |owned| owned.incarnation.is_some_and(|uid| uid != keep)).await
    }

    async fn remove_namespaces(&self, tenant: Uid, id: &str, is_chosen: impl Fn(&Owned) -> bool) -> Result<bool, CallError> {
        let owned = self.owned_namespaces(Some(id)).await?;
        let chosen: Vec<_> = owned.into_iter().filter(|owned| owned.tenant == tenant && is_chosen(owned)).collect();
        for namespace in chosen.iter().filter(|owned| !owned.deleting) {
            self.fence().check()?;
            info!(tenant = id, object = namespace.name, "deleting a namespace of the tenant");
            let path = format!("/api/v1/namespaces/{}", namespace.name);
            gone_or_other(self.sup().delete(&path, namespace.uid, None, None).await)?;
        }
        Ok(chosen.is_empty())
    }

    /// Says on the tenant's namespaces whether they outlive its VirtualCluster, where they do not say so yet.
    pub async fn mark_orphan(&self, tenant: Uid, id: &str, orphan: bool) -> Result<(), CallError> {
        let owned = self.owned_namespaces(Some(id)).await?;
        for namespace in owned.iter().filter(|owned| owned.tenant == tenant && owned.orphan != orphan && !owned.deleting) {
            self.fence().check()?;
            let path = format!("/api/v1/namespaces/{}", namespace.name);
            let value = orphan.then_some(ORPHAN);
            let body = json!({"metadata": {"uid": namespace.uid.to_string(), "annotations": {keys::DELETION_POLICY: value}}});
            gone_or_other(self.sup().patch(&path, Patch::Merge, &body, None).await)?;
        }
        Ok(())
    }

    async fn remove_writer(&self, id: &str) -> Result<(), CallError> {
        let path = format!("/api/v1/namespaces/{}/serviceaccounts/w-{id}", keys::WRITERS_NAMESPACE);
        let bytes = match self.sup().get(&path, None).await {
            Err(error) if error.is_not_found() => return Ok(()),
            other => other?,
        };
        let item: Item = serde_json::from_slice(&bytes).map_err(|source| CallError::Unreadable { side: "super", source })?;
        let Ok(uid) = Uid::parse(&item.metadata.uid) else { return Ok(()) };
        self.fence().check()?;
        gone_or_other(self.sup().delete(&path, uid, None, None).await)
    }

    /// The tenants, by id, that have a writer.
    pub async fn writers(&self) -> Result<Vec<String>, CallError> {
        let items = self.list_metadata(&format!("/api/v1/namespaces/{}/serviceaccounts", keys::WRITERS_NAMESPACE), None).await?;
        Ok(items.iter().filter_map(|item| item.metadata.name.strip_prefix("w-")).map(str::to_owned).collect())
    }

    /// Deletes the writer of a tenant that is no more.
    pub async fn remove_stray_writer(&self, id: &str) -> Result<(), CallError> {
        self.remove_writer(id).await
    }

    async fn list_metadata(&self, path: &str, selector: Option<&str>) -> Result<Vec<Item>, CallError> {
        let selector = selector.map(|text| format!("labelSelector={}&", text.replace('/', "%2F").replace('=', "%3D"))).unwrap_or_default();
        let mut items = Vec::new();
        let mut next = String::new();
        loop {
            let rest = if next.is_empty() { String::new() } else { format!("&continue={next}") };
            let bytes = self.sup().list_metadata(format!("{path}?{selector}limit=500{rest}"), None).await?;
            let page: Page = serde_json::from_slice(&bytes).map_err(|source| CallError::Unreadable { side: "super", source })?;
            items.extend(page.items.unwrap_or_default());
            if page.metadata.next.is_empty() {
                return Ok(items);
            }
            next = page.metadata.next;
        }
    }
}

/// Gone already, or by now another object of that name, which is not ours to change.
fn gone_or_other<T>(result: Result<T, CallError>) -> Result<(), CallError> {
    match result {
        Err(error) if matches!(error.code(), Some(404 | 409)) => Ok(()),
        other => other.map(|_| ()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENANT: &str = "d64ea0c0-91f8-46f5-8643-c0cab32ab0cd";

    fn meta(tenant: &str, label_of: &str, policy: Option<&str>) -> Meta {
        let uid = |text: &str| Uid::parse(text).unwrap();
        let owner = Owner {
            tenant: uid(tenant),
            namespace: None,
            name: common::Name::parse("default").unwrap(),
            uid: uid("00000000-0000-4000-8000-000000000001"),
        };
        let id = common::TenantId::new(uid(label_of), "");
        let (mut labels, mut annotations) = (BTreeMap::new(), BTreeMap::new());
        owner.write(&id, &mut labels, &mut annotations);
        annotations.extend(policy.map(|policy| (keys::DELETION_POLICY.to_owned(), policy.to_owned())));
        annotations.insert(keys::INCARNATION.to_owned(), "00000000-0000-4000-8000-000000000002".to_owned());
        let uid = "00000000-0000-4000-8000-000000000003".to_owned();
        Meta { name: "vc-default-x".to_owned(), uid, labels, annotations, deletion_timestamp: None }
    }

    #[test]
    fn a_namespace_is_owned_by_label_and_record_together() {
        let owned = meta(TENANT, TENANT, None).owned().unwrap();
        assert_eq!(owned.tenant.to_string(), TENANT);
        assert!(owned.incarnation.is_some() && !owned.orphan && !owned.deleting);
        assert_eq!(meta(TENANT, "00000000-0000-4000-8000-000000000009", None).owned(), None);
        let mut bare = meta(TENANT, TENANT, None);
        bare.annotations.remove(keys::OWNER);
        assert_eq!(bare.owned(), None);
    }

    #[test]
    fn only_the_word_orphan_keeps_a_namespace() {
        assert!(meta(TENANT, TENANT, Some("Orphan")).owned().unwrap().orphan);
        assert!(!meta(TENANT, TENANT, Some("Delete")).owned().unwrap().orphan);
    }
}
