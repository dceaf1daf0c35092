//! What the syncer has written since a moment, by the audit logs of all API servers of a bed.

use std::{fmt, time::Duration};

use common::keys;
use tokio::time::{Instant, sleep};

use crate::{
    audit::{Call, Calls, Mark},
    bed::{Bed, TENANT_USER},
};

/// Users in the super cluster that are the syncer: itself and the tenants' writers.
const SUPER_USER: &str = ":vc-";

/// A moment, in every audit log.
pub struct Ledger {
    sup: Mark,
    tenants: Vec<Mark>,
}

/// Calls, an API server each.
pub struct Entries {
    /// Those in the super cluster.
    pub sup: Calls,
    /// Those in each tenant.
    pub tenants: Vec<Calls>,
}

impl Ledger {
    /// Now.
    pub fn open(bed: &Bed) -> Self {
        Self { sup: bed.sup.audit().mark(), tenants: bed.tenants.iter().map(|tenant| tenant.audit().mark()).collect() }
    }

    /// What the syncer has asked for since.
    pub fn calls(&self, bed: &Bed) -> anyhow::Result<Entries> {
        let tenants = bed.tenants.iter().zip(&self.tenants);
        let tenants = tenants.map(|(tenant, mark)| anyhow::Ok(tenant.audit().since(*mark)?.by(TENANT_USER)));
        Ok(Entries { sup: bed.sup.audit().since(self.sup)?.by(SUPER_USER), tenants: tenants.collect::<Result<_, _>>()? })
    }

    /// What the syncer has written since: changes of objects, but for its own Lease, which tells the time. A Lease of a vNode's counts.
    pub fn writes(&self, bed: &Bed) -> anyhow::Result<Entries> {
        let is_own = |call: &Call| call.resource == "leases" && call.namespace == keys::SYSTEM_NAMESPACE && call.name == keys::SYNCER;
        Ok(self.calls(bed)?.map(|calls| calls.writes().filter(|call| !is_own(call))))
    }
}

impl Entries {
    /// The same of every API server.
    #[must_use]
    pub fn map(&self, change: impl Fn(&Calls) -> Calls) -> Self {
        Self { sup: change(&self.sup), tenants: self.tenants.iter().map(change).collect() }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.sup.len() + self.tenants.iter().map(Calls::len).sum::<usize>()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Each call with its object, by API server: what one wants to know of calls that should not be there.
impl fmt::Display for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenants = self.tenants.iter().enumerate().map(|(i, calls)| (format!("tenant {i}"), calls));
        for (place, calls) in std::iter::once(("super".to_owned(), &self.sup)).chain(tenants) {
            for call in &calls.0 {
                writeln!(f, "{place}: {} {}/{} by {}", call.summary(), call.namespace, call.name, call.user)?;
            }
        }
        Ok(())
    }
}

/// Waits until the syncer has written nothing for `calm`.
pub async fn quiet(bed: &Bed, calm: Duration, patience: Duration) -> anyhow::Result<()> {
    let start = Instant::now();
    loop {
        let ledger = Ledger::open(bed);
        sleep(calm).await;
        let writes = ledger.writes(bed)?;
        if writes.is_empty() {
            return Ok(());
        }
        anyhow::ensure!(start.elapsed() < patience, "the syncer still writes after {patience:?}:\n{writes}");
    }
}
