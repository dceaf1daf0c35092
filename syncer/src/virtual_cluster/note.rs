//! What is less than well with a tenant that is synced all the same, as its condition says it.

use common::{TenantId, keys};

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
}
