//! Labels, annotations and selectors on their way down, by one function, so that what selected what still selects it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use common::name::hash26;
use common::{InSuper, Namespace, TenantId, keys};
use serde_json::{Map, Value};

use crate::cx::Policy;
use crate::hold::Hold;
use crate::object::{Content, Meta};
use crate::size;

/// Label keys with a domain that the built-in controllers set on what they make, and that charts select by.
///
/// *Sources*: "Well-Known Labels, Annotations and Taints" of Kubernetes.
const CONTROLLER_LABELS: [&str; 6] = [
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-completion-index",
    "batch.kubernetes.io/job-name",
    "kubernetes.io/service-name",
    "statefulset.kubernetes.io/pod-name",
];

/// Labels that API servers copy from the Node to the Pod when it is bound, each in its own cluster: what selects by them selects by the
/// super cluster's below.
///
/// *Sources*: admission plugin `PodTopologyLabels`, KEP-4742.
pub const TOPOLOGY_LABELS: [&str; 2] = ["topology.kubernetes.io/region", "topology.kubernetes.io/zone"];

/// The key that a tenant's label has in the super cluster: itself if it has no domain or one that is allowed, else a hash under
/// [`keys::HASHED_LABEL_PREFIX`].
///
/// *Guarantees*: injective under one policy; never a key of ours, since all of our domain are hashed, what starts with the prefix too.
pub fn label_key_down<'a>(key: &'a str, policy: &Policy) -> Cow<'a, str> {
    if passes(key, policy) || TOPOLOGY_LABELS.contains(&key) { Cow::Borrowed(key) } else { Cow::Owned(hashed(key)) }
}

fn passes(key: &str, policy: &Policy) -> bool {
    if !key.contains('/') {
        return true;
    }
    !is_ours(key) && (key.starts_with(keys::APP_LABEL_PREFIX) || CONTROLLER_LABELS.contains(&key) || listed(key, &policy.labels_down))
}

fn hashed(key: &str) -> String {
    format!("{}{}", keys::HASHED_LABEL_PREFIX, hash26(&["vc-label-v1", key]))
}

pub(crate) fn listed(key: &str, allowed: &BTreeSet<String>) -> bool {
    allowed.contains(key) || allowed.iter().any(|entry| entry.ends_with('/') && key.starts_with(entry.as_str()))
}

/// Whether the key stands in our domain ([`keys::GROUP`] or below it), so that no tenant may set it in the super cluster.
pub fn is_ours(key: &str) -> bool {
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    domain.strip_suffix(keys::GROUP).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// A tenant's labels as they stand in the super cluster.
pub fn labels_down(labels: &BTreeMap<String, String>, policy: &Policy) -> BTreeMap<String, String> {
    labels.iter().map(|(key, value)| (label_key_down(key, policy).into_owned(), value.clone())).collect()
}

/// Those of a tenant's annotations that the administrator lets down; never one of ours.
pub fn annotations_down(annotations: &BTreeMap<String, String>, policy: &Policy) -> BTreeMap<String, String> {
    annotations.iter().filter(|(key, _)| owned_annotation(key, policy)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Labels to be matched (a Service's `selector`, a `matchLabels`) as they select in the super cluster.
pub fn match_labels_down(labels: &Map<String, Value>, policy: &Policy) -> Map<String, Value> {
    labels.iter().map(|(key, value)| (label_key_down(key, policy).into_owned(), value.clone())).collect()
}

/// A selector (`matchLabels`, `matchExpressions`) as it selects in the super cluster. What is no selector stays as it is.
pub fn selector_down(selector: &Value, policy: &Policy) -> Value {
    let mut out = selector.clone();
    if let Some(Value::Object(labels)) = out.get_mut("matchLabels") {
        *labels = match_labels_down(labels, policy);
    }
    if let Some(Value::Array(expressions)) = out.get_mut("matchExpressions") {
        for key in expressions.iter_mut().filter_map(|expression| expression.get_mut("key")) {
            if let Value::String(text) = key
                && let Cow::Owned(mapped) = label_key_down(text, policy)
            {
                *text = mapped;
            }
        }
    }
    out
}

/// The label by which every API server names a namespace.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// The labels that a tenant's namespace has in the super cluster: all of them hashed, also those without a domain, since labels of a namespace
/// switch policies and injection on and off there. Its name the API server there says by a label of its own.
pub fn namespace_labels_down(labels: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    labels.iter().filter(|(key, _)| *key != NAMESPACE_NAME).map(|(key, value)| (hashed(key), value.clone())).collect()
}

/// A selector of namespaces as it selects in the super cluster: of this tenant's, those that it selects in the tenant.
pub fn namespace_selector_down(selector: &Map<String, Value>, tenant: &TenantId) -> Value {
    let mut out = selector.clone();
    let mut mapped = Map::new();
    for (key, value) in out.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
        let (key, value) = if key == NAMESPACE_NAME { (key.clone(), named(value, tenant)) } else { (hashed(key), value.clone()) };
        mapped.insert(key, value);
    }
    mapped.insert(keys::TENANT.to_owned(), tenant.as_str().into());
    out.insert("matchLabels".to_owned(), Value::Object(mapped));
    for expression in out.get_mut("matchExpressions").and_then(Value::as_array_mut).into_iter().flatten() {
        let is_name = expression.get("key").is_some_and(|key| key == NAMESPACE_NAME);
        if is_name {
            for name in expression.get_mut("values").and_then(Value::as_array_mut).into_iter().flatten() {
                *name = named(name, tenant);
            }
        } else if let Some(Value::String(key)) = expression.get_mut("key") {
            *key = hashed(key);
        }
    }
    Value::Object(out)
}

/// The name of a tenant's namespace as the super cluster has it. What is no name is that of no namespace there either.
fn named(name: &Value, tenant: &TenantId) -> Value {
    let parsed = name.as_str().and_then(|name| Namespace::parse(name).ok());
    parsed.map_or_else(|| name.clone(), |name| Value::from(tenant.namespace(&name).as_str()))
}

/// Whether a label of this key on a super object can be one that we put there for the tenant. Others belong to the super cluster.
pub fn owned_label(key: &str, policy: &Policy) -> bool {
    key.starts_with(keys::HASHED_LABEL_PREFIX) || passes(key, policy)
}

/// Whether an annotation of this key on a super object can be one that we put there for the tenant.
pub fn owned_annotation(key: &str, policy: &Policy) -> bool {
    !is_ours(key) && listed(key, &policy.annotations_down)
}

/// The metadata of a tenant's object as it goes down; the body is still empty.
pub fn down(meta: &Meta, policy: &Policy) -> Content {
    Content { labels: labels_down(&meta.labels, policy), annotations: annotations_down(&meta.annotations, policy), ..Content::default() }
}

/// What is asked with this spec, and the metadata of the tenant's object.
///
/// *Errors*: it is larger than what goes down.
pub fn down_with_spec(meta: &Meta, spec: Map<String, Value>, policy: &Policy) -> Result<InSuper<Content>, Hold> {
    let body = Map::from_iter([("spec".to_owned(), Value::Object(spec))]);
    size::cap(Content { body, ..down(meta, policy) }, size::MOST_BYTES).map(InSuper)
}

/// `asked`, with those labels and annotations of the existing super object that the super cluster added.
pub fn merge(asked: Content, current: &Meta, policy: &Policy) -> Content {
    Content {
        labels: merge_labels(asked.labels, &current.labels, policy),
        annotations: merge_annotations(asked.annotations, &current.annotations, policy),
        ..asked
    }
}

/// The labels that an existing super object should have: those asked for, and those that the super cluster added.
pub fn merge_labels(asked: BTreeMap<String, String>, current: &BTreeMap<String, String>, policy: &Policy) -> BTreeMap<String, String> {
    with_foreign(asked, current, |key| owned_label(key, policy))
}

/// The annotations that an existing super object should have: those asked for, and those that the super cluster added.
pub fn merge_annotations(asked: BTreeMap<String, String>, current: &BTreeMap<String, String>, policy: &Policy) -> BTreeMap<String, String> {
    with_foreign(asked, current, |key| owned_annotation(key, policy))
}

fn with_foreign(
    mut asked: BTreeMap<String, String>,
    current: &BTreeMap<String, String>,
    owned: impl Fn(&str) -> bool,
) -> BTreeMap<String, String> {
    for (key, value) in current.iter().filter(|(key, _)| !owned(key)) {
        asked.entry(key.clone()).or_insert_with(|| value.clone());
    }
    asked
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_map, btree_set, vec};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn policy() -> Policy {
        Policy {
            labels_down: ["team.example/".to_owned(), "one.example/key".to_owned(), "tenancy.x-k8s.io/".to_owned()].into(),
            annotations_down: ["note.example/".to_owned(), "tenancy.x-k8s.io/".to_owned()].into(),
            ..Policy::default()
        }
    }

    #[test]
    fn keys_pass_by_their_domain() {
        let policy = policy();
        for key in [
            "app",
            "app.kubernetes.io/name",
            "batch.kubernetes.io/job-name",
            "topology.kubernetes.io/zone",
            "team.example/x",
            "one.example/key",
        ] {
            assert_eq!(label_key_down(key, &policy), key);
        }
        for key in [
            "one.example/other",
            "kubernetes.io/metadata.name",
            "pod-security.kubernetes.io/enforce",
            keys::TENANT,
            "x.tenancy.x-k8s.io/a",
            "t.tenancy.x-k8s.io/aaaaaaaaaaaaaaaaaaaaaaaaaa",
        ] {
            let down = label_key_down(key, &policy);
            assert!(down.starts_with(keys::HASHED_LABEL_PREFIX) && down != key, "{key} became {down}");
            assert_eq!(down.len(), keys::HASHED_LABEL_PREFIX.len() + 26);
        }
    }

    #[test]
    fn annotations_pass_only_if_listed_and_never_ours() {
        let given = BTreeMap::from(["note.example/a", "other.example/a", "a", keys::OWNER].map(|key| (key.to_owned(), "v".to_owned())));
        assert_eq!(annotations_down(&given, &policy()).into_keys().collect::<Vec<_>>(), ["note.example/a"]);
    }

    #[test]
    fn what_the_super_cluster_added_stays_and_what_the_tenant_dropped_goes() {
        let current = BTreeMap::from(
            [("app", "old"), ("gone", "x"), ("mesh.example/injected", "yes"), (keys::TENANT, "id"), ("t.tenancy.x-k8s.io/a", "x")]
                .map(|(key, value)| (key.to_owned(), value.to_owned())),
        );
        let asked = BTreeMap::from([("app".to_owned(), "new".to_owned())]);
        let merged = merge_labels(asked, &current, &policy());
        let expected = BTreeMap::from(
            [("app", "new"), ("mesh.example/injected", "yes"), (keys::TENANT, "id")].map(|(key, value)| (key.to_owned(), value.to_owned())),
        );
        assert_eq!(merged, expected);
    }

    #[test]
    fn a_selector_is_mapped_in_both_of_its_parts() {
        let selector =
            json!({"matchLabels": {"app": "x", "a.example/b": "y"}, "matchExpressions": [{"key": "a.example/b", "operator": "Exists"}]});
        let key = hashed("a.example/b");
        let expected = json!({"matchLabels": {"app": "x", key.clone(): "y"}, "matchExpressions": [{"key": key, "operator": "Exists"}]});
        assert_eq!(selector_down(&selector, &policy()), expected);
    }

    #[test]
    fn namespaces_are_selected_by_name_and_by_hashed_keys_and_in_one_tenant() {
        let tenant = TenantId::new(common::Uid::default(), "acme");
        let selector = json!({
            "matchLabels": {"team": "a", keys::TENANT: "other"},
            "matchExpressions": [{"key": NAMESPACE_NAME, "operator": "NotIn", "values": ["shop", "Not a name"]}],
        });
        let shop = tenant.namespace(&Namespace::parse("shop").unwrap());
        let expected = json!({
            "matchLabels": {hashed("team"): "a", hashed(keys::TENANT): "other", keys::TENANT: tenant.as_str()},
            "matchExpressions": [{"key": NAMESPACE_NAME, "operator": "NotIn", "values": [shop.as_str(), "Not a name"]}],
        });
        assert_eq!(namespace_selector_down(selector.as_object().unwrap(), &tenant), expected);
        let all = json!({"matchLabels": {keys::TENANT: tenant.as_str()}});
        assert_eq!(namespace_selector_down(&Map::new(), &tenant), all);
    }

    /// What a selector selects, as apimachinery's `labels.Selector` decides it.
    fn selects(selector: &Value, labels: &BTreeMap<String, String>) -> bool {
        let equal = selector["matchLabels"]
            .as_object()
            .is_none_or(|wanted| wanted.iter().all(|(key, value)| labels.get(key).map(String::as_str) == value.as_str()));
        let expressions = selector["matchExpressions"].as_array().is_none_or(|expressions| {
            expressions.iter().all(|expression| {
                let value = expression["key"].as_str().and_then(|key| labels.get(key));
                let among = value.is_some_and(|value| expression["values"].as_array().is_some_and(|v| v.iter().any(|v| v == value)));
                match expression["operator"].as_str().unwrap() {
                    "In" => among,
                    "NotIn" => !among,
                    "Exists" => value.is_some(),
                    _ => value.is_none(),
                }
            })
        });
        equal && expressions
    }

    fn key() -> impl Strategy<Value = String> {
        prop_oneof![
            "[ab]",
            "(app\\.kubernetes\\.io|batch\\.kubernetes\\.io|team\\.example|one\\.example|x\\.example)/(key|job-name|[ab])",
            "(t\\.|u\\.|)tenancy\\.x-k8s\\.io/(tenant|[ab])",
            Just(hashed("x.example/a")),
        ]
    }

    fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
        btree_map(key(), "[xy]", 0..5)
    }

    fn selector() -> impl Strategy<Value = Value> {
        let expression = (key(), prop_oneof!["In", "NotIn", "Exists", "DoesNotExist"], btree_set("[xy]", 1..3))
            .prop_map(|(key, operator, values)| json!({"key": key, "operator": operator, "values": values}));
        (btree_map(key(), "[xy]", 0..2), vec(expression, 0..3))
            .prop_map(|(labels, expressions)| json!({"matchLabels": labels, "matchExpressions": expressions}))
    }

    proptest! {
        #[test]
        fn what_selected_what_selects_it_still(selector in selector(), labels in labels()) {
            let policy = policy();
            let below = selects(&selector_down(&selector, &policy), &labels_down(&labels, &policy));
            prop_assert_eq!(selects(&selector, &labels), below);
        }

        #[test]
        fn what_selected_a_namespace_selects_it_still(selector in selector(), labels in labels()) {
            let tenant = TenantId::new(common::Uid::default(), "acme");
            let below = namespace_selector_down(selector.as_object().unwrap(), &tenant);
            let mut own = namespace_labels_down(&labels);
            prop_assert!(!selects(&below, &own));
            own.insert(keys::TENANT.to_owned(), tenant.as_str().to_owned());
            prop_assert_eq!(selects(&selector, &labels), selects(&below, &own));
        }

        #[test]
        fn keys_stay_apart_and_are_never_ours(a in key(), b in key()) {
            let policy = policy();
            let (left, right) = (label_key_down(&a, &policy), label_key_down(&b, &policy));
            prop_assert_eq!(a == b, left == right);
            prop_assert!(!is_ours(&left) || left.starts_with(keys::HASHED_LABEL_PREFIX));
            prop_assert!(owned_label(&left, &policy));
        }
    }
}
