//! What is known of pairs, event by event.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use common::Owner;
use mirror::hold::Hold;
use mirror::plan::{REFERENCES, Settled};

use super::body::BODIES;
use super::reference::{ALL_REFERENCES, REFERRED};
use super::room::PAIRS;
use super::*;

fn key(name: &str) -> Key {
    Key { kind: KindId::named("Pod").unwrap(), namespace: Some(Namespace::parse("default").unwrap()), name: Name::parse(name).unwrap() }
}

const fn uid(low: u128) -> Uid {
    Uid::from_bits(low)
}

fn facts(of: u128, version: u64) -> Facts {
    let text = format!(r#"{{"metadata":{{"name":"a","uid":"{}","resourceVersion":"{version}"}}}}"#, uid(of));
    mirror::facts::Seen::of(text.as_bytes()).unwrap().facts
}

fn place(made_of: u128) -> Place {
    let owner = Owner { tenant: uid(99), namespace: Namespace::parse("default").ok(), name: Name::parse("a").unwrap(), uid: uid(made_of) };
    Place { namespace: "vc-x".into(), name: "a".into(), owner }
}

#[test]
fn s43_a_late_delete_of_an_earlier_object_says_nothing_of_the_one_that_is_there() {
    let mut index = Index::default();
    assert!(index.tenant_seen(&key("a"), facts(2, 9), &[]));
    assert!(!index.tenant_gone(&key("a"), Some(uid(1))));
    assert!(matches!(index.get(&key("a")).unwrap().tenant, Slot::Here(..)));
    // Nor does a "not found" from before it was there.
    assert!(!index.tenant_gone(&key("a"), None));
    assert!(index.tenant_gone(&key("a"), Some(uid(2))));
    assert!(matches!(index.get(&key("a")).unwrap().tenant, Slot::Absent(Evidence::Seen)));
}

#[test]
fn an_answer_that_was_overtaken_by_the_end_of_its_object_does_not_bring_it_back() {
    let mut index = Index::default();
    index.tenant_seen(&key("a"), facts(1, 5), &[]);
    index.super_seen(&key("a"), facts(50, 3), place(1), None);
    let overtaken = |index: &Index, of: u128, version: u64, side: bool| index.is_overtaken(&key("a"), &facts(of, version), side);
    assert!(!overtaken(&index, 1, 6, true) && !overtaken(&index, 50, 4, false));
    assert!(index.tenant_gone(&key("a"), Some(uid(1))) && index.super_gone(&key("a"), uid(50), Evidence::Seen));
    assert!(overtaken(&index, 1, 6, true) && overtaken(&index, 50, 4, false));
    assert!(!overtaken(&index, 2, 9, true) && !overtaken(&index, 51, 9, false));
    // Nor does it take the place of the next object of that name.
    index.tenant_seen(&key("a"), facts(2, 9), &[]);
    assert!(overtaken(&index, 1, 6, true) && overtaken(&index, 3, 8, true));
    assert!(!overtaken(&index, 2, 10, true) && !overtaken(&index, 3, 11, true));
    // A list that shows it again, as after a backup, is believed.
    index.tenant_seen(&key("a"), facts(1, 12), &[]);
    assert!(!overtaken(&index, 1, 13, true));
}

#[test]
fn s43_a_delete_is_evidence_only_against_the_copy_that_was_made_of_that_object() {
    let mut index = Index::default();
    index.super_seen(&key("a"), facts(50, 3), place(2), None);
    assert!(index.tenant_gone(&key("a"), Some(uid(1))));
    assert!(matches!(index.get(&key("a")).unwrap().tenant, Slot::Absent(Evidence::Inferred)));
    assert!(index.tenant_gone(&key("a"), Some(uid(2))));
    assert!(matches!(index.get(&key("a")).unwrap().tenant, Slot::Absent(Evidence::Seen)));
}

#[test]
fn what_was_on_a_node_is_known_to_have_run_though_its_tenant_is_away() {
    let mut index = Index::default();
    let ran = |index: &Index, of| index.get(&key("a")).unwrap().ran(uid(of));
    index.super_seen(&key("a"), facts(50, 3), place(1), None);
    assert!(!ran(&index, 1));
    index.super_seen(&key("a"), Facts { node: Some("n1".into()), ..facts(50, 4) }, place(1), None);
    index.super_gone(&key("a"), uid(50), Evidence::Seen);
    assert!(ran(&index, 1) && !ran(&index, 2));
    // Nor is it forgotten while another attachment begins.
    index.reset_tenant();
    assert!(ran(&index, 1));
}

#[test]
fn r18_what_a_list_shows_waits_for_its_end_and_nothing_that_moved_meanwhile_is_lost() {
    let mut index = Index::default();
    let (pod, now) = (key("a").kind, Instant::now());
    index.list_begins(pod, true);
    index.tenant_seen(&key("a"), facts(1, 5), &[]);
    assert!(!index.synced(pod, false));
    index.list_ends(pod, true);
    assert!(index.synced(pod, false));
    index.super_seen(&key("a"), facts(50, 3), place(1), None);
    let entry = index.get_mut(&key("a")).unwrap();
    assert!(!entry.rests(now));
    entry.settled = Some(Settled { tenant: Some(Mark::from(&facts(1, 5))), sup: Some(Mark::from(&facts(50, 3))), reported: None });
    assert!(entry.rests(now));
    entry.mounted = Mounted::Good { renew: Some(now), look: None, refresh: None, secret: uid(8), version: 1, spoilt: false, pod: uid(50) };
    assert!(!entry.rests(now));
    entry.mounted = Mounted::None;
    index.list_begins(pod, true);
    assert!(!index.synced(pod, false));
    // Its copy goes meanwhile: nobody works on the key, and the end of the list finds it.
    index.super_gone(&key("a"), uid(50), Evidence::Seen);
    assert!(!index.get(&key("a")).unwrap().rests(now));
}

#[test]
fn what_could_not_be_listed_is_not_taken_for_gone() {
    let mut index = Index::default();
    let pod = key("a").kind;
    let elsewhere = Place { namespace: "vc-y".into(), ..place(2) };
    index.super_seen(&key("a"), facts(50, 3), place(1), None);
    index.super_seen(&key("b"), facts(51, 3), elsewhere, None);
    index.list_begins(pod, false);
    index.not_listed(pod, &["vc-x".into()]);
    assert_eq!(index.list_ends(pod, false), [key("b")]);
    assert!(matches!(index.get(&key("a")).unwrap().sup, Slot::Here(..)));
}

#[test]
fn s33_bodies_of_one_tenant_have_a_bound_and_room_comes_back() {
    let mut index = Index::default();
    let body = Bytes::from(vec![b' '; 1024 * 1024]);
    let held = |index: &Index| index.iter().filter(|(_, entry)| entry.tenant_body.is_some()).count();
    for i in 0..40_u128 {
        index.tenant_seen(&key(&format!("a{i}")), facts(i + 1, 1), &body);
    }
    assert_eq!(held(&index), 32);
    // What was asked for is there while it is looked at, and goes then.
    index.body_read(&key("a39"), 1, &body, true);
    assert!(index.get(&key("a39")).unwrap().tenant_body.is_some());
    index.make_room(&key("a39"));
    assert!(index.get(&key("a39")).unwrap().tenant_body.is_none());
    for i in 0..8_u128 {
        let key = key(&format!("a{i}"));
        index.tenant_gone(&key, Some(uid(i + 1)));
        index.forget(&key);
    }
    for i in 32..40_u128 {
        index.tenant_seen(&key(&format!("a{i}")), facts(i + 1, 2), &body);
    }
    assert_eq!((held(&index), index.held.load(Ordering::Relaxed)), (32, BODIES));
}

#[test]
fn a_pair_is_found_by_its_super_name_also_where_that_is_not_the_tenants_own() {
    let (mut index, own) = (Index::default(), key("vc.mine"));
    index.super_seen(&own, facts(50, 3), place(1), None);
    let by = |index: &Index, name: &str| index.by_super_name(own.kind, own.namespace.as_ref().unwrap(), name);
    assert_eq!((by(&index, "vc.e.mine"), by(&index, "web")), (Some(key("vc.mine")), Some(key("web"))));
    index.super_gone(&own, uid(50), Evidence::Seen);
    index.forget(&own);
    assert_eq!(by(&index, "vc.e.mine"), Some(key("vc.e.mine")), "a name like others, which nobody has");
}

/// S59: a Pod that is made again right when its predecessor's super copy is gone.
#[test]
fn what_came_again_while_its_end_was_looked_at_is_not_forgotten() {
    let mut index = Index::default();
    index.tenant_seen(&key("a"), facts(1, 1), &[]);
    index.super_seen(&key("a"), facts(50, 2), place(1), None);
    assert!(index.tenant_gone(&key("a"), Some(uid(1))) && index.super_gone(&key("a"), uid(50), Evidence::Seen));
    // A worker has seen nothing on either side, and is about to forget.
    assert!(index.tenant_seen(&key("a"), facts(2, 5), &[]));
    assert_eq!(index.forget(&key("a")), Vec::new());
    assert!(matches!(&index.get(&key("a")).unwrap().tenant, Slot::Here(facts, ()) if facts.uid == uid(2)));
    index.tenant_gone(&key("a"), Some(uid(2)));
    index.super_seen(&key("a"), facts(51, 7), place(2), None);
    index.forget(&key("a"));
    assert!(matches!(&index.get(&key("a")).unwrap().sup, Slot::Here(..)));
}

#[test]
fn s34_the_end_of_what_nobody_knew_is_not_remembered() {
    let mut index = Index::default();
    for i in 0..100 {
        assert!(!index.tenant_gone(&key(&format!("a{i}")), Some(uid(i))));
    }
    assert!(index.is_empty());
}

#[test]
fn s33_a_body_that_is_kept_does_not_keep_the_frame_that_it_came_in() {
    let mut index = Index::default();
    let frame = Bytes::from(vec![b' '; 16 * 1024]);
    index.tenant_seen(&key("a"), facts(1, 1), &frame.slice(..100));
    assert_eq!(index.held.load(Ordering::Relaxed), 100);
    assert!(frame.is_unique(), "nobody else holds it");
}

fn secrets(of: usize, count: usize) -> Vec<Reference> {
    (0..count).map(|i| Reference { kind: "Secret", name: format!("s{of}-{i}") }).collect()
}

#[test]
fn s33_references_without_end_are_refused() {
    let mut index = Index::default();
    let refused = |held: Result<Vec<Key>, Hold>| matches!(held, Err(Hold::Refused(refusal)) if refusal.reason == "TooManyReferences");
    assert_eq!(index.hold(&key("a"), &secrets(0, 10_000)), Ok(Vec::new()));
    assert_eq!((index.wanted.len(), index.hold(&key("a"), &[])), (REFERENCES, Ok(Vec::new())));
    // Each object may have many, all together not: of names that need not exist, or of the same ones.
    let held = (0..4000).filter(|i| index.hold(&key(&format!("a{i}")), &secrets(*i, REFERENCES)).is_ok()).count();
    assert_eq!(held, REFERRED / REFERENCES);
    for i in 0..4000 {
        assert_eq!(index.hold(&key(&format!("a{i}")), &[]), Ok(Vec::new()), "what is not known is not pushed");
    }
    assert_eq!((index.wanted.len(), index.referring), (0, 0));
    let held = (0..4000).filter(|i| index.hold(&key(&format!("a{i}")), &secrets(0, REFERENCES)).is_ok()).count();
    assert_eq!(held, ALL_REFERENCES / REFERENCES);
    assert!(refused(index.hold(&key("b"), &secrets(0, REFERENCES))));
    assert!(!index.get(&key("b")).unwrap().asked);
    index.forget(&key("a0"));
    assert!(index.hold(&key("b"), &secrets(0, REFERENCES)).is_ok());
}

#[test]
fn what_is_wanted_or_not_any_more_is_looked_at_if_it_is_there() {
    let mut index = Index::default();
    let secret = Key { kind: KindId::named("Secret").unwrap(), ..key("s0-0") };
    index.tenant_seen(&secret, facts(1, 1), &[]);
    assert_eq!(index.hold(&key("a"), &secrets(0, 2)), Ok(vec![secret.clone()]));
    assert_eq!(index.hold(&key("a"), &secrets(0, 2)), Ok(Vec::new()));
    assert!(index.wanted(&secret));
    assert_eq!(index.hold(&key("a"), &[]), Ok(vec![secret.clone()]));
    assert!(!index.wanted(&secret));
}

#[test]
fn the_time_without_an_attachment_does_not_count_as_time_to_agree() {
    let mut index = Index::default();
    index.tenant_seen(&key("a"), facts(1, 1), &[]);
    assert!(index.get(&key("a")).unwrap().moved.is_some());
    index.reset_tenant();
    assert!(index.get(&key("a")).unwrap().moved.is_none());
}

#[test]
fn after_a_new_attachment_every_holder_is_asked_again() {
    let mut index = Index::default();
    let pods = key("a").kind;
    index.tenant_seen(&key("a"), facts(1, 1), &[]);
    index.list_ends(pods, true);
    index.list_ends(KindId::named("Ingress").unwrap(), true);
    assert!(!index.holders_known());
    index.hold(&key("a"), &[]).unwrap();
    assert!(index.holders_known());
    index.reset_tenant();
    index.list_begins(pods, true);
    index.tenant_seen(&key("a"), facts(1, 1), &[]);
    index.list_ends(pods, true);
    index.list_ends(KindId::named("Ingress").unwrap(), true);
    assert!(!index.holders_known(), "it has not said yet what it refers to");
    index.hold(&key("a"), &[]).unwrap();
    assert!(index.holders_known());
}

#[test]
fn an_ingress_is_asked_too_before_anything_counts_as_unwanted() {
    let mut index = Index::default();
    let ingress = Key { kind: KindId::named("Ingress").unwrap(), ..key("a") };
    index.list_ends(key("a").kind, true);
    assert!(!index.holders_known(), "those of the tenant are not known yet");
    index.tenant_seen(&ingress, facts(1, 1), &[]);
    index.list_ends(ingress.kind, true);
    assert!(!index.holders_known());
    let certificate = Reference { kind: "Secret", name: "certificate".to_owned() };
    index.hold(&ingress, &[certificate]).unwrap();
    assert!(index.holders_known());
    let secret = Key { kind: KindId::named("Secret").unwrap(), name: Name::parse("certificate").unwrap(), ..key("a") };
    assert!(index.wanted(&secret));
}

#[test]
fn a_kind_that_the_tenant_does_not_serve_keeps_nothing_waiting_unless_something_of_it_is_below() {
    let mut index = Index::default();
    let ingress = Key { kind: KindId::named("Ingress").unwrap(), ..key("a") };
    index.list_ends(key("a").kind, true);
    index.unserved(ingress.kind);
    assert!(index.holders_known());
    let mut index = Index::default();
    index.list_ends(key("a").kind, true);
    index.super_seen(&ingress, facts(50, 3), place(1), None);
    index.unserved(ingress.kind);
    assert!(!index.holders_known(), "what it refers to is not known");
}

#[test]
fn nothing_of_a_kind_that_the_tenant_serves_no_longer_is_absent_and_its_keys_wait() {
    let mut index = Index::default();
    index.list_begins(key("a").kind, true);
    index.tenant_seen(&key("a"), facts(1, 5), &[]);
    index.list_ends(key("a").kind, true);
    index.unserved(key("a").kind);
    assert!(!index.synced(key("a").kind, false));
    assert!(matches!(index.get(&key("a")).unwrap().tenant, Slot::Here(..)));
    index.list_begins(key("a").kind, true);
    assert_eq!(index.list_ends(key("a").kind, true), [key("a")]);
    assert!(index.synced(key("a").kind, false));
}

#[test]
fn s34_objects_without_end_are_not_taken_in() {
    let mut index = Index::default();
    let some = facts(1, 1);
    for i in 0..PAIRS + 5 {
        index.tenant_seen(&key(&format!("a{i}")), some.clone(), &[]);
    }
    assert_eq!((index.len(), index.left_out()), (PAIRS, 5));
    // Again and again is no more of them.
    index.tenant_seen(&key(&format!("a{PAIRS}")), facts(1, 2), &[]);
    assert_eq!((index.left_out(), index.has_room_again()), (5, false));
    // What is known goes on.
    assert!(index.tenant_seen(&key("a7"), facts(1, 2), &[]));
    for i in 0..4 {
        let key = key(&format!("a{i}"));
        index.tenant_gone(&key, Some(uid(1)));
        index.forget(&key);
    }
    assert!(!index.has_room_again(), "some would be left out again");
    assert!(index.tenant_seen(&key(&format!("a{}", PAIRS + 1)), some.clone(), &[]));
    assert_eq!(index.left_out(), 4, "what came in by its next event is not left out");
    index.tenant_gone(&key(&format!("a{PAIRS}")), Some(uid(1)));
    assert!(index.has_room_again());
    index.list_begins(key("a").kind, true);
    assert!(index.tenant_seen(&key("b"), some, &[]) && index.left_out() == 0);
}

#[test]
fn a_kind_that_is_left_is_forgotten_and_what_is_still_told_of_it_is_late() {
    let mut index = Index::default();
    let other = Key { kind: KindId::named("Ingress").unwrap(), ..key("a") };
    for key in [key("a"), other.clone()] {
        index.list_begins(key.kind, true);
        index.tenant_seen(&key, facts(1, 5), &[]);
        index.super_seen(&key, facts(50, 3), place(1), None);
        index.list_ends(key.kind, true);
    }
    index.reset_kind(key("a").kind);
    assert!(!index.synced(key("a").kind, false) && index.synced(other.kind, false));
    let entry = index.get(&key("a")).unwrap();
    assert!(matches!((&entry.tenant, &entry.sup), (Slot::Unknown, Slot::Here(..))), "what is below is known");
    index.end_kind(key("a").kind);
    assert!(!index.tenant_seen(&key("a"), facts(1, 6), &[]) && !index.super_seen(&key("a"), facts(50, 4), place(1), None));
    assert!(!index.super_gone(&key("a"), Uid::from_bits(50), Evidence::Seen));
    assert!(index.get(&key("a")).is_none() && index.get(&other).is_some());
}
