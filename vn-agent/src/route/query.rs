//! Queries: split and decoded once, strictly, into pairs; encoded again from values.
//!
//! *Guarantees*: what is accepted means the same to Go's `url.ParseQuery`, which a kubelet and an API server read it with: held against what
//! Go reads, in `go-urls.json`.

/// What is wrong with a query.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// It holds a byte or an escape that no query of ours does.
    #[error("the query is not in canonical form")]
    Form,
    /// A parameter that this route does not have.
    #[error("this route has no parameter {0:?}")]
    Unknown(String),
    /// A parameter stands twice.
    #[error("the parameter {0:?} stands more than once")]
    Twice(&'static str),
    /// A parameter has a value that it cannot have.
    #[error("the parameter {0:?} has a value that it cannot have")]
    Value(&'static str),
    /// Too many parameters.
    #[error("the query has more than {MOST_PAIRS} parameters")]
    Many,
}

/// Parameters of one request; a command has a parameter for each word.
pub const MOST_PAIRS: usize = 1024;

/// Splits and decodes. Keys are plain words; values are bytes.
pub fn pairs(query: &str) -> Result<Vec<(&str, Vec<u8>)>, QueryError> {
    if query.is_empty() {
        return Ok(Vec::new());
    }
    let mut pairs = Vec::new();
    for pair in query.split('&') {
        let (key, value) = pair.split_once('=').ok_or(QueryError::Form)?;
        if key.is_empty() || !key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err(QueryError::Form);
        }
        if pairs.len() == MOST_PAIRS {
            return Err(QueryError::Many);
        }
        pairs.push((key, decode(value)?));
    }
    Ok(pairs)
}

/// Decodes a value: escapes of two hexadecimal digits, `+` for a space, and visible ASCII that has no other meaning.
fn decode(text: &str) -> Result<Vec<u8>, QueryError> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let high = hex(bytes.next()).ok_or(QueryError::Form)?;
                let low = hex(bytes.next()).ok_or(QueryError::Form)?;
                out.push(high << 4 | low);
            }
            b'+' => out.push(b' '),
            b';' | b'#' | b'=' | b'&' => return Err(QueryError::Form),
            b'!'..=b'~' => out.push(byte),
            _ => return Err(QueryError::Form),
        }
    }
    // A word of a command ends at its first zero byte: what comes after it would be lost.
    if out.contains(&0) { Err(QueryError::Form) } else { Ok(out) }
}

fn hex(byte: Option<u8>) -> Option<u8> {
    char::from(byte?).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// A query that is put together from values.
#[derive(Default)]
pub struct Query(String);

impl Query {
    /// Adds a parameter.
    pub fn push(&mut self, key: &str, value: &[u8]) {
        if !self.0.is_empty() {
            self.0.push('&');
        }
        self.0.push_str(key);
        self.0.push('=');
        for byte in value {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => self.0.push(char::from(*byte)),
                _ => self.0.extend(['%', digit(byte >> 4), digit(byte & 15)]),
            }
        }
    }

    /// Adds a parameter if there is a value.
    pub fn push_some(&mut self, key: &str, value: Option<impl ToString>) {
        if let Some(value) = value {
            self.push(key, value.to_string().as_bytes());
        }
    }

    /// Adds a parameter if it holds.
    pub fn push_if(&mut self, key: &str, value: &str, holds: bool) {
        if holds {
            self.push(key, value.as_bytes());
        }
    }

    /// The query after a path; nothing if it is empty.
    pub fn after(self, path: &str) -> String {
        if self.0.is_empty() { path.to_owned() } else { format!("{path}?{}", self.0) }
    }
}

fn digit(value: u8) -> char {
    char::from_digit(u32::from(value), 16).map_or('0', |digit| digit.to_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_are_decoded_once() {
        let read = pairs("command=sh&command=-c&command=echo+%2B%25%0a&tty=1").unwrap();
        let expected: [(&str, &[u8]); 4] = [("command", b"sh"), ("command", b"-c"), ("command", b"echo +%\n"), ("tty", b"1")];
        assert_eq!(read, expected.map(|(key, value)| (key, value.to_vec())));
        assert_eq!(pairs(""), Ok(Vec::new()));
    }

    #[test]
    fn s55_what_is_not_canonical_is_refused() {
        for query in [
            "a", "=1", "a=1&", "&a=1", "a=1&&b=2", "a=1;b=2", "a=%", "a=%4", "a=%zz", "%61=1", "a=b=c", "a=\u{e9}", "a=%00", "a =1",
            "a=1#b",
        ] {
            assert_eq!(pairs(query), Err(QueryError::Form), "{query}");
        }
        assert_eq!(pairs(&vec!["a=1"; MOST_PAIRS + 1].join("&")), Err(QueryError::Many));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

        #[test]
        fn what_is_encoded_is_decoded_alike(values in prop::collection::vec(prop::collection::vec(1u8.., 0..20), 0..5)) {
            let mut query = Query::default();
            for value in &values {
                query.push("command", value);
            }
            let text = query.after("");
            let read: Vec<Vec<u8>> = pairs(text.strip_prefix('?').unwrap_or_default()).unwrap().into_iter().map(|(_, value)| value).collect();
            prop_assert_eq!(read, values);
        }
    }
}
