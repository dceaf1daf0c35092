//! `cargo xtask tidy`: the habits of this repository that no compiler knows.
//!
//! Rules look at one file, by path and text ([`rule::of_file`]), at the list of files ([`of_tree`]), or at what one says of others
//! ([`threats::missing`]). A line that has a good reason to break a rule says so: `tidy: allow <rule>: <reason>` in a comment on it.

mod rule;
mod threats;

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};

use rule::{Finding, Weight};

/// Checks every file that git knows of or would add.
pub(crate) fn run() -> anyhow::Result<()> {
    let root = crate::root();
    let files = files(&root)?;
    let mut findings = of_tree(&files);
    for path in &files {
        // Binary files have no habits.
        if let Ok(text) = std::fs::read_to_string(root.join(path)) {
            findings.extend(rule::of_file(path, &text));
        }
    }
    let threats = std::fs::read_to_string(root.join(threats::PATH)).context("could not read the table of threats")?;
    findings.extend(threats::missing(&threats, |path| std::fs::read_to_string(root.join(path)).ok()));
    for finding in &findings {
        println!("{finding}");
    }
    let errors = findings.iter().filter(|finding| finding.weight == Weight::Error).count();
    println!("{} files, {errors} errors, {} warnings", files.len(), findings.len() - errors);
    ensure!(errors == 0, "{errors} findings of tidy");
    Ok(())
}

/// Paths relative to the root, with `/`. A file that is gone from the work tree is not among them.
fn files(root: &Path) -> anyhow::Result<Vec<String>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("could not run git, which knows the files")?;
    ensure!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr).trim());
    let mut files: Vec<String> = String::from_utf8_lossy(&output.stdout).split_terminator('\0').map(str::to_owned).collect();
    files.retain(|path| root.join(path).is_file());
    files.sort_unstable();
    files.dedup();
    Ok(files)
}

/// What must be there, and what must not lie about.
fn of_tree(files: &[String]) -> Vec<Finding> {
    let wanted = ["LICENSE", "README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "deny.toml", "Cargo.lock"];
    let missing = wanted.iter().filter(|wanted| !files.iter().any(|file| file == *wanted));
    let leftover = |path: &&String| [".snap.new", ".pending-snap", ".orig", ".rej"].iter().any(|end| path.ends_with(end));
    missing
        .map(|path| Finding::error("missing", path, 1, "the repository needs this file"))
        .chain(files.iter().filter(leftover).map(|path| Finding::error("leftover", path, 1, "accept it or remove it")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_license_and_an_undecided_snapshot_are_found() {
        let files = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "deny.toml", "Cargo.lock", "a/b.snap.new"].map(str::to_owned);
        let found: Vec<_> = of_tree(&files).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            ["LICENSE:1: error: missing: the repository needs this file", "a/b.snap.new:1: error: leftover: accept it or remove it"]
        );
    }
}
