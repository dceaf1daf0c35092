//! The patrol: what was missed, what cannot be watched, and what nobody wants any more, at a steady pace.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use common::{Namespace, Uid, keys};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use mirror::facts::Seen;
use mirror::kind::{Downward, KindId, Observe};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::intake::{chain, is_in_place, key_of};
use super::process::backoff;
use super::{Engine, downward_kinds};
use crate::index::{Entry, Key, Mounted, Place, Slot};
use crate::informer::page;
use crate::mounts::secret;
use crate::remote::CallError;
use crate::tenant::{Attached, Tenant};
use crate::turn::{Left, What};
use crate::writer::without_content;

/// Every so many patrols the kinds that are not watched are listed again.
const LIST_EVERY: u32 = 10;
/// Every so many patrols the bindings of writers are looked at again, each before the next write into its namespace.
const BIND_EVERY: u32 = 60;
/// Pairs whose copies are read and compared in each patrol, over all tenants: about one a second at the default interval.
const DEEP_IN_ALL: usize = 60;

/// How often the right to read in one namespace is asked for in a row: a RoleBinding takes a moment to count.
const REGAIN: u32 = 5;

/// The longest time between two lists, however long the interval is: a time can be told by then.
const SELDOM: Duration = Duration::from_hours(24 * 365);
/// Tenants whose lists run at once.
const AT_ONCE: usize = 8;
/// How often it is looked whose turn it is.
const LOOK: Duration = Duration::from_millis(250);
/// So many namespaces of a tenant that cannot be listed, one after the other, are not about the namespaces.
const GIVE_UP: usize = 3;

impl Engine {
    /// Patrols for ever, until dropped.
    pub(super) async fn patrol_for_ever(&self) {
        tokio::join!(self.list_for_ever(), self.look_for_ever());
    }

    /// Looks at pairs again, at a steady pace.
    async fn look_for_ever(&self) {
        let mut round: u32 = 0;
        loop {
            let tenants = self.0.tenants.all();
            for (at, tenant) in tenants.iter().enumerate() {
                let Some(attached) = tenant.attached().filter(|attached| !attached.is_halted() && self.super_synced()) else { continue };
                self.look_at_taken(tenant, &attached).await;
                if round == 0 {
                    continue;
                }
                if round.is_multiple_of(BIND_EVERY) {
                    tenant.namespaces.lock().values_mut().for_each(|known| known.bound = false);
                }
                if tenant.index.lock().has_room_again() {
                    tracing::info!(tenant = %tenant.lane, "there is room for what was left out, listing anew");
                    attached.relist.notify_waiters();
                }
                self.look_again(tenant, round, deep_share(tenants.len(), at, round));
            }
            round = round.wrapping_add(1);
            tokio::time::sleep(self.0.options.patrol_interval).await;
        }
    }

    /// Lists what is not watched, several tenants at once: one whose lists take long, or fail, keeps no other waiting.
    async fn list_for_ever(&self) {
        let mut under_way = FuturesUnordered::new();
        loop {
            if self.super_synced() {
                for tenant in self.0.tenants.all() {
                    if under_way.len() >= AT_ONCE {
                        break;
                    }
                    let Some(attached) = tenant.attached().filter(|attached| !attached.is_halted()) else { continue };
                    let what = tenant.turn.lock().begin(attached.since, Instant::now());
                    under_way.extend(what.map(|what| self.take_turn(tenant, attached, what)));
                }
            }
            tokio::select! {
                Some(()) = under_way.next() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    async fn take_turn(&self, tenant: Arc<Tenant>, attached: Arc<Attached>, what: What) {
        let left = self.list_patrolled(&tenant, &attached, &what).await;
        let interval = self.0.options.patrol_interval.saturating_mul(LIST_EVERY).min(SELDOM);
        tenant.turn.lock().end(&what, left, Instant::now(), interval, backoff);
    }

    /// Lists the kinds that are not watched, metadata-only, a namespace at a time, as the tenant's own writer.
    async fn list_patrolled(&self, tenant: &Arc<Tenant>, attached: &Arc<Attached>, what: &What) -> Left {
        let mut left = Left::default();
        for kind in patrolled_kinds() {
            let mut tokens = known_tokens(tenant);
            let namespaces = match what {
                What::All => {
                    tenant.index.lock().list_begins(kind, false);
                    namespaces(tenant)
                }
                What::These(namespaces) => namespaces.clone(),
            };
            self.list_namespaces(tenant, attached, kind, namespaces, &mut tokens, &mut left).await;
            tenant.turn.lock().note(&left);
            if *what == What::All {
                let missed = {
                    let mut index = tenant.index.lock();
                    index.not_listed(kind, &left.namespaces);
                    index.list_ends(kind, false)
                };
                self.0.work.push_each(&tenant.lane, missed);
                let is_listed = |key: &Key| {
                    let within = key.namespace.as_ref().map(|namespace| attached.id.namespace(namespace));
                    within.is_some_and(|within| left.namespaces.iter().all(|namespace| **namespace != *within.as_str()))
                };
                tokens.retain(|_, key| is_listed(key));
                self.tokens_missed(tenant, tokens);
            }
            self.push_kind(tenant, kind);
        }
        // They wait for what was found of their tokens.
        downward_kinds().filter(|id| id.downward().is_some_and(Downward::graceful)).for_each(|kind| self.push_kind(tenant, kind));
        left
    }

    /// Lists one namespace after the other. Where several in a row fail, the rest would too, and is left.
    async fn list_namespaces(
        &self,
        tenant: &Tenant,
        attached: &Attached,
        kind: KindId,
        namespaces: Vec<Arc<str>>,
        tokens: &mut HashMap<Uid, Key>,
        left: &mut Left,
    ) {
        let mut in_a_row = 0;
        for namespace in namespaces {
            if in_a_row >= GIVE_UP {
                left.namespaces.push(namespace);
                continue;
            }
            match self.list_namespace(tenant, attached, kind, &namespace, tokens).await {
                Ok(()) => in_a_row = 0,
                Err(error) => {
                    tracing::warn!(tenant = %tenant.lane, namespace = %namespace, error = %chain(&error), "could not patrol");
                    in_a_row += 1;
                    if let CallError::Status { retry_after: Some(wait), .. } = error {
                        left.wait = left.wait.max(wait);
                    }
                    left.namespaces.push(namespace);
                }
            }
        }
    }

    fn push_kind(&self, tenant: &Tenant, kind: KindId) {
        let keys: Vec<Key> = {
            let index = tenant.index.lock();
            index.iter().filter(|(key, entry)| key.kind == kind && entry.settled.is_none()).map(|(key, _)| key.clone()).collect()
        };
        self.0.work.push_each(&tenant.lane, keys);
    }

    /// Token Secrets that were there before the list and are not in it: somebody deleted them, and they are made again.
    fn tokens_missed(&self, tenant: &Tenant, missed: HashMap<Uid, Key>) {
        for (secret, key) in missed {
            let mut index = tenant.index.lock();
            let Some(entry) = index.get_mut(&key) else { continue };
            if matches!(entry.mounted, Mounted::Good { secret: known, .. } if known == secret) {
                entry.mounted = Mounted::Missing;
                drop(index);
                self.0.work.push(&tenant.lane, key);
            }
        }
    }

    async fn list_namespace(
        &self,
        tenant: &Tenant,
        attached: &Attached,
        kind: KindId,
        namespace: &str,
        tokens: &mut HashMap<Uid, Key>,
    ) -> Result<(), CallError> {
        let resource = kind.kind().resource();
        let mut next = String::new();
        let mut denied = 0;
        loop {
            let bearer = self.0.writer.token(attached).await?;
            let page = if next.is_empty() { String::new() } else { format!("&continue={next}") };
            let path = format!("{}?limit=500{page}", resource.collection(Some(namespace)));
            let bytes = match self.sup().list_metadata(path, Some(&bearer)).await {
                // The namespace went meanwhile.
                Err(error) if error.is_not_found() => return Ok(()),
                // We ended between making a namespace and its RoleBinding, or somebody removed that: nothing else would make it again.
                Err(error) if matches!(error.code(), Some(401 | 403)) && denied < REGAIN => {
                    if error.code() == Some(401) {
                        self.0.writer.forget_token(attached).await;
                    } else if !self.regain(tenant, attached, namespace).await? {
                        return Ok(());
                    }
                    denied += 1;
                    tokio::time::sleep(Duration::from_millis(100) * denied).await;
                    continue;
                }
                other => other?,
            };
            let tell = |item: &RawValue| self.patrolled(tenant, kind, item.get().as_bytes(), tokens);
            let (meta, _) = page::read(&bytes, page::METADATA, tell).map_err(|source| CallError::Unreadable { side: "super", source })?;
            if meta.next.is_empty() {
                return Ok(());
            }
            next = meta.next;
        }
    }

    /// Sees to the right to read in a super namespace; false if nothing is to be read there: it is going, or not in use.
    async fn regain(&self, tenant: &Tenant, attached: &Attached, namespace: &str) -> Result<bool, CallError> {
        let within = tenant.namespaces.lock().get(namespace).and_then(|known| Namespace::parse(&known.tenant_namespace).ok());
        let Some(within) = within else { return Ok(false) };
        let into = attached.id.namespace(&within);
        if into.as_str() != namespace {
            return Ok(false);
        }
        self.0.writer.mistrust(tenant, &into);
        Ok(self.0.writer.namespace(tenant, attached, &within).await?.is_some())
    }

    fn patrolled(&self, tenant: &Tenant, kind: KindId, bytes: &[u8], known: &mut HashMap<Uid, Key>) {
        let Ok(seen) = Seen::of(bytes) else { return };
        let Ok(owner) = seen.owner.clone() else { return };
        if seen.tenant_label.as_deref() != Some(&*tenant.lane) {
            return;
        }
        if seen.name.starts_with(keys::TOKEN_SECRET_PREFIX) {
            known.remove(&seen.facts.uid);
            let pod = KindId::named("Pod").map(|kind| Key { kind, namespace: owner.namespace.clone(), name: owner.name.clone() });
            let Some(key) = pod else { return };
            let mut index = tenant.index.lock();
            let entry = index.entry(&key);
            if let Mounted::Good { secret, version, spoilt, .. } = &mut entry.mounted
                && *secret == seen.facts.uid
            {
                // What is known of this very Secret has been so since it was written, unless somebody else wrote it later.
                if *version < seen.facts.version {
                    (*version, *spoilt) = (seen.facts.version, true);
                    drop(index);
                    self.0.work.push(&tenant.lane, key);
                }
                return;
            }
            if let Some(mounted) = secret::read(bytes, seen.facts.version, self.0.options.renew_share, self.0.options.patrol_interval)
                && !is_of_another(entry, mounted)
            {
                entry.mounted = mounted;
                drop(index);
                if matches!(mounted, Mounted::Good { spoilt: true, .. }) {
                    self.0.work.push(&tenant.lane, key);
                } else if let Some(next) = mounted.next() {
                    self.0.work.push_after(&tenant.lane, key, next.saturating_duration_since(Instant::now()));
                }
            }
            return;
        }
        let Some(key) = key_of(kind, &owner).filter(|key| is_in_place(key, &owner, seen.namespace, seen.name)) else { return };
        let place = Place { namespace: seen.namespace.into(), name: seen.name.into(), owner };
        if tenant.index.lock().super_seen(&key, without_content(seen.facts), place, None) {
            self.0.work.push(&tenant.lane, key);
        }
    }

    /// Looks whether the namespaces are free by now that were somebody else's: nobody tells us, since they are not ours.
    /// What the tenant does not have any more waits for nothing.
    async fn look_at_taken(&self, tenant: &Tenant, attached: &Attached) {
        let is_listed = KindId::named("Namespace").is_some_and(|kind| tenant.index.lock().synced(kind, false));
        if is_listed {
            tenant.taken.lock().retain(|_, within| attached.tenant_namespaces.contains_key(within));
        }
        let taken = tenant.taken.lock().clone();
        for (name, within) in taken {
            let found = self.sup().get(&format!("/api/v1/namespaces/{name}"), None).await;
            if found.is_err_and(|error| error.is_not_found()) {
                tenant.taken.lock().remove(&name);
                self.namespace_free(tenant, within.as_str());
            }
        }
    }

    /// Pushes what is not settled, and a few settled pairs to be compared in depth.
    fn look_again(&self, tenant: &Tenant, round: u32, share: usize) {
        let mut unsettled = Vec::new();
        let mut deep = Vec::new();
        {
            let mut index = tenant.index.lock();
            if !self.0.options.sync_unreferenced && index.holders_known() {
                let there = index.iter().filter(|(_, entry)| matches!(entry.sup, Slot::Here(..)));
                unsettled.extend(there.filter(|(key, _)| !index.wanted(key)).map(|(key, _)| key.clone()));
            }
            for (key, entry) in index.iter() {
                let has_super = matches!(entry.sup, Slot::Here(..));
                match entry.settled {
                    None if entry.told.is_none() => unsettled.push(key.clone()),
                    Some(_) if has_super => deep.push(key.clone()),
                    None | Some(_) => {}
                }
            }
            let start = (round as usize).wrapping_mul(share) % deep.len().max(1);
            deep.rotate_left(start);
            deep.truncate(share);
            for key in &deep {
                if let Some(mark) = index.get_mut(key).and_then(|entry| entry.settled.as_mut()).and_then(|settled| settled.sup.as_mut()) {
                    // Not the mark that was: both bodies are read and compared.
                    mark.main = !mark.main;
                }
            }
        }
        self.0.work.push_each(&tenant.lane, unsettled.into_iter().chain(deep));
    }
}

fn namespaces(tenant: &Tenant) -> Vec<Arc<str>> {
    let namespaces = tenant.namespaces.lock();
    namespaces.iter().filter(|(_, known)| !known.deleting).map(|(name, _)| name.clone()).collect()
}

/// Whether a Secret belongs to another super Pod than the one that is there: an earlier one, whose Secret is still to be collected.
fn is_of_another(entry: &Entry, mounted: Mounted) -> bool {
    matches!((&entry.sup, mounted), (Slot::Here(facts, _), Mounted::Good { pod, .. }) if pod != facts.uid)
}

/// The token Secrets that are known to be there, and whose they are.
fn known_tokens(tenant: &Tenant) -> HashMap<Uid, Key> {
    let index = tenant.index.lock();
    let good = index.iter().filter_map(|(key, entry)| match entry.mounted {
        Mounted::Good { secret, .. } => Some((secret, key.clone())),
        Mounted::None | Mounted::Missing => None,
    });
    good.collect()
}

/// Whether the kinds that are not watched have been listed once.
pub(super) fn has_patrolled(tenant: &Tenant) -> bool {
    let index = tenant.index.lock();
    patrolled_kinds().all(|kind| index.super_listed(kind))
}

fn patrolled_kinds() -> impl Iterator<Item = KindId> {
    downward_kinds().filter(|id| id.downward().is_some_and(|kind| kind.observe() == Observe::Patrolled))
}

/// How many pairs of the tenant at this place are compared in depth in this round, so that all tenants together stay within
/// [`DEEP_IN_ALL`].
fn deep_share(tenants: usize, at: usize, round: u32) -> usize {
    let every = tenants.div_ceil(DEEP_IN_ALL).max(1);
    if (at + round as usize).is_multiple_of(every) { (DEEP_IN_ALL / tenants.max(1)).max(1) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deep_patrol_costs_the_same_with_few_tenants_and_many() {
        for tenants in [1, 4, 60, 100, 1000] {
            for round in 0..3 {
                let all: usize = (0..tenants).map(|at| deep_share(tenants, at, round)).sum();
                assert!((30..=DEEP_IN_ALL).contains(&all), "{tenants} tenants, round {round}: {all}");
            }
        }
    }
}
