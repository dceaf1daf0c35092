//! Addresses from outside that a Service claims: those that are its tenant's go down, the others are left out.

use std::net::IpAddr;

use serde_json::{Map, Value};

use super::ports::opens_node_ports;
use crate::cx::Cx;
use crate::hold::Hold;
use crate::host::Denied;
use crate::object::{Object, items};

/// A list of addresses, and one for a load balancer.
const LIST: &str = "externalIPs";
const ONE: &str = "loadBalancerIP";

/// Leaves in what the tenant may claim.
pub(super) fn keep_own(spec: &mut Map<String, Value>, cx: &Cx<'_>) {
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

/// Whether all that a super copy claims is the tenant's still.
pub(super) fn are_own(sup: &Object, cx: &Cx<'_>) -> bool {
    claims(sup).all(|(_, text)| claimed(text, cx).is_ok())
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
