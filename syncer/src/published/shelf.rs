//! What is published now, by kind and name.

use std::collections::{BTreeMap, HashMap};

use common::InSuper;
use mirror::kind::{Audience, KindId, Upward};
use mirror::object::Object;
use parking_lot::RwLock;

/// Objects of the super cluster that every tenant gets.
#[derive(Default)]
pub(super) struct Shelf(RwLock<State>);

#[derive(Default)]
struct State {
    kinds: HashMap<KindId, Row>,
    edition: u64,
}

#[derive(Default)]
struct Row {
    objects: BTreeMap<String, (InSuper<Object>, u32)>,
    /// Counts lists, so that what a list does not hold is known to be gone.
    list: u32,
    is_listed: bool,
    /// Whether something of this list could not be read: then what it does not hold may be there.
    is_unread: bool,
}

impl Shelf {
    /// Another one whenever anything has come, gone or changed.
    pub(super) fn edition(&self) -> u64 {
        self.0.read().edition
    }

    pub(super) fn has(&self, kind: &str, name: &str) -> bool {
        let id = KindId::named(kind);
        id.and_then(|id| self.0.read().kinds.get(&id).map(|row| row.objects.contains_key(name))).unwrap_or(false)
    }

    /// All of a kind; nothing before it was listed once, when what is not there may only not have been seen yet.
    pub(super) fn of(&self, kind: KindId) -> Option<Vec<InSuper<Object>>> {
        let state = self.0.read();
        let row = state.kinds.get(&kind).filter(|row| row.is_listed)?;
        Some(row.objects.values().map(|(object, _)| object.clone()).collect())
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
        if row.audience(&object) != Audience::Everybody {
            return self.remove(kind, &object.meta.name);
        }
        let mut state = self.0.write();
        let known = state.kinds.entry(kind).or_default();
        let (name, list, is_listed) = (object.meta.name.clone(), known.list, known.is_listed);
        let before = known.objects.insert(name, (object.clone(), list));
        let has_moved = is_listed && before.is_none_or(|(before, _)| before.meta.version != object.meta.version);
        state.edition += u64::from(has_moved);
        has_moved
    }

    pub(super) fn remove(&self, kind: KindId, name: &str) -> bool {
        let mut state = self.0.write();
        let was_there = state.kinds.get_mut(&kind).is_some_and(|row| row.objects.remove(name).is_some());
        state.edition += u64::from(was_there);
        was_there
    }

    pub(super) fn list_ends(&self, kind: KindId) -> bool {
        let mut state = self.0.write();
        let row = state.kinds.entry(kind).or_default();
        let (before, list, was_listed) = (row.objects.len(), row.list, row.is_listed);
        let is_unread = row.is_unread;
        row.objects.retain(|_, (_, seen)| is_unread || *seen == list);
        row.is_listed = true;
        let has_moved = !was_listed || row.objects.len() != before;
        state.edition += u64::from(has_moved);
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
        let row = kind.kind().published().unwrap();
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
        assert!(shelf.seen(kind, row, class("gold", "3", "no")), "it is published no longer");
        assert!(shelf.of(kind).unwrap().is_empty());
        assert!(!shelf.remove(kind, "gold"));
    }
}
