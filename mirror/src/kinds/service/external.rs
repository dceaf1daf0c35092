//! Addresses from outside that a Service claims: those that are its tenant's go down, the others are left out.

use std::net::IpAddr;

use common::keys;
use serde_json::{Map, Value, json};

use super::ports::opens_node_ports;
use crate::cx::Cx;
use crate::hold::Hold;
use crate::host::Denied;
use crate::object::{Object, items};

/// A list of addresses, and one for a load balancer.
const LIST: &str = "externalIPs";
const ONE: &str = "loadBalancerIP";

/// Leaves in what the tenant may claim; what that is, as [`keys::CLAIMS`] says it.
pub(super) fn keep_own(spec: &mut Map<String, Value>, cx: &Cx<'_>) -> Option<String> {
    let own = |text: &Value| text.as_str().and_then(|text| claimed(text, cx).ok()).map(|address| Value::from(address.to_string()));
    let list: Vec<Value> = items(spec.remove(LIST).as_ref()).filter_map(own).collect();
    if !list.is_empty() {
        spec.insert(LIST.to_owned(), Value::Array(list));
    } else if !opens_node_ports(spec) {
        // An API server takes this only from what is reached from outside.
        spec.remove("externalTrafficPolicy");
    }
    if let Some(one) = spec.remove(ONE).as_ref().and_then(own) {
        spec.insert(ONE.to_owned(), one);
    }
    let claims: Vec<&str> = items(spec.get(LIST)).chain(spec.get(ONE)).filter_map(Value::as_str).collect();
    (!claims.is_empty()).then(|| claims.join(","))
}

/// Why the first address that is left out is.
pub(super) fn left_out(tenant: &Object, cx: &Cx<'_>) -> Option<Hold> {
    let (at, text, denied) = claims(tenant).find_map(|(at, text)| Some((at, text, claimed(text, cx).err()?)))?;
    let text: String = text.escape_default().take(64).collect();
    let what = match denied {
        Denied::NothingRegistered => "no address from outside is registered for this control plane",
        Denied::NotRegistered => "this address is not registered for this control plane",
        Denied::Taken => "this address is registered for another control plane, which had it before",
    };
    let message = format!("{text} is left out: {what}; the administrator registers ranges (spec.externalAddresses of the VirtualCluster)");
    Some(Hold::refuse("AddressNotAllowed", at, message))
}

/// Whether all that a super copy claims for its tenant is that tenant's still. Addresses that the platform itself put there are not looked at.
pub(super) fn are_own(sup: &Object, cx: &Cx<'_>) -> bool {
    claims(sup).all(|(_, text)| is_own(sup, text, cx))
}

fn is_own(sup: &Object, text: &str, cx: &Cx<'_>) -> bool {
    let ours = sup.meta.annotations.get(keys::CLAIMS).is_some_and(|ours| ours.split(',').any(|one| one == text));
    !ours || claimed(text, cx).is_ok()
}

/// Takes the addresses out that are the tenant's no longer. None where a load balancer was asked for one: it gives that up with the Service alone.
pub(super) fn without_taken(sup: &Object, cx: &Cx<'_>) -> Option<Value> {
    if sup.text("/spec/loadBalancerIP").is_some_and(|text| !is_own(sup, text, cx)) {
        return None;
    }
    let left: Vec<&Value> =
        items(sup.at("/spec/externalIPs")).filter(|text| text.as_str().is_some_and(|text| is_own(sup, text, cx))).collect();
    Some(json!({"spec": {LIST: left}}))
}

/// What a Service claims, and where it stands.
fn claims(service: &Object) -> impl Iterator<Item = (String, &str)> {
    let list = items(service.at("/spec/externalIPs")).enumerate();
    let list = list.map(|(i, address)| (format!("spec.{LIST}[{i}]"), address.as_str().unwrap_or_default()));
    let one = service.text("/spec/loadBalancerIP").filter(|text| !text.is_empty());
    list.chain(one.map(|text| (format!("spec.{ONE}"), text)))
}

/// What is no address to us is none that is registered: others read more forms.
fn claimed(text: &str, cx: &Cx<'_>) -> Result<IpAddr, Denied> {
    let address = text.parse().map_err(|_| Denied::NotRegistered)?;
    cx.profile.external.ask(address).map(|()| address)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use super::*;
    use crate::cx::{Policy, Profile};
    use crate::external::ExternalAddresses;

    #[test]
    fn s19_what_was_taken_is_taken_out_and_what_the_platform_put_there_stays() {
        let tenant = common::TenantId::new(common::Uid::default(), "acme");
        let external = Arc::new(ExternalAddresses::new(vec![("192.0.2.0".parse().unwrap(), 28)], Vec::new()));
        let (policy, profile, nodes) = (Policy::default(), Profile { external, ..Profile::default() }, BTreeSet::new());
        let cx = Cx::of_default(&tenant, &policy, &profile, &nodes);
        let below = |claims: &str, balancer: &str| {
            let spec = json!({"externalIPs": ["192.0.2.7", "192.0.2.77", "198.51.100.1"], "loadBalancerIP": balancer});
            let metadata = json!({"name": "a", "uid": "00000000-0000-4000-8000-000000000001", "annotations": {keys::CLAIMS: claims}});
            Object::parse(json!({"metadata": metadata, "spec": spec}).to_string().as_bytes()).unwrap()
        };
        assert!(are_own(&below("192.0.2.7", "198.51.100.2"), &cx), "the rest is the platform's");
        let taken = below("192.0.2.7,192.0.2.77", "198.51.100.2");
        assert!(!are_own(&taken, &cx));
        assert_eq!(without_taken(&taken, &cx), Some(json!({"spec": {"externalIPs": ["192.0.2.7", "198.51.100.1"]}})));
        assert_eq!(without_taken(&below("192.0.2.7,192.0.2.78", "192.0.2.78"), &cx), None);
    }
}
