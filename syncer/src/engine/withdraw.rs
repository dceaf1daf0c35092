//! What was taken from a tenant ends below, also where nothing is written for the tenant: it is paused, held, silent, or not attached at all.
//!
//! Nothing of the tenant's is asked for this, so that it cannot keep by its silence what another may have by now. What it may have is what is registered
//! for it, which is the word of the administrator. Should it be given back, its own copy makes it anew.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use common::{InSuper, TenantId, Uid};
use mirror::Cx;
use mirror::cx::{NoHandlers, NoPods, NothingPublished, Profile};
use mirror::kind::{Downward, KindId};
use mirror::object::Object;
use runtime::kubeconfig::Secret;
use serde_json::json;
use tokio::time::Instant;

use super::Engine;
use crate::index::{Index, Key, Place, Slot};
use crate::remote::{CallError, Patch};

/// How long a pair may be undecided before its super copy is looked at without its tenant: more than it takes to write for one that is well.
const WAIT: Duration = Duration::from_secs(5);

/// Super copies of one tenant that were not decided on since what is registered for the tenant moved.
#[derive(Debug, Default)]
pub(crate) struct Undecided {
    /// What was registered when that was looked at last.
    profile: Profile,
    pairs: HashMap<Key, Doubt>,
}

/// Since when a super copy of this UID and main part is undecided, and whether it was found to be right.
#[derive(Debug)]
struct Doubt {
    uid: Uid,
    main: u64,
    since: Instant,
    is_right: bool,
}

impl Undecided {
    /// What is to be looked at now. A pair of an attached tenant that agrees was decided on by what is registered now.
    fn due(&mut self, index: &Index, tenant: Uid, profile: &Profile, is_attached: bool, now: Instant) -> Vec<(Key, Uid, Place)> {
        if self.profile != *profile {
            *self = Self { profile: profile.clone(), pairs: HashMap::new() };
        }
        let mut before = std::mem::take(&mut self.pairs);
        let mut due = Vec::new();
        for (key, entry) in index.iter().filter(|(key, entry)| depends(key.kind) && !(is_attached && entry.settled.is_some())) {
            let Slot::Here(facts, place) = &entry.sup else { continue };
            if facts.deleting || place.owner.tenant != tenant {
                continue;
            }
            let same = before.remove(key).filter(|doubt| (doubt.uid, doubt.main) == (facts.uid, facts.main));
            let doubt = same.unwrap_or(Doubt { uid: facts.uid, main: facts.main, since: now, is_right: false });
            if !doubt.is_right && now >= doubt.since + WAIT {
                due.push((key.clone(), facts.uid, place.clone()));
            }
            self.pairs.insert(key.clone(), doubt);
        }
        due
    }

    fn found_right(&mut self, key: &Key) {
        if let Some(doubt) = self.pairs.get_mut(key) {
            doubt.is_right = true;
        }
    }
}

fn depends(kind: KindId) -> bool {
    kind.downward().and_then(Downward::depends_on).is_some()
}

impl Engine {
    /// Ends what went down for a tenant and may not stay by what is registered for it now, of pairs on which nobody decides. What cannot be ended
    /// holds nothing else back.
    pub(crate) async fn withdraw(
        &self,
        id: &TenantId,
        registered: impl Fn() -> Option<Profile>,
        undecided: &mut Undecided,
    ) -> Result<(), CallError> {
        let Some(profile) = registered() else { return Ok(()) };
        let Some(tenant) = self.0.tenants.get(id.as_str()).filter(|_| self.super_synced()) else { return Ok(()) };
        let attached = tenant.attached();
        if let Some(attached) = &attached {
            self.register(attached, &profile.hosts, &profile.external);
        }
        let due = undecided.due(&tenant.index.lock(), id.uid(), &profile, attached.is_some(), Instant::now());
        if due.is_empty() {
            return Ok(());
        }
        let bearer = match &attached {
            Some(attached) => self.0.writer.token(attached).await?,
            None => self.0.writer.issue(id).await?.token,
        };
        let mut first = None;
        for (key, uid, place) in due {
            if registered().as_ref() != Some(&profile) {
                // What was taken may have been given back.
                break;
            }
            match self.end_taken(&key, uid, &place, id, &profile, &bearer).await {
                Ok(true) => undecided.found_right(&key),
                Ok(false) => {}
                Err(error) => drop(first.get_or_insert(error)),
            }
        }
        let Some(error) = first else { return Ok(()) };
        if let (Some(401), Some(attached)) = (error.code(), &attached) {
            self.0.writer.forget_token(attached).await;
        }
        Err(error)
    }

    /// Ends of one super copy what is its tenant's no longer, as it is now: whatever somebody else made of it meanwhile is looked at again. True if
    /// it may stay as it is.
    async fn end_taken(
        &self,
        key: &Key,
        uid: Uid,
        place: &Place,
        id: &TenantId,
        profile: &Profile,
        bearer: &Secret,
    ) -> Result<bool, CallError> {
        let Some(kind) = key.kind.downward() else { return Ok(true) };
        let path = kind.resource().path(Some(&place.namespace), &place.name);
        let sup = match self.sup().get(&path, Some(bearer)).await {
            Err(error) if error.is_not_found() => return Ok(true),
            other => {
                Object::parse(&other?).map_err(|error| CallError::Unreadable { side: "super", source: serde::de::Error::custom(error) })?
            }
        };
        if sup.meta.uid != uid {
            return Ok(true);
        }
        let sup = InSuper(sup);
        let (may_stay, less) = self.with_registered(id, profile, |cx| (kind.may_stay(&sup, cx), kind.without_taken(&sup, cx)));
        if may_stay {
            return Ok(true);
        }
        tracing::info!(tenant = %id, object = %key, "what was taken from a tenant ends, though nothing is written for it");
        let version = &sup.0.meta.version;
        let ended = match less {
            Some(mut less) => {
                if let Some(fields) = less.as_object_mut() {
                    fields.insert("metadata".to_owned(), json!({"uid": uid.to_string(), "resourceVersion": version}));
                }
                self.sup().patch(&path, Patch::Merge, &less, Some(bearer)).await
            }
            None => self.sup().delete_version(&path, uid, version, Some(bearer)).await,
        };
        self.0.metrics.wrote("super", kind.resource().kind, "withdraw", ended.is_ok());
        match ended {
            Err(error) if matches!(error.code(), Some(404 | 409)) => Ok(false),
            other => other.map(|_| false),
        }
    }

    fn with_registered<T>(&self, id: &TenantId, profile: &Profile, ask: impl FnOnce(&Cx<'_>) -> T) -> T {
        let nodes = BTreeSet::new();
        ask(&Cx {
            tenant: id,
            policy: &self.0.policy,
            profile,
            namespace: None,
            super_namespace: None,
            nodes: &nodes,
            super_nodes: &nodes,
            pods: &NoPods,
            published: &NothingPublished,
            handlers: &NoHandlers,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use common::{Name, Namespace, Owner};
    use mirror::facts::Seen;
    use mirror::host::Hosts;
    use mirror::plan::{Mark, Settled};

    use super::*;

    const TENANT: Uid = Uid::from_bits(99);

    fn key(kind: &str) -> Key {
        let (namespace, name) = (Namespace::parse("default").ok(), Name::parse("a").unwrap());
        Key { kind: KindId::named(kind).unwrap(), namespace, name }
    }

    fn show(index: &mut Index, kind: &str, version: u64) {
        let text = format!(
            r#"{{"metadata":{{"name":"a","uid":"{}","resourceVersion":"{version}"}},"spec":{{"a":{version}}}}}"#,
            Uid::from_bits(1)
        );
        let facts = Seen::of(text.as_bytes()).unwrap().facts;
        let owner = Owner { tenant: TENANT, namespace: key(kind).namespace, name: key(kind).name, uid: Uid::from_bits(2) };
        index.super_seen(&key(kind), facts, Place { namespace: "vc-x".into(), name: "a".into(), owner }, None);
    }

    fn settle(index: &mut Index, kind: &str, is_settled: bool) {
        let entry = index.get_mut(&key(kind)).unwrap();
        let Slot::Here(facts, _) = &entry.sup else { panic!("nothing is there") };
        entry.settled = is_settled.then(|| Settled { tenant: None, sup: Some(Mark::from(facts)), reported: None });
    }

    #[tokio::test(start_paused = true)]
    async fn s23_what_nobody_decides_on_is_looked_at_without_its_tenant_once() {
        let (mut index, mut undecided) = (Index::default(), Undecided::default());
        let (before, after) = (
            Profile::default(),
            Profile { hosts: Arc::new(Hosts::new(vec!["a.example.com".parse().unwrap()], Vec::new())), ..Profile::default() },
        );
        show(&mut index, "Ingress", 1);
        show(&mut index, "ConfigMap", 1);
        let mut due = |index: &Index, profile: &Profile| -> Vec<Key> {
            let due: Vec<_> = undecided.due(index, TENANT, profile, true, Instant::now()).into_iter().map(|(key, ..)| key).collect();
            for key in &due {
                undecided.found_right(key);
            }
            due
        };
        // One that is well is decided on meanwhile.
        assert!(due(&index, &before).is_empty());
        settle(&mut index, "Ingress", true);
        tokio::time::advance(WAIT).await;
        assert!(due(&index, &before).is_empty());
        settle(&mut index, "Ingress", false);
        assert!(due(&index, &before).is_empty());
        tokio::time::advance(WAIT).await;
        assert_eq!(due(&index, &before), [key("Ingress")]);
        tokio::time::advance(WAIT).await;
        assert!(due(&index, &before).is_empty(), "it was found right");
        // What is registered moves, or the object does.
        assert!(due(&index, &after).is_empty());
        tokio::time::advance(WAIT).await;
        assert_eq!(due(&index, &after), [key("Ingress")]);
        show(&mut index, "Ingress", 2);
        assert!(due(&index, &after).is_empty());
        tokio::time::advance(WAIT).await;
        assert_eq!(due(&index, &after), [key("Ingress")]);
        let other = undecided.due(&index, Uid::from_bits(98), &before, true, Instant::now() + WAIT);
        assert!(other.is_empty(), "another's record");
    }
}
