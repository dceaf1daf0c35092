//! JSON into values that take a bounded amount of memory: seven bytes of it may become seven hundred.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// What the values of one object may take beside their texts, in bytes: some 6000 small objects, as a Pod of a hundred containers with
/// fifty variables each has. Several copies of it live while a pair is worked on, and several pairs at once.
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// An item of a list: a value (32 bytes), in a vector that doubles as it grows.
const ITEM_BYTES: usize = 64;

/// A node of a map has room for eleven entries, and is left half full by keys that come in order.
const NODE_BYTES: usize = 640;
const NODE_ENTRIES: usize = 6;

/// What is left of it for one object.
pub(crate) struct Allowance(Cell<usize>);

impl Default for Allowance {
    fn default() -> Self {
        Self(Cell::new(MOST_BYTES))
    }
}

impl Allowance {
    fn take<E: Error>(&self, bytes: usize) -> Result<(), E> {
        let left = self.0.get().checked_sub(bytes);
        self.0.set(left.ok_or_else(|| E::custom("the object has too many fields and items"))?);
        Ok(())
    }

    /// Pays for the entry of a map that has so many.
    pub(crate) fn entry<E: Error>(&self, before: usize) -> Result<(), E> {
        if before.is_multiple_of(NODE_ENTRIES) { self.take(NODE_BYTES) } else { Ok(()) }
    }
}

/// Any value.
#[derive(Clone, Copy)]
pub(crate) struct Tree<'a>(pub(crate) &'a Allowance);

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(self)? {
            self.0.take(ITEM_BYTES)?;
            items.push(item);
        }
        Ok(Value::Array(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            self.0.entry(fields.len())?;
            let value = map.next_value_seed(self)?;
            fields.insert(key, value);
        }
        Ok(Value::Object(fields))
    }
}

/// Labels or annotations; `null` is none.
pub(crate) struct Texts<'a>(pub(crate) &'a Allowance);

impl<'de> DeserializeSeed<'de> for Texts<'_> {
    type Value = BTreeMap<String, String>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Texts<'_> {
    type Value = BTreeMap<String, String>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of texts")
    }
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(BTreeMap::new())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut texts = BTreeMap::new();
        while let Some((key, text)) = map.next_entry()? {
            self.0.entry(texts.len())?;
            texts.insert(key, text);
        }
        Ok(texts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(text: &str) -> Result<Value, serde_json::Error> {
        Tree(&Allowance::default()).deserialize(&mut serde_json::Deserializer::from_str(text))
    }

    #[test]
    fn s33_a_body_that_would_take_a_hundred_times_its_size_is_left_unread() {
        for piece in ["{\"\":0}", "[0]", "[[[[]]]]", "0", "{}", "{\"a\":{\"b\":{\"c\":[0,0,0]}}}"] {
            let text = format!("[{piece}{}]", format!(",{piece}").repeat(4_000_000 / piece.len()));
            assert!(tree(&text).is_err(), "{piece}");
        }
        let entries: Vec<String> = (0..100_000).map(|i| format!("\"{i}\":0")).collect();
        assert!(tree(&format!("{{{}}}", entries.join(","))).is_err());
    }

    #[test]
    fn what_a_large_pod_has_is_read_as_it_is() {
        let variable = r#"{"name":"A","value":"ä\n","on":true,"of":-1,"at":1.5,"to":18446744073709551615,"no":null}"#;
        let variables = vec![variable; 50].join(",");
        let text = format!("[{}]", vec![format!(r#"{{"name":"c","env":[{variables}]}}"#); 50].join(","));
        assert_eq!(tree(&text).unwrap(), serde_json::from_str::<Value>(&text).unwrap());
    }
}
