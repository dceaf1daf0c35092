//! One line of a watch: what it says.

use std::collections::HashMap;

use bytes::Bytes;
use memchr::memmem;
use serde::Deserialize;
use serde::de::Error as _;
use serde_json::value::RawValue;

/// What a line says.
#[derive(Debug)]
pub(super) enum Said {
    /// An object is there, as it is now.
    Object(Bytes),
    /// An object was deleted; this was its last state.
    Gone(Bytes),
    /// The watch stands here.
    Mark {
        /// The version.
        version: String,
        /// Whether all that was there has been named.
        ends_list: bool,
    },
    /// The watch is over.
    Failed {
        /// As an HTTP status.
        code: u16,
        /// One word.
        reason: String,
        /// In words, capped.
        message: String,
    },
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type", borrow)]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct Bookmark {
    metadata: BookmarkMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BookmarkMeta {
    #[serde(default)]
    resource_version: String,
    #[serde(default)]
    annotations: Option<HashMap<String, String>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    code: u16,
    reason: String,
    message: String,
}

/// Reads a line. The object in it is not looked into; whoever is told of it does that.
///
/// *Errors*: it is no JSON, or nothing that a watch says. An error of the watch that cannot be read is an error all the same.
pub(super) fn read(bytes: &Bytes) -> Result<Said, serde_json::Error> {
    let line: Line<'_> = serde_json::from_slice(bytes)?;
    let object = bytes.slice_ref(line.object.get().as_bytes());
    match line.kind {
        "ADDED" | "MODIFIED" => Ok(Said::Object(object)),
        "DELETED" => Ok(Said::Gone(object)),
        "BOOKMARK" => {
            let mark: Bookmark = serde_json::from_slice(&object)?;
            let ends = |all: HashMap<String, String>| all.get("k8s.io/initial-events-end").is_some_and(|value| value == "true");
            Ok(Said::Mark { version: mark.metadata.resource_version, ends_list: mark.metadata.annotations.is_some_and(ends) })
        }
        "ERROR" => {
            let status: Status = serde_json::from_slice(&object).unwrap_or_default();
            Ok(Said::Failed { code: status.code, reason: status.reason, message: status.message.chars().take(512).collect() })
        }
        _ => Err(serde_json::Error::custom("a line of a watch has an unknown type")),
    }
}

/// The longest version, in bytes; etcd's have 19 digits.
const VERSION: usize = 128;

/// Whether this can be a version: nothing that would change the request that it is put into.
pub(super) fn is_version(text: &str) -> bool {
    !text.is_empty() && text.len() <= VERSION && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
}

/// The version of an object.
///
/// The object is not parsed for it, which is done once by whoever is told of it: API servers write metadata first and the version before
/// labels and annotations, and inside a JSON string no quote stands without a backslash, so the first match is the version.
pub(super) fn version_of(object: &Bytes) -> Option<&str> {
    const KEY: &[u8] = br#""resourceVersion":""#;
    let rest = object.get(memmem::find(object, KEY)? + KEY.len()..)?;
    let version = rest.get(..memchr::memchr(b'"', rest)?)?;
    std::str::from_utf8(version).ok().filter(|version| is_version(version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_an_object_is_the_one_in_its_metadata() {
        for (text, version) in [
            (r#"{"metadata":{"resourceVersion":"12","annotations":{"a":"\"resourceVersion\":\"9\""}}}"#, Some("12")),
            (r#"{"metadata":{"annotations":{"a":"\"resourceVersion\":\"9\""},"resourceVersion":"13"}}"#, Some("13")),
            ("{}", None),
            (r#"{"metadata":{"resourceVersion":"1 4"}}"#, None),
            (r#"{"metadata":{"resourceVersion":""#, None),
        ] {
            assert_eq!(version_of(&Bytes::from_static(text.as_bytes())), version, "{text}");
        }
    }

    #[test]
    fn an_error_that_cannot_be_read_is_an_error_all_the_same() {
        let said = read(&Bytes::from_static(br#"{"type":"ERROR","object":7}"#)).unwrap();
        assert!(matches!(said, Said::Failed { code: 0, .. }));
    }
}
