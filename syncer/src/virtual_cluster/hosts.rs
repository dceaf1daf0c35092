//! Who has which hosts: what VirtualClusters register, and who of two goes first.
//!
//! The older VirtualCluster keeps what overlaps, by the time that it was made, then by namespace and name. So nobody takes a host from a tenant by
//! registering it anew; an older registration that is made wider does.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use common::Uid;
use mirror::host::{Host, Hosts};
use parking_lot::Mutex;

use super::note::Note;

/// So many hosts stand in a message at most.
const NAMED: usize = 3;

/// What a tenant may publish under.
#[derive(Clone, Debug)]
pub(super) struct Allotted {
    pub(super) hosts: Arc<Hosts>,
    /// What is wrong with what is registered.
    pub(super) note: Option<Note>,
}

/// All registrations.
#[derive(Debug, Default)]
pub(super) struct Registrations(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Whether all VirtualClusters have been seen once: before, an older one may not be known yet.
    listed: bool,
    /// Another number whenever any registration moved.
    moves: u64,
    tenants: HashMap<Uid, Registration>,
    /// Who registers what, by [`key`].
    by_name: BTreeMap<String, Vec<(Uid, Host)>>,
    answers: HashMap<Uid, (u64, Allotted)>,
}

#[derive(Debug, PartialEq, Eq)]
struct Registration {
    /// When the VirtualCluster was made, in seconds since 1970, its namespace and its name: who is less goes first.
    age: (i64, String, String),
    hosts: Vec<Host>,
    /// The first entry that is none, and why.
    invalid: Option<String>,
}

impl Registrations {
    /// Every VirtualCluster has been seen.
    pub(super) fn listed(&self) {
        self.0.lock().listed = true;
    }

    /// Takes over what a VirtualCluster registers, in place of what it registered before. Entries that are no hosts count for nothing.
    pub(super) fn register(&self, uid: Uid, created: i64, (namespace, name): (&str, &str), texts: &[String]) {
        let (mut hosts, mut invalid) = (Vec::new(), None);
        for text in texts {
            match text.parse::<Host>() {
                Ok(host) => hosts.push(host),
                Err(error) => invalid = invalid.or_else(|| Some(format!("{text:.80?} ({error})"))),
            }
        }
        hosts.sort();
        hosts.dedup();
        self.0.lock().set(uid, Some(Registration { age: (created, namespace.to_owned(), name.to_owned()), hosts, invalid }));
    }

    /// The tenant is gone, and with it all that it published.
    pub(super) fn release(&self, uid: Uid) {
        self.0.lock().set(uid, None);
    }

    /// What a tenant may publish under; nothing is known before all VirtualClusters have been seen.
    pub(super) fn of(&self, uid: Uid) -> Option<Allotted> {
        let mut state = self.0.lock();
        if !state.listed {
            return None;
        }
        let moves = state.moves;
        if let Some((_, known)) = state.answers.get(&uid).filter(|(at, _)| *at == moves) {
            return Some(known.clone());
        }
        let answer = state.decide(uid);
        state.answers.insert(uid, (moves, answer.clone()));
        Some(answer)
    }
}

impl State {
    fn set(&mut self, uid: Uid, now: Option<Registration>) {
        if self.tenants.get(&uid) == now.as_ref() {
            return;
        }
        self.moves += 1;
        for host in self.tenants.remove(&uid).into_iter().flat_map(|before| before.hosts) {
            let key = key(&host);
            if let Some(list) = self.by_name.get_mut(&key) {
                list.retain(|(other, known)| *other != uid || *known != host);
                if list.is_empty() {
                    self.by_name.remove(&key);
                }
            }
        }
        match now {
            Some(now) => {
                for host in &now.hosts {
                    self.by_name.entry(key(host)).or_default().push((uid, host.clone()));
                }
                self.tenants.insert(uid, now);
            }
            None => drop(self.answers.remove(&uid)),
        }
    }

    fn decide(&self, uid: Uid) -> Allotted {
        let Some(registration) = self.tenants.get(&uid) else { return Allotted { hosts: Arc::default(), note: None } };
        let mut taken = BTreeMap::new();
        for own in &registration.hosts {
            for (other, host) in self.overlapping(own) {
                if let Some(other) = self.tenants.get(other).filter(|other| other.age < registration.age) {
                    taken.entry(host.clone()).or_insert((own, other));
                }
            }
        }
        let note = registration.invalid.as_deref().map(invalid).or_else(|| overlaps(&taken));
        Allotted { hosts: Arc::new(Hosts::new(registration.hosts.clone(), taken.into_keys().collect())), note }
    }

    /// All that is registered and overlaps a host: that of its name, wildcards above, and for a wildcard what is below.
    fn overlapping<'s>(&'s self, host: &'s Host) -> impl Iterator<Item = &'s (Uid, Host)> {
        let key = key(host);
        let above: Vec<&str> = key.match_indices('.').filter_map(|(at, _)| key.get(..=at)).collect();
        let above: Vec<_> = above.into_iter().filter_map(|name| self.by_name.get(name)).flatten().collect();
        let below = host.is_wildcard().then(|| self.by_name.range(key.clone()..).take_while(move |(name, _)| name.starts_with(&key)));
        let below: Vec<_> = below.into_iter().flatten().flat_map(|(_, list)| list).collect();
        above.into_iter().chain(below).filter(|(_, other)| other.overlaps(host))
    }
}

/// The name with its labels in opposite order, each with a dot after it: what is below a name begins with it.
fn key(host: &Host) -> String {
    host.name().rsplit('.').flat_map(|label| [label, "."]).collect()
}

fn invalid(first: &str) -> Note {
    let message = format!(
        "an entry of spec.ingressHosts is no host: {first}: it counts for nothing; register app.example.com for exactly that host, \
         *.team.example.com for every name below"
    );
    ("IngressHostInvalid", message)
}

fn overlaps(taken: &BTreeMap<Host, (&Host, &Registration)>) -> Option<Note> {
    let named: Vec<_> = taken
        .iter()
        .take(NAMED)
        .map(|(host, (own, other))| {
            let (_, namespace, name) = &other.age;
            format!("{own} ({host} of VirtualCluster {namespace}/{name})")
        })
        .collect();
    let rest = taken.len().saturating_sub(NAMED);
    let more = if rest == 0 { String::new() } else { format!(" and {rest} more") };
    let message = format!(
        "what spec.ingressHosts registers is registered by an older VirtualCluster, in part or whole: {}{more}; Ingresses of this one do not go \
         down under those hosts: give each host to one",
        named.join(", ")
    );
    (!taken.is_empty()).then_some(("IngressHostTaken", message))
}

#[cfg(test)]
mod tests {
    use mirror::host::Denied;

    use super::*;

    const fn uid(low: u128) -> Uid {
        Uid::from_bits(low)
    }

    fn register(registrations: &Registrations, low: u128, created: i64, hosts: &[&str]) {
        let texts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        registrations.register(uid(low), created, ("team", &format!("t{low}")), &texts);
    }

    fn ask(registrations: &Registrations, low: u128, host: &str) -> Result<(), Denied> {
        registrations.of(uid(low)).unwrap().hosts.ask(&host.parse().unwrap())
    }

    fn note(registrations: &Registrations, low: u128) -> Option<(&'static str, String)> {
        registrations.of(uid(low)).unwrap().note
    }

    #[test]
    fn s23_the_older_registration_keeps_what_overlaps_whoever_came_first() {
        let all = Registrations::default();
        register(&all, 2, 20, &["app.example.com", "*.young.example.com"]);
        assert!(all.of(uid(2)).is_none(), "an older one may not have been seen yet");
        all.listed();
        assert_eq!((ask(&all, 2, "app.example.com"), note(&all, 2)), (Ok(()), None));
        register(&all, 1, 10, &["*.example.com"]);
        assert_eq!((ask(&all, 1, "app.example.com"), ask(&all, 1, "*.example.com"), note(&all, 1)), (Ok(()), Ok(()), None));
        assert_eq!((ask(&all, 2, "app.example.com"), ask(&all, 2, "a.young.example.com")), (Err(Denied::Taken), Err(Denied::Taken)));
        let (reason, message) = note(&all, 2).unwrap();
        assert!(reason == "IngressHostTaken" && message.contains("(*.example.com of VirtualCluster team/t1)"), "{message}");
        // What the older one gives back, or leaves behind, the younger has.
        register(&all, 1, 10, &["*.a.example.com"]);
        assert_eq!((ask(&all, 2, "app.example.com"), note(&all, 2)), (Ok(()), None));
        register(&all, 1, 10, &["x.young.example.com"]);
        assert_eq!((ask(&all, 2, "a.young.example.com"), ask(&all, 2, "x.young.example.com")), (Ok(()), Err(Denied::Taken)));
        assert_eq!(ask(&all, 2, "*.young.example.com"), Err(Denied::Taken), "a part of it is the older one's");
        all.release(uid(1));
        assert_eq!((ask(&all, 2, "x.young.example.com"), note(&all, 2)), (Ok(()), None));
        assert_eq!(ask(&all, 1, "x.young.example.com"), Err(Denied::NothingRegistered));
    }

    #[test]
    fn of_the_same_age_the_name_decides() {
        let all = Registrations::default();
        all.listed();
        for (low, namespace, name) in [(1, "b", "a"), (2, "a", "z"), (3, "a", "y")] {
            all.register(uid(low), 5, (namespace, name), &["app.example.com".to_owned()]);
        }
        let has: Vec<bool> = [1, 2, 3].into_iter().map(|low| ask(&all, low, "app.example.com").is_ok()).collect();
        assert_eq!(has, [false, false, true]);
    }

    #[test]
    fn names_that_only_begin_alike_do_not_overlap() {
        let all = Registrations::default();
        all.listed();
        register(&all, 1, 1, &["*.app.example.com", "com.example.app", "exact.example.org"]);
        register(&all, 2, 2, &["*.xapp.example.com", "app.example.com", "*.exact.example.org", "*.app2.example.com"]);
        assert_eq!(note(&all, 2), None);
    }

    #[test]
    fn what_is_no_host_counts_for_nothing_and_is_told() {
        let all = Registrations::default();
        all.listed();
        register(&all, 1, 1, &["*", "App.example.com", "app.example.com"]);
        let (reason, message) = note(&all, 1).unwrap();
        assert!(reason == "IngressHostInvalid" && message.contains("\"*\""), "{message}");
        assert_eq!((ask(&all, 1, "app.example.com"), ask(&all, 1, "b.example.com")), (Ok(()), Err(Denied::NotRegistered)));
    }

    #[test]
    fn whoever_is_not_registered_has_nothing() {
        let all = Registrations::default();
        all.listed();
        assert_eq!(ask(&all, 1, "app.example.com"), Err(Denied::NothingRegistered));
    }
}
