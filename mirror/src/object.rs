//! An object as the planner sees it: parsed metadata, and the rest as JSON.

use std::collections::BTreeMap;
use std::fmt;

use common::Uid;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use xxhash_rust::xxh3::Xxh3;

use crate::kind::Resource;
use crate::tree::{Allowance, Texts, Tree};

/// The metadata that is read. What else stands there (managed fields, self links) is not kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Meta {
    /// The name, unchecked: what an API server said. Keys are made from checked names.
    pub name: String,
    /// The namespace, unchecked; `None` for cluster-scoped objects.
    pub namespace: Option<String>,
    /// The UID.
    pub uid: Uid,
    /// `resourceVersion` as sent back for optimistic locking.
    pub version: String,
    /// `generation`, 0 where the kind has none.
    pub generation: i64,
    /// Set once the object is being deleted.
    pub deletion: Option<Deletion>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Finalizers and owner references as they came, so that replacing the object does not take them away.
    pub kept: Kept,
}

/// Metadata that is never asked for, only written back as it was.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Kept {
    #[serde(skip_serializing_if = "Value::is_null")]
    finalizers: Value,
    #[serde(skip_serializing_if = "Value::is_null")]
    owner_references: Value,
}

/// A deletion that has begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deletion {
    /// Seconds that the object was given, if the kind is deleted gracefully.
    pub grace_seconds: Option<u32>,
}

/// A whole object: metadata, and every other top-level field but `apiVersion` and `kind`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Object {
    /// The metadata.
    pub meta: Meta,
    /// `spec`, `status`, `data`, … as they came.
    pub body: Map<String, Value>,
}

/// Bytes that are no object.
#[derive(Debug, thiserror::Error)]
#[error("the object cannot be read")]
pub struct ObjectError(#[from] serde_json::Error);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawMeta<'a> {
    name: String,
    #[serde(default)]
    namespace: Option<String>,
    uid: String,
    #[serde(default)]
    resource_version: String,
    #[serde(default)]
    generation: i64,
    #[serde(default)]
    deletion_timestamp: Option<IgnoredAny>,
    #[serde(default)]
    deletion_grace_period_seconds: Option<i64>,
    #[serde(default, borrow)]
    labels: Option<&'a RawValue>,
    #[serde(default, borrow)]
    annotations: Option<&'a RawValue>,
    #[serde(default, borrow)]
    finalizers: Option<&'a RawValue>,
    #[serde(default, borrow)]
    owner_references: Option<&'a RawValue>,
}

/// Read field by field: serde's `flatten` would hold the whole object once more on the way.
struct RawObject<'a> {
    api_version: &'a str,
    kind: &'a str,
    metadata: RawMeta<'a>,
    body: Map<String, Value>,
}

/// Reads an object within what its values may take.
struct Bounded<'a>(&'a Allowance);

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = RawObject<'de>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = RawObject<'de>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of an API server")
    }
    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<RawObject<'de>, M::Error> {
        let (mut api_version, mut kind, mut metadata, mut body) = ("", "", None, Map::new());
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "metadata" => metadata = Some(map.next_value()?),
                "apiVersion" => api_version = map.next_value()?,
                "kind" => kind = map.next_value()?,
                _ => {
                    self.0.entry(body.len())?;
                    body.insert(key, map.next_value_seed(Tree(self.0))?);
                }
            }
        }
        let metadata = metadata.ok_or_else(|| serde::de::Error::missing_field("metadata"))?;
        Ok(RawObject { api_version, kind, metadata, body })
    }
}

/// Reads what was set aside, if there was anything.
fn read<'de, S: DeserializeSeed<'de, Value: Default>>(raw: Option<&'de RawValue>, seed: S) -> Result<S::Value, serde_json::Error> {
    raw.map_or(Ok(S::Value::default()), |raw| seed.deserialize(&mut serde_json::Deserializer::from_str(raw.get())))
}

impl Object {
    /// Parses an object from the JSON of an API server.
    ///
    /// *Errors*: broken JSON, no name, a UID that is no UUID, more fields and items than any object has in earnest.
    pub fn parse(bytes: &[u8]) -> Result<Self, ObjectError> {
        Self::read(bytes, None)
    }

    /// Parses an object that was asked for as a `resource`. Items of a list need not say what they are.
    ///
    /// *Errors*: as [`Object::parse`], and one that says that it is something else.
    pub fn of_resource(bytes: &[u8], resource: &Resource) -> Result<Self, ObjectError> {
        Self::read(bytes, Some(resource))
    }

    fn read(bytes: &[u8], resource: Option<&Resource>) -> Result<Self, ObjectError> {
        let allowance = Allowance::default();
        let mut deserializer = serde_json::Deserializer::from_slice(bytes);
        let RawObject { api_version, kind, metadata, body } = Bounded(&allowance).deserialize(&mut deserializer)?;
        deserializer.end()?;
        if let Some(resource) = resource {
            resource.may_say(api_version, kind)?;
        }
        let uid = Uid::parse(&metadata.uid).map_err(|error| serde::de::Error::custom(error.to_string())).map_err(ObjectError)?;
        let grace_seconds = metadata.deletion_grace_period_seconds.map(|s| u32::try_from(s.max(0)).unwrap_or(u32::MAX));
        Ok(Self {
            meta: Meta {
                name: metadata.name,
                namespace: metadata.namespace.filter(|n| !n.is_empty()),
                uid,
                version: metadata.resource_version,
                generation: metadata.generation,
                deletion: metadata.deletion_timestamp.map(|_| Deletion { grace_seconds }),
                labels: read(metadata.labels, Texts(&allowance))?,
                annotations: read(metadata.annotations, Texts(&allowance))?,
                kept: Kept {
                    finalizers: read(metadata.finalizers, Tree(&allowance))?,
                    owner_references: read(metadata.owner_references, Tree(&allowance))?,
                },
            },
            body,
        })
    }

    /// The value at a JSON pointer below the top level, for example `/spec/nodeName`.
    pub fn at(&self, pointer: &str) -> Option<&Value> {
        let rest = pointer.strip_prefix('/')?;
        let (first, rest) = rest.split_once('/').map_or((rest, None), |(a, b)| (a, Some(b)));
        let value = self.body.get(first)?;
        rest.map_or(Some(value), |rest| value.pointer(&format!("/{rest}")))
    }

    /// The text at a JSON pointer, if there is a non-empty string.
    pub fn text(&self, pointer: &str) -> Option<&str> {
        self.at(pointer).and_then(Value::as_str).filter(|text| !text.is_empty())
    }
}

/// The items of a list; none where there is none.
pub(crate) fn items(list: Option<&Value>) -> impl Iterator<Item = &Value> {
    list.and_then(Value::as_array).into_iter().flatten()
}

/// What is asked of the other side: labels, annotations and the body, without name and record, which the planner adds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Content {
    /// Labels, already mapped for the side they go to.
    pub labels: BTreeMap<String, String>,
    /// Annotations, already filtered for the side they go to.
    pub annotations: BTreeMap<String, String>,
    /// `spec`, `data`, … .
    pub body: Map<String, Value>,
    /// The finalizers and owner references of the object that is replaced; a kind never sets them.
    pub kept: Kept,
}

#[derive(Serialize)]
struct Written<'a> {
    #[serde(rename = "apiVersion")]
    api_version: &'a str,
    kind: &'a str,
    metadata: WrittenMeta<'a>,
    #[serde(flatten)]
    body: &'a Map<String, Value>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WrittenMeta<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    resource_version: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
    #[serde(flatten)]
    kept: &'a Kept,
}

impl Content {
    /// The 128-bit hash of what is asked, what is kept aside. Maps are sorted, so the same content gives the same hash in every run.
    pub fn hash(&self) -> u128 {
        let mut hasher = Xxh3::new();
        for value in [serde_json::to_vec(&self.labels), serde_json::to_vec(&self.annotations), serde_json::to_vec(&self.body)] {
            let bytes = value.expect("maps with string keys serialize");
            hasher.update(&(bytes.len() as u64).to_be_bytes());
            hasher.update(&bytes);
        }
        hasher.digest128()
    }

    /// The JSON of a create request.
    pub fn to_create(&self, resource: &Resource, namespace: Option<&str>, name: &str) -> Vec<u8> {
        self.json(resource, namespace, name, None, "")
    }

    /// The JSON of an update (PUT) of one certain object at one certain version.
    pub fn to_update(&self, resource: &Resource, namespace: Option<&str>, name: &str, uid: Uid, version: &str) -> Vec<u8> {
        self.json(resource, namespace, name, Some(uid.to_string()), version)
    }

    fn json(&self, resource: &Resource, namespace: Option<&str>, name: &str, uid: Option<String>, version: &str) -> Vec<u8> {
        let written = Written {
            api_version: resource.api_version,
            kind: resource.kind,
            metadata: WrittenMeta {
                name,
                namespace,
                uid,
                resource_version: version,
                labels: &self.labels,
                annotations: &self.annotations,
                kept: &self.kept,
            },
            body: &self.body,
        };
        serde_json::to_vec(&written).expect("maps with string keys serialize")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replacing_an_object_keeps_its_finalizers_and_owners() {
        let text = r#"{"metadata":{"name":"a","uid":"00000000-0000-4000-8000-000000000001","finalizers":["x/y"],"ownerReferences":[{"uid":"u"}]}}"#;
        let current = Object::parse(text.as_bytes()).unwrap();
        let resource =
            Resource { group: "", version: "v1", api_version: "v1", kind: "Service", plural: "services", namespaced: true, status: true };
        let content = Content { kept: current.meta.kept, ..Content::default() };
        let written: Value = serde_json::from_slice(&content.to_update(&resource, Some("n"), "a", current.meta.uid, "7")).unwrap();
        assert_eq!(written.pointer("/metadata/finalizers/0"), Some(&Value::from("x/y")));
        assert_eq!(written.pointer("/metadata/ownerReferences/0/uid"), Some(&Value::from("u")));
        let created: Value = serde_json::from_slice(&Content::default().to_create(&resource, None, "a")).unwrap();
        assert_eq!(created.get("metadata"), Some(&serde_json::json!({"name": "a"})));
    }
}
