//! Messages of the super cluster as a tenant may read them: its own names in place of ours, and nobody else's.

use std::borrow::Cow;

use common::{Namespace, Uid};
use serde_json::{Map, Value};

use crate::cx::Cx;

/// How names of the super cluster read in one tenant.
#[derive(Clone, Debug)]
pub struct Scrub<'a> {
    namespace: Option<(&'a str, &'a str)>,
    uid: Option<(Uid, Option<Uid>)>,
}

/// What stands in place of a name that is not the tenant's.
const HIDDEN: &str = "(hidden)";

impl<'a> Scrub<'a> {
    /// Knows the namespace of the object at hand.
    pub fn new(cx: &Cx<'a>) -> Self {
        Self { namespace: cx.super_namespace.map(Namespace::as_str).zip(cx.namespace), uid: None }
    }

    /// Knows the UIDs of the object too: in the super cluster, and in the tenant.
    #[must_use]
    pub fn with_uid(self, sup: Uid, tenant: Option<Uid>) -> Self {
        Self { uid: Some((sup, tenant)), ..self }
    }

    /// The text with super namespaces and UIDs replaced by the tenant's, and those of others hidden.
    pub fn text<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '-';
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

    fn word(&self, word: &str) -> Option<String> {
        if let Some((sup, tenant)) = self.namespace
            && word == sup
        {
            return Some(tenant.to_owned());
        }
        if is_super_namespace(word) {
            return Some(HIDDEN.to_owned());
        }
        let uid = Uid::parse(word).ok()?;
        match self.uid {
            Some((sup, Some(tenant))) if uid == sup => Some(tenant.to_string()),
            // A tenant's own UIDs may be told.
            Some((_, Some(tenant))) if uid == tenant => None,
            _ => Some(HIDDEN.to_owned()),
        }
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

/// Whether a word has the shape of a super namespace's name, whoever's: `vc-`, perhaps a hint, 26 characters of base32.
fn is_super_namespace(word: &str) -> bool {
    let Some((front, hash)) = word.rsplit_once('-') else { return false };
    (front == "vc" || front.starts_with("vc-")) && hash.len() == 26 && hash.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'))
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
        let uid = |text| Uid::parse(text).unwrap();
        Scrub { namespace: Some((OURS, "default")), uid: Some((uid(SUPER_UID), Some(uid(TENANT_UID)))) }
    }

    #[test]
    fn own_names_become_the_tenants_and_others_are_hidden() {
        let cases = [
            (format!("pod web-0_{OURS}({SUPER_UID}): back-off"), format!("pod web-0_default({TENANT_UID}): back-off")),
            (format!("\"{OURS}/web\" and {THEIRS}/x, {OTHER_UID}"), "\"default/web\" and (hidden)/x, (hidden)".to_owned()),
            (format!("über {OURS}"), "über default".to_owned()),
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
    fn messages_at_any_depth_are_rewritten() {
        let mut status = serde_json::json!({"message": OURS, "list": [{"state": {"waiting": {"message": OURS, "reason": OURS}}}]});
        scrub().messages(status.as_object_mut().unwrap());
        let expected = serde_json::json!({"message": "default", "list": [{"state": {"waiting": {"message": "default", "reason": OURS}}}]});
        assert_eq!(status, expected);
    }
}
