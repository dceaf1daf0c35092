//! What is less than well with a tenant that is synced all the same, as its condition says it.

use std::collections::BTreeMap;
use std::sync::Arc;

use common::api::{NodeMode, Nodes, VirtualClusterSpec};
use common::{Namespace, Tenant, TenantId, keys};
use kube::core::{ParseExpressionError, Selector};

use crate::engine::TenantHealth;

/// One word, and what happened and what to do.
pub(super) type Note = (&'static str, String);

/// Everything that there may be to say of a tenant that is synced.
pub(super) struct About<'a> {
    pub id: &'a TenantId,
    pub health: &'a TenantHealth,
    /// Super namespaces that are somebody else's: super name → the tenant namespace that waits for it.
    pub taken: &'a BTreeMap<Arc<str>, Namespace<Tenant>>,
    /// What is wrong with the range of service addresses, the hosts and the addresses from outside that are asked for.
    pub asked: [Option<Note>; 3],
    pub spec: &'a VirtualClusterSpec,
}

/// What to say, the gravest first: a condition holds one word, and what a person has to do at once comes before what stays.
pub(super) fn of(about: About<'_>) -> Option<Note> {
    let About { id, health, taken, asked: [range, hosts, external], spec } = about;
    let wrong = [denied(id, health), deletions_paused(health), taken_by_others(taken), left_out(health)];
    let notes = wrong.into_iter().chain([range, hosts, external, unread(&spec.nodes)]);
    notes.flatten().next()
}

fn denied(id: &TenantId, health: &TenantHealth) -> Option<Note> {
    let (namespace, said) = health.denied.as_ref()?;
    let message = format!(
        "the super cluster refuses the tenant's writer in namespace {namespace}: {said}; it needs the RoleBinding {role} of that \
         namespace, to the ServiceAccount {writers}/{writer}, and what manifests/rbac.yaml and manifests/admission.yaml say of it",
        role = keys::WRITER_ROLE,
        writers = keys::WRITERS_NAMESPACE,
        writer = id.writer(),
    );
    Some(("WriterForbidden", message))
}

fn deletions_paused(health: &TenantHealth) -> Option<Note> {
    let message = "many objects are gone from the control plane without a trace: nothing is deleted in the super cluster for it until \
                   they have been read once more, a minute later; if they should not be gone, set spec.paused now";
    health.deletions_paused.then(|| ("DeletionsPaused", message.to_owned()))
}

fn left_out(health: &TenantHealth) -> Option<Note> {
    let message = format!(
        "the control plane has at least {} objects more than are followed for one tenant, and those are not synced: delete what is not \
         needed, and they are taken in",
        health.left_out
    );
    (health.left_out > 0).then_some(("TooManyObjects", message))
}

/// So many names stand in a message at most.
const NAMED: usize = 3;

fn taken_by_others(taken: &BTreeMap<Arc<str>, Namespace<Tenant>>) -> Option<Note> {
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

/// The nodes that the tenant sees whether its Pods run there or not; none if only where they run.
///
/// # Errors
/// If the selector is none by the rules of Kubernetes, which API servers do not look for in custom resources.
pub(super) fn mirrored(nodes: &Nodes) -> Result<Option<Selector>, ParseExpressionError> {
    match nodes.mode {
        NodeMode::OnDemand => Ok(None),
        NodeMode::Mirrored => Selector::try_from(nodes.selector.clone().unwrap_or_default()).map(Some),
    }
}

fn unread(nodes: &Nodes) -> Option<Note> {
    let error = mirrored(nodes).err()?;
    let message = format!(
        "objects flow in both directions, but spec.nodes.selector is not a label selector ({error}): the tenant sees the nodes that its \
         Pods run on, as with mode onDemand; mend the selector, or leave it out for all nodes"
    );
    Some(("NodeSelectorInvalid", message))
}

#[cfg(test)]
mod tests {
    use common::Uid;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

    use super::*;

    fn namespaces(count: usize) -> BTreeMap<Arc<str>, Namespace<Tenant>> {
        (0..count).map(|i| (format!("vc-a-{i}").into(), Namespace::parse(&format!("a{i}")).unwrap())).collect()
    }

    #[test]
    fn what_is_gravest_is_said_whatever_else_there_is_to_say() {
        let id = TenantId::new(Uid::from_bits(7), "acme");
        let expression = LabelSelectorRequirement { key: "pool".to_owned(), operator: "Is".to_owned(), values: None };
        let selector = LabelSelector { match_expressions: Some(vec![expression]), match_labels: None };
        let nodes = Nodes { mode: NodeMode::Mirrored, selector: Some(selector) };
        let (served, spec) = (VirtualClusterSpec::default(), VirtualClusterSpec { nodes, ..VirtualClusterSpec::default() });
        let well = TenantHealth { synced: true, ..TenantHealth::default() };
        let crowded = TenantHealth { left_out: 3, ..well.clone() };
        let paused = TenantHealth { deletions_paused: true, ..crowded.clone() };
        let denied = TenantHealth { denied: Some(("vc-a".into(), "forbidden".to_owned())), ..paused.clone() };
        let range = || Some(("ServiceCidrTaken", "a range of its own".to_owned()));
        let hosts = || Some(("IngressHostTaken", "give each host to one".to_owned()));
        let external = || Some(("ExternalAddressTaken", "give each to one".to_owned()));
        let (none, some) = (namespaces(0), namespaces(1));
        assert_eq!(of(About { id: &id, health: &well, taken: &none, asked: [None, None, None], spec: &served }), None);
        // Each line has all that is less grave too.
        for (health, taken, asked, reason, words) in [
            (&well, &none, [None, None, None], "NodeSelectorInvalid", "spec.nodes.selector"),
            (&well, &none, [None, None, external()], "ExternalAddressTaken", "to one"),
            (&well, &none, [None, hosts(), external()], "IngressHostTaken", "to one"),
            (&well, &none, [range(), hosts(), external()], "ServiceCidrTaken", "a range of its own"),
            (&crowded, &none, [range(), hosts(), external()], "TooManyObjects", "at least 3 objects"),
            (&crowded, &some, [range(), hosts(), external()], "NamespaceTaken", "vc-a-0 (for the tenant's a0)"),
            (&paused, &some, [range(), hosts(), external()], "DeletionsPaused", "spec.paused"),
            (&denied, &some, [range(), hosts(), external()], "WriterForbidden", "vc-writers/w-"),
        ] {
            let (said, message) = of(About { id: &id, health, taken, asked, spec: &spec }).unwrap();
            assert_eq!(said, reason);
            assert!(message.contains(words), "{message}");
        }
    }

    #[test]
    fn the_administrator_is_told_which_namespaces_are_taken() {
        let said = |count| taken_by_others(&namespaces(count)).unwrap().1;
        assert!(said(5).contains("vc-a-0 (for the tenant's a0), ") && said(5).contains(" and 2 more; "), "{}", said(5));
        assert!(!said(3).contains("more"));
    }
}
