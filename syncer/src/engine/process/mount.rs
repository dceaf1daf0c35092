//! The tokens that a Pod mounts: made with it, made up for, renewed.

use bytes::Bytes;
use common::{InTenant, Namespace};
use mirror::facts::Seen;
use mirror::object::Object;
use mirror::plan::{Pair, SuperSide, TenantSide};
use tokio::time::Instant;

use super::{End, Job, end_for};
use crate::index::{Slot, Tokens};
use crate::remote::CallError;
use crate::tokens;

impl Job<'_> {
    pub(super) fn pod_of(&self) -> Result<tokens::PodOf<'_>, CallError> {
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

    pub(super) fn note_tokens(&self, tokens: Tokens) {
        self.tenant.index.lock().entry(self.key).tokens = tokens;
    }

    pub(super) async fn store_tokens(
        &self,
        pod: &Bytes,
        bearer: &runtime::kubeconfig::Secret,
        batch: &tokens::Batch,
    ) -> Result<Tokens, CallError> {
        let seen = Seen::of(pod).map_err(|source| CallError::Unreadable { side: "super", source })?;
        let (Ok(owner), Some(namespace)) = (&seen.owner, &self.namespace) else { return Ok(Tokens::Missing) };
        let name = self.attached.id.token_secret(owner.uid);
        let place = tokens::Place { namespace, name: &name, pod: (seen.name, seen.facts.uid), owner };
        let share = self.engine.0.options.renew_share;
        tokens::store(self.engine.sup(), self.engine.fence(), bearer, self.attached, &place, batch, share).await
    }

    /// Sees to the tokens of a settled Pod: missing, of an earlier super Pod, or due.
    pub(super) async fn tokens(&self, pair: &Pair, known: Tokens) -> Result<End, CallError> {
        let SuperSide::Ours(sup, owner) = &pair.sup else { return Ok(end_for(known)) };
        let due = match known {
            Tokens::None => pair.settled.is_none(),
            Tokens::Missing => true,
            Tokens::Good { renew, pod, .. } => pod != sup.facts.uid || renew <= Instant::now(),
        };
        if sup.facts.deleting {
            return Ok(End::Rest);
        }
        if !self.kind.graceful() || !due {
            return Ok(end_for(known));
        }
        let body = match &pair.tenant {
            TenantSide::Here(copy) => copy.body.clone(),
            TenantSide::Absent(_) => return Ok(End::Rest),
        };
        let body = if let Some(body) = body {
            body
        } else {
            let bytes = self.attached.remote.get(&self.tenant_path(), None).await?;
            let unreadable = |error| CallError::Unreadable { side: "tenant", source: serde::de::Error::custom(error) };
            InTenant(Object::parse(&bytes).map_err(unreadable)?)
        };
        let asks = self.kind.tokens(&body);
        if asks.is_empty() {
            return Ok(End::Rest);
        }
        let Some(namespace) = &self.namespace else { return Ok(End::Rest) };
        let batch = tokens::request(self.attached, self.engine.fence(), &self.pod_of()?, &asks).await?;
        let bearer = self.engine.0.writer.token(self.attached).await?;
        let name = self.attached.id.token_secret(owner.uid);
        let place = tokens::Place { namespace, name: &name, pod: (self.name.as_str(), sup.facts.uid), owner };
        let share = self.engine.0.options.renew_share;
        let stored = tokens::store(self.engine.sup(), self.engine.fence(), &bearer, self.attached, &place, &batch, share).await?;
        self.note_tokens(stored);
        self.engine.0.metrics.renewed_token(true);
        Ok(end_for(stored))
    }
}
