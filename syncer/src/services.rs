//! What one tenant's Services take of the super cluster: addresses, ports of all its nodes, and slices that say where they lead.

use std::collections::{HashMap, HashSet};

use mirror::kind::Downward;
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

/// Slices of one tenant's Services without a selector at most. Each is looked at again whenever the address of a Pod of the tenant moves.
const SLICES: usize = 1000;

/// What the Services of a tenant take, as the super cluster has it.
#[derive(Debug, Default)]
pub struct Services {
    /// How many ports each Service opens on the nodes.
    ports: HashMap<Key, usize>,
    /// What says where Services lead, and depends on the tenant's Pods.
    slices: HashSet<Key>,
}

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
    /// A Service or a slice passes, as the super cluster has it.
    pub fn seen(&mut self, key: &Key, bytes: &[u8]) {
        if depends_on_pods(key) {
            self.slices.insert(key.clone());
        }
        if is_service(key)
            && let Ok(service) = serde_json::from_slice::<Passing>(bytes)
        {
            self.ports.insert(key.clone(), opens(&service.spec.kind, service.spec.ports.map_or(0, |ports| ports.len())));
        }
    }

    /// A Service or a slice is gone.
    pub fn gone(&mut self, key: &Key) {
        self.ports.remove(key);
        self.slices.remove(key);
    }

    /// What is to be looked at again when the address of a Pod has moved.
    pub fn slices(&self) -> Vec<Key> {
        self.slices.iter().cloned().collect()
    }

    /// Asked before a Service or a slice is written.
    ///
    /// *Errors*: status 422, for the tenant to read, where that would be one Service, port or slice too many. One that takes no more than it
    /// has is always let through.
    pub fn ask(&self, key: &Key, asked: &Content) -> Result<(), CallError> {
        if depends_on_pods(key) && !self.slices.contains(key) && self.slices.len() >= SLICES {
            let message = format!("this control plane has {SLICES} EndpointSlices of Services without a selector, and no more go down");
            return Err(too_many("TooManyEndpointSlices", message));
        }
        if !is_service(key) {
            return Ok(());
        }
        if !self.ports.contains_key(key) && self.ports.len() >= SERVICES {
            return Err(too_many(
                "TooManyServices",
                format!("this control plane has {SERVICES} Services, and no more go down; delete some"),
            ));
        }
        let spec = asked.body.get("spec");
        let kind = spec.and_then(|spec| spec.get("type")).and_then(Value::as_str).unwrap_or_default();
        let ports = spec.and_then(|spec| spec.get("ports")).and_then(Value::as_array).map_or(0, Vec::len);
        let (more, now) = (opens(kind, ports), self.ports.get(key).copied().unwrap_or_default());
        let others: usize = self.ports.values().sum::<usize>() - now;
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

fn depends_on_pods(key: &Key) -> bool {
    key.kind.downward().is_some_and(Downward::depends_on_pods)
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
    fn s22_slices_have_a_bound_and_a_place_is_given_back() {
        let slice = |number: usize| Key { kind: KindId::named("EndpointSlice").unwrap(), ..key(number) };
        let mut services = Services::default();
        let may = |services: &Services, number| services.ask(&slice(number), &Content::default()).is_ok();
        // What the super cluster refuses takes no place.
        assert!((0..2 * SLICES).all(|number| may(&services, number)) && services.slices().is_empty());
        (0..SLICES).for_each(|number| services.seen(&slice(number), b"{}"));
        assert!(!may(&services, SLICES) && may(&services, 0));
        services.gone(&slice(0));
        assert!(may(&services, SLICES));
        assert_eq!(services.slices().len(), SLICES - 1);
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
