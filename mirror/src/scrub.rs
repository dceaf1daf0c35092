//! Messages of the super cluster as a tenant may read them: its own names in place of ours, and nobody else's.

use std::borrow::Cow;
use std::collections::BTreeSet;

use common::{Namespace, Uid, keys};
use serde_json::{Map, Value};

use crate::cx::{Cx, NodeNames};

/// How names of the super cluster read in one tenant.
#[derive(Clone, Debug)]
pub struct Scrub<'a> {
    namespace: Option<(&'a str, &'a str)>,
    uid: Option<(Uid, Option<Uid>)>,
    nodes: &'a BTreeSet<String>,
    super_nodes: &'a dyn NodeNames,
    node: Option<&'a str>,
}

/// What stands in place of a name that is not the tenant's.
const HIDDEN: &str = "(hidden)";

/// The length of a UUID, in characters.
const UID: usize = 36;

/// The longest name of a node, in characters.
const NODE: usize = 253;

/// Taints that say how a node is. Others say whom it is for.
const STATES: &str = "node.kubernetes.io/";

/// Where the first of its four separators is.
const SEPARATOR: usize = 8;

/// The longest line that goes up, in characters: what an API server accepts as the message of an Event.
const LONGEST: usize = 1024;

/// As much of a line is looked at, in characters: more than [`LONGEST`], so that no name is cut in two and missed.
const LOOKED_AT: usize = 4096;

impl<'a> Scrub<'a> {
    /// Knows the namespace of the object at hand.
    pub fn new(cx: &Cx<'a>) -> Self {
        let namespace = cx.super_namespace.map(Namespace::as_str).zip(cx.namespace);
        Self { namespace, uid: None, nodes: cx.nodes, super_nodes: cx.super_nodes, node: None }
    }

    /// Knows the UIDs of the object too: in the super cluster, and in the tenant.
    #[must_use]
    pub fn with_uid(self, sup: Uid, tenant: Option<Uid>) -> Self {
        Self { uid: Some((sup, tenant)), ..self }
    }

    /// Knows the node that the object is on, which the tenant may be told of before it has its vNode.
    #[must_use]
    pub fn with_node(self, node: Option<&'a str>) -> Self {
        Self { node, ..self }
    }

    /// The text with super namespaces, UIDs and escaped names replaced by the tenant's; those of others are hidden, and so are nodes that
    /// the tenant does not see, and their taints.
    pub fn text<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let text = then(without_taints(text), |text| self.without_uids(text));
        then(text, |text| self.words(text))
    }

    /// The same, for what stands between characters that no name has.
    fn words<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
        let mut out = String::new();
        let mut copied = 0;
        let mut rest = 0;
        while let Some(tail) = text.get(rest..) {
            let Some(start) = tail.find(is_word).map(|at| rest + at) else { break };
            let word = text.get(start..).map_or("", |tail| tail.split(|c| !is_word(c)).next().unwrap_or_default());
            rest = start + word.len();
            if let Some(new) = self.word(word) {
                out.push_str(text.get(copied..start).unwrap_or_default());
                out.push_str(&new);
                copied = rest;
            }
        }
        if copied == 0 {
            return Cow::Borrowed(text);
        }
        out.push_str(text.get(copied..).unwrap_or_default());
        Cow::Owned(out)
    }

    /// As [`Scrub::text`], and at most 1024 characters, with nothing that moves a terminal: the message of an Event or a condition.
    pub fn line(&self, text: &str) -> String {
        let head: String = text.chars().take(LOOKED_AT).collect();
        let mut out = String::with_capacity(head.len());
        for character in self.text(&head).chars() {
            if moves_a_terminal(character) { out.extend(character.escape_default()) } else { out.push(character) }
        }
        out.chars().take(LONGEST).collect()
    }

    /// What stands in place of a word of name characters, dots among them.
    fn word(&self, word: &str) -> Option<String> {
        if let Some(rest) = word.strip_prefix(keys::RESERVED_NAME_PREFIX).filter(|rest| !rest.is_empty()) {
            return Some(match rest.split_once('.') {
                Some(("e", name)) => format!("{}{name}", keys::RESERVED_NAME_PREFIX),
                Some(("token" | "h", hash)) if is_hash(hash.trim_end_matches('.')) => HIDDEN.to_owned(),
                _ => rest.to_owned(),
            });
        }
        if let Some(new) = self.without_node(word) {
            return Some(new);
        }
        let parts: Vec<Cow<'_, str>> = word.split('.').map(|part| self.part(part)).collect();
        parts.iter().any(|part| matches!(part, Cow::Owned(_))).then(|| parts.join("."))
    }

    /// The same for one part of a word between dots.
    fn part<'t>(&self, part: &'t str) -> Cow<'t, str> {
        match self.namespace {
            Some((sup, tenant)) if part == sup => Cow::Owned(tenant.to_owned()),
            _ if is_ours(part) || self.is_foreign(part) => Cow::Owned(HIDDEN.to_owned()),
            _ => Cow::Borrowed(part),
        }
    }

    /// The word, if it begins with the name of a node that the tenant does not see: alone, or with a domain behind it.
    fn without_node(&self, word: &str) -> Option<String> {
        let ends = word.match_indices('.').map(|(at, _)| at).chain([word.len()]).take_while(|end| *end <= NODE);
        let end = ends.filter(|end| word.get(..*end).is_some_and(|name| self.is_foreign(name))).last()?;
        Some(format!("{HIDDEN}{}", word.get(end..).unwrap_or_default()))
    }

    fn is_foreign(&self, name: &str) -> bool {
        self.super_nodes.is_node(name) && !self.nodes.contains(name) && self.node != Some(name)
    }

    /// The text with every UID but the tenant's own replaced, in whichever spelling and whatever stands around it.
    fn without_uids<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let mut out = String::new();
        let (mut copied, mut from) = (0, 0);
        while let Some((at, uid)) = next_uid(text, from) {
            from = at + UID;
            let shown = match self.uid {
                Some((sup, Some(tenant))) if uid == sup => tenant.to_string(),
                // A tenant's own UIDs may be told.
                Some((_, Some(tenant))) if uid == tenant => continue,
                _ => HIDDEN.to_owned(),
            };
            let is_dashed = text.as_bytes().get(at + SEPARATOR) == Some(&b'-');
            out.push_str(text.get(copied..at).unwrap_or_default());
            out.push_str(&if is_dashed { shown } else { shown.replace('-', "_") });
            copied = from;
        }
        if copied == 0 {
            return Cow::Borrowed(text);
        }
        out.push_str(text.get(copied..).unwrap_or_default());
        Cow::Owned(out)
    }

    /// Rewrites every `message` at any depth.
    pub fn messages(&self, fields: &mut Map<String, Value>) {
        for (key, value) in fields.iter_mut() {
            match value {
                Value::String(text) if key == "message" => {
                    if let Cow::Owned(new) = self.text(text) {
                        *text = new;
                    }
                }
                Value::Object(fields) => self.messages(fields),
                Value::Array(items) => items.iter_mut().filter_map(Value::as_object_mut).for_each(|item| self.messages(item)),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
            }
        }
    }
}

/// The text as a tenant may read it, where no object's UID is at hand.
pub fn scrub(text: &str, cx: &Cx<'_>) -> String {
    Scrub::new(cx).text(text).into_owned()
}

/// One step of rewriting after another.
fn then(text: Cow<'_, str>, step: impl FnOnce(&str) -> Cow<'_, str>) -> Cow<'_, str> {
    let new = match step(&text) {
        Cow::Borrowed(_) => None,
        Cow::Owned(new) => Some(new),
    };
    new.map_or(text, Cow::Owned)
}

/// The text of a scheduler without the taints by which its administrator keeps nodes for somebody.
///
/// *Sources*: `untolerated taint {key: value}`, in the plugin `TaintToleration` of Kubernetes 1.30–1.33.
fn without_taints(text: &str) -> Cow<'_, str> {
    const BEFORE: &str = "taint {";
    let mut pieces = text.split(BEFORE);
    let mut out = pieces.next().unwrap_or_default().to_owned();
    let mut is_new = false;
    for piece in pieces {
        out.push_str(BEFORE);
        match piece.split_once('}') {
            Some((taint, rest)) if !taint.starts_with(STATES) => {
                is_new = true;
                out.push_str(HIDDEN);
                out.push('}');
                out.push_str(rest);
            }
            Some(_) | None => out.push_str(piece),
        }
    }
    if is_new { Cow::Owned(out) } else { Cow::Borrowed(text) }
}

/// The first UID at or after this place: with dashes, or with underscores, as systemd wants them in the names of control groups.
fn next_uid(text: &str, from: usize) -> Option<(usize, Uid)> {
    (from..(text.len() + 1).saturating_sub(UID)).find_map(|at| {
        let uid = match text.as_bytes().get(at + SEPARATOR)? {
            b'-' => Uid::parse(text.get(at..at + UID)?),
            b'_' => Uid::parse(&text.get(at..at + UID)?.replace('_', "-")),
            _ => return None,
        };
        Some((at, uid.ok()?))
    })
}

/// Whether this has the shape of a super namespace, whoever's, of a writer, or of a tenant's id: 26 characters of base32 at the end; or is how
/// what we have in the super cluster is called.
fn is_ours(part: &str) -> bool {
    if part == keys::SYSTEM_NAMESPACE || part == keys::WRITERS_NAMESPACE || part.starts_with(keys::WRITER_ROLE) {
        return true;
    }
    match part.rsplit_once('-') {
        Some((front, hash)) => is_hash(hash) && (front == "w" || front == "vc" || front.starts_with("vc-")),
        None => is_hash(part),
    }
}

fn is_hash(text: &str) -> bool {
    text.len() == 26 && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'))
}

/// Control characters, and those that reorder what is shown.
fn moves_a_terminal(character: char) -> bool {
    character.is_control() || matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "vc-acme-default-abcdefghijklmnopqrstuvwxyz";
    const THEIRS: &str = "vc-zyxwvutsrqponmlkjihgfedcba";
    const SUPER_UID: &str = "d64ea0c0-91f8-46f5-8643-c0cab32ab0cd";
    const TENANT_UID: &str = "00000000-0000-4000-8000-000000000001";
    const OTHER_UID: &str = "00000000-0000-4000-8000-000000000002";

    fn scrub() -> Scrub<'static> {
        const NONE: &BTreeSet<String> = &BTreeSet::new();
        let uid = |text| Uid::parse(text).unwrap();
        let uid = Some((uid(SUPER_UID), Some(uid(TENANT_UID))));
        Scrub { namespace: Some((OURS, "default")), uid, nodes: NONE, super_nodes: NONE, node: None }
    }

    #[test]
    fn s51_nodes_that_the_tenant_does_not_see_are_hidden() {
        let names = |names: &[&str]| -> BTreeSet<String> { names.iter().map(|name| (*name).to_owned()).collect() };
        let (seen, all) = (names(&["n1"]), names(&["n1", "n2", "n3", "ip-10-0-0-7.ec2.internal"]));
        let scrub = Scrub { nodes: &seen, super_nodes: &all, ..scrub() }.with_node(Some("n2"));
        let cases = [
            ("load balancer with new hosts [n1 n2 n3]", "load balancer with new hosts [n1 n2 (hidden)]"),
            ("Successfully assigned default/web to n2", "Successfully assigned default/web to n2"),
            ("dial tcp: lookup n3.example.org on n3:53, then n3.", "dial tcp: lookup (hidden).example.org on (hidden):53, then (hidden)."),
            ("x.n3.example, ip-10-0-0-7.ec2.internal.", "x.(hidden).example, (hidden)."),
            ("n30, n3-a, image/n3x", "n30, n3-a, image/n3x"),
            (
                "1 node(s) had untolerated taint {dedicated: team-b}, 2 node(s) had untolerated taint {node.kubernetes.io/not-ready: }",
                "1 node(s) had untolerated taint {(hidden)}, 2 node(s) had untolerated taint {node.kubernetes.io/not-ready: }",
            ),
        ];
        for (given, expected) in cases {
            assert_eq!(scrub.text(given), expected);
        }
    }

    /// As a control group of systemd is called.
    fn underscored(uid: &str) -> String {
        uid.replace('-', "_")
    }

    #[test]
    fn own_names_become_the_tenants_and_others_are_hidden() {
        let cases = [
            (format!("pod web-0_{OURS}({SUPER_UID}): back-off"), format!("pod web-0_default({TENANT_UID}): back-off")),
            (format!("\"{OURS}/web\" and {THEIRS}/x, {OTHER_UID}"), "\"default/web\" and (hidden)/x, (hidden)".to_owned()),
            (format!("über {OURS}"), "über default".to_owned()),
            (format!("lookup web.{OURS}.svc: no such host"), "lookup web.default.svc: no such host".to_owned()),
            (format!("volume pvc-{OTHER_UID} is full."), "volume pvc-(hidden) is full.".to_owned()),
            (format!("{SUPER_UID}{OTHER_UID}x"), format!("{TENANT_UID}(hidden)x")),
            (
                format!("kubepods-burstable-pod{}.slice/memory.max, {}", underscored(SUPER_UID), underscored(OTHER_UID)),
                format!("kubepods-burstable-pod{}.slice/memory.max, (hidden)", underscored(TENANT_UID)),
            ),
            (
                "\"system:serviceaccount:vc-writers:w-abcdefghijklmnopqrstuvwxyz\" may not".to_owned(),
                "\"system:serviceaccount:(hidden):(hidden)\" may not".to_owned(),
            ),
            ("policy 'vc-tenant-writer-pods', role vc-tenant-writer".to_owned(), "policy '(hidden)', role (hidden)".to_owned()),
            ("secret \"vc.token.abcdefghijklmnopqrstuvwxyz\" not found".to_owned(), "secret \"(hidden)\" not found".to_owned()),
            ("configmap \"vc.kube-root-ca.crt\" not found".to_owned(), "configmap \"kube-root-ca.crt\" not found".to_owned()),
            ("secret \"vc.e.mine\" not found".to_owned(), "secret \"vc.mine\" not found".to_owned()),
        ];
        for (given, expected) in cases {
            assert_eq!(scrub().text(&given), expected);
        }
    }

    #[test]
    fn other_text_is_left_alone() {
        for text in ["", "0/5 nodes are available: 5 Insufficient cpu.", "vc-mine", "image a-b-c", TENANT_UID] {
            assert!(matches!(scrub().text(text), Cow::Borrowed(same) if same == text));
        }
    }

    #[test]
    fn a_line_has_an_end_and_moves_no_terminal() {
        assert_eq!(scrub().line("a\u{1b}[2J\nb\u{202e}c"), "a\\u{1b}[2J\\nb\\u{202e}c");
        assert_eq!(scrub().line(&"ü".repeat(100_000)).chars().count(), LONGEST);
        assert_eq!(scrub().line(&"\u{7}".repeat(100_000)).chars().count(), LONGEST);
    }

    #[test]
    fn messages_at_any_depth_are_rewritten() {
        let mut status = serde_json::json!({"message": OURS, "list": [{"state": {"waiting": {"message": OURS, "reason": OURS}}}]});
        scrub().messages(status.as_object_mut().unwrap());
        let expected = serde_json::json!({"message": "default", "list": [{"state": {"waiting": {"message": "default", "reason": OURS}}}]});
        assert_eq!(status, expected);
    }
}
