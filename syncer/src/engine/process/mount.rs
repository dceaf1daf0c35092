//! What a Pod mounts of its tenant: made once it has a node, made up for, renewed, followed.

use std::sync::Arc;
use std::time::Duration;

use common::{InTenant, Namespace, Uid};
use mirror::Facts;
use mirror::mounts::Mounts;
use mirror::object::Object;
use mirror::plan::{Pair, SuperSide, TenantSide};
use tokio::time::Instant;

use super::{End, Job, end_for};
use crate::index::{Look, Mounted, Slot, uid_of};
use crate::mounts::certificates::{self, Progress};
use crate::mounts::secret::{self, Contents};
use crate::mounts::{PodOf, tokens};
use crate::remote::CallError;

/// What is remembered of a Pod, in bytes: many times what admission puts into every one.
const REMEMBERED: usize = 4096;

/// How soon what could not be had is asked for again, where a Pod runs with an earlier one.
const SOON: Duration = Duration::from_mins(1);

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
            Mounted::None | Mounted::Missing | Mounted::Good { spoilt: true, .. } => Self::ALL,
            Mounted::Good { renew, look, refresh, .. } => Self {
                tokens: renew.is_some_and(|renew| renew <= now),
                bundles: look.is_some_and(|look| look.at <= now),
                certificates: refresh.is_some_and(|refresh| refresh <= now),
            },
        }
    }

    fn is_any(self) -> bool {
        self.tokens || self.bundles || self.certificates
    }
}

impl Job<'_> {
    /// The tenant's Pod and its node, if it is there and both copies have one.
    fn bound(&self, sup: &Facts) -> Option<(Uid, String)> {
        let index = self.tenant.index.lock();
        let Slot::Here(facts, ()) = &index.get(self.key)?.tenant else { return None };
        sup.node.as_ref()?;
        Some((facts.uid, facts.node.as_deref()?.to_owned()))
    }

    fn note_mounted(&self, mounted: Mounted, mounts: Option<Arc<Mounts>>) {
        let mut index = self.tenant.index.lock();
        let entry = index.entry(self.key);
        let tenant = uid_of(&entry.tenant);
        entry.mounted = mounted;
        // What is long is read again when it is needed.
        entry.mounts = tenant.zip(mounts.filter(|mounts| mounts.bytes() <= REMEMBERED));
    }

    /// A super Pod is about to be made: what it mounts is given to it once it has a node.
    pub(super) fn will_mount(&self, mounts: Mounts) {
        if mounts.is_empty() {
            self.note_mounted(Mounted::None, None);
        } else {
            self.note_mounted(Mounted::Missing, Some(mounts.into()));
        }
    }

    /// What the Pod mounts: as remembered, or read off the tenant's copy.
    async fn mounts(&self, pair: &Pair) -> Result<Arc<Mounts>, CallError> {
        let TenantSide::Here(copy) = &pair.tenant else { return Ok(Arc::default()) };
        let remembered = self.tenant.index.lock().get(self.key).and_then(|entry| entry.mounts.clone());
        if let Some((_, mounts)) = remembered.filter(|(uid, _)| *uid == copy.facts.uid) {
            return Ok(mounts);
        }
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
        // One of an earlier super Pod is none.
        let own = if matches!(known, Mounted::Good { pod, .. } if pod != sup.facts.uid) { Mounted::Missing } else { known };
        let due = Due::of(own, Instant::now());
        let is_settled_without = own == Mounted::None && pair.settled.is_some();
        if !self.kind.graceful() || is_settled_without || !due.is_any() {
            return Ok(end_for(own));
        }
        let mounts = self.mounts(pair).await?;
        let Some(namespace) = self.namespace.as_ref().filter(|_| !mounts.is_empty()) else {
            self.note_mounted(Mounted::None, None);
            return Ok(End::Rest);
        };
        let Some((uid, node)) = self.bound(&sup.facts) else {
            self.note_mounted(Mounted::Missing, Some(mounts));
            return Ok(End::Rest);
        };
        let within = self.key.namespace.as_ref().map(Namespace::as_str).unwrap_or_default();
        let pod = PodOf { namespace: within, name: self.key.name.as_str(), uid, node: &node };
        let mut filling = Filling::of(own);
        if let Some(end) = self.fill(pair, &pod, &mounts, due, &mut filling).await? {
            return Ok(end);
        }
        let name = self.attached.id.token_secret(owner.uid);
        let place = secret::Place { namespace, name: &name, pod: (self.name.as_str(), sup.facts.uid), owner };
        self.put(&place, &mounts, filling).await
    }

    /// Asks for what is due. Where a Secret is there, what cannot be had keeps nothing else from it, unless what is there is not to be trusted. An
    /// end: there is nothing to be written yet.
    async fn fill(
        &self,
        pair: &Pair,
        pod: &PodOf<'_>,
        mounts: &Arc<Mounts>,
        due: Due,
        filling: &mut Filling,
    ) -> Result<Option<End>, CallError> {
        let (engine, is_new) = (self.engine, filling.secret.is_none());
        let is_whole = is_new || filling.spoilt;
        // Certificates first: where they are waited for, nothing else is asked for yet.
        if due.certificates {
            match self.certificates(pod, mounts).await {
                Ok(Progress::Given(given)) => filling.refresh = given.put_into(&mut filling.contents),
                Ok(Progress::Wait(next, whom)) => {
                    if let Some(whom) = whom {
                        self.tell(pair, "CertificatePending", whom);
                    }
                    if is_new {
                        self.note_mounted(Mounted::Missing, Some(mounts.clone()));
                        return Ok(Some(End::At(next)));
                    }
                    filling.refresh = Some(next);
                }
                Ok(Progress::Refused(words)) => {
                    self.tell(pair, "CertificateRefused", words);
                    if is_new {
                        return Ok(Some(End::Rest));
                    }
                    filling.refresh = None;
                }
                Err(error) if is_whole => return Err(error),
                Err(error) => {
                    filling.refresh = Some(Instant::now() + SOON);
                    filling.failed = Some(error);
                }
            }
        }
        if due.bundles {
            match engine.0.trust_bundles.read(self.attached, &mounts.bundles).await {
                Ok(anchors) => {
                    if let Some(ask) = anchors.missing(&mounts.bundles) {
                        let message = format!("{}: there is no such ClusterTrustBundle; make it, or set `optional`", ask.field);
                        self.tell(pair, "TrustBundleMissing", message);
                    }
                    let before = filling.look;
                    filling.look = anchors.hash().map(|hash| Look::next(before, hash, engine.0.options.patrol_interval));
                    if before.map(|look| look.hash) != anchors.hash() {
                        anchors.put_into(&mut filling.contents);
                    }
                }
                Err(error) if is_whole => return Err(error),
                Err(error) => {
                    let again = |look: Look| Look { at: Instant::now() + SOON, ..look };
                    filling.look = filling.look.map(again);
                    filling.failed = Some(error);
                }
            }
        }
        if due.tokens {
            match tokens::request(self.attached, engine.fence(), pod, &mounts.tokens).await {
                Ok(batch) => filling.renew = batch.put_into(&mut filling.contents, engine.0.options.renew_share),
                Err(error) if is_whole => return Err(error),
                Err(error) => filling.failed = Some(error),
            }
        }
        Ok(None)
    }

    /// Writes what was asked for, and remembers it.
    async fn put(&self, place: &secret::Place<'_>, mounts: &Arc<Mounts>, filling: Filling) -> Result<End, CallError> {
        let (engine, attached) = (self.engine, self.attached);
        let is_asked_again = || (!mounts.bundles.is_empty() || !mounts.certificates.is_empty()).then(|| mounts.clone());
        let (secret, version) = match filling.secret {
            Some(known) if filling.contents.is_empty() => known,
            Some(known) => {
                let bearer = engine.0.writer.token(attached).await?;
                let changed = secret::change(engine.sup(), engine.fence(), &bearer, place, known, &filling.contents).await;
                if changed.as_ref().is_err_and(|error| matches!(error.code(), Some(404 | 409))) {
                    // It is gone, or somebody else wrote it: all of it is made anew.
                    self.note_mounted(Mounted::Missing, Some(mounts.clone()));
                }
                let changed = changed?;
                if !mounts.tokens.is_empty() {
                    engine.0.metrics.renewed_token(true);
                }
                changed
            }
            None => {
                let bearer = engine.0.writer.token(attached).await?;
                secret::store(engine.sup(), engine.fence(), &bearer, attached, place, &filling.contents).await?
            }
        };
        let Filling { renew, look, refresh, failed, .. } = filling;
        let mounted = Mounted::Good { renew, look, refresh, secret, version, spoilt: false, pod: place.pod.1 };
        self.note_mounted(mounted, is_asked_again());
        self.written();
        failed.map_or(Ok(end_for(mounted)), Err)
    }

    /// The certificates of the Pod are where they belong: the next are asked for anew. Those that a signer refused are not.
    fn written(&self) {
        if let Some(entry) = self.tenant.index.lock().get_mut(self.key)
            && entry.pending.as_ref().is_some_and(|pending| pending.is_given())
        {
            entry.pending = None;
        }
    }

    async fn certificates(&self, pod: &PodOf<'_>, mounts: &Mounts) -> Result<Progress, CallError> {
        let mut pending = self.tenant.index.lock().get_mut(self.key).and_then(|entry| entry.pending.take());
        let progress = certificates::advance(self.attached, self.engine.fence(), pod, &mounts.certificates, &mut pending).await;
        if let Some(entry) = self.tenant.index.lock().get_mut(self.key) {
            entry.pending = pending;
        }
        progress
    }
}

/// What is to be written, and what is known of the Secret then.
struct Filling {
    contents: Contents,
    renew: Option<Instant>,
    look: Option<Look>,
    refresh: Option<Instant>,
    /// UID and version of the one that is there.
    secret: Option<(Uid, u64)>,
    /// Whether what is in it is not to be trusted.
    spoilt: bool,
    failed: Option<CallError>,
}

impl Filling {
    fn of(known: Mounted) -> Self {
        let (renew, look, refresh, secret, spoilt) = match known {
            // The bundles that were in it are not known to be there.
            Mounted::Good { renew, look, refresh, secret, version, spoilt, .. } => {
                (renew, look.filter(|_| !spoilt), refresh, Some((secret, version)), spoilt)
            }
            Mounted::None | Mounted::Missing => (None, None, None, None, false),
        };
        Self { contents: Contents::default(), renew, look, refresh, secret, spoilt, failed: None }
    }
}
