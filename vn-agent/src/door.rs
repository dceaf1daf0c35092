//! Who may stand at the door: callers that have not said who they are.
//!
//! *Guarantees*: strangers, however many and however slow, cost a bounded number of connections. The one that has stood there longest gives way
//! to the next, of those from the address that has most: who dials from one address, however often, sends nobody else away.
//!
//! *Caveats*: at one address, or where many take part, who is let in is not told from the others. While so many come anew within one
//! handshake, a caller that is known may have to give way too, and dial again.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// Handshakes under way at once. One takes a few milliseconds; what is still there when so many have come after it is slow on purpose.
const MOST_STRANGERS: usize = 256;

/// The same from one address: of the API servers of tenants, none needs the half of what there is.
const MOST_OF_ONE: usize = 128;

/// Bits of an IPv6 address that tell its owner from others: whoever has one address has all of its network.
const OWNER: u128 = !0 << 64;

/// Callers whose handshake is under way.
#[derive(Clone, Debug, Default)]
pub struct Door(Arc<Mutex<Strangers>>);

#[derive(Debug, Default)]
struct Strangers {
    next: u64,
    count: usize,
    /// Of each source, by the order in which they came.
    all: HashMap<IpAddr, BTreeMap<u64, CancellationToken>>,
}

impl Door {
    /// One more from this address; if there are too many, the one that has been there longest must go, of those from the address that has most.
    pub fn enter(&self, address: IpAddr) -> Stranger {
        let source = source(address);
        let mut strangers = self.0.lock();
        let number = strangers.next;
        strangers.next += 1;
        let sent_away = CancellationToken::new();
        let of_source = strangers.all.entry(source).or_default();
        of_source.insert(number, sent_away.clone());
        let too_many_of_one = of_source.len() > MOST_OF_ONE;
        strangers.count += 1;
        if too_many_of_one {
            strangers.send_away(source);
        } else if strangers.count > MOST_STRANGERS
            && let Some(most) = strangers.most()
        {
            strangers.send_away(most);
        }
        Stranger { number, source, sent_away, door: self.clone() }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.lock().count
    }

    /// Whether nobody is there.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Strangers {
    /// The address that has most; of several, the one whose first has been there longest.
    fn most(&self) -> Option<IpAddr> {
        let by_size = |(_, of_source): &(&IpAddr, &BTreeMap<u64, CancellationToken>)| {
            (of_source.len(), Reverse(of_source.first_key_value().map(|(number, _)| *number)))
        };
        self.all.iter().max_by_key(by_size).map(|(source, _)| *source)
    }

    /// Sends away the first of an address.
    fn send_away(&mut self, source: IpAddr) {
        let first = self.all.get(&source).and_then(|of_source| of_source.first_key_value()).map(|(number, _)| *number);
        if let Some(sent_away) = first.and_then(|first| self.remove(source, first)) {
            sent_away.cancel();
        }
    }

    fn remove(&mut self, source: IpAddr, number: u64) -> Option<CancellationToken> {
        let of_source = self.all.get_mut(&source)?;
        let removed = of_source.remove(&number)?;
        if of_source.is_empty() {
            self.all.remove(&source);
        }
        self.count -= 1;
        Some(removed)
    }
}

/// What tells one caller's addresses from another's.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & OWNER).into(),
    }
}

/// A caller whose handshake is under way; its place is free when this is dropped.
#[derive(Debug)]
pub struct Stranger {
    number: u64,
    source: IpAddr,
    sent_away: CancellationToken,
    door: Door,
}

impl Stranger {
    /// Waits until it must give way.
    pub async fn sent_away(&self) {
        self.sent_away.cancelled().await;
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.door.0.lock().remove(self.source, self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn address(number: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, number])
    }

    /// Numbers of those that must go.
    fn away(all: &[Stranger]) -> Vec<u64> {
        all.iter().filter(|stranger| stranger.sent_away().now_or_never().is_some()).map(|one| one.number).collect()
    }

    #[test]
    fn the_one_that_stands_there_longest_gives_way() {
        let door = Door::default();
        // As many from each.
        let mut all: Vec<_> = (0..=u8::MAX).map(|number| door.enter(address(number))).collect();
        assert!(all.len() == MOST_STRANGERS && away(&all).is_empty());
        all.push(door.enter(IpAddr::from([198, 51, 100, 1])));
        assert_eq!((away(&all), door.len()), (vec![0], MOST_STRANGERS));
        drop(all);
        assert!(door.is_empty() && door.0.lock().all.is_empty());
    }

    #[test]
    fn whoever_has_most_gives_way_to_others_and_to_itself() {
        let door = Door::default();
        let mut all = vec![door.enter(address(1))];
        all.extend((0..MOST_OF_ONE).map(|_| door.enter(address(2))));
        assert!(away(&all).is_empty());
        all.push(door.enter(address(2)));
        assert_eq!((away(&all), door.len()), (vec![1], MOST_OF_ONE + 1), "it may not have more");
        // The rest of the places is taken by others; then each further one takes a place of whoever has most.
        all.extend((3..=u8::MAX).take(MOST_STRANGERS - door.len()).map(|number| door.enter(address(number))));
        assert_eq!((away(&all).len(), door.len()), (1, MOST_STRANGERS));
        all.push(door.enter(IpAddr::from([198, 51, 100, 1])));
        assert_eq!((away(&all), door.len()), (vec![1, 2], MOST_STRANGERS));
    }

    #[test]
    fn addresses_of_one_owner_count_together() {
        let parse = |text: &str| source(text.parse().unwrap());
        assert_eq!(parse("2001:db8::1"), parse("2001:db8::ffff:1"));
        assert_ne!(parse("2001:db8::1"), parse("2001:db8:0:1::1"));
        assert_eq!(parse("::ffff:192.0.2.1"), address(1));
    }
}
