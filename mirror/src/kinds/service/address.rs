//! The address of a Service, where the tenant's own cannot be the super cluster's: the tenant's copy is given another.
//!
//! An API server gives another address only to a Service that had none in between: it is made an `ExternalName` and back, by two writes. What was begun and
//! not ended is known by an annotation.

use common::{InTenant, keys};
use serde_json::{Value, json};

use super::HEADLESS;
use crate::kind::Choice;
use crate::object::Object;

/// Where nobody is led while the address is changed.
const NOWHERE: &str = "address-is-being-changed.invalid";

/// Types that have an address.
const TYPES: [&str; 3] = ["ClusterIP", "NodePort", "LoadBalancer"];

/// The super copy's address for the tenant's copy; `None` if that has it, or neither has one.
pub(super) fn adopted(tenant: &Object, sup: &Object) -> Option<InTenant<Choice>> {
    let (own, given) = (address(tenant)?, address(sup)?);
    (own != given).then(|| {
        choice(tenant, Some(given), format!("its address in the super cluster is {given}, and {own} leads nowhere there")).map(InTenant)
    })?
}

/// Another address for the tenant's copy, whose own is taken in the super cluster: its API server's choice.
pub(super) fn another(tenant: &Object) -> Option<InTenant<Choice>> {
    let own = address(tenant)?;
    choice(tenant, None, format!("{own} is another's in the super cluster, so that it is given another")).map(InTenant)
}

/// The second half of what was begun and not ended.
pub(super) fn unfinished(tenant: &Object) -> Option<InTenant<Choice>> {
    let kind = tenant.meta.annotations.get(keys::ADDRESS_CHANGES).filter(|kind| TYPES.contains(&kind.as_str()))?;
    let halves = if tenant.text("/spec/type") == Some("ExternalName") {
        back(kind, tenant.text("/spec/externalName").is_some(), None)
    } else {
        json!([{"op": "remove", "path": annotation()}])
    };
    Some(InTenant(Choice { patches: vec![halves], ..blank(String::new()) }))
}

fn address(service: &Object) -> Option<&str> {
    let kind = service.text("/spec/type").unwrap_or("ClusterIP");
    service.text("/spec/clusterIP").filter(|address| *address != HEADLESS && TYPES.contains(&kind))
}

fn blank(said: String) -> Choice {
    Choice { condition: keys::ADDRESS, reason: "AddressRefused", field: "spec.clusterIP", said, address: None, patches: Vec::new() }
}

fn choice(tenant: &Object, given: Option<&str>, said: String) -> Option<Choice> {
    let kind = tenant.text("/spec/type").unwrap_or("ClusterIP");
    let mut forth = Vec::new();
    if tenant.meta.annotations.is_empty() {
        forth.push(json!({"op": "add", "path": "/metadata/annotations", "value": {}}));
    }
    forth.extend([
        json!({"op": "add", "path": annotation(), "value": kind}),
        json!({"op": "add", "path": "/spec/externalName", "value": NOWHERE}),
        json!({"op": "add", "path": "/spec/type", "value": "ExternalName"}),
    ]);
    let address = given.map(str::parse).transpose().ok()?;
    Some(Choice { address, patches: vec![Value::Array(forth), back(kind, true, given)], ..blank(said) })
}

fn back(kind: &str, is_named: bool, given: Option<&str>) -> Value {
    let mut back = vec![json!({"op": "add", "path": "/spec/type", "value": kind}), json!({"op": "remove", "path": annotation()})];
    if is_named {
        back.push(json!({"op": "remove", "path": "/spec/externalName"}));
    }
    if let Some(given) = given {
        back.push(json!({"op": "add", "path": "/spec/clusterIP", "value": given}));
        back.push(json!({"op": "add", "path": "/spec/clusterIPs", "value": [given]}));
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

    #[test]
    fn a_service_whose_addresses_differ_is_given_the_one_that_leads_somewhere() {
        let InTenant(choice) = adopted(&at("10.0.0.1"), &at("10.96.0.7")).unwrap();
        assert_eq!(choice.address, Some("10.96.0.7".parse().unwrap()));
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
    fn what_was_begun_is_ended() {
        let begun = |spec: &Value, kind: &str| unfinished(&service(spec, &json!({keys::ADDRESS_CHANGES: kind})));
        let half = json!({"type": "ExternalName", "externalName": NOWHERE});
        let InTenant(choice) = begun(&half, "LoadBalancer").unwrap();
        assert_eq!(choice.patches, [back("LoadBalancer", true, None)]);
        let InTenant(choice) = begun(&json!({"type": "ClusterIP"}), "ClusterIP").unwrap();
        assert_eq!(choice.patches, [json!([{"op": "remove", "path": annotation()}])]);
        assert!(begun(&half, "ExternalName").is_none(), "that is no type with an address");
        assert!(unfinished(&at("10.0.0.1")).is_none());
    }

    #[test]
    fn a_service_whose_address_is_taken_is_given_another() {
        let InTenant(choice) = another(&at("10.0.0.1")).unwrap();
        assert_eq!((choice.address, choice.patches.len()), (None, 2));
        assert!(another(&at("None")).is_none());
    }
}
