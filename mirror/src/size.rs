//! How large an object is where API servers print it, and what is too large to go down.

use std::io;

use serde::Serialize;

use crate::hold::Hold;
use crate::object::Content;

/// The largest content that goes down unless a kind says otherwise, in bytes: all that an API server takes of a ConfigMap or a Secret
/// (1 MiB of data, in base64 or with escapes, and 256 KiB of annotations), and less than what a request may carry (3 MiB).
pub(crate) const MOST_BYTES: usize = 2 * 1024 * 1024 + 512 * 1024;

/// Bytes of JSON, as an API server prints it: it writes what could be markup as six bytes each, however that was sent.
///
/// *Sources*: Go's `encoding/json` escapes `<`, `>`, `&`, U+2028 and U+2029; `apimachinery/pkg/runtime/serializer/json` uses it as it is.
pub(crate) fn printed_bytes(value: &impl Serialize) -> usize {
    struct Count(usize);
    impl io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let markup = bytes.iter().filter(|byte| b"<>&".contains(byte)).count();
            let separators = bytes.windows(3).filter(|three| matches!(three, [0xe2, 0x80, 0xa8 | 0xa9])).count();
            self.0 += bytes.len() + 5 * markup + 3 * separators;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    serde_json::to_writer(&mut count, value).map_or(usize::MAX, |()| count.0)
}

/// Refuses what is too large to be stored, sent or read back.
pub(crate) fn cap(content: Content, most_bytes: usize) -> Result<Content, Hold> {
    let bytes = [printed_bytes(&content.labels), printed_bytes(&content.annotations), printed_bytes(&content.body)];
    let bytes = bytes.into_iter().fold(0, usize::saturating_add);
    if bytes > most_bytes {
        let message =
            format!("the object has {bytes} bytes where an API server prints it (`<`, `>` and `&` as six); at most {most_bytes} go down");
        return Err(Hold::refuse("TooLarge", "", message));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value, json};

    use super::*;

    #[test]
    fn what_could_be_markup_counts_six_times() {
        assert_eq!(printed_bytes(&json!({"a": "<>&"})), r#"{"a":"\u003c\u003e\u0026"}"#.len());
        assert_eq!(printed_bytes(&json!(["\u{2028}ä\u{2029}\n"])), r#"["\u2028ä\u2029\n"]"#.len());
        assert_eq!(printed_bytes(&json!({"a": [1, true, "b"]})), r#"{"a":[1,true,"b"]}"#.len());
    }

    #[test]
    fn s33_what_an_api_server_prints_too_large_is_refused() {
        let with = |text: &str| {
            let data = json!({"a": text.repeat(MOST_BYTES / 6)});
            cap(Content { body: Map::from_iter([("data".to_owned(), data)]), ..Content::default() }, MOST_BYTES)
        };
        assert!(with("a").is_ok());
        assert!(matches!(with("<"), Err(Hold::Refused(refusal)) if refusal.reason == "TooLarge"));
        assert_eq!(Value::from("<").to_string(), "\"<\"", "what we send is not escaped");
    }
}
