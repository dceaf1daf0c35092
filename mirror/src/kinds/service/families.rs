//! Addresses and families of a Service: what the tenant's copy has goes down where it may, the super cluster chooses the rest, and what it has chosen stays.
//!
//! An API server gives a Service two addresses if it serves two families and the Service asks for both. A tenant's that has one family fills in one, and one
//! goes down. `PreferDualStack` is content with what the super cluster has; `RequireDualStack` is refused by one that has a single family.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::HEADLESS;
use crate::cx::lies_in;
use crate::object::items;

/// The policy that asks for one family.
const SINGLE: &str = "SingleStack";

/// The policy that takes nothing less than two.
const REQUIRE: &str = "RequireDualStack";

/// The policies that ask for two families.
pub(super) const TWO: [&str; 2] = ["PreferDualStack", REQUIRE];

/// The addresses of a Service, in order.
pub(super) fn addresses(spec: &Map<String, Value>) -> Vec<&str> {
    let single = spec.get("clusterIP").and_then(Value::as_str).filter(|text| !text.is_empty());
    let mut all: Vec<&str> = texts(spec, "clusterIPs");
    match (single, all.first_mut()) {
        (Some(single), Some(first)) => *first = single,
        (Some(single), None) => all.push(single),
        (None, _) => {}
    }
    all
}

/// The family of an address.
pub(super) fn of(address: &str) -> &'static str {
    if address.contains(':') { "IPv6" } else { "IPv4" }
}

/// The families of a Service, in order.
fn families(spec: &Map<String, Value>) -> Vec<&str> {
    texts(spec, "ipFamilies")
}

/// The policy, if it asks for two families.
pub(super) fn wants_two(spec: &Map<String, Value>) -> Option<&str> {
    spec.get("ipFamilyPolicy").and_then(Value::as_str).filter(|policy| TWO.contains(policy))
}

/// Leaves in the addresses that are the tenant's to claim, up to the first that is not; and the families where no address says them.
pub(super) fn down(spec: &mut Map<String, Value>, slices: &[(IpAddr, u8)]) {
    let is_own = |text: &&str| *text == HEADLESS || text.parse().is_ok_and(|address| slices.iter().any(|slice| lies_in(address, *slice)));
    let two = families(spec).len() == 2;
    let sent: Vec<String> = addresses(spec).into_iter().take_while(is_own).take(if two { 2 } else { 1 }).map(str::to_owned).collect();
    let keeps_policy = spec.get("ipFamilyPolicy").and_then(Value::as_str) == Some(SINGLE) || (two && wants_two(spec).is_some());
    if !keeps_policy {
        spec.remove("ipFamilyPolicy");
    }
    if sent.iter().any(|address| address != HEADLESS) {
        spec.remove("ipFamilies");
    }
    set_addresses(spec, &sent);
}

/// The same with less that a super API server may not have to give: the second address, then the first, then the second family, then the first. `None` if nothing
/// is left, or the tenant insists on it.
pub(super) fn lesser(spec: &mut Map<String, Value>) -> Option<()> {
    let sent: Vec<String> = addresses(spec).into_iter().filter(|address| *address != HEADLESS).map(str::to_owned).collect();
    match sent.as_slice() {
        [first, _, ..] => set_addresses(spec, std::slice::from_ref(first)),
        [only] => {
            spec.insert("ipFamilies".to_owned(), json!([of(only)]));
            set_addresses(spec, &[]);
        }
        [] => {
            let fewer: Vec<String> = families(spec).into_iter().map(str::to_owned).collect();
            if fewer.is_empty() || wants_two(spec) == Some(REQUIRE) {
                return None;
            }
            spec.remove("ipFamilies");
            if let [first, _, ..] = fewer.as_slice() {
                spec.insert("ipFamilies".to_owned(), json!([first]));
            }
        }
    }
    Some(())
}

/// What the super copy has stays: no API server changes the first address and its family. A second comes and goes with the policy; the super cluster chooses
/// it, unless the tenant's is its own.
pub(super) fn keep(spec: &mut Map<String, Value>, current: &Map<String, Value>) {
    let [before, asked] = [addresses(current), addresses(spec)].map(|all| all.into_iter().map(str::to_owned).collect::<Vec<_>>());
    let had: Vec<String> = families(current).into_iter().map(str::to_owned).collect();
    let policy = |spec: &Map<String, Value>| spec.get("ipFamilyPolicy").and_then(Value::as_str).map(str::to_owned);
    let (was, is) = (policy(current), policy(spec));
    let (mut stay, mut families) = (before.clone(), had.clone());
    match is.as_deref() {
        None => drop(was.map(|was| spec.insert("ipFamilyPolicy".to_owned(), was.into()))),
        Some(SINGLE) => {
            stay.truncate(1);
            families.truncate(1);
        }
        // Where it was asked before, the super cluster has one family.
        Some(_) if had.len() < 2 && is != was => {
            if let ([first, second], true) = (asked.as_slice(), asked.first() == before.first()) {
                stay = vec![first.clone(), second.clone()];
            }
        }
        Some(_) => {}
    }
    if !families.is_empty() {
        spec.insert("ipFamilies".to_owned(), json!(families));
    }
    if !stay.is_empty() {
        set_addresses(spec, &stay);
    }
}

fn set_addresses(spec: &mut Map<String, Value>, all: &[String]) {
    if let Some(first) = all.first() {
        spec.insert("clusterIP".to_owned(), json!(first));
        spec.insert("clusterIPs".to_owned(), json!(all));
    } else {
        spec.remove("clusterIP");
        spec.remove("clusterIPs");
    }
}

fn texts<'a>(spec: &'a Map<String, Value>, key: &str) -> Vec<&'a str> {
    items(spec.get(key)).filter_map(Value::as_str).filter(|text| !text.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(value: Value) -> Map<String, Value> {
        let Value::Object(spec) = value else { panic!("{value}") };
        spec
    }

    fn slices(texts: &[(&str, u8)]) -> Vec<(IpAddr, u8)> {
        texts.iter().map(|(network, prefix)| (network.parse().unwrap(), *prefix)).collect()
    }

    fn address(text: &str, slice: &[(&str, u8)]) -> Option<String> {
        let mut spec = spec(json!({"clusterIP": text, "clusterIPs": [text]}));
        down(&mut spec, &slices(slice));
        assert_eq!(spec.get("clusterIPs"), spec.get("clusterIP").map(|one| json!([one])).as_ref());
        spec.get("clusterIP").and_then(Value::as_str).map(str::to_owned)
    }

    #[test]
    fn an_address_goes_down_only_from_the_tenants_own_slice() {
        let slice = [("10.129.4.0", 22)];
        for inside in ["10.129.4.0", "10.129.7.255", "None"] {
            assert_eq!(address(inside, &slice).as_deref(), Some(inside));
        }
        for outside in ["10.129.8.0", "10.129.3.255", "::ffff:10.129.4.1", "10.96.0.10", "0x0a810401", "010.129.4.1", ""] {
            assert_eq!(address(outside, &slice), None, "{outside}");
        }
        assert_eq!(address("fd00:1::5", &[("fd00:1::", 112)]).as_deref(), Some("fd00:1::5"));
        assert_eq!(address("fd00:2::5", &[("fd00:1::", 112)]), None);
        assert_eq!(address("10.129.4.1", &[]), None);
        assert_eq!(address("10.129.4.1", &[("0.0.0.0", 0)]).as_deref(), Some("10.129.4.1"));
    }

    #[test]
    fn two_addresses_go_down_each_from_its_slice_and_the_first_first() {
        let both = [("10.129.4.0", 22), ("fd00:1::", 112)];
        for (addresses, families, slice, sent) in [
            (["10.129.4.1", "fd00:1::1"], ["IPv4", "IPv6"], &both[..], json!(["10.129.4.1", "fd00:1::1"])),
            (["fd00:1::1", "10.129.4.1"], ["IPv6", "IPv4"], &both[..], json!(["fd00:1::1", "10.129.4.1"])),
            (["10.129.4.1", "fd00:2::1"], ["IPv4", "IPv6"], &both[..], json!(["10.129.4.1"])),
            (["10.129.4.1", "fd00:1::1"], ["IPv4", "IPv6"], &both[1..], Value::Null),
        ] {
            let mut asked = spec(
                json!({"clusterIP": addresses[0], "clusterIPs": addresses, "ipFamilies": families, "ipFamilyPolicy": "PreferDualStack"}),
            );
            down(&mut asked, &slices(slice));
            assert_eq!(asked.get("clusterIPs").unwrap_or(&Value::Null), &sent);
            assert_eq!(asked.get("ipFamilyPolicy"), Some(&json!("PreferDualStack")));
            // Addresses say the families; without any, the tenant's order goes down.
            assert_eq!(asked.get("ipFamilies"), sent.is_null().then(|| json!(families)).as_ref());
        }
        let mut single = spec(json!({"clusterIPs": ["10.129.4.1"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "PreferDualStack"}));
        down(&mut single, &slices(&both));
        assert_eq!(
            single,
            spec(json!({"clusterIP": "10.129.4.1", "clusterIPs": ["10.129.4.1"]})),
            "a second would be nobody's in the tenant"
        );
    }

    #[test]
    fn less_is_asked_step_by_step() {
        let steps = |asked: Value| {
            let mut asked = spec(asked);
            std::iter::from_fn(|| lesser(&mut asked).map(|()| json!([asked.get("clusterIPs"), asked.get("ipFamilies")])))
                .collect::<Vec<_>>()
        };
        let two = json!({"clusterIPs": ["10.0.0.1", "fd00::1"], "ipFamilyPolicy": "PreferDualStack"});
        assert_eq!(steps(two), [json!([["10.0.0.1"], null]), json!([null, ["IPv4"]]), json!([null, null])]);
        assert_eq!(steps(json!({"clusterIPs": ["fd00::1"]})), [json!([null, ["IPv6"]]), json!([null, null])]);
        let headless = json!({"clusterIPs": ["None"], "ipFamilies": ["IPv6", "IPv4"], "ipFamilyPolicy": "PreferDualStack"});
        assert_eq!(steps(headless), [json!([["None"], ["IPv6"]]), json!([["None"], null])]);
        assert!(steps(json!({"ipFamilies": ["IPv6", "IPv4"], "ipFamilyPolicy": "RequireDualStack"})).is_empty());
    }

    #[test]
    fn the_first_address_stays_and_a_second_comes_and_goes_with_the_policy() {
        let after = |asked: Value, current: Value| {
            let mut asked = spec(asked);
            keep(&mut asked, &spec(current));
            json!([asked.get("clusterIPs"), asked.get("ipFamilies"), asked.get("ipFamilyPolicy")])
        };
        let two = json!({"clusterIPs": ["10.0.0.1", "fd00::1"], "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "PreferDualStack"});
        let one = json!({"clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"});
        let asks = |policy: &str, addresses: &[&str]| json!({"clusterIPs": addresses, "ipFamilyPolicy": policy});
        for (asked, current, result) in [
            (
                asks("PreferDualStack", &["10.0.0.1", "fd00::2"]),
                &two,
                json!([["10.0.0.1", "fd00::1"], ["IPv4", "IPv6"], "PreferDualStack"]),
            ),
            (asks("RequireDualStack", &["10.0.0.9"]), &two, json!([["10.0.0.1", "fd00::1"], ["IPv4", "IPv6"], "RequireDualStack"])),
            (asks("SingleStack", &["10.0.0.1"]), &two, json!([["10.0.0.1"], ["IPv4"], "SingleStack"])),
            (json!({"ipFamilies": ["IPv6"]}), &two, json!([["10.0.0.1", "fd00::1"], ["IPv4", "IPv6"], "PreferDualStack"])),
            (asks("RequireDualStack", &["10.0.0.1", "fd00::2"]), &one, json!([["10.0.0.1", "fd00::2"], ["IPv4"], "RequireDualStack"])),
            (asks("PreferDualStack", &["10.0.0.2", "fd00::2"]), &one, json!([["10.0.0.1"], ["IPv4"], "PreferDualStack"])),
        ] {
            assert_eq!(after(asked.clone(), current.clone()), result, "{asked}");
        }
        // A super cluster that gave one to who prefers two has no second.
        let short = json!({"clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "PreferDualStack"});
        let asked = asks("PreferDualStack", &["10.0.0.1", "fd00::2"]);
        assert_eq!(after(asked, short), json!([["10.0.0.1"], ["IPv4"], "PreferDualStack"]));
    }
}
