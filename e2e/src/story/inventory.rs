//! Which objects a cluster holds, and whose they are: to say afterwards what went and what was left alone.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use common::{Owner, TenantId, keys};
use kube::Client;
use serde_json::Value;

use super::everything;

/// What changes by itself, or follows another object without an owner, by plural.
const RESTLESS: [&str; 5] = ["endpoints", "endpointslices", "events", "ipaddresses", "leases"];

/// The UIDs of objects by place, `plural/namespace/name`.
pub type Holdings = BTreeMap<String, String>;

/// All objects of the super cluster.
pub struct Inventory {
    all: Holdings,
    /// Tenant by namespace.
    tenants: BTreeMap<String, String>,
}

impl Inventory {
    /// Lists everything.
    pub async fn take(client: &Client) -> anyhow::Result<Self> {
        let (mut all, mut tenants) = (Holdings::new(), BTreeMap::new());
        for (place, text) in everything(client).await? {
            let plural = place.split('/').next().unwrap_or_default();
            if RESTLESS.contains(&plural) {
                continue;
            }
            let object: Value = serde_json::from_str(&text).context("could not read an object")?;
            let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            let at = |map: &str, key: &str| object.pointer(map).and_then(|map| map.get(key)).and_then(Value::as_str);
            let (label, record) = (at("/metadata/labels", keys::TENANT), at("/metadata/annotations", keys::OWNER));
            // The label alone is not enough: anybody may write it.
            if plural == "namespaces" && Owner::read(label, record).is_ok() {
                tenants.insert(text("/metadata/name").to_owned(), label.unwrap_or_default().to_owned());
            }
            all.insert(place, text("/metadata/uid").to_owned());
        }
        Ok(Self { all, tenants })
    }

    /// What is the tenant's: its namespaces with all that is in them, and its writer.
    pub fn of(&self, id: &TenantId) -> Holdings {
        self.select(|place| self.is_of(place, id))
    }

    /// What is none of these tenants'.
    pub fn others(&self, ids: &[&TenantId]) -> Holdings {
        self.select(|place| !ids.iter().any(|id| self.is_of(place, id)))
    }

    fn select(&self, keep: impl Fn(&str) -> bool) -> Holdings {
        self.all.iter().filter(|(place, _)| keep(place)).map(|(place, uid)| (place.clone(), uid.clone())).collect()
    }

    fn is_of(&self, place: &str, id: &TenantId) -> bool {
        let mut parts = place.splitn(3, '/');
        let (plural, namespace, name) = (parts.next(), parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let is_named = |namespace: &str| self.tenants.get(namespace).is_some_and(|owner| owner == id.as_str());
        is_named(namespace) || plural == Some("namespaces") && is_named(name) || namespace == keys::WRITERS_NAMESPACE && name == id.writer()
    }
}

/// What differs between two states, a line each; empty if nothing does.
pub fn difference(before: &Holdings, after: &Holdings) -> Vec<String> {
    let places: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let told = places.into_iter().filter_map(|place| match (before.get(place), after.get(place)) {
        (Some(_), None) => Some(format!("gone: {place}")),
        (None, Some(_)) => Some(format!("new: {place}")),
        (was, is) => (was != is).then(|| format!("another: {place}")),
    });
    told.collect()
}
