//! What the objects of one tenant take of the super cluster that there is only so much of, as their kinds say, and what waits until there is room.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use mirror::bound::{Bound, Takes};
use mirror::hold::Hold;
use mirror::kind::{Downward, KindId};
use mirror::object::{Content, Object};
use serde_json::Map;
use tokio::time::Instant;

use crate::index::Key;

/// Objects of a kind that are remembered to wait. What goes beyond that looks by itself, some minutes later.
const WAITING: usize = 1000;

/// How many of them look again whenever there is room: what is one's end may be room for several.
const AT_ONCE: usize = 10;

/// How long a write that was let through may take until it passes, or has failed.
const PROMISE: Duration = Duration::from_mins(1);

/// What the objects of a tenant take, as the super cluster has them.
#[derive(Debug, Default)]
pub struct Counts {
    /// How much each object takes, in the order of the bounds of its kind.
    taken: HashMap<KindId, HashMap<Key, Vec<usize>>>,
    /// What was let through and did not pass yet, and when: several are written at once.
    promised: HashMap<KindId, HashMap<Key, (Instant, Vec<usize>)>>,
    /// What found no room, the first in front.
    waiting: HashMap<KindId, VecDeque<Key>>,
    /// What waited and may find room now.
    woken: Vec<Key>,
}

impl Counts {
    /// An object passes, as the super cluster has it.
    pub fn seen(&mut self, key: &Key, bytes: &[u8]) {
        let Some(kind) = key.kind.downward().filter(|kind| is_counted(*kind)) else { return };
        let is_read = kind.bounds().iter().any(|bound| matches!(bound.takes, Takes::Counted(_)));
        let body = if is_read { Object::parse(bytes).map(|object| object.body) } else { Ok(Map::new()) };
        let Ok(body) = body else { return };
        let amounts: Vec<usize> = kind.bounds().iter().map(|bound| bound.of(&body)).collect();
        self.promised.entry(key.kind).or_default().remove(key);
        let before = self.taken.entry(key.kind).or_default().insert(key.clone(), amounts.clone());
        if before.is_some_and(|before| before.iter().zip(&amounts).any(|(before, now)| before > now)) {
            self.wake(key.kind);
        }
    }

    /// An object is gone.
    pub fn gone(&mut self, key: &Key) {
        self.promised.entry(key.kind).or_default().remove(key);
        if self.taken.get_mut(&key.kind).is_some_and(|taken| taken.remove(key).is_some()) {
            self.wake(key.kind);
        }
    }

    /// A write that was let through was refused by the super cluster, and takes nothing.
    pub fn refused(&mut self, key: &Key) {
        if self.promised.get_mut(&key.kind).is_some_and(|promised| promised.remove(key).is_some()) {
            self.wake(key.kind);
        }
    }

    /// A kind is followed no more.
    pub fn end_kind(&mut self, kind: KindId) {
        self.taken.remove(&kind);
        self.promised.remove(&kind);
        self.waiting.remove(&kind);
    }

    /// What is to be looked at again when the address of a Pod has moved.
    pub fn on_pods(&self) -> Vec<Key> {
        let depends = |kind: &KindId| kind.downward().is_some_and(Downward::depends_on_pods);
        self.taken.iter().filter(|(kind, _)| depends(kind)).flat_map(|(_, taken)| taken.keys().cloned()).collect()
    }

    /// What waited and is to be looked at again, since there is room. It is said once.
    pub fn woken(&mut self) -> Vec<Key> {
        std::mem::take(&mut self.woken)
    }

    /// Asked before an object is written. One that takes no more than it has is always let through.
    ///
    /// *Errors*: the refusal where that would be too much; it is then among what waits.
    pub fn ask(&mut self, key: &Key, asked: &Content) -> Result<(), Hold> {
        let bounds = key.kind.downward().map(Downward::bounds).unwrap_or_default();
        let promised = self.promised.entry(key.kind).or_default();
        promised.retain(|_, (at, _)| at.elapsed() < PROMISE);
        let over = bounds.iter().enumerate().find_map(|(at, bound)| self.over(key, at, bound, asked));
        if let Some(hold) = over {
            let waiting = self.waiting.entry(key.kind).or_default();
            if waiting.len() < WAITING && !waiting.contains(key) {
                waiting.push_back(key.clone());
            }
            return Err(hold);
        }
        if !bounds.is_empty() {
            let amounts = bounds.iter().map(|bound| bound.of(&asked.body)).collect();
            self.promised.entry(key.kind).or_default().insert(key.clone(), (Instant::now(), amounts));
        }
        Ok(())
    }

    fn over(&self, key: &Key, at: usize, bound: &Bound, asked: &Content) -> Option<Hold> {
        let taken = self.taken.get(&key.kind);
        let of = |amounts: &Vec<usize>| amounts.get(at).copied().unwrap_or_default();
        let own = taken.and_then(|taken| taken.get(key)).map_or(0, of);
        let others = taken.map_or(0, |taken| taken.values().map(of).sum::<usize>()) - own;
        let more = |(other, (_, amounts)): (&Key, &(Instant, Vec<usize>))| {
            let has = taken.and_then(|taken| taken.get(other)).map_or(0, of);
            if other == key { 0 } else { of(amounts).saturating_sub(has) }
        };
        let others = others + self.promised.get(&key.kind).map_or(0, |promised| promised.iter().map(more).sum::<usize>());
        let asked = bound.of(&asked.body);
        (asked > own && others + asked > bound.most).then(|| bound.refuse(others + asked))
    }

    fn wake(&mut self, kind: KindId) {
        if let Some(waiting) = self.waiting.get_mut(&kind) {
            let count = waiting.len().min(AT_ONCE);
            self.woken.extend(waiting.drain(..count));
        }
    }
}

/// Whether objects of a kind are remembered: they take something, or depend on the tenant's Pods.
fn is_counted(kind: &dyn Downward) -> bool {
    !kind.bounds().is_empty() || kind.depends_on_pods()
}

#[cfg(test)]
mod tests {
    use common::{Name, Namespace};
    use serde_json::{Value, json};

    use super::*;

    fn key(kind: &str, number: usize) -> Key {
        let (namespace, name) = (Namespace::parse("default").ok(), Name::parse(&format!("s{number}")).unwrap());
        Key { kind: KindId::named(kind).unwrap(), namespace, name }
    }

    fn most(kind: &str, reason: &str) -> usize {
        let bounds = KindId::named(kind).unwrap().downward().unwrap().bounds();
        bounds.iter().find(|bound| bound.reason == reason).unwrap().most
    }

    fn asked(spec: &Value) -> Content {
        Content { body: Map::from_iter([("spec".to_owned(), spec.clone())]), ..Content::default() }
    }

    /// As the super cluster shows it.
    fn show(counts: &mut Counts, key: &Key, spec: &Value) {
        let object = json!({"metadata": {"name": key.name.as_str(), "uid": "00000000-0000-4000-8000-000000000001"}, "spec": spec});
        counts.seen(key, object.to_string().as_bytes());
    }

    /// Makes objects until one is refused: how many there are then, and the reason.
    fn fill(counts: &mut Counts, kind: &str, spec: &Value) -> (usize, &'static str) {
        for number in 0.. {
            match counts.ask(&key(kind, number), &asked(spec)) {
                Ok(()) => show(counts, &key(kind, number), spec),
                Err(Hold::Refused(refusal)) => return (number, refusal.reason),
                Err(other) => panic!("{other}"),
            }
        }
        unreachable!("there is a bound")
    }

    fn service(kind: &str, ports: usize) -> Value {
        json!({"type": kind, "ports": (1..=ports).map(|port| json!({"port": port})).collect::<Vec<_>>()})
    }

    #[test]
    fn s22_slices_have_a_bound_and_a_place_is_given_back() {
        let slice = |number| key("EndpointSlice", number);
        let mut counts = Counts::default();
        let most = most("EndpointSlice", "TooManyEndpointSlices");
        let may = |counts: &mut Counts, number| counts.ask(&slice(number), &Content::default()).is_ok();
        // Several are under way before one passes. What the super cluster refuses takes no place.
        assert_eq!((0..2 * most).filter(|number| may(&mut counts, *number)).count(), most);
        (0..most).for_each(|number| counts.refused(&slice(number)));
        assert!((most..2 * most).all(|number| may(&mut counts, number)) && counts.on_pods().is_empty());
        (most..2 * most).for_each(|number| counts.refused(&slice(number)));
        (0..most).for_each(|number| counts.seen(&slice(number), b"{}"));
        assert!(!may(&mut counts, most) && may(&mut counts, 0));
        counts.gone(&slice(0));
        assert!(may(&mut counts, most));
        assert_eq!(counts.on_pods().len(), most - 1);
    }

    #[test]
    fn s21_no_tenant_takes_all_addresses_and_node_ports() {
        let ports = most("Service", "TooManyNodePorts");
        let filled = |kind, count| fill(&mut Counts::default(), "Service", &service(kind, count));
        assert_eq!(filled("ClusterIP", 5), (most("Service", "TooManyServices"), "TooManyServices"));
        assert_eq!(filled("NodePort", 5), (ports / 5, "TooManyNodePorts"));
        let mut counts = Counts::default();
        assert_eq!(fill(&mut counts, "Service", &service("LoadBalancer", 0)), (ports, "TooManyNodePorts"));
        // What is there may change, if it takes no more; what is gone leaves room.
        let mut may = |number, kind, count| counts.ask(&key("Service", number), &asked(&service(kind, count))).is_ok();
        assert!(may(7, "NodePort", 1) && !may(7, "NodePort", 2) && may(ports, "ClusterIP", 9));
        counts.gone(&key("Service", 7));
        assert!(counts.ask(&key("Service", ports), &asked(&service("NodePort", 1))).is_ok());
    }

    #[test]
    fn s34_claims_and_ingresses_have_a_bound() {
        let rule = |paths: usize| json!({"rules": [{"host": "a.example.com", "http": {"paths": vec![json!({"path": "/"}); paths]}}]});
        let filled = |kind, spec: &Value| fill(&mut Counts::default(), kind, spec);
        let claims = most("PersistentVolumeClaim", "TooManyClaims");
        assert_eq!(filled("PersistentVolumeClaim", &json!({})), (claims, "TooManyClaims"));
        assert_eq!(filled("Ingress", &rule(1)), (most("Ingress", "TooManyIngresses"), "TooManyIngresses"));
        assert_eq!(filled("Ingress", &rule(99)), (most("Ingress", "TooManyRules") / 100, "TooManyRules"));
    }

    #[test]
    fn what_found_no_room_looks_again_when_there_is_some() {
        let mut counts = Counts::default();
        let (count, _) = fill(&mut counts, "Service", &service("NodePort", 1));
        let wait = |counts: &mut Counts, number| assert!(counts.ask(&key("Service", number), &asked(&service("NodePort", 1))).is_err());
        wait(&mut counts, count + 1);
        wait(&mut counts, count);
        // Another of its kind that takes nothing of it, and one of another kind.
        show(&mut counts, &key("Service", 5 * count), &service("ClusterIP", 1));
        show(&mut counts, &key("Ingress", 1), &json!({}));
        counts.gone(&key("Ingress", 1));
        assert!(counts.woken().is_empty());
        show(&mut counts, &key("Service", 0), &service("ClusterIP", 1));
        assert_eq!(counts.woken(), [key("Service", count), key("Service", count + 1)]);
        assert!(counts.woken().is_empty(), "it is said once");
        show(&mut counts, &key("Service", count), &service("NodePort", 1));
        wait(&mut counts, count + 9);
        counts.gone(&key("Service", 1));
        assert_eq!(counts.woken(), [key("Service", count + 9)]);
        // None waits for ever, and not all that wait look at once.
        (0..5 * WAITING).for_each(|number| drop(counts.ask(&key("Service", 1000 + number), &asked(&service("NodePort", 100)))));
        counts.gone(&key("Service", 2));
        assert_eq!(counts.woken().len(), AT_ONCE);
        assert!(counts.waiting.values().map(VecDeque::len).sum::<usize>() < WAITING);
    }
}
