//! Whose what belongs to an object of a tenant's is.

use common::{Namespace, Uid};
use mirror::kind::{Audience, KindId};
use mirror::plan::Evidence;

use crate::index::{Index, Slot};

/// Whose an object of the super cluster is.
pub(super) enum Owner {
    /// This tenant's object.
    Is { name: String, uid: Uid },
    /// An object that is gone.
    Nobody,
    /// One that the super cluster or the tenant has not told of yet, or has just replaced.
    NotKnown,
}

/// The object of the tenant's in that namespace of its that something of the super cluster belongs to; nothing while the tenant's are being listed.
pub(super) fn owner(index: &Index, audience: &Audience, namespace: &str) -> Option<Owner> {
    let Audience::OwnerOf { kind, name, uid, .. } = audience else { return Some(Owner::Nobody) };
    let (Some(kind), Ok(namespace), Ok(uid)) = (KindId::named(kind), Namespace::parse(namespace), Uid::parse(uid)) else {
        return Some(Owner::Nobody);
    };
    if !index.synced(kind, false) {
        return None;
    }
    let Some(key) = index.by_super_name(kind, &namespace, name) else { return Some(Owner::Nobody) };
    let Some(entry) = index.get(&key) else { return Some(Owner::Nobody) };
    Some(match (&entry.sup, &entry.tenant) {
        // That a list did not name it is no word that it is gone.
        (_, Slot::Absent(Evidence::Seen)) => Owner::Nobody,
        (Slot::Here(sup, place), Slot::Here(own, ())) if sup.uid == uid && place.owner.uid == own.uid => {
            Owner::Is { name: key.name.as_str().to_owned(), uid: own.uid }
        }
        // Of an earlier object of the name.
        (Slot::Here(sup, _), Slot::Here(..)) if sup.uid == uid => Owner::Nobody,
        (
            Slot::Here(..) | Slot::Unknown | Slot::Absent(_) | Slot::Foreign,
            Slot::Here(..) | Slot::Unknown | Slot::Absent(_) | Slot::Foreign,
        ) => Owner::NotKnown,
    })
}

#[cfg(test)]
mod tests {
    use common::Name;
    use mirror::facts::{Facts, Seen};

    use super::*;
    use crate::index::{Key, Place};

    const fn uid(low: u128) -> Uid {
        Uid::from_bits(low)
    }

    fn facts(of: u128, version: u64) -> Facts {
        let text = format!(r#"{{"metadata":{{"name":"data","uid":"{}","resourceVersion":"{version}"}}}}"#, uid(of));
        Seen::of(text.as_bytes()).unwrap().facts
    }

    fn key() -> Key {
        let namespace = Some(Namespace::parse("default").unwrap());
        Key { kind: KindId::named("PersistentVolumeClaim").unwrap(), namespace, name: Name::parse("data").unwrap() }
    }

    fn place(made_of: u128) -> Place {
        let owner = common::Owner { tenant: uid(99), namespace: key().namespace, name: key().name, uid: uid(made_of) };
        Place { namespace: "vc-x".into(), name: "data".into(), owner }
    }

    /// Whose a volume is that is bound to the super claim of this UID.
    fn whose(index: &Index, of: u128) -> Option<Owner> {
        let (kind, uid) = ("PersistentVolumeClaim".to_owned(), uid(of).to_string());
        owner(index, &Audience::OwnerOf { kind, namespace: "vc-x".into(), name: "data".into(), uid }, "default")
    }

    fn listed() -> Index {
        let mut index = Index::default();
        index.list_begins(key().kind, true);
        index.tenant_seen(&key(), facts(1, 5), &[]);
        index.list_ends(key().kind, true);
        index.super_seen(&key(), facts(50, 6), place(1), None);
        index
    }

    #[test]
    fn a_volume_is_its_claims_and_no_others_of_the_name() {
        let mut index = listed();
        assert!(matches!(whose(&index, 50), Some(Owner::Is { uid: own, .. }) if own == uid(1)));
        assert!(matches!(whose(&index, 51), Some(Owner::NotKnown)), "a copy that has not been seen yet");
        // Deleted and made again, while the copy of the first is still there.
        index.tenant_gone(&key(), Some(uid(1)));
        assert!(matches!(whose(&index, 50), Some(Owner::Nobody)));
        index.tenant_seen(&key(), facts(2, 9), &[]);
        assert!(matches!(whose(&index, 50), Some(Owner::Nobody)), "it is not the volume of the second");
    }

    #[test]
    fn what_a_list_did_not_name_is_not_gone() {
        let mut index = listed();
        index.list_begins(key().kind, true);
        assert!(whose(&index, 50).is_none(), "while it is listed nothing is known");
        index.list_ends(key().kind, true);
        assert!(matches!(whose(&index, 50), Some(Owner::NotKnown)));
    }
}
