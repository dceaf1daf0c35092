//! Who may claim which addresses from outside: what VirtualClusters register, and who of two goes first.
//!
//! As with hosts ([`super::hosts`]) the older VirtualCluster keeps what overlaps, by the time that it was made, then by namespace and name.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use common::Uid;
use mirror::external::ExternalAddresses;
use parking_lot::Mutex;
use runtime::address::{AddressPolicy, Cidr, denied};

use super::claim::{Slice, overlap};
use super::note::Note;

/// So many ranges stand in a message at most.
const NAMED: usize = 3;

/// What a tenant may claim.
#[derive(Clone, Debug)]
pub(super) struct Claimable {
    pub(super) addresses: Arc<ExternalAddresses>,
    /// What is wrong with what is registered.
    pub(super) note: Option<Note>,
}

/// All registrations.
#[derive(Debug)]
pub(super) struct Ranges {
    /// What no tenant is given, whoever registers it.
    platform: Vec<Slice>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Whether all VirtualClusters have been seen once: before, an older one may not be known yet.
    listed: bool,
    tenants: HashMap<Uid, Registration>,
    /// What was decided since any registration moved.
    answers: HashMap<Uid, Claimable>,
}

#[derive(Debug, PartialEq, Eq)]
struct Registration {
    /// When the VirtualCluster was made, in seconds since 1970, its namespace and its name: who is less goes first.
    age: (i64, String, String),
    ranges: Vec<Slice>,
    /// The first entry that counts for nothing, and why.
    invalid: Option<String>,
}

impl Ranges {
    /// No registrations; `platform` are ranges that are no tenant's.
    pub(super) fn new(platform: Vec<Slice>) -> Self {
        Self { platform, state: Mutex::default() }
    }

    /// Every VirtualCluster has been seen.
    pub(super) fn listed(&self) {
        self.state.lock().listed = true;
    }

    /// Takes over what a VirtualCluster registers, in place of what it registered before. What is no range, or the platform's, counts for nothing.
    pub(super) fn register(&self, uid: Uid, created: i64, (namespace, name): (&str, &str), texts: &[String]) {
        let (mut ranges, mut invalid) = (Vec::new(), None);
        for text in texts {
            match self.read(text) {
                Ok(range) => ranges.push(range),
                Err(error) => invalid = invalid.or_else(|| Some(format!("{text:.80?} ({error})"))),
            }
        }
        ranges.sort_unstable();
        ranges.dedup();
        self.state.lock().set(uid, Some(Registration { age: (created, namespace.to_owned(), name.to_owned()), ranges, invalid }));
    }

    /// The tenant is gone, and with it all that it claimed.
    pub(super) fn release(&self, uid: Uid) {
        self.state.lock().set(uid, None);
    }

    /// What a tenant may claim; nothing is known before all VirtualClusters have been seen.
    pub(super) fn of(&self, uid: Uid) -> Option<Claimable> {
        let mut state = self.state.lock();
        if !state.listed {
            return None;
        }
        if let Some(known) = state.answers.get(&uid) {
            return Some(known.clone());
        }
        let answer = state.decide(uid);
        state.answers.insert(uid, answer.clone());
        Some(answer)
    }

    fn read(&self, text: &str) -> Result<Slice, String> {
        let range = text.parse::<Cidr>().map_err(|error| error.to_string())?.parts();
        if let Some(platform) = self.platform.iter().find(|platform| overlap(**platform, range)) {
            return Err(format!("it is the platform's in part or whole, by --platform-ranges: {}", said(*platform)));
        }
        if !AddressPolicy::default().allows(range.0) || denied().any(|denied| overlap(denied.parts(), range)) {
            return Err("loopback, link-local, metadata and multicast addresses are nobody's".to_owned());
        }
        Ok(range)
    }
}

impl State {
    fn set(&mut self, uid: Uid, now: Option<Registration>) {
        let before = self.tenants.get(&uid);
        if before == now.as_ref() {
            return;
        }
        // Most register nothing, and are nothing to the others.
        if before.into_iter().chain(&now).any(|one| !one.is_empty()) {
            self.answers.clear();
        }
        match now {
            Some(now) => drop(self.tenants.insert(uid, now)),
            None => drop(self.tenants.remove(&uid)),
        }
    }

    fn decide(&self, uid: Uid) -> Claimable {
        let Some(registration) = self.tenants.get(&uid).filter(|registration| !registration.is_empty()) else {
            return Claimable { addresses: Arc::default(), note: None };
        };
        let mut taken = BTreeMap::new();
        for other in self.tenants.values().filter(|other| other.age < registration.age) {
            for range in &other.ranges {
                if let Some(own) = registration.ranges.iter().find(|own| overlap(**own, *range)) {
                    taken.entry(*range).or_insert((*own, other));
                }
            }
        }
        let note = registration.invalid.as_deref().map(invalid).or_else(|| overlaps(&taken));
        let addresses = ExternalAddresses::new(registration.ranges.clone(), taken.into_keys().collect());
        Claimable { addresses: Arc::new(addresses), note }
    }
}

impl Registration {
    fn is_empty(&self) -> bool {
        self.ranges.is_empty() && self.invalid.is_none()
    }
}

fn said((network, prefix): Slice) -> String {
    format!("{network}/{prefix}")
}

fn invalid(first: &str) -> Note {
    let message = format!(
        "an entry of spec.externalAddresses is no range that Services of a tenant may claim: {first}: it counts for nothing; register ranges such \
         as 192.0.2.16/28, or 192.0.2.7/32 for one address"
    );
    ("ExternalAddressInvalid", message)
}

fn overlaps(taken: &BTreeMap<Slice, (Slice, &Registration)>) -> Option<Note> {
    let named: Vec<_> = taken
        .iter()
        .take(NAMED)
        .map(|(range, (own, other))| {
            let (_, namespace, name) = &other.age;
            format!("{} ({} of VirtualCluster {namespace}/{name})", said(*own), said(*range))
        })
        .collect();
    let rest = taken.len().saturating_sub(NAMED);
    let more = if rest == 0 { String::new() } else { format!(" and {rest} more") };
    let message = format!(
        "what spec.externalAddresses registers is registered by an older VirtualCluster, in part or whole: {}{more}; Services of this one do not \
         claim those addresses: give each to one",
        named.join(", ")
    );
    (!taken.is_empty()).then_some(("ExternalAddressTaken", message))
}

#[cfg(test)]
mod tests {
    use mirror::host::Denied;

    use super::*;

    const fn uid(low: u128) -> Uid {
        Uid::from_bits(low)
    }

    fn all() -> Ranges {
        let all = Ranges::new(vec![("10.96.0.0".parse().unwrap(), 12)]);
        all.listed();
        all
    }

    fn register(ranges: &Ranges, low: u128, created: i64, texts: &[&str]) {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        ranges.register(uid(low), created, ("team", &format!("t{low}")), &texts);
    }

    fn ask(ranges: &Ranges, low: u128, address: &str) -> Result<(), Denied> {
        ranges.of(uid(low)).unwrap().addresses.ask(address.parse().unwrap())
    }

    fn note(ranges: &Ranges, low: u128) -> Option<(&'static str, String)> {
        ranges.of(uid(low)).unwrap().note
    }

    #[test]
    fn s19_no_two_tenants_claim_one_address_and_the_older_registration_goes_first() {
        let early = Ranges::new(Vec::new());
        register(&early, 2, 20, &["192.0.2.0/24"]);
        assert!(early.of(uid(2)).is_none(), "an older one may not have been seen yet");
        let all = all();
        register(&all, 2, 20, &["192.0.2.0/24", "2001:db8::/64"]);
        assert_eq!((ask(&all, 2, "192.0.2.7"), note(&all, 2)), (Ok(()), None));
        register(&all, 1, 10, &["192.0.2.0/28", "2001:db8::/32"]);
        assert_eq!((ask(&all, 1, "192.0.2.7"), ask(&all, 1, "2001:db8::7"), note(&all, 1)), (Ok(()), Ok(()), None));
        assert_eq!((ask(&all, 2, "192.0.2.7"), ask(&all, 2, "2001:db8::7")), (Err(Denied::Taken), Err(Denied::Taken)));
        assert_eq!(ask(&all, 2, "192.0.2.16"), Ok(()), "what is beside it stays");
        let (reason, message) = note(&all, 2).unwrap();
        assert!(reason == "ExternalAddressTaken" && message.contains("192.0.2.0/24 (192.0.2.0/28 of VirtualCluster team/t1)"), "{message}");
        // What the older one gives back the younger has.
        all.release(uid(1));
        assert_eq!((ask(&all, 2, "192.0.2.7"), note(&all, 2)), (Ok(()), None));
        assert_eq!(ask(&all, 1, "192.0.2.7"), Err(Denied::NothingRegistered));
    }

    #[test]
    fn of_the_same_age_the_name_decides() {
        let all = all();
        for (low, namespace, name) in [(1, "b", "a"), (2, "a", "z"), (3, "a", "y")] {
            all.register(uid(low), 5, (namespace, name), &["192.0.2.7/32".to_owned()]);
        }
        let has: Vec<bool> = [1, 2, 3].into_iter().map(|low| ask(&all, low, "192.0.2.7").is_ok()).collect();
        assert_eq!(has, [false, false, true]);
    }

    #[test]
    fn s19_what_is_no_range_or_the_platforms_counts_for_nothing_and_is_told() {
        for (text, words) in [
            ("192.0.2.7", "192.0.2.7/32"),
            ("192.0.2.7/24", "without host bits"),
            ("app.example.com", "not a range"),
            ("10.100.0.0/24", "--platform-ranges: 10.96.0.0/12"),
            ("0.0.0.0/0", "--platform-ranges"),
            ("169.254.169.254/32", "nobody's"),
            ("127.0.0.0/8", "nobody's"),
            ("100.0.0.0/8", "nobody's"),
            ("168.0.0.0/7", "nobody's"),
            ("::/0", "nobody's"),
            ("fe80::/10", "nobody's"),
        ] {
            let all = all();
            register(&all, 1, 1, &[text, "192.0.2.16/28"]);
            let (reason, message) = note(&all, 1).unwrap();
            assert!(reason == "ExternalAddressInvalid" && message.contains(words), "{text}: {message}");
            assert_eq!(ask(&all, 1, "192.0.2.16"), Ok(()), "{text}");
            assert_eq!(ask(&all, 1, "192.0.2.7"), Err(Denied::NotRegistered), "{text}");
        }
    }
}
