//! Foreign text made safe to print: escaped and cut.

use std::{
    error::Error,
    fmt::{self, Write},
};

/// How much of a foreign text is shown: enough for the longest Kubernetes name (253).
pub const LIMIT_BYTES: usize = 256;

/// What stands at the end of a text that was cut.
const CUT: char = '…';

/// Shows text from outside: control characters and those that reorder or hide text are escaped, and no more than
/// [`LIMIT_BYTES`] are printed.
///
/// ```
/// # use runtime::log::Escaped;
/// assert_eq!(Escaped("a\nb\u{1b}[31m").to_string(), r"a\nb\u{1b}[31m");
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Cleaner::new(f, LIMIT_BYTES).write_str(self.0)
    }
}

/// Shows an error and its sources, `what failed: why: why`, escaped; each of them within [`LIMIT_BYTES`].
#[derive(Debug, Clone, Copy)]
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

/// Deeper than any error of ours; an error that is its own source would go on for ever.
const CHAIN_LIMIT: usize = 16;

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let chain = std::iter::successors(Some(self.0), |error: &&dyn Error| (*error).source());
        for (depth, error) in chain.take(CHAIN_LIMIT).enumerate() {
            if depth > 0 {
                f.write_str(": ")?;
            }
            write!(Cleaner::new(f, LIMIT_BYTES), "{error}")?;
        }
        Ok(())
    }
}

/// Passes text on escaped, up to a number of bytes; what comes after that is dropped without looking at it.
pub(super) struct Cleaner<'a, W: Write> {
    out: &'a mut W,
    left: usize,
    is_cut: bool,
}

impl<'a, W: Write> Cleaner<'a, W> {
    pub(super) fn new(out: &'a mut W, limit_bytes: usize) -> Self {
        Self { out, left: limit_bytes.saturating_sub(CUT.len_utf8()), is_cut: false }
    }

    fn write_one(&mut self, shown: impl fmt::Display, len: usize) -> fmt::Result {
        if let Some(left) = self.left.checked_sub(len) {
            self.left = left;
            return write!(self.out, "{shown}");
        }
        self.is_cut = true;
        self.out.write_char(CUT)
    }
}

impl<W: Write> Write for Cleaner<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if self.is_cut {
                break;
            }
            if is_plain(c) {
                self.write_one(c, c.len_utf8())?;
            } else {
                let escaped = c.escape_default();
                let len = escaped.len();
                self.write_one(escaped, len)?;
            }
        }
        Ok(())
    }
}

/// Whether a character shows as itself and moves nothing around it.
fn is_plain(c: char) -> bool {
    let hidden = matches!(
        c,
        // Marks and zero widths, line separators, bidirectional controls, the byte order mark, tags.
        '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
    );
    !c.is_control() && !hidden
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_text_is_unchanged() {
        for text in ["", "default/nginx-5d4", "größe \"quoted\" \\ 日本語"] {
            assert_eq!(Escaped(text).to_string(), text);
        }
    }

    #[test]
    fn whatever_moves_the_cursor_or_the_order_is_escaped() {
        let shown = Escaped("a\r\n\t\0\u{7f}\u{85}\u{1b}]0;x\u{7}\u{202e}\u{200b}\u{2028}b").to_string();
        assert!(shown.is_ascii() && !shown.chars().any(char::is_control), "{shown}");
        assert!(shown.starts_with(r"a\r\n\t\u{0}") && shown.ends_with(r"\u{2028}b"), "{shown}");
    }

    #[test]
    fn the_shown_text_is_cut_at_the_limit_between_characters() {
        for text in ["x".repeat(4 << 20), "\u{1b}".repeat(1000), "ä".repeat(1000), "日".repeat(1000)] {
            let shown = Escaped(&text).to_string();
            assert!(shown.len() <= LIMIT_BYTES && shown.len() > LIMIT_BYTES - 10, "{}", shown.len());
            assert!(shown.ends_with(CUT));
        }
        let longest_name = "n".repeat(253);
        assert_eq!(Escaped(&longest_name).to_string(), longest_name);
    }

    #[derive(Debug, thiserror::Error)]
    #[error("could not {verb}")]
    struct Outer {
        verb: String,
        source: std::fmt::Error,
    }

    #[test]
    fn a_chain_shows_each_cause_once_and_escaped() {
        let error = Outer { verb: "write\n".to_owned(), source: fmt::Error };
        assert_eq!(Chain(&error).to_string(), format!("could not write\\n: {}", fmt::Error));
    }
}
