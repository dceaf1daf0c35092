//! What only one tenant can have: a control plane, and a slice of service addresses.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use common::Uid;
use parking_lot::Mutex;
use tokio::time::Instant;

/// How long a new tenant waits, after a start, for elder ones to say which control plane is theirs. An elder one that does not answer must
/// not keep others waiting.
const ELDERS: Duration = Duration::from_secs(5);

/// Who asks for something: the order says who goes first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claimant {
    /// Objects in the super cluster were made for it from this control plane; `false` sorts before `true`.
    pub newcomer: bool,
    /// When its VirtualCluster was made, in seconds since 1970.
    pub created: i64,
    /// The UID of its VirtualCluster.
    pub uid: Uid,
    /// Namespace and name of its VirtualCluster.
    pub name: String,
}

/// The answer to a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// It is the claimant's.
    Ours,
    /// Not known yet: an elder one has not been asked.
    Wait,
    /// It is that of the one with this name.
    Theirs(String),
}

/// Who has which control plane.
#[derive(Debug)]
pub(super) struct Planes {
    started: Instant,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Who reaches which control plane.
    claims: HashMap<Uid, (Uid, Claimant)>,
    /// Who was there at the start and has not tried yet: by UID, when it was made.
    untried: HashSet<(i64, Uid)>,
}

impl Planes {
    pub(super) fn new() -> Self {
        Self { started: Instant::now(), state: Mutex::default() }
    }

    /// Somebody who will say what is his.
    pub(super) fn expect(&self, created: i64, uid: Uid) {
        self.state.lock().untried.insert((created, uid));
    }

    /// His first try has ended, however it did.
    pub(super) fn tried(&self, created: i64, uid: Uid) {
        self.state.lock().untried.remove(&(created, uid));
    }

    /// `who` reaches `plane`: may he have it?
    pub(super) fn claim(&self, who: &Claimant, plane: Uid) -> Claim {
        let mut state = self.state.lock();
        state.untried.remove(&(who.created, who.uid));
        state.claims.insert(who.uid, (plane, who.clone()));
        let first = state.claims.values().filter(|(theirs, _)| *theirs == plane).map(|(_, claimant)| claimant).min();
        if let Some(first) = first.filter(|first| first.uid != who.uid) {
            return Claim::Theirs(first.name.clone());
        }
        let has_elder = state.untried.iter().any(|(created, uid)| (*created, *uid) < (who.created, who.uid));
        if who.newcomer && has_elder && self.started.elapsed() < ELDERS { Claim::Wait } else { Claim::Ours }
    }

    /// He no longer asks for any.
    pub(super) fn release(&self, uid: Uid) {
        self.state.lock().claims.remove(&uid);
    }
}

/// A range of service addresses: network and prefix length.
pub(super) type Slice = (IpAddr, u8);

/// Reads a range such as `10.128.0.0/20`.
fn parse_slice(text: &str) -> Option<Slice> {
    let (network, bits) = text.split_once('/')?;
    text.parse::<runtime::address::Cidr>().ok()?;
    Some((network.parse().ok()?, bits.parse().ok()?))
}

/// Reads a range, or two of different families with a comma between, as an API server takes them.
pub(super) fn parse_slices(text: &str) -> Option<Vec<Slice>> {
    let slices: Vec<Slice> = text.split(',').map(parse_slice).collect::<Option<_>>()?;
    match slices.as_slice() {
        [_] => Some(slices),
        [a, b] if a.0.is_ipv4() != b.0.is_ipv4() => Some(slices),
        _ => None,
    }
}

/// Whether two ranges have an address in common.
pub(super) fn overlap(a: Slice, b: Slice) -> bool {
    let within = |(network, bits): Slice, address: IpAddr| {
        format!("{network}/{bits}").parse::<runtime::address::Cidr>().is_ok_and(|range| range.contains(address))
    };
    within(a, b.0) || within(b, a.0)
}

/// Who has which ranges of service addresses.
#[derive(Debug, Default)]
pub(super) struct Slices(Mutex<HashMap<Uid, (Vec<Slice>, String)>>);

impl Slices {
    /// Gives `wanted` to the tenant in place of what it had, unless another has a part of it.
    ///
    /// *Errors*: the name of the other.
    pub(super) fn allot(&self, uid: Uid, name: &str, wanted: &[Slice]) -> Result<(), String> {
        let mut slices = self.0.lock();
        let takes = |held: &[Slice]| held.iter().any(|held| wanted.iter().any(|wanted| overlap(*held, *wanted)));
        if let Some((_, (_, other))) = slices.iter().find(|(theirs, (held, _))| **theirs != uid && takes(held)) {
            return Err(other.clone());
        }
        slices.insert(uid, (wanted.to_vec(), name.to_owned()));
        Ok(())
    }

    /// The tenant has none any more.
    pub(super) fn release(&self, uid: Uid) {
        self.0.lock().remove(&uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid(last: u8) -> Uid {
        Uid::parse(&format!("00000000-0000-4000-8000-0000000000{last:02x}")).unwrap()
    }

    fn who(n: u8, newcomer: bool) -> Claimant {
        Claimant { newcomer, created: i64::from(n), uid: uid(n), name: format!("team/{n}") }
    }

    #[tokio::test(start_paused = true)]
    async fn the_elder_has_the_control_plane_whoever_came_first() {
        let planes = Planes::new();
        assert_eq!(planes.claim(&who(2, true), uid(9)), Claim::Ours);
        assert_eq!(planes.claim(&who(1, true), uid(9)), Claim::Ours);
        assert_eq!(planes.claim(&who(2, true), uid(9)), Claim::Theirs("team/1".to_owned()));
        planes.release(uid(1));
        assert_eq!(planes.claim(&who(2, true), uid(9)), Claim::Ours);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_has_objects_of_it_cannot_be_ousted_by_a_claim() {
        let planes = Planes::new();
        assert_eq!(planes.claim(&who(2, false), uid(9)), Claim::Ours);
        assert_eq!(planes.claim(&who(1, true), uid(9)), Claim::Theirs("team/2".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_newcomer_waits_for_elders_for_a_while() {
        let planes = Planes::new();
        planes.expect(1, uid(1));
        planes.expect(2, uid(2));
        assert_eq!(planes.claim(&who(2, true), uid(9)), Claim::Wait);
        assert_eq!(planes.claim(&who(2, false), uid(9)), Claim::Ours);
        tokio::time::advance(ELDERS).await;
        assert_eq!(planes.claim(&who(2, true), uid(9)), Claim::Ours);
        let planes = Planes::new();
        planes.expect(1, uid(1));
        planes.tried(1, uid(1));
        assert_eq!(planes.claim(&who(2, true), uid(9)), Claim::Ours);
    }

    #[test]
    fn slices_do_not_overlap() {
        let slices = Slices::default();
        let slice = |text| parse_slices(text).unwrap();
        assert_eq!(slices.allot(uid(1), "a", &slice("10.128.0.0/20")), Ok(()));
        assert_eq!(slices.allot(uid(2), "b", &slice("10.128.16.0/20")), Ok(()));
        for text in ["10.128.0.0/12", "10.128.1.0/24", "10.128.0.0/20"] {
            assert!(slices.allot(uid(3), "c", &slice(text)).is_err(), "{text}");
        }
        assert_eq!(slices.allot(uid(1), "a", &slice("10.128.0.0/24")), Ok(()), "its own is no obstacle");
        slices.release(uid(1));
        assert_eq!(slices.allot(uid(3), "c", &slice("10.128.1.0/24")), Ok(()));
        assert_eq!(slices.allot(uid(4), "d", &slice("10.129.0.0/24,fd00::/112")), Ok(()));
        assert_eq!(slices.allot(uid(5), "e", &slice("10.130.0.0/24,fd00::/108")), Err("d".to_owned()), "of either family");
    }

    #[test]
    fn ranges_are_read_strictly() {
        for text in ["", "10.0.0.0", "10.0.0.1/8", "10.0.0.0/33", "a/8", "10.0.0.0/8/8"] {
            assert_eq!(parse_slice(text), None, "{text}");
        }
        assert_eq!(parse_slice("fd00::/108"), Some(("fd00::".parse().unwrap(), 108)));
        assert_eq!(parse_slices("10.128.0.0/20,fd00::/108").map(|slices| slices.len()), Some(2));
        for text in [
            "10.128.0.0/20,10.129.0.0/20",
            "fd00::/108,fd01::/108",
            "10.128.0.0/20,fd00::/108,fd01::/108",
            "10.128.0.0/20,",
            "10.128.0.0/20, fd00::/108",
        ] {
            assert_eq!(parse_slices(text), None, "{text}");
        }
    }
}
