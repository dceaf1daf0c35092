//! Ports of a Service: which is which on both sides, and the node ports that the super cluster gave them.

use common::{InTenant, keys};
use serde_json::{Map, Value, json};

use crate::kind::Choice;
use crate::object::Object;

type Port = Map<String, Value>;

/// The tenant's ports with the numbers that they have on the nodes of the super cluster; `None` if they say so already.
pub(super) fn node_ports(tenant: &Object, sup: &Object) -> Option<InTenant<Choice>> {
    let both = [tenant, sup].map(|service| service.body.get("spec").and_then(Value::as_object));
    if !both.iter().all(|spec| spec.is_some_and(opens_node_ports)) {
        return None;
    }
    let mut ports = tenant.at("/spec/ports")?.as_array()?.clone();
    let given = sup.at("/spec/ports")?.as_array()?;
    let mut said = Vec::new();
    for port in ports.iter_mut().filter_map(Value::as_object_mut) {
        let Some(given) = given.iter().filter_map(Value::as_object).find(|given| same_port(port, given)) else { continue };
        if let Some(number) = given.get("nodePort").filter(|number| port.get("nodePort") != Some(*number)) {
            said.push(format!("port {}/{} has {number} on the nodes", port.get("port").unwrap_or(&Value::Null), protocol(port)));
            port.insert("nodePort".to_owned(), number.clone());
        }
    }
    (!said.is_empty()).then(|| {
        InTenant(Choice {
            condition: keys::NODE_PORTS,
            reason: "NodePortsRefused",
            field: "spec.ports",
            said: said.join(", "),
            addresses: Vec::new(),
            patches: vec![json!([{"op": "replace", "path": "/spec/ports", "value": ports}])],
        })
    })
}

/// Whether a Service with this spec has ports on the nodes.
pub(super) fn opens_node_ports(spec: &Map<String, Value>) -> bool {
    matches!(spec.get("type").and_then(Value::as_str), Some("NodePort" | "LoadBalancer"))
}

/// Whether two ports are the same one: names are unique in a Service, and so are protocol and number.
pub(super) fn same_port(a: &Port, b: &Port) -> bool {
    match (a.get("name"), b.get("name")) {
        (Some(a), Some(b)) if a == b => true,
        _ => a.get("port") == b.get("port") && protocol(a) == protocol(b),
    }
}

fn protocol(port: &Port) -> &str {
    port.get("protocol").and_then(Value::as_str).unwrap_or("TCP")
}
