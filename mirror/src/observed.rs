//! Generations: what a controller of the super cluster has observed, in the tenant's numbers.

use common::keys;
use serde_json::{Map, Value};

use crate::object::Object;

/// The field that says which generation was observed.
pub(crate) const OBSERVED: &str = "observedGeneration";

/// How generations of the super copy read in the tenant.
pub(crate) struct Observed {
    /// The super copy's newest generation.
    newest: i64,
    /// The tenant's generation that it was made from.
    tenant: Option<i64>,
}

impl Observed {
    /// By what the super copy says of the object that it was made from.
    pub(crate) fn of(sup: &Object) -> Self {
        let tenant = sup.meta.annotations.get(keys::GENERATION).and_then(|text| text.parse().ok()).filter(|generation| *generation > 0);
        Self { newest: sup.meta.generation, tenant }
    }

    /// The newest generation is the one that was asked for; an earlier one is told as the one before it.
    pub(crate) fn apply(&self, fields: &mut Map<String, Value>) {
        let Some(seen) = fields.remove(OBSERVED).and_then(|seen| seen.as_i64()) else {
            return;
        };
        if let Some(tenant) = self.tenant {
            let told = if seen >= self.newest { tenant } else { (tenant - 1).max(1) };
            fields.insert(OBSERVED.to_owned(), Value::from(told));
        }
    }
}
