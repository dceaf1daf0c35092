//! Kinds of the super cluster whose copies in tenants bear a mark ([`Upward::mark`]): what is alike for all of them, and for those that the
//! administrator publishes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use common::{Uid, keys};
use serde_json::{Map, Value};

use crate::kind::{Audience, Upward};
use crate::object::{Content, Meta, Object};

/// Everybody, if the object bears the label.
pub(crate) fn audience(sup: &Object) -> Audience {
    if is_labelled(&sup.meta.labels) { Audience::Everybody } else { Audience::Nobody }
}

/// Whether an object of the super cluster is published, and whether one in a tenant is a copy of such a one.
pub fn is_labelled(labels: &BTreeMap<String, String>) -> bool {
    labels.get(keys::PUBLIC).is_some_and(|value| value == "true")
}

/// The tenant's copy of what is published: these fields, and the label by which it is known as one.
pub(crate) fn content(sup: &Object, fields: &[&str]) -> Content {
    let named = fields.iter().filter_map(|field| Some(((*field).to_owned(), sup.body.get(*field)?.clone())));
    let labels = BTreeMap::from([(keys::PUBLIC.to_owned(), "true".to_owned())]);
    Content { labels, body: named.collect(), ..Content::default() }
}

/// The annotation by which a class is the default of its kind, if the super cluster's is.
pub(crate) fn default(sup: &Object, key: &str) -> Option<(String, String)> {
    sup.meta.annotations.get_key_value(key).filter(|(_, value)| *value == "true").map(|(key, value)| (key.clone(), value.clone()))
}

/// Whether a tenant's copy says what it should and nothing else; its own labels and annotations are the tenant's.
pub(crate) fn says_only(wanted: &Content, seen: &Object) -> bool {
    let fields: BTreeSet<&String> = wanted.body.keys().chain(seen.body.keys()).collect();
    let blank = |value: &Value| matches!(value, Value::Null | Value::Bool(false)) || value.as_str().is_some_and(str::is_empty);
    let value = |body: &Map<String, Value>, field: &str| body.get(field).filter(|value| !blank(value)).cloned();
    fields.into_iter().all(|field| value(&wanted.body, field) == value(&seen.body, field))
}

/// What is to be written in a tenant.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// It lacks this one. That one of the name may be there, of the tenant's own, which then stays.
    Create {
        /// The name.
        name: String,
        /// What it is to be.
        content: Content,
    },
    /// It has changed this one, or the super cluster has.
    Replace {
        /// The name.
        name: String,
        /// The UID of what is there.
        uid: Uid,
        /// The version of what is there.
        version: String,
        /// What it is to be; labels and annotations of the tenant's own are kept.
        content: Content,
    },
    /// This one is shown no longer.
    Delete {
        /// The name.
        name: String,
        /// The UID of what is there.
        uid: Uid,
    },
}

/// Whether a value says all that it should, and whatever else: an API server fills more in.
pub(crate) fn says(wanted: &Value, seen: &Value) -> bool {
    match (wanted, seen) {
        (Value::Object(wanted), Value::Object(seen)) => {
            wanted.iter().all(|(key, value)| seen.get(key).is_some_and(|seen| says(value, seen)))
        }
        (wanted, seen) => wanted == seen,
    }
}

/// Copies too many in one tenant that are noted at once; the rest is seen the next time.
const MOST_DELETED: usize = 1000;

/// What a tenant has of a kind, held against what it should have, copy by copy: none of them is kept.
pub struct Comparison<'k> {
    kind: &'k dyn Upward,
    wanted: BTreeMap<String, Content>,
    changes: Vec<Change>,
    deleted: usize,
}

impl fmt::Debug for Comparison<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a comparison of every {}", self.kind.resource().kind)
    }
}

impl<'k> Comparison<'k> {
    /// With what a tenant should have, by name.
    pub fn new(kind: &'k dyn Upward, wanted: BTreeMap<String, Content>) -> Self {
        Self { kind, wanted, changes: Vec::new(), deleted: 0 }
    }

    /// A copy that bears the mark.
    pub fn seen(&mut self, seen: &Object) {
        let Meta { name, uid, version, labels, annotations, kept, .. } = &seen.meta;
        match self.wanted.remove(name) {
            Some(content) if self.kind.is_right(&content, seen) => {}
            Some(content) => {
                let labels = labels.clone().into_iter().chain(content.labels).collect();
                let content = Content { labels, annotations: annotations.clone(), kept: kept.clone(), ..content };
                self.changes.push(Change::Replace { name: name.clone(), uid: *uid, version: version.clone(), content });
            }
            // It goes already, once nobody uses it any more.
            None if seen.meta.deletion.is_some() || self.deleted >= MOST_DELETED => {}
            None => {
                self.deleted += 1;
                self.changes.push(Change::Delete { name: name.clone(), uid: *uid });
            }
        }
    }

    /// What is to be written, all copies having been seen: what lacks first.
    pub fn done(self) -> Vec<Change> {
        let lacks = self.wanted.into_iter().map(|(name, content)| Change::Create { name, content });
        lacks.chain(self.changes).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::priority_class::PriorityClass;
    use crate::object::Deletion;

    fn seen(rest: &Value) -> Object {
        let mut object =
            json!({"metadata": {"name": "a", "uid": "00000000-0000-4000-8000-000000000001", "labels": {keys::PUBLIC: "true"}}});
        object.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        Object::parse(object.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn a_copy_is_as_it_should_be_whatever_an_api_server_leaves_out() {
        let wanted = content(&seen(&json!({"value": 5, "description": "", "more": 1})), &["value", "description"]);
        assert!(says_only(&wanted, &seen(&json!({"value": 5}))));
        assert!(says_only(&wanted, &seen(&json!({"value": 5, "globalDefault": false}))));
    }

    #[test]
    fn what_a_tenant_changed_or_added_shows() {
        let wanted = content(&seen(&json!({"value": 5})), &["value", "description"]);
        for other in
            [json!({"value": 6}), json!({}), json!({"value": 5, "globalDefault": true}), json!({"value": 5, "description": "mine"})]
        {
            assert!(!says_only(&wanted, &seen(&other)), "{other}");
        }
    }

    #[test]
    fn what_lacks_is_made_what_differs_is_replaced_and_what_is_too_much_goes() {
        let wanted = |value: i32| content(&seen(&json!({"value": value})), &["value"]);
        let named = |name: &str, value: i32| {
            let mut object = seen(&json!({"value": value}));
            object.meta.name = name.to_owned();
            object.meta.labels.insert("team".to_owned(), "a".to_owned());
            object
        };
        let all = BTreeMap::from([("lacks".to_owned(), wanted(1)), ("differs".to_owned(), wanted(2)), ("is-right".to_owned(), wanted(3))]);
        let mut going = named("goes-already", 5);
        going.meta.deletion = Some(Deletion::default());
        let there = vec![named("differs", 7), named("is-right", 3), named("too-much", 4), going];
        let mut comparison = Comparison::new(&PriorityClass, all);
        for copy in &there {
            comparison.seen(copy);
        }
        let changes = comparison.done();
        let [Change::Create { name, content: made }, Change::Replace { name: other, content, .. }, Change::Delete { name: gone, .. }] =
            changes.as_slice()
        else {
            panic!("{changes:?}")
        };
        assert_eq!((other.as_str(), gone.as_str(), name.as_str()), ("differs", "too-much", "lacks"));
        assert_eq!((content.body.get("value"), made.body.get("value")), (Some(&json!(2)), Some(&json!(1))));
        assert_eq!(content.labels.get("team").map(String::as_str), Some("a"), "what is the tenant's own on it stays");
    }
}
