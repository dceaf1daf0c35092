//! What one tenant's Services take of the super cluster: addresses, and ports of all its nodes.

use std::collections::HashMap;

use mirror::object::Content;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::index::Key;
use crate::remote::CallError;

/// Services of one tenant at most. Each takes one of some 65,000 addresses, if the super cluster has a /16 for them.
const SERVICES: usize = 2000;

/// Ports on all nodes that one tenant's Services open at most. There are 2768 by default, for all tenants and for the platform.
const PORTS: usize = 100;

/// How many ports each Service of a tenant opens on the nodes, as the super cluster has them.
#[derive(Debug, Default)]
pub struct Services(HashMap<Key, usize>);

#[derive(Deserialize)]
struct Passing {
    #[serde(default)]
    spec: Spec,
}

#[derive(Default, Deserialize)]
struct Spec {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    ports: Option<Vec<IgnoredAny>>,
}

impl Services {
    /// A Service passes, as the super cluster has it.
    pub fn seen(&mut self, key: &Key, bytes: &[u8]) {
        if is_service(key)
            && let Ok(service) = serde_json::from_slice::<Passing>(bytes)
        {
            self.0.insert(key.clone(), opens(&service.spec.kind, service.spec.ports.map_or(0, |ports| ports.len())));
        }
    }

    /// A Service is gone.
    pub fn gone(&mut self, key: &Key) {
        self.0.remove(key);
    }

    /// Asked before a Service is written.
    ///
    /// *Errors*: status 422, for the tenant to read, where that would be one Service or one port too many. One that takes no more than it
    /// has is always let through.
    pub fn ask(&self, key: &Key, asked: &Content) -> Result<(), CallError> {
        if !is_service(key) {
            return Ok(());
        }
        if !self.0.contains_key(key) && self.0.len() >= SERVICES {
            return Err(too_many(
                "TooManyServices",
                format!("this control plane has {SERVICES} Services, and no more go down; delete some"),
            ));
        }
        let spec = asked.body.get("spec");
        let kind = spec.and_then(|spec| spec.get("type")).and_then(Value::as_str).unwrap_or_default();
        let ports = spec.and_then(|spec| spec.get("ports")).and_then(Value::as_array).map_or(0, Vec::len);
        let (more, now) = (opens(kind, ports), self.0.get(key).copied().unwrap_or_default());
        let others: usize = self.0.values().sum::<usize>() - now;
        if more > now && others + more > PORTS {
            let message = format!(
                "Services of the types NodePort and LoadBalancer open a port of each node for each of theirs; this control plane would have {} of at most {PORTS}",
                others + more
            );
            return Err(too_many("TooManyNodePorts", message));
        }
        Ok(())
    }
}

fn is_service(key: &Key) -> bool {
    key.kind.kind().resource().kind == "Service"
}

/// A load balancer counts even if it opens no port: somebody pays for it.
fn opens(kind: &str, ports: usize) -> usize {
    match kind {
        "NodePort" => ports,
        "LoadBalancer" => ports.max(1),
        _ => 0,
    }
}

fn too_many(reason: &str, message: String) -> CallError {
    CallError::Status { side: "super", code: 422, reason: reason.to_owned(), message, retry_after: None }
}

#[cfg(test)]
mod tests {
    use common::{Name, Namespace};
    use mirror::kind::KindId;
    use serde_json::{Map, json};

    use super::*;

    fn key(number: usize) -> Key {
        let (namespace, name) = (Namespace::parse("default").ok(), Name::parse(&format!("s{number}")).unwrap());
        Key { kind: KindId::named("Service").unwrap(), namespace, name }
    }

    fn spec(kind: &str, ports: usize) -> Value {
        json!({"type": kind, "ports": (1..=ports).map(|port| json!({"port": port})).collect::<Vec<_>>()})
    }

    fn asked(kind: &str, ports: usize) -> Content {
        Content { body: Map::from_iter([("spec".to_owned(), spec(kind, ports))]), ..Content::default() }
    }

    /// Makes Services of a type until one is refused; how many there are then.
    fn fill(services: &mut Services, kind: &str, ports: usize) -> usize {
        (0..2 * SERVICES)
            .take_while(|number| {
                let made = services.ask(&key(*number), &asked(kind, ports)).is_ok();
                if made {
                    services.seen(&key(*number), json!({"spec": spec(kind, ports)}).to_string().as_bytes());
                }
                made
            })
            .count()
    }

    #[test]
    fn s21_no_tenant_takes_all_addresses_and_node_ports() {
        assert_eq!(fill(&mut Services::default(), "ClusterIP", 5), SERVICES);
        assert_eq!(fill(&mut Services::default(), "NodePort", 5), PORTS / 5);
        let mut services = Services::default();
        assert_eq!(fill(&mut services, "LoadBalancer", 0), PORTS);
        // What is there may change, if it takes no more; what is gone leaves room.
        assert!(services.ask(&key(7), &asked("NodePort", 1)).is_ok() && services.ask(&key(7), &asked("NodePort", 2)).is_err());
        assert!(services.ask(&key(PORTS), &asked("ClusterIP", 9)).is_ok());
        services.gone(&key(7));
        assert!(services.ask(&key(PORTS), &asked("NodePort", 1)).is_ok());
    }
}
