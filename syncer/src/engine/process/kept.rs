//! Whether an API server keeps what it is asked for. One of another version, or with other features, leaves fields out and says that all is well.

use bytes::Bytes;
use mirror::Object;
use mirror::kept::lost;
use mirror::plan::Pair;
use serde_json::{Map, Value};

use super::Job;

/// Fields that one Event names at most: more would be no more use, and an Event holds a kilobyte.
const NAMED: usize = 8;

impl Job<'_> {
    /// The fields of `asked` that are not in the answer; counted. An answer that cannot be read says nothing.
    pub(super) fn lost(&self, side: &'static str, asked: &Map<String, Value>, reply: &Bytes) -> Vec<String> {
        let Ok(made) = Object::parse(reply) else { return Vec::new() };
        let lost = lost(asked, &made.body);
        if !lost.is_empty() {
            self.engine.0.metrics.not_kept(side, self.kind.resource().kind);
            tracing::debug!(tenant = %self.tenant.lane, object = %self.key, side, fields = ?lost, "an API server did not keep what it was asked for");
        }
        lost
    }

    /// The tenant hears of what its object is without.
    pub(super) fn tell_lost(&self, pair: &Pair, lost: &[String]) {
        if lost.is_empty() {
            return;
        }
        let mut fields = lost.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
        if lost.len() > NAMED {
            fields.push_str(", …");
        }
        let message = format!(
            "{fields}: the super cluster does not know this, or has it switched off, and the object is without it there; remove it, or ask the administrator"
        );
        self.tell(pair, "FieldNotKept", message);
    }
}
