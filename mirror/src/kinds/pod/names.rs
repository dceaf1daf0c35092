//! The names of Secrets, `ConfigMap`s and claims that a Pod mentions: what it refers to, and how those are called in the super namespace.

use common::{Name, Super, Tenant, keys};
use serde_json::Value;

use super::Fields;
use crate::hold::Hold;
use crate::kind::Reference;

const SECRET: &str = "Secret";
const CONFIG_MAP: &str = "ConfigMap";
/// Claims go down by themselves, so a Pod need not refer to them.
const CLAIM: &str = "PersistentVolumeClaim";

/// Where names stand below a container.
const IN_CONTAINER: &[(&[&str], &str)] = &[
    (&["env", "valueFrom", "configMapKeyRef", "name"], CONFIG_MAP),
    (&["env", "valueFrom", "secretKeyRef", "name"], SECRET),
    (&["envFrom", "configMapRef", "name"], CONFIG_MAP),
    (&["envFrom", "secretRef", "name"], SECRET),
];

/// Where names stand in the spec, containers aside.
const IN_SPEC: &[(&[&str], &str)] = &[
    (&["imagePullSecrets", "name"], SECRET),
    (&["volumes", "configMap", "name"], CONFIG_MAP),
    (&["volumes", "persistentVolumeClaim", "claimName"], CLAIM),
    (&["volumes", "secret", "secretName"], SECRET),
    (&["volumes", "projected", "sources", "configMap", "name"], CONFIG_MAP),
    (&["volumes", "projected", "sources", "secret", "name"], SECRET),
];

/// Everything that must go down with the Pod, optional or not.
pub(super) fn references(spec: &Value) -> Vec<Reference> {
    let mut found = Vec::new();
    let mut take = |kind, name: &str| found.push(Reference { kind, name: name.to_owned() });
    for (path, kind) in IN_SPEC.iter().filter(|(_, kind)| *kind != CLAIM) {
        visit(spec, path, &mut |name| take(kind, name));
    }
    for list in super::CONTAINER_LISTS {
        for (path, kind) in IN_CONTAINER {
            visit(spec.get(list).unwrap_or(&Value::Null), path, &mut |name| take(kind, name));
        }
    }
    found.sort();
    found.dedup();
    found
}

/// Gives every name the form that it has in the super namespace.
pub(super) fn down(spec: &mut Fields) -> Result<(), Hold> {
    for (key, value) in spec.iter_mut() {
        let in_containers = super::CONTAINER_LISTS.contains(&key.as_str());
        let paths = if in_containers { IN_CONTAINER } else { IN_SPEC };
        for (path, kind) in paths {
            let path = match path {
                [first, rest @ ..] if !in_containers && first == key => rest,
                path if in_containers => path,
                _ => continue,
            };
            let mut outcome = Ok(());
            visit_mut(value, path, &mut |name| match super_name(kind, name) {
                Ok(renamed) => renamed.as_str().clone_into(name),
                Err(hold) => outcome = Err(hold),
            });
            outcome?;
        }
    }
    Ok(())
}

/// The super name of what is mentioned: the same rule as its own kind's.
fn super_name(kind: &str, name: &str) -> Result<Name<Super>, Hold> {
    let tenant = Name::<Tenant>::parse(name)
        .map_err(|error| Hold::refuse("InvalidName", "spec", format!("a {kind} is referred to by a name that cannot be: {error}")))?;
    Ok(if kind == CONFIG_MAP && name == keys::ROOT_CA_CONFIG_MAP { tenant.reserved() } else { tenant.same() })
}

/// Visits the non-empty strings at a path of keys, through every list on the way.
fn visit(value: &Value, path: &[&str], see: &mut impl FnMut(&str)) {
    match (value, path) {
        (Value::Array(items), _) => items.iter().for_each(|item| visit(item, path, see)),
        (Value::Object(fields), [key, rest @ ..]) => {
            if let Some(value) = fields.get(*key) {
                visit(value, rest, see);
            }
        }
        (Value::String(text), []) if !text.is_empty() => see(text),
        _ => {}
    }
}

fn visit_mut(value: &mut Value, path: &[&str], change: &mut impl FnMut(&mut String)) {
    match (value, path) {
        (Value::Array(items), _) => items.iter_mut().for_each(|item| visit_mut(item, path, change)),
        (Value::Object(fields), [key, rest @ ..]) => {
            if let Some(value) = fields.get_mut(*key) {
                visit_mut(value, rest, change);
            }
        }
        (Value::String(text), []) if !text.is_empty() => change(text),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec() -> Value {
        json!({
            "imagePullSecrets": [{"name": "pull"}],
            "initContainers": [{"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "one", "key": "k"}}}]}],
            "containers": [{"envFrom": [{"configMapRef": {"name": "two"}}, {"secretRef": {"name": "vc.three", "optional": true}}]}],
            "volumes": [
                {"name": "a", "configMap": {"name": "kube-root-ca.crt"}},
                {"name": "b", "secret": {"secretName": "one"}},
                {"name": "c", "projected": {"sources": [{"secret": {"name": "four"}}, {"configMap": {"name": "kube-root-ca.crt"}}]}},
            ],
        })
    }

    #[test]
    fn every_mention_is_a_reference_once() {
        let found: Vec<String> = references(&spec()).into_iter().map(|r| format!("{}/{}", r.kind, r.name)).collect();
        assert_eq!(found, ["ConfigMap/kube-root-ca.crt", "ConfigMap/two", "Secret/four", "Secret/one", "Secret/pull", "Secret/vc.three"]);
    }

    #[test]
    fn names_of_ours_are_escaped_and_the_bundle_is_the_tenants() {
        let mut spec = spec();
        down(spec.as_object_mut().unwrap()).unwrap();
        assert_eq!(spec["containers"][0]["envFrom"][1]["secretRef"]["name"], "vc.e.three");
        assert_eq!(spec["volumes"][0]["configMap"]["name"], "vc.kube-root-ca.crt");
        assert_eq!(spec["volumes"][2]["projected"]["sources"][1]["configMap"]["name"], "vc.kube-root-ca.crt");
        assert_eq!(spec["initContainers"][0]["env"][0]["valueFrom"]["secretKeyRef"]["name"], "one");
    }

    #[test]
    fn a_name_that_cannot_be_is_refused() {
        let mut spec = json!({"volumes": [{"name": "a", "secret": {"secretName": "../x"}}]});
        assert!(matches!(down(spec.as_object_mut().unwrap()), Err(Hold::Refused(_))));
    }
}
