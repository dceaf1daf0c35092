//! What is shown now, by kind and name.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use common::InSuper;
use mirror::kind::{Audience, KindId, Upward};
use mirror::object::Object;
use parking_lot::RwLock;
use serde_json::Value;

/// Objects of the super cluster that tenants get: every one of them, or the owner of an object in a certain super namespace.
#[derive(Default)]
pub(super) struct Shelf(RwLock<State>);

#[derive(Default)]
struct State {
    kinds: HashMap<KindId, Row>,
    edition: u64,
    /// Super namespaces of owners of whose something has come, gone or changed.
    touched: HashSet<String>,
}

#[derive(Default)]
struct Row {
    objects: BTreeMap<String, Shown>,
    /// By the super namespace of their owners, the names of those that are not for everybody.
    owned: HashMap<String, BTreeSet<String>>,
    /// Counts lists, so that what a list does not hold is known to be gone.
    list: u32,
    is_listed: bool,
    /// Whether something of this list could not be read: then what it does not hold may be there.
    is_unread: bool,
}

struct Shown {
    object: InSuper<Object>,
    /// The list that named it last.
    list: u32,
    /// The super namespace of its owner, unless it is for everybody.
    within: Option<String>,
}

impl Row {
    fn take(&mut self, name: &str) -> Option<Shown> {
        let shown = self.objects.remove(name)?;
        if let Some(within) = &shown.within
            && let Some(names) = self.owned.get_mut(within)
        {
            names.remove(name);
            if names.is_empty() {
                self.owned.remove(within);
            }
        }
        Some(shown)
    }
}

impl State {
    /// Something for those within, or for everybody, has moved.
    fn moved(&mut self, within: Option<String>) {
        match within {
            Some(within) => drop(self.touched.insert(within)),
            None => self.edition += 1,
        }
    }
}

impl Shelf {
    /// Another one whenever anything for everybody has come, gone or changed.
    pub(super) fn edition(&self) -> u64 {
        self.0.read().edition
    }

    pub(super) fn has(&self, kind: &str, name: &str) -> bool {
        let id = KindId::named(kind);
        id.and_then(|id| self.0.read().kinds.get(&id).map(|row| row.objects.contains_key(name))).unwrap_or(false)
    }

    /// The name of the first of a kind that has this text in this field.
    pub(super) fn with(&self, kind: &str, field: &str, text: &str) -> Option<String> {
        let state = self.0.read();
        let objects = &state.kinds.get(&KindId::named(kind)?)?.objects;
        let says = |shown: &Shown| shown.object.body.get(field).and_then(Value::as_str) == Some(text);
        objects.iter().find(|(_, shown)| says(shown)).map(|(name, _)| name.clone())
    }

    /// Tenants are to be looked at anew, all of them.
    pub(super) fn turn_over(&self) {
        self.0.write().edition += 1;
    }

    /// The super namespaces of owners of whose something has moved since this was asked last.
    pub(super) fn take_touched(&self) -> HashSet<String> {
        std::mem::take(&mut self.0.write().touched)
    }

    /// Of a kind all that belongs to owners in a super namespace; nothing before it was listed once.
    pub(super) fn owned(&self, kind: KindId, within: &str) -> Option<Vec<InSuper<Object>>> {
        let state = self.0.read();
        let row = state.kinds.get(&kind).filter(|row| row.is_listed)?;
        let names = row.owned.get(within).into_iter().flatten();
        Some(names.filter_map(|name| row.objects.get(name)).map(|shown| shown.object.clone()).collect())
    }

    /// All of a kind that is for everybody; nothing before it was listed once, when what is not there may only not have been seen yet.
    pub(super) fn of(&self, kind: KindId) -> Option<Vec<InSuper<Object>>> {
        let state = self.0.read();
        let row = state.kinds.get(&kind).filter(|row| row.is_listed)?;
        Some(row.objects.values().filter(|shown| shown.within.is_none()).map(|shown| shown.object.clone()).collect())
    }

    pub(super) fn list_begins(&self, kind: KindId) {
        let mut state = self.0.write();
        let row = state.kinds.entry(kind).or_default();
        (row.list, row.is_unread) = (row.list + 1, false);
    }

    /// Something of the kind cannot be read.
    pub(super) fn is_unread(&self, kind: KindId) {
        self.0.write().kinds.entry(kind).or_default().is_unread = true;
    }

    pub(super) fn seen(&self, kind: KindId, row: &dyn Upward, object: Object) -> bool {
        let object = InSuper(object);
        let within = match row.audience(&object) {
            Audience::Everybody => None,
            Audience::OwnerOf { namespace, .. } => Some(namespace),
            Audience::OnNode(_) | Audience::Nobody => return self.remove(kind, &object.meta.name),
        };
        let mut state = self.0.write();
        let known = state.kinds.entry(kind).or_default();
        let (name, list, is_listed) = (object.meta.name.clone(), known.list, known.is_listed);
        let before = known.take(&name);
        if let Some(within) = &within {
            known.owned.entry(within.clone()).or_default().insert(name.clone());
        }
        let has_moved = is_listed && before.as_ref().is_none_or(|before| before.object.meta.version != object.meta.version);
        known.objects.insert(name, Shown { object, list, within: within.clone() });
        if has_moved {
            if let Some(before) = before.filter(|before| before.within != within) {
                state.moved(before.within);
            }
            state.moved(within);
        }
        has_moved
    }

    pub(super) fn remove(&self, kind: KindId, name: &str) -> bool {
        let mut state = self.0.write();
        let Some(before) = state.kinds.get_mut(&kind).and_then(|row| row.take(name)) else { return false };
        state.moved(before.within);
        true
    }

    pub(super) fn list_ends(&self, kind: KindId) -> bool {
        let mut state = self.0.write();
        let row = state.kinds.entry(kind).or_default();
        let (list, was_listed, is_unread) = (row.list, row.is_listed, row.is_unread);
        row.is_listed = true;
        let missed: Vec<String> =
            row.objects.iter().filter(|(_, shown)| !is_unread && shown.list != list).map(|(name, _)| name.clone()).collect();
        let gone: Vec<Shown> = missed.iter().filter_map(|name| row.take(name)).collect();
        let has_moved = !was_listed || !gone.is_empty();
        if !was_listed {
            state.edition += 1;
        }
        for shown in gone {
            state.moved(shown.within);
        }
        has_moved
    }
}

#[cfg(test)]
mod tests {
    use common::keys;
    use serde_json::json;

    use super::*;

    fn class(name: &str, version: &str, public: &str) -> Object {
        let metadata = json!({"name": name, "uid": "00000000-0000-4000-8000-000000000001", "resourceVersion": version, "labels": {keys::PUBLIC: public}});
        Object::parse(json!({"metadata": metadata, "value": 1}).to_string().as_bytes()).unwrap()
    }

    #[test]
    fn what_a_list_does_not_hold_is_gone_and_what_stays_moves_nothing() {
        let kind = KindId::named("PriorityClass").unwrap();
        let row = kind.kind().marked().unwrap();
        let shelf = Shelf::default();
        let list = |names: &[&str]| {
            shelf.list_begins(kind);
            let moved = names.iter().filter(|name| shelf.seen(kind, row, class(name, "1", "true"))).count();
            (moved, shelf.list_ends(kind))
        };
        shelf.list_begins(kind);
        shelf.seen(kind, row, class("gold", "1", "true"));
        assert!(shelf.of(kind).is_none(), "a list that is not complete counts for nothing");
        assert_eq!(list(&["gold", "silver"]), (0, true));
        assert_eq!(list(&["gold", "silver"]), (0, false));
        assert_eq!(list(&["gold"]), (0, true));
        assert!(shelf.has("PriorityClass", "gold") && !shelf.has("PriorityClass", "silver") && !shelf.has("RuntimeClass", "gold"));
        shelf.list_begins(kind);
        shelf.is_unread(kind);
        assert!(!shelf.list_ends(kind) && shelf.has("PriorityClass", "gold"), "what could not be read may be what is missing");
        let edition = shelf.edition();
        assert!(shelf.seen(kind, row, class("gold", "2", "true")) && shelf.edition() > edition);
        assert_eq!([shelf.with("PriorityClass", "handler", "runc"), shelf.with("RuntimeClass", "handler", "runc")], [None, None]);
        assert!(shelf.seen(kind, row, class("gold", "3", "no")), "it is published no longer");
        assert!(shelf.of(kind).unwrap().is_empty());
        assert!(!shelf.remove(kind, "gold"));
    }

    fn volume(name: &str, version: &str, namespace: &str, phase: &str) -> Object {
        let metadata = json!({"name": name, "uid": "00000000-0000-4000-8000-000000000001", "resourceVersion": version});
        let claim = json!({"namespace": namespace, "name": "data", "uid": "u"});
        let text = json!({"metadata": metadata, "spec": {"claimRef": claim}, "status": {"phase": phase}}).to_string();
        Object::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn what_belongs_to_one_tenant_touches_no_other() {
        let kind = KindId::named("PersistentVolume").unwrap();
        let row = kind.kind().marked().unwrap();
        let shelf = Shelf::default();
        assert!(shelf.owned(kind, "a").is_none(), "nothing is known before the first list");
        shelf.list_begins(kind);
        shelf.seen(kind, row, volume("one", "1", "a", "Bound"));
        shelf.list_ends(kind);
        let (edition, names) = (shelf.edition(), |within: &str| {
            shelf.owned(kind, within).unwrap().into_iter().map(|object| object.meta.name.clone()).collect::<Vec<_>>()
        });
        assert_eq!((names("a"), names("b")), (vec!["one".to_owned()], vec![]));
        assert!(shelf.of(kind).unwrap().is_empty(), "it is not for everybody");
        assert!(shelf.take_touched().is_empty(), "the first list has turned over everything");
        shelf.seen(kind, row, volume("two", "2", "b", "Bound"));
        shelf.seen(kind, row, volume("three", "3", "c", "Available"));
        assert_eq!(shelf.take_touched(), HashSet::from(["b".to_owned()]));
        shelf.seen(kind, row, volume("two", "4", "a", "Bound"));
        assert_eq!(shelf.take_touched(), HashSet::from(["a".to_owned(), "b".to_owned()]));
        assert_eq!((names("a").len(), names("b").len()), (2, 0));
        shelf.seen(kind, row, volume("one", "5", "a", "Released"));
        shelf.list_begins(kind);
        shelf.list_ends(kind);
        assert_eq!((names("a"), shelf.take_touched()), (vec![], HashSet::from(["a".to_owned()])));
        assert_eq!(shelf.edition(), edition, "no other tenant is looked at");
    }
}
