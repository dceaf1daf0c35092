//! The elements of one list in a JSON object, as the bytes of the object come; of the rest, one field that was asked for.
//!
//! *Guarantees*: one element is held at a time, at most [`MOST_BYTES`]. A larger one is passed over: it costs itself alone. Where the
//! bytes are cut makes no difference.
//!
//! *Caveats*: it looks for borders only. Whoever takes an element parses it.

use super::Unreadable;

/// The largest element that is looked at, in bytes. A Pod of a tenant has 2.5 MiB where it goes down, and as much again for what
/// the super cluster adds.
pub const MOST_BYTES: usize = 8 * 1024 * 1024;

/// The longest name of a field that is looked at; no field that is asked for has one so long.
const MOST_KEY_BYTES: usize = 32;

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// An element of the list: an object.
    Element(&'a [u8]),
    /// The value of the field.
    Field(&'a [u8]),
}

/// Takes a JSON object apart.
pub struct Elements {
    list: &'static str,
    field: &'static str,
    place: Place,
    /// Open braces and brackets of the value or element at hand.
    depth: usize,
    is_text: bool,
    is_escaped: bool,
    /// The name of the field at hand.
    key: Vec<u8>,
    /// What was captured of the value or element at hand.
    held: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Before,
    /// In the object, before a name or its end.
    Fields,
    Key,
    Colon,
    /// Before a value.
    Value,
    /// In a value; whether it was asked for.
    InValue(bool),
    AfterValue,
    List,
    Element,
    After,
}

impl Elements {
    /// Of the list and the field with these names.
    pub fn new(list: &'static str, field: &'static str) -> Self {
        Self { list, field, place: Place::Before, depth: 0, is_text: false, is_escaped: false, key: Vec::new(), held: Vec::new() }
    }

    /// Takes the next bytes, and gives each part that is whole by then.
    pub fn push(&mut self, bytes: &[u8], mut take: impl FnMut(Part<'_>) -> Result<(), Unreadable>) -> Result<(), Unreadable> {
        let mut at = 0;
        while let Some(byte) = bytes.get(at).copied() {
            // What is inside of a value goes on without a look at where it is.
            if matches!(self.place, Place::Element | Place::InValue(_)) {
                let rest = bytes.get(at..).unwrap_or_default();
                let (taken, is_whole) = self.inside(rest);
                at += taken;
                if is_whole {
                    self.give(&mut take)?;
                }
                continue;
            }
            at += 1;
            self.between(byte)?;
        }
        Ok(())
    }

    /// That the object is whole.
    pub fn finish(&self) -> Result<(), Unreadable> {
        if self.place == Place::After { Ok(()) } else { Err(Unreadable) }
    }

    /// A byte that is in no value.
    fn between(&mut self, byte: u8) -> Result<(), Unreadable> {
        if self.place == Place::Key {
            return self.key(byte);
        }
        if byte.is_ascii_whitespace() {
            return Ok(());
        }
        self.place = match (self.place, byte) {
            (Place::Before, b'{') | (Place::AfterValue, b',') => Place::Fields,
            (Place::Fields, b'"') => {
                self.key.clear();
                Place::Key
            }
            (Place::Fields | Place::AfterValue, b'}') => Place::After,
            (Place::Colon, b':') => Place::Value,
            (Place::Value, b'[') if self.key == self.list.as_bytes() => Place::List,
            (Place::Value, byte) => self.begin(byte, Place::InValue(self.key == self.field.as_bytes())),
            (Place::List, b',') => Place::List,
            (Place::List, b']') => Place::AfterValue,
            (Place::List, b'{') => self.begin(byte, Place::Element),
            _ => return Err(Unreadable),
        };
        Ok(())
    }

    /// A byte of a field's name. A name with an escape in it is none that is asked for.
    fn key(&mut self, byte: u8) -> Result<(), Unreadable> {
        match byte {
            b'"' if !self.is_escaped => self.place = Place::Colon,
            _ if self.key.len() > MOST_KEY_BYTES && byte < b' ' => return Err(Unreadable),
            _ => {
                self.is_escaped = byte == b'\\' && !self.is_escaped;
                if self.key.len() <= MOST_KEY_BYTES {
                    self.key.push(byte);
                }
            }
        }
        Ok(())
    }

    fn begin(&mut self, byte: u8, place: Place) -> Place {
        self.depth = usize::from(matches!(byte, b'{' | b'['));
        self.is_text = byte == b'"';
        self.is_escaped = false;
        self.held.clear();
        self.held.push(byte);
        place
    }

    /// Goes on inside a value; gives how many bytes belong to it, and whether it has ended.
    fn inside(&mut self, bytes: &[u8]) -> (usize, bool) {
        let mut end = bytes.len();
        let mut is_whole = false;
        for (at, byte) in bytes.iter().copied().enumerate() {
            if self.is_text {
                let is_end = byte == b'"' && !self.is_escaped;
                self.is_escaped = byte == b'\\' && !self.is_escaped;
                self.is_text = !is_end;
                is_whole = is_end && self.depth == 0;
            } else if self.depth == 0 && (matches!(byte, b',' | b'}') || byte.is_ascii_whitespace()) {
                // A number or a word ends where something else begins.
                (end, is_whole) = (at, true);
                break;
            } else {
                match byte {
                    b'"' => self.is_text = true,
                    b'{' | b'[' => self.depth += 1,
                    b'}' | b']' => {
                        self.depth = self.depth.saturating_sub(1);
                        is_whole = self.depth == 0;
                    }
                    _ => {}
                }
            }
            if is_whole {
                end = at + 1;
                break;
            }
        }
        // One byte more than may be held says that it was too many.
        if self.place != Place::InValue(false) && self.held.len() <= MOST_BYTES {
            let room = MOST_BYTES + 1 - self.held.len();
            self.held.extend_from_slice(bytes.get(..end.min(room)).unwrap_or_default());
        }
        (end, is_whole)
    }

    fn give(&mut self, take: &mut impl FnMut(Part<'_>) -> Result<(), Unreadable>) -> Result<(), Unreadable> {
        let is_element = self.place == Place::Element;
        let is_asked_for = is_element || self.place == Place::InValue(true);
        self.place = if is_element { Place::List } else { Place::AfterValue };
        if is_asked_for && self.held.len() <= MOST_BYTES {
            take(if is_element { Part::Element(&self.held) } else { Part::Field(&self.held) })?;
        }
        self.held.clear();
        // What one large element took is not kept for small ones.
        self.held.shrink_to(64 * 1024);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// What comes of a text in pieces of this size: the elements and the field.
    fn parts(text: &[u8], piece: usize) -> Result<(Vec<String>, Option<String>), Unreadable> {
        let mut elements = Elements::new("items", "node");
        let (mut list, mut field) = (Vec::new(), None);
        for piece in text.chunks(piece.max(1)) {
            elements.push(piece, |part| {
                match part {
                    Part::Element(bytes) => list.push(String::from_utf8_lossy(bytes).into_owned()),
                    Part::Field(bytes) => field = Some(String::from_utf8_lossy(bytes).into_owned()),
                }
                Ok(())
            })?;
        }
        elements.finish().map(|()| (list, field))
    }

    #[test]
    fn elements_and_the_field_are_found_wherever_the_bytes_are_cut() {
        let text = r#" { "kind":"items", "x":{"items":[{"no":1}]}, "n": -1.5e3 ,"node" : {"a":"}\"]"},
            "items":[ {"a":"[{\\"},{"b":[[],{}]} , {}], "items\"":[{"no":2}], "z":null } "#;
        for piece in 1..text.len() {
            let (list, field) = parts(text.as_bytes(), piece).unwrap();
            assert_eq!(list, [r#"{"a":"[{\\"}"#, r#"{"b":[[],{}]}"#, "{}"], "{piece}");
            assert_eq!(field.as_deref(), Some(r#"{"a":"}\"]"}"#));
        }
    }

    #[test]
    fn what_is_no_whole_object_is_an_error() {
        for text in ["", "[]", "<html>", "{", r#"{"items":[{}"#, r#"{"items":[1]}"#, r#"{"items" []}"#, "{} {}", r#"{"a":1 2}"#] {
            assert_eq!(parts(text.as_bytes(), 3), Err(Unreadable), "{text}");
        }
        for text in ["{}", r#"{"items":null}"#, r#"{"items":[]}"#] {
            assert_eq!(parts(text.as_bytes(), 3), Ok((vec![], None)), "{text}");
        }
    }

    #[test]
    fn an_element_that_is_too_large_costs_itself_alone() {
        let large = "x".repeat(MOST_BYTES);
        let text = format!(r#"{{"items":[{{"a":1}},{{"a":"{large}"}},{{"a":2}}]}}"#);
        let (list, _) = parts(text.as_bytes(), 16 * 1024).unwrap();
        assert_eq!(list, [r#"{"a":1}"#, r#"{"a":2}"#]);
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "\\PC*".prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("\\PC{0,3}", inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_a_parser_finds_is_found(elements in prop::collection::vec(json(), 0..5), node in json(), other in json(), piece in 1usize..40) {
            let elements: Vec<Value> = elements.into_iter().map(|value| json!({"a": value})).collect();
            let text = json!({"a": other, "items": elements, "node": node, "z": other}).to_string();
            let (list, field) = parts(text.as_bytes(), piece).unwrap();
            let list: Vec<Value> = list.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
            // Through text once, as the elements went: what is no finite number is null there.
            let again: Vec<Value> = elements.iter().map(|value| serde_json::from_str(&value.to_string()).unwrap()).collect();
            prop_assert_eq!(list, again);
            prop_assert_eq!(field, Some(node.to_string()));
        }

        #[test]
        fn bytes_of_any_kind_are_survived(bytes: Vec<u8>, piece in 1usize..20) {
            prop_assert_eq!(parts(&bytes, piece), parts(&bytes, usize::MAX));
        }
    }
}
