//! One page of a list, told item by item while it is read; and what a list may take before it counts as one that never ends.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::remote::{CallError, ListMeta};

/// Objects that a page is asked for, where they are not large.
pub(super) const MOST: usize = 500;

/// So many items may be smaller than any object: each costs as much as one.
const SMALL_ITEMS: usize = 2 * MOST;
/// Bytes that objects have on average at least; a name and a UID alone are more.
const LEAST_BYTES: usize = 64;

/// How many objects the next page is asked for: pages that are too large are halved down to single objects, so that a collection of
/// large ones (Secrets of Helm, ConfigMaps) is listed all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size(usize);

/// A page of fewer bytes leaves room for twice as many objects: a quarter of what a page may have.
const SMALL_BYTES: usize = 8 * 1024 * 1024;

impl Default for Size {
    fn default() -> Self {
        Self(MOST)
    }
}

impl Size {
    /// The value of `limit`.
    pub(super) fn objects(self) -> usize {
        self.0
    }

    /// A page was too large; false if it was for one object alone.
    pub(super) fn halve(&mut self) -> bool {
        let is_many = self.0 > 1;
        self.0 = (self.0 / 2).max(1);
        is_many
    }

    /// A page of this length was read.
    pub(super) fn read(&mut self, bytes: usize) {
        if bytes < SMALL_BYTES {
            self.0 = (self.0 * 2).min(MOST);
        }
    }
}

/// What items of a list are of which only the metadata is asked for.
pub(crate) const METADATA: &str = "PartialObjectMetadata";

/// What one list may take.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Pages.
    pub pages: usize,
    /// Bytes.
    pub bytes: usize,
    /// Time.
    pub time: Duration,
}

impl Default for Bounds {
    /// Ten times the pairs that a tenant may have, and longer than an API server keeps the version of a list.
    fn default() -> Self {
        Self { pages: 10_000, bytes: 8 * 1024 * 1024 * 1024, time: Duration::from_mins(15) }
    }
}

/// What is left of the bounds of a list that goes on.
#[derive(Debug)]
pub(super) struct Budget {
    left: Bounds,
    since: Instant,
}

impl Budget {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { left: bounds, since: Instant::now() }
    }

    /// One page more.
    pub(super) fn page(&mut self, side: &'static str) -> Result<(), CallError> {
        self.left.pages = self.left.pages.checked_sub(1).ok_or(CallError::Endless { side })?;
        self.bytes(0, side)
    }

    /// So many bytes more.
    pub(super) fn bytes(&mut self, bytes: usize, side: &'static str) -> Result<(), CallError> {
        let left = self.left.bytes.checked_sub(bytes).filter(|_| self.since.elapsed() <= self.left.time);
        self.left.bytes = left.ok_or(CallError::Endless { side })?;
        Ok(())
    }
}

/// Reads a page of a list of `kind`, and tells each item as it passes. Returns where the list stands, and how many items there were.
///
/// *Errors*: broken JSON, a list that says it is one of another kind (what it does not name is not gone), and a page of millions of items that are no objects: nothing else would get a turn while they pass.
pub(crate) fn read(bytes: &[u8], kind: &str, mut tell: impl FnMut(&RawValue)) -> Result<(ListMeta, usize), serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let page = Page(kind, &mut tell).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(page)
}

struct Page<'f, F>(&'f str, &'f mut F);

impl<'de, F: FnMut(&RawValue)> DeserializeSeed<'de> for Page<'_, F> {
    type Value = (ListMeta, usize);
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, F: FnMut(&RawValue)> Visitor<'de> for Page<'_, F> {
    type Value = (ListMeta, usize);
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }
    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let (mut meta, mut items) = (ListMeta::default(), 0);
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match key.as_ref() {
                "metadata" => meta = map.next_value()?,
                "items" => items += map.next_value_seed(Items(&mut *self.1))?,
                "kind" if map.next_value::<&str>()?.strip_suffix("List") != Some(self.0) => {
                    return Err(M::Error::custom("it is another list than the one that was asked for"));
                }
                "kind" => {}
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok((meta, items))
    }
}

struct Items<'f, F>(&'f mut F);

impl<'de, F: FnMut(&RawValue)> DeserializeSeed<'de> for Items<'_, F> {
    type Value = usize;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<usize, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, F: FnMut(&RawValue)> Visitor<'de> for Items<'_, F> {
    type Value = usize;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("items")
    }
    /// `null` in an empty list of metadata.
    fn visit_unit<E>(self) -> Result<usize, E> {
        Ok(0)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<usize, A::Error> {
        let (mut count, mut bytes) = (0, 0);
        while let Some(item) = items.next_element::<&'de RawValue>()? {
            count += 1;
            bytes += item.get().len();
            if count > SMALL_ITEMS && bytes < count * LEAST_BYTES {
                return Err(A::Error::custom("the list has too many items that are no objects"));
            }
            (self.0)(item);
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s42_one_item_that_makes_no_sense_is_an_item_like_others() {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        let text = format!(r#"{{"kind":"PodList","items":[{{"a":1}},7,{deep},{{"b":2}}],"metadata":{{"continue":"c"}}}}"#);
        let mut told = Vec::new();
        let (meta, items) = read(text.as_bytes(), "Pod", |item| told.push(item.get().len())).unwrap();
        assert_eq!((meta.next.as_str(), items, told), ("c", 4, vec![7, 1, 200_000, 7]));
        assert_eq!(read(br#"{"items":null}"#, "Pod", |_| ()).unwrap().1, 0);
        assert!(read(b"{\"items\":[{}", "Pod", |_| ()).is_err() && read(b"{} x", "Pod", |_| ()).is_err());
    }

    #[test]
    fn s42_a_list_of_another_kind_is_none() {
        for kind in [r#""Pod""#, r#""List""#, r#""SecretList""#, r#""PodListList""#, r#""PodTemplateList""#, r#""Status""#, r#""""#, "null"]
        {
            for text in [format!(r#"{{"kind":{kind},"items":[]}}"#), format!(r#"{{"items":[{{}}],"metadata":{{}},"kind":{kind}}}"#)] {
                assert!(read(text.as_bytes(), "Pod", |_| ()).is_err(), "{text}");
            }
        }
    }

    #[test]
    fn a_page_shrinks_to_one_object_and_grows_again() {
        let mut size = Size::default();
        let mut halved = 0;
        while size.halve() {
            halved += 1;
        }
        assert_eq!((size.objects(), halved), (1, 8));
        for _ in 0..20 {
            size.read(SMALL_BYTES - 1);
        }
        assert_eq!(size.objects(), MOST);
        size.halve();
        size.read(SMALL_BYTES);
        assert_eq!(size.objects(), MOST / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn p10_s39_a_list_is_bounded_by_pages_bytes_and_time() {
        let bounds = Bounds { pages: 3, bytes: 100, time: Duration::from_secs(10) };
        let mut budget = Budget::new(bounds);
        assert!((0..3).all(|_| budget.page("tenant").is_ok()));
        assert!(matches!(budget.page("tenant"), Err(CallError::Endless { side: "tenant" })));
        let mut budget = Budget::new(bounds);
        assert!(budget.bytes(100, "tenant").is_ok() && budget.bytes(1, "tenant").is_err());
        let mut budget = Budget::new(bounds);
        tokio::time::advance(Duration::from_secs(11)).await;
        assert!(budget.bytes(0, "tenant").is_err());
    }
}
