//! The rule for `docs/threats.md`: a test that it names is there.

use std::path::Path;

use super::rule::Finding;

/// What is looked at.
pub(super) const PATH: &str = "docs/threats.md";

/// Where files lie that are named without a folder.
const HOSTILE: &str = "runtime/tests/hostile/";

/// Names in the last cell of a row of a table that lead nowhere. A cell names a file, then functions in it (`s40_*` is all that begin
/// so), perhaps another file; what has a folder and is no Rust is a fixture.
pub(super) fn missing(text: &str, read: impl Fn(&str) -> Option<String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (line, at) in text.lines().zip(1..) {
        let Some(cell) = line.strip_suffix(" |").and_then(|row| row.rsplit_once(" | ")).map(|(_, cell)| cell) else { continue };
        let mut source = None;
        for name in cell.split('`').skip(1).step_by(2) {
            if Path::new(name).extension().is_some_and(|extension| extension == "rs") {
                let path = if name.contains('/') { name.to_owned() } else { format!("{HOSTILE}{name}") };
                source = read(&path);
                if source.is_none() {
                    findings.push(Finding::error("threats", PATH, at, "this row names a file that is not there"));
                }
            } else if let (Some(source), false) = (&source, name.contains('/')) {
                let function = name.strip_suffix('*').map_or_else(|| format!("fn {name}("), |start| format!("fn {start}"));
                if !source.contains(&function) {
                    findings.push(Finding::error("threats", PATH, at, "this row names a test that is not in its file"));
                }
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_whose_file_or_test_is_not_there_is_found() {
        let text = "\
| S1 | a `word` | `a/b.rs` :: `there`, `th*`, `gone`; `c.rs` / `hostile`; `pods/fixture` |
| S2 | a | `gone.rs` :: `there` |
| S3 | a | same |
";
        let read = |path: &str| match path {
            "a/b.rs" => Some("fn there() {}".to_owned()),
            "runtime/tests/hostile/c.rs" => Some("async fn hostile() {}".to_owned()),
            _ => None,
        };
        let found: Vec<_> = missing(text, read).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "docs/threats.md:1: error: threats: this row names a test that is not in its file",
                "docs/threats.md:2: error: threats: this row names a file that is not there",
            ]
        );
    }
}
