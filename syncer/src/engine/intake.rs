//! What informers tell, into the index.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use common::{Name, Namespace, Owner, Side, Super, Tenant as TenantSide, TenantId, keys};
use mirror::facts::Seen;
use mirror::kind::{Demand, Downward, KindId, Observe, Upward};
use mirror::plan::Evidence;
use runtime::log::Chain;
use runtime::task::Tasks;
use serde_json::Value;
use tokio::time::Instant;

use super::{Engine, Noted, Watchfulness, downward_kinds, until_stopped, watched_kinds};
use crate::index::{Index, Key, Place, Slot};
use crate::informer::{Bounds, Source, Told, run};
use crate::remote::CallError;
use crate::shown::shown_kinds;
use crate::tenant::{Addresses, Attached, Tenant};
use crate::writer::{note_namespace, without_content};

/// The namespace whose UID tells one life of a control plane from another.
const SYSTEM: &str = "kube-system";

/// The Service that leads a tenant's Pods to their own API server, and the one of its name server.
const KUBERNETES: (&str, &str) = ("default", "kubernetes");
const NAME_SERVER: (&str, &str) = ("kube-system", "kube-dns");

impl Engine {
    /// Starts the informers of the super cluster.
    pub(super) fn watch_super(&self, tasks: &Tasks) {
        for kind in watched_kinds() {
            let engine = self.clone();
            let source = self.super_source(kind);
            let remote = self.sup().clone();
            until_stopped(tasks, "super-informer", async move { run(remote, source, |told| engine.super_told(kind, told)).await });
        }
        for kind in shown_kinds() {
            let (engine, remote) = (self.clone(), self.sup().clone());
            let sink = move |told| engine.shown_told(kind, told);
            let is_published = kind.kind().marked().is_some_and(Upward::is_published);
            let selectors: &[&str] = if is_published { &[keys::PUBLIC] } else { &[] };
            until_stopped(tasks, "super-shown", run(remote, self.source(kind, selectors), sink));
        }
        let (engine, remote) = (self.clone(), self.sup().clone());
        let source = whole("/api/v1/nodes", "Node");
        let sink = move |told| {
            engine.note(Super::NAME, "Node", &engine.0.noted, &told);
            engine.0.nodes.super_told(told);
        };
        until_stopped(tasks, "super-nodes", run(remote, source, sink));
        let (engine, remote) = (self.clone(), self.sup().clone());
        let source = Source { from_now: true, ..whole("/api/v1/events", "Event") };
        let sink = move |told| {
            engine.note(Super::NAME, "Event", &engine.0.noted, &told);
            engine.0.copier.super_told(told);
        };
        until_stopped(tasks, "super-events", run(remote, source, sink));
    }

    /// Counts what an informer tells of itself.
    pub(super) fn note(&self, side: &'static str, kind: &'static str, noted: &Noted, told: &Told) {
        match told {
            Told::ListBegins => self.0.metrics.relisted(side, kind),
            Told::Failed(_) => self.0.metrics.watch_failed(side, kind),
            Told::Unreadable(error) => self.unreadable(side, kind, noted, error),
            Told::Unserved => self.0.metrics.unserved(side, kind),
            Told::Opened | Told::Object(_) | Told::Gone(_) | Told::ListEnds(_) => {}
        }
    }

    /// Counts what cannot be read; says so now and then.
    fn unreadable(&self, side: &'static str, kind: &'static str, noted: &Noted, error: &serde_json::Error) {
        self.0.metrics.unreadable(side, kind);
        if noted.is_time() {
            tracing::warn!(side, tenant = noted.0, kind, error = %Chain(error), "something cannot be read, and is left out");
        }
    }

    /// What is said of an object of this kind. What is none, or is of another kind, is counted and left out.
    fn read<'a>(&self, side: &'static str, kind: KindId, noted: &Noted, bytes: &'a Bytes) -> Option<Seen<'a>> {
        let resource = kind.kind().resource();
        Seen::of_resource(bytes, &resource).inspect_err(|error| self.unreadable(side, resource.kind, noted, error)).ok()
    }

    pub(super) fn super_told(&self, kind: KindId, told: Told) {
        self.note(Super::NAME, kind.kind().resource().kind, &self.0.noted, &told);
        match told {
            Told::ListBegins => self.0.tenants.all().iter().for_each(|tenant| tenant.index.lock().list_begins(kind, false)),
            Told::Object(bytes) => self.super_object(kind, &bytes),
            Told::Gone(bytes) => self.super_object_gone(kind, &bytes),
            Told::ListEnds(_) => {
                self.0.super_synced.insert(kind);
                let is_new = self.0.super_unserved.remove(&kind).is_some();
                for tenant in self.0.tenants.all() {
                    let missed = tenant.index.lock().list_ends(kind, false);
                    namespaces_missed(kind, &tenant);
                    let mut moved = false;
                    for key in &missed {
                        forget_address(&tenant, key);
                        tenant.counts.lock().gone(key);
                        moved |= tenant.pods.gone(key);
                    }
                    if moved {
                        self.addresses_moved(&tenant);
                    }
                    self.room_came(&tenant);
                    self.0.work.push_each(&tenant.lane, missed);
                    if is_new {
                        let keys = tenant.index.lock().of_kind(kind);
                        self.decide_again(&tenant, keys);
                    }
                }
                if self.super_synced() {
                    self.push_all();
                }
            }
            Told::Unserved => self.super_lacks(kind),
            Told::Failed(error) => {
                tracing::warn!(kind = kind.kind().resource().kind, error = %chain(&error), "super informer failed");
            }
            Told::Opened | Told::Unreadable(_) => {}
        }
    }

    fn shown_told(&self, kind: KindId, told: Told) {
        self.note(Super::NAME, kind.kind().resource().kind, &self.0.noted, &told);
        let (is_whole, is_lacking) = (matches!(told, Told::ListEnds(_)), matches!(told, Told::Unserved));
        self.0.showing.super_told(kind, told);
        if is_lacking {
            self.super_lacks(kind);
        }
        if is_whole {
            self.0.super_unserved.remove(&kind);
            self.super_known(kind);
        }
    }

    /// A kind that the super cluster does not serve keeps nothing waiting.
    fn super_lacks(&self, kind: KindId) {
        if self.0.super_unserved.insert(kind) {
            tracing::info!(kind = kind.kind().resource().kind, "the super cluster does not serve a kind, which is asked for again");
        }
        self.super_known(kind);
    }

    /// What goes down depends on what is published, and on what there is.
    fn super_known(&self, kind: KindId) {
        if self.0.super_synced.insert(kind) && self.super_synced() {
            self.push_all();
        }
    }

    /// After the first complete view of the super cluster every pair is looked at.
    fn push_all(&self) {
        self.0.showing.owners_are_known();
        for tenant in self.0.tenants.all() {
            if tenant.attached().is_some() {
                let keys: Vec<Key> =
                    tenant.index.lock().iter().filter(|(_, entry)| entry.settled.is_none()).map(|(key, _)| key.clone()).collect();
                self.0.work.push_each(&tenant.lane, keys);
            }
        }
    }

    fn super_object(&self, kind: KindId, bytes: &Bytes) {
        let Some(seen) = self.read(Super::NAME, kind, &self.0.noted, bytes) else { return };
        let Ok(owner) = seen.owner.clone() else { return };
        let Some(label) = seen.tenant_label.as_deref() else { return };
        let Some(key) = key_of(kind, &owner).filter(|key| is_in_place(key, &owner, seen.namespace, seen.name)) else { return };
        let tenant = self.0.tenants.entry(label);
        let place = Place { namespace: seen.namespace.into(), name: seen.name.into(), owner };
        if is_namespace(kind) {
            note_namespace(&tenant, bytes);
            self.0.copier.learn_namespace(seen.name, &tenant.lane, key.name.as_str());
        }
        learn_address(&tenant, &key, bytes);
        tenant.counts.lock().seen(&key, bytes);
        self.room_came(&tenant);
        let moved = tenant.pods.seen(&key, seen.status).unwrap_or_else(|error| {
            self.unreadable(Super::NAME, kind.kind().resource().kind, &self.0.noted, &error);
            true
        });
        let mut index = tenant.index.lock();
        // Of a kind that is configured each version shows what all tenants have: those that met the super cluster in another keep nothing of it here.
        let body = (!kind.is_made() || index.synced(kind, false)).then_some(bytes.as_ref());
        let is_news = index.super_seen(&key, seen.facts, place, body);
        drop(index);
        if is_news && tenant.attached().is_some() {
            self.0.work.push(&tenant.lane, key);
        }
        if moved {
            self.addresses_moved(&tenant);
        }
    }

    /// The tenant's Pods have other addresses: what depends on them is looked at again, whether its pair has agreed or not.
    fn addresses_moved(&self, tenant: &Tenant) {
        let keys = tenant.counts.lock().on_pods();
        self.decide_again(tenant, keys);
    }

    /// What found no room before, and may now, is looked at again.
    fn room_came(&self, tenant: &Tenant) {
        let woken = tenant.counts.lock().woken();
        if tenant.attached().is_some() {
            self.0.work.push_each(&tenant.lane, woken);
        }
    }

    fn super_object_gone(&self, kind: KindId, bytes: &Bytes) {
        let Some(seen) = self.read(Super::NAME, kind, &self.0.noted, bytes) else { return };
        let Ok(owner) = &seen.owner else { return };
        let Some(key) = key_of(kind, owner).filter(|key| is_in_place(key, owner, seen.namespace, seen.name)) else { return };
        let Some(tenant) = seen.tenant_label.as_deref().and_then(|label| self.0.tenants.get(label)) else { return };
        if is_namespace(kind) {
            let mut namespaces = tenant.namespaces.lock();
            if namespaces.get(seen.name).is_some_and(|known| known.uid == seen.facts.uid) {
                namespaces.remove(seen.name);
            }
            drop(namespaces);
            self.0.copier.forget_namespace(seen.name);
            self.namespace_free(&tenant, key.name.as_str());
        }
        // A watch by label also says DELETED when only the label is gone; a Pod that is really gone was being deleted before.
        let is_sure = seen.facts.deleting || !kind.downward().is_some_and(Downward::graceful);
        let evidence = if is_sure { Evidence::Seen } else { Evidence::Inferred };
        if !tenant.index.lock().super_gone(&key, seen.facts.uid, evidence) {
            return;
        }
        forget_address(&tenant, &key);
        tenant.counts.lock().gone(&key);
        self.room_came(&tenant);
        if tenant.pods.gone(&key) {
            self.addresses_moved(&tenant);
        }
        if tenant.attached().is_some() {
            self.0.work.push(&tenant.lane, key);
        }
    }

    /// A super namespace is gone: what waited to be written into it may go on.
    pub(super) fn namespace_free(&self, tenant: &Tenant, namespace: &str) {
        let keys: Vec<Key> = {
            let index = tenant.index.lock();
            index
                .iter()
                .filter(|(key, _)| key.namespace.as_ref().is_some_and(|ns| ns.as_str() == namespace))
                .map(|(key, _)| key.clone())
                .collect()
        };
        self.0.work.push_each(&tenant.lane, keys);
    }

    /// Starts the informers of a tenant.
    pub(super) fn watch_tenant(&self, tenant: &Arc<Tenant>, attached: &Arc<Attached>, tasks: &Tasks) {
        let seen = self.0.health.get(&tenant.lane).map(|entry| entry.value().clone()).unwrap_or_default();
        for kind in downward_kinds() {
            let (engine, tenant, attached, seen) = (self.clone(), tenant.clone(), attached.clone(), seen.clone());
            until_stopped(tasks, "tenant-informer", async move {
                let informer = engine.inform(&tenant, &attached, &seen, kind);
                let _ = attached.cancel.run_until_cancelled(informer).await;
            });
        }
        self.watch_configured(tenant, attached, &seen, tasks);
        let (engine, tenant, attached) = (self.clone(), tenant.clone(), attached.clone());
        let selector = Some(format!("{}=true", keys::VIRTUAL_NODE.replace('/', "%2F")));
        let source = Source { selector, ..whole("/api/v1/nodes", "Node") };
        let cancel = attached.cancel.clone();
        until_stopped(tasks, "tenant-nodes", async move {
            let remote = attached.remote.clone();
            let sink = |told| {
                engine.note(TenantSide::NAME, "Node", &seen.noted, &told);
                engine.0.nodes.tenant_told(&tenant, &attached, told);
            };
            let _ = cancel.run_until_cancelled(run(remote, source, sink)).await;
        });
    }

    /// Follows a kind in a tenant for ever, until dropped.
    pub(super) async fn inform(&self, tenant: &Tenant, attached: &Attached, seen: &Watchfulness, kind: KindId) {
        loop {
            let informer =
                run(attached.remote.clone(), self.tenant_source(kind), |told| self.tenant_told(tenant, attached, seen, kind, told));
            tokio::select! {
                () = informer => return,
                () = attached.relist.notified() => {}
            }
        }
    }

    fn tenant_told(&self, tenant: &Tenant, attached: &Attached, seen: &Watchfulness, kind: KindId, told: Told) {
        if attached.cancel.is_cancelled() {
            return;
        }
        self.note(TenantSide::NAME, kind.kind().resource().kind, &seen.noted, &told);
        match told {
            Told::Opened => {
                reached(seen);
                // What an older watch still says is no word about our credentials; that a new one is open is.
                seen.unauthorized.store(false, Ordering::Relaxed);
                attached.breaker.lock().answered();
            }
            Told::ListBegins => tenant.index.lock().list_begins(kind, true),
            Told::Object(bytes) => {
                reached(seen);
                self.tenant_object(tenant, attached, seen, kind, &bytes);
            }
            Told::Gone(bytes) => {
                reached(seen);
                self.tenant_object_gone(tenant, attached, seen, kind, &bytes);
            }
            Told::ListEnds(version) => self.tenant_listed(tenant, attached, seen, kind, &version),
            Told::Unserved => {
                if seen.unserved.insert(kind) {
                    let kind = kind.kind().resource().kind;
                    tracing::info!(tenant = %tenant.lane, kind, "the tenant's API server does not serve a kind, which is asked for again");
                }
                tenant.index.lock().unserved(kind);
                seen.synced.insert(kind);
            }
            // A kind that is defined, or no more defined, by now.
            Told::Failed(error) if kind.is_made() && error.is_not_found() => {}
            Told::Failed(error) => {
                tracing::warn!(tenant = %tenant.lane, kind = kind.kind().resource().kind, error = %chain(&error), "tenant informer failed");
                if error.code() == Some(401) {
                    seen.note_unauthorized(attached);
                }
                *seen.unreachable.lock() = Some(chain(&error));
            }
            Told::Unreadable(_) => {}
        }
    }

    /// A list is complete. One that is older than what super copies were built from halts the tenant before anything is inferred.
    fn tenant_listed(&self, tenant: &Tenant, attached: &Attached, seen: &Watchfulness, kind: KindId, version: &str) {
        reached(seen);
        let version: u64 = version.parse().unwrap_or(0);
        let missed = {
            let mut index = tenant.index.lock();
            let built = index.built_high;
            if attached.is_set_back(version, built) {
                tracing::error!(tenant = %tenant.lane, version, built, "the tenant's API server shows an older state than was seen before");
                attached.halted.store(true, Ordering::Relaxed);
                *seen.regression.lock() = Some((version, built));
            }
            let missed = index.list_ends(kind, true);
            if is_namespace(kind) {
                attached.tenant_namespaces.retain(|name, _| is_there(&index, kind, name.as_str()));
            }
            missed
        };
        seen.synced.insert(kind);
        seen.unserved.remove(&kind);
        self.0.work.push_each(&tenant.lane, missed);
        // All that was turned away while the list ran, whichever side moved.
        let now = Instant::now();
        let waiting: Vec<Key> =
            tenant.index.lock().iter().filter(|(key, entry)| key.kind == kind && !entry.rests(now)).map(|(key, _)| key.clone()).collect();
        self.0.work.push_each(&tenant.lane, waiting);
    }

    fn tenant_object(&self, tenant: &Tenant, attached: &Attached, seen: &Watchfulness, kind: KindId, bytes: &Bytes) {
        let Some(object) = self.read(TenantSide::NAME, kind, &seen.noted, bytes) else { return };
        let Some(key) = self.tenant_key(kind, &object) else { return };
        let uid = object.facts.uid;
        if is_namespace(kind) && key.name.as_str() == SYSTEM && uid != attached.incarnation {
            // At once, before anything that its lists miss counts as gone.
            self.replaced(tenant, attached);
        }
        let (moved, known) = {
            let mut index = tenant.index.lock();
            (index.tenant_seen(&key, object.facts, bytes), index.get(&key).is_some())
        };
        if is_namespace(kind)
            && known
            && let Ok(namespace) = Namespace::parse(key.name.as_str())
        {
            attached.tenant_namespaces.insert(namespace, uid);
        }
        if moved {
            self.0.work.push(&tenant.lane, key);
        }
    }

    fn tenant_object_gone(&self, tenant: &Tenant, attached: &Attached, seen: &Watchfulness, kind: KindId, bytes: &Bytes) {
        let Some(object) = self.read(TenantSide::NAME, kind, &seen.noted, bytes) else { return };
        let Some(key) = self.tenant_key(kind, &object) else { return };
        if is_namespace(kind)
            && let Ok(namespace) = Namespace::parse(key.name.as_str())
        {
            attached.tenant_namespaces.remove_if(&namespace, |_, uid| *uid == object.facts.uid);
        }
        let unwanted = {
            let mut index = tenant.index.lock();
            if !index.tenant_gone(&key, Some(object.facts.uid)) {
                return;
            }
            let references = std::mem::take(&mut index.entry(&key).references);
            index.release(&key, &references)
        };
        self.0.work.push(&tenant.lane, key);
        self.0.work.push_each(&tenant.lane, unwanted);
    }

    /// The key of a tenant's object; `None` where its name cannot be, or its namespace never goes down.
    fn tenant_key(&self, kind: KindId, seen: &Seen<'_>) -> Option<Key> {
        let namespace = if kind.kind().resource().namespaced { Some(Namespace::parse(seen.namespace).ok()?) } else { None };
        let key = Key { kind, namespace, name: Name::parse(seen.name).ok()? };
        (!self.is_excluded(&key)).then_some(key)
    }

    /// Whether nothing is done about an object for the sake of its namespace. What went down before that was asked for is still known of,
    /// for the sake of the nodes that it runs on.
    pub(super) fn is_excluded(&self, key: &Key) -> bool {
        let within = key.namespace.as_ref().map_or(key.name.as_str(), Namespace::as_str);
        self.0.options.exclude_namespaces.contains(within)
    }

    /// What is watched of a kind in the super cluster: all that bears a tenant's label, in the namespaces of all tenants.
    ///
    /// Controllers copy the labels of what they work for: the slices of a tenant's Services bear its label too, and are not looked at.
    pub(super) fn super_source(&self, kind: KindId) -> Source {
        let selectors = [Some(keys::TENANT), kind.downward().and_then(Downward::super_selector)];
        self.source(kind, &selectors.into_iter().flatten().collect::<Vec<_>>())
    }

    /// What is watched of a kind in a tenant.
    fn tenant_source(&self, kind: KindId) -> Source {
        self.source(kind, kind.downward().and_then(Downward::tenant_selector).as_slice())
    }

    fn source(&self, kind: KindId, selectors: &[&str]) -> Source {
        let encoded = |text: &str| text.replace('/', "%2F").replace('=', "%3D").replace('!', "%21").replace(',', "%2C");
        let selector = (!selectors.is_empty()).then(|| selectors.iter().map(|text| encoded(text)).collect::<Vec<_>>().join("%2C"));
        let resource = kind.kind().resource();
        let optional = kind.kind().is_optional().then_some(self.0.options.patrol_interval);
        Source { selector, optional, ..whole(&resource.collection(None), resource.kind) }
    }
}

/// A whole collection, which every API server has.
pub(super) fn whole(path: &str, kind: &'static str) -> Source {
    Source { path: path.into(), kind, selector: None, name: None, from_now: false, bounds: Bounds::default(), optional: None }
}

/// Takes the address of the tenant's API server or name server out of a passing super Service.
pub(super) fn learn_address(tenant: &Tenant, key: &Key, bytes: &Bytes) {
    let (is_api_server, is_name_server) = (is_service(key, KUBERNETES), is_service(key, NAME_SERVER));
    if !is_api_server && !is_name_server {
        return;
    }
    let Ok(service) = serde_json::from_slice::<Value>(bytes) else { return };
    let address: Option<IpAddr> = service.pointer("/spec/clusterIP").and_then(Value::as_str).and_then(|ip| ip.parse().ok());
    let port = service.pointer("/spec/ports/0/port").and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok());
    tell_addresses(tenant, |addresses| {
        if is_api_server {
            addresses.kubernetes = address.zip(port);
        } else {
            addresses.dns = address;
        }
    });
}

/// A super Service is gone, and its address may be another tenant's the next moment: no new Pod asks there for names. That of the API
/// server stays, since whoever gets it has not its certificate, and Pods made meanwhile would have none for good.
fn forget_address(tenant: &Tenant, key: &Key) {
    if is_service(key, NAME_SERVER) {
        tell_addresses(tenant, |addresses| addresses.dns = None);
    }
}

fn is_service(key: &Key, at: (&str, &str)) -> bool {
    let here = (key.namespace.as_ref().map(Namespace::as_str).unwrap_or_default(), key.name.as_str());
    here == at && key.kind.kind().resource().kind == "Service"
}

fn tell_addresses(tenant: &Tenant, change: impl FnOnce(&mut Addresses)) {
    let addresses = {
        let mut addresses = tenant.addresses.lock();
        change(&mut addresses);
        *addresses
    };
    if let Some(attached) = tenant.attached() {
        attached.learn(|profile| (profile.kubernetes, profile.dns) = (addresses.kubernetes, addresses.dns));
    }
}

/// After a relist, namespaces that were not named are no longer known.
fn namespaces_missed(kind: KindId, tenant: &Tenant) {
    if !is_namespace(kind) {
        return;
    }
    let index = tenant.index.lock();
    let there: std::collections::HashSet<Arc<str>> = index
        .iter()
        .filter(|(key, _)| key.kind == kind)
        .filter_map(|(_, entry)| if let Slot::Here(_, place) = &entry.sup { Some(place.name.clone()) } else { None })
        .collect();
    drop(index);
    tenant.namespaces.lock().retain(|name, _| there.contains(name));
}

/// Whether the tenant has a namespace of this name, as far as is known.
fn is_there(index: &Index, kind: KindId, namespace: &str) -> bool {
    let Ok(name) = Name::parse(namespace) else { return false };
    index.get(&Key { kind, namespace: None, name }).is_some_and(|entry| matches!(entry.tenant, Slot::Here(..)))
}

fn is_namespace(kind: KindId) -> bool {
    kind.downward().is_some_and(|kind| kind.demand() == Demand::Contents)
}

/// The key that a record speaks of. Token Secrets carry the record of their Pod and are no pair of their own.
pub(super) fn key_of(kind: KindId, owner: &Owner) -> Option<Key> {
    let namespaced = kind.kind().resource().namespaced;
    (namespaced == owner.namespace.is_some()).then(|| Key { kind, namespace: owner.namespace.clone(), name: owner.name.clone() })
}

/// Whether a super copy is where it would be by its record. A record that somebody copied to another place says nothing: neither that the
/// object is there, nor that it is gone.
pub(super) fn is_in_place(key: &Key, owner: &Owner, namespace: &str, name: &str) -> bool {
    let Some(kind) = key.kind.downward() else { return false };
    match &key.namespace {
        None => TenantId::is_namespace_of(owner.tenant, key.name.as_str(), name),
        Some(within) => kind.rename(&key.name).as_str() == name && TenantId::is_namespace_of(owner.tenant, within.as_str(), namespace),
    }
}

fn reached(seen: &Watchfulness) {
    let mut unreachable = seen.unreachable.lock();
    if unreachable.is_some() {
        *unreachable = None;
    }
}

/// An error and its sources, in one line.
pub(super) fn chain(error: &CallError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// A super copy that we wrote or read ourselves. True if the pair must be looked at.
pub(super) fn super_known(tenant: &Tenant, key: &Key, bytes: &Bytes) -> Option<(mirror::Facts, bool)> {
    let kind = key.kind.downward()?;
    let seen = Seen::of(bytes).ok()?;
    let facts = if kind.observe() == Observe::Patrolled { without_content(seen.facts) } else { seen.facts };
    let owner = seen.owner.ok()?;
    let ours = seen.tenant_label.as_deref() == Some(&*tenant.lane) && key_of(key.kind, &owner).as_ref() == Some(key);
    if !ours {
        return None;
    }
    let place = Place { namespace: seen.namespace.into(), name: seen.name.into(), owner };
    let mut index = tenant.index.lock();
    let is_news = !index.is_overtaken(key, &facts, false);
    if is_news {
        tenant.counts.lock().seen(key, bytes);
    }
    let moved = is_news && index.super_seen(key, facts.clone(), place, Some(bytes));
    drop(index);
    Some((facts, moved))
}

#[cfg(test)]
mod tests {
    use common::Uid;

    use super::*;

    #[test]
    fn the_address_of_a_name_server_that_is_gone_is_told_to_nobody() {
        let tenant = crate::tenant::Tenants::default().entry("acme");
        let service = |(namespace, name): (&str, &str)| Key {
            kind: KindId::named("Service").unwrap(),
            namespace: Namespace::parse(namespace).ok(),
            name: Name::parse(name).unwrap(),
        };
        let dns = || tenant.addresses.lock().dns;
        let bytes = Bytes::from_static(br#"{"spec":{"clusterIP":"10.96.0.10","ports":[{"port":53}]}}"#);
        learn_address(&tenant, &service(NAME_SERVER), &bytes);
        learn_address(&tenant, &service(KUBERNETES), &bytes);
        forget_address(&tenant, &service(("default", "kube-dns")));
        assert_eq!(dns(), "10.96.0.10".parse().ok());
        forget_address(&tenant, &service(NAME_SERVER));
        assert_eq!(dns(), None);
        forget_address(&tenant, &service(KUBERNETES));
        assert!(tenant.addresses.lock().kubernetes.is_some());
    }

    #[test]
    fn s27_a_record_counts_only_where_it_was_made() {
        let id = TenantId::new(Uid::from_bits(7), "acme");
        let default = Namespace::parse("default").unwrap();
        let owner = |namespace: Option<&Namespace<_>>, name: &str| Owner {
            tenant: id.uid(),
            namespace: namespace.cloned(),
            name: Name::parse(name).unwrap(),
            uid: Uid::from_bits(1),
        };
        let within = id.namespace(&default);
        let is_in = |kind: &str, owner: &Owner, namespace: &str, name: &str| {
            is_in_place(&key_of(KindId::named(kind).unwrap(), owner).unwrap(), owner, namespace, name)
        };
        let pod = owner(Some(&default), "web");
        assert!(is_in("Pod", &pod, within.as_str(), "web"));
        assert!(!is_in("Pod", &pod, "default", "web"), "copied into a namespace of the super cluster's own");
        assert!(!is_in("Pod", &pod, within.as_str(), "other"));
        let other = TenantId::new(Uid::from_bits(8), "acme").namespace(&default);
        assert!(!is_in("Pod", &pod, other.as_str(), "web"), "copied into another tenant's namespace");
        let bundle = owner(Some(&default), keys::ROOT_CA_CONFIG_MAP);
        assert!(is_in("ConfigMap", &bundle, within.as_str(), "vc.kube-root-ca.crt"));
        assert!(!is_in("ConfigMap", &bundle, within.as_str(), keys::ROOT_CA_CONFIG_MAP));
        let namespace = owner(None, "default");
        assert!(is_in("Namespace", &namespace, "", within.as_str()));
        assert!(!is_in("Namespace", &namespace, "", other.as_str()));
    }
}
