//! What an API server serves of a kind of custom resources, by its definition there; and the version in which two sides meet.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use common::api::SyncedResourceSpec;
use serde::Deserialize;

/// What one side serves of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Served {
    /// Nothing that can be followed, and why.
    Not(&'static str),
    /// These versions, and whether each has a status of its own.
    Versions(BTreeMap<String, bool>),
}

/// Bytes of a definition that are read: more than etcd stores of one.
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// Versions that one may serve, and the characters of a name of one: it is a DNS label.
const MOST_VERSIONS: usize = 32;
const LONGEST_NAME: usize = 63;

/// Where there is no definition.
pub const UNDEFINED: Served = Served::Not("there is no such CustomResourceDefinition");

#[derive(Deserialize)]
struct Definition {
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
struct Spec {
    group: String,
    names: Names,
    scope: String,
    versions: Vec<Version>,
}

#[derive(Deserialize)]
struct Names {
    kind: String,
    plural: String,
}

#[derive(Deserialize)]
struct Version {
    name: String,
    served: bool,
    #[serde(default)]
    subresources: Subresources,
}

#[derive(Default, Deserialize)]
struct Subresources {
    status: Option<serde::de::IgnoredAny>,
}

#[derive(Default, Deserialize)]
struct Status {
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
struct Condition {
    #[serde(rename = "type", default)]
    type_: String,
    #[serde(default)]
    status: String,
}

impl Served {
    /// Reads a `CustomResourceDefinition`, as an API server says it.
    ///
    /// *Errors*: it is none.
    pub fn of(definition: &[u8], spec: &SyncedResourceSpec) -> Result<Self, serde_json::Error> {
        if definition.len() > MOST_BYTES {
            return Ok(Self::Not("the definition is too large"));
        }
        let definition: Definition = serde_json::from_slice(definition)?;
        let Spec { group, names, scope, versions } = definition.spec;
        if (group, names.plural, names.kind) != (spec.group.clone(), spec.plural.clone(), spec.kind.clone()) {
            return Ok(Self::Not("the definition is of another kind"));
        }
        if scope != "Namespaced" {
            return Ok(Self::Not("its objects are in no namespace"));
        }
        let is_served = |condition: &Condition| condition.type_ == "Established" && condition.status == "True";
        if !definition.status.conditions.iter().any(is_served) {
            return Ok(Self::Not("the definition is not established"));
        }
        let versions: Vec<_> = versions.into_iter().filter(|version| version.served).collect();
        let is_name =
            |name: &str| !name.is_empty() && name.len() <= LONGEST_NAME && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if versions.len() > MOST_VERSIONS || !versions.iter().all(|version| is_name(&version.name)) {
            return Ok(Self::Not("its versions cannot be read"));
        }
        let versions = versions.into_iter().map(|version| (version.name, version.subresources.status.is_some()));
        Ok(Self::Versions(versions.collect()))
    }

    /// The versions, newest first.
    pub fn names(&self) -> Vec<&str> {
        let Self::Versions(versions) = self else { return Vec::new() };
        let mut names: Vec<&str> = versions.keys().map(String::as_str).collect();
        names.sort_by_key(|name| Reverse(rank(name)));
        names
    }

    /// The highest version that both serve, with a status of its own if one is to come back.
    pub fn common<'a>(&'a self, other: &Self, with_status: bool) -> Option<&'a str> {
        let has = |served: &Self, name: &str| match served {
            Self::Versions(versions) => versions.get(name).is_some_and(|status| *status || !with_status),
            Self::Not(_) => false,
        };
        self.names().into_iter().find(|name| has(self, name) && has(other, name))
    }
}

/// How high a version is: a release before a beta before an alpha before what is named otherwise; of alike ones the larger number.
///
/// *Sources*: "Version priority" of `CustomResourceDefinitions`.
fn rank(version: &str) -> (u8, u32, u32, Reverse<&str>) {
    let other = (0, 0, 0, Reverse(version));
    let number = |text: &str| if text.starts_with('0') { None } else { text.parse::<u32>().ok() };
    let Some(rest) = version.strip_prefix('v') else { return other };
    for (word, stage) in [("alpha", 1), ("beta", 2)] {
        if let Some((major, minor)) = rest.split_once(word) {
            return number(major).zip(number(minor)).map_or(other, |(major, minor)| (stage, major, minor, Reverse("")));
        }
    }
    number(rest).map_or(other, |major| (3, major, 0, Reverse("")))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec() -> SyncedResourceSpec {
        let spec = json!({"group": "example.com", "kind": "Thing", "plural": "things", "fields": []});
        serde_json::from_value(spec).unwrap()
    }

    fn definition(versions: &[(&str, bool, bool)]) -> Value {
        let versions: Vec<Value> = versions
            .iter()
            .map(|(name, served, status)| {
                json!({"name": name, "served": served, "subresources": if *status { json!({"status": {}}) } else { json!({}) }})
            })
            .collect();
        json!({
            "spec": {"group": "example.com", "names": {"kind": "Thing", "plural": "things"}, "scope": "Namespaced", "versions": versions},
            "status": {"conditions": [{"type": "Established", "status": "True"}]},
        })
    }

    fn served(definition: &Value) -> Served {
        Served::of(definition.to_string().as_bytes(), &spec()).unwrap()
    }

    #[test]
    fn two_sides_meet_in_the_highest_version_that_both_serve() {
        let of = |names: &[&str]| served(&definition(&names.iter().map(|name| (*name, true, true)).collect::<Vec<_>>()));
        for (one, other, met) in [
            (&["v1", "v1beta1"][..], &["v1"][..], Some("v1")),
            (&["v1", "v1beta1"], &["v1beta1"], Some("v1beta1")),
            (&["v1beta1", "v1", "v2", "v10"], &["v2", "v10", "v1"], Some("v10")),
            (&["v2alpha1", "v1beta2", "v1beta10"], &["v2alpha1", "v1beta2", "v1beta10"], Some("v1beta10")),
            (&["foo", "bar", "v1alpha1"], &["foo", "bar", "v1alpha1"], Some("v1alpha1")),
            (&["foo", "bar"], &["foo", "bar"], Some("bar")),
            (&["v1"], &["v1beta1"], None),
        ] {
            assert_eq!(of(one).common(&of(other), true), met, "{one:?} and {other:?}");
            assert_eq!(of(other).common(&of(one), true), met, "{other:?} and {one:?}");
        }
    }

    #[test]
    fn what_is_not_served_or_has_no_status_is_no_place_to_meet() {
        let one = served(&definition(&[("v1", true, true), ("v1beta1", true, true), ("v1alpha1", true, true)]));
        let other = served(&definition(&[("v1", false, true), ("v1beta1", true, false), ("v1alpha1", true, true)]));
        assert_eq!((one.common(&other, true), one.common(&other, false)), (Some("v1alpha1"), Some("v1beta1")));
        assert_eq!(one.common(&UNDEFINED, false), None);
    }

    #[test]
    fn a_definition_of_something_else_is_none() {
        for (pointer, value) in [("/spec/scope", "Cluster"), ("/spec/names/kind", "Other"), ("/spec/group", "other.example.com")] {
            let mut other = definition(&[("v1", true, true)]);
            *other.pointer_mut(pointer).unwrap() = json!(value);
            assert!(matches!(served(&other), Served::Not(_)), "{pointer}");
        }
        let mut young = definition(&[("v1", true, true)]);
        young["status"] = json!({});
        assert!(matches!(served(&young), Served::Not(_)));
        assert!(Served::of(b"{}", &spec()).is_err());
    }

    #[test]
    fn s33_versions_without_end_or_with_any_name_are_none() {
        let long = "v".repeat(64);
        let many: Vec<String> = (1..=33).map(|number| format!("v{number}")).collect();
        for names in [vec![long.as_str()], vec!["v1", "a\nb"], vec![""], many.iter().map(String::as_str).collect()] {
            let versions: Vec<_> = names.iter().map(|name| (*name, true, false)).collect();
            let served = Served::of(definition(&versions).to_string().as_bytes(), &spec()).unwrap();
            assert_eq!(served, Served::Not("its versions cannot be read"), "{names:?}");
        }
        let large = definition(&[("v1", true, false)]).to_string() + &" ".repeat(MOST_BYTES);
        assert_eq!(Served::of(large.as_bytes(), &spec()).unwrap(), Served::Not("the definition is too large"));
    }
}
