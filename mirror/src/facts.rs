//! Facts, not objects: what is remembered of a copy while its body is let go.

use std::borrow::Cow;
use std::fmt;

use common::{Owner, OwnerError, Uid, keys};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::kind::Resource;

/// What is known of one copy of an object: a few words and hashes, read off passing bytes without building the object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The UID.
    pub uid: Uid,
    /// `resourceVersion` as a number; 0 if it is none.
    pub version: u64,
    /// Whether the object is being deleted.
    pub deleting: bool,
    /// `deletionGracePeriodSeconds`, if it is being deleted gracefully.
    pub grace_seconds: Option<u32>,
    /// Hash of everything but status: spec, data, labels, annotations; without what binding a Pod to a node changes.
    pub main: u64,
    /// Hash of the status.
    pub status: u64,
    /// `spec.nodeName`, if there is one.
    pub node: Option<Box<str>>,
    /// Whether our Binding or first status write marked it as placed.
    pub placed: bool,
    /// The hash in [`keys::BUILT`] and the tenant's version beside it, on super copies.
    pub built: Option<Built>,
}

/// What the annotation [`keys::BUILT`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Built {
    /// The tenant's `resourceVersion` when it was asked.
    pub version: u64,
    /// The hash of what was asked.
    pub hash: u128,
}

impl Built {
    /// Reads the annotation.
    pub fn parse(text: &str) -> Option<Self> {
        let (version, hash) = text.split_once('/')?;
        Some(Self { version: version.parse().ok()?, hash: u128::from_str_radix(hash, 16).ok()? })
    }
}

impl fmt::Display for Built {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:032x}", self.version, self.hash)
    }
}

/// What is read off the bytes of one object: whose and which it is, and its facts.
#[derive(Clone, Debug)]
pub struct Seen<'a> {
    /// The namespace, unchecked; empty for cluster-scoped objects.
    pub namespace: &'a str,
    /// The name, unchecked.
    pub name: &'a str,
    /// The facts.
    pub facts: Facts,
    /// The tenant label, if any.
    pub tenant_label: Option<String>,
    /// The record, if it is a super copy of ours.
    pub owner: Result<Owner, OwnerError>,
    /// The status, as JSON.
    pub status: Option<&'a RawValue>,
}

impl<'a> Seen<'a> {
    /// Reads the facts off the JSON of one object.
    ///
    /// *Errors*: broken JSON, no metadata, a UID that is no UUID.
    pub fn of(bytes: &'a [u8]) -> Result<Self, serde_json::Error> {
        Self::read(serde_json::from_slice(bytes)?)
    }

    /// Reads the facts off the JSON of one object that was asked for as a `resource`. Items of a list need not say what they are.
    ///
    /// *Errors*: as [`Seen::of`]; one that says that it is something else, or is in a namespace where its kind has none, or in none.
    pub fn of_resource(bytes: &'a [u8], resource: &Resource) -> Result<Self, serde_json::Error> {
        let head: Head<'a> = serde_json::from_slice(bytes)?;
        resource.may_say(head.api_version, head.kind)?;
        if resource.namespaced == head.metadata.namespace.is_empty() {
            return Err(serde::de::Error::custom("it is not where objects of its kind are: in a namespace, or in none"));
        }
        Self::read(head)
    }

    fn read(head: Head<'a>) -> Result<Self, serde_json::Error> {
        let metadata = head.metadata;
        let uid = Uid::parse(metadata.uid).map_err(|error| serde::de::Error::custom(error.to_string()))?;
        let labels = metadata.labels.map(RawValue::get).unwrap_or_default();
        let annotations = metadata.annotations.map(RawValue::get).unwrap_or_default();
        let Keys { known, hash: annotations } = if annotations.is_empty() { Keys::default() } else { serde_json::from_str(annotations)? };
        let Keys { known: known_labels, hash: labels } = if labels.is_empty() { Keys::default() } else { serde_json::from_str(labels)? };
        let known = Known { tenant: known_labels.tenant, ..known };
        let owner = Owner::read(known.tenant.as_deref(), known.owner.as_deref());
        let mut hasher = Xxh3::new();
        for part in [head.main, labels, annotations] {
            hasher.update(&part.to_le_bytes());
        }
        let facts = Facts {
            uid,
            version: metadata.version.parse().unwrap_or(0),
            deleting: metadata.deleting,
            grace_seconds: metadata.grace_seconds,
            main: hasher.digest(),
            status: head.status.map(|raw| xxh3_64(raw.get().as_bytes())).unwrap_or_default(),
            node: head.node.map(Into::into),
            placed: known.placed.is_some(),
            built: known.built.as_deref().and_then(Built::parse),
        };
        Ok(Self { namespace: metadata.namespace, name: metadata.name, facts, tenant_label: known.tenant, owner, status: head.status })
    }
}

/// What binding a Pod changes beside its node: not a move of what was asked.
const BINDING: &[&str] = &[keys::PLACED, "topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

/// The keys of ours among labels or annotations.
#[derive(Default)]
struct Known {
    owner: Option<String>,
    built: Option<String>,
    placed: Option<String>,
    tenant: Option<String>,
}

/// Labels or annotations: what is ours among them, and the hash of all but what binding adds.
#[derive(Default)]
struct Keys {
    known: Known,
    hash: u64,
}

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Keys;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("labels or annotations")
            }
            fn visit_unit<E>(self) -> Result<Keys, E> {
                Ok(Keys::default())
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Keys, M::Error> {
                let (mut known, mut hasher) = (Known::default(), Xxh3::new());
                while let Some((key, raw)) = map.next_entry::<Cow<'de, str>, &'de RawValue>()? {
                    let slot = match key.as_ref() {
                        keys::OWNER => Some(&mut known.owner),
                        keys::BUILT => Some(&mut known.built),
                        keys::PLACED => Some(&mut known.placed),
                        keys::TENANT => Some(&mut known.tenant),
                        _ => None,
                    };
                    if let Some(slot) = slot {
                        *slot = serde_json::from_str(raw.get()).map_err(serde::de::Error::custom)?;
                    }
                    if !BINDING.contains(&key.as_ref()) {
                        hasher.update(key.as_bytes());
                        hasher.update(raw.get().as_bytes());
                    }
                }
                Ok(Keys { known, hash: hasher.digest() })
            }
        }
        deserializer.deserialize_any(Fields)
    }
}

#[derive(Default)]
struct HeadMeta<'a> {
    name: &'a str,
    namespace: &'a str,
    uid: &'a str,
    version: &'a str,
    deleting: bool,
    grace_seconds: Option<u32>,
    labels: Option<&'a RawValue>,
    annotations: Option<&'a RawValue>,
}

impl<'de: 'a, 'a> Deserialize<'de> for HeadMeta<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<'a>(std::marker::PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for Fields<'a> {
            type Value = HeadMeta<'a>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the metadata of an object")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut out = HeadMeta::default();
                while let Some(key) = map.next_key::<&str>()? {
                    match key {
                        "name" => out.name = map.next_value()?,
                        "namespace" => out.namespace = map.next_value()?,
                        "uid" => out.uid = map.next_value()?,
                        "resourceVersion" => out.version = map.next_value()?,
                        "deletionTimestamp" => out.deleting = map.next_value::<Option<IgnoredAny>>()?.is_some(),
                        "deletionGracePeriodSeconds" => {
                            let seconds: Option<i64> = map.next_value()?;
                            out.grace_seconds = seconds.map(|s| u32::try_from(s.max(0)).unwrap_or(u32::MAX));
                        }
                        "labels" => out.labels = map.next_value()?,
                        "annotations" => out.annotations = map.next_value()?,
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(out)
            }
        }
        deserializer.deserialize_map(Fields(std::marker::PhantomData))
    }
}

#[derive(Default)]
struct Head<'a> {
    api_version: &'a str,
    kind: &'a str,
    metadata: HeadMeta<'a>,
    main: u64,
    status: Option<&'a RawValue>,
    node: Option<&'a str>,
}

/// A spec: the node that it names, and the hash of everything else.
struct Spec<'a> {
    node: Option<&'a str>,
    hash: u64,
}

impl<'de: 'a, 'a> Deserialize<'de> for Spec<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<'a>(std::marker::PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for Fields<'a> {
            type Value = Spec<'a>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the spec of an object")
            }
            fn visit_unit<E>(self) -> Result<Spec<'a>, E> {
                Ok(Spec { node: None, hash: 0 })
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Spec<'a>, M::Error> {
                let (mut node, mut hasher) = (None, Xxh3::new());
                while let Some((key, raw)) = map.next_entry::<Cow<'de, str>, &'de RawValue>()? {
                    // What is called so in a kind that runs nowhere may be anything.
                    let name = if key == "nodeName" { serde_json::from_str::<Option<&str>>(raw.get()).ok() } else { None };
                    if let Some(name) = name {
                        node = name;
                    } else {
                        hasher.update(key.as_bytes());
                        hasher.update(raw.get().as_bytes());
                    }
                }
                Ok(Spec { node, hash: hasher.digest() })
            }
        }
        deserializer.deserialize_any(Fields(std::marker::PhantomData))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Head<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<'a>(std::marker::PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for Fields<'a> {
            type Value = Head<'a>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of an API server")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut out = Head::default();
                let mut main = Xxh3::new();
                while let Some(key) = map.next_key::<&str>()? {
                    match key {
                        "metadata" => out.metadata = map.next_value()?,
                        "status" => out.status = map.next_value()?,
                        "apiVersion" => out.api_version = map.next_value()?,
                        "kind" => out.kind = map.next_value()?,
                        "spec" => {
                            let spec: Spec<'de> = map.next_value()?;
                            out.node = spec.node;
                            main.update(key.as_bytes());
                            main.update(&spec.hash.to_le_bytes());
                        }
                        _ => {
                            let raw: &'de RawValue = map.next_value()?;
                            main.update(key.as_bytes());
                            main.update(raw.get().as_bytes());
                        }
                    }
                }
                out.main = main.digest();
                Ok(out)
            }
        }
        deserializer.deserialize_map(Fields(std::marker::PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a","namespace":"default","uid":"d64ea0c0-91f8-46f5-8643-c0cab32ab0cd",
        "resourceVersion":"12","labels":{"app":"x"},"annotations":{"tenancy.x-k8s.io/placed":"n1"},"managedFields":[{"a":1}]},
        "spec":{"nodeName":"n1","containers":[]},"status":{"phase":"Running"}}"#;

    #[test]
    fn facts_are_read_off_the_bytes() {
        let seen = Seen::of(POD.as_bytes()).unwrap();
        assert_eq!((seen.namespace, seen.name, seen.facts.version), ("default", "a", 12));
        assert!(seen.facts.placed && !seen.facts.deleting);
        assert_eq!(seen.facts.node.as_deref(), Some("n1"));
        assert_eq!(seen.owner, Err(OwnerError::Absent));
    }

    #[test]
    fn s42_what_says_that_it_is_something_else_than_was_asked_for_is_not_read() {
        let resource = |kind| crate::kind::KindId::named(kind).unwrap().kind().resource();
        let pod = resource("Pod");
        let read =
            |text: &str| Seen::of_resource(text.as_bytes(), &pod).map(|seen| seen.name.to_owned()).map_err(|error| error.to_string());
        assert_eq!(read(POD).unwrap(), "a");
        // An item of a list says nothing, and says it last if it does.
        let rest = POD.strip_prefix(r#"{"kind":"Pod","apiVersion":"v1","#).unwrap();
        assert_eq!(read(&format!("{{{rest}")).unwrap(), "a");
        let last = rest.strip_suffix('}').unwrap();
        assert_eq!(read(&format!(r#"{{{last},"apiVersion":"v1","kind":"Pod"}}"#)).unwrap(), "a");
        assert!(read(&format!(r#"{{{last},"kind":"Secret"}}"#)).unwrap_err().contains("another kind"));
        for (other, why) in [
            (POD.replace(r#""Pod""#, r#""pod""#), "another kind"),
            (POD.replace(r#""Pod""#, r#""PodList""#), "another kind"),
            (POD.replace(r#":"v1""#, r#":"v2""#), "another kind"),
            (POD.replace(r#":"v1""#, r#":"metrics.k8s.io/v1""#), "another kind"),
            (POD.replace(r#""Pod""#, "7"), "invalid type"),
            (POD.replace(r#""namespace":"default","#, ""), "not where"),
        ] {
            let error = read(&other).unwrap_err();
            assert!(error.contains(why), "{error}: {other}");
        }
        let namespace = resource("Namespace");
        let text = POD.replace(r#""Pod""#, r#""Namespace""#);
        assert!(Seen::of_resource(text.as_bytes(), &namespace).unwrap_err().to_string().contains("not where"));
        assert!(Seen::of_resource(text.replace(r#""namespace":"default","#, "").as_bytes(), &namespace).is_ok());
    }

    #[test]
    fn s42_dates_and_times_out_of_range_say_no_more_than_that_there_are_some() {
        for (date, seconds, grace) in [
            (r#""+999999-12-31T23:59:59Z""#, "9223372036854775807", u32::MAX),
            (r#""-999999-99-99T99:99:99Z""#, "-9223372036854775808", 0),
            (r#""soon""#, "-1", 0),
            ("7", "4294967296", u32::MAX),
        ] {
            let text = POD.replace(
                r#""name":"a""#,
                &format!(r#""name":"a","creationTimestamp":{date},"deletionTimestamp":{date},"deletionGracePeriodSeconds":{seconds}"#),
            );
            let facts = Seen::of(text.as_bytes()).unwrap().facts;
            assert!(facts.deleting && facts.grace_seconds == Some(grace), "{text}");
            let object = crate::object::Object::parse(text.as_bytes()).unwrap();
            assert_eq!(object.meta.deletion.unwrap().grace_seconds, Some(grace));
        }
        // A number that no integer can hold makes the object one that cannot be read.
        let text = POD.replace(r#""name":"a""#, r#""name":"a","deletionGracePeriodSeconds":9223372036854775808"#);
        assert!(Seen::of(text.as_bytes()).is_err());
    }

    #[test]
    fn a_status_change_moves_only_the_status() {
        let before = Seen::of(POD.as_bytes()).unwrap().facts;
        let text = POD.replace("Running", "Failed").replace("\"a\":1", "\"a\":2");
        let after = Seen::of(text.as_bytes()).unwrap().facts;
        assert_eq!(before.main, after.main);
        assert_ne!(before.status, after.status);
    }

    #[test]
    fn binding_moves_the_node_and_not_the_main_part() {
        let bound = Seen::of(POD.as_bytes()).unwrap().facts;
        let text = POD.replace(r#""nodeName":"n1","#, "").replace(r#""tenancy.x-k8s.io/placed":"n1""#, "");
        let before = Seen::of(text.as_bytes()).unwrap().facts;
        assert_eq!((before.main, before.node.as_deref(), before.placed), (bound.main, None, false));
        let zoned = POD.replace(r#""app":"x""#, r#""app":"x","topology.kubernetes.io/zone":"a""#);
        assert_eq!(Seen::of(zoned.as_bytes()).unwrap().facts.main, bound.main);
    }

    #[test]
    fn a_label_moves_the_main_part() {
        let before = Seen::of(POD.as_bytes()).unwrap().facts;
        let text = POD.replace("\"app\":\"x\"", "\"app\":\"y\"");
        let after = Seen::of(text.as_bytes()).unwrap().facts;
        assert_ne!(before.main, after.main);
        assert_eq!(before.status, after.status);
    }

    #[test]
    fn what_was_built_reads_back() {
        let built = Built { version: 7, hash: 0xabc };
        assert_eq!(Built::parse(&built.to_string()), Some(built));
        assert_eq!(Built::parse("7"), None);
    }
}
