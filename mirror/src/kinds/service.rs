//! Service: goes down with its selector mapped; the super cluster keeps the say over addresses and node ports.

mod address;
mod external;
mod families;
mod ports;

use common::{InSuper, InTenant, keys};
use serde_json::{Map, Value, json};

use crate::bound::{Bound, Takes};
use crate::cx::Cx;
use crate::hold::Hold;
use crate::kind::{Choice, Downward, Hearsay, Registered, Report, Resource};
use crate::kinds::endpoint_slice::KUBERNETES;
use crate::metadata;
use crate::object::{Content, Object};
use crate::shape::{Table, Verdict, carry_spec};
use ports::{node_ports, opens_node_ports, same_port};

/// The kind.
pub struct Service;

/// The fields of the spec.
const SPEC: &Table = &[
    ("allocateLoadBalancerNodePorts", Verdict::Copy),
    ("clusterIP", Verdict::Rewrite("sent if it lies in a slice of the tenant's or is None, else the super cluster chooses")),
    ("clusterIPs", Verdict::Rewrite("as clusterIP; the second with the first")),
    ("externalIPs", Verdict::Rewrite(EXTERNAL)),
    ("externalName", Verdict::Force("the tenant's own DNS serves it")),
    ("externalTrafficPolicy", Verdict::Copy),
    // Only load balancers ask there, and those are the super cluster's; an API server lets nobody change it.
    ("healthCheckNodePort", Verdict::Force("a port of the super cluster's nodes: it chooses")),
    ("internalTrafficPolicy", Verdict::Copy),
    (
        "ipFamilies",
        Verdict::Rewrite(
            "follow from the addresses, where those are sent; what the super cluster does not have is left out, unless RequireDualStack asks for it",
        ),
    ),
    ("ipFamilyPolicy", Verdict::Rewrite("PreferDualStack and RequireDualStack only where the tenant's copy has two families")),
    ("loadBalancerClass", Verdict::Refuse("the administrator chooses the load balancer; leave it out")),
    ("loadBalancerIP", Verdict::Rewrite(EXTERNAL)),
    // Narrows who may call; without it everybody may.
    ("loadBalancerSourceRanges", Verdict::Copy),
    ("ports", Verdict::List(PORT)),
    ("publishNotReadyAddresses", Verdict::Copy),
    ("selector", Verdict::Rewrite("keys as labels have them in the super cluster")),
    ("sessionAffinity", Verdict::Copy),
    ("sessionAffinityConfig", Verdict::Object(AFFINITY)),
    ("trafficDistribution", Verdict::Copy),
    ("type", Verdict::Rewrite("a Service of the type ExternalName stays in the tenant; ClusterIP for default/kubernetes")),
];

const EXTERNAL: &str = "of ranges that are registered for the tenant (`spec.externalAddresses` of its VirtualCluster); another is left out, and an Event names it";

const PORT: &Table = &[
    ("appProtocol", Verdict::Copy),
    ("name", Verdict::Copy),
    ("nodePort", Verdict::Force("a port of the super cluster's nodes: it chooses, and the tenant's copy says so")),
    ("port", Verdict::Copy),
    ("protocol", Verdict::Copy),
    ("targetPort", Verdict::Copy),
];

const AFFINITY: &Table = &[("clientIP", Verdict::Object(&[("timeoutSeconds", Verdict::Copy)]))];

/// What an address-less Service says in place of its address.
const HEADLESS: &str = "None";

/// Fields that the super API server fills in and that stay while nothing else is asked.
const FILLED_IN: [&str; 2] = ["internalTrafficPolicy", "sessionAffinity"];

/// Each Service takes one of some 65,000 addresses, if the super cluster has a /16 for them. Of ports on all nodes there are 2768 by default, for all
/// tenants and for the platform.
const BOUNDS: [Bound; 2] = [
    Bound { reason: "TooManyServices", what: "Services", most: 2000, takes: Takes::One },
    Bound {
        reason: "TooManyNodePorts",
        what: "ports of nodes (one for each port of a Service of the type NodePort or LoadBalancer)",
        most: 100,
        takes: Takes::Counted(opens),
    },
];

/// The ports on all nodes that a Service opens. A load balancer counts even if it opens no port: somebody pays for it.
fn opens(body: &Map<String, Value>) -> usize {
    let spec = body.get("spec");
    let ports = spec.and_then(|spec| spec.get("ports")).and_then(Value::as_array).map_or(0, Vec::len);
    match spec.and_then(|spec| spec.get("type")).and_then(Value::as_str) {
        Some("NodePort") => ports,
        Some("LoadBalancer") => ports.max(1),
        _ => 0,
    }
}

impl Downward for Service {
    fn resource(&self) -> Resource {
        Resource { group: "", version: "v1", api_version: "v1", kind: "Service", plural: "services", namespaced: true, status: true }
    }

    fn fields(&self) -> &'static [(&'static str, &'static Table)] {
        &[("spec", SPEC)]
    }

    fn bounds(&self) -> &'static [Bound] {
        &BOUNDS
    }

    fn hearsay(&self) -> Hearsay {
        Hearsay::Message
    }

    fn returns(&self) -> &'static str {
        "The addresses of the load balancer (`status.loadBalancer`); and the node ports that the super cluster has chosen, into `spec.ports[].nodePort`."
    }

    fn down(&self, InTenant(tenant): &InTenant<Object>, cx: &Cx<'_>) -> Result<InSuper<Content>, Hold> {
        if tenant.text("/spec/type") == Some("ExternalName") {
            // It is a name in the tenant's own DNS and leads nobody anywhere but there. Below, proxies would follow it to names of the super cluster's.
            return Err(Hold::Stays);
        }
        let mut spec = carry_spec(tenant, SPEC, cx.policy.pass_unknown_fields)?;
        if leads_to_its_server(tenant, cx) {
            within(&mut spec);
        }
        let claims = external::keep_own(&mut spec, cx);
        families::down(&mut spec, &cx.profile.service_slices);
        if let Some(Value::Object(selector)) = spec.get_mut("selector") {
            *selector = metadata::match_labels_down(selector, cx.policy);
        }
        let InSuper(mut content) = metadata::down_with_spec(&tenant.meta, spec, cx.policy)?;
        content.annotations.extend(claims.map(|claims| (keys::CLAIMS.to_owned(), claims)));
        Ok(InSuper(content))
    }

    fn left_out(&self, InTenant(tenant): &InTenant<Object>, sup: Option<&InSuper<Object>>, cx: &Cx<'_>) -> Option<Hold> {
        external::left_out(tenant, cx).or_else(|| address::leads_nowhere(tenant, sup?))
    }

    fn depends_on(&self) -> Option<Registered> {
        Some(Registered::Addresses)
    }

    fn may_stay(&self, InSuper(sup): &InSuper<Object>, cx: &Cx<'_>) -> bool {
        external::are_own(sup, cx)
    }

    fn without_taken(&self, InSuper(sup): &InSuper<Object>, cx: &Cx<'_>) -> Option<Value> {
        external::without_taken(sup, cx)
    }

    fn claims(&self) -> bool {
        true
    }

    fn without_claims(&self, mut asked: Content) -> Option<Content> {
        families::lesser(asked.body.get_mut("spec")?.as_object_mut()?)?;
        Some(asked)
    }

    /// The spec asked for, with what the super cluster chose: addresses, node ports, defaults.
    ///
    /// *Caveats*: an address cannot change in an update, so the super copy keeps the one that it was created with.
    fn amend(&self, InSuper(asked): InSuper<Content>, InSuper(current): &InSuper<Object>, cx: &Cx<'_>) -> InSuper<Content> {
        let mut content = metadata::merge(asked, &current.meta, cx.policy);
        if let (Some(Value::Object(spec)), Some(Value::Object(current))) = (content.body.get_mut("spec"), current.body.get("spec")) {
            keep_chosen(spec, current);
        }
        InSuper(content)
    }

    fn chooses(&self) -> bool {
        true
    }

    /// The address first: the other ports are of the Service that has it.
    fn choices(&self, tenant: &InTenant<Object>, sup: &InSuper<Object>, cx: &Cx<'_>) -> Vec<InTenant<Choice>> {
        let address = if leads_to_its_server(tenant, cx) { None } else { address::adopted(tenant, sup) };
        address.into_iter().chain(node_ports(tenant, sup)).collect()
    }

    fn unfinished(&self, tenant: &InTenant<Object>) -> Option<InTenant<Choice>> {
        address::unfinished(tenant)
    }

    fn other_claim(&self, tenant: &InTenant<Object>, cx: &Cx<'_>) -> Option<InTenant<Choice>> {
        if leads_to_its_server(tenant, cx) { None } else { address::another(tenant) }
    }

    /// The addresses of the load balancer. Conditions stay: they speak of the super cluster's own load balancers.
    fn up(
        &self,
        InSuper(sup): &InSuper<Object>,
        _tenant: Option<&InTenant<Object>>,
        _cx: &Cx<'_>,
    ) -> Result<Option<InTenant<Report>>, Hold> {
        Ok(Some(InTenant(Report::of_balancer(sup))))
    }
}

/// Whether it is `default/kubernetes`, whose address is its API server's own to say.
fn leads_to_its_server(tenant: &Object, cx: &Cx<'_>) -> bool {
    (cx.namespace, tenant.meta.name.as_str()) == (Some(KUBERNETES.0), KUBERNETES.1)
}

/// The tenant says where this Service leads, see [`EndpointSlice`](super::endpoint_slice::EndpointSlice): no load balancer goes there for it.
fn within(spec: &mut Map<String, Value>) {
    for key in ["allocateLoadBalancerNodePorts", "externalIPs", "externalTrafficPolicy", "loadBalancerIP", "loadBalancerSourceRanges"] {
        spec.remove(key);
    }
    spec.insert("type".to_owned(), json!("ClusterIP"));
}

fn keep_chosen(spec: &mut Map<String, Value>, current: &Map<String, Value>) {
    families::keep(spec, current);
    for key in FILLED_IN {
        keep(spec, current, key);
    }
    let kind = spec.get("type").and_then(Value::as_str).unwrap_or("ClusterIP").to_owned();
    spec.insert("type".to_owned(), Value::from(kind.as_str()));
    let outside = opens_node_ports(spec);
    if outside || spec.contains_key("externalIPs") {
        keep(spec, current, "externalTrafficPolicy");
    }
    if kind == "LoadBalancer" {
        keep(spec, current, "allocateLoadBalancerNodePorts");
    }
    if kind == "LoadBalancer" && spec.get("externalTrafficPolicy").and_then(Value::as_str) == Some("Local") {
        keep(spec, current, "healthCheckNodePort");
    }
    let (Some(Value::Array(ports)), Some(Value::Array(current))) = (spec.get_mut("ports"), current.get("ports")) else { return };
    for port in ports.iter_mut().filter_map(Value::as_object_mut) {
        let Some(before) = current.iter().filter_map(Value::as_object).find(|before| same_port(port, before)) else { continue };
        for key in ["protocol", "targetPort"] {
            keep(port, before, key);
        }
        if outside {
            keep(port, before, "nodePort");
        }
    }
}

fn keep(to: &mut Map<String, Value>, from: &Map<String, Value>, key: &str) {
    if let Some(value) = from.get(key)
        && !to.contains_key(key)
    {
        to.insert(key.to_owned(), value.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::every_leaf_has_a_verdict;

    #[test]
    fn every_leaf_of_the_spec_has_a_verdict() {
        every_leaf_has_a_verdict::<k8s_openapi::api::core::v1::ServiceSpec>(SPEC, &[]);
    }
}
