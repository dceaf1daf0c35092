//! What the super cluster refuses to a tenant's writer, by super namespace and kind: a right is given for a kind.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

/// What is refused to one writer.
#[derive(Debug, Default)]
pub struct Denials(BTreeMap<(Arc<str>, &'static str), Denied>);

/// The writer may not write one kind into one super namespace.
#[derive(Debug)]
struct Denied {
    since: Instant,
    last: Instant,
    message: String,
}

/// A writer is without its right for a moment after its binding was made, and for longer where somebody took it.
const LASTING: Duration = Duration::from_secs(10);
/// What failed is tried again every minute at least; what was not seen for longer is over.
const OVER: Duration = Duration::from_secs(75);

impl Denials {
    /// The writer was refused.
    pub fn refused(&mut self, namespace: &str, kind: &'static str, message: &str, now: Instant) {
        self.0.retain(|_, denied| now.duration_since(denied.last) < OVER);
        let denied = self.0.entry((namespace.into(), kind)).or_insert_with(|| Denied { since: now, last: now, message: String::new() });
        denied.last = now;
        message.clone_into(&mut denied.message);
    }

    /// The writer has written. What it may do with one kind says nothing of the others.
    pub fn let_in(&mut self, namespace: &str, kind: &'static str) {
        if !self.0.is_empty() {
            self.0.remove(&(Arc::from(namespace), kind));
        }
    }

    /// Where the writer has been refused for a while, and what was said.
    pub fn lasting(&self, now: Instant) -> Option<(Arc<str>, String)> {
        let is_lasting = |denied: &Denied| denied.last.duration_since(denied.since) >= LASTING && now.duration_since(denied.last) < OVER;
        let ((namespace, _), denied) = self.0.iter().find(|(_, denied)| is_lasting(denied))?;
        Some((namespace.clone(), denied.message.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_of_one_kind_lasts_though_others_are_let_in() {
        let (mut denials, start) = (Denials::default(), Instant::now());
        for seconds in 0..=10 {
            let now = start + Duration::from_secs(seconds);
            assert_eq!(denials.lasting(now), None, "a binding takes a moment to count");
            denials.refused("vc-a", "PodDisruptionBudget", "forbidden", now);
            denials.let_in("vc-a", "ConfigMap");
        }
        let now = start + LASTING;
        assert_eq!(denials.lasting(now), Some(("vc-a".into(), "forbidden".to_owned())));
        assert_eq!(denials.lasting(now + OVER), None, "it was not seen again");
        denials.let_in("vc-a", "PodDisruptionBudget");
        assert_eq!(denials.lasting(now), None);
    }
}
