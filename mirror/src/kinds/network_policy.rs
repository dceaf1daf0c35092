//! `NetworkPolicy`: goes down with its selectors mapped, and never lets in or out more than what is the tenant's own or outside the platform.
//!
//! Policies add up: what one allows no other takes away. So where a tenant allows everything, or a block of addresses, the ranges that the
//! administrator keeps from tenants (`--platform-ranges`) are taken out of it, and other namespaces are the tenant's own.
//!
//! *Guarantees*: a rule of which nothing is left is left out: an empty list of peers would mean everybody. Its own API server a tenant may always
//! allow.
//!
//! *Caveats*: namespaces are told apart by their name alone (`kubernetes.io/metadata.name`), since a tenant's labels on namespaces stay above. What
//! enforces policies is the super cluster's network.
//!
//! *Sources*: KEP-2091 for what no policy of a namespace can widen; `docs/threats.md`, S25.

use std::net::IpAddr;

use common::{InSuper, InTenant, Namespace, keys};
use serde_json::{Map, Value, json};

use crate::cx::{Cx, lies_in};
use crate::hold::Hold;
use crate::kind::{Downward, Resource};
use crate::metadata;
use crate::object::{Content, Object};
use crate::shape::{Table, Verdict, carry};
use crate::size;

/// The kind.
pub struct NetworkPolicy;

/// The label by which every API server names a namespace.
const NAME: &str = "kubernetes.io/metadata.name";

const SPEC: &Table = &[
    ("egress", Verdict::List(&[("ports", Verdict::List(PORT)), ("to", Verdict::List(PEER))])),
    ("ingress", Verdict::List(&[("from", Verdict::List(PEER)), ("ports", Verdict::List(PORT))])),
    ("podSelector", Verdict::Rewrite("keys as labels have them in the super cluster")),
    ("policyTypes", Verdict::Copy),
];

const PEER: &Table = &[
    ("ipBlock", Verdict::Rewrite("without the ranges of `--platform-ranges`; an Event names a block of which nothing is left")),
    (
        "namespaceSelector",
        Verdict::Rewrite("the tenant's own namespaces: all of them, or by `kubernetes.io/metadata.name`; other labels are refused"),
    ),
    ("podSelector", Verdict::Rewrite("keys as labels have them in the super cluster")),
];

const PORT: &Table = &[("endPort", Verdict::Copy), ("port", Verdict::Copy), ("protocol", Verdict::Copy)];

/// The directions, and what the peers of one are called.
const DIRECTIONS: [(&str, &str); 2] = [("ingress", "from"), ("egress", "to")];

impl Downward for NetworkPolicy {
    fn resource(&self) -> Resource {
        Resource {
            group: "networking.k8s.io",
            version: "v1",
            api_version: "networking.k8s.io/v1",
            kind: "NetworkPolicy",
            plural: "networkpolicies",
            namespaced: true,
            status: false,
        }
    }

    fn fields(&self) -> &'static [(&'static str, &'static Table)] {
        &[("spec", SPEC)]
    }

    fn down(&self, InTenant(tenant): &InTenant<Object>, cx: &Cx<'_>) -> Result<InSuper<Content>, Hold> {
        let spec = tenant.body.get("spec").ok_or(Hold::Malformed("spec is missing".into()))?;
        let Value::Object(mut spec) = carry(spec, SPEC, "spec", cx.policy.pass_unknown_fields)? else {
            return Err(Hold::Malformed("spec is no object".into()));
        };
        if let Some(selector) = spec.get_mut("podSelector") {
            *selector = metadata::selector_down(selector, cx.policy);
        }
        for (direction, peers) in DIRECTIONS {
            if let Some(Value::Array(rules)) = spec.get_mut(direction) {
                let mut kept = Vec::new();
                for (i, rule) in rules.drain(..).enumerate() {
                    kept.extend(rule_down(rule, peers, &format!("spec.{direction}[{i}]"), cx)?);
                }
                *rules = kept;
            }
        }
        let mut content = metadata::down(&tenant.meta, cx.policy);
        content.body.insert("spec".to_owned(), Value::Object(spec));
        size::cap(content, size::MOST_BYTES).map(InSuper)
    }

    fn left_out(&self, InTenant(tenant): &InTenant<Object>, cx: &Cx<'_>) -> Option<Hold> {
        let rules = |(direction, peers): (&'static str, &'static str)| {
            items(tenant.at(&format!("/spec/{direction}"))).enumerate().flat_map(move |(i, rule)| {
                items(rule.get(peers))
                    .enumerate()
                    .map(move |(j, peer)| (format!("spec.{direction}[{i}].{peers}[{j}].ipBlock"), peer, peers))
            })
        };
        DIRECTIONS.into_iter().flat_map(rules).find_map(|(at, peer, peers)| {
            let cidr = peer.get("ipBlock")?.get("cidr")?.as_str()?;
            let is_left = !block_down(peer.get("ipBlock")?, peers == "to", cx).is_empty();
            let message = format!("{cidr:.64} is not for tenants to allow, and is left out; select Pods in its place, or ask the administrator (--platform-ranges)");
            (!is_left).then(|| Hold::refuse("AddressNotAllowed", at, message))
        })
    }
}

/// A rule as it is below; nothing if no peer of it is left.
fn rule_down(rule: Value, peers: &str, at: &str, cx: &Cx<'_>) -> Result<Option<Value>, Hold> {
    let Value::Object(mut rule) = rule else { return Err(Hold::Malformed(format!("{at} is no object").into())) };
    let outward = peers == "to";
    let named: Vec<Value> = items(rule.get(peers)).cloned().collect();
    let mut kept = Vec::new();
    if named.is_empty() {
        if cx.policy.platform_ranges.is_empty() {
            return Ok(Some(Value::Object(rule)));
        }
        kept.push(json!({"namespaceSelector": own_namespaces(cx)}));
        for all in ["0.0.0.0/0", "::/0"] {
            kept.extend(block_down(&json!({"cidr": all}), outward, cx));
        }
    }
    for (i, peer) in named.iter().enumerate() {
        match peer.get("ipBlock") {
            Some(block) => kept.extend(block_down(block, outward, cx)),
            None => kept.push(selected_down(peer, &format!("{at}.{peers}[{i}]"), cx)?),
        }
    }
    if kept.is_empty() {
        return Ok(None);
    }
    rule.insert(peers.to_owned(), Value::Array(kept));
    Ok(Some(Value::Object(rule)))
}

/// A peer that selects Pods, in the namespace of the policy or in others.
fn selected_down(peer: &Value, at: &str, cx: &Cx<'_>) -> Result<Value, Hold> {
    let mut out = Map::new();
    if let Some(pods) = peer.get("podSelector") {
        out.insert("podSelector".to_owned(), metadata::selector_down(pods, cx.policy));
    }
    if let Some(namespaces) = peer.get("namespaceSelector") {
        out.insert("namespaceSelector".to_owned(), namespaces_down(namespaces, &format!("{at}.namespaceSelector"), cx)?);
    }
    Ok(Value::Object(out))
}

fn own_namespaces(cx: &Cx<'_>) -> Value {
    json!({"matchLabels": {keys::TENANT: cx.tenant.as_str()}})
}

/// A selector of namespaces by their names, which are others below.
fn namespaces_down(selector: &Value, at: &str, cx: &Cx<'_>) -> Result<Value, Hold> {
    const BY_NAME: &str =
        "of labels on namespaces only kubernetes.io/metadata.name is known in the super cluster; select by that, or all by {}";
    let mut out = own_namespaces(cx);
    let below = |name: &str| Namespace::parse(name).ok().map(|name| Value::from(cx.tenant.namespace(&name).as_str()));
    let mut expressions: Vec<Value> = Vec::new();
    for (key, value) in selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
        let name = value.as_str().filter(|_| key == NAME).and_then(below);
        let name = name.ok_or_else(|| Hold::refuse("NotSupported", format!("{at}.matchLabels[{key:.64}]"), BY_NAME))?;
        expressions.push(json!({"key": NAME, "operator": "In", "values": [name]}));
    }
    for (i, expression) in items(selector.get("matchExpressions")).enumerate() {
        if expression.get("key").and_then(Value::as_str) != Some(NAME) {
            return Err(Hold::refuse("NotSupported", format!("{at}.matchExpressions[{i}].key"), BY_NAME));
        }
        let mut expression = expression.clone();
        if let Some(Value::Array(names)) = expression.get_mut("values") {
            *names = names.iter().filter_map(Value::as_str).filter_map(below).collect();
        }
        expressions.push(expression);
    }
    if !expressions.is_empty()
        && let Some(out) = out.as_object_mut()
    {
        out.insert("matchExpressions".to_owned(), Value::Array(expressions));
    }
    Ok(out)
}

/// What is left of a block of addresses, and the tenant's own API server if that lies in what was taken out.
fn block_down(block: &Value, outward: bool, cx: &Cx<'_>) -> Vec<Value> {
    let Some(network) = block.get("cidr").and_then(Value::as_str).and_then(parsed) else { return Vec::new() };
    let mut except: Vec<Value> = items(block.get("except")).cloned().collect();
    let inside = |inner: (IpAddr, u8), outer: (IpAddr, u8)| inner.1 >= outer.1 && lies_in(inner.0, outer);
    let mut out = Vec::new();
    let is_taken = cx.policy.platform_ranges.iter().any(|range| inside(network, *range));
    if !is_taken {
        for range in cx.policy.platform_ranges.iter().filter(|range| inside(**range, network)) {
            let text = Value::from(format!("{}/{}", range.0, range.1));
            if !except.contains(&text) {
                except.push(text);
            }
        }
        let mut left = json!({"cidr": block.get("cidr")});
        if let Some(left) = left.as_object_mut().filter(|_| !except.is_empty()) {
            left.insert("except".to_owned(), Value::Array(except));
        }
        out.push(json!({"ipBlock": left}));
    }
    let server = cx.profile.server.map(|server| server.ip()).filter(|_| outward);
    if let Some(server) =
        server.filter(|server| lies_in(*server, network) && cx.policy.platform_ranges.iter().any(|range| lies_in(*server, *range)))
    {
        let bits = if server.is_ipv4() { 32 } else { 128 };
        out.push(json!({"ipBlock": {"cidr": format!("{server}/{bits}")}}));
    }
    out
}

fn parsed(cidr: &str) -> Option<(IpAddr, u8)> {
    let (address, prefix) = cidr.split_once('/')?;
    Some((address.parse().ok()?, prefix.parse().ok()?))
}

fn items(list: Option<&Value>) -> impl Iterator<Item = &Value> {
    list.and_then(Value::as_array).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::every_leaf_has_a_verdict;

    #[test]
    fn every_leaf_of_the_spec_has_a_verdict() {
        let peers = ["ingress[].from[]", "egress[].to[]"];
        let opaque: Vec<String> =
            peers.iter().flat_map(|at| ["ipBlock", "namespaceSelector", "podSelector"].map(|field| format!("{at}.{field}"))).collect();
        let opaque: Vec<&str> = opaque.iter().map(String::as_str).chain(["podSelector"]).collect();
        every_leaf_has_a_verdict::<k8s_openapi::api::networking::v1::NetworkPolicySpec>(SPEC, &opaque);
    }
}
