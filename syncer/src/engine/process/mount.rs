//! What a Pod mounts of its tenant, tokens and trust bundles: made once it has a node, made up for, renewed, followed.

use std::sync::Arc;

use common::{InTenant, Namespace};
use mirror::mounts::{BundleAsk, Mounts};
use mirror::object::Object;
use mirror::plan::{Pair, SuperSide, TenantSide};
use tokio::time::Instant;

use super::{End, Job, end_for};
use crate::index::{Entry, Slot, Tokens};
use crate::remote::CallError;
use crate::tokens;

impl Job<'_> {
    fn pod_of(&self) -> Result<tokens::PodOf<'_>, CallError> {
        let uid = match self.tenant.index.lock().get(self.key).map(|entry| entry.tenant.clone()) {
            Some(Slot::Here(facts, ())) => facts.uid,
            _ => {
                return Err(CallError::Status {
                    side: "tenant",
                    code: 404,
                    reason: "NotFound".into(),
                    message: String::new(),
                    retry_after: None,
                });
            }
        };
        Ok(tokens::PodOf {
            namespace: self.key.namespace.as_ref().map(Namespace::as_str).unwrap_or_default(),
            name: self.key.name.as_str(),
            uid,
        })
    }

    fn note_tokens(&self, tokens: Tokens, mounts: Option<Arc<Mounts>>) {
        let mut index = self.tenant.index.lock();
        let entry = index.entry(self.key);
        (entry.tokens, entry.mounts) = (tokens, mounts);
    }

    /// The Pod was made, or is known to mount these, and has no node yet, which its tokens are to name.
    pub(super) fn await_node(&self, mounts: Arc<Mounts>) {
        self.note_tokens(Tokens::Missing, Some(mounts));
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
    pub(super) async fn tokens(&self, pair: &Pair, known: Tokens) -> Result<End, CallError> {
        let SuperSide::Ours(sup, owner) = &pair.sup else { return Ok(End::Rest) };
        let now = Instant::now();
        let due = match known {
            Tokens::None => pair.settled.is_none(),
            Tokens::Missing => true,
            Tokens::Good { pod, .. } => pod != sup.facts.uid || known.next().is_some_and(|next| next <= now),
        };
        if sup.facts.deleting {
            return Ok(End::Rest);
        }
        if !self.kind.graceful() || !due {
            return Ok(end_for(known));
        }
        let mounts = self.mounts(pair).await?;
        let Some(namespace) = self.namespace.as_ref().filter(|_| !mounts.is_empty()) else { return Ok(End::Rest) };
        if !self.tenant.index.lock().get(self.key).is_some_and(Entry::has_node) {
            self.await_node(mounts);
            return Ok(End::Rest);
        }
        let engine = self.engine;
        let contents = engine.0.trust_bundles.read(&self.attached.remote, &mounts.bundles).await?;
        self.tell_of_missing(pair, &mounts.bundles, &contents);
        let anchors = tokens::Anchors::new(&mounts.bundles, contents, engine.0.options.patrol_interval)?;
        let name = self.attached.id.token_secret(owner.uid);
        let place = tokens::Place { namespace, name: &name, pod: (self.name.as_str(), sup.facts.uid), owner };
        let stored = match known {
            // Only the bundles were due.
            Tokens::Good { renew, look, secret, pod } if pod == sup.facts.uid && renew > now => {
                let (before, hash) = (look.map(|(_, hash)| hash), anchors.hash());
                if before != hash {
                    let bearer = engine.0.writer.token(self.attached).await?;
                    tokens::follow(engine.sup(), engine.fence(), &bearer, &place, secret, &anchors).await?;
                }
                let look = hash.map(|hash| (now + engine.0.options.patrol_interval, hash));
                Tokens::Good { renew, look, secret, pod }
            }
            Tokens::None | Tokens::Missing | Tokens::Good { .. } => {
                let batch = tokens::request(self.attached, engine.fence(), &self.pod_of()?, &mounts.tokens).await?;
                let bearer = engine.0.writer.token(self.attached).await?;
                let share = engine.0.options.renew_share;
                let stored = tokens::store(engine.sup(), engine.fence(), &bearer, self.attached, &place, &batch, &anchors, share).await?;
                if matches!(known, Tokens::Good { .. }) {
                    engine.0.metrics.renewed_token(true);
                }
                stored
            }
        };
        let kept = (!mounts.bundles.is_empty()).then_some(mounts);
        self.note_tokens(stored, kept);
        Ok(end_for(stored))
    }

    /// A Pod that mounts what is not there waits for it; its tenant reads for what.
    fn tell_of_missing(&self, pair: &Pair, asks: &[BundleAsk], contents: &[Option<String>]) {
        let missing = asks.iter().zip(contents).find(|(_, content)| content.is_none());
        if let Some((ask, _)) = missing {
            let message = format!("{}: there is no such ClusterTrustBundle; make it, or set `optional`", ask.field);
            self.tell(pair, "TrustBundleMissing", message);
        }
    }
}
