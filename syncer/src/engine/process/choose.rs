//! Letting a tenant's copy say what the super cluster chose; and what it means where the tenant's API server does not take it.

use std::time::Duration;

use common::{InTenant, Uid};
use jiff::Timestamp;
use mirror::Facts;
use mirror::kind::Choice;
use mirror::plan::{Declined, Pair, Step, TenantSide, Want};
use tokio::time::Instant;

use super::write::guarded;
use super::{CONTESTED, Job, REFUSED};
use crate::remote::{CallError, Patch};
use crate::service_ranges;
use crate::writer::{Verdict, judge};

/// How long a choice is not offered again that was not taken: shorter than a refused pair waits, so that each look offers it.
const DECLINED: Duration = Duration::from_secs(REFUSED.as_secs() / 2);

impl Job<'_> {
    /// Whether after this step there is to be looked for what the super cluster chose.
    pub(super) fn shows_a_choice(&self, step: &Step) -> bool {
        match step {
            Step::Choose { .. } => true,
            Step::CreateSuper { .. } | Step::UpdateSuper { .. } => self.kind.chooses(),
            Step::DeleteSuper { .. }
            | Step::AddToSuper { .. }
            | Step::ConditionsDown { .. }
            | Step::ShowNode(_)
            | Step::Bind { .. }
            | Step::MarkPlaced { .. }
            | Step::Report { .. }
            | Step::DeleteTenant { .. } => false,
        }
    }

    /// The rest of a change that was begun and not ended: of which object, at which version.
    pub(super) fn unfinished(&self, pair: &Pair) -> Option<(Uid, String, Choice)> {
        let TenantSide::Here(copy) = &pair.tenant else { return None };
        let body = copy.body.as_ref().filter(|_| !copy.facts.deleting)?;
        let InTenant(choice) = self.kind.unfinished(body)?;
        Some((copy.facts.uid, body.meta.version.clone(), choice))
    }

    /// Another holds in the super cluster what the tenant's copy claims: that comes to claim something else, and is told.
    pub(super) async fn claim_other(&self) -> Result<(), CallError> {
        self.fetch(Want::Tenant).await?;
        let (pair, _) = self.pair();
        let (profile, nodes) = (self.attached.profile(), self.attached.nodes());
        let TenantSide::Here(copy) = &pair.tenant else { return Ok(()) };
        let Some(body) = copy.body.as_ref().filter(|_| !copy.facts.deleting) else { return Ok(()) };
        let Some(InTenant(choice)) = self.kind.other_claim(body, &self.cx(&profile, &nodes)) else { return Ok(()) };
        self.tell(&pair, "AddressChanged", format!("{}: {}", choice.field, choice.said));
        self.choose(copy.facts.uid, body.meta.version.clone(), choice).await
    }

    /// Changes the tenant's copy, each time on what the change before left.
    pub(super) async fn choose(&self, uid: Uid, version: String, choice: Choice) -> Result<(), CallError> {
        let mut version = version;
        for address in choice.addresses {
            service_ranges::serve(self.engine.sup(), &self.attached.remote, address).await?;
        }
        for patch in choice.patches {
            let operations = patch.as_array().cloned().unwrap_or_default();
            let guarded = guarded(uid, Some(&version), operations);
            let reply = self.attached.remote.patch(&self.tenant_path(), Patch::Json, &guarded, None).await?;
            let Facts { version: now, .. } = self.tenant_known(&reply)?;
            version = now.to_string();
        }
        Ok(())
    }

    /// Whether the tenant's API server does not take a choice, and is not asked for now: not where it only did not get to it, or where
    /// what it says may be over in a moment.
    pub(super) fn declined(&self, error: &CallError, offer: u64) -> bool {
        let CallError::Status { side: "tenant", code, message, .. } = error else { return false };
        let mut index = self.tenant.index.lock();
        let Some(entry) = index.get_mut(self.key) else { return false };
        let is_final = match judge(error, false) {
            Verdict::Rejected { .. } => true,
            Verdict::Contested { .. } => entry.failures >= CONTESTED,
            // It lets us change nothing here, by whatever rule.
            Verdict::Namespace | Verdict::Reread | Verdict::Retry(_) => *code == 403,
            Verdict::Taken | Verdict::Stranger | Verdict::Fenced => false,
        };
        if is_final {
            self.engine.0.metrics.failed(self.kind.resource().kind, "declined");
            let now = Timestamp::now();
            let at = Timestamp::from_second(now.as_second()).unwrap_or(now).to_string();
            let declined = Declined { offer, message: message.clone(), at };
            entry.note_declined(declined, Instant::now() + DECLINED);
        }
        is_final
    }
}
