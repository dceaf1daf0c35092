//! What a Pod mounts of its tenant: made once it has a node, made up for, renewed, followed.

use std::sync::Arc;

use common::{InTenant, Namespace};
use mirror::mounts::Mounts;
use mirror::object::Object;
use mirror::plan::{Pair, SuperSide, TenantSide};
use tokio::time::Instant;

use super::{End, Job, end_for};
use crate::index::{Mounted, Slot};
use crate::mounts::certificates::{self, Progress};
use crate::mounts::secret::{self, Contents};
use crate::mounts::{PodOf, tokens};
use crate::remote::CallError;

/// What is due of what a Pod mounts.
#[derive(Clone, Copy)]
struct Due {
    tokens: bool,
    bundles: bool,
    certificates: bool,
}

impl Due {
    const ALL: Self = Self { tokens: true, bundles: true, certificates: true };

    fn of(known: Mounted, now: Instant) -> Self {
        match known {
            Mounted::None | Mounted::Missing => Self::ALL,
            Mounted::Good { renew, look, refresh, .. } => Self {
                tokens: renew <= now,
                bundles: look.is_some_and(|(look, _)| look <= now),
                certificates: refresh.is_some_and(|refresh| refresh <= now),
            },
        }
    }

    fn is_any(self) -> bool {
        self.tokens || self.bundles || self.certificates
    }
}

impl Job<'_> {
    /// The tenant's Pod and its node, if it is there and has one.
    fn bound(&self) -> Option<(common::Uid, String)> {
        let index = self.tenant.index.lock();
        let Slot::Here(facts, ()) = &index.get(self.key)?.tenant else { return None };
        Some((facts.uid, facts.node.as_deref()?.to_owned()))
    }

    fn note_mounted(&self, mounted: Mounted, mounts: Option<Arc<Mounts>>) {
        let mut index = self.tenant.index.lock();
        let entry = index.entry(self.key);
        (entry.mounted, entry.mounts) = (mounted, mounts);
    }

    /// The Pod was made, or is known to mount these, and has no node yet, which its tokens are to name.
    pub(super) fn await_node(&self, mounts: Arc<Mounts>) {
        self.note_mounted(Mounted::Missing, Some(mounts));
    }

    /// What the Pod mounts: as remembered, or read off the tenant's copy.
    async fn mounts(&self, pair: &Pair) -> Result<Arc<Mounts>, CallError> {
        if let Some(mounts) = self.tenant.index.lock().get(self.key).and_then(|entry| entry.mounts.clone()) {
            return Ok(mounts);
        }
        let TenantSide::Here(copy) = &pair.tenant else { return Ok(Arc::default()) };
        if let Some(body) = &copy.body {
            return Ok(self.kind.mounts(body).into());
        }
        let bytes = self.attached.remote.get(&self.tenant_path(), None).await?;
        let unreadable = |error| CallError::Unreadable { side: "tenant", source: serde::de::Error::custom(error) };
        Ok(self.kind.mounts(&InTenant(Object::parse(&bytes).map_err(unreadable)?)).into())
    }

    /// Sees to what a Pod that has a node mounts: missing, of an earlier super Pod, or due.
    pub(super) async fn mount(&self, pair: &Pair, known: Mounted) -> Result<End, CallError> {
        let SuperSide::Ours(sup, owner) = &pair.sup else { return Ok(End::Rest) };
        if sup.facts.deleting {
            return Ok(End::Rest);
        }
        let now = Instant::now();
        // One of an earlier super Pod is none.
        let own = if matches!(known, Mounted::Good { pod, .. } if pod != sup.facts.uid) { Mounted::Missing } else { known };
        let due = Due::of(own, now);
        let is_settled_without = own == Mounted::None && pair.settled.is_some();
        if !self.kind.graceful() || is_settled_without || !due.is_any() {
            return Ok(end_for(own));
        }
        let mounts = self.mounts(pair).await?;
        let Some(namespace) = self.namespace.as_ref().filter(|_| !mounts.is_empty()) else { return Ok(End::Rest) };
        let Some((uid, node)) = self.bound() else {
            self.await_node(mounts);
            return Ok(End::Rest);
        };
        let within = self.key.namespace.as_ref().map(Namespace::as_str).unwrap_or_default();
        let pod = PodOf { namespace: within, name: self.key.name.as_str(), uid, node: &node };
        let (engine, mut contents) = (self.engine, Contents::default());
        let (mut renew, mut look, mut refresh, there) = match own {
            Mounted::Good { renew, look, refresh, secret, .. } => (renew, look, refresh, Some(secret)),
            Mounted::None | Mounted::Missing => (now, None, None, None),
        };
        // Certificates first: where they are waited for, nothing else is asked for yet.
        if due.certificates {
            match self.certificates(&pod, &mounts).await? {
                Progress::Given(given) => refresh = given.put_into(&mut contents),
                Progress::Wait(wait) if there.is_none() => {
                    self.await_node(mounts);
                    return Ok(End::At(now + wait));
                }
                Progress::Wait(wait) => refresh = Some(now + wait),
                Progress::Refused(words) => {
                    self.tell(pair, "CertificateRefused", words);
                    if there.is_none() {
                        return Ok(End::Rest);
                    }
                    refresh = None;
                }
            }
        }
        if due.bundles {
            let anchors = engine.0.trust_bundles.read(&self.attached.remote, &mounts.bundles).await?;
            if let Some(ask) = anchors.missing(&mounts.bundles) {
                let message = format!("{}: there is no such ClusterTrustBundle; make it, or set `optional`", ask.field);
                self.tell(pair, "TrustBundleMissing", message);
            }
            let before = look.map(|(_, hash)| hash);
            look = anchors.hash().map(|hash| (now + engine.0.options.patrol_interval, hash));
            if before != anchors.hash() {
                anchors.put_into(&mut contents);
            }
        }
        if due.tokens {
            let batch = tokens::request(self.attached, engine.fence(), &pod, &mounts.tokens).await?;
            renew = batch.put_into(&mut contents, engine.0.options.renew_share);
        }
        let name = self.attached.id.token_secret(owner.uid);
        let place = secret::Place { namespace, name: &name, pod: (self.name.as_str(), sup.facts.uid), owner };
        let secret = match there {
            Some(secret) if contents.is_empty() => secret,
            Some(secret) => {
                let bearer = engine.0.writer.token(self.attached).await?;
                secret::change(engine.sup(), engine.fence(), &bearer, &place, secret, &contents).await?;
                secret
            }
            None => {
                let bearer = engine.0.writer.token(self.attached).await?;
                secret::store(engine.sup(), engine.fence(), &bearer, self.attached, &place, &contents).await?
            }
        };
        if due.tokens && there.is_some() {
            engine.0.metrics.renewed_token(true);
        }
        let mounted = Mounted::Good { renew, look, refresh, secret, pod: sup.facts.uid };
        let is_asked_again = !mounts.bundles.is_empty() || !mounts.certificates.is_empty();
        self.note_mounted(mounted, is_asked_again.then_some(mounts));
        Ok(end_for(mounted))
    }

    async fn certificates(&self, pod: &PodOf<'_>, mounts: &Mounts) -> Result<Progress, CallError> {
        let mut pending = self.tenant.index.lock().get_mut(self.key).and_then(|entry| entry.pending.take());
        let progress = certificates::advance(self.attached, self.engine.fence(), pod, &mounts.certificates, &mut pending).await;
        // What was given is not needed any more, and the next are asked for anew.
        let pending = pending.filter(|_| !matches!(progress, Ok(Progress::Given(_))));
        if let Some(entry) = self.tenant.index.lock().get_mut(self.key) {
            entry.pending = pending;
        }
        progress
    }
}
