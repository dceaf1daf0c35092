//! What is to be made of a `VirtualCluster`, purely: where its kubeconfig is, whether its control plane is still the same, what to say.

use std::collections::BTreeSet;

use common::api::{Condition, ConditionStatus, ConditionType, VirtualCluster, condition};
use common::{Uid, keys};
use kube::ResourceExt;

use super::note::Note;
use crate::engine::TenantHealth;

/// A place where a kubeconfig may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The annotation itself.
    Annotation(String),
    /// The Secret of this name, beside the VirtualCluster; its administrator said so.
    Named(String),
    /// The well-known Secret in this namespace, if that is the VirtualCluster's by its annotation.
    Root(String),
    /// The well-known Secret beside the VirtualCluster.
    Own,
}

/// Where to look for the kubeconfig, in order: what is said about this VirtualCluster alone comes first.
pub(super) fn places(vc: &VirtualCluster, allow_annotation: bool) -> Vec<Place> {
    let annotation = |key: &str| vc.annotations().get(key).filter(|value| !value.is_empty()).cloned();
    if allow_annotation && let Some(inline) = annotation(keys::ADMIN_KUBECONFIG) {
        return vec![Place::Annotation(inline)];
    }
    if let Some(name) = annotation(keys::ADMIN_KUBECONFIG_SECRET) {
        return vec![Place::Named(name)];
    }
    let root = vc.status.as_ref().and_then(|status| status.cluster_namespace.clone()).filter(|name| !name.is_empty());
    let root = root.filter(|root| Some(root) != vc.namespace().as_ref()).map(Place::Root);
    root.into_iter().chain([Place::Own]).collect()
}

/// Whether a kubeconfig stands in an annotation that is not looked at.
pub(super) fn has_ignored_annotation(vc: &VirtualCluster, allow_annotation: bool) -> bool {
    !allow_annotation && vc.annotations().contains_key(keys::ADMIN_KUBECONFIG)
}

/// What a person has accepted after a control plane was emptied or restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Accepted {
    /// The UID of its `kube-system`.
    pub incarnation: Uid,
    /// The highest version, built from what the control plane has forgotten, that may be followed back.
    pub version: Option<u64>,
}

impl Accepted {
    /// Reads the annotation: `<kube-system UID>`, or `<kube-system UID>@<version>` after a restore.
    pub(super) fn of(vc: &VirtualCluster) -> Option<Self> {
        let text = vc.annotations().get(keys::ACCEPT_INCARNATION)?.trim();
        let (uid, version) = text.split_once('@').map_or((text, None), |(uid, version)| (uid, Some(version)));
        Some(Self { incarnation: Uid::parse(uid).ok()?, version: version.map(str::parse).transpose().ok()? })
    }

    /// Whether a control plane that stands behind what was built from it at `built` may be followed.
    pub(super) fn covers_restore(self, incarnation: Uid, built: u64) -> bool {
        self.incarnation == incarnation && self.version.is_some_and(|version| version >= built)
    }
}

/// How the control plane that answers compares with what the super cluster's objects were made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// It is the same, or nothing was made yet.
    Same,
    /// It is another one, and a person has said that it counts: what the earlier one left goes.
    Accepted,
    /// It is another one; this was the one before.
    Replaced(Uid),
}

/// Compares the control plane that answers with the `recorded` ones.
pub(super) fn life(recorded: &BTreeSet<Uid>, now: Uid, accepted: Option<Accepted>) -> Life {
    let Some(before) = recorded.iter().find(|uid| **uid != now) else {
        return Life::Same;
    };
    if accepted.is_some_and(|accepted| accepted.incarnation == now) { Life::Accepted } else { Life::Replaced(*before) }
}

/// Whether an attached control plane is to be asked who it is, and where it stands, before its tenant goes on.
pub(super) fn is_doubtful(health: &TenantHealth) -> bool {
    health.unreachable.is_some() || health.unauthorized || health.regression.is_some() || health.other_life
}

/// Why nothing is written for a tenant until a person decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Another control plane answers.
    Replaced {
        /// The one that the super cluster's objects were made for.
        before: Uid,
        /// The one that answers.
        now: Uid,
    },
    /// The control plane is the same, but has forgotten something.
    Restored {
        /// Which control plane.
        incarnation: Uid,
        /// Where it stands.
        at: u64,
        /// What objects in the super cluster were built from.
        built: u64,
    },
}

/// How a tenant is doing, as one says it to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// On the way: `connected` once the control plane has answered.
    Starting {
        /// Whether the control plane has answered.
        connected: bool,
    },
    /// There is no kubeconfig to be had, or none that can be used.
    NoKubeconfig {
        /// One word.
        reason: &'static str,
        /// What to do about it.
        message: String,
    },
    /// The control plane does not answer as it should.
    Unreachable {
        /// One word.
        reason: &'static str,
        /// What happened.
        message: String,
    },
    /// Another VirtualCluster has this control plane.
    SameControlPlane {
        /// Which: namespace and name.
        other: String,
        /// The UID of `kube-system`.
        incarnation: Uid,
    },
    /// The kubeconfig leads to the super cluster itself.
    SuperCluster,
    /// Somebody must decide.
    Held(Why),
    /// Its spec says so.
    Paused,
    /// All is well.
    Synced {
        /// What is less than well all the same: one word and what to do.
        note: Option<Note>,
    },
}

impl State {
    /// Whether the state is one on the way to another: not told before it lasts.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self, Self::Starting { .. })
    }

    /// The word for it.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Starting { .. } => "Starting",
            Self::NoKubeconfig { reason, .. } | Self::Unreachable { reason, .. } => reason,
            Self::SameControlPlane { .. } => "SameControlPlane",
            Self::SuperCluster => "SuperCluster",
            Self::Held(Why::Replaced { .. }) => "ControlPlaneReplaced",
            Self::Held(Why::Restored { .. }) => "ControlPlaneRestored",
            Self::Paused => "Paused",
            Self::Synced { note } => note.as_ref().map_or("Synced", |(reason, _)| reason),
        }
    }

    fn message(&self, vc: &VirtualCluster) -> String {
        match self {
            Self::Starting { connected: false } => "connecting to the control plane".to_owned(),
            Self::Starting { connected: true } => "reading what is in the control plane".to_owned(),
            Self::NoKubeconfig { message, .. } | Self::Unreachable { message, .. } => message.clone(),
            Self::SameControlPlane { other, incarnation } => format!(
                "the kubeconfig leads to the control plane of VirtualCluster {other} (kube-system {incarnation}): a control plane has one \
                 VirtualCluster; delete one of the two, or give this one the kubeconfig of its own control plane"
            ),
            Self::SuperCluster => {
                "the kubeconfig leads to the super cluster itself, which is no tenant's: nothing is read or written there for \
                                   this VirtualCluster; give it the kubeconfig of its own control plane"
                    .to_owned()
            }
            Self::Held(why) => why.message(vc),
            Self::Paused => {
                "spec.paused is true: nothing is written in either direction but the heartbeats of vNodes; what runs goes on running"
                    .to_owned()
            }
            Self::Synced { note } => note.as_ref().map_or_else(|| "objects flow in both directions".to_owned(), |(_, text)| text.clone()),
        }
    }
}

impl Why {
    fn message(self, vc: &VirtualCluster) -> String {
        let annotate = |value: String| {
            let namespace = vc.namespace().unwrap_or_default();
            format!("kubectl -n {namespace} annotate virtualcluster {} --overwrite {}={value}", vc.name_any(), keys::ACCEPT_INCARNATION)
        };
        match self {
            Self::Replaced { before, now } => format!(
                "another control plane answers (kube-system is {now}) than the one that the objects in the super cluster were made for \
                 ({before}), as after its storage was emptied: nothing is written or deleted. Bring the earlier one back; or, to delete \
                 what it left in the super cluster and start anew: {}",
                annotate(now.to_string())
            ),
            Self::Restored { incarnation, at, built } => format!(
                "the control plane stands at version {at}, but objects in the super cluster were made from version {built}, as after an \
                 older backup was restored: nothing is written or deleted. Restore a newer one; or, to make the super cluster follow what \
                 the control plane holds now: {}",
                annotate(format!("{incarnation}@{built}"))
            ),
        }
    }
}

/// What to say about a tenant in this state. A condition that is left out stays as it is.
pub(super) fn conditions(state: &State, vc: &VirtualCluster) -> Vec<Condition> {
    use ConditionStatus::{False, True, Unknown};
    use ConditionType::{ControlPlaneReachable, Held, Ready, Syncing};
    let (reason, message) = (state.reason(), state.message(vc));
    let this = |type_, status| Condition::new(type_, status, reason, message.clone());
    let reachable = Condition::new(ControlPlaneReachable, True, "Reachable", "the API server answers");
    let free = Condition::new(Held, False, "NothingToDecide", "");
    let list = match state {
        State::Starting { connected: true } | State::Paused | State::SameControlPlane { .. } | State::SuperCluster => {
            vec![this(Ready, False), this(Syncing, False), reachable, free]
        }
        State::Starting { connected: false } => vec![this(Ready, False), this(Syncing, False), this(ControlPlaneReachable, Unknown), free],
        // What is to be decided stays so while nobody answers.
        State::NoKubeconfig { .. } | State::Unreachable { .. } => {
            let untold = condition(&vc.status.clone().unwrap_or_default().conditions, Held).is_none();
            let mut list = vec![this(Ready, False), this(Syncing, False), this(ControlPlaneReachable, False)];
            list.extend(untold.then_some(free));
            list
        }
        State::Held(_) => vec![this(Ready, False), this(Syncing, False), reachable, this(Held, True)],
        State::Synced { .. } => vec![this(Ready, True), this(Syncing, True), reachable, free],
    };
    list.into_iter().map(|condition| condition.observed(vc.metadata.generation)).collect()
}

#[cfg(test)]
mod tests {
    use common::api::{VirtualClusterSpec, VirtualClusterStatus};

    use super::*;

    fn vc(annotations: &[(&str, &str)]) -> VirtualCluster {
        let mut vc = VirtualCluster::new("acme", VirtualClusterSpec::default());
        vc.metadata.namespace = Some("team".to_owned());
        vc.metadata.generation = Some(3);
        vc.metadata.annotations = Some(annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect());
        vc
    }

    fn uid(last: u8) -> Uid {
        Uid::parse(&format!("00000000-0000-4000-8000-0000000000{last:02x}")).unwrap()
    }

    #[test]
    fn the_secret_beside_the_virtual_cluster_is_what_remains() {
        assert_eq!(places(&vc(&[]), false), [Place::Own]);
        let mut placed = vc(&[]);
        placed.status = Some(VirtualClusterStatus { cluster_namespace: Some("root".to_owned()), ..VirtualClusterStatus::default() });
        assert_eq!(places(&placed, false), [Place::Root("root".to_owned()), Place::Own]);
        placed.status = Some(VirtualClusterStatus { cluster_namespace: Some("team".to_owned()), ..VirtualClusterStatus::default() });
        assert_eq!(places(&placed, false), [Place::Own]);
    }

    #[test]
    fn a_secret_that_is_named_is_the_only_place() {
        let named = vc(&[(keys::ADMIN_KUBECONFIG_SECRET, "acme-kubeconfig")]);
        assert_eq!(places(&named, true), [Place::Named("acme-kubeconfig".to_owned())]);
    }

    #[test]
    fn the_annotation_counts_only_where_it_is_allowed() {
        let inline = vc(&[(keys::ADMIN_KUBECONFIG, "abc")]);
        assert_eq!(places(&inline, true), [Place::Annotation("abc".to_owned())]);
        assert_eq!(places(&inline, false), [Place::Own]);
        assert!(has_ignored_annotation(&inline, false) && !has_ignored_annotation(&inline, true));
    }

    #[test]
    fn another_control_plane_needs_the_word_of_a_person() {
        let accepted = |n| Some(Accepted { incarnation: uid(n), version: None });
        for (recorded, now, accepted, expected) in [
            (vec![], 1, None, Life::Same),
            (vec![1], 1, None, Life::Same),
            (vec![1], 2, None, Life::Replaced(uid(1))),
            (vec![1], 2, accepted(1), Life::Replaced(uid(1))),
            (vec![1], 2, accepted(2), Life::Accepted),
            (vec![1, 2], 2, None, Life::Replaced(uid(1))),
            (vec![1, 2], 1, accepted(2), Life::Replaced(uid(2))),
        ] {
            let recorded = recorded.into_iter().map(uid).collect();
            assert_eq!(life(&recorded, uid(now), accepted), expected, "{recorded:?} {now} {accepted:?}");
        }
    }

    #[test]
    fn a_control_plane_that_answered_as_another_is_asked_who_it_is() {
        let well = TenantHealth { synced: true, ..TenantHealth::default() };
        assert!(!is_doubtful(&well));
        for health in [
            TenantHealth { other_life: true, ..well.clone() },
            TenantHealth { regression: Some((1, 2)), ..well.clone() },
            TenantHealth { unauthorized: true, ..well.clone() },
            TenantHealth { unreachable: Some("no answer".to_owned()), ..well },
        ] {
            assert!(is_doubtful(&health), "{health:?}");
        }
    }

    #[test]
    fn what_was_accepted_is_read_strictly() {
        let read = |text: &str| Accepted::of(&vc(&[(keys::ACCEPT_INCARNATION, text)]));
        assert_eq!(read(&uid(1).to_string()), Some(Accepted { incarnation: uid(1), version: None }));
        assert_eq!(read(&format!(" {}@77 ", uid(1))), Some(Accepted { incarnation: uid(1), version: Some(77) }));
        for text in ["", "yes", "true@3", &format!("{}@", uid(1)), &format!("{}@-1", uid(1)), &format!("{}@x", uid(1))] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn a_restore_is_followed_only_as_far_as_it_was_accepted() {
        let accepted = |version| Accepted { incarnation: uid(1), version };
        assert!(accepted(Some(10)).covers_restore(uid(1), 10));
        assert!(!accepted(Some(9)).covers_restore(uid(1), 10), "it was set back again since");
        assert!(!accepted(None).covers_restore(uid(1), 10), "that was said about an emptied one");
        assert!(!accepted(Some(10)).covers_restore(uid(2), 10));
    }

    /// Every state, and what it says of `Ready`, `Syncing`, `ControlPlaneReachable` and `Held`.
    fn all_states() -> Vec<(State, [ConditionStatus; 4])> {
        use ConditionStatus::{False, True, Unknown};
        let text = || "what to do".to_owned();
        vec![
            (State::Starting { connected: false }, [False, False, Unknown, False]),
            (State::Starting { connected: true }, [False, False, True, False]),
            (State::NoKubeconfig { reason: "KubeconfigMissing", message: text() }, [False, False, False, False]),
            (State::Unreachable { reason: "Unreachable", message: text() }, [False, False, False, False]),
            (State::SameControlPlane { other: "team/b".to_owned(), incarnation: uid(1) }, [False, False, True, False]),
            (State::SuperCluster, [False, False, True, False]),
            (State::Held(Why::Replaced { before: uid(1), now: uid(2) }), [False, False, True, True]),
            (State::Held(Why::Restored { incarnation: uid(1), at: 5, built: 9 }), [False, False, True, True]),
            (State::Paused, [False, False, True, False]),
            (State::Synced { note: None }, [True, True, True, False]),
            (State::Synced { note: Some(("ServiceCidrTaken", text())) }, [True, True, True, False]),
        ]
    }

    #[test]
    fn every_state_says_all_four_conditions_the_first_time() {
        use ConditionType::{ControlPlaneReachable, Held, Ready, Syncing};
        for (state, statuses) in all_states() {
            let list = conditions(&state, &vc(&[]));
            for (type_, status) in [Ready, Syncing, ControlPlaneReachable, Held].into_iter().zip(statuses) {
                let said = condition(&list, type_).unwrap_or_else(|| panic!("{state:?} does not say {type_:?}"));
                assert_eq!(said.status, status, "{type_:?} of {state:?}");
                assert!(!said.reason.is_empty() && said.observed_generation == Some(3));
            }
            assert_eq!(list.len(), ConditionType::ALL.len());
            let ready = condition(&list, Ready).unwrap();
            assert!(ready.reason == state.reason() && !ready.message.is_empty());
        }
    }

    #[test]
    fn a_remark_stands_on_a_tenant_that_is_ready() {
        let list = conditions(&State::Synced { note: Some(("NodeSelectorInvalid", "not served".to_owned())) }, &vc(&[]));
        let ready = condition(&list, ConditionType::Ready).unwrap();
        assert_eq!((ready.status, &*ready.reason, &*ready.message), (ConditionStatus::True, "NodeSelectorInvalid", "not served"));
    }

    #[test]
    fn what_is_to_be_decided_is_not_forgotten_while_nobody_answers() {
        let mut held = vc(&[]);
        let list = conditions(&State::Held(Why::Replaced { before: uid(1), now: uid(2) }), &held);
        held.status = Some(VirtualClusterStatus { conditions: list, ..VirtualClusterStatus::default() });
        let list = conditions(&State::Unreachable { reason: "Unreachable", message: String::new() }, &held);
        assert!(condition(&list, ConditionType::Held).is_none());
    }

    #[test]
    fn a_hold_says_what_to_type() {
        let replaced = State::Held(Why::Replaced { before: uid(1), now: uid(2) }).message(&vc(&[]));
        let command = format!("kubectl -n team annotate virtualcluster acme --overwrite {}={}", keys::ACCEPT_INCARNATION, uid(2));
        assert!(replaced.ends_with(&command), "{replaced}");
        let restored = State::Held(Why::Restored { incarnation: uid(1), at: 5, built: 9 }).message(&vc(&[]));
        assert!(restored.ends_with(&format!("={}@9", uid(1))), "{restored}");
    }
}
