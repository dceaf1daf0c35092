//! The fields that a `SyncedResource` names, as a tree, and what they do to an object that passes.

use std::collections::BTreeMap;

use common::Namespace;
use common::api::{Field, FieldVerdict};
use serde_json::{Map, Value};

use super::{leak, verdict};
use crate::cx::Cx;
use crate::hold::Hold;
use crate::metadata;
use crate::shape::{Table, Verdict, asks_for_nothing};

/// What is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Flaw(pub(super) String);

/// The fields of one object with what becomes of each.
#[derive(Debug, Default)]
pub(super) struct Fields(BTreeMap<String, Node>);

#[derive(Debug)]
enum Node {
    /// The whole field, and the texts that it may have, if not any.
    Leaf(FieldVerdict, Vec<String>),
    /// An object with fields of its own.
    Object(Fields),
    /// A list of such objects.
    List(Fields),
}

/// What becomes an object's in the super cluster by other ways than a field.
const BY_OTHER_WAYS: [&str; 4] = ["apiVersion", "kind", "metadata", "status"];

/// What runs something, names a kind that may be in no namespace, or leads to a node.
const LEADS_OUT: [&str; 9] = [
    "containers",
    "ephemeralContainers",
    "finalizers",
    "hostPath",
    "initContainers",
    "kind",
    "ownerReferences",
    "serviceAccount",
    "serviceAccountName",
];

impl Fields {
    pub(super) fn of(fields: &[Field]) -> Result<Self, Flaw> {
        let mut all = Self::default();
        for field in fields {
            let path: Vec<&str> = field.path.split('.').collect();
            if path.first().is_none_or(|first| BY_OTHER_WAYS.contains(&first.trim_end_matches("[]"))) {
                return Err(Flaw(format!("{}: apiVersion, kind, metadata and status do not go down by a field", field.path)));
            }
            if path.iter().any(|part| part.trim_end_matches("[]").is_empty()) {
                return Err(Flaw(format!("{}: a part of the path is empty", field.path)));
            }
            if field.path == "spec.nodeName" {
                return Err(Flaw("spec.nodeName: says where a Pod runs, of nothing else".to_owned()));
            }
            if !field.values.is_empty() && !matches!(field.verdict, FieldVerdict::Copy | FieldVerdict::CopyOrKeep) {
                return Err(Flaw(format!("{}: values need the verdict Copy or CopyOrKeep", field.path)));
            }
            all.add(&path, field)?;
        }
        Ok(all)
    }

    fn add(&mut self, path: &[&str], field: &Field) -> Result<(), Flaw> {
        let Some((first, rest)) = path.split_first() else { return Ok(()) };
        let clash = || Flaw(format!("{}: another field is the same or lies within it, or it lies within another", field.path));
        let (name, is_list) = first.strip_suffix("[]").map_or((*first, false), |name| (name, true));
        if rest.is_empty() {
            if is_list {
                return Err(Flaw(format!("{}: name the list itself, or fields of its objects", field.path)));
            }
            let before = self.0.insert(name.to_owned(), Node::Leaf(field.verdict, field.values.clone()));
            return before.map_or(Ok(()), |_| Err(clash()));
        }
        let make = || if is_list { Node::List(Self::default()) } else { Node::Object(Self::default()) };
        match (self.0.entry(name.to_owned()).or_insert_with(make), is_list) {
            (Node::Object(fields), false) | (Node::List(fields), true) => fields.add(rest, field),
            (Node::Leaf(..) | Node::Object(_) | Node::List(_), _) => Err(clash()),
        }
    }

    /// The same for what carries, and for people.
    pub(super) fn table(&self) -> Vec<(&'static str, Verdict)> {
        let leaked = |fields: &Self| -> &'static Table { Box::leak(fields.table().into_boxed_slice()) };
        let of = |node: &Node| match node {
            Node::Leaf(of, values) => verdict(*of, values),
            Node::Object(fields) => Verdict::Object(leaked(fields)),
            Node::List(fields) => Verdict::List(leaked(fields)),
        };
        self.0.iter().map(|(name, node)| (leak(name), of(node))).collect()
    }

    /// Makes what was carried what it is in the super cluster.
    ///
    /// *Errors*: a refusal of what may not be carried.
    pub(super) fn rewrite(&self, body: &mut Map<String, Value>, cx: &Cx<'_>) -> Result<(), Hold> {
        self.rewrite_at(body, "", cx)
    }

    fn rewrite_at(&self, body: &mut Map<String, Value>, within: &str, cx: &Cx<'_>) -> Result<(), Hold> {
        for (name, node) in &self.0 {
            let Some(value) = body.get_mut(name) else { continue };
            let at = if within.is_empty() { name.clone() } else { format!("{within}.{name}") };
            match (node, value) {
                (Node::Leaf(of, values), value) => leaf(value, *of, values, &at, cx)?,
                (Node::Object(fields), Value::Object(below)) => fields.rewrite_at(below, &at, cx)?,
                (Node::List(fields), Value::Array(items)) => {
                    for (i, item) in items.iter_mut().enumerate() {
                        if let Value::Object(below) = item {
                            fields.rewrite_at(below, &format!("{at}[{i}]"), cx)?;
                        }
                    }
                }
                (Node::Object(_) | Node::List(_), _) => return Err(Hold::Malformed(format!("{at} is of another type").into())),
            }
        }
        Ok(())
    }

    /// Puts beside what is asked what of the existing copy is the super cluster's own: what is never asked for.
    pub(super) fn keep(&self, asked: &mut Map<String, Value>, current: &Map<String, Value>) {
        for (name, value) in current {
            match (self.0.get(name), asked.get_mut(name)) {
                (None | Some(Node::Leaf(FieldVerdict::LeaveOut | FieldVerdict::Refuse, _)), _)
                | (Some(Node::Leaf(FieldVerdict::CopyOrKeep, _)), None) => {
                    asked.insert(name.clone(), value.clone());
                }
                (Some(Node::Object(fields)), Some(Value::Object(asked))) => {
                    if let Value::Object(current) = value {
                        fields.keep(asked, current);
                    }
                }
                (Some(_), _) => {}
            }
        }
    }
}

/// One field as it is in the super cluster.
fn leaf(value: &mut Value, of: FieldVerdict, values: &[String], at: &str, cx: &Cx<'_>) -> Result<(), Hold> {
    match of {
        FieldVerdict::Copy | FieldVerdict::CopyOrKeep => {
            if !values.is_empty() && !value.as_str().is_some_and(|text| values.iter().any(|value| value == text)) {
                return Err(Hold::refuse("NotSupported", at, format!("it may be one of: {}", values.join(", "))));
            }
            stays_within(value, at)?;
        }
        FieldVerdict::Selector => {
            let is_selector = |fields: &Map<String, Value>| fields.keys().all(|key| key == "matchLabels" || key == "matchExpressions");
            if !value.as_object().is_some_and(is_selector) {
                return Err(Hold::Malformed(format!("{at} is no label selector").into()));
            }
            *value = metadata::selector_down(value, cx.policy);
        }
        FieldVerdict::Labels => {
            let Value::Object(labels) = value else { return Err(Hold::Malformed(format!("{at} are no labels").into())) };
            *labels = metadata::match_labels_down(labels, cx.policy);
        }
        FieldVerdict::Namespace => match cx.super_namespace.map(Namespace::as_str) {
            Some(namespace) if value.as_str().is_some_and(|text| Some(text) == cx.namespace) => *value = Value::from(namespace),
            Some(_) | None => return Err(Hold::refuse("NotSupported", at, "it may name no namespace but the object's own")),
        },
        // Neither was carried.
        FieldVerdict::LeaveOut | FieldVerdict::Refuse => {}
    }
    Ok(())
}

/// Refuses of what is carried whole what may lead out of the tenant's namespace, run something, or be taken for ours.
fn stays_within(value: &Value, at: &str) -> Result<(), Hold> {
    match value {
        Value::Object(fields) => fields.iter().try_for_each(|(key, value)| {
            let at = format!("{at}.{key}");
            if metadata::is_ours(key) {
                return Err(Hold::refuse("NotSupported", at, "keys of this domain are the syncer's; remove it"));
            }
            if leads_out(key) && !asks_for_nothing(value) {
                let instead = "it may lead out of your namespace or run something, and goes down only where the administrator of the super \
                               cluster names this very field; remove it, or ask for it";
                return Err(Hold::refuse("NotSupported", at, instead));
            }
            stays_within(value, &at)
        }),
        Value::Array(items) => items.iter().enumerate().try_for_each(|(i, item)| stays_within(item, &format!("{at}[{i}]"))),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
}

fn leads_out(key: &str) -> bool {
    let lower = key.to_ascii_lowercase();
    LEADS_OUT.iter().any(|known| known.eq_ignore_ascii_case(key))
        || ["namespace", "namespaces", "namespaceselector"].iter().any(|end| lower.ends_with(end))
}

#[cfg(test)]
mod tests {
    use common::api::SyncedResourceSpec;
    use serde_json::json;

    use super::super::Synced;
    use super::*;
    use crate::kind::Downward;

    fn made(kind: &str, fields: &Value) -> Result<Synced, Flaw> {
        let spec =
            json!({"group": "example.com", "kind": kind, "plural": "things", "fields": fields, "matchLabels": {"a.b/c": "d", "e": ""}});
        let spec: SyncedResourceSpec = serde_json::from_value(spec).unwrap();
        Synced::of(&spec, "v1")
    }

    #[test]
    fn what_cannot_be_meant_makes_no_row() {
        for (fields, what) in [
            (json!([{"path": "metadata.ownerReferences"}]), "metadata.ownerReferences: apiVersion"),
            (json!([{"path": "status"}]), "status: apiVersion"),
            (json!([{"path": "metadata[].a"}]), "metadata[].a: apiVersion"),
            (json!([{"path": ""}]), ": a part of the path is empty"),
            (json!([{"path": "spec..a"}]), "spec..a: a part of the path is empty"),
            (json!([{"path": "spec"}, {"path": "spec.a"}]), "spec.a: another field"),
            (json!([{"path": "spec.a"}, {"path": "spec"}]), "spec: another field"),
            (json!([{"path": "spec.a.b"}, {"path": "spec.a[].c"}]), "spec.a[].c: another field"),
            (json!([{"path": "spec.a[]"}]), "spec.a[]: name the list itself"),
            (json!([{"path": "spec.nodeName"}]), "spec.nodeName: says where"),
            (json!([{"path": "spec.a", "verdict": "Labels", "values": ["b"]}]), "spec.a: values need"),
        ] {
            let flaw = made("Thing", &fields).err().map(|flaw| flaw.to_string()).unwrap_or_default();
            assert!(flaw.starts_with(what), "{fields}: {flaw}");
        }
        assert!(made("Service", &json!([{"path": "spec"}])).is_err(), "by its name alone it would be taken for the built-in kind");
        let row = made("Thing", &json!([{"path": "spec"}])).unwrap();
        assert!(matches!(row.bounds(), [bound] if bound.most == 1000 && bound.what == "things.example.com"));
        assert_eq!((row.tenant_selector(), row.resource().api_version), (Some("a.b/c=d,e="), "example.com/v1"));
    }

    #[test]
    fn a_namespace_is_the_objects_own_or_refused() {
        let id = common::TenantId::new(common::Uid::from_bits(1), "acme");
        let within = id.namespace(&Namespace::parse("default").unwrap());
        let (policy, profile, nodes) = Default::default();
        let cx = Cx { super_namespace: Some(&within), ..Cx::of_default(&id, &policy, &profile, &nodes) };
        let fields: Vec<Field> = serde_json::from_value(json!([{"path": "spec.refs[].namespace", "verdict": "Namespace"}])).unwrap();
        let fields = Fields::of(&fields).unwrap();
        let rewritten = |namespace: &str| {
            let mut body = json!({"spec": {"refs": [{"namespace": namespace}]}});
            let held = fields.rewrite(body.as_object_mut().unwrap(), &cx).map_err(|hold| hold.to_string());
            held.map(|()| body["spec"]["refs"][0]["namespace"].clone())
        };
        assert_eq!(rewritten("default"), Ok(json!(within.as_str())));
        for other in ["kube-system", "", within.as_str()] {
            assert!(rewritten(other).unwrap_err().starts_with("spec.refs[0].namespace: "), "{other}");
        }
    }

    #[test]
    fn a_selector_is_one_or_refused() {
        let id = common::TenantId::new(common::Uid::from_bits(1), "acme");
        let (policy, profile, nodes) = Default::default();
        let cx = Cx::of_default(&id, &policy, &profile, &nodes);
        let mut right = json!({"matchLabels": {"team.example/a": "b"}});
        leaf(&mut right, FieldVerdict::Selector, &[], "spec.selector", &cx).unwrap();
        assert_eq!(right["matchLabels"].as_object().map(|labels| labels.keys().all(|key| metadata::is_ours(key))), Some(true));
        let mut wrong = json!({"tenancy.x-k8s.io/tenant": "other"});
        assert!(leaf(&mut wrong, FieldVerdict::Selector, &[], "spec.selector", &cx).is_err());
    }
}
