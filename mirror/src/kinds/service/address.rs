//! The addresses of a Service, where the tenant's own cannot be the super cluster's: the tenant's copy is given others.
//!
//! An API server gives other addresses only to a Service that had none in between: it is made an `ExternalName` and back, by two writes. What was begun and
//! not ended is known by an annotation.

use std::net::IpAddr;

use common::{InTenant, keys};
use serde_json::{Map, Value, json};

use super::HEADLESS;
use super::families::{self, addresses, wants_two};
use crate::hold::Hold;
use crate::kind::Choice;
use crate::object::Object;

/// Where nobody is led while the address is changed.
const NOWHERE: &str = "address-is-being-changed.invalid";

/// Types that have an address.
const TYPES: [&str; 3] = ["ClusterIP", "NodePort", "LoadBalancer"];

/// The super copy's addresses for the tenant's copy, as many as that has; `None` if it has them, or neither has any.
pub(super) fn adopted(tenant: &Object, sup: &Object) -> Option<InTenant<Choice>> {
    let (own, mut given) = (of(tenant)?, of(sup)?);
    given.truncate(own.len());
    let (old, new) = own.iter().zip(&given).find(|(own, given)| own != given)?;
    choice(tenant, &given, format!("its address in the super cluster is {new}, and {old} leads nowhere there")).map(InTenant)
}

/// Other addresses for the tenant's copy, of whose own one is taken in the super cluster: its API server's choice.
pub(super) fn another(tenant: &Object) -> Option<InTenant<Choice>> {
    let own = of(tenant)?.join(" or ");
    choice(tenant, &[], format!("{own} is another's in the super cluster, so that it is given another")).map(InTenant)
}

/// Where the super cluster has one address for what the tenant's copy has two for.
pub(super) fn leads_nowhere(tenant: &Object, sup: &Object) -> Option<Hold> {
    let (own, given) = (of(tenant)?, of(sup)?);
    let ([_, second], [given]) = (own.as_slice(), given.as_slice()) else { return None };
    let message = format!(
        "{} leads nowhere: the super cluster gives this Service one address, {given}; ask for SingleStack, or the administrator for two families",
        second.escape_default()
    );
    Some(Hold::refuse("SingleStack", "spec.clusterIPs[1]", message))
}

/// The second half of what was begun and not ended.
pub(super) fn unfinished(tenant: &Object) -> Option<InTenant<Choice>> {
    let begun = tenant.meta.annotations.get(keys::ADDRESS_CHANGES)?;
    let (kind, policy) = begun.split_once('/').map_or((begun.as_str(), None), |(kind, policy)| (kind, Some(policy)));
    if !TYPES.contains(&kind) || policy.is_some_and(|policy| !families::TWO.contains(&policy)) {
        return None;
    }
    let half = if tenant.text("/spec/type") == Some("ExternalName") {
        back(kind, policy, tenant.text("/spec/externalName").is_some(), &[])
    } else {
        json!([{"op": "remove", "path": annotation()}])
    };
    Some(InTenant(Choice { patches: vec![half], ..blank(String::new()) }))
}

/// The addresses of a Service that has any.
fn of(service: &Object) -> Option<Vec<&str>> {
    let spec = spec(service)?;
    let kind = service.text("/spec/type").unwrap_or("ClusterIP");
    Some(addresses(spec)).filter(|all| TYPES.contains(&kind) && all.first().is_some_and(|first| *first != HEADLESS))
}

fn spec(service: &Object) -> Option<&Map<String, Value>> {
    service.body.get("spec")?.as_object()
}

fn blank(said: String) -> Choice {
    Choice { condition: keys::ADDRESS, reason: "AddressRefused", field: "spec.clusterIP", said, addresses: Vec::new(), patches: Vec::new() }
}

fn choice(tenant: &Object, given: &[&str], said: String) -> Option<Choice> {
    let kind = tenant.text("/spec/type").unwrap_or("ClusterIP");
    // Which an API server forgets on the way.
    let policy = wants_two(spec(tenant)?);
    let begun = policy.map_or(kind.to_owned(), |policy| format!("{kind}/{policy}"));
    let mut forth = Vec::new();
    if tenant.meta.annotations.is_empty() {
        forth.push(json!({"op": "add", "path": "/metadata/annotations", "value": {}}));
    }
    forth.extend([
        json!({"op": "add", "path": annotation(), "value": begun}),
        json!({"op": "add", "path": "/spec/externalName", "value": NOWHERE}),
        json!({"op": "add", "path": "/spec/type", "value": "ExternalName"}),
    ]);
    let addresses = given.iter().map(|address| address.parse()).collect::<Result<Vec<IpAddr>, _>>().ok()?;
    Some(Choice { addresses, patches: vec![Value::Array(forth), back(kind, policy, true, given)], ..blank(said) })
}

fn back(kind: &str, policy: Option<&str>, is_named: bool, given: &[&str]) -> Value {
    let mut back = vec![json!({"op": "add", "path": "/spec/type", "value": kind}), json!({"op": "remove", "path": annotation()})];
    if is_named {
        back.push(json!({"op": "remove", "path": "/spec/externalName"}));
    }
    if let Some(first) = given.first() {
        back.push(json!({"op": "add", "path": "/spec/clusterIP", "value": first}));
        back.push(json!({"op": "add", "path": "/spec/clusterIPs", "value": given}));
        let families: Vec<&str> = given.iter().map(|address| families::of(address)).collect();
        back.push(json!({"op": "add", "path": "/spec/ipFamilies", "value": families}));
    }
    if let Some(policy) = policy {
        back.push(json!({"op": "add", "path": "/spec/ipFamilyPolicy", "value": policy}));
    }
    Value::Array(back)
}

/// The annotation, as a JSON pointer.
fn annotation() -> String {
    format!("/metadata/annotations/{}", keys::ADDRESS_CHANGES.replace('~', "~0").replace('/', "~1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(spec: &Value, annotations: &Value) -> Object {
        let metadata = json!({"name": "web", "uid": "00000000-0000-4000-8000-000000000001", "annotations": annotations});
        Object::parse(json!({"metadata": metadata, "spec": spec}).to_string().as_bytes()).unwrap()
    }

    fn at(address: &str) -> Object {
        service(&json!({"type": "NodePort", "clusterIP": address, "clusterIPs": [address]}), &json!({}))
    }

    fn dual(addresses: &[&str]) -> Object {
        let policy = if addresses.len() > 1 { "RequireDualStack" } else { "PreferDualStack" };
        service(&json!({"clusterIP": addresses.first(), "clusterIPs": addresses, "ipFamilyPolicy": policy}), &json!({}))
    }

    #[test]
    fn a_service_whose_addresses_differ_is_given_the_one_that_leads_somewhere() {
        let InTenant(choice) = adopted(&at("10.0.0.1"), &at("10.96.0.7")).unwrap();
        assert_eq!(choice.addresses, ["10.96.0.7".parse::<IpAddr>().unwrap()]);
        assert!(choice.said.contains("10.0.0.1") && choice.said.contains("10.96.0.7"));
        let [forth, back] = choice.patches.as_slice() else { panic!("{:?}", choice.patches) };
        assert_eq!(forth[0], json!({"op": "add", "path": "/metadata/annotations", "value": {}}));
        assert_eq!(forth[1], json!({"op": "add", "path": annotation(), "value": "NodePort"}));
        assert_eq!(back[0], json!({"op": "add", "path": "/spec/type", "value": "NodePort"}));
        assert_eq!(back[3], json!({"op": "add", "path": "/spec/clusterIP", "value": "10.96.0.7"}));
        for (tenant, sup) in [("10.0.0.1", "10.0.0.1"), ("None", "None"), ("None", "10.96.0.7"), ("", "10.96.0.7"), ("10.0.0.1", "")] {
            assert!(adopted(&at(tenant), &at(sup)).is_none(), "{tenant} {sup}");
        }
        assert!(adopted(&at("10.0.0.1"), &at("no address")).is_none());
    }

    #[test]
    fn a_service_with_two_addresses_is_given_two_and_goes_on_asking_for_them() {
        let InTenant(choice) = adopted(&dual(&["10.0.0.1", "fd00:1::1"]), &dual(&["10.0.0.1", "fd00:2::1"])).unwrap();
        assert_eq!(choice.addresses, ["10.0.0.1", "fd00:2::1"].map(|text| text.parse::<IpAddr>().unwrap()));
        assert!(choice.said.contains("is fd00:2::1, and fd00:1::1"), "{}", choice.said);
        assert_eq!(choice.patches[0][1]["value"], "ClusterIP/RequireDualStack");
        let back: Vec<&Value> = choice.patches[1].as_array().unwrap().iter().skip(4).map(|operation| &operation["value"]).collect();
        assert_eq!(back, [&json!(["10.0.0.1", "fd00:2::1"]), &json!(["IPv4", "IPv6"]), &json!("RequireDualStack")]);
        let InTenant(choice) = adopted(&dual(&["10.0.0.1", "fd00:1::1"]), &dual(&["10.96.0.7"])).unwrap();
        assert_eq!((choice.addresses.len(), &choice.patches[1][4]["value"]), (1, &json!(["10.96.0.7"])));
        // What the tenant did not ask for is not given to it.
        assert!(adopted(&dual(&["10.0.0.1"]), &dual(&["10.0.0.1", "fd00:2::1"])).is_none());
    }

    #[test]
    fn a_second_address_that_leads_nowhere_is_told() {
        let two = dual(&["10.0.0.1", "fd00:1::1"]);
        let told = leads_nowhere(&two, &dual(&["10.0.0.1"])).unwrap().to_string();
        assert!(told.starts_with("spec.clusterIPs[1]: fd00:1::1 leads nowhere"), "{told}");
        assert!(leads_nowhere(&two, &two).is_none() && leads_nowhere(&at("None"), &at("None")).is_none());
    }

    #[test]
    fn what_was_begun_is_ended() {
        let begun = |spec: &Value, kind: &str| unfinished(&service(spec, &json!({keys::ADDRESS_CHANGES: kind})));
        let half = json!({"type": "ExternalName", "externalName": NOWHERE});
        let InTenant(choice) = begun(&half, "LoadBalancer").unwrap();
        assert_eq!(choice.patches, [back("LoadBalancer", None, true, &[])]);
        let InTenant(choice) = begun(&half, "ClusterIP/PreferDualStack").unwrap();
        assert_eq!(choice.patches, [back("ClusterIP", Some("PreferDualStack"), true, &[])]);
        let InTenant(choice) = begun(&json!({"type": "ClusterIP"}), "ClusterIP").unwrap();
        assert_eq!(choice.patches, [json!([{"op": "remove", "path": annotation()}])]);
        assert!(begun(&half, "ExternalName").is_none(), "that is no type with an address");
        assert!(begun(&half, "ClusterIP/Anything").is_none(), "that is no policy for two");
        assert!(unfinished(&at("10.0.0.1")).is_none());
    }

    #[test]
    fn a_service_whose_address_is_taken_is_given_another() {
        let InTenant(choice) = another(&at("10.0.0.1")).unwrap();
        assert_eq!((choice.addresses.len(), choice.patches.len()), (0, 2));
        assert!(another(&at("None")).is_none());
    }
}
