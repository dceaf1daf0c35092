//! The addresses that one tenant's Pods have in the super cluster: where its Services without a selector may lead.

use std::collections::HashMap;
use std::net::IpAddr;

use mirror::cx::PodAddresses as Asked;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::index::Key;

/// Which Pod of a tenant has which addresses, as the super cluster says.
#[derive(Debug, Default)]
pub struct PodAddresses(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    of: HashMap<Key, Box<[IpAddr]>>,
    /// How many Pods have each.
    count: HashMap<IpAddr, usize>,
    /// How often any of it moved.
    moves: u64,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status<'a> {
    phase: &'a str,
    #[serde(borrow, rename = "podIPs")]
    pod: Vec<Address<'a>>,
    #[serde(borrow, rename = "hostIPs")]
    host: Vec<Address<'a>>,
}

#[derive(PartialEq, Deserialize)]
struct Address<'a> {
    ip: &'a str,
}

impl PodAddresses {
    /// A Pod passes, with the status that it has in the super cluster. True if the tenant's addresses are others now.
    ///
    /// *Errors*: the status cannot be read, and the Pod counts as one without an address.
    pub fn seen(&self, key: &Key, status: Option<&RawValue>) -> Result<bool, serde_json::Error> {
        if !is_pod(key) {
            return Ok(false);
        }
        let read = status.map_or(Ok(Status::default()), |status| serde_json::from_str(status.get()));
        let moved = self.0.lock().set(key, read.as_ref().map(held).unwrap_or_default());
        read.map(|_| moved)
    }

    /// A Pod is gone. True if the tenant's addresses are others now.
    pub fn gone(&self, key: &Key) -> bool {
        is_pod(key) && self.0.lock().set(key, Box::default())
    }

    /// Another number whenever any address has come or gone.
    pub fn moves(&self) -> u64 {
        self.0.lock().moves
    }
}

impl Asked for PodAddresses {
    fn has(&self, address: IpAddr) -> bool {
        self.0.lock().count.contains_key(&address)
    }
}

impl State {
    fn set(&mut self, key: &Key, addresses: Box<[IpAddr]>) -> bool {
        if self.of.get(key).map_or(addresses.is_empty(), |known| *known == addresses) {
            return false;
        }
        for address in &addresses {
            *self.count.entry(*address).or_default() += 1;
        }
        let before = if addresses.is_empty() { self.of.remove(key) } else { self.of.insert(key.clone(), addresses) };
        for address in before.iter().flat_map(|addresses| addresses.iter()) {
            if let Some(count) = self.count.get_mut(address) {
                *count -= 1;
                if *count == 0 {
                    self.count.remove(address);
                }
            }
        }
        self.moves += 1;
        true
    }
}

/// The addresses that are a Pod's own: not the node's, whose network it may share, and not once it has ended, when they may be given to another.
fn held(status: &Status<'_>) -> Box<[IpAddr]> {
    if matches!(status.phase, "Succeeded" | "Failed") {
        return Box::default();
    }
    let own = status.pod.iter().filter(|address| !status.host.contains(address));
    own.filter_map(|address| address.ip.parse().ok()).collect()
}

fn is_pod(key: &Key) -> bool {
    key.kind.kind().resource().kind == "Pod"
}

#[cfg(test)]
mod tests {
    use common::{Name, Namespace};
    use mirror::kind::KindId;
    use serde_json::json;
    use serde_json::value::to_raw_value;

    use super::*;

    fn key(kind: &str, name: &str) -> Key {
        Key { kind: KindId::named(kind).unwrap(), namespace: Namespace::parse("default").ok(), name: Name::parse(name).unwrap() }
    }

    fn see(addresses: &PodAddresses, key: &Key, phase: &str, ips: &[&str]) -> bool {
        let ips: Vec<_> = ips.iter().map(|ip| json!({"ip": ip})).collect();
        let status = json!({"phase": phase, "podIPs": ips, "hostIPs": [{"ip": "192.0.2.1"}]});
        addresses.seen(key, Some(&to_raw_value(&status).unwrap())).unwrap()
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn s22_an_address_is_the_tenants_while_a_pod_that_runs_has_it() {
        let (addresses, web) = (PodAddresses::default(), key("Pod", "web"));
        assert!(!see(&addresses, &web, "Pending", &[]) && !addresses.seen(&web, None).unwrap());
        assert_eq!(addresses.moves(), 0);
        assert!(see(&addresses, &web, "Running", &["10.244.0.9", "fd00::9"]));
        assert!(!see(&addresses, &web, "Running", &["10.244.0.9", "fd00::9"]), "no news");
        assert_eq!(addresses.moves(), 1);
        assert!(addresses.has(address("10.244.0.9")) && addresses.has(address("fd00::9")) && !addresses.has(address("10.244.0.8")));
        assert!(see(&addresses, &web, "Succeeded", &["10.244.0.9", "fd00::9"]));
        assert!(!addresses.has(address("10.244.0.9")), "it may be another's soon");
        assert!(!see(&addresses, &web, "Running", &["192.0.2.1"]), "the node's is not the Pod's");
        assert!(!see(&addresses, &key("Service", "web"), "Running", &["10.244.0.9"]));
        assert_eq!(addresses.moves(), 2);
    }

    #[test]
    fn s22_a_pod_whose_status_cannot_be_read_has_no_address() {
        let (addresses, web) = (PodAddresses::default(), key("Pod", "web"));
        assert!(see(&addresses, &web, "Running", &["10.244.0.9"]));
        assert!(addresses.seen(&web, Some(&to_raw_value(&json!({"podIPs": 7})).unwrap())).is_err(), "somebody hears of it");
        assert!(!addresses.has(address("10.244.0.9")) && addresses.moves() == 2);
    }

    #[test]
    fn an_address_that_two_pods_had_for_a_moment_stays_with_the_later() {
        let (addresses, before, after) = (PodAddresses::default(), key("Pod", "before"), key("Pod", "after"));
        assert!(see(&addresses, &before, "Running", &["10.244.0.9"]) && see(&addresses, &after, "Running", &["10.244.0.9"]));
        assert!(addresses.gone(&before) && addresses.has(address("10.244.0.9")));
        assert!(addresses.gone(&after) && !addresses.has(address("10.244.0.9")));
        assert!(!addresses.gone(&after));
    }
}
