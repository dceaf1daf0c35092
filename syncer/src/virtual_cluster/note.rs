//! What is less than well with a tenant that is synced all the same, as its condition says it.

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{Namespace, Tenant, TenantId, keys};

use crate::engine::TenantHealth;

/// One word, and what happened and what to do; the gravest first.
pub(super) fn of(id: &TenantId, health: &TenantHealth) -> Option<(&'static str, String)> {
    if let Some((namespace, said)) = &health.denied {
        let message = format!(
            "the super cluster refuses the tenant's writer in namespace {namespace}: {said}; it needs the RoleBinding {role} of that \
             namespace, to the ServiceAccount {writers}/{writer}, and what manifests/rbac.yaml and manifests/admission.yaml say of it",
            role = keys::WRITER_ROLE,
            writers = keys::WRITERS_NAMESPACE,
            writer = id.writer(),
        );
        return Some(("WriterForbidden", message));
    }
    if health.deletions_paused {
        let message = "many objects are gone from the control plane without a trace: nothing is deleted in the super cluster for it until \
                       they have been read once more, a minute later; if they should not be gone, set spec.paused now";
        return Some(("DeletionsPaused", message.to_owned()));
    }
    if health.left_out > 0 {
        let message = format!(
            "the control plane has at least {} objects more than are followed for one tenant, and those are not synced: delete what is not \
             needed, and they are taken in",
            health.left_out
        );
        return Some(("TooManyObjects", message));
    }
    None
}

/// So many names stand in a message at most.
const NAMED: usize = 3;

/// What to say of super namespaces that are somebody else's: super name → the tenant namespace that waits for it.
pub(super) fn taken(taken: &BTreeMap<Arc<str>, Namespace<Tenant>>) -> Option<(&'static str, String)> {
    let named: Vec<_> = taken.iter().take(NAMED).map(|(name, within)| format!("{name} (for the tenant's {within})")).collect();
    let rest = taken.len().saturating_sub(NAMED);
    let more = if rest == 0 { String::new() } else { format!(" and {rest} more") };
    let message = format!(
        "these namespaces of the super cluster have names that are the tenant's and were not made for it: {}{more}; nothing is written into \
         them, and what the tenant has there waits: remove them, and they are made anew",
        named.join(", ")
    );
    (!taken.is_empty()).then_some(("NamespaceTaken", message))
}

#[cfg(test)]
mod tests {
    use common::Uid;

    use super::*;

    #[test]
    fn what_is_less_than_well_is_said_with_what_to_do() {
        let id = TenantId::new(Uid::from_bits(7), "acme");
        let well = TenantHealth { synced: true, ..TenantHealth::default() };
        assert_eq!(of(&id, &well), None);
        let crowded = TenantHealth { left_out: 3, ..well };
        let paused = TenantHealth { deletions_paused: true, ..crowded.clone() };
        let denied = TenantHealth { denied: Some(("vc-a".into(), "forbidden".to_owned())), ..paused.clone() };
        let said = |health: &TenantHealth| of(&id, health).unwrap();
        for (health, reason, words) in [
            (crowded, "TooManyObjects", "at least 3 objects"),
            (paused, "DeletionsPaused", "spec.paused"),
            (denied, "WriterForbidden", "vc-writers/w-"),
        ] {
            assert_eq!(said(&health).0, reason);
            assert!(said(&health).1.contains(words), "{}", said(&health).1);
        }
    }

    #[test]
    fn the_administrator_is_told_which_namespaces_are_taken() {
        let of = |count: usize| -> BTreeMap<Arc<str>, Namespace<Tenant>> {
            (0..count).map(|i| (format!("vc-a-{i}").into(), Namespace::parse(&format!("a{i}")).unwrap())).collect()
        };
        assert_eq!(taken(&of(0)), None);
        let (reason, message) = taken(&of(5)).unwrap();
        assert_eq!(reason, "NamespaceTaken");
        assert!(message.contains("vc-a-0 (for the tenant's a0), ") && message.contains(" and 2 more; "), "{message}");
        assert!(!taken(&of(3)).unwrap().1.contains("more"));
    }
}
