//! What to do about one vNode, given what is seen of it: pure.

use std::time::Duration;

use super::seen::{Ready, Seen};

/// One thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Make it: the tenant needs it and does not have it.
    Make,
    /// Write what the super Node says now.
    Rewrite,
    /// Take the not-ready taint away.
    Untaint,
    /// Renew its Lease.
    Beat,
    /// Delete it: its last Pod has been gone for a while, or the node itself is gone.
    Delete,
    /// Remember it no longer.
    Forget,
}

/// What the vNode should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The text that stands in its annotation once written.
    pub(super) built: String,
    /// What the super Node's Ready condition says.
    pub(super) ready: Ready,
    /// The hash of what it tells.
    pub(super) shown: u64,
    /// Whether it takes no new Pods.
    pub(super) cordoned: bool,
}

/// Whether the tenant's Pods need the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// Nobody can say yet.
    Unsure,
    /// A Pod of the tenant's runs there, or the administrator shows it to the tenant in any case.
    Runs,
    /// A Pod in the tenant names it, but none runs there.
    Named,
    /// They don't, for this long.
    None(Duration),
}

/// Everything that the decision depends on.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is one thing that is the case or not, in any combination")]
pub(super) struct Look<'a> {
    /// The vNode, if the tenant has it.
    pub(super) seen: Option<&'a Seen>,
    /// What it should be, if the super Node is known.
    pub(super) wanted: Option<&'a Wanted>,
    /// Whether the tenant's Pods need it.
    pub(super) used: Use,
    /// Whether the super cluster is known not to have it.
    pub(super) is_lost: bool,
    /// How long a vNode without Pods stays.
    pub(super) linger: Duration,
    /// Whether a node-lifecycle controller was noticed in this tenant.
    pub(super) lifecycle: bool,
    /// Whether its Lease is to be renewed now.
    pub(super) beat_due: bool,
    /// What an API server made of it when it was last written, if that was something else: no use in writing it again.
    pub(super) stuck: Option<u64>,
    /// Whether enough time has passed since something that we wrote was undone.
    pub(super) repair_due: bool,
}

/// Whether somebody has declared dead what we wrote as alive.
pub(super) fn declared_dead(seen: &Seen, wanted: &Wanted) -> bool {
    seen.unknown && wanted.ready != Ready::Unknown && seen.built.as_ref() == Some(&wanted.built)
}

/// Whether somebody has changed what we wrote.
fn edited(seen: &Seen, wanted: &Wanted, stuck: Option<u64>) -> bool {
    (seen.shown != wanted.shown && stuck != Some(seen.shown)) || (wanted.cordoned && !seen.cordoned)
}

/// Decides, most urgent first.
pub(super) fn decide(look: &Look<'_>) -> Vec<Act> {
    let Some(seen) = look.seen else {
        return match (look.used, look.wanted) {
            (Use::Runs, Some(_)) => vec![Act::Make],
            (Use::Runs, None) | (Use::Unsure, _) => Vec::new(),
            (Use::Named | Use::None(_), _) => vec![Act::Forget],
        };
    };
    if seen.deleting {
        return Vec::new();
    }
    let is_over = match look.used {
        Use::Unsure => false,
        // As in any cluster: the controllers of each side collect what ran there, after a time in which the node may come back.
        Use::Runs | Use::Named => look.is_lost && seen.built.is_some(),
        Use::None(idle) => look.is_lost || idle >= look.linger,
    };
    if is_over {
        return vec![Act::Delete];
    }
    // Where no Pod of the tenant's runs it is told nothing, whatever Node it has labeled as a vNode.
    let (Use::Runs, Some(wanted)) = (look.used, look.wanted) else { return Vec::new() };
    let stale = seen.built.as_ref() != Some(&wanted.built);
    let acts = [
        (Act::Rewrite, stale || (look.repair_due && (declared_dead(seen, wanted) || edited(seen, wanted, look.stuck)))),
        (Act::Untaint, look.repair_due && seen.not_ready.is_some() && wanted.ready == Ready::True),
        (Act::Beat, look.lifecycle && look.beat_due),
    ];
    acts.into_iter().filter(|(_, due)| *due).map(|(act, _)| act).collect()
}

#[cfg(test)]
mod tests {
    use common::Uid;

    use super::*;

    fn seen() -> Seen {
        Seen {
            uid: Uid::default(),
            version: 1,
            built: Some("a".into()),
            ours: true,
            deleting: false,
            annotated: true,
            not_ready: None,
            unknown: false,
            lifecycle: false,
            shown: 1,
            cordoned: false,
        }
    }

    fn wanted() -> Wanted {
        Wanted { built: "a".into(), ready: Ready::True, shown: 1, cordoned: false }
    }

    fn look<'a>(seen: Option<&'a Seen>, wanted: Option<&'a Wanted>) -> Look<'a> {
        Look {
            seen,
            wanted,
            used: Use::Runs,
            is_lost: false,
            linger: Duration::from_mins(1),
            lifecycle: false,
            beat_due: true,
            stuck: None,
            repair_due: true,
        }
    }

    #[test]
    fn a_vnode_that_is_as_it_should_be_is_left_alone() {
        assert_eq!(decide(&look(Some(&seen()), Some(&wanted()))), []);
        assert_eq!(decide(&look(Some(&seen()), None)), []);
        let stranger = Seen { built: None, not_ready: Some(0), ..seen() };
        assert_eq!(decide(&Look { used: Use::Named, ..look(Some(&stranger), Some(&wanted())) }), []);
    }

    #[test]
    fn one_that_the_tenant_deleted_is_made_again_while_pods_run_there() {
        assert_eq!(decide(&look(None, Some(&wanted()))), [Act::Make]);
        assert_eq!(decide(&look(None, None)), []);
        for (used, acts) in [(Use::None(Duration::ZERO), vec![Act::Forget]), (Use::Named, vec![Act::Forget]), (Use::Unsure, vec![])] {
            assert_eq!(decide(&Look { used, ..look(None, Some(&wanted())) }), acts);
        }
    }

    #[test]
    fn it_goes_only_when_its_last_pod_has_been_gone_for_a_while() {
        let (seen, wanted) = (seen(), wanted());
        let idle = |seconds: u64| Use::None(Duration::from_secs(seconds));
        for (used, acts) in
            [(idle(60), vec![Act::Delete]), (idle(59), vec![]), (Use::Unsure, vec![]), (Use::Named, vec![]), (Use::Runs, vec![])]
        {
            assert_eq!(decide(&Look { used, ..look(Some(&seen), Some(&wanted)) }), acts);
        }
    }

    #[test]
    fn one_that_the_super_cluster_has_lost_goes_whatever_ran_there() {
        let seen = seen();
        let lost = |seen, used| decide(&Look { used, is_lost: true, ..look(Some(seen), None) });
        for used in [Use::None(Duration::ZERO), Use::Runs, Use::Named] {
            assert_eq!(lost(&seen, used), [Act::Delete]);
        }
        assert_eq!(lost(&seen, Use::Unsure), []);
        // Pods that the tenant has put on a Node of its own making say nothing of the super cluster's.
        let stranger = Seen { built: None, ..seen };
        assert_eq!(lost(&stranger, Use::Named), []);
    }

    #[test]
    fn news_of_the_super_node_is_written_and_the_taint_goes_with_readiness() {
        let (mut seen, mut wanted) = (Seen { not_ready: Some(0), ..seen() }, wanted());
        assert_eq!(decide(&look(Some(&seen), Some(&wanted))), [Act::Untaint]);
        wanted.built = "b".into();
        assert_eq!(decide(&look(Some(&seen), Some(&wanted))), [Act::Rewrite, Act::Untaint]);
        wanted.ready = Ready::False;
        assert_eq!(decide(&look(Some(&seen), Some(&wanted))), [Act::Rewrite]);
        seen.deleting = true;
        assert_eq!(decide(&look(Some(&seen), Some(&wanted))), []);
    }

    #[test]
    fn what_was_declared_dead_is_written_back_but_not_in_a_hurry() {
        let (seen, mut wanted) = (Seen { unknown: true, ..seen() }, wanted());
        assert_eq!(decide(&look(Some(&seen), Some(&wanted))), [Act::Rewrite]);
        assert_eq!(decide(&Look { repair_due: false, ..look(Some(&seen), Some(&wanted)) }), []);
        wanted.ready = Ready::Unknown;
        assert_eq!(decide(&look(Some(&seen), Some(&wanted))), []);
    }

    #[test]
    fn what_the_tenant_edited_is_written_back_but_not_in_a_hurry_and_not_for_ever() {
        let wanted = Wanted { cordoned: true, ..wanted() };
        let kept = Seen { cordoned: true, ..seen() };
        let with = |seen: &Seen, stuck| decide(&Look { stuck, ..look(Some(seen), Some(&wanted)) });
        assert_eq!(with(&kept, None), []);
        let edited = Seen { shown: 2, ..kept.clone() };
        assert_eq!(with(&edited, None), [Act::Rewrite]);
        assert_eq!(with(&edited, Some(2)), []);
        assert_eq!(with(&edited, Some(3)), [Act::Rewrite]);
        assert_eq!(decide(&Look { repair_due: false, ..look(Some(&edited), Some(&wanted)) }), []);
        assert_eq!(with(&Seen { cordoned: false, ..kept }, None), [Act::Rewrite]);
    }

    #[test]
    fn a_cordon_of_the_tenants_own_stays() {
        let seen = Seen { cordoned: true, ..seen() };
        assert_eq!(decide(&look(Some(&seen), Some(&wanted()))), []);
    }

    #[test]
    fn leases_are_renewed_only_for_a_node_lifecycle_controller() {
        let (seen, wanted) = (seen(), wanted());
        let with = Look { lifecycle: true, ..look(Some(&seen), Some(&wanted)) };
        assert_eq!(decide(&with), [Act::Beat]);
        assert_eq!(decide(&Look { beat_due: false, ..with }), []);
    }
}
