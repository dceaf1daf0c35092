//! What stands in the way of a key: holds, refusals and failed requests. One place decides what an error means.

use mirror::hold::{Hold, Missing};
use mirror::plan::{Pair, TenantSide, Want};
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

use super::{CONTESTED, End, Job, REFUSED};
use crate::engine::intake::chain;
use crate::events::{About, Severity};
use crate::index::Told;
use crate::remote::CallError;
use crate::writer::{Verdict, judge};

impl Job<'_> {
    /// Nothing can be written for now: wait for what is missing, or tell the tenant and wait for a change.
    pub(super) fn hold(&self, pair: &Pair, hold: &Hold) -> End {
        match hold {
            Hold::Until(Missing::SuperGone | Missing::VirtualNode(_)) | Hold::Stays => End::Rest,
            Hold::Refused(refusal) => {
                self.tell(pair, refusal.reason, hold.to_string());
                End::Retry(REFUSED)
            }
            Hold::Malformed(_) => {
                self.tell(pair, "Malformed", hold.to_string());
                End::Retry(REFUSED)
            }
        }
    }

    /// What the super API server said, as the tenant may read it.
    pub(super) fn tell_scrubbed(&self, reason: &'static str, message: &str) {
        let (pair, _) = self.pair();
        let (profile, nodes) = (self.attached.profile(), self.attached.nodes());
        let scrubbed = mirror::scrub::Scrub::new(&self.cx(&profile, &nodes)).text(message).into_owned();
        self.tell(&pair, reason, scrubbed);
    }

    pub(super) fn tell(&self, pair: &Pair, reason: &'static str, message: String) {
        let TenantSide::Here(copy) = &pair.tenant else { return };
        self.engine.0.metrics.refused(self.kind.resource().kind);
        let hash = mirror::plan::value_hash(&json!([reason, message]));
        let is_told = |told: &Told| told.stands(hash);
        if self.tenant.index.lock().get(self.key).is_none_or(|entry| entry.told.as_deref().is_some_and(is_told)) {
            return;
        }
        let resource = self.kind.resource();
        let about = About {
            kind: resource.kind,
            api_version: resource.api_version,
            namespace: self.key.namespace.as_ref().map(|ns| ns.as_str().to_owned()),
            name: self.key.name.as_str().to_owned(),
            uid: copy.facts.uid,
        };
        let receipt = self.engine.0.recorder.tell(self.attached, about, Severity::Warning, reason, message);
        if let Some(entry) = self.tenant.index.lock().get_mut(self.key) {
            entry.told = Some(Box::new(Told { hash, at: Instant::now(), receipt }));
            // How long a refusal stands says nothing about how fast we are.
            entry.moved = None;
        }
    }

    pub(super) async fn failed(&self, error: &CallError, create: bool) -> End {
        self.failed_step(error, create, "read").await.unwrap_or(End::Retry(Duration::ZERO))
    }

    /// One place decides what an error means. `None`: plan again at once.
    pub(super) async fn failed_step(&self, error: &CallError, create: bool, step: &'static str) -> Option<End> {
        let verdict = judge(error, create);
        self.engine.0.metrics.failed(self.kind.resource().kind, verdict_name(&verdict));
        tracing::debug!(tenant = %self.tenant.lane, object = %self.key, step, error = %chain(error), verdict = ?verdict_name(&verdict), "did not work");
        let tenant_side = matches!(error, CallError::Status { side: "tenant", .. });
        self.note_answer(error);
        match verdict {
            Verdict::Fenced => Some(End::Retry(Duration::from_secs(1))),
            Verdict::Retry(least) => Some(End::Retry(least)),
            // Nothing that is asked is answered until there is another kubeconfig.
            Verdict::Stranger if tenant_side => Some(End::Retry(Duration::from_secs(1))),
            Verdict::Reread | Verdict::Namespace if tenant_side => self.again(self.fetch(Want::Tenant).await),
            Verdict::Reread | Verdict::Taken => self.again(self.fetch(Want::Super).await),
            Verdict::Namespace => {
                self.note_denial(error);
                self.regain().await;
                Some(End::Retry(Duration::from_millis(200)))
            }
            Verdict::Stranger => {
                self.note_denial(error);
                self.engine.0.writer.forget_token(self.attached).await;
                Some(End::Retry(Duration::from_millis(200)))
            }
            Verdict::Rejected { reason, message } => {
                self.tell_scrubbed(reason, &message);
                Some(End::Retry(REFUSED))
            }
            Verdict::Contested { reason, message } => {
                let failures = self.tenant.index.lock().get(self.key).map_or(0, |entry| entry.failures);
                if failures >= CONTESTED {
                    self.tell_scrubbed(reason, &message);
                    if self.kind.claims() {
                        return self.again(self.claim_other().await);
                    }
                }
                Some(End::Retry(Duration::ZERO))
            }
        }
    }

    /// The writer may not write: for long, that is somebody's to mend, and the tenant and its administrator hear of it.
    fn note_denial(&self, error: &CallError) {
        let (CallError::Status { code: 401 | 403, message, .. }, Some(into)) = (error, &self.namespace) else { return };
        // A namespace that is going lets nobody in, and that is over soon.
        if message.contains("is being terminated") {
            return;
        }
        self.attached.denied.lock().refused(into.as_str(), self.kind.resource().kind, message, Instant::now());
        let failures = self.tenant.index.lock().get(self.key).map_or(0, |entry| entry.failures);
        if failures >= CONTESTED {
            // What the authorizer says, names and roles, stands in the condition that the administrator reads.
            self.tell_scrubbed(
                "WriterForbidden",
                "the super cluster does not take what is written for you; its administrator has to mend that",
            );
        }
    }

    /// What a failed call says of the tenant's API server as a whole: whether it answers, and whether it knows us. While it does not,
    /// its keys wait, and its kubeconfig is read again.
    fn note_answer(&self, error: &CallError) {
        self.attached.note_answer(Some(error));
        if matches!(error, CallError::Status { side: "tenant", code: 401, .. })
            && let Some(seen) = self.engine.0.health.get(&self.tenant.lane)
        {
            seen.note_unauthorized(self.attached);
        }
    }

    /// Looks after the right to write into the super namespace, if that is there: a RoleBinding that is gone is made again.
    pub(super) async fn regain(&self) {
        let (Some(into), Some(namespace)) = (&self.namespace, &self.key.namespace) else { return };
        let writer = &self.engine.0.writer;
        writer.mistrust(self.tenant, into);
        if self.tenant.namespaces.lock().contains_key(into.as_str())
            && let Err(error) = writer.namespace(self.tenant, self.attached, namespace).await
        {
            tracing::debug!(tenant = %self.tenant.lane, namespace = %into, error = %chain(&error), "the right to write could not be regained");
        }
    }

    pub(super) fn again(&self, read: Result<(), CallError>) -> Option<End> {
        match read {
            Ok(()) => None,
            Err(error) => {
                tracing::debug!(tenant = %self.tenant.lane, object = %self.key, error = %chain(&error), "could not read");
                self.note_answer(&error);
                Some(End::Retry(Duration::ZERO))
            }
        }
    }
}

fn verdict_name(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Retry(_) => "retry",
        Verdict::Reread => "reread",
        Verdict::Taken => "taken",
        Verdict::Namespace => "namespace",
        Verdict::Stranger => "stranger",
        Verdict::Rejected { .. } => "rejected",
        Verdict::Contested { .. } => "contested",
        Verdict::Fenced => "fenced",
    }
}
